//! Where the nodes stand now, and how they are: what follows for those who wait for them, and for
//! what runs there.

use crate::config::Node;
use crate::id::ConnId;
use crate::lane::server::Server;
use crate::lane::{Lane, Out};
use crate::time::Instant;
use crate::topology::{Role, Standing, Topology};
use std::sync::Arc;

impl Lane {
    /// Clients wait for replicas that no longer stand where a read may go: they go to the primary.
    pub(super) fn hear_topology(
        &mut self,
        now: Instant,
        topology: Arc<Topology>,
        actions: &mut Out,
    ) {
        let before = core::mem::replace(&mut self.topology, topology);
        self.cut(now, actions);
        self.hear_gates(now, &before, actions);
        self.hear_recoveries(now, &before, actions);
        self.look_for_replicas(now, actions);
        for pool in 0..self.pools.len() {
            let rank = &self.pools[pool];
            let Some(node) = &rank.key.node else {
                self.spread(now, pool, actions);
                continue;
            };
            let standings = self.topology.clusters.get(&*rank.database.cluster.name);
            let standing = standings.and_then(|nodes| nodes.get(node));
            let fit = |it: &&Standing| it.error.is_none() && !it.health.out;
            let role = standing.filter(fit).map(|it| it.role);
            let chosen = self.opens_to(&rank.database.cluster, node);
            let promoted = role == Some(Role::Primary) || chosen;
            let out = role != Some(Role::Standby) || promoted || rank.gate.shut;
            // A login, or a server of another lane, may still have come behind the first time.
            let before = core::mem::replace(&mut self.pools[pool].promoted, promoted);
            if promoted && (!before || self.pools[pool].held > 0) {
                self.leave_promoted(now, pool, actions);
            }
            if out && self.pools[pool].waiting_count > 0 {
                self.fall_back(now, pool, actions);
            }
        }
    }

    /// What runs on a node that is dead will not be answered: who waits for it is told now, and not
    /// in minutes when the kernel gives up. Connections that are being opened end by themselves.
    fn cut(&mut self, now: Instant, actions: &mut Out) {
        let topology = Arc::clone(&self.topology);
        for (cluster, standings) in &topology.clusters {
            for (node, standing) in standings.iter().filter(|(_, it)| it.health.cut) {
                let reason = format!("node {node} is taken for a {}", standing.health.verdict);
                let there = |far: &Server| {
                    let cluster_of = &self.pools[far.pool].database.cluster;
                    // What was opened where the node no longer is may well be answered.
                    let at = |it: &Node| *it.name == **node && it.resolved.contains(&far.address);
                    far.node == *node
                        && *cluster_of.name == **cluster
                        && cluster_of.nodes.iter().any(at)
                        && !far.is_opening()
                };
                let lost = self.servers.iter().filter(|(_, far)| far.server().is_some_and(there));
                let lost: Vec<ConnId> = lost.map(|(id, _)| id).collect();
                for server in lost {
                    self.server_lost(now, server, &reason, actions);
                }
            }
        }
    }
}
