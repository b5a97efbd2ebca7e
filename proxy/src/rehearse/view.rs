//! What the console says of a cluster.

use crate::rehearse::link::Row;
use pgring_logic::config::{Cluster, Durability, Failover};

/// SHOW TOPOLOGY, of one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    /// It grows whenever writes are opened or shut.
    pub(super) epoch: u64,
    pub(super) state: String,
    pub(super) status: String,
    /// Who is written to.
    pub(super) primary: String,
    synchronous: String,
    paused: String,
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    name: String,
    role: String,
    verdict: String,
    receives_from: String,
    unfit: String,
    quarantine: String,
}

impl View {
    /// Reads it.
    pub(super) fn of(rows: &[Row], cluster: &str) -> Self {
        let mut view = Self::default();
        let field = |row: &Row, name: &str| row.get(name).cloned().unwrap_or_default();
        for row in rows.iter().filter(|row| field(row, "cluster") == cluster) {
            view.epoch = field(row, "epoch").parse().unwrap_or(0);
            view.state = field(row, "state").to_lowercase();
            view.status = field(row, "status");
            view.primary = field(row, "primary");
            view.synchronous = field(row, "synchronous");
            view.paused = field(row, "paused");
            view.nodes.push(Node {
                name: field(row, "node"),
                role: field(row, "role"),
                verdict: field(row, "verdict"),
                receives_from: field(row, "receives_from"),
                unfit: field(row, "unfit"),
                quarantine: field(row, "quarantine"),
            });
        }
        view
    }

    /// Whether writes are open, to somebody.
    pub(super) fn is_normal(&self) -> bool {
        self.state == "normal" && !self.primary.is_empty()
    }

    /// Whether nothing is done by itself.
    pub(super) fn is_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Other nodes that say of themselves that they take writes.
    pub(super) fn others_as_primary(&self, but: &str) -> Vec<&str> {
        let all = self.nodes.iter().filter(|node| node.role == "primary" && node.name != but);
        all.map(|node| node.name.as_str()).collect()
    }

    /// What keeps the cluster from being whole; none if it is.
    pub(super) fn complaint(&self, cluster: &Cluster, failover: &Failover) -> Option<String> {
        if self.nodes.is_empty() {
            return Some("SHOW TOPOLOGY knows nothing of the cluster".to_owned());
        }
        if !self.is_normal() {
            return Some(format!("it is {}: {}", self.state, self.status));
        }
        if failover.durability == Durability::Sync && self.synchronous.is_empty() {
            return Some("commits wait for no standby".to_owned());
        }
        self.nodes.iter().find_map(|node| {
            let Node { name, role, verdict, receives_from, unfit, quarantine } = node;
            let spare = cluster.nodes.iter().any(|it| it.name == *name && it.priority == 0);
            if !quarantine.is_empty() {
                Some(format!("{name} is shut out: {quarantine}"))
            } else if verdict != "healthy" {
                Some(format!("{name} is {verdict}"))
            } else if *name == self.primary {
                (role != "primary").then(|| format!("{name} is no primary itself"))
            } else if receives_from.is_empty() {
                Some(format!("{name} receives from nobody"))
            } else if !unfit.is_empty() && !spare {
                Some(format!("{name} could not take over: {unfit}"))
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::View;
    use crate::rehearse::link::Row;
    use pgring_logic::config::{Cluster, Durability, Failover};
    use pgring_logic::topology::horizon::Horizon;

    fn row(node: &str, role: &str, more: &[(&str, &str)]) -> Row {
        let from = if role == "standby" { "10.0.0.1:5432" } else { "" };
        let fields = [
            ("cluster", "main"),
            ("epoch", "7"),
            ("state", "normal"),
            ("primary", "pg1"),
            ("synchronous", "ANY 1 (pg2)"),
            ("node", node),
            ("role", role),
            ("verdict", "healthy"),
            ("receives_from", from),
        ];
        fields.iter().chain(more).map(|(name, text)| ((*name).into(), (*text).into())).collect()
    }

    #[test]
    fn a_cluster_is_whole_when_every_standby_receives() {
        let nodes = Vec::new();
        let horizon = Horizon::default();
        let cluster = Cluster { name: "main".to_owned(), nodes, failover: None, horizon };
        let failover = Failover { durability: Durability::Sync, ..Failover::default() };
        let complaint = |rows: &[Row]| View::of(rows, "main").complaint(&cluster, &failover);
        let first = row("pg1", "primary", &[]);
        assert_eq!(complaint(&[first.clone(), row("pg2", "standby", &[])]), None);
        for (name, text, wanted) in [
            ("verdict", "hung", "pg2 is hung"),
            ("quarantine", "old", "pg2 is shut out: old"),
            ("receives_from", "", "pg2 receives from nobody"),
            ("unfit", "slow", "pg2 could not take over: slow"),
            ("synchronous", "", "commits wait for no standby"),
        ] {
            let other = row("pg2", "standby", &[(name, text)]);
            assert_eq!(complaint(&[first.clone(), other]).as_deref(), Some(wanted));
        }
        assert!(complaint(&[]).is_some());
    }
}
