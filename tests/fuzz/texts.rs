//! What must hold for any text: SQL, console commands, startup options, the two files of the
//! configuration.
//!
//! 1. Nothing panics.
//! 2. The lexer goes on with every token, and leaves out nothing but white space and comments.
//! 3. A hint on a statement stays, whatever statements stand around it.
//! 4. What pgring quotes is one string to the server, whatever it holds.
//!
//! The first byte of the input says what the rest is taken for.

use pgring_logic::admin::command::Command;
use pgring_logic::config;
use pgring_logic::hints::{Deallocate, Hints, custom_parameters, deallocate, scan};
use pgring_logic::lexer::{Lexer, Token, plain_string};
use pgring_logic::state::{Parameters, literal, of_startup, replay};
use std::cell::Cell;

/// Any text.
pub fn text(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    if kind % 5 == 0 {
        return sql(rest);
    }
    let Ok(rest) = core::str::from_utf8(rest) else { return };
    match kind % 5 {
        1 => configuration(rest),
        2 => users(rest),
        3 => console(rest),
        _ => options(rest),
    }
}

fn sql(text: &[u8]) {
    for lexer in [Lexer::new(text), Lexer::with_backslashes(text)] {
        tokens(lexer, text);
    }
    let hints = scan(text);
    let has = |text: &[u8], what| {
        let found = scan(text);
        for hint in [Hints::STATE, Hints::PIN, Hints::UNPIN, Hints::STATEMENTS, Hints::COPY] {
            assert!(found.has(hint) || !hints.has(hint), "{what}: {found:?}, alone {hints:?}");
        }
    };
    has(&[b"select 1;", text].concat(), "behind another statement");
    let before = [text, b"\n;select"].concat();
    if [Lexer::new(&before), Lexer::with_backslashes(&before)].into_iter().all(is_closed) {
        has(&before, "before another statement");
    }
    let mut names = Vec::new();
    if custom_parameters(text, &mut names) {
        assert!(names.iter().all(|name| name.contains('.')), "{names:?}");
    }
    if let Some(Deallocate::Name { start, end, name }) = deallocate(text) {
        assert!(start < end && end <= text.len() && name.len() <= 63, "{start}..{end}");
        assert!(hints.has(Hints::STATEMENTS), "a DEALLOCATE drops statements");
    }
}

/// Whether what was appended to a text is none of a string or comment in it.
fn is_closed(lexer: Lexer<'_>) -> bool {
    let tokens: Vec<_> = lexer.collect();
    tokens.ends_with(&[Token::Semicolon, Token::Word(b"select")])
}

/// Every token covers bytes behind the one before.
fn tokens(mut lexer: Lexer<'_>, text: &[u8]) {
    let mut end = 0;
    while let Some(token) = lexer.next() {
        let span = lexer.span();
        assert!(end <= span.start && span.start < span.end, "{token:?} at {span:?}");
        assert!(span.end <= text.len(), "{token:?} at {span:?}");
        end = span.end;
        if let Token::String(raw) = token {
            assert_eq!(raw, &text[span], "a string is as written");
            drop(plain_string(raw));
        }
    }
}

fn configuration(text: &str) {
    let asked = Cell::new(false);
    match config::parse(text, &mut |_| {
        asked.set(true);
        Ok("\"ann\" \"secret\"".to_owned())
    }) {
        Ok(config) => {
            assert_eq!(config::changed_needs_restart(&config, &config), [""; 0]);
            assert_eq!(asked.get(), config.auth.users_file.is_some());
            assert!(!config.clusters.is_empty(), "somewhere to go");
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "a refusal has a reason");
            for error in errors {
                let lines = text.matches('\n').count() + 1;
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            }
        }
    }
}

fn users(text: &str) {
    let file = "[auth]\nusers_file = \"users\"\n[[clusters]]\nname = \"main\"\n\
        [[clusters.nodes]]\nname = \"pg1\"\naddress = \"127.0.0.1:5432\"\n";
    match config::parse(file, &mut |_| Ok(text.to_owned())) {
        Ok(config) => {
            for (name, user) in &config.users {
                assert!(!name.is_empty() && *name == user.name && !name.contains('\0'));
            }
        }
        Err(errors) => assert!(!errors.is_empty(), "a refusal has a reason"),
    }
}

fn console(text: &str) {
    if let Ok(command) = Command::parse(text) {
        let _ = (command.needs(), command.tag());
        let again = Command::parse(&format!(";{text}"));
        assert_eq!(again, Ok(command), "a semicolon before a command means nothing");
    }
}

fn options(text: &str) {
    let pairs = [("options".to_owned(), text.to_owned()), ("App".to_owned(), text.to_owned())];
    let from = Parameters::from([("app".to_owned(), String::new())]);
    let to = of_startup(&pairs).unwrap_or_else(|_| Parameters::from([pairs[1].clone()]));
    for part in to.iter().flat_map(|(name, value)| [name, value]) {
        quoted(&literal(part));
    }
    let Some(sql) = replay(&from, &to, false) else { return };
    // What is asked for stays what it is: one statement, and no word of the client's.
    for lexer in [Lexer::new(sql.as_bytes()), Lexer::with_backslashes(sql.as_bytes())] {
        let words = lexer.filter_map(|token| {
            if let Token::Word(word) = token { Some(word.to_ascii_lowercase()) } else { None }
        });
        let own = [&b"reset"[..], b"all", b"role", b"session_authorization", b"select"];
        let more = [&b"pg_catalog"[..], b"set_config", b"false"];
        for word in words {
            assert!(own.contains(&&*word) || more.contains(&&*word), "{}", word.escape_ascii());
        }
    }
}

/// A constant is one string, whatever the session's settings are.
fn quoted(constant: &str) {
    for lexer in [Lexer::new(constant.as_bytes()), Lexer::with_backslashes(constant.as_bytes())] {
        let tokens: Vec<_> = lexer.collect();
        let whole = constant.trim_start_matches(' ').as_bytes();
        assert_eq!(tokens, [Token::String(whole)], "{constant}");
    }
}
