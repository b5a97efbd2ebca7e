//! What clients say: views on the messages pgring looks into.
//!
//! Every view is of a complete body without tag and length, except [`bind_names`], which needs
//! only its beginning: the values of a Bind may be a gigabyte and are never looked at. Writing
//! these messages, towards servers, is in [`write`](mod@write).

use crate::frame::{Malformed, Reader};

pub mod write;

/// The text of a Query, without its zero byte.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let text = reader.cstr()?;
    reader.end()?;
    Ok(text)
}

/// A Parse message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed statement.
    pub name: &'a [u8],
    /// The statement's text.
    pub text: &'a [u8],
    /// The parameter types as sent: their number in two bytes, four bytes each.
    pub types: &'a [u8],
    /// Text, zero byte and types: all that makes two statements the same.
    pub body_after_name: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of a Parse.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let body_after_name = reader.rest();
        let text = reader.cstr()?;
        let types = reader.rest();
        let count = usize::from(reader.u16()?);
        reader.take(count.saturating_mul(4))?;
        reader.end()?;
        Ok(Self { name, text, types, body_after_name })
    }
}

/// The names a Bind begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BindNames<'a> {
    /// The portal to be made.
    pub portal: &'a [u8],
    /// The statement it is made of.
    pub statement: &'a [u8],
    /// Where formats and values begin in the body.
    pub end: usize,
}

/// The names in a Bind whose body begins with `prefix`; `None` if they are not all there.
///
/// If the body is complete, `None` means that it is malformed.
pub fn bind_names(prefix: &[u8]) -> Option<BindNames<'_>> {
    let mut reader = Reader::new(prefix);
    let portal = reader.cstr().ok()?;
    let statement = reader.cstr().ok()?;
    let end = prefix.len().saturating_sub(reader.rest().len());
    Some(BindNames { portal, statement, end })
}

/// What a Describe or Close is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    /// `b'S'` for a statement, `b'P'` for a portal.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

impl<'a> Target<'a> {
    /// Reads the body of a Describe or Close.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.u8()?;
        let name = reader.cstr()?;
        reader.end()?;
        if !matches!(kind, b'S' | b'P') {
            return Err(Malformed::Value);
        }
        Ok(Self { kind, name })
    }

    /// Whether it is about a statement, not a portal.
    pub const fn is_statement(&self) -> bool {
        self.kind == b'S'
    }
}

/// An Execute message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Execute<'a> {
    /// The portal to run.
    pub portal: &'a [u8],
    /// How many rows at most; all if not positive.
    pub rows_max: i32,
}

impl<'a> Execute<'a> {
    /// Reads the body of an Execute.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr()?;
        let rows_max = reader.i32()?;
        reader.end()?;
        Ok(Self { portal, rows_max })
    }
}

/// The password in a `PasswordMessage`: in clear, or what md5 made of it.
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    query(body)
}

/// Mechanism and first data of a `SASLInitialResponse`.
pub fn sasl_initial(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let mut reader = Reader::new(body);
    let mechanism = reader.cstr()?;
    let data = reader.value()?;
    reader.end()?;
    Ok((mechanism, data))
}

#[cfg(test)]
mod tests {
    use super::{BindNames, Execute, Parse, Target, bind_names, query, sasl_initial};
    use crate::frame::Malformed;

    #[test]
    fn a_query_is_one_text_and_nothing_more() {
        assert_eq!(query(b"select 1\0"), Ok(&b"select 1"[..]));
        assert_eq!(query(b"select 1"), Err(Malformed::Unterminated));
        assert_eq!(query(b"a\0b\0"), Err(Malformed::Trailing));
    }

    #[test]
    fn a_statement_is_known_by_text_and_types() {
        let body = b"name\0select $1\0\0\x01\0\0\0\x17";
        let parse = Parse::read(body).unwrap();
        assert_eq!(parse.name, b"name");
        assert_eq!(parse.text, b"select $1");
        assert_eq!(parse.types, b"\0\x01\0\0\0\x17");
        assert_eq!(parse.body_after_name, &body[5..]);
        for len in 0..body.len() {
            assert!(Parse::read(&body[..len]).is_err(), "{len}");
        }
        assert_eq!(Parse::read(b"\0\0\xff\xff\0"), Err(Malformed::Short));
        assert_eq!(Parse::read(b"\0\0\0\0\0"), Err(Malformed::Trailing));
    }

    #[test]
    fn the_names_of_a_bind_are_read_before_its_values_come() {
        let prefix = b"portal\0statement\0\0\0";
        for len in 0..17 {
            assert_eq!(bind_names(&prefix[..len]), None, "{len}");
        }
        let names = BindNames { portal: b"portal", statement: b"statement", end: 17 };
        assert_eq!(bind_names(&prefix[..17]), Some(names));
        assert_eq!(bind_names(prefix), Some(names));
    }

    #[test]
    fn describe_and_close_are_about_statements_or_portals() {
        let target = Target::read(b"Sname\0").unwrap();
        assert_eq!((target.kind, target.name), (b'S', &b"name"[..]));
        assert!(target.is_statement());
        assert!(!Target::read(b"P\0").unwrap().is_statement());
        assert_eq!(Target::read(b"Xname\0"), Err(Malformed::Value));
        assert_eq!(Target::read(b""), Err(Malformed::Short));
    }

    #[test]
    fn execute_and_sasl_are_read_to_their_end() {
        let execute = Execute { portal: b"p", rows_max: 50 };
        assert_eq!(Execute::read(b"p\0\0\0\0\x32"), Ok(execute));
        assert_eq!(Execute::read(b"p\0\0\0\0"), Err(Malformed::Short));
        assert_eq!(sasl_initial(b"M\0\0\0\0\x02ab"), Ok((&b"M"[..], Some(&b"ab"[..]))));
        assert_eq!(sasl_initial(b"M\0\xff\xff\xff\xff"), Ok((&b"M"[..], None)));
        assert_eq!(sasl_initial(b"M\0\xff\xff\xff\xfe"), Err(Malformed::Value));
        assert_eq!(sasl_initial(b"M\0\x7f\xff\xff\xffab"), Err(Malformed::Short));
    }
}
