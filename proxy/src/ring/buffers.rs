//! The provided buffers of a ring, and the leases on them.
//!
//! The kernel takes a buffer when bytes arrive, so an idle connection holds none. What it filled
//! is lent out: a [`Lease`] is one reason why the buffer may not be filled again, and several
//! ranges of one buffer may wait for several connections at once. When the last lease is given
//! back the kernel gets the buffer again (invariant I3).

use super::memory::Pages;
use io_uring::types::BufRingEntry;
use std::sync::atomic::{AtomicU16, Ordering};

/// Bytes of one buffer.
pub const BUFFER_SIZE: usize = 8 * 1024;

/// From the start of one buffer to the start of the next: a little more than a buffer, so that
/// their beginnings, which is all that is used of most, do not share a few sets of the caches.
const STRIDE: usize = BUFFER_SIZE + 3 * 64;

/// The group that all buffers of a ring are in.
pub(super) const GROUP: u16 = 0;

/// One reason why a buffer may not be filled again.
///
/// It must be given back with [`Buffers::release`]; one that is dropped keeps its buffer for
/// good, which wastes memory but endangers nobody.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a lease that is dropped keeps its buffer for good"]
pub struct Lease(u16);

/// All buffers of one ring.
#[derive(Debug)]
pub struct Buffers {
    /// `count` times [`STRIDE`] bytes.
    bytes: Pages,
    /// The ring the kernel takes buffers from: entries of 16 bytes.
    entries: Pages,
    /// Entries, a power of two.
    length: u16,
    /// Buffers.
    count: u16,
    /// Where the next buffer is put back, as the kernel knows it after [`Buffers::publish`].
    tail: u16,
    /// Leases by buffer; 0: the kernel has it.
    leases: Vec<u32>,
    /// Buffers the kernel has.
    free: u16,
    /// Buffers were put back and not published.
    unpublished: bool,
}

impl Buffers {
    /// `count` buffers, all of them in the ring but not yet known to the kernel.
    pub(crate) fn new(count: u16) -> std::io::Result<Self> {
        let count = count.clamp(1, 1 << 15);
        let length = count.next_power_of_two();
        let bytes = Pages::new(usize::from(count) * STRIDE)?;
        bytes.prepare();
        let entries = Pages::new(usize::from(length) * size_of::<BufRingEntry>())?;
        let leases = vec![0; usize::from(count)];
        let mut buffers =
            Self { bytes, entries, length, count, tail: 0, leases, free: 0, unpublished: false };
        for id in 0..count {
            buffers.put_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Where the ring of entries is, and how many it has.
    pub(super) fn ring(&self) -> (u64, u16) {
        (self.entries.base().as_ptr() as u64, self.length)
    }

    /// Leaves the memory where it is for good: the kernel may still write into it.
    pub(super) fn abandon(&mut self) {
        self.bytes.abandon();
        self.entries.abandon();
    }

    /// The first lease on a buffer that the kernel has just filled.
    pub(crate) fn filled(&mut self, id: u16) -> Lease {
        let leases = &mut self.leases[usize::from(id)];
        assert_eq!(*leases, 0, "the kernel filled a buffer that is still lent out (I3)");
        *leases = 1;
        self.free -= 1;
        Lease(id)
    }

    /// A second lease on the same buffer.
    pub fn share(&mut self, lease: &Lease) -> Lease {
        let leases = &mut self.leases[usize::from(lease.0)];
        assert!(*leases > 0, "a lease without a lender (I3)");
        *leases += 1;
        Lease(lease.0)
    }

    /// Gives a lease back; with the last one of its buffer the kernel may fill it again.
    #[expect(clippy::needless_pass_by_value, reason = "the lease ends here")]
    pub fn release(&mut self, lease: Lease) {
        let leases = &mut self.leases[usize::from(lease.0)];
        assert!(*leases > 0, "a lease given back twice (I3)");
        *leases -= 1;
        if *leases == 0 {
            self.put_back(lease.0);
        }
    }

    /// The bytes of a lent buffer.
    pub fn bytes(&self, lease: &Lease) -> &[u8] {
        // SAFETY: the buffer lies within `bytes`, which was mapped zeroed, so it is initialised.
        // The kernel writes into it only between `put_back` and `filled`; the lease keeps
        // `put_back` from happening, and giving it back needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start(lease.0), BUFFER_SIZE) }
    }

    /// Where a lent buffer starts, for the kernel to read from.
    pub(super) fn address(&self, lease: &Lease) -> *const u8 {
        self.start(lease.0).cast_const()
    }

    /// How many buffers there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// How many the kernel has.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Less than a quarter is free: from now on input that must wait is copied, so that a
    /// quarter always goes round.
    pub fn scarce(&self) -> bool {
        self.free < self.count.div_ceil(4)
    }

    /// Tells the kernel of the buffers that were put back. Before every enter.
    pub(super) fn publish(&mut self) {
        if !self.unpublished {
            return;
        }
        self.unpublished = false;
        let base = self.entries.base().cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of the ring, page-aligned and mapped.
        let tail = unsafe { BufRingEntry::tail(base.as_ptr()) };
        // SAFETY: the tail lies within the mapped ring, is aligned to two bytes, is written by
        // this thread alone, and read by the kernel as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Puts a buffer nobody reads into the ring.
    fn put_back(&mut self, id: u16) {
        let start = self.start(id);
        if cfg!(debug_assertions) {
            // SAFETY: nobody has a lease on the buffer and the kernel has not got it yet, so we
            // are its only user; a reader that is wrong about that sees poison.
            unsafe { start.write_bytes(0xDB, BUFFER_SIZE) };
        }
        let index = usize::from(self.tail & (self.length - 1));
        // SAFETY: `index` is less than `length`, and so many entries are mapped.
        let entry = unsafe { self.entries.base().cast::<BufRingEntry>().add(index).as_ptr() };
        // SAFETY: the kernel reads entries below the published tail only; this one is above it.
        // There are never more buffers than entries, so it holds none that is not yet taken.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start as u64);
        entry.set_len(u32::try_from(BUFFER_SIZE).unwrap_or(0));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        self.unpublished = true;
    }

    fn start(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "a buffer that is none of ours");
        // SAFETY: `id` is less than `count`, and so many buffers are mapped one after another.
        unsafe { self.bytes.base().add(usize::from(id) * STRIDE).as_ptr() }
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_SIZE, Buffers, Lease};

    #[test]
    fn a_buffer_comes_back_with_its_last_lease() {
        let mut buffers = Buffers::new(6).unwrap();
        assert_eq!((buffers.count(), buffers.free()), (6, 6));
        let first = buffers.filled(3);
        let second = buffers.share(&first);
        assert_eq!(buffers.bytes(&first).len(), BUFFER_SIZE);
        buffers.release(first);
        assert_eq!(buffers.free(), 5);
        buffers.release(second);
        assert_eq!(buffers.free(), 6);
    }

    #[test]
    fn buffers_are_scarce_when_less_than_a_quarter_is_free() {
        let mut buffers = Buffers::new(8).unwrap();
        let leases: Vec<_> = (0..6).map(|id| buffers.filled(id)).collect();
        assert!(!buffers.scarce());
        let last = buffers.filled(6);
        assert!(buffers.scarce());
        buffers.release(last);
        for lease in leases {
            buffers.release(lease);
        }
    }

    #[test]
    #[should_panic(expected = "still lent out")]
    fn a_buffer_that_is_lent_out_is_never_filled() {
        let mut buffers = Buffers::new(8).unwrap();
        let _first = buffers.filled(1);
        let _second = buffers.filled(1);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_lease_is_given_back_once() {
        let mut buffers = Buffers::new(8).unwrap();
        let lease = buffers.filled(1);
        let forged = Lease(lease.0);
        buffers.release(lease);
        buffers.release(forged);
    }
}
