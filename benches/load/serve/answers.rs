//! What the stand-in says, prepared once where it is always the same.

use pgring_wire::backend::write::{self, Column};

/// What a server reports of itself at login.
const REPORTED: [(&str, &str); 11] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.4"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

/// Statements without rows, and what is said of them. `SHOW` has a row.
const WITHOUT_ROWS: [&str; 10] = [
    "SET",
    "RESET",
    "DISCARD",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "DEALLOCATE",
    "TRUNCATE",
    "CLOSE",
    "UNLISTEN",
];

/// The answers.
pub(super) struct Answers {
    /// To a query with a row: description, row, tag, ready.
    query: Vec<u8>,
    /// To Execute: row and tag.
    execute: Vec<u8>,
    description: Vec<u8>,
    /// The tag of the statement just parsed, if it has no rows. One for all connections is
    /// enough: what a driver sends together is read together.
    parsed: Option<&'static str>,
    pid: u32,
}

impl Answers {
    pub(super) fn new() -> Self {
        let (mut query, mut execute, mut description) = (Vec::new(), Vec::new(), Vec::new());
        write::row_description(&mut description, &[Column::text("abalance")]);
        write::data_row(&mut execute, &[Some(b"-1234")]);
        write::command_complete(&mut execute, "SELECT 1");
        query.extend_from_slice(&description);
        query.extend_from_slice(&execute);
        write::ready_for_query(&mut query, b'I');
        Self { query, execute, description, parsed: None, pid: 1000 }
    }

    /// Anybody may log in.
    pub(super) fn greeting(&mut self, out: &mut Vec<u8>) {
        self.pid += 1;
        write::authentication_ok(out);
        for (name, value) in REPORTED {
            write::parameter_status(out, name, value);
        }
        write::backend_key_data(out, self.pid, &self.pid.to_be_bytes());
        write::ready_for_query(out, b'I');
    }

    /// To a simple query.
    pub(super) fn query(&self, body: &[u8], out: &mut Vec<u8>) {
        if let Some(tag) = without_rows(body) {
            write::command_complete(out, tag);
            write::ready_for_query(out, b'I');
        } else if body.windows(17).any(|part| part == b"pg_is_in_recovery") {
            write::row_description(out, &[Column::text("pg_is_in_recovery")]);
            write::data_row(out, &[Some(b"f")]);
            write::command_complete(out, "SELECT 1");
            write::ready_for_query(out, b'I');
        } else {
            out.extend_from_slice(&self.query);
        }
    }

    /// Remembers what kind of statement a Parse has.
    pub(super) fn parse(&mut self, body: &[u8]) {
        let name = body.iter().position(|byte| *byte == 0);
        let text = name.and_then(|end| body.get(end + 1..)).unwrap_or_default();
        self.parsed = without_rows(text);
    }

    /// To Describe of a portal (`P`) or statement (`S`).
    pub(super) fn describe(&self, body: &[u8], out: &mut Vec<u8>) {
        if body.first() == Some(&b'S') {
            write::parameter_description(out, &[]);
        }
        if self.parsed.is_some() {
            write::no_data(out);
        } else {
            out.extend_from_slice(&self.description);
        }
    }

    /// To Execute.
    pub(super) fn execute(&mut self, out: &mut Vec<u8>) {
        match self.parsed.take() {
            Some(tag) => write::command_complete(out, tag),
            None => out.extend_from_slice(&self.execute),
        }
    }
}

/// The tag of a statement that has no rows.
fn without_rows(text: &[u8]) -> Option<&'static str> {
    WITHOUT_ROWS.into_iter().find(|word| {
        let start = text.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::{Answers, without_rows};
    use crate::frames::Frames;

    fn tags(bytes: &[u8]) -> Vec<u8> {
        let (mut frames, mut tags) = (Frames::default(), Vec::new());
        assert!(frames.take(bytes, |tag| tags.push(tag)));
        tags
    }

    #[test]
    fn a_query_has_a_row_unless_its_first_word_says_otherwise() {
        let answers = Answers::new();
        for (text, wanted) in [
            ("SELECT 1\0", b"TDCZ".as_slice()),
            ("set x = 1\0", b"CZ"),
            ("SELECT pg_catalog.pg_is_in_recovery()\0", b"TDCZ"),
        ] {
            let mut out = Vec::new();
            answers.query(text.as_bytes(), &mut out);
            assert_eq!(tags(&out), wanted, "{text}");
        }
        assert_eq!(without_rows(b"DEALLOCATE ALL"), Some("DEALLOCATE"));
        assert_eq!(without_rows(b"SE"), None);
    }

    #[test]
    fn an_extended_query_is_answered_like_a_simple_one() {
        let (mut answers, mut out) = (Answers::new(), Vec::new());
        answers.parse(b"S_1\0RESET ALL\0\0\0");
        answers.describe(b"P\0", &mut out);
        answers.execute(&mut out);
        answers.execute(&mut out);
        assert_eq!(tags(&out), b"nCDC");
    }

    #[test]
    fn a_greeting_is_a_whole_login() {
        let (mut answers, mut out) = (Answers::new(), Vec::new());
        answers.greeting(&mut out);
        let tags = tags(&out);
        assert_eq!((tags.first(), tags.last()), (Some(&b'R'), Some(&b'Z')));
    }
}
