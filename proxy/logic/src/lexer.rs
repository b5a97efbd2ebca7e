//! SQL into words, as `PostgreSQL`'s own scanner cuts it: quotes, dollar quotes, comments.
//!
//! It knows where a text hides words (comments, strings, quoted names) and nothing of grammar. It
//! is total: any bytes are cut into something, an unterminated string or comment goes to the end.
//! Nothing is allocated, and no byte is looked at more than twice.
//!
//! One thing the bytes alone do not tell: with `standard_conforming_strings` off a backslash
//! escapes in plain strings too. [`Lexer::is_ambiguous`] says whether that would have made a
//! difference, and [`Lexer::with_backslashes`] reads the text that way.

use crate::lexer::class::{CLASS, Class, IN_WORD};
use core::ops::Range;
use memchr::{memchr, memchr2, memchr3, memmem};
use std::borrow::Cow;

mod class;
mod number;
pub mod shape;

/// A piece of an SQL text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Token<'t> {
    /// A keyword or a name without quotes, as written.
    Word(&'t [u8]),
    /// What stands between the double quotes of a name; a quote inside is still doubled.
    Quoted(&'t [u8]),
    /// A name written `U&"..."`: escapes may hide any name in it.
    Escaped(&'t [u8]),
    /// A string with its prefix and delimiters, as written.
    String(&'t [u8]),
    /// A number. A word that follows it without a space is one of its own.
    Number(&'t [u8]),
    /// A parameter, `$1`.
    Parameter(&'t [u8]),
    /// The end of a statement.
    Semicolon,
    /// Any other byte; two dots are one.
    Symbol(u8),
}

/// Cuts an SQL text into tokens.
#[derive(Clone, Debug)]
pub struct Lexer<'t> {
    text: &'t [u8],
    /// Where the last token starts.
    start: usize,
    /// Where it ends.
    at: usize,
    backslashes: bool,
    ambiguous: bool,
}

impl<'t> Lexer<'t> {
    /// At the start of `text`.
    pub const fn new(text: &'t [u8]) -> Self {
        Self { text, start: 0, at: 0, backslashes: false, ambiguous: false }
    }

    /// The same for a session with `standard_conforming_strings` off.
    pub const fn with_backslashes(text: &'t [u8]) -> Self {
        Self { text, start: 0, at: 0, backslashes: true, ambiguous: false }
    }

    /// The bytes of the text that the last token covers.
    pub const fn span(&self) -> Range<usize> {
        self.start..self.at
    }

    /// Whether a plain string so far had a backslash before a quote, so that its end depends on
    /// the setting.
    pub const fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn since_start(&self) -> &'t [u8] {
        &self.text[self.start..self.at]
    }

    #[inline]
    fn word(&mut self) -> Token<'t> {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|&byte| !IN_WORD[usize::from(byte)]);
        let (word, _) = rest.split_at(length.unwrap_or(rest.len()));
        self.at += word.len();
        Token::Word(word)
    }

    fn number(&mut self) -> Token<'t> {
        self.at += number::length(&self.text[self.at..]);
        Token::Number(self.since_start())
    }

    /// A string whose opening quote is `ahead` of here.
    fn string(&mut self, ahead: usize, escapes: bool) -> Token<'t> {
        self.at += ahead + 1;
        loop {
            self.string_part(escapes);
            // 'a' and 'b' with a line end between them are one string, of the kind of the first.
            let Some(next) = self.continuation() else { break };
            self.at = next;
        }
        Token::String(self.since_start())
    }

    /// A bit string, in which nothing escapes a quote, its letter being here.
    fn bits(&mut self) -> Token<'t> {
        self.at += 2;
        loop {
            let rest = &self.text[self.at..];
            self.at += memchr(b'\'', rest).map_or(rest.len(), |found| found + 1);
            let Some(next) = self.continuation() else { break };
            self.at = next;
        }
        Token::String(self.since_start())
    }

    /// Up to and with the closing quote.
    fn string_part(&mut self, escapes: bool) {
        loop {
            let rest = &self.text[self.at..];
            let Some(found) = memchr2(b'\'', b'\\', rest) else {
                self.at = self.text.len();
                return;
            };
            self.at += found + 1;
            if rest[found] == b'\\' {
                if escapes {
                    self.at = self.text.len().min(self.at + 1);
                } else if rest.get(found + 1) == Some(&b'\'') {
                    self.ambiguous = true;
                }
            } else if self.peek(0) == Some(b'\'') {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    /// Behind the quote that goes on with the string which just ended, if there is one: after
    /// white space and `--` comments with a line end among them.
    fn continuation(&self) -> Option<usize> {
        let mut at = self.at;
        let mut line_ended = false;
        loop {
            match self.text.get(at)? {
                b'\n' | b'\r' => {
                    line_ended = true;
                    at += 1;
                }
                b' ' | b'\t' | 0x0b | 0x0c => at += 1,
                b'-' if self.text.get(at + 1) == Some(&b'-') => {
                    at += memchr2(b'\n', b'\r', &self.text[at..])?;
                }
                b'\'' if line_ended => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// What stands between double quotes, the first of which is here.
    fn quoted(&mut self) -> &'t [u8] {
        let from = self.at + 1;
        self.at = from;
        loop {
            let Some(found) = memchr(b'"', &self.text[self.at..]) else {
                self.at = self.text.len();
                return &self.text[from..];
            };
            self.at += found + 1;
            if self.peek(0) != Some(b'"') {
                return &self.text[from..self.at - 1];
            }
            self.at += 1;
        }
    }

    fn dollar(&mut self) -> Token<'t> {
        let rest = &self.text[self.at..];
        if rest.get(1).is_some_and(u8::is_ascii_digit) {
            let digits = rest[1..].iter().position(|byte| !byte.is_ascii_digit());
            self.at += 1 + digits.unwrap_or(rest.len() - 1);
            return Token::Parameter(self.since_start());
        }
        let tag = rest[1..].iter().position(|&byte| byte == b'$' || !IN_WORD[usize::from(byte)]);
        let opening = match tag {
            Some(length) if rest[length + 1] == b'$' => &rest[..length + 2],
            Some(_) | None => {
                self.at += 1;
                return Token::Symbol(b'$');
            }
        };
        let body = &rest[opening.len()..];
        let end = if opening.len() == 2 {
            memmem::find(body, b"$$")
        } else {
            memmem::find(body, opening)
        };
        self.at = match end {
            Some(end) => self.at + opening.len() + end + opening.len(),
            None => self.text.len(),
        };
        Token::String(self.since_start())
    }

    /// Past a comment that nests, which starts here.
    fn comment(&mut self) {
        let mut depth = 1;
        self.at += 2;
        while depth > 0 {
            let rest = &self.text[self.at..];
            let Some(found) = memchr2(b'*', b'/', rest) else {
                self.at = self.text.len();
                return;
            };
            self.at += found + 1;
            match (rest[found], rest.get(found + 1)) {
                (b'*', Some(b'/')) => depth -= 1,
                (b'/', Some(b'*')) => depth += 1,
                _ => continue,
            }
            self.at += 1;
        }
    }
}

impl<'t> Iterator for Lexer<'t> {
    type Item = Token<'t>;

    #[inline]
    fn next(&mut self) -> Option<Token<'t>> {
        loop {
            self.start = self.at;
            let first = self.peek(0)?;
            return Some(match CLASS[usize::from(first)] {
                Class::Space => {
                    self.at += 1;
                    continue;
                }
                Class::Minus if self.peek(1) == Some(b'-') => {
                    let rest = &self.text[self.at..];
                    self.at += memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    continue;
                }
                Class::Slash if self.peek(1) == Some(b'*') => {
                    self.comment();
                    continue;
                }
                Class::Escape if self.peek(1) == Some(b'\'') => self.string(1, true),
                Class::Prefix if self.peek(1) == Some(b'\'') => match first {
                    b'n' | b'N' => self.string(1, self.backslashes),
                    _ => self.bits(),
                },
                Class::Unicode if self.peek(1) == Some(b'&') => match self.peek(2) {
                    Some(b'\'') => self.string(2, self.backslashes),
                    Some(b'"') => {
                        self.at += 2;
                        Token::Escaped(self.quoted())
                    }
                    Some(_) | None => self.word(),
                },
                Class::Letter | Class::Escape | Class::Prefix | Class::Unicode => self.word(),
                Class::Quote => self.string(0, self.backslashes),
                Class::DoubleQuote => Token::Quoted(self.quoted()),
                Class::Dollar => self.dollar(),
                Class::Digit => self.number(),
                Class::Dot if self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) => {
                    self.number()
                }
                Class::Semicolon => {
                    self.at += 1;
                    Token::Semicolon
                }
                Class::Dot if self.peek(1) == Some(b'.') => {
                    self.at += 2;
                    Token::Symbol(b'.')
                }
                Class::Minus | Class::Slash | Class::Dot | Class::Other => {
                    self.at += 1;
                    Token::Symbol(first)
                }
            });
        }
    }
}

/// What a string token says, if it says it plainly: `'...'`, `E'...'` or dollar quotes, without
/// backslashes, in one piece and terminated.
pub fn plain_string(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if raw.first() == Some(&b'$') {
        let opening = 2 + memchr(b'$', &raw[1..])?;
        let inner = raw.get(opening..raw.len().checked_sub(opening)?)?;
        return raw.ends_with(&raw[..opening]).then_some(Cow::Borrowed(inner));
    }
    let ([b'e' | b'E' | b'n' | b'N', b'\'', body @ ..] | [b'\'', body @ ..]) = raw else {
        return None;
    };
    let body = body.strip_suffix(b"'")?;
    match memchr3(b'\'', b'\\', b'\n', body) {
        None => Some(Cow::Borrowed(body)),
        Some(_) => undoubled(body, b'\'').filter(|_| memchr2(b'\\', b'\n', body).is_none()),
    }
}

/// The name that a [`Token::Word`] means (folded to lower case) or a [`Token::Quoted`] (as it is,
/// quotes no longer doubled).
pub fn name(token: Token<'_>) -> Option<Cow<'_, [u8]>> {
    match token {
        Token::Word(word) if word.iter().any(u8::is_ascii_uppercase) => {
            Some(Cow::Owned(word.to_ascii_lowercase()))
        }
        Token::Word(word) => Some(Cow::Borrowed(word)),
        Token::Quoted(inner) => undoubled(inner, b'"'),
        Token::Escaped(_)
        | Token::String(_)
        | Token::Number(_)
        | Token::Parameter(_)
        | Token::Semicolon
        | Token::Symbol(_) => None,
    }
}

/// `inner` with each pair of quotes made one; `None` if a quote stands alone.
fn undoubled(inner: &[u8], quote: u8) -> Option<Cow<'_, [u8]>> {
    if memchr(quote, inner).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    let mut value = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(found) = memchr(quote, rest) {
        value.extend_from_slice(&rest[..=found]);
        rest = rest[found + 1..].strip_prefix(&[quote])?;
    }
    value.extend_from_slice(rest);
    Some(Cow::Owned(value))
}

#[cfg(test)]
mod tests {
    use super::{Lexer, Token, name, plain_string};
    use std::borrow::Cow;

    /// The tokens in short: words as they are, the others by their delimiters.
    fn cut(text: &str) -> Vec<String> {
        Lexer::new(text.as_bytes())
            .map(|token| {
                let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                match token {
                    Token::Word(bytes) | Token::Number(bytes) | Token::Parameter(bytes) => {
                        show(bytes)
                    }
                    Token::Quoted(bytes) => format!("\"{}\"", show(bytes)),
                    Token::Escaped(bytes) => format!("U&\"{}\"", show(bytes)),
                    Token::String(bytes) => format!("<{}>", show(bytes)),
                    Token::Semicolon => ";".to_owned(),
                    Token::Symbol(byte) => char::from(byte).to_string(),
                }
            })
            .collect()
    }

    #[test]
    fn a_statement_falls_into_its_words() {
        assert_eq!(
            cut("SELECT a.b, \"C\"\"d\", $1::int4 FROM t WHERE x>=.5e3 AND y='it''s';"),
            [
                "SELECT",
                "a",
                ".",
                "b",
                ",",
                "\"C\"\"d\"",
                ",",
                "$1",
                ":",
                ":",
                "int4",
                "FROM",
                "t",
                "WHERE",
                "x",
                ">",
                "=",
                ".5e3",
                "AND",
                "y",
                "=",
                "<'it''s'>",
                ";"
            ]
        );
        assert_eq!(cut("ümlaut$1 übung"), ["ümlaut$1", "übung"]);
        assert_eq!(cut("1_000.5 0x1F a-1 a/b"), ["1_000.5", "0x1F", "a", "-", "1", "a", "/", "b"]);
    }

    #[test]
    fn comments_hide_what_is_in_them_and_nest() {
        assert_eq!(cut("a--b;'\nc"), ["a", "c"]);
        assert_eq!(cut("a--b\rc"), ["a", "c"]);
        assert_eq!(cut("a/*x/*y*/'z*/b/**/c/*/*/d*/*/e"), ["a", "b", "c", "e"]);
        assert_eq!(cut("a*--b\n/c"), ["a", "*", "/", "c"]);
    }

    #[test]
    fn each_kind_of_string_ends_where_postgresql_ends_it() {
        assert_eq!(cut(r"'a\' b"), [r"<'a\'>", "b"]);
        assert_eq!(cut(r"E'a\' b\\' c"), [r"<E'a\' b\\'>", "c"]);
        assert_eq!(cut(r"e'a''b' the'x'"), ["<e'a''b'>", "the", "<'x'>"]);
        assert_eq!(
            cut(r"B'01' x'ff' n'q' U&'\0041' u&d"),
            ["<B'01'>", "<x'ff'>", "<n'q'>", r"<U&'\0041'>", "u", "&", "d"]
        );
        assert_eq!(cut(r#"U&"\0041""b" c"#), [r#"U&"\0041""b""#, "c"]);
        assert_eq!(cut("E'a' -- c\n  'b\\' c' d"), ["<E'a' -- c\n  'b\\' c'>", "d"]);
        assert_eq!(cut("'a' 'b'"), ["<'a'>", "<'b'>"]);
        assert_eq!(cut("'a' /**/\n'b'"), ["<'a'>", "<'b'>"]);
    }

    #[test]
    fn dollar_quotes_end_at_their_own_tag_only() {
        assert_eq!(cut("$$a'b$$c"), ["<$$a'b$$>", "c"]);
        assert_eq!(cut("$x$a$$b$y$c$x$d"), ["<$x$a$$b$y$c$x$>", "d"]);
        assert_eq!(cut("a$x$b$x$ c"), ["a$x$b$x$", "c"]);
        assert_eq!(cut("$1$2 $é$x$é$"), ["$1", "$2", "<$é$x$é$>"]);
        assert_eq!(cut("$ $a b$"), ["$", "$", "a", "b$"]);
    }

    #[test]
    fn what_is_not_terminated_goes_to_the_end() {
        for text in
            ["'a;b", "\"a;b", "E'a;\\", "$$a;b$", "$q$a;b$q", "/*a;/*b*/", "--a;b", "U&\"a;"]
        {
            assert!(cut(text).len() <= 1, "{text}: {:?}", cut(text));
        }
    }

    #[test]
    fn a_backslash_before_a_quote_is_told() {
        let text = br"'a\' b '";
        let mut lexer = Lexer::new(text);
        assert_eq!(lexer.by_ref().count(), 3);
        assert!(lexer.is_ambiguous());
        assert_eq!(Lexer::with_backslashes(text).count(), 1);
        let mut lexer = Lexer::new(br"E'a\'b' 'c\d'");
        assert_eq!(lexer.by_ref().count(), 2);
        assert!(!lexer.is_ambiguous());
    }

    #[test]
    fn any_bytes_are_cut_into_pieces_that_lie_in_order() {
        let alphabet = b"'\"$/*-\\eEuU&xa0. \n;\xff\x00q";
        let mut dice = 1u64;
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..24)
                .map(|_| {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    alphabet[(dice >> 33) as usize % alphabet.len()]
                })
                .collect();
            let mut lexer = Lexer::new(&text);
            let mut end = 0;
            while let Some(token) = lexer.next() {
                let span = lexer.span();
                assert!(end <= span.start && span.start < span.end && span.end <= text.len());
                end = span.end;
                name(token);
                if let Token::String(raw) = token {
                    plain_string(raw);
                }
            }
        }
    }

    #[test]
    fn only_a_plain_string_says_what_it_says() {
        let plain = |raw: &str| plain_string(raw.as_bytes()).map(Cow::into_owned);
        assert_eq!(plain("'a.b'"), Some(b"a.b".to_vec()));
        assert_eq!(plain("E'a''b'"), Some(b"a'b".to_vec()));
        assert_eq!(plain("$t$a.b$t$"), Some(b"a.b".to_vec()));
        assert_eq!(plain("''"), Some(Vec::new()));
        for raw in [r"E'a\x2eb'", "U&'a'", "'a'\n'b'", "'a", "'", "$t$", "$$a$", "X'00'", ""] {
            assert_eq!(plain(raw), None, "{raw}");
        }
    }
}
