//! What the kernel knows of a TCP connection: `TCP_INFO`, as far as it matters here.
//!
//! The kernel's struct has grown at its end from version to version (`include/uapi/linux/tcp.h`),
//! and it gives as much as it has: what an older one does not have is zero here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of the kernel's struct that are asked for.
const BYTES: usize = 248;

/// A connection at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TcpInfo {
    /// Its state, by the kernel's numbers.
    pub state: u8,
    /// Timeouts (RTO) in a row without an acknowledgement.
    pub timeouts_in_a_row: u8,
    /// Questions to a window that is shut.
    pub window_probes: u8,
    /// Segments sent and not acknowledged.
    pub unacknowledged: u32,
    /// The smoothed round trip in microseconds.
    pub round_trip_us: u32,
    /// Its variation in microseconds.
    pub variation_us: u32,
    /// The least round trip so far in microseconds.
    pub round_trip_min_us: u32,
    /// Segments sent again, all together.
    pub retransmits: u32,
    /// Timeouts, all together; since Linux 6.7.
    pub timeouts: u32,
    /// Bytes that wait to be sent.
    pub unsent_bytes: u32,
    /// Bytes that were acknowledged; since Linux 4.2.
    pub acknowledged_bytes: u64,
    /// Bytes that have come; since Linux 4.2.
    pub received_bytes: u64,
    /// What the other side has room for, in bytes; since Linux 5.4.
    pub window: u32,
    /// Since the last segment with data came, in milliseconds.
    pub silent_ms: u32,
}

impl TcpInfo {
    /// Asks the kernel. An error where it is no TCP socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut bytes = [0_u8; BYTES];
        let mut len = libc::socklen_t::try_from(BYTES).unwrap_or(0);
        // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `len`
        // bytes, all of which are there, before it returns.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                bytes.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self::read(&bytes))
    }

    fn read(bytes: &[u8; BYTES]) -> Self {
        let word = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            u32::from_ne_bytes(number)
        };
        let wide = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(number)
        };
        Self {
            state: bytes[0],
            timeouts_in_a_row: bytes[2],
            window_probes: bytes[3],
            unacknowledged: word(24),
            silent_ms: word(52),
            round_trip_us: word(68),
            variation_us: word(72),
            retransmits: word(100),
            acknowledged_bytes: wide(120),
            received_bytes: wide(128),
            unsent_bytes: word(144),
            round_trip_min_us: word(148),
            window: word(228),
            timeouts: u32::from(u16::from_ne_bytes([bytes[240], bytes[241]])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TcpInfo;
    use crate::probe::tests::{listener, socket};
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd;

    #[test]
    fn a_connection_tells_how_it_is() {
        let (listener, mut ours) = (listener(), socket());
        ours.connect(&listener.local_addr().unwrap()).unwrap();
        let mut theirs = listener.accept().unwrap().0;
        ours.write_all(b"hello").unwrap();
        theirs.read_exact(&mut [0; 5]).unwrap();
        theirs.write_all(b"hello").unwrap();
        ours.read_exact(&mut [0; 5]).unwrap();
        let info = TcpInfo::of(ours.as_fd()).unwrap();
        assert_eq!((info.state, info.retransmits, info.unsent_bytes), (1, 0, 0), "{info:?}");
        assert!(info.round_trip_us > 0 && info.round_trip_us < 1_000_000, "{info:?}");
        assert!(info.round_trip_min_us > 0 && info.round_trip_min_us <= info.round_trip_us * 8);
        assert!(info.window > 1_000, "{info:?}");
        // The kernel counts the SYN as one.
        assert_eq!((info.acknowledged_bytes, info.received_bytes), (6, 5), "{info:?}");
        assert!(TcpInfo::of(listener.as_fd()).is_ok_and(|info| info.state == 10), "it listens");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(TcpInfo::of(file.as_fd()).is_err());
    }
}
