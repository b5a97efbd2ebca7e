//! The scene of the outage rig: pgring, and three nodes of which each may be the primary.
//!
//! ```text
//!   cli ---- pgr ==== n1          ----  a wire
//!             |\\     /  \         ====  a link that can fail
//!             | \==== n2  |
//!             |       \   |
//!             +====== n3 -+        between nodes: links that can fail as well
//! ```
//!
//! A node is known to everybody by one address, to which a link of each other leads.

use super::Durability;
use super::agent::{Agent, Home};
use super::config::{self, Hooks, MASTER, NODE_PORT};
use super::topology::{Chapter, Topology, history};
use super::writer::Guests;
use crate::install;
use crate::place::{self, Workplace};
use crate::pooler::{self, Launch, Pooler};
use crate::postgres::{Login, Node, Site};
use crate::process::{self, Outcome};
use crate::rig::console::Console;
use crate::rig::event::Table;
use crate::rig::family;
use crate::rig::link::Link;
use crate::rig::net::{self, Namespace};
use crate::rig::scene::{CAPABILITIES, CLIENTS, MONITOR, NODES, PORT, REPLICAS, USER};
use crate::rig::scene::{client, home, link_ends};
use crate::rig::weather::Weather;
use nix::sys::signal::Signal;
use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the console may take to answer what it only has to look up.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// pgring's number among the ends of links; nodes have theirs.
pub(super) const PGRING: u8 = 0;
/// Weather in which nothing passes.
const DARK: Weather = Weather::Dark { to: true, from: true };

/// A node with its place.
#[derive(Debug)]
pub(super) struct Spot {
    /// The node. It ends before its namespace.
    pub(super) node: Node,
    /// The first is 1.
    pub(super) number: u8,
    /// Where it lives, as its hooks see it.
    pub(super) home: Arc<Home>,
}

impl Spot {
    /// What psql says to the superuser, at the node itself.
    pub(super) fn ask(&self, site: &Site, sql: &str) -> Outcome<String> {
        self.home.space.within(|| site.ask(&self.node.login("postgres"), sql))
    }

    /// Starts the node where it lives.
    pub(super) fn start(&self) -> Outcome<()> {
        self.home.space.within(|| self.node.start())
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        (home(self.number), NODE_PORT).into()
    }

    /// Its postmaster.
    pub(super) fn postmaster(&self) -> Outcome<i32> {
        let name = &self.node.name;
        self.node.process().ok_or_else(|| format!("{name} has no postmaster.pid"))
    }
}

/// Everything that runs. What is first ends first.
#[derive(Debug)]
pub(super) struct Scene<'place> {
    console: RefCell<Option<Console>>,
    pooler: RefCell<Option<Pooler>>,
    /// What runs the hooks.
    pub(super) agent: Agent,
    links: Vec<(u8, u8, Link)>,
    /// The nodes.
    pub(super) spots: Vec<Spot>,
    /// The place of the clients.
    pub(super) clients: Namespace,
    center: Namespace,
    /// `PostgreSQL`'s programs.
    pub(super) site: Site,
    place: &'place Workplace,
    program: PathBuf,
    config: PathBuf,
    /// What pgring promises of acknowledged writes.
    pub(super) durability: Durability,
}

impl<'place> Scene<'place> {
    /// Builds the scene. Whether all are well shows when it settles.
    pub(super) fn set(
        place: &'place Workplace,
        program: &Path,
        durability: Durability,
        fence: bool,
    ) -> Outcome<Self> {
        if !install::works("ip", &["-V"]) {
            install::packages(&["iproute2"])?;
        }
        net::sweep()?;
        sweep(&place.path)?;
        let site = Site { port: Some(NODE_PORT), ..Site::new(place)? };
        let (center, clients) = (Namespace::new("pgr")?, Namespace::new("cli")?);
        net::wire((&center, "cli", CLIENTS.0), (&clients, "pgr", CLIENTS.1))?;
        let homes: Vec<Arc<Home>> = (1..=NODES).map(dwelling).collect::<Outcome<_>>()?;
        let links = links(&center, &homes)?;
        let mut spots: Vec<Spot> = Vec::new();
        for (number, home) in (1..=NODES).zip(&homes) {
            let node = node(&site, number, &home.space, spots.first())?;
            let spot = Spot { node, number, home: Arc::clone(home) };
            if number == 1 {
                people(&site, &spot)?;
            } else {
                follow(&site, &spot, &spots[0])?;
            }
            spots.push(spot);
        }
        let names = spots.iter().map(|spot| (spot.node.name.clone(), Arc::clone(&spot.home)));
        let socket = place.path.join("agent.sock");
        let agent =
            Agent::start(&socket, &hooks(place)?, &site.bin, &place.account, names.collect())?;
        let state = place.path.join("state.json");
        place::remove_file(&state)?;
        let own = itself(place)?;
        let ways = Hooks { program: &own, socket: &socket, nodes: &place.path, fence };
        let nodes: Vec<&Node> = spots.iter().map(|spot| &spot.node).collect();
        let text = config::pgring(&nodes, durability, &state, &ways);
        let config = place.write("pgring.toml", &text)?;
        let program = pooler::reachable(place, program)?;
        let (console, pooler) = (RefCell::default(), RefCell::default());
        let scene = Self {
            console,
            pooler,
            agent,
            links,
            spots,
            clients,
            center,
            site,
            place,
            program,
            config,
            durability,
        };
        scene.start_pgring()?;
        println!("started   n1, n2, n3 and pgring, {}", durability.words());
        Ok(scene)
    }

    /// Who the clients are, and where they find pgring.
    #[expect(clippy::unused_self, reason = "they are those of this scene, wherever that is")]
    pub(super) fn guests(&self) -> Guests {
        let address = (CLIENTS.0, PORT).into();
        Guests { address, writer: (USER, USER), reader: (USER, REPLICAS) }
    }

    /// Whether pgring may change the primary.
    pub(super) fn has_failover(&self) -> bool {
        self.durability != Durability::None
    }

    /// The node of this name.
    pub(super) fn spot(&self, name: &str) -> Outcome<&Spot> {
        let found = self.spots.iter().find(|spot| spot.node.name == name);
        found.ok_or_else(|| format!("there is no node `{name}`"))
    }

    /// Who is the primary: pgring's word, or without failover the nodes' own.
    pub(super) fn primary(&self) -> Outcome<&Spot> {
        if self.has_failover() {
            let topology = self.topology()?.ok_or("the console does not answer")?;
            return self.spot(&topology.primary);
        }
        for spot in &self.spots {
            if spot.ask(&self.site, "SELECT pg_is_in_recovery()").is_ok_and(|it| it == "f") {
                return Ok(spot);
            }
        }
        Err("no node is a primary".to_owned())
    }

    /// Asks the console; none if there is no answer in time.
    pub(super) fn ask(&self, sql: &str, patience: Duration) -> Outcome<Option<Table>> {
        self.with_console(|console| console.ask(sql, patience))
    }

    /// What keeps the nodes from being well, as pgring's monitor has it.
    pub(super) fn complaint(&self) -> Outcome<Option<String>> {
        self.with_console(|console| console.complaint(self.spots.len(), PATIENCE))
    }

    fn with_console<T>(&self, act: impl FnOnce(&mut Console) -> Outcome<T>) -> Outcome<T> {
        let mut slot = self.console.borrow_mut();
        if slot.is_none() {
            let login = Login { host: Ipv4Addr::LOCALHOST, ..client("pgring") };
            let site = &self.site;
            *slot = Some(self.center.within(|| Console::enter(site, &login))?);
        }
        let console = slot.as_mut().ok_or("there is no console")?;
        let answer = act(console);
        if answer.as_ref().is_err_and(|error| error.contains("has ended")) {
            // The next question finds a new one.
            *slot = None;
        }
        answer
    }

    /// What pgring has decided; none if it does not say so in time.
    pub(super) fn topology(&self) -> Outcome<Option<Topology>> {
        Ok(self.ask("SHOW TOPOLOGY", PATIENCE)?.as_ref().map(Topology::parse))
    }

    /// How the primary has changed since this epoch.
    pub(super) fn history(&self, since: u64) -> Outcome<Vec<Chapter>> {
        let table = self.ask("SHOW HISTORY", PATIENCE)?;
        let table = table.ok_or("the console does not answer")?;
        Ok(history(&table, since))
    }

    /// An error if pgring has ended by itself.
    pub(super) fn check_alive(&self) -> Outcome<()> {
        self.pooler.borrow_mut().as_mut().map_or(Ok(()), Pooler::check_alive)
    }

    /// The end of pgring's log.
    pub(super) fn said(&self) -> String {
        self.pooler.borrow().as_ref().map(Pooler::said).unwrap_or_default()
    }

    /// Starts pgring.
    pub(super) fn start_pgring(&self) -> Outcome<()> {
        let Self { place, program, config, .. } = self;
        let mut command = place.account.command_with(&CAPABILITIES, program, &place.path);
        command.arg("--config").arg(config);
        let end = Signal::SIGQUIT;
        let launch = Launch { name: "pgring", command, mark: config, port: PORT, end };
        let pooler = self.center.within(|| Pooler::launch(place, launch))?;
        *self.pooler.borrow_mut() = Some(pooler);
        Ok(())
    }

    /// Kills pgring. Its log is kept beside that of the next.
    pub(super) fn kill_pgring(&self) -> Outcome<()> {
        *self.console.borrow_mut() = None;
        let Some(pooler) = self.pooler.borrow_mut().take() else { return Ok(()) };
        let pid = i32::try_from(pooler.process()).map_err(|error| error.to_string())?;
        family::send(pid, Signal::SIGKILL)?;
        // Waits for the end.
        drop(pooler);
        let log = self.place.path.join("pgring.log");
        fs::rename(&log, log.with_extension("log.killed")).map_err(|error| error.to_string())
    }

    /// Cuts the host of a node off from everybody, or takes it back.
    pub(super) fn silence(&self, spot: &Spot, silent: bool) {
        spot.home.silent.store(silent, Ordering::SeqCst);
        let weather = if silent { DARK } else { Weather::Fair };
        for (one, other, link) in &self.links {
            if [*one, *other].contains(&spot.number) {
                link.set(weather);
            }
        }
    }

    /// Cuts the link between two ends, or mends it.
    pub(super) fn cut(&self, one: u8, other: u8, dark: bool) {
        let ends = (one.min(other), one.max(other));
        for (_, _, link) in self.links.iter().filter(|(one, other, _)| (*one, *other) == ends) {
            link.set(if dark { DARK } else { Weather::Fair });
        }
    }
}

/// The namespace of a node, with the address by which it is known.
fn dwelling(number: u8) -> Outcome<Arc<Home>> {
    let space = Namespace::new(&format!("n{number}"))?;
    space.ip(&["addr", "add", &format!("{}/32", home(number)), "dev", "lo"])?;
    Ok(Arc::new(Home { space: Arc::new(space), silent: false.into() }))
}

/// Links between pgring and each node, and between each two nodes, with a route each way.
fn links(center: &Namespace, homes: &[Arc<Home>]) -> Outcome<Vec<(u8, u8, Link)>> {
    let mut links = Vec::new();
    let route = |from: &Namespace, to: u8, device: &str| {
        from.ip(&["route", "add", &format!("{}/32", home(to)), "dev", device])
    };
    for (number, one) in (1..=NODES).zip(homes) {
        let device = format!("n{number}");
        let (near, far) = link_ends(number);
        links.push((PGRING, number, Link::new(&device, (center, near), (&one.space, far))?));
        route(center, number, &device)?;
        for (another, other) in (1..=NODES).zip(homes).skip(usize::from(number)) {
            let device = format!("n{number}n{another}");
            let net = 10 * number + another;
            let ends = [1, 2].map(|end| Ipv4Addr::new(10, 78, net, end));
            let link = Link::new(&device, (&one.space, ends[0]), (&other.space, ends[1]))?;
            route(&one.space, another, &device)?;
            route(&other.space, number, &device)?;
            links.push((number, another, link));
        }
    }
    Ok(links)
}

/// A node: the first is the primary, for now.
fn node(site: &Site, number: u8, space: &Namespace, primary: Option<&Spot>) -> Outcome<Node> {
    let site = site.with_host(home(number));
    let name = format!("n{number}");
    family::wake(&site.directory.join(&name));
    space.within(|| match primary {
        None => Node::primary(&site, &name, &config::settings(), config::HBA),
        Some(primary) => Node::standby(&site, &name, &primary.node),
    })
}

/// Lets a standby say its name to the primary.
fn follow(site: &Site, spot: &Spot, primary: &Spot) -> Outcome<()> {
    let (name, host) = (&spot.node.name, home(primary.number));
    let info = format!("host={host} port={NODE_PORT} user=postgres application_name={name}");
    spot.ask(site, &format!("ALTER SYSTEM SET primary_conninfo = '{info}'"))?;
    spot.ask(site, "SELECT pg_reload_conf()").map(drop)
}

/// Makes users and tables.
fn people(site: &Site, primary: &Spot) -> Outcome<()> {
    primary.ask(site, &format!("CREATE ROLE {USER} LOGIN"))?;
    primary.ask(site, &format!("CREATE DATABASE {USER} OWNER {USER}"))?;
    let role = format!("CREATE ROLE {MONITOR} LOGIN PASSWORD '{MONITOR}' IN ROLE pg_monitor");
    primary.ask(site, &role)?;
    let rights = "LOGIN SUPERUSER REPLICATION";
    primary.ask(site, &format!("CREATE ROLE {MASTER} {rights} PASSWORD '{MASTER}'"))?;
    let login = Login { user: USER, ..primary.node.login(USER) };
    primary.home.space.within(|| {
        let mut pgbench = site.client("pgbench", &login);
        process::output(pgbench.args(["-i", "-q", "-s", "1"]))?;
        let columns = "client int, seq bigint, key bigint NOT NULL";
        site.ask(&login, &format!("CREATE TABLE {} ({columns})", super::writer::TABLE)).map(drop)
    })
}

/// Removes what hooks put aside beside the nodes: the log of each node that was rewound, which is
/// up to a gigabyte each time.
pub(crate) fn sweep(directory: &Path) -> Outcome<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if [".wal-", ".settings-", ".old-"].iter().any(|part| name.contains(part)) {
            place::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The hooks where the account can run them: copies of `config/hooks`.
pub(crate) fn hooks(place: &Workplace) -> Outcome<PathBuf> {
    let directory = place.path.join("hooks");
    place::remove(&directory)?;
    place::create(&directory)?;
    place.account.own(&directory)?;
    let from = place::root().join("config/hooks");
    for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
        let copy = directory.join(entry.file_name());
        fs::copy(entry.path(), &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        place.account.own(&copy)?;
    }
    for name in ["stop", "fence", "rejoin"] {
        if !directory.join(name).exists() {
            println!("missing   {}: pgring's calls of it will fail", from.join(name).display());
        }
    }
    Ok(directory)
}

/// This program where pgring's account can run it.
fn itself(place: &Workplace) -> Outcome<PathBuf> {
    let copy = place.path.join("xtask");
    place::remove_file(&copy)?;
    // Of the running program, even if its file is another by now.
    fs::copy("/proc/self/exe", &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    place.account.own(&copy)?;
    Ok(copy)
}
