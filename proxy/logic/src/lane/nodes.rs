//! Which address a server is opened at: one after the other, beginning where one was found last.
//!
//! A cluster is a ring of addresses: all of its first node, then all of its second, and so on. A
//! pool tries them in turn from the one that was good last, and pauses when it has been round. Many
//! servers are opened at once, and fail at once; only those of the address that is being tried move
//! the pool on to the next.

use crate::action::Address;
use crate::config::Cluster;

/// The addresses that a pool may use: those of one node, or of the whole cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<'c> {
    pub(super) cluster: &'c Cluster,
    pub(super) node: Option<&'c str>,
    /// Of the node only the address where it was seen.
    pub(super) seen: bool,
}

/// A node of a cluster, and one of the addresses of its name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) node: usize,
    pub(super) address: usize,
}

impl Place {
    /// The one that is `steps` further round; none if the ring has no places.
    pub(super) fn after(self, steps: u32, ring: Ring<'_>) -> Option<Self> {
        let start = ring.places().position(|place| place == self).unwrap_or(0);
        ring.places().cycle().nth(start + steps as usize)
    }

    /// The address; none if the name of the node has no address.
    pub(super) fn address_in(self, cluster: &Cluster) -> Option<&Address> {
        cluster.nodes.get(self.node)?.resolved.get(self.address)
    }
}

impl<'c> Ring<'c> {
    /// All of them; a node whose name has no address counts as one.
    fn places(self) -> impl Iterator<Item = Place> + Clone + 'c {
        let nodes = self.cluster.nodes.iter().enumerate();
        let wanted =
            nodes.filter(move |(_, found)| self.node.is_none_or(|name| found.name == name));
        wanted.flat_map(|(node, found)| {
            (0..found.resolved.len().max(1)).map(move |address| Place { node, address })
        })
    }

    /// Whether the place that is so many steps on is the last before the first comes again.
    pub(super) fn is_last(self, step: u32) -> bool {
        self.seen || step as usize + 1 >= self.places().count()
    }
}

/// Where a pool is on its way round.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Round {
    /// Steps from the place that was good last.
    pub(super) step: u32,
}

impl Round {
    /// A server that was opened `step` steps on has failed. Tells whether all have been tried.
    pub(super) fn fail(&mut self, step: u32, ring: Ring<'_>) -> bool {
        if step != self.step {
            return false;
        }
        let ended = ring.is_last(step);
        self.step = if ended { 0 } else { step + 1 };
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Ring, Round};
    use crate::action::Address;
    use crate::config::{Cluster, Node};

    /// Nodes with this many addresses each.
    fn cluster(addresses: &[usize]) -> Cluster {
        let node = |(number, count): (usize, &usize)| {
            let resolved = (0..*count).map(|n| Address::Unix(format!("{number}.{n}").into()));
            let resolved = resolved.collect();
            Node::new(&format!("pg{number}"), &format!("pg{number}:5432"), resolved)
        };
        let nodes = addresses.iter().enumerate().map(node).collect();
        Cluster::new("main", nodes)
    }

    #[test]
    fn every_address_of_every_node_has_its_turn_from_the_good_one_on() {
        let cluster = cluster(&[2, 0, 1]);
        let ring = Ring { cluster: &cluster, node: None, seen: false };
        let good = Place { node: 2, address: 0 };
        let round: Vec<_> = (0..5).map(|step| good.after(step, ring)).collect();
        let expected = [(2, 0), (0, 0), (0, 1), (1, 0), (2, 0)];
        assert_eq!(round, expected.map(|(node, address)| Some(Place { node, address })));
        let third = round[3].expect("a place");
        assert!(third.address_in(&cluster).is_none(), "its name has no address");
        // After a reload the place may be gone.
        assert_eq!(Place { node: 7, address: 1 }.after(0, ring), Some(Place::default()));
    }

    #[test]
    fn a_replicas_pool_stays_with_its_node() {
        let cluster = cluster(&[2, 2, 1]);
        let ring = Ring { cluster: &cluster, node: Some("pg1"), seen: true };
        let round: Vec<_> = (0..3).map(|step| Place::default().after(step, ring)).collect();
        let expected = [(1, 0), (1, 1), (1, 0)];
        assert_eq!(round, expected.map(|(node, address)| Some(Place { node, address })));
        assert!(ring.is_last(0), "another address may be another machine");
        let gone = Ring { node: Some("pg7"), ..ring };
        assert_eq!(Place::default().after(0, gone), None);
        let primary = Ring { seen: false, ..ring };
        assert!(!primary.is_last(0) && primary.is_last(1));
    }

    #[test]
    fn many_that_fail_at_once_move_on_by_one() {
        let cluster = cluster(&[1, 1]);
        let ring = Ring { cluster: &cluster, node: None, seen: false };
        let mut round = Round::default();
        let rounds: Vec<_> = (0..20).map(|_| round.fail(0, ring)).collect();
        assert!(!rounds.contains(&true) && round.step == 1);
        let rounds: Vec<_> = (0..20).map(|_| round.fail(1, ring)).collect();
        assert!(rounds[0] && !rounds[1..].contains(&true) && round.step == 0);
    }
}
