//! Eyes at the nodes: whether two of them are written to at once, and when one is back.

use super::client::{Answer, Client};
use super::ground::Spot;
use super::scene::Scene;
use crate::process::Outcome;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks at a node.
const LOOK: Duration = Duration::from_millis(25);
/// How long a node may take to answer before it counts as one that takes no writes.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two attempts to get into a node that restarts.
const KNOCK: Duration = Duration::from_millis(5);
/// How long a restart is waited for.
const RESTART_MAX: Duration = Duration::from_secs(15);

/// Who asks nodes: the superuser, in a database that is always there.
const LOGIN: (&str, &str) = ("postgres", "postgres");

/// What the eyes share.
struct Seen {
    writable: Mutex<Vec<bool>>,
    /// Looks that found a second node that takes writes.
    both: AtomicU64,
    looks: AtomicU64,
    ending: AtomicBool,
}

/// A look at each node again and again, where it lives, until this value goes.
pub(super) struct Watch {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look.
    pub(super) fn start(scene: &Scene<'_>) -> Outcome<Self> {
        let seen = Arc::new(Seen {
            writable: vec![false; scene.spots.len()].into(),
            both: 0.into(),
            looks: 0.into(),
            ending: false.into(),
        });
        let mut watch = Self { seen, threads: Vec::new() };
        for (index, spot) in scene.spots.iter().enumerate() {
            let (seen, address) = (Arc::clone(&watch.seen), spot.address());
            let thread = spot
                .home
                .space
                .within(|| Ok(thread::spawn(move || look(&seen, index, address))))?;
            watch.threads.push(thread);
        }
        Ok(watch)
    }

    /// How many looks found two nodes that take writes, and how many looks there were.
    pub(super) fn found(&self) -> (u64, u64) {
        (self.seen.both.load(Ordering::SeqCst), self.seen.looks.load(Ordering::SeqCst))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.ending.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn look(seen: &Seen, index: usize, address: std::net::SocketAddr) {
    let mut client = None;
    while !seen.ending.load(Ordering::SeqCst) {
        let start = Instant::now();
        let give_up = || start.elapsed() > PATIENCE;
        let asked = client.take().or_else(|| Client::connect(address, LOGIN, &give_up).ok());
        let writable = asked.is_some_and(|mut session| {
            let answer = session.ask("SELECT pg_is_in_recovery()", &give_up);
            let writable = answer == Answer::Done("f".to_owned());
            if matches!(answer, Answer::Done(_)) {
                client = Some(session);
            }
            writable
        });
        let mut all = seen.writable.lock().unwrap_or_else(PoisonError::into_inner);
        all[index] = writable;
        let both = writable && all.iter().filter(|it| **it).count() > 1;
        drop(all);
        seen.looks.fetch_add(1, Ordering::SeqCst);
        seen.both.fetch_add(u64::from(both), Ordering::SeqCst);
        thread::sleep(LOOK);
    }
}

/// Waits at the node itself until it lets nobody in, and then until it does again: how long after
/// `fault` that was. None if it never shut, or never opened.
pub(super) fn restart(spot: &Spot, fault: Instant) -> Outcome<Option<Duration>> {
    let (address, mut shut) = (spot.address(), false);
    spot.home.space.within(|| {
        while fault.elapsed() < RESTART_MAX {
            crate::process::check_interrupt()?;
            let start = Instant::now();
            match Client::connect(address, LOGIN, &|| start.elapsed() > PATIENCE) {
                Ok(_) if shut => return Ok(Some(fault.elapsed())),
                Ok(_) => {}
                Err(_) => shut = true,
            }
            thread::sleep(KNOCK);
        }
        Ok(None)
    })
}
