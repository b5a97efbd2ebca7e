//! The answers of SHOW: which columns, and what stands in them.

use crate::admin::command::{Command, HELP, Show};
use crate::admin::route;
use crate::admin::settings;
use crate::admin::stats;
use crate::admin::world::{Phase, World};
use crate::admin::{events, nodes, topology};
use crate::config::{PoolMode, Reads};
use crate::id::Core;
use crate::mail::{ClientReport, Peer, PoolReport, ServerReport};

/// A value; `None` is NULL.
pub type Cell = Option<String>;

/// What the values of a column are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// text
    Text,
    /// integer
    Int,
    /// bigint
    Long,
    /// numeric
    Numeric,
}

/// A column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
}

pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

pub(crate) const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int }
}

pub(crate) const fn long(name: &'static str) -> Column {
    Column { name, kind: Kind::Long }
}

pub(crate) const fn numeric(name: &'static str) -> Column {
    Column { name, kind: Kind::Numeric }
}

/// A number as a cell.
#[expect(clippy::unnecessary_wraps, reason = "a row is a list of cells")]
pub(crate) fn number(value: impl TryInto<u64>) -> Cell {
    Some(value.try_into().unwrap_or(u64::MAX).to_string())
}

/// A text as a cell.
#[expect(clippy::unnecessary_wraps, reason = "a row is a list of cells")]
pub(crate) fn word(value: impl Into<String>) -> Cell {
    Some(value.into())
}

const POOLS: [Column; 22] = [
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    text("cluster"),
    int("cl_idle"),
    int("paused"),
    text("last_error"),
    text("node"),
];

/// CLIENTS and SERVERS as `PgBouncer` has them.
const SOCKETS: [Column; 21] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    long("id"),
];

const CLIENTS: [Column; 3] = [int("server_pid"), text("pins"), int("core")];
const SERVERS: [Column; 2] = [text("node"), int("core")];

const PINS: [Column; 7] = [
    long("id"),
    text("user"),
    text("database"),
    text("state"),
    int("server_pid"),
    text("pins"),
    text("application_name"),
];

const MEM: [Column; 5] = [text("name"), long("size"), long("used"), long("free"), long("memtotal")];
const LISTS: [Column; 2] = [text("list"), int("items")];
const STATE: [Column; 2] = [text("key"), text("value")];
const TOPICS: [Column; 2] = [text("command"), text("meaning")];
const VERSION: [Column; 1] = [text("version")];
const ONE: [Column; 1] = [int("?column?")];

/// The columns of the answer; none if it has no rows.
pub fn columns(command: &Command) -> Vec<Column> {
    if let Command::ExplainRoute { .. } = command {
        return route::COLUMNS.to_vec();
    }
    if let Command::Cluster { .. } = command {
        return topology::LINES.to_vec();
    }
    let Command::Show(show) = command else {
        return if *command == Command::SelectOne { ONE.to_vec() } else { Vec::new() };
    };
    match show {
        Show::Clients => SOCKETS.iter().chain(&CLIENTS).copied().collect(),
        Show::Config => settings::CONFIG.to_vec(),
        Show::Databases => settings::DATABASES.to_vec(),
        Show::Help => TOPICS.to_vec(),
        Show::Lists => LISTS.to_vec(),
        Show::Mem => MEM.to_vec(),
        Show::Events => events::EVENTS.to_vec(),
        Show::History => topology::HISTORY.to_vec(),
        Show::Nodes => nodes::NODES.to_vec(),
        Show::Pins => PINS.to_vec(),
        Show::Pools => POOLS.to_vec(),
        Show::Routes => route::ROUTES.to_vec(),
        Show::Servers => SOCKETS.iter().chain(&SERVERS).copied().collect(),
        Show::State => STATE.to_vec(),
        Show::Stats => stats::STATS.to_vec(),
        Show::StatsAverages | Show::StatsTotals => stats::HALF.to_vec(),
        Show::Topology => topology::TOPOLOGY.to_vec(),
        Show::Totals => stats::SUM.to_vec(),
        Show::Users => settings::USERS.to_vec(),
        Show::Version => VERSION.to_vec(),
    }
}

/// The rows of the answer, each as long as [`columns`].
pub fn rows(command: &Command, world: &World<'_>) -> Vec<Vec<Cell>> {
    let Command::Show(show) = command else {
        return if *command == Command::SelectOne { vec![vec![number(1u64)]] } else { Vec::new() };
    };
    match show {
        Show::Clients => clients(world),
        Show::Config => settings::config(world),
        Show::Databases => settings::databases(world),
        Show::Help => topics(),
        Show::Lists => lists(world),
        Show::Mem => memory(world),
        Show::Events => events::rows(world.events),
        Show::History => topology::history(world),
        Show::Nodes => nodes::rows(world),
        Show::Pins => pins(world),
        Show::Pools => world.pools().values().map(pool).collect(),
        // Whoever has catalogs says more.
        Show::Routes => route::top(world.reports, |_| (Reads::Primary, None)),
        Show::Servers => servers(world),
        Show::State => state(world.phase),
        Show::Stats => stats::rows(world, true, true),
        Show::StatsAverages => stats::rows(world, false, true),
        Show::StatsTotals => stats::rows(world, true, false),
        Show::Topology => topology::topology(world),
        Show::Totals => stats::sums(world),
        Show::Users => settings::users(world),
        Show::Version => vec![vec![word(world.version)]],
    }
}

/// A pool mode as the config has it.
pub(crate) fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

fn pool(pool: &PoolReport) -> Vec<Cell> {
    vec![
        word(&*pool.pool.database),
        word(&*pool.pool.user),
        // PgBouncer counts idle clients as active; cl_idle says how many of them there are.
        number(pool.clients_active + pool.clients_idle),
        number(pool.clients_waiting),
        number(pool.clients_cancelling),
        number(0u64),
        number(pool.servers_active),
        number(pool.servers_cancelling),
        number(0u64),
        number(pool.servers_idle),
        number(pool.servers_used),
        number(0u64),
        number(pool.servers_login),
        number(pool.wait_max.as_secs()),
        number(pool.wait_max.subsec_micros()),
        word(mode(pool.mode)),
        None,
        word(&*pool.cluster),
        number(pool.clients_idle),
        number(u64::from(pool.paused)),
        pool.last_error.clone(),
        pool.pool.node.as_deref().map(str::to_owned),
    ]
}

fn clients(world: &World<'_>) -> Vec<Vec<Cell>> {
    let reports = world.reports.iter();
    let all = reports.flat_map(|report| report.clients.iter().map(|client| (report.core, client)));
    all.map(|(core, client)| client_row(world, core, client)).collect()
}

fn client_row(world: &World<'_>, core: Core, client: &ClientReport) -> Vec<Cell> {
    let (address, port) = match client.peer {
        Peer::Tcp(address, port) => (address.to_string(), port),
        Peer::Unix(_) => ("unix".to_owned(), 0),
    };
    let server = world.servers().find(|server| server.client == Some(client.number));
    vec![
        word("C"),
        word(&*client.user),
        word(&*client.database),
        word("none"),
        word(client.state),
        word(address),
        number(port),
        None,
        None,
        word(world.date(client.connected)),
        word(world.date(client.requested)),
        number(client.wait.as_secs()),
        number(client.wait.subsec_micros()),
        number(0u64),
        word(format!("C{}", client.number)),
        word(server.map_or_else(String::new, |server| format!("S{}", server.number))),
        number(0u64),
        word(""),
        word(&*client.application_name),
        number(client.prepared_statements),
        number(client.number),
        client.server_pid.and_then(number),
        word(&*client.pins),
        number(core.0),
    ]
}

fn servers(world: &World<'_>) -> Vec<Vec<Cell>> {
    let reports = world.reports.iter();
    let all = reports.flat_map(|report| report.servers.iter().map(|server| (report.core, server)));
    all.map(|(core, server)| server_row(world, core, server)).collect()
}

fn server_row(world: &World<'_>, core: Core, server: &ServerReport) -> Vec<Cell> {
    let place = world.node_of(server).map(|node| settings::host_and_port(&node.address));
    let (host, port) = place.unwrap_or_default();
    vec![
        word("S"),
        word(&*server.pool.user),
        word(&*server.pool.database),
        word("none"),
        word(server.state),
        word(host),
        number(port),
        None,
        None,
        word(world.date(server.connected)),
        word(world.date(server.requested)),
        number(0u64),
        number(0u64),
        number(0u64),
        word(format!("S{}", server.number)),
        word(server.client.map_or_else(String::new, |client| format!("C{client}"))),
        number(server.pid),
        word(""),
        word(&*server.application_name),
        number(server.prepared_statements),
        number(server.number),
        word(&*server.node),
        number(core.0),
    ]
}

fn pins(world: &World<'_>) -> Vec<Vec<Cell>> {
    let clients = world.reports.iter().flat_map(|report| &report.clients);
    let pinned = clients.filter(|client| !client.pins.is_empty());
    pinned
        .map(|client| {
            vec![
                number(client.number),
                word(&*client.user),
                word(&*client.database),
                word(client.state),
                client.server_pid.and_then(number),
                word(&*client.pins),
                word(&*client.application_name),
            ]
        })
        .collect()
}

fn memory(world: &World<'_>) -> Vec<Vec<Cell>> {
    let statements: u64 = world.reports.iter().map(|report| report.statements).sum();
    let bytes: u64 = world.reports.iter().map(|report| report.statement_bytes).sum();
    let row = |name: &str, size: u64, used: u64, total: u64| {
        vec![word(name), number(size), number(used), number(0u64), number(total)]
    };
    vec![
        row("statement_texts", bytes.checked_div(statements).unwrap_or(0), statements, bytes),
        row("process_resident", world.memory_bytes, 1, world.memory_bytes),
    ]
}

fn lists(world: &World<'_>) -> Vec<Vec<Cell>> {
    let clients = || world.reports.iter().flat_map(|report| &report.clients);
    let login = clients().filter(|client| client.state == "login").count();
    let items = [
        ("databases", world.config.databases.len()),
        ("users", world.config.users.len()),
        ("peers", 0),
        ("pools", world.pools().len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", clients().count() - login),
        ("login_clients", login),
        ("free_servers", 0),
        ("used_servers", world.servers().count()),
        ("dns_names", settings::host_names(world.config)),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
        ("lanes", world.reports.len()),
    ];
    items.into_iter().map(|(name, count)| vec![word(name), number(count)]).collect()
}

fn state(phase: Phase) -> Vec<Vec<Cell>> {
    let row = |key: &str, is: bool| vec![word(key), word(if is { "yes" } else { "no" })];
    vec![
        row("active", phase == Phase::Active),
        row("paused", phase == Phase::Paused),
        row("suspended", false),
        row("stopping", phase == Phase::Stopping),
    ]
}

fn topics() -> Vec<Vec<Cell>> {
    let shows = Show::all().map(|(name, help)| (format!("SHOW {name}"), help));
    let others = HELP.iter().map(|(command, help)| ((*command).to_owned(), *help));
    shows.chain(others).map(|(command, help)| vec![word(command), word(help)]).collect()
}

#[cfg(test)]
mod tests {
    use super::{Cell, columns, rows};
    use crate::admin::command::{Command, Show};
    use crate::admin::stats::Window;
    use crate::admin::world::tests::{reports, sample, world};

    /// The answer to a command: each row as (column, value).
    fn ask(text: &str) -> Vec<Vec<(&'static str, Cell)>> {
        let (config, reports, window) = (sample(), reports(), Window::default());
        let world = world(&config, &reports, &window);
        let command = Command::parse(text).unwrap();
        let columns = columns(&command);
        let rows = rows(&command, &world);
        for row in &rows {
            assert_eq!(row.len(), columns.len(), "{text}");
        }
        let named = |row: Vec<Cell>| columns.iter().map(|column| column.name).zip(row).collect();
        rows.into_iter().map(named).collect()
    }

    fn value(row: &[(&str, Cell)], name: &str) -> Cell {
        row.iter().find(|(column, _)| *column == name).unwrap().1.clone()
    }

    #[test]
    fn every_show_has_rows_that_fit_its_columns() {
        for (name, _) in Show::all() {
            assert!(!ask(&format!("SHOW {name}")).is_empty(), "SHOW {name} has something to say");
        }
    }

    #[test]
    fn columns_stand_where_those_who_know_pgbouncer_expect_them() {
        let names = |text| {
            let columns = columns(&Command::parse(text).unwrap());
            columns.iter().map(|column| column.name).collect::<Vec<_>>().join(",")
        };
        assert!(names("SHOW POOLS").starts_with(
            "database,user,cl_active,cl_waiting,cl_active_cancel_req,cl_waiting_cancel_req,\
             sv_active,sv_active_cancel,sv_being_canceled,sv_idle,sv_used,sv_tested,sv_login,\
             maxwait,maxwait_us,pool_mode,load_balance_hosts"
        ));
        let sockets = "type,user,database,replication,state,addr,port,local_addr,local_port,\
                       connect_time,request_time,wait,wait_us,close_needed,ptr,link,remote_pid,\
                       tls,application_name,prepared_statements,id";
        assert!(names("SHOW CLIENTS").starts_with(sockets));
        assert!(names("SHOW SERVERS").starts_with(sockets));
        assert_eq!(names("RELOAD"), "");
    }

    #[test]
    fn a_client_and_its_server_point_at_each_other() {
        let clients = ask("show clients");
        let servers = ask("show servers");
        assert_eq!(value(&clients[1], "link"), value(&servers[0], "ptr"));
        assert_eq!(value(&servers[0], "link"), value(&clients[1], "ptr"));
        assert_eq!(value(&clients[0], "wait_us").as_deref(), Some("3"));
        assert_eq!(value(&clients[0], "connect_time").as_deref(), Some("2027-01-15 08:00:01 UTC"));
    }

    #[test]
    fn only_pinned_clients_are_listed_as_such() {
        let pins = ask("show pins");
        assert_eq!(pins.len(), 1);
        assert_eq!(value(&pins[0], "pins").as_deref(), Some("listen"));
    }
}
