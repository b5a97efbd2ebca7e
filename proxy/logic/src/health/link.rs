//! The link to a node, by the figures that the kernel keeps of our connections.

use crate::time::{Duration, Instant};
use std::collections::VecDeque;

/// A connection at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// What was sent is not acknowledged, or could not even be sent.
    pub stuck: bool,
    /// Bytes that were acknowledged or have come: it grows as long as the path works.
    pub progress: u64,
    /// Bytes that have come.
    pub received: u64,
    /// The smoothed round trip; zero: not known yet.
    pub round_trip: Duration,
    /// Segments sent again, all together.
    pub retransmits: u32,
}

/// A round trip that is worth no word, however small the usual one is.
const SLOW: Duration = Duration::from_millis(10);
/// So many times the usual round trip make a link a slow one.
const TIMES: u32 = 5;
/// For how long they must be that long.
const LASTING: Duration = Duration::from_secs(1);
/// Segments sent again within [`RECENT`] that make it a bad one.
const RETRANSMITS: u32 = 3;
/// See [`RETRANSMITS`].
const RECENT: Duration = Duration::from_secs(1);
/// For how long a link counts as bad after the last sign of it.
const POOR: Duration = Duration::from_secs(5);
/// What is usual is the least of this and of the time before it.
const EPOCH: Duration = Duration::from_secs(60);
/// What is waited for where no round trip is known (RFC 6298).
const UNKNOWN: Duration = Duration::from_millis(250);

/// What is known of the link to a node.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The last round trip that was seen.
    round_trip: Duration,
    /// The least of the last minute, and of this one, which began then.
    least: [Duration; 2],
    epoch: Instant,
    /// When segments were sent again, and how many.
    again: VecDeque<(Instant, u32)>,
    /// Since when its round trips have been long ones.
    slow: Option<Instant>,
    /// When it was last seen to be bad.
    poor: Option<Instant>,
}

impl Figures {
    /// A connection to it, and how many segments it has sent again since the last time.
    pub(super) fn note(&mut self, now: Instant, link: &Link, again: u32) {
        if again > 0 {
            self.again.push_back((now, again));
        }
        while self.again.front().is_some_and(|(at, _)| now.since(*at) > RECENT) {
            self.again.pop_front();
        }
        if link.round_trip > Duration::ZERO {
            if now.since(self.epoch) > EPOCH {
                self.least = [self.least[1], link.round_trip];
                self.epoch = now;
            }
            self.round_trip = link.round_trip;
            self.least[1] = less(self.least[1], link.round_trip);
        }
        let usual = self.usual();
        let slow = usual > Duration::ZERO && self.round_trip > usual * TIMES + SLOW;
        // One answer that was late, for whatever reason, is no slow link.
        self.slow = slow.then(|| self.slow.unwrap_or(now));
        let slow = self.slow.is_some_and(|since| now.since(since) >= LASTING);
        if slow || self.again.iter().map(|(_, count)| count).sum::<u32>() >= RETRANSMITS {
            self.poor = Some(now);
        }
    }

    /// It has been bad lately.
    pub(super) fn is_poor(&self, now: Instant) -> bool {
        self.poor.is_some_and(|at| now.since(at) < POOR)
    }

    /// What an answer may take beyond what is usual, for the way alone.
    pub(super) fn allowance(&self) -> Duration {
        if self.round_trip == Duration::ZERO { UNKNOWN } else { 4 * self.round_trip }
    }

    /// The last round trip that was seen.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// The usual one; zero: not known.
    pub(super) fn usual(&self) -> Duration {
        less(self.least[0], self.least[1])
    }

    /// Segments sent again within the last second.
    pub(super) fn again(&self, now: Instant) -> u32 {
        let recent = self.again.iter().filter(|(at, _)| now.since(*at) <= RECENT);
        recent.map(|(_, count)| count).sum()
    }
}

/// The less of two, of which zero says nothing.
fn less(one: Duration, other: Duration) -> Duration {
    if one == Duration::ZERO || other == Duration::ZERO { one.max(other) } else { one.min(other) }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Link};
    use crate::time::{Duration, Instant};

    fn at(ms: u64) -> Instant {
        Instant::START + Duration::from_millis(ms)
    }

    fn link(round_trip_us: u64) -> Link {
        Link { round_trip: Duration::from_micros(round_trip_us), ..Link::default() }
    }

    #[test]
    fn a_link_is_bad_for_a_while_after_its_round_trip_has_grown() {
        let mut figures = Figures::default();
        assert!(figures.allowance() > Duration::ZERO, "nobody knows yet");
        figures.note(at(0), &link(200), 0);
        figures.note(at(1_000), &link(10_900), 0);
        assert!(!figures.is_poor(at(1_000)), "a small one may grow much");
        figures.note(at(1_200), &link(11_100), 0);
        figures.note(at(1_400), &link(9_000), 0);
        for ms in [2_000, 2_500, 3_000] {
            assert!(!figures.is_poor(at(ms)), "once is nothing: {figures:?}");
            figures.note(at(ms), &link(11_100), 0);
        }
        assert!(figures.is_poor(at(3_000)) && figures.is_poor(at(7_900)));
        assert!(!figures.is_poor(at(8_100)));
        assert_eq!(figures.usual(), Duration::from_micros(200));
    }

    #[test]
    fn what_has_become_usual_is_not_bad() {
        let mut figures = Figures::default();
        for second in 0..200 {
            figures.note(at(second * 1_000), &link(if second < 10 { 200 } else { 50_000 }), 0);
        }
        assert!(!figures.is_poor(at(200_000)), "{figures:?}");
        assert_eq!(figures.usual(), Duration::from_millis(50));
    }

    #[test]
    fn segments_sent_again_make_it_bad_only_together() {
        let mut figures = Figures::default();
        for second in 0..10 {
            figures.note(at(second * 600), &link(200), 1);
        }
        assert!(!figures.is_poor(at(6_000)), "two in a second: {figures:?}");
        figures.note(at(6_100), &link(200), 2);
        assert!(figures.is_poor(at(6_100)));
        assert_eq!(figures.again(at(6_100)), 3);
    }
}
