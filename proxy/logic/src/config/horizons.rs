//! What a new configuration takes over from the one before it: what was committed stays so.

use crate::config::{Cluster, Config, Database, Node};
use std::sync::Arc;

impl Config {
    /// Clusters go on with the horizons that clusters of their names had in `old`.
    pub fn keep_horizons(&mut self, old: &Self) {
        for cluster in &mut self.clusters {
            let mut same = old.clusters.iter().filter(|it| it.name == cluster.name);
            // Other nodes have another log.
            let shares = |it: &&Arc<Cluster>| {
                let known = |node: &Node| it.nodes.iter().any(|old| old.address == node.address);
                cluster.nodes.iter().any(known)
            };
            let Some(before) = same.find(shares) else { continue };
            let horizon = before.horizon.clone();
            let kept = Arc::new(Cluster { horizon, ..Cluster::clone(cluster) });
            for database in &mut self.databases {
                if Arc::ptr_eq(&database.cluster, cluster) {
                    let cluster = Arc::clone(&kept);
                    *database = Arc::new(Database { cluster, ..Database::clone(database) });
                }
            }
            *cluster = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use crate::time::Instant;

    #[test]
    fn what_was_committed_before_a_reload_counts_behind_it() {
        let text = "[auth]\nmethod = \"trust\"\n[[clusters]]\nname = \"main\"\n\
            [[clusters.nodes]]\nname = \"pg1\"\naddress = \"127.0.0.1:5432\"\n";
        let read = || parse(text, &mut |_| Ok(String::new())).expect("it is a good one");
        let (old, mut new) = (read(), read());
        let commit = old.clusters[0].horizon.begin();
        let behind = |config: &crate::config::Config, at| {
            config.databases[0].cluster.horizon.is_behind(Instant::from_nanos(at), 0)
        };
        assert!(behind(&new, 1));
        new.keep_horizons(&old);
        assert!(!behind(&new, 1));
        commit.end(Instant::from_nanos(9));
        assert!(!behind(&new, 9) && behind(&new, 10));
    }
}
