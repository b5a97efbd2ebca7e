//! Session state in transaction mode: it follows its client and nobody else sees it; what cannot
//! move keeps the server with the client for just as long as it is there.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::crowd::{Bell, among};
use pgring_tests::dialogue::{Cuts, Dialogue, Step, Wait};
use pgring_tests::message::{V3_0, extended, startup, sync};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::Postgres;
use pgring_tests::probe::{SETTINGS, held, probed};
use pgring_tests::transcript::difference;
use pgring_tests::wire::Wire;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// Scripts that change settings in every way there is.
fn scripts() -> Vec<Dialogue> {
    vec![
        probed(
            "SET and RESET",
            &[
                "SET work_mem = '7MB'",
                "SELECT 1",
                "SET work_mem = '8MB'; SET TimeZone = 'Asia/Tokyo'",
                "RESET work_mem",
                "SET TimeZone TO DEFAULT",
            ],
        ),
        probed(
            "custom parameters",
            &[
                "SET app.x = 'it''s \\ mine'",
                "SELECT set_config('app.y', 'computed ' || 40 + 2, false)",
                "SELECT set_config('app.x', 'only here', true)",
                "RESET app.x",
                "SET app.y = ''",
            ],
        ),
        probed(
            "local settings",
            &[
                "BEGIN",
                "SET LOCAL work_mem = '9MB'; SELECT set_config('app.x', 'local', true)",
                "COMMIT",
                "BEGIN; SET work_mem = '5MB'; SET LOCAL work_mem = '6MB'",
                "COMMIT",
                "SET LOCAL work_mem = '4MB'",
            ],
        ),
        probed(
            "rolled-back settings",
            &[
                "SET app.x = 'before'",
                "BEGIN; SET app.x = 'undone'; SET work_mem = '3MB'",
                "ROLLBACK",
                "BEGIN; SET app.x = 'kept'; SAVEPOINT a; SET app.x = 'undone'; ROLLBACK TO a",
                "COMMIT",
                "BEGIN; SET app.x = 'failed'; SELECT 1/0",
                "COMMIT",
                "SET app.x = 'one message'; SELECT 1/0",
            ],
        ),
        probed(
            "roles",
            &[
                "SET ROLE reader",
                "SELECT 1",
                "RESET ROLE",
                "SET SESSION AUTHORIZATION app",
                "SET ROLE reader; SET work_mem = '2MB'",
                "DISCARD ALL",
            ],
        ),
    ]
}

/// More of them.
fn other_scripts() -> Vec<Dialogue> {
    vec![
        probed(
            "search_path and formats",
            &[
                "SET search_path = \"a b\", pg_catalog, \"q\"\"uote\"",
                "SET DateStyle = 'SQL, DMY'; SET bytea_output = 'escape'",
                "SET extra_float_digits = 0; SET NAMES 'LATIN1'",
                "RESET ALL",
                "SET SCHEMA 'public'",
            ],
        ),
        probed(
            "characteristics",
            &[
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                "BEGIN",
                "SHOW transaction_isolation",
                "COMMIT",
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "SET default_transaction_read_only = off",
            ],
        ),
        probed(
            "settings by other ways",
            &[
                "DO $$ BEGIN PERFORM set_config('app.x', 'from a block', false); END $$",
                "UPDATE pg_settings SET setting = 5555 WHERE name = 'work_mem'",
                "SELECT set_config(n, '11s', false) FROM (VALUES ('statement_timeout')) v (n)",
                "WITH w AS (SELECT set_config('app.y', 'with', false)) SELECT * FROM w",
                "PREPARE TRANSACTION 'no'",
                "DISCARD ALL",
            ],
        ),
        probed(
            "application_name",
            &[
                "SET application_name = 'first'",
                "BEGIN; SET application_name = 'second'; ROLLBACK",
                "SET application_name = 'third'",
                "RESET application_name",
            ],
        ),
        by_extended_protocol(),
    ]
}

fn by_extended_protocol() -> Dialogue {
    let texts = ["SET app.x = 'extended'", "SELECT 1", "SET work_mem = '6MB'", "RESET ALL"];
    let steps = texts.iter().flat_map(|sql| {
        let change = [extended(sql, &[]), sync()].concat();
        let look = [extended(SETTINGS, &[]), sync()].concat();
        [change, look].map(|send| Step { send, wait: Wait::Ready(1) })
    });
    Dialogue { name: "by the extended protocol", steps: steps.collect() }
}

/// Another client with settings of its own, checking them all the time and leaving untidily.
fn neighbour(pgring: &Pgring, number: usize, bell: &Bell) {
    let mut fresh = None;
    while bell.silent() {
        let mut wire = Wire::login(pgring.address(), "app");
        let before = wire.value(SETTINGS);
        let expected: &String = fresh.get_or_insert_with(|| before.clone());
        assert_eq!(&before, expected, "a new client sees somebody's settings");
        let (name, memory) = (format!("neighbour {number}"), format!("{}MB", 20 + number));
        wire.query(&format!("SET app.x = '{name}'; SET work_mem = '{memory}'"));
        for _ in 0..3 {
            let seen = wire.value("SELECT current_setting('app.x') || current_setting('work_mem')");
            assert_eq!(seen, format!("{name}{memory}"));
        }
    }
}

#[test]
fn settings_follow_their_client_and_nobody_else() {
    at_most_minutes(5);
    let node = Postgres::start();
    for (size, workers) in [(1, 1), (2, 2)] {
        let pgring = Settings::new(&node).set("pool.size", size).set("workers", workers).start();
        among(
            3,
            |number, bell| neighbour(&pgring, number, bell),
            || {
                for script in scripts().into_iter().chain(other_scripts()) {
                    let direct = script.play(node.address(), &mut Cuts::Whole);
                    for _ in 0..3 {
                        let through = script.play(pgring.address(), &mut Cuts::Whole);
                        let difference = difference(&direct, &through);
                        let name = script.name;
                        assert!(difference.is_none(), "{name}, pool of {size}, {difference:?}");
                    }
                }
            },
        );
        pgring.wait_until_quiet();
    }
}

#[test]
fn startup_parameters_follow_their_client() {
    at_most_minutes(3);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let cases: [&[(&str, &str)]; 5] = [
        &[("user", "app"), ("database", "app")],
        &[("user", "app"), ("application_name", "me"), ("client_encoding", "LATIN1")],
        &[("user", "app"), ("options", "-c work_mem=5MB -c search_path=x,y -c app.x=1")],
        &[("user", "app"), ("TimeZone", "Asia/Tokyo"), ("DateStyle", "German")],
        &[("user", "app"), ("options", "--statement_timeout=9s"), ("extra_float_digits", "0")],
    ];
    let connect = |address| cases.map(|case| Wire::login_with(address, case));
    let (mut direct, mut through) = (connect(node.address()), connect(pgring.address()));
    for round in ["SELECT 1", "RESET ALL", "SELECT 2", "SET work_mem = '3MB'", "DISCARD ALL"] {
        for (direct, through) in direct.iter_mut().zip(&mut through) {
            direct.query(round);
            through.query(round);
            assert_eq!(direct.value(SETTINGS), through.value(SETTINGS), "after {round}");
            assert_eq!(direct.parameters, through.parameters, "after {round}");
        }
    }
    let wrong = [("user", "app"), ("options", "-c work_mem=much")];
    let mut errors = [node.address(), pgring.address()].map(|address| {
        let mut wire = Wire::connect(address);
        wire.send(&startup(V3_0, &wrong));
        wire.authenticate("app", "").expect_err("a wrong setting").map(|error| error.code())
    });
    errors.sort();
    assert_eq!(errors[0], errors[1], "a wrong setting fails the login the same way");
}

/// What keeps the servers of clients, by the console.
fn pins(pgring: &Pgring) -> Vec<String> {
    let rows = pgring.console().show("SHOW PINS");
    rows.into_iter().filter_map(|mut row| row.remove("pins")).collect()
}

/// Waits until the pins are these.
fn await_pins(pgring: &Pgring, wanted: &[&str]) {
    let mut seen = Vec::new();
    until(&format!("pins {wanted:?}"), SOON, || {
        seen = pins(pgring);
        seen.len() == wanted.len()
            && seen.iter().zip(wanted).all(|(seen, wanted)| seen.contains(wanted))
    });
}

#[test]
fn listeners_keep_their_server_and_hear() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 2).start();
    let [mut listener, mut speaker] = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
    listener.query("LISTEN news");
    await_pins(&pgring, &["listen"]);
    for i in 0..5 {
        speaker.query(&format!("NOTIFY news, 'number {i}'"));
        let heard = listener.expect(b'A');
        assert!(String::from_utf8_lossy(&heard.body).contains(&format!("number {i}")));
    }
    assert_eq!(listener.value("SELECT 1"), "1");
    listener.query("UNLISTEN *");
    await_pins(&pgring, &[]);
    speaker.query("NOTIFY news, 'nobody'");
    assert_eq!(listener.value("SELECT 2"), "2");
    listener.query("LISTEN news");
    await_pins(&pgring, &["listen"]);
    drop(listener);
    await_pins(&pgring, &[]);
    pgring.wait_until_quiet();
    speaker.query("NOTIFY news, 'again nobody'");
    for _ in 0..4 {
        assert!(held(&mut speaker).is_empty());
    }
}

#[test]
fn what_cannot_move_keeps_the_server_until_it_is_gone() {
    at_most_minutes(3);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 2).start();
    let cases = [
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)", "advisory lock"),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", "advisory lock"),
        ("CREATE TEMP TABLE mine (i int)", "DROP TABLE mine", "temporary table"),
        ("CREATE TEMP TABLE mine (i int)", "DISCARD TEMP", "temporary table"),
        ("CREATE TEMP SEQUENCE mine", "DISCARD ALL", "temporary table"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "cursor with hold"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL", "cursor with hold"),
        ("SELECT * INTO TEMP mine FROM pg_class", "DROP TABLE mine", "temporary table"),
    ];
    for (take, release, pin) in cases {
        for bracket in [["", ""], ["BEGIN;", ";COMMIT"]] {
            let mut client = Wire::login(pgring.address(), "app");
            client.query(&format!("{}{take}{}", bracket[0], bracket[1]));
            await_pins(&pgring, &[pin]);
            let pid = client.value("SELECT pg_backend_pid()");
            let mut others = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
            for other in &mut others {
                assert_ne!(other.value("SELECT pg_backend_pid()"), pid, "{take}");
                assert!(held(other).is_empty(), "{take}");
            }
            assert_eq!(client.value("SELECT pg_backend_pid()"), pid, "{take}");
            client.query(release);
            await_pins(&pgring, &[]);
            client.query(take);
            await_pins(&pgring, &[pin]);
            drop(client);
            await_pins(&pgring, &[]);
        }
    }
    assert_eq!(node.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").trim(), "0");
}

#[test]
fn what_ends_with_its_transaction_does_not_keep_the_server() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut client = Wire::login(pgring.address(), "app");
    let mut other = Wire::login(pgring.address(), "app");
    for text in [
        "SELECT pg_advisory_xact_lock(1)",
        "BEGIN; CREATE TEMP TABLE t (i int) ON COMMIT DROP; INSERT INTO t VALUES (1); COMMIT",
        "BEGIN; CREATE TEMP TABLE t (i int); ROLLBACK",
        "BEGIN; LISTEN x; ROLLBACK",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "LISTEN x; UNLISTEN x",
        "SELECT pg_advisory_lock(1); SELECT pg_advisory_unlock(1)",
        "SELECT 'LISTEN x', 'CREATE TEMP TABLE t', 'pg_advisory_lock'",
    ] {
        client.query(text);
        assert_eq!(other.value("SELECT 'served'"), "served", "{text}");
        assert!(held(&mut other).is_empty(), "{text}");
    }
    assert!(pins(&pgring).is_empty());
}

#[test]
fn a_server_is_as_fresh_after_any_client() {
    at_most_minutes(3);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut first = Wire::login(pgring.address(), "app");
    let fresh = first.value(SETTINGS);
    drop(first);
    let leave_behind = [
        "SET app.x = 'x'; SET work_mem = '9MB'",
        "SET ROLE reader",
        "SET search_path = nowhere",
        "LISTEN x",
        "SELECT pg_advisory_lock(3)",
        "CREATE TEMP TABLE leftover (i int)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "PREPARE leftover AS SELECT 1",
        "BEGIN; CREATE TABLE never (i int); SET app.x = 'y'; LISTEN y",
        "BEGIN; SELECT 1/0",
        "BEGIN; SELECT pg_advisory_lock(4); SET work_mem = '1MB'",
        "DO $$ BEGIN PERFORM set_config('app.x', 'hidden', false); END $$",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET client_encoding = 'LATIN1'; SET standard_conforming_strings = off",
    ];
    for text in leave_behind {
        let mut untidy = Wire::login(pgring.address(), "app");
        untidy.query(text);
        drop(untidy);
        let mut next = Wire::login(pgring.address(), "app");
        assert!(held(&mut next).is_empty(), "{text}: {:?}", held(&mut next));
        assert_eq!(next.value(SETTINGS), fresh, "{text}");
        assert_eq!(next.failure("SELECT * FROM leftover"), "42P01", "{text}");
        assert_eq!(next.failure("SELECT * FROM never"), "42P01", "{text}");
        assert_eq!(next.failure("EXECUTE leftover"), "26000", "{text}");
        assert_eq!(next.failure("SELECT 'still writable' INTO TEMP t; DROP TABLE t"), "", "{text}");
    }
}

/// `SELECT f()` does not say what f does; the server does.
#[test]
fn a_parameter_that_a_function_sets_stays_with_its_client() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql(
        "CREATE FUNCTION moves() RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$",
    );
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut mover = Wire::login(pgring.address(), "app");
    let mut other = Wire::login(pgring.address(), "app");
    let before = other.value("SHOW TimeZone");
    mover.query("SELECT moves()");
    assert_eq!(other.value("SHOW TimeZone"), before);
    assert_eq!(mover.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_eq!(other.value("SHOW TimeZone"), before);
    mover.query("BEGIN; SELECT moves()");
    mover.query("SET TimeZone = 'UTC'");
    mover.query("ROLLBACK");
    assert_eq!(mover.value("SHOW TimeZone"), "Asia/Tokyo");
}
