//! Which client gets which server, and when another server is opened.

use crate::action::{Action, Level};
use crate::id::ConnId;
use crate::lane::client::{Phase as ClientPhase, Wait};
use crate::lane::readonly::NONE_FIT;
use crate::lane::server::{Phase, purpose};
use crate::lane::{Lane, Out};
use crate::ledger::{Expect, Origin};
use crate::mail::Mail;
use crate::state::replay;
use crate::time::Instant;
use crate::timers::Owner;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;
use pgring_wire::client::write;
use std::sync::Arc;

impl Lane {
    /// A client needs a server: it gets one now, or waits. Tells whether it has one.
    pub(super) fn checkout(&mut self, now: Instant, id: ConnId, actions: &mut Out) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        if client.server.is_some() {
            return true;
        }
        let Some(pool) = client.pool.filter(|_| client.wait.is_none()) else { return false };
        if self.strays(id) {
            self.wait_for_server(now, id, actions);
            return false;
        }
        let free = self.pools[pool].waiting_count == 0 && !self.pools[pool].is_held();
        if free && let Some(server) = self.idle_for(now, pool, id, actions) {
            self.attach(now, id, server, actions);
            return true;
        }
        self.wait_for_server(now, id, actions);
        self.clients.get(id).is_some_and(|client| client.server.is_some())
    }

    /// An idle server for a client. Invariants I2 and I8: a server changes hands only when nothing
    /// of anybody is on it, and within its pool.
    fn idle_for(
        &mut self,
        now: Instant,
        pool: usize,
        id: ConnId,
        actions: &mut Out,
    ) -> Option<ConnId> {
        loop {
            let server = self.pick(pool, id)?;
            let far = self.server_ref(server);
            if far.is_some_and(|far| far.is_clean() && far.client.is_none() && far.pool == pool) {
                return Some(server);
            }
            self.breaks(
                now,
                server,
                "a server that is not free was about to be given away",
                actions,
            );
        }
    }

    /// Our own fault: an invariant does not hold. It costs this server and nothing else.
    #[cold]
    fn breaks(&mut self, now: Instant, server: ConnId, reason: &str, actions: &mut Out) {
        self.broken += 1;
        actions.note(Level::Error, format!("a bug of pgring: {reason}"));
        self.server_lost(now, server, reason, actions);
    }

    /// An idle server that suits a client: in session mode opened with its startup parameters,
    /// else preferably one that has its session parameters.
    fn pick(&mut self, pool: usize, id: ConnId) -> Option<ConnId> {
        let client = self.clients.get(id)?;
        let session = self.is_session_mode(pool);
        let servers = &self.servers;
        let suits = |server: ConnId| {
            let Some(far) = servers.get(server).and_then(|far| far.server()) else { return false };
            if session {
                Arc::ptr_eq(&far.startup, &client.startup)
            } else {
                Arc::ptr_eq(&far.state, &client.state)
            }
        };
        if !session {
            return self.pools[pool].take_idle(suits);
        }
        let found = self.pools[pool].idle.iter().copied().rev().find(|&server| suits(server))?;
        self.pools[pool].remove_idle(found);
        Some(found)
    }

    /// Puts a client into the queue of its pool.
    pub(super) fn wait_for_server(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let (Some(pool), None) = (client.pool, client.wait) else { return };
        if self.orders.is_draining() && !self.is_leading(id) {
            let text = ErrorText::fatal(sqlstate::ADMIN_SHUTDOWN, "pgring is shutting down");
            return self.fatal(now, id, &text, actions);
        }
        if self.strays(id) {
            self.broken += 1;
            let reason = "a client for reads only was about to go to the primary";
            actions.note(Level::Error, format!("a bug of pgring: {reason}"));
            return self.refuse(now, id, sqlstate::CANNOT_CONNECT_NOW, NONE_FIT, actions);
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        let settings = Arc::clone(&self.pools[pool].settings);
        if self.pools[pool].waiting_count as usize >= settings.waiting_max {
            let message = format!("{} clients wait for a server already", settings.waiting_max);
            return self.refuse(now, id, sqlstate::TOO_MANY_CONNECTIONS, &message, actions);
        }
        if self.pools[pool].removed {
            let message = "the database has been removed from the configuration";
            return self.refuse(now, id, sqlstate::ADMIN_SHUTDOWN, message, actions);
        }
        self.tickets += 1;
        client.wait = Some(Wait { since: now, ticket: self.tickets });
        self.pools[pool].queue(id, self.tickets);
        // A client that waits for its greeting comes here without having looked for a server.
        self.serve(now, pool, actions);
        self.ask(now, pool, actions);
        self.watch_pool(now, pool);
    }

    /// Gives `server` to `id`.
    pub(super) fn attach(&mut self, now: Instant, id: ConnId, server: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(pool) = client.pool else { return };
        let waited = client.wait.take().map(|wait| now.since(wait.since));
        client.server = Some(server);
        client.transaction_since = Some(now);
        let state = Arc::clone(&client.state);
        self.pools[pool].stats.assignments += 1;
        let greeted = matches!(client.phase, ClientPhase::Ready);
        if let Some(waited) = waited {
            let counters = &mut self.pools[pool].stats;
            counters.wait_us += u64::try_from(waited.as_micros()).unwrap_or(0);
            counters.wait_times.observe(waited);
        }
        let session = self.is_session_mode(pool);
        if greeted
            && !session
            && let Some(client) = self.clients.get_mut(id)
        {
            client.grants = client.grants.saturating_add(1);
        }
        let Some(far) = self.server_mut(server) else { return };
        far.phase = Phase::Busy;
        far.client = Some(id);
        far.error = None;
        far.hides = 0;
        far.used = now;
        let hidden = far.touched.is_some_and(|other| other != id);
        let differs = hidden || !Arc::ptr_eq(&far.state, &state);
        if greeted && !session && differs {
            self.replay(id, server, purpose::REPLAY, actions);
        }
        self.begin_led(id, server, actions);
        self.say_again(now, id, server, actions);
    }

    /// Gives a server its client's session parameters.
    pub(super) fn replay(&mut self, id: ConnId, server: ConnId, why: u32, actions: &mut Out) {
        let Some(client) = self.clients.get(id) else { return };
        let state = Arc::clone(&client.state);
        let Some(far) = self.server_mut(server) else { return };
        let hidden = far.touched.is_some_and(|other| other != id);
        let sql = replay(&far.state, &state, hidden).unwrap_or_else(|| "SELECT 1".to_owned());
        if hidden {
            far.touched = None;
        }
        far.state = state;
        let pool = far.pool;
        self.own_query(server, &sql, why, actions);
        self.pools[pool].stats.replays += 1;
    }

    /// Sends a query of pgring's own.
    pub(super) fn own_query(&mut self, server: ConnId, sql: &str, why: u32, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        far.ledger.push(Expect::Query, Origin::Own, why);
        far.unnamed = None;
        actions.write(server, |out| write::query(out, sql));
    }

    /// A server is free: it goes to whoever waited longest, here or on another lane, or into the
    /// rank.
    pub(super) fn free(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        if !far.is_clean() {
            let reason = "a server that is not clean was about to go back to its pool";
            return self.breaks(now, server, reason, actions);
        }
        far.client = None;
        far.phase = Phase::Idle;
        far.used = now;
        far.cleaning = None;
        far.statements.settle();
        let (pool, expired, epoch) = (far.pool, far.expires <= now, far.epoch);
        let rank = &mut self.pools[pool];
        if rank.surplus > rank.closing {
            return self.close_server(now, server, actions);
        }
        if expired || epoch < rank.epoch || rank.removed || rank.is_held() {
            self.close_server(now, server, actions);
            return self.check_orders(actions);
        }
        rank.idle.push(server);
        self.serve(now, pool, actions);
        self.check_orders(actions);
    }

    /// Brings idle servers and waiting clients together, oldest client first.
    pub(super) fn serve(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        if self.pools[pool].is_held() || self.pools[pool].serving {
            return;
        }
        self.pools[pool].serving = true;
        while !self.pools[pool].idle.is_empty() {
            let next = self.next_waiter(pool);
            if self.lend(now, pool, next, actions) {
                continue;
            }
            let Some(id) = next else { break };
            let Some(server) = self.idle_for(now, pool, id, actions) else {
                self.make_room(now, pool, actions);
                break;
            };
            self.pools[pool].take(id);
            self.attach(now, id, server, actions);
            if self.clients.get(id).is_some_and(|c| matches!(c.phase, ClientPhase::Welcoming)) {
                self.granted_welcome(now, id, server, actions);
            } else {
                actions.push(Action::Resume(id));
            }
        }
        self.pools[pool].serving = false;
        if self.pools[pool].told.0 > 0 && self.pools[pool].need() == 0 {
            self.tell_demand(now, pool, actions);
        }
        self.watch_pool(now, pool);
    }

    /// The client at the head of the queue; in session mode the first that an idle server suits.
    pub(super) fn next_waiter(&mut self, pool: usize) -> Option<ConnId> {
        let clients = &self.clients;
        let waits = |id: ConnId, ticket: u64| {
            let wait = clients.get(id).and_then(|client| client.wait);
            wait.is_some_and(|wait| wait.ticket == ticket)
        };
        let first = self.pools[pool].first(waits)?;
        if !self.is_session_mode(pool) {
            return Some(first);
        }
        let opened_with =
            |server: &ConnId| self.server_ref(*server).map(|far| Arc::as_ptr(&far.startup));
        let idle: Vec<_> = self.pools[pool].idle.iter().filter_map(opened_with).collect();
        let suited = self.pools[pool].queued().find(|&(id, ticket)| {
            waits(id, ticket)
                && self.clients.get(id).is_some_and(|c| idle.contains(&Arc::as_ptr(&c.startup)))
        });
        suited.map(|(id, _)| id).or(Some(first))
    }

    /// Session mode: idle servers that suit nobody who waits make room for one that does.
    #[cold]
    fn make_room(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        let rank = &mut self.pools[pool];
        if rank.need() > 0
            && let Some(server) = rank.idle.first().copied()
        {
            self.close_server(now, server, actions);
        }
    }

    /// Opens servers for those who wait, as far as there are permits, and tells the control
    /// thread how many more could be used.
    pub(super) fn ask(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        let rank = &self.pools[pool];
        let barred = rank.is_held() || rank.removed || rank.retry_at.is_some_and(|at| now < at);
        let mut wanted = rank.waiting_count.saturating_sub(rank.opening);
        let floor = u32::try_from(self.least(pool)).unwrap_or(0);
        wanted = wanted.max(floor.saturating_sub(rank.held));
        for _ in 0..wanted.min(rank.permits) {
            if barred {
                break;
            }
            self.pools[pool].permits -= 1;
            self.open_server(now, pool, actions);
        }
        let rank = &self.pools[pool];
        if rank.waiting_count == 0 && rank.permits > 0 {
            let count = rank.permits;
            self.pools[pool].permits = 0;
            self.give_back(pool, count, actions);
        }
        self.tell_demand(now, pool, actions);
    }

    /// Permits go back to the control thread.
    #[cold]
    pub(super) fn give_back(&mut self, pool: usize, count: u32, actions: &mut Out) {
        let (core, key) = (self.core, self.pools[pool].key.clone());
        let mail = Mail::Returned { pool: key, core, count };
        actions.push(Action::Tell(Box::new(mail)));
    }

    /// Makes sure the pool is looked at when its oldest client has waited for long enough.
    pub(super) fn watch_pool(&mut self, now: Instant, pool: usize) {
        // It is within `PATIENCE`, and whoever is at the head now came after the one it was for.
        if self.pools[pool].scheduled.is_pending() {
            return;
        }
        let Some(at) = self.pool_deadline(now, pool) else { return };
        self.timers.schedule(&mut self.pools[pool].scheduled, Owner::Pool(pool), at);
    }

    /// Since when the client at the head of the queue has been waiting.
    pub(super) fn oldest(&mut self, pool: usize) -> Option<Instant> {
        let clients = &self.clients;
        let first = self.pools[pool].first(|id, ticket| {
            let wait = clients.get(id).and_then(|client| client.wait);
            wait.is_some_and(|wait| wait.ticket == ticket)
        })?;
        self.clients.get(first).and_then(|client| client.wait).map(|wait| wait.since)
    }

    /// A client that waits, or was about to, is told that it will get no server. One that has
    /// been greeted stays: its statement has failed.
    #[cold]
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        id: ConnId,
        code: &str,
        message: &str,
        actions: &mut Out,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(pool) = client.pool else { return };
        if client.wait.take().is_some() {
            self.pools[pool].unqueue();
        }
        if !matches!(client.phase, ClientPhase::Ready) {
            return self.refuse_welcome(now, id, code, message, actions);
        }
        if self.refuse_moving(now, id, (code, message), actions) {
            return actions.push(Action::Resume(id));
        }
        self.fail_statement(now, id, code, message, actions);
        actions.push(Action::Resume(id));
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{Trial, query};

    #[test]
    fn a_broken_invariant_costs_its_server_and_nobody_else() {
        let mut trial = Trial::start("");
        let server = trial.server;
        trial.with_lane(|lane, _, _| lane.server_mut(server).expect("it").status = b'T');
        trial.client_says(&query("SELECT 1"));
        assert_eq!((trial.lane.broken(), trial.lane.idle_servers()), (1, 0));
        assert!(trial.closes(server), "another's transaction is open on it");
        assert_eq!(trial.forwards_to(server), 0);
        assert!(trial.said_to(trial.client).is_empty(), "it waits for another server");
    }
}
