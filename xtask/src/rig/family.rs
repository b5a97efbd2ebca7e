//! Processes and their children: who is there, who is whose, and signals to them.

use crate::process::Outcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Lets the server of this data directory go on, should a killed run have stopped it: one that is
/// stopped cannot be shut down.
pub(crate) fn wake(data: &Path) {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = text.lines().next().and_then(|line| line.parse().ok()) else { return };
    // The number may be somebody else's by now; the command line says.
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&line).contains(&*data.to_string_lossy()) {
        for process in children(pid).into_iter().chain([pid]) {
            // Who has ended meanwhile needs no waking.
            drop(send(process, Signal::SIGCONT));
        }
    }
}

/// Sends a signal.
pub(crate) fn send(pid: i32, signal: Signal) -> Outcome<()> {
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("{signal} to {pid}: {error}"))
}

/// Whether the process is there. A zombie is: `PostgreSQL` takes it for a running server.
pub(crate) fn alive(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether the process still does something: a zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    parent(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()).is_some()
}

/// The processes whose parent this is.
pub(crate) fn children(of: i32) -> Vec<i32> {
    let numbers: BTreeSet<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let status = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    numbers.into_iter().filter(|pid| parent(&status(pid)) == Some(of)).collect()
}

/// The parent in a line of `/proc/PID/stat`, unless the process is a zombie. The name, in
/// parentheses, may have blanks and parentheses in it.
fn parent(status: &str) -> Option<i32> {
    let (_, rest) = status.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn the_parent_stands_behind_a_name_that_may_be_anything() {
        assert_eq!(parent("12 (postgres) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a) b (c) R 7 12"), Some(7));
        assert_eq!(parent("12 (gone) Z 7 12"), None);
        assert_eq!(parent(""), None);
    }
}
