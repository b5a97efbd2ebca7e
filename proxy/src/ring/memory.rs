//! Memory that the kernel is told the address of: whole pages that never move.

use std::io;
use std::ptr::NonNull;

/// Zeroed pages, given back when dropped.
#[derive(Debug)]
pub(super) struct Pages {
    base: NonNull<u8>,
    length: usize,
    abandoned: bool,
}

impl Pages {
    /// At least `length` bytes.
    pub(super) fn new(length: usize) -> io::Result<Self> {
        let length = length.max(1);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private mapping at a place of the kernel's choice touches no memory that
        // exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, length, abandoned: false })
    }

    /// Asks for huge pages; a wish, so no answer is awaited.
    pub(super) fn prefer_huge(&self) {
        // SAFETY: the range is the one mapped by `new`, and the advice changes no content.
        let _wish =
            unsafe { libc::madvise(self.base.as_ptr().cast(), self.length, libc::MADV_HUGEPAGE) };
    }

    /// Where it starts.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Never gives it back.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if !self.abandoned {
            // SAFETY: the range is the one mapped by `new`; the owner drops it only after the
            // kernel has forgotten its address, and abandons it if it is not sure.
            let _done = unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
        }
    }
}
