//! What a client says before messages have tags: startup, SSL and GSS requests, cancel.
//!
//! All of them are a length that counts itself, a code, and fields. They come from whoever can
//! reach the port, so their size is bounded before anything is kept.

use crate::frame::{Malformed, Reader};
use core::fmt;

/// The largest packet, length included: `PostgreSQL`'s limit.
pub const LENGTH_MAX: u32 = 10_000;

/// The fewest and the most bytes of a cancel secret (4 in protocol 3.0, up to 256 in 3.2).
pub const SECRET_SIZES: core::ops::RangeInclusive<usize> = 4..=256;

/// Codes that stand where a startup packet has its version; their major number is 1234.
pub(crate) const CODE_CANCEL: u32 = 80_877_102;
pub(crate) const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;

/// One packet of the startup phase.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Packet<'a> {
    /// A session is asked for.
    Startup {
        /// Always 3.
        major: u16,
        /// Any; a newer one than ours is negotiated down.
        minor: u16,
        /// `user`, `database` and settings, in the order sent, repetitions included.
        parameters: Vec<(&'a str, &'a str)>,
    },
    /// TLS is asked for.
    Ssl,
    /// GSSAPI encryption is asked for.
    Gss,
    /// What another connection is doing is to be cancelled.
    Cancel {
        /// As in `BackendKeyData`.
        pid: u32,
        /// As in `BackendKeyData`.
        secret: &'a [u8],
    },
}

/// Why a connection cannot begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StartupError {
    /// No packet is this short or this long; most likely this is another protocol.
    Length {
        /// The length as sent.
        length: u32,
    },
    /// A major version other than 3.
    Version {
        /// The major version as sent.
        major: u16,
        /// The minor version as sent.
        minor: u16,
    },
    /// The fields do not fit the packet.
    Malformed(Malformed),
    /// A parameter's name or value is not UTF-8.
    Encoding,
}

impl StartupError {
    /// The code the client is told before the connection closes.
    pub const fn sqlstate(self) -> &'static str {
        match self {
            Self::Version { .. } => "0A000", // feature_not_supported
            Self::Length { .. } | Self::Malformed(_) | Self::Encoding => "08P01",
        }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { length } => write!(f, "invalid length of startup packet: {length}"),
            Self::Version { major, minor } => {
                write!(f, "unsupported protocol version {major}.{minor}, pgring speaks 3.0 to 3.2")
            }
            Self::Malformed(error) => write!(f, "invalid startup packet: {error}"),
            Self::Encoding => f.write_str("invalid startup packet: a parameter is not UTF-8"),
        }
    }
}

impl core::error::Error for StartupError {}

impl From<Malformed> for StartupError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// Reads the packet that `bytes` begin with, and how many of them it uses; `None` if it is not
/// complete yet. Bytes after it are not looked at.
pub fn packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, StartupError> {
    let Some(&field) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(field);
    if !(8..=LENGTH_MAX).contains(&length) {
        return Err(StartupError::Length { length });
    }
    let used = length as usize;
    let Some(body) = bytes.get(4..used) else {
        return Ok(None);
    };
    let mut reader = Reader::new(body);
    let packet = match reader.u32()? {
        CODE_SSL => {
            reader.end()?;
            Packet::Ssl
        }
        CODE_GSS => {
            reader.end()?;
            Packet::Gss
        }
        CODE_CANCEL => {
            let pid = reader.u32()?;
            let secret = reader.rest();
            if !SECRET_SIZES.contains(&secret.len()) {
                return Err(Malformed::Value.into());
            }
            Packet::Cancel { pid, secret }
        }
        version => startup(version, reader)?,
    };
    Ok(Some((packet, used)))
}

fn startup(version: u32, mut reader: Reader<'_>) -> Result<Packet<'_>, StartupError> {
    let [a, b, c, d] = version.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        return Err(StartupError::Version { major, minor });
    }
    let text = |bytes| core::str::from_utf8(bytes).map_err(|_| StartupError::Encoding);
    let mut parameters = Vec::new();
    loop {
        let name = reader.cstr()?;
        if name.is_empty() {
            break;
        }
        parameters.push((text(name)?, text(reader.cstr()?)?));
    }
    reader.end()?;
    Ok(Packet::Startup { major, minor, parameters })
}

#[cfg(test)]
mod tests {
    use super::{Packet, StartupError, packet};
    use crate::frame::Malformed;

    fn packed(code: [u16; 2], body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
        bytes.extend(code.iter().flat_map(|half| half.to_be_bytes()));
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn requests_without_fields_have_none() {
        assert_eq!(packet(&packed([1234, 5679], b"")), Ok(Some((Packet::Ssl, 8))));
        assert_eq!(packet(&packed([1234, 5680], b"")), Ok(Some((Packet::Gss, 8))));
        let error = StartupError::Malformed(Malformed::Trailing);
        assert_eq!(packet(&packed([1234, 5679], b"x")), Err(error));
    }

    #[test]
    fn other_protocols_and_versions_are_turned_away_by_their_first_bytes() {
        let http = u32::from_be_bytes(*b"GET ");
        assert_eq!(packet(b"GET / HTTP/1.1"), Err(StartupError::Length { length: http }));
        for length in [0u32, 7, 10_001, u32::MAX] {
            let error = StartupError::Length { length };
            assert_eq!(packet(&length.to_be_bytes()), Err(error));
            assert_eq!(error.sqlstate(), "08P01");
        }
        let error = packet(&packed([2, 0], &[0; 288])).unwrap_err();
        assert_eq!(error, StartupError::Version { major: 2, minor: 0 });
        assert_eq!(error.sqlstate(), "0A000");
    }

    #[test]
    fn broken_parameters_are_refused() {
        let judge = |body: &[u8]| packet(&packed([3, 0], body)).map(|_| ()).unwrap_err();
        assert_eq!(judge(b""), Malformed::Unterminated.into());
        assert_eq!(judge(b"user\0ann\0"), Malformed::Unterminated.into());
        assert_eq!(judge(b"user\0ann"), Malformed::Unterminated.into());
        assert_eq!(judge(b"user\0ann\0\0more"), Malformed::Trailing.into());
        assert_eq!(judge(b"user\0\xff\0\0"), StartupError::Encoding);
    }
}
