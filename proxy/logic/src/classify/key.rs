//! What texts that differ only in their values have in common.
//!
//! A key is the text's tokens: words in lower case, strings and numbers as marks, comments and
//! white space as one space. Two texts of one key are of one class, as no constant decides on
//! that. A list of constants counts as one of two, so that `IN (1, 2, 3)` is one text however long
//! the list is.

use crate::lexer::{Lexer, Token};

/// Writes the key of `text` behind what is in `key`. `false` if where its strings end depends on
/// `standard_conforming_strings`, so that it has none.
pub fn write(text: &[u8], key: &mut Vec<u8>) -> bool {
    let mut lexer = Lexer::new(text);
    let mut end = 0;
    let mut before = Before::Other;
    // The list of constants at hand.
    let mut list = List::default();
    while let Some(token) = lexer.next() {
        let span = lexer.span();
        let gap = end > 0 && span.start > end;
        end = span.end;
        if gap {
            key.push(b' ');
        }
        let behind = core::mem::replace(&mut before, Before::Other);
        match token {
            Token::Word(word) => {
                before = Before::word(word);
                key.extend(word.iter().map(u8::to_ascii_lowercase));
                list = List::default();
                continue;
            }
            Token::Quoted(name) => quoted(b"\"", name, key),
            Token::Escaped(name) => quoted(b"u&\"", name, key),
            // What escapes in the name before it begins with is no value.
            Token::String(raw) if behind == Before::Escape => key.extend_from_slice(raw),
            // One of two types has so many bits.
            Token::Number(raw) if behind == Before::Precision => key.extend_from_slice(raw),
            Token::Symbol(b'(') if behind == Before::Float => {
                before = Before::Precision;
                key.push(b'(');
            }
            // These are casts, and name a type.
            Token::String(raw @ [b'n' | b'N', ..]) => key.extend_from_slice(mark(raw)),
            Token::String(raw) => {
                // `u&$$...$$` is an operator before a string, and no string with escapes.
                if raw.first() == Some(&b'$') && key.ends_with(b"u&") {
                    key.push(b' ');
                }
                key.extend_from_slice(mark(raw));
                list.constant(key);
                continue;
            }
            Token::Number(_) => {
                key.push(b'0');
                list.constant(key);
                continue;
            }
            Token::Parameter(_) => {
                key.extend_from_slice(b"$0");
                list.constant(key);
                continue;
            }
            Token::Semicolon => key.push(b';'),
            Token::Symbol(b',') => {
                key.push(b',');
                list.comma();
                continue;
            }
            Token::Symbol(_) => key.extend_from_slice(&text[span]),
        }
        list = List::default();
    }
    !lexer.is_ambiguous()
}

/// Whether a value behind this word may be more than a value, so that it is a part of the key.
pub fn minds(word: &[u8]) -> bool {
    Before::word(word) != Before::Other
}

/// What stands before a token that makes its value mean more than a value.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Before {
    /// `UESCAPE`
    Escape,
    /// `float`
    Float,
    /// `float (`
    Precision,
    Other,
}

impl Before {
    fn word(word: &[u8]) -> Self {
        if word.eq_ignore_ascii_case(b"uescape") {
            Self::Escape
        } else if word.eq_ignore_ascii_case(b"float") {
            Self::Float
        } else {
            Self::Other
        }
    }
}

fn quoted(opening: &[u8], name: &[u8], key: &mut Vec<u8>) {
    key.extend_from_slice(opening);
    key.extend_from_slice(name);
    key.push(b'"');
}

/// What stands for a string: its kind, as the grammar tells them apart.
fn mark(raw: &[u8]) -> &'static [u8] {
    match raw.first() {
        Some(b'b' | b'B' | b'x' | b'X') => b"b''",
        Some(b'n' | b'N') => b"n''",
        Some(b'u' | b'U') => b"u&''",
        Some(_) | None => b"''",
    }
}

/// Constants with commas between them.
#[derive(Default)]
struct List {
    /// Where the second of them ends; 0 while there are less.
    second: usize,
    constants: usize,
    comma: bool,
}

impl List {
    /// A constant was written; from the third on it is taken away again.
    fn constant(&mut self, key: &mut Vec<u8>) {
        if self.constants > 0 && !self.comma {
            // Something like `'a' 'b'` or `1e5`: no list.
            *self = Self { constants: 1, ..Self::default() };
            return;
        }
        self.comma = false;
        self.constants += 1;
        if self.constants == 2 {
            self.second = key.len();
        } else if self.constants > 2 {
            key.truncate(self.second);
        }
    }

    fn comma(&mut self) {
        if self.constants == 0 || self.comma {
            *self = Self::default();
        } else {
            self.comma = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::write;

    fn key(text: &str) -> String {
        let mut key = Vec::new();
        assert!(write(text.as_bytes(), &mut key), "{text}");
        String::from_utf8(key).expect("it is text")
    }

    #[test]
    fn values_spaces_and_comments_make_no_difference() {
        for (text, expected) in [
            ("SELECT  a\n FROM t -- x\n WHERE b = 'it''s'", "select a from t where b = ''"),
            ("select/* x */1", "select 0"),
            (" SELECT $1, 2.5, E'a\\'b'", "select $0, 0"),
            ("IN (1,2,3)", "in (0,0)"),
            ("IN (1, 2)", "in (0, 0)"),
            ("IN (1)", "in (0)"),
            ("(1,2,3,x)", "(0,0,x)"),
            ("(1,2),(3,4,5)", "(0,0),(0,0)"),
            (
                "SELECT \"A b\", U&\"c\", X'1f', n'x', $$ y $$",
                "select \"A b\", u&\"c\", b'', n'', ''",
            ),
            ("SELECT 'a' 'b', 'c'", "select '' '', ''"),
            ("SELECT U&'a', U&$$a$$, u&$x$a$x$", "select u&'', u& '', u& ''"),
            ("SELECT 1;", "select 0;"),
        ] {
            assert_eq!(key(text), expected, "{text}");
        }
    }

    #[test]
    fn what_the_grammar_tells_apart_has_keys_of_its_own() {
        let all = [
            "a<-b",
            "a< -b",
            "a - -b",
            "a.b",
            "a . b",
            "\"a\"",
            "a",
            "$1",
            "1",
            "'a'",
            "b'1'",
            "u'1'",
            "U&'1'",
            "U&\"!0061\" UESCAPE '!'",
            "U&\"!0061\" UESCAPE '#'",
            "1, 2, N'x'",
            "1, 2",
            "LIMIT 1",
            "LIMIT 1, 2",
            "a b",
            "ab",
            "a;",
            "f(,1)",
            "f(1,)",
            "f(1)",
            "(1,,2)",
        ];
        let keys: std::collections::BTreeSet<_> = all.iter().map(|text| key(text)).collect();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn a_text_that_can_be_read_in_two_ways_has_none() {
        assert!(!write(b"SELECT '\\'", &mut Vec::new()));
    }
}
