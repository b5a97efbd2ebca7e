//! The connections by which nodes are checked: each begins as a login, and one of each node becomes
//! the session that is pinged and asked where the node stands.
//!
//! They are the monitor's own, so that no check waits for traffic and no traffic for a check. When
//! to begin one and what it means is for [`Judge`](pgring_logic::health::Judge) to say.

use crate::clock;
use crate::control::monitor::{Answer, ask};
use crate::dialer::Dialer;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use pgring_logic::action::Address;
use pgring_logic::config::{Monitor, SERVER_KEEPALIVE};
use pgring_logic::health::{Failure, Sight};
use pgring_logic::topology::horizon::Horizon;
use socket2::Socket;
use std::cell::Cell;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{Client, NoTls};

/// How long an address may take before another one is tried beside it.
const NEXT: Duration = Duration::from_millis(250);

/// What `PostgreSQL` calls the sessions of the monitor.
const NAME: &str = "pgring monitor";

/// A node to be checked.
#[derive(Debug)]
pub(super) struct Target {
    /// Tells what was begun before a reload.
    pub(super) watch: u64,
    /// Its place among all that are watched.
    pub(super) place: usize,
    pub(super) cluster: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) addresses: Vec<Address>,
    /// The address that answered last; it is tried first.
    pub(super) first: Cell<usize>,
    pub(super) settings: Monitor,
    pub(super) dialer: Rc<Dialer>,
    /// Where commits are looked for that were lost.
    pub(super) horizon: Horizon,
}

/// What a check has to tell.
#[derive(Debug)]
pub(super) struct News {
    pub(super) watch: u64,
    pub(super) place: usize,
    pub(super) told: Told,
}

/// See [`News`].
#[derive(Debug)]
pub(super) enum Told {
    /// Something was seen.
    Sight(Sight),
    /// The other end's kernel has taken a connection; here is a second handle of it, to look at.
    Connected { login: u64, took: Duration, socket: Option<OwnedFd> },
    /// Where the node stands.
    Stands(Answer),
}

/// What a check is given.
#[derive(Debug)]
pub(super) struct Lines {
    /// Orders to ping.
    pub(super) pings: UnboundedReceiver<()>,
    /// How often it is asked where it stands.
    pub(super) pace: watch::Receiver<Duration>,
    pub(super) out: UnboundedSender<News>,
}

impl Target {
    fn tell(&self, lines: &Lines, told: Told) {
        // Nobody listens when the process ends, and then nothing matters.
        let _ends = lines.out.send(News { watch: self.watch, place: self.place, told });
    }

    fn sight(&self, lines: &Lines, sight: Sight) {
        self.tell(lines, Told::Sight(sight));
    }

    /// Logs in, and serves as the session until the connection or the orders end.
    pub(super) async fn check(&self, login: u64, mut lines: Lines) {
        let begun = Instant::now();
        let failed = match self.connect().await {
            Ok((address, Stream::Tcp(stream))) => {
                let socket = stream.as_fd().try_clone_to_owned().ok();
                let took = begun.elapsed();
                self.tell(&lines, Told::Connected { login, took, socket });
                self.enter(login, address, stream, &mut lines).await
            }
            Ok((address, Stream::Unix(stream))) => {
                let took = begun.elapsed();
                self.tell(&lines, Told::Connected { login, took, socket: None });
                self.enter(login, address, stream, &mut lines).await
            }
            Err(why) => Err(why),
        };
        if let Err(why) = failed {
            self.sight(&lines, Sight::Failed { login, why });
        }
    }

    /// Connects to one of its addresses: the last good one first, and another one each time that
    /// fails, or takes longer than most ("happy eyeballs", RFC 8305). Why not, is what the first
    /// one says.
    async fn connect(&self) -> Result<(usize, Stream), Failure> {
        let count = self.addresses.len();
        let mut order = (0..count).map(|step| (self.first.get() + step) % count);
        let mut tries = FuturesUnordered::new();
        let mut why = None;
        loop {
            if let Some(at) = order.next() {
                let one = async move { (at, connect(&self.addresses[at], &self.dialer).await) };
                tries.push(one);
            } else if tries.is_empty() {
                let nowhere = || Failure::Ours("its name has no address".to_owned());
                return Err(why.unwrap_or_else(nowhere));
            }
            let patience = if order.len() > 0 { NEXT } else { Duration::MAX };
            while let Ok(Some((at, done))) = timeout(patience, tries.next()).await {
                match done {
                    Ok(stream) => {
                        self.first.set(at);
                        return Ok((at, stream));
                    }
                    Err(failure) => drop(why.get_or_insert(failure)),
                }
                if order.len() > 0 {
                    break;
                }
            }
        }
    }

    async fn enter<S>(
        &self,
        login: u64,
        address: usize,
        stream: S,
        lines: &mut Lines,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let settings = config_of(&self.settings, &self.settings.database);
        let (client, connection) = settings.connect_raw(stream, NoTls).await.map_err(failure)?;
        let (tell, ended) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let end = match connection.await {
                Ok(()) => (true, "closed by the node".to_owned()),
                Err(why) => (is_told(&why), told(&why)),
            };
            // Whoever left is not interested.
            let _left = tell.send(end);
        });
        self.sight(lines, Sight::LoggedIn { login });
        if let Some((heard, reason)) = self.serve(login, address, &client, ended, lines).await {
            self.sight(lines, Sight::Ended { session: login, heard, reason });
        }
        Ok(())
    }

    /// Answers orders to ping; how it ended, unless nobody gives orders any more.
    async fn serve(
        &self,
        session: u64,
        address: usize,
        client: &Client,
        mut ended: oneshot::Receiver<(bool, String)>,
        lines: &mut Lines,
    ) -> Option<(bool, String)> {
        let lost = || (true, "closed by the node".to_owned());
        let mut asked: Option<Instant> = None;
        loop {
            let pace = *lines.pace.borrow_and_update();
            // A pace that is quicker than the pings is kept without them, once it is the session.
            let hurries = asked.filter(|_| pace < self.settings.ping).map(|at| at + pace);
            let ping = tokio::select! {
                biased;
                end = &mut ended => return Some(end.unwrap_or_else(|_| lost())),
                order = lines.pings.recv() => { order?; true }
                changed = lines.pace.changed() => { changed.ok()?; continue }
                () = sleep_until(hurries.unwrap_or_else(Instant::now)), if hurries.is_some() => {
                    false
                }
            };
            let now = Instant::now();
            let due = asked.is_none_or(|at| now.duration_since(at) + self.settings.ping / 2 > pace);
            let work = async {
                if !due {
                    return client.batch_execute("").await.map(|()| None).map_err(|why| told(&why));
                }
                // What was told before this lies before the end that the primary tells.
                let (lost, begun) = (self.horizon.lost(), clock::now());
                ask(client).await.map(|it| Some(Answer { asked: begun, lost, address, ..it }))
            };
            let answer = tokio::select! {
                biased;
                answer = work => answer,
                end = &mut ended => return Some(end.unwrap_or_else(|_| lost())),
            };
            match answer {
                Ok(Some(answer)) => {
                    asked = Some(now);
                    self.tell(lines, Told::Stands(answer));
                }
                Ok(None) => {}
                Err(_) if client.is_closed() => {
                    return Some(ended.await.unwrap_or_else(|_| lost()));
                }
                Err(reason) => return Some((true, reason)),
            }
            if ping {
                self.sight(lines, Sight::Answered { session });
            }
        }
    }
}

/// A connection to a node.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn connect(address: &Address, dialer: &Dialer) -> Result<Stream, Failure> {
    match address {
        Address::Tcp(to) => {
            let socket = || {
                let (socket, _) = dialer.dial(address)?;
                let socket = Socket::from(socket);
                socket.set_nonblocking(true)?;
                Ok(TcpSocket::from_std_stream(socket.into()))
            };
            // No descriptor is left, or no memory: the node has not even been asked.
            let socket = socket().map_err(|why: io::Error| Failure::Ours(why.to_string()))?;
            socket.connect(*to).await.map(Stream::Tcp).map_err(|why| refused(&why))
        }
        Address::Unix(path) => {
            UnixStream::connect(path).await.map(Stream::Unix).map_err(|why| refused(&why))
        }
    }
}

/// Why there is no connection.
fn refused(why: &io::Error) -> Failure {
    // A Unix socket goes with its postmaster.
    let nobody = [ErrorKind::ConnectionRefused, ErrorKind::NotFound];
    let closed = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe];
    // No port is left; or, of a Unix socket, no place in its queue.
    let ours = [ErrorKind::AddrNotAvailable, ErrorKind::WouldBlock, ErrorKind::PermissionDenied];
    if nobody.contains(&why.kind()) {
        Failure::Refused
    } else if ours.contains(&why.kind()) {
        Failure::Ours(why.to_string())
    } else if closed.contains(&why.kind()) {
        Failure::Closed(why.to_string())
    } else {
        Failure::Unreachable(why.to_string())
    }
}

/// Why there is a connection and no session.
#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn failure(why: tokio_postgres::Error) -> Failure {
    if let Some(own) = why.as_db_error() {
        let (code, message) = (own.code().code().to_owned(), own.message().to_owned());
        return Failure::Error { code, message };
    }
    match cause(&why) {
        Some(cause) if !is_heard(cause) => Failure::Unreachable(cause.to_string()),
        Some(_) | None => Failure::Closed(why.to_string()),
    }
}

fn cause(why: &tokio_postgres::Error) -> Option<&io::Error> {
    why.source()?.downcast_ref()
}

/// Whether an error came from the other side; else our kernel has given up.
fn is_heard(why: &io::Error) -> bool {
    !matches!(
        why.kind(),
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

fn is_told(why: &tokio_postgres::Error) -> bool {
    cause(why).is_none_or(is_heard)
}

/// Logs in to a database at an address, for something else than a check.
pub(super) async fn open(
    address: &Address,
    dialer: &Dialer,
    settings: &Monitor,
    database: &str,
) -> Result<Client, String> {
    open_session(address, dialer, settings, (database, NAME)).await
}

/// The same under another `application_name`.
pub(crate) async fn open_session(
    address: &Address,
    dialer: &Dialer,
    settings: &Monitor,
    (database, name): (&str, &str),
) -> Result<Client, String> {
    let mut config = config_of(settings, database);
    config.application_name(name);
    match connect(address, dialer).await.map_err(|why| why.to_string())? {
        Stream::Tcp(stream) => login(&config, stream).await,
        Stream::Unix(stream) => login(&config, stream).await,
    }
}

async fn login<S>(config: &tokio_postgres::Config, stream: S) -> Result<Client, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.map_err(|why| told(&why))?;
    // It ends with the client; what goes wrong there is the answer to a question.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(client)
}

fn config_of(settings: &Monitor, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.user(settings.user.as_deref().unwrap_or_default());
    config.dbname(database).application_name(NAME).options(keepalive());
    if let Some(password) = &settings.password {
        config.password(&password.0);
    }
    config
}

/// Has a server see for itself that pgring is gone.
fn keepalive() -> String {
    SERVER_KEEPALIVE.map(|(name, value)| format!("-c {name}={value}")).join(" ")
}

/// In the server's words, if they are its own.
pub(crate) fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |own| own.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::Target;
    use crate::dialer::Dialer;
    use pgring_logic::action::Address;
    use pgring_logic::config::Monitor;
    use pgring_logic::health::Failure;
    use pgring_logic::topology::horizon::Horizon;
    use socket2::{Domain, Socket, Type};
    use std::cell::Cell;
    use std::net::SocketAddr;
    use std::rc::Rc;
    use std::time::Duration;

    fn socket() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
    }

    fn listener(backlog: i32) -> (Socket, SocketAddr) {
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(backlog).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        (listener, address)
    }

    fn target(addresses: Vec<SocketAddr>) -> Target {
        Target {
            watch: 1,
            place: 0,
            cluster: "main".into(),
            node: "pg1".into(),
            addresses: addresses.into_iter().map(Address::Tcp).collect(),
            first: Cell::new(0),
            settings: Monitor::default(),
            dialer: Rc::new(Dialer::default()),
            horizon: Horizon::default(),
        }
    }

    /// Of a name with two addresses one is silent: it was asked for as long as anybody waited, and
    /// the node taken for dead.
    #[test]
    fn a_silent_address_does_not_hide_another() {
        let (full, silent) = listener(0);
        // Its queue is full, so whoever else asks is not answered.
        let waiting: Vec<Socket> = (0..3).map(|_| socket()).collect();
        for one in &waiting {
            one.set_nonblocking(true).unwrap();
            let _begun = one.connect(&silent.into());
        }
        let (open, good) = listener(8);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let two = target(vec![silent, good]);
        let at = runtime.block_on(async {
            let late = Duration::from_secs(10);
            tokio::time::timeout(late, two.connect()).await.expect("the other answers")
        });
        assert!(at.is_ok_and(|(at, _)| at == 1));
        assert_eq!(two.first.get(), 1, "it is asked first from now on");
        drop((full, waiting, open));
        let none = target(vec![good]);
        let refused = runtime.block_on(none.connect()).err();
        assert_eq!(refused, Some(Failure::Refused));
        let nowhere = runtime.block_on(target(Vec::new()).connect()).err();
        assert!(matches!(nowhere, Some(Failure::Ours(_))), "{nowhere:?}");
    }
}
