//! Sockets of connections: how they are made, and what the kernel knows of them.
//!
//! A peer that is gone is noticed within ten seconds: `TCP_USER_TIMEOUT` while bytes are
//! unacknowledged, keepalive while there are none. But the kernel counts a peer that is alive and
//! does not read as gone too, after the same ten seconds; how long a client may do that is for
//! `client_write_timeout` to say, and a server that is busy with something else may do it for as
//! long as it likes. So a sending connection whose peer's window is shut is given
//! [`Patience::Long`].

use pgring_logic::action::Address;
use pgring_logic::mail::Peer;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Silence before the first keepalive probe.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
/// Between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes that end a connection.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Unanswered window probes that end a connection with [`Patience::Long`]; they come at least 0.2
/// seconds apart, and each twice as late as the one before.
const PROBES_MAX: u8 = 6;

/// An option of Linux 6.16 (`include/uapi/linux/tcp.h`), in microseconds.
const TCP_RTO_MIN_US: libc::c_int = 45;

/// How long the kernel waits for a peer that does not take what is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// `USER_TIMEOUT`.
    Short,
    /// For ever; somebody else looks at the clock.
    Long,
}

/// How far a peer has come with what is sent to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reading {
    /// A number that changes when the peer takes something.
    pub mark: u64,
    /// It is alive and takes nothing at the moment.
    pub shut: bool,
    /// It takes nothing and is silent.
    pub gone: bool,
}

/// A socket for a server connection, and where it is to be connected to.
pub fn dial(address: &Address) -> io::Result<(OwnedFd, SockAddr)> {
    match address {
        Address::Tcp(to) => {
            let socket = Socket::new(Domain::for_address(*to), Type::STREAM, None)?;
            prepare_tcp(&SockRef::from(&socket))?;
            Ok((socket.into(), SockAddr::from(*to)))
        }
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            Ok((socket.into(), SockAddr::unix(path)?))
        }
    }
}

/// Sets what every TCP connection has. Set on a listener, its connections inherit it.
pub(super) fn prepare_tcp(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Who is at the other end.
pub fn peer(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    let socket = SockRef::from(&fd);
    match socket.peer_addr()?.as_socket() {
        Some(address) => Ok(Peer::Tcp(address.ip().to_canonical(), address.port())),
        None => Ok(Peer::Unix(user(fd)?)),
    }
}

/// Ends one direction or both.
pub fn shut_down(fd: BorrowedFd<'_>, how: Shutdown) {
    // It fails only for what is already at its end.
    let _at_end = SockRef::from(&fd).shutdown(how);
}

/// Sets how long the kernel waits for the peer; nothing on a Unix socket.
pub fn set_patience(fd: BorrowedFd<'_>, patience: Patience) {
    let timeout = match patience {
        Patience::Short => Some(USER_TIMEOUT),
        Patience::Long => None,
    };
    // A Unix socket has no such option.
    let _unix = SockRef::from(&fd).set_tcp_user_timeout(timeout);
}

/// Sets how many bytes must be there before anybody is woken for them (`SO_RCVLOWAT`); false if
/// that cannot be. What is there already is told of at once if it is enough.
pub fn set_low_water(fd: BorrowedFd<'_>, bytes: usize) -> bool {
    let Ok(bytes) = libc::c_int::try_from(bytes) else { return false };
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).unwrap_or(0);
    // SAFETY: the kernel reads one integer from a local during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    result == 0
}

/// Sets what the kernel waits at least before it sends again what was not acknowledged.
pub fn set_rto_min(fd: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    let micros = libc::c_int::try_from(time.as_micros()).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of_val(&micros)).unwrap_or(0);
    // SAFETY: the kernel reads one integer from a local during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MIN_US,
            (&raw const micros).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How far the peer has come.
pub fn reading(fd: BorrowedFd<'_>) -> Reading {
    let Some(info) = tcp_info(fd) else {
        return Reading { mark: unsent(fd), shut: false, gone: false };
    };
    let number = |at: usize| info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    // Places in `struct tcp_info` of linux/tcp.h, which only ever grows at its end.
    let unacknowledged = number(24).map_or(0, u32::from_ne_bytes);
    let waiting = number(144).map_or(0, u32::from_ne_bytes);
    let acked = info.get(120..128).and_then(|bytes| bytes.try_into().ok());
    let shut = unacknowledged == 0 && waiting > 0;
    Reading { mark: acked.map_or(0, u64::from_ne_bytes), shut, gone: shut && info[3] >= PROBES_MAX }
}

/// What an operation's error means, for messages: "connection refused".
pub fn words(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.rsplit_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}

/// `struct tcp_info`; none if this is not TCP.
fn tcp_info(fd: BorrowedFd<'_>) -> Option<[u8; 256]> {
    let mut info = [0u8; 256];
    let mut length = libc::socklen_t::try_from(info.len()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes into a local array of that length, and
    // the number written into a local, both during the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(info)
}

/// Bytes the kernel has accepted and the peer has not taken.
fn unsent(fd: BorrowedFd<'_>) -> u64 {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one integer into a local during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { u64::try_from(count).unwrap_or(0) } else { 0 }
}

/// The user id of the process at the other end of a Unix socket.
fn user(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: the kernel writes one `ucred` into a local of that type and its length into
    // another, both during the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(who.uid) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::{Patience, dial, peer, prepare_tcp, reading, set_patience, words};
    use pgring_logic::action::Address;
    use pgring_logic::mail::Peer;
    use socket2::{Domain, SockRef, Socket, Type};
    use std::io::Write;
    use std::net::SocketAddr;
    use std::os::fd::AsFd;
    use std::time::Duration;

    /// Both ends of a connection over TCP: (the one that was accepted, the one that dialled).
    fn pair() -> (Socket, Socket) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        prepare_tcp(&SockRef::from(&listener)).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let (fd, to) = dial(&Address::Tcp(address)).unwrap();
        let ours = Socket::from(fd);
        ours.connect(&to).unwrap();
        (listener.accept().unwrap().0, ours)
    }

    #[test]
    fn an_accepted_connection_has_what_its_listener_was_given() {
        let (accepted, dialled) = pair();
        for socket in [&accepted, &dialled] {
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(10)));
        }
        let port = dialled.local_addr().unwrap().as_socket().unwrap().port();
        assert!(matches!(peer(accepted.as_fd()).unwrap(), Peer::Tcp(_, from) if from == port));
    }

    #[test]
    fn a_peer_that_does_not_read_is_told_from_one_that_does() {
        let (accepted, mut dialled) = pair();
        let open = reading(dialled.as_fd());
        assert!(!open.shut && !open.gone);
        dialled.set_nonblocking(true).unwrap();
        // Buffers grow for a while, and the last bytes take a while to be acknowledged.
        let mut shut = open;
        for _ in 0..1000 {
            while dialled.write(&[0; 8192]).is_ok() {}
            shut = reading(dialled.as_fd());
            if shut.shut {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert!(shut.shut && !shut.gone, "{shut:?}");
        set_patience(dialled.as_fd(), Patience::Long);
        assert_eq!(dialled.tcp_user_timeout().unwrap_or(None).unwrap_or_default().as_secs(), 0);
        drop(accepted);
    }

    #[test]
    fn a_process_on_this_machine_is_known_by_its_user() {
        let (one, _other) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        let me = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        assert_eq!(peer(one.as_fd()).unwrap(), Peer::Unix(me));
    }

    #[test]
    fn errors_are_said_in_words() {
        assert_eq!(words(libc::ECONNREFUSED), "connection refused");
    }
}
