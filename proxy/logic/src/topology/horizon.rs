//! How far the commits made through this process go, for reads that must show all of them
//! (`consistency = "strict"`).
//!
//! This is the one thing that lanes share and change: what a client has been told is committed
//! must count for the readers of other lanes before it hears of it, and a letter would come later.
//! A statement that may commit holds a [`Commit`] from before it is sent until the place of its
//! commit is known. While anybody holds one there is no place that a standby could be measured by,
//! and reads are the primary's.

use crate::topology::Lsn;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// The horizon of one cluster. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Horizon(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Commits that may have been told of, whose places are not known yet.
    open: AtomicU64,
    /// No commit that was told of, and has a known place, lies behind this one.
    place: AtomicU64,
    /// Commits whose places will never be known.
    lost: AtomicU64,
    /// So many of the lost ones lie before `place`: it was asked for after they were lost.
    found: AtomicU64,
}

/// Two configurations do not differ by what has happened since they were read.
impl PartialEq for Horizon {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Horizon {}

/// A statement that may commit. One that is dropped is lost: readers have to do without standbys
/// until a place is known that was asked for later, by another commit or by the monitor.
#[derive(Debug)]
#[must_use = "a commit that is dropped counts as lost"]
pub struct Commit {
    horizon: Horizon,
    /// How many were lost when the place was asked for.
    lost: u64,
    /// Something may have been committed already.
    done: bool,
    ended: bool,
}

impl Horizon {
    /// A statement that may commit is about to be sent.
    pub fn begin(&self) -> Commit {
        // Before the statement goes out, so before anybody can be told that it has committed.
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Commit { horizon: self.clone(), lost: 0, done: false, ended: false }
    }

    /// How many commits were lost; to be looked at before the primary is asked where it is.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::SeqCst)
    }

    /// The primary was here, asked when so many were lost: these lie before it.
    pub fn find(&self, lost: u64, lsn: Lsn) {
        self.0.place.fetch_max(lsn.0, Ordering::SeqCst);
        // After the place, so that whoever sees this sees that.
        self.0.found.fetch_max(lost, Ordering::SeqCst);
    }

    /// What a read must show that begins now; none, if nobody knows.
    pub fn lsn(&self) -> Option<Lsn> {
        // A commit that was told of before this is either open still, or its place is seen below.
        if self.0.open.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let lost = self.0.lost.load(Ordering::SeqCst);
        // In this order: whoever sees that they are found, sees where.
        let found = self.0.found.load(Ordering::SeqCst) >= lost;
        let place = Lsn(self.0.place.load(Ordering::SeqCst));
        found.then_some(place)
    }
}

impl Commit {
    /// The place is being asked for.
    pub fn asks(&mut self) {
        self.lost = self.horizon.lost();
    }

    /// It lies before this place; more may follow under the same name.
    pub fn tell(&self, lsn: Lsn) {
        self.horizon.find(self.lost, lsn);
    }

    /// Something may have been committed.
    pub fn is_done(&mut self) {
        self.done = true;
    }

    /// The transaction is still open, and nothing else is under way. What may have been committed
    /// before it is lost.
    pub fn goes_on(mut self) {
        self.ended = !self.done;
    }

    /// It lies before a place that was told, or was never sent.
    pub fn end(mut self) {
        self.ended = true;
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
    use crate::topology::Lsn;

    #[test]
    fn a_read_shows_all_that_was_told_of() {
        let horizon = Horizon::default();
        assert_eq!(horizon.lsn(), Some(Lsn(0)));
        let (mut one, two) = (horizon.begin(), horizon.clone().begin());
        assert_eq!(horizon.lsn(), None);
        one.asks();
        one.tell(Lsn(7));
        assert_eq!(horizon.lsn(), None, "more may follow");
        one.end();
        assert_eq!(horizon.lsn(), None, "the other one");
        two.end();
        assert_eq!(horizon.lsn(), Some(Lsn(7)));
        let mut earlier = horizon.begin();
        earlier.asks();
        earlier.tell(Lsn(5));
        earlier.end();
        assert_eq!(horizon.lsn(), Some(Lsn(7)), "it never goes back");
    }

    #[test]
    fn what_is_lost_is_found_by_a_place_that_was_asked_for_later() {
        let horizon = Horizon::default();
        let (mut early, lost) = (horizon.begin(), horizon.begin());
        early.asks();
        drop(lost);
        early.tell(Lsn(7));
        early.end();
        assert_eq!(horizon.lsn(), None, "the lost one may lie behind it");
        let mut late = horizon.begin();
        late.asks();
        late.tell(Lsn(8));
        late.end();
        assert_eq!(horizon.lsn(), Some(Lsn(8)));
        horizon.begin().goes_on();
        assert_eq!(horizon.lsn(), Some(Lsn(8)), "nothing was committed");
        let mut chained = horizon.begin();
        chained.is_done();
        chained.goes_on();
        assert_eq!(horizon.lsn(), None, "and another transaction was begun");
        horizon.find(horizon.lost(), Lsn(8));
        let before = horizon.lost();
        drop(horizon.begin());
        horizon.find(before, Lsn(9));
        assert_eq!(horizon.lsn(), None, "the monitor had asked before");
        horizon.find(horizon.lost(), Lsn(9));
        assert_eq!(horizon.lsn(), Some(Lsn(9)));
    }
}
