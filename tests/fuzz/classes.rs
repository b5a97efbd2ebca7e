//! What must hold of the class of any statement.
//!
//! 1. Nothing panics, and no depth of nesting overflows a stack.
//! 2. A text of the same key is of the same class, so that a cache by keys tells no lies: the key
//!    itself, being a statement, is one; other constants in the text make others.
//! 3. What reads goes on reading behind a comment, and a second statement ends that.

use pgring_logic::classify::cache::Cache;
use pgring_logic::classify::{Class, Reason, classify as class_of, key};
use pgring_logic::lexer::{Lexer, Token};

/// Any statement.
pub fn classify(data: &[u8]) {
    let class = class_of(data);
    let mut same = Vec::new();
    let unambiguous = key::write(data, &mut same);
    assert!(unambiguous || !matches!(class, Class::Read(_) | Class::Begin { .. }));
    if matches!(class, Class::Primary(Reason::Unparsed | Reason::Encoding | Reason::Long)) {
        return;
    }
    if unambiguous {
        agrees(&class, &same);
        agrees(&class, &with_other_constants(data));
        let mut cache = Cache::new(1, 1 << 16);
        assert_eq!(*cache.classify(data), class);
        assert_eq!(*cache.classify(data), class);
    }
    if let Class::Read(_) = class {
        agrees(&class, &[b"/* pgring */ ", data].concat());
        let two = class_of(&[data, b"\n;select 1; drop table t"].concat());
        let ended = [Reason::Multiple, Reason::Long].map(Class::Primary);
        assert!(ended.contains(&two), "{two:?} for two statements");
    }
}

/// Another text of the same key is of the same class, or no statement at all: the grammar minds
/// some constants (`float(0)`).
fn agrees(class: &Class, text: &[u8]) {
    let found = class_of(text);
    let none = matches!(
        found,
        Class::Primary(Reason::Unparsed | Reason::Encoding | Reason::Long | Reason::Ambiguous)
    );
    assert!(none || found == *class, "{} is {found:?}", text.escape_ascii());
}

/// The text with every number and plain string made another, but for those that say how to read
/// what stands before them.
fn with_other_constants(text: &[u8]) -> Vec<u8> {
    let mut other = Vec::new();
    let mut lexer = Lexer::new(text);
    let mut end = 0;
    let mut kept = false;
    while let Some(token) = lexer.next() {
        let span = lexer.span();
        other.extend_from_slice(&text[end..span.start]);
        end = span.end;
        let keeps = |word: &[u8]| {
            [&b"float"[..], b"uescape"].iter().any(|it| word.eq_ignore_ascii_case(it))
        };
        match token {
            Token::Number(_) if !kept => other.extend_from_slice(b"7"),
            Token::String([b'\'', ..]) if !kept => {
                other.extend_from_slice(b"'; DROP TABLE t; --'");
            }
            Token::Word(_)
            | Token::Quoted(_)
            | Token::Escaped(_)
            | Token::String(_)
            | Token::Number(_)
            | Token::Parameter(_)
            | Token::Semicolon
            | Token::Symbol(_) => other.extend_from_slice(&text[span]),
        }
        kept = match token {
            Token::Word(word) => keeps(word),
            Token::Symbol(b'(') => kept,
            Token::Quoted(_)
            | Token::Escaped(_)
            | Token::String(_)
            | Token::Number(_)
            | Token::Parameter(_)
            | Token::Semicolon
            | Token::Symbol(_) => false,
        };
    }
    other.extend_from_slice(&text[end..]);
    other
}
