//! Which parameters of extensions and applications a text may set: those with a dot in their name,
//! which no list of `PostgreSQL` knows beforehand.

use crate::hints::{CUSTOM_MAX, is, is_one_of};
use crate::lexer::{Lexer, Token, name, plain_string};

/// The longest name looked for; a longer one that is set may be any.
const NAME_MAX: usize = 127;

/// Adds them to `out`; `false` if there may be others.
pub(super) fn custom(text: &[u8], out: &mut Vec<String>) -> bool {
    let mut lexer = Lexer::new(text);
    let mut known = parameters(&mut lexer, out);
    if lexer.is_ambiguous() {
        known &= parameters(&mut Lexer::with_backslashes(text), out);
    }
    known
}

/// Adds every string in the text that could be the name of such a parameter, wherever it stands:
/// in the body of a DO, whose own strings the lexer does not see, and in what is executed there.
///
/// `false` if there are too many.
pub(super) fn quoted(text: &[u8], out: &mut Vec<String>) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
    for part in text.split(|byte| *byte == b'\'') {
        let dotted = part.contains(&b'.') && part.len() <= NAME_MAX;
        if dotted && part.iter().all(|byte| inside(*byte)) && !part[0].is_ascii_digit() {
            let name = core::str::from_utf8(part).unwrap_or_default().to_ascii_lowercase();
            if !keep(name, out) {
                return false;
            }
        }
    }
    true
}

/// Adds a name that is new; `false` if there is no room. The limit also keeps the look through
/// those already there short: a text may be a quarter of a megabyte of names, or of one.
fn keep(name: String, out: &mut Vec<String>) -> bool {
    if out.contains(&name) {
        return true;
    }
    let room = out.len() < CUSTOM_MAX && name.len() <= NAME_MAX;
    if room {
        out.push(name);
    }
    room
}

fn parameters(lexer: &mut Lexer<'_>, out: &mut Vec<String>) -> bool {
    let mut known = true;
    let mut starts = true;
    let (mut updates, mut names_settings) = (false, false);
    while let Some(token) = lexer.next() {
        match token {
            Token::Word(word) if starts && is(word, "set") => known &= set(lexer.clone(), out),
            Token::Word(name) | Token::Quoted(name) => {
                if is(name, "set_config") {
                    known &= set_config(lexer.clone(), out);
                } else if is(name, "set_limit") {
                    known = false;
                }
                updates |= is(name, "update");
                names_settings |= is(name, "pg_settings");
            }
            Token::Escaped(_) => known = false,
            Token::String(_)
            | Token::Number(_)
            | Token::Parameter(_)
            | Token::Semicolon
            | Token::Symbol(_) => {}
        }
        starts = token == Token::Semicolon;
    }
    known && !(updates && names_settings)
}

/// What follows a SET: `[SESSION | LOCAL] name [. name ...]`.
fn set(mut lexer: Lexer<'_>, out: &mut Vec<String>) -> bool {
    let Some(mut token) = lexer.next() else { return true };
    if let Token::Word(word) = token
        && is_one_of(word, &["session", "local"])
        && lexer.clone().next() != Some(Token::Symbol(b'.'))
    {
        let Some(next) = lexer.next() else { return true };
        token = next;
    }
    let mut full = Vec::new();
    loop {
        let Some(part) = name(token) else { return !matches!(token, Token::Escaped(_)) };
        full.extend_from_slice(&part);
        if lexer.next() != Some(Token::Symbol(b'.')) {
            return add(&full, out);
        }
        full.push(b'.');
        let Some(next) = lexer.next() else { return true };
        token = next;
    }
}

/// What follows a `set_config`: `('name', ...`.
fn set_config(mut lexer: Lexer<'_>, out: &mut Vec<String>) -> bool {
    if lexer.next() != Some(Token::Symbol(b'(')) {
        return true;
    }
    let Some(Token::String(raw)) = lexer.next() else { return false };
    let Some(value) = plain_string(raw) else { return false };
    lexer.next() == Some(Token::Symbol(b',')) && add(&value, out)
}

fn add(name: &[u8], out: &mut Vec<String>) -> bool {
    let Ok(name) = core::str::from_utf8(name) else { return false };
    !name.contains('.') || keep(name.to_ascii_lowercase(), out)
}

#[cfg(test)]
mod tests {
    use crate::hints::{CUSTOM_MAX, custom_parameters};
    use core::fmt::Write as _;

    #[test]
    fn a_text_of_nothing_but_names_is_given_up_before_it_costs_a_second() {
        for (start, end) in [
            ("SET a.b", " = 1;"),
            ("SELECT set_config('a.b", "', '', true);"),
            ("SELECT 'a.b", "';"),
        ] {
            let mut text = "SET x = 1;".to_owned();
            for number in 0..10_000 {
                write!(text, "{start}{number}{end}").unwrap();
            }
            let mut out = Vec::new();
            assert!(!custom_parameters(text.as_bytes(), &mut out), "{start}");
            assert_eq!(out.len(), CUSTOM_MAX);
        }
    }

    #[test]
    fn custom_parameters_are_named_or_admitted_unknown() {
        let names = |text: &str| {
            let mut out = Vec::new();
            custom_parameters(text.as_bytes(), &mut out).then_some(out)
        };
        for (text, found) in [
            ("SET search_path = a", ""),
            ("SET App.User = 'x'; set local b . c to 1", "app.user b.c"),
            ("SET SESSION a.b = 1; SET local.x = 1", "a.b local.x"),
            ("SET \"A.b\" = 1; SET \"x\".\"y\".z = 1", "a.b x.y.z"),
            ("SELECT set_config('a.b', $1, true), set_config('a.b', 'c', false)", "a.b"),
            ("SELECT pg_catalog.\"set_config\"($$x.y$$, 'c', false)", "x.y"),
            ("SELECT set_config('role', 'bob', false)", ""),
            ("UPDATE t SET a.b = 1; SELECT 'SET c.d = 1'", ""),
            ("SELECT set_config FROM t", ""),
            ("SET", ""),
            ("SET a.", ""),
        ] {
            let list = names(text).map(|out| out.join(" "));
            assert_eq!(list.as_deref(), Some(found), "{text}");
        }
        assert_eq!(names(&format!("SET a.{} = 1", "b".repeat(200))), None);
        for text in [
            "SELECT set_config($1, 'x', true)",
            "SELECT set_config('a.' || 'b', 'x', true)",
            r"SELECT set_config(E'a\x2eb', 'x', true)",
            "SELECT set_config(setting_name => 'a.b', new_value => 'x', is_local => true)",
            "UPDATE pg_settings SET setting = 1",
            "SET U&\"a\\002eb\" = 1",
            "SELECT set_config(",
        ] {
            assert_eq!(names(text), None, "{text}");
        }
    }
}
