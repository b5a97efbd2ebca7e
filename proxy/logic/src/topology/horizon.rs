//! Until when commits were made through this process, for reads that must show all of them
//! (`consistency = "strict"`).
//!
//! This is the one thing that lanes share and change: what a client has been told is committed
//! must count for the readers of other lanes before it hears of it, and a letter would come later.
//! A statement that may commit holds a [`Commit`] from before it is sent until it is answered.
//! Where the primary was when it was asked after that, there the commit is.

use crate::time::Instant;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// The horizon of one cluster. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Horizon(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Statements under way that may commit.
    open: AtomicU64,
    /// When the last of them was answered, in nanoseconds of our clock.
    last: AtomicU64,
    /// How many were never answered.
    lost: AtomicU64,
}

/// Two configurations do not differ by what has happened since they were read.
impl PartialEq for Horizon {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Horizon {}

/// A statement that may commit. One that is dropped was never answered, and may have.
#[derive(Debug)]
#[must_use = "a commit that is dropped counts as lost"]
pub struct Commit {
    horizon: Horizon,
    ended: bool,
}

impl Horizon {
    /// A statement that may commit is about to be sent.
    pub fn begin(&self) -> Commit {
        // Before the statement goes out, so before anybody can be told that it has committed.
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Commit { horizon: self.clone(), ended: false }
    }

    /// How many were never answered; to be looked at before the primary is asked where it is.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::SeqCst)
    }

    /// Whether all that was told of is behind a place where the primary was when it was asked at
    /// this time, with so many lost before.
    pub fn is_behind(&self, asked: Instant, lost: u64) -> bool {
        // A commit that was told of before this is either under way still, or seen below.
        self.0.open.load(Ordering::SeqCst) == 0
            && self.0.last.load(Ordering::SeqCst) < asked.as_nanos()
            && self.lost() <= lost
    }
}

impl Commit {
    /// It was answered by now, or at no time: then it was never sent.
    pub fn end(mut self, now: Instant) {
        self.ended = true;
        self.horizon.0.last.fetch_max(now.as_nanos(), Ordering::SeqCst);
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if !self.ended {
            self.horizon.0.lost.fetch_add(1, Ordering::SeqCst);
        }
        // Last, so that nobody in between sees neither.
        self.horizon.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::Horizon;
    use crate::time::Instant;

    const AT: fn(u64) -> Instant = Instant::from_nanos;

    #[test]
    fn a_place_counts_that_was_asked_for_behind_all_that_was_told_of() {
        let horizon = Horizon::default();
        assert!(horizon.is_behind(AT(1), 0));
        let (one, two) = (horizon.begin(), horizon.clone().begin());
        assert!(!horizon.is_behind(AT(1), 0), "they may be told of at any time");
        one.end(AT(7));
        assert!(!horizon.is_behind(AT(9), 0), "the other one");
        two.end(AT(5));
        assert!(!horizon.is_behind(AT(7), 0) && horizon.is_behind(AT(8), 0));
        horizon.begin().end(Instant::START);
        assert!(horizon.is_behind(AT(8), 0), "it was never sent");
    }

    #[test]
    fn what_was_never_answered_may_be_behind_a_place_that_was_asked_for_later() {
        let horizon = Horizon::default();
        let before = horizon.lost();
        drop(horizon.begin());
        assert!(!horizon.is_behind(AT(1), before) && horizon.is_behind(AT(1), horizon.lost()));
    }
}
