//! What texts that differ only in plain constants have in common, told without cutting them into
//! words.
//!
//! A shape is the text with each plain number as `0` and each plain string as `''`; all else stays
//! as it is, comments and spaces too. Whoever has read one text of a shape has read them all, if
//! [`holds`] says so of that one: then what was taken for constants are constants for the scanner
//! too, and nothing outside of them can mean another thing beside other values. A text in which
//! that cannot be told by its bytes (backslashes, dollar quotes, strings with a prefix) has none.

use super::class::IN_WORD;
use super::{Lexer, Token};
use core::ops::Range;
use memchr::{memchr, memchr2, memmem};

/// Bytes that are looked at together.
const AT_ONCE: usize = 16;

/// Writes the shape of `text` behind what is in `shape`; `false` if it has none.
pub fn write(text: &[u8], shape: &mut Vec<u8>) -> bool {
    let mut constants = Constants::new(text);
    let mut end = 0;
    for constant in constants.by_ref() {
        shape.extend_from_slice(&text[end..constant.start]);
        let quoted = text[constant.start] == b'\'';
        shape.extend_from_slice(if quoted { b"''" } else { b"0" });
        end = constant.end;
    }
    shape.extend_from_slice(&text[end..]);
    !constants.hidden
}

/// Whether what is true of `text` by its tokens is true of every text of its shape.
pub fn holds(text: &[u8]) -> bool {
    let mut constants = Constants::new(text);
    let mut lexer = Lexer::new(text);
    for constant in constants.by_ref() {
        loop {
            let Some(token) = lexer.next() else { return false };
            let span = lexer.span();
            if span == constant {
                let plain = matches!(token, Token::Number(_) | Token::String(_));
                if !plain {
                    return false;
                }
                break;
            }
            if span.end > constant.start {
                return false;
            }
        }
    }
    !constants.hidden
}

/// The plain constants of a text, as far as its bytes tell.
struct Constants<'t> {
    text: &'t [u8],
    at: usize,
    /// Where the next ones stand cannot be told.
    hidden: bool,
}

impl<'t> Constants<'t> {
    const fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0, hidden: false }
    }

    /// On to the next byte that needs a look.
    fn seek(&mut self) -> Option<u8> {
        let (chunks, _) = self.text[self.at..].as_chunks::<AT_ONCE>();
        let dull = chunks
            .iter()
            .position(|chunk| chunk.iter().fold(false, |any, &byte| any | is_of_interest(byte)));
        self.at += AT_ONCE * dull.unwrap_or(chunks.len());
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|&byte| is_of_interest(byte)).unwrap_or(rest.len());
        self.text.get(self.at).copied()
    }

    fn is(&self, at: usize, means: impl FnOnce(u8) -> bool) -> bool {
        self.text.get(at).is_some_and(|&byte| means(byte))
    }

    /// A number that is here, if nothing else is a part of it.
    fn number(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.at = self.digits(start);
        if self.is(self.at, |byte| byte == b'.') && self.is(self.at + 1, |it| it.is_ascii_digit()) {
            self.at = self.digits(self.at + 1);
        }
        let joins = |byte: u8| IN_WORD[usize::from(byte)] || byte == b'.';
        let joined = self.is(self.at, joins) || start > 0 && self.is(start - 1, joins);
        (!joined).then_some(start..self.at)
    }

    fn digits(&self, from: usize) -> usize {
        let more = self.text[from..].iter().position(|byte| !byte.is_ascii_digit());
        more.map_or(self.text.len(), |length| from + length)
    }

    /// A string that is here, if it is a plain one.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let prefix = |byte: u8| IN_WORD[usize::from(byte)] || byte == b'&';
        self.hidden |= start > 0 && self.is(start - 1, prefix);
        let mut at = start + 1;
        loop {
            let Some(found) = memchr2(b'\'', b'\\', &self.text[at..]) else {
                self.hidden = true;
                return None;
            };
            at += found + 1;
            if self.text[at - 1] == b'\\' {
                self.hidden = true;
                return None;
            }
            if !self.is(at, |byte| byte == b'\'') {
                self.at = at;
                return Some(start..at);
            }
            at += 1;
        }
    }

    /// Past what is `length` bytes long, if it is known.
    fn skip(&mut self, length: Option<usize>) {
        match length {
            Some(length) => self.at += length,
            None => self.hidden = true,
        }
    }
}

impl Iterator for Constants<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        while !self.hidden {
            let first = self.seek()?;
            let rest = &self.text[self.at..];
            let second = rest.get(1).copied();
            match first {
                b'0'..=b'9' => {
                    if let Some(number) = self.number() {
                        return Some(number);
                    }
                }
                b'\'' => return self.string(),
                b'"' => self.skip(memchr(b'"', &rest[1..]).map(|found| found + 2)),
                b'-' if second == Some(b'-') => {
                    self.skip(Some(memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())));
                }
                b'/' if second == Some(b'*') => {
                    self.skip(memmem::find(&rest[2..], b"*/").map(|found| found + 4));
                }
                b'$' if second.is_some_and(|byte| byte.is_ascii_digit()) => {
                    self.at = self.digits(self.at + 1);
                }
                b'$' | b'\\' => self.hidden = true,
                _ => self.at += 1,
            }
        }
        None
    }
}

/// Whether a byte may be of a constant, or hide one. (Asked without branches it is asked of many
/// bytes at once.)
fn is_of_interest(byte: u8) -> bool {
    let digit = u8::from(byte.wrapping_sub(b'0') < 10);
    let others = [b'\'', b'"', b'$', b'\\', b'-', b'/'];
    others.iter().fold(digit, |any, &other| any | u8::from(byte == other)) != 0
}

#[cfg(test)]
mod tests {
    use super::{holds, write};

    fn shape(text: &str) -> Option<String> {
        let mut shape = Vec::new();
        let has = write(text.as_bytes(), &mut shape);
        has.then(|| String::from_utf8(shape).expect("it is text"))
    }

    #[test]
    fn constants_are_left_out_and_nothing_else() {
        for (text, expected) in [
            ("SELECT a1 FROM t WHERE b = 17;", "SELECT a1 FROM t WHERE b = 0;"),
            ("SELECT 1.5, 2 , -3", "SELECT 0, 0 , -0"),
            ("SELECT 1., .5, 1..2, 1e5, 0x1F, 1_000", "SELECT 1., .5, 1..2, 1e5, 0x1F, 1_000"),
            ("VALUES ('it''s', '', 'a\nb')", "VALUES ('', '', '')"),
            ("SELECT \"a 1\", $1, $12", "SELECT \"a 1\", $1, $12"),
            ("SELECT /* 1 */ 1 -- it's 1\n, 2", "SELECT /* 1 */ 0 -- it's 1\n, 0"),
            ("", ""),
            ("7", "0"),
        ] {
            assert_eq!(shape(text).as_deref(), Some(expected), "{text}");
            assert!(holds(text.as_bytes()), "{text}");
            assert_eq!(shape(expected).as_deref(), Some(expected), "{text}: a shape is its own");
        }
    }

    #[test]
    fn a_text_that_hides_constants_has_none() {
        for text in [
            "SELECT E'a'",
            "SELECT U&'a'",
            "SELECT x'1f'",
            "SELECT 1'a'",
            "SELECT '\\'",
            "SELECT $$1$$",
            "SELECT $a$1$a$",
            "SELECT 'a",
            "SELECT \"a",
            "SELECT /* 1",
            "a$ 1",
            "\\ 1",
        ] {
            assert_eq!(shape(text), None, "{text}");
            assert!(!holds(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_the_scanner_sees_in_another_way_does_not_hold() {
        // A string that goes on behind a line, a comment in a comment, a quote in a comment.
        for text in ["SELECT 'a'\n'b'", "SELECT /* /* */ 1 */ 2", "SELECT /* /* */ '1' */"] {
            assert!(shape(text).is_some(), "{text}");
            assert!(!holds(text.as_bytes()), "{text}");
        }
    }
}
