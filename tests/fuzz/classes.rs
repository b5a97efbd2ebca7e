//! What must hold of the class of any statement.
//!
//! 1. Nothing panics, and no depth of nesting overflows a stack.
//! 2. A text of the same key is of the same class, so that a cache by keys tells no lies: the key
//!    itself, being a statement, is one; other constants in the text make others.
//! 3. What reads goes on reading behind a comment, and a second statement ends that.
//! 4. Texts that a memo takes for one have the same key and the same hints.

use pgring_logic::classify::cache::{Cache, Proof};
use pgring_logic::classify::{Class, Reason, classify as class_of, key};
use pgring_logic::hints::scan;
use pgring_logic::lexer::{Lexer, Token};
use pgring_logic::memo::Memo;

/// Any statement.
pub fn classify(data: &[u8]) {
    remembered(data, &with_other_constants(data));
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

/// What a memo says of a text behind another, and where it keeps its class.
fn remembered(text: &[u8], other: &[u8]) {
    let (mut memo, mut cache) = (Memo::new(1), Cache::new(1, 1 << 16));
    cache.verdict(b"select", None, 1, |_| Proof::Proven);
    assert_eq!(memo.scan(text), scan(text));
    memo.note(text, cache.last());
    assert_eq!(memo.scan(other), scan(other), "{}", other.escape_ascii());
    if text != other && memo.mark(other).is_some() {
        let keys = [text, other].map(|text| {
            let mut key = Vec::new();
            (key::write(text, &mut key), key)
        });
        assert_eq!(keys[0], keys[1], "{}", other.escape_ascii());
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
