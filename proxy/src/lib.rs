//! Doing it: sockets, threads, clocks. Starts the threads and joins them.
//!
//! One worker for each core drives a lane with a ring of its own; one control thread does
//! everything that is not traffic. They share nothing that changes but counters of clients.

// Floor 1. Time.
pub mod clock;

// Floor 2. The kernel: what happens to sockets, and what is done with them.
pub mod probe;
pub mod ring;

// Floor 3. Between threads; between pgring and its nodes.
pub mod dialer;
pub mod mailbox;

// Floor 4. Threads.
pub mod control;
pub mod worker;

// Floor 5. From outside: what is missing, before it runs; what happens if a primary is lost.
pub mod check;
pub mod rehearse;

use crate::dialer::Dialer;
use crate::mailbox::seats::Seats;
use crate::mailbox::{Letter, Mailbox, MailboxSender};
use crate::probe::Probe;
use crate::probe::rights::{give_back, give_up};
use crate::ring::limits::raise_files;
use crate::ring::listen::{Doors, UnixDoor};
use crate::ring::support::RingError;
use crate::worker::{Base, falls, run};
use pgring_logic::classify;
use pgring_logic::config::Config;
use pgring_logic::id::Core;
use pgring_logic::lane::Lane;
use pgring_logic::mail::Mail;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Files a process of ours needs beside its connections.
const FILES_SPARE: usize = 64;

/// Files that the checks of a node take at most: its session and logins under way, each with a
/// second handle.
const FILES_NODE: usize = 20;

/// A worker's stack: what the classifier needs, and as much again. What is not used costs nothing.
const STACK_BYTES: usize = 2 * classify::STACK_BYTES;

/// What each worker is given.
struct Workers {
    config: Arc<Config>,
    lanes: Vec<MailboxSender>,
    control: UnboundedSender<Mail>,
    unix: Option<Arc<OwnedFd>>,
    readonly: usize,
    seats: Arc<Seats>,
    dialer: Dialer,
}

/// Runs pgring until it is told to end; the exit code, or why it cannot start.
pub fn serve(mut config: Config, config_path: PathBuf) -> Result<i32, String> {
    if config.workers == 0 {
        config.workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    }
    let probe = senses(&config);
    let marker = probe.as_ref().and_then(|probe| match probe.marker().again() {
        Ok(marker) => Some(marker),
        Err(why) => {
            tracing::warn!("connections to nodes are not watched in the kernel: {why}");
            None
        }
    });
    let dialer = Dialer::new(config.monitor.rto_min, marker);
    let config = Arc::new(control::prepare(config).map_err(say)?);
    check_files(&config);
    let listen = [&config.listen[..], &config.listen_readonly];
    let doors = Doors::open(listen, config.unix_socket_dir.as_deref(), config.workers);
    let Doors { tcp, unix, addresses, readonly } = doors.map_err(say)?;
    let mailboxes: Result<Vec<Mailbox>, _> = (0..config.workers).map(|_| Mailbox::new()).collect();
    let mailboxes = mailboxes.map_err(say)?;
    let lanes: Vec<MailboxSender> = mailboxes.iter().map(Mailbox::sender).collect();
    let (sender, inbox) = unbounded_channel();
    let workers = Workers {
        config: Arc::clone(&config),
        lanes: lanes.clone(),
        control: sender,
        unix: unix.as_ref().map(|door| Arc::clone(&door.fd)),
        readonly,
        seats: Seats::new(config.workers),
        dialer: dialer.again(),
    };
    let threads = workers.start(mailboxes, tcp)?;
    let any = addresses.len() - readonly;
    for (index, address) in addresses.iter().enumerate() {
        let whom = if index < any { "" } else { " for clients that only read" };
        tracing::info!("listening on {address}{whom}, {} workers", config.workers);
    }
    let lanes_too = lanes.clone();
    let start =
        control::Start { config, config_path, lanes: lanes_too, falls, inbox, dialer, probe };
    let code = run_control(start);
    for lane in &lanes {
        lane.post(Letter::Stop);
    }
    for thread in threads {
        // A worker that panicked has said so.
        drop(thread.join());
    }
    if let Some(UnixDoor { path, .. }) = unix {
        drop(std::fs::remove_file(path));
    }
    code
}

fn say(error: impl Display) -> String {
    error.to_string()
}

/// The programs that watch the connections to nodes; none where nobody asks for verdicts, or where
/// they cannot be loaded. Nothing later needs the rights for that.
fn senses(config: &Config) -> Option<Probe> {
    let wanted = config.monitor.probe && config.monitor.user.is_some();
    let probe = wanted.then(Probe::load).and_then(|loaded| match loaded {
        Ok(probe) => {
            for off in probe.off() {
                tracing::warn!("{off}");
            }
            Some(probe)
        }
        Err(why) => {
            tracing::warn!(
                "connections to nodes are not watched in the kernel, only their figures are: {why}"
            );
            None
        }
    });
    give_up();
    give_back();
    probe
}

/// Raises the limit on open files, and warns if the configuration needs more than it allows.
fn check_files(config: &Config) {
    let servers: usize = config.databases.iter().map(|database| database.pool.size).sum();
    let nodes: usize = config.clusters.iter().map(|cluster| cluster.nodes.len()).sum();
    let needed = config.limits.clients_max + servers + nodes * FILES_NODE + FILES_SPARE;
    match raise_files() {
        Ok(limit) if limit < needed as u64 => tracing::warn!(
            "at most {limit} files may be open, but limits.clients_max and the pools need \
             {needed}: raise it (ulimit -n {needed}, or LimitNOFILE= in the systemd unit)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("the limit on open files is unknown: {error}"),
    }
}

impl Workers {
    /// Starts a thread for each core, and waits until every ring is built.
    fn start(
        self,
        mailboxes: Vec<Mailbox>,
        doors: Vec<Vec<OwnedFd>>,
    ) -> Result<Vec<JoinHandle<()>>, String> {
        let (ready, built) = mpsc::channel();
        let mut threads = Vec::new();
        for (index, (mailbox, doors)) in mailboxes.into_iter().zip(doors).enumerate() {
            let core = Core(u16::try_from(index).map_err(say)?);
            let base = Base {
                core,
                config: Arc::clone(&self.config),
                mailbox,
                lanes: self.lanes.clone(),
                control: self.control.clone(),
                doors,
                unix: self.unix.clone(),
                readonly: self.readonly,
                seats: Arc::clone(&self.seats),
                dialer: self.dialer.again(),
            };
            let ready = ready.clone();
            let thread = Builder::new().name(format!("pgring-{index}")).stack_size(STACK_BYTES);
            let thread = thread.spawn(move || {
                let tell = |result: Result<(), RingError>| drop(ready.send(result));
                if let Err(why) = run(base, tell, new_lane) {
                    tracing::error!(core = core.0, "{why}; the process ends");
                    end();
                }
            });
            threads.push(thread.map_err(say)?);
        }
        for _ in &threads {
            built.recv().map_err(say)?.map_err(say)?;
        }
        Ok(threads)
    }
}

/// Ends the process from the thread of a worker that cannot go on.
#[expect(
    clippy::exit,
    reason = "an orderly end waits for answers of all lanes, one of which is none"
)]
fn end() -> ! {
    std::process::exit(1)
}

/// A fresh lane, its choices seeded by the operating system.
fn new_lane(core: Core, config: Arc<Config>, before: u32) -> Lane {
    let seed = clock::dice().unwrap_or_else(|error| {
        // Without randomness keys could be guessed: no lane is better than that.
        panic!("the operating system gives no random bytes: {error}")
    });
    Lane::new(core, config, seed, before)
}

/// Runs the control thread to its end.
fn run_control(start: control::Start) -> Result<i32, String> {
    let thread = Builder::new().name("pgring-control".to_owned());
    let thread = thread.spawn(move || control::run(start)).map_err(say)?;
    thread.join().map_err(|_| "the control thread fell over".to_owned())
}
