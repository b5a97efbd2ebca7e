//! What Prometheus is told of the nodes.

use crate::control::metrics::{Labels, Out, Picture, signed};
use pgring_logic::topology::{Role, Sockets, Standing};
use std::fmt::Error;
use std::time::Duration;

/// A number of the figures.
type Count = fn(&Sockets) -> u64;

impl Picture {
    /// What the monitor has seen; nothing without a monitor.
    pub(super) fn nodes(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let clusters = self.topology.clusters.iter();
        let nodes: Vec<(Labels, &Standing)> = clusters
            .flat_map(|(cluster, standings)| standings.iter().map(move |it| (cluster, it)))
            .map(|(cluster, (node, standing))| {
                (vec![("cluster", cluster.to_string()), ("node", node.to_string())], standing)
            })
            .collect();
        let role = |(labels, standing): &(Labels, &Standing)| {
            let mut labels = labels.clone();
            labels.push(("role", standing.role.to_string()));
            (labels, i64::from(standing.error.is_none()))
        };
        let up: Vec<_> = nodes.iter().map(role).collect();
        out.gauge("pgring_node_up", "1 while the node answers the monitor", &up)?;
        let known = || nodes.iter().filter(|(_, standing)| standing.role != Role::Unknown);
        let help = "How far the node is behind its primary";
        let bytes: Vec<_> =
            known().map(|(labels, it)| (labels.clone(), signed(it.lag_bytes))).collect();
        out.gauge("pgring_node_lag_bytes", help, &bytes)?;
        let time: Vec<_> =
            known().map(|(labels, it)| (labels.clone(), it.lag.as_secs_f64())).collect();
        out.seconds("pgring_node_lag", help, &time)?;
        Self::senses(&nodes, out)
    }

    /// What is believed of each node, and what the kernel knows of the connections to it.
    fn senses(nodes: &[(Labels, &Standing)], out: &mut Out<'_>) -> Result<(), Error> {
        let verdict = |(labels, standing): &(Labels, &Standing)| {
            let mut labels = labels.clone();
            labels.push(("verdict", standing.health.verdict.to_string()));
            (labels, 1)
        };
        let verdicts: Vec<_> = nodes.iter().map(verdict).collect();
        out.gauge("pgring_node_verdict", "What is believed of the node; always 1", &verdicts)?;
        let time = |of: fn(&Sockets) -> Duration| -> Vec<_> {
            let seconds =
                |it: &(Labels, &Standing)| (it.0.clone(), of(&it.1.sockets).as_secs_f64());
            nodes.iter().map(seconds).collect()
        };
        let help = "The smoothed round trip to the node";
        out.seconds("pgring_node_round_trip", help, &time(|it| it.round_trip))?;
        let help = "How long the last connection to the node took to be there";
        out.seconds("pgring_node_connect", help, &time(|it| it.connect))?;
        let counts: [(&str, &str, Count); 5] = [
            ("pgring_node_retransmits", "Segments sent to the node again", |it| it.retransmits),
            ("pgring_node_timeouts", "Timeouts of connections to the node", |it| it.timeouts),
            ("pgring_node_resets", "Resets that came from the node", |it| it.resets),
            ("pgring_node_connection_errors", "Errors of connections to the node", |it| it.errors),
            ("pgring_node_zero_windows", "How often its window was shut", |it| it.zero_windows),
        ];
        for (name, help, of) in counts {
            let count = |it: &(Labels, &Standing)| (it.0.clone(), of(&it.1.sockets));
            out.counter(name, help, &nodes.iter().map(count).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
