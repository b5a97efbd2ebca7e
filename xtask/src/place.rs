//! Where things are: the repository, its build products, and a work place for a task.

use crate::account::Account;
use crate::process::Outcome;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let own = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or(own.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The pgring to run: the one of `PGRING_BIN`, or what cargo builds with this profile.
pub(crate) fn program(profile: &str) -> PathBuf {
    env::var_os("PGRING_BIN").map_or_else(|| target().join(profile).join("pgring"), PathBuf::from)
}

/// A port of the loopback interface that is free at this moment.
pub(crate) fn free_port() -> Outcome<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

/// A directory for one task at a time, in the hands of the account that works in it.
#[derive(Debug)]
pub(crate) struct Workplace {
    /// The directory.
    pub(crate) path: PathBuf,
    /// Who works here.
    pub(crate) account: Account,
    /// Held while the task runs; the kernel frees it however the task ends.
    _lock: UnixListener,
}

impl Workplace {
    /// The work place `name` under `target/`, or in the temporary directory when the account
    /// cannot enter `target/` (root's home is closed to others).
    pub(crate) fn open(name: &str) -> Outcome<Self> {
        let account = Account::find()?;
        let target = target();
        create(&target)?;
        let path = if account.reaches(&target) {
            target.join(name)
        } else {
            env::temp_dir().join(format!("pgring-{name}-{}", std::process::id()))
        };
        let lock = lock(&target.join(name))?;
        create(&path)?;
        account.own(&path)?;
        Ok(Self { path, account, _lock: lock })
    }

    /// Writes a file that only the account (and root) can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path.join(name);
        let said = |error| format!("cannot write {}: {error}", path.display());
        fs::write(&path, text).map_err(said)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(said)?;
        self.account.own(&path)?;
        Ok(path)
    }
}

/// Makes a directory and those above it.
pub(crate) fn create(path: &Path) -> Outcome<()> {
    fs::create_dir_all(path).map_err(|error| format!("cannot make {}: {error}", path.display()))
}

/// Removes a directory and all below it, if it is there.
pub(crate) fn remove(path: &Path) -> Outcome<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Takes the one lock of a work place: a name in the kernel that ends with its owner.
fn lock(path: &Path) -> Outcome<UnixListener> {
    let name = format!("pgring xtask {}", path.display());
    let name = &name.as_bytes()[name.len().saturating_sub(100)..];
    SocketAddr::from_abstract_name(name)
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|_| format!("another task works in {}; end it first", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{lock, root};
    use std::path::Path;

    #[test]
    fn the_root_is_where_the_workspace_is() {
        assert!(root().join("Cargo.lock").exists());
    }

    #[test]
    fn two_tasks_do_not_share_a_work_place() {
        let place = Path::new("/nowhere/a test of the lock");
        let held = lock(place).expect("free");
        assert!(lock(place).is_err());
        drop(held);
        assert!(lock(place).is_ok());
    }
}
