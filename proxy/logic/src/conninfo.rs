//! A connection string of libpq, as in `primary_conninfo`: `host=10.0.0.1 port=5432 user=repl`.
//!
//! It is read as libpq reads it, quotes and backslashes included, so that one of somebody else's
//! can be aimed at another node with everything else left as it is.

use std::fmt::{self, Write as _};

/// Keywords and their values, in the order of the text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Conninfo {
    pairs: Vec<(String, String)>,
}

/// Why a text is no connection string that can be changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoConninfo {
    /// It has the form of a URI.
    Uri,
    /// There is no `=` after this word.
    NoEquals(String),
    /// There is no word before a `=`.
    NoKeyword,
    /// The value of this keyword has no closing quote.
    OpenQuote(String),
}

impl fmt::Display for NoConninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri => f.write_str(
                "it is a URI; write it as keywords and values (host=.. port=.. user=..), so that \
                 it can be aimed at another node",
            ),
            Self::NoEquals(word) => write!(f, "there is no \"=\" after {word:?}"),
            Self::NoKeyword => f.write_str("there is no keyword before a \"=\""),
            Self::OpenQuote(word) => write!(f, "the value of {word:?} has no closing quote"),
        }
    }
}

impl Conninfo {
    /// Reads a text; an empty one has no keywords.
    ///
    /// # Errors
    /// libpq would refuse it, or it is a URI.
    pub fn parse(text: &str) -> Result<Self, NoConninfo> {
        let mut rest = text.trim_start_matches(is_space);
        if ["postgresql://", "postgres://"].iter().any(|scheme| rest.starts_with(scheme)) {
            return Err(NoConninfo::Uri);
        }
        let mut pairs = Vec::new();
        while !rest.is_empty() {
            let end = rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len());
            let (keyword, after) = rest.split_at(end);
            if keyword.is_empty() {
                return Err(NoConninfo::NoKeyword);
            }
            let Some(after) = after.trim_start_matches(is_space).strip_prefix('=') else {
                return Err(NoConninfo::NoEquals(keyword.to_owned()));
            };
            let (value, after) = value(after.trim_start_matches(is_space))
                .ok_or_else(|| NoConninfo::OpenQuote(keyword.to_owned()))?;
            pairs.push((keyword.to_owned(), value));
            rest = after.trim_start_matches(is_space);
        }
        Ok(Self { pairs })
    }

    /// The value of a keyword: the last one, as libpq has it.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        let mut last = self.pairs.iter().rev();
        last.find(|(name, _)| name == keyword).map(|(_, value)| value.as_str())
    }

    /// The same with another value, at the place of the old one or at the end.
    #[must_use]
    pub fn with(&self, keyword: &str, value: &str) -> Self {
        let mut pairs = self.pairs.clone();
        let place = pairs.iter().position(|(name, _)| name == keyword).unwrap_or(pairs.len());
        pairs.retain(|(name, _)| name != keyword);
        pairs.insert(place, (keyword.to_owned(), value.to_owned()));
        Self { pairs }
    }

    /// The same without a keyword.
    #[must_use]
    pub fn without(&self, keyword: &str) -> Self {
        let pairs = self.pairs.iter().filter(|(name, _)| name != keyword);
        Self { pairs: pairs.cloned().collect() }
    }

    /// The same towards another node, for a standby of this name. `host` may be a name, an address
    /// or the folder of a Unix socket; an address that goes with the old host goes with it.
    #[must_use]
    pub fn towards(&self, host: &str, port: u16, name: &str) -> Self {
        let aimed = self.with("host", host).without("hostaddr");
        aimed.with("port", &port.to_string()).with("application_name", name)
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (keyword, value)) in self.pairs.iter().enumerate() {
            if index > 0 {
                f.write_char(' ')?;
            }
            write!(f, "{keyword}=")?;
            let bare = !value.is_empty() && !value.contains(|c| is_space(c) || "'\\".contains(c));
            if bare {
                f.write_str(value)?;
                continue;
            }
            f.write_char('\'')?;
            for c in value.chars() {
                if matches!(c, '\'' | '\\') {
                    f.write_char('\\')?;
                }
                f.write_char(c)?;
            }
            f.write_char('\'')?;
        }
        Ok(())
    }
}

/// A value at the start of the text, and what comes after it; none if its quote stays open. Where
/// a keyword has nothing behind its `=` and another one follows, that is its value: so it is in
/// libpq.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            // A backslash at the very end stands for nothing.
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && is_space(c) => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// What C's `isspace` takes for one.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::{Conninfo, NoConninfo};

    fn pairs(text: &str) -> Vec<(String, String)> {
        Conninfo::parse(text).expect(text).pairs
    }

    fn pair(keyword: &str, value: &str) -> (String, String) {
        (keyword.to_owned(), value.to_owned())
    }

    #[test]
    fn it_is_read_as_libpq_reads_it() {
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("  host=a \n port = 5 "), [pair("host", "a"), pair("port", "5")]);
        assert_eq!(pairs(r"password='a\'b\\c' x=1"), [pair("password", r"a'b\c"), pair("x", "1")]);
        assert_eq!(pairs(r"password=a\ b\'"), [pair("password", "a b'")]);
        assert_eq!(pairs("host='' port=1"), [pair("host", ""), pair("port", "1")]);
        assert_eq!(pairs("host="), [pair("host", "")]);
        assert_eq!(pairs("host= port=5"), [pair("host", "port=5")]);
        assert_eq!(pairs("a=x'y'"), [pair("a", "x'y'")]);
        assert_eq!(pairs("a='x'b=y"), [pair("a", "x"), pair("b", "y")]);
        assert_eq!(pairs("a=b=c"), [pair("a", "b=c")]);
        assert_eq!(pairs("a=b\\"), [pair("a", "b")]);
        assert_eq!(pairs("a='ä\u{a0}ö'"), [pair("a", "ä\u{a0}ö")]);
    }

    #[test]
    fn what_libpq_refuses_is_refused() {
        let why = |text| Conninfo::parse(text).expect_err(text);
        assert_eq!(why("postgresql://a/b"), NoConninfo::Uri);
        assert_eq!(why(" postgres://a/b"), NoConninfo::Uri);
        assert_eq!(why("host"), NoConninfo::NoEquals("host".into()));
        assert_eq!(why("host a=1"), NoConninfo::NoEquals("host".into()));
        assert_eq!(why("=a"), NoConninfo::NoKeyword);
        assert_eq!(why("a=1 ="), NoConninfo::NoKeyword);
        assert_eq!(why("a='b"), NoConninfo::OpenQuote("a".into()));
        assert_eq!(why(r"a='b\'"), NoConninfo::OpenQuote("a".into()));
        assert!(why("postgres://").to_string().contains("keywords"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let hostile =
            ["", " ", "'", "\\", "\\'", "' host=evil '", "a\\", "x y", "ä\t'\\\\'", "=", "\n"];
        for one in hostile {
            for other in hostile {
                let info =
                    Conninfo::default().with("password", one).with("application_name", other);
                let text = info.to_string();
                assert_eq!(Conninfo::parse(&text), Ok(info), "{text}");
            }
        }
        let text = "user=repl host=a sslmode=prefer";
        assert_eq!(Conninfo::parse(text).expect("fine").to_string(), text);
    }

    #[test]
    fn it_is_aimed_at_another_node() {
        let old = "user=repl passfile='/my pass' host=a hostaddr=10.0.0.1 port=1 host=b sslmode=on";
        let new = Conninfo::parse(old).expect("fine").towards("10.0.0.2", 5433, "pg'1");
        assert_eq!(
            new.to_string(),
            "user=repl passfile='/my pass' host=10.0.0.2 port=5433 sslmode=on \
             application_name='pg\\'1'"
        );
        assert_eq!((new.get("host"), new.get("hostaddr")), (Some("10.0.0.2"), None));
        let twice = Conninfo::parse("host=a host=b").expect("fine");
        assert_eq!(twice.get("host"), Some("b"));
    }
}
