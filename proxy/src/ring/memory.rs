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

    /// Has all of it in memory from now on, in huge pages if there are some: the kernel copies
    /// every byte received into it. Wishes, so no answer is awaited.
    pub(super) fn prepare(&self) {
        allow_huge();
        // SAFETY: the range is the one mapped by `new`, and the advice changes no content.
        let _wish =
            unsafe { libc::madvise(self.base.as_ptr().cast(), self.length, libc::MADV_HUGEPAGE) };
        let populate = libc::MADV_POPULATE_WRITE;
        // SAFETY: as above; what is written into untouched pages are the zeros they hold anyway.
        let _wish = unsafe { libc::madvise(self.base.as_ptr().cast(), self.length, populate) };
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

/// Where the kernel says who gets huge pages.
const HUGE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// From Linux 6.18 on: nobody but who asks (`linux/prctl.h`).
const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;

/// The allocator has switched huge pages off for the process, because a heap of them keeps MiB
/// resident for a few KiB; this lets those have them who ask.
fn allow_huge() {
    let advised = |disable: libc::c_ulong, flags: libc::c_ulong| {
        // SAFETY: takes numbers and touches no memory of ours.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disable, flags, 0, 0) == 0 }
    };
    let asked_for = || std::fs::read_to_string(HUGE).is_ok_and(|who| who.contains("[madvise]"));
    if !advised(1, EXCEPT_ADVISED) && asked_for() {
        let _wish = advised(0, 0);
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
