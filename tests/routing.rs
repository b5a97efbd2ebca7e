//! Reads go to standbys, everything else to the primary, and nobody can tell but by the load.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::dice::amount;
use pgring_tests::message::{
    Message, bind, close, describe, execute, extended, parse, query, sync,
};
use pgring_tests::postgres::Postgres;
use pgring_tests::routed::{SOON, scene, scene_with, together};
use pgring_tests::sql::{block_on, connect};
use pgring_tests::wire::Wire;
use std::thread;
use std::time::Duration;

#[test]
fn reads_go_to_a_standby_and_all_else_to_the_primary() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    for (sql, node) in [
        ("SELECT here()", "standby"),
        ("SELECT here() FROM notes WHERE id = 1", "standby"),
        ("/* INSERT */ select HERE() -- for update", "standby"),
        ("WITH q AS (SELECT here() h) SELECT h FROM q", "standby"),
        ("SELECT here() FROM notes WHERE id = 1 FOR UPDATE", "primary"),
        ("SELECT here() || nextval('counter')::text", "primary1"),
        ("SELECT writes()", "primary"),
        ("SELECT here() FROM pg_class LIMIT 1", "primary"),
        ("WITH q AS (INSERT INTO notes VALUES (1000, 'x') RETURNING 1) SELECT here()", "primary"),
        ("SELECT 1; SELECT here()", "primary"),
    ] {
        assert_eq!(client.value(sql), node, "{sql}");
        // What was written is on the way; the next line is not to wait for it.
        until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
    }
    // A transaction stays where it began.
    client.query("BEGIN");
    assert_eq!(client.value("SELECT here()"), "primary");
    client.query("COMMIT");
    client.query("BEGIN READ ONLY");
    assert_eq!(client.value("SELECT here()"), "standby");
    assert_eq!(client.value("SHOW transaction_read_only"), "on");
    client.query("COMMIT");
    assert_eq!(client.value("SELECT here()"), "standby");
    client.query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY");
    assert_eq!(client.value("SELECT here()"), "primary");
    client.query("COMMIT");
    client.query("SET default_transaction_isolation = serializable");
    assert_eq!(client.value("SELECT here()"), "primary");
}

#[test]
fn the_console_says_where_a_statement_goes_and_why() {
    at_most_minutes(2);
    let scene = scene(1, |settings| settings);
    drop(scene.client());
    let mut console = scene.pgring.console();
    for (sql, target, reason) in [
        ("SELECT here()", "replica", "functions here"),
        ("IN app SELECT text FROM notes", "replica", "relations notes"),
        ("SELECT writes()", "primary", "function writes: volatile"),
        ("SELECT * FROM pg_class", "primary", "system catalog"),
        ("DELETE FROM notes", "primary", "DELETE"),
        ("BEGIN", "primary", "READ ONLY"),
        ("IN other SELECT 1", "primary", "not known yet"),
    ] {
        let rows = console.show(&format!("EXPLAIN ROUTE {sql}"));
        assert!(
            rows[0]["target"] == target && rows[0]["reason"].contains(reason),
            "{sql}: {rows:?}"
        );
    }
    assert_eq!(console.ask("EXPLAIN ROUTE").expect_err("no statement").code(), "42601");
    assert!(console.find("SHOW POOLS", "node", "pg2").is_some(), "reads have a pool there");
}

#[test]
fn extended_segments_are_seen_whole() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    let mut told = |bytes: &[u8]| {
        client.send(bytes);
        let answers = client.until_ready(1);
        let rows = answers.iter().filter(|message| message.tag == b'D').map(Message::value);
        rows.collect::<Vec<_>>()
    };
    let here = |sql: &str| [extended(sql, &[]), sync()].concat();
    assert_eq!(told(&here("SELECT here()")), ["standby"]);
    assert_eq!(told(&here("SELECT writes()")), ["primary"]);
    let both = [extended("SELECT here()", &[]), extended("SELECT writes()", &[]), sync()].concat();
    assert_eq!(told(&both), ["primary", "primary"]);
    let named = [parse("s", "SELECT here()", &[]), sync()].concat();
    assert_eq!(told(&named), [""; 0]);
    let run = [bind("", "s", &[]), execute("", 0), sync()].concat();
    until("the standby to follow", SOON, || told(&run) == ["standby"]);
    let mixed = [bind("", "s", &[]), execute("", 0), extended("SELECT writes()", &[]), sync()];
    assert_eq!(told(&mixed.concat()), ["primary", "primary"]);
}

/// The second segment is there before the first is answered: it must not run where that does.
#[test]
fn a_pipeline_goes_to_the_primary_where_it_must() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    for _ in 0..50 {
        client.send(
            &[query("SELECT here()"), query("SELECT writes()"), query("SELECT here()")].concat(),
        );
        let mut rows = Vec::new();
        for _ in 0..3 {
            let answers = client.until_ready(1);
            assert!(answers.iter().all(|message| message.tag != b'E'), "{answers:?}");
            rows.extend(answers.iter().filter(|it| it.tag == b'D').map(Message::value));
        }
        assert_eq!(rows[1], "primary", "{rows:?}");
        until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
    }
}

/// H23: what a session has written it reads, wherever it reads: while one standby is late, and the
/// other stands still for a while again and again.
#[test]
fn a_session_reads_what_it_wrote() {
    sessions_read_what_they_wrote("replicas", amount("PGRING_PAIRS", 4_000));
}

#[test]
fn shared_reads_show_what_their_session_wrote() {
    sessions_read_what_they_wrote("all", amount("PGRING_SHARED_PAIRS", 2_000));
}

fn sessions_read_what_they_wrote(reads: &str, pairs: usize) {
    const CLIENTS: usize = 8;
    at_most_minutes(60);
    let shared = reads == "all";
    let long = if shared { 200 } else { 2_000 };
    let scene = scene(2, |settings| {
        settings.set("routing.reads", reads).set("monitor.interval_busy", "5ms")
    });
    scene.standbys[1].psql("ALTER SYSTEM SET recovery_min_apply_delay = '200ms'");
    scene.standbys[1].psql("SELECT pg_reload_conf()");
    let talk = |number: usize| {
        let mut client = scene.client();
        let row = number + 10;
        // What is only believed to read is not shared.
        let node = if shared { "'any'" } else { "here()" };
        let text = format!("SELECT text || ' ' || {node} FROM notes WHERE id = {row}");
        let mut on_standby = 0;
        for pair in 0..pairs.div_ceil(CLIENTS) {
            client.query(&format!("UPDATE notes SET text = '{pair}' WHERE id = {row}"));
            // Some go on at once, and some until a standby has followed.
            let reads = if pair % 50 == 0 { long } else { 1 + pair % 5 };
            for _ in 0..reads {
                let answer = client.value(&text);
                let (text, node) = answer.split_once(' ').expect("two words");
                assert_eq!(text, pair.to_string(), "a stale read on a {node}");
                on_standby += usize::from(node == "standby");
                if node == "standby" && pair % 50 == 0 {
                    break;
                }
            }
        }
        on_standby
    };
    let counted = || scene.pgring.queries("pg2") + scene.pgring.queries("pg3");
    let before = counted();
    let told = together(CLIENTS, talk, || scene.pause(0, Duration::from_millis(100)));
    let on_standby = if shared { counted() - before } else { told as u64 };
    assert!(on_standby > 0, "no read ever went to a standby");
    pgring_tests::command::say(&format!("{pairs} pairs, {on_standby} reads on standbys"));
}

#[test]
fn clients_notice_nothing_when_replicas_go_and_come() {
    at_most_minutes(5);
    let mut scene = scene(2, |settings| settings);
    let mut client = scene.client();
    for standby in &mut scene.standbys {
        standby.stop();
    }
    until("reads on the primary", SOON, || {
        let mut new = Wire::login(scene.pgring.address(), "app");
        new.value("SELECT here()") == "primary"
    });
    assert_eq!(client.value("SELECT here()"), "primary");
    for standby in &mut scene.standbys {
        standby.start_again();
    }
    until("reads on standbys again", SOON, || client.value("SELECT here()") == "standby");
    scene.primary.psql("SELECT 1");
}

/// `guess` says that it only reads, and calls what writes.
const GUESSES: &str = "
    CREATE FUNCTION guess() RETURNS text STABLE LANGUAGE plpgsql AS
        $$ BEGIN RETURN writes(); END $$;
    CREATE FUNCTION slow() RETURNS text STABLE LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(1) FROM notes WHERE id = 1; RETURN here(); END $$;
";

/// The tags of the answers to these bytes, and the first value.
fn tags(client: &mut Wire, bytes: &[u8]) -> (String, String) {
    client.send(bytes);
    let answers = client.until_ready(1);
    let tags = answers.iter().map(|message| char::from(message.tag)).collect();
    let row = answers.iter().find(|message| message.tag == b'D').map(Message::value);
    (tags, row.unwrap_or_else(|| format!("{answers:?}")))
}

/// A simple query, a segment, one that describes, a prepared statement that is bound.
fn forms(client: &mut Wire, sql: &str) -> [(Vec<u8>, &'static str); 5] {
    client.send(&[parse(sql, sql, &[]), sync()].concat());
    client.until_ready(1);
    let plain = [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()];
    let named =
        [parse("n", sql, &[]), bind("", "n", &[]), execute("", 0), close(b'S', "n"), sync()];
    let bound = [bind("", sql, &[]), describe(b'P', ""), execute("", 0), sync()];
    [
        (query(sql), "TDCZ"),
        (plain.concat(), "12DCZ"),
        ([extended(sql, &[]), sync()].concat(), "12TDCZ"),
        (bound.concat(), "2TDCZ"),
        (named.concat(), "12DC3Z"),
    ]
}

/// Waits until `slow()` runs on a node.
fn until_slow(node: &Postgres) {
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                AND query LIKE '%slow%' AND pid <> pg_backend_pid()";
    until("the read to run", SOON, || node.psql(asks).trim() == "1");
}

#[test]
fn a_wrong_guess_is_invisible() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    scene.primary.psql(GUESSES);
    let mut client = scene.client();
    // The catalog does not have it yet: it came by another way.
    client.query("CREATE FUNCTION refresh() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'");
    until("the catalog", SOON, || client.value("SELECT here()") == "standby");
    for (bytes, expected) in forms(&mut client, "SELECT guess()") {
        for _ in 0..5 {
            let told = tags(&mut client, &bytes);
            assert_eq!(told, (expected.to_owned(), "primary".to_owned()));
            until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
        }
    }
}

#[test]
fn a_read_that_replay_cancels_is_finished_by_the_primary() {
    at_most_minutes(3);
    let scene = scene_with(&["max_standby_streaming_delay = 0"], 1, |settings| settings);
    scene.primary.psql(GUESSES);
    let mut client = scene.client();
    client.query("CREATE FUNCTION refresh() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'");
    until("the catalog", SOON, || client.value("SELECT here()") == "standby");
    for (bytes, expected) in forms(&mut client, "SELECT slow()") {
        until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
        client.send(&bytes);
        until_slow(&scene.standbys[0]);
        scene
            .primary
            .psql("ALTER TABLE notes ADD COLUMN more int; ALTER TABLE notes DROP COLUMN more");
        let answers = client.until_ready(1);
        let told: String = answers.iter().map(|message| char::from(message.tag)).collect();
        let row = answers.iter().find(|message| message.tag == b'D').map(Message::value);
        assert_eq!((&*told, row.as_deref()), (expected, Some("primary")), "{answers:?}");
    }
}

#[test]
fn a_read_outlives_its_replica() {
    at_most_minutes(3);
    let mut scene = scene(1, |settings| settings);
    scene.primary.psql(GUESSES);
    let mut client = scene.client();
    client.query("CREATE FUNCTION refresh() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'");
    until("the catalog", SOON, || client.value("SELECT here()") == "standby");
    for (number, (bytes, expected)) in forms(&mut client, "SELECT slow()").into_iter().enumerate() {
        until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
        client.send(&bytes);
        until_slow(&scene.standbys[0]);
        if number % 2 == 0 {
            scene.standbys[0].stop();
        } else {
            scene.standbys[0].end();
        }
        let answers = client.until_ready(1);
        let told: String = answers.iter().map(|message| char::from(message.tag)).collect();
        let row = answers.iter().find(|message| message.tag == b'D').map(Message::value);
        assert_eq!((&*told, row.as_deref()), (expected, Some("primary")), "{answers:?}");
        scene.standbys[0].start_again();
    }
}

/// What names mean is read anew behind a DDL, before anything relies on it.
#[test]
fn a_function_that_begins_to_write_is_no_read_any_more() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    for round in 0..10 {
        let made = format!(
            "CREATE FUNCTION f{round}() RETURNS text STABLE LANGUAGE sql AS 'SELECT here()'"
        );
        client.query(&made);
        let sql = format!("SELECT f{round}()");
        until("the new function on a standby", SOON, || client.value(&sql) == "standby");
        client.query(&format!(
            "CREATE OR REPLACE FUNCTION f{round}() RETURNS text LANGUAGE sql AS 'SELECT writes()'"
        ));
        for _ in 0..20 {
            assert_eq!(client.value(&sql), "primary", "it writes now");
        }
    }
}

/// While reads stay on the primary nobody tells what a DDL changes.
#[test]
fn routing_that_begins_again_begins_with_what_names_mean_now() {
    at_most_minutes(3);
    let mut scene = scene(1, |settings| settings);
    let mut client = scene.client();
    client.query("CREATE FUNCTION f() RETURNS text STABLE LANGUAGE sql AS 'SELECT here()'");
    until("the new function on a standby", SOON, || client.value("SELECT f()") == "standby");
    scene.pgring.rewrite(|settings| settings.set("routing.reads", "primary"));
    scene.pgring.console().show("RELOAD");
    until("reads on the primary", SOON, || client.value("SELECT f()") == "primary");
    let writes = "RETURNS text VOLATILE LANGUAGE sql AS 'SELECT here()'";
    client.query(&format!("CREATE OR REPLACE FUNCTION f() {writes}"));
    scene.pgring.rewrite(|settings| settings.set("routing.reads", "replicas"));
    scene.pgring.console().show("RELOAD");
    until("reads on a standby again", SOON, || client.value("SELECT here()") == "standby");
    assert_eq!(client.value("SELECT f()"), "primary", "it may write now");
}

#[test]
fn drivers_read_from_standbys_too() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    drop(scene.client());
    block_on(async {
        let client = connect(scene.pgring.address(), "app").await;
        let statement = client.prepare("SELECT here() FROM notes WHERE id = $1").await.expect("it");
        let mut standby = 0;
        for id in 1..=50 {
            let row = client.query_one(&statement, &[&id]).await.expect("a row");
            standby += usize::from(row.get::<_, &str>(0) == "standby");
        }
        assert_eq!(standby, 50);
        let done = client.execute("UPDATE notes SET text = 'x' WHERE id = $1", &[&1]).await;
        assert_eq!(done.expect("to write"), 1);
    });
}

/// What is said behind a read that is still running, or just done, is aimed by itself.
#[test]
fn nothing_that_follows_a_read_goes_astray() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    let write = "INSERT INTO notes SELECT max(id) + 1, 'more' FROM notes";
    for _ in 0..20 {
        // A lone Sync behind a whole segment has an answer of its own.
        client.send(&[query("SELECT here()"), sync(), query(write)].concat());
        let answers = client.until_ready(3);
        assert!(answers.iter().all(|message| message.tag != b'E'), "{answers:?}");
        // A session that was looked at behind its transaction.
        let look =
            ["BEGIN READ ONLY", "SET LOCAL statement_timeout = '9s'", "SELECT 1", "COMMIT", write];
        client.send(&look.map(query).concat());
        let answers = client.until_ready(5);
        assert!(answers.iter().all(|message| message.tag != b'E'), "{answers:?}");
        until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
    }
    client.query("BEGIN READ ONLY");
    client.query("PREPARE kept AS SELECT 1");
    client.send(&query("COMMIT"));
    let answers = client.until_end();
    let error = answers.iter().find(|message| message.tag == b'E').map(Message::code);
    assert_eq!(error.as_deref(), Some("0A000"), "{answers:?}");
}

/// A Bind that does not come in one piece is a write all the same.
#[test]
fn a_write_in_pieces_is_read_again() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    client.send(&[parse("w", "UPDATE notes SET text = $1 WHERE id = 7", &[]), sync()].concat());
    client.until_ready(1);
    scene.standbys[0].psql("SELECT pg_wal_replay_pause()");
    for round in 0..5 {
        let value = format!("{round}").repeat(100_000);
        let all = [bind("", "w", &[&value]), execute("", 0), sync()].concat();
        let (first, rest) = all.split_at(3_000);
        client.send(first);
        thread::sleep(Duration::from_millis(20));
        client.send(rest);
        client.until_ready(1);
        let read = client.value("SELECT left(text, 1) FROM notes WHERE id = 7");
        assert_eq!(read, round.to_string(), "a stale read");
    }
}

/// Rows of other columns than the client was told of would be taken for something else.
#[test]
fn a_read_that_moves_to_other_columns_ends_its_client() {
    at_most_minutes(3);
    let scene = scene_with(&["max_standby_streaming_delay = 0"], 1, |settings| settings);
    scene.primary.psql(GUESSES);
    let mut client = scene.client();
    client.query("CREATE FUNCTION refresh() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'");
    until("the catalog", SOON, || client.value("SELECT slow() FROM notes LIMIT 1") == "standby");
    client.send(&[extended("SELECT slow(), notes.* FROM notes LIMIT 1", &[]), sync()].concat());
    until_slow(&scene.standbys[0]);
    scene.primary.psql("ALTER TABLE notes ADD COLUMN more int");
    let answers = client.until_end();
    let told: String = answers.iter().map(|message| char::from(message.tag)).collect();
    // Whether the first description was flushed is PostgreSQL's business.
    let ends = answers.iter().find(|message| message.tag == b'E').map(Message::code);
    assert!(!told.contains('D') && ends.as_deref() == Some("08006"), "{told}: {answers:?}");
}
