//! Which node a read goes to, and what becomes of it where there is none.

use crate::action::Action;
use crate::config::{Fallback, Reads};
use crate::id::ConnId;
use crate::lane::client::Aimed;
use crate::lane::place::must_show;
use crate::lane::pool::Pool;
use crate::lane::standbys::Part;
use crate::lane::wishes::NOWHERE;
use crate::lane::{Lane, Out};
use crate::mail::Mail;
use crate::route::{Load, choose};
use crate::time::{Duration, Instant};
use crate::topology::Lsn;
use pgring_wire::backend::sqlstate;

/// How many nodes one read chooses among.
const NODES_MAX: usize = 16;

/// How often a lane says that reads wait for replicas.
const BEHIND: Duration = Duration::from_millis(100);

/// What a read may go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Among {
    /// Any node.
    All,
    /// Standbys only.
    Standbys,
    /// The same, but for that of this pool.
    StandbysBut(usize),
}

/// What there is for a read.
pub(super) enum Fit {
    /// The node of this pool.
    Pool(usize),
    /// Replicas that have not replayed yet what it must show.
    Later,
    /// None that could be asked now: nobody knows yet what there is, or it is paused.
    Unknown,
    /// No replica at all.
    Nobody,
}

/// The nodes that a read may go to. A lane has one, for the memory of its lists.
#[derive(Debug, Default)]
pub(super) struct Choice {
    loads: Vec<Load>,
    nodes: Vec<Node>,
    /// There are others that have not replayed enough.
    behind: bool,
    /// There are others that are paused.
    paused: bool,
    /// There are others that have no pool yet.
    new: bool,
}

/// One of them.
#[derive(Debug)]
struct Node {
    pool: usize,
    near: bool,
    /// It does not come and go.
    steady: bool,
}

impl Choice {
    fn clear(&mut self) {
        self.loads.clear();
        self.nodes.clear();
        (self.behind, self.paused, self.new) = (false, false, false);
    }

    /// If one of those that could be chosen is better, the others cannot.
    fn prefer(&mut self, better: impl Fn(&Node) -> bool) {
        let all = || self.loads.iter().zip(&self.nodes);
        if all().any(|(load, node)| load.weight > 0 && better(node)) {
            let others = self.loads.iter_mut().zip(&self.nodes);
            let others = others.filter(|(_, node)| !better(node));
            others.for_each(|(load, _)| load.weight = 0);
        }
    }

    /// One more.
    fn add(&mut self, now: Instant, (pool, rank): (usize, &Pool), part: Part) {
        self.loads.push(load(now, rank, part.share(now)));
        self.nodes.push(Node { pool, near: part.near, steady: part.steady });
    }
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// To the replica of this pool.
    Replica(usize),
    /// To the primary.
    Primary,
    /// To the primary, which takes its part; any other node would do.
    Shared,
    /// Nowhere yet.
    Wait,
    /// Nowhere: its client has been told.
    Refused,
}

impl Lane {
    /// Where a read of this client goes; `shared`: the primary takes its part of them.
    pub(super) fn place_of_read(
        &mut self,
        now: Instant,
        id: ConnId,
        (home, shared): (usize, bool),
        actions: &mut Out,
    ) -> Place {
        let among = if shared { Among::All } else { Among::Standbys };
        let fit = self.fit_for(now, id, home, among, actions);
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
            Fit::Pool(pool) if pool == home => Place::Shared,
            Fit::Pool(pool) => Place::Replica(pool),
            Fit::Nobody if fallback == Fallback::Error => {
                let message = "no standby is fit for reads";
                self.fail_statement(now, id, sqlstate::CANNOT_CONNECT_NOW, message, actions);
                Place::Refused
            }
            Fit::Later | Fit::Unknown | Fit::Nobody => Place::Primary,
        }
    }

    /// What there is for a read of this client.
    pub(super) fn fit_for(
        &mut self,
        now: Instant,
        id: ConnId,
        home: usize,
        among: Among,
        actions: &mut Out,
    ) -> Fit {
        let Some((place, comes)) = self.wish(id, home) else { return Fit::Unknown };
        let mut choice = core::mem::take(&mut self.choice);
        self.fill(now, home, (among, place), &mut choice);
        if choice.new {
            self.make_replica_pools(home);
            self.nodes(home);
            self.fill(now, home, (among, place), &mut choice);
        }
        let (behind, paused) = (choice.behind, choice.paused);
        if behind && now.since(self.behind_told) >= BEHIND {
            self.behind_told = now;
            actions.push(Action::Tell(Box::new(Mail::Behind)));
        }
        // Where none comes and goes, and none is near, all are as good.
        choice.prefer(|node| node.steady);
        choice.prefer(|node| node.near);
        let chosen = choose(&choice.loads, &mut self.chance);
        let pool = chosen.map(|index| choice.nodes[index].pool);
        self.choice = choice;
        match pool {
            Some(pool) => Fit::Pool(pool),
            None if behind && comes => Fit::Later,
            None if behind || paused => Fit::Unknown,
            None => Fit::Nobody,
        }
    }

    /// Which place a replica must have replayed for a read of this client, and whether that is
    /// waited for: what a session has been told and cannot be read, or come, is not. None where
    /// nobody knows what there is.
    fn wish(&mut self, id: ConnId, home: usize) -> Option<(Lsn, bool)> {
        let nodes = self.nodes(home);
        let (asked, primary) = (nodes.asked, nodes.primary);
        let client = self.clients.get_mut(id).filter(|_| asked)?;
        let told = self.wishes.of(&client.state).lsn;
        let comes = told < NOWHERE && primary.is_some();
        Some((must_show(client, &self.pools[home].database, told, primary), comes))
    }

    /// What there is for a read that must show this place; the nodes are drawn up.
    fn fill(&self, now: Instant, home: usize, (among, place): (Among, Lsn), choice: &mut Choice) {
        choice.clear();
        if among == Among::All {
            let rank = &self.pools[home];
            choice.paused |= rank.paused;
            if let Some(part) = rank.part_of_reads(now) {
                choice.add(now, (home, rank), part);
            }
        }
        for standby in &self.pools[home].nodes.standbys {
            if choice.loads.len() == NODES_MAX {
                break;
            }
            if standby.lsn < place {
                choice.behind = true;
                continue;
            }
            let Some(pool) = standby.pool.filter(|&pool| !self.pools[pool].removed) else {
                choice.new = true;
                continue;
            };
            let rank = &self.pools[pool];
            choice.paused |= rank.paused;
            if rank.is_barred(now) || rank.paused || among == Among::StandbysBut(pool) {
                continue;
            }
            choice.add(now, (pool, rank), standby.part);
        }
    }

    /// A node cannot be reached: whoever waits for a replica goes to the primary, and reads that
    /// the primary shares go to a replica.
    pub(super) fn fall_back(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        if self.pools[pool].key.node.is_none() {
            return self.spread(now, pool, actions);
        }
        let waiting: Vec<ConnId> = self.pools[pool].queued().map(|(id, _)| id).collect();
        for id in waiting {
            let Some(client) = self.clients.get_mut(id) else { continue };
            if client.wait.is_none() || client.pool != Some(pool) {
                continue;
            }
            if client.readonly {
                self.seek_another(now, id, actions);
                continue;
            }
            client.wait = None;
            client.pool = client.home;
            self.pools[pool].unqueue();
            self.wait_for_server(now, id, actions);
        }
    }

    /// Where the nodes stand is known anew, or the primary cannot be reached. If it takes no part
    /// of the reads for now, those that wait for it go to standbys that are fit for them.
    pub(super) fn spread(&mut self, now: Instant, home: usize, actions: &mut Out) {
        let rank = &self.pools[home];
        if rank.waiting_count == 0 || rank.database.routing.reads != Reads::All {
            return;
        }
        self.nodes(home);
        if self.pools[home].part_of_reads(now).is_some() {
            return;
        }
        let waiting: Vec<ConnId> = self.pools[home].queued().map(|(id, _)| id).collect();
        for id in waiting {
            let Some(client) = self.clients.get(id) else { continue };
            let there = client.wait.is_some() && client.pool == Some(home);
            if there && client.aimed == Aimed::Shared {
                self.seek_another(now, id, actions);
            }
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
}

fn load(now: Instant, rank: &Pool, weight: u32) -> Load {
    let idle = u32::try_from(rank.idle.len()).unwrap_or(u32::MAX);
    let busy = rank.held.saturating_sub(idle + rank.opening + rank.closing);
    Load { waiting: busy + rank.waiting_count, latency: rank.latency.get(now), weight }
}

#[cfg(test)]
mod tests;
