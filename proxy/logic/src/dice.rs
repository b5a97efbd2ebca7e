//! Random bytes from a seed: SHA-256 over the seed and a counter.
//!
//! The seed comes from the operating system in life and from the test in a test, so that keys
//! and nonces cannot be guessed in life and tell the same story in a test.

use core::fmt;
use sha2::{Digest as _, Sha256};

/// A source of random bytes.
pub struct Dice {
    seed: [u8; 32],
    counter: u64,
}

impl fmt::Debug for Dice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dice")
    }
}

impl Dice {
    /// A source whose every byte follows from `seed`.
    pub const fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// The next 32 bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        self.counter += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.counter.to_be_bytes());
        hash.finalize().into()
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        let bytes = self.bytes();
        u64::from_be_bytes(core::array::from_fn(|index| bytes[index])) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn a_seed_tells_one_story_and_no_throw_twice() {
        let (mut one, mut two) = (Dice::new([7; 32]), Dice::new([7; 32]));
        let first = one.bytes();
        assert_eq!(first, two.bytes());
        assert_ne!(first, one.bytes());
        assert!(one.below(10) < 10);
    }
}
