//! Throw-away `PostgreSQL` nodes: made, started, asked, and gone again when dropped.

use crate::account::Account;
use crate::place::{self, Workplace};
use crate::process::{self, Outcome};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where an installed `PostgreSQL` keeps its programs: Debian's newest version, else the `PATH`.
pub(crate) fn programs() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, bin)| complete(bin))
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, bin)| bin);
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin| complete(bin))
    })
}

fn complete(bin: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres", "pg_basebackup", "pgbench", "psql"]
        .iter()
        .all(|program| bin.join(program).exists())
}

/// What all nodes of a task share.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The directory of `PostgreSQL`'s programs.
    pub(crate) bin: PathBuf,
    /// Where the nodes live.
    pub(crate) directory: PathBuf,
    /// Who runs them.
    pub(crate) account: Account,
    /// The address under which a node made here is known.
    pub(crate) host: Ipv4Addr,
    /// Its port, where each node has an address to itself; none: any that is free.
    pub(crate) port: Option<u16>,
}

impl Site {
    /// A site in this work place.
    pub(crate) fn new(place: &Workplace) -> Outcome<Self> {
        let bin = programs().ok_or("PostgreSQL is not installed (apt-get install postgresql)")?;
        let (directory, account) = (place.path.clone(), place.account.clone());
        Ok(Self { bin, directory, account, host: Ipv4Addr::LOCALHOST, port: None })
    }

    /// The same site for a node that is known under another address.
    pub(crate) fn with_host(&self, host: Ipv4Addr) -> Self {
        Self { host, ..self.clone() }
    }

    /// One of `PostgreSQL`'s programs, under the account of the site.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.account.command(self.bin.join(program), &self.directory);
        // Settings of the person at the terminal must not lead elsewhere.
        for name in ["PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGOPTIONS"] {
            command.env_remove(name);
        }
        command.env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C.UTF-8");
        command
    }

    /// A client program (psql, pgbench) that speaks to this place as this user.
    pub(crate) fn client(&self, program: &str, login: &Login<'_>) -> Command {
        let mut command = self.command(program);
        command
            .env("PGHOST", login.host.to_string())
            .env("PGPORT", login.port.to_string())
            .env("PGUSER", login.user)
            .env("PGPASSWORD", login.password)
            .env("PGDATABASE", login.database);
        command
    }

    /// What psql prints for this SQL, fields divided by `|`, without headings.
    pub(crate) fn ask(&self, login: &Login<'_>, sql: &str) -> Outcome<String> {
        self.ask_with(login, sql, "")
    }

    /// As [`Site::ask`], with a standard input for COPY.
    pub(crate) fn ask_with(&self, login: &Login<'_>, sql: &str, input: &str) -> Outcome<String> {
        let mut psql = self.client("psql", login);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let said = process::run(&mut psql, input, &mut |_| ())?;
        if said.success {
            return Ok(said.stdout.trim_end().to_owned());
        }
        Err(format!("`{sql}` failed:\n{}", process::tail(&said.stderr, 5)))
    }
}

/// With whom a client speaks, and as whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Login<'text> {
    /// The address, mostly of the loopback interface.
    pub(crate) host: Ipv4Addr,
    /// The port there.
    pub(crate) port: u16,
    /// The user.
    pub(crate) user: &'text str,
    /// The user's password.
    pub(crate) password: &'text str,
    /// The database.
    pub(crate) database: &'text str,
}

/// A node that ends, and whose data directory goes, with this value.
#[derive(Debug)]
pub(crate) struct Node {
    site: Site,
    /// How the node is called in configuration and reports.
    pub(crate) name: String,
    /// Its port.
    pub(crate) port: u16,
    /// Its data directory.
    pub(crate) data: PathBuf,
}

impl Node {
    /// A new cluster with these additional settings and client authentication rules, started.
    pub(crate) fn primary(site: &Site, name: &str, settings: &str, hba: &str) -> Outcome<Self> {
        let node = Self::at(site, name)?;
        let mut initdb = site.command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D"]);
        process::output(initdb.arg(&node.data).args(["-U", "postgres"]))?;
        node.append("postgresql.conf", settings)?;
        fs::write(node.data.join("pg_hba.conf"), hba)
            .map_err(|error| format!("{}: {error}", node.data.display()))?;
        node.start()?;
        Ok(node)
    }

    /// A standby that streams from `primary`, started.
    pub(crate) fn standby(site: &Site, name: &str, primary: &Self) -> Outcome<Self> {
        let node = Self::at(site, name)?;
        let login = primary.login("postgres");
        let mut backup = site.client("pg_basebackup", &login);
        backup.env_remove("PGDATABASE");
        backup.args(["--checkpoint=fast", "--no-sync", "--wal-method=stream", "-R", "-D"]);
        process::output(backup.arg(&node.data))?;
        node.append("postgresql.auto.conf", &format!("cluster_name = '{name}'\n"))?;
        node.start()?;
        Ok(node)
    }

    /// The superuser at this node.
    pub(crate) fn login<'text>(&self, database: &'text str) -> Login<'text> {
        let (host, port) = (self.site.host, self.port);
        Login { host, port, user: "postgres", password: "", database }
    }

    /// `127.0.0.1:port`, or what the site says in place of the loopback interface.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.site.host, self.port)
    }

    /// The number of the postmaster's process, if there is a file that says so.
    pub(crate) fn process(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn at(site: &Site, name: &str) -> Outcome<Self> {
        let data = site.directory.join(name);
        let port = site.port.map_or_else(place::free_port, Ok)?;
        let node = Self { site: site.clone(), name: name.to_owned(), port, data };
        // What an earlier run left when it was killed.
        node.stop()?;
        place::remove(&node.data)?;
        Ok(node)
    }

    /// Adds to a file of the data directory.
    pub(crate) fn append(&self, file: &str, text: &str) -> Outcome<()> {
        let path = self.data.join(file);
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Starts the node. An interrupt is heard only afterwards, so that there is always either
    /// nothing or something that can be stopped.
    pub(crate) fn start(&self) -> Outcome<()> {
        let log = self.data.with_extension("log");
        // Who asks for another address has a network to itself, and may come from any side of it.
        let listen = if self.site.host.is_loopback() { "127.0.0.1" } else { "*" };
        let options = format!("-p {} -c listen_addresses='{listen}'", self.port)
            + &format!(" -c unix_socket_directories='' -c cluster_name={}", self.name);
        place::remove_file(&log)?;
        let mut start = self.site.command("pg_ctl");
        start.args(["start", "-w", "-s", "-t", "60", "-o", &options, "-l"]).arg(&log);
        process::finish(start.arg("-D").arg(&self.data)).map_err(|error| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{} does not start: {error}{}", self.name, process::tail(&log, 10))
        })?;
        process::check_interrupt()
    }

    fn stop(&self) -> Outcome<()> {
        if !self.data.join("postmaster.pid").exists() {
            return Ok(());
        }
        let mut stop = self.site.command("pg_ctl");
        stop.args(["stop", "-w", "-s", "-t", "20", "-m", "immediate", "-D"]).arg(&self.data);
        // It fails when a killed run left the file and no server: nothing to stop then.
        let stopped = process::finish(&mut stop);
        if self.answers() { stopped } else { Ok(()) }
    }

    /// Whether the process of `postmaster.pid` is there.
    fn answers(&self) -> bool {
        let mut status = self.site.command("pg_ctl");
        process::finish(status.args(["status", "-D"]).arg(&self.data)).is_ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.stop().and_then(|()| place::remove(&self.data)) {
            eprintln!("{} could not be cleaned up: {error}", self.name);
        }
    }
}
