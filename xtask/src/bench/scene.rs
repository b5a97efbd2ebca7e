//! Everything that stands still during a bench: `PostgreSQL` with its tables, the stand-in, users.

use super::case::{Case, Load, Script, Stage};
use crate::place::{self, Workplace};
use crate::pooler::{Launch, Pooler};
use crate::postgres::{Login, Node, Site};
use crate::process::{self, Outcome};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Scale factor of pgbench: a million accounts, 150 MB.
pub(super) const SCALE: u32 = 10;
/// Who need not prove who it is.
const TRUSTED: &str = "bench";
/// Who does, with a password of the same name.
const SCRAM: &str = "scram";
/// The database of both.
const DATABASE: &str = "bench";
/// Rows of a kilobyte of the table that is copied: 200 MB on the wire.
const BULK_ROWS: u32 = 200_000;

/// What the runs have in common.
#[derive(Debug)]
pub(super) struct Scene {
    /// Where the poolers live.
    pub(super) place: Workplace,
    /// `PostgreSQL`'s programs.
    pub(super) site: Site,
    /// The pgring to measure.
    pub(super) pgring: PathBuf,
    /// The load generator and stand-in.
    pub(super) load: PathBuf,
    /// The users and their verifiers, as `PgBouncer` and pgring read them.
    pub(super) users: PathBuf,
    standin: Option<(Pooler, u16)>,
    node: Option<Node>,
    /// A primary and its standbys.
    split: Vec<Node>,
}

impl Scene {
    /// Starts what these cases need.
    pub(super) fn set(cases: &[Case], pgring: PathBuf, load: PathBuf) -> Outcome<Self> {
        let place = Workplace::open("bench-place")?;
        let site = Site::new(&place)?;
        let logs = place.path.join("logs");
        place::create(&logs)?;
        place.account.own(&logs)?;
        let users = place.path.join("userlist.txt");
        let (node, split) = (None, Vec::new());
        let mut scene = Self { place, site, pgring, load, users, standin: None, node, split };
        let mut verifier = String::new();
        if cases.iter().any(|case| case.stage == Stage::Real) {
            println!("starting  PostgreSQL, tables of pgbench at scale {SCALE}, 200 MB to copy");
            let settings = format!("{SETTINGS}{ALONE}");
            let node = Node::primary(&scene.site, "pg1", &settings, &hba())?;
            verifier = fill(&scene.site, &node)?;
            scene.node = Some(node);
        }
        if cases.iter().any(|case| case.stage == Stage::Split) {
            println!("starting  another PostgreSQL with two standbys");
            let settings = format!("{SETTINGS}{REPLICATED}");
            let primary = Node::primary(&scene.site, "split1", &settings, &hba())?;
            // The users file has one verifier; no split case asks for it.
            let own = fill(&scene.site, &primary)?;
            if verifier.is_empty() {
                verifier = own;
            }
            let standby = |name| Node::standby(&scene.site, name, &primary);
            let standbys = [standby("split2")?, standby("split3")?];
            scene.split = std::iter::once(primary).chain(standbys).collect();
        }
        if verifier.is_empty() {
            // The stand-in asks for no password, so any verifier of the password does.
            SCRAM_VERIFIER.clone_into(&mut verifier);
        }
        let users = format!("\"{TRUSTED}\" \"\"\n\"{SCRAM}\" \"{verifier}\"\n");
        scene.place.write("userlist.txt", &users)?;
        if cases.iter().any(|case| case.stage == Stage::Pinned) {
            scene.standin = Some(standin(&scene.place, &scene.load)?);
        }
        Ok(scene)
    }

    /// Where the server of a case listens.
    pub(super) fn server_port(&self, case: &Case) -> Outcome<u16> {
        let port = match case.stage {
            Stage::Real => self.node.as_ref().map(|node| node.port),
            Stage::Pinned => self.standin.as_ref().map(|(_, port)| *port),
            Stage::Split => self.split.first().map(|node| node.port),
        };
        port.ok_or_else(|| format!("{}: its server was not started", case.name))
    }

    /// Where the standbys of a case listen.
    pub(super) fn standby_ports(&self, case: &Case) -> Vec<u16> {
        match case.stage {
            Stage::Real | Stage::Pinned => Vec::new(),
            Stage::Split => self.split.iter().skip(1).map(|node| node.port).collect(),
        }
    }

    /// How many transactions the standbys of a case have done so far.
    pub(super) fn on_standbys(&self, case: &Case) -> Outcome<u64> {
        let sql = format!("SELECT xact_commit FROM pg_stat_database WHERE datname = '{DATABASE}'");
        let ask = |port| {
            let said = self.site.ask(&login(case, port), &sql)?;
            said.parse::<u64>().map_err(|_| format!("a standby counts `{said}` transactions"))
        };
        self.standby_ports(case).into_iter().map(ask).sum()
    }

    /// Where clients connect that have nothing in between: those that only read to the standbys.
    pub(super) fn direct_ports(&self, case: &Case) -> Outcome<Vec<u16>> {
        let standbys = self.standby_ports(case);
        let reads = matches!(case.load, Load::Pgbench(_, Script::SelectOnly));
        if reads && !standbys.is_empty() {
            return Ok(standbys);
        }
        Ok(vec![self.server_port(case)?])
    }

    /// A program on the core of poolers, if the case is pinned.
    pub(super) fn pooler_command(&self, case: &Case, program: &Path) -> Command {
        let place = &self.place;
        match case.stage {
            Stage::Real | Stage::Split => place.account.command(program, &place.path),
            Stage::Pinned => {
                let mut command = place.account.command("taskset", &place.path);
                command.args(["--cpu-list", POOLER_CORE]).arg(program);
                command
            }
        }
    }
}

/// Whose client a case has, at this port.
pub(super) fn login(case: &Case, port: u16) -> Login<'static> {
    let user = if case.scram { SCRAM } else { TRUSTED };
    let host = Ipv4Addr::LOCALHOST;
    Login { host, port, user, password: user, database: DATABASE }
}

/// The core of the pooler in pinned cases.
const POOLER_CORE: &str = "0";
/// The core of stand-in and load in pinned cases.
pub(super) const LOAD_CORE: &str = "1";

/// A verifier of the password `scram`, for cases without a `PostgreSQL` that would make one.
const SCRAM_VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
    Sijpnp7ykAFOP1WoAYjUe3cWLBNdn8CrPHfCX8WZkd0=:j4F7GXEOaOoDBc6NFtxfXuQeFa9MGaSJcDfbvfUvK3I=";

/// Nothing but the questions costs: no disk is waited for, nothing runs in between.
const SETTINGS: &str = "password_encryption = 'scram-sha-256'\nmax_connections = 400\n\
    shared_buffers = '1GB'\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
    max_wal_size = '8GB'\ncheckpoint_timeout = '1h'\n\
    autovacuum = off\njit = off\nlisten_addresses = '127.0.0.1'\n";

/// Nor is a log written for anybody else.
const ALONE: &str = "wal_level = minimal\nmax_wal_senders = 0\n";

/// What is committed is on its way to the standbys at once.
const REPLICATED: &str = "synchronous_commit = local\nwal_writer_delay = '10ms'\n";

fn hba() -> String {
    format!(
        "host all {TRUSTED} 127.0.0.1/32 trust\nhost all {SCRAM} 127.0.0.1/32 scram-sha-256\n\
         host all postgres 127.0.0.1/32 trust\n\
         host replication postgres 127.0.0.1/32 trust\n"
    )
}

/// Makes users, database and tables; gives the verifier of [`SCRAM`].
fn fill(site: &Site, node: &Node) -> Outcome<String> {
    let root = node.login("postgres");
    site.ask(&root, &format!("CREATE ROLE {TRUSTED} LOGIN PASSWORD '{TRUSTED}'"))?;
    site.ask(&root, &format!("CREATE ROLE {SCRAM} LOGIN PASSWORD '{SCRAM}' IN ROLE {TRUSTED}"))?;
    site.ask(&root, &format!("CREATE DATABASE {DATABASE} OWNER {TRUSTED}"))?;
    let own = Login { user: TRUSTED, ..node.login(DATABASE) };
    let mut pgbench = site.client("pgbench", &own);
    process::output(pgbench.args(["-i", "-q", "-s", &SCALE.to_string()]))?;
    let bulk = format!(
        "CREATE UNLOGGED TABLE bulk AS SELECT n AS id, repeat('abcdefghij', 99) AS text \
         FROM generate_series(1, {BULK_ROWS}) n;\
         ALTER TABLE bulk ALTER COLUMN text SET STORAGE EXTERNAL;\
         CREATE UNLOGGED TABLE sink (id int, text text);\
         ALTER TABLE sink ALTER COLUMN text SET STORAGE EXTERNAL;\
         CREATE UNLOGGED TABLE wide (id int PRIMARY KEY, text text);\
         ALTER TABLE wide ALTER COLUMN text SET STORAGE EXTERNAL;\
         INSERT INTO wide SELECT n, repeat('0123456789abcdef', 65536) FROM generate_series(1, 4) n"
    );
    site.ask(&own, &bulk)?;
    site.ask(&own, "VACUUM ANALYZE")?;
    site.ask(&root, &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{SCRAM}'"))
}

/// Starts the stand-in on the core of the load.
fn standin(place: &Workplace, program: &Path) -> Outcome<(Pooler, u16)> {
    println!("starting  the stand-in");
    let port = place::free_port()?;
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", LOAD_CORE]).arg(program);
    command.args(["serve", "--port", &port.to_string()]);
    let launch = Launch { name: "standin", command, mark: program, port, end: Signal::SIGKILL };
    Ok((Pooler::launch(place, launch)?, port))
}
