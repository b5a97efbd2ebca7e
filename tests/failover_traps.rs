//! The traps of failover that others fell into, on real nodes. Number 17 is among the hooks.

use pgring_logic::failover::act::{Act, View};
use pgring_logic::record::{State, Synchronous};
use pgring_tests::acting::{Node, make_role};
use pgring_tests::command::{at_most_minutes, run, signal, until};
use pgring_tests::message::{Message, cancel, query};
use pgring_tests::pgring::binary;
use pgring_tests::postgres::{Postgres, psql};
use pgring_tests::trio::{SOON, Trio, processes};
use pgring_tests::wire::{Polled, Wire};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long a receiver waits for a silent primary.
const PATIENCE: Duration = Duration::from_millis(700);

/// The code of the last error of an answer.
fn code(answers: &[Message]) -> String {
    let last = answers.iter().rfind(|it| it.tag == b'E').map(Message::code);
    last.unwrap_or_default()
}

/// Whether nothing comes for a while.
fn waits(client: &mut Wire, time: Duration) -> bool {
    client.patience(time);
    let waits = matches!(client.poll(), Polled::Nothing);
    client.patience(SOON);
    waits
}

/// Stops both standbys, so that nothing is acknowledged any more, and has them go on.
fn signal_standbys(trio: &Trio, name: &str) {
    for node in ["pg2", "pg3"] {
        trio.node(node).signal_all(name);
    }
}

/// How many commits wait for standbys.
fn commits_waiting(node: &Postgres) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    node.psql(sql).trim().to_owned()
}

/// 1. What was told to stop receiving is told to go on, if nothing comes of the failover. On one
///    standby replay is paused, so that it is not frozen for certain, and the fence never stands.
#[test]
fn a_failover_that_is_called_off_leaves_its_standbys_receiving() {
    at_most_minutes(4);
    let trio = Trio::start("sync", |settings| settings);
    let mut client = trio.client();
    client.rows("INSERT INTO keys VALUES ('before')");
    let conninfo = |node: &str| trio.node(node).psql("SHOW primary_conninfo").trim().to_owned();
    trio.node("pg3").psql("SELECT pg_wal_replay_pause()");
    trio.until_row("pg3", "it pauses", |row| row["unfit"].contains("paused"));
    let epoch = trio.record().expect("a record").epoch;
    trio.node("pg1").signal_all("STOP");
    assert!(trio.until_state(State::Fencing, epoch));
    let cleared = || ["pg2", "pg3"].map(conninfo).iter().any(String::is_empty);
    until("one to be told to stop", SOON, cleared);
    trio.node("pg1").signal_all("CONT");
    trio.until_row("pg1", "it is called off", |row| row["writes"] == "pg1");
    trio.node("pg3").psql("SELECT pg_wal_replay_resume()");
    trio.until_well("pg1");
    let from = trio.node("pg1").address().to_string();
    for node in ["pg2", "pg3"] {
        trio.until_row(node, "it receives as before", |row| row["receives_from"] == from);
    }
    client.rows("INSERT INTO keys VALUES ('after')");
    assert_eq!(trio.keys("pg1"), ["after", "before"]);
}

/// 2. A standby may get the log from an archive that the old primary still fills: that
///    acknowledges nothing, however far it comes.
#[test]
fn what_comes_from_an_archive_acknowledges_nothing() {
    at_most_minutes(3);
    let p = Postgres::start_with(&["synchronous_commit = on", "archive_mode = on"]);
    make_role(&p);
    p.psql("CREATE TABLE keys (key text); GRANT ALL ON keys TO app");
    let archive = p.home().join("archive").display().to_string();
    p.psql(&format!(
        "ALTER SYSTEM SET archive_command = 'mkdir -p {archive} && cp %p {archive}/%f'"
    ));
    p.psql("SELECT pg_reload_conf()");
    let s = p
        .start_standby(&["cluster_name = 's'", &format!("restore_command = 'cp {archive}/%f %p'")]);
    let (p, s) = (Node::new(&p, "p"), Node::new(&s, "s"));
    s.until("it streams", |view| view.receiver.is_some());
    s.well(&Act::Prepare(PATIENCE));
    let names = Synchronous { quorum: 1, names: vec!["s".to_owned()] };
    p.well(&Act::Sync(names.setting()));
    p.well(&Act::Canary);
    let (frozen, _) = s.freeze();
    assert!(frozen.archive, "{frozen:?}");
    let address = p.postgres.address();
    let commit = thread::spawn(move || {
        psql(address, "app", "app", "INSERT INTO keys VALUES ('archived')").success
    });
    until("the commit to wait", SOON, || commits_waiting(p.postgres) == "1");
    let end = p.look().end;
    p.postgres.psql("SELECT pg_switch_wal()");
    let (view, _) = s.until("it has the commit", |view: &View| view.replayed >= end);
    assert_eq!(view.receiver, None);
    assert_eq!(psql(s.postgres.address(), "app", "app", "TABLE keys").stdout.trim(), "archived");
    assert_eq!((commits_waiting(p.postgres).as_str(), commit.is_finished()), ("1", false));
    s.well(&s.follow(&frozen, &p, ""));
    assert!(commit.join().expect("a commit"));
}

/// 3. A client that does not read what the candidate sends it does not hold up its promotion.
#[test]
fn a_slow_reader_does_not_hold_up_a_promotion() {
    at_most_minutes(3);
    let p = Postgres::start();
    make_role(&p);
    let s = p.start_standby(&[]);
    let s = Node::new(&s, "s");
    s.until("it streams", |view| view.receiver.is_some());
    s.well(&Act::Prepare(PATIENCE));
    let mut reader = Wire::login(s.postgres.address(), "app");
    reader.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)"));
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
    until("it to be stuck", SOON, || s.postgres.psql(stuck).trim() == "1");
    s.freeze();
    let took = s.well(&Act::Promote(SOON));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(s.postgres.psql(stuck).trim(), "1");
    assert_eq!(reader.until_ready(1).iter().filter(|it| it.tag == b'D').count(), 200_000);
}

/// 4. A backend whose postmaster is killed goes on for as long as it computes. Its client hears
///    that nobody knows, and what it does at its end is nobody's.
#[test]
fn what_goes_on_after_its_postmaster_was_killed_is_acknowledged_to_nobody() {
    at_most_minutes(4);
    let mut trio = Trio::start("sync", |settings| settings);
    let mut late = trio.client();
    late.send(&query(
        "INSERT INTO keys SELECT 'late' FROM (SELECT count(*) FROM generate_series(1, 12000000)) n",
    ));
    let busy = "SELECT count(*) FROM pg_stat_activity \
        WHERE query LIKE 'INSERT INTO keys%' AND state = 'active'";
    until("it to compute", SOON, || trio.node("pg1").psql(busy).trim() == "1");
    trio.node_mut("pg1").kill();
    assert_eq!(code(&late.until_end()), "08007");
    trio.until_row("pg1", "another primary", |row| !["pg1", "nobody"].contains(&&*row["writes"]));
    let new = trio.row("pg1")["writes"].clone();
    let mut client = trio.client();
    client.rows("INSERT INTO keys VALUES ('new')");
    until("the last process of the old one to end", SOON, || processes(trio.node("pg1")) == 0);
    assert_eq!(trio.keys(&new), ["new"]);
}

/// 5. What waited for standbys is seen by everybody once the primary has started again, though
///    no standby has it: so nobody is let in before one has.
#[test]
fn nobody_sees_after_a_restart_what_no_standby_has() {
    at_most_minutes(4);
    let trio = Trio::start("sync", |settings| settings);
    let (mut writer, mut reader) = (trio.client(), trio.client());
    let count = "SELECT count(*) FROM keys WHERE key = 'waiting'";
    assert_eq!(reader.value(count), "0");
    let pid = reader.value("SELECT pg_backend_pid()").parse().expect("a pid");
    signal_standbys(&trio, "STOP");
    writer.send(&query("INSERT INTO keys VALUES ('waiting')"));
    until("it to wait", SOON, || commits_waiting(trio.node("pg1")) == "1");
    assert!(signal(pid, "KILL"), "the backend is gone");
    assert_eq!(code(&writer.until_end()), "08007");
    let address = trio.node("pg1").address();
    let there = || psql(address, "app", "app", count).stdout.trim() == "1";
    until("it to be seen on the node itself", SOON, there);
    reader.send(&query(count));
    assert!(waits(&mut reader, Duration::from_secs(2)), "no standby has it");
    signal_standbys(&trio, "CONT");
    let answers = reader.until_ready(1);
    let value = answers.iter().find(|it| it.tag == b'D').expect("a row").value();
    assert_eq!(value, "1");
    until("a standby to show it", SOON, || {
        ["pg2", "pg3"].iter().any(|name| trio.keys(name) == ["waiting"])
    });
}

/// 6. A commit that waits for standbys is done already where it waits. Who cancels it hears that
///    with `PostgreSQL`'s warning; who is cut off by pgring's own limit hears that nobody knows.
#[test]
fn a_commit_that_does_not_wait_any_longer_is_not_said_to_be_cancelled() {
    at_most_minutes(4);
    let trio = Trio::start("sync", |settings| settings.set("pool.query_timeout", "5s"));
    let (mut first, mut second) = (trio.client(), trio.client());
    signal_standbys(&trio, "STOP");
    first.send(&query("INSERT INTO keys VALUES ('cancelled')"));
    until("it to wait", SOON, || commits_waiting(trio.node("pg1")) == "1");
    let mut request = Wire::connect(trio.pgring.address());
    request.send(&cancel(first.pid, &first.key));
    let answers = first.until_ready(1);
    let tags: String = answers.iter().map(|it| char::from(it.tag)).collect();
    assert_eq!((tags.as_str(), answers[0].code().as_str()), ("NCZ", "01000"));
    let begun = Instant::now();
    second.send(&query("INSERT INTO keys VALUES ('limited')"));
    assert_eq!(code(&second.until_end()), "08007");
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    signal_standbys(&trio, "CONT");
    until("both to be there", SOON, || trio.keys("pg1") == ["cancelled", "limited"]);
}

/// 18. A standby that stays on its timeline does not follow the next primary: it is said before,
///     and is left behind afterwards.
#[test]
fn a_standby_that_does_not_follow_is_named_and_left_behind() {
    at_most_minutes(4);
    let mut trio = Trio::start("sync", |settings| settings);
    trio.node("pg3").psql("ALTER SYSTEM SET recovery_target_timeline = 'current'");
    trio.node_mut("pg3").stop();
    trio.node_mut("pg3").start_again();
    trio.until_well("pg1");
    let mut command = Command::new(binary());
    command.args(["check", "--connect", "--config"]).arg(trio.pgring.config_path());
    let said = run(&mut command, SOON);
    let error = "error: main/pg3: recovery_target_timeline is not latest";
    assert!(!said.success && said.stdout.contains(error), "{}", said.stdout);
    trio.well("SWITCHOVER TO pg2");
    let row = trio.until_row("pg3", "it is left behind", |row| !row["quarantine"].is_empty());
    assert_eq!(row["quarantine"], "it does not receive from the primary");
    let row = trio.until_row("pg3", "the new one is written to", |row| row["writes"] == "pg2");
    assert_eq!(row["state"], "normal", "{row:?}");
    let mut client = trio.client();
    client.rows("INSERT INTO keys VALUES ('new')");
    assert_eq!(trio.keys("pg2"), ["new"]);
}
