//! The dialogues about prepared statements that a pooler can get wrong: names that come and go
//! by other ways than Parse and Close, or that an error keeps from coming and going.

use crate::dialogue::Dialogue;
use crate::dialogue::Wait::Ready;
use crate::message::{bind, close, describe, execute, extended, parse, query, sync};

/// All dialogues of this file; they need no table.
pub fn dialogues() -> Vec<Dialogue> {
    [skipped(), by_sql(), sql_then_protocol(), protocol_then_sql(), in_transactions(), texts()]
        .concat()
}

fn run(name: &str, value: &str) -> Vec<u8> {
    [bind("", name, &[value]), execute("", 0)].concat()
}

fn text(name: &str) -> Vec<u8> {
    parse(name, "SELECT 'mine ' || $1::text", &[])
}

fn rounds(name: &'static str, rounds: &[&[Vec<u8>]]) -> Dialogue {
    let steps = rounds.iter().map(|parts| ([&parts.concat()[..], &sync()].concat(), Ready(1)));
    Dialogue::new(name, steps.collect())
}

fn skipped() -> Vec<Dialogue> {
    let fail = || extended("SELECT 1/0", &[]);
    vec![
        rounds("a Parse that is skipped", &[&[fail(), text("s")], &[run("s", "1")]]),
        rounds(
            "a Parse that is skipped, then sent again",
            &[&[fail(), text("s")], &[text("s")], &[run("s", "1")]],
        ),
        rounds(
            "a Close that is skipped",
            &[
                &[text("s")],
                &[fail(), close(b'S', "s")],
                &[run("s", "1")],
                &[close(b'S', "s")],
                &[run("s", "2")],
            ],
        ),
        rounds(
            "an unnamed Parse that is skipped",
            &[
                &[text("")],
                &[fail(), parse("", "SELECT 'other ' || $1::text", &[])],
                &[run("", "1")],
            ],
        ),
        rounds(
            "an unnamed Parse that fails",
            &[&[text("")], &[parse("", "SELEC", &[])], &[run("", "1")]],
        ),
        rounds(
            "a name that is taken",
            &[
                &[text("s"), parse("s", "SELECT 2", &[]), run("s", "1")],
                &[run("s", "2")],
                &[describe(b'S', "s")],
            ],
        ),
        rounds(
            "closed and parsed anew in one pipeline",
            &[
                &[
                    text("s"),
                    run("s", "1"),
                    close(b'S', "s"),
                    parse("s", "SELECT $1::int + 1", &[]),
                ],
                &[run("s", "2"), describe(b'S', "s")],
                &[close(b'S', "s"), close(b'S', "s"), text("s"), run("s", "3")],
            ],
        ),
        rounds(
            "a Parse before a failure in one pipeline",
            &[&[text("s"), fail()], &[run("s", "1")], &[text("s")]],
        ),
    ]
}

fn by_sql() -> Vec<Dialogue> {
    let sql = |text: &str| (query(text), Ready(1));
    let then = |bytes: &[Vec<u8>]| ([&bytes.concat()[..], &sync()].concat(), Ready(1));
    let gone = |name, by: &str| {
        Dialogue::new(
            name,
            vec![
                then(&[text("s"), text("t")]),
                sql(by),
                then(&[run("s", "1")]),
                then(&[run("t", "1")]),
                then(&[text("s"), run("s", "2")]),
            ],
        )
    };
    let extended_gone = Dialogue::new(
        "DEALLOCATE by the extended protocol",
        vec![
            then(&[text("s")]),
            then(&[extended("DEALLOCATE s", &[])]),
            then(&[run("s", "1")]),
            then(&[extended("DEALLOCATE s", &[])]),
        ],
    );
    vec![
        gone("DEALLOCATE of a name of the protocol", "DEALLOCATE s"),
        gone("DEALLOCATE PREPARE", "/* x */ deallocate prepare \"s\";"),
        gone("DEALLOCATE ALL", "DEALLOCATE ALL"),
        gone("DISCARD ALL", "DISCARD ALL"),
        gone("DISCARD PLANS", "DISCARD PLANS"),
        gone("DEALLOCATE after an error", "SELECT 1/0; DEALLOCATE s"),
        gone("DEALLOCATE of an unknown name", "DEALLOCATE unknown"),
        extended_gone,
        Dialogue::new(
            "Bind of a name of SQL",
            vec![
                sql("PREPARE p (text) AS SELECT 'of SQL ' || $1"),
                then(&[describe(b'S', "p"), run("p", "1")]),
                sql("DEALLOCATE p"),
            ],
        ),
        Dialogue::new(
            "PREPARE by the extended protocol",
            vec![
                then(&[extended("PREPARE q AS SELECT 'q'", &[])]),
                then(&[extended("EXECUTE q", &[])]),
                sql("DEALLOCATE q"),
                then(&[extended("EXECUTE q", &[])]),
            ],
        ),
    ]
}

/// Names are the same whether SQL or the protocol made them.
fn sql_then_protocol() -> Vec<Dialogue> {
    let sql = |text: &str| (query(text), Ready(1));
    let then = |bytes: &[Vec<u8>]| ([&bytes.concat()[..], &sync()].concat(), Ready(1));
    vec![
        Dialogue::new(
            "Parse of a name of SQL",
            vec![
                sql("PREPARE p (text) AS SELECT 'of SQL ' || $1"),
                then(&[text("p")]),
                then(&[text("p"), run("p", "1")]),
                then(&[text("q"), run("q", "1")]),
                then(&[run("p", "2")]),
                sql("DEALLOCATE p"),
                then(&[text("p"), run("p", "3")]),
            ],
        ),
        Dialogue::new(
            "Parse behind a PREPARE of SQL, unanswered",
            vec![
                (
                    [query("PREPARE p AS SELECT 'of SQL'"), text("p"), run("p", "1"), sync()]
                        .concat(),
                    Ready(2),
                ),
                sql("EXECUTE p"),
                sql("DEALLOCATE p"),
            ],
        ),
        Dialogue::new(
            "Close of a name of SQL",
            vec![
                sql("PREPARE p (text) AS SELECT 'of SQL ' || $1"),
                then(&[close(b'S', "p")]),
                sql("EXECUTE p('1')"),
                then(&[text("p"), run("p", "2")]),
            ],
        ),
    ]
}

fn protocol_then_sql() -> Vec<Dialogue> {
    let sql = |text: &str| (query(text), Ready(1));
    let then = |bytes: &[Vec<u8>]| ([&bytes.concat()[..], &sync()].concat(), Ready(1));
    let parsed = |name, by: &[&str]| {
        let texts = by.iter().map(|text| sql(text));
        let after = [then(&[run("s", "1")]), then(&[text("s"), run("s", "2")])];
        let first = [then(&[text("s"), text("t")])];
        Dialogue::new(name, first.into_iter().chain(texts).chain(after).collect())
    };
    vec![
        parsed("EXECUTE of a name of the protocol", &["EXECUTE s('0')", "execute \"t\"('1');"]),
        parsed("EXECUTE with other texts", &["SELECT 1; EXECUTE s('0'); EXECUTE t('1'); SELECT 2"]),
        parsed("EXECUTE explained", &["EXPLAIN (COSTS OFF) EXECUTE s('0')"]),
        parsed(
            "EXECUTE that fails",
            &["EXECUTE s", "EXECUTE s('1', '2')", "EXECUTE u", "SELECT 1"],
        ),
        parsed("EXECUTE in a transaction", &["BEGIN; EXECUTE s('0')", "EXECUTE t('0')", "ABORT"]),
        parsed("PREPARE of a name of the protocol", &["PREPARE s AS SELECT 1", "EXECUTE s('0')"]),
        parsed("PREPARE in a transaction", &["BEGIN", "PREPARE s AS SELECT 1", "ROLLBACK"]),
        parsed("DEALLOCATE with other texts", &["SELECT 1; DEALLOCATE s; SELECT 2"]),
        parsed("DEALLOCATE twice", &["DEALLOCATE t; DEALLOCATE s; DEALLOCATE s; DEALLOCATE t"]),
        parsed("DEALLOCATE behind an EXECUTE", &["EXECUTE s('0'); DEALLOCATE s; EXECUTE s('0')"]),
        parsed("DEALLOCATE not reached", &["SELECT 1; SELECT 1/0; DEALLOCATE s"]),
        parsed(
            "DEALLOCATE in a failed transaction",
            &["BEGIN; SELECT 1/0", "SELECT 1; DEALLOCATE s", "ROLLBACK"],
        ),
        Dialogue::new(
            "DEALLOCATE with other texts, unanswered",
            vec![
                then(&[text("s")]),
                ([query("SELECT 1; DEALLOCATE s"), run("s", "1"), sync()].concat(), Ready(2)),
                (
                    [query("SELECT 1"), query("EXECUTE s('1')"), query("SELECT 2")].concat(),
                    Ready(3),
                ),
                then(&[text("s"), run("s", "2")]),
            ],
        ),
    ]
}

fn in_transactions() -> Vec<Dialogue> {
    let sql = |text: &str| (query(text), Ready(1));
    let then = |bytes: &[Vec<u8>]| ([&bytes.concat()[..], &sync()].concat(), Ready(1));
    vec![
        Dialogue::new(
            "statements outlive a rollback",
            vec![
                sql("BEGIN"),
                then(&[text("s")]),
                sql("PREPARE p AS SELECT 'p'"),
                sql("ROLLBACK"),
                then(&[run("s", "1")]),
                sql("EXECUTE p; DEALLOCATE p"),
            ],
        ),
        Dialogue::new(
            "DEALLOCATE is not rolled back",
            vec![
                then(&[text("s")]),
                sql("BEGIN"),
                sql("DEALLOCATE s"),
                sql("ROLLBACK"),
                then(&[run("s", "1")]),
            ],
        ),
        Dialogue::new(
            "nothing is parsed in a failed transaction",
            vec![
                then(&[text("old")]),
                sql("BEGIN; SELECT 1/0"),
                then(&[text("s")]),
                then(&[run("old", "1")]),
                sql("DEALLOCATE old"),
                sql("ROLLBACK"),
                then(&[run("s", "1")]),
                then(&[text("s"), run("s", "2")]),
                then(&[run("old", "2")]),
            ],
        ),
        Dialogue::new(
            "all in one transaction",
            vec![
                then(&[extended("BEGIN", &[]), text("s"), run("s", "1"), run("s", "2")]),
                then(&[describe(b'S', "s"), run("s", "3"), close(b'S', "s")]),
                then(&[run("s", "4")]),
                sql("ROLLBACK"),
            ],
        ),
    ]
}

fn texts() -> Vec<Dialogue> {
    let many: Vec<_> = (0..30)
        .flat_map(|i| {
            let name = format!("s{i}");
            [parse(&name, &format!("SELECT {i} + $1::int"), &[]), run(&name, "1000")]
        })
        .collect();
    let again: Vec<_> = (0..30).rev().map(|i| run(&format!("s{i}"), "2000")).collect();
    let long = format!("SELECT '{}', $1::int", "l".repeat(300_000));
    vec![
        rounds("many statements", &[&many, &again]),
        rounds(
            "a text too long to keep",
            &[
                &[parse("long", &long, &[]), describe(b'S', "long")],
                &[run("long", "1"), run("long", "2")],
                &[close(b'S', "long"), parse("long", "SELECT $1::text", &[]), run("long", "3")],
            ],
        ),
        rounds(
            "a long text and a short one of the same name",
            &[
                &[parse("long", &long, &[])],
                &[parse("long", "SELECT $1::text", &[])],
                &[run("long", "1")],
                &[close(b'S', "long"), parse("long", "SELECT $1::text", &[]), run("long", "2")],
                &[run("long", "3")],
            ],
        ),
        rounds(
            "a short text and a long one of the same name",
            &[
                &[text("s")],
                &[parse("s", &long, &[]), run("s", "1")],
                &[run("s", "2")],
                &[close(b'S', "s"), parse("s", &long, &[]), describe(b'S', "s")],
                &[parse("s", &long, &[])],
                &[describe(b'S', "s")],
            ],
        ),
        rounds(
            "an empty text",
            &[
                &[parse("none", "", &[])],
                &[bind("", "none", &[]), describe(b'P', ""), execute("", 0)],
            ],
        ),
        rounds(
            "one name, several types",
            &[
                &[parse("s", "SELECT pg_typeof($1), $1", &[23]), run("s", "1")],
                &[close(b'S', "s"), parse("s", "SELECT pg_typeof($1), $1", &[25]), run("s", "1")],
                &[describe(b'S', "s")],
            ],
        ),
    ]
}
