//! The dialogues about prepared statements that a pooler can get wrong: names that come and go
//! by other ways than Parse and Close, or that an error keeps from coming and going.

use crate::dialogue::Dialogue;
use crate::dialogue::Wait::Ready;
use crate::message::{bind, close, describe, execute, extended, parse, query, sync};

/// All dialogues of this file; they need no table.
pub fn dialogues() -> Vec<Dialogue> {
    [skipped(), by_sql(), in_transactions(), texts()].concat()
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
