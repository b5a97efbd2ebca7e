//! DEALLOCATE in a text of its own: what it drops, and where the name is that may be another one
//! on the server.

use crate::hints::{Deallocate, is};
use crate::lexer::{Lexer, Token, name};

/// The longest name that `PostgreSQL` keeps; longer ones are cut.
const NAME_BYTES_MAX: usize = 63;

/// What `text` drops, if it is one DEALLOCATE and nothing else.
pub(super) fn only(text: &[u8]) -> Option<Deallocate> {
    let mut lexer = Lexer::new(text);
    let is_word = |token: Token<'_>, lower| matches!(token, Token::Word(word) if is(word, lower));
    if !is_word(lexer.next()?, "deallocate") {
        return None;
    }
    let mut token = lexer.next()?;
    let mut span = lexer.span();
    let mut after = lexer.next();
    // PREPARE is a noise word, unless it is the name.
    if is_word(token, "prepare")
        && let Some(named @ (Token::Word(_) | Token::Quoted(_))) = after
    {
        token = named;
        span = lexer.span();
        after = lexer.next();
    }
    while after == Some(Token::Semicolon) {
        after = lexer.next();
    }
    if after.is_some() {
        return None;
    }
    if is_word(token, "all") {
        return Some(Deallocate::All);
    }
    let name = cut(name(token)?.into_owned());
    Some(Deallocate::Name { start: span.start, end: span.end, name })
}

/// A name as long as `PostgreSQL` keeps it.
pub(super) fn cut(mut name: Vec<u8>) -> Vec<u8> {
    if name.len() > NAME_BYTES_MAX {
        let inside = |&end: &usize| name[end] & 0xc0 != 0x80;
        let end = (0..=NAME_BYTES_MAX).rev().find(inside).unwrap_or(NAME_BYTES_MAX);
        name.truncate(end);
    }
    name
}

#[cfg(test)]
mod tests {
    use crate::hints::{Deallocate, Hints, deallocate, scan};

    /// Only texts with the hint are looked at for one.
    #[test]
    fn what_drops_statements_has_the_hint_of_it() {
        let words = ["DEALLOCATE", "deallocate", "PREPARE", "prepare", "ALL", "\"all\"", "a", ";"];
        let ends = ["", "/*x*/", "-- x\n"];
        for number in 0..words.len().pow(3) * ends.len() {
            let word =
                |place: u32| words[number / ends.len() / words.len().pow(place) % words.len()];
            let end = ends[number % ends.len()];
            let text = format!("{end}{} {}{end} {}", word(2), word(1), word(0));
            let hinted = scan(text.as_bytes()).has(Hints::STATEMENTS);
            assert!(hinted || deallocate(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_deallocate_says_what_it_drops_and_where_its_name_is() {
        let named = |text: &str| match deallocate(text.as_bytes()) {
            Some(Deallocate::Name { start, end, name }) => {
                Some((text[start..end].to_owned(), String::from_utf8(name).unwrap()))
            }
            Some(Deallocate::All) | None => None,
        };
        let some = |raw: &str, name: &str| Some((raw.to_owned(), name.to_owned()));
        assert_eq!(named("DEALLOCATE Foo"), some("Foo", "foo"));
        assert_eq!(named("deallocate /*x*/ prepare \"A\"\"b\" ;"), some("\"A\"\"b\"", "A\"b"));
        assert_eq!(named("DEALLOCATE prepare"), some("prepare", "prepare"));
        assert_eq!(named("DEALLOCATE \"all\""), some("\"all\"", "all"));
        let long = format!("DEALLOCATE {}é", "x".repeat(62));
        assert_eq!(named(&long).map(|(_, name)| name), Some("x".repeat(62)));

        for text in ["DEALLOCATE ALL", " deallocate\nPREPARE all;; -- x"] {
            assert_eq!(deallocate(text.as_bytes()), Some(Deallocate::All));
        }
        for text in [
            "",
            "DEALLOCATE",
            "DEALLOCATE a; SELECT 1",
            "DEALLOCATE a b",
            "DEALLOCATE 'a'",
            "SELECT 1",
            "DEALLOCATE U&\"a\"",
            "DEALLOCATE prepare a b",
            "DEALLOCATE ;",
        ] {
            assert_eq!(deallocate(text.as_bytes()), None, "{text}");
        }
    }
}
