//! SHOW CONFIG, DATABASES and USERS: what the operator has said, without the secrets.

use crate::action::Address;
use crate::admin::show::{Cell, Column, int, mode, number, text, word};
use crate::admin::world::World;
use crate::config::{
    AuthMethod, Config, Consistency, Database, Fallback, Node, Pattern, Reads, Route, Rule,
};
use crate::time::Duration;
use std::collections::BTreeSet;

pub(crate) const CONFIG: [Column; 4] =
    [text("key"), text("value"), text("default"), text("changeable")];

pub(crate) const DATABASES: [Column; 18] = [
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
    text("cluster"),
];

pub(crate) const USERS: [Column; 8] = [
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

/// How a setting is read from a config.
type Read = fn(&Config) -> String;

/// The settings of the process, and whether a reload changes them.
const PROCESS: [(&str, bool, Read); 32] = [
    ("workers", false, |config| config.workers.to_string()),
    ("listen", false, |config| config.listen.join(", ")),
    ("listen_readonly", false, |config| config.listen_readonly.join(", ")),
    ("unix_socket_dir", false, |config| path(config.unix_socket_dir.as_ref())),
    ("http", false, |config| config.http.clone().unwrap_or_default()),
    ("admin_users", true, |config| config.admin_users.join(", ")),
    ("stats_users", true, |config| config.stats_users.join(", ")),
    ("auth.method", true, |config| method(config.auth.method).to_owned()),
    ("auth.users_file", true, |config| path(config.auth.users_file.as_ref())),
    ("auth.login_timeout", true, |config| span(config.auth.login_timeout)),
    ("limits.clients_max", true, |config| config.limits.clients_max.to_string()),
    ("limits.statement_bytes_max", true, |config| config.limits.statement_bytes_max.to_string()),
    ("limits.buffers", false, |config| config.limits.buffers.to_string()),
    ("routing.reads", true, |config| reads(config.routing.reads).to_owned()),
    ("routing.leading_reads", true, |config| reads(config.routing.leading_reads).to_owned()),
    ("routing.consistency", true, |config| consistency(config.routing.consistency).to_owned()),
    ("routing.lag_max", true, |config| span(config.routing.lag_max)),
    ("routing.lag_bytes_max", true, |config| config.routing.lag_bytes_max.to_string()),
    ("routing.read_wait_max", true, |config| span(config.routing.read_wait_max)),
    ("routing.fallback", true, |config| fallback(config.routing.fallback).to_owned()),
    ("routing.slow_start", true, |config| span(config.routing.slow_start)),
    ("routing.zone", true, |config| config.routing.zone.clone()),
    ("routing.functions_read", true, |config| list(&config.routing.functions_read)),
    ("routing.functions_write", true, |config| list(&config.routing.functions_write)),
    ("routing.rules", true, |config| rules(&config.routing.rules)),
    ("monitor.user", true, |config| config.monitor.user.clone().unwrap_or_default()),
    ("monitor.database", true, |config| config.monitor.database.clone()),
    ("monitor.interval", true, |config| span(config.monitor.interval)),
    ("monitor.interval_busy", true, |config| span(config.monitor.interval_busy)),
    ("monitor.timeout", true, |config| span(config.monitor.timeout)),
    ("max_client_conn", true, |config| config.limits.clients_max.to_string()),
    ("default_pool_size", true, |config| config.pool.size.to_string()),
];

/// The settings of pools; all of them change at a reload.
const POOL: [(&str, Read); 23] = [
    ("pool.mode", |config| mode(config.pool.mode).to_owned()),
    ("pool.size", |config| config.pool.size.to_string()),
    ("pool.size_min", |config| config.pool.size_min.to_string()),
    ("pool.reserve_size", |config| config.pool.reserve_size.to_string()),
    ("pool.reserve_timeout", |config| span(config.pool.reserve_timeout)),
    ("pool.waiting_max", |config| config.pool.waiting_max.to_string()),
    ("pool.database_clients_max", |config| config.pool.database_clients_max.to_string()),
    ("pool.user_clients_max", |config| config.pool.user_clients_max.to_string()),
    ("pool.database_servers_max", |config| config.pool.database_servers_max.to_string()),
    ("pool.user_servers_max", |config| config.pool.user_servers_max.to_string()),
    ("pool.query_wait_timeout", |config| span(config.pool.query_wait_timeout)),
    ("pool.server_lifetime", |config| span(config.pool.server_lifetime)),
    ("pool.server_idle_timeout", |config| span(config.pool.server_idle_timeout)),
    ("pool.server_connect_timeout", |config| span(config.pool.server_connect_timeout)),
    ("pool.server_login_retry", |config| span(config.pool.server_login_retry)),
    ("pool.client_idle_timeout", |config| span(config.pool.client_idle_timeout)),
    ("pool.idle_transaction_timeout", |config| span(config.pool.idle_transaction_timeout)),
    ("pool.query_timeout", |config| span(config.pool.query_timeout)),
    ("pool.client_write_timeout", |config| span(config.pool.client_write_timeout)),
    ("pool.prepared_statements", |config| config.pool.prepared_statements.to_string()),
    ("pool.prepared_bytes", |config| config.pool.prepared_bytes.to_string()),
    ("pool.server_reset_query", |config| config.pool.server_reset_query.clone()),
    ("pool.server_keepalive", |config| config.pool.server_keepalive.to_string()),
];

fn path(path: Option<&std::path::PathBuf>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}

fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn reads(reads: Reads) -> &'static str {
    match reads {
        Reads::Primary => "primary",
        Reads::Replicas => "replicas",
        Reads::All => "all",
    }
}

fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Strict => "strict",
        Consistency::Session => "session",
        Consistency::Eventual => "eventual",
    }
}

/// As in `user=billing application_name=metabase*: primary`.
fn rules(rules: &[Rule]) -> String {
    let pattern = |name: &str, pattern: &Option<Pattern>| {
        pattern.as_ref().map(|Pattern { text, open }| {
            let star = if *open { "*" } else { "" };
            format!("{name}={text}{star}")
        })
    };
    let rule = |rule: &Rule| {
        let user = pattern("user", &rule.user);
        let name = pattern("application_name", &rule.application_name);
        let whose: Vec<_> = [user, name].into_iter().flatten().collect();
        let route = match rule.route {
            Route::Auto => "auto",
            Route::Primary => "primary",
            Route::Replica => "replica",
        };
        format!("{}: {route}", whose.join(" "))
    };
    rules.iter().map(rule).collect::<Vec<_>>().join(", ")
}

fn fallback(fallback: Fallback) -> &'static str {
    match fallback {
        Fallback::Primary => "primary",
        Fallback::Error => "error",
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn method(method: AuthMethod) -> &'static str {
    match method {
        AuthMethod::Trust => "trust",
        AuthMethod::Password => "password",
        AuthMethod::Md5 => "md5",
        AuthMethod::ScramSha256 => "scram-sha-256",
    }
}

pub(crate) fn config(world: &World<'_>) -> Vec<Vec<Cell>> {
    let pool = POOL.iter().map(|&(key, read)| (key, true, read));
    let all = PROCESS.iter().copied().chain(pool);
    all.map(|(key, changeable, read)| {
        let changeable = if changeable { "yes" } else { "no" };
        vec![word(key), word(read(world.config)), word(read(world.defaults)), word(changeable)]
    })
    .collect()
}

/// The host and the port of a node's address as it is written in the file.
pub(crate) fn host_and_port(address: &str) -> (String, u16) {
    let split = address.rsplit_once(':');
    let parsed = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parsed.unwrap_or((address, 5432));
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
}

/// How many different host names the nodes have.
pub(crate) fn host_names(config: &Config) -> usize {
    let nodes = config.clusters.iter().flat_map(|cluster| &cluster.nodes);
    let hosts: BTreeSet<String> = nodes.map(|node| host_and_port(&node.address).0).collect();
    let literal = |host: &String| host.starts_with('/') || host.parse::<std::net::IpAddr>().is_ok();
    hosts.iter().filter(|host| !literal(host)).count()
}

/// What a node's address was resolved to.
pub(crate) fn resolved(node: &Node) -> String {
    let text = |address: &Address| match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => path.display().to_string(),
    };
    node.resolved.iter().map(text).collect::<Vec<_>>().join(", ")
}

pub(crate) fn databases(world: &World<'_>) -> Vec<Vec<Cell>> {
    let config = world.config;
    let configured = config.databases.iter().map(|database| (database.name.clone(), database));
    let mut seen: BTreeSet<String> = configured.clone().map(|(name, _)| name).collect();
    let mut rows: Vec<_> =
        configured.map(|(name, database)| database_row(world, name, database)).collect();
    // Those that live under the `*` entry.
    for key in world.pools().into_keys() {
        let name = key.database.to_string();
        if let Some(database) = config.database(&name)
            && seen.insert(name.clone())
        {
            rows.push(database_row(world, name, database));
        }
    }
    rows
}

fn database_row(world: &World<'_>, name: String, database: &Database) -> Vec<Cell> {
    let places: Vec<_> =
        database.cluster.nodes.iter().map(|node| host_and_port(&node.address)).collect();
    let hosts = places.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>().join(",");
    let pools = world.pools();
    let mut mine = pools.values().filter(|pool| *pool.pool.database == *name);
    let paused = mine.any(|pool| pool.paused);
    let servers = world.servers().filter(|server| *server.pool.database == *name).count();
    let clients = world.reports.iter().flat_map(|report| &report.clients);
    let clients = clients.filter(|client| client.database == name).count();
    let own_mode = database.pool.mode != world.config.pool.mode;
    vec![
        word(name.clone()),
        word(hosts),
        number(places.first().map_or(5432, |(_, port)| *port)),
        word(database.dbname.clone().unwrap_or(name)),
        database.user.clone(),
        number(database.pool.size),
        number(database.pool.size_min),
        number(database.pool.reserve_size),
        number(database.pool.server_lifetime.as_secs()),
        own_mode.then(|| mode(database.pool.mode).to_owned()),
        None,
        number(database.pool.database_servers_max),
        number(servers),
        number(database.pool.database_clients_max),
        number(clients),
        number(u64::from(paused)),
        number(0u64),
        word(&*database.cluster.name),
    ]
}

pub(crate) fn users(world: &World<'_>) -> Vec<Vec<Cell>> {
    let limits = &world.config.pool;
    let clients = || world.reports.iter().flat_map(|report| &report.clients);
    let mut names: BTreeSet<&str> = world.config.users.keys().map(String::as_str).collect();
    names.extend(clients().map(|client| client.user.as_str()));
    names
        .into_iter()
        .map(|name| {
            let servers = world.servers().filter(|server| &*server.pool.user == name).count();
            vec![
                word(name),
                word(""),
                word(""),
                None,
                number(limits.user_servers_max),
                number(servers),
                number(limits.user_clients_max),
                number(clients().filter(|client| client.user == name).count()),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{config, databases, host_and_port, users};
    use crate::admin::stats::Window;
    use crate::admin::world::tests::{reports, sample, world};

    #[test]
    fn addresses_are_split_as_operators_write_them() {
        for (address, host, port) in [
            ("pg1:5433", "pg1", 5433),
            ("[::1]:5433", "::1", 5433),
            ("/run/postgresql", "/run/postgresql", 5432),
            ("/run/postgresql:5499", "/run/postgresql", 5499),
        ] {
            assert_eq!(host_and_port(address), (host.to_owned(), port));
        }
    }

    #[test]
    fn databases_under_the_star_are_listed_once_they_are_used() {
        let (sample, reports, window) = (sample(), reports(), Window::default());
        let rows = databases(&world(&sample, &reports, &window));
        let names: Vec<_> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(names, ["shop", "*", "logs"]);
        assert_eq!((rows[0][3].as_deref(), rows[0][12].as_deref()), (Some("store"), Some("1")));
    }

    #[test]
    fn no_answer_carries_a_password() {
        let (sample, reports, window) = (sample(), reports(), Window::default());
        let world = world(&sample, &reports, &window);
        for row in [config(&world), databases(&world), users(&world)].concat() {
            assert!(!format!("{row:?}").contains("hunter2"), "{row:?}");
        }
        assert!(users(&world).len() == 2, "from the file, and who is here");
    }
}
