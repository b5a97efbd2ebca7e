//! `cargo xtask demo`: a primary, two standbys and pgring in front, shown at work.
//!
//! Everything it starts belongs to a value that ends it when dropped, so the machine is clean
//! again after the last line, after an error, and after Ctrl-C.

mod bench;
mod checks;
mod failover;

use crate::install;
use crate::place::{self, Workplace};
use crate::pooler::Pooler;
use crate::postgres::{Login, Node, Site};
use crate::process::{self, Outcome};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Servers that pgring may open for the demo's pool.
const POOL_SIZE: u32 = 16;
/// The user of the demo, and its password.
const USER: &str = "demo";

/// Show pgring at work.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave everything running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Kill the primary under writes instead, and see pgring promote a standby
    #[arg(long)]
    failover: bool,
    /// Seconds of each of the four pgbench runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Clients of pgbench, on a pool of 16 servers
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=80))]
    clients: u32,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    process::catch_interrupts()?;
    install::postgres()?;
    let program = build()?;
    let place = Workplace::open("demo")?;
    let done = if options.failover {
        failover::run(&place, &program, options.keep)
    } else {
        show(options, &place, &program)
    };
    println!("\nstopped and cleaned up; configuration and logs: {}", place.path.display());
    match done {
        // With --keep, Ctrl-C is how it is meant to end.
        Err(_) if options.keep && process::interrupted() => Ok(()),
        done => done,
    }
}

fn show(options: &Options, place: &Workplace, program: &std::path::Path) -> Outcome<()> {
    let site = Site::new(place)?;
    let scene = Scene::set(&site, place, program)?;
    checks::run(&scene)?;
    let rows = bench::run(&scene, options.clients, options.seconds)?;
    println!("\n{}", bench::table(&rows));
    println!("{}", scene.doors());
    if options.keep {
        println!("running until Ctrl-C");
        scene.keep()?;
    }
    bench::judge(&rows)
}

/// Builds the pgring to show, unless `PGRING_BIN` names one.
pub(crate) fn build() -> Outcome<PathBuf> {
    let program = place::program("release");
    if std::env::var_os("PGRING_BIN").is_none() {
        println!("building pgring (release)");
        let mut cargo = Command::new("cargo");
        cargo.current_dir(place::root());
        process::show(cargo.args(["build", "--quiet", "--release", "--package", "pgring"]))?;
    }
    Ok(program)
}

/// Everything that runs during the demo. The pooler is first, so it ends before its nodes.
struct Scene {
    pooler: std::cell::RefCell<Pooler>,
    standbys: Vec<Node>,
    primary: Node,
    site: Site,
    port: u16,
    http: u16,
}

impl Scene {
    /// Starts nodes and pooler.
    fn set(site: &Site, place: &Workplace, program: &std::path::Path) -> Outcome<Self> {
        let primary = stage("primary", || Node::primary(site, "pg1", &settings(), &hba()))?;
        let verifier = people(site, &primary)?;
        let mut standbys = Vec::new();
        for name in ["pg2", "pg3"] {
            standbys.push(stage("standby", || Node::standby(site, name, &primary))?);
        }
        let (port, http) = (place::free_port()?, place::free_port()?);
        let users = place.write("userlist.txt", &format!("\"{USER}\" \"{verifier}\"\n"))?;
        let nodes: Vec<&Node> = std::iter::once(&primary).chain(&standbys).collect();
        let config = config(port, http, &users.display().to_string(), &nodes);
        let config = place.write("pgring.toml", &config)?;
        let pooler = stage("pgring", || Pooler::start(place, program, &config, port))?;
        let site = site.clone();
        Ok(Self { pooler: pooler.into(), standbys, primary, site, port, http })
    }

    /// The demo's user straight at the primary.
    fn direct(&self) -> Login<'static> {
        Login { user: USER, password: USER, ..self.primary.login(USER) }
    }

    /// The demo's user through pgring.
    fn pooled(&self) -> Login<'static> {
        Login { port: self.port, ..self.direct() }
    }

    /// What a visitor may try.
    fn doors(&self) -> String {
        let Self { port, http, .. } = self;
        let mut text = String::new();
        let mut say = |what: &str, how: &str| {
            text = format!("{text}{what:<9} {how}\n");
        };
        let url = format!("postgresql://{USER}:{USER}@127.0.0.1:{port}");
        say("psql", &format!("psql {url}/{USER}"));
        say("console", &format!("psql {url}/pgring -c 'SHOW POOLS'"));
        say("nodes", &format!("psql {url}/pgring -c 'SHOW NODES'"));
        say("metrics", &format!("curl http://127.0.0.1:{http}/metrics"));
        say("ready", &format!("curl http://127.0.0.1:{http}/readyz"));
        for node in std::iter::once(&self.primary).chain(&self.standbys) {
            say(&node.name, &format!("psql postgresql://{USER}:{USER}@{}/{USER}", node.address()));
        }
        text
    }

    /// Waits for Ctrl-C, or for the end of pgring.
    fn keep(&self) -> Outcome<()> {
        process::wait_until(Duration::from_secs(u64::from(u32::MAX)), || {
            self.pooler.borrow_mut().check_alive().map(|()| false)
        })
        .map(|_| ())
    }
}

/// Does one thing of the beginning and says how long it took.
fn stage<T>(name: &str, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let start = Instant::now();
    let done = act()?;
    println!("started   {name:<26} {:>6.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}

/// Makes the demo's user and database; gives the user's SCRAM verifier.
fn people(site: &Site, primary: &Node) -> Outcome<String> {
    let root = primary.login("postgres");
    site.ask(&root, &format!("CREATE ROLE {USER} LOGIN PASSWORD '{USER}' IN ROLE pg_monitor"))?;
    site.ask(&root, &format!("CREATE DATABASE {USER} OWNER {USER}"))?;
    site.ask(&root, &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'"))
}

fn settings() -> String {
    "password_encryption = 'scram-sha-256'\nmax_connections = 120\nshared_buffers = '256MB'\n\
     wal_level = replica\nmax_wal_senders = 8\nwal_keep_size = '1GB'\nhot_standby = on\n"
        .to_owned()
}

/// The demo's user proves who it is; the superuser of this throw-away cluster need not.
fn hba() -> String {
    format!(
        "host all {USER} 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n\
         host replication postgres 127.0.0.1/32 trust\n"
    )
}

/// The configuration of the demo's pgring.
fn config(port: u16, http: u16, users: &str, nodes: &[&Node]) -> String {
    let mut text = format!(
        "# Written by `cargo xtask demo`.\n\
         workers = 2\nlisten = [\"127.0.0.1:{port}\"]\nhttp = \"127.0.0.1:{http}\"\n\
         admin_users = [\"{USER}\"]\n\n\
         [auth]\nmethod = \"scram-sha-256\"\nusers_file = \"{users}\"\n\n\
         [pool]\nmode = \"transaction\"\nsize = {POOL_SIZE}\n\n\
         [routing]\nreads = \"replicas\"\n\n\
         [monitor]\nuser = \"{USER}\"\npassword = \"{USER}\"\n\n\
         [[clusters]]\nname = \"main\"\n"
    );
    for node in nodes {
        let (name, address) = (&node.name, node.address());
        text = format!("{text}[[clusters.nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text + "\n[[databases]]\nname = \"*\"\ncluster = \"main\"\n"
}
