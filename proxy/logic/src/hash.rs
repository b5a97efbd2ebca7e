//! One hash for the tables whose keys clients choose.

/// Numbers without a pattern: the fractions of the square roots of 2, 3 and 5.
const ODD: [u64; 3] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b];

/// What hashes depend on beside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Keys([u64; 2]);

impl Keys {
    /// Whoever does not know `seed` cannot choose bytes whose hashes collide.
    pub fn new(seed: u64) -> Self {
        Self([fold(seed ^ ODD[0], ODD[1]), fold(seed ^ ODD[1], ODD[2])])
    }

    /// A hash of 16 bytes a multiplication. Both factors are hidden behind keys, so no client can
    /// write the bytes that make one of them zero and the product blind to all before.
    pub fn hash(self, bytes: &[u8]) -> u64 {
        let (chunks, rest) = bytes.as_chunks::<16>();
        let mut state = fold(bytes.len() as u64 ^ self.0[1], ODD[0] ^ self.0[0]);
        for &chunk in chunks {
            state = step(state, chunk, self.0);
        }
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        fold(step(state, last, self.0), ODD[2])
    }
}

#[expect(clippy::cast_possible_truncation, reason = "both halves of 16 bytes are wanted")]
fn step(state: u64, chunk: [u8; 16], keys: [u64; 2]) -> u64 {
    let both = u128::from_le_bytes(chunk);
    fold(both as u64 ^ keys[0], (both >> 64) as u64 ^ keys[1] ^ state)
}

/// The two halves of the product, each carrying what the other lost.
#[expect(clippy::cast_possible_truncation, reason = "both halves of the product are wanted")]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::Keys;
    use std::collections::BTreeSet;

    #[test]
    fn bytes_that_differ_a_little_have_hashes_that_differ_much() {
        let low = |number: u64| number % 256;
        let all: BTreeSet<_> =
            (0..100).map(|n| low(Keys::new(1).hash(format!("SELECT {n}").as_bytes()))).collect();
        assert!(all.len() > 60, "{} places for a hundred texts", all.len());
        let keys: BTreeSet<_> = (0..100).map(|key| low(Keys::new(key).hash(b"SELECT"))).collect();
        assert!(keys.len() > 60, "the keys do not count");
    }
}
