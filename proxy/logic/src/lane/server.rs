//! One server connection, as its lane sees it, and the short ones that carry cancel requests.

use crate::action::Address;
use crate::auth_server::ServerAuth;
use crate::id::{ConnId, Secret};
use crate::lane::client::Requester;
use crate::lane::gate::Pass;
use crate::lane::nodes::Place;
use crate::ledger::Ledger;
use crate::prepared::{ServerStatements, StatementId};
use crate::state::{Inspected, Parameters};
use crate::time::Instant;
use crate::timers::Scheduled;
use pgring_wire::backend::ErrorView;
use std::sync::Arc;

/// Where a server is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// The connection is being opened.
    Connecting,
    /// Logging in.
    Auth(Box<ServerAuth>),
    /// Logged in; its parameters are coming, up to its first `ReadyForQuery`.
    Greeting,
    /// Asked whether it is in recovery (before `PostgreSQL` 14, which says so by itself).
    Asked,
    /// In the pool.
    Idle,
    /// With a client, or finishing what a client left.
    Busy,
    /// Whatever comes is forwarded unread (replication).
    Raw,
    /// On its way to another lane.
    Leaving,
    /// Closed; the driver has not let go of it yet.
    Gone,
}

/// What pgring's own queries are for; the mark of their ledger entries.
pub(super) mod purpose {
    /// Nobody looks at the answer: it was a client's that has left.
    pub(in crate::lane) const QUIET: u32 = 0;
    /// Session parameters at checkout.
    pub(in crate::lane) const REPLAY: u32 = 1;
    /// The same, of a startup packet nobody has tried before.
    pub(in crate::lane) const VERIFY: u32 = 2;
    /// The session state after a transaction.
    pub(in crate::lane) const INSPECT: u32 = 3;
    /// Session parameters that a RESET of the client brought back: it hears of them.
    pub(in crate::lane) const RESTORE: u32 = 6;
    /// ROLLBACK after a client that left.
    pub(in crate::lane) const ROLLBACK: u32 = 4;
    /// DISCARD ALL after a client that left.
    pub(in crate::lane) const RESET: u32 = 5;
    /// Whether the session that has ended has left a temporary schema.
    pub(in crate::lane) const TEMPORARY: u32 = 7;
    /// BEGIN of a transaction that its client has begun before it had a server.
    pub(in crate::lane) const BEGIN: u32 = 8;
    /// Closes a name that a server has for a moment only. Were it to stay, another client would
    /// meet it.
    pub(in crate::lane) const LENT: u32 = u32::MAX;
    /// A Parse on behalf of a Bind: the answer, if it is an error, is the client's.
    pub(in crate::lane) const PARSE: u32 = 0x8000_0000;
}

/// One server connection.
#[expect(clippy::struct_excessive_bools, reason = "each says one thing of a connection's fitness")]
#[derive(Debug)]
pub(super) struct Server {
    pub(super) number: u64,
    pub(super) phase: Phase,
    /// Its pool; none for a replication client's own server.
    pub(super) pool: usize,
    /// It counts in its pool's budget.
    pub(super) counted: bool,
    pub(super) node: Arc<str>,
    pub(super) pass: Pass,
    /// Where that is in its cluster, and how many were tried before.
    pub(super) place: Place,
    pub(super) step: u32,
    pub(super) address: Address,
    pub(super) client: Option<ConnId>,
    pub(super) ledger: Ledger,
    /// Of the last `ReadyForQuery`.
    pub(super) status: u8,
    /// Bytes still to come of a message whose head was seen, and whether the client gets them.
    pub(super) left: usize,
    pub(super) forward: bool,
    pub(super) pid: u32,
    pub(super) secret: Secret,
    pub(super) opened: Instant,
    pub(super) expires: Instant,
    pub(super) used: Instant,
    pub(super) epoch: u64,
    /// Session parameters set on it.
    pub(super) state: Arc<Parameters>,
    /// What it last reported.
    pub(super) reported: Arc<Parameters>,
    /// What it was opened with (session mode and replication).
    pub(super) startup: Arc<Parameters>,
    pub(super) statements: ServerStatements,
    /// Statements whose Parse has not been answered, with the segment of the client it was in.
    pub(super) parsing: Vec<(StatementId, u32)>,
    /// Statements whose Close the server has skipped.
    pub(super) unclosed: Vec<u64>,
    /// Whose unnamed statement it holds: the client and the count of its Parse. None: it has
    /// none for certain.
    pub(super) unnamed: Option<(ConnId, u64)>,
    /// The segment of the client its Parse was sent in.
    pub(super) unnamed_segment: u32,
    /// Cancel requests on their way to it.
    pub(super) cancels: u32,
    /// One that waits for the end of a query of our own.
    pub(super) cancel_later: Option<Requester>,
    pub(super) inspected: Option<Box<Inspected>>,
    /// How many answers its client has heard from a replica.
    pub(super) hides: u32,
    /// A client whose texts may have set parameters on it that cannot be looked up: before
    /// anybody else uses it, all of them are reset.
    pub(super) touched: Option<ConnId>,
    /// Its client left more than its session may begin with: DISCARD ALL before it is free.
    pub(super) dirty: bool,
    /// Session mode: a session has ended on it, and whether it has left a temporary schema is not
    /// known. No statement drops that, and a session that meets one can do what a fresh one cannot.
    pub(super) unseen: bool,
    /// Something is not as it must be: it serves its client and is closed.
    pub(super) unfit: bool,
    /// Statement mode: the tag of a transaction's begin that its client has not been told.
    pub(super) begun: Option<&'static str>,
    /// Nothing may be sent before it has answered a BEGIN on its client's behalf.
    pub(super) beginning: bool,
    /// It said FATAL: its end is near.
    pub(super) dying: bool,
    /// And its client has heard that, whose session ends with it.
    pub(super) parted: bool,
    /// An error of the server's own login or query, kept for whoever waits.
    pub(super) error: Option<Box<ServerError>>,
    /// The client is gone, what it left is being cleaned up; not for longer than this.
    pub(super) cleaning: Option<Instant>,
    pub(super) scheduled: Scheduled,
}

/// What a server said when it refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ServerError {
    pub(super) code: String,
    pub(super) message: String,
}

/// A connection that delivers one cancel request.
#[derive(Debug)]
pub(super) struct Errand {
    /// The server whose query is to be cancelled.
    pub(super) server: Option<ConnId>,
    /// What that server was let through with, and its node.
    pub(super) pass: Pass,
    pub(super) node: Arc<str>,
    /// Who is told when it is delivered.
    pub(super) requester: Option<Requester>,
    /// The pid and secret of the server.
    pub(super) key: (u32, Secret),
    pub(super) gone: bool,
    pub(super) deadline: Instant,
    pub(super) scheduled: Scheduled,
}

/// What stands on the server side of a lane.
#[expect(clippy::large_enum_variant, reason = "the slab boxes it, and errands are rare")]
#[derive(Debug)]
pub(super) enum Far {
    /// A server connection.
    Server(Server),
    /// A cancel request on its way.
    Errand(Errand),
}

impl Far {
    pub(super) fn server(&self) -> Option<&Server> {
        match self {
            Self::Server(server) => Some(server),
            Self::Errand(_) => None,
        }
    }

    pub(super) fn server_mut(&mut self) -> Option<&mut Server> {
        match self {
            Self::Server(server) => Some(server),
            Self::Errand(_) => None,
        }
    }
}

impl Server {
    /// Whether it is logging in.
    pub(super) fn is_opening(&self) -> bool {
        match self.phase {
            Phase::Connecting | Phase::Auth(_) | Phase::Greeting | Phase::Asked => true,
            Phase::Idle | Phase::Busy | Phase::Raw | Phase::Leaving | Phase::Gone => false,
        }
    }

    /// Whether it is not to be closed or used any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Leaving | Phase::Gone)
    }

    /// It has said an error, which its client hears or not: a fatal one is its last word.
    pub(super) fn note_error(&mut self, body: &[u8], heard: bool) {
        let fatal = ErrorView::new(body).is_fatal();
        self.dying |= fatal;
        self.parted |= fatal && heard;
    }

    /// Whether nothing of an earlier client can show on it (invariant I2).
    pub(super) fn is_clean(&self) -> bool {
        self.ledger.is_settled()
            && !self.ledger.is_doubtful()
            && self.status == b'I'
            && self.left == 0
            && self.cancels == 0
            && !self.unfit
            && !self.dying
    }
}
