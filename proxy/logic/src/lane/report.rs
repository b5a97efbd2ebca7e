//! What a lane looks like from outside: for the console and the metrics.

use crate::id::ConnId;
use crate::lane::Lane;
use crate::lane::client::{Client, Phase};
use crate::lane::pool::Pool;
use crate::lane::server::{Far, Phase as ServerPhase, Server};
use crate::mail::{ClientReport, PoolReport, Report, ServerReport};
use crate::time::{Duration, Instant};

impl Lane {
    /// A report of everything.
    pub(super) fn report(&mut self, now: Instant, number: u64) -> Report {
        let waits: Vec<Duration> = (0..self.pools.len())
            .map(|pool| self.oldest(pool).map_or(Duration::ZERO, |since| now.since(since)))
            .collect();
        let pools = self.pools.iter().enumerate().zip(waits);
        Report {
            core: self.core,
            number,
            pools: pools.map(|((index, pool), wait)| self.report_pool(index, pool, wait)).collect(),
            clients: self.clients.iter().map(|(_, c)| self.report_client(now, c)).collect(),
            servers: self
                .servers
                .iter()
                .filter_map(|(_, far)| far.server())
                .map(|far| self.report_server(far))
                .collect(),
            violations: self.violations + self.broken,
            login_failures: self.login_failures,
            statement_bytes: self.texts.bytes() as u64,
            statements: self.texts.len() as u64,
            routes: Vec::new(),
        }
    }

    fn report_pool(&self, index: usize, pool: &Pool, wait_max: Duration) -> PoolReport {
        let mut report = PoolReport {
            pool: pool.key.clone(),
            cluster: pool.database.cluster.name.clone(),
            mode: pool.settings.mode,
            clients_active: 0,
            clients_idle: 0,
            clients_waiting: pool.waiting_count,
            clients_cancelling: 0,
            servers_active: 0,
            servers_cancelling: 0,
            servers_idle: 0,
            servers_used: 0,
            servers_login: 0,
            wait_max,
            paused: pool.paused,
            last_error: pool.last_error.as_ref().map(|error| error.message.clone()),
            stats: pool.stats.clone(),
        };
        for (_, client) in self.clients.iter().filter(|(_, c)| c.pool == Some(index)) {
            match (&client.phase, client.server, client.wait) {
                (Phase::Gone, ..) | (_, None, Some(_)) => {}
                (_, Some(_), _) => report.clients_active += 1,
                (_, None, None) => report.clients_idle += 1,
            }
        }
        for far in self.servers.iter().filter_map(|(_, far)| far.server()) {
            if far.pool != index {
                continue;
            }
            report.servers_cancelling += u32::from(far.cancels > 0);
            match far.phase {
                ServerPhase::Busy | ServerPhase::Raw if far.client.is_some() => {
                    report.servers_active += 1;
                }
                ServerPhase::Busy | ServerPhase::Raw => report.servers_used += 1,
                ServerPhase::Idle => report.servers_idle += 1,
                ServerPhase::Connecting
                | ServerPhase::Auth(_)
                | ServerPhase::Greeting
                | ServerPhase::Asked => report.servers_login += 1,
                ServerPhase::Leaving | ServerPhase::Gone => {}
            }
        }
        report
    }

    fn report_client(&self, now: Instant, client: &Client) -> ClientReport {
        let server = client.server.and_then(|server| self.server_ref(server));
        let state = match (&client.phase, server, client.wait) {
            (Phase::Gone, ..) => "closing",
            (Phase::Startup | Phase::Auth(_) | Phase::Entering, ..) => "login",
            (Phase::Console(_), ..) => "console",
            (Phase::Cancelling, ..) => "cancel",
            (_, _, Some(_)) => "waiting",
            (Phase::Raw, ..) => "replication",
            (_, Some(far), _) if far.ledger.is_waiting() => "active",
            (_, Some(far), _) if far.status != b'I' => "idle in transaction",
            (_, Some(_), _) => "pinned",
            (_, None, _) => "idle",
        };
        ClientReport {
            number: client.number,
            user: client.user.to_string(),
            database: client.database.to_string(),
            application_name: name_of(client).to_owned(),
            state,
            peer: client.peer,
            connected: client.connected,
            requested: client.requested,
            wait: client.wait.map_or(Duration::ZERO, |wait| now.since(wait.since)),
            server_pid: server.map(|far| far.pid),
            pins: client.pins.words(),
            prepared_statements: u32::try_from(client.names.len()).unwrap_or(u32::MAX),
        }
    }

    fn report_server(&self, far: &Server) -> ServerReport {
        let client = far.client.and_then(|client: ConnId| self.clients.get(client));
        let state = match far.phase {
            ServerPhase::Connecting
            | ServerPhase::Auth(_)
            | ServerPhase::Greeting
            | ServerPhase::Asked => "login",
            ServerPhase::Idle => "idle",
            ServerPhase::Busy if client.is_some() => "active",
            ServerPhase::Busy => "used",
            ServerPhase::Raw => "replication",
            ServerPhase::Leaving => "moving",
            ServerPhase::Gone => "closing",
        };
        ServerReport {
            number: far.number,
            pool: self.pools[far.pool].key.clone(),
            node: far.node.to_string(),
            state,
            connected: far.opened,
            requested: far.used,
            pid: far.pid,
            client: client.map(|client| client.number),
            prepared_statements: u32::try_from(far.statements.len()).unwrap_or(u32::MAX),
            application_name: client.map_or("", name_of).to_owned(),
        }
    }

    /// How many servers stand in no client's service; for tests.
    pub fn idle_servers(&self) -> usize {
        let idle =
            |far: &Far| far.server().is_some_and(|far| matches!(far.phase, ServerPhase::Idle));
        self.servers.iter().filter(|(_, far)| idle(far)).count()
    }
}

fn name_of(client: &Client) -> &str {
    client
        .state
        .get("application_name")
        .or_else(|| client.startup.get("application_name"))
        .map_or("", String::as_str)
}
