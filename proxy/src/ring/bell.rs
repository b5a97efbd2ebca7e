//! The bell that wakes a sleeping ring: an eventfd that any thread may ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// One eventfd.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes two numbers, makes a descriptor, touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made a line above and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes whoever polls it. It is never read: a poll that is armed hears each write.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the kernel reads eight bytes of a local array during the call.
        let _counted = unsafe {
            libc::write(std::os::fd::AsRawFd::as_raw_fd(&self.0), one.as_ptr().cast(), one.len())
        };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
