//! Who may be written to, in a cluster whose primary pgring decides on: what its [`Gate`] means to
//! the connections of this lane.
//!
//! ```text
//!   open (pg1, epoch 7) --> drain (8) --> shut (8) --> open (pg2, 9)
//!          |                  |            |
//!          +------------------+----------->+   and back, when it is called off
//! ```
//!
//! Three things are always true:
//!
//! 1. A connection to a primary is opened for the node that the gate is open to, and keeps the
//!    epoch of that moment. It is used in that epoch only, by whatever lane has it.
//! 2. When the gate is shut, all of them end at once, with whatever runs there; a drain ends those
//!    on which nothing runs, and the others live to see the next epoch.
//! 3. A node in quarantine has no connection at all.
//!
//! Clients without a server notice nothing but that they wait. That all connections are gone, down
//! to the last byte under way, is told in answer to [`Order::Vacate`].

use crate::action::{Action, CloseMode};
use crate::config::Cluster;
use crate::id::{ConnId, PoolKey};
use crate::lane::client::{Client, Phase as ClientPhase};
use crate::lane::nodes::Round;
use crate::lane::server::{Far, Phase, Server};
use crate::lane::{Lane, Out};
use crate::mail::Order;
use crate::time::Instant;
use crate::topology::gate::{Gate, Writes};
use crate::topology::{Standings, Topology};
use std::sync::Arc;

/// What clients are told that wait for a primary for too long.
pub(super) const UNDER_WAY: &str = "a failover is under way";

/// What a connection was let through with.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    pub(super) cluster: Arc<str>,
    /// It goes to a primary, as such.
    pub(super) writes: bool,
    /// The epoch of the gate; none: the cluster had none.
    pub(super) epoch: Option<u64>,
}

/// What a gate means to a pool. Where there is none, nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Stance {
    /// No server is opened or granted.
    pub(super) shut: bool,
    /// The one node where servers are opened.
    pub(super) only: Option<Arc<str>>,
}

/// What becomes of a connection at a gate that has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Stays,
    /// Nothing runs there, so it goes, politely.
    Parts,
    Ends,
}

impl Lane {
    /// Whether pgring decides on the primary of a cluster.
    fn is_managed(&self, cluster: &str) -> bool {
        let mut clusters = self.config.clusters.iter();
        clusters.any(|it| it.name == cluster && it.failover.is_some())
    }

    /// What the gate of a cluster means to a pool.
    pub(super) fn stance(&self, key: &PoolKey, cluster: &Cluster) -> Stance {
        if cluster.failover.is_none() {
            return Stance::default();
        }
        let gate = self.topology.gate(&cluster.name);
        if let Some(node) = &key.node {
            return Stance { shut: gate.quarantine.contains(node), only: None };
        }
        let known = |name: &&Arc<str>| cluster.nodes.iter().any(|node| *node.name == ***name);
        let only = gate.primary().filter(known).cloned();
        Stance { shut: only.is_none(), only }
    }

    /// Whether a node is the one that may be written to, so that nobody is to read it as a replica.
    pub(super) fn opens_to(&self, cluster: &Cluster, node: &str) -> bool {
        cluster.failover.is_some() && self.topology.gate(&cluster.name).opens_to(node)
    }

    /// What a connection of a pool that is opened now is let through with.
    pub(super) fn pass_of(&self, pool: usize) -> Pass {
        let rank = &self.pools[pool];
        let cluster = &rank.database.cluster;
        let epoch = cluster.failover.as_ref().map(|_| self.topology.gate(&cluster.name).epoch);
        Pass { cluster: Arc::from(&*cluster.name), writes: rank.key.node.is_none(), epoch }
    }

    /// Whether a connection to a node may be used under the gate as it is now.
    pub(super) fn is_let_through(&self, pass: &Pass, node: &str) -> bool {
        if !self.is_managed(&pass.cluster) {
            return true;
        }
        let gate = self.topology.gate(&pass.cluster);
        if !pass.writes {
            return !gate.quarantine.contains(node);
        }
        gate.opens_to(node) && pass.epoch == Some(gate.epoch)
    }

    /// The gates have been heard of anew.
    pub(super) fn hear_gates(&mut self, now: Instant, before: &Topology, actions: &mut Out) {
        let (config, topology) = (Arc::clone(&self.config), Arc::clone(&self.topology));
        for cluster in config.clusters.iter().filter(|it| it.failover.is_some()) {
            let old = before.gate(&cluster.name);
            if old != topology.gate(&cluster.name) {
                self.pass_gate(now, &cluster.name, old, actions);
            }
        }
        self.retry_gated(now, actions);
        self.check_orders(actions);
    }

    /// The configuration has changed, and with it perhaps whose gates count.
    pub(super) fn look_at_gates(&mut self, now: Instant, actions: &mut Out) {
        let (config, topology) = (Arc::clone(&self.config), Arc::clone(&self.topology));
        for id in self.servers.ids() {
            let Some(Far::Server(far)) = self.servers.get_mut(id) else { continue };
            if !config.clusters.iter().any(|it| *it.name == *far.pass.cluster) {
                // It has another name now, or none: what its pool is in answers for it.
                let cluster = Arc::from(&*self.pools[far.pool].database.cluster.name);
                far.pass = Pass { cluster, epoch: None, ..far.pass };
            }
        }
        for cluster in config.clusters.iter().filter(|it| it.failover.is_some()) {
            self.pass_gate(now, &cluster.name, topology.gate(&cluster.name), actions);
        }
        self.retry_gated(now, actions);
        self.check_orders(actions);
    }

    /// A gate is not what it was: connections that it lets through no more end, and who waits is
    /// served by those that it does.
    fn pass_gate(&mut self, now: Instant, name: &str, old: &Gate, actions: &mut Out) {
        let topology = Arc::clone(&self.topology);
        let gate = topology.gate(name);
        let pools: Vec<usize> = (0..self.pools.len())
            .filter(|pool| self.pools[*pool].database.cluster.name == name)
            .collect();
        for &pool in &pools {
            let rank = &self.pools[pool];
            let (key, cluster) = (rank.key.clone(), Arc::clone(&rank.database.cluster));
            self.pools[pool].gate = self.stance(&key, &cluster);
        }
        // A server that rests when a cancel request is done would be given away.
        for errands in [false, true] {
            for id in self.servers.ids() {
                self.meet(now, id, (name, old, errands), actions);
            }
        }
        let opens = matches!(gate.writes, Writes::Open(_));
        let anew = opens && (gate.epoch, &gate.writes) != (old.epoch, &old.writes);
        for pool in pools {
            let rank = &mut self.pools[pool];
            if rank.key.node.is_some() {
                if rank.gate.shut && rank.waiting_count > 0 {
                    self.fall_back(now, pool, actions);
                }
                continue;
            }
            if anew {
                rank.retry_at = None;
                rank.round = Round::default();
                rank.last_error = None;
                self.serve(now, pool, actions);
            }
            self.ask(now, pool, actions);
            self.watch_pool(now, pool);
        }
    }

    /// A connection meets a gate that was `old` before.
    fn meet(
        &mut self,
        now: Instant,
        id: ConnId,
        (name, old, errands): (&str, &Gate, bool),
        actions: &mut Out,
    ) {
        let topology = Arc::clone(&self.topology);
        let gate = topology.gate(name);
        let goes_on = goes_on(old, gate);
        match self.servers.get_mut(id) {
            Some(Far::Server(far)) if !errands && *far.pass.cluster == *name => {
                match fate(far, gate, goes_on.then_some(old.epoch)) {
                    Fate::Stays if far.pass.writes => far.pass.epoch = Some(gate.epoch),
                    Fate::Stays => {}
                    Fate::Parts => self.close_server(now, id, actions),
                    Fate::Ends => self.end_at_gate(now, id, gate, actions),
                }
            }
            Some(Far::Errand(errand)) if errands && *errand.pass.cluster == *name => {
                let open = match &gate.writes {
                    Writes::Open(open) => goes_on && *open == errand.node,
                    Writes::Drain => goes_on,
                    Writes::Shut => false,
                };
                let ends = gate.quarantine.contains(&errand.node) || errand.pass.writes && !open;
                if ends {
                    self.errand_done(now, id, actions);
                }
            }
            Some(Far::Server(_) | Far::Errand(_)) | None => {}
        }
    }

    /// Ends a connection that a gate does not let through. A client that has not been greeted yet
    /// waits for another one.
    pub(super) fn end_at_gate(&mut self, now: Instant, id: ConnId, gate: &Gate, actions: &mut Out) {
        let Some(far) = self.server_mut(id) else { return };
        match far.phase {
            // It has been told goodbye; whether that arrives does not matter any more.
            Phase::Gone => return actions.push(Action::Close { conn: id, mode: CloseMode::Now }),
            Phase::Leaving => return,
            Phase::Connecting
            | Phase::Auth(_)
            | Phase::Greeting
            | Phase::Asked
            | Phase::Idle
            | Phase::Busy
            | Phase::Raw => {}
        }
        let (client, opening, counted) = (far.client, far.is_opening(), far.counted);
        let welcoming = |it: &Client| matches!(it.phase, ClientPhase::Welcoming);
        let waits = |id: &ConnId| self.clients.get(*id).is_some_and(welcoming);
        let Some(client) = client.filter(waits) else {
            if opening {
                return self.close_server(now, id, actions);
            }
            let far = self.server_ref(id);
            let reason = far.map_or_else(String::new, |far| reason(far, gate));
            return self.server_lost(now, id, &reason, actions);
        };
        if let Some(far) = self.server_mut(id) {
            far.client = None;
        }
        if let Some(client) = self.clients.get_mut(client) {
            client.server = None;
            client.transaction_since = None;
        }
        self.close_server(now, id, actions);
        if counted {
            self.wait_for_server(now, client, actions);
        } else {
            self.gated.push(client);
        }
    }

    /// A server has logged in, or come from another lane. Its gate may not let it through any
    /// more: tells whether it has ended.
    pub(super) fn is_late(&mut self, now: Instant, id: ConnId, actions: &mut Out) -> bool {
        let Some(far) = self.server_ref(id) else { return true };
        if self.is_let_through(&far.pass, &far.node) {
            return false;
        }
        let (topology, cluster) = (Arc::clone(&self.topology), Arc::clone(&far.pass.cluster));
        self.end_at_gate(now, id, topology.gate(&cluster), actions);
        true
    }

    /// Replication clients for whom no server could be opened try again.
    fn retry_gated(&mut self, now: Instant, actions: &mut Out) {
        for id in core::mem::take(&mut self.gated) {
            let waits =
                |it: &Client| matches!(it.phase, ClientPhase::Welcoming) && it.server.is_none();
            if self.clients.get(id).is_some_and(waits) {
                self.welcome(now, id, actions);
            }
        }
    }

    /// Nodes that were down serve again: who waits for one does not wait for its next attempt.
    pub(super) fn hear_recoveries(&mut self, now: Instant, before: &Topology, actions: &mut Out) {
        let topology = Arc::clone(&self.topology);
        for (cluster, standings) in &topology.clusters {
            let Some(old) = before.clusters.get(cluster) else { continue };
            let back = |node: &str| recovers(old, standings, node);
            if !standings.keys().any(|node| back(node)) {
                continue;
            }
            for pool in 0..self.pools.len() {
                let rank = &mut self.pools[pool];
                let only = rank.gate.only.as_deref();
                let concerned = rank.key.node.is_none()
                    && *rank.database.cluster.name == **cluster
                    && only.is_none_or(back);
                if concerned && rank.retry_at.take().is_some() {
                    self.ask(now, pool, actions);
                    self.watch_pool(now, pool);
                }
            }
        }
    }

    /// Why an order to vacate will not be carried out.
    pub(super) fn is_overtaken(&self, order: &Order) -> Option<String> {
        let Order::Vacate(cluster, epoch) = order else { return None };
        if !self.is_managed(cluster) {
            return Some(format!("the primary of cluster {cluster} is not decided on here"));
        }
        let gate = self.topology.gate(cluster);
        let open = matches!(gate.writes, Writes::Open(_)) && gate.epoch > *epoch;
        open.then(|| format!("cluster {cluster} has been opened again, in epoch {}", gate.epoch))
    }

    /// Whether no connection to a cluster's primary is left, those included that are closing, and
    /// none can come: the gate is shut since this epoch, or was never heard of.
    pub(super) fn is_vacated(&self, cluster: &str, epoch: u64) -> bool {
        let shut = self
            .topology
            .gates
            .get(cluster)
            .is_none_or(|gate| gate.epoch >= epoch && !matches!(gate.writes, Writes::Open(_)));
        let left = |far: &Far| {
            let pass = match far {
                Far::Server(far) => &far.pass,
                Far::Errand(errand) => &errand.pass,
            };
            pass.writes && *pass.cluster == *cluster
        };
        shut && !self.servers.iter().any(|(_, far)| left(far))
    }
}

/// Whether what was opened before a gate changed may be used behind it. A gate that was shut in
/// between, unheard, has counted on.
fn goes_on(old: &Gate, new: &Gate) -> bool {
    let steps = new.epoch.checked_sub(old.epoch);
    match (&old.writes, &new.writes) {
        (Writes::Open(before), Writes::Open(now)) => before == now && steps == Some(0),
        (Writes::Drain, Writes::Drain) => steps == Some(0),
        (Writes::Open(_), Writes::Drain) | (Writes::Drain, Writes::Open(_)) => {
            steps.is_some_and(|steps| steps <= 1)
        }
        (Writes::Shut, _) | (_, Writes::Shut) => false,
    }
}

/// What becomes of a server; `epoch`: of those that may go on.
fn fate(far: &Server, gate: &Gate, epoch: Option<u64>) -> Fate {
    if gate.quarantine.contains(&far.node) {
        return Fate::Ends;
    }
    if !far.pass.writes {
        return Fate::Stays;
    }
    let goes_on = epoch.is_some() && far.pass.epoch == epoch;
    let idle = matches!(far.phase, Phase::Idle);
    match &gate.writes {
        Writes::Open(node) if goes_on && *node == far.node => Fate::Stays,
        Writes::Drain if goes_on && idle => Fate::Parts,
        // It would be of no use to anybody.
        Writes::Drain if goes_on && far.is_opening() => Fate::Ends,
        Writes::Drain if goes_on => Fate::Stays,
        Writes::Open(_) | Writes::Drain | Writes::Shut => Fate::Ends,
    }
}

/// What clients are told of the end of a connection.
fn reason(far: &Server, gate: &Gate) -> String {
    if far.pass.writes {
        format!("node {} is not written to any more (epoch {})", far.node, gate.epoch)
    } else {
        format!("node {} is in quarantine (epoch {})", far.node, gate.epoch)
    }
}

/// Whether a node serves that did not.
fn recovers(before: &Standings, now: &Standings, node: &str) -> bool {
    let serves = |standings: &Standings| Some(standings.get(node)?.health.verdict.serves());
    serves(before) == Some(false) && serves(now) == Some(true)
}

#[cfg(test)]
mod tests;
