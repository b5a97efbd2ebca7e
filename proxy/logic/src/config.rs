//! The checked configuration: what a `pgring.toml` means, with every value in range.
//!
//! The way from the file to these types is [`parse`]: text, then tables of which every key is
//! optional and laid over its default, then [`Config`]. It goes on after an error, so that one run
//! of `pgring check` names all of them. A snapshot is immutable and counted; lanes get a new one
//! at reload.

use crate::action::Address;
use crate::time::Duration;
use crate::topology::horizon::Horizon;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod address;
mod defaults;
mod error;
mod failover;
mod horizons;
mod listeners;
mod monitor;
mod parse;
mod pool;
mod routing;
mod table;
mod users;

pub use failover::{Durability, Failover, FailoverMode};

/// Everything the operator has said.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Lanes, one thread each; 0 means one for each core of the machine.
    pub workers: usize,
    /// `host:port` to listen on.
    pub listen: Vec<String>,
    /// `host:port` to listen on for clients that only read: they live on standbys.
    pub listen_readonly: Vec<String>,
    /// Where the Unix socket `.s.PGSQL.<port>` goes; its port is that of the first `listen`.
    pub unix_socket_dir: Option<PathBuf>,
    /// `host:port` of `/metrics`, `/livez` and `/readyz`; none if absent.
    pub http: Option<String>,
    /// Users allowed every console command.
    pub admin_users: Vec<String>,
    /// Users allowed the console's SHOW commands.
    pub stats_users: Vec<String>,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Limits of the whole process.
    pub limits: Limits,
    /// What databases without settings of their own use.
    pub pool: PoolSettings,
    /// Where the reads of databases without settings of their own go.
    pub routing: Routing,
    /// How nodes are asked where they stand.
    pub monitor: Monitor,
    /// The clusters, in the order of the file.
    pub clusters: Vec<Arc<Cluster>>,
    /// The databases, in the order of the file; `*` stands for any other name.
    pub databases: Vec<Arc<Database>>,
    /// The users file, read.
    pub users: Users,
}

/// How clients prove who they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Auth {
    /// The method.
    pub method: AuthMethod,
    /// `PgBouncer`'s `userlist.txt` format.
    pub users_file: Option<PathBuf>,
    /// From accept to the end of login.
    pub login_timeout: Duration,
    /// What the salts of users that do not exist are made from: the same on all lanes, random in
    /// each process, kept over reloads. Not in the file.
    pub mock_secret: [u8; 32],
    /// The user id of this process: who has the same may use the console without being asked. None
    /// until it is known. Not in the file.
    pub owner: Option<u32>,
}

/// An authentication method of `PostgreSQL`'s chapter 21.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthMethod {
    /// Whoever says so.
    Trust,
    /// The password in clear.
    Password,
    /// A hash of the password that MD5 no longer protects: only on request.
    Md5,
    /// RFC 5802 and 7677.
    ScramSha256,
}

/// Limits of the whole process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Clients over all lanes (`PgBouncer`: `max_client_conn`).
    pub clients_max: usize,
    /// Query and Parse texts longer than this are not looked into or kept, in bytes.
    pub statement_bytes_max: usize,
    /// Receive buffers per lane (8 KiB each).
    pub buffers: u16,
}

/// Where reads go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Routing {
    /// The nodes.
    pub reads: Reads,
    /// What a read shows for certain.
    pub consistency: Consistency,
    /// Where the reads go with which a transaction begins that may write.
    pub leading_reads: Reads,
    /// A replica that is behind for longer gets no reads.
    pub lag_max: Duration,
    /// A replica that is further behind gets no reads, in bytes of the write-ahead log.
    pub lag_bytes_max: usize,
    /// How long a read waits for a replica that has replayed what it must show; zero: not at all.
    pub read_wait_max: Duration,
    /// Who gets a read that no replica is fit for.
    pub fallback: Fallback,
    /// How long it takes a replica that has come back to get its whole share of the reads.
    pub slow_start: Duration,
    /// The zone that this process is in: while a replica in it is fit for a read, no other gets it.
    pub zone: String,
    /// Functions that only read, whatever the catalog says: names, with or without a schema.
    pub functions_read: BTreeSet<String>,
    /// Functions that write, whatever the catalog says.
    pub functions_write: BTreeSet<String>,
    /// Whose statements go elsewhere; the first that fits counts.
    pub rules: Vec<Rule>,
}

/// Whose statements go where, unless they say so themselves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Users as they log in, all of them if there is none.
    pub user: Option<Pattern>,
    /// The `application_name` of their sessions at that moment.
    pub application_name: Option<Pattern>,
    /// Where they go.
    pub route: Route,
}

/// A name, or the beginning of names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    /// Without the star.
    pub text: String,
    /// A star stood behind it: what follows does not matter.
    pub open: bool,
}

/// Where statements go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// What reads for certain to replicas, all else to the primary.
    Auto,
    /// All to the primary.
    Primary,
    /// What reads by its grammar to replicas, whatever is known of its functions.
    Replica,
}

impl Pattern {
    /// Whether this is such a name.
    pub fn fits(&self, name: &str) -> bool {
        if self.open { name.starts_with(&self.text) } else { name == self.text }
    }
}

impl Routing {
    /// Where the statements of a session go by the rules.
    pub fn route(&self, user: &str, application_name: &str) -> Route {
        let fits =
            |pattern: &Option<Pattern>, name| pattern.as_ref().is_none_or(|it| it.fits(name));
        let rule = self
            .rules
            .iter()
            .find(|rule| fits(&rule.user, user) && fits(&rule.application_name, application_name));
        rule.map_or(Route::Auto, |rule| rule.route)
    }
}

/// The nodes that reads go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reads {
    /// The primary, as everything else.
    Primary,
    /// Replicas, if there is one that will do.
    Replicas,
    /// Replicas and the primary, each by its weight.
    All,
}

impl Reads {
    /// Whether any of them leave the primary.
    pub fn leave(self) -> bool {
        match self {
            Self::Primary => false,
            Self::Replicas | Self::All => true,
        }
    }
}

/// Who gets a read that no replica is fit for: none answers, or all are too far behind. What a
/// session has just written it reads from the primary in any case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// The primary.
    Primary,
    /// Nobody: it fails. A primary that cannot bear all reads is thus spared.
    Error,
}

/// What a read shows for certain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Consistency {
    /// What any session has written through this process, before the read came.
    Strict,
    /// What its own session has written.
    Session,
    /// What was written a while ago.
    Eventual,
}

/// How nodes are asked where they stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Monitor {
    /// Who asks; none: nobody does.
    pub user: Option<String>,
    /// Its password, if nodes ask for one.
    pub password: Option<Password>,
    /// Where.
    pub database: String,
    /// How often.
    pub interval: Duration,
    /// How often while reads wait for what was written.
    pub interval_busy: Duration,
    /// A node that has not answered for so long does not answer.
    pub timeout: Duration,
    /// How often it is pinged.
    pub ping: Duration,
    /// How often a new login is tried.
    pub login: Duration,
    /// How often something is written on the primary; zero: never.
    pub heartbeat: Duration,
    /// For how long a network may be dark without being dead.
    pub blackout: Duration,
    /// What the kernel waits at least before it sends a segment to a node again (`RTO_MIN`);
    /// zero: what it waits for anybody.
    pub rto_min: Duration,
    /// Whether programs in the kernel watch the connections to nodes.
    pub probe: bool,
}

/// The settings of a pool. Durations of zero switch the limit off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolSettings {
    /// When a server goes back.
    pub mode: PoolMode,
    /// Servers of one pool over all cores (`default_pool_size`).
    pub size: usize,
    /// Servers kept open once a client has come (`min_pool_size`).
    pub size_min: usize,
    /// Additional servers when a client waited `reserve_timeout` (`reserve_pool_size`).
    pub reserve_size: usize,
    /// See `reserve_size`.
    pub reserve_timeout: Duration,
    /// Clients that may wait in one pool on one lane; the next one is refused at once.
    pub waiting_max: usize,
    /// Clients of one database over all lanes (`max_db_client_connections`); 0: no limit.
    pub database_clients_max: usize,
    /// Clients of one user over all lanes (`max_user_client_connections`); 0: no limit.
    pub user_clients_max: usize,
    /// Servers of one database over all users (`max_db_connections`); 0: no limit.
    pub database_servers_max: usize,
    /// Servers of one user over all databases (`max_user_connections`); 0: no limit.
    pub user_servers_max: usize,
    /// How long a client waits for a server.
    pub query_wait_timeout: Duration,
    /// A server older than this (+- 10 %) is closed when it is free.
    pub server_lifetime: Duration,
    /// A server idle for this long is closed.
    pub server_idle_timeout: Duration,
    /// From connect to the end of login.
    pub server_connect_timeout: Duration,
    /// How long to wait after a failed login before the next.
    pub server_login_retry: Duration,
    /// A client idle for this long outside a transaction is closed.
    pub client_idle_timeout: Duration,
    /// A client idle for this long inside a transaction is closed.
    pub idle_transaction_timeout: Duration,
    /// A statement that runs for this long is cancelled and its client closed.
    pub query_timeout: Duration,
    /// A client that reads nothing for this long while bytes wait for it is closed.
    pub client_write_timeout: Duration,
    /// Prepared statements per server; 0 switches the tracking off.
    pub prepared_statements: usize,
    /// Bytes of their texts per server.
    pub prepared_bytes: usize,
    /// What cleans a server in session mode.
    pub server_reset_query: String,
    /// Whether a server is told to see for itself that pgring is gone (`tcp_keepalives_idle`).
    pub server_keepalive: bool,
}

/// What a server is told of keepalive at login, in seconds and counts: what pgring does itself.
pub const SERVER_KEEPALIVE: [(&str, &str); 3] = [
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// When a server goes back to the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// When the transaction ends.
    Transaction,
    /// As `Transaction`, and transactions of several statements are refused.
    Statement,
}

/// Nodes that replicate each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name in the file.
    pub name: String,
    /// In the order of the file.
    pub nodes: Vec<Node>,
    /// How its primary is replaced; none: pgring follows whoever is not in recovery.
    pub failover: Option<Arc<Failover>>,
    /// How far the commits go that were made through this process. Not in the file.
    pub horizon: Horizon,
}

/// One `PostgreSQL` instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name in the file.
    pub name: String,
    /// As written: `host:port`, or a directory with a Unix socket (`/run/postgresql`,
    /// optionally `:port`).
    pub address: String,
    /// What the address was resolved to (by the control thread for host names; never empty in a
    /// snapshot that reaches a lane unless resolution failed).
    pub resolved: Vec<Address>,
    /// Its share of the reads beside others; 0: none.
    pub weight: u32,
    /// Where it is; empty: nowhere in particular.
    pub zone: String,
    /// Who is promoted first among equals; 0: never.
    pub priority: u32,
    /// Where other nodes reach it, as `host:port`; empty: at its address.
    pub peer_address: String,
}

/// What clients may connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// The name clients use; `*` for any.
    pub name: String,
    /// Which cluster it is on.
    pub cluster: Arc<Cluster>,
    /// The name on the server, if it is another.
    pub dbname: Option<String>,
    /// The server user, if all clients share one.
    pub user: Option<String>,
    /// Its password, if it is not in the users file.
    pub password: Option<Password>,
    /// The settings of its pools.
    pub pool: PoolSettings,
    /// Where its reads go.
    pub routing: Routing,
}

/// A password or verifier. It has no `Display`, and its `Debug` says nothing.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// What the users file says of one user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// The name.
    pub name: String,
    /// Plain, `md5...` or `SCRAM-SHA-256$...`, as written.
    pub password: Password,
    /// What a SCRAM login is checked against: the verifier as written, or one made at load from
    /// a plain password (by the control thread: it costs milliseconds).
    pub verifier: Option<Password>,
}

/// The users by name.
pub type Users = BTreeMap<String, Arc<User>>;

impl Config {
    /// The database a client means by `name`: its own entry, or the `*` entry.
    pub fn database(&self, name: &str) -> Option<&Arc<Database>> {
        self.databases
            .iter()
            .find(|database| database.name == name)
            .or_else(|| self.databases.iter().find(|database| database.name == "*"))
    }
}

/// One thing that is wrong in a configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The line, from 1, if there is one to blame.
    pub line: Option<usize>,
    /// The key with its table, as in `pool.size`; empty if the text is not TOML there.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Checks the text of a configuration file.
///
/// `users` is asked for the text of the users file, by the path as it is written; who calls
/// knows where relative paths start.
pub fn parse(
    text: &str,
    users: &mut dyn FnMut(&Path) -> Result<String, String>,
) -> Result<Config, Vec<ConfigError>> {
    parse::config(text, users)
}

/// The keys that differ between two snapshots and take effect only after a restart.
///
/// Threads, rings and listening sockets are made at start and kept; a reload that changes one of
/// these applies the rest and says so.
pub fn changed_needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("workers", old.workers != new.workers),
        ("listen", old.listen != new.listen),
        ("listen_readonly", old.listen_readonly != new.listen_readonly),
        ("unix_socket_dir", old.unix_socket_dir != new.unix_socket_dir),
        ("http", old.http != new.http),
        ("limits.buffers", old.limits.buffers != new.limits.buffers),
        ("monitor.probe", old.monitor.probe != new.monitor.probe),
        ("monitor.rto_min", old.monitor.rto_min != new.monitor.rto_min),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{Config, changed_needs_restart};

    #[test]
    fn a_reload_changes_pools_but_not_listeners() {
        let old = Config::default();
        let mut new = Config::default();
        new.pool.size = 3;
        assert!(changed_needs_restart(&old, &new).is_empty());

        new.workers = 7;
        new.http = Some("127.0.0.1:9680".to_owned());
        new.limits.buffers = 8;
        assert_eq!(changed_needs_restart(&old, &new), ["workers", "http", "limits.buffers"]);
    }
}
