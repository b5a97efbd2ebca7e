//! Chance, without a dependency for it: where in a second a fault falls, which packet is lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A xorshift generator. Nothing here needs more than numbers that do not line up with a timer.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that fall otherwise than those of any other place and time.
    pub(crate) fn new(place: u64) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::seeded(time.as_secs() ^ u64::from(time.subsec_nanos()) << 20 ^ place << 56)
    }

    /// Dice that always fall alike.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`, or 0 if there is none.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }

    /// Whether something happens that happens to so many of a thousand.
    pub(crate) fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A time between these two.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX - 1);
        least + Duration::from_nanos(self.below(span + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;
    use std::time::Duration;

    #[test]
    fn a_fifth_is_about_a_fifth() {
        let mut dice = Dice::seeded(7);
        let hits = (0..10_000).filter(|_| dice.happens(200)).count();
        assert!((1800..2200).contains(&hits), "{hits}");
    }

    #[test]
    fn times_lie_between_and_spread() {
        let mut dice = Dice::seeded(7);
        let (least, most) = (Duration::from_millis(50), Duration::from_millis(250));
        let times: Vec<_> = (0..10_000).map(|_| dice.between(least, most)).collect();
        assert!(times.iter().all(|time| (least..=most).contains(time)));
        let mean = times.iter().sum::<Duration>() / 10_000;
        assert!((145..155).contains(&mean.as_millis()), "{mean:?}");
    }
}
