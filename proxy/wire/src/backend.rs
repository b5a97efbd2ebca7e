//! What servers say: views on the messages pgring looks into.
//!
//! A server may be hostile or broken as well, so nothing in a body is taken for granted: a field
//! that is missing is `None` or [`Malformed`]. Writing these messages, towards clients, is in
//! [`write`](mod@write); the codes of pgring's own errors are in [`sqlstate`].

use crate::frame::{Malformed, Reader};
use crate::startup::SECRET_SIZES;

pub mod sqlstate;
pub mod write;

/// An `ErrorResponse` or `NoticeResponse`.
#[derive(Clone, Copy, Debug)]
pub struct ErrorView<'a> {
    body: &'a [u8],
}

impl<'a> ErrorView<'a> {
    /// A view on this body. It may be anything; what cannot be read is not there.
    pub const fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// Its fields in order: the letter that says what it is, and the text.
    pub const fn fields(&self) -> Fields<'a> {
        Fields { reader: Reader::new(self.body) }
    }

    /// The first field with this letter.
    pub fn field(&self, letter: u8) -> Option<&'a [u8]> {
        self.fields().find(|&(found, _)| found == letter).map(|(_, text)| text)
    }

    /// ERROR, FATAL, PANIC, NOTICE...: the word that is never translated, where there is one.
    pub fn severity(&self) -> Option<&'a [u8]> {
        self.field(b'V').or_else(|| self.field(b'S'))
    }

    /// The SQLSTATE.
    pub fn code(&self) -> Option<&'a [u8]> {
        self.field(b'C')
    }

    /// What a person reads.
    pub fn message(&self) -> Option<&'a [u8]> {
        self.field(b'M')
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        self.severity().is_some_and(|word| matches!(word, b"FATAL" | b"PANIC"))
    }
}

/// The fields of an [`ErrorView`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let letter = self.reader.u8().ok().filter(|&letter| letter != 0)?;
        Some((letter, self.reader.cstr().ok()?))
    }
}

/// Name and value of a `ParameterStatus`.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let pair = (reader.cstr()?, reader.cstr()?);
    reader.end()?;
    Ok(pair)
}

/// Process id and secret of a `BackendKeyData`.
pub fn key_data(body: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let pid = reader.u32()?;
    let secret = reader.rest();
    if SECRET_SIZES.contains(&secret.len()) { Ok((pid, secret)) } else { Err(Malformed::Value) }
}

/// What a server wants to know of who logs in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuthRequest<'a> {
    /// Nothing more: the login is done.
    Ok,
    /// The password in clear.
    CleartextPassword,
    /// What md5 makes of the password and this salt.
    Md5 {
        /// The salt.
        salt: [u8; 4],
    },
    /// A SASL exchange.
    Sasl {
        /// The mechanisms it offers, the preferred one first.
        mechanisms: Vec<&'a [u8]>,
    },
    /// Its part of the exchange.
    SaslContinue(&'a [u8]),
    /// Its last part of the exchange.
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI, or something newer.
    Unsupported(u32),
}

/// The request in an Authentication message (tag `R`).
pub fn authentication(body: &[u8]) -> Result<AuthRequest<'_>, Malformed> {
    let mut reader = Reader::new(body);
    let request = match reader.u32()? {
        0 => AuthRequest::Ok,
        3 => AuthRequest::CleartextPassword,
        5 => AuthRequest::Md5 { salt: reader.bytes4()? },
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                let mechanism = reader.cstr()?;
                if mechanism.is_empty() {
                    break;
                }
                mechanisms.push(mechanism);
            }
            AuthRequest::Sasl { mechanisms }
        }
        11 => return Ok(AuthRequest::SaslContinue(reader.rest())),
        12 => return Ok(AuthRequest::SaslFinal(reader.rest())),
        code => return Ok(AuthRequest::Unsupported(code)),
    };
    reader.end()?;
    Ok(request)
}

/// The transaction status in a `ReadyForQuery`: `I`, `T` or `E`.
#[inline]
pub fn ready_status(body: &[u8]) -> Result<u8, Malformed> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        [_] => Err(Malformed::Value),
        [] => Err(Malformed::Short),
        [_, _, ..] => Err(Malformed::Trailing),
    }
}

/// The tag in a `CommandComplete`: `SELECT 5`.
pub fn command_tag(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let tag = reader.cstr()?;
    reader.end()?;
    Ok(tag)
}

/// The values of a `DataRow`, `None` for NULL. The whole row is checked first.
pub fn data_row(body: &[u8]) -> Result<Values<'_>, Malformed> {
    let mut reader = Reader::new(body);
    let left = reader.u16()?;
    let values = Values { reader, left };
    for _ in 0..left {
        reader.value()?;
    }
    reader.end()?;
    Ok(values)
}

/// The values of a row.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.reader.value().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        AuthRequest, ErrorView, authentication, command_tag, data_row, key_data, parameter_status,
        ready_status,
    };
    use crate::frame::Malformed;

    #[test]
    fn an_error_is_read_by_its_letters() {
        let view = ErrorView::new(b"SFEHLER\0VERROR\0C57014\0Mcanceled\0\0");
        assert_eq!(view.severity(), Some(&b"ERROR"[..]));
        assert_eq!(view.code(), Some(&b"57014"[..]));
        assert_eq!(view.message(), Some(&b"canceled"[..]));
        assert_eq!(view.field(b'H'), None);
        assert_eq!(view.fields().count(), 4);
        assert!(!view.is_fatal());
        assert!(ErrorView::new(b"SFATAL\0\0").is_fatal());
    }

    #[test]
    fn an_error_without_code_or_end_is_only_incomplete() {
        for body in [&b""[..], b"\0", b"C", b"C57014", b"\0C57014\0"] {
            assert_eq!(ErrorView::new(body).code(), None, "{body:?}");
        }
    }

    #[test]
    fn login_requests_are_told_apart() {
        let judge = |code: u32, rest: &[u8]| {
            let body = [&code.to_be_bytes(), rest].concat();
            authentication(&body).map(|request| format!("{request:?}"))
        };
        let text = |request: AuthRequest<'_>| Ok(format!("{request:?}"));
        assert_eq!(judge(0, b""), text(AuthRequest::Ok));
        assert_eq!(judge(3, b""), text(AuthRequest::CleartextPassword));
        assert_eq!(judge(5, b"salt"), text(AuthRequest::Md5 { salt: *b"salt" }));
        let mechanisms = vec![&b"A"[..], b"B"];
        assert_eq!(judge(10, b"A\0B\0\0"), text(AuthRequest::Sasl { mechanisms }));
        assert_eq!(judge(11, b"r=1"), text(AuthRequest::SaslContinue(b"r=1")));
        assert_eq!(judge(12, b"v=1"), text(AuthRequest::SaslFinal(b"v=1")));
        assert_eq!(judge(7, b"?"), text(AuthRequest::Unsupported(7)));

        assert_eq!(judge(0, b"more"), Err(Malformed::Trailing));
        assert_eq!(judge(5, b"sal"), Err(Malformed::Short));
        assert_eq!(judge(10, b"A\0B\0"), Err(Malformed::Unterminated));
        assert_eq!(authentication(b"\0\0"), Err(Malformed::Short));
    }

    #[test]
    fn a_transaction_has_three_states() {
        for status in *b"ITE" {
            assert_eq!(ready_status(&[status]), Ok(status));
        }
        assert_eq!(ready_status(b"X"), Err(Malformed::Value));
        assert_eq!(ready_status(b""), Err(Malformed::Short));
        assert_eq!(ready_status(b"II"), Err(Malformed::Trailing));
    }

    #[test]
    fn rows_are_checked_before_they_are_read() {
        let row = data_row(b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0").unwrap();
        assert_eq!(row.collect::<Vec<_>>(), [Some(&b"a"[..]), None, Some(b"")]);
        for body in [&b"\0"[..], b"\0\x01", b"\0\x01\0\0\0\x02a", b"\0\0a", b"\0\x01\xff\0\0\0"] {
            assert!(data_row(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn names_keys_and_tags_are_read_to_their_end() {
        assert_eq!(parameter_status(b"a\0b\0"), Ok((&b"a"[..], &b"b"[..])));
        assert_eq!(parameter_status(b"a\0b"), Err(Malformed::Unterminated));
        assert_eq!(key_data(b"\0\0\0\x07abcd"), Ok((7, &b"abcd"[..])));
        assert_eq!(key_data(b"\0\0\0\x07abc"), Err(Malformed::Value));
        assert_eq!(key_data(&[1; 4 + 257]), Err(Malformed::Value));
        assert_eq!(command_tag(b"SELECT 5\0"), Ok(&b"SELECT 5"[..]));
        assert_eq!(command_tag(b""), Err(Malformed::Unterminated));
    }
}
