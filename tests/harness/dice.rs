//! Seeded randomness: the same seed plays the same game.

use std::time::{SystemTime, UNIX_EPOCH};

/// A splitmix64 generator: small, fast, and good enough to shuffle tests.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 up to but not including `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).expect("usize fits u64");
        usize::try_from(self.roll() % limit).expect("below a usize")
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The seed of this run: `PGRING_SEED`, or the time of day.
pub fn seed() -> u64 {
    let of_day = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        since.as_secs() ^ (u64::from(since.subsec_nanos()) << 32)
    };
    std::env::var("PGRING_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(of_day)
}

/// A number from the environment, such as `PGRING_EXCHANGES`.
pub fn amount(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => {
            text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable}: not a number"))
        }
        Err(_) => default,
    }
}
