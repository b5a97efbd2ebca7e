//! What holds where the operator has said nothing.
//!
//! `config/pgring.toml` gives the reasons; a test holds that file equal to these values.

use crate::action::Address;
use crate::config::{
    Auth, AuthMethod, Cluster, Config, Consistency, Durability, Failover, FailoverMode, Fallback,
    Limits, Monitor, Node, PoolMode, PoolSettings, Reads, Routing, Users,
};
use crate::time::Duration;
use crate::topology::horizon::Horizon;
use std::collections::BTreeSet;
use std::path::PathBuf;

const KIB: usize = 1024;

impl Default for Config {
    /// An empty file: without a cluster it is not one that [`parse`](crate::config::parse) passes.
    fn default() -> Self {
        Self {
            workers: 0,
            listen: vec!["127.0.0.1:6432".to_owned()],
            listen_readonly: Vec::new(),
            unix_socket_dir: None,
            http: None,
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            auth: Auth::default(),
            limits: Limits::default(),
            pool: PoolSettings::default(),
            routing: Routing::default(),
            monitor: Monitor::default(),
            clusters: Vec::new(),
            databases: Vec::new(),
            users: Users::new(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            method: AuthMethod::ScramSha256,
            users_file: None,
            login_timeout: Duration::from_secs(15),
            mock_secret: [0; 32],
            owner: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients_max: 10_000, statement_bytes_max: 256 * KIB, buffers: 1024 }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            reads: Reads::Primary,
            leading_reads: Reads::Primary,
            consistency: Consistency::Session,
            lag_max: Duration::from_secs(10),
            lag_bytes_max: 16 * KIB * KIB,
            read_wait_max: Duration::ZERO,
            fallback: Fallback::Primary,
            slow_start: Duration::from_secs(30),
            zone: String::new(),
            functions_read: BTreeSet::new(),
            functions_write: BTreeSet::new(),
            rules: Vec::new(),
        }
    }
}

impl Node {
    /// One at this address, with a share like all others.
    pub fn new(name: &str, address: &str, resolved: Vec<Address>) -> Self {
        let (name, address) = (name.to_owned(), address.to_owned());
        let (zone, peer_address) = (String::new(), String::new());
        Self { name, address, resolved, weight: 1, zone, priority: 1, peer_address }
    }
}

impl Cluster {
    /// One whose primary is whoever is not in recovery.
    pub fn new(name: &str, nodes: Vec<Node>) -> Self {
        Self { name: name.to_owned(), nodes, failover: None, horizon: Horizon::default() }
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            mode: FailoverMode::Auto,
            state_file: PathBuf::new(),
            durability: Durability::Async,
            quorum: 1,
            only_path: false,
            user: None,
            password: None,
            crash_grace: Duration::from_secs(2),
            witness_timeout: Duration::from_millis(700),
            cooldown: Duration::from_secs(10 * 60),
            drain: Duration::from_secs(2),
            promote_timeout: Duration::from_secs(60),
            command_timeout: Duration::from_secs(60),
            lag_bytes_max: KIB * KIB,
            slots: true,
            fence_command: Vec::new(),
            stop_command: Vec::new(),
            rejoin_command: Vec::new(),
        }
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            database: "postgres".to_owned(),
            interval: Duration::from_secs(1),
            interval_busy: Duration::from_millis(10),
            timeout: Duration::from_secs(3),
            ping: Duration::from_millis(250),
            login: Duration::from_secs(1),
            heartbeat: Duration::ZERO,
            blackout: Duration::from_secs(2),
            rto_min: Duration::from_millis(60),
            probe: true,
        }
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 20,
            size_min: 0,
            reserve_size: 0,
            reserve_timeout: Duration::from_secs(5),
            waiting_max: 10_000,
            database_clients_max: 0,
            user_clients_max: 0,
            database_servers_max: 0,
            user_servers_max: 0,
            query_wait_timeout: Duration::from_secs(15),
            server_lifetime: Duration::from_secs(60 * 60),
            server_idle_timeout: Duration::from_secs(10 * 60),
            server_connect_timeout: Duration::from_secs(3),
            server_login_retry: Duration::from_secs(1),
            client_idle_timeout: Duration::ZERO,
            idle_transaction_timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
            client_write_timeout: Duration::from_secs(60),
            prepared_statements: 500,
            prepared_bytes: 8 * KIB * KIB,
            server_reset_query: "DISCARD ALL".to_owned(),
            server_keepalive: true,
        }
    }
}
