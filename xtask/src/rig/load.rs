//! What goes on besides a fault: reads through pgring, and others who want the processors.

use super::scene::{Scene, USER, client};
use crate::postgres::{Login, Site};
use crate::process::{self, Outcome};
use nix::sys::signal::Signal;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Reads of a second, of all clients together.
const RATE: &str = "100";
/// The nice value of a hog.
const NICE: &str = "-15";
/// A busy loop. Where sessions share the processors (autogroup), it is theirs that counts; the
/// kernel may have no such thing.
const HOG: &str = "echo -15 > /proc/self/autogroup; while :; do :; done";
/// How long a reader may take to end; one that waits for an answer ends with pgring.
const READER_MAX: Duration = Duration::from_secs(3);

/// pgbench in the namespace of the clients, its tables only read.
pub(super) fn pgbench(site: &Site, login: &Login<'_>, seconds: u64) -> Command {
    let mut pgbench = site.client("pgbench", login);
    pgbench.args(["-n", "-S", "-c", "4", "-R", RATE, "-T", &seconds.to_string()]);
    pgbench
}

/// Transactions that a pgbench did, and how many clients gave up on an error.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Reads {
    /// Those that succeeded.
    pub(crate) done: u64,
    /// Those that did not: each ends its client.
    pub(crate) failed: u64,
}

impl Reads {
    /// What a pgbench has said.
    pub(crate) fn parse(said: &process::Said) -> Self {
        let number = |line: &str| {
            let digits: String = line.trim().chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap_or(0)
        };
        let figure = |name: &str| {
            said.stdout.lines().find_map(|line| line.strip_prefix(name)).map_or(0, number)
        };
        let aborted = said.stderr.lines().filter(|line| line.contains(" aborted in ")).count();
        let aborted = u64::try_from(aborted).unwrap_or(u64::MAX);
        let failed = figure("number of failed transactions:") + aborted;
        // A pgbench that failed and named no client could not even begin.
        let failed = if said.success { failed } else { failed.max(1) };
        Self { done: figure("number of transactions actually processed:"), failed }
    }
}

/// Reads that go on until this value goes.
pub(super) struct Running {
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

impl Running {
    /// Starts to read from this database. A pgbench reads for a second, and then the next one:
    /// one whose clients have given up would read no more.
    pub(super) fn start(scene: &Scene, database: &'static str) -> Outcome<Self> {
        let (done, failed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let ending = Arc::<AtomicBool>::default();
        let (sums, end) = ((Arc::clone(&done), Arc::clone(&failed)), Arc::clone(&ending));
        let site = scene.site.clone();
        // Started in the namespace, so whatever the thread starts is there too.
        let reader = scene.clients.within(|| {
            Ok(thread::spawn(move || {
                while !end.load(Ordering::SeqCst) {
                    let said =
                        process::run(&mut pgbench(&site, &client(database), 1), "", &mut |_| ());
                    let Ok(said) = said else { return };
                    let reads = Reads::parse(&said);
                    AtomicU64::fetch_add(&sums.0, reads.done, Ordering::SeqCst);
                    AtomicU64::fetch_add(&sums.1, reads.failed, Ordering::SeqCst);
                    if !said.success {
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }))
        })?;
        Ok(Self { done, failed, ending, reader })
    }

    /// All reads until now.
    pub(super) fn sum(&self) -> Reads {
        let (done, failed) = (&self.done, &self.failed);
        Reads { done: done.load(Ordering::SeqCst), failed: failed.load(Ordering::SeqCst) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let end = Instant::now() + READER_MAX;
        while !self.reader.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(25));
        }
    }
}

/// Busy loops that everybody else has to wait for, until this value goes.
pub(super) struct Hogs(Vec<Child>);

impl Hogs {
    /// Two for each processor.
    pub(super) fn start() -> Outcome<Self> {
        let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let mut hogs = Self(Vec::new());
        for _ in 0..2 * cores {
            // No process group of its own: setsid would then have to fork to get a session.
            let hog = Command::new("setsid")
                .args(["nice", "-n", NICE, "sh", "-c", HOG])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| format!("cannot run setsid: {error}"))?;
            hogs.0.push(hog);
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            process::stop(hog, Signal::SIGKILL, Duration::from_secs(1));
        }
    }
}

/// The database of clients whose reads the node gets.
pub(super) fn database(primary: bool) -> &'static str {
    if primary { USER } else { super::scene::REPLICAS }
}

#[cfg(test)]
mod tests {
    use super::Reads;
    use crate::process::Said;

    fn said(stdout: &str, stderr: &str, success: bool) -> Said {
        Said { stdout: stdout.to_owned(), stderr: stderr.to_owned(), success }
    }

    #[test]
    fn reads_are_counted_as_pgbench_counts_them() {
        let text = "number of transactions actually processed: 97\n\
                    number of failed transactions: 2 (2.000%)\n";
        let reads = Reads::parse(&said(text, "", true));
        assert_eq!(reads, Reads { done: 97, failed: 2 });
    }

    #[test]
    fn a_client_that_gives_up_has_failed_and_so_has_who_could_not_begin() {
        let text = "pgbench: error: client 1 aborted in command 1 (SQL) of script 0; gone\n\
                    pgbench: error: client 3 script 0 aborted in command 1 query 0: gone\n";
        assert_eq!(Reads::parse(&said("", text, false)).failed, 2);
        let reads = Reads::parse(&said("", "pgbench: error: connection failed\n", false));
        assert_eq!(reads, Reads { done: 0, failed: 1 });
    }
}
