//! Which replica a read goes to, and what becomes of it where there is none.

use crate::action::Action;
use crate::config::Fallback;
use crate::id::ConnId;
use crate::lane::place::{NOWHERE, primary};
use crate::lane::pool::Pool;
use crate::lane::{Lane, Out};
use crate::mail::Mail;
use crate::route::{Load, Wish, choose, share};
use crate::time::{Duration, Instant};
use crate::topology::{Lsn, Role};
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
        let database = Arc::clone(&self.pools[home].database);
        let routing = &database.routing;
        let (lag_bytes_max, lag_max) = (routing.lag_bytes_max as u64, routing.lag_max);
        let topology = Arc::clone(&self.topology);
        let Some(standings) = topology.clusters.get(&*database.cluster.name) else {
            return Fit::Unknown;
        };
        let gate = database.cluster.failover.as_ref();
        let gate = gate.map(|_| topology.gate(&database.cluster.name));
        let told = self.told_by_session(id);
        let lsn = self.must_show(id, home, told, (standings, gate));
        // What a session has been told and cannot be read, or come, is not waited for.
        let comes = told < NOWHERE && primary(standings, gate).is_some();
        let wish = Wish { lsn, lag_bytes_max, lag_max };
        let mut loads = [Load::default(); REPLICAS_MAX];
        let mut pools = [home; REPLICAS_MAX];
        let mut near = [false; REPLICAS_MAX];
        let mut damped = [false; REPLICAS_MAX];
        let mut count = 0;
        let (mut behind, mut paused) = (false, false);
        for (node, standing) in standings {
            if count == REPLICAS_MAX {
                break;
            }
            let hidden = gate.is_some_and(|gate| gate.hides(node));
            if standing.role != Role::Standby || standing.weight == 0 || hidden {
                continue;
            }
            if !wish.is_granted_by(standing) {
                behind |= Wish { lsn: Lsn(0), ..wish }.is_granted_by(standing);
                continue;
            }
            let pool = self.replica_pool(home, node);
            let rank = &self.pools[pool];
            paused |= rank.paused;
            if rank.retry_at.is_some_and(|at| now < at) || rank.paused || without == Some(pool) {
                continue;
            }
            let weight = share(standing.weight, now.since(standing.since), routing.slow_start);
            let weight = weight.div_ceil(standing.health.verdict.handicap());
            damped[count] = standing.health.damped;
            (pools[count], loads[count]) = (pool, load(now, rank, weight));
            near[count] = !routing.zone.is_empty() && *standing.zone == *routing.zone;
            count += 1;
        }
        if behind && now.since(self.behind_told) >= BEHIND {
            self.behind_told = now;
            actions.push(Action::Tell(Box::new(Mail::Behind)));
        }
        // Where none comes and goes, and none is near, all are as good.
        let steady = damped.map(|damped| !damped);
        for better in [steady, near] {
            let some =
                loads[..count].iter().zip(better).any(|(it, better)| better && it.weight > 0);
            let others = loads.iter_mut().zip(better).filter(|(_, better)| some && !better);
            others.for_each(|(load, _)| load.weight = 0);
        }
        match choose(&loads[..count], &mut self.chance) {
            Some(index) => Fit::Pool(pools[index]),
            None if behind && comes => Fit::Later,
            None if behind || paused => Fit::Unknown,
            None => Fit::Nobody,
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

    /// The pool of a replica's servers for the clients of `home`; made if it is new.
    fn replica_pool(&mut self, home: usize, node: &Arc<str>) -> usize {
        let rank = &self.pools[home];
        let known = rank.replicas.iter().find(|(name, _)| name == node).map(|(_, pool)| *pool);
        if let Some(pool) = known.filter(|pool| !self.pools[*pool].removed) {
            return pool;
        }
        let (key, database) = (rank.key.on(node), Arc::clone(&rank.database));
        let pool = self.pool_by_key(&key, &database);
        let replicas = &mut self.pools[home].replicas;
        replicas.retain(|(name, _)| name != node);
        replicas.push((Arc::clone(node), pool));
        pool
    }
}

fn load(now: Instant, rank: &Pool, weight: u32) -> Load {
    let idle = u32::try_from(rank.idle.len()).unwrap_or(u32::MAX);
    let busy = rank.held.saturating_sub(idle + rank.opening + rank.closing);
    Load { waiting: busy + rank.waiting_count, latency: rank.latency.get(now), weight }
}
