//! A primary and two standbys of which pgring takes care: pg1, pg2 and pg3.

use crate::acting::{ROLE, make_role};
use crate::command::{signal, until};
use crate::console::Row;
use crate::pgring::{Pgring, Settings};
use crate::postgres::{Postgres, nodes_dir, psql};
use crate::wire::Wire;
use pgring_logic::record::{Record, State};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that needs no more than a moment on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);

/// The names of the nodes.
pub const NAMES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// What nodes are to have that are rewound, and what they are known by to each other.
const SETTINGS: [&str; 7] = [
    "synchronous_commit = on",
    "full_page_writes = on",
    "wal_log_hints = on",
    "wal_keep_size = 64MB",
    "log_statement = all",
    "log_line_prefix = '%u: '",
    "cluster_name = 'pg1'",
];

/// The nodes with a pgring.
pub struct Trio {
    /// It goes first.
    pub pgring: Pgring,
    /// pg1, pg2, pg3.
    pub nodes: Nodes,
    folder: PathBuf,
}

/// The nodes. A hook may have started one, which is no child of ours then, and none is left.
pub struct Nodes(pub Vec<Postgres>);

/// The processes of a node, which work in its data directory.
pub fn processes(node: &Postgres) -> usize {
    let Ok(data) = node.home().join("data").canonicalize() else { return 0 };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter(|it| fs::read_link(it.path().join("cwd")).is_ok_and(|cwd| cwd == data)).count()
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &self.0 {
            node.wake();
            let pid = fs::read_to_string(node.home().join("data/postmaster.pid")).ok();
            let pid = pid.and_then(|text| text.lines().next()?.parse().ok());
            if let Some(pid) = pid.filter(|_| processes(node) > 0) {
                signal(pid, "QUIT");
            }
        }
        let begun = Instant::now();
        while self.0.iter().any(|node| processes(node) > 0) && begun.elapsed() < SOON {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

impl Nodes {
    /// A primary and two standbys, which it may know by their names, with the role that acts and
    /// a table for keys.
    pub fn start(named: bool) -> Self {
        let primary = Postgres::start_with(&SETTINGS);
        make_role(&primary);
        primary.psql("CREATE TABLE keys (key text); GRANT ALL ON keys TO app");
        let standby = |name: &str| {
            let name = format!("cluster_name = '{}'", if named { name } else { "" });
            primary.start_standby(&[&name])
        };
        let [second, third] = ["pg2", "pg3"].map(standby);
        let nodes = Self(vec![primary, second, third]);
        for node in &nodes.0 {
            // Hooks start it by pg_ctl, with nothing on the command line.
            let conf = node.home().join("data/postgresql.conf");
            let mut conf = OpenOptions::new().append(true).open(conf).expect("its settings");
            let (port, home) = (node.port(), node.home().display());
            writeln!(conf, "port = {port}\nunix_socket_directories = '{home}'").expect("to write");
        }
        nodes
    }
}

/// A file among the hooks that are shipped.
pub fn hook(name: &str) -> String {
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/hooks");
    hooks.join(name).to_str().expect("a path in UTF-8").to_owned()
}

/// What decides on these nodes, and a folder with the record and where hooks find the nodes.
pub fn settings(nodes: &Nodes, durability: &str) -> (Settings, PathBuf) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = nodes_dir().join(format!("trio-{}-{number}", process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("a folder");
    for (name, node) in NAMES.iter().zip(&nodes.0) {
        symlink(node.home(), folder.join(name)).expect("a link to a node");
    }
    let text = folder.to_str().expect("a path in UTF-8");
    let addresses: Vec<_> = nodes.0.iter().map(|node| node.address().to_string()).collect();
    let settings = Settings::new(&nodes.0[0])
        .nodes(&addresses)
        .set("pool.size", 8)
        .set("monitor.user", ROLE)
        .set("failover.state_file", format!("{text}/main.record").as_str())
        .set("failover.durability", durability)
        .set("failover.rejoin_command", [hook("rejoin").as_str(), text]);
    (settings, folder)
}

impl Trio {
    /// All is well when it is there.
    pub fn start(durability: &str, change: impl FnOnce(Settings) -> Settings) -> Self {
        Self::before(Nodes::start(true), durability, change)
    }

    /// The same with nodes that are there.
    pub fn before(
        nodes: Nodes,
        durability: &str,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Self {
        let (settings, folder) = settings(&nodes, durability);
        let pgring = change(settings).start();
        let trio = Self { pgring, nodes, folder };
        trio.until_well("pg1");
        let wanted = if durability == "sync" { "ANY 1 (\"pg2\", \"pg3\")" } else { "" };
        trio.until_row("pg1", "it waits for others", |row| row["synchronous"] == wanted);
        let sql = "SHOW synchronous_standby_names";
        until("commits to wait", SOON, || trio.node("pg1").psql(sql).trim() == wanted);
        trio
    }

    /// Where hooks find the nodes by their names.
    pub fn folder(&self) -> &str {
        self.folder.to_str().expect("a path in UTF-8")
    }

    /// What SHOW TOPOLOGY says of a node.
    pub fn row(&self, node: &str) -> Row {
        let row = self.pgring.console().find("SHOW TOPOLOGY", "node", node);
        row.unwrap_or_else(|| panic!("no {node}"))
    }

    /// Waits until SHOW TOPOLOGY says something of a node.
    #[track_caller]
    pub fn until_row(&self, node: &str, what: &str, holds: impl Fn(&Row) -> bool) -> Row {
        let begun = Instant::now();
        loop {
            let row = self.row(node);
            if holds(&row) {
                return row;
            }
            assert!(begun.elapsed() < SOON, "{node}: {what}: {row:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a node is written to, all is well, and all that is not in quarantine follows it.
    #[track_caller]
    pub fn until_well(&self, primary: &str) {
        let well = |row: &Row| {
            row["state"] == "normal" && row["status"].is_empty() && row["writes"] == primary
        };
        for node in NAMES {
            let from = self.node(primary).address().to_string();
            self.until_row(node, "it is well", |row| {
                let follows = row["role"] == "standby" && row["receives_from"] == from;
                let good = if node == primary { row["role"] == "primary" } else { follows };
                well(row) && (good && row["verdict"] == "healthy" || !row["quarantine"].is_empty())
            });
        }
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> &Postgres {
        &self.nodes.0[place(name)]
    }

    /// The same, to do something to it.
    pub fn node_mut(&mut self, name: &str) -> &mut Postgres {
        &mut self.nodes.0[place(name)]
    }

    /// What is kept; none before anything is.
    pub fn record(&self) -> Option<Record> {
        let text = fs::read_to_string(self.folder.join("main.record")).ok()?;
        let (_, text) = text.split_once('\n')?;
        Record::read(text, "main").ok()
    }

    /// Waits until the record says this; false if it says first that all is over.
    pub fn until_state(&self, state: State, epoch: u64) -> bool {
        let mut seen = State::Normal;
        until(&format!("the record to say {state}"), SOON, || {
            let Some(record) = self.record().filter(|record| record.epoch > epoch) else {
                return false;
            };
            seen = record.state;
            seen == state || seen == State::Normal
        });
        seen == state
    }

    /// Keys that a node has, in order.
    pub fn keys(&self, name: &str) -> Vec<String> {
        let sql = "SELECT key FROM keys ORDER BY key COLLATE \"C\"";
        let rows = psql(self.node(name).address(), "postgres", "app", sql).expect_success(sql);
        rows.lines().map(str::to_owned).collect()
    }

    /// Kills a node with all it has running, and waits for its last process.
    pub fn kill(&mut self, name: &str) {
        let node = self.node_mut(name);
        node.kill();
        until("its last process to end", SOON, || processes(node) == 0);
    }

    /// A client.
    pub fn client(&self) -> Wire {
        Wire::login(self.pgring.address(), "app")
    }

    /// What the console says to a command: lines, or the reason.
    pub fn say(&self, command: &str) -> Result<String, String> {
        let mut console = self.pgring.console();
        console.wire().patience(2 * SOON);
        let rows = console.ask(command).map_err(|it| it.field(b'M').unwrap_or_default())?;
        let lines: Vec<_> = rows.into_iter().flat_map(Row::into_values).collect();
        Ok(lines.join("\n"))
    }

    /// The same of what must work.
    #[track_caller]
    pub fn well(&self, command: &str) -> String {
        self.say(command).unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    /// The last row of SHOW HISTORY.
    pub fn last_chapter(&self) -> Row {
        self.pgring.console().show("SHOW HISTORY").pop().expect("a chapter")
    }
}

fn place(name: &str) -> usize {
    NAMES.iter().position(|it| *it == name).unwrap_or_else(|| panic!("no {name}"))
}
