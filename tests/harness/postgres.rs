//! A real PostgreSQL node of a test, copied from a template made once.

use crate::command::{Outcome, mortal, run, run_with, signal, until, wait};
use crate::ports::Port;
use crate::wire::Wire;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The password of every role that has one.
pub const PASSWORD: &str = "open sesame";

/// Raised when the template changes, so that an old one is not used.
const TEMPLATE: &str = "template-3";

/// The roles: `app` owns the database `app` and may log in without a password; `plain`, `md5er`
/// and `scrammer` need the method they are named after; `guest` is another one of trust.
const ROLES: &str = "
    CREATE ROLE app LOGIN;
    CREATE ROLE guest LOGIN;
    CREATE ROLE plain LOGIN PASSWORD 'open sesame';
    CREATE ROLE scrammer LOGIN PASSWORD 'open sesame';
    SET password_encryption = 'md5';
    CREATE ROLE md5er LOGIN PASSWORD 'open sesame';
    RESET password_encryption;
    CREATE ROLE reader;
    GRANT reader TO app;
    CREATE DATABASE app OWNER app;
    \\c app
    GRANT ALL ON SCHEMA public TO PUBLIC;
";

const HBA: &str = "local all all trust
host all plain 127.0.0.1/32 password
host all md5er 127.0.0.1/32 md5
host all scrammer 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
";

const SETTINGS: &str = "
    fsync = off
    full_page_writes = off
    synchronous_commit = off
    autovacuum = off
    jit = off
    max_connections = 200
    max_prepared_transactions = 10
    shared_buffers = 32MB
    wal_level = replica
    password_encryption = 'scram-sha-256'
    listen_addresses = '127.0.0.1'
    log_min_messages = warning
    timezone = 'UTC'
";

/// A running node; it ends and its files go when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    home: PathBuf,
    port: Port,
    child: Child,
}

impl Postgres {
    /// Starts one with the template's settings.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more settings, as `name=value`.
    pub fn start_with(settings: &[&str]) -> Self {
        let (template, home) = (template(), new_home());
        let copy = ["-r", "--reflink=auto", &text(&template), &text(&home)].map(String::from);
        run(as_account(Path::new("cp"), "KILL").args(copy), LIMIT).expect_success("cp");
        Self::launch_in(home, settings)
    }

    /// Starts a standby that streams from this node.
    #[must_use]
    pub fn start_standby(&self, settings: &[&str]) -> Self {
        let home = new_home();
        let data = home.join("data");
        let make = ["-m", "700", "-d", &text(&home)].map(String::from);
        run(as_account(Path::new("install"), "KILL").args(make), LIMIT).expect_success("install");
        let mut copy = as_account(&program("pg_basebackup"), "KILL");
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-X", "stream", "-c", "fast", "-R"]);
        copy.args(["-p", &self.port.number.to_string(), "-D"]).arg(&data);
        run(&mut copy, LIMIT).expect_success("pg_basebackup");
        Self::launch_in(home, settings)
    }

    fn launch_in(home: PathBuf, settings: &[&str]) -> Self {
        append(&home.join("data/postgresql.conf"), &settings.join("\n"));
        let port = Port::take();
        let child = launch(&home, port.number);
        let node = Self { home, port, child };
        node.wait_until_ready();
        node
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// A folder for the test's files, readable by the node.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Stops it as `pg_ctl stop -m fast` does.
    pub fn stop(&mut self) {
        assert!(signal(self.child.id(), "INT"), "PostgreSQL is gone");
        assert!(wait(&mut self.child, LIMIT).is_some(), "PostgreSQL does not stop");
    }

    /// Ends it as `pg_ctl stop -m immediate` does.
    pub fn end(&mut self) {
        assert!(signal(self.child.id(), "QUIT"), "PostgreSQL is gone");
        assert!(wait(&mut self.child, LIMIT).is_some(), "PostgreSQL does not end");
    }

    /// Ends its postmaster as `kill -9` does; what runs in a session runs on until it ends.
    pub fn kill(&mut self) {
        assert!(signal(self.child.id(), "KILL"), "PostgreSQL is gone");
        assert!(wait(&mut self.child, LIMIT).is_some(), "PostgreSQL does not end");
    }

    /// Sends a signal to all of its processes.
    pub fn signal_all(&self, name: &str) {
        self.signal_children(name);
        assert!(signal(self.child.id(), name), "PostgreSQL is gone");
    }

    /// Has whatever was stopped go on: it could not end otherwise.
    pub fn wake(&self) {
        self.signal_children("CONT");
        // Who is gone needs none.
        signal(self.child.id(), "CONT");
    }

    fn signal_children(&self, name: &str) {
        let parent = |process: &Path| {
            let stat = fs::read_to_string(process.join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
        };
        let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
        for process in processes.filter(|it| parent(it) == Some(self.child.id())) {
            let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
            // One that has just ended needs no signal.
            let _gone = pid.map(|pid| signal(pid, name));
        }
    }

    /// Starts it again after [`Postgres::stop`].
    pub fn start_again(&mut self) {
        self.child = launch(&self.home, self.port.number);
        self.wait_until_ready();
    }

    /// Starts it again as a standby that nobody sends anything: it is in recovery for ever.
    pub fn start_again_in_recovery(&mut self) {
        fs::write(self.home.join("data/standby.signal"), "").expect("to write a signal file");
        self.start_again();
    }

    /// Runs SQL as the superuser and gives the unaligned rows.
    pub fn psql(&self, sql: &str) -> String {
        psql(self.address(), "postgres", "app", sql).expect_success(sql)
    }

    /// Fills the tables of pgbench.
    pub fn fill_pgbench(&self, scale: u32) {
        let (port, scale) = (self.port.number.to_string(), scale.to_string());
        let arguments = ["-i", "-q", "-s", &scale, "-h", "127.0.0.1", "-p", &port];
        let mut command = Command::new(program("pgbench"));
        run(command.args(arguments).args(["-U", "app", "app"]), LIMIT).expect_success("pgbench -i");
    }

    fn wait_until_ready(&self) {
        until("PostgreSQL to start", LIMIT, || {
            Wire::try_login(self.address(), &[("user", "postgres"), ("database", "app")]).is_some()
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.wake();
            signal(self.child.id(), "QUIT");
            if wait(&mut self.child, LIMIT).is_none() {
                drop(self.child.kill());
            }
        }
        drop(fs::remove_dir_all(&self.home));
    }
}

const LIMIT: Duration = Duration::from_mins(1);

/// A folder that no other node has, and that is not there yet.
fn new_home() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let home = nodes_dir().join(format!("node-{}-{number}", process::id()));
    drop(fs::remove_dir_all(&home));
    home
}

/// Runs SQL by psql and tells how it went: rows unaligned, without header.
pub fn psql(address: SocketAddr, user: &str, database: &str, sql: &str) -> Outcome {
    let port = address.port().to_string();
    let mut command = Command::new(program("psql"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]);
    command.args(["-p", &port, "-U", user, "-d", database, "-f", "-"]);
    run_with(command.env("PGPASSWORD", PASSWORD), sql.as_bytes(), LIMIT)
}

/// The path of one of PostgreSQL's programs, of the newest version there is.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        if let Ok(folder) = std::env::var("PGRING_POSTGRES") {
            return PathBuf::from(folder);
        }
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let numbers = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let folder = |newest: u32| PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"));
        numbers.max().map(folder).expect("PostgreSQL to be installed: run cargo xtask test")
    });
    folder.join(name)
}

/// Where nodes live: `target/test-nodes`, or a temporary folder if the account that runs
/// PostgreSQL cannot get there.
pub fn nodes_dir() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(find_nodes_dir).clone()
}

fn find_nodes_dir() -> PathBuf {
    let inside = target_dir().join("test-nodes");
    let outside = std::env::temp_dir().join("pgring-test-nodes");
    for folder in [inside, outside] {
        fs::create_dir_all(&folder).expect("a folder for nodes");
        if let Some((uid, gid)) = account() {
            chown(&folder, Some(uid), Some(gid)).expect("to give a folder away");
        }
        let list = run(as_account(Path::new("ls"), "KILL").arg(&folder), LIMIT);
        if list.success {
            return folder;
        }
    }
    panic!("the account that runs PostgreSQL reaches neither target/ nor the temporary folder");
}

/// Cargo's target folder.
pub fn target_dir() -> PathBuf {
    let of_workspace = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(of_workspace, PathBuf::from);
    fs::create_dir_all(&folder).expect("a target folder");
    folder.canonicalize().expect("the target folder")
}

/// The template's folder, made now if nobody has made it yet.
fn template() -> PathBuf {
    let folder = nodes_dir();
    let done = folder.join(TEMPLATE);
    let lock = File::create(folder.join("template.lock")).expect("the template's lock");
    lock.lock().expect("the template's lock");
    if !done.exists() {
        sweep(&folder);
        let draft = folder.join("template-draft");
        drop(fs::remove_dir_all(&draft));
        fs::create_dir(&draft).expect("a folder for the template");
        if let Some((uid, gid)) = account() {
            chown(&draft, Some(uid), Some(gid)).expect("to give a folder away");
        }
        make_template(&draft);
        fs::rename(&draft, &done).expect("to name the template");
    }
    done
}

/// Removes what test processes left that were ended by force.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').nth(1).unwrap_or_default().to_owned();
        if name.starts_with("node-") && !Path::new("/proc").join(pid).exists() {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

fn make_template(draft: &Path) {
    let data = draft.join("data");
    let mut initdb = as_account(&program("initdb"), "KILL");
    initdb.args(["--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C", "-U", "postgres"]);
    initdb.args(["--auth=trust", "--wal-segsize=1", "-D"]).arg(&data);
    run(&mut initdb, LIMIT).expect_success("initdb");
    append(&data.join("postgresql.conf"), SETTINGS);
    fs::write(data.join("pg_hba.conf"), HBA).expect("to write pg_hba.conf");
    let port = Port::take();
    let child = launch(draft, port.number);
    let mut node = Postgres { home: PathBuf::new(), port, child };
    node.wait_until_ready_as_made();
    psql(node.address(), "postgres", "postgres", ROLES).expect_success("the roles");
    node.stop();
}

impl Postgres {
    /// As [`Postgres::wait_until_ready`], before there is a database `app`.
    fn wait_until_ready_as_made(&self) {
        until("PostgreSQL to start", LIMIT, || {
            Wire::try_login(self.address(), &[("user", "postgres")]).is_some()
        });
    }
}

fn launch(home: &Path, port: u16) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(home.join("log")).expect("a log");
    let errors = log.try_clone().expect("a log");
    let mut command = as_account(&program("postgres"), "QUIT");
    command.arg("-D").arg(home.join("data")).arg("-k").arg(home).args(["-p", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().expect("to start PostgreSQL")
}

/// A mortal program under the account for PostgreSQL, which refuses to run as root.
pub fn as_account(program: &Path, signal: &str) -> Command {
    let Some((uid, gid)) = account() else { return mortal(program, signal) };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// The account for PostgreSQL if we are root: `postgres` if there is one, else `nobody`.
pub fn account() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").expect("/proc").uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let find = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("an account to run PostgreSQL"))
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).expect("a settings file");
    writeln!(file, "{text}").expect("to write settings");
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
