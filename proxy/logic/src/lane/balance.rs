//! Which replica a read goes to, and what becomes of it where there is none.

use crate::action::Action;
use crate::config::{Database, Fallback};
use crate::id::ConnId;
use crate::lane::place::{must_show, primary};
use crate::lane::pool::Pool;
use crate::lane::wishes::NOWHERE;
use crate::lane::{Lane, Out};
use crate::mail::Mail;
use crate::route::{Load, Wish, choose, share};
use crate::time::{Duration, Instant};
use crate::topology::gate::Gate;
use crate::topology::{Lsn, Role, Standing, Topology};
use pgring_wire::backend::sqlstate;
use std::sync::Arc;

/// How many replicas one read chooses among.
const REPLICAS_MAX: usize = 16;

/// How often a lane says that reads wait for replicas.
const BEHIND: Duration = Duration::from_millis(100);

/// What there is for a read.
pub(super) enum Fit {
    /// The replica of this pool.
    Pool(usize),
    /// Replicas that have not replayed yet what it must show.
    Later,
    /// None that could be asked now: nobody knows yet what there is, or it is paused.
    Unknown,
    /// No replica at all.
    Nobody,
}

/// The replicas that a read may go to. A lane has one, for the memory of its lists.
#[derive(Debug, Default)]
pub(super) struct Choice {
    loads: Vec<Load>,
    replicas: Vec<Replica>,
    /// There are others that have not replayed enough.
    behind: bool,
    /// There are others that are paused.
    paused: bool,
    /// There are others that have no pool yet.
    new: bool,
}

/// One of them.
#[derive(Debug)]
struct Replica {
    pool: usize,
    near: bool,
    /// It does not come and go.
    steady: bool,
}

impl Choice {
    fn clear(&mut self) {
        self.loads.clear();
        self.replicas.clear();
        (self.behind, self.paused, self.new) = (false, false, false);
    }

    /// If one of those that could be chosen is better, the others cannot.
    fn prefer(&mut self, better: impl Fn(&Replica) -> bool) {
        let all = || self.loads.iter().zip(&self.replicas);
        if all().any(|(load, replica)| load.weight > 0 && better(replica)) {
            let others = self.loads.iter_mut().zip(&self.replicas);
            let others = others.filter(|(_, replica)| !better(replica));
            others.for_each(|(load, _)| load.weight = 0);
        }
    }
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// To the replica of this pool.
    Replica(usize),
    /// To the primary.
    Primary,
    /// Nowhere yet.
    Wait,
    /// Nowhere: its client has been told.
    Refused,
}

impl Lane {
    /// Where a read of this client goes.
    pub(super) fn place_of_read(
        &mut self,
        now: Instant,
        id: ConnId,
        home: usize,
        actions: &mut Out,
    ) -> Place {
        let fit = self.fit_for(now, id, home, None, actions);
        let routing = &self.pools[home].database.routing;
        let (limit, fallback) = (routing.read_wait_max, routing.fallback);
        let Some(client) = self.clients.get_mut(id) else { return Place::Primary };
        if matches!(fit, Fit::Later) && !limit.is_zero() {
            let since = *client.behind_since.get_or_insert(now);
            if now.since(since) < limit {
                self.behind.push(id);
                self.watch_client(id);
                return Place::Wait;
            }
        }
        match fit {
            Fit::Pool(pool) => Place::Replica(pool),
            Fit::Nobody if fallback == Fallback::Error => {
                let message = "no standby is fit for reads";
                self.fail_statement(now, id, sqlstate::CANNOT_CONNECT_NOW, message, actions);
                Place::Refused
            }
            Fit::Later | Fit::Unknown | Fit::Nobody => Place::Primary,
        }
    }

    /// What there is for a read of this client, but for one pool.
    pub(super) fn fit_for(
        &mut self,
        now: Instant,
        id: ConnId,
        home: usize,
        without: Option<usize>,
        actions: &mut Out,
    ) -> Fit {
        let Some((wish, comes)) = self.wish(id, home) else { return Fit::Unknown };
        let mut choice = core::mem::take(&mut self.choice);
        self.fill(now, home, (without, wish), &mut choice);
        if choice.new {
            self.make_replica_pools(home, wish);
            self.fill(now, home, (without, wish), &mut choice);
        }
        let (behind, paused) = (choice.behind, choice.paused);
        if behind && now.since(self.behind_told) >= BEHIND {
            self.behind_told = now;
            actions.push(Action::Tell(Box::new(Mail::Behind)));
        }
        // Where none comes and goes, and none is near, all are as good.
        choice.prefer(|replica| replica.steady);
        choice.prefer(|replica| replica.near);
        let chosen = choose(&choice.loads, &mut self.chance);
        let pool = chosen.map(|index| choice.replicas[index].pool);
        self.choice = choice;
        match pool {
            Some(pool) => Fit::Pool(pool),
            None if behind && comes => Fit::Later,
            None if behind || paused => Fit::Unknown,
            None => Fit::Nobody,
        }
    }

    /// What a read of this client asks of a replica, and whether that is waited for: what a session
    /// has been told and cannot be read, or come, is not. None where nobody knows what there is.
    fn wish(&mut self, id: ConnId, home: usize) -> Option<(Wish, bool)> {
        let database = &self.pools[home].database;
        let standings = self.topology.clusters.get(&*database.cluster.name)?;
        let told = self.wishes.of(&self.clients.get(id)?.state).lsn;
        let gate = gate(&self.topology, database);
        let comes = told < NOWHERE && primary(standings, gate).is_some();
        let client = self.clients.get_mut(id)?;
        let lsn = must_show(client, database, told, (standings, gate));
        let (lag_bytes_max, lag_max) =
            (database.routing.lag_bytes_max as u64, database.routing.lag_max);
        Some((Wish { lsn, lag_bytes_max, lag_max }, comes))
    }

    /// The replicas there are for a read that asks for this, but for one.
    fn fill(
        &self,
        now: Instant,
        home: usize,
        (without, wish): (Option<usize>, Wish),
        choice: &mut Choice,
    ) {
        choice.clear();
        let rank = &self.pools[home];
        let routing = &rank.database.routing;
        let gate = gate(&self.topology, &rank.database);
        let standings = self.topology.clusters.get(&*rank.database.cluster.name);
        for (node, standing) in standings.into_iter().flatten() {
            if choice.loads.len() == REPLICAS_MAX {
                break;
            }
            if !reads(standing) || gate.is_some_and(|gate| gate.hides(node)) {
                continue;
            }
            if !wish.is_granted_by(standing) {
                choice.behind |= Wish { lsn: Lsn(0), ..wish }.is_granted_by(standing);
                continue;
            }
            let Some(pool) = self.replica_pool(home, node) else {
                choice.new = true;
                continue;
            };
            let rank = &self.pools[pool];
            choice.paused |= rank.paused;
            if rank.retry_at.is_some_and(|at| now < at) || rank.paused || without == Some(pool) {
                continue;
            }
            let weight = share(standing.weight, now.since(standing.since), routing.slow_start);
            let weight = weight.div_ceil(standing.health.verdict.handicap());
            choice.loads.push(load(now, rank, weight));
            let near = !routing.zone.is_empty() && *standing.zone == *routing.zone;
            choice.replicas.push(Replica { pool, near, steady: !standing.health.damped });
        }
    }

    /// The configuration has changed: whoever waits begins anew.
    pub(super) fn forget_behind(&mut self, now: Instant, actions: &mut Out) {
        for &id in &self.behind {
            if let Some(client) = self.clients.get_mut(id) {
                client.behind_since = None;
            }
        }
        self.look_for_replicas(now, actions);
    }

    /// Nodes have moved: reads that wait for one of them look again.
    pub(super) fn look_for_replicas(&mut self, now: Instant, actions: &mut Out) {
        for id in core::mem::take(&mut self.behind) {
            self.look_again(now, id, actions);
        }
    }

    /// The pool of a replica's servers for the clients of `home`, if there is one.
    fn replica_pool(&self, home: usize, node: &str) -> Option<usize> {
        let mut known = self.pools[home].replicas.iter();
        let pool = known.find(|(name, _)| **name == *node).map(|(_, pool)| *pool)?;
        (!self.pools[pool].removed).then_some(pool)
    }

    /// Each replica that may be chosen has one from now on.
    #[cold]
    fn make_replica_pools(&mut self, home: usize, wish: Wish) {
        let database = Arc::clone(&self.pools[home].database);
        let topology = Arc::clone(&self.topology);
        let gate = gate(&topology, &database);
        for (node, standing) in topology.clusters.get(&*database.cluster.name).into_iter().flatten()
        {
            let fits = reads(standing) && wish.is_granted_by(standing);
            let hidden = gate.is_some_and(|gate| gate.hides(node));
            if !fits || hidden || self.replica_pool(home, node).is_some() {
                continue;
            }
            let key = self.pools[home].key.on(node);
            let pool = self.pool_by_key(&key, &database);
            let replicas = &mut self.pools[home].replicas;
            replicas.retain(|(name, _)| name != node);
            replicas.push((Arc::clone(node), pool));
        }
    }
}

/// The gate of a database's cluster, if it is one that fails over.
fn gate<'t>(topology: &'t Topology, database: &Database) -> Option<&'t Gate> {
    database.cluster.failover.as_ref()?;
    Some(topology.gate(&database.cluster.name))
}

/// Whether a node takes reads at all.
fn reads(standing: &Standing) -> bool {
    standing.role == Role::Standby && standing.weight > 0
}

fn load(now: Instant, rank: &Pool, weight: u32) -> Load {
    let idle = u32::try_from(rank.idle.len()).unwrap_or(u32::MAX);
    let busy = rank.held.saturating_sub(idle + rank.opening + rank.closing);
    Load { waiting: busy + rank.waiting_count, latency: rank.latency.get(now), weight }
}
