//! What the outage rig writes for others to read: settings of nodes, and pgring's configuration.

use super::Durability;
use crate::postgres::Node;
use crate::rig::scene::{MONITOR, PORT, REPLICAS, USER};
use std::path::Path;

/// The user by whom pgring changes the primary, and its password.
pub(super) const MASTER: &str = "rig_failover";
/// The port of every node: each has addresses to itself.
pub(super) const NODE_PORT: u16 = 5432;
/// The name of the cluster.
pub(super) const CLUSTER: &str = "main";

/// Settings of all nodes alike, because what is rewound gets those of another. A hook that starts
/// a node says neither port nor address, so both stand here.
///
/// Nothing waits for a disk. Statements are logged: the case of the returning primary counts them.
pub(super) fn settings() -> String {
    format!(
        "password_encryption = 'scram-sha-256'\nport = {NODE_PORT}\nlisten_addresses = '*'\n\
         unix_socket_directories = ''\nmax_connections = 100\nshared_buffers = '64MB'\n\
         fsync = off\nwal_level = replica\nwal_log_hints = on\nwal_keep_size = '1GB'\n\
         max_wal_senders = 10\nmax_replication_slots = 10\nhot_standby = on\n\
         wal_retrieve_retry_interval = '200ms'\nlog_statement = 'all'\n\
         log_line_prefix = '%m [%p] %u@%d '\n"
    )
}

/// Who may come. Those of pgring prove who they are.
pub(super) const HBA: &str = "host all rig_monitor 0.0.0.0/0 scram-sha-256\n\
    host all rig_failover 0.0.0.0/0 scram-sha-256\nhost all all 0.0.0.0/0 trust\n\
    host replication all 0.0.0.0/0 trust\n";

/// How pgring reaches what runs its hooks.
#[derive(Debug)]
pub(super) struct Hooks<'text> {
    /// This program, where pgring's account can run it.
    pub(super) program: &'text Path,
    /// The socket of the agent.
    pub(super) socket: &'text Path,
    /// The directory of the nodes.
    pub(super) nodes: &'text Path,
    /// Whether there is a way to end a node for certain.
    pub(super) fence: bool,
}

/// pgring's configuration; `state` is the file of its record.
pub(super) fn pgring(
    nodes: &[&Node],
    durability: Durability,
    state: &Path,
    hooks: &Hooks<'_>,
) -> String {
    let list: String = nodes
        .iter()
        .map(|node| {
            let (name, address) = (&node.name, node.address());
            format!("[[clusters.nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n")
        })
        .collect();
    let failover = failover(durability, state, hooks);
    format!(
        "# Written by `cargo xtask outage`.\n\
         workers = 2\nlisten = [\"0.0.0.0:{PORT}\"]\nadmin_users = [\"{USER}\"]\n\n\
         [auth]\nmethod = \"trust\"\n\n[pool]\nmode = \"transaction\"\nsize = 16\n\n\
         [monitor]\nuser = \"{MONITOR}\"\npassword = \"{MONITOR}\"\n\n\
         [[clusters]]\nname = \"{CLUSTER}\"\n{failover}{list}\n\
         [[databases]]\nname = \"{REPLICAS}\"\ndbname = \"{USER}\"\ncluster = \"{CLUSTER}\"\n\
         [databases.routing]\nreads = \"replicas\"\n\n\
         [[databases]]\nname = \"*\"\ncluster = \"{CLUSTER}\"\n"
    )
}

/// The table of failover, if there is to be any.
fn failover(durability: Durability, state: &Path, hooks: &Hooks<'_>) -> String {
    let word = match durability {
        Durability::None => return String::new(),
        Durability::Sync => "sync",
        Durability::Async => "async",
    };
    // Nothing but the proxy stands between an old primary and its clients, and in this scene there
    // is indeed no other way to a node.
    let only_path = durability == Durability::Async;
    let Hooks { program, socket, nodes, fence } = hooks;
    let command = |hook: &str| {
        let (program, socket, nodes) = (program.display(), socket.display(), nodes.display());
        format!(
            "{hook}_command = [\"{program}\", \"outage-hook\", \"{socket}\", \"{hook}\", \
             \"{nodes}\"]\n"
        )
    };
    let fence = if *fence { command("fence") } else { String::new() };
    format!(
        "[clusters.failover]\nstate_file = \"{}\"\ndurability = \"{word}\"\nquorum = 1\n\
         only_path = {only_path}\nuser = \"{MASTER}\"\npassword = \"{MASTER}\"\n\
         cooldown = \"0s\"\n{}{fence}{}",
        state.display(),
        command("stop"),
        command("rejoin"),
    )
}

#[cfg(test)]
mod tests {
    use super::{Hooks, failover};
    use crate::outage::Durability;
    use std::path::Path;

    #[test]
    fn a_table_of_failover_is_there_if_there_is_any() {
        let (program, socket, nodes) = (Path::new("/x"), Path::new("/s"), Path::new("/n"));
        let mut hooks = Hooks { program, socket, nodes, fence: false };
        let state = Path::new("/state");
        assert_eq!(failover(Durability::None, state, &hooks), "");
        let text = failover(Durability::Sync, state, &hooks);
        assert!(text.contains("durability = \"sync\"\nquorum = 1\nonly_path = false\n"), "{text}");
        let stop = "stop_command = [\"/x\", \"outage-hook\", \"/s\", \"stop\", \"/n\"]\n";
        assert!(text.contains(stop) && !text.contains("fence"), "{text}");
        hooks.fence = true;
        let text = failover(Durability::Async, state, &hooks);
        assert!(text.contains("fence_command") && text.contains("only_path = true"), "{text}");
    }
}
