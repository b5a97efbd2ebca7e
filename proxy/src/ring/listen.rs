//! Where clients come in: one TCP listener per worker and address, and one Unix socket for all.

use super::socket::prepare_tcp;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Connections that wait for `accept` in the kernel.
const BACKLOG: i32 = 4096;

/// The port in the name of the Unix socket if nothing else says one.
const PORT: u16 = 6432;

/// Why pgring cannot listen.
#[derive(Debug)]
pub enum ListenError {
    /// The text is no `host:port`, or its host is unknown.
    Unresolved(String, io::Error),
    /// The port cannot be had.
    Taken(SocketAddr, io::Error),
    /// Another process answers on the Unix socket.
    Answered(PathBuf),
    /// The Unix socket cannot be had.
    Unix(PathBuf, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(text, why) => write!(f, "listen = \"{text}\": {why}"),
            Self::Taken(address, why) if why.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: another process already does")
            }
            Self::Taken(address, why) => write!(f, "cannot listen on {address}: {why}"),
            Self::Answered(path) => {
                write!(f, "cannot listen on {}: another process already does", path.display())
            }
            Self::Unix(path, why) => write!(f, "cannot listen on {}: {why}", path.display()),
        }
    }
}

impl std::error::Error for ListenError {}

/// Everything that is listened on.
#[derive(Debug)]
pub struct Doors {
    /// The listeners of each worker: its own for each address.
    pub tcp: Vec<Vec<OwnedFd>>,
    /// The one that all workers share.
    pub unix: Option<UnixDoor>,
    /// Where clients reach us over TCP, with the real ports.
    pub addresses: Vec<SocketAddr>,
    /// How many of these, the last ones, are for clients that only read.
    pub readonly: usize,
}

/// A Unix socket whose file goes with it.
#[derive(Clone, Debug)]
pub struct UnixDoor {
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
    /// The file.
    pub path: PathBuf,
}

impl Doors {
    /// Listens for `workers` workers; on the second list for clients that only read.
    pub fn open(
        listen: [&[String]; 2],
        unix_dir: Option<&Path>,
        workers: usize,
    ) -> Result<Self, ListenError> {
        let mut tcp: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut readonly = 0;
        for (text, reads) in listen
            .into_iter()
            .zip([false, true])
            .flat_map(|(list, reads)| list.iter().map(move |text| (text, reads)))
        {
            for address in resolve(text)? {
                readonly += usize::from(reads);
                let taken = |why| ListenError::Taken(address, why);
                let mut actual = address;
                if address.port() != 0 {
                    probe(address).map_err(taken)?;
                }
                for doors in &mut tcp {
                    let socket = tcp_listener(actual).map_err(taken)?;
                    let bound = socket.local_addr().map_err(taken)?;
                    actual = bound.as_socket().unwrap_or(actual);
                    doors.push(socket.into());
                }
                addresses.push(actual);
            }
        }
        let port = addresses.first().map_or(PORT, SocketAddr::port);
        let unix = unix_dir.map(|dir| unix_door(dir, port)).transpose()?;
        Ok(Self { tcp, unix, addresses, readonly })
    }
}

/// The addresses that `text` means; `*` is every address of the machine.
fn resolve(text: &str) -> Result<Vec<SocketAddr>, ListenError> {
    let unresolved = |why| ListenError::Unresolved(text.to_owned(), why);
    if let Some(port) = text.strip_prefix("*:") {
        let port: u16 = port
            .parse()
            .map_err(|_| unresolved(io::Error::other("the port is no number up to 65535")))?;
        let mut all = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
        // Port 0 would be another one for each family.
        if port != 0 && Socket::new(Domain::IPV6, Type::STREAM, None).is_ok() {
            all.push(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        }
        return Ok(all);
    }
    Ok(text.to_socket_addrs().map_err(unresolved)?.collect())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Fails if another process listens: with `SO_REUSEPORT` alone, two would share the port in
/// silence.
fn probe(address: SocketAddr) -> io::Result<()> {
    tcp_socket(address)?.bind(&address.into())
}

fn tcp_listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_port(true)?;
    prepare_tcp(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn unix_door(dir: &Path, port: u16) -> Result<UnixDoor, ListenError> {
    let path = dir.join(format!(".s.PGSQL.{port}"));
    let failed = |why| ListenError::Unix(path.clone(), why);
    let address = SockAddr::unix(&path).map_err(failed)?;
    let socket = || Socket::new(Domain::UNIX, Type::STREAM, None);
    match socket().and_then(|caller| caller.connect(&address)) {
        Ok(()) => return Err(ListenError::Answered(path)),
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(&path).map_err(failed)?;
        }
        // Not there, or something that `bind` will explain better.
        Err(_) => {}
    }
    let door = socket().map_err(failed)?;
    door.bind(&address).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
    door.listen(BACKLOG).map_err(failed)?;
    Ok(UnixDoor { fd: Arc::new(door.into()), path })
}

#[cfg(test)]
mod tests {
    use super::{Doors, ListenError};

    fn listen(text: &str, workers: usize) -> Result<Doors, ListenError> {
        Doors::open([&[text.to_owned()], &[]], None, workers)
    }

    #[test]
    fn every_worker_has_its_own_listener_on_the_same_port() {
        let doors = listen("127.0.0.1:0", 3).unwrap();
        assert_eq!((doors.tcp.len(), doors.addresses.len()), (3, 1));
        assert_ne!(doors.addresses[0].port(), 0);
    }

    #[test]
    fn a_port_that_another_one_listens_on_is_refused() {
        let first = listen("127.0.0.1:0", 1).unwrap();
        let error = listen(&first.addresses[0].to_string(), 1).unwrap_err();
        assert!(error.to_string().contains("another process already does"), "{error}");
    }

    #[test]
    fn the_unix_socket_of_the_dead_is_replaced_and_of_the_living_is_not() {
        let dir = std::env::temp_dir().join(format!("pgring-listen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = Doors::open([&[], &[]], Some(&dir), 1).unwrap();
        let error = Doors::open([&[], &[]], Some(&dir), 1).unwrap_err();
        assert!(matches!(error, ListenError::Answered(_)), "{error}");
        drop(first);
        let second = Doors::open([&[], &[]], Some(&dir), 1).unwrap();
        assert!(second.unix.unwrap().path.ends_with(".s.PGSQL.6432"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nonsense_is_said_with_the_text_it_is_about() {
        let error = listen("127.0.0.1", 1).unwrap_err();
        assert!(error.to_string().starts_with("listen = \"127.0.0.1\""), "{error}");
    }
}
