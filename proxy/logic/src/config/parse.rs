//! From the text of the file to a checked [`Config`]; every error, not only the first.

use crate::config::error::Errors;
use crate::config::table::{At, Table};
use crate::config::{
    Auth, AuthMethod, Cluster, Config, ConfigError, Database, Limits, Node, Password, PoolMode,
    PoolSettings, Routing, Users, address, failover, listeners, monitor, pool, routing, users,
};
use crate::time::Duration;
use crate::topology::horizon::Horizon;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::DeTable;

/// How often something is written on a primary that may be replaced.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// Database names that mean the console.
const CONSOLE: [&str; 2] = ["pgring", "pgbouncer"];

/// Reads the users file: the path as written in, its text or what went wrong out.
type ReadUsers<'a> = dyn FnMut(&Path) -> Result<String, String> + 'a;

/// Checks the text of a configuration file.
pub(super) fn config(text: &str, users: &mut ReadUsers<'_>) -> Result<Config, Vec<ConfigError>> {
    let mut errors = Errors::new(text);
    let (table, broken) = DeTable::parse_recoverable(text);
    for error in &broken {
        let line = error.span().map_or(0, |span| errors.line(&span));
        errors.push(line, "", error.message().trim());
    }
    if !errors.is_empty() {
        // What could be read of a broken text would bring errors that are none.
        return Err(errors.into_list());
    }
    let mut top = Table::new(0, String::new(), table.into_inner(), &errors);
    let mut config = Config::default();
    listeners::listeners(&mut config, &mut top, &mut errors);
    if let Some(list) = top.texts("admin_users", &mut errors) {
        config.admin_users = list.value.into_iter().map(|user| user.value).collect();
    }
    if let Some(list) = top.texts("stats_users", &mut errors) {
        config.stats_users = list.value.into_iter().map(|user| user.value).collect();
    }
    let table = top.table("auth", &mut errors);
    config.users = auth(&mut config.auth, table, users, &mut errors);
    if let Some(table) = top.table("limits", &mut errors) {
        limits(&mut config.limits, table, &mut errors);
    }
    if let Some(table) = top.table("pool", &mut errors) {
        pool::lay_over(&mut config.pool, table, &mut errors);
    }
    if let Some(table) = top.table("routing", &mut errors) {
        routing::lay_over(&mut config.routing, table, &mut errors);
    }
    if let Some(table) = top.table("monitor", &mut errors) {
        monitor::lay_over(&mut config.monitor, table, &config.users, &mut errors);
    }
    let tables = top.tables("clusters", &mut errors);
    config.clusters = clusters(tables.unwrap_or_default(), &mut errors);
    let tables = top.tables("databases", &mut errors);
    let settings = (&config.pool, &config.routing);
    config.databases = databases(tables, &config.clusters, settings, &mut errors);
    routes(&config, &mut errors);
    failovers(&mut config, &mut errors);
    top.finish(&mut errors);
    if errors.is_empty() { Ok(config) } else { Err(errors.into_list()) }
}

fn auth(
    auth: &mut Auth,
    table: Option<Table<'_>>,
    read: &mut ReadUsers<'_>,
    errors: &mut Errors,
) -> Users {
    let mut users = Users::new();
    let (mut line, mut told) = (0, false);
    if let Some(mut table) = table {
        line = table.line;
        let methods = [
            ("trust", AuthMethod::Trust),
            ("password", AuthMethod::Password),
            ("md5", AuthMethod::Md5),
            ("scram-sha-256", AuthMethod::ScramSha256),
        ];
        table.choice("method", &methods, &mut auth.method, errors);
        let min = Duration::from_millis(10);
        table.time("login_timeout", min, &mut auth.login_timeout, errors);
        let before = errors.len();
        if let Some(At { line, value }) = table.name_of("users_file", errors) {
            users = read_users(line, &value, read, errors);
            auth.users_file = Some(PathBuf::from(value));
        }
        told = errors.len() > before;
        table.finish(errors);
    }
    if auth.users_file.is_none() && auth.method != AuthMethod::Trust && !told {
        let message = "missing; without it nobody can log in, unless method is \"trust\"";
        errors.push(line, "auth.users_file", message);
    }
    users
}

fn read_users(line: usize, path: &str, read: &mut ReadUsers<'_>, errors: &mut Errors) -> Users {
    let key = "auth.users_file";
    let text = match read(Path::new(path)) {
        Ok(text) => text,
        Err(message) => {
            errors.push(line, key, format!("{path:?} cannot be read: {message}"));
            return Users::new();
        }
    };
    users::parse(&text).unwrap_or_else(|list| {
        for error in list {
            errors.push(line, key, format!("{path:?}, {error}"));
        }
        Users::new()
    })
}

fn limits(limits: &mut Limits, mut table: Table<'_>, errors: &mut Errors) {
    table.number("clients_max", 1..=1_000_000, &mut limits.clients_max, errors);
    table.bytes("statement_bytes_max", 1..=64 * 1024, &mut limits.statement_bytes_max, errors);
    table.number("buffers", 8..=32_768, &mut limits.buffers, errors);
    if !limits.buffers.is_power_of_two() {
        let message = format!("{} is no power of two", limits.buffers);
        table.blame(table.line, "buffers", message, errors);
    }
    table.finish(errors);
}

fn clusters(tables: Vec<Table<'_>>, errors: &mut Errors) -> Vec<Arc<Cluster>> {
    let mut clusters: Vec<Arc<Cluster>> = Vec::new();
    if tables.is_empty() {
        errors.push(0, "clusters", "missing; name at least one, under [[clusters]]");
    }
    for mut table in tables {
        let At { line, value: name } = required("name", &mut table, errors);
        if clusters.iter().any(|cluster| !name.is_empty() && cluster.name == name) {
            table.blame(line, "name", format!("{name:?} is there twice"), errors);
        }
        let tables = table.tables("nodes", errors).unwrap_or_default();
        let mut nodes: Vec<Node> = Vec::new();
        if tables.is_empty() {
            let message = "missing; name at least one, under [[clusters.nodes]]";
            table.blame(table.line, "nodes", message, errors);
        }
        for table in tables {
            let line = table.line;
            let node = node(table, errors);
            if nodes.iter().any(|other| !node.name.is_empty() && other.name == node.name) {
                let message = format!("{:?} is there twice", node.name);
                errors.push(line, "clusters.nodes.name", message);
            }
            nodes.push(node);
        }
        let failover = table.table("failover", errors);
        let failover = failover.and_then(|table| failover::read(table, &nodes, errors));
        table.finish(errors);
        let failover = failover.map(Arc::new);
        clusters.push(Arc::new(Cluster { name, nodes, failover, horizon: Horizon::default() }));
    }
    clusters
}

/// As `HAProxy` has it.
const WEIGHT_MAX: i64 = 256;
/// The largest `priority`.
const PRIORITY_MAX: i64 = 100;

fn node(mut table: Table<'_>, errors: &mut Errors) -> Node {
    let name = required("name", &mut table, errors);
    let At { line, value } = required("address", &mut table, errors);
    let mut node = Node::new(&name.value, &value, Vec::new());
    table.number("weight", 0..=WEIGHT_MAX, &mut node.weight, errors);
    node.zone = table.text("zone", errors).map(|zone| zone.value).unwrap_or_default();
    table.number("priority", 0..=PRIORITY_MAX, &mut node.priority, errors);
    node.peer_address = table.text("peer_address", errors).map(|at| at.value).unwrap_or_default();
    if !node.address.is_empty() {
        match address::node(&node.address) {
            Ok(resolved) => node.resolved = resolved,
            Err(message) => table.blame(line, "address", message, errors),
        }
    }
    table.finish(errors);
    node
}

fn databases(
    tables: Option<Vec<Table<'_>>>,
    clusters: &[Arc<Cluster>],
    (pool, routing): (&PoolSettings, &Routing),
    errors: &mut Errors,
) -> Vec<Arc<Database>> {
    let mut databases: Vec<Arc<Database>> = Vec::new();
    let Some(tables) = tables.filter(|tables| !tables.is_empty()) else {
        if let [cluster] = clusters {
            let mut any = any_database(cluster);
            any.pool = pool.clone();
            any.routing = routing.clone();
            databases.push(Arc::new(any));
        } else if !clusters.is_empty() {
            let message = "missing; with several clusters each database names its own";
            errors.push(0, "databases", message);
        }
        return databases;
    };
    for table in tables {
        let line = table.line;
        let settings = (pool.clone(), routing.clone());
        let database = database(table, clusters, settings, errors);
        let name = &database.name;
        if databases.iter().any(|other| !name.is_empty() && other.name == *name) {
            errors.push(line, "databases.name", format!("{name:?} is there twice"));
        }
        databases.push(Arc::new(database));
    }
    databases
}

/// What replicas need to get reads.
fn routes(config: &Config, errors: &mut Errors) {
    let routed = |database: &&Arc<Database>| database.routing.reads.leave();
    let mut routed = config.databases.iter().filter(routed);
    if config.monitor.user.is_none() && routed.clone().next().is_some() {
        let message =
            "missing; routing.reads other than \"primary\" needs to know where nodes stand";
        errors.push(0, "monitor.user", message);
    } else if config.monitor.user.is_none() && !config.listen_readonly.is_empty() {
        let message = "missing; listen_readonly needs to know where nodes stand";
        errors.push(0, "monitor.user", message);
    }
    if let Some(database) = routed.find(|database| database.pool.mode == PoolMode::Session) {
        let message = format!(
            "only \"primary\" has an effect on {:?}, whose pool.mode is \"session\"",
            database.name
        );
        errors.push(0, "routing.reads", message);
    }
}

/// What a machine that decides on primaries needs.
fn failovers(config: &mut Config, errors: &mut Errors) {
    if !config.clusters.iter().any(|cluster| cluster.failover.is_some()) {
        return;
    }
    if config.monitor.user.is_none() {
        let message = "missing; clusters.failover needs to know how nodes are";
        errors.push(0, "monitor.user", message);
    }
    if config.monitor.heartbeat.is_zero() {
        // Nothing else tells that a disk hangs.
        config.monitor.heartbeat = HEARTBEAT;
    }
}

fn any_database(cluster: &Arc<Cluster>) -> Database {
    Database {
        name: "*".to_owned(),
        cluster: Arc::clone(cluster),
        dbname: None,
        user: None,
        password: None,
        pool: PoolSettings::default(),
        routing: Routing::default(),
    }
}

fn database(
    mut table: Table<'_>,
    clusters: &[Arc<Cluster>],
    (mut settings, mut route): (PoolSettings, Routing),
    errors: &mut Errors,
) -> Database {
    let At { line, value: name } = required("name", &mut table, errors);
    if CONSOLE.contains(&name.as_str()) {
        table.blame(line, "name", format!("{name:?} is the console"), errors);
    }
    let cluster = cluster(&mut table, clusters, errors);
    // A database without a cluster is an error already told; it goes on for the errors after it.
    let nowhere = || Arc::new(Cluster::new("", Vec::new()));
    let mut database = Database { name, ..any_database(&cluster.unwrap_or_else(nowhere)) };
    database.dbname = table.name_of("dbname", errors).map(|at| at.value);
    database.user = table.name_of("user", errors).map(|at| at.value);
    if let Some(At { line, value }) = table.name_of("password", errors) {
        if database.user.is_none() {
            table.blame(line, "password", "there is no user to go with it", errors);
        }
        database.password = Some(Password(value));
    }
    if let Some(table) = table.table("pool", errors) {
        pool::lay_over(&mut settings, table, errors);
    }
    if let Some(table) = table.table("routing", errors) {
        routing::lay_over(&mut route, table, errors);
    }
    database.pool = settings;
    database.routing = route;
    table.finish(errors);
    database
}

fn cluster(
    table: &mut Table<'_>,
    clusters: &[Arc<Cluster>],
    errors: &mut Errors,
) -> Option<Arc<Cluster>> {
    let Some(At { line, value }) = table.text("cluster", errors) else {
        if let [cluster] = clusters {
            return Some(Arc::clone(cluster));
        }
        if !clusters.is_empty() {
            table.blame(table.line, "cluster", "missing; there are several clusters", errors);
        }
        return None;
    };
    let found = clusters.iter().find(|cluster| cluster.name == value);
    if found.is_none() {
        let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        let message = format!("unknown cluster {value:?}; there is {}", names.join(", "));
        table.blame(line, "cluster", message, errors);
    }
    found.cloned()
}

/// A text that must be there; empty if it is not, which is then an error already told.
fn required(key: &'static str, table: &mut Table<'_>, errors: &mut Errors) -> At<String> {
    let before = errors.len();
    let text = table.name_of(key, errors);
    if text.is_none() && errors.len() == before {
        table.blame(table.line, key, "missing", errors);
    }
    text.unwrap_or(At { line: table.line, value: String::new() })
}

#[cfg(test)]
mod tests {
    use crate::action::Address;
    use crate::config::{Auth, AuthMethod, Config, PoolMode, PoolSettings, parse};
    use crate::time::Duration;

    const REFERENCE: &str = include_str!("../../../../config/pgring.toml");
    const MINIMAL: &str = include_str!("../../../../config/minimal.toml");
    const USERS: &str = include_str!("../../../../config/userlist.txt");

    const ONE: &str = "auth.method = \"trust\"\n\
        [[clusters]]\nname = \"main\"\n[[clusters.nodes]]\nname = \"pg1\"\n\
        address = \"127.0.0.1:5432\"\n";

    fn check(text: &str) -> Config {
        parse(text, &mut |_| Ok(USERS.to_owned())).unwrap_or_else(|list| panic!("{list:?}"))
    }

    fn errors(text: &str) -> Vec<String> {
        let Err(list) = parse(text, &mut |_| Err("no such file".to_owned())) else {
            panic!("passed: {text}");
        };
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shipped_reference_says_what_holds_without_it() {
        let config = check(REFERENCE);
        let defaults = Config {
            auth: Auth { users_file: Some("userlist.txt".into()), ..Auth::default() },
            clusters: config.clusters.clone(),
            databases: config.databases.clone(),
            users: config.users.clone(),
            ..Config::default()
        };
        assert_eq!(config, defaults);
        assert_eq!(config.databases.len(), 1);
        let database = &config.databases[0];
        assert_eq!(database.name, "*");
        assert_eq!(database.pool, PoolSettings::default());
        assert_eq!(config.users.len(), 3);
    }

    #[test]
    fn every_key_stands_in_the_shipped_reference() {
        // What is off by default stands there commented out.
        let mut text = REFERENCE.replace("\n# [[routing.rules]]", "\n[[routing.rules]]");
        let rule = ["application_name", "route"];
        let off = ["unix_socket_dir", "http", "dbname", "user", "password"];
        for key in off.into_iter().chain(rule) {
            let off = format!("\n# {key} = ");
            assert!(text.contains(&off), "{key}");
            text = text.replace(&off, &format!("\n{key} = "));
        }
        let config = check(&text);
        assert!(config.http.is_some() && config.unix_socket_dir.is_some());
        assert!(config.databases[0].password.is_some() && config.monitor.password.is_some());
        assert_eq!(config.routing.rules.len(), 1);
        let keys = text.lines().filter_map(|line| line.split_once(" = ")).count();
        assert_eq!(keys, 10 + 3 + 3 + 23 + 11 + 3 + 12 + 1 + 6 + 2 - 3 + 3, "a key came or went");
    }

    #[test]
    fn a_minimal_file_serves_any_database_of_its_cluster() {
        let config = check(MINIMAL);
        let database = config.database("anything").expect("the * entry");
        assert_eq!(database.cluster, config.clusters[0]);
        let address = "127.0.0.1:5432".parse().expect("an address");
        assert_eq!(database.cluster.nodes[0].resolved, [Address::Tcp(address)]);
    }

    #[test]
    fn a_database_overrides_what_it_names_and_inherits_the_rest() {
        let text = format!(
            "{ONE}[pool]\nmode = \"session\"\nquery_wait_timeout = \"1m30s\"\n\
             client_idle_timeout = \"off\"\nquery_timeout = 0\nprepared_bytes = \"64KiB\"\n\
             [[databases]]\nname = \"shop\"\ndbname = \"shop_v2\"\nuser = \"app\"\n\
             password = \"x\"\n[databases.pool]\nsize = 3\n[[databases]]\nname = \"*\"\n"
        );
        let config = check(&text);
        let shop = config.database("shop").expect("its own entry");
        assert_eq!((shop.pool.size, shop.pool.mode), (3, PoolMode::Session));
        assert_eq!(shop.pool.query_wait_timeout, Duration::from_secs(90));
        assert_eq!(shop.pool.prepared_bytes, 65_536);
        assert_eq!(shop.dbname.as_deref(), Some("shop_v2"));
        assert_eq!(config.database("other").map(|other| other.pool.size), Some(20));
        assert_eq!(config.auth.method, AuthMethod::Trust);
    }

    #[test]
    fn a_mistyped_key_is_named_with_its_line_and_what_was_meant() {
        let text = format!(
            "wokers = 2\n{ONE}[pool]\nszie = 5\nmode = \"transactoin\"\n\
             default_pool_size = 9\nsize = \"5\"\nquery_wait_timeout = 15\n\
             server_lifetime = \"1 fortnight\"\nserver_connect_timeout = \"off\"\n\
             prepared_bytes = \"1KiB\"\nmin_size = 70000\n"
        );
        assert_eq!(
            errors(&text),
            [
                "line 1: wokers: unknown key; did you mean \"workers\"?",
                "line 9: pool.szie: unknown key; did you mean \"size\"?",
                "line 10: pool.mode: unknown value \"transactoin\"; did you mean \"transaction\"?",
                "line 11: pool.default_pool_size: unknown key; here it is pool.size",
                "line 12: pool.size: invalid type: string \"5\", expected a whole number",
                "line 13: pool.query_wait_timeout: 15 needs a unit, as in \"15s\"",
                "line 14: pool.server_lifetime: \"1 fortnight\" is no time; write it as in \
                 \"200ms\", \"15s\", \"10m\", \"1h\"",
                "line 15: pool.server_connect_timeout: cannot be switched off",
                "line 16: pool.prepared_bytes: \"1KiB\" is not in 64KiB to 1048576KiB",
                "line 17: pool.min_size: 70000 is not in 0 to 65535",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_together_is_refused_whole() {
        let text = "listen = []\n[auth]\nusers_file = \"users\"\n[[clusters]]\nname = \"a\"\n\
            [[clusters]]\nname = \"a\"\n[[clusters.nodes]]\nname = \"n\"\naddress = \"n:0\"\n\
            [[clusters.nodes]]\nname = \"n\"\n[[databases]]\nname = \"d\"\ncluster = \"b\"\n\
            [[databases]]\nname = \"d\"\npassword = \"p\"\n[[databases]]\nname = \"pgbouncer\"\n\
            cluster = \"a\"\n[databases.pool]\nsize = 2\nmin_size = 3\n";
        assert_eq!(
            errors(text),
            [
                "line 1: listen: is empty, and there is no unix_socket_dir either",
                "line 3: auth.users_file: \"users\" cannot be read: no such file",
                "line 4: clusters.nodes: missing; name at least one, under [[clusters.nodes]]",
                "line 7: clusters.name: \"a\" is there twice",
                "line 10: clusters.nodes.address: expected host:port, found \"n:0\"; \
                 port 0 cannot be connected to",
                "line 11: clusters.nodes.address: missing",
                "line 11: clusters.nodes.name: \"n\" is there twice",
                "line 15: databases.cluster: unknown cluster \"b\"; there is a, a",
                "line 16: databases.cluster: missing; there are several clusters",
                "line 16: databases.name: \"d\" is there twice",
                "line 18: databases.password: there is no user to go with it",
                "line 20: databases.name: \"pgbouncer\" is the console",
                "line 22: databases.pool.min_size: 3 is more than the size, 2",
            ]
        );
        assert_eq!(
            errors("workers = 2"),
            [
                "auth.users_file: missing; without it nobody can log in, unless method is \
                 \"trust\"",
                "clusters: missing; name at least one, under [[clusters]]",
            ]
        );
    }

    #[test]
    fn a_text_that_is_not_toml_is_refused_at_its_line() {
        let list = errors("workers = 2\n[pool\nsize = 3\n");
        assert!(list[0].starts_with("line 2: "), "{list:?}");
        assert!(errors("workers = 1\nworkers = 2\n")[0].starts_with("line 2: "));
    }
}
