//! What happens when nothing happens: every wait has an end.

use crate::action::{Action, CloseMode};
use crate::homes::Homes;
use crate::id::{ConnId, Side};
use crate::lane::client::{Client, Goodbye, Phase};
use crate::lane::gate::UNDER_WAY;
use crate::lane::pool::PATIENCE;
use crate::lane::server::{Far, Phase as ServerPhase};
use crate::lane::traffic::hint_for;
use crate::lane::{Lane, Out};
use crate::time::{Duration, Instant};
use crate::timers::{Owner, Timers};
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;

/// How often the lane looks for servers that have become too old.
const TICK: Duration = Duration::from_secs(1);

/// For so long is answered to who has said goodbye and shut its socket. Nobody can tell whether it
/// listens still, or has given up and is gone, as most have; and there are others who wait for its
/// server. What runs there is carried out by the server all the same.
const LISTENS: Duration = Duration::from_secs(5);

/// A limit a client has reached.
enum Limit {
    Listening,
    Login,
    Replica,
    Query,
    IdleInTransaction,
    Idle,
}

impl Lane {
    /// Makes sure the lane looks around once a second while it has anything to look at.
    pub(super) fn start_ticking(&mut self, now: Instant) {
        self.timers.schedule(&mut self.tick, Owner::Tick, now + TICK);
    }

    /// Some deadline has come.
    pub(super) fn timeout(&mut self, now: Instant, actions: &mut Out) {
        while let Some((at, owner)) = self.timers.pop(now) {
            match owner {
                Owner::Tick if Timers::woken(&mut self.tick, at) => self.look_around(now, actions),
                Owner::Pool(pool) if Timers::woken(&mut self.pools[pool].scheduled, at) => {
                    self.pool_due(now, pool, actions);
                }
                Owner::Conn(id) => match id.side() {
                    Side::Client => self.client_due(now, id, at, actions),
                    Side::Server => self.server_due(now, id, at, actions),
                },
                Owner::Tick | Owner::Pool(_) => {}
            }
        }
    }

    /// Closes idle servers that are too old or idle for too long.
    fn look_around(&mut self, now: Instant, actions: &mut Out) {
        for pool in 0..self.pools.len() {
            let floor = self.least(pool);
            let rank = &self.pools[pool];
            let idle_max = rank.settings.server_idle_timeout;
            let mut spare = (rank.held as usize).saturating_sub(floor);
            for server in rank.idle.clone() {
                let Some(far) = self.server_ref(server) else { continue };
                let old = far.expires <= now;
                let unused = !idle_max.is_zero() && now.since(far.used) >= idle_max && spare > 0;
                if old || unused {
                    spare = spare.saturating_sub(1);
                    self.close_server(now, server, actions);
                }
            }
        }
        if !self.clients.is_empty() || !self.servers.is_empty() {
            self.start_ticking(now);
        }
    }

    /// How many servers of a pool this lane keeps open for whoever comes next.
    pub(super) fn least(&self, pool: usize) -> usize {
        let rank = &self.pools[pool];
        match rank.settings.size_min {
            0 => 0,
            all => {
                let homes = Homes::of(&self.config, self.config.workers, &rank.key);
                homes.part(all, self.core)
            }
        }
    }

    /// When the pool is to be looked at, if somebody waits.
    pub(super) fn pool_deadline(&mut self, now: Instant, pool: usize) -> Option<Instant> {
        let since = self.oldest(pool)?;
        let rank = &self.pools[pool];
        let patience = now + PATIENCE;
        let limit = rank.settings.query_wait_timeout;
        let end = if limit.is_zero() { patience } else { (since + limit).max(now) };
        Some(patience.min(end))
    }

    fn pool_due(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        let limit = self.pools[pool].settings.query_wait_timeout;
        while let Some(since) = self.oldest(pool) {
            if limit.is_zero() || now.since(since) < limit {
                break;
            }
            let Some(id) = self.next_in_queue(pool) else { break };
            if self.pools[pool].key.node.is_some() && !self.is_readonly(id) {
                // The primary may have a server.
                self.fall_back(now, pool, actions);
                break;
            }
            let rank = &self.pools[pool];
            let shut = rank.gate.shut && rank.key.node.is_none();
            let (code, mut message) = if rank.held > rank.opening && !shut {
                (sqlstate::TOO_MANY_CONNECTIONS, format!("no server became free within {limit:?}"))
            } else {
                (
                    sqlstate::CANNOT_CONNECT_NOW,
                    format!("no server could be opened within {limit:?}"),
                )
            };
            if shut {
                message = format!("{message}: {UNDER_WAY}");
            } else if let Some(error) = &rank.last_error {
                message = format!("{message}: {}", error.message);
            }
            self.refuse(now, id, code, &message, actions);
        }
        if self.pools[pool].retry_at.is_some_and(|at| at <= now) {
            self.pools[pool].retry_at = None;
        }
        self.ask(now, pool, actions);
        self.watch_pool(now, pool);
    }

    fn next_in_queue(&mut self, pool: usize) -> Option<ConnId> {
        let clients = &self.clients;
        self.pools[pool].first(|id, ticket| {
            let wait = clients.get(id).and_then(|client| client.wait);
            wait.is_some_and(|wait| wait.ticket == ticket)
        })
    }

    /// A client has nothing running: it may be idle for as long as the limits allow.
    pub(super) fn client_idles(&mut self, now: Instant, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.idle_since = now;
        self.watch_client(id);
    }

    /// Sees that the next limit of a client is kept.
    pub(super) fn watch_client(&mut self, id: ConnId) {
        let Some(client) = self.clients.get(id) else { return };
        let Some((at, _)) = self.limit_of(client) else { return };
        let Some(client) = self.clients.get_mut(id) else { return };
        self.timers.schedule(&mut client.scheduled, Owner::Conn(id), at);
    }

    /// The next limit of a client, and when it is reached.
    fn limit_of(&self, client: &Client) -> Option<(Instant, Limit)> {
        let usual = self.usual_limit(client);
        // While it waits for a server the pool has a limit.
        if client.goodbye != Goodbye::Shut || client.server.is_none() {
            return usual;
        }
        let since =
            client.transaction_since.map_or(client.idle_since, |at| at.max(client.idle_since));
        let listens = (since + LISTENS, Limit::Listening);
        Some(usual.filter(|(at, _)| *at < listens.0).unwrap_or(listens))
    }

    fn usual_limit(&self, client: &Client) -> Option<(Instant, Limit)> {
        let after = |since: Instant, limit: Duration, what| {
            (!limit.is_zero()).then(|| (since + limit, what))
        };
        match client.phase {
            Phase::Startup | Phase::Auth(_) | Phase::Entering | Phase::Cancelling => {
                after(client.connected, self.config.auth.login_timeout, Limit::Login)
            }
            Phase::Welcoming => {
                // It may have to wait for its server first, for which the pool has a limit.
                let wait = self.pools[client.pool?].settings.query_wait_timeout;
                let login = self.config.auth.login_timeout;
                let limit = if wait.is_zero() { wait } else { login.saturating_add(wait) };
                after(client.connected, limit, Limit::Login)
            }
            Phase::Ready => {
                if let Some(since) = client.behind_since {
                    let home = &self.pools[client.home?];
                    let limit = if client.readonly {
                        home.settings.query_wait_timeout
                    } else {
                        home.database.routing.read_wait_max
                    };
                    return after(since, limit, Limit::Replica);
                }
                let settings = &self.pools[client.pool?].settings;
                if let Some(since) = client.query_since {
                    return after(since, settings.query_timeout, Limit::Query);
                }
                let far = client.server.and_then(|server| self.server_ref(server));
                // A Parse or Bind takes its time too.
                if far.is_some_and(|far| far.ledger.is_clients()) {
                    return after(client.requested, settings.query_timeout, Limit::Query);
                }
                let alone =
                    far.is_none() && client.wait.is_none() && Self::status_of(client) != b'I';
                if alone || far.is_some_and(|far| far.status != b'I') {
                    let limit = settings.idle_transaction_timeout;
                    return after(client.idle_since, limit, Limit::IdleInTransaction);
                }
                after(client.idle_since, settings.client_idle_timeout, Limit::Idle)
            }
            Phase::Console(_) | Phase::Raw | Phase::Gone => None,
        }
    }

    fn client_due(&mut self, now: Instant, id: ConnId, at: Instant, actions: &mut Out) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if !Timers::woken(&mut client.scheduled, at) {
            return;
        }
        let Some(client) = self.clients.get(id) else { return };
        let Some((due, limit)) = self.limit_of(client) else { return };
        if due > now || client.wait.is_some() && matches!(limit, Limit::Idle) {
            if let Some(client) = self.clients.get_mut(id) {
                // Who waits for a server is not idle; whether it is later, is looked at later.
                let due = if due > now { due } else { now + TICK };
                self.timers.schedule(&mut client.scheduled, Owner::Conn(id), due);
            }
            return;
        }
        let (code, message) = match limit {
            Limit::Listening => return self.client_parted(now, id, CloseMode::Now, actions),
            // It looks again, and goes to the primary.
            Limit::Replica => return actions.push(Action::Resume(id)),
            Limit::Login if self.gated.contains(&id) => (sqlstate::CANNOT_CONNECT_NOW, UNDER_WAY),
            Limit::Login => (sqlstate::CANNOT_CONNECT_NOW, "login took too long"),
            Limit::Query => (sqlstate::QUERY_CANCELED, "canceling statement due to query_timeout"),
            Limit::IdleInTransaction => (
                sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle_transaction_timeout",
            ),
            Limit::Idle => (
                sqlstate::IDLE_SESSION_TIMEOUT,
                "terminating connection due to client_idle_timeout",
            ),
        };
        let silent = matches!(client.phase, Phase::Cancelling) || self.is_torn(id);
        if !silent && matches!(limit, Limit::Query) && self.may_have_lasted(id) {
            Self::say_unknown(id, message, "query_timeout was reached.", actions);
        } else if !silent {
            let text = ErrorText::fatal(code, message);
            Self::say(id, &ErrorText { hint: hint_for(code), ..text }, actions);
        }
        self.client_left(now, id, CloseMode::Flush, actions);
    }

    fn server_due(&mut self, now: Instant, id: ConnId, at: Instant, actions: &mut Out) {
        let Some(far) = self.servers.get_mut(id) else { return };
        let scheduled = match far {
            Far::Errand(errand) => &mut errand.scheduled,
            Far::Server(far) => &mut far.scheduled,
        };
        if !Timers::woken(scheduled, at) {
            return;
        }
        match far {
            Far::Errand(_) => self.errand_done(now, id, actions),
            Far::Server(far) => {
                if far.is_opening() {
                    let reason = "server_connect_timeout";
                    return self.server_lost(now, id, reason, actions);
                }
                let Some(limit) = far.cleaning.filter(|_| matches!(far.phase, ServerPhase::Busy))
                else {
                    return;
                };
                if limit <= now {
                    far.unfit = true;
                    return self.close_server(now, id, actions);
                }
                self.timers.schedule(&mut far.scheduled, Owner::Conn(id), limit);
            }
        }
    }
}
