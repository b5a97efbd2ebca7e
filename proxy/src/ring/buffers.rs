//! The provided buffers of a ring, and the leases on them.
//!
//! The kernel takes a buffer when bytes arrive, so an idle connection holds none. What it filled
//! is lent out: a [`Lease`] is one reason why the buffer may not be filled again, and several
//! ranges of one buffer may wait for several connections at once. When the last lease is given
//! back the kernel gets the buffer again (invariant I3).
//!
//! There are two sets: many small ones, and a few large ones for connections that stream.

mod set;

use set::Set;

/// Bytes of one small buffer.
pub const BUFFER_SIZE: usize = 8 * 1024;
/// Bytes of one large buffer: a little less than what two segments carry where the kernel makes
/// them as large as it can (64 KiB with headers), and fifteen pieces as a server sends them. With
/// a little more, each buffer sent would be three segments.
pub const LARGE_SIZE: usize = 120 * 1024;

/// From the start of one small buffer to the start of the next: a little more than a buffer, so
/// that their beginnings, which is all that is used of most, do not share a few sets of the caches.
const STRIDE: usize = BUFFER_SIZE + 3 * 64;

/// The group that the small buffers of a ring are in.
pub(super) const SMALL: u16 = 0;
/// The group of the large ones.
pub(super) const LARGE: u16 = 1;

/// For so many small buffers there is a large one.
const SMALL_PER_LARGE: u16 = 16;
/// At most so many large ones, 7.5 MiB.
const LARGE_MAX: u16 = 64;

/// In the number of a buffer: it is a large one.
const IS_LARGE: u16 = 1 << 15;

/// One reason why a buffer may not be filled again.
///
/// It must be given back with [`Buffers::release`]; one that is dropped keeps its buffer for
/// good, which wastes memory but endangers nobody.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a lease that is dropped keeps its buffer for good"]
pub struct Lease(u16);

impl Lease {
    /// Bytes of its buffer.
    pub const fn size(&self) -> usize {
        if self.0 & IS_LARGE == 0 { BUFFER_SIZE } else { LARGE_SIZE }
    }
}

/// All buffers of one ring.
#[derive(Debug)]
pub struct Buffers {
    small: Set,
    large: Set,
    /// Receives that may fill a large one.
    streams: u32,
}

impl Buffers {
    /// `count` small buffers and some large ones, all of them in their rings but not yet known to
    /// the kernel.
    pub(crate) fn new(count: u16) -> std::io::Result<Self> {
        let count = count.clamp(1, IS_LARGE);
        let large = (count / SMALL_PER_LARGE).clamp(1, LARGE_MAX);
        let mut buffers = Self {
            small: Set::new((count, BUFFER_SIZE, STRIDE), 0)?,
            large: Set::new((large, LARGE_SIZE, LARGE_SIZE), IS_LARGE)?,
            streams: 0,
        };
        // Most traffic is theirs, and any connection may take one at any time.
        buffers.small.prepare();
        buffers.small.want(count);
        buffers.publish();
        Ok(buffers)
    }

    /// Where the ring of entries of each group is, and how many it has.
    pub(super) fn rings(&self) -> [(u64, u16, u16); 2] {
        let [small, large] = [&self.small, &self.large].map(Set::ring);
        [(small.0, small.1, SMALL), (large.0, large.1, LARGE)]
    }

    /// Leaves the memory where it is for good: the kernel may still write into it.
    pub(super) fn abandon(&mut self) {
        self.small.abandon();
        self.large.abandon();
    }

    /// The first lease on a buffer that the kernel has just filled.
    pub(crate) fn filled(&mut self, id: u16) -> Lease {
        self.set_mut(id).fill(id);
        Lease(id)
    }

    /// A second lease on the same buffer.
    pub fn share(&mut self, lease: &Lease) -> Lease {
        self.set_mut(lease.0).share(lease.0);
        Lease(lease.0)
    }

    /// Gives a lease back; with the last one of its buffer the kernel may fill it again.
    #[expect(clippy::needless_pass_by_value, reason = "the lease ends here")]
    pub fn release(&mut self, lease: Lease) {
        self.set_mut(lease.0).release(lease.0);
    }

    /// The bytes of a lent buffer.
    pub fn bytes(&self, lease: &Lease) -> &[u8] {
        // SAFETY: the buffer lies within pages that were mapped zeroed, so it is initialised.
        // The kernel writes into it only between `put_back` and `filled`; the lease keeps
        // `put_back` from happening, and giving it back needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.address(lease), lease.size()) }
    }

    /// Where a lent buffer starts, for the kernel to read from.
    pub(super) fn address(&self, lease: &Lease) -> *const u8 {
        let set = if lease.0 & IS_LARGE == 0 { &self.small } else { &self.large };
        set.start(lease.0).cast_const()
    }

    /// How many small buffers there are.
    pub fn count(&self) -> u16 {
        self.small.count()
    }

    /// How many of them the kernel has.
    pub fn free(&self) -> u16 {
        self.small.free()
    }

    /// A receive is about to begin that may fill a large one; false if there is none. Many may
    /// wait beside few large ones: one is taken when bytes come.
    pub fn begin_large(&mut self) -> bool {
        let any = self.large.free() > 0;
        self.streams += u32::from(any);
        self.want_large();
        any
    }

    /// Such a receive has ended.
    pub fn end_large(&mut self) {
        assert!(self.streams > 0, "a receive has ended that had not begun (I3)");
        self.streams -= 1;
        self.want_large();
    }

    fn want_large(&mut self) {
        self.large.want(u16::try_from(self.streams).unwrap_or(u16::MAX).min(self.large.count()));
    }

    /// The kernel has found no small one: more of them should be in its hands.
    pub fn ran_short(&mut self) {
        self.small.want(self.small.count());
    }

    /// Less than a quarter is free of the buffers that this one is of: from now on input that must
    /// wait is copied, so that a quarter always goes round.
    pub fn scarce(&self, lease: &Lease) -> bool {
        let set = if lease.0 & IS_LARGE == 0 { &self.small } else { &self.large };
        set.free() < set.count().div_ceil(4)
    }

    /// Tells the kernel of the buffers that were put back. Before every enter.
    pub(crate) fn publish(&mut self) {
        self.small.adapt();
        self.small.publish();
        self.large.publish();
    }

    fn set_mut(&mut self, id: u16) -> &mut Set {
        if id & IS_LARGE == 0 { &mut self.small } else { &mut self.large }
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_SIZE, Buffers, IS_LARGE, LARGE_SIZE, Lease};

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
        assert!(!buffers.scarce(&leases[0]));
        let last = buffers.filled(6);
        assert!(buffers.scarce(&last));
        buffers.release(last);
        for lease in leases {
            buffers.release(lease);
        }
    }

    #[test]
    fn large_buffers_are_counted_by_themselves() {
        let mut buffers = Buffers::new(64).unwrap();
        let mut leases = Vec::new();
        for id in 0..4 {
            assert!(buffers.begin_large());
            buffers.publish();
            leases.push(buffers.filled(IS_LARGE | id));
            buffers.end_large();
        }
        assert!(!buffers.begin_large() && buffers.scarce(&leases[0]));
        assert_eq!((buffers.free(), leases[0].size()), (64, LARGE_SIZE));
        let places: Vec<_> = leases.iter().map(|lease| buffers.bytes(lease).as_ptr()).collect();
        assert!(places.windows(2).all(|two| two[0].wrapping_add(LARGE_SIZE) == two[1]));
        for lease in leases {
            buffers.release(lease);
        }
        assert!(buffers.begin_large());
    }

    #[test]
    fn many_may_wait_for_few_large_ones_and_a_shortage_lists_all_small_ones() {
        let mut buffers = Buffers::new(64).unwrap();
        assert!((0..1000).all(|_| buffers.begin_large()));
        buffers.publish();
        (0..1000).for_each(|_| buffers.end_large());
        for _ in 0..100_000 {
            buffers.publish();
        }
        buffers.ran_short();
        buffers.publish();
        let all: Vec<_> = (0..64).map(|id| buffers.filled(id)).collect();
        for lease in all {
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
