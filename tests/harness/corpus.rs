//! The dialogues that every test of the protocol plays: simple and extended queries, pipelines
//! with errors, portals, function calls, transactions. COPY has its own file.
//!
//! Each leaves the database as it found it, so that it can be played directly and through
//! pgring one after the other.

use crate::dialogue::Wait::{End, Ready, Tag};
use crate::dialogue::{Dialogue, Wait};
use crate::message::{
    bind, bind_as, close, describe, execute, extended, flush, function_call, parse, query, sync,
    terminate,
};

/// What the dialogues need in the database `app`.
pub const TABLES: &str = "
    CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 10) i;
    GRANT ALL ON items TO PUBLIC;
    CREATE TABLE copied (id int, name text);
    GRANT ALL ON copied TO PUBLIC;
";

/// All dialogues of this file.
pub fn dialogues() -> Vec<Dialogue> {
    let first = [simple(), transactions(), state(), extended_queries()].concat();
    [first, statements(), portals(), pipelines(), calls()].concat()
}

fn simple() -> Vec<Dialogue> {
    let one = |name, sql: &str| Dialogue::one(name, &[query(sql)], 1);
    let several = ["SELECT 1", "SELECT 1/0", "SELECT 'three'", ""].map(query);
    vec![
        one("one statement", "SELECT 1 AS one, 'two' AS two, NULL AS three"),
        one("several statements with an error", "SELECT 1; SELECT 'two'; SELECT 1/0; SELECT 4"),
        one("statements without results", "SELECT 1;; ;VALUES (2), (3); SELECT"),
        one("an empty query", ""),
        one("a lonely semicolon", " ; "),
        one("only a comment", "-- nothing"),
        one("a syntax error", "SELEC 1"),
        one("a comment and a dollar quote", "/* ; */ SELECT $a$;'$a$, E'\\';' ; SELECT 2 -- ;"),
        one("a notice", "DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'oh'; END $$"),
        one("a notice, then an error", "DO $$ BEGIN RAISE NOTICE 'a'; RAISE 'b'; END $$"),
        one("an own SQLSTATE", "DO $$ BEGIN RAISE 'x' USING ERRCODE = 'PX001', HINT = 'h'; END $$"),
        one("a long value", "SELECT repeat('0123456789', 30000)"),
        one("many rows", "SELECT i, repeat('x', i % 50) FROM generate_series(1, 3000) i"),
        one("utility statements", "EXPLAIN (COSTS off) SELECT 1; SHOW server_encoding"),
        Dialogue::one("queries without waiting", &several, 4),
        Dialogue::new("a farewell", vec![(query("SELECT 1"), Ready(1)), (terminate(), End)]),
        Dialogue::new(
            "a farewell in the same packet",
            vec![([query("SELECT 1"), terminate()].concat(), End)],
        ),
        Dialogue::one(
            "an asynchronous notification",
            &["LISTEN x; NOTIFY x, 'payload'"].map(query),
            1,
        ),
        one("notification after the transaction", "LISTEN y; BEGIN; NOTIFY y; COMMIT; UNLISTEN *"),
    ]
}

fn steps(name: &'static str, texts: &[&str]) -> Dialogue {
    Dialogue::new(name, texts.iter().map(|sql| (query(sql), Ready(1))).collect())
}

fn transactions() -> Vec<Dialogue> {
    vec![
        steps("commit", &["BEGIN", "SELECT 1", "COMMIT", "SELECT 2"]),
        steps("rollback after an error", &["BEGIN", "SELECT 1/0", "SELECT 1", "ROLLBACK"]),
        steps("commit after an error", &["BEGIN", "SELECT 1/0", "COMMIT", "SELECT 1"]),
        steps(
            "savepoints",
            &["BEGIN; SAVEPOINT a; SELECT 1/0", "ROLLBACK TO a", "RELEASE a; SELECT 5", "END"],
        ),
        steps("warnings", &["COMMIT", "ROLLBACK", "BEGIN; BEGIN", "COMMIT AND CHAIN", "ROLLBACK"]),
        steps("a transaction in one message", &["BEGIN; SELECT 1; COMMIT; SELECT 2; SELECT 1/0"]),
        steps(
            "begin at the end of a message",
            &["SELECT 1; BEGIN", "SELECT 2", "COMMIT; SELECT 3"],
        ),
        steps(
            "a write that is undone",
            &[
                "BEGIN",
                "INSERT INTO items VALUES (11, 'new') RETURNING *",
                "UPDATE items SET name = 'x' WHERE id < 4",
                "DELETE FROM items",
                "ROLLBACK",
                "SELECT * FROM items ORDER BY id",
            ],
        ),
        steps("a duplicate key", &["INSERT INTO items VALUES (1, 'again')", "SELECT 1"]),
        steps(
            "a deferred failure",
            &[
                "BEGIN; CREATE TABLE t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
                "INSERT INTO t VALUES (1), (1)",
                "COMMIT",
                "SELECT 1",
            ],
        ),
        steps("commit inside of a block", &["DO $$ BEGIN COMMIT; PERFORM 1; END $$", "SELECT 1"]),
    ]
}

fn state() -> Vec<Dialogue> {
    vec![
        steps(
            "a cursor",
            &[
                "BEGIN; DECLARE c CURSOR FOR SELECT * FROM generate_series(1, 5)",
                "FETCH 2 FROM c; MOVE 1 IN c; FETCH ALL FROM c",
                "CLOSE c; FETCH c",
                "ROLLBACK",
            ],
        ),
        steps(
            "settings",
            &[
                "SET DateStyle = 'German, DMY'",
                "SHOW DateStyle; SELECT date '2026-02-01'",
                "BEGIN; SET DateStyle = 'ISO'; SET LOCAL TimeZone = 'Asia/Tokyo'; SHOW TimeZone",
                "ROLLBACK; SHOW DateStyle; SHOW TimeZone",
                "SET application_name = 'mine'; RESET DateStyle; SHOW application_name",
            ],
        ),
        steps(
            "two-phase commit",
            &[
                "BEGIN; SELECT 1; PREPARE TRANSACTION 'two-phase'",
                "SELECT gid FROM pg_prepared_xacts",
                "COMMIT PREPARED 'two-phase'; SELECT 1",
                "COMMIT PREPARED 'two-phase'",
            ],
        ),
        steps(
            "statements of SQL",
            &[
                "PREPARE plan (int) AS SELECT $1 + 1",
                "EXECUTE plan (41); EXECUTE plan (1)",
                "PREPARE plan AS SELECT 1",
                "DEALLOCATE plan; EXECUTE plan (1)",
                "DEALLOCATE ALL; DEALLOCATE plan",
            ],
        ),
    ]
}

fn extended_queries() -> Vec<Dialogue> {
    let one =
        |name, sql: &str, values: &[&str]| Dialogue::one(name, &[extended(sql, values), sync()], 1);
    let long = "y".repeat(150_000);
    let (number, no_value) = (7_u32.to_be_bytes(), None);
    let binary = (1, &[Some(number.as_slice()), no_value][..], 1);
    let in_binary = [
        parse("", "SELECT $1::int, $2::text, 'x'::text", &[23, 25]),
        bind_as("", "", binary),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    vec![
        one("an extended query", "SELECT $1::int + $2::int", &["1", "2"]),
        one("no parameters", "SELECT 1", &[]),
        one("no rows", "SELECT 1 WHERE false", &[]),
        one("nothing at all", "", &[]),
        one("a utility statement", "SET LOCAL DateStyle = 'ISO'", &[]),
        one("a bad text", "SELEC", &[]),
        one("two commands", "SELECT 1; SELECT 2", &[]),
        one("a failing bind", "SELECT $1::int", &["no number"]),
        one("too few values", "SELECT $1::int", &[]),
        one("a failing execution", "SELECT 1 / $1::int", &["0"]),
        one("a long value", "SELECT length($1::text), $1::text", &[&long]),
        Dialogue::one("binary values", &in_binary, 1),
        Dialogue::one("a lonely sync", &[sync()], 1),
        Dialogue::one("three lonely syncs", &[sync(), sync(), sync()], 3),
        Dialogue::one("flush and sync", &[flush(), sync(), flush(), flush(), sync()], 2),
    ]
}

fn statements() -> Vec<Dialogue> {
    let named = |name: &str, value: &str| [bind("", name, &[value]), execute("", 0)].concat();
    let plus = || parse("plus", "SELECT $1::int + 1", &[]);
    let rounds = vec![
        ([plus(), describe(b'S', "plus"), sync()].concat(), Ready(1)),
        ([named("plus", "1"), sync()].concat(), Ready(1)),
        ([named("plus", "x"), sync()].concat(), Ready(1)),
        ([named("plus", "2"), named("plus", "3"), sync()].concat(), Ready(1)),
        ([plus(), sync()].concat(), Ready(1)),
        ([close(b'S', "plus"), sync(), named("plus", "4"), sync()].concat(), Ready(2)),
        ([parse("plus", "SELECT $1::text", &[]), named("plus", "5"), sync()].concat(), Ready(1)),
    ];
    let unnamed = vec![
        ([parse("", "SELECT $1::int", &[]), sync()].concat(), Ready(1)),
        ([describe(b'S', ""), sync()].concat(), Ready(1)),
        ([bind("", "", &["5"]), execute("", 0), sync()].concat(), Ready(1)),
        ([bind("", "", &["6"]), execute("", 0), sync()].concat(), Ready(1)),
        ([query("SELECT 1"), bind("", "", &["7"]), execute("", 0), sync()].concat(), Ready(2)),
    ];
    let broken = vec![
        ([parse("broken", "SELEC", &[]), sync()].concat(), Ready(1)),
        ([describe(b'S', "broken"), sync()].concat(), Ready(1)),
        ([close(b'S', "broken"), close(b'P', "none"), sync()].concat(), Ready(1)),
    ];
    let long = "n".repeat(3_000);
    let long_name = [parse(&long, "SELECT $1::int", &[]), named(&long, "1"), sync()];
    let missing = [named("missing", "1"), sync(), describe(b'S', "missing"), sync()];
    vec![
        Dialogue::new("a named statement over round trips", rounds),
        Dialogue::new("the unnamed statement over round trips", unnamed),
        Dialogue::new("a statement that cannot be parsed", broken),
        Dialogue::one("a very long name", &long_name, 1),
        Dialogue::one("an unknown statement", &missing, 2),
        Dialogue::one(
            "types of the same text",
            &[
                parse("a", "SELECT $1", &[23]),
                parse("b", "SELECT $1", &[25]),
                describe(b'S', "a"),
                describe(b'S', "b"),
                named("a", "1"),
                named("b", "no number"),
                named("a", "no number"),
                sync(),
            ],
            1,
        ),
    ]
}

fn portals() -> Vec<Dialogue> {
    let numbers = || [parse("", "SELECT generate_series(1, 7)", &[]), bind("p", "", &[])].concat();
    let limited = vec![
        (query("BEGIN"), Ready(1)),
        ([numbers(), execute("p", 2), flush()].concat(), Tag(b's')),
        ([describe(b'P', "p"), execute("p", 3), sync()].concat(), Ready(1)),
        ([execute("p", 0), execute("p", 1), sync()].concat(), Ready(1)),
        ([close(b'P', "p"), execute("p", 0), sync()].concat(), Ready(1)),
        (query("ROLLBACK"), Ready(1)),
    ];
    let gone = vec![
        ([numbers(), execute("p", 2), sync()].concat(), Ready(1)),
        ([execute("p", 2), sync()].concat(), Ready(1)),
    ];
    let twice = [numbers(), bind("p", "", &[]), sync()];
    let interleaved = [
        query("BEGIN"),
        numbers(),
        bind("q", "", &[]),
        execute("p", 1),
        execute("q", 2),
        execute("p", 1),
        execute("q", 0),
        sync(),
        query("COMMIT"),
    ];
    vec![
        Dialogue::new("row limits", limited),
        Dialogue::new("a portal ends with its transaction", gone),
        Dialogue::one("a portal twice", &twice, 1),
        Dialogue::one("portals side by side", &interleaved, 3),
        Dialogue::new("flush without sync", flushes()),
    ]
}

fn flushes() -> Vec<(Vec<u8>, Wait)> {
    vec![
        ([parse("", "SELECT $1::int", &[]), describe(b'S', ""), flush()].concat(), Tag(b'T')),
        ([bind("", "", &["1"]), execute("", 0), flush()].concat(), Tag(b'C')),
        ([bind("", "", &["2"]), execute("", 0), flush()].concat(), Tag(b'C')),
        ([bind("", "", &["x"]), execute("", 0), flush()].concat(), Tag(b'E')),
        (sync(), Ready(1)),
    ]
}

fn pipelines() -> Vec<Dialogue> {
    let good = || extended("SELECT $1::int", &["1"]);
    let bad = [
        extended("SELEC", &[]),
        extended("SELECT $1::int", &["x"]),
        extended("SELECT 1/0", &[]),
        bind("", "missing", &[]),
        execute("missing", 0),
        describe(b'S', "missing"),
        describe(b'P', "missing"),
    ];
    let mut all = Vec::new();
    for error in &bad {
        for position in 0..4 {
            let part = |i| if i == position { error.clone() } else { good() };
            let parts: Vec<_> = (0..4).map(part).chain([sync(), good(), sync()]).collect();
            all.push(Dialogue::one("a pipeline with an error", &parts, 2));
        }
    }
    let flight = [good(), sync(), bad[2].clone(), good(), sync(), good(), sync(), sync()];
    let parsed = parse("", "SELEC", &[]);
    let many: Vec<_> = (0..200).map(|_| [good(), sync()].concat()).collect();
    let wide: Vec<_> = (0..200).map(|_| good()).chain([sync()]).collect();
    let begin = [
        extended("BEGIN", &[]),
        good(),
        sync(),
        good(),
        bad[2].clone(),
        sync(),
        good(),
        sync(),
        extended("ROLLBACK", &[]),
        sync(),
    ];
    all.extend([
        Dialogue::one("several syncs in flight", &flight, 4),
        Dialogue::one("a query inside an open cycle", &[good(), query("SELECT 2"), sync()], 2),
        Dialogue::one("a query skipped to sync", &[parsed, query("SELECT 2"), good(), sync()], 1),
        Dialogue::one("two hundred syncs", &many, 200),
        Dialogue::one("two hundred queries", &wide, 1),
        Dialogue::one("a transaction in a pipeline", &begin, 4),
    ]);
    all
}

fn calls() -> Vec<Dialogue> {
    // int4pl and int4div of pg_proc.
    let (plus, divide) = (177, 154);
    vec![
        Dialogue::one("a function call", &[function_call(plus, &["40", "2"])], 1),
        Dialogue::one("a failing function call", &[function_call(divide, &["1", "0"])], 1),
        Dialogue::one("an unknown function", &[function_call(4_000_000, &[])], 1),
        Dialogue::one(
            "function calls in a transaction",
            &[
                query("BEGIN"),
                function_call(plus, &["1", "2"]),
                function_call(divide, &["1", "0"]),
                function_call(plus, &["1", "2"]),
                query("ROLLBACK"),
            ],
            5,
        ),
    ]
}
