//! What a server of a replica must be: at the place that the monitor has seen, and with answers
//! that look like the primary's.

use crate::config::Cluster;
use crate::id::{ConnId, PoolKey};
use crate::lane::Lane;
use crate::lane::nodes::Place;

/// Parameters that change how values are written and read.
const SHOWN: [&str; 6] = [
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "client_encoding",
    "server_encoding",
    "standard_conforming_strings",
];

impl Lane {
    /// Where the monitor has seen a node: what it says of it is true of that place.
    pub(super) fn seen_at(&self, cluster: &Cluster, node: &str) -> Place {
        let standings = self.topology.clusters.get(&*cluster.name);
        let standing = standings.and_then(|nodes| nodes.get(node));
        let node = cluster.nodes.iter().position(|found| found.name == node);
        let address = standing.map_or(0, |standing| standing.address);
        Place { node: node.unwrap_or(usize::MAX), address }
    }

    /// A parameter by which answers of a replica would look other than the primary's, with which
    /// clients were greeted.
    pub(super) fn differs(&self, id: ConnId, pool: usize) -> Option<&'static str> {
        let key = &self.pools[pool].key;
        key.node.as_ref()?;
        let home = self.pools_by_key.get(&PoolKey { node: None, ..key.clone() })?;
        let base = self.pools[*home].base.as_ref()?;
        let reported = &self.server_ref(id)?.reported;
        SHOWN.into_iter().find(|name| base.get(*name) != reported.get(*name))
    }
}
