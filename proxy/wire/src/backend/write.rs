//! Writing what a server says, towards a client.
//!
//! Every function appends one message to `out`. What pgring says itself is short; a count that
//! does not fit its field is a bug of ours.

use crate::frame::{cstr, message};

/// An Authentication message: its code, and what `rest` appends.
fn authentication(out: &mut Vec<u8>, code: u32, rest: impl FnOnce(&mut Vec<u8>)) {
    message(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        rest(out);
    });
}

/// `AuthenticationOk`.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, |_| ());
}

/// `AuthenticationCleartextPassword`.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    authentication(out, 3, |_| ());
}

/// `AuthenticationMD5Password`.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, |out| out.extend_from_slice(&salt));
}

/// `AuthenticationSASL`, the preferred mechanism first.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    authentication(out, 10, |out| {
        for mechanism in mechanisms {
            cstr(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// `AuthenticationSASLContinue`.
pub fn sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, |out| out.extend_from_slice(data));
}

/// `AuthenticationSASLFinal`.
pub fn sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, |out| out.extend_from_slice(data));
}

/// `ParameterStatus`.
pub fn parameter_status(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    message(out, b'S', |out| {
        cstr(out, name.as_ref());
        cstr(out, value.as_ref());
    });
}

/// `BackendKeyData`.
pub fn backend_key_data(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    message(out, b'K', |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// `NegotiateProtocolVersion`: the newest minor version of protocol 3 spoken here, and the
/// `_pq_.` options not known here. The field holds major and minor, as servers send it.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, newest_minor: u16, unknown: &[&str]) {
    message(out, b'v', |out| {
        out.extend_from_slice(&3u16.to_be_bytes());
        out.extend_from_slice(&newest_minor.to_be_bytes());
        let count = u32::try_from(unknown.len()).expect("a startup packet has few options");
        out.extend_from_slice(&count.to_be_bytes());
        for option in unknown {
            cstr(out, option.as_bytes());
        }
    });
}

/// `ReadyForQuery` with the transaction status `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    debug_assert!(matches!(status, b'I' | b'T' | b'E'), "a transaction has three states");
    message(out, b'Z', |out| out.push(status));
}

/// `ParseComplete`.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, b'1', |_| ());
}

/// `BindComplete`.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(out, b'2', |_| ());
}

/// `CloseComplete`.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, b'3', |_| ());
}

/// `NoData`.
pub fn no_data(out: &mut Vec<u8>) {
    message(out, b'n', |_| ());
}

/// `EmptyQueryResponse`.
pub fn empty_query_response(out: &mut Vec<u8>) {
    message(out, b'I', |_| ());
}

/// `PortalSuspended`.
pub fn portal_suspended(out: &mut Vec<u8>) {
    message(out, b's', |_| ());
}

/// `CommandComplete`.
pub fn command_complete(out: &mut Vec<u8>, tag: impl AsRef<[u8]>) {
    message(out, b'C', |out| cstr(out, tag.as_ref()));
}

/// `ParameterDescription`.
pub fn parameter_description(out: &mut Vec<u8>, oids: &[u32]) {
    message(out, b't', |out| {
        count(out, oids.len());
        for oid in oids {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// One column of a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// The object id of its type: 25 is text, 20 is bigint.
    pub type_oid: u32,
    /// The size of its type; -1 if it varies.
    pub type_len: i16,
}

impl<'a> Column<'a> {
    /// A column of type text.
    pub const fn text(name: &'a str) -> Self {
        Self { name, type_oid: 25, type_len: -1 }
    }
}

/// `RowDescription`; the values come as text and belong to no table.
pub fn row_description(out: &mut Vec<u8>, columns: &[Column<'_>]) {
    message(out, b'T', |out| {
        count(out, columns.len());
        for column in columns {
            cstr(out, column.name.as_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&column.type_oid.to_be_bytes());
            out.extend_from_slice(&column.type_len.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&[0; 2]);
        }
    });
}

/// `DataRow`; `None` is NULL.
pub fn data_row(out: &mut Vec<u8>, values: &[Option<&[u8]>]) {
    message(out, b'D', |out| {
        count(out, values.len());
        for value in values {
            let len = value.map_or(-1, |value| {
                i32::try_from(value.len()).expect("a value of the console is short")
            });
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(value.unwrap_or_default());
        }
    });
}

fn count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("a row of the console has few columns");
    out.extend_from_slice(&count.to_be_bytes());
}

/// What an error or notice says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ErrorText<'a> {
    /// ERROR, FATAL, WARNING, NOTICE...
    pub severity: &'a str,
    /// The SQLSTATE.
    pub code: &'a str,
    /// One line for a person.
    pub message: &'a str,
    /// More of what happened.
    pub detail: Option<&'a str>,
    /// What can be done about it.
    pub hint: Option<&'a str>,
}

impl<'a> ErrorText<'a> {
    /// The statement fails, the session stays.
    pub const fn error(code: &'a str, message: &'a str) -> Self {
        Self { severity: "ERROR", code, message, detail: None, hint: None }
    }

    /// The connection closes.
    pub const fn fatal(code: &'a str, message: &'a str) -> Self {
        Self { severity: "FATAL", code, message, detail: None, hint: None }
    }

    /// The same with more of what happened.
    #[must_use]
    pub const fn with_detail(self, detail: &'a str) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// The same with what can be done about it.
    #[must_use]
    pub const fn with_hint(self, hint: &'a str) -> Self {
        Self { hint: Some(hint), ..self }
    }
}

/// `ErrorResponse`.
pub fn error(out: &mut Vec<u8>, text: &ErrorText<'_>) {
    report(out, b'E', text);
}

/// `NoticeResponse`.
pub fn notice(out: &mut Vec<u8>, text: &ErrorText<'_>) {
    report(out, b'N', text);
}

fn report(out: &mut Vec<u8>, tag: u8, text: &ErrorText<'_>) {
    let fields = [
        (b'S', Some(text.severity)),
        (b'V', Some(text.severity)),
        (b'C', Some(text.code)),
        (b'M', Some(text.message)),
        (b'D', text.detail),
        (b'H', text.hint),
    ];
    message(out, tag, |out| {
        for (letter, value) in fields {
            if let Some(value) = value {
                out.push(letter);
                cstr(out, value.as_bytes());
            }
        }
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::{
        Column, ErrorText, authentication_md5, authentication_ok, authentication_sasl,
        backend_key_data, command_complete, data_row, error, negotiate_protocol_version,
        parameter_description, parameter_status, ready_for_query, row_description, sasl_final,
    };
    use crate::backend::{self, AuthRequest, ErrorView};
    use crate::frame::{LENGTH_MAX, header};

    /// Writes one message and gives its tag and body to `check`.
    fn round(write: impl FnOnce(&mut Vec<u8>), check: impl FnOnce(u8, &[u8])) {
        let mut out = b"before".to_vec();
        write(&mut out);
        let header = header(&out[6..], LENGTH_MAX).unwrap().unwrap();
        assert_eq!(header.total(), out.len() - 6);
        check(header.tag, &out[11..]);
    }

    #[test]
    fn login_messages_are_read_back() {
        let login = |write: &dyn Fn(&mut Vec<u8>), expected: AuthRequest<'_>| {
            round(write, |tag, body| {
                assert_eq!(tag, b'R');
                assert_eq!(backend::authentication(body), Ok(expected));
            });
        };
        login(&authentication_ok, AuthRequest::Ok);
        login(&|out| authentication_md5(out, *b"salt"), AuthRequest::Md5 { salt: *b"salt" });
        let mechanisms = vec![&b"SCRAM-SHA-256"[..]];
        login(
            &|out| authentication_sasl(out, &["SCRAM-SHA-256"]),
            AuthRequest::Sasl { mechanisms },
        );
        login(&|out| sasl_final(out, b"v=x"), AuthRequest::SaslFinal(b"v=x"));
        round(
            |out| backend_key_data(out, 7, &[9; 32]),
            |tag, body| {
                assert_eq!(tag, b'K');
                assert_eq!(backend::key_data(body), Ok((7, &[9; 32][..])));
            },
        );
        round(
            |out| parameter_status(out, "TimeZone", "UTC"),
            |_, body| {
                assert_eq!(backend::parameter_status(body), Ok((&b"TimeZone"[..], &b"UTC"[..])));
            },
        );
        round(
            |out| negotiate_protocol_version(out, 2, &["_pq_.x"]),
            |tag, body| assert_eq!((tag, body), (b'v', &b"\0\x03\0\x02\0\0\0\x01_pq_.x\0"[..])),
        );
    }

    #[test]
    fn rows_are_read_back() {
        round(
            |out| data_row(out, &[Some(b"a"), None]),
            |tag, body| {
                let values: Vec<_> = backend::data_row(body).unwrap().collect();
                assert_eq!((tag, values), (b'D', vec![Some(&b"a"[..]), None]));
            },
        );
        round(
            |out| row_description(out, &[Column::text("name")]),
            |tag, body| {
                let expected = b"\0\x01name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
                assert_eq!((tag, body), (b'T', &expected[..]));
            },
        );
        round(
            |out| parameter_description(out, &[23]),
            |tag, body| assert_eq!((tag, body), (b't', &b"\0\x01\0\0\0\x17"[..])),
        );
        round(
            |out| command_complete(out, "SELECT 1"),
            |tag, body| {
                assert_eq!((tag, backend::command_tag(body)), (b'C', Ok(&b"SELECT 1"[..])));
            },
        );
        round(
            |out| ready_for_query(out, b'I'),
            |tag, body| assert_eq!((tag, backend::ready_status(body)), (b'Z', Ok(b'I'))),
        );
    }

    #[test]
    fn an_error_says_code_message_and_hint() {
        let text = ErrorText::fatal("53300", "too many clients").with_hint("raise clients_max");
        round(
            |out| error(out, &text),
            |tag, body| {
                let view = ErrorView::new(body);
                assert_eq!(tag, b'E');
                assert!(view.is_fatal());
                assert_eq!(view.code(), Some(&b"53300"[..]));
                assert_eq!(view.message(), Some(&b"too many clients"[..]));
                assert_eq!(view.field(b'D'), None);
                assert_eq!(view.field(b'H'), Some(&b"raise clients_max"[..]));
            },
        );
    }
}
