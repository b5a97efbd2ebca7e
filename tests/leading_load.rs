//! Transactions that begin on standbys, under pgbench.

use pgring_tests::command::{Outcome, at_most_minutes, run, until};
use pgring_tests::pgring::Settings;
use pgring_tests::postgres::{PASSWORD, Postgres, program};
use pgring_tests::routed::{SOON, say};
use pgring_tests::wire::Wire;
use std::process::Command;
use std::time::Duration;

/// TPC-B, with its read first: the sums agree at the end.
#[test]
fn pgbench_sees_no_difference() {
    at_most_minutes(5);
    let primary = Postgres::start();
    primary.fill_pgbench(1);
    let standby = primary.start_standby(&[]);
    let nodes = [primary.address().to_string(), standby.address().to_string()];
    let settings = Settings::new(&primary).nodes(&nodes).set("monitor.user", "guest");
    let settings = settings.set("routing.reads", "replicas").set("monitor.interval", "50ms");
    let settings = settings.set("routing.leading_reads", "replicas");
    // Who always writes would have to wait for the standby.
    let pgring = settings.set("routing.consistency", "eventual").start();
    let mut client = Wire::login(pgring.address(), "app");
    until("a transaction on the standby", SOON, || {
        say(&mut client, "BEGIN");
        say(&mut client, "SELECT count(*)::text FROM pgbench_branches");
        say(&mut client, "COMMIT");
        pgring.queries("pg2") > 0
    });
    let script = pgring.home().join("reads_first.sql");
    let text = "\\set aid random(1, 100000)\n\\set delta random(-5000, 5000)\nBEGIN;\n\
        SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
        SELECT bbalance FROM pgbench_branches WHERE bid = 1;\n\
        UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
        UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;\n\
        INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
        VALUES (1, 1, :aid, :delta, CURRENT_TIMESTAMP);\nEND;\n";
    std::fs::write(&script, text).expect("a script");
    for mode in ["simple", "extended", "prepared"] {
        let port = pgring.address().port().to_string();
        let mut command = Command::new(program("pgbench"));
        command.args(["-n", "-M", mode, "-c", "16", "-j", "2", "-h", "127.0.0.1", "-p", &port]);
        command.args(["-T", "2", "-U", "app", "-f"]).arg(&script).arg("app");
        let Outcome { success, stdout, stderr } =
            run(command.env("PGPASSWORD", PASSWORD), Duration::from_mins(2));
        let clean = stdout.contains("number of failed transactions: 0 ");
        assert!(success && clean && !stderr.contains("error"), "{mode}: {stdout}\n{stderr}");
    }
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                       (SELECT sum(delta) FROM pgbench_history) AND \
                       (SELECT sum(bbalance) FROM pgbench_branches) = \
                       (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(primary.psql(sums).trim(), "t");
    assert!(pgring.queries("pg2") > 1_000, "reads were on the standby");
    assert_eq!(pgring.violations(), Some(0));
}
