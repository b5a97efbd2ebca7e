//! What the machine hears and asks for, and what it knows of a node.

use crate::action::Level;
use crate::failover::act::{Act, Done, View};
use crate::failover::verb::{Reply, Verb};
use crate::record::{Record, Revision};
use crate::time::Instant;
use crate::topology::gate::Gate;
use crate::topology::verdict::Health;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The two clocks.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The one that everything goes by.
    pub now: Instant,
    /// Microseconds since 1970, for people.
    pub unix: u64,
}

/// What the machine hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// What the store has; none: nothing was ever written.
    Loaded(Revision, Option<Box<Record>>),
    /// There is no reading it, in words: another process has it, or the disk is at fault.
    Unread(String),
    /// A write has ended well.
    Saved(Revision),
    /// A write has failed, and nobody knows whether it was done: somebody else has written, or the
    /// disk is full.
    Unsaved(String),
    /// How a node is, as seen from here.
    Verdict {
        /// Its place in the cluster.
        node: usize,
        /// How it is.
        health: Health,
    },
    /// An act has ended.
    Done {
        /// Which.
        number: u64,
        /// How.
        done: Done,
    },
    /// No lane has a connection to a primary any more, as of the gate with this epoch.
    Vacated(u64),
    /// An operator wants something.
    Verb {
        /// For the answer.
        ticket: u64,
        /// Who.
        user: Arc<str>,
        /// What.
        verb: Verb,
    },
}

/// What it asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the store.
    Load,
    /// Write the record, if this revision is the one that is there.
    Save(Revision, Box<Record>),
    /// Lanes are to know this.
    Gate(Gate),
    /// They are to let go of all connections to primaries; said behind the gate with this epoch.
    Vacate(u64),
    /// Do this to a node.
    Act {
        /// For the answer.
        number: u64,
        /// Its place in the cluster.
        node: usize,
        /// What.
        act: Act,
    },
    /// Answer an operator.
    Reply(u64, Reply),
    /// Worth a line in the log.
    Note(Level, String),
}

/// What comes of it.
pub type Out = Vec<Action>;

/// A node, as far as it matters here.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Arc<str>,
    /// Where others reach it: host and port.
    pub(super) peer: (String, u16),
    pub(super) priority: u32,
    pub(super) health: Health,
    /// Since when the verdict is what it is.
    pub(super) since: Instant,
    /// How it was when it was last looked at.
    pub(super) view: Option<(Instant, View)>,
    /// It is being looked at.
    pub(super) looking: Option<u64>,
    pub(super) next_look: Instant,
    /// Since when it has done what a standby should.
    pub(super) streaming: Option<Instant>,
    /// When it was last told whom to follow.
    pub(super) told: Option<Instant>,
    /// Since when it has not done what a standby should.
    pub(super) idle: Option<Instant>,
    /// Something is being done to it.
    pub(super) busy: Option<u64>,
    /// When the last such thing ended: what was seen before says nothing of it.
    pub(super) touched: Instant,
}

/// What is being waited for, beside what the record says.
#[derive(Debug, PartialEq)]
pub(super) enum Stage {
    /// Nothing: what the record says is what is to be done.
    Rest,
    /// Lanes let go, and the record is written.
    Vacating { epoch: u64 },
    /// Standbys stop to receive.
    Freezing { since: Instant, left: BTreeMap<u64, usize> },
    /// A command ends the old primary.
    Ending { number: u64 },
    /// Another try later.
    Stuck { until: Instant },
    /// The candidate gets ready; then it is promoted.
    Preparing { left: BTreeSet<u64>, slots: u64 },
    /// It is being promoted.
    Promoting { number: u64 },
    /// Is it?
    Verifying { number: u64 },
    /// It is written to.
    Proving { number: u64, timeline: u32 },
    /// Before a planned change: checkpoints, slots.
    Preflight { left: BTreeSet<u64>, target: usize },
    /// What has begun ends.
    Draining { epoch: u64, until: Instant },
    /// Where does the log of the old primary end?
    Reading { number: u64 },
    /// The old primary stops.
    Stopping { number: u64 },
    /// The candidate receives the rest.
    CatchingUp { until: Instant },
}

/// Something an operator is waiting for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) ticket: u64,
    /// Who is to be the primary.
    pub(super) to: usize,
}
