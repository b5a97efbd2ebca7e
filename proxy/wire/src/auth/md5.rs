//! The md5 method: a hash of password and user is the secret, and is hashed again with a salt.
//!
//! Who has the stored hash can log in, and MD5 is broken besides: only for what cannot yet be
//! moved to SCRAM.

use core::fmt;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// `md5` and 32 hexadecimal digits: what is stored, and what crosses the wire.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Hash([u8; 35]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

impl Hash {
    /// What is stored for a user with this password.
    pub fn of(password: &[u8], user: &[u8]) -> Self {
        Self::hashed(password, user)
    }

    /// A stored hash as written in a users file; its digits may be of either case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut text: [u8; 35] = text.try_into().ok()?;
        let digits = text.strip_prefix(b"md5")?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        text.make_ascii_lowercase();
        Some(Self(text))
    }

    /// What the client answers to a request with this salt.
    #[must_use]
    pub fn answer(&self, salt: [u8; 4]) -> Self {
        let (_, digits) = self.0.split_at(3);
        Self::hashed(digits, &salt)
    }

    /// Whether `answer` is what a client that knows the password answers. Takes the same time
    /// for every answer of the right length.
    pub fn verify(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        self.answer(salt).0[..].ct_eq(answer).into()
    }

    /// As it is written.
    pub const fn text(&self) -> &[u8; 35] {
        &self.0
    }

    fn hashed(one: &[u8], two: &[u8]) -> Self {
        let digest = Md5::new().chain_update(one).chain_update(two).finalize();
        let mut text = *b"md5-32-hexadecimal-digits-come-here";
        let digits = text.iter_mut().skip(3);
        let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        for (digit, nibble) in digits.zip(nibbles) {
            let nibble = u32::from(nibble);
            *digit =
                char::from_digit(nibble, 16).and_then(|c| u8::try_from(c).ok()).unwrap_or(b'0');
        }
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Hash;

    #[test]
    fn the_stored_hash_is_md5_of_password_and_user() {
        // MD5("abc"), from RFC 1321.
        let hash = Hash::of(b"ab", b"c");
        assert_eq!(hash.text(), b"md5900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(Hash::parse(b"md5900150983CD24FB0D6963F7D28E17F72"), Some(hash));
        assert_eq!(Hash::parse(b"md5900150983cd24fb0d6963f7d28e17f7"), None);
        assert_eq!(Hash::parse(b"md5900150983cd24fb0d6963f7d28e17f7g"), None);
        assert_eq!(format!("{hash:?}"), "Hash");
    }

    #[test]
    fn an_answer_fits_its_password_and_its_salt_only() {
        let stored = Hash::of(b"secret", b"ann");
        let answer = Hash::of(b"secret", b"ann").answer(*b"salt");
        assert!(stored.verify(*b"salt", answer.text()));
        assert!(!stored.verify(*b"SALT", answer.text()));
        assert!(!Hash::of(b"Secret", b"ann").verify(*b"salt", answer.text()));
        assert!(!stored.verify(*b"salt", stored.text()));
        assert!(!stored.verify(*b"salt", b""));
        assert!(!stored.verify(*b"salt", &answer.text()[..34]));
    }
}
