//! What comments in a text ask for: that it goes to the primary, or to a replica.
//!
//! Three ways of writing it are known: pgring's own, `/* pgring: replica */`, which may stand
//! among others as tools that annotate queries write them (`/*action='index',pgring='primary'*/`),
//! pgdog's `/* pgdog_role: replica */`, and pgpool-II's `/*NO LOAD BALANCE*/`. Comments to the end
//! of a line ask for nothing.

use crate::lexer::Lexer;
use memchr::memchr_iter;

/// What a comment asks for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hint {
    /// A replica, though functions in it are not known to only read.
    Replica,
    /// The primary.
    Primary,
}

/// What the comments of `text` ask for. Where they contradict each other, or one is not understood,
/// that is the primary.
pub fn hint(text: &[u8]) -> Option<Hint> {
    // Most texts have no comment at all.
    if !memchr_iter(b'/', text).any(|at| text.get(at + 1) == Some(&b'*')) {
        return None;
    }
    let mut lexer = Lexer::new(text);
    let mut end = 0;
    let mut hint = None;
    loop {
        let more = lexer.next().is_some();
        let start = if more { lexer.span().start } else { text.len() };
        hint = hint.max(between(text.get(end..start).unwrap_or_default()));
        if !more {
            return hint;
        }
        end = lexer.span().end;
    }
}

/// What a session asks for by a setting of this value.
pub fn role(value: &str) -> Option<Hint> {
    match value.trim() {
        "" | "auto" => None,
        "replica" => Some(Hint::Replica),
        _ => Some(Hint::Primary),
    }
}

/// What comments between two tokens ask for.
fn between(mut gap: &[u8]) -> Option<Hint> {
    let mut hint = None;
    while let Some((&first, rest)) = gap.split_first() {
        if gap.starts_with(b"--") {
            let end = gap.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            gap = gap.get(end.unwrap_or(gap.len())..).unwrap_or_default();
        } else if first == b'/' {
            let (inside, behind) = comment(gap);
            hint = hint.max(inside.split(|&byte| byte == b',').filter_map(asked).max());
            gap = behind;
        } else {
            gap = rest;
        }
    }
    hint
}

/// What stands in a comment that begins here, and what stands behind it.
fn comment(text: &[u8]) -> (&[u8], &[u8]) {
    let (mut at, mut depth) = (2, 1);
    while let Some(two) = text.get(at..at + 2) {
        match two {
            b"*/" if depth == 1 => return (&text[2..at], &text[at + 2..]),
            b"*/" => depth -= 1,
            b"/*" => depth += 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    (text.get(2..).unwrap_or_default(), b"")
}

/// What one part of a comment asks for.
fn asked(part: &[u8]) -> Option<Hint> {
    let part = core::str::from_utf8(part).ok()?.trim();
    if part.eq_ignore_ascii_case("no load balance") {
        return Some(Hint::Primary);
    }
    let (key, value) = part.split_once([':', '='])?;
    let ours = ["pgring", "pgdog_role"].iter().any(|name| key.trim().eq_ignore_ascii_case(name));
    let value = value.trim().trim_matches('\'').to_ascii_lowercase();
    role(&value).filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use super::{Hint, hint};

    #[test]
    fn comments_are_understood_wherever_they_stand() {
        for text in [
            "/* pgring: primary */ SELECT 1",
            "/*pgring:primary*/SELECT 1",
            "/* PGRING: Primary */ SELECT 1",
            "SELECT 1 /* pgring: primary */",
            "SELECT /* pgring: primary */ 1;",
            "-- a line\n/* pgring: primary */ SELECT 1",
            "SELECT 1 /*controller='users',pgring='primary',action='index'*/",
            "SELECT 1 /*application:Shop,pgring:primary*/",
            "/*NO LOAD BALANCE*/ SELECT 1",
            "/* no load balance */ SELECT 1",
            "/* pgdog_role: primary */ SELECT 1",
            "/* pgring: replica */ SELECT 1 /* pgring: primary */",
            "/* pgring: primary */ SELECT 1 /* pgring: replica */",
            "SELECT 1 /* pgring: replcia */",
            "/* pgring: primary",
        ] {
            assert_eq!(hint(text.as_bytes()), Some(Hint::Primary), "{text}");
        }
        for text in [
            "/* pgring: replica */ SELECT f()",
            "SELECT f() /* pgdog_role: replica */",
            "/* one *//* pgring: replica */ SELECT f()",
        ] {
            assert_eq!(hint(text.as_bytes()), Some(Hint::Replica), "{text}");
        }
    }

    #[test]
    fn what_is_no_comment_asks_for_nothing() {
        for text in [
            "SELECT 1",
            "SELECT 6 / 2",
            "SELECT '/* pgring: replica */'",
            "SELECT $$/* pgring: replica */$$",
            "SELECT \"/* pgring: replica */\"",
            "SELECT E'\\'/* pgring: replica */'",
            "SELECT 1 -- /* pgring: replica */",
            "SELECT 1 /* a /* pgring: replica */ b */",
            "/* pgring: auto */ SELECT 1",
            "/* pgrings: replica */ SELECT 1",
            "/* what of pgring: replica */ SELECT 1",
            "/*",
            "/",
            "/*/",
            "",
        ] {
            assert_eq!(hint(text.as_bytes()), None, "{text}");
        }
    }
}
