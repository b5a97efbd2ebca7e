//! One client, as its lane sees it.

use crate::auth_client::ClientAuth;
use crate::classify::cache::Mark;
use crate::hints::Hints;
use crate::id::{ConnId, Core};
use crate::lane::console::Console;
use crate::lane::moved::Reading;
use crate::lane::pool::Pool;
use crate::lane::rerun::Flight;
use crate::mail::Peer;
use crate::prepared::{ClientStatements, StatementId};
use crate::state::{Parameters, Pins};
use crate::time::Instant;
use crate::timers::Scheduled;
use crate::topology::Lsn;
use crate::topology::horizon::Commit;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a client is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// The startup packet is awaited.
    Startup,
    /// It proves who it is.
    Auth(Box<ClientAuth>),
    /// The control thread is asked whether there is room for it.
    Entering,
    /// A server is awaited: for the parameters to greet it with, or for good (session mode).
    Welcoming,
    /// It talks to servers.
    Ready,
    /// It talks to the console.
    Console(Box<Console>),
    /// It talks to a server of its own, unread (replication).
    Raw,
    /// It carried a cancel request, and hears nothing until that is delivered.
    Cancelling,
    /// Closed; the driver has not let go of it yet.
    Gone,
}

/// What happens to the rest of a message whose head was seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Fate {
    /// It goes to the server.
    #[default]
    Pass,
    /// It goes nowhere.
    Drop,
}

/// Whether an error was said in place of an answer, so that messages are dropped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Failing {
    #[default]
    No,
    /// The message that failed is the next one.
    First,
    /// It was an extended one: everything is dropped up to the Sync.
    ToSync,
}

/// Whether a client has said goodbye.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Goodbye {
    #[default]
    No,
    Said,
    /// And its socket is shut: it may listen still, or be gone.
    Shut,
}

/// Its wish for a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wait {
    pub(super) since: Instant,
    /// Tells this wish from earlier ones of the same client that still stand in the queue.
    pub(super) ticket: u64,
}

/// What it said in its startup packet; kept until it is greeted.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) startup: Vec<(String, String)>,
    pub(super) minor: u16,
    pub(super) replication: bool,
    /// `SSLRequest` and `GSSENCRequest`, each of which is answered once.
    pub(super) refused_encryption: u8,
    /// It was sent here by another lane.
    pub(super) moved: bool,
}

/// The unnamed statement, which a client may bind long after it was parsed.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    /// As in Parse, behind the name; empty: there is none.
    pub(super) body: Vec<u8>,
    /// The client's count of its Parse messages.
    pub(super) sequence: u64,
    pub(super) hints: Hints,
    /// The client's count of Syncs and Queries at its last Parse.
    pub(super) segment: u32,
}

/// A change of names made when the message was sent: undone if the server skips the message.
#[derive(Debug)]
pub(super) struct Change {
    /// As in the ledger entry of the message.
    pub(super) number: u32,
    /// The client's count of Syncs and Queries when it was made.
    pub(super) segment: u32,
    pub(super) name: Box<[u8]>,
    /// What the name meant before; it holds a reference.
    pub(super) before: Option<StatementId>,
    /// The unnamed statement before.
    pub(super) unnamed: Option<Box<Unnamed>>,
}

/// One client.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, all may be true")]
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) peer: Peer,
    pub(super) phase: Phase,
    pub(super) connected: Instant,
    pub(super) requested: Instant,
    pub(super) user: Arc<str>,
    pub(super) database: Arc<str>,
    /// Where its statement at hand goes, or the next one: `home`, or a replica's pool.
    pub(super) pool: Option<usize>,
    /// The primary's pool for its database and user.
    pub(super) home: Option<usize>,
    /// What it has committed lies before this place,
    pub(super) lsn: Lsn,
    /// but for what it has committed by this time, of which no place is known yet; at the start of
    /// time nothing.
    pub(super) committed: Instant,
    /// Something may have been written that is not committed yet.
    pub(super) wrote: bool,
    /// What it may be told is committed, where that counts for all sessions.
    pub(super) commit: Option<Box<Commit>>,
    /// What names mean may have changed.
    pub(super) defines: bool,
    /// What it says, among the texts whose ways are counted.
    pub(super) mark: Option<Mark>,
    /// Since when its read has waited for a replica that shows what it must.
    pub(super) behind_since: Option<Instant>,
    /// Whether it has been chosen where its segment goes.
    pub(super) aimed: Aimed,
    pub(super) key: (u32, [u8; 32]),
    pub(super) login: Option<Box<Login>>,
    /// Of the protocol, once it is greeted.
    pub(super) minor: u8,
    /// Whether it has said goodbye behind a statement that is still running.
    pub(super) goodbye: Goodbye,
    /// It was counted by the control thread.
    pub(super) entered: bool,
    /// `clients_max` was reached when it came.
    pub(super) refused: bool,
    /// It came in by a listener for reads only.
    pub(super) readonly: bool,

    pub(super) server: Option<ConnId>,
    pub(super) wait: Option<Wait>,
    /// Bytes still to come of a message whose head was seen, and what happens to them.
    pub(super) left: usize,
    pub(super) fate: Fate,
    pub(super) failing: Failing,

    /// Parameters it means its session to have.
    pub(super) state: Arc<Parameters>,
    /// Those of its startup packet: what RESET brings back.
    pub(super) startup: Arc<Parameters>,
    pub(super) names: ClientStatements,
    /// Changes of names that the server has not confirmed, oldest first.
    pub(super) changes: Vec<Change>,
    pub(super) change_last: u32,
    /// Counts Syncs and Queries: what fails takes down the rest of its segment, no more.
    pub(super) segment: u32,
    /// It has reset parameters: those of its startup packet are brought back before it goes on.
    pub(super) resetting: bool,
    /// Servers it was granted for what it is about to say, without having said any of it yet.
    pub(super) grants: u8,
    /// It must not go on before something under way is answered.
    pub(super) stalled: bool,
    pub(super) unnamed: Option<Box<Unnamed>>,
    /// Counts its unnamed statements: one that failed is not mistaken for the next on a server
    /// that has an older one.
    pub(super) unnamed_last: u64,
    /// The name it last parsed although it was in use, and the number of its statement.
    pub(super) doubled: Option<(u64, Box<[u8]>)>,
    /// What the DEALLOCATEs of the text that is running name, the last one first.
    pub(super) dropping: Vec<Box<[u8]>>,
    pub(super) flight: Option<Box<Flight>>,
    pub(super) reading: Option<Box<Reading>>,
    /// What it says was said before, to a replica.
    pub(super) again: bool,
    /// What its texts may have done since the session was last inspected.
    pub(super) hints: Hints,
    pub(super) pins: Pins,
    pub(super) custom: BTreeSet<String>,

    pub(super) transaction_since: Option<Instant>,
    pub(super) query_since: Option<Instant>,
    /// When it was last answered inside a transaction.
    pub(super) idle_in_since: Option<Instant>,
    pub(super) idle_since: Instant,
    pub(super) scheduled: Scheduled,
}

impl Client {
    pub(super) fn has_said_goodbye(&self) -> bool {
        self.goodbye != Goodbye::No
    }

    pub(super) fn new(number: u64, peer: Peer, now: Instant, nothing: &Nothing) -> Self {
        Self {
            number,
            peer,
            phase: Phase::Startup,
            connected: now,
            requested: now,
            user: Arc::clone(&nothing.text),
            database: Arc::clone(&nothing.text),
            pool: None,
            home: None,
            lsn: Lsn(0),
            committed: Instant::START,
            wrote: false,
            commit: None,
            defines: false,
            mark: None,
            behind_since: None,
            aimed: Aimed::No,
            key: (0, [0; 32]),
            login: None,
            minor: 0,
            goodbye: Goodbye::No,
            entered: false,
            refused: false,
            readonly: false,
            server: None,
            wait: None,
            left: 0,
            fate: Fate::Pass,
            failing: Failing::No,
            state: Arc::clone(&nothing.parameters),
            startup: Arc::clone(&nothing.parameters),
            names: ClientStatements::default(),
            changes: Vec::new(),
            change_last: 0,
            segment: 0,
            resetting: false,
            grants: 0,
            stalled: false,
            unnamed: None,
            unnamed_last: 0,
            doubled: None,
            dropping: Vec::new(),
            flight: None,
            reading: None,
            again: false,
            hints: Hints::default(),
            pins: Pins::default(),
            custom: BTreeSet::new(),
            transaction_since: None,
            query_since: None,
            idle_in_since: None,
            idle_since: now,
            scheduled: Scheduled::default(),
        }
    }

    /// The bytes of its cancel secret: four in protocol 3.0, 32 from 3.2 on.
    pub(super) fn secret(&self, minor: u16) -> &[u8] {
        if minor >= 2 { &self.key.1 } else { &self.key.1[..4] }
    }

    /// A query begins.
    pub(super) fn begin_query(&mut self, now: Instant, rank: &mut Pool) {
        if self.query_since.is_none() {
            self.query_since = Some(now);
            if let Some(since) = self.idle_in_since.take() {
                rank.stats.client_times.observe(now.since(since));
            }
        }
        rank.stats.queries += 1;
    }

    /// Half a message is on its way to a server: nothing may come into it.
    pub(super) fn is_partial(&self) -> bool {
        self.left > 0 && self.fate == Fate::Pass
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }
}

/// Whether it has been chosen where a segment goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Aimed {
    /// Not yet.
    No,
    /// It has.
    Yes,
    /// It is a read that any node will do for, and the primary takes it for its part.
    Shared,
}

/// Shared empty values, so that a client without anything costs nothing.
#[derive(Debug)]
pub(super) struct Nothing {
    pub(super) text: Arc<str>,
    pub(super) parameters: Arc<Parameters>,
}

/// A cancel request's way: the core and connection it came in on.
pub(super) type Requester = (Core, ConnId);

#[cfg(test)]
mod tests {
    use super::Client;

    #[test]
    fn an_idle_client_is_small() {
        assert!(size_of::<Client>() <= 512, "{}", size_of::<Client>());
    }
}
