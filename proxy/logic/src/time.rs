//! Time as an argument: a point on a clock that only ever goes forward.
//!
//! The one real clock is `proxy/src/clock.rs`; in tests and in the simulator time is a number
//! that somebody adds to.

use core::ops::Add;
pub use core::time::Duration;

/// A point in time: nanoseconds since an arbitrary start that all threads share.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(u64);

impl Instant {
    /// The start of time.
    pub const START: Self = Self(0);

    /// The point `nanoseconds` after the start.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long `self` is after `earlier`; zero if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant};

    #[test]
    fn time_never_overflows_and_never_runs_backwards() {
        assert_eq!(Instant::START + Duration::MAX, Instant::from_nanos(u64::MAX));
        assert_eq!(Instant::START.since(Instant::from_nanos(5)), Duration::ZERO);
    }
}
