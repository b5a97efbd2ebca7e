//! The same in front of a cluster whose primary pgring decides on.

use super::{ANSWERED, Trial, query};
use crate::action::{Action, Address};
use crate::config::parse;
use crate::id::ConnId;
use crate::mail::{Event, Mail, Order};
use crate::topology::gate::{Gate, Writes};
use crate::topology::verdict::{Health, Verdict};
use crate::topology::{Role, Standing, Topology};
use std::sync::Arc;

/// What makes the cluster one of those.
const FAILOVER: &str = "[clusters.failover]\nmode = \"manual\"\nstate_file = \"/nowhere\"\n\
                        durability = \"async\"\n";

/// The gate is open to a node.
pub(in crate::lane) fn open(epoch: u64, node: &str) -> Gate {
    Gate { epoch, writes: Writes::Open(node.into()), ..Gate::default() }
}

/// The gate is shut.
pub(in crate::lane) fn shut(epoch: u64) -> Gate {
    Gate { epoch, writes: Writes::Shut, ..Gate::default() }
}

/// The gate is being shut.
pub(in crate::lane) fn drain(epoch: u64) -> Gate {
    Gate { epoch, writes: Writes::Drain, ..Gate::default() }
}

impl Trial {
    /// A client in front of two nodes, of which the first writes since epoch 1. Its server has
    /// nothing to be told of its session.
    pub(in crate::lane) fn guarded(settings: &str) -> Self {
        let mut trial = Self::unheard(settings);
        trial.hears(open(1, "pg1"));
        trial.is_let_in();
        trial
    }

    /// The same before it is in, and before anything has been heard of the gate.
    pub(in crate::lane) fn unheard(settings: &str) -> Self {
        Self::before(2, settings, FAILOVER)
    }

    /// The lane hears of the gate, and of two nodes that are what it says.
    pub(in crate::lane) fn hears(&mut self, gate: Gate) {
        let role = |name: &str| match &gate.writes {
            Writes::Open(node) if **node == *name => Role::Primary,
            Writes::Open(_) | Writes::Drain | Writes::Shut => Role::Standby,
        };
        let roles = ["pg1", "pg2"].map(|name| (name, role(name), Verdict::Healthy));
        self.hears_of(Some(gate), roles);
    }

    /// The lane hears of the gate and of nodes.
    pub(in crate::lane) fn hears_of(
        &mut self,
        gate: Option<Gate>,
        nodes: [(&str, Role, Verdict); 2],
    ) {
        let mut topology = Topology::default();
        topology.gates.extend(gate.map(|gate| (Arc::from("main"), gate)));
        let standings = topology.clusters.entry(Arc::from("main")).or_default();
        for (name, role, verdict) in nodes {
            let health = Health { verdict, ..Health::default() };
            let standing = Standing { role, health, weight: 100, ..Standing::default() };
            standings.insert(Arc::from(name), standing);
        }
        self.happens(Event::Mail(Mail::Topology(Arc::new(topology))));
    }

    /// The client says this, behind something that has its session set, and it is taken.
    pub(in crate::lane) fn client_runs(&mut self, text: &str) {
        let message = query(text);
        assert_eq!(self.client_says(&message), message.len(), "{text}");
    }

    /// The client has a server with nothing to be told any more.
    pub(in crate::lane) fn settles(&mut self) {
        self.client_runs("SELECT 0");
        self.server_says(&ANSWERED.repeat(2));
        assert_eq!(self.lane.idle_servers(), 1);
    }

    /// The driver has let go of it.
    pub(in crate::lane) fn is_closed(&mut self, conn: ConnId) {
        self.happens(Event::Closed { conn });
    }

    /// An order comes.
    pub(in crate::lane) fn is_ordered(&mut self, number: u64, order: Order) {
        self.happens(Event::Mail(Mail::Order { number, order }));
    }

    /// What was answered to an order when the last thing happened.
    pub(in crate::lane) fn outcome(&self) -> Option<(u64, Option<String>)> {
        self.actions.list.iter().find_map(|action| {
            let Action::Tell(mail) = action else { return None };
            let Mail::Done { number, error, .. } = &**mail else { return None };
            Some((*number, error.clone()))
        })
    }

    /// Where connections were to be opened when the last thing happened: the last byte of each
    /// address is the number of the node.
    pub(in crate::lane) fn dialled(&self) -> Vec<(ConnId, u8)> {
        let connects = self.actions.list.iter().filter_map(|action| {
            let Action::Connect { conn, address } = action else { return None };
            let Address::Tcp(address) = address else { return None };
            let std::net::IpAddr::V4(ip) = address.ip() else { return None };
            Some((*conn, ip.octets()[3]))
        });
        connects.collect()
    }

    /// How many servers went back to the budget when the last thing happened.
    pub(in crate::lane) fn returned(&self) -> u32 {
        let returned = self.actions.list.iter().filter_map(|action| {
            let Action::Tell(mail) = action else { return None };
            if let Mail::Returned { count, .. } = **mail { Some(count) } else { None }
        });
        returned.sum()
    }

    /// The configuration is read again: the second node is at this address, and pgring decides
    /// on the primary or does not.
    pub(in crate::lane) fn reloads(&mut self, address: &str, managed: bool) {
        self.reloads_as("main", address, managed);
    }

    /// The same, and the cluster has another name in it.
    pub(in crate::lane) fn renames(&mut self, name: &str) {
        self.reloads_as(name, "127.0.0.2:5432", true);
    }

    fn reloads_as(&mut self, name: &str, address: &str, managed: bool) {
        let cluster = if managed { FAILOVER } else { "" };
        let text = format!(
            "workers = 1\nmonitor.user = \"app\"\nauth.method = \"trust\"\n\
             [[clusters]]\nname = \"{name}\"\n\
             [[clusters.nodes]]\nname = \"pg1\"\naddress = \"127.0.0.1:5432\"\n\
             [[clusters.nodes]]\nname = \"pg2\"\naddress = \"{address}\"\n\
             {cluster}[[databases]]\nname = \"*\"\ncluster = \"{name}\"\n"
        );
        let mut config = parse(&text, &mut |_| Ok(String::new())).expect("a good config");
        config.workers = 1;
        self.happens(Event::Mail(Mail::Config(Arc::new(config))));
    }
}
