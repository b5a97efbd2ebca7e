//! How many clients there are on each core, known to all cores.
//!
//! The one thing workers share that changes: counters, read and written without waiting, only
//! when a client comes or goes.

use pgring_logic::id::Core;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A core gets a client of another one when it has at least this many fewer.
const TILT: usize = 2;

/// The seats of all cores.
#[derive(Debug)]
pub struct Seats {
    total: AtomicUsize,
    cores: Box<[AtomicUsize]>,
}

/// The seat of one client; free again when it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    core: Core,
    /// Its client is where it must be, so others are not seated elsewhere for it.
    reserved: bool,
}

impl Seats {
    /// Seats for this many cores, all of them free.
    pub fn new(cores: usize) -> Arc<Self> {
        let cores = (0..cores).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { total: AtomicUsize::new(0), cores })
    }

    /// A seat for a client that came in on `core`: there, or on the core with the fewest clients
    /// if it has clearly fewer. None if `max` are taken.
    pub fn take(self: &Arc<Self>, core: Core, max: usize) -> Option<Seat> {
        if self.total.fetch_add(1, Ordering::Relaxed) >= max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let here = self.clients(core);
        let core = (0..self.cores.len())
            .map(|index| Core(u16::try_from(index).unwrap_or(u16::MAX)))
            .min_by_key(|&other| self.clients(other))
            .filter(|&least| self.clients(least) + TILT <= here)
            .unwrap_or(core);
        self.cores[usize::from(core.0)].fetch_add(1, Ordering::Relaxed);
        Some(Seat { seats: Arc::clone(self), core, reserved: false })
    }

    /// Clients on one core, but for those that must be there.
    pub fn clients(&self, core: Core) -> usize {
        self.cores[usize::from(core.0)].load(Ordering::Relaxed)
    }
}

impl Seat {
    /// Where it is.
    pub const fn core(&self) -> Core {
        self.core
    }

    /// Its client must be on this core: others are seated as if it were not there.
    #[must_use]
    pub fn reserved(mut self, core: Core) -> Self {
        self.free();
        self.core = core;
        self.reserved = true;
        self
    }

    fn free(&self) {
        if !self.reserved {
            self.seats.cores[usize::from(self.core.0)].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.free();
        self.seats.total.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Seats;
    use pgring_logic::id::Core;

    #[test]
    fn no_core_has_more_than_two_clients_above_another() {
        let seats = Seats::new(3);
        let taken: Vec<_> = (0..30).filter_map(|_| seats.take(Core(1), 100)).collect();
        assert_eq!(taken.len(), 30);
        assert!(seats.take(Core(1), 30).is_none());
        for core in 0..3 {
            assert!((9..=12).contains(&seats.clients(Core(core))), "{seats:?}");
        }
        drop(taken);
        assert_eq!((0..3).map(|core| seats.clients(Core(core))).sum::<usize>(), 0);
    }

    #[test]
    fn who_must_be_on_a_core_drives_nobody_away() {
        let seats = Seats::new(2);
        let seat = seats.take(Core(0), 1).expect("there is one").reserved(Core(1));
        let counted = || [0, 1].map(|core| seats.clients(Core(core)));
        assert_eq!((seat.core(), counted()), (Core(1), [0, 0]));
        assert!(seats.take(Core(0), 1).is_none(), "it is the same one");
        drop(seat);
        assert_eq!(counted(), [0, 0]);
    }

    #[test]
    fn the_last_seat_is_the_last() {
        let seats = Seats::new(2);
        let first = seats.take(Core(0), 1);
        assert!(first.is_some() && seats.take(Core(1), 1).is_none());
        drop(first);
        assert!(seats.take(Core(1), 1).is_some());
    }
}
