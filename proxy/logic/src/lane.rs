//! One core's world: its clients, servers and pools, wired together.
//!
//! ```text
//!   client bytes ─▶ startup ─▶ traffic ─▶ statements ─▶ checkout ─▶ server
//!   server bytes ─▶ dial ─────▶ answers ─▶ settle ─────▶ back to the pool, or kept
//!   letters      ─▶ orders, cancel, console
//! ```
//!
//! Each part is a file of its own below `lane/`; this one only introduces them to each other.

mod aim;
mod answers;
mod balance;
mod cancel;
mod checkout;
mod client;
mod console;
mod deadlines;
mod deallocate;
mod dial;
mod failing;
mod gate;
mod home;
mod leading;
mod leave;
mod lending;
mod login;
mod looked;
mod moved;
mod name_space;
mod names;
mod nodes;
mod orders;
mod passing;
mod place;
mod plain;
mod pool;
mod readonly;
mod rename;
mod replica;
mod report;
mod rerun;
mod segment;
mod server;
mod settle;
mod standbys;
mod stands;
mod startup;
mod statement_mode;
mod statements;
mod token;
mod traffic;
#[cfg(test)]
mod trial;
mod unnamed;
mod unread;
mod welcome;
mod wishes;

use crate::action::{Actions, CloseMode, Progress, Want};
use crate::classify::cache::Cache;
use crate::config::Config;
use crate::dice::{Chance, Dice};
use crate::id::{ConnId, Core, PoolKey, Side};
use crate::lane::aim::Seen;
use crate::lane::balance::Choice;
use crate::lane::client::{Client, Login, Nothing, Unnamed};
use crate::lane::nodes::Place;
use crate::lane::orders::Orders;
use crate::lane::pool::Pool;
use crate::lane::server::{Far, Server};
use crate::lane::wishes::KnownWishes;
use crate::ledger::Entry;
use crate::mail::{Entrance, Event, Mail, Peer};
use crate::memo::Memo;
use crate::parcel::Parcel;
use crate::prepared::Texts;
use crate::slab::Slab;
use crate::state::{Parameters, States};
use crate::time::{Duration, Instant};
use crate::timers::{Scheduled, Timers};
use crate::topology::Topology;
use pgring_wire::backend::write::ErrorText;
use pgring_wire::frame::{Header, header};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a lane asks for.
type Out = Actions<Mail>;

/// What the classes of texts may take up on one core.
const VERDICT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything one core knows.
#[derive(Debug)]
pub struct Lane {
    core: Core,
    config: Arc<Config>,
    dice: Dice,
    nothing: Nothing,
    clients: Slab<Client>,
    servers: Slab<Far>,
    pools: Vec<Pool>,
    pools_by_key: BTreeMap<PoolKey, usize>,
    /// Where a cluster's primary was last found.
    primaries: BTreeMap<String, Place>,
    /// Where the nodes stand, as last heard.
    topology: Arc<Topology>,
    /// What texts are that clients of routed databases say.
    verdicts: Cache,
    chance: Chance,
    choice: Choice,
    wishes: KnownWishes,
    seen: Seen,
    /// Clients whose reads wait for a replica that shows what they must.
    behind: Vec<ConnId>,
    /// Replication clients for whom no server may be opened yet.
    gated: Vec<ConnId>,
    /// When the control thread was last told that replicas are behind what clients have written.
    behind_told: Instant,
    texts: Texts,
    /// What the texts that clients say most may do to a session.
    memo: Memo,
    states: States,
    /// Memory for unnamed statements.
    #[expect(clippy::vec_box, reason = "they move between here and the clients as boxes")]
    spare: Vec<Box<Unnamed>>,
    timers: Timers,
    tick: Scheduled,
    numbers: u64,
    tickets: u64,
    orders: Orders,
    /// Entries skipped by the message at hand; a scratch list.
    skipped: Vec<Entry>,
    /// Bytes that went the short way; none: nothing does.
    #[cfg(test)]
    plain_bytes: Option<usize>,
    violations: u64,
    /// Those that are our own fault.
    broken: u64,
    login_failures: u64,
}

impl Lane {
    /// An empty lane. `dice` seeds its random choices (keys, nonces): from the operating system
    /// in life, from the seed in a test. `before` is at least as high as every generation that an
    /// earlier lane of this core has given to a connection: letters that were meant for that one
    /// are still under way, and must fit nobody here. 0, if there was none.
    pub fn new(core: Core, config: Arc<Config>, dice: [u8; 32], before: u32) -> Self {
        let mut dice = Dice::new(dice);
        let hash_seed = dice.below(u64::MAX);
        let nothing = Nothing { text: Arc::from(""), parameters: Arc::new(Parameters::new()) };
        Self {
            core,
            config,
            dice,
            nothing,
            clients: Slab::new(Side::Client, before),
            servers: Slab::new(Side::Server, before),
            pools: Vec::new(),
            pools_by_key: BTreeMap::new(),
            primaries: BTreeMap::new(),
            topology: Arc::new(Topology::default()),
            verdicts: Cache::new(hash_seed, VERDICT_BYTES_MAX),
            chance: Chance::new(hash_seed),
            choice: Choice::default(),
            wishes: KnownWishes::default(),
            seen: Seen::default(),
            behind: Vec::new(),
            gated: Vec::new(),
            behind_told: Instant::START,
            texts: Texts::new(hash_seed),
            memo: Memo::new(hash_seed),
            states: States::default(),
            spare: Vec::new(),
            timers: Timers::default(),
            tick: Scheduled::default(),
            // Nor should a number that an operator saw before, and kills by, be a newcomer's.
            numbers: u64::from(before),
            tickets: 0,
            orders: Orders::default(),
            skipped: Vec::new(),
            #[cfg(test)]
            plain_bytes: Some(0),
            violations: 0,
            broken: 0,
            login_failures: 0,
        }
    }

    /// A client has come.
    pub fn accept(&mut self, now: Instant, peer: Peer, entrance: Entrance) -> ConnId {
        let number = self.number();
        let nothing = &self.nothing;
        let since = entrance.before.map_or(now, |before| before.connected);
        let id = self.clients.insert(|_| Client::new(number, peer, since, nothing));
        let timeout = self.config.auth.login_timeout;
        if let Some(client) = self.clients.get_mut(id) {
            client.refused = entrance.refused;
            client.readonly = entrance.readonly;
            if let Some(before) = entrance.before {
                let refused_encryption = before.refused_encryption;
                let login = Login { moved: true, refused_encryption, ..Login::default() };
                client.login = Some(Box::new(login));
            }
            if !timeout.is_zero() {
                let owner = crate::timers::Owner::Conn(id);
                self.timers.schedule(&mut client.scheduled, owner, since + timeout);
            }
        }
        self.start_ticking(now);
        id
    }

    /// A server connection has come from another lane.
    pub fn adopt(&mut self, now: Instant, parcel: Parcel, actions: &mut Out) -> ConnId {
        self.adopt_server(now, parcel, actions)
    }

    /// Shows bytes of a connection, the oldest that are not done with. Never called for a
    /// connection that waits for `Resume`.
    pub fn receive(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        match conn.side() {
            Side::Client => self.receive_client(now, conn, bytes, actions),
            Side::Server => self.receive_server(now, conn, bytes, actions),
        }
    }

    /// Takes in one event and asks for what follows from it.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Out) {
        match event {
            Event::Connected { conn } => self.connected(now, conn, actions),
            Event::Ended { conn } if self.is_owed(conn) => self.listens_on(now, conn),
            Event::Ended { conn } => self.ended(now, conn, "the connection was closed", actions),
            Event::Failed { conn, reason } => self.ended(now, conn, &reason, actions),
            Event::Stalled { conn, quiet } => self.stalled(now, conn, quiet, actions),
            Event::Closed { conn } => self.closed(now, conn, actions),
            Event::Timeout => self.timeout(now, actions),
            Event::Mail(mail) => self.mail(now, mail, actions),
        }
    }

    /// When to send [`Event::Timeout`], if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How many clients it has.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many servers it has open or opening.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Invariants that pgring itself has broken.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    fn ended(&mut self, now: Instant, conn: ConnId, reason: &str, actions: &mut Out) {
        match conn.side() {
            Side::Client if self.clients.get(conn).is_some_and(Client::has_said_goodbye) => {
                self.client_parted(now, conn, CloseMode::Now, actions);
            }
            Side::Client => self.client_left(now, conn, CloseMode::Now, actions),
            Side::Server => self.server_lost(now, conn, reason, actions),
        }
    }

    fn stalled(&mut self, now: Instant, conn: ConnId, quiet: Duration, actions: &mut Out) {
        let Some(client) = self.clients.get(conn) else { return };
        let settings = client.pool.map_or(&self.config.pool, |pool| &*self.pools[pool].settings);
        let limit = settings.client_write_timeout;
        if !limit.is_zero() && quiet >= limit {
            self.client_left(now, conn, CloseMode::Now, actions);
        }
    }

    /// The driver has let go of a slot.
    fn closed(&mut self, now: Instant, conn: ConnId, actions: &mut Out) {
        match conn.side() {
            Side::Client => {
                // If the driver closed it by itself, it still has to leave properly.
                self.client_left(now, conn, CloseMode::Now, actions);
                self.clients.remove(conn);
                self.check_drained(actions);
            }
            Side::Server => {
                self.server_lost(now, conn, "the connection was closed", actions);
                self.server_closed(now, conn, actions);
                self.servers.remove(conn);
                self.check_orders(actions);
            }
        }
    }

    /// A number that nobody else in the process has.
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        u64::from(self.core.0) << 40 | self.numbers
    }

    fn server_ref(&self, id: ConnId) -> Option<&Server> {
        self.servers.get(id).and_then(Far::server)
    }

    fn server_mut(&mut self, id: ConnId) -> Option<&mut Server> {
        self.servers.get_mut(id).and_then(Far::server_mut)
    }

    /// The head of the next message of a connection, at the start of `bytes`; or what becomes of
    /// them: there are too few, or they are refused together with whoever sent them.
    #[inline]
    fn head(
        &mut self,
        now: Instant,
        conn: ConnId,
        (bytes, length_max): (&[u8], u32),
        actions: &mut Out,
    ) -> Result<Header, Progress> {
        let error = match header(bytes, length_max) {
            Ok(Some(head)) => return Ok(head),
            Ok(None) => return Err(more(0)),
            Err(error) => error,
        };
        let message = error.to_string();
        match conn.side() {
            Side::Client => {
                self.fatal(now, conn, &ErrorText::fatal(error.sqlstate(), &message), actions);
            }
            Side::Server if self.server_ref(conn).is_some_and(Server::is_opening) => {
                self.violations += 1;
                self.server_lost(now, conn, &format!("not PostgreSQL: {message}"), actions);
            }
            Side::Server => self.violated(now, conn, &message, bytes, actions),
        }
        Err(all(bytes))
    }

    /// Says an error to a client.
    fn say(id: ConnId, text: &ErrorText<'_>, actions: &mut Out) {
        actions.write(id, |out| pgring_wire::backend::write::error(out, text));
    }
}

/// All shown bytes are done with.
const fn all(bytes: &[u8]) -> Progress {
    Progress { consumed: bytes.len(), want: Want::More }
}

/// The rest is to be shown again together with what comes next.
const fn more(consumed: usize) -> Progress {
    Progress { consumed, want: Want::More }
}

/// What becomes of bytes that come behind `before` others, which are done with.
const fn behind(before: usize, rest: Progress) -> Progress {
    Progress { consumed: before + rest.consumed, want: rest.want }
}

/// The rest is to be shown again after `Resume`.
const fn later(consumed: usize) -> Progress {
    Progress { consumed, want: Want::Resume }
}
