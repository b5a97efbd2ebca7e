//! What a config needs before lanes may have it: addresses for names, verifiers for passwords.
//!
//! Both take time, so a lane never does it: names are asked for on the network, a verifier costs
//! milliseconds of a core. What the snapshot before already knew is taken from there.

use crate::clock;
use pgring_logic::action::Address;
use pgring_logic::config::{AuthMethod, Cluster, Config, Database, Node, Password, User};
use pgring_wire::auth::Stored;
use pgring_wire::auth::scram::{ITERATIONS_DEFAULT, Verifier};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long names may take to resolve.
const NAMES_MAX: Duration = Duration::from_secs(5);

/// A config for lanes. `old` is the snapshot in force, if there is one.
pub(super) async fn prepare(config: Config, old: Option<&Config>) -> Config {
    let mut config = verifiers(config, old).await;
    if let Some(old) = old {
        config.keep_horizons(old);
    }
    config.auth.mock_secret = match old {
        Some(old) => old.auth.mock_secret,
        None => clock::dice().unwrap_or_default(),
    };
    config.auth.owner = std::fs::metadata("/proc/self").ok().map(|process| process.uid());
    names(config, old).await
}

/// Fills in the verifiers of users whose password is known in plain text.
pub(super) async fn verifiers(mut config: Config, old: Option<&Config>) -> Config {
    if config.auth.method == AuthMethod::Trust {
        return config;
    }
    let mut missing = Vec::new();
    for user in config.users.values_mut() {
        let known = old.and_then(|old| old.users.get(&user.name));
        if user.verifier.is_some() || !is_plain(&user.password.0) {
            continue;
        }
        match known.filter(|known| known.password == user.password && known.verifier.is_some()) {
            Some(known) => *user = Arc::clone(known),
            None => missing.push(Arc::clone(user)),
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = missing.len().div_ceil(threads).max(1);
    let work: Vec<JoinHandle<_>> = missing
        .chunks(share)
        .map(|users| {
            let users = users.to_vec();
            tokio::task::spawn_blocking(move || users.iter().map(with_verifier).collect::<Vec<_>>())
        })
        .collect();
    for share in work {
        // A share is lost only when the process ends.
        for user in share.await.unwrap_or_default() {
            config.users.insert(user.name.clone(), Arc::new(user));
        }
    }
    config
}

/// An empty password is none, as in `PostgreSQL`.
fn is_plain(password: &str) -> bool {
    !password.is_empty() && matches!(Stored::of(password), Stored::Plain(_))
}

fn with_verifier(user: &Arc<User>) -> User {
    let mut user = User::clone(user);
    match clock::dice() {
        Ok(salt) => {
            let password = user.password.0.as_bytes();
            let verifier = Verifier::derive(password, &salt[..16], ITERATIONS_DEFAULT);
            user.verifier = Some(Password(verifier.to_string()));
        }
        Err(error) => tracing::error!(%error, "no random numbers for a verifier"),
    }
    user
}

/// Whether an address has to be asked for.
fn is_name(node: &Node) -> bool {
    !node.address.starts_with('/') && node.address.parse::<SocketAddr>().is_err()
}

/// Looks up the nodes that are given by name. A name that cannot be resolved just now keeps the
/// addresses it had.
pub(super) async fn names(config: Config, old: Option<&Config>) -> Config {
    let nodes = config.clusters.iter().flat_map(|cluster| &cluster.nodes);
    let lookups: BTreeMap<String, _> = nodes
        .filter(|node| is_name(node))
        .map(|node| (node.address.clone(), tokio::task::spawn_local(look_up(node.address.clone()))))
        .collect();
    if lookups.is_empty() {
        return config;
    }
    let mut found = BTreeMap::new();
    for (address, lookup) in lookups {
        let before = known(&config, &address).or_else(|| known(old?, &address)).unwrap_or_default();
        let now = lookup.await.unwrap_or_default();
        found.insert(address, choose(before, now));
    }
    replace(config, &found)
}

/// The addresses of a name: empty if there is no answer.
async fn look_up(address: String) -> Vec<Address> {
    match tokio::time::timeout(NAMES_MAX, tokio::net::lookup_host(&address)).await {
        Ok(Ok(addresses)) => addresses.map(Address::Tcp).collect(),
        Ok(Err(error)) => {
            tracing::warn!(%address, %error, "a node's name cannot be resolved");
            Vec::new()
        }
        Err(_late) => {
            tracing::warn!(%address, "a node's name is not resolved in {NAMES_MAX:?}");
            Vec::new()
        }
    }
}

/// What a config knows of an address.
fn known(config: &Config, address: &str) -> Option<Vec<Address>> {
    let mut nodes = config.clusters.iter().flat_map(|cluster| &cluster.nodes);
    let node = nodes.find(|node| node.address == address && !node.resolved.is_empty())?;
    Some(node.resolved.clone())
}

/// Name servers give the same addresses in another order each time; that is no change.
fn choose(before: Vec<Address>, now: Vec<Address>) -> Vec<Address> {
    let same = before.len() == now.len() && now.iter().all(|address| before.contains(address));
    if now.is_empty() || same { before } else { now }
}

/// The config with these addresses in place of the old ones, in clusters and in databases.
fn replace(mut config: Config, found: &BTreeMap<String, Vec<Address>>) -> Config {
    let mut renewed = BTreeMap::new();
    for cluster in &mut config.clusters {
        let node = |node: &Node| {
            let resolved = found.get(&node.address).unwrap_or(&node.resolved).clone();
            Node { resolved, ..node.clone() }
        };
        let nodes: Vec<_> = cluster.nodes.iter().map(node).collect();
        if nodes != cluster.nodes {
            *cluster = Arc::new(Cluster { nodes, ..Cluster::clone(cluster) });
        }
        renewed.insert(cluster.name.clone(), Arc::clone(cluster));
    }
    for database in &mut config.databases {
        if let Some(cluster) = renewed.get(&database.cluster.name)
            && !Arc::ptr_eq(cluster, &database.cluster)
        {
            let cluster = Arc::clone(cluster);
            *database = Arc::new(Database { cluster, ..Database::clone(database) });
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::{Stored, prepare};
    use crate::control::file::tests::text;
    use pgring_logic::config::{Config, parse};

    fn config(address: &str, users: &str) -> Config {
        parse(&text(address, ""), &mut |_path| Ok(users.to_owned())).unwrap()
    }

    #[test]
    fn names_get_addresses_and_passwords_get_verifiers() {
        let users = "\"alice\" \"secret\"\n\"bob\" \"md5c4ca4238a0b923820dcc509a6f75849b\"\n";
        tokio_uring::start(async {
            let first = prepare(config("localhost:5432", users), None).await;
            let verifier = first.users["alice"].verifier.clone().unwrap();
            assert!(matches!(Stored::of(&verifier.0), Stored::Scram(it) if it.verify(b"secret")));
            assert!(first.users["bob"].verifier.is_none(), "md5 gives no verifier");
            assert!(!first.clusters[0].nodes[0].resolved.is_empty());
            assert_eq!(first.databases[0].cluster, first.clusters[0]);

            let again = prepare(config("localhost:5432", users), Some(&first)).await;
            assert_eq!(again, first, "the same file gives the same snapshot");
        });
    }

    #[test]
    fn a_name_nobody_knows_keeps_its_old_addresses() {
        tokio_uring::start(async {
            let mut first = config("nobody.invalid:5432", "");
            let local = config("127.0.0.1:5432", "").clusters[0].nodes[0].resolved.clone();
            let found = [("nobody.invalid:5432".to_owned(), local.clone())].into();
            first = super::replace(first, &found);
            let again = prepare(config("nobody.invalid:5432", ""), Some(&first)).await;
            assert_eq!(again.databases[0].cluster.nodes[0].resolved, local);
        });
    }
}
