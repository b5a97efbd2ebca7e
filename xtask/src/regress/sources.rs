//! The sources of `PostgreSQL`'s tests: Debian's source package of the version installed here.
//!
//! Only the tests are taken from it, and one library of theirs is compiled; the server that is
//! tested, and the programs that run the tests, are the installed ones.

use crate::place;
use crate::process::{self, Outcome};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Libraries of the server's contrib modules that the tests load from the same place.
const MODULES: [&str; 2] = ["refint.so", "autoinc.so"];

/// Where the tests and what they need are.
#[derive(Debug)]
pub(super) struct Sources {
    /// `src/test` of the source tree.
    pub(super) tests: PathBuf,
    /// The directory with `regress.so` and its companions.
    pub(super) libraries: PathBuf,
    /// The directory with `regress/pg_regress` and `isolation/pg_isolation_regress`.
    pub(super) runners: PathBuf,
}

impl Sources {
    /// Fetches and compiles what is not there yet; `bin` is where the server's programs are.
    pub(super) fn get(directory: &Path, bin: &Path) -> Outcome<Self> {
        let version = bin
            .parent()
            .and_then(|version| version.file_name()?.to_str()?.parse::<u32>().ok())
            .ok_or_else(|| format!("{} is not a PostgreSQL of Debian's", bin.display()))?;
        place::create(directory)?;
        let tree = match unpacked(directory, version) {
            Some(tree) => tree,
            None => fetch(directory, version)?,
        };
        let sources = Self {
            tests: tree.join("src/test"),
            libraries: directory.join("lib"),
            runners: bin.join("../lib/pgxs/src/test"),
        };
        sources.compile(bin)?;
        let server = process::output(Command::new(bin.join("postgres")).arg("--version"))?;
        let name = tree.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let tests = name.rsplit('-').next().unwrap_or_default();
        if !server.split_whitespace().any(|word| word == tests) {
            println!("note      the tests are of {tests}, the server is {}", server.trim_end());
        }
        Ok(sources)
    }

    /// Compiles `regress.so` against the installed server's headers.
    fn compile(&self, bin: &Path) -> Outcome<()> {
        let library = self.libraries.join("regress.so");
        if library.exists() {
            return Ok(());
        }
        place::create(&self.libraries)?;
        let asked = |what| process::output(Command::new(bin.join("pg_config")).arg(what));
        let modules = asked("--pkglibdir")?;
        for module in MODULES {
            let from = Path::new(modules.trim_end()).join(module);
            fs::copy(&from, self.libraries.join(module))
                .map_err(|error| format!("{}: {error}", from.display()))?;
        }
        let headers = asked("--includedir-server")?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-fwrapv", "-I"]);
        cc.arg(headers.trim_end()).arg(self.tests.join("regress/regress.c"));
        process::output(cc.arg("-o").arg(&library)).map(|_| ())
    }
}

/// The source tree of this version, if it was fetched before.
fn unpacked(directory: &Path, version: u32) -> Option<PathBuf> {
    let start = format!("postgresql-{version}-");
    fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&start) && path.join("src/test/regress/regress.c").exists()
    })
}

/// Fetches the newest source package that the machine's mirrors have of this major version.
fn fetch(directory: &Path, version: u32) -> Outcome<PathBuf> {
    let package = format!("postgresql-{version}");
    println!("fetching  the source package {package}");
    let apt = Apt::new(directory)?;
    process::output(apt.command("apt-get").arg("update"))?;
    let known = process::output(apt.command("apt-cache").args(["showsrc", &package]))?;
    let mut why = format!("the machine's mirrors list no source package {package}");
    for exact in versions(&known) {
        let wanted = format!("{package}={exact}");
        match process::output(apt.command("apt-get").args(["source", &wanted])) {
            Ok(_) => break,
            Err(error) => why = error,
        }
        process::check_interrupt()?;
    }
    unpacked(directory, version).ok_or(why)
}

/// The versions that apt-cache lists, the newest first.
fn versions(known: &str) -> Vec<&str> {
    let mut versions: Vec<&str> =
        known.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(parts(version)));
    versions.dedup();
    versions
}

/// The numbers in a version, to compare by.
fn parts(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// apt with source entries of its own, so that the machine's settings stay as they are.
struct Apt<'path> {
    directory: &'path Path,
    sources: PathBuf,
}

impl<'path> Apt<'path> {
    /// Derives source entries from the machine's binary ones.
    fn new(directory: &'path Path) -> Outcome<Self> {
        place::create(&directory.join("lists/partial"))?;
        place::create(&directory.join("archives/partial"))?;
        let parts = directory.join("sources.list.d");
        place::create(&parts)?;
        let mut found = 0;
        let system = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
        let system = system.map(|entry| entry.path());
        for path in std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(system) {
            let Some(name) = path.file_name() else { continue };
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if !text.contains("debian") && !text.contains("postgresql") {
                continue;
            }
            let copy = parts.join(name);
            fs::write(&copy, with_sources(&text))
                .map_err(|error| format!("{}: {error}", copy.display()))?;
            found += 1;
        }
        if found == 0 {
            return Err("no Debian mirror in /etc/apt/sources.list*".to_owned());
        }
        Ok(Self { directory, sources: parts })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory).env("LC_ALL", "C.UTF-8");
        for (option, value) in [
            ("Dir::Etc::sourcelist", Path::new("/dev/null")),
            ("Dir::Etc::sourceparts", &self.sources),
            ("Dir::State::lists", &self.directory.join("lists")),
            ("Dir::Cache", self.directory),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        // As root, apt would fetch as `_apt`, who cannot enter every work place.
        command.args(["-o", "APT::Sandbox::User=root", "-q"]);
        command
    }
}

/// Source entries for the mirrors of a sources file, in either of its two formats.
fn with_sources(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("deb ") {
        Some(rest) => format!("deb-src {rest}"),
        None if line.starts_with("Types:") => "Types: deb-src".to_owned(),
        None => line.to_owned(),
    });
    lines.fold(String::new(), |all, line| all + &line + "\n")
}

#[cfg(test)]
mod tests {
    use super::{versions, with_sources};

    #[test]
    fn both_formats_of_apt_become_source_entries() {
        assert_eq!(
            with_sources("# Debian\ndeb http://mirror bookworm main\n"),
            "# Debian\ndeb-src http://mirror bookworm main\n"
        );
        assert_eq!(
            with_sources("Types: deb\nURIs: http://mirror\n"),
            "Types: deb-src\nURIs: http://mirror\n"
        );
    }

    #[test]
    fn the_newest_version_is_tried_first() {
        let known = "Version: 15.9-0+deb12u1\nFormat: 3\nVersion: 15.20-0+deb12u1\n";
        assert_eq!(versions(known), ["15.20-0+deb12u1", "15.9-0+deb12u1"]);
    }
}
