//! What pgring knows of its nodes: role, place in the log, lag.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::console::{Row, http};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::ports::Port;
use pgring_tests::postgres::Postgres;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn start(nodes: &[String], primary: &Postgres, user: &str) -> Pgring {
    let settings = Settings::new(primary).nodes(nodes).set("monitor.database", "app");
    let settings = settings.set("monitor.user", user).set("monitor.interval", "20ms");
    settings.set("monitor.timeout", "1s").start()
}

/// Waits until SHOW NODES says this of a node.
fn shows(pgring: &Pgring, node: &str, what: &str, holds: impl Fn(&Row) -> bool) {
    let mut console = pgring.console();
    let mut last = None;
    until(&format!("{node} to be shown {what}"), SOON, || {
        last = console.find("SHOW NODES", "node", node);
        last.as_ref().is_some_and(&holds)
    });
}

fn is(row: &Row, column: &str, value: &str) -> bool {
    row.get(column).is_some_and(|found| found == value)
}

#[test]
fn nodes_are_shown_with_their_roles_and_with_how_far_they_are_behind() {
    at_most_minutes(3);
    let primary = Postgres::start();
    let mut standby = primary.start_standby(&[]);
    let addresses = [primary.address().to_string(), standby.address().to_string()];
    let pgring = start(&addresses, &primary, "guest");
    shows(&pgring, "pg1", "as primary", |row| is(row, "role", "primary") && row["lsn"] != "0/0");
    shows(&pgring, "pg2", "as standby", |row| {
        is(row, "role", "standby") && is(row, "lag_bytes", "0") && is(row, "lag", "0s")
    });

    standby.psql("SELECT pg_wal_replay_pause()");
    primary.psql("CREATE TABLE late AS SELECT generate_series(1, 1000)");
    let behind = |row: &Row| {
        row["lag_bytes"].parse::<u64>().is_ok_and(|bytes| bytes > 30_000) && !is(row, "lag", "0s")
    };
    shows(&pgring, "pg2", "behind", behind);
    standby.psql("SELECT pg_wal_replay_resume()");
    shows(&pgring, "pg2", "in step", |row| is(row, "lag_bytes", "0") && is(row, "lag", "0s"));

    standby.stop();
    shows(&pgring, "pg2", "gone", |row| is(row, "role", "unknown") && !row["error"].is_empty());
    let (status, text) = http(pgring.http(), "/metrics");
    assert_eq!(status, 200);
    for line in [
        "pgring_node_up{cluster=\"main\",node=\"pg1\",role=\"primary\"} 1",
        "pgring_node_up{cluster=\"main\",node=\"pg2\",role=\"unknown\"} 0",
        "pgring_node_lag_bytes{cluster=\"main\",node=\"pg1\"} 0",
        "pgring_node_lag_seconds{cluster=\"main\",node=\"pg1\"} 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    standby.start_again();
    shows(&pgring, "pg2", "again", |row| is(row, "role", "standby") && is(row, "error", ""));
}

#[test]
fn a_node_that_cannot_be_asked_says_why_and_the_others_go_on() {
    at_most_minutes(2);
    let primary = Postgres::start();
    let dead = Port::take();
    let addresses = [dead.address().to_string(), primary.address().to_string()];
    let pgring = start(&addresses, &primary, "plain");
    shows(&pgring, "pg1", "refusing", |row| {
        is(row, "role", "unknown") && row["error"].contains("refused")
    });
    shows(&pgring, "pg2", "as primary", |row| is(row, "role", "primary"));
    // A reload starts the watch anew, with what it says now.
    let mut pgring = pgring;
    pgring.rewrite(|settings| settings.set("monitor.user", "nobody"));
    pgring.console().show("RELOAD");
    shows(&pgring, "pg2", "refusing", |row| row["error"].contains("nobody"));
}

#[test]
fn without_a_user_nobody_is_asked() {
    at_most_minutes(2);
    let primary = Postgres::start();
    let pgring = Pgring::start(&primary, 1);
    let row = pgring.console().find("SHOW NODES", "node", "pg1").expect("the node");
    assert!(is(&row, "role", "unknown") && is(&row, "lsn", ""));
    let asked = primary
        .psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgring monitor'");
    assert_eq!(asked.trim(), "0");
}
