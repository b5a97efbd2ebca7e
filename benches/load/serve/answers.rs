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

/// pgpool looks at it, and is not content with anything else.
const VERSION: &[u8] = b"PostgreSQL 15.4 on a stand-in";

/// The answers.
pub(super) struct Answers {
    /// To a query with a row: description, row, tag, ready.
    query: Vec<u8>,
    /// To Execute: row and tag.
    execute: Vec<u8>,
    description: Vec<u8>,
    pid: u32,
}

/// What is known of one connection.
#[derive(Default)]
pub(super) struct Session {
    /// The tag of the statement just parsed, if it has no rows.
    parsed: Option<&'static str>,
    /// Whether it asks for the version.
    asks_version: bool,
    /// Whether the one setting of this world, `statement_timeout`, is set.
    set: bool,
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
        Self { query, execute, description, pid: 1000 }
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
    pub(super) fn query(&self, session: &mut Session, body: &[u8], out: &mut Vec<u8>) {
        let has = |words| has(body, words);
        if let Some(tag) = without_rows(body) {
            session.heard(tag);
            write::command_complete(out, tag);
            write::ready_for_query(out, b'I');
        } else if !body.contains(&b'(') {
            out.extend_from_slice(&self.query);
        } else if has(b"pg_settings") {
            // pgring asks what a session has set: kind, name, value.
            let setting: [Option<&[u8]>; 3] =
                [Some(b"g"), Some(b"statement_timeout"), Some(b"30s")];
            rows(out, session.set.then_some(&setting));
        } else if has(b"set_config('statement_timeout'") {
            session.set = true;
            rows(out, Some(&[Some(b"30s")]));
        } else if has(b"pg_is_in_recovery") {
            rows(out, Some(&[Some(b"f")]));
        } else if has(b"version()") {
            rows(out, Some(&[Some(VERSION)]));
        } else {
            out.extend_from_slice(&self.query);
        }
    }

    /// To Describe of a portal (`P`) or statement (`S`).
    pub(super) fn describe(&self, session: &Session, body: &[u8], out: &mut Vec<u8>) {
        if body.first() == Some(&b'S') {
            write::parameter_description(out, &[]);
        }
        if session.parsed.is_some() {
            write::no_data(out);
        } else {
            out.extend_from_slice(&self.description);
        }
    }

    /// To Execute.
    pub(super) fn execute(&self, session: &mut Session, out: &mut Vec<u8>) {
        match session.parsed.take() {
            Some(tag) => {
                session.heard(tag);
                write::command_complete(out, tag);
            }
            None if core::mem::take(&mut session.asks_version) => {
                write::data_row(out, &[Some(VERSION)]);
                write::command_complete(out, "SELECT 1");
            }
            None => out.extend_from_slice(&self.execute),
        }
    }
}

impl Session {
    /// Remembers what kind of statement a Parse has.
    pub(super) fn parse(&mut self, body: &[u8]) {
        let name = body.iter().position(|byte| *byte == 0);
        let text = name.and_then(|end| body.get(end + 1..)).unwrap_or_default();
        self.parsed = without_rows(text);
        self.asks_version = text.contains(&b'(') && has(text, b"version()");
    }

    fn heard(&mut self, tag: &str) {
        match tag {
            "SET" => self.set = true,
            "RESET" | "DISCARD" => self.set = false,
            _ => {}
        }
    }
}

/// A whole answer with this row, or with none.
fn rows(out: &mut Vec<u8>, values: Option<&[Option<&[u8]>]>) {
    let columns = values.map_or(3, <[_]>::len);
    write::row_description(out, &["a", "b", "c"].map(Column::text)[..columns.min(3)]);
    if let Some(values) = values {
        write::data_row(out, values);
    }
    write::command_complete(out, if values.is_some() { "SELECT 1" } else { "SELECT 0" });
    write::ready_for_query(out, b'I');
}

fn has(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|part| part == words)
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
    use super::{Answers, Session, without_rows};
    use crate::frames::Frames;

    fn tags(bytes: &[u8]) -> Vec<u8> {
        let (mut frames, mut tags) = (Frames::default(), Vec::new());
        assert!(frames.take(bytes, |tag| tags.push(tag)));
        tags
    }

    #[test]
    fn a_query_has_a_row_unless_its_first_word_says_otherwise() {
        let (answers, mut session) = (Answers::new(), Session::default());
        for (text, wanted) in [
            ("SELECT 1\0", b"TDCZ".as_slice()),
            ("SELECT name FROM pg_settings WHERE f()\0", b"TCZ"),
            ("set x = 1\0", b"CZ"),
            ("SELECT name FROM pg_settings WHERE f()\0", b"TDCZ"),
            ("RESET ALL;\0", b"CZ"),
            ("SELECT name FROM pg_settings WHERE f()\0", b"TCZ"),
            ("SELECT pg_catalog.pg_is_in_recovery()\0", b"TDCZ"),
        ] {
            let mut out = Vec::new();
            answers.query(&mut session, text.as_bytes(), &mut out);
            assert_eq!(tags(&out), wanted, "{text}");
        }
        assert_eq!(without_rows(b"DEALLOCATE ALL"), Some("DEALLOCATE"));
        assert_eq!(without_rows(b"SE"), None);
    }

    #[test]
    fn an_extended_query_is_answered_like_a_simple_one() {
        let (answers, mut session) = (Answers::new(), Session::default());
        let mut out = Vec::new();
        session.parse(b"S_1\0RESET ALL\0\0\0");
        answers.describe(&session, b"P\0", &mut out);
        answers.execute(&mut session, &mut out);
        answers.execute(&mut session, &mut out);
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
