//! The bell that wakes a sleeping ring: an eventfd that any thread may ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

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

    /// Wakes whoever polls it. A ring never reads it: a poll that is armed hears each write.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the kernel reads eight bytes of a local array during the call.
        let _counted = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits until it is rung, at most for `limit`: for a thread that has no ring at the moment.
    pub fn wait(&self, limit: Duration) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // Rather a little too long than again and again for nothing.
        let limit = i32::try_from(limit.as_millis() + 1).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads and writes one local structure during the call.
        let _woken = unsafe { libc::poll(&raw mut poll, 1, limit) };
        let mut count = [0; 8];
        // SAFETY: the kernel writes eight bytes of a local array during the call, which does not
        // wait: the descriptor was made so.
        let _read = unsafe { libc::read(poll.fd, count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
