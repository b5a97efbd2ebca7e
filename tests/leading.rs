//! Transactions that have only read so far are on standbys (`routing.leading_reads`), and nobody
//! can tell.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::dice::{Dice, amount};
use pgring_tests::message::{Message, bind, describe, execute, extended, parse, query, sync};
use pgring_tests::pgring::Settings;
use pgring_tests::routed::{SOON, Scene, say, scene, together, told};
use pgring_tests::wire::Wire;
use std::thread;

fn stage(standbys: usize, change: impl FnOnce(Settings) -> Settings) -> Scene {
    at_most_minutes(5);
    scene(standbys, |settings| change(settings.set("routing.leading_reads", "replicas")))
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
    let primary = scene.pgring.queries_of_primary();
    assert_eq!(say(&mut client, "begin work;"), "BEGIN T");
    assert_eq!(told(&mut client, &sync()), " T");
    assert_eq!(say(&mut client, "rollback"), "ROLLBACK I");
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    assert_eq!(say(&mut client, "End;"), "COMMIT I");
    assert_eq!((scene.pgring.queries("pg2"), scene.pgring.queries_of_primary()), (before, primary));
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
    begin(&mut client);
    assert_eq!(say(&mut client, "SELECT 1 / 0"), "22012 E");
    assert_eq!(say(&mut client, "ROLLBACK; INSERT INTO notes VALUES (801, 'x')"), "ROLLBACK I");
    // What ends it, and goes on, would be another transaction elsewhere, that ends well.
    let mut failed = scene.client();
    begin(&mut failed);
    assert_eq!(say(&mut failed, "SELECT 1 / 0"), "22012 E");
    for sql in ["INSERT INTO notes VALUES (806, 'x'); COMMIT", "PREPARE p AS SELECT 1"] {
        assert_eq!(say(&mut failed, sql), "25P02 E", "{sql}");
    }
    assert_eq!(ends(&mut failed, "COMMIT; SELECT 1"), "25P02");
    // Of several statements nobody knows what they define: the catalog is read anew.
    until("the catalog to be known", SOON, || say(&mut client, "SELECT here()") == "standby I");
    // The only server of the primary is somebody else's; this one has been told of its transaction.
    let mut holder = Wire::login(scene.pgring.address(), "app");
    say(&mut holder, "BEGIN");
    assert_eq!(say(&mut holder, "INSERT INTO notes VALUES (802, 'x')"), "INSERT 0 1 T");
    for reads in [false, true] {
        let mut late = scene.client();
        if reads {
            begin(&mut late);
        } else {
            assert_eq!(say(&mut late, "BEGIN"), "BEGIN T");
        }
        late.send(&query("INSERT INTO notes VALUES (803, 'x')"));
        assert_eq!(late.until_end().last().map(Message::code).as_deref(), Some("53300"));
    }
    assert_eq!(say(&mut holder, "COMMIT"), "COMMIT I");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (805, 'x')"), "INSERT 0 1 I");
    let sql = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM notes WHERE id > 800";
    assert_eq!(scene.primary.psql(sql).trim(), "801 802 805");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// What a client hears of a statement with which, or before which, its connection ends.
fn ends(client: &mut Wire, sql: &str) -> String {
    client.try_send(&query(sql));
    let answers = client.until_end();
    assert!(answers.iter().all(|it| it.tag != b'C'), "{sql}: {answers:?}");
    answers.iter().rfind(|it| it.tag == b'E').map(Message::code).unwrap_or_default()
}

/// A transaction that was to begin on a standby and began on the primary is as any other.
#[test]
fn a_commit_is_never_made_up() {
    let mut scene = stage(1, |settings| {
        settings.set("pool.size", 1).set("pool.query_wait_timeout", "300ms").set("workers", 1)
    });
    let (mut holder, mut client) = (scene.client(), scene.client());
    holder.send(&query("SELECT here() FROM pg_sleep(2)"));
    let active = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ 'sleep[(]2' AND \
                  state = 'active' AND pid <> pg_backend_pid()";
    until("the read to run", SOON, || scene.standbys[0].psql(active).trim() == "t");
    // The standby's only server is busy for longer than anybody waits: it goes to the primary.
    let one = |sql: &str| extended(sql, &[]);
    let begins = [one("BEGIN"), one("SELECT here()"), sync()].concat();
    assert_eq!(told(&mut client, &begins), "BEGIN T");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (830, 'x')"), "INSERT 0 1 T");
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE state = 'idle in transaction'";
    assert_eq!(scene.primary.psql(kill).trim(), "1");
    assert_eq!(ends(&mut client, "COMMIT"), "57P01");
    // Nor does one that has failed on a standby go on when that is lost.
    holder.until_ready(1);
    let mut failed = scene.client();
    begin(&mut failed);
    assert_eq!(say(&mut failed, "SELECT 1 / 0"), "22012 E");
    scene.standbys[0].end();
    ends(&mut failed, "INSERT INTO notes VALUES (831, 'x'); COMMIT");
    let sql = "SELECT count(*) FROM notes WHERE id IN (830, 831)";
    assert_eq!(scene.primary.psql(sql).trim(), "0");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// What holds for a transaction only holds wherever it goes on.
#[test]
fn a_transaction_that_moves_leaves_nothing_behind() {
    let scene = stage(1, |settings| settings);
    let mut client = scene.client();
    begin(&mut client);
    let set = "/* pgring: replica */ SELECT set_config('app.tenant', '7', true)";
    assert_eq!(say(&mut client, set), "7 T");
    let insert = "INSERT INTO notes VALUES (840, current_setting('app.tenant')) RETURNING text";
    assert_eq!(say(&mut client, insert), "7 T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    begin(&mut client);
    assert_eq!(say(&mut client, "BEGIN READ ONLY"), "BEGIN T");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (841, 'x')"), "25006 E");
    assert_eq!(say(&mut client, "ROLLBACK"), "ROLLBACK I");
    let one = |sql: &str| extended(sql, &[]);
    until("a read on the standby", SOON, || say(&mut client, "SELECT here()") == "standby I");
    told(
        &mut client,
        &[one("BEGIN"), one("BEGIN READ ONLY"), one("SELECT here()"), sync()].concat(),
    );
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (843, 'x')"), "25006 E");
    assert_eq!(say(&mut client, "ROLLBACK"), "ROLLBACK I");
    // A portal that is run later than it was bound.
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    let bound = [parse("", "SELECT 'late'", &[]), bind("", "", &[]), sync()].concat();
    assert_eq!(told(&mut client, &bound), " T");
    assert_eq!(told(&mut client, &[execute("", 0), sync()].concat()), "late T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    // A text that comes in pieces.
    begin(&mut client);
    let bytes = query("INSERT INTO notes VALUES (842, 'x') RETURNING here()");
    client.send(&bytes[..20]);
    let mut other = scene.client();
    other.query("SELECT 1");
    assert_eq!(told(&mut client, &bytes[20..]), "primary T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    assert_eq!(say(&mut client, "SELECT count(*)::text FROM notes WHERE id = 842"), "1 I");
    // As Go's lib/pq does it: a statement without a name is parsed first and bound later.
    begin(&mut client);
    told(&mut client, &[parse("", "SELECT here()", &[]), describe(b'S', ""), sync()].concat());
    let run = [bind("", "", &[]), execute("", 0), sync()].concat();
    assert_eq!(told(&mut client, &run), "standby T");
    told(&mut client, &[parse("", "DELETE FROM notes WHERE id = 842", &[]), sync()].concat());
    assert_eq!(told(&mut client, &run), "DELETE 1 T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    // A plan that has become stale.
    client.query("CREATE TABLE shapes AS SELECT 1 AS a");
    told(&mut client, &[parse("shape", "SELECT * FROM shapes", &[]), sync()].concat());
    let run = [bind("", "shape", &[]), execute("", 0), sync()].concat();
    until("the standby to have it", SOON, || {
        say(&mut client, "SELECT here() FROM shapes") == "standby I"
    });
    told(&mut client, &run);
    scene.primary.psql("ALTER TABLE shapes ALTER a TYPE text USING 'one'");
    until("the standby to follow", SOON, || scene.standbys[0].psql("TABLE shapes").trim() == "one");
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    // As without a pooler; only outside a transaction it is cured.
    let stale = told(&mut client, &run);
    assert!(stale == "0A000 E" || stale == "one T", "{stale}");
    say(&mut client, "ROLLBACK");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// Who waits for a server is not idle in its transaction.
#[test]
fn a_transaction_that_waits_for_the_primary_is_not_idle() {
    let scene = stage(1, |settings| {
        let settings = settings.set("pool.size", 1).set("workers", 1);
        settings.set("pool.idle_transaction_timeout", "300ms")
    });
    let (mut holder, mut client) = (scene.client(), scene.client());
    holder.send(&query("SELECT writes() FROM pg_sleep(1)"));
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (850, 'x')"), "INSERT 0 1 T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    holder.until_ready(1);
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
    let (mut idle, mut busy, mut whole) = (scene.client(), scene.client(), scene.client());
    begin(&mut idle);
    // Its BEGIN stands in the segment that is lost.
    let read = extended("SELECT here() FROM pg_sleep(3)", &[]);
    whole.send(&[extended("BEGIN", &[]), read, sync()].concat());
    begin(&mut busy);
    busy.send(&query("SELECT here() FROM pg_sleep(3)"));
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ 'sleep'";
    until("the read to run", SOON, || scene.standbys[0].psql(active).trim() == "3");
    scene.standbys[0].stop();
    for client in [&mut busy, &mut whole] {
        let answers = client.until_ready(1);
        let row = answers.iter().find(|it| it.tag == b'D').map(Message::value);
        assert_eq!(row.as_deref(), Some("primary"), "{answers:?}");
        assert_eq!(answers.last().map(|it| it.body[0]), Some(b'T'));
    }
    assert_eq!(say(&mut whole, "COMMIT"), "COMMIT I");
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
    let on_standby = together(CLIENTS, talk, thread::yield_now);
    assert!(on_standby > 0, "no read was on a standby");
    assert_eq!(scene.pgring.violations(), Some(0));
}
