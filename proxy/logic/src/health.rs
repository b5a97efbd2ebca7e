//! How the nodes are: what was seen of each of them goes in, a verdict with its reasons comes out.
//!
//! Each node has a session of ours that is pinged, and logins are tried beside it: every second,
//! at once when something is odd, and four times a second while nothing is heard. Who sends what
//! is for the driver; when, and what it means, is decided here:
//!
//! - A process is dead when our session has ended and nobody listens. Either alone is none: a
//!   session may be ended by hand, and a port may be shut while all sessions work.
//! - A path is dead when what was sent is not even acknowledged and new connections are not
//!   answered, for longer than networks are dark at times (`monitor.blackout`). Until then it is a
//!   suspicion.
//! - A node is hung when its kernel acknowledges everything and `PostgreSQL` says nothing, on old
//!   sessions or to new ones. A query that takes long is no sign of that: only pings count.
//! - An error of the server (53300, 28P01, 57P03) is a sign of life.
//!
//! Time is counted while this process runs: one that was stopped for twenty seconds has heard
//! nothing for twenty seconds, and that says nothing about the nodes. For a while after it was late
//! it trusts no silence at all. And if all nodes are silent at once it is, most likely, not them.

use crate::config::Monitor;
use crate::time::{Duration, Instant};
use crate::topology::verdict::Health;
use node::Node;
use std::fmt;
use std::sync::Arc;

mod damp;
mod evidence;
mod judgement;
mod link;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod model;
mod node;
mod waits;

pub use link::Link;

/// The longest step of our own clock: what is beyond we have slept through.
const STEP_MAX: Duration = Duration::from_millis(100);
/// For so long after we were late no silence counts.
const MISTRUST: Duration = Duration::from_secs(1);
/// Nobody is heard for so long, beyond the time between two pings.
const PAUSE: Duration = Duration::from_millis(150);
/// With all nodes silent, so many times as long are they only suspected.
const ALL_SILENT: u32 = 4;

/// Why a login failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// The network has said, or found out, that there is no way.
    Unreachable(String),
    /// The other side has ended the connection.
    Closed(String),
    /// It failed on this machine, which says nothing of any other: no descriptor, no port.
    Ours(String),
    /// The server has said no.
    Error {
        /// SQLSTATE.
        code: String,
        /// In its words.
        message: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable(reason) | Self::Closed(reason) | Self::Ours(reason) => {
                f.write_str(reason)
            }
            Self::Error { message, .. } => f.write_str(message),
        }
    }
}

/// What was seen of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sight {
    /// The other end's kernel has taken the connection of a login.
    Connected {
        /// Which.
        login: u64,
    },
    /// It is in.
    LoggedIn {
        /// Which.
        login: u64,
    },
    /// It is not, and never will be.
    Failed {
        /// Which.
        login: u64,
        /// Why.
        why: Failure,
    },
    /// The session has answered a ping.
    Answered {
        /// The login that it began with.
        session: u64,
    },
    /// The session is over.
    Ended {
        /// The login that it began with.
        session: u64,
        /// Its other side has said so; else our kernel has given up.
        heard: bool,
        /// In words.
        reason: String,
    },
    /// What the kernel knows of the connection of a login, or of the session that it became.
    Link {
        /// Which.
        login: u64,
        /// How it is.
        link: Link,
    },
    /// A write has begun, which takes no other time than that of its disk.
    Writes,
    /// It has ended.
    Written,
    /// Something has happened to other connections to it that is worth a look.
    Hint,
    /// A standby says when it last heard from this node, which it follows.
    Witness {
        /// The standby.
        by: Arc<str>,
        /// How long ago; none: it does not hear it.
        heard: Option<Duration>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// Connect and log in.
    Login {
        /// To which node, by its place.
        node: usize,
        /// A number that was never used before.
        login: u64,
    },
    /// Forget this login, or the session that it became.
    Leave {
        /// Of which node.
        node: usize,
        /// Which.
        login: u64,
        /// It went well and is not needed: it may say goodbye.
        well: bool,
    },
    /// This one is the session from now on.
    Keep {
        /// Of which node.
        node: usize,
        /// Which.
        login: u64,
    },
    /// Ask something on the session.
    Ping {
        /// Of which node.
        node: usize,
        /// The login that it began with.
        session: u64,
    },
    /// The verdict on a node, or what follows from it, is another one.
    Changed(Change),
}

/// A new verdict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// On which node.
    pub node: usize,
    /// What was believed before.
    pub before: Health,
    /// What is now.
    pub health: Health,
    /// What it rests on.
    pub evidence: String,
}

/// Who is watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watched {
    /// What it is called.
    pub name: Arc<str>,
    /// It writes: its sessions are not ended for less than its death.
    pub primary: bool,
}

/// The limits that an operator may set.
#[derive(Clone, Copy, Debug)]
struct Limits {
    ping: Duration,
    login: Duration,
    blackout: Duration,
    session: Duration,
}

/// All nodes, as they are seen from here.
#[derive(Debug)]
pub struct Judge {
    limits: Limits,
    nodes: Vec<Node>,
    logins: u64,
    /// When we last looked at the clock, and what our own then was.
    seen: Instant,
    awake: Instant,
    /// Until when no silence counts.
    mistrust: Instant,
    /// When any node was last heard, and since when that has been so without a longer pause.
    heard: Instant,
    lit: Instant,
}

impl Judge {
    /// Nothing has been seen yet of these.
    pub fn new(now: Instant, settings: &Monitor, nodes: Vec<Watched>) -> Self {
        let limits = Limits {
            ping: settings.ping,
            login: settings.login,
            blackout: settings.blackout,
            session: settings.timeout,
        };
        let awake = Instant::START + Duration::from_secs(1);
        let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        // Their logins, which take some time of a processor, do not all come at once.
        let nodes = (0..).zip(nodes).map(|(index, it)| {
            let phase = settings.login / count * index;
            Node::new(it, awake, phase)
        });
        let nodes = nodes.collect();
        Self {
            limits,
            nodes,
            logins: 0,
            seen: now,
            awake,
            mistrust: Instant::START,
            heard: awake,
            lit: awake,
        }
    }

    /// How a node is.
    pub fn health(&self, node: usize) -> Health {
        self.nodes.get(node).map(Node::health).unwrap_or_default()
    }

    /// A node writes, or no longer does.
    pub fn set_primary(&mut self, node: usize, primary: bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.set_primary(primary);
        }
    }

    /// The logins, sessions among them, that something is under way on: what the kernel knows of
    /// them is worth asking.
    pub fn pending(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let all = self.nodes.iter().enumerate();
        all.flat_map(|(index, node)| node.pending().map(move |login| (index, login)))
    }

    /// Something was seen of a node.
    pub fn see(&mut self, now: Instant, node: usize, sight: Sight, out: &mut Vec<Check>) {
        // What has come may have waited for us; how late we are is told by the ticks.
        let now = self.awake + now.since(self.seen).min(STEP_MAX);
        if let Some(it) = self.nodes.get_mut(node) {
            it.see(now, node, sight, out);
        }
        self.settle(now, out);
        // What it calls for is done at once.
        if let Some(it) = self.nodes.get_mut(node) {
            it.check(now, node, self.limits, &mut self.logins, out);
        }
    }

    /// A moment has passed. To be called at least every twentieth of a second.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Check>) {
        let gap = now.since(self.seen);
        self.awake = self.awake + gap.min(STEP_MAX);
        self.seen = now;
        if gap > STEP_MAX {
            self.mistrust = self.awake + MISTRUST;
        }
        let now = self.awake;
        self.settle(now, out);
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.check(now, index, self.limits, &mut self.logins, out);
        }
    }

    fn settle(&mut self, now: Instant, out: &mut Vec<Check>) {
        let trust = now >= self.mistrust;
        let living = |node: &&Node| !node.health().verdict.is_dead();
        let alive = self.nodes.iter().filter(living).count();
        let heard = self.nodes.iter().filter(living).map(Node::heard).max();
        let heard = heard.unwrap_or(self.heard);
        let pause = self.limits.ping + PAUSE;
        if heard > self.heard {
            if heard.since(self.heard) > pause {
                // All were silent: how long one of them is counts from now on.
                self.lit = heard;
            }
            self.heard = heard;
        }
        let dark = alive > 1 && now.since(self.heard) > pause;
        let patience = if dark { ALL_SILENT } else { 1 };
        let heard: Vec<_> = self.nodes.iter().map(Node::heard).collect();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let others = heard.iter().enumerate().filter(|(other, _)| *other != index);
            let view = node::View {
                limits: self.limits,
                trust,
                patience,
                lit: self.lit,
                others: others.map(|(_, heard)| *heard).max(),
            };
            node.settle(now, index, &view, out);
        }
    }
}
