//! What kind of story a seed tells: how many lanes and clients, which weather, which troubles.

use crate::dice::Dice;
use crate::link::{MS, SEC, Time, US, Weather};
use crate::scram;
use pgring_logic::action::Address;
use pgring_logic::config::{
    Auth, AuthMethod, Cluster, Config, Consistency, Database, Limits, Monitor, Node, PoolMode,
    PoolSettings, Reads, Routing, Users,
};
use pgring_logic::time::Duration;
use pgring_logic::topology::horizon::Horizon;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

const HOUR: u64 = 3600;

/// The frame of a story.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) lanes: usize,
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    /// Connections each client makes, and rounds on each of them.
    pub(crate) lives: u64,
    pub(crate) rounds: u64,
    pub(crate) databases: usize,
    pub(crate) users: usize,
    pub(crate) size: usize,
    pub(crate) mode: PoolMode,
    pub(crate) weather: Weather,
    pub(crate) mail: Time,
    pub(crate) arrival: Time,
    pub(crate) think: Time,
    pub(crate) write_timeout: Time,
    pub(crate) wait_timeout: Time,
    pub(crate) high_water: usize,
    /// Bytes a connection may hold that wait for more.
    pub(crate) held_max: usize,
    /// Servers die, nodes go down, logins are refused.
    pub(crate) faults: bool,
    /// Servers say what nobody asked for.
    pub(crate) lies: bool,
    /// Somebody is at the console.
    pub(crate) orders: bool,
    /// The last database comes and goes.
    pub(crate) moves: bool,
    /// Logins are by SCRAM, on both sides.
    pub(crate) scram: bool,
    /// Servers send notices.
    pub(crate) notices: bool,
    /// Clients vanish, cancel, and stop reading.
    pub(crate) rude: bool,
    /// Clients make mistakes in the middle of pipelines.
    pub(crate) mistakes: bool,
    /// Clients pin their servers.
    pub(crate) pins: bool,
    /// Tables change under prepared statements.
    pub(crate) alters: bool,
    /// Servers that live and idle for a short time only, and a few more in need.
    pub(crate) lifetime: Time,
    pub(crate) idle: Time,
    pub(crate) reserve: usize,
    pub(crate) least: usize,
    /// When the troubles end.
    pub(crate) calm_from: Time,
    /// Prepared statements per server.
    pub(crate) statements: usize,
    /// A server sends so many bytes at once when it has them, wherever that cuts a message; the
    /// rest waits for the end of the exchange. `PostgreSQL` has 8192.
    pub(crate) send_buffer: usize,
    /// Clients of small pools are brought together on the lanes where those are at home, so fewer
    /// servers travel.
    pub(crate) homes: bool,
    /// Clients that need no password send their first round behind the startup packet at once.
    pub(crate) hasty: bool,
    /// Clients say goodbye behind their last round at once, and listen until all is answered.
    pub(crate) parting: bool,
    /// Reads go to standbys, which are all nodes but the first.
    pub(crate) routed: bool,
    /// How they do.
    pub(crate) routing: Routing,
    /// The monitor asks at least so often.
    pub(crate) watch: Time,
    /// Nothing happens to the primary: who does not stand on a standby notices nothing.
    pub(crate) spared: bool,
    /// Until when commits were made.
    pub(crate) horizon: Horizon,
}

impl Plan {
    /// Draws a plan.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let (busy, short) = (dice.chance(20), dice.chance(30));
        Self {
            lanes: usize::try_from(dice.range(2, 4)).unwrap_or(2),
            nodes: if dice.chance(25) { 2 } else { 1 },
            clients: usize::try_from(dice.range(2, if busy { 20 } else { 8 })).unwrap_or(2),
            lives: dice.range(1, 3),
            rounds: dice.range(3, 25),
            databases: 1 + usize::from(dice.chance(30)),
            users: 1 + usize::from(dice.chance(30)),
            size: usize::try_from(dice.range(1, 4)).unwrap_or(1),
            mode: match dice.below(100) {
                0..15 => PoolMode::Session,
                15..25 => PoolMode::Statement,
                _ => PoolMode::Transaction,
            },
            weather: Weather {
                latency: *dice.pick(&[30 * US, 100 * US, MS]),
                room: *dice.pick(&[512, 4096, 65_536]),
                shreds: *dice.pick(&[0, 5, 30]),
            },
            mail: *dice.pick(&[20 * US, 200 * US, 3 * MS]),
            arrival: *dice.pick(&[MS, 50 * MS, SEC]),
            think: *dice.pick(&[MS / 10, 2 * MS, 30 * MS]),
            write_timeout: 4 * SEC,
            wait_timeout: *dice.pick(&[5 * SEC, 15 * SEC]),
            high_water: *dice.pick(&[300, 4096, 262_144]),
            held_max: 96 * 1024,
            faults: dice.chance(35),
            lies: dice.chance(20),
            orders: dice.chance(30),
            moves: dice.chance(20),
            scram: dice.chance(25),
            notices: dice.chance(50),
            rude: dice.chance(60),
            mistakes: dice.chance(60),
            pins: dice.chance(20),
            alters: dice.chance(30),
            lifetime: if short { SEC } else { HOUR * SEC },
            idle: *dice.pick(&[HOUR * SEC, HOUR * SEC, SEC / 3]),
            reserve: usize::from(dice.chance(15)),
            // A server that is replaced each second is never at rest at the end.
            least: usize::from(dice.chance(25) && !short),
            calm_from: 4 * SEC,
            statements: *dice.pick(&[1, 2, 100]),
            send_buffer: *dice.pick(&[8192, 64]),
            homes: false,
            hasty: false,
            parting: false,
            routed: false,
            routing: Routing::default(),
            watch: 0,
            spared: false,
            horizon: Horizon::default(),
        }
    }

    /// Reads go to standbys, in some way.
    pub(crate) fn route(&mut self, dice: &mut Dice) {
        self.routed = true;
        self.nodes = if dice.chance(60) { 2 } else { 3 };
        self.watch = *dice.pick(&[5 * MS, 50 * MS]);
        self.spared = dice.chance(50);
        if self.spared {
            self.lies = false;
        }
        let replicas = |is| if is { Reads::Replicas } else { Reads::Primary };
        self.routing = Routing {
            reads: if dice.chance(30) { Reads::All } else { Reads::Replicas },
            leading_reads: replicas(dice.chance(50)),
            consistency: match dice.below(10) {
                0..3 => Consistency::Strict,
                3 => Consistency::Eventual,
                _ => Consistency::Session,
            },
            read_wait_max: Duration::from_millis(*dice.pick(&[0, 0, 20])),
            slow_start: Duration::ZERO,
            ..Routing::default()
        };
    }

    /// The database part of a pool's name at a node.
    pub(crate) fn pool_at(&self, database: &str, node: usize) -> String {
        let away = self.routed && node > 0;
        if away { format!("{database}@pg{node}") } else { database.to_owned() }
    }

    /// Whether an error that `PostgreSQL` did not send must have a reason in time.
    pub(crate) fn peaceful(&self) -> bool {
        !self.faults && !self.lies
    }

    /// Its troubles, in a word.
    pub(crate) fn brief(&self) -> String {
        let troubles = [
            (self.faults, "faults"),
            (self.lies, "lies"),
            (self.orders, "orders"),
            (self.rude, "rude"),
            (self.mistakes, "mistakes"),
            (self.pins, "pins"),
            (self.alters, "alters"),
            (self.mode == PoolMode::Session, "session"),
            (self.mode == PoolMode::Statement, "statement"),
            (self.moves, "moves"),
            (self.scram, "scram"),
            (self.homes, "homes"),
            (self.hasty, "hasty"),
            (self.parting, "parting"),
            (self.routed, "routed"),
            (self.spared, "spared"),
            (self.routing.reads == Reads::All, "all"),
            (self.routing.leading_reads == Reads::Replicas, "leading"),
            (self.routing.consistency == Consistency::Strict, "strict"),
        ];
        let named = troubles.iter().filter(|(is, _)| *is);
        named.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
    }

    /// The name of a database.
    pub(crate) fn database(number: usize) -> String {
        format!("db{number}")
    }

    /// Whether a database comes and goes.
    pub(crate) fn is_moving(&self, database: &str) -> bool {
        self.moves && database == Self::database(self.databases - 1)
    }

    /// The name of a user.
    pub(crate) fn user(number: usize) -> String {
        format!("user{number}")
    }

    /// The configuration lanes start with.
    pub(crate) fn config(&self) -> Arc<Config> {
        let nodes = (0..self.nodes).map(|number| {
            let port = u16::try_from(number + 1).unwrap_or(1);
            let resolved = vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))];
            Node::new(&format!("pg{number}"), &format!("127.0.0.1:{port}"), resolved)
        });
        let cluster = Arc::new(Cluster {
            name: "main".to_owned(),
            nodes: nodes.collect(),
            failover: None,
            horizon: self.horizon.clone(),
        });
        let databases = (0..self.databases).map(|number| {
            Arc::new(Database {
                name: Self::database(number),
                cluster: Arc::clone(&cluster),
                dbname: None,
                user: None,
                password: None,
                pool: self.pool(),
                routing: self.routing.clone(),
            })
        });
        Arc::new(Config {
            workers: self.lanes,
            listen_readonly: Vec::new(),
            listen: Vec::new(),
            unix_socket_dir: None,
            http: None,
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            auth: Auth {
                method: if self.scram { AuthMethod::ScramSha256 } else { AuthMethod::Trust },
                users_file: None,
                login_timeout: Duration::from_secs(15),
                mock_secret: [0; 32],
                owner: None,
            },
            limits: Limits { clients_max: 1000, statement_bytes_max: 65_536, buffers: 64 },
            pool: self.pool(),
            routing: self.routing.clone(),
            monitor: Monitor::default(),
            clusters: vec![Arc::clone(&cluster)],
            databases: databases.collect(),
            users: if self.scram { scram::users(self.users) } else { Users::new() },
        })
    }

    /// The settings of its pools.
    pub(crate) fn pool(&self) -> PoolSettings {
        PoolSettings {
            mode: self.mode,
            size: self.size,
            size_min: self.least,
            reserve_size: self.reserve,
            reserve_timeout: Duration::from_millis(500),
            waiting_max: 1000,
            database_clients_max: 0,
            user_clients_max: 0,
            database_servers_max: 0,
            user_servers_max: 0,
            query_wait_timeout: Duration::from_nanos(self.wait_timeout),
            server_lifetime: Duration::from_nanos(self.lifetime),
            server_idle_timeout: Duration::from_nanos(self.idle),
            server_connect_timeout: Duration::from_secs(1),
            server_login_retry: Duration::from_millis(200),
            client_idle_timeout: Duration::ZERO,
            idle_transaction_timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
            client_write_timeout: Duration::from_nanos(self.write_timeout),
            prepared_statements: self.statements,
            prepared_bytes: 1 << 20,
            server_reset_query: "DISCARD ALL".to_owned(),
            server_keepalive: true,
        }
    }
}
