//! Writing what a client says, towards a server.
//!
//! Every function appends one message to `out`.

use crate::frame::{FrameError, LENGTH_MAX, cstr, message, untagged};
use crate::startup::{CODE_CANCEL, CODE_SSL};

/// `StartupMessage` of version `major.minor`.
pub fn startup<'a>(
    out: &mut Vec<u8>,
    major: u16,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    untagged(out, |out| {
        out.extend_from_slice(&major.to_be_bytes());
        out.extend_from_slice(&minor.to_be_bytes());
        for (name, value) in parameters {
            cstr(out, name.as_bytes());
            cstr(out, value.as_bytes());
        }
        out.push(0);
    });
}

/// `SSLRequest`.
pub fn ssl_request(out: &mut Vec<u8>) {
    untagged(out, |out| out.extend_from_slice(&CODE_SSL.to_be_bytes()));
}

/// `CancelRequest`: all that a connection of its own ever sends.
pub fn cancel_request(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    untagged(out, |out| {
        out.extend_from_slice(&CODE_CANCEL.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Query.
pub fn query(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    message(out, b'Q', |out| cstr(out, text.as_ref()));
}

/// Parse of a statement under another name: `body_after_name` as in [`super::Parse`].
///
/// Refused if the other name makes it too long for a server.
pub fn parse(out: &mut Vec<u8>, name: &[u8], body_after_name: &[u8]) -> Result<(), FrameError> {
    header_before(out, b'P', &[name], body_after_name.len())?;
    out.extend_from_slice(body_after_name);
    Ok(())
}

/// Tag, length and names of a Bind; `rest_len` bytes of formats and values must follow.
///
/// Refused if other names make it too long for a server.
pub fn bind_header(
    out: &mut Vec<u8>,
    portal: &[u8],
    statement: &[u8],
    rest_len: usize,
) -> Result<(), FrameError> {
    header_before(out, b'B', &[portal, statement], rest_len)
}

fn header_before(
    out: &mut Vec<u8>,
    tag: u8,
    names: &[&[u8]],
    rest_len: usize,
) -> Result<(), FrameError> {
    let start = out.len();
    message(out, tag, |out| names.iter().for_each(|name| cstr(out, name)));
    // Without the tag, which the length does not count.
    let written = out.len().saturating_sub(start).saturating_sub(1);
    let length = u32::try_from(written.saturating_add(rest_len)).unwrap_or(u32::MAX);
    if length > LENGTH_MAX {
        out.truncate(start);
        return Err(FrameError::LengthTooLong { tag, length, length_max: LENGTH_MAX });
    }
    let field = out.get_mut(start.saturating_add(1)..).and_then(|tail| tail.first_chunk_mut());
    if let Some(field) = field {
        *field = length.to_be_bytes();
    }
    Ok(())
}

/// Bind of a statement without parameters, results as text.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8]) {
    message(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, statement);
        out.extend_from_slice(&[0; 6]);
    });
}

/// Describe of a statement (`b'S'`) or portal (`b'P'`).
pub fn describe(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    target(out, b'D', kind, name);
}

/// Close of a statement (`b'S'`) or portal (`b'P'`).
pub fn close(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    target(out, b'C', kind, name);
}

fn target(out: &mut Vec<u8>, tag: u8, kind: u8, name: &[u8]) {
    message(out, tag, |out| {
        out.push(kind);
        cstr(out, name);
    });
}

/// Execute, all rows.
pub fn execute(out: &mut Vec<u8>, portal: &[u8]) {
    message(out, b'E', |out| {
        cstr(out, portal);
        out.extend_from_slice(&[0; 4]);
    });
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, b'S', |_| ());
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(out, b'H', |_| ());
}

/// `CopyFail`: the copy is given up, for this reason.
pub fn copy_fail(out: &mut Vec<u8>, reason: &str) {
    message(out, b'f', |out| cstr(out, reason.as_bytes()));
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, b'X', |_| ());
}

/// `PasswordMessage`: in clear, or the answer to an md5 request.
pub fn password(out: &mut Vec<u8>, password: &[u8]) {
    message(out, b'p', |out| cstr(out, password));
}

/// `SASLInitialResponse`.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, b'p', |out| {
        cstr(out, mechanism.as_bytes());
        let len = i32::try_from(data.len()).expect("SCRAM messages are short");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// `SASLResponse`.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'p', |out| out.extend_from_slice(data));
}

#[cfg(test)]
mod tests {
    use super::{
        bind, bind_header, cancel_request, close, describe, execute, parse, query, startup, sync,
        terminate,
    };
    use crate::client::{Execute, Parse, Target, bind_names};
    use crate::frame::{LENGTH_MAX, Malformed, header};
    use crate::startup::{Packet, StartupError, packet};

    /// The one message in `bytes`, checked for its length.
    fn only(bytes: &[u8]) -> (u8, &[u8]) {
        let header = header(bytes, LENGTH_MAX).unwrap().unwrap();
        assert_eq!(header.total(), bytes.len());
        (header.tag, &bytes[5..])
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = written(|out| query(out, "select 1"));
        assert_eq!(only(&bytes), (b'Q', &b"select 1\0"[..]));

        let bytes = written(|out| parse(out, b"other", b"select 1\0\0\0").unwrap());
        let (tag, body) = only(&bytes);
        let view = Parse::read(body).unwrap();
        assert_eq!((tag, view.name, view.text), (b'P', &b"other"[..], &b"select 1"[..]));

        let bytes = written(|out| bind(out, b"p", b"s"));
        let (tag, body) = only(&bytes);
        let names = bind_names(body).unwrap();
        assert_eq!((tag, names.portal, names.statement), (b'B', &b"p"[..], &b"s"[..]));

        for (tag, bytes) in [
            (b'D', written(|out| describe(out, b'S', b"s"))),
            (b'C', written(|out| close(out, b'S', b"s"))),
        ] {
            let target = Target { kind: b'S', name: b"s" };
            assert_eq!(only(&bytes).0, tag);
            assert_eq!(Target::read(only(&bytes).1), Ok(target));
        }

        let bytes = written(|out| execute(out, b"p"));
        assert_eq!(Execute::read(only(&bytes).1), Ok(Execute { portal: b"p", rows_max: 0 }));
        assert_eq!(written(sync), b"S\0\0\0\x04");
        assert_eq!(written(terminate), b"X\0\0\0\x04");
    }

    #[test]
    fn the_header_of_a_bind_counts_the_bytes_that_follow() {
        let bytes = written(|out| bind_header(out, b"", b"s7", 1000).unwrap());
        assert_eq!(bytes, b"B\0\0\x03\xf0\0s7\0");
    }

    #[test]
    fn a_longer_name_never_makes_a_message_too_long() {
        let mut out = b"before".to_vec();
        let room = LENGTH_MAX as usize - 4 - 2;
        bind_header(&mut out, b"", b"", room).unwrap();
        out.truncate(6);
        for rest_len in [room + 1, 0xffff_ffff, 0x1_0000_0000, usize::MAX] {
            let error = bind_header(&mut out, b"", b"", rest_len).unwrap_err();
            assert_eq!(error.sqlstate(), "54000");
        }
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_startup_packet_is_read_once_its_last_byte_is_there() {
        let mut bytes = Vec::new();
        startup(&mut bytes, 3, 2, [("user", "ann"), ("database", "bücher")]);
        let used = bytes.len();
        bytes.push(b'x');
        for len in 0..used {
            assert_eq!(packet(&bytes[..len]), Ok(None), "{len}");
        }
        let parameters = vec![("user", "ann"), ("database", "bücher")];
        let expected = Packet::Startup { major: 3, minor: 2, parameters };
        assert_eq!(packet(&bytes), Ok(Some((expected, used))));
    }

    #[test]
    fn a_cancel_secret_has_4_to_256_bytes() {
        for (len, fits) in
            [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)]
        {
            let mut bytes = Vec::new();
            let secret = vec![7; len];
            cancel_request(&mut bytes, 42, &secret);
            let read = packet(&bytes);
            if fits {
                assert_eq!(read, Ok(Some((Packet::Cancel { pid: 42, secret: &secret }, len + 12))));
            } else {
                assert_eq!(read, Err(StartupError::Malformed(Malformed::Value)), "{len}");
            }
        }
    }
}
