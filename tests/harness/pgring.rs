//! A pgring process of a test, in front of one PostgreSQL node.

use crate::command::{mortal, say, signal, until, wait};
use crate::console::{Console, Row, http};
use crate::ports::Port;
use crate::postgres::{PASSWORD, Postgres, nodes_dir, target_dir};
use crate::wire::Wire;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::panicking;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// The settings of a pgring that is yet to start: section, key, value as TOML.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<(String, String), String>,
    users: String,
    databases: String,
    nodes: Vec<String>,
    through: Vec<String>,
}

/// A running pgring; it ends when it is dropped, after it was asked whether all went well.
#[derive(Debug)]
pub struct Pgring {
    home: PathBuf,
    port: Port,
    http: Port,
    settings: Settings,
    child: Child,
    ended: bool,
}

/// A value as TOML writes it.
#[derive(Clone, Debug)]
pub struct Value(String);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(format!("{text:?}"))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self(flag.to_string())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self(number.to_string())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self(number.to_string())
    }
}

impl<const N: usize> From<[&str; N]> for Value {
    fn from(texts: [&str; N]) -> Self {
        Self(format!("{texts:?}"))
    }
}

/// In front of the name of a node, in place of a section.
const NODE: &str = "node ";
/// The section of the cluster's own.
const FAILOVER: &str = "failover";

impl Settings {
    /// Two workers, no passwords, small pools in front of a node.
    pub fn new(node: &Postgres) -> Self {
        let mut users = String::new();
        for user in ["postgres", "app", "guest", "stats", "plain", "md5er", "scrammer"] {
            writeln!(users, "\"{user}\" \"{PASSWORD}\"").expect("to write to a string");
        }
        let databases = String::from("[[databases]]\nname = \"*\"\ncluster = \"main\"\n");
        let nodes = vec![node.address().to_string()];
        let (values, through) = (BTreeMap::new(), Vec::new());
        let new = Self { values, users, databases, nodes, through };
        new.set("workers", 2)
            .set("admin_users", ["postgres"])
            .set("stats_users", ["stats"])
            .set("auth.method", "trust")
            .set("auth.users_file", "userlist.txt")
            .set("pool.size", 4)
    }

    /// Sets `section.key`, or a key before all sections.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        self.values.insert((section.to_owned(), key.to_owned()), value.into().0);
        self
    }

    /// Sets a key of one node, by its name: they are pg1, pg2 and so on.
    #[must_use]
    pub fn node_set(mut self, node: &str, key: &str, value: impl Into<Value>) -> Self {
        self.values.insert((format!("{NODE}{node}"), key.to_owned()), value.into().0);
        self
    }

    /// Replaces `[[routing.rules]]` by these, each of keys and values.
    #[must_use]
    pub fn rules(mut self, rules: &[&[(&str, &str)]]) -> Self {
        let pairs = |rule: &&[(&str, &str)]| {
            let pairs: Vec<_> =
                rule.iter().map(|(key, value)| format!("{key} = {value:?}")).collect();
            format!("{{ {} }}", pairs.join(", "))
        };
        let rules: Vec<_> = rules.iter().map(pairs).collect();
        let key = ("routing".to_owned(), "rules".to_owned());
        self.values.insert(key, format!("[{}]", rules.join(", ")));
        self
    }

    /// Replaces the users file.
    #[must_use]
    pub fn users(mut self, text: &str) -> Self {
        text.clone_into(&mut self.users);
        self
    }

    /// Replaces the `[[databases]]` entries.
    #[must_use]
    pub fn databases(mut self, text: &str) -> Self {
        text.clone_into(&mut self.databases);
        self
    }

    /// Replaces the address of the node, for instance by its socket directory.
    #[must_use]
    pub fn node(self, address: &str) -> Self {
        self.nodes(&[address.to_owned()])
    }

    /// Replaces the list of nodes by these addresses.
    #[must_use]
    pub fn nodes(mut self, addresses: &[String]) -> Self {
        addresses.clone_into(&mut self.nodes);
        self
    }

    /// Has it started by a program with arguments of its own.
    #[must_use]
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts it.
    pub fn start(self) -> Pgring {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let home = nodes_dir().join(format!("ring-{}-{number}", process::id()));
        drop(fs::remove_dir_all(&home));
        fs::create_dir_all(&home).expect("a folder for pgring");
        let (port, http) = (Port::take(), Port::take());
        let settings = self
            .set("listen", [port.address().to_string().as_str()])
            .set("http", http.address().to_string().as_str());
        settings.write(&home);
        let child = launch(&home, &settings.through);
        let mut pgring = Pgring { home, port, http, settings, child, ended: false };
        pgring.wait_until_ready();
        pgring
    }

    fn write(&self, home: &Path) {
        let mut text = String::new();
        let mut current = "";
        let own = |section: &str| section.starts_with(NODE) || section == FAILOVER;
        let all = self.values.iter().filter(|((section, _), _)| !own(section));
        for ((section, key), value) in all {
            if section != current {
                current = section;
                writeln!(text, "\n[{section}]").expect("to write to a string");
            }
            writeln!(text, "{key} = {value}").expect("to write to a string");
        }
        text.push_str("\n[[clusters]]\nname = \"main\"\n");
        for (number, node) in (1..).zip(&self.nodes) {
            write!(text, "[[clusters.nodes]]\nname = \"pg{number}\"\naddress = \"{node}\"\n")
                .expect("to write to a string");
            let own = format!("{NODE}pg{number}");
            for ((_, key), value) in self.values.iter().filter(|((section, _), _)| *section == own)
            {
                writeln!(text, "{key} = {value}").expect("to write to a string");
            }
        }
        let failover = self.values.iter().filter(|((section, _), _)| section == FAILOVER);
        let mut head = "[clusters.failover]\n";
        for ((_, key), value) in failover {
            writeln!(text, "{head}{key} = {value}").expect("to write to a string");
            head = "";
        }
        write!(text, "\n{}", self.databases).expect("to write to a string");
        fs::write(home.join("pgring.toml"), text).expect("to write the config");
        fs::write(home.join("userlist.txt"), &self.users).expect("to write the users file");
    }
}

impl Pgring {
    /// Starts one with pools of a size.
    pub fn start(node: &Postgres, size: usize) -> Self {
        Settings::new(node).set("pool.size", size).start()
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where `/metrics` is.
    pub fn http(&self) -> SocketAddr {
        self.http.address()
    }

    /// The pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder for the test's files.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The config file.
    pub fn config_path(&self) -> PathBuf {
        self.home.join("pgring.toml")
    }

    /// Changes settings and writes the files anew; they are read at RELOAD.
    pub fn rewrite(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.settings = change(self.settings.clone());
        self.settings.write(&self.home);
    }

    /// Queries that a standby has got so far.
    pub fn queries(&self, node: &str) -> u64 {
        let label = format!("node=\"{node}\"");
        self.queries_where(|line| line.contains(&label))
    }

    /// Those that the primary has got.
    pub fn queries_of_primary(&self) -> u64 {
        self.queries_where(|line| !line.contains("node=\""))
    }

    fn queries_where(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let (_, metrics) = http(self.http(), "/metrics");
        let lines = metrics.lines().filter(|line| line.starts_with("pgring_queries_total{"));
        let numbers = lines.filter(|line| counts(line)).filter_map(|line| {
            line.rsplit_once(' ').and_then(|(_, number)| number.parse::<u64>().ok())
        });
        numbers.sum()
    }

    /// The console as an administrator.
    pub fn console(&self) -> Console {
        Console::login(self.address(), "postgres")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Has it use every one of its receive buffers once, so that what it costs to have them is
    /// not taken for what a connection costs.
    pub fn warm(&self) {
        let mut wires: Vec<_> = (0..8).map(|_| Wire::login(self.address(), "app")).collect();
        for _ in 0..400 {
            for wire in &mut wires {
                wire.query("SELECT 1");
            }
        }
    }

    /// Bytes of memory it has resident.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
    }

    /// Waits for its end, which the test has asked for; true if the exit code was 0.
    pub fn wait_for_end(&mut self, limit: Duration) -> bool {
        let success = wait(&mut self.child, limit).expect("pgring to end");
        self.ended = true;
        success
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.signal("KILL");
        assert!(wait(&mut self.child, LIMIT).is_some(), "pgring does not end");
    }

    /// Starts it again after [`Pgring::kill`], where it was.
    pub fn start_again(&mut self) {
        self.child = launch(&self.home, &self.settings.through);
        self.wait_until_ready();
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "pgring is gone");
    }

    /// Waits until no client of a pool waits, none is busy, and no server is.
    pub fn wait_until_quiet(&self) {
        let mut console = self.console();
        let busy = |row: &Row| {
            let number = |column| row.get(column).and_then(|text: &String| text.parse().ok());
            let [waiting, active] = ["cl_waiting", "sv_active"].map(|c| number(c).unwrap_or(0));
            row.get("database").is_none_or(|name| name != "pgring") && waiting + active > 0_u64
        };
        until("the pools to be quiet", LIMIT, || !console.show("SHOW POOLS").iter().any(busy));
    }

    /// Invariants violated since its start, `None` if this is not pgring.
    pub fn violations(&self) -> Option<u64> {
        let mut console = self.console();
        let version = console.show("SHOW VERSION");
        if !version.iter().any(|row| row.values().any(|text| text.contains("pgring"))) {
            return None;
        }
        let (_, metrics) = http(self.http(), "/metrics");
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        let counts = lines.filter(|line| line.contains("violations"));
        let numbers = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let numbers: Vec<_> = numbers.collect();
        assert!(!numbers.is_empty(), "/metrics must count violations");
        Some(u64::from(numbers.iter().any(|&count| count > 0.0)))
    }

    fn wait_until_ready(&mut self) {
        let address = self.address();
        let mut end = None;
        until("pgring to start", LIMIT, || {
            end = self.child.try_wait().expect("to wait for a child");
            let login = [("user", "postgres"), ("database", "pgbouncer")];
            end.is_some() || Wire::try_login(address, &login).is_some()
        });
        if let Some(status) = end {
            panic!("pgring has ended at its start: {status}\n{}", self.log());
        }
    }
}

impl Drop for Pgring {
    fn drop(&mut self) {
        let log = self.log();
        let unwell = if panicking() || self.ended { None } else { self.complaint(&log) };
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if panicking() || unwell.is_some() {
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            say(&format!("the end of pgring's log:\n{}", tail.join("\n")));
        }
        drop(fs::remove_dir_all(&self.home));
        if let Some(complaint) = unwell {
            panic!("{complaint}");
        }
    }
}

impl Pgring {
    fn complaint(&mut self, log: &str) -> Option<String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(format!("pgring has ended: {status}"));
        }
        if log.contains("panicked at") {
            return Some(String::from("pgring has panicked"));
        }
        let violations = self.violations().unwrap_or(0);
        (violations > 0).then(|| format!("{violations} invariants were violated"))
    }
}

fn launch(home: &Path, through: &[String]) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(home.join("log")).expect("a log");
    let errors = log.try_clone().expect("a log");
    let program = binary();
    let mut command = match through {
        [] => mortal(&program, "KILL"),
        [first, more @ ..] => {
            let mut command = mortal(Path::new(first), "KILL");
            command.args(more).arg(&program);
            command
        }
    };
    command.arg("--config").arg(home.join("pgring.toml"));
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().expect("to start pgring")
}

/// The pgring under test: `PGRING_BIN`, or the one built last in release or debug.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PGRING_BIN") {
        return PathBuf::from(path);
    }
    let built = ["release", "debug"].map(|profile| target_dir().join(profile).join("pgring"));
    let age = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    let newest = built.into_iter().filter(|path| path.exists()).max_by_key(age);
    newest.expect("a built pgring (cargo build --release -p pgring) or PGRING_BIN")
}
