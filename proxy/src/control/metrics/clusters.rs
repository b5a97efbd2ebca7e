//! What Prometheus is told of clusters whose primary pgring decides on.

use crate::control::metrics::{Labels, Out, Picture, signed};
use pgring_logic::failover::Failover;
use pgring_logic::topology::gate::Writes;
use std::fmt::Error;

/// One of them.
#[derive(Debug)]
pub(super) struct Cluster {
    name: String,
    state: &'static str,
    epoch: u64,
    writable: bool,
    quarantined: Vec<String>,
}

impl Cluster {
    pub(super) fn of(failover: &Failover) -> Self {
        let record = failover.record();
        let writable = match failover.gate().writes {
            Writes::Open(_) => true,
            Writes::Drain | Writes::Shut => false,
        };
        Self {
            name: record.cluster.clone(),
            state: record.state.name(),
            epoch: record.epoch,
            writable,
            quarantined: record.quarantine.keys().cloned().collect(),
        }
    }

    fn labels(&self) -> Labels {
        vec![("cluster", self.name.clone())]
    }
}

impl Picture {
    /// Nothing where pgring decides on no primary.
    pub(super) fn clusters(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let all = self.clusters.iter();
        let epochs: Vec<_> = all.map(|it| (it.labels(), signed(it.epoch))).collect();
        let help = "How often writes to the cluster were opened or shut";
        out.gauge("pgring_cluster_epoch", help, &epochs)?;
        let writable = |it: &Cluster| {
            let mut labels = it.labels();
            labels.push(("state", it.state.to_owned()));
            (labels, i64::from(it.writable))
        };
        let writable: Vec<_> = self.clusters.iter().map(writable).collect();
        out.gauge("pgring_cluster_writable", "1 while a primary is written to", &writable)?;
        let shut_out = self.clusters.iter().flat_map(|it| {
            it.quarantined.iter().map(|node| {
                let mut labels = it.labels();
                labels.push(("node", node.clone()));
                (labels, 1)
            })
        });
        let shut_out: Vec<_> = shut_out.collect();
        out.gauge("pgring_node_quarantined", "1 for a node that gets nothing", &shut_out)
    }
}
