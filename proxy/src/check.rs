//! `pgring check --connect`: what is missing on the nodes and on this machine, before it is missed.
//!
//! Logs in to every node as whoever will do so later, and asks; nothing is changed there. Asking
//! and judging are apart: what was read is plain values, and what is to be thought of them is
//! decided without any node.

mod judge;
mod read;
mod rights;

use crate::control::prepare;
use crate::dialer::Dialer;
use futures_util::future::join_all;
use pgring_logic::config::{Cluster, Config};
use std::fmt;
use std::rc::Rc;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, with less than is promised.
    Warning,
    /// Something will not work.
    Error,
}

/// One line of what was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// How much it matters.
    pub grade: Grade,
    /// The cluster, or the node as `cluster/node`.
    pub place: String,
    /// What it is, and what is to be done.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grade, place, text } = self;
        let grade = match grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Error => "error",
        };
        // One finding, one line, whatever a node says.
        write!(f, "{grade}: {place}: {}", text.replace(['\n', '\r'], " "))
    }
}

/// All findings, in the order of the config; or why nothing could be asked.
pub fn run(config: Config) -> Result<Vec<Finding>, String> {
    let config = prepare(config).map_err(|error| error.to_string())?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let dialer = Rc::new(Dialer::default());
    LocalSet::new().block_on(&runtime, async {
        let all = config.clusters.iter().map(|cluster| of_cluster(&config, cluster, &dialer));
        Ok(join_all(all).await.concat())
    })
}

async fn of_cluster(config: &Config, cluster: &Cluster, dialer: &Rc<Dialer>) -> Vec<Finding> {
    if config.monitor.user.is_none() {
        return vec![Finding {
            grade: Grade::Warning,
            place: cluster.name.clone(),
            text: "nobody asks its nodes how they are, so nothing is checked: set monitor.user"
                .to_owned(),
        }];
    }
    let nodes = cluster.nodes.iter().map(|node| read::node(config, cluster, node, dialer));
    let nodes = join_all(nodes).await;
    let here = cluster.failover.as_deref().map(read::here);
    judge::cluster(&config.monitor, cluster, &nodes, here.as_ref())
}
