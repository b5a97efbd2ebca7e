//! Proving who one is: md5 and SCRAM-SHA-256, both sides.
//!
//! ```text
//!  md5            an answer from password, user and salt; MD5 no longer protects anything
//!  scram          keys, verifiers, and the grammar both sides share (RFC 5802, RFC 7677)
//!  scram/server   checks a client            scram/client   logs in to a server
//! ```
//!
//! Nonces and salts are arguments: nothing here draws a random number. Secrets are compared in
//! constant time, and types that hold them have a `Debug` that says nothing.

pub mod md5;
pub mod scram;

use self::scram::Verifier;
use core::fmt;
use subtle::ConstantTimeEq;

/// What a users file holds of a password.
#[derive(Clone, Eq, PartialEq)]
pub enum Stored<'a> {
    /// The password itself.
    Plain(&'a str),
    /// `md5` and the hash of password and user.
    Md5(md5::Hash),
    /// A verifier, from which no password can be had.
    Scram(Verifier),
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Md5(_) => "Md5",
            Self::Scram(_) => "Scram",
        })
    }
}

impl<'a> Stored<'a> {
    /// Tells by its form what `text` is. What only resembles a hash or a verifier is a password.
    pub fn of(text: &'a str) -> Self {
        if let Some(hash) = md5::Hash::parse(text.as_bytes()) {
            Self::Md5(hash)
        } else if let Some(verifier) = Verifier::parse(text) {
            Self::Scram(verifier)
        } else {
            Self::Plain(text)
        }
    }

    /// Whether a password given in clear is the one. As slow as [`scram::salted_password`] if a
    /// verifier is stored.
    pub fn verify(&self, password: &[u8], user: &[u8]) -> bool {
        match self {
            Self::Plain(text) => text.as_bytes().ct_eq(password).into(),
            Self::Md5(hash) => hash.text().ct_eq(md5::Hash::of(password, user).text()).into(),
            Self::Scram(verifier) => verifier.verify(password),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stored;
    use super::md5::Hash;
    use super::scram::Verifier;

    #[test]
    fn passwords_hashes_and_verifiers_are_told_apart_by_their_form() {
        let hash = Hash::of(b"secret", b"ann");
        let text = String::from_utf8(hash.text().to_vec()).unwrap();
        assert_eq!(Stored::of(&text), Stored::Md5(hash));
        let verifier = Verifier::derive(b"secret", b"salt", 4096);
        assert_eq!(Stored::of(&verifier.to_string()), Stored::Scram(verifier));
        for plain in ["", "md5", "md5nothex", "SCRAM-SHA-256$", "SCRAM-SHA-256$x:y$z:w"] {
            assert_eq!(Stored::of(plain), Stored::Plain(plain));
        }
    }

    #[test]
    fn a_password_in_clear_fits_every_form_it_is_stored_in() {
        let hash = Hash::of(b"secret", b"ann");
        let verifier = Verifier::derive(b"secret", b"salt", 4096);
        for stored in [Stored::Plain("secret"), Stored::Md5(hash), Stored::Scram(verifier)] {
            assert!(stored.verify(b"secret", b"ann"), "{stored:?}");
            assert!(!stored.verify(b"secret2", b"ann"), "{stored:?}");
            assert!(!stored.verify(b"", b"ann"), "{stored:?}");
        }
    }
}
