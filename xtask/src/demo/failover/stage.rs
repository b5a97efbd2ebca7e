//! What the failover demo runs on: three nodes, and a pgring that takes care of their primary.

use crate::demo::{self, USER};
use crate::outage::ground::{hooks, sweep};
use crate::outage::topology::{Chapter, Topology, history};
use crate::outage::writer::{Guests, TABLE};
use crate::place::{self, Workplace};
use crate::pooler::Pooler;
use crate::postgres::{Login, Node, Site};
use crate::process::{self, Outcome};
use crate::rig::console::Console;
use crate::rig::event::Table;
use std::cell::RefCell;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The cluster, as pgring's configuration calls it.
pub(super) const CLUSTER: &str = "main";
/// The role by which pgring watches the nodes and acts on them.
const MASTER: &str = "pgring";
/// The database under whose name reads go to standbys.
const READS: &str = "demo_reads";
/// How long the console may take to answer what it only has to look up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nodes may take until all is well.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Everything that runs. What is first ends first.
pub(super) struct Stage {
    console: RefCell<Console>,
    pooler: RefCell<Pooler>,
    /// The nodes; the first is the primary at the beginning.
    pub(super) nodes: Vec<Node>,
    pub(super) site: Site,
    pub(super) port: u16,
    program: PathBuf,
    config: PathBuf,
}

impl Stage {
    /// Starts nodes and pgring.
    pub(super) fn set(place: &Workplace, program: &Path) -> Outcome<Self> {
        sweep(&place.path)?;
        let site = Site::new(place)?;
        let mut nodes = Vec::new();
        for name in ["pg1", "pg2", "pg3"] {
            let node = match nodes.first() {
                None => demo::stage("primary", || first(&site, name))?,
                Some(first) => demo::stage("standby", || second(&site, name, first))?,
            };
            nodes.push(node);
        }
        let port = place::free_port()?;
        let (hooks, records) = (hooks(place)?, place.path.join("state"));
        place::remove(&records)?;
        place::create(&records)?;
        place.account.own(&records)?;
        let text = config(port, &nodes, [&hooks, &place.path, &records.join("main.record")]);
        let config = place.write("failover.toml", &text)?;
        let start = || Pooler::start(place, program, &config, port);
        let pooler = demo::stage("pgring", start)?.into();
        let login = Login { database: "pgring", ..door(port) };
        let console = Console::enter(&site, &login)?.into();
        let program = program.to_path_buf();
        let stage = Self { console, pooler, nodes, site, port, program, config };
        demo::stage("all is well", || stage.settle())?;
        Ok(stage)
    }

    /// Who the clients are, and where they find pgring.
    pub(super) fn guests(&self) -> Guests {
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let idle = "SELECT pg_is_in_recovery()";
        Guests { address, writer: (USER, USER), reader: (USER, READS), idle }
    }

    /// Asks the console.
    pub(super) fn ask(&self, sql: &str, patience: Duration) -> Outcome<Table> {
        self.pooler.borrow_mut().check_alive()?;
        let answer = self.console.borrow_mut().ask(sql, patience)?;
        answer.ok_or_else(|| format!("{sql} was not answered within {} s", patience.as_secs()))
    }

    /// What pgring has decided.
    pub(super) fn topology(&self) -> Outcome<Topology> {
        Ok(Topology::parse(&self.ask("SHOW TOPOLOGY", PATIENCE)?))
    }

    /// How the primary has changed since this epoch.
    pub(super) fn history(&self, since: u64) -> Outcome<Vec<Chapter>> {
        Ok(history(&self.ask("SHOW HISTORY", PATIENCE)?, since))
    }

    /// The node of this name.
    pub(super) fn node(&self, name: &str) -> Outcome<&Node> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| format!("there is no node `{name}`"))
    }

    /// Waits until each standby receives and pgring has nothing to say against any.
    pub(super) fn settle(&self) -> Outcome<()> {
        let mut complaint = String::new();
        let well = process::wait_until(SETTLE_MAX, || {
            complaint = self.complaint()?;
            Ok(complaint.is_empty())
        })?;
        if well {
            return Ok(());
        }
        let (limit, log) = (SETTLE_MAX.as_secs(), self.pooler.borrow().said());
        Err(format!("not all is well after {limit} s: {complaint}\npgring's log ends:\n{log}"))
    }

    fn complaint(&self) -> Outcome<String> {
        let topology = self.topology()?;
        if !topology.is_normal() || !topology.quarantine.is_empty() {
            return Ok(format!("SHOW TOPOLOGY says\n{}", topology.text));
        }
        let primary = self.node(&topology.primary)?;
        let sql = "SELECT count(*) FILTER (WHERE sync_state IN ('quorum', 'sync')) \
                   FROM pg_stat_replication WHERE state = 'streaming'";
        let found = self.site.ask(&primary.login("postgres"), sql)?;
        if found != (self.nodes.len() - 1).to_string() {
            return Ok(format!("{found} standbys acknowledge commits of {}", primary.name));
        }
        let complaint = self.console.borrow_mut().complaint(self.nodes.len(), PATIENCE)?;
        Ok(complaint.unwrap_or_default())
    }

    /// Waits for Ctrl-C, or for the end of pgring.
    pub(super) fn keep(&self) -> Outcome<()> {
        let ever = Duration::from_secs(u64::from(u32::MAX));
        process::wait_until(ever, || self.pooler.borrow_mut().check_alive().map(|()| false))
            .map(drop)
    }

    /// What a visitor may try.
    pub(super) fn doors(&self) -> String {
        let url = format!("postgresql://{USER}@127.0.0.1:{}", self.port);
        let (program, config) = (self.program.display(), self.config.display());
        let mut text = format!("psql       psql {url}/{USER}\nconsole    psql {url}/pgring\n");
        for (command, what) in [
            ("SHOW TOPOLOGY", "who is the primary, and why nothing is done, if nothing is"),
            ("SHOW HISTORY", "what was done, and how long each step took"),
            ("SWITCHOVER TO pg2 DRY RUN", "what it would do; without DRY RUN it does it"),
            ("REJOIN pg1", "makes a standby of a node that was a primary and came to an end"),
            ("PAUSE FAILOVER", "nothing by itself any more; RESUME FAILOVER ends that"),
        ] {
            text += &format!("           {:<28} {what}\n", format!("{command};"));
        }
        for node in &self.nodes {
            let (name, data) = (&node.name, node.data.display());
            text += &format!("{name:<10} kill -9 $(head -1 {data}/postmaster.pid)\n");
        }
        text + &format!(
            "rehearse   {program} rehearse --config {config} \\\n           \
             --user {USER} --database {USER} --yes-this-is-not-production {CLUSTER}\n"
        )
    }
}

fn door(port: u16) -> Login<'static> {
    Login { host: Ipv4Addr::LOCALHOST, port, user: USER, password: "", database: USER }
}

/// The first node, with all that is in it.
fn first(site: &Site, name: &str) -> Outcome<Node> {
    let node = Node::primary(site, name, &settings(), HBA)?;
    let root = node.login("postgres");
    // The same way as in production: the role of config/failover.sql.
    let script = place::root().join("config/failover.sql");
    let script =
        fs::read_to_string(&script).map_err(|error| format!("{}: {error}", script.display()))?;
    let mut psql = site.client("psql", &root);
    psql.args(["-X", "-q", "-v", &format!("role={MASTER}"), "-f", "-"]);
    let said = process::run(&mut psql, &script, &mut |_| ())?;
    if !said.success {
        return Err(format!("failover.sql:\n{}", process::tail(&said.stderr, 5)));
    }
    site.ask(&root, &format!("CREATE ROLE {USER} LOGIN IN ROLE pg_monitor"))?;
    site.ask(&root, &format!("CREATE DATABASE {USER} OWNER {USER}"))?;
    let login = Login { user: USER, ..node.login(USER) };
    process::output(site.client("pgbench", &login).args(["-i", "-q", "-s", "1"]))?;
    site.ask(&login, &format!("CREATE TABLE {TABLE} (client int, seq bigint, key bigint)"))?;
    Ok(node)
}

/// A standby that says its name to the primary.
fn second(site: &Site, name: &str, primary: &Node) -> Outcome<Node> {
    let node = Node::standby(site, name, primary)?;
    let port = primary.port;
    let info = format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
    let root = node.login("postgres");
    site.ask(&root, &format!("ALTER SYSTEM SET primary_conninfo = '{info}'"))?;
    site.ask(&root, "SELECT pg_reload_conf()")?;
    Ok(node)
}

fn settings() -> String {
    "max_connections = 120\nshared_buffers = '128MB'\nwal_level = replica\nwal_log_hints = on\n\
     wal_keep_size = '1GB'\nmax_wal_senders = 10\nmax_replication_slots = 10\nhot_standby = on\n"
        .to_owned()
}

/// Nobody need prove anything: these nodes hold nothing, and only this machine reaches them.
const HBA: &str = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

/// The configuration of the demo's pgring.
fn config(port: u16, nodes: &[Node], [hooks, data, record]: [&Path; 3]) -> String {
    let command = |name: &str| {
        let (hook, data) = (hooks.join(name), data.display());
        format!("{name}_command = [\"{}\", \"{data}\"]\n", hook.display())
    };
    let hooks: String = ["fence", "stop", "rejoin"].into_iter().map(command).collect();
    let list = nodes.iter().map(|node| {
        let (name, address) = (&node.name, node.address());
        format!("[[clusters.nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n")
    });
    let list: String = list.collect();
    format!(
        "# Written by `cargo xtask demo --failover`.\n\
         workers = 2\nlisten = [\"127.0.0.1:{port}\"]\nadmin_users = [\"{USER}\"]\n\n\
         [auth]\nmethod = \"trust\"\n\n[pool]\nmode = \"transaction\"\nsize = 16\n\n\
         [monitor]\nuser = \"{MASTER}\"\n\n\
         [[clusters]]\nname = \"{CLUSTER}\"\n\n[clusters.failover]\ndurability = \"sync\"\n\
         state_file = \"{}\"\n# In production a second failover within ten minutes wants a human.\n\
         cooldown = \"0s\"\n{hooks}\n{list}\n\
         [[databases]]\nname = \"{READS}\"\ndbname = \"{USER}\"\ncluster = \"{CLUSTER}\"\n\
         [databases.routing]\nreads = \"replicas\"\n\n\
         [[databases]]\nname = \"*\"\ncluster = \"{CLUSTER}\"\n",
        record.display()
    )
}
