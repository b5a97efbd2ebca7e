//! What was done, and how long each of it took.

use serde::Serialize;
use std::time::{Duration, Instant};

/// Counts while it is asked to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// When counting began.
    since: Option<Instant>,
    transactions: u64,
    bytes: u64,
    errors: u64,
    /// Nanoseconds of each; what took longer than four seconds is four seconds.
    latencies: Vec<u32>,
}

/// What is told in the end.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    transactions: u64,
    bytes: u64,
    errors: u64,
    seconds: f64,
    latencies_us: Vec<f64>,
}

impl Tally {
    /// Counts from now on.
    pub(crate) fn begin(&mut self, now: Instant) {
        // Room beforehand: to move millions of figures would be an outlier of its own.
        self.latencies = Vec::with_capacity(4 << 20);
        self.since = Some(now);
    }

    /// How long it has counted.
    pub(crate) fn elapsed(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.duration_since(since))
    }

    /// One more was done, in this time.
    pub(crate) fn done(&mut self, took: Duration) {
        if self.since.is_some() {
            self.transactions += 1;
            self.latencies.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// Bytes came or went.
    pub(crate) const fn moved(&mut self, bytes: usize) {
        if self.since.is_some() {
            self.bytes += bytes as u64;
        }
    }

    /// One went wrong.
    pub(crate) const fn failed(&mut self) {
        self.errors += 1;
    }

    /// How many went wrong.
    pub(crate) const fn errors(&self) -> u64 {
        self.errors
    }

    /// What it was, with latencies at these thousandths.
    pub(crate) fn summary(mut self, now: Instant, thousandths: &[usize]) -> Summary {
        let seconds = self.elapsed(now).unwrap_or_default().as_secs_f64();
        self.latencies.sort_unstable();
        let rank = |part: usize| (self.latencies.len() * part).div_ceil(1000).max(1) - 1;
        let at = |part| Some(f64::from(*self.latencies.get(rank(part))?) / 1000.0);
        Summary {
            transactions: self.transactions,
            bytes: self.bytes,
            errors: self.errors,
            seconds,
            latencies_us: thousandths.iter().filter_map(|part| at(*part)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Summary, Tally};
    use std::time::{Duration, Instant};

    #[test]
    fn only_what_happens_after_the_beginning_counts() {
        let (start, mut tally) = (Instant::now(), Tally::default());
        tally.done(Duration::from_secs(9));
        tally.moved(5);
        tally.begin(start);
        for us in [3, 1, 2, 4] {
            tally.done(Duration::from_micros(us));
        }
        tally.moved(7);
        tally.failed();
        let summary = tally.summary(start + Duration::from_secs(2), &[500, 999]);
        let wanted = Summary {
            transactions: 4,
            bytes: 7,
            errors: 1,
            seconds: 2.0,
            latencies_us: vec![2.0, 4.0],
        };
        assert_eq!(summary, wanted);
    }
}
