//! pgring takes care of a primary and two standbys: whatever happens to them or to itself, nothing
//! that was acknowledged is lost, nobody writes to two nodes, and clients stay connected.

use pgring_logic::record::State;
use pgring_tests::command::{at_most_minutes, run, signal, until};
use pgring_tests::message::{Message, query};
use pgring_tests::pgring::{Settings, binary};
use pgring_tests::postgres::{Postgres, psql};
use pgring_tests::trio::{NAMES, Nodes, SOON, Trio, hook, settings};
use pgring_tests::wire::{Polled, Wire};
use pgring_tests::writers::Writers;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The code of the last error of an answer, or its tags.
fn ending(answers: &[Message]) -> String {
    let last = answers.iter().rfind(|it| it.tag == b'E').map(Message::code);
    last.unwrap_or_else(|| answers.iter().map(|it| char::from(it.tag)).collect())
}

/// The port of the node that a client's statements go to.
fn port(client: &mut Wire) -> u16 {
    client.value("SELECT current_setting('port')").parse().expect("a port")
}

/// Waits until nobody but one of the other nodes is written to; which.
fn replaced(trio: &Trio, old: &str) -> &'static str {
    let mut new = None;
    until("another primary", SOON, || {
        let writes = trio.row("pg1")["writes"].clone();
        new = NAMES.into_iter().find(|name| *name == writes && *name != old);
        new.is_some()
    });
    new.expect("there is one")
}

/// Waits until a statement with this word is running on a node.
fn until_running(trio: &Trio, node: &str, word: &str) {
    let busy = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%{word}%' AND \
         state = 'active' AND pid <> pg_backend_pid()"
    );
    until("the statement to run", SOON, || trio.node(node).psql(&busy).trim() == "t");
}

/// A story of two chapters: the primary dies under its writers, and comes back by itself.
#[test]
fn a_primary_that_dies_is_replaced_and_stays_out_when_it_comes_back() {
    at_most_minutes(5);
    let mut trio = Trio::start("sync", |settings| settings.set("routing.reads", "replicas"));
    let writers = Writers::start(trio.pgring.address(), 4);
    let (mut idle, mut slow) = (trio.client(), trio.client());
    assert_eq!(idle.value("SELECT 1"), "1");
    slow.send(&query("INSERT INTO keys SELECT 'slow' FROM pg_sleep(20)"));
    until_running(&trio, "pg1", "pg_sleep(20)");
    writers.until_more(50);

    let begun = Instant::now();
    trio.kill("pg1");
    assert_eq!(ending(&slow.until_end()), "08007");
    let new = replaced(&trio, "pg1");
    writers.until_on(trio.node(new).port());
    let took = begun.elapsed();
    writers.until_more(50);
    trio.until_well(new);
    idle.rows("INSERT INTO keys VALUES ('idle')");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let chapter = trio.last_chapter();
    let said = [&*chapter["kind"], &chapter["from"], &chapter["to"], &chapter["bound"]];
    assert_eq!(said, ["failover", "pg1", new, "nothing that was acknowledged"], "{chapter:?}");
    for step in ["fence ", "freeze ", "choose ", "promote ", "write "] {
        assert!(chapter["steps"].contains(step), "{chapter:?}");
    }

    stays_out(&mut trio, new, &writers);
    let told = writers.stop();
    assert!(told.outage() < Duration::from_secs(5), "{:?}", told.outage());
    assert_eq!(told.leaders(), [trio.node("pg1").port(), trio.node(new).port()]);
    let codes = ["08007", "08006", "57P01", "57P02", "57P03"];
    let strange = told.errors.iter().find(|(code, _)| !codes.contains(&&**code));
    assert_eq!((strange, told.cut), (None, 0));
    let keys = trio.keys(new);
    told.is_kept_in(&keys);
    assert!(keys.contains(&"idle".to_owned()) && !keys.contains(&"slow".to_owned()));
}

/// It has been the primary, and nobody has told it that it is none any more.
fn stays_out(trio: &mut Trio, new: &str, writers: &Writers) {
    let log = trio.node("pg1").home().join("log");
    let before = fs::read_to_string(&log).expect("its log").len();
    trio.node_mut("pg1").start_again();
    let row = trio.until_row("pg1", "it is seen", |row| row["role"] == "primary");
    assert!(!row["quarantine"].is_empty() && row["state"] == "normal", "{row:?}");
    trio.until_row("pg1", "it is well", |row| row["verdict"] == "healthy");
    let mut readers: Vec<_> = (0..8).map(|_| trio.client()).collect();
    for reader in &mut readers {
        assert_ne!(port(reader), trio.node("pg1").port());
        assert_eq!(reader.value("SELECT count(*) FROM keys WHERE key = 'nobody'"), "0");
    }
    writers.until_more(50);
    let said = fs::read_to_string(&log).expect("its log").split_off(before);
    let ours: Vec<_> = said.lines().filter(|line| line.starts_with("app: ")).collect();
    assert!(ours.is_empty(), "it got statements: {ours:?}");

    let dry = trio.well("REJOIN pg1 DRY RUN");
    assert!(dry.contains("standby of") && dry.contains(new), "{dry}");
    assert!(trio.well("REJOIN pg1").contains("a standby again"));
    let from = trio.node(new).address().to_string();
    trio.until_row("pg1", "it follows", |row| row["receives_from"] == from);
    trio.until_row("pg1", "it is let in", |row| row["quarantine"].is_empty());
    let why = trio.say("REJOIN pg1").expect_err("it is back already");
    assert!(why.contains("already"), "{why}");
}

/// Two switchovers, one by ending sessions and one by stopping the node; in between a RELOAD that
/// gives it the command for that. Nobody sees an error.
#[test]
fn a_switchover_is_not_noticed_by_clients() {
    at_most_minutes(5);
    let mut trio = Trio::start("sync", |settings| settings);
    let writers = Writers::start(trio.pgring.address(), 4);
    let mut idle = trio.client();
    assert_eq!(port(&mut idle), trio.node("pg1").port());
    writers.until_more(50);
    let dry = trio.well("SWITCHOVER TO pg2 DRY RUN");
    assert!(dry.contains("0 bytes lost") && dry.contains("its sessions would be ended"), "{dry}");
    assert!(trio.well("SWITCHOVER TO pg2").contains("pg2 is the primary"));
    writers.until_more(50);
    assert_eq!(port(&mut idle), trio.node("pg2").port());
    let from = trio.node("pg2").address().to_string();
    trio.until_row("pg1", "it follows", |row| row["receives_from"] == from);
    trio.until_well("pg2");

    let command = [hook("stop"), trio.folder().to_owned()];
    let [program, folder] = command.each_ref().map(String::as_str);
    trio.pgring.rewrite(|settings| settings.set("failover.stop_command", [program, folder]));
    trio.well("RELOAD");
    writers.until_more(50);
    trio.until_well("pg2");
    assert!(trio.well("SWITCHOVER TO pg3 DRY RUN").contains("stop_command"));
    assert!(trio.well("SWITCHOVER TO pg3").contains("pg3 is the primary"));
    writers.until_more(50);
    trio.until_well("pg3");
    assert_eq!(idle.value("SELECT 1"), "1");
    let told = writers.stop();
    assert_eq!((&told.errors[..], told.cut), (&[][..], 0));
    assert_eq!(told.leaders(), NAMES.map(|name| trio.node(name).port()));
    told.is_kept_in(&trio.keys("pg3"));
    let chapter = trio.last_chapter();
    let said = [&*chapter["kind"], &chapter["bound"]];
    assert_eq!(said, ["switchover", "nothing that was acknowledged"]);
    keeps_no_more_than_it_must(&trio, "pg3", "pg2");
}

/// A standby that was a primary has slots through which nobody receives any more: they move on
/// with its restartpoints.
fn keeps_no_more_than_it_must(trio: &Trio, primary: &str, standby: &str) {
    let (primary, standby) = (trio.node(primary), trio.node(standby));
    let oldest = || {
        let sql = "SELECT count(*), min(restart_lsn) - '0/0' FROM pg_replication_slots \
            WHERE NOT active AND slot_name LIKE 'pgring%'";
        let said = standby.psql(sql);
        let (count, place) = said.trim().split_once('|').expect("two columns");
        (count.to_owned(), place.parse::<u64>().expect("slots that nobody uses"))
    };
    let (_, before) = oldest();
    primary.psql("SELECT pg_switch_wal()");
    primary.psql("CHECKPOINT");
    let end = primary.psql("SELECT pg_current_wal_lsn()");
    let there = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", end.trim());
    until("it has all", SOON, || standby.psql(&there).trim() == "t");
    standby.psql("CHECKPOINT");
    let redo = standby.psql("SELECT redo_lsn - '0/0' FROM pg_control_checkpoint()");
    let redo: u64 = redo.trim().parse().expect("a place");
    assert!(redo > before, "{redo} {before}");
    until("its slots have moved", SOON, || oldest() == ("2".to_owned(), redo));
}

/// It is ended at any moment of a change, and goes on where it was.
#[test]
fn a_pgring_that_dies_in_the_middle_goes_on() {
    at_most_minutes(5);
    let mut trio = Trio::start("sync", |settings| settings.set("failover.cooldown", "0s"));
    let mut primary = "pg1";
    let mut leaders = vec![trio.node(primary).port()];
    let writers = Writers::start(trio.pgring.address(), 3);
    for state in [State::Fencing, State::Promoting, State::Switching] {
        writers.until_more(30);
        let epoch = trio.record().expect("a record").epoch;
        let switches = state == State::Switching;
        let mut console = trio.pgring.console();
        if switches {
            comes_back(&trio, "pg1", primary);
            console.wire().send(&query("SWITCHOVER TO pg1"));
        } else {
            trio.kill(primary);
        }
        let hit = trio.until_state(state, epoch);
        trio.pgring.kill();
        let record = trio.record().expect("a record");
        assert!(hit, "it was over before: {record:?}");
        trio.pgring.start_again();
        writers.until_more(30);
        let new = NAMES.into_iter().find(|name| trio.row("pg1")["writes"] == **name);
        let new = new.expect("somebody is written to");
        assert!(new != primary || switches, "{record:?}");
        if new != primary {
            leaders.push(trio.node(new).port());
        }
        primary = new;
    }
    let told = writers.stop();
    assert_eq!(told.leaders(), leaders);
    told.is_kept_in(&trio.keys(primary));
}

/// A node that was a primary is a standby again, and let in.
fn comes_back(trio: &Trio, node: &str, primary: &str) {
    trio.until_row(node, "all is over", |row| row["state"] == "normal");
    trio.well(&format!("REJOIN {node}"));
    let from = trio.node(primary).address().to_string();
    trio.until_row(node, "it follows", |row| row["receives_from"] == from);
    trio.until_row(node, "it is let in", |row| row["quarantine"].is_empty());
    trio.until_row(node, "commits wait for it", |row| row["synchronous"].contains(node));
}

/// Asynchronous, and nothing keeps the old primary from being written to by others.
#[test]
fn without_a_fence_nothing_is_promoted_unless_somebody_says_so() {
    at_most_minutes(3);
    let mut trio = Trio::start("async", |settings| settings);
    let mut client = trio.client();
    client.rows("INSERT INTO keys VALUES ('before')");
    trio.kill("pg1");
    let row = trio.until_row("pg1", "it says why", |row| row["status"].contains("asynchronous"));
    assert!(row["status"].contains("only_path") && row["state"] == "normal", "{row:?}");
    let dry = trio.well("FAILOVER TO pg2 DRY RUN");
    assert!(dry.contains("bytes of the log would be lost"), "{dry}");
    let why = trio.say("FAILOVER TO pg2").expect_err("it is not sure");
    assert!(why.contains("bytes") && why.contains("FORCE 'main'"), "{why}");
    let why = trio.say("FAILOVER TO pg2 FORCE 'other'").expect_err("it is another cluster");
    assert!(why.contains("FORCE 'main'"), "{why}");
    assert_eq!(trio.row("pg1")["state"], "normal");
    assert!(trio.well("FAILOVER TO pg2 FORCE 'main'").contains("pg2 is the primary"));
    assert_eq!(port(&mut client), trio.node("pg2").port());
    client.rows("INSERT INTO keys VALUES ('after')");
    trio.until_well("pg2");
    assert_eq!(trio.last_chapter()["reason"], "FAILOVER TO pg2 FORCE");
}

/// What is forbidden does not happen; what is allowed again does.
#[test]
fn a_paused_failover_waits() {
    at_most_minutes(3);
    let mut trio = Trio::start("sync", |settings| settings);
    let mut client = trio.client();
    assert_eq!(client.value("SELECT 1"), "1");
    trio.well("PAUSE FAILOVER");
    trio.kill("pg1");
    let row = trio.until_row("pg1", "it says why", |row| row["status"].contains("paused"));
    assert!(row["state"] == "normal" && row["paused"] == "postgres", "{row:?}");
    client.send(&query("INSERT INTO keys VALUES ('patient')"));
    client.patience(Duration::from_secs(1));
    assert!(matches!(client.poll(), Polled::Nothing), "there is nobody to be written to");
    client.patience(SOON);
    trio.well("RESUME FAILOVER");
    assert_eq!(ending(&client.until_ready(1)), "CZ");
    let new = replaced(&trio, "pg1");
    assert_eq!(trio.keys(new), ["patient"]);
}

/// An operator promotes a standby behind pgring's back.
#[test]
fn a_promotion_by_hand_stops_writes_until_somebody_decides() {
    at_most_minutes(3);
    let trio = Trio::start("sync", |settings| settings);
    let mut client = trio.client();
    client.rows("INSERT INTO keys VALUES ('before')");
    trio.node("pg2").psql("SELECT pg_promote()");
    let row = trio.until_row("pg2", "a conflict", |row| row["state"] == "conflict");
    assert!(row["status"].contains("promoted by somebody else"), "{row:?}");
    assert_eq!(row["writes"], "nobody");
    client.send(&query("INSERT INTO keys VALUES ('after')"));
    client.patience(Duration::from_secs(1));
    assert!(matches!(client.poll(), Polled::Nothing), "nobody is written to");
    client.patience(SOON);
    let why = trio.say("SWITCHOVER TO pg3").expect_err("not now");
    assert!(why.contains("conflict"), "{why}");
    assert!(trio.well("SET ROLE OVERRIDE pg2 primary DRY RUN").contains("pg2"));
    assert_eq!(trio.row("pg1")["state"], "conflict");
    trio.well("SET ROLE OVERRIDE pg2 primary");
    assert_eq!(ending(&client.until_ready(1)), "CZ");
    assert_eq!(port(&mut client), trio.node("pg2").port());
    trio.until_row("pg1", "it is shut out", |row| !row["quarantine"].is_empty());
    // The other standby may have received from the old one since, and is of no use then.
    let row = trio.until_row("pg2", "it is written to", |row| row["writes"] == "pg2");
    assert_eq!(row["state"], "normal");
    assert_eq!(trio.keys("pg2"), ["after", "before"]);
    assert_eq!(trio.keys("pg1"), ["before"]);
}

/// What happens every day is no reason for anything.
#[test]
fn an_ordinary_day_changes_nothing() {
    at_most_minutes(3);
    let mut trio = Trio::start("sync", |settings| settings);
    let writers = Writers::start(trio.pgring.address(), 4);
    let mut idle = trio.client();
    let mut inside = trio.client();
    inside.query("BEGIN; INSERT INTO keys VALUES ('inside')");
    for drain in ["3s", "4s"] {
        trio.pgring.rewrite(|settings| settings.set("failover.drain", drain));
        trio.well("RELOAD");
        writers.until_more(20);
        trio.until_well("pg1");
    }
    assert_eq!(ending(&inside.query("COMMIT")), "CZ");

    // Another process has no word in it.
    let (other, spare) = settings(&trio.nodes, "sync");
    let file = format!("{}/main.record", trio.folder());
    let other = other.set("failover.state_file", file.as_str()).start();
    let row = || other.console().find("SHOW TOPOLOGY", "node", "pg1").expect("a row");
    until("the other one to say why", SOON, || row()["status"].contains("in use by another"));
    assert_eq!(row()["writes"], "nobody");
    assert!(other.log().contains("in use by another pgring"), "{}", other.log());
    drop(other);
    drop(fs::remove_dir_all(spare));
    writers.until_more(20);
    let told = writers.stop();
    assert_eq!((&told.errors[..], told.cut), (&[][..], 0));

    // One backend ends as in a crash, and all others with it.
    let writers = Writers::start(trio.pgring.address(), 4);
    writers.until_more(20);
    let pid = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' LIMIT 1";
    let pid = trio.node("pg1").psql(pid).trim().parse().expect("a pid");
    assert!(signal(pid, "KILL"), "the backend is gone");
    let log = trio.node("pg1").home().join("log");
    let crashed = || fs::read_to_string(&log).is_ok_and(|text| text.contains("by signal 9"));
    until("the crash to be noticed", SOON, crashed);
    writers.until_more(50);
    trio.until_well("pg1");
    assert_eq!(idle.value("SELECT 1"), "1");
    let told = writers.stop();
    told.is_kept_in(&trio.keys("pg1"));
    assert_eq!(told.leaders(), [trio.node("pg1").port()]);
    let chapters = trio.pgring.console().show("SHOW HISTORY");
    assert_eq!(chapters.len(), 1, "{chapters:?}");
}

/// As `pg_basebackup` makes them: no commit would ever be acknowledged by a standby of that name.
#[test]
fn standbys_that_are_not_called_by_their_names_are_given_them() {
    at_most_minutes(3);
    let trio = Trio::before(Nodes::start(false), "sync", |settings| settings);
    trio.client().rows("INSERT INTO keys VALUES ('acknowledged')");
    let sql = "SELECT application_name, sync_state FROM pg_stat_replication ORDER BY 1";
    let wanted = "pg2|quorum\npg3|quorum";
    until("both to be known", SOON, || trio.node("pg1").psql(sql).trim() == wanted);
}

/// A log that cannot be written is lost, and nothing else.
#[test]
fn a_full_disk_behind_the_log_ends_nobody() {
    at_most_minutes(2);
    let node = Postgres::start();
    let full = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"];
    let pgring = Settings::new(&node).through(&full).start();
    let mut client = Wire::login(pgring.address(), "app");
    for _ in 0..3 {
        pgring.console().show("RELOAD");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!((pgring.log().as_str(), pgring.violations()), ("", Some(0)));
}

/// What `pgring check --connect` says: whether all is well, and its lines.
fn checked(config: &Path) -> (bool, Vec<String>) {
    let mut command = Command::new(binary());
    command.args(["check", "--connect", "--config"]).arg(config);
    let said = run(&mut command, SOON);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    (said.success, said.stdout.lines().map(str::to_owned).collect())
}

#[test]
fn what_is_missing_is_said_before_it_is_missed() {
    at_most_minutes(3);
    let mut trio = Trio::start("sync", |settings| settings);
    let config = trio.pgring.config_path();
    let (well, lines) = checked(&config);
    assert!(well && !lines.iter().any(|line| line.starts_with("error:")), "{lines:#?}");
    assert!(lines.contains(&"ok: main/pg1: it is the primary".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"ok: main/pg3: it streams from pg1".to_owned()), "{lines:#?}");

    let pg1 = trio.node("pg1");
    psql(
        pg1.address(),
        "postgres",
        "postgres",
        "REVOKE EXECUTE ON FUNCTION pg_promote(boolean, integer) FROM failover;
         REVOKE ALTER SYSTEM ON PARAMETER primary_conninfo FROM failover;
         REVOKE pg_checkpoint FROM failover; ALTER ROLE failover NOREPLICATION;
         ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf();",
    )
    .expect_success("to take rights away");
    let error = |lines: &[String], text: &str| {
        lines.iter().any(|line| line.starts_with("error: main/pg1: ") && line.contains(text))
    };
    let wanted = ["pg_promote(", "PARAMETER primary_conninfo", "GRANT pg_checkpoint"];
    let wanted = [&wanted[..], &["ALTER ROLE \"failover\" REPLICATION", "synchronous_commit"]];
    until("all of it to be missed", SOON, || {
        let (well, lines) = checked(&config);
        !well && wanted.concat().iter().all(|text| error(&lines, text))
    });

    trio.kill("pg3");
    let (well, lines) = checked(&config);
    let dead = "error: main/pg3: \"failover\" cannot log in";
    assert!(!well && lines.iter().any(|line| line.starts_with(dead)), "{lines:#?}");
    trio.pgring.rewrite(|settings| settings.set("failover.stop_command", ["/nowhere/stop"]));
    let (_, lines) = checked(&config);
    let missing = "error: main: stop_command: /nowhere/stop is not there";
    assert!(lines.contains(&missing.to_owned()), "{lines:#?}");
}
