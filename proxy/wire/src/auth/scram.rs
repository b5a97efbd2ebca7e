//! SCRAM-SHA-256 (RFC 5802, RFC 7677): keys, verifiers, and the grammar both sides share.
//!
//! ```text
//!  client                                                   server
//!    n,,n=,r=<client nonce>                            ->
//!                                                      <-   r=<both nonces>,s=<salt>,i=<count>
//!    c=biws,r=<both nonces>,p=<proof of ClientKey>     ->
//!                                                      <-   v=<proof of ServerKey>
//! ```
//!
//! The password is stretched to `SaltedPassword` (slow on purpose), which gives `ClientKey` and
//! `ServerKey`. A verifier holds a hash of the first and the second as it is. A proof gives the
//! `ClientKey` away to whoever holds the verifier: that is how pgring logs in to a server with
//! the same verifier without ever seeing a password.

pub mod client;
pub mod server;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use subtle::ConstantTimeEq;

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The longest message of an exchange that is looked at, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// The most rounds a server may ask of us: it is our CPU that it spends.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// The rounds of a verifier made by `PostgreSQL` or pgring, unless told otherwise.
pub const ITERATIONS_DEFAULT: u32 = 4096;

/// The longest salt, in bytes. `PostgreSQL` makes 16.
pub const SALT_MAX: usize = 256;

/// A key of the exchange.
pub type Key = [u8; 32];

/// Why an exchange ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScramError {
    /// A message is not what the grammar says.
    Malformed,
    /// A message is longer than [`MESSAGE_MAX`].
    TooLong,
    /// A message came that is not next.
    OutOfOrder,
    /// Channel binding is asked for or pretended, and was not offered.
    ChannelBinding,
    /// An identity beside the user is asked for, or an extension pgring does not know.
    Unsupported,
    /// The nonce is not the one of this exchange.
    Nonce,
    /// More rounds are asked for than [`ITERATIONS_MAX`], or none.
    Iterations,
    /// The proof is wrong: the client does not know the password, or the server does not.
    Proof,
    /// The server says that the login failed.
    Refused,
}

impl ScramError {
    /// The code a client is told.
    pub const fn sqlstate(self) -> &'static str {
        match self {
            Self::Proof | Self::Refused => "28P01",
            Self::Unsupported => "0A000",
            Self::ChannelBinding => "28000",
            Self::Malformed | Self::TooLong | Self::OutOfOrder | Self::Nonce | Self::Iterations => {
                "08P01"
            }
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed SCRAM message",
            Self::TooLong => "SCRAM message is too long",
            Self::OutOfOrder => "SCRAM message is out of order",
            Self::ChannelBinding => "SCRAM channel binding does not match what was offered",
            Self::Unsupported => "SCRAM message asks for something not supported",
            Self::Nonce => "SCRAM nonce does not match",
            Self::Iterations => "SCRAM iteration count is out of range",
            Self::Proof => "SCRAM proof does not match",
            Self::Refused => "SCRAM login was refused",
        })
    }
}

impl core::error::Error for ScramError {}

/// What a server holds instead of a password.
#[derive(Clone)]
pub struct Verifier {
    /// Rounds of the key derivation.
    pub iterations: u32,
    /// The salt.
    pub salt: Vec<u8>,
    /// The hash of `ClientKey`.
    pub stored_key: Key,
    /// `ServerKey`.
    pub server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        self.iterations == other.iterations
            && self.salt == other.salt
            && bool::from(
                self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key),
            )
    }
}

impl Eq for Verifier {}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (rounds, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = rounds.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: iterations_of(iterations.as_bytes()).ok()?,
            salt: salt_of(salt.as_bytes()).ok()?,
            stored_key: key_of(stored_key.as_bytes()).ok()?,
            server_key: key_of(server_key.as_bytes()).ok()?,
        })
    }

    /// The verifier of a password: as slow as [`salted_password`].
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        Self::from_salted(&salted_password(password, salt, iterations), salt, iterations)
    }

    /// The verifier of a password that is salted already.
    pub fn from_salted(salted: &Key, salt: &[u8], iterations: u32) -> Self {
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&hmac(salted, &[b"Client Key"])),
            server_key: hmac(salted, &[b"Server Key"]),
        }
    }

    /// A verifier for a user that does not exist: always the same for the same name, so that it
    /// cannot be told from a real one, and with keys nobody can prove.
    pub fn mock(secret: &[u8; 32], user: &[u8]) -> Self {
        let salt = hmac(secret, &[b"salt", user]);
        let (salt, _) = salt.split_at(16);
        Self {
            iterations: ITERATIONS_DEFAULT,
            salt: salt.to_vec(),
            stored_key: hmac(secret, &[b"stored key", user]),
            server_key: hmac(secret, &[b"server key", user]),
        }
    }

    /// Whether `password` is the one this was made of. As slow as [`salted_password`].
    pub fn verify(&self, password: &[u8]) -> bool {
        let other = Self::derive(password, &self.salt, self.iterations);
        other.server_key.ct_eq(&self.server_key).into()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] = [&self.salt[..], &self.stored_key, &self.server_key]
            .map(|bytes| STANDARD.encode(bytes));
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// `SaltedPassword`: milliseconds at the usual 4096 rounds, so never on a thread that serves.
///
/// The password is prepared first ([`prepared`]); to prepare it twice changes nothing.
pub fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(&prepared(password), salt, iterations)
}

/// A password by the rules of `SASLprep` (RFC 4013), or as it is where it breaks them: old
/// passwords need not be UTF-8, and `PostgreSQL` falls back in the same way.
pub fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    let Some(text) = core::str::from_utf8(password).ok() else {
        return Cow::Borrowed(password);
    };
    match stringprep::saslprep(text) {
        Ok(Cow::Owned(prepared)) if !prepared.is_empty() => Cow::Owned(prepared.into_bytes()),
        Ok(_) | Err(_) => Cow::Borrowed(password),
    }
}

/// `HMAC-SHA-256` over parts.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(crate) fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

pub(crate) fn xor(one: &Key, two: &Key) -> Key {
    let mut result = *one;
    for (byte, other) in result.iter_mut().zip(two) {
        *byte ^= other;
    }
    result
}

/// The value of the next attribute, which must be `name`; `message` moves behind its comma.
fn attribute<'a>(message: &mut &'a [u8], name: u8) -> Result<&'a [u8], ScramError> {
    let (found, value) = any_attribute(message)?;
    if found != name {
        // `m` stands for extensions that must not be ignored.
        return Err(if found == b'm' { ScramError::Unsupported } else { ScramError::Malformed });
    }
    Ok(value)
}

/// Name and value of the next attribute, whatever it is.
fn any_attribute<'a>(message: &mut &'a [u8]) -> Result<(u8, &'a [u8]), ScramError> {
    let mut parts = message.splitn(2, |&byte| byte == b',');
    let whole = parts.next().unwrap_or_default();
    *message = parts.next().unwrap_or_default();
    match whole {
        [name, b'=', value @ ..] if name.is_ascii_alphabetic() && !value.contains(&0) => {
            Ok((*name, value))
        }
        _ => Err(ScramError::Malformed),
    }
}

/// Passes over attributes nobody has to know.
fn ignored_attributes(mut message: &[u8]) -> Result<(), ScramError> {
    while !message.is_empty() {
        any_attribute(&mut message)?;
    }
    Ok(())
}

/// Checks that a nonce is printable, without a comma, and long enough to be one.
fn nonce_of(value: &[u8]) -> Result<&[u8], ScramError> {
    let printable = value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',');
    if value.is_empty() || !printable { Err(ScramError::Malformed) } else { Ok(value) }
}

fn iterations_of(value: &[u8]) -> Result<u32, ScramError> {
    let text = core::str::from_utf8(value).map_err(|_| ScramError::Malformed)?;
    // `parse` takes a sign, the grammar does not.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ScramError::Malformed);
    }
    let count = text.parse().map_err(|_| ScramError::Iterations)?;
    if (1..=ITERATIONS_MAX).contains(&count) { Ok(count) } else { Err(ScramError::Iterations) }
}

fn salt_of(value: &[u8]) -> Result<Vec<u8>, ScramError> {
    let salt = STANDARD.decode(value).map_err(|_| ScramError::Malformed)?;
    let fits = (1..=SALT_MAX).contains(&salt.len());
    if fits { Ok(salt) } else { Err(ScramError::Malformed) }
}

fn key_of(value: &[u8]) -> Result<Key, ScramError> {
    let key = STANDARD.decode(value).map_err(|_| ScramError::Malformed)?;
    key.try_into().map_err(|_| ScramError::Malformed)
}

/// The three messages both proofs are about.
fn auth_message<'a>(first: &'a [u8], second: &'a [u8], third: &'a [u8]) -> [&'a [u8]; 5] {
    [first, b",", second, b",", third]
}

#[cfg(test)]
mod tests {
    use super::{ScramError, Verifier, iterations_of, prepared, salted_password};

    #[test]
    fn a_verifier_is_written_as_postgresql_writes_it() {
        let verifier = Verifier::derive(b"pencil", b"W\"\x93\xe5", 4096);
        let text = verifier.to_string();
        assert!(text.starts_with("SCRAM-SHA-256$4096:"));
        let read = Verifier::parse(&text).unwrap();
        assert_eq!(read, verifier);
        assert!(read.verify(b"pencil"));
        assert!(!read.verify(b"Pencil"));
        assert_eq!(format!("{read:?}"), "Verifier");
    }

    #[test]
    fn what_is_not_a_verifier_is_not_read_as_one() {
        let good = Verifier::derive(b"x", b"salt", 1).to_string();
        assert!(Verifier::parse(&good).is_some());
        for bad in [
            good.replace("SCRAM-SHA-256$1:", "SCRAM-SHA-256$0:"),
            good.replace("SCRAM-SHA-256$1:", "SCRAM-SHA-256$+1:"),
            good.replace("SCRAM-SHA-256$1:", "SCRAM-SHA-256$1000001:"),
            good.replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
            good.replace('=', ""),
            format!("{good}:"),
            good.chars().take(60).collect(),
        ] {
            assert!(Verifier::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn rounds_are_bounded() {
        assert_eq!(iterations_of(b"4096"), Ok(4096));
        assert_eq!(iterations_of(b"1000000"), Ok(1_000_000));
        for bad in [&b"0"[..], b"1000001", b"99999999999999999999"] {
            assert_eq!(iterations_of(bad), Err(ScramError::Iterations));
        }
        for bad in [&b""[..], b"-1", b"+1", b" 1", b"1x", b"\xff"] {
            assert_eq!(iterations_of(bad), Err(ScramError::Malformed));
        }
    }

    #[test]
    fn passwords_are_prepared_where_the_rules_allow_it() {
        assert_eq!(&prepared(b"I\xc2\xadX")[..], b"IX"); // A soft hyphen goes.
        assert_eq!(&prepared("\u{2168}".as_bytes())[..], b"IX"); // A Roman numeral is spelt out.
        assert_eq!(&prepared(b"\x07")[..], b"\x07"); // Prohibited: as it is.
        assert_eq!(&prepared(b"\xff\xfe")[..], b"\xff\xfe"); // Not UTF-8: as it is.
        assert_eq!(&prepared(b"\xc2\xad")[..], b"\xc2\xad"); // Nothing would be left.
        let once = prepared("\u{2168}é".as_bytes()).into_owned();
        assert_eq!(salted_password(&once, b"s", 1), salted_password("IXé".as_bytes(), b"s", 1));
    }

    #[test]
    fn an_unknown_user_keeps_its_salt() {
        let one = Verifier::mock(&[1; 32], b"ann");
        assert_eq!(one, Verifier::mock(&[1; 32], b"ann"));
        assert_ne!(one.salt, Verifier::mock(&[1; 32], b"bob").salt);
        assert_ne!(one.salt, Verifier::mock(&[2; 32], b"ann").salt);
        assert_eq!((one.salt.len(), one.iterations), (16, 4096));
    }
}
