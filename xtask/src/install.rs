//! What a task needs from the machine, and how it gets there.
//!
//! Packages come from apt, as root or with sudo; everything else goes below `target`, so an
//! account without rights can run every task on a machine where the packages are there.

use crate::account::Account;
use crate::place;
use crate::postgres;
use crate::process::{self, Outcome};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The driver of Python that the tests use.
const PSYCOPG: &str = "psycopg[binary]>=3.2,<4";
/// The driver of Node.js that the tests use.
const NODE_POSTGRES: &str = "pg@^8.13";

/// What every task with real nodes needs: `PostgreSQL`, and what builds pgring.
pub(crate) fn postgres() -> Outcome<()> {
    packages(&[wanted_for_build(), wanted_for_nodes()].concat())
}

/// Peers of the bench. One that cannot be had is no reason to fail; it is then not measured.
///
/// Debian starts what it installs, on the port of `PostgreSQL`'s clients or of nobody's choice:
/// the bench starts its own.
pub(crate) fn peers(names: &[&str]) {
    for name in names {
        // What the suite does not have, `apt-cache` does not know.
        if works("apt-cache", &["show", name])
            && let Err(error) = packages(&[name])
        {
            println!("{name}: {error}");
            continue;
        }
        if works("systemctl", &["is-active", "--quiet", name]) {
            println!("stopping  the service {name} that came with the package");
            let mut stop = Command::new("systemctl");
            if let Err(error) = process::show(stop.args(["disable", "--now", "--quiet", name])) {
                println!("{name}: {error}");
            }
        }
    }
}

/// What `cargo xtask test` needs; gives the environment in which tests find it.
pub(crate) fn for_tests() -> Outcome<Vec<(&'static str, PathBuf)>> {
    let mut wanted = [wanted_for_build(), wanted_for_nodes()].concat();
    if !works("python3", &["-c", "import venv, ensurepip"]) {
        wanted.extend(["python3", "python3-venv"]);
    }
    if !works("node", &["--version"]) {
        wanted.push("nodejs");
    }
    if !works("npm", &["--version"]) {
        wanted.push("npm");
    }
    packages(&wanted)?;
    for (component, name) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !works("cargo", &[component, "--version"]) {
            process::show(Command::new("rustup").args(["component", "add", name]))?;
        }
    }
    if !works("cargo", &["nextest", "--version"]) {
        process::show(Command::new("cargo").args(["install", "--locked", "cargo-nextest"]))?;
    }
    drivers(&place::target())
}

/// What `cargo xtask regress` needs.
pub(crate) fn for_regress() -> Outcome<()> {
    postgres()?;
    let bin = postgres::programs().ok_or("PostgreSQL is not installed")?;
    let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let tools = bin.join("../lib/pgxs/src/test/regress/pg_regress");
    let dev = format!("postgresql-server-dev-{}", version.unwrap_or("all"));
    // The headers are another package's files in some releases, and may be missing by themselves.
    let headers = process::output(Command::new(bin.join("pg_config")).arg("--includedir-server"));
    let headers = headers.is_ok_and(|path| Path::new(path.trim()).join("postgres.h").exists());
    let mut wanted = Vec::new();
    if !tools.exists() || !headers {
        wanted.push(dev.as_str());
    }
    if !works("dpkg-source", &["--version"]) {
        wanted.push("dpkg-dev");
    }
    if !works("cc", &["--version"]) {
        wanted.push("gcc");
    }
    packages(&wanted)
}

/// What `cargo xtask fuzz` needs: libFuzzer itself comes as source.
pub(crate) fn for_fuzz() -> Outcome<()> {
    let mut wanted = wanted_for_build();
    if !works("c++", &["--version"]) {
        wanted.push("g++");
    }
    packages(&wanted)
}

/// `PostgreSQL`'s grammar is C: its header is read by libclang, and with libclang's own headers.
fn wanted_for_build() -> Vec<&'static str> {
    let given = env::var_os("LIBCLANG_PATH").is_some();
    let any = |directory: &str, found: &dyn Fn(&Path) -> bool| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| found(&path))
    };
    let library = |directory: &Path| {
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Not libclang-cpp, which is another library.
            let version = name.strip_prefix("libclang-").unwrap_or_default();
            name.starts_with("libclang.so") || version.starts_with(|it: char| it.is_ascii_digit())
        };
        directory.to_str().is_some_and(|directory| any(directory, &name))
    };
    let header = |path: &Path| path.join("include/stddef.h").exists();
    let version = |path: &Path| {
        let (lib, clang) = (path.join("lib"), path.join("lib/clang"));
        library(&lib) && clang.to_str().is_some_and(|clang| any(clang, &header))
    };
    if given || any("/usr/lib", &version) { Vec::new() } else { vec!["libclang-dev"] }
}

fn wanted_for_nodes() -> Vec<&'static str> {
    if postgres::programs().is_some() { Vec::new() } else { vec!["postgresql"] }
}

/// Installs these packages with apt.
pub(crate) fn packages(names: &[&str]) -> Outcome<()> {
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    let root = Account::find()?.is_other();
    if !works("apt-get", &["--version"]) {
        return Err(format!(
            "this machine has no apt-get; install what Debian calls: {list}, then run this again"
        ));
    }
    if !root && !works("sudo", &["--version"]) {
        return Err(format!(
            "not installed: {list}\nRun this once as root, then try again:\n\n  \
             apt-get update && apt-get install -y {list}\n"
        ));
    }
    println!("installing {list}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        if !root {
            command.arg("env");
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(arguments);
        process::show(command.stdout(Stdio::null()))
    };
    if let Err(error) = apt(&["update"]) {
        // One mirror of several may be gone; whether it matters shows next.
        println!("apt-get update: {error}");
    }
    apt(&[["install", "-y", "--no-install-recommends"].as_slice(), names].concat())
}

/// Installs the drivers of other languages, each into a folder of its own.
fn drivers(target: &Path) -> Outcome<Vec<(&'static str, PathBuf)>> {
    let python = target.join("venv");
    let interpreter = python.join("bin/python");
    once(&target.join("venv.made"), PSYCOPG, || {
        println!("installing {PSYCOPG} into {}", python.display());
        place::remove(&python)?;
        process::show(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PSYCOPG]);
        process::show(&mut pip)
    })?;
    let node = target.join("node");
    once(&target.join("node.made"), NODE_POSTGRES, || {
        println!("installing {NODE_POSTGRES} into {}", node.display());
        place::remove(&node)?;
        place::create(&node)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&node);
        process::show(npm.arg(NODE_POSTGRES))
    })?;
    Ok(vec![("PGRING_PYTHON", interpreter), ("NODE_PATH", node.join("node_modules"))])
}

/// Does something unless `mark` says that it was done for the same `what`.
fn once(mark: &Path, what: &str, act: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    if fs::read_to_string(mark).is_ok_and(|done| done == what) {
        return Ok(());
    }
    if let Some(directory) = mark.parent() {
        place::create(directory)?;
    }
    act()?;
    fs::write(mark, what).map_err(|error| format!("cannot write {}: {error}", mark.display()))
}

/// Whether a program is there and does this without complaint.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .current_dir(env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::{once, works};
    use std::cell::Cell;
    use std::fs;

    #[test]
    fn what_was_installed_is_not_installed_again_until_the_version_changes() {
        let mark = std::env::temp_dir().join(format!("pgring-once-{}", std::process::id()));
        let times = Cell::new(0);
        for version in ["1", "1", "2", "2"] {
            let act = || {
                times.set(times.get() + 1);
                Ok(())
            };
            once(&mark, version, act).expect("can write");
        }
        fs::remove_file(&mark).expect("was written");
        assert_eq!(times.get(), 2);
    }

    #[test]
    fn a_missing_program_does_not_work() {
        assert!(works("sh", &["-c", "true"]));
        assert!(!works("sh", &["-c", "false"]));
        assert!(!works("no-such-program-here", &[]));
    }
}
