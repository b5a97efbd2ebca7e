//! Drivers of other languages: where they are installed, and what it means if they are not.

use crate::command::say;
use crate::postgres::target_dir;
use std::path::{Path, PathBuf};

/// The interpreter with psycopg 3.
pub fn python() -> PathBuf {
    path("PGRING_PYTHON", "venv/bin/python")
}

/// The modules of node.js, node-postgres among them.
pub fn node_modules() -> PathBuf {
    path("NODE_PATH", "node/node_modules")
}

/// Whether the driver may be tested; panics if it is missing without permission.
pub fn installed(probe: &Path) -> bool {
    if probe.exists() {
        return true;
    }
    let permitted = std::env::var_os("PGRING_SKIP_DRIVERS").is_some();
    assert!(permitted, "{} is missing: run cargo xtask test", probe.display());
    say("skipped: the driver is not installed, and PGRING_SKIP_DRIVERS is set");
    false
}

/// A path from the environment, or one below the target folder.
fn path(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| target_dir().join(default), PathBuf::from)
}
