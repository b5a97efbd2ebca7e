//! The dialogues of COPY, in both directions and both protocols, with every way to fail.

use crate::dialogue::Dialogue;
use crate::dialogue::Wait::{End, Nothing, Ready, Tag};
use crate::message::{
    bind, copy_data, copy_done, copy_fail, execute, extended, flush, parse, query, sync,
};

/// All dialogues of this file; the tables are those of the corpus.
pub fn dialogues() -> Vec<Dialogue> {
    [out(), simple_in(), extended_in(), mixed()].concat()
}

const COPY_IN: &str = "COPY copied FROM STDIN";

fn start_in() -> Vec<u8> {
    [parse("", COPY_IN, &[]), bind("", "", &[]), execute("", 0)].concat()
}

fn rows() -> Vec<u8> {
    [copy_data(b"1\tone\n2\ttwo\n"), copy_data(b"3\tth"), copy_data(b"ree\n")].concat()
}

fn out() -> Vec<Dialogue> {
    let out = "COPY (SELECT i, repeat('x', 20) FROM generate_series(1, 500) i) TO STDOUT";
    let broken = "COPY (SELECT 1 / (5 - i) FROM generate_series(1, 9) i) TO STDOUT";
    vec![
        Dialogue::one("COPY out", &[query(out)], 1),
        Dialogue::one("COPY out that fails", &[query(broken), query("SELECT 1")], 2),
        Dialogue::one("COPY out among others", &[query(&format!("SELECT 1; {out}; SELECT 2"))], 1),
        Dialogue::one("COPY out, extended", &[extended(out, &[]), sync()], 1),
        Dialogue::one("COPY out that fails, extended", &[extended(broken, &[]), sync()], 1),
        Dialogue::one(
            "COPY out in a pipeline",
            &[extended(out, &[]), extended("SELECT 1", &[]), sync(), query("SELECT 2")],
            2,
        ),
        Dialogue::one("an empty COPY out", &[query("COPY (SELECT 1 WHERE false) TO STDOUT")], 1),
    ]
}

fn simple_in() -> Vec<Dialogue> {
    let undone = |name, data: Vec<u8>| {
        Dialogue::new(
            name,
            vec![
                (query("BEGIN; TRUNCATE copied"), Ready(1)),
                (query(COPY_IN), Tag(b'G')),
                (data, Ready(1)),
                (query("SELECT * FROM copied ORDER BY id"), Ready(1)),
                (query("ROLLBACK"), Ready(1)),
            ],
        )
    };
    let long = copy_data(format!("9\t{}\n", "z".repeat(100_000)).as_bytes());
    vec![
        undone("COPY in", [rows(), copy_done()].concat()),
        undone("an empty COPY in", copy_done()),
        undone("COPY in with flush and sync", [rows(), flush(), sync(), copy_done()].concat()),
        undone("COPY in that the client fails", [rows(), copy_fail("no more")].concat()),
        undone("COPY in of a bad row", [rows(), copy_data(b"x\ty\n"), copy_done()].concat()),
        undone("COPY in of a long row", [long, copy_done()].concat()),
        undone(
            "COPY in goes on after it failed",
            [copy_data(b"x\ty\n"), rows(), rows(), copy_fail("late")].concat(),
        ),
        undone(
            "COPY in with the end in the data",
            [copy_data(b"1\ta\n\\.\n"), copy_done()].concat(),
        ),
        Dialogue::new(
            "COPY in outside of a transaction",
            vec![
                (
                    query("SELECT 1; COPY copied FROM STDIN; DELETE FROM copied; SELECT 2"),
                    Tag(b'G'),
                ),
                ([rows(), copy_done()].concat(), Ready(1)),
            ],
        ),
        Dialogue::new(
            "two COPYs in one message",
            vec![
                (
                    query("COPY copied FROM STDIN; COPY copied FROM STDIN; DELETE FROM copied"),
                    Tag(b'G'),
                ),
                ([rows(), copy_done()].concat(), Tag(b'G')),
                ([rows(), copy_done()].concat(), Ready(1)),
            ],
        ),
        Dialogue::new(
            "a COPY without waiting for its start",
            vec![(
                [query(COPY_IN), rows(), copy_done(), query("DELETE FROM copied")].concat(),
                Ready(2),
            )],
        ),
    ]
}

fn extended_in() -> Vec<Dialogue> {
    let undone = |name, start: Vec<u8>, data: Vec<u8>| {
        Dialogue::new(
            name,
            vec![
                (query("BEGIN; TRUNCATE copied"), Ready(1)),
                (start, Nothing),
                (data, Ready(1)),
                (query("SELECT count(*) FROM copied"), Ready(1)),
                (query("ROLLBACK"), Ready(1)),
            ],
        )
    };
    let bad = || copy_data(b"x\ty\n");
    let flushed = || [start_in(), flush()].concat();
    vec![
        undone("COPY in, extended", flushed(), [rows(), copy_done(), sync()].concat()),
        undone(
            "COPY in that the client fails, extended",
            flushed(),
            [rows(), copy_fail("no more"), sync()].concat(),
        ),
        undone(
            "COPY in of a bad row, extended",
            flushed(),
            [rows(), bad(), copy_done(), sync()].concat(),
        ),
        // The Sync right after Execute is read inside of COPY and counts for nothing.
        undone(
            "a blind sync before COPY data",
            [start_in(), sync()].concat(),
            [rows(), copy_done(), sync()].concat(),
        ),
        undone(
            "a blind sync, then failure",
            [start_in(), sync()].concat(),
            [rows(), copy_fail("no more"), sync()].concat(),
        ),
        Dialogue::new(
            "queries after a COPY in one pipeline",
            vec![
                ([start_in(), rows(), copy_done()].concat(), Nothing),
                (
                    [extended("DELETE FROM copied", &[]), sync(), query("SELECT 1")].concat(),
                    Ready(2),
                ),
            ],
        ),
        Dialogue::new(
            "a pipeline skipped after a COPY failed",
            vec![
                ([start_in(), bad(), rows(), copy_done()].concat(), Nothing),
                ([extended("SELECT 1", &[]), sync(), query("SELECT 2")].concat(), Ready(2)),
            ],
        ),
    ]
}

fn mixed() -> Vec<Dialogue> {
    let stray = [copy_data(b"1\n"), copy_done(), copy_fail("x"), query("SELECT 1"), sync()];
    let interrupted =
        vec![(query(COPY_IN), Tag(b'G')), ([rows(), query("SELECT 'not run'")].concat(), End)];
    vec![
        Dialogue::one("COPY messages outside of COPY", &stray, 2),
        Dialogue::new("a query inside of COPY in", interrupted),
        Dialogue::one("COPY of a missing table", &[query("COPY missing FROM STDIN")], 1),
    ]
}
