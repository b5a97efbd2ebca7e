//! Where one message ends and the next begins, and the fields inside.
//!
//! After startup every message is a tag, a length that counts itself but not the tag, and a body:
//!
//! ```text
//!  +-----+-----+-----+-----+-----+------------------+
//!  | tag |      length (4)       |  length - 4 ...  |
//!  +-----+-----+-----+-----+-----+------------------+
//! ```
//!
//! A frame is cut by its first five bytes alone, so a body of a gigabyte passes through in pieces
//! of any size. Who must look inside a body reads it with a [`Reader`], which cannot run over its
//! end.

use core::fmt;

/// The largest length pgring accepts or writes: what `PostgreSQL` can allocate for one message.
pub const LENGTH_MAX: u32 = 0x3fff_ffff;

/// Tag and length of one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What kind of message it is.
    pub tag: u8,
    /// Its length as sent: the four bytes of the length itself, and the body.
    pub length: u32,
}

impl Header {
    /// Bytes of tag and length.
    pub const SIZE: usize = 5;

    /// Bytes of the whole message, tag included.
    #[inline]
    pub const fn total(self) -> usize {
        (self.length as usize).saturating_add(1)
    }

    /// Bytes of its body.
    #[inline]
    pub const fn body(self) -> usize {
        (self.length as usize).saturating_sub(4)
    }
}

/// Why a byte stream stopped being `PostgreSQL`.
///
/// Every variant is final: the place of the next frame is unknown, so the connection must close.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameError {
    /// The length is smaller than the length field itself.
    LengthTooShort {
        /// The frame's tag.
        tag: u8,
        /// The length as sent.
        length: u32,
    },
    /// The length is larger than this side of the connection may send.
    LengthTooLong {
        /// The frame's tag.
        tag: u8,
        /// The length as sent.
        length: u32,
        /// The largest length allowed here.
        length_max: u32,
    },
}

impl FrameError {
    /// The code a client is told before the connection closes.
    pub const fn sqlstate(self) -> &'static str {
        match self {
            Self::LengthTooShort { .. } => "08P01", // protocol_violation
            Self::LengthTooLong { .. } => "54000",  // program_limit_exceeded
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LengthTooShort { tag, length } => {
                write!(f, "message '{}' has the length {length}", tag.escape_ascii())
            }
            Self::LengthTooLong { tag, length, length_max } => write!(
                f,
                "message '{}' has the length {length}, at most {length_max} is allowed here",
                tag.escape_ascii()
            ),
        }
    }
}

impl core::error::Error for FrameError {}

/// Reads the tag and length that `bytes` begin with; `None` if not all five bytes are there yet.
#[inline]
pub fn header(bytes: &[u8], length_max: u32) -> Result<Option<Header>, FrameError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::LengthTooShort { tag, length });
    }
    if length > length_max {
        return Err(FrameError::LengthTooLong { tag, length, length_max });
    }
    Ok(Some(Header { tag, length }))
}

/// Why the body of a message does not mean anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// A field reaches over the end of the message.
    Short,
    /// A text has no zero byte at its end.
    Unterminated,
    /// Bytes follow the last field.
    Trailing,
    /// A field has a value that it cannot have.
    Value,
}

impl Malformed {
    /// The code a client is told.
    pub const fn sqlstate(self) -> &'static str {
        "08P01" // protocol_violation
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "a field reaches over the end of the message",
            Self::Unterminated => "a text in the message has no zero byte at its end",
            Self::Trailing => "bytes follow the last field of the message",
            Self::Value => "a field of the message has an impossible value",
        })
    }
}

impl core::error::Error for Malformed {}

/// Reads the fields of a complete body, from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `body`.
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (&array, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes, without a sign.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Two bytes, with a sign.
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    /// Four bytes, without a sign.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes, with a sign.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// Four bytes as they are.
    pub fn bytes4(&mut self) -> Result<[u8; 4], Malformed> {
        self.array()
    }

    /// A text up to its zero byte, which is passed over.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed::Unterminated)?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A value with its length before it; a length of -1 is NULL.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| Malformed::Value)?;
                self.take(len).map(Some)
            }
        }
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Says that the last field has been read.
    pub const fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// Appends a message: its tag, its length, and what `body` appends.
///
/// The length is filled in afterwards. A message that pgring says itself is never near
/// [`LENGTH_MAX`]; who lengthens what a client sent checks that first.
pub fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untagged(out, body);
}

/// As [`message`], for the messages of the startup phase, which have no tag.
pub fn untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = out.len().saturating_sub(start);
    let length = u32::try_from(length).expect("pgring writes no message of 4 GiB");
    if let Some(field) = out.get_mut(start..).and_then(|tail| tail.first_chunk_mut()) {
        *field = length.to_be_bytes();
    }
}

/// Appends a text and its zero byte. A zero byte inside ends the text early: it could otherwise
/// begin a field of its own.
pub fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    out.extend_from_slice(text);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::{FrameError, Header, LENGTH_MAX, Malformed, Reader, cstr, header, message};

    #[test]
    fn a_header_needs_five_bytes_and_no_body() {
        for len in 0..5 {
            assert_eq!(header(&b"Q\0\0\0\x08"[..len], LENGTH_MAX), Ok(None));
        }
        let found = header(b"Q\0\0\0\x08", LENGTH_MAX).unwrap().unwrap();
        assert_eq!(found, Header { tag: b'Q', length: 8 });
        assert_eq!((found.total(), found.body()), (9, 4));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_kept() {
        let judge = |length: u32| {
            let [a, b, c, d] = length.to_be_bytes();
            header(&[b'B', a, b, c, d], LENGTH_MAX)
        };
        for length in [0, 1, 3] {
            assert_eq!(judge(length), Err(FrameError::LengthTooShort { tag: b'B', length }));
        }
        for length in [4, 5, LENGTH_MAX] {
            assert_eq!(judge(length), Ok(Some(Header { tag: b'B', length })));
        }
        for length in [LENGTH_MAX + 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let error = judge(length).unwrap_err();
            assert_eq!(error.sqlstate(), "54000");
            assert!(error.to_string().contains("'B'"));
        }
    }

    #[test]
    fn a_reader_never_leaves_its_body() {
        let mut reader = Reader::new(b"\x01\xff\xfe\0\0\0\x02abname\0rest");
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.i16(), Ok(-2));
        assert_eq!(reader.value(), Ok(Some(&b"ab"[..])));
        assert_eq!(reader.cstr(), Ok(&b"name"[..]));
        assert_eq!(reader.cstr(), Err(Malformed::Unterminated));
        assert_eq!(reader.take(5), Err(Malformed::Short));
        assert_eq!(reader.end(), Err(Malformed::Trailing));
        assert_eq!(reader.take(4), Ok(&b"rest"[..]));
        assert_eq!(reader.u32(), Err(Malformed::Short));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(Reader::new(&[0x80, 0, 0, 0]).value(), Err(Malformed::Value));
        assert_eq!(Reader::new(&[0xff; 4]).value(), Ok(None));
    }

    #[test]
    fn a_zero_byte_in_a_text_begins_no_new_field() {
        let mut out = b"before".to_vec();
        message(&mut out, b'X', |out| cstr(out, b"a\0b"));
        assert_eq!(out, b"beforeX\0\0\0\x06a\0");
    }
}
