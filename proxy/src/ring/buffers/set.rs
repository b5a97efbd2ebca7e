//! Buffers of one size, and the ring that the kernel takes them from.

use crate::ring::memory::Pages;
use io_uring::types::BufRingEntry;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffers of one group.
#[derive(Debug)]
pub(super) struct Set {
    /// The buffers, one every `stride` bytes.
    bytes: Pages,
    /// The ring the kernel takes buffers from: entries of 16 bytes.
    entries: Pages,
    /// Entries, a power of two.
    length: u16,
    /// Buffers.
    count: u16,
    /// Bytes of each.
    size: usize,
    /// From the start of one to the start of the next.
    stride: usize,
    /// What the number of each of them has besides its place.
    mark: u16,
    /// Where the next buffer is put back, as the kernel knows it after [`Set::publish`].
    tail: u16,
    /// Leases by buffer; 0: the kernel has it.
    leases: Vec<u32>,
    /// Buffers that are free and not in the ring; the one used last is taken first, because its
    /// bytes are still in the caches.
    spare: Vec<u16>,
    /// Buffers in the ring.
    listed: u16,
    /// How many should be in it, if there are so many.
    wanted: u16,
    /// How many were taken at most between two times they were published, lately.
    busiest: u16,
    /// How often they were published since then.
    quiet: u16,
}

/// How often buffers are published until fewer are wanted.
const QUIET: u16 = 1024;
/// So many are always wanted.
const LEAST: u16 = 64;

impl Set {
    /// So many buffers of this size, `stride` bytes or more apart, none of them in the ring.
    pub(super) fn new(
        (count, size, stride): (u16, usize, usize),
        mark: u16,
    ) -> std::io::Result<Self> {
        let stride = stride.max(size);
        let length = count.next_power_of_two();
        let mut set = Self {
            bytes: Pages::new(usize::from(count) * stride)?,
            entries: Pages::new(usize::from(length) * size_of::<BufRingEntry>())?,
            length,
            count,
            size,
            stride,
            mark,
            tail: 0,
            leases: vec![0; usize::from(count)],
            spare: Vec::with_capacity(usize::from(count)),
            listed: 0,
            wanted: 0,
            busiest: 0,
            quiet: 0,
        };
        for id in (0..count).rev() {
            set.put_back(mark | id);
        }
        Ok(set)
    }

    /// Has all of them in memory from now on.
    pub(super) fn prepare(&self) {
        self.bytes.prepare();
    }

    /// Where the ring of entries is, and how many it has.
    pub(super) fn ring(&self) -> (u64, u16) {
        (self.entries.base().as_ptr() as u64, self.length)
    }

    /// Leaves the memory where it is for good.
    pub(super) fn abandon(&mut self) {
        self.bytes.abandon();
        self.entries.abandon();
    }

    /// How many there are.
    pub(super) const fn count(&self) -> u16 {
        self.count
    }

    /// How many nobody has a lease on.
    pub(super) fn free(&self) -> u16 {
        self.listed + u16::try_from(self.spare.len()).unwrap_or(u16::MAX)
    }

    /// From the next time they are published, so many should be in the ring.
    pub(super) const fn want(&mut self, count: u16) {
        self.wanted = count;
    }

    /// Wants as many as are taken from one time they are published to the next, and as many
    /// again: where few go round, they stay in the caches.
    pub(super) fn adapt(&mut self) {
        let taken = self.wanted.saturating_sub(self.listed);
        self.busiest = self.busiest.max(taken);
        if taken > self.wanted / 2 {
            self.wanted = self.wanted.saturating_mul(2).min(self.count);
        }
        self.quiet += 1;
        if self.quiet == QUIET {
            if self.busiest < self.wanted / 8 {
                self.wanted = (self.wanted / 2).max(LEAST.min(self.count));
            }
            (self.quiet, self.busiest) = (0, 0);
        }
    }

    /// The kernel has filled a buffer.
    pub(super) fn fill(&mut self, id: u16) {
        let leases = self.leases(id);
        assert_eq!(*leases, 0, "the kernel filled a buffer that is still lent out (I3)");
        *leases = 1;
        self.listed -= 1;
    }

    /// One more reason to keep it.
    pub(super) fn share(&mut self, id: u16) {
        let leases = self.leases(id);
        assert!(*leases > 0, "a lease without a lender (I3)");
        *leases += 1;
    }

    /// One less; with the last the kernel gets it back.
    pub(super) fn release(&mut self, id: u16) {
        let leases = self.leases(id);
        assert!(*leases > 0, "a lease given back twice (I3)");
        *leases -= 1;
        if *leases == 0 {
            self.put_back(id);
        }
    }

    fn leases(&mut self, id: u16) -> &mut u32 {
        &mut self.leases[usize::from(id & !self.mark)]
    }

    /// Puts as many into the ring as should be there, and tells the kernel.
    pub(super) fn publish(&mut self) {
        let before = self.tail;
        while self.listed < self.wanted
            && let Some(id) = self.spare.pop()
        {
            self.list(id);
        }
        if self.tail == before {
            return;
        }
        let base = self.entries.base().cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of the ring, page-aligned and mapped.
        let tail = unsafe { BufRingEntry::tail(base.as_ptr()) };
        // SAFETY: the tail lies within the mapped ring, is aligned to two bytes, is written by
        // this thread alone, and read by the kernel as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Nobody reads a buffer any more.
    fn put_back(&mut self, id: u16) {
        self.spare.push(id);
    }

    /// Puts a buffer into the ring.
    fn list(&mut self, id: u16) {
        let start = self.start(id);
        if cfg!(debug_assertions) {
            // SAFETY: nobody has a lease on the buffer and the kernel has not got it yet, so we
            // are its only user; a reader that is wrong about that sees poison.
            unsafe { start.write_bytes(0xDB, self.size) };
        }
        let index = usize::from(self.tail & (self.length - 1));
        // SAFETY: `index` is less than `length`, and so many entries are mapped.
        let entry = unsafe { self.entries.base().cast::<BufRingEntry>().add(index).as_ptr() };
        // SAFETY: the kernel reads entries below the published tail only; this one is above it.
        // There are never more buffers than entries, so it holds none that is not yet taken.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start as u64);
        entry.set_len(u32::try_from(self.size).unwrap_or(0));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.listed += 1;
    }

    /// Where a buffer starts.
    pub(super) fn start(&self, id: u16) -> *mut u8 {
        let place = id & !self.mark;
        assert!(place < self.count, "a buffer that is none of ours");
        // SAFETY: `place` is less than `count`, and so many buffers are mapped, `stride` bytes
        // from each to the next.
        unsafe { self.bytes.base().add(usize::from(place) * self.stride).as_ptr() }
    }
}
