//! Transactions that have only read so far are on standbys (`routing.leading_reads`), and nobody
//! can tell.

use pgring_tests::command::{Outcome, at_most_minutes, run, until};
use pgring_tests::dice::{Dice, amount};
use pgring_tests::message::{Message, bind, describe, execute, extended, parse, query, sync};
use pgring_tests::pgring::Settings;
use pgring_tests::postgres::{PASSWORD, Postgres, program};
use pgring_tests::routed::{SOON, Scene, scene};
use pgring_tests::wire::Wire;
use std::process::Command;
use std::thread;
use std::time::Duration;

fn stage(standbys: usize, change: impl FnOnce(Settings) -> Settings) -> Scene {
    at_most_minutes(5);
    scene(standbys, |settings| change(settings.set("routing.leading_reads", "replicas")))
}

/// Says a message, and gives the first value of an answer, or its tag, or its error; and whether a
/// transaction is open behind it.
fn told(client: &mut Wire, bytes: &[u8]) -> String {
    client.send(bytes);
    let answers = client.until_ready(1);
    let mut told = String::new();
    for answer in &answers {
        match answer.tag {
            b'D' if told.is_empty() => told = answer.value(),
            b'C' if told.is_empty() => {
                told = String::from_utf8_lossy(&answer.body).replace('\0', "");
            }
            b'E' => told = answer.code(),
            b'Z' => {
                told.push(' ');
                told.push(char::from(answer.body[0]));
            }
            _ => {}
        }
    }
    told
}

fn say(client: &mut Wire, sql: &str) -> String {
    told(client, &query(sql))
}

/// A transaction whose first read is on a standby.
fn begin(client: &mut Wire) {
    until("a transaction on a standby", SOON, || {
        assert_eq!(say(client, "BEGIN"), "BEGIN T");
        let here = say(client, "SELECT here()");
        if here != "standby T" {
            assert_eq!(here, "primary T");
            say(client, "ROLLBACK");
        }
        here == "standby T"
    });
}

#[test]
fn a_transaction_that_only_reads_is_a_standbys_and_one_that_writes_moves() {
    let scene = stage(1, |settings| settings);
    let mut client = scene.client();
    for end in ["COMMIT", "ROLLBACK"] {
        begin(&mut client);
        assert_eq!(say(&mut client, "SELECT here() FROM notes LIMIT 1"), "standby T");
        assert_eq!(say(&mut client, end), format!("{end} I"));
    }
    for (end, count) in [("COMMIT", "1"), ("ROLLBACK", "0")] {
        begin(&mut client);
        assert_eq!(say(&mut client, "INSERT INTO notes VALUES (800, 'x')"), "INSERT 0 1 T");
        assert_eq!(
            say(&mut client, "SELECT text || here() FROM notes WHERE id = 800"),
            "xprimary T"
        );
        assert_eq!(say(&mut client, end), format!("{end} I"));
        let sql = "SELECT count(*)::text FROM notes WHERE id = 800";
        assert_eq!(say(&mut client, sql), format!("{count} I"));
        assert_eq!(scene.primary.psql(sql).trim(), count);
        say(&mut client, "DELETE FROM notes WHERE id = 800");
    }
    // What comes first decides: a transaction that begins with a write is none of the standby's.
    until("a read on the standby", SOON, || say(&mut client, "SELECT here()") == "standby I");
    let before = scene.pgring.queries("pg2");
    assert_eq!(say(&mut client, "START TRANSACTION"), "START TRANSACTION T");
    assert_eq!(say(&mut client, "UPDATE notes SET text = 'y' WHERE id = 1"), "UPDATE 1 T");
    assert_eq!(say(&mut client, "SELECT here()"), "primary T");
    assert_eq!(say(&mut client, "SAVEPOINT a"), "SAVEPOINT T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    assert_eq!(scene.pgring.queries("pg2"), before);
    // And nobody hears of one without a statement.
    let primary = scene.pgring.queries("pg1");
    assert_eq!(say(&mut client, "begin work;"), "BEGIN T");
    assert_eq!(told(&mut client, &sync()), " T");
    assert_eq!(say(&mut client, "rollback"), "ROLLBACK I");
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    assert_eq!(say(&mut client, "End;"), "COMMIT I");
    assert_eq!((scene.pgring.queries("pg2"), scene.pgring.queries("pg1")), (before, primary));
    // Who leaves in one takes nothing along.
    say(&mut client, "BEGIN");
    drop(client);
    let mut client = scene.client();
    begin(&mut client);
    drop(client);
    scene.pgring.wait_until_quiet();
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn an_error_fails_the_transaction_wherever_it_is() {
    let scene = stage(1, |settings| {
        settings.set("pool.size", 1).set("pool.query_wait_timeout", "300ms").set("workers", 1)
    });
    let mut client = scene.client();
    begin(&mut client);
    assert_eq!(say(&mut client, "SELECT 1 / 0"), "22012 E");
    assert_eq!(say(&mut client, "SELECT here()"), "25P02 E");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (801, 'x')"), "25P02 E");
    assert_eq!(say(&mut client, "COMMIT"), "ROLLBACK I");
    // The only server of the primary is somebody else's.
    let mut holder = Wire::login(scene.pgring.address(), "app");
    say(&mut holder, "BEGIN");
    assert_eq!(say(&mut holder, "INSERT INTO notes VALUES (802, 'x')"), "INSERT 0 1 T");
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (803, 'x')"), "53300 E");
    assert_eq!(say(&mut client, "SELECT here()"), "25P02 E");
    let read = [extended("SELECT here()", &[]), sync()].concat();
    assert_eq!(told(&mut client, &read), "25P02 E");
    assert_eq!(told(&mut client, &sync()), " E");
    assert_eq!(say(&mut client, "COMMIT"), "ROLLBACK I");
    // The same for one that has read already.
    begin(&mut client);
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (804, 'x')"), "53300 E");
    assert_eq!(say(&mut client, "ROLLBACK"), "ROLLBACK I");
    assert_eq!(say(&mut holder, "COMMIT"), "COMMIT I");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (805, 'x')"), "INSERT 0 1 I");
    let sql = "SELECT string_agg(id::text, ' ') FROM notes WHERE id > 800";
    assert_eq!(scene.primary.psql(sql).trim(), "802 805");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// As JDBC does it: BEGIN stands in front of the first statement, in one segment.
#[test]
fn extended_segments_begin_on_a_standby_too() {
    let scene = stage(1, |settings| settings);
    let mut client = scene.client();
    let one = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    let begins = |sql: &str| [one("BEGIN"), one(sql), sync()].concat();
    let alone = |sql: &str| [one(sql), sync()].concat();
    let first = |client: &mut Wire, sql: &str| {
        client.send(&begins(sql));
        let answers = client.until_ready(1);
        let row = answers.iter().find(|it| it.tag == b'D').map(Message::value);
        (row.unwrap_or_default(), answers.last().map_or(b'?', |it| it.body[0]))
    };
    let on_standby = (String::from("standby"), b'T');
    for round in 0..3 {
        until("a transaction on a standby", SOON, || {
            let here = first(&mut client, "SELECT here()");
            if here != on_standby {
                told(&mut client, &alone("ROLLBACK"));
            }
            here == on_standby
        });
        assert_eq!(told(&mut client, &alone("SELECT here()")), "standby T");
        if round > 0 {
            let insert =
                format!("INSERT INTO notes VALUES ({}, 'x') RETURNING here()", 810 + round);
            assert_eq!(told(&mut client, &alone(&insert)), "primary T");
            assert_eq!(told(&mut client, &alone("SELECT here()")), "primary T");
        }
        assert_eq!(told(&mut client, &alone("COMMIT")), "COMMIT I");
    }
    assert_eq!(first(&mut client, "SELECT writes()").0, "primary");
    told(&mut client, &alone("COMMIT"));
    // Named statements, and BEGIN by its name.
    told(
        &mut client,
        &[parse("b", "BEGIN", &[]), parse("s", "SELECT here()", &[]), sync()].concat(),
    );
    let named = |name: &str| [bind("", name, &[]), describe(b'P', ""), execute("", 0)].concat();
    until("a read on the standby", SOON, || say(&mut client, "SELECT here()") == "standby I");
    client.send(&[named("b"), named("s"), sync()].concat());
    let answers = client.until_ready(1);
    assert!(answers.iter().any(|it| it.tag == b'D' && it.value() == "standby"), "{answers:?}");
    assert_eq!(told(&mut client, &[named("s"), sync()].concat()), "standby T");
    assert_eq!(told(&mut client, &alone("UPDATE notes SET text = '' WHERE id = 1")), "UPDATE 1 T");
    assert_eq!(told(&mut client, &[named("s"), sync()].concat()), "primary T");
    assert_eq!(told(&mut client, &alone("ROLLBACK")), "ROLLBACK I");
    // A portal of which rows are yet to be fetched stays where it is.
    say(&mut client, "BEGIN");
    let fetch = [parse("", "SELECT id FROM notes ORDER BY id", &[]), bind("c", "", &[])].concat();
    assert_eq!(told(&mut client, &[fetch, execute("c", 2), sync()].concat()), "1 T");
    assert_eq!(told(&mut client, &alone("UPDATE notes SET text = '' WHERE id = 1")), "UPDATE 1 T");
    assert_eq!(told(&mut client, &[execute("c", 2), sync()].concat()), "3 T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn pipelines_are_answered_in_their_order() {
    let scene = stage(1, |settings| settings);
    let mut client = scene.client();
    for round in 0..100 {
        let sql = |text: &str| query(text);
        let id = 1_000 + round;
        let write = format!("INSERT INTO notes VALUES ({id}, 'x')");
        let read = format!("SELECT count(*)::text FROM notes WHERE id = {id}");
        let bytes = [
            sql("BEGIN"),
            sql("SELECT here()"),
            sql(&read),
            sql(&write),
            sql(&read),
            sql("COMMIT"),
            sql("BEGIN"),
            sql(&read),
            sql("SELECT here()"),
            sql("ROLLBACK"),
        ]
        .concat();
        client.send(&bytes);
        let mut rows = Vec::new();
        for _ in 0..10 {
            for answer in client.until_ready(1) {
                if answer.tag == b'D' {
                    rows.push(answer.value());
                }
            }
        }
        assert_eq!((&*rows[1], &*rows[2], &*rows[3]), ("0", "1", "1"), "{rows:?}");
    }
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn a_transaction_outlives_the_standby_on_which_it_only_read() {
    let mut scene = stage(1, |settings| settings);
    let (mut idle, mut busy) = (scene.client(), scene.client());
    begin(&mut idle);
    begin(&mut busy);
    busy.send(&query("SELECT here() FROM pg_sleep(3)"));
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ 'sleep'";
    until("the read to run", SOON, || scene.standbys[0].psql(active).trim() == "2");
    scene.standbys[0].stop();
    let answers = busy.until_ready(1);
    let row = answers.iter().find(|it| it.tag == b'D').map(Message::value);
    assert_eq!(row.as_deref(), Some("primary"), "{answers:?}");
    assert_eq!(say(&mut busy, "INSERT INTO notes VALUES (820, 'x')"), "INSERT 0 1 T");
    assert_eq!(say(&mut busy, "COMMIT"), "COMMIT I");
    assert_eq!(say(&mut idle, "SELECT here()"), "primary T");
    assert_eq!(say(&mut idle, "COMMIT"), "COMMIT I");
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn what_must_be_seen_as_of_one_moment_begins_on_the_primary() {
    let scene = stage(1, |settings| settings.set("pool.idle_transaction_timeout", "500ms"));
    let mut client = scene.client();
    let primary = |client: &mut Wire, begin: &str| {
        say(client, begin);
        assert_eq!(say(client, "SELECT here()"), "primary T", "{begin}");
        say(client, "ROLLBACK");
    };
    begin(&mut client);
    say(&mut client, "COMMIT");
    primary(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    primary(&mut client, "BEGIN ISOLATION LEVEL SERIALIZABLE");
    primary(&mut client, "BEGIN READ WRITE");
    primary(&mut client, "/* pgring: primary */ BEGIN");
    say(&mut client, "SET default_transaction_isolation = 'repeatable read'");
    primary(&mut client, "BEGIN");
    say(&mut client, "RESET default_transaction_isolation");
    begin(&mut client);
    say(&mut client, "COMMIT");
    // An idle one is ended, though no server knows of it.
    let mut late = scene.client();
    assert_eq!(say(&mut late, "BEGIN"), "BEGIN T");
    let last = late.until_end();
    assert_eq!(last.last().map(Message::code).as_deref(), Some("25P03"));
    // The operator has said so for everybody; the catalog tells.
    scene.primary.psql("ALTER DATABASE app SET default_transaction_isolation = 'repeatable read'");
    say(&mut client, "CREATE TABLE more (n int)");
    until("the catalog to be known anew", SOON, || {
        say(&mut client, "SELECT here()") == "standby I"
    });
    primary(&mut client, "BEGIN");
}

/// The last value that a session has committed is what its next transaction begins with, wherever
/// that is.
#[test]
fn transactions_read_what_their_session_wrote() {
    const CLIENTS: usize = 8;
    let scene = stage(2, |settings| settings.set("monitor.interval_busy", "5ms"));
    scene.standbys[1].psql("ALTER SYSTEM SET recovery_min_apply_delay = '100ms'");
    scene.standbys[1].psql("SELECT pg_reload_conf()");
    let count = amount("PGRING_PAIRS", 4_000) / CLIENTS;
    let talk = |number: usize| {
        let mut client = scene.client();
        let mut dice = Dice::new(u64::try_from(number).expect("a few"));
        let row = number + 10;
        let read = format!("SELECT text || ' ' || here() FROM notes WHERE id = {row}");
        let mut last = format!("note {row}");
        let mut on_standby = 0;
        for round in 0..count {
            assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
            let mut now = last.clone();
            for step in 0..dice.below(5) {
                if dice.below(3) == 0 {
                    now = format!("{round}.{step}");
                    let sql = format!("UPDATE notes SET text = '{now}' WHERE id = {row}");
                    assert_eq!(say(&mut client, &sql), "UPDATE 1 T");
                }
                let answer = say(&mut client, &read);
                let (text, node) = answer
                    .rsplit_once(' ')
                    .and_then(|(it, _)| it.rsplit_once(' '))
                    .unwrap_or_else(|| panic!("{answer}"));
                assert_eq!(text, now, "on a {node}");
                on_standby += usize::from(node == "standby");
                assert!(node == "primary" || now == last, "it moves with its first write");
            }
            if dice.below(2) == 0 {
                assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
                last = now;
            } else {
                assert_eq!(say(&mut client, "ROLLBACK"), "ROLLBACK I");
            }
        }
        on_standby
    };
    let on_standby: usize = thread::scope(|scope| {
        let talks: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let talk = &talk;
                    move || talk(number)
                })
            })
            .collect();
        talks.into_iter().map(|talk| talk.join().expect("no stale read")).sum()
    });
    assert!(on_standby > 0, "no read was on a standby");
    assert_eq!(scene.pgring.violations(), Some(0));
}

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
