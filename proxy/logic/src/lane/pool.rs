//! One lane's part of a pool: its idle servers, its waiting clients, and what it has told the
//! control thread of them.
//!
//! A pool is a taxi rank. Idle servers stand in line; a client takes the one that came back
//! last, because its caches are warm, preferring one that has the client's session parameters.
//! When the rank is empty the client queues, and the queue is served strictly first come, first
//! served. Another lane's client that has been waiting for longer than ours by [`QUANTUM`] goes
//! first.

use crate::catalog::Catalog;
use crate::config::{Database, PoolMode, PoolSettings, User};
use crate::id::{ConnId, Core, PoolKey};
use crate::lane::gate::Stance;
use crate::lane::nodes::{Ring, Round};
use crate::lane::server::ServerError;
use crate::lane::standbys::{Nodes, Part};
use crate::mail::Stats;
use crate::route::Latency;
use crate::state::Parameters;
use crate::time::{Duration, Instant};
use crate::timers::Scheduled;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How much longer than ours another lane's client must have waited to go first. Every move of a
/// server between lanes costs some 50 microseconds, so it pays only now and then.
pub(super) const QUANTUM: Duration = Duration::from_millis(5);

/// How often a lane that goes on waiting says so again.
pub(super) const REPEAT: Duration = Duration::from_millis(5);

/// How long a client waits before other lanes are asked, where this lane has servers of its own.
pub(super) const PATIENCE: Duration = Duration::from_millis(2);

/// How many idle servers are looked at for one with the right session parameters.
const LOOK_MAX: usize = 16;

/// How many startup packets a pool remembers as good.
pub(super) const VERIFIED_MAX: usize = 1_000;

/// Another lane that waits for servers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hungry {
    pub(super) core: Core,
    pub(super) need: u32,
    pub(super) since: Instant,
    /// When this was heard; none once a server was sent in answer to it.
    pub(super) heard: Option<Instant>,
}

impl Hungry {
    /// Whether it goes before a client of ours that has been waiting for this long. News age
    /// while servers change hands, so they count for a short time and for one server: two lanes
    /// with long queues would otherwise pass all their servers to and fro.
    fn goes_first(&self, now: Instant, ours: Duration) -> bool {
        self.heard.is_some_and(|heard| {
            now.since(heard) < 2 * REPEAT && heard.since(self.since) >= ours + QUANTUM
        })
    }
}

/// One lane's part of a pool.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, all may be true")]
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) key: PoolKey,
    pub(super) database: Arc<Database>,
    /// The user the servers are logged in as, with its password.
    pub(super) login: Option<Arc<User>>,
    /// The user's SCRAM key, as its clients have proved it.
    pub(super) client_key: Option<[u8; 32]>,
    pub(super) settings: Arc<PoolSettings>,
    /// The database is no longer in the configuration.
    pub(super) removed: bool,
    pub(super) paused: bool,
    /// What the gate of its cluster means to it.
    pub(super) gate: Stance,
    pub(super) epoch: u64,
    /// Clients and servers are being brought together at this moment.
    pub(super) serving: bool,

    /// Free servers; the last came back last.
    pub(super) idle: Vec<ConnId>,
    /// Servers of this lane, opening ones included.
    pub(super) held: u32,
    pub(super) opening: u32,
    /// Its node has been seen to be a primary, which no server of it may be used for.
    pub(super) promoted: bool,
    /// Permits to open a server that were not used yet.
    pub(super) permits: u32,
    /// Servers whose connections are being closed; they count until that is done.
    pub(super) closing: u32,
    /// Servers to be closed because the pool has become smaller.
    pub(super) surplus: u32,
    waiting: VecDeque<(ConnId, u64)>,
    /// How many in `waiting` still wait.
    pub(super) waiting_count: u32,
    pub(super) clients: u32,
    pub(super) hungry: Vec<Hungry>,
    /// What the control thread was last told: how many servers are needed, and when.
    pub(super) told: (u32, Instant),

    /// What a server reports after login, before anything is set: clients are greeted with it.
    pub(super) base: Option<Arc<Parameters>>,
    /// Startup parameters that a server has taken, and what it reported then.
    pub(super) verified: BTreeMap<Arc<Parameters>, Arc<Parameters>>,
    pub(super) last_error: Option<ServerError>,
    /// No login before this.
    pub(super) retry_at: Option<Instant>,
    /// How far it has come on its way round the nodes since the last success.
    pub(super) round: Round,
    /// What names mean in the database; none: nobody knows, or reads go nowhere else.
    pub(super) catalog: Option<Arc<Catalog>>,
    /// The pools of replicas that reads of this pool's clients have gone to, by node.
    pub(super) replicas: Vec<(Arc<str>, usize)>,
    /// Where those reads may go.
    pub(super) nodes: Nodes,
    /// How long its servers take to answer.
    pub(super) latency: Latency,
    pub(super) stats: Stats,
    pub(super) scheduled: Scheduled,
}

impl Pool {
    pub(super) fn new(key: PoolKey, database: Arc<Database>, login: Option<Arc<User>>) -> Self {
        let settings = Arc::new(database.pool.clone());
        Self {
            key,
            database,
            login,
            client_key: None,
            settings,
            removed: false,
            paused: false,
            gate: Stance::default(),
            epoch: 0,
            serving: false,
            idle: Vec::new(),
            held: 0,
            promoted: false,
            opening: 0,
            permits: 0,
            closing: 0,
            surplus: 0,
            waiting: VecDeque::new(),
            waiting_count: 0,
            clients: 0,
            hungry: Vec::new(),
            told: (0, Instant::START),
            base: None,
            verified: BTreeMap::new(),
            last_error: None,
            retry_at: None,
            round: Round::default(),
            catalog: None,
            replicas: Vec::new(),
            nodes: Nodes::default(),
            latency: Latency::default(),
            stats: Stats::default(),
            scheduled: Scheduled::default(),
        }
    }

    /// The addresses its servers are opened at.
    pub(super) fn ring(&self) -> Ring<'_> {
        let node = self.key.node.as_ref().or(self.gate.only.as_ref());
        let seen = self.key.node.is_some();
        Ring { cluster: &self.database.cluster, node: node.map(|node| &**node), seen }
    }

    /// Whether nobody is to get a server of it for now.
    pub(super) fn is_held(&self) -> bool {
        self.paused || self.gate.shut
    }

    /// What the primary gets of the reads that it shares; none: it cannot take any now. The nodes
    /// are drawn up.
    pub(super) fn part_of_reads(&self, now: Instant) -> Option<Part> {
        let primary = self.nodes.primary.filter(|_| !self.is_held() && !self.is_barred(now));
        primary.and_then(|primary| primary.part)
    }

    /// Whether no login may be tried yet.
    pub(super) fn is_barred(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }

    pub(super) fn mode(&self) -> PoolMode {
        self.settings.mode
    }

    /// Whether reads of its clients may go to replicas.
    pub(super) fn routes(&self) -> bool {
        self.database.routing.reads.leave() && self.settings.mode != PoolMode::Session
    }

    /// Whether names of statements are given by pgring.
    pub(super) fn renames(&self) -> bool {
        self.settings.mode != PoolMode::Session && self.settings.prepared_statements > 0
    }

    /// A client joins the queue.
    pub(super) fn queue(&mut self, client: ConnId, ticket: u64) {
        self.waiting.push_back((client, ticket));
        self.waiting_count += 1;
    }

    /// A client no longer waits; its place in the queue is skipped when its turn comes.
    pub(super) fn unqueue(&mut self) {
        assert!(self.waiting_count > 0, "a client that leaves the queue was in it");
        self.waiting_count -= 1;
        if self.waiting_count == 0 {
            self.waiting.clear();
        }
    }

    /// The first in the queue for whom `waits` holds; those before it are dropped.
    pub(super) fn first(&mut self, waits: impl Fn(ConnId, u64) -> bool) -> Option<ConnId> {
        while let Some(&(client, ticket)) = self.waiting.front() {
            if waits(client, ticket) {
                return Some(client);
            }
            self.waiting.pop_front();
        }
        None
    }

    /// Takes this client, who waits, out of the queue.
    pub(super) fn take(&mut self, client: ConnId) {
        if let Some(index) = self.waiting.iter().position(|(other, _)| *other == client) {
            self.waiting.remove(index);
        }
        self.unqueue();
    }

    /// Everybody in the queue, those who have left included.
    pub(super) fn queued(&self) -> impl Iterator<Item = (ConnId, u64)> + '_ {
        self.waiting.iter().copied()
    }

    /// Takes an idle server: one for which `fits` holds if there is one near the end of the
    /// rank, else the one that came back last.
    pub(super) fn take_idle(&mut self, fits: impl Fn(ConnId) -> bool) -> Option<ConnId> {
        let len = self.idle.len();
        let from = len.saturating_sub(LOOK_MAX);
        let found = (from..len).rev().find(|&index| fits(self.idle[index]));
        match found {
            Some(index) => Some(self.idle.remove(index)),
            None => self.idle.pop(),
        }
    }

    /// Takes this server out of the rank.
    pub(super) fn remove_idle(&mut self, server: ConnId) -> bool {
        let Some(index) = self.idle.iter().position(|&other| other == server) else {
            return false;
        };
        self.idle.remove(index);
        true
    }

    /// How many servers the queue could use beyond those being opened. Those being closed do not
    /// count: that may take long, and another lane may have one to spare meanwhile.
    pub(super) fn need(&self) -> u32 {
        self.waiting_count.saturating_sub(self.opening + self.permits)
    }

    /// The lane whose client has been waiting for longest, if that goes before ours, which has
    /// been waiting for so long.
    pub(super) fn hungriest(&self, now: Instant, ours: Option<Duration>) -> Option<Hungry> {
        let first = |hungry: &&Hungry| {
            hungry.need > 0 && ours.is_none_or(|ours| hungry.goes_first(now, ours))
        };
        self.hungry.iter().filter(first).min_by_key(|hungry| hungry.since).copied()
    }

    /// Replaces what was said of `core`.
    pub(super) fn hear(&mut self, hungry: Hungry) {
        self.hungry.retain(|other| other.core != hungry.core);
        if hungry.need > 0 {
            self.hungry.push(hungry);
        }
    }

    /// One server less is needed there.
    pub(super) fn fed(&mut self, core: Core) {
        if let Some(hungry) = self.hungry.iter_mut().find(|other| other.core == core) {
            hungry.need -= 1;
            hungry.heard = None;
        }
        self.hungry.retain(|other| other.need > 0);
    }
}
