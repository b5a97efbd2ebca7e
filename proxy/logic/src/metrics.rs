//! Plain counters: a histogram of times with exponential buckets.
//!
//! Buckets are those of Prometheus' native histograms at schema 2 (four to a doubling), so they
//! can be given out without conversion; see "Native Histograms" in Prometheus' specification.

use crate::time::Duration;

/// Buckets: from 1 microsecond, four to a doubling, to over an hour.
pub const BUCKETS: usize = 128;

/// How often times fell into which bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// Their sum in microseconds.
    pub sum_us: u64,
    /// Times by bucket; made at the first observation, so that unused ones cost nothing.
    buckets: Vec<u32>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { count: 0, sum_us: 0, buckets: Vec::new() }
    }
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
        let slot = &mut self.buckets[bucket(us)];
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

    /// (upper bound in microseconds, times in this bucket) of each bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.buckets.iter().enumerate().map(|(index, &times)| (upper_us(index), times))
    }
}

/// The bucket of a time: log2 with two bits of the mantissa.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let exponent = us.ilog2();
    let mantissa = if exponent >= 2 { us >> (exponent - 2) & 3 } else { us << (2 - exponent) & 3 };
    let index = exponent as usize * 4 + usize::try_from(mantissa).unwrap_or(0);
    index.min(BUCKETS - 1)
}

/// The largest time of a bucket, in microseconds.
fn upper_us(index: usize) -> u64 {
    let exponent = index / 4;
    let quarter = (index % 4) as u64 + 1;
    ((1u64 << exponent) * 4 + (1u64 << exponent) * quarter) / 4
}

#[cfg(test)]
mod tests {
    use super::{Duration, Histogram, bucket, upper_us};

    #[test]
    fn every_time_lies_within_its_bucket() {
        for us in [1, 2, 3, 5, 9, 100, 1_000, 123_456, 3_000_000_000] {
            let index = bucket(us);
            assert!(us <= upper_us(index), "{us} in bucket up to {}", upper_us(index));
            assert!(index == 0 || us >= upper_us(index - 1), "{us}");
        }
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
