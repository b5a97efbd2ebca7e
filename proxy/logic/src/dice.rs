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

/// Numbers that are drawn often and need not be secret: splitmix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A source whose every number follows from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The high half of a product with 32 bits is below the limit (Lemire 2019).
        let high = (bits ^ bits >> 31) >> 32;
        u32::try_from((high * u64::from(limit)) >> 32).unwrap_or(0)
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
