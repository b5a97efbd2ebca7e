//! Plain counters: a histogram of times with exponential buckets.
//!
//! Buckets are those of Prometheus' native histograms at schema 2 (four to a doubling), so they
//! can be given out without conversion; see "Native Histograms" in Prometheus' specification.

use core::time::Duration;

/// Buckets: from 1 microsecond, four to a doubling, to an hour.
pub const BUCKETS: usize = 128;

/// The schema in Prometheus' sense: each bound is 2^(1/4) times the one before.
pub const SCHEMA: i32 = 2;

/// The index of the first bucket in Prometheus' sense: bucket `i` ends at 2^(i/4) seconds.
pub const FIRST: i32 = -80;

/// 2^(1/4), 2^(2/4) and 2^(3/4), as fractions of 2^63.
const QUARTERS: [u64; 4] =
    [1 << 63, 0x9837_f051_8db8_a96f, 0xb504_f333_f9de_6484, 0xd744_fcca_d69d_6af4];

/// Steps of 2^-32 seconds in a nanosecond, times 2^40: a multiplication costs less than a division.
const STEPS_PER_NS: u128 = (1 << 72) / 1_000_000_000;

/// How often times fell into which bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// Their sum in microseconds.
    pub sum_us: u64,
    /// Times by bucket; made at the first observation, so that unused ones cost nothing.
    buckets: Vec<u32>,
}

impl Histogram {
    /// Counts one time.
    pub fn observe(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        if self.buckets.is_empty() {
            self.buckets = vec![0; BUCKETS];
        }
        let slot = &mut self.buckets[bucket(time)];
        *slot = slot.saturating_add(1);
    }

    /// Adds what another lane counted.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
            return;
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// (upper bound in seconds, times in this bucket) of each bucket; none before the first
    /// observation. The last one also holds what is longer.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u32)> + '_ {
        (FIRST..).zip(&self.buckets).map(|(index, &times)| (upper(index), times))
    }
}

/// The bucket of a time: log2 of its seconds, four to a doubling, upper bounds included.
fn bucket(time: Duration) -> usize {
    // Seconds in steps of 2^-32; 2^42 nanoseconds are over an hour, and keep it in 64 bits.
    let ns = u128::from(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(1 << 42));
    let steps = u64::try_from((ns * STEPS_PER_NS) >> 40).unwrap_or(u64::MAX).max(1);
    let mantissa = steps << steps.leading_zeros();
    let quarter = QUARTERS.iter().filter(|&&bound| bound < mantissa).count();
    // 2^-20 seconds are the end of the first bucket, and 2^12 of these steps.
    ((steps.ilog2() as usize * 4 + quarter).saturating_sub(12 * 4)).min(BUCKETS - 1)
}

/// Where a bucket ends, in seconds.
fn upper(index: i32) -> f64 {
    (f64::from(index) / 4.0).exp2()
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Duration, FIRST, Histogram, bucket, upper};

    #[test]
    fn every_time_lies_within_its_bucket() {
        for us in [1, 2, 3, 5, 9, 100, 1_000, 123_456, 1_000_000, 3_000_000_000] {
            let time = Duration::from_micros(us);
            let index = FIRST + i32::try_from(bucket(time)).unwrap();
            let seconds = time.as_secs_f64();
            assert!(seconds <= upper(index) * 1.000_001, "{us} in bucket up to {}", upper(index));
            assert!(seconds > upper(index - 1) * 0.999_999, "{us} in bucket {index}");
        }
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_it_ends() {
        let half = Duration::from_millis(500);
        let over = half + Duration::from_micros(1);
        assert_eq!(bucket(half), usize::try_from(-FIRST - 4).unwrap());
        assert_eq!(bucket(over), bucket(half) + 1);
    }

    #[test]
    fn what_two_lanes_counted_adds_up() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.observe(Duration::from_micros(10));
        two.observe(Duration::from_micros(10));
        two.observe(Duration::from_secs(9_000));
        one.merge(&two);
        assert_eq!((one.count, one.buckets().map(|(_, times)| times).sum::<u32>()), (3, 3));
    }
}
