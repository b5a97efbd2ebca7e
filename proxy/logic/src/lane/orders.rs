//! Letters: from the control thread, and from other lanes.

use crate::action::Action;
use crate::config::{Config, Database};
use crate::id::{ConnId, PoolKey};
use crate::lane::client::Phase;
use crate::lane::nodes::Round;
use crate::lane::pool::Hungry;
use crate::lane::server::{Phase as ServerPhase, Server};
use crate::lane::{Lane, Out};
use crate::mail::{Mail, Order, Report};
use crate::time::Instant;
use crate::topology::Topology;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many statements one lane tells of.
const ROUTES_MAX: usize = 200;

/// Orders that are being carried out.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Orders whose end is awaited, by number.
    waiting: Vec<(u64, Order)>,
    draining: bool,
    /// Counts RECONNECT and new configurations. All lanes count alike, so a server that moves
    /// is as old on one lane as on another.
    pub(super) epoch: u64,
    paused: Paused,
}

/// The databases that are paused: some, or all but some.
#[derive(Debug, Default)]
struct Paused {
    all: bool,
    but: BTreeSet<String>,
}

impl Paused {
    fn set(&mut self, database: Option<&str>, paused: bool) {
        match database {
            None => (self.all, self.but) = (paused, BTreeSet::new()),
            Some(name) if paused == self.all => drop(self.but.remove(name)),
            Some(name) => drop(self.but.insert(name.to_owned())),
        }
    }
}

impl Orders {
    /// Whether no client may begin anything new.
    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether the pools of a database are paused, those that are made later as well.
    pub(super) fn is_paused(&self, database: &str) -> bool {
        self.paused.all != self.paused.but.contains(database)
    }
}

impl Lane {
    /// A letter has come.
    #[cold]
    pub(super) fn mail(&mut self, now: Instant, mail: Mail, actions: &mut Out) {
        match mail {
            Mail::Config(config) => self.configure(now, config, actions),
            Mail::Permit { pool, count } => self.permitted(now, &pool, count, actions),
            Mail::Hungry { pool, core, need, since } => {
                if let Some(&pool) = self.pools_by_key.get(&pool) {
                    let heard = Some(now);
                    self.hear_hungry(now, pool, Hungry { core, need, since, heard }, actions);
                }
            }
            Mail::Shrink { pool, count } => self.shrink(now, &pool, count, actions),
            Mail::Entered { conn, database, user, refused } => {
                self.entered(now, (conn, database, user), refused, actions);
            }
            Mail::Derived { conn, salted } => self.derived(conn, salted, actions),
            Mail::Answer { conn, bytes } => self.console_answered(conn, &bytes, actions),
            Mail::Ask(number) => {
                let report = Box::new(self.report(now, number));
                actions.push(Action::Tell(Box::new(Mail::Report(report))));
            }
            Mail::AskRoutes(number) => {
                let routes = self.verdicts.routes(ROUTES_MAX);
                let report = Box::new(Report { routes, ..self.report(now, number) });
                actions.push(Action::Tell(Box::new(Mail::Report(report))));
            }
            Mail::Order { number, order } => self.order(now, number, order, actions),
            Mail::Cancel { pid, secret, from } => self.cancel(now, pid, &secret, from, actions),
            Mail::Cancelled { conn } => self.cancelled(now, conn, actions),
            Mail::Base { pool, reported } => self.hear_base(now, &pool, reported, actions),
            Mail::Topology(topology) => self.hear_topology(now, topology, actions),
            Mail::Catalog { database, catalog } => self.hear_catalog(&database, catalog.as_ref()),
            Mail::Parcel(parcel) => {
                // Parcels come with a descriptor, through `adopt`.
                self.give_back_key(&parcel.pool, actions);
            }
            // So do clients, through `accept`.
            Mail::Client { .. }
            | Mail::Demand { .. }
            | Mail::Returned { .. }
            | Mail::Moved { .. }
            | Mail::Enter { .. }
            | Mail::Left { .. }
            | Mail::Derive { .. }
            | Mail::Console { .. }
            | Mail::Want { .. }
            | Mail::Behind
            | Mail::Report(_)
            | Mail::Done { .. } => {}
        }
    }

    fn give_back_key(&self, pool: &PoolKey, actions: &mut Out) {
        let mail = Mail::Returned { pool: pool.clone(), core: self.core, count: 1 };
        actions.push(Action::Tell(Box::new(mail)));
    }

    fn permitted(&mut self, now: Instant, key: &PoolKey, count: u32, actions: &mut Out) {
        let known = self.pools_by_key.get(key).copied();
        let database = self.config.database(&key.database).cloned();
        let pool = match (known, database) {
            (Some(pool), _) => pool,
            (None, Some(database)) => self.pool_by_key(key, &database),
            (None, None) => {
                let pool = key.clone();
                let mail = Mail::Returned { pool, core: self.core, count };
                return actions.push(Action::Tell(Box::new(mail)));
            }
        };
        self.pools[pool].permits += count;
        self.ask(now, pool, actions);
        self.watch_pool(now, pool);
    }

    fn shrink(&mut self, now: Instant, key: &PoolKey, count: u32, actions: &mut Out) {
        let Some(&pool) = self.pools_by_key.get(key) else { return };
        let unused = self.pools[pool].permits.min(count);
        if unused > 0 {
            self.pools[pool].permits -= unused;
            self.give_back(pool, unused, actions);
        }
        self.pools[pool].surplus += count - unused;
        while self.pools[pool].surplus > self.pools[pool].closing
            && let Some(&server) = self.pools[pool].idle.first()
        {
            self.close_server(now, server, actions);
        }
    }

    /// A new snapshot. Connections it does not concern notice nothing.
    fn configure(&mut self, now: Instant, config: Arc<Config>, actions: &mut Out) {
        self.orders.epoch += 1;
        self.config = config;
        let keys: Vec<(PoolKey, usize)> =
            self.pools_by_key.iter().map(|(key, pool)| (key.clone(), *pool)).collect();
        for (key, pool) in keys {
            let database = self.config.database(&key.database).cloned();
            let old = &self.pools[pool];
            let same_mode = |new: &Arc<Database>| new.pool.mode == old.settings.mode;
            let Some(database) = database.filter(same_mode) else {
                self.pools_by_key.remove(&key);
                self.retire(now, pool, actions);
                continue;
            };
            let login = self.login_of(&key.user, &database);
            let old = &self.pools[pool];
            let places = |database: &Database| {
                let nodes = database.cluster.nodes.iter();
                nodes.map(|node| (node.name.clone(), node.resolved.clone())).collect::<Vec<_>>()
            };
            let moved = old.database.dbname != database.dbname
                || old.database.cluster.name != database.cluster.name
                || places(&old.database) != places(&database);
            let stale = moved || login != old.login;
            let gate = self.stance(&key, &database.cluster);
            let epoch = self.orders.epoch;
            if moved {
                // What is known of a node is true of the place it was at.
                let gates = self.topology.gates.clone();
                self.topology = Arc::new(Topology { gates, ..Topology::default() });
            }
            let rank = &mut self.pools[pool];
            rank.settings = Arc::new(database.pool.clone());
            rank.database = database;
            rank.login = login;
            rank.gate = gate;
            if stale {
                rank.epoch = epoch;
                rank.base = None;
                rank.verified.clear();
                rank.round = Round::default();
                rank.retry_at = None;
                self.close_idle(now, pool, actions);
                self.close_opening(now, pool, actions);
            }
            if !self.is_routed(pool) {
                // Nobody keeps it up to date any more.
                self.pools[pool].catalog = None;
            }
            if self.pools[pool].clients > 0 {
                self.want_catalog(pool, actions);
            }
            self.ask(now, pool, actions);
            self.watch_pool(now, pool);
        }
        self.look_at_gates(now, actions);
        self.forget_behind(now, actions);
        self.forget_places(now);
        // A limit may have become shorter for whoever is idle already.
        for id in self.clients.ids() {
            self.watch_client(id);
        }
    }

    /// A pool whose database is gone: its clients go when they are between transactions.
    fn retire(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        self.pools[pool].removed = true;
        self.close_idle(now, pool, actions);
        for id in self.clients.ids() {
            let idle = self.clients.get(id).is_some_and(|client| {
                client.pool == Some(pool) && client.server.is_none() && !client.is_gone()
            });
            if idle {
                self.evict_client(now, id, actions);
            }
        }
    }

    fn close_idle(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        while let Some(&server) = self.pools[pool].idle.first() {
            self.close_server(now, server, actions);
        }
    }

    /// Servers that are being opened where, or as whom, nobody is to be any more.
    fn close_opening(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        for id in self.servers.ids() {
            let far = self.server_ref(id);
            if far.is_some_and(|far| far.pool == pool && far.counted && far.is_opening()) {
                self.close_server(now, id, actions);
            }
        }
    }

    fn order(&mut self, now: Instant, number: u64, order: Order, actions: &mut Out) {
        let mut error = None;
        match &order {
            Order::Pause(database) => {
                self.orders.paused.set(database.as_deref(), true);
                for pool in self.pools_named(database.as_deref()) {
                    self.pools[pool].paused = true;
                    self.close_idle(now, pool, actions);
                }
            }
            Order::Resume(database) => {
                self.orders.paused.set(database.as_deref(), false);
                self.end_pauses(actions);
                for pool in self.pools_named(database.as_deref()) {
                    self.pools[pool].paused = false;
                    self.serve(now, pool, actions);
                    self.ask(now, pool, actions);
                    self.watch_pool(now, pool);
                }
            }
            Order::Reconnect(database) => {
                self.orders.epoch += 1;
                for pool in self.pools_named(database.as_deref()) {
                    self.pools[pool].epoch = self.orders.epoch;
                    self.close_idle(now, pool, actions);
                }
            }
            Order::KillClient(client) => {
                if !self.kill(now, *client, actions) {
                    error = Some("no such client".to_owned());
                }
            }
            Order::DrainClients | Order::DrainServers => self.drain(now, actions),
            Order::Vacate(..) => {}
        }
        if order.lasts() {
            self.orders.waiting.push((number, order));
            return self.check_orders(actions);
        }
        let core = self.core;
        actions.push(Action::Tell(Box::new(Mail::Done { core, number, error })));
    }

    /// A pause that was not complete is over.
    fn end_pauses(&mut self, actions: &mut Out) {
        let core = self.core;
        self.orders.waiting.retain(|(number, order)| {
            let pause = matches!(order, Order::Pause(_));
            if pause {
                let mail = Mail::Done { core, number: *number, error: None };
                actions.push(Action::Tell(Box::new(mail)));
            }
            !pause
        });
    }

    fn pools_named(&self, database: Option<&str>) -> Vec<usize> {
        let named =
            |pool: &usize| database.is_none_or(|name| *self.pools[*pool].key.database == *name);
        self.pools_by_key.values().copied().filter(named).collect()
    }

    fn kill(&mut self, now: Instant, number: u64, actions: &mut Out) -> bool {
        let found = self.clients.iter().find(|(_, client)| client.number == number);
        let Some(id) = found.filter(|(_, client)| !client.is_gone()).map(|(id, _)| id) else {
            return false;
        };
        let text = ErrorText::fatal(
            sqlstate::ADMIN_SHUTDOWN,
            "terminating connection due to administrator command",
        );
        self.fatal(now, id, &text, actions);
        true
    }

    fn drain(&mut self, now: Instant, actions: &mut Out) {
        self.orders.draining = true;
        for id in self.clients.ids() {
            let idle = self.clients.get(id).is_some_and(|client| {
                client.server.is_none()
                    && !matches!(client.phase, Phase::Console(_) | Phase::Cancelling | Phase::Gone)
            });
            // Who was told that its transaction has begun may end it, as with a server.
            if idle && !self.is_deferred(id) {
                let text = ErrorText::fatal(sqlstate::ADMIN_SHUTDOWN, "pgring is shutting down");
                self.fatal(now, id, &text, actions);
            }
        }
    }

    /// Whether an order that lasts has been carried out.
    fn is_carried_out(&self, order: &Order) -> bool {
        match order {
            Order::Pause(database) => {
                let pools = self.pools_named(database.as_deref());
                pools.into_iter().all(|pool| self.pools[pool].held == 0)
            }
            Order::DrainClients => self
                .clients
                .iter()
                .all(|(_, client)| matches!(client.phase, Phase::Console(_) | Phase::Gone)),
            Order::DrainServers => {
                let busy = |far: &Server| matches!(far.phase, ServerPhase::Busy);
                // A transaction that no server knows of yet is one, too.
                self.servers.iter().all(|(_, far)| !far.server().is_some_and(busy))
                    && self
                        .clients
                        .iter()
                        .all(|(_, it)| it.is_gone() || Self::status_of(it) == b'I')
            }
            Order::Vacate(cluster, epoch) => self.is_vacated(cluster, *epoch),
            Order::Resume(_) | Order::Reconnect(_) | Order::KillClient(_) => true,
        }
    }

    /// Tells the control thread of orders that have been carried out.
    pub(super) fn check_orders(&mut self, actions: &mut Out) {
        if self.orders.waiting.is_empty() {
            return;
        }
        let waiting = core::mem::take(&mut self.orders.waiting);
        let core = self.core;
        for (number, order) in waiting {
            let error = self.is_overtaken(&order);
            if error.is_some() || self.is_carried_out(&order) {
                actions.push(Action::Tell(Box::new(Mail::Done { core, number, error })));
            } else {
                self.orders.waiting.push((number, order));
            }
        }
    }

    /// The same, when a client is gone for good.
    pub(super) fn check_drained(&mut self, actions: &mut Out) {
        self.check_orders(actions);
    }

    /// While draining, a client that has come to rest goes. Tells whether it does.
    pub(super) fn drained(&mut self, now: Instant, id: ConnId, actions: &mut Out) -> bool {
        if !self.orders.draining {
            return false;
        }
        let text = ErrorText::fatal(sqlstate::ADMIN_SHUTDOWN, "pgring is shutting down");
        self.fatal(now, id, &text, actions);
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::id::PoolKey;
    use crate::lane::trial::Trial;
    use crate::mail::{Event, Mail, Order};

    #[test]
    fn a_pool_made_during_a_pause_is_paused() {
        let mut trial = Trial::start("");
        let some = |name: &str| Some(name.to_owned());
        let stories: [(&[Order], [bool; 2]); 5] = [
            (&[Order::Pause(some("a"))], [true, false]),
            (&[Order::Pause(None)], [true, true]),
            (&[Order::Pause(None), Order::Resume(some("a"))], [false, true]),
            (&[Order::Pause(some("a")), Order::Resume(some("a"))], [false, false]),
            (&[Order::Pause(some("a")), Order::Pause(None), Order::Resume(None)], [false, false]),
        ];
        for (number, (orders, expected)) in (1..).zip(stories) {
            for order in orders {
                let order = order.clone();
                trial.happens(Event::Mail(Mail::Order { number, order }));
            }
            let paused = ["a", "b"].map(|name| {
                let user = format!("user {number}");
                let key = PoolKey::new(name, &user);
                let mut paused = false;
                trial.with_lane(|lane, _, _| {
                    let database = lane.config.database(name).cloned().expect("there is *");
                    let pool = lane.pool_by_key(&key, &database);
                    paused = lane.pools[pool].paused;
                });
                paused
            });
            assert_eq!(paused, expected, "{orders:?}");
            trial.happens(Event::Mail(Mail::Order { number, order: Order::Resume(None) }));
        }
    }
}
