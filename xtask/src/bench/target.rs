//! Who is measured: a direct connection, pgring, and its peers.

use crate::place;
use crate::postgres;
use crate::process::Outcome;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What stands between clients and server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Target {
    /// Nothing.
    Direct,
    /// pgring.
    Pgring,
    /// Another build of pgring, the program that `PGRING_OTHER` names: of the parent commit, say.
    Other,
    /// `PgBouncer`, the measure.
    Pgbouncer,
    /// `HAProxy`, a bare relay.
    Haproxy,
    /// pgpool-II.
    Pgpool,
    /// Odyssey.
    Odyssey,
}

impl Target {
    /// All of them, as they are measured by default.
    pub(super) const ALL: [Self; 6] =
        [Self::Direct, Self::Pgring, Self::Pgbouncer, Self::Haproxy, Self::Pgpool, Self::Odyssey];

    /// How it is called in tables, file names and on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pgring => "pgring",
            Self::Other => "other",
            Self::Pgbouncer => "pgbouncer",
            Self::Haproxy => "haproxy",
            Self::Pgpool => "pgpool",
            Self::Odyssey => "odyssey",
        }
    }

    /// The Debian package it comes from, if it comes from one.
    pub(super) const fn package(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Pgring | Self::Other => None,
            Self::Pgbouncer => Some("pgbouncer"),
            Self::Haproxy => Some("haproxy"),
            Self::Pgpool => Some("pgpool2"),
            Self::Odyssey => Some("odyssey"),
        }
    }

    /// Where its program is, if it is installed.
    pub(super) fn program(self) -> Option<PathBuf> {
        if self == Self::Other {
            return std::env::var_os("PGRING_OTHER").map(PathBuf::from);
        }
        // Root's and others' search paths differ in the directories of daemons.
        let daemons = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).chain(daemons);
        places.map(|place| place.join(self.name())).find(|program| program.exists())
    }

    /// The version its program tells of itself.
    pub(super) fn version(self) -> Option<String> {
        let program = match self {
            Self::Direct => postgres::programs()?.join("postgres"),
            Self::Other => return None,
            // What was measured is a commit, not a number that seldom changes.
            Self::Pgring => PathBuf::from("git"),
            Self::Pgbouncer | Self::Haproxy | Self::Pgpool | Self::Odyssey => self.program()?,
        };
        let options: &[&str] = match self {
            Self::Pgring => &["describe", "--always", "--dirty"],
            Self::Haproxy => &["-v"],
            Self::Direct | Self::Other | Self::Pgbouncer | Self::Pgpool | Self::Odyssey => {
                &["--version"]
            }
        };
        let mut command = Command::new(program);
        command.args(options).current_dir(place::root()).stdin(Stdio::null());
        let said = command.output().ok()?;
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().find(|line| line.contains(char::is_numeric)).map(str::to_owned)
    }

    /// An error that says why this one cannot take part on this machine.
    pub(super) fn check(self) -> Outcome<()> {
        match self.package() {
            None if self == Self::Other && !self.program().is_some_and(|other| other.exists()) => {
                Err("PGRING_OTHER must name the program".to_owned())
            }
            Some(package) if self.program().is_none() => {
                Err(format!("not installed, and apt has no package {package} here"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether a version that a program tells ("`PgBouncer` 1.18.0") is at least this.
pub(super) fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let word = version.split([' ', '-', '+']).find(|word| word.starts_with(char::is_numeric));
    let mut numbers = word.unwrap_or_default().split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// A target, and how many workers it has where that can be chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Subject {
    /// The target.
    pub(super) target: Target,
    /// Workers of pgring; 0 is one for each core.
    pub(super) workers: u32,
    /// Whether it sends reads to standbys, where there are any.
    pub(super) routed: bool,
    /// Whether it checks its nodes and watches the connections to them.
    pub(super) watching: bool,
    /// How it is called in tables.
    pub(super) name: String,
}

impl Subject {
    /// A target among others.
    pub(super) fn peer(target: Target, workers: u32) -> Self {
        Self { target, workers, routed: true, watching: false, name: target.name().to_owned() }
    }

    /// pgring with so many workers.
    pub(super) fn workers(workers: u32) -> Self {
        let plural = if workers == 1 { "" } else { "s" };
        let name = format!("pgring, {workers} worker{plural}");
        Self { target: Target::Pgring, workers, routed: true, watching: false, name }
    }

    /// pgring with routing or without, and one worker.
    pub(super) fn routed(routed: bool) -> Self {
        let name = format!("pgring, routing {}", if routed { "on" } else { "off" });
        Self { target: Target::Pgring, workers: 1, routed, watching: false, name }
    }

    /// pgring with senses or without, and one worker.
    pub(super) fn watching(watching: bool) -> Self {
        let name = format!("pgring, senses {}", if watching { "on" } else { "off" });
        Self { target: Target::Pgring, workers: 1, routed: true, watching, name }
    }
}

#[cfg(test)]
mod tests {
    use super::{Subject, at_least};

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("PgBouncer 1.21.0", (1, 21)));
        assert!(at_least("PgBouncer 2.0", (1, 21)));
        assert!(!at_least("PgBouncer 1.9.1", (1, 21)));
        assert!(!at_least("nothing", (1, 21)));
    }

    #[test]
    fn workers_are_named_by_their_number() {
        assert_eq!(Subject::workers(1).name, "pgring, 1 worker");
        assert_eq!(Subject::workers(4).name, "pgring, 4 workers");
    }
}
