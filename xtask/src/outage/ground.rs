//! What stands in the outage rig whoever is in the middle: three nodes of which each may be the
//! primary, the links between all, and the hands at the nodes.
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

use super::agent::{Agent, Home};
use super::config::{self, MASTER, NODE_PORT};
use crate::install;
use crate::place::{self, Workplace};
use crate::postgres::{Login, Node, Site};
use crate::process::{self, Outcome};
use crate::rig::family;
use crate::rig::link::Link;
use crate::rig::net::{self, Namespace};
use crate::rig::scene::{CLIENTS, MONITOR, NODES, USER, home, link_ends};
use crate::rig::weather::Weather;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The number of whoever is in the middle among the ends of links; nodes have theirs.
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

/// Everything but what is in the middle. What is first ends first.
#[derive(Debug)]
pub(super) struct Ground {
    /// What runs the hooks.
    pub(super) agent: Agent,
    /// Its socket.
    pub(super) socket: PathBuf,
    links: Vec<(u8, u8, Link)>,
    /// The nodes.
    pub(super) spots: Vec<Spot>,
    /// The place of the clients.
    pub(super) clients: Namespace,
    /// The place of whoever is in the middle.
    pub(super) center: Namespace,
    /// `PostgreSQL`'s programs.
    pub(super) site: Site,
}

impl Ground {
    /// Starts the nodes: the first is the primary of the others.
    pub(super) fn lay(place: &Workplace) -> Outcome<Self> {
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
        Ok(Self { agent, socket, links, spots, clients, center, site })
    }

    /// The node of this name.
    pub(super) fn spot(&self, name: &str) -> Outcome<&Spot> {
        let found = self.spots.iter().find(|spot| spot.node.name == name);
        found.ok_or_else(|| format!("there is no node `{name}`"))
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
pub(super) fn itself(place: &Workplace) -> Outcome<PathBuf> {
    let copy = place.path.join("xtask");
    place::remove_file(&copy)?;
    // Of the running program, even if its file is another by now.
    fs::copy("/proc/self/exe", &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    place.account.own(&copy)?;
    Ok(copy)
}
