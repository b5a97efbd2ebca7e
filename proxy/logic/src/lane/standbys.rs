//! What the reads of a pool's clients may go to, drawn up once for each topology that comes.

use crate::config::{Database, Routing};
use crate::lane::Lane;
use crate::lane::pool::Pool;
use crate::route::{Wish, share};
use crate::time::{Duration, Instant};
use crate::topology::gate::Gate;
use crate::topology::{Lsn, Role, Standing, Standings, Topology};
use std::sync::Arc;

/// The nodes of a pool's cluster, as a read looks at them.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// What they are drawn up from. While that is kept, nothing else has its address.
    from: Option<(Arc<Topology>, Arc<Database>)>,
    /// Somebody has asked them.
    pub(super) asked: bool,
    pub(super) primary: Option<Primary>,
    /// Those that are fit for a read which asks for no place in the log.
    pub(super) standbys: Vec<Standby>,
}

/// How much of the reads a node gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// It is in the zone of this process.
    pub(super) near: bool,
    /// It does not come and go.
    pub(super) steady: bool,
    weight: u32,
    handicap: u32,
    since: Instant,
    slow_start: Duration,
}

impl Part {
    fn of(standing: &Standing, routing: &Routing) -> Self {
        Self {
            near: !routing.zone.is_empty() && *standing.zone == *routing.zone,
            steady: !standing.health.damped,
            weight: standing.weight,
            handicap: standing.health.verdict.handicap(),
            since: standing.since,
            slow_start: routing.slow_start,
        }
    }

    /// The share at this moment.
    pub(super) fn share(&self, now: Instant) -> u32 {
        share(self.weight, now.since(self.since), self.slow_start).div_ceil(self.handicap)
    }
}

/// What was last seen of the primary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Primary {
    /// The end of its log.
    pub(super) end: Lsn,
    /// See [`Standing`].
    pub(super) asked: Instant,
    pub(super) lost: u64,
    /// What it gets of the reads where it shares them; none: it is not fit for them.
    pub(super) part: Option<Part>,
}

/// A standby.
#[derive(Debug)]
pub(super) struct Standby {
    node: Arc<str>,
    /// Its pool, if it has one.
    pub(super) pool: Option<usize>,
    /// How far it has replayed.
    pub(super) lsn: Lsn,
    pub(super) part: Part,
}

impl Nodes {
    /// The nodes as `topology` has them.
    fn draw_up(topology: &Arc<Topology>, home: &Pool) -> Self {
        let database = &home.database;
        let routing = &database.routing;
        let from = Some((Arc::clone(topology), Arc::clone(database)));
        let Some(standings) = topology.clusters.get(&*database.cluster.name) else {
            return Self { from, ..Self::default() };
        };
        let gate = gate(topology, database);
        let lag_bytes_max = routing.lag_bytes_max as u64;
        let wish = Wish { lsn: Lsn(0), lag_bytes_max, lag_max: routing.lag_max };
        let standby = |(node, standing): (&Arc<str>, &Standing)| {
            let hidden = gate.is_some_and(|gate| gate.hides(node));
            if standing.weight == 0 || hidden || !wish.is_granted_by(standing) {
                return None;
            }
            let mut known = home.replicas.iter();
            Some(Standby {
                node: Arc::clone(node),
                pool: known.find(|(name, _)| name == node).map(|(_, pool)| *pool),
                lsn: standing.lsn,
                part: Part::of(standing, routing),
            })
        };
        Self {
            from,
            asked: true,
            primary: primary(standings, gate, routing),
            standbys: standings.iter().filter_map(standby).collect(),
        }
    }
}

impl Lane {
    /// The nodes for the clients of a pool, drawn up anew if what they are drawn up from is.
    pub(super) fn nodes(&mut self, home: usize) -> &Nodes {
        let rank = &mut self.pools[home];
        let fresh = rank.nodes.from.as_ref().is_some_and(|(topology, database)| {
            Arc::ptr_eq(topology, &self.topology) && Arc::ptr_eq(database, &rank.database)
        });
        if !fresh {
            rank.nodes = Nodes::draw_up(&self.topology, rank);
        }
        &rank.nodes
    }

    /// Each standby that a read may go to has a pool from now on.
    #[cold]
    pub(super) fn make_replica_pools(&mut self, home: usize) {
        let nodes = core::mem::take(&mut self.pools[home].nodes);
        let database = Arc::clone(&self.pools[home].database);
        for Standby { node, pool, .. } in nodes.standbys {
            if pool.is_some_and(|pool| !self.pools[pool].removed) {
                continue;
            }
            let key = self.pools[home].key.on(&node);
            let pool = self.pool_by_key(&key, &database);
            let replicas = &mut self.pools[home].replicas;
            replicas.retain(|(name, _)| *name != node);
            replicas.push((node, pool));
        }
    }
}

/// The gate of a database's cluster, if it is one that fails over.
fn gate<'t>(topology: &'t Topology, database: &Database) -> Option<&'t Gate> {
    database.cluster.failover.as_ref()?;
    Some(topology.gate(&database.cluster.name))
}

/// The primary, if there is exactly one; where there is a gate, the one it is open to.
fn primary(standings: &Standings, gate: Option<&Gate>, routing: &Routing) -> Option<Primary> {
    let mut primaries = standings.values().filter(|it| it.role == Role::Primary);
    let only = match gate {
        Some(gate) => standings.get(&**gate.primary()?).filter(|it| it.role == Role::Primary)?,
        None => primaries.next().filter(|_| primaries.next().is_none())?,
    };
    let Standing { end, asked, lost, .. } = *only;
    let part = (only.weight > 0 && !only.health.out).then(|| Part::of(only, routing));
    only.error.is_none().then_some(Primary { end, asked, lost, part })
}
