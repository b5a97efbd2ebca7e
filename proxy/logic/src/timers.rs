//! Deadlines of many things, in one heap that is usually left alone.
//!
//! A thing has at most one entry that counts: the earliest it asked for. A deadline that moves
//! later costs nothing; its owner is woken at the old time, looks, and asks again.

use crate::id::ConnId;
use crate::time::Instant;
use core::cmp::Reverse;
use std::collections::BinaryHeap;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Owner {
    /// The lane's own once-a-second look around.
    Tick,
    /// A pool, by its place.
    Pool(usize),
    /// A connection.
    Conn(ConnId),
}

/// The earliest deadline an owner has asked for; kept by the owner.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scheduled(Option<Instant>);

impl Scheduled {
    /// It is to be woken.
    pub fn is_pending(self) -> bool {
        self.0.is_some()
    }
}

/// The heap of one lane.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Owner)>>,
}

impl Timers {
    /// Asks for `owner` to be woken at `at`, unless it already is to be woken earlier.
    pub fn schedule(&mut self, scheduled: &mut Scheduled, owner: Owner, at: Instant) {
        if scheduled.0.is_none_or(|earlier| at < earlier) {
            scheduled.0 = Some(at);
            self.heap.push(Reverse((at, owner)));
        }
    }

    /// The next deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one owner whose time has come. It must call [`Timers::woken`].
    pub fn pop(&mut self, now: Instant) -> Option<(Instant, Owner)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Whether the entry that came out at `at` is the one that counts.
    pub fn woken(scheduled: &mut Scheduled, at: Instant) -> bool {
        if scheduled.0 == Some(at) {
            scheduled.0 = None;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, Scheduled, Timers};
    use crate::time::Instant;

    #[test]
    fn only_the_earliest_wish_of_an_owner_counts() {
        let (mut timers, mut scheduled) = (Timers::default(), Scheduled::default());
        let at = Instant::from_nanos;
        timers.schedule(&mut scheduled, Owner::Tick, at(20));
        timers.schedule(&mut scheduled, Owner::Tick, at(30));
        timers.schedule(&mut scheduled, Owner::Tick, at(10));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        let (first, _) = timers.pop(at(25)).expect("it is due");
        assert!(Timers::woken(&mut scheduled, first));
        let (second, _) = timers.pop(at(25)).expect("it is due");
        assert!(!Timers::woken(&mut scheduled, second), "an entry overtaken by an earlier one");
        assert_eq!(timers.next(), None);
    }
}
