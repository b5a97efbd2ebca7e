//! Headers that the kernel copies at submission: they must stay where they are until then.

use super::outbox::CHUNKS_PER_SEND;
use socket2::SockAddr;

/// Places for iovecs between two submissions.
pub(super) const IOVECS: usize = 64 * CHUNKS_PER_SEND;
/// Places for message headers between two submissions.
const HEADERS: usize = 1024;

/// Headers the kernel reads at submission, at places that do not move until then.
pub(super) struct Arena {
    pub(super) iovecs: Vec<libc::iovec>,
    pub(super) headers: Vec<libc::msghdr>,
    // In boxes: the list may grow.
    #[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
    pub(super) addresses: Vec<Box<SockAddr>>,
}

impl Arena {
    pub(super) fn new() -> Self {
        Self {
            // One more: of a send that finds no room, the first chunk goes.
            iovecs: Vec::with_capacity(IOVECS + 1),
            headers: Vec::with_capacity(HEADERS),
            addresses: Vec::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.iovecs.len() + CHUNKS_PER_SEND <= IOVECS && self.headers.len() < HEADERS
    }

    pub(super) fn clear(&mut self) {
        self.iovecs.clear();
        self.headers.clear();
        self.addresses.clear();
    }
}
