//! What is done to nodes, and what they say.

use crate::config::Node;
use crate::conninfo::Conninfo;
use crate::time::Duration;
use crate::topology::Lsn;
use std::sync::Arc;

/// The port of PostgreSQL where none is said.
const PORT: u16 = 5432;

/// Something to be done to a node, by SQL on its control session or by a command of the operator.
/// Each may be repeated: what has been done already is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Act {
    /// Tell how it is.
    Look,
    /// Stop the WAL receiver, so that nothing is acknowledged to any primary any more: clear
    /// `primary_conninfo`, reload, wait until there is no receiver and the end of the log received
    /// has not moved for 50 ms. Answered by [`Done::Seen`]. It fails after 5 s where replay is
    /// paused, delayed or held up by a query: nobody but the replaying process ends the receiver.
    Freeze,
    /// Receive from this primary: `primary_conninfo`, and `primary_slot_name` if a name is given.
    /// The receiver before may be seen for a moment still: look where it receives from.
    Follow {
        /// The whole text of `primary_conninfo`.
        conninfo: String,
        /// A physical slot on the primary; empty: none.
        slot: String,
    },
    /// Let a standby try again every 50 ms to receive, instead of the 5 s that are the default of
    /// `wal_retrieve_retry_interval`: the new primary may refuse it at first, for want of a slot.
    /// And let its receiver ask a primary that says nothing whether it is there, after half of
    /// this time, and give up after all of it (`wal_receiver_timeout`): so it is a witness.
    Prepare(Duration),
    /// Create physical slots with these names, where they do not exist, each reserving WAL. On a
    /// standby nobody receives through them, so they keep WAL until [`Act::Advance`] moves them.
    Slots(Vec<String>),
    /// Move slots that nobody receives through forwards, up to here: WAL before is not needed.
    Advance(Vec<(String, Lsn)>),
    /// `synchronous_standby_names`, and reload. On a primary commits begin to wait only when its
    /// checkpointer has read that, which may be busy, as right after a promotion: give it to a
    /// candidate before it is promoted.
    Sync(String),
    /// Promote, and wait for the end of recovery for at most so long.
    Promote(Duration),
    /// Write something that is acknowledged as a client's commit would be.
    Canary,
    /// A checkpoint.
    Checkpoint,
    /// Where it can still be asked: end all sessions of others and let new ones only read. Those
    /// of superusers stay, unless we are one.
    Kick,
    /// Undoes what [`Act::Kick`] has left.
    Unkick,
    /// Run a command of the operator.
    Command(Hook),
}

/// Where other nodes reach a node: the host, or the folder of a Unix socket, and the port.
pub fn peer(node: &Node) -> (String, u16) {
    let text = if node.peer_address.is_empty() { &node.address } else { &node.peer_address };
    let split = text.rsplit_once(':');
    let port = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = port.unwrap_or((text, PORT));
    (host.trim_matches(['[', ']']).to_owned(), port)
}

/// Where a connection string leads; none: nowhere, or nobody can tell.
pub fn target(text: &str) -> Option<(String, u16)> {
    let conninfo = Conninfo::parse(text).ok()?;
    let host = conninfo.get("host").or_else(|| conninfo.get("hostaddr"))?;
    let port = conninfo.get("port").map_or(Some(PORT), |port| port.parse().ok())?;
    Some((host.to_owned(), port))
}

/// A command of the operator.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hook {
    /// Ends a node for certain: success means that it writes nothing any more.
    Fence,
    /// Stops a node in order, with all it has written sent to its standbys.
    Stop,
    /// Makes a standby of a node that was a primary.
    Rejoin,
}

impl Hook {
    /// Its name in configuration and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence_command",
            Self::Stop => "stop_command",
            Self::Rejoin => "rejoin_command",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Done {
    /// It is done.
    Well,
    /// How the node is.
    Seen(Box<View>),
    /// It is not done, or nobody knows.
    Failed {
        /// The connection ended, or the time was over: it may have been done.
        unknown: bool,
        /// In words.
        reason: String,
    },
}

/// How a node is, in its own words.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct View {
    /// It is a standby.
    pub recovery: bool,
    /// `pg_control_system().system_identifier`.
    pub system: u64,
    /// On a primary that of the log it writes; on a standby that of what it receives, or replays
    /// if it receives nothing.
    pub timeline: u32,
    /// When its postmaster started, in microseconds since 1970.
    pub started: i64,
    /// The end of its log: flushed, on a primary; received or replayed, whichever is further, on a
    /// standby.
    pub end: Lsn,
    /// What it has replayed; on a primary the same as `end`.
    pub replayed: Lsn,
    /// On a standby: where its last restartpoint begins. It keeps its log from there on anyway.
    pub redo: Lsn,
    /// On a standby: physical slots of pgring's that nobody receives through, and from where on
    /// each of them keeps the log.
    pub spare: Vec<(String, Lsn)>,
    /// Its WAL receiver, if there is one that streams.
    pub receiver: Option<Receiver>,
    /// `primary_conninfo`.
    pub conninfo: String,
    /// `primary_slot_name`.
    pub slot: String,
    /// `synchronous_standby_names`.
    pub sync: String,
    /// `default_transaction_read_only` of the server.
    pub read_only: bool,
    /// Why it should not be promoted, in words: replay is paused, or delayed.
    pub unfit: Option<String>,
    /// It has a `restore_command`. What comes from an archive acknowledges nothing, so it may be
    /// frozen and promoted; but its log may grow while it is frozen.
    pub archive: bool,
    /// `wal_retrieve_retry_interval`.
    pub retry: Duration,
    /// `wal_receiver_timeout`; zero: never.
    pub patience: Duration,
    /// On a primary: who receives from it.
    pub followers: Vec<Follower>,
}

/// A WAL receiver.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Receiver {
    /// How long ago the last message came.
    pub heard: Duration,
    /// Where it comes from, as `host:port`.
    pub from: String,
}

/// A standby as its primary knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Follower {
    /// `application_name`.
    pub name: Arc<str>,
    /// It is in the state "streaming".
    pub streaming: bool,
    /// What it has flushed.
    pub flushed: Lsn,
}
