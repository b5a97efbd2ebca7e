//! Opening a server connection: which node, the login, and what the server says of itself.

use crate::action::{Action, Address, CloseMode, Level, Progress, Want};
use crate::auth_server::{Credentials, ServerAuth, Step};
use crate::config::SERVER_KEEPALIVE;
use crate::id::{ConnId, Core, PoolKey, Secret};
use crate::lane::client::{Client, Phase as ClientPhase};
use crate::lane::nodes::Round;
use crate::lane::server::{Far, Phase, Server, ServerError};
use crate::lane::{Lane, Out, all, behind, more};
use crate::ledger::Ledger;
use crate::mail::Mail;
use crate::prepared::ServerStatements;
use crate::state::Parameters;
use crate::time::{Duration, Instant};
use crate::timers::{Owner, Scheduled};
use pgring_wire::backend::{self, ErrorView};
use pgring_wire::client::write;
use pgring_wire::frame::Header;
use std::sync::Arc;

/// The largest message of a login. `PostgreSQL` has no limit; errors are the largest.
const LOGIN_LENGTH_MAX: u32 = 65_536;

/// The most that a server may report of itself, in bytes of names and values; `PostgreSQL` reports
/// some fifteen parameters.
const REPORTED_BYTES_MAX: usize = 65_536;

/// What a new server connection is for.
struct Purpose {
    counted: bool,
    startup: Arc<Parameters>,
    client: Option<ConnId>,
    /// How many places were tried before; none: as many as the pool has.
    step: Option<u32>,
}

impl Lane {
    /// Opens a server for a pool, using one permit.
    #[cold]
    pub(super) fn open_server(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        let startup = self.startup_wanted(pool);
        let purpose = Purpose { counted: true, startup, client: None, step: None };
        self.pools[pool].held += 1;
        self.pools[pool].opening += 1;
        self.dial(now, pool, purpose, actions);
    }

    /// Opens a replication client's own server, so many steps from the node that was good last.
    pub(super) fn open_raw(
        &mut self,
        now: Instant,
        id: ConnId,
        (pool, step): (usize, u32),
        actions: &mut Out,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.phase = ClientPhase::Welcoming;
        if self.pools[pool].gate.shut {
            client.server = None;
            return self.gated.push(id);
        }
        let kept = |name: &str| !matches!(name, "user" | "database") && !name.starts_with("_pq_.");
        let startup = client.login.iter().flat_map(|login| login.startup.iter());
        let startup: Parameters = startup.filter(|(name, _)| kept(name)).cloned().collect();
        let startup = self.states.intern(startup);
        let purpose = Purpose { counted: false, startup, client: Some(id), step: Some(step) };
        let server = self.dial(now, pool, purpose, actions);
        if let Some(client) = self.clients.get_mut(id) {
            client.server = Some(server);
        }
    }

    /// Session mode: the startup parameters of the first in the queue for whom no server is
    /// being opened.
    fn startup_wanted(&self, pool: usize) -> Arc<Parameters> {
        let nothing = || Arc::clone(&self.nothing.parameters);
        if !self.is_session_mode(pool) {
            return nothing();
        }
        let skip = self.pools[pool].opening as usize;
        let mut waiting = self.pools[pool].queued().filter_map(|(id, ticket)| {
            let client = self.clients.get(id)?;
            client.wait.filter(|wait| wait.ticket == ticket)?;
            Some(Arc::clone(&client.startup))
        });
        waiting.nth(skip).unwrap_or_else(nothing)
    }

    fn dial(&mut self, now: Instant, pool: usize, purpose: Purpose, actions: &mut Out) -> ConnId {
        let number = self.number();
        let rank = &self.pools[pool];
        let cluster = Arc::clone(&rank.database.cluster);
        let own = rank.key.node.as_ref().or(rank.gate.only.as_ref());
        let good = match own {
            None => self.primaries.get(&cluster.name).copied().unwrap_or_default(),
            Some(node) => self.seen_at(&cluster, node),
        };
        let step = purpose.step.unwrap_or(rank.round.step);
        let place = good.after(step, rank.ring());
        let address = place.and_then(|place| place.address_in(&cluster)).cloned();
        let place = place.unwrap_or_default();
        let own = own.map(|node| &**node);
        let name = own.or_else(|| cluster.nodes.get(place.node).map(|node| &*node.name));
        let settings = Arc::clone(&rank.settings);
        let server = Server {
            number,
            phase: Phase::Connecting,
            pool,
            counted: purpose.counted,
            node: Arc::from(name.unwrap_or_default()),
            pass: self.pass_of(pool),
            place,
            step,
            address: address.clone().unwrap_or_else(|| Address::Unix("unresolved".into())),
            client: purpose.client,
            ledger: Ledger::default(),
            status: b'I',
            left: 0,
            forward: false,
            pid: 0,
            secret: Secret::new(&[]),
            opened: now,
            expires: now + self.lifetime(settings.server_lifetime),
            used: now,
            epoch: self.orders.epoch,
            state: Arc::clone(&self.nothing.parameters),
            reported: Arc::clone(&self.nothing.parameters),
            startup: purpose.startup,
            statements: ServerStatements::default(),
            parsing: Vec::new(),
            unclosed: Vec::new(),
            unnamed: None,
            unnamed_segment: 0,
            cancels: 0,
            cancel_later: None,
            inspected: None,
            hides: 0,
            touched: None,
            dirty: false,
            unseen: false,
            unfit: false,
            begun: None,
            beginning: false,
            dying: false,
            parted: false,
            error: None,
            cleaning: None,
            scheduled: Scheduled::default(),
        };
        let id = self.servers.insert(|_| Far::Server(server));
        let limit = settings.server_connect_timeout;
        if !limit.is_zero()
            && let Some(Far::Server(far)) = self.servers.get_mut(id)
        {
            self.timers.schedule(&mut far.scheduled, Owner::Conn(id), now + limit);
        }
        // An unresolved name fails like an unreachable address: the driver says so.
        let address = address.unwrap_or_else(|| Address::Unix("unresolved host name".into()));
        actions.push(Action::Connect { conn: id, address });
        id
    }

    /// The configured lifetime with a jitter of 10 %, so that servers opened together do not
    /// all end together.
    fn lifetime(&mut self, lifetime: Duration) -> Duration {
        if lifetime.is_zero() {
            return Duration::MAX;
        }
        let percent = u32::try_from(self.dice.below(21)).unwrap_or(10);
        lifetime / 100 * (90 + percent)
    }

    /// A connection we asked for is open.
    pub(super) fn connected(&mut self, _now: Instant, id: ConnId, actions: &mut Out) {
        match self.servers.get_mut(id) {
            None => return,
            Some(Far::Errand(errand)) => {
                let (pid, secret) = (errand.key.0, errand.key.1.clone());
                actions.write(id, |out| write::cancel_request(out, pid, secret.bytes()));
                return;
            }
            Some(Far::Server(_)) => {}
        }
        let nonce = self.dice.bytes();
        let Some(far) = self.server_ref(id) else { return };
        let rank = &self.pools[far.pool];
        // Clients prove it to the primary's pool.
        let home = PoolKey { node: None, ..rank.key.clone() };
        let home = self.pools_by_key.get(&home).map_or(rank, |home| &self.pools[*home]);
        let credentials = Credentials {
            password: rank.login.as_ref().map(|login| login.password.clone()),
            client_key: home.client_key,
        };
        let user = Arc::clone(&rank.key.user);
        let name = rank.database.dbname.clone().unwrap_or_else(|| rank.key.database.to_string());
        let startup = Arc::clone(&far.startup);
        let told = if rank.settings.server_keepalive { &SERVER_KEEPALIVE[..] } else { &[] };
        let auth = ServerAuth::new(&user, credentials, core::array::from_fn(|index| nonce[index]));
        let Some(far) = self.server_mut(id) else { return };
        if !matches!(far.phase, Phase::Connecting) {
            return;
        }
        far.phase = Phase::Auth(Box::new(auth));
        let own = [("user", &*user), ("database", &*name)];
        let own = own.into_iter().chain(told.iter().copied());
        let rest = startup.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let parameters: Vec<(&str, &str)> = own.chain(rest).collect();
        actions.write(id, |out| write::startup(out, 3, 0, parameters));
    }

    /// Bytes of a server that is logging in.
    #[cold]
    pub(super) fn receive_login(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let head = match self.head(now, id, (rest, LOGIN_LENGTH_MAX), actions) {
                Ok(head) => head,
                Err(end) => return behind(at, end),
            };
            let Some(body) = rest.get(5..head.total()) else { return more(at) };
            at += head.total();
            self.login_message(now, id, head, body, actions);
            match self.server_ref(id).map(Server::is_opening) {
                Some(true) => {}
                Some(false) => return Progress { consumed: at, want: Want::More },
                None => return all(bytes),
            }
        }
    }

    fn login_message(
        &mut self,
        now: Instant,
        id: ConnId,
        head: Header,
        body: &[u8],
        actions: &mut Out,
    ) {
        let Some(far) = self.server_mut(id) else { return };
        let asked = matches!(far.phase, Phase::Asked);
        let known = match (head.tag, &mut far.phase) {
            (b'R', Phase::Auth(auth)) => {
                let step = auth.receive(body);
                return self.login_step(now, id, step, actions);
            }
            (b'S', Phase::Greeting | Phase::Asked) => self.reported(id, body).is_some(),
            (b'K', Phase::Greeting) => match backend::key_data(body) {
                Ok((pid, secret)) => {
                    far.pid = pid;
                    far.secret = Secret::new(secret);
                    true
                }
                Err(_) => false,
            },
            (b'Z', Phase::Greeting | Phase::Asked) => {
                return self.logged_in(now, id, actions);
            }
            (b'E', _) => return self.login_refused(now, id, body, actions),
            (b'D', Phase::Asked) => {
                far.unfit = !body.ends_with(b"f");
                true
            }
            (b'T' | b'C', Phase::Asked) => asked,
            (b'N', _) => true,
            _ => false,
        };
        if !known {
            let reason = format!("unexpected message '{}' at login", head.tag.escape_ascii());
            self.violations += 1;
            self.server_lost(now, id, &reason, actions);
        }
    }

    fn login_step(&mut self, now: Instant, id: ConnId, step: Step, actions: &mut Out) {
        let core = self.core;
        match step {
            Step::Wait => {}
            Step::Send(bytes) => actions.write(id, |out| out.extend_from_slice(&bytes)),
            Step::Derive { password, salt, iterations } => {
                let mail = Mail::Derive { core, conn: id, password, salt, iterations };
                actions.push(Action::Tell(Box::new(mail)));
            }
            Step::Done => {
                if let Some(far) = self.server_mut(id) {
                    far.phase = Phase::Greeting;
                }
            }
            Step::Failed(reason) => {
                if let Some(far) = self.server_mut(id) {
                    let error = ServerError { code: "28P01".into(), message: reason.clone() };
                    far.error = Some(Box::new(error));
                }
                self.server_lost(now, id, &reason, actions);
            }
        }
    }

    /// The control thread has derived a key for a login.
    pub(super) fn derived(&mut self, id: ConnId, salted: [u8; 32], actions: &mut Out) {
        let Some(far) = self.server_mut(id) else { return };
        let Phase::Auth(auth) = &mut far.phase else { return };
        let bytes = auth.derived(&salted);
        actions.write(id, |out| out.extend_from_slice(&bytes));
    }

    fn login_refused(&mut self, now: Instant, id: ConnId, body: &[u8], actions: &mut Out) {
        let view = ErrorView::new(body);
        let text =
            |field: Option<&[u8]>| String::from_utf8_lossy(field.unwrap_or(b"")).into_owned();
        let (code, message) = (text(view.code()), text(view.message()));
        if let Some(far) = self.server_mut(id) {
            far.error = Some(Box::new(ServerError { code, message: message.clone() }));
        }
        self.server_lost(now, id, &message, actions);
    }

    /// Takes in a `ParameterStatus`: whether it is news; none if it is malformed, or one too many.
    #[cold]
    pub(super) fn reported(&mut self, id: ConnId, body: &[u8]) -> Option<bool> {
        let (name, value) = backend::parameter_status(body).ok()?;
        let (name, value) = (core::str::from_utf8(name).ok()?, String::from_utf8_lossy(value));
        let far = self.servers.get_mut(id).and_then(Far::server_mut)?;
        if far.reported.get(name).is_some_and(|known| *known == value) {
            return Some(false);
        }
        let mut reported = (*far.reported).clone();
        reported.insert(name.to_owned(), value.into_owned());
        let size: usize = reported.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > REPORTED_BYTES_MAX {
            return None;
        }
        far.reported = self.states.intern(reported);
        Some(true)
    }

    /// The first `ReadyForQuery`: the login is done. A server is kept on a node that is what its
    /// pool is for: no standby takes writes, and what reads must never write by mistake (hazard
    /// H22).
    fn logged_in(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(id) else { return };
        let recovery = match far.reported.get("in_hot_standby").map(String::as_str) {
            Some(value) => value == "on",
            None if matches!(far.phase, Phase::Asked) || !far.counted => {
                core::mem::take(&mut far.unfit)
            }
            None => {
                far.phase = Phase::Asked;
                let sql = "SELECT pg_catalog.pg_is_in_recovery()";
                actions.write(id, |out| write::query(out, sql));
                return;
            }
        };
        let (node, pool) = (Arc::clone(&far.node), far.pool);
        if self.is_late(now, id, actions) {
            return;
        }
        // It may have been promoted since it said what it is.
        let recovery = recovery && !self.pools[pool].promoted;
        if recovery != self.pools[pool].key.node.is_some() {
            let is = if recovery { "is" } else { "is not" };
            let reason = format!("node {node} {is} in recovery");
            return self.server_lost(now, id, &reason, actions);
        }
        if let Some(name) = self.differs(id, pool) {
            let reason = format!("node {node} has another {name} than the primary");
            return self.server_lost(now, id, &reason, actions);
        }
        let Some(far) = self.server_mut(id) else { return };
        if !far.counted {
            return self.raw_logged_in(now, id, actions);
        }
        let (pool, place, opened) = (far.pool, far.place, far.opened);
        far.phase = Phase::Busy;
        far.status = b'I';
        let reported = Arc::clone(&far.reported);
        let rank = &mut self.pools[pool];
        rank.opening -= 1;
        rank.round = Round::default();
        rank.retry_at = None;
        rank.last_error = None;
        rank.stats.connect_times.observe(now.since(opened));
        let key = rank.key.clone();
        if rank.base.is_none() {
            rank.base = Some(Arc::clone(&reported));
            self.share_base(&key, &reported, actions);
        }
        let rank = &self.pools[pool];
        if rank.key.node.is_none() {
            let cluster = rank.database.cluster.name.clone();
            self.primaries.insert(cluster, place);
        }
        self.free(now, id, actions);
    }

    /// The other lanes may greet clients of the pool too, before they have servers of their own.
    fn share_base(&self, pool: &PoolKey, reported: &Arc<Parameters>, actions: &mut Out) {
        let lanes = u16::try_from(self.config.workers).unwrap_or(u16::MAX);
        for to in (0..lanes).map(Core).filter(|core| *core != self.core) {
            let mail = Mail::Base { pool: pool.clone(), reported: Arc::clone(reported) };
            actions.push(Action::Post { to, mail: Box::new(mail) });
        }
    }

    /// A replication client's server is ready: from now on both talk without us.
    fn raw_logged_in(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(id) else { return };
        far.phase = Phase::Raw;
        let Some(client) = far.client else { return };
        self.greet_raw(now, client, id, actions);
        if let Some(client) = self.clients.get_mut(client) {
            client.phase = ClientPhase::Raw;
        }
        actions.push(Action::Resume(client));
    }

    /// Opening a server has failed: the next address is tried, or the first one later.
    pub(super) fn open_failed(
        &mut self,
        now: Instant,
        (pool, step): (usize, u32),
        error: &ServerError,
        actions: &mut Out,
    ) {
        let rank = &mut self.pools[pool];
        let key = &rank.key;
        let said =
            format!("server login for {}/{} failed: {}", key.database, key.user, error.message);
        if rank.last_error.as_ref() != Some(error) {
            actions.note(Level::Warn, said);
        }
        let hopeless = is_hopeless(error);
        rank.last_error = Some(error.clone());
        let mut round = rank.round;
        let ended = round.fail(step, rank.ring());
        rank.round = round;
        if ended {
            rank.retry_at = Some(now + rank.settings.server_login_retry);
        }
        if ended || hopeless {
            self.fall_back(now, pool, actions);
        }
        if hopeless {
            self.refuse_all(now, pool, error, actions);
        }
        self.ask(now, pool, actions);
        self.watch_pool(now, pool);
    }

    /// The same for a replication client's own server. Tells whether another node is tried.
    pub(super) fn raw_failed(
        &mut self,
        now: Instant,
        id: ConnId,
        ((pool, step), error): ((usize, u32), &ServerError),
        actions: &mut Out,
    ) -> bool {
        let ended = self.pools[pool].ring().is_last(step);
        let gone = self.clients.get(id).is_none_or(Client::is_gone);
        if ended || gone || is_hopeless(error) {
            return false;
        }
        self.open_raw(now, id, (pool, step + 1), actions);
        true
    }

    /// Nobody who waits can be served: a wrong password, a database that does not exist.
    #[cold]
    fn refuse_all(&mut self, now: Instant, pool: usize, error: &ServerError, actions: &mut Out) {
        let waiting: Vec<ConnId> = self.pools[pool].queued().map(|(id, _)| id).collect();
        for id in waiting {
            // Who has gone to another node is none of those.
            let here = |client: &Client| client.wait.is_some() && client.pool == Some(pool);
            if self.clients.get(id).is_some_and(here) {
                self.refuse(now, id, &error.code, &error.message, actions);
            }
        }
    }

    /// Closes a connection to a server politely: nothing of ours is left on it.
    pub(super) fn part(id: ConnId, actions: &mut Out) {
        actions.write(id, write::terminate);
        actions.push(Action::Close { conn: id, mode: CloseMode::Flush });
    }
}

/// Whether another attempt would be refused too: a wrong password, a database that does not exist.
fn is_hopeless(error: &ServerError) -> bool {
    ["28", "3D", "22", "42"].iter().any(|class| error.code.starts_with(class))
}
