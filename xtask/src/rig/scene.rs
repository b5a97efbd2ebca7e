//! The scene of the rig: a star of network namespaces with pgring in the middle.
//!
//! ```text
//!   cli ---- pgr ==== n1 (primary)      ----  a wire
//!            | |      |  \              ====  a link that can fail
//!            | +===== n2  |
//!            +======= n3 -+
//! ```
//!
//! A node is known by an address of its loopback interface, to which pgring comes over the link
//! and a standby over a wire of its own: a link that fails does not stop replication.

use super::console::Console;
use super::family;
use super::link::Link;
use super::net::{self, Namespace};
use crate::install;
use crate::place::Workplace;
use crate::pooler::{self, Launch, Pooler};
use crate::postgres::{Login, Node, Site};
use crate::process::{self, Outcome};
use nix::sys::signal::Signal;
use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// The user of clients, and the database.
pub(crate) const USER: &str = "rig";
/// The name of the same database when its reads go to standbys.
pub(crate) const REPLICAS: &str = "rig_replicas";
/// The user of the monitor, and its password.
pub(crate) const MONITOR: &str = "rig_monitor";
/// Connections that a node takes: few, so that they are soon all taken.
const CONNECTIONS: u32 = 60;
/// Where pgring listens in its namespace.
pub(crate) const PORT: u16 = 6432;
/// Nodes; the first is the primary.
pub(crate) const NODES: u8 = 3;
/// What pgring needs to load its probe.
pub(crate) const CAPABILITIES: [&str; 3] = ["bpf", "perfmon", "net_admin"];
/// Connects by which the length of a link is told.
const CONNECTS: usize = 9;
/// How long nodes may take until all are well again.
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// How long the console may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The address by which node `number` is known.
pub(crate) fn home(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// The ends of the link of node `number`: pgring's and the node's.
pub(crate) fn link_ends(number: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 77, number, 1), Ipv4Addr::new(10, 77, number, 2))
}

/// The ends of the wire of standby `number`: the primary's and its own.
fn wire_ends(number: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 78, number, 1), Ipv4Addr::new(10, 78, number, 2))
}

/// The ends of the wire of the clients: pgring's and theirs.
pub(crate) const CLIENTS: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(10, 79, 0, 1), Ipv4Addr::new(10, 79, 0, 2));

/// A node with its place and its link.
#[derive(Debug)]
pub(super) struct Spot {
    /// The node. It ends before its namespace.
    pub(super) node: Node,
    /// What joins it to pgring.
    pub(super) link: Link,
    /// The name of the link's device, on both sides.
    pub(super) device: String,
    /// Its place.
    pub(super) space: Namespace,
    /// The first is 1.
    pub(super) number: u8,
}

impl Spot {
    /// What psql says to the superuser, at the node itself.
    pub(super) fn ask(&self, site: &Site, sql: &str) -> Outcome<String> {
        self.space.within(|| site.ask(&self.node.login("postgres"), sql))
    }
}

/// Everything that runs during the rig. What is first ends first.
#[derive(Debug)]
pub(super) struct Scene {
    /// The console, which everything is read from.
    pub(super) console: RefCell<Console>,
    pooler: RefCell<Pooler>,
    /// Standbys end before their primary, so it is the last.
    spots: Vec<Spot>,
    /// The place of the clients.
    pub(super) clients: Namespace,
    _center: Namespace,
    /// `PostgreSQL`'s programs.
    pub(super) site: Site,
}

impl Scene {
    /// Builds the scene and waits until all nodes are well.
    pub(super) fn set(place: &Workplace, program: &Path, probe: bool) -> Outcome<Self> {
        if !install::works("ip", &["-V"]) {
            install::packages(&["iproute2"])?;
        }
        net::sweep()?;
        let site = Site::new(place)?;
        let (center, clients) = (Namespace::new("pgr")?, Namespace::new("cli")?);
        net::wire((&center, "cli", CLIENTS.0), (&clients, "pgr", CLIENTS.1))?;
        let mut spots = vec![spot(&site, &center, 1, None)?];
        println!("started   n1, the primary, {}", distance(&center, &spots[0])?);
        people(&site, &spots[0])?;
        for number in 2..=NODES {
            let standby = spot(&site, &center, number, Some(&spots[spots.len() - 1]))?;
            println!("started   n{number}, a standby, {}", distance(&center, &standby)?);
            spots.insert(0, standby);
        }
        let pooler = start_pgring(place, program, &center, &spots, probe)?;
        println!("started   pgring {}", if probe { "" } else { "without capabilities" });
        let login = Login { host: Ipv4Addr::LOCALHOST, ..client("pgring") };
        let console = center.within(|| Console::enter(&site, &login))?;
        let (console, pooler) = (RefCell::new(console), RefCell::new(pooler));
        let scene = Self { console, pooler, spots, clients, _center: center, site };
        scene.settle(|_| ())?;
        Ok(scene)
    }

    /// The node with this number.
    pub(super) fn spot(&self, number: u8) -> Outcome<&Spot> {
        let found = self.spots.iter().find(|spot| spot.number == number);
        found.ok_or_else(|| format!("there is no node {number}"))
    }

    /// The process of pgring.
    pub(super) fn pgring(&self) -> u32 {
        self.pooler.borrow().process()
    }

    /// Waits until all nodes are well, and hands over what happens until then.
    pub(super) fn settle(&self, mut each: impl FnMut(super::event::Event)) -> Outcome<()> {
        let mut complaint = None;
        let well = process::wait_until(SETTLE_MAX, || {
            self.pooler.borrow_mut().check_alive()?;
            let mut console = self.console.borrow_mut();
            console.news(PATIENCE)?.into_iter().for_each(&mut each);
            complaint = console.complaint(self.spots.len(), PATIENCE)?;
            Ok(complaint.is_none())
        })?;
        if well {
            return Ok(());
        }
        let (complaint, log) = (complaint.unwrap_or_default(), self.pooler.borrow().said());
        let limit = SETTLE_MAX.as_secs();
        Err(format!("not all is well after {limit} s: {complaint}; pgring's log ends:\n{log}"))
    }
}

/// A client of pgring that wants this database.
pub(crate) fn client(database: &str) -> Login<'_> {
    Login { host: CLIENTS.0, port: PORT, user: USER, password: "", database }
}

/// A namespace with a node in it, its link, and its wire to the primary.
fn spot(site: &Site, center: &Namespace, number: u8, primary: Option<&Spot>) -> Outcome<Spot> {
    let space = Namespace::new(&format!("n{number}"))?;
    let (near, far) = link_ends(number);
    let device = format!("n{number}");
    let link = Link::new(&device, (center, near), (&space, far))?;
    let home = home(number);
    space.ip(&["addr", "add", &format!("{home}/32"), "dev", "lo"])?;
    center.ip(&["route", "add", &format!("{home}/32"), "dev", &device])?;
    if let Some(primary) = primary {
        let (theirs, own) = wire_ends(number);
        let name = format!("wire{number}");
        net::wire((&primary.space, &name, theirs), (&space, &name, own))?;
        let target = format!("{}/32", self::home(primary.number));
        space.ip(&["route", "add", &target, "via", &theirs.to_string()])?;
    }
    let site = site.with_host(home);
    let name = format!("n{number}");
    family::wake(&site.directory.join(&name));
    let node = space.within(|| match primary {
        None => Node::primary(&site, &name, &settings(), HBA),
        Some(primary) => Node::standby(&site, &name, &primary.node),
    })?;
    Ok(Spot { node, link, device, space, number })
}

/// How far away a node is: the middle one of some connects, each a round trip.
fn distance(center: &Namespace, spot: &Spot) -> Outcome<String> {
    let address = spot.node.address();
    center.within(|| {
        let mut times = Vec::new();
        for _ in 0..CONNECTS {
            let start = Instant::now();
            drop(TcpStream::connect(&address).map_err(|error| format!("{address}: {error}"))?);
            times.push(start.elapsed());
        }
        times.sort();
        Ok(format!("{} us from pgring", times[times.len() / 2].as_micros()))
    })
}

/// Makes users and tables.
fn people(site: &Site, primary: &Spot) -> Outcome<()> {
    primary.ask(site, &format!("CREATE ROLE {USER} LOGIN"))?;
    primary.ask(site, &format!("CREATE DATABASE {USER} OWNER {USER}"))?;
    let role = format!("CREATE ROLE {MONITOR} LOGIN PASSWORD '{MONITOR}' IN ROLE pg_monitor");
    primary.ask(site, &role)?;
    let login = Login { user: USER, ..primary.node.login(USER) };
    primary.space.within(|| {
        let mut pgbench = site.client("pgbench", &login);
        process::output(pgbench.args(["-i", "-q", "-s", "1"])).map(|_| ())
    })
}

/// Nothing waits for a disk, and a standby is back as soon as its primary is.
fn settings() -> String {
    format!(
        "password_encryption = 'scram-sha-256'\nmax_connections = {CONNECTIONS}\n\
         shared_buffers = '64MB'\nfsync = off\nwal_level = replica\nmax_wal_senders = 8\n\
         wal_keep_size = '1GB'\nhot_standby = on\nwal_retrieve_retry_interval = '200ms'\n"
    )
}

/// The monitor proves who it is, because one of the faults is about that.
const HBA: &str = "host all rig_monitor 0.0.0.0/0 scram-sha-256\nhost all all 0.0.0.0/0 trust\n\
                   host replication all 0.0.0.0/0 trust\n";

fn start_pgring(
    place: &Workplace,
    program: &Path,
    center: &Namespace,
    spots: &[Spot],
    probe: bool,
) -> Outcome<Pooler> {
    let mark = place.write("pgring.toml", &config(spots))?;
    let program = pooler::reachable(place, program)?;
    let account = &place.account;
    let mut command = if probe {
        account.command_with(&CAPABILITIES, &program, &place.path)
    } else {
        account.command(&program, &place.path)
    };
    command.arg("--config").arg(&mark);
    let end = Signal::SIGQUIT;
    let launch = Launch { name: "pgring", command, mark: &mark, port: PORT, end };
    center.within(|| Pooler::launch(place, launch))
}

/// The configuration of the rig's pgring.
fn config(spots: &[Spot]) -> String {
    let nodes: String = spots
        .iter()
        .rev()
        .map(|Spot { node, .. }| {
            let (name, address) = (&node.name, node.address());
            format!("[[clusters.nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n")
        })
        .collect();
    format!(
        "# Written by `cargo xtask rig`.\n\
         workers = 2\nlisten = [\"0.0.0.0:{PORT}\"]\nadmin_users = [\"{USER}\"]\n\n\
         [auth]\nmethod = \"trust\"\n\n[pool]\nmode = \"transaction\"\nsize = 8\n\n\
         [monitor]\nuser = \"{MONITOR}\"\npassword = \"{MONITOR}\"\n\n\
         [[clusters]]\nname = \"main\"\n{nodes}\n\
         [[databases]]\nname = \"{REPLICAS}\"\ndbname = \"{USER}\"\ncluster = \"main\"\n\
         [databases.routing]\nreads = \"replicas\"\n\n\
         [[databases]]\nname = \"*\"\ncluster = \"main\"\n"
    )
}
