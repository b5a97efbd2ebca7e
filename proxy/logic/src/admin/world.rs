//! What SHOW looks at: the reports of all lanes, merged by pool.

use crate::admin::events::Events;
use crate::admin::stats::Window;
use crate::config::{Config, Node};
use crate::failover::Failover;
use crate::id::PoolKey;
use crate::mail::{PoolReport, Report, ServerReport, Stats};
use crate::time::{Duration, Instant};
use crate::topology::Topology;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// What the process is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Serving.
    Active,
    /// PAUSE without a database was said.
    Paused,
    /// On the way to its end.
    Stopping,
}

/// Everything an answer is made of.
#[derive(Debug)]
pub struct World<'a> {
    /// The snapshot that is in force.
    pub config: &'a Config,
    /// What the config would be if the file said nothing.
    pub defaults: &'a Config,
    /// What the lanes said.
    pub reports: &'a [Report],
    /// Totals of earlier times, for averages.
    pub window: &'a Window,
    /// Where the nodes stand.
    pub topology: &'a Topology,
    /// What has happened to them.
    pub events: &'a Events,
    /// The clusters whose primaries are decided on here.
    pub failovers: &'a [&'a Failover],
    /// When the reports were asked for.
    pub now: Instant,
    /// `now` since 1970.
    pub unix: Duration,
    /// The version of pgring.
    pub version: &'a str,
    /// What the process is about.
    pub phase: Phase,
    /// Resident memory of the process, in bytes.
    pub memory_bytes: u64,
    /// Lanes that fell over since the start of the process.
    pub falls: u64,
}

impl World<'_> {
    /// A point of our clock as a date in UTC, to the second.
    pub fn date(&self, at: Instant) -> String {
        let unix = self.unix.saturating_sub(self.now.since(at));
        let time = SystemTime::UNIX_EPOCH.checked_add(unix).unwrap_or(SystemTime::UNIX_EPOCH);
        let text = humantime::format_rfc3339_seconds(time).to_string();
        text.replace('T', " ").replace('Z', " UTC")
    }

    /// The pools of all lanes as one.
    pub fn pools(&self) -> BTreeMap<PoolKey, PoolReport> {
        merge_pools(self.reports)
    }

    /// The node a server is connected to, as the config has it.
    pub fn node_of(&self, server: &ServerReport) -> Option<&Node> {
        let database = self.config.database(&server.pool.database)?;
        database.cluster.nodes.iter().find(|node| node.name == server.node)
    }

    /// Servers of all lanes.
    pub fn servers(&self) -> impl Iterator<Item = &ServerReport> {
        self.reports.iter().flat_map(|report| &report.servers)
    }
}

/// The pools of all lanes as one.
pub fn merge_pools(reports: &[Report]) -> BTreeMap<PoolKey, PoolReport> {
    let mut pools: BTreeMap<PoolKey, PoolReport> = BTreeMap::new();
    for pool in reports.iter().flat_map(|report| &report.pools) {
        match pools.get_mut(&pool.pool) {
            Some(sum) => add(sum, pool),
            None => drop(pools.insert(pool.pool.clone(), pool.clone())),
        }
    }
    pools
}

/// Adds what another lane says of the same pool.
fn add(sum: &mut PoolReport, lane: &PoolReport) {
    sum.clients_active += lane.clients_active;
    sum.clients_idle += lane.clients_idle;
    sum.clients_waiting += lane.clients_waiting;
    sum.clients_cancelling += lane.clients_cancelling;
    sum.servers_active += lane.servers_active;
    sum.servers_cancelling += lane.servers_cancelling;
    sum.servers_idle += lane.servers_idle;
    sum.servers_used += lane.servers_used;
    sum.servers_login += lane.servers_login;
    sum.wait_max = sum.wait_max.max(lane.wait_max);
    sum.paused |= lane.paused;
    if sum.last_error.is_none() {
        sum.last_error.clone_from(&lane.last_error);
    }
    add_stats(&mut sum.stats, &lane.stats);
}

fn add_stats(sum: &mut Stats, lane: &Stats) {
    sum.assignments += lane.assignments;
    sum.transactions += lane.transactions;
    sum.queries += lane.queries;
    sum.received_bytes += lane.received_bytes;
    sum.sent_bytes += lane.sent_bytes;
    sum.transaction_us += lane.transaction_us;
    sum.query_us += lane.query_us;
    sum.wait_us += lane.wait_us;
    sum.client_parses += lane.client_parses;
    sum.server_parses += lane.server_parses;
    sum.binds += lane.binds;
    sum.replays += lane.replays;
    sum.query_times.merge(&lane.query_times);
    sum.transaction_times.merge(&lane.transaction_times);
    sum.wait_times.merge(&lane.wait_times);
    sum.connect_times.merge(&lane.connect_times);
    sum.client_times.merge(&lane.client_times);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Phase, Window, World, merge_pools};
    use crate::admin::events::tests::ONE;
    use crate::classify::cache::Route;
    use crate::classify::classify;
    use crate::config::{
        Cluster, Config, Database, Node, Password, PoolMode, PoolSettings, Routing, User,
    };
    use crate::id::{Core, PoolKey};
    use crate::mail::{ClientReport, Peer, PoolReport, Report, ServerReport, Stats};
    use crate::time::{Duration, Instant};
    use crate::topology::Topology;
    use crate::topology::horizon::Horizon;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    /// A cluster of one node, `shop` with settings of its own, and `*`.
    pub(crate) fn sample() -> Config {
        let node = Node::new("pg1", "pg1:5433", Vec::new());
        let cluster = Arc::new(Cluster {
            name: "main".to_owned(),
            nodes: vec![node],
            failover: None,
            horizon: Horizon::default(),
        });
        let database = |name: &str, dbname: Option<&str>| {
            Arc::new(Database {
                name: name.to_owned(),
                cluster: Arc::clone(&cluster),
                dbname: dbname.map(str::to_owned),
                user: None,
                password: Some(Password("hunter2".to_owned())),
                pool: PoolSettings::default(),
                routing: Routing::default(),
            })
        };
        let mut config = Config {
            admin_users: vec!["root".to_owned()],
            stats_users: vec!["eve".to_owned()],
            databases: vec![database("shop", Some("store")), database("*", None)],
            ..Config::default()
        };
        config.clusters.push(cluster);
        let password = Password("hunter2".to_owned());
        let user = User { name: "bob".to_owned(), password, verifier: None };
        config.users.insert("bob".to_owned(), Arc::new(user));
        config
    }

    pub(crate) fn key(database: &str) -> PoolKey {
        PoolKey::new(database, "alice")
    }

    pub(crate) fn pool(database: &str, active: u32) -> PoolReport {
        PoolReport {
            pool: key(database),
            cluster: "main".to_owned(),
            mode: PoolMode::Transaction,
            clients_active: active,
            clients_idle: 0,
            clients_waiting: 1,
            clients_cancelling: 0,
            servers_active: active,
            servers_cancelling: 0,
            servers_idle: 1,
            servers_used: 0,
            servers_login: 0,
            wait_max: Duration::from_micros(u64::from(active) * 1_500_000),
            paused: false,
            last_error: None,
            stats: Stats { transactions: 100, query_us: 5_000, ..Stats::default() },
        }
    }

    pub(crate) fn client(number: u64, pins: &str) -> ClientReport {
        ClientReport {
            number,
            user: "alice".to_owned(),
            database: "shop".to_owned(),
            application_name: "psql".to_owned(),
            state: "active",
            peer: Peer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 5000),
            connected: Instant::from_nanos(1_000_000_000),
            requested: Instant::from_nanos(2_000_000_000),
            wait: Duration::from_micros(2_000_003),
            server_pid: Some(77),
            pins: pins.to_owned(),
            prepared_statements: 3,
        }
    }

    pub(crate) fn server(number: u64, client: Option<u64>) -> ServerReport {
        ServerReport {
            number,
            pool: key("shop"),
            node: "pg1".to_owned(),
            state: "active",
            connected: Instant::from_nanos(1_000_000_000),
            requested: Instant::from_nanos(2_000_000_000),
            pid: 77,
            client,
            prepared_statements: 4,
            application_name: "psql".to_owned(),
        }
    }

    /// Two lanes that share the pool of `shop`; the second has one of `logs`, too.
    pub(crate) fn route(seen: u64, moved: u64) -> Route {
        let (statement, database) = ("select a from t".to_owned(), "shop".into());
        let (class, time) = (Arc::new(classify(b"SELECT a FROM t")), Duration::from_millis(seen));
        Route { statement, database, class, refused: false, seen, moved, time }
    }

    pub(crate) fn reports() -> Vec<Report> {
        let one = Report {
            pools: vec![pool("shop", 2)],
            clients: vec![client(1, ""), client(2, "listen")],
            servers: vec![server(9, Some(2))],
            routes: vec![route(6, 3)],
            ..Report::default()
        };
        let two = Report {
            core: Core(1),
            pools: vec![pool("shop", 1), pool("logs", 4)],
            routes: vec![route(4, 4)],
            ..Report::default()
        };
        vec![one, two]
    }

    pub(crate) fn world<'a>(
        config: &'a Config,
        reports: &'a [Report],
        window: &'a Window,
    ) -> World<'a> {
        World {
            config,
            defaults: config,
            reports,
            window,
            topology: Topology::UNKNOWN,
            events: &ONE,
            failovers: &*crate::admin::topology::tests::ALL,
            now: Instant::from_nanos(10_000_000_000),
            unix: Duration::from_secs(1_800_000_010),
            version: "pgring 0.1.0",
            phase: Phase::Active,
            memory_bytes: 1 << 20,
            falls: 0,
        }
    }

    #[test]
    fn a_pool_on_two_lanes_is_shown_as_one() {
        let pools = merge_pools(&reports());
        let shop = &pools[&key("shop")];
        assert_eq!(pools.len(), 2);
        assert_eq!((shop.clients_active, shop.servers_idle, shop.stats.transactions), (3, 2, 200));
        assert_eq!(shop.wait_max, Duration::from_secs(3), "the longest wait, not the sum");
    }
}
