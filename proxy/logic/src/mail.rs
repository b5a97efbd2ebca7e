//! What crosses threads, and what a driver tells its lane.
//!
//! Lanes share nothing that changes. A snapshot of the configuration is immutable and counted;
//! everything else is one of these letters in a mailbox.

use crate::catalog::Catalog;
use crate::classify::cache::Route;
use crate::config::{Config, Password, PoolMode};
use crate::id::{ConnId, Core, PoolKey, Secret};
use crate::metrics::Histogram;
use crate::parcel::Parcel;
use crate::time::{Duration, Instant};
use crate::topology::Topology;
use std::net::IpAddr;
use std::sync::Arc;

/// What the driver tells a lane.
#[derive(Debug)]
pub enum Event {
    /// A connection that was asked for is open.
    Connected {
        /// Which.
        conn: ConnId,
    },
    /// The other end will send no more. All it sent before has been shown, unless the lane is
    /// waiting with held bytes that it does not want to see first
    /// ([`Lane::hears_out`](crate::lane::Lane::hears_out)).
    Ended {
        /// Which.
        conn: ConnId,
    },
    /// Connecting, receiving or sending failed; nothing more can be sent or received.
    Failed {
        /// Which.
        conn: ConnId,
        /// In words, for messages: "connection refused".
        reason: String,
    },
    /// Nothing of what waits for this client is taken. Said again and again, for whether that is
    /// too long is for the settings of its pool to say (`client_write_timeout`).
    Stalled {
        /// Which.
        conn: ConnId,
        /// For how long.
        quiet: Duration,
    },
    /// The kernel has let go of a closed or surrendered connection: its slot may be used again.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// [`Lane::deadline`](crate) has come. It may come too often without harm.
    Timeout,
    /// A letter has come.
    Mail(Mail),
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// A TCP address.
    Tcp(IpAddr, u16),
    /// A process on this machine, by its user id.
    Unix(u32),
}

/// How a client came in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entrance {
    /// The process has reached `clients_max`, so it is to be told.
    pub refused: bool,
    /// It came by a listener for reads only.
    pub readonly: bool,
    /// It came to another lane first, which has sent it here: it stays.
    pub before: Option<Before>,
}

/// What a lane knows of a client that it sends to another one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Before {
    /// When it came.
    pub connected: Instant,
    /// Encryption requests that have been answered.
    pub refused_encryption: u8,
}

/// A letter between lanes, or between a lane and the control thread.
#[derive(Debug)]
pub enum Mail {
    // Control thread to lane.
    /// A new snapshot.
    Config(Arc<Config>),
    /// The lane may open this many more servers of the pool.
    Permit {
        /// Of which pool.
        pool: PoolKey,
        /// How many.
        count: u32,
    },
    /// Other lanes wait for servers of this pool. Replaces what was said before of the same
    /// pool and core. `need` of 0: it no longer waits.
    Hungry {
        /// Of which pool.
        pool: PoolKey,
        /// Who waits.
        core: Core,
        /// How many servers it could use.
        need: u32,
        /// How long its oldest client has been waiting.
        since: Instant,
    },
    /// Close this many servers of the pool, idle ones first, as they become free.
    Shrink {
        /// Of which pool.
        pool: PoolKey,
        /// How many.
        count: u32,
    },
    /// An answer to [`Mail::Enter`].
    Entered {
        /// Who asked.
        conn: ConnId,
        /// The database it wanted.
        database: Arc<str>,
        /// The user it is.
        user: Arc<str>,
        /// None, or the limit that is reached, in words.
        refused: Option<String>,
    },
    /// An answer to [`Mail::Derive`].
    Derived {
        /// Who asked.
        conn: ConnId,
        /// `SaltedPassword` of RFC 5802.
        salted: [u8; 32],
    },
    /// Rows for a console client: encoded backend messages, `ReadyForQuery` included.
    Answer {
        /// Who asked.
        conn: ConnId,
        /// As they go to the client.
        bytes: Vec<u8>,
    },
    /// Send back a [`Mail::Report`] with this number.
    Ask(u64),
    /// The same, with the statements that came most often and where they went.
    AskRoutes(u64),
    /// A console order.
    Order {
        /// Send back [`Mail::Done`] with this number once it is carried out.
        number: u64,
        /// What to do.
        order: Order,
    },

    /// Where the nodes stand.
    Topology(Arc<Topology>),
    /// What names mean in a database. None: something has changed, and nobody knows yet what.
    Catalog {
        /// As clients name it.
        database: Arc<str>,
        /// What they mean.
        catalog: Option<Arc<Catalog>>,
    },

    // Lane to control thread.
    /// Replicas are behind what clients have written: they are worth being asked more often.
    Behind,
    /// A lane needs to know what names mean in this database.
    Want {
        /// Who asks.
        core: Core,
        /// As clients name it.
        database: Arc<str>,
        /// A statement that has ended may have changed it.
        changed: bool,
    },
    /// Clients of this pool wait here for a server. Replaces what was said before.
    Demand {
        /// Who says so.
        core: Core,
        /// Of which pool.
        pool: PoolKey,
        /// How many servers could be used beyond those being opened. 0: none.
        need: u32,
        /// Since when the oldest client has been waiting.
        since: Instant,
    },
    /// Servers are closed, or permits not used: the budget has this many more.
    Returned {
        /// Of which pool.
        pool: PoolKey,
        /// Who held them.
        core: Core,
        /// How many.
        count: u32,
    },
    /// A server moved; said by the lane that has it now.
    Moved {
        /// Of which pool.
        pool: PoolKey,
        /// Who had it.
        from: Core,
        /// Who has it.
        to: Core,
    },
    /// May this client come in? Asked only where a limit per database or user is set.
    Enter {
        /// Who asks.
        core: Core,
        /// For whom.
        conn: ConnId,
        /// The database it wants.
        database: Arc<str>,
        /// The user it is.
        user: Arc<str>,
    },
    /// A client that [`Mail::Enter`] let in has left.
    Left {
        /// The database it was in.
        database: Arc<str>,
        /// The user it was.
        user: Arc<str>,
    },
    /// Work out PBKDF2 of RFC 5802 (milliseconds; never done on a lane).
    Derive {
        /// Who asks.
        core: Core,
        /// For which server connection.
        conn: ConnId,
        /// The password, as in the users file.
        password: Password,
        /// The server's salt.
        salt: Vec<u8>,
        /// The server's iteration count.
        iterations: u32,
    },
    /// A console client's command. `extended`: it came as Parse/Bind/Execute, so the answer
    /// carries no `ReadyForQuery` and, unless `describe`, no `RowDescription`.
    Console {
        /// Who asks.
        core: Core,
        /// For which client.
        conn: ConnId,
        /// The user it is.
        user: Arc<str>,
        /// The text.
        text: String,
        /// How the answer is framed.
        shape: AnswerShape,
    },
    /// The answer to [`Mail::Ask`].
    Report(Box<Report>),
    /// The answer to [`Mail::Order`].
    Done {
        /// Who.
        core: Core,
        /// Which.
        number: u64,
        /// None, or what went wrong.
        error: Option<String>,
    },

    // Lane to lane.
    /// Cancel what the client with this key is doing.
    Cancel {
        /// As in `BackendKeyData`.
        pid: u32,
        /// As in `BackendKeyData`.
        secret: Secret,
        /// Where the request came in: the connection that waits for [`Mail::Cancelled`].
        from: (Core, ConnId),
    },
    /// A cancel request has been delivered, or fits nobody on this lane. Every lane that was
    /// asked answers once.
    Cancelled {
        /// The connection it came in on.
        conn: ConnId,
    },
    /// What servers of a pool report after login: clients can be greeted with it.
    Base {
        /// Of which pool.
        pool: PoolKey,
        /// Name and value of each.
        reported: Arc<std::collections::BTreeMap<String, String>>,
    },
    /// A server connection, on its way with its descriptor (from
    /// [`Surrender`](crate::action::Action::Surrender)).
    Parcel(Box<Parcel>),
    /// A client that has said who it is and has not been answered, on its way likewise, with what
    /// it said.
    Client {
        /// Who it is.
        peer: Peer,
        /// How it came in.
        entrance: Entrance,
    },
}

/// How a console answer is framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnswerShape {
    /// Simple query: `RowDescription`, rows, `CommandComplete`, `ReadyForQuery`.
    Simple,
    /// Describe of a statement: `ParameterDescription`, then `RowDescription` or `NoData`.
    DescribeStatement,
    /// Describe of a portal: `RowDescription` or `NoData`.
    DescribePortal,
    /// Execute: rows and `CommandComplete`; an error without `ReadyForQuery`.
    Execute,
}

/// An order of the console that lanes carry out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Order {
    /// Grant no more servers; done when all of them are back. `None`: all databases.
    Pause(Option<String>),
    /// Go on.
    Resume(Option<String>),
    /// Close servers as they become free.
    Reconnect(Option<String>),
    /// Close this client, told "terminated by the administrator".
    KillClient(u64),
    /// Take no more clients, close idle ones; done when no client is left.
    DrainClients,
    /// Take no more clients; done when no server is busy (clients waiting are refused).
    DrainServers,
    /// Done when no connection to the primary of this cluster is left, down to the last byte under
    /// way. Its gate is to be shut first, or drained, in this epoch; fails if it is opened anew.
    Vacate(String, u64),
}

impl Order {
    /// Whether it may take time to carry it out.
    pub fn lasts(&self) -> bool {
        match self {
            Self::Pause(_) | Self::DrainClients | Self::DrainServers | Self::Vacate(..) => true,
            Self::Resume(_) | Self::Reconnect(_) | Self::KillClient(_) => false,
        }
    }
}

/// What a lane looks like from outside.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whose.
    pub core: Core,
    /// The number in [`Mail::Ask`].
    pub number: u64,
    /// Its pools.
    pub pools: Vec<PoolReport>,
    /// Its clients.
    pub clients: Vec<ClientReport>,
    /// Its servers.
    pub servers: Vec<ServerReport>,
    /// Invariants violated since start (I1 to I8), each of which closed a server connection.
    pub violations: u64,
    /// Logins that failed since start.
    pub login_failures: u64,
    /// Bytes of statement texts kept.
    pub statement_bytes: u64,
    /// Statement texts kept.
    pub statements: u64,
    /// Where statements went, if that was asked for.
    pub routes: Vec<Route>,
}

/// One pool of one lane.
#[derive(Clone, Debug)]
pub struct PoolReport {
    /// Which.
    pub pool: PoolKey,
    /// The cluster it is on.
    pub cluster: String,
    /// The mode.
    pub mode: PoolMode,
    /// Clients with a server.
    pub clients_active: u32,
    /// Clients without a server and without a wish for one.
    pub clients_idle: u32,
    /// Clients that wait.
    pub clients_waiting: u32,
    /// Clients whose cancel request is on its way.
    pub clients_cancelling: u32,
    /// Servers with a client.
    pub servers_active: u32,
    /// Servers a cancel request is being delivered to.
    pub servers_cancelling: u32,
    /// Servers free.
    pub servers_idle: u32,
    /// Servers being cleaned or tested.
    pub servers_used: u32,
    /// Servers logging in.
    pub servers_login: u32,
    /// How long the oldest client has been waiting.
    pub wait_max: Duration,
    /// Paused by the console.
    pub paused: bool,
    /// Why the last login failed, if it did.
    pub last_error: Option<String>,
    /// Counters since start.
    pub stats: Stats,
}

/// Counters of one pool; all only ever grow.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Times a client was given a server.
    pub assignments: u64,
    /// Transactions.
    pub transactions: u64,
    /// Queries.
    pub queries: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Microseconds in transactions.
    pub transaction_us: u64,
    /// Microseconds in queries.
    pub query_us: u64,
    /// Microseconds clients waited for a server.
    pub wait_us: u64,
    /// Parse messages of clients.
    pub client_parses: u64,
    /// Parse messages sent to servers.
    pub server_parses: u64,
    /// Bind messages.
    pub binds: u64,
    /// Times a server's session state was changed at checkout.
    pub replays: u64,
    /// How long queries took.
    pub query_times: Histogram,
    /// How long transactions took.
    pub transaction_times: Histogram,
    /// How long clients waited.
    pub wait_times: Histogram,
    /// How long server connections took to open and log in.
    pub connect_times: Histogram,
    /// Time spent waiting on clients inside transactions.
    pub client_times: Histogram,
}

/// One client.
#[derive(Clone, Debug)]
pub struct ClientReport {
    /// A number to kill it by; unique in the process.
    pub number: u64,
    /// Its user.
    pub user: String,
    /// Its database.
    pub database: String,
    /// Its `application_name`.
    pub application_name: String,
    /// Idle, waiting, active...
    pub state: &'static str,
    /// Where from.
    pub peer: Peer,
    /// When it was accepted.
    pub connected: Instant,
    /// When it last asked for something.
    pub requested: Instant,
    /// How long it has been waiting for a server, if it is.
    pub wait: Duration,
    /// The pid of its server, if it has one.
    pub server_pid: Option<u32>,
    /// Why it keeps its server, if it does: "listen, advisory lock".
    pub pins: String,
    /// Prepared statements it has.
    pub prepared_statements: u32,
}

/// One server.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// A number; unique in the process.
    pub number: u64,
    /// Its pool.
    pub pool: PoolKey,
    /// The node it is connected to.
    pub node: String,
    /// Active, idle, login...
    pub state: &'static str,
    /// When it was opened.
    pub connected: Instant,
    /// When it was last used.
    pub requested: Instant,
    /// Its process id.
    pub pid: u32,
    /// The client it serves, by number.
    pub client: Option<u64>,
    /// Prepared statements on it.
    pub prepared_statements: u32,
    /// The client's `application_name`, if it serves one.
    pub application_name: String,
}
