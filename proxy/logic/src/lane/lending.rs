//! Servers between lanes: asking for them, giving them away, taking them in.
//!
//! A pool is one budget over all cores. A lane whose clients wait tells the control thread,
//! which grants permits while the budget has room and otherwise tells the other lanes who is
//! hungry; a lane with a server to spare sends it straight to the hungry one.

use crate::action::Action;
use crate::id::{ConnId, Side};
use crate::lane::gate::Pass;
use crate::lane::nodes::Place;
use crate::lane::pool::{Hungry, PATIENCE, REPEAT};
use crate::lane::server::{Far, Phase, Server};
use crate::lane::{Lane, Out};
use crate::ledger::Ledger;
use crate::mail::Mail;
use crate::parcel::Parcel;
use crate::prepared::ServerStatements;
use crate::time::Instant;
use crate::timers::Scheduled;
use std::sync::Arc;

impl Lane {
    /// Tells the control thread how many servers the queue could use, if it has not heard or
    /// something has changed. A lane that has servers waits a little: they come back soon.
    pub(super) fn tell_demand(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        let need = if self.pools[pool].paused { 0 } else { self.pools[pool].need() };
        let (told, when) = self.pools[pool].told;
        if need == 0 {
            if told == 0 {
                return;
            }
            return self.say_demand(now, pool, (0, now), actions);
        }
        let Some(since) = self.oldest(pool) else { return };
        let alone = self.pools[pool].held == 0;
        let patient = now.since(since) < PATIENCE && !alone;
        let said = told > 0 && now.since(when) < REPEAT && (told >= need || !alone);
        if !patient && !said {
            self.say_demand(now, pool, (need, since), actions);
        }
    }

    fn say_demand(
        &mut self,
        now: Instant,
        pool: usize,
        (need, since): (u32, Instant),
        actions: &mut Out,
    ) {
        self.pools[pool].told = (need, now);
        let (core, pool) = (self.core, self.pools[pool].key.clone());
        actions.push(Action::Tell(Box::new(Mail::Demand { core, pool, need, since })));
    }

    /// Another lane waits for servers of this pool, or no longer does.
    pub(super) fn hear_hungry(
        &mut self,
        now: Instant,
        pool: usize,
        hungry: Hungry,
        actions: &mut Out,
    ) {
        self.pools[pool].hear(hungry);
        self.serve(now, pool, actions);
    }

    /// Gives an idle server to another lane, if its client has been waiting for longer than
    /// `ours`, or nobody waits here. Tells whether it did.
    pub(super) fn lend(
        &mut self,
        now: Instant,
        pool: usize,
        ours: Option<ConnId>,
        actions: &mut Out,
    ) -> bool {
        let wait = ours.and_then(|id| self.clients.get(id)?.wait);
        let wait = wait.map(|wait| now.since(wait.since));
        let Some(hungry) = self.pools[pool].hungriest(now, wait) else { return false };
        let Some(server) = self.pools[pool].idle.first().copied() else { return false };
        let Some(far) = self.server_ref(server) else { return false };
        if far.expires <= now {
            // Too old to travel: its place in the budget goes instead.
            self.close_server(now, server, actions);
            return true;
        }
        self.pools[pool].remove_idle(server);
        self.pools[pool].fed(hungry.core);
        self.surrender(server, hungry, actions);
        true
    }

    fn surrender(&mut self, server: ConnId, hungry: Hungry, actions: &mut Out) {
        let core = self.core;
        let Some(Far::Server(far)) = self.servers.get_mut(server) else { return };
        let pool = far.pool;
        far.phase = Phase::Leaving;
        let (statements, statement_next) = far.statements.pack(&self.texts);
        for id in far.statements.clear() {
            self.texts.release(id);
        }
        let base = self.pools[pool].base.as_ref();
        let parcel = Parcel {
            base: base.map(|base| (**base).clone()).unwrap_or_default(),
            pool: self.pools[pool].key.clone(),
            from: core,
            touched: far.touched.is_some(),
            node: Arc::clone(&far.node),
            cluster: Arc::clone(&far.pass.cluster),
            gate: far.pass.epoch,
            pid: far.pid,
            secret: far.secret.clone(),
            opened: far.opened,
            expires: far.expires,
            address: far.address.clone(),
            state: (*far.state).clone(),
            reported: (*far.reported).clone(),
            startup: (*far.startup).clone(),
            statements,
            statement_next,
            epoch: far.epoch,
        };
        self.pools[pool].held -= 1;
        actions.push(Action::Surrender {
            conn: server,
            to: hungry.core,
            mail: Box::new(Mail::Parcel(Box::new(parcel))),
        });
    }

    /// Takes in a server from another lane.
    pub(super) fn adopt_server(
        &mut self,
        now: Instant,
        mut parcel: Parcel,
        actions: &mut Out,
    ) -> ConnId {
        let to = self.core;
        actions.push(Action::Tell(Box::new(Mail::Moved {
            pool: parcel.pool.clone(),
            from: parcel.from,
            to,
        })));
        let number = self.number();
        let known = self.pools_by_key.get(&parcel.pool).copied();
        let database = self.config.database(&parcel.pool.database).cloned();
        let pool = match (known, database) {
            (Some(pool), _) => Some(pool),
            (None, Some(database)) => Some(self.pool_by_key(&parcel.pool, &database)),
            (None, None) => None,
        };
        let base = core::mem::take(&mut parcel.base);
        let key = parcel.pool.clone();
        let server = self.unpack(now, number, pool.unwrap_or(0), parcel);
        let unwanted = server.epoch < pool.map_or(0, |pool| self.pools[pool].epoch);
        let id = self.servers.insert(|_| Far::Server(server));
        let Some(pool) = pool else {
            // Its database has been removed on its way: no pool, so nothing to count but the
            // connection itself, which goes, and its permit with it.
            let mail = Mail::Returned { pool: key, core: to, count: 1 };
            actions.push(Action::Tell(Box::new(mail)));
            if let Some(far) = self.server_mut(id) {
                far.counted = false;
                far.phase = Phase::Gone;
            }
            actions.push(Action::Close { conn: id, mode: crate::action::CloseMode::Now });
            return id;
        };
        if self.pools[pool].base.is_none() && !base.is_empty() {
            self.pools[pool].base = Some(self.states.intern(base));
        }
        self.pools[pool].held += 1;
        self.pools[pool].idle.push(id);
        if self.is_late(now, id, actions) {
            return id;
        }
        let rank = &self.pools[pool];
        if unwanted || rank.removed || rank.is_held() || rank.promoted {
            self.close_server(now, id, actions);
        } else {
            self.serve(now, pool, actions);
            self.tell_demand(now, pool, actions);
        }
        id
    }

    fn unpack(&mut self, now: Instant, number: u64, pool: usize, parcel: Parcel) -> Server {
        let statements = ServerStatements::unpack(
            parcel.statements,
            parcel.statement_next,
            &mut self.texts,
            |body| crate::hints::scan(text_of(body)),
        );
        let writes = parcel.pool.node.is_none();
        let pass = Pass { cluster: parcel.cluster, writes, epoch: parcel.gate };
        let touched = parcel.touched.then(|| ConnId::new(Side::Server, 0, 0));
        Server {
            number,
            phase: Phase::Idle,
            pool,
            counted: true,
            node: parcel.node,
            pass,
            place: Place::default(),
            step: 0,
            address: parcel.address,
            client: None,
            ledger: Ledger::default(),
            status: b'I',
            left: 0,
            forward: false,
            pid: parcel.pid,
            secret: parcel.secret,
            opened: parcel.opened,
            expires: parcel.expires,
            used: now,
            epoch: parcel.epoch,
            state: self.states.intern(parcel.state),
            reported: self.states.intern(parcel.reported),
            startup: self.states.intern(parcel.startup),
            statements,
            parsing: Vec::new(),
            unclosed: Vec::new(),
            // Whatever its last client left there.
            unnamed: Some((ConnId::new(Side::Server, 0, 0), 0)),
            unnamed_segment: 0,
            beginning: false,
            cancels: 0,
            cancel_later: None,
            inspected: None,
            hides: 0,
            touched,
            dirty: false,
            unseen: false,
            unfit: false,
            begun: None,
            dying: false,
            parted: false,
            error: None,
            cleaning: None,
            scheduled: Scheduled::default(),
        }
    }
}

/// The text in the body of a Parse message, behind the name.
pub(super) fn text_of(body: &[u8]) -> &[u8] {
    let end = body.iter().position(|&byte| byte == 0).unwrap_or(body.len());
    &body[..end]
}
