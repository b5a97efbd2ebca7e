//! Prepared statements in transaction mode: each client sees its own, whatever others do with
//! the same names on the same servers.

use pgring_tests::command::at_most_minutes;
use pgring_tests::corpus_statements;
use pgring_tests::crowd::{Bell, among};
use pgring_tests::dialogue::{Cuts, Dialogue};
use pgring_tests::message::{Message, bind, close, describe, execute, parse, query, sync};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::Postgres;
use pgring_tests::sql;
use pgring_tests::transcript::{difference, lines};
use pgring_tests::wire::Wire;

fn run(name: &str, value: &str) -> Vec<u8> {
    [bind("", name, &[value]), execute("", 0)].concat()
}

/// Sends it with a Sync and gives the values of all rows, or the SQLSTATE.
fn ask(wire: &mut Wire, parts: &[Vec<u8>]) -> Vec<String> {
    wire.send(&[parts.concat(), sync()].concat());
    let answers = wire.until_ready(1);
    let telling = answers.iter().filter_map(|message| match message.tag {
        b'D' => Some(message.columns().into_iter().flatten().collect::<Vec<_>>().join(",")),
        b'E' => Some(message.code()),
        _ => None,
    });
    telling.collect()
}

/// Plays dialogues while others use the same names for other things on the same servers.
fn compare_among_others(pgring: &Pgring, node: &Postgres, dialogues: &[Dialogue]) {
    let neighbour = |number: usize, bell: &Bell| interfere(pgring, number, bell);
    let differences = among(3, neighbour, || {
        let mut differences = Vec::new();
        for dialogue in dialogues {
            let direct = dialogue.play(node.address(), &mut Cuts::Whole);
            for _ in 0..3 {
                let through = dialogue.play(pgring.address(), &mut Cuts::Whole);
                let difference = difference(&direct, &through);
                differences.extend(difference.map(|text| format!("{}, {text}", dialogue.name)));
            }
        }
        differences
    });
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn interfere(pgring: &Pgring, number: usize, bell: &Bell) {
    while bell.silent() {
        let mut wire = Wire::login(pgring.address(), "app");
        let text = format!("SELECT 'other {number} ' || $1::text");
        for name in ["s", "t", ""] {
            ask(&mut wire, &[parse(name, &text, &[])]);
            let got = ask(&mut wire, &[run(name, "x")]);
            assert_eq!(got, [format!("other {number} x")]);
        }
        wire.query(["DEALLOCATE ALL", "DISCARD ALL", "SELECT 1"][number]);
    }
}

#[test]
fn statements_behave_as_without_a_pooler_among_other_clients() {
    at_most_minutes(5);
    let node = Postgres::start();
    for (size, kept) in [(1, 500), (3, 500), (1, 1)] {
        let settings = Settings::new(&node).set("pool.size", size);
        let pgring = settings.set("pool.prepared_statements", kept).start();
        // Statements of SQL stay on their server, which only a larger pool can afford.
        let of_sql = ["EXECUTE", "PREPARE", "of SQL", "outlive"];
        let pins = |dialogue: &Dialogue| of_sql.iter().any(|word| dialogue.name.contains(word));
        let all = corpus_statements::dialogues();
        let fit: Vec<_> = all.into_iter().filter(|it| size > 1 || !pins(it)).collect();
        compare_among_others(&pgring, &node, &fit);
        pgring.wait_until_quiet();
    }
}

#[test]
fn a_name_means_what_its_client_has_said() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut clients: Vec<_> = (0..4).map(|_| Wire::login(pgring.address(), "app")).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        let text = format!("SELECT 'client {i} ' || $1::text");
        assert!(ask(client, &[parse("same", &text, &[])]).is_empty());
        assert!(ask(client, &[parse("", &text, &[])]).is_empty());
        assert!(ask(client, &[parse("shared", "SELECT $1::text", &[])]).is_empty());
    }
    for round in 0..5 {
        for (i, client) in clients.iter_mut().enumerate() {
            let value = round.to_string();
            assert_eq!(ask(client, &[run("same", &value)]), [format!("client {i} {round}")]);
            assert_eq!(ask(client, &[run("", &value)]), [format!("client {i} {round}")]);
            assert_eq!(ask(client, &[run("shared", &value)]), [value]);
        }
    }
    assert!(ask(&mut clients[0], &[close(b'S', "same"), close(b'S', "shared")]).is_empty());
    assert_eq!(ask(&mut clients[0], &[run("same", "x")]), ["26000"]);
    assert_eq!(ask(&mut clients[0], &[run("shared", "x")]), ["26000"]);
    assert_eq!(ask(&mut clients[1], &[run("same", "x")]), ["client 1 x"]);
    assert_eq!(ask(&mut clients[1], &[run("shared", "x")]), ["x"]);
    let mut new = Wire::login(pgring.address(), "app");
    assert_eq!(ask(&mut new, &[run("same", "x")]), ["26000"], "names of others");
    assert_eq!(ask(&mut new, &[run("", "x")]), ["26000"], "the unnamed one of others");
    drop(clients);
    assert_eq!(ask(&mut new, &[run("shared", "x")]), ["26000"], "names of those who left");
}

#[test]
fn a_named_parse_never_brings_the_unnamed_statement_of_another() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let [mut other, mut mine] = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
    let unnamed = || [bind("", "", &[]), execute("", 0)].concat();
    assert!(ask(&mut mine, &[parse("s", "SELECT 1", &[])]).is_empty());
    let secret = parse("", "SELECT 'a secret'", &[]);
    assert!(ask(&mut other, std::slice::from_ref(&secret)).is_empty());
    assert_eq!(ask(&mut mine, &[parse("s", "SELECT 2", &[])]), ["42P05"]);
    assert_eq!(ask(&mut mine, &[unnamed()]), ["26000"], "its Parse was refused");
    assert!(ask(&mut other, &[secret]).is_empty());
    let long = format!("SELECT '{}'", "l".repeat(300_000));
    assert!(ask(&mut mine, &[parse("long", &long, &[])]).is_empty());
    assert_eq!(ask(&mut mine, &[unnamed()]), ["26000"], "its Parse was long");
}

#[test]
fn parameter_types_tell_equal_texts_apart() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let [mut number, mut text] = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
    let sql = "SELECT pg_typeof($1)::text, $1";
    assert!(ask(&mut number, &[parse("s", sql, &[23])]).is_empty());
    assert!(ask(&mut text, &[parse("s", sql, &[25])]).is_empty());
    for _ in 0..3 {
        assert_eq!(ask(&mut number, &[run("s", "7")]), ["integer,7"]);
        assert_eq!(ask(&mut text, &[run("s", "7")]), ["text,7"]);
        assert_eq!(ask(&mut number, &[run("s", "x")]), ["22P02"]);
        assert_eq!(ask(&mut text, &[run("s", "x")]), ["text,x"]);
    }
}

#[test]
fn statements_move_with_their_client_between_servers() {
    at_most_minutes(2);
    let node = Postgres::start();
    for workers in [1, 2] {
        let settings = Settings::new(&node).set("pool.size", 2).set("workers", workers);
        let pgring = settings.set("pool.prepared_statements", 2).start();
        let [mut mover, mut one, mut two] = [(); 3].map(|()| Wire::login(pgring.address(), "app"));
        for i in 0..5 {
            let text = format!("SELECT pg_backend_pid(), {i} + $1::int");
            assert!(ask(&mut mover, &[parse(&format!("s{i}"), &text, &[])]).is_empty());
        }
        let mut pids = std::collections::BTreeSet::new();
        for round in 0..6 {
            let holder = if round % 2 == 0 { &mut one } else { &mut two };
            holder.query("BEGIN");
            for i in 0..5 {
                let answer = ask(&mut mover, &[run(&format!("s{i}"), "100")]);
                let (pid, value) = answer[0].split_once(',').expect("two columns");
                pids.insert(pid.to_owned());
                assert_eq!(value, (100 + i).to_string());
            }
            let other = if round % 2 == 0 { &mut two } else { &mut one };
            other.query("BEGIN");
            for wire in [&mut one, &mut two] {
                wire.query("ROLLBACK");
            }
        }
        assert!(!pids.is_empty());
    }
}

#[test]
fn a_changed_table_is_planned_anew_without_an_error() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql("CREATE TABLE t (a int); INSERT INTO t VALUES (1); GRANT ALL ON t TO app");
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut wire = Wire::login(pgring.address(), "app");
    let all = "SELECT * FROM t";
    let go = || [bind("", "all", &[]), execute("", 0)].concat();
    assert!(ask(&mut wire, &[parse("all", all, &[])]).is_empty());
    assert_eq!(ask(&mut wire, &[go()]), ["1"]);
    node.psql("ALTER TABLE t ADD b int DEFAULT 2");
    assert_eq!(ask(&mut wire, &[go()]), ["1,2"], "an autocommit statement");
    node.psql("ALTER TABLE t ADD c int DEFAULT 3");
    wire.send(&[bind("", "all", &[]), describe(b'P', ""), execute("", 0), sync()].concat());
    let answers = wire.until_ready(1);
    let tags: String = answers.iter().map(|message| char::from(message.tag)).collect();
    assert_eq!(tags, "2TDCZ", "{:?}", lines(&answers));
    node.psql("ALTER TABLE t DROP c");
    assert_eq!(ask(&mut wire, &[go()]), ["1,2"]);
    node.psql("ALTER TABLE t ADD d int DEFAULT 4");
    wire.query("BEGIN; SELECT 'a write would be lost by running it again'");
    assert_eq!(ask(&mut wire, &[go()]), ["0A000"], "inside of a transaction the client decides");
    wire.query("ROLLBACK");
    assert_eq!(ask(&mut wire, &[go()]), ["1,2,4"]);
}

#[test]
fn a_changed_table_is_planned_anew_behind_a_pipeline() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql("CREATE TABLE t (a int); INSERT INTO t VALUES (1); GRANT ALL ON t TO app");
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut wire = Wire::login(pgring.address(), "app");
    let go = || [bind("", "all", &[]), execute("", 0)].concat();
    assert_eq!(ask(&mut wire, &[parse("all", "SELECT * FROM t", &[]), go()]), ["1"]);
    node.psql("ALTER TABLE t ADD b int DEFAULT 2");
    wire.send(&[go(), sync(), go(), sync(), query("SELECT 'after'")].concat());
    let answers = wire.until_ready(3);
    // With other statements under way behind it, running one again would change their order: the
    // client hears what PostgreSQL says, once.
    let code = |message: &Message| message.tag == b'E' && message.code() == "0A000";
    assert!(answers.iter().any(code), "{:?}", lines(&answers));
    assert_eq!(ask(&mut wire, &[go()]), ["1,2"]);
}

/// Whoever hears of it, in whatever way: what it prepares then is planned anew.
#[test]
fn a_changed_table_is_heard_of_once_by_those_who_cannot_be_spared() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql("CREATE TABLE t (a int); INSERT INTO t VALUES (1); GRANT ALL ON t TO app");
    node.psql("CREATE TABLE u (a int); INSERT INTO u VALUES (1); GRANT ALL ON u TO app");
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let run = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
    let prepare = || parse("all", "SELECT * FROM t", &[]);
    let mut first = Wire::login(pgring.address(), "app");
    assert_eq!(ask(&mut first, &[prepare(), run("all")]), ["1"]);

    // It asks what its statement returns before it runs it.
    node.psql("ALTER TABLE t ADD b int DEFAULT 2");
    let described = |answers: &[String]| answers.iter().all(|answer| answer != "0A000");
    let heard: Vec<_> = (0..3)
        .map(|_| {
            let mut wire = Wire::login(pgring.address(), "app");
            described(&ask(&mut wire, &[prepare(), describe(b'S', "all")]))
        })
        .collect();
    assert_eq!(heard[1..], [true, true], "{heard:?}");

    // It has nothing but transactions.
    let mut wire = Wire::login(pgring.address(), "app");
    assert_eq!(ask(&mut wire, &[prepare(), run("all")]), ["1,2"]);
    node.psql("ALTER TABLE t ADD c int DEFAULT 3");
    let heard: Vec<_> = (0..3)
        .map(|_| {
            wire.query("BEGIN");
            let answers = ask(&mut wire, &[run("all")]);
            wire.query("ROLLBACK");
            answers
        })
        .collect();
    assert_eq!(heard[1..], [["1,2,3"], ["1,2,3"]], "{heard:?}");

    // Another one came before it.
    assert_eq!(ask(&mut wire, &[parse("other", "SELECT a FROM u", &[]), run("other")]), ["1"]);
    node.psql("ALTER TABLE t ADD d int DEFAULT 4");
    let both = || [run("other"), run("all")];
    let heard: Vec<_> = (0..3).map(|_| ask(&mut wire, &both())).collect();
    assert_eq!(heard[1..], [["1", "1,2,3,4"], ["1", "1,2,3,4"]], "{heard:?}");
    assert_eq!(pgring.violations(), Some(0));
}

#[test]
fn statements_of_sql_belong_to_their_client() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 3).start();
    let [mut one, mut two] = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
    one.query("PREPARE p AS SELECT 'one'");
    two.query("PREPARE p AS SELECT 'two'");
    for _ in 0..3 {
        assert_eq!(one.value("EXECUTE p"), "one");
        assert_eq!(two.value("EXECUTE p"), "two");
    }
    one.query("DEALLOCATE p");
    assert_eq!(one.failure("EXECUTE p"), "26000");
    assert_eq!(two.value("EXECUTE p"), "two");
    drop(two);
    pgring.wait_until_quiet();
    for _ in 0..4 {
        let mut new = Wire::login(pgring.address(), "app");
        assert_eq!(new.failure("EXECUTE p"), "26000", "a statement of somebody who left");
    }
}

#[test]
fn long_texts_are_kept_within_the_limit_of_bytes() {
    at_most_minutes(2);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 1);
    let pgring = settings.set("pool.prepared_bytes", "64KiB").start();
    let mut wire = Wire::login(pgring.address(), "app");
    let text = |i: usize| format!("SELECT {i}, length('{}'), $1::int", "t".repeat(10_000));
    for i in 0..40 {
        assert!(ask(&mut wire, &[parse(&format!("s{i}"), &text(i), &[])]).is_empty());
    }
    for i in (0..40).chain([3, 39, 0]) {
        assert_eq!(ask(&mut wire, &[run(&format!("s{i}"), "5")]), [format!("{i},10000,5")]);
    }
    let kept = node.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'");
    assert_eq!(kept.trim(), "1");
}

#[test]
fn a_driver_that_prepares_everything_gets_its_own_answers() {
    at_most_minutes(3);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 3);
    let pgring = settings.set("pool.prepared_statements", 5).start();
    sql::block_on(async {
        let tasks = (0..20_i32).map(|task| {
            let address = pgring.address();
            tokio::spawn(async move {
                let mut client = sql::connect(address, "app").await;
                for round in 0..20_i32 {
                    let text = format!("SELECT $1::int + {task}, '{task}-{}'", round % 7);
                    let statement = client.prepare(&text).await.expect("to prepare");
                    let row = client.query_one(&statement, &[&round]).await.expect("a row");
                    assert_eq!(row.get::<_, i32>(0), round + task);
                    assert_eq!(row.get::<_, &str>(1), format!("{task}-{}", round % 7));
                    let transaction = client.transaction().await.expect("to begin");
                    let row = transaction.query_one(&statement, &[&1]).await.expect("a row");
                    assert_eq!(row.get::<_, i32>(0), 1 + task);
                    assert!(transaction.query("SELECT 1/0", &[]).await.is_err());
                    transaction.rollback().await.expect("to roll back");
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a task");
        }
    });
}
