//! Clients of a rehearsal: some that write at their times, whatever becomes of their writes, and
//! some that do nothing.
//!
//! A write is a row with a key of its own. It is never tried again: what became of each is the
//! question, and the table answers it afterwards.

use crate::rehearse::link::{Door, Login, Refusal, Session};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The table of the writes.
pub(super) const TABLE: &str = "pgring_rehearsal";
/// Connections that write.
pub(super) const WRITERS: u32 = 8;
/// Connections that do nothing.
const IDLE: u32 = 4;
/// Whose time has passed by more than this is left out: after a long outage it would only be load.
const LATE_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(20);
/// How long an answer may take after the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it is the end.
const LOOK: Duration = Duration::from_millis(50);

/// What a write was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// Done.
    Acked,
    /// This SQLSTATE, or that the connection ended.
    Refused(String),
    /// Nothing, to the end.
    Silent,
}

/// A write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Write {
    /// No other write has it.
    pub(super) key: u64,
    /// When its end was heard.
    pub(super) at: Instant,
    /// What that was.
    pub(super) end: End,
}

/// What all clients saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// All writes, by the time of their ends.
    pub(super) writes: Vec<Write>,
    /// Connects that failed, by SQLSTATE.
    pub(super) connects: BTreeMap<String, u64>,
    /// Idle sessions that were closed.
    pub(super) idle_closed: u64,
    /// Idle sessions on which a statement failed afterwards.
    pub(super) idle_failed: u64,
}

/// Where clients go, and what they share.
#[derive(Debug)]
pub(super) struct Shared {
    door: Door,
    login: Login,
    /// Between two writes of one connection.
    period: Duration,
    /// The next key. Those of one rehearsal are all different.
    key: Cell<u64>,
}

impl Shared {
    /// Clients that write so often in a second, all together.
    pub(super) fn new(door: Door, login: Login, rate: u32) -> Self {
        let period = Duration::from_secs(1) * WRITERS / rate.max(1);
        Self { door, login, period, key: Cell::new(1) }
    }

    /// Between two writes of all of them.
    pub(super) fn every(&self) -> Duration {
        self.period / WRITERS
    }

    /// One more session.
    pub(super) async fn open(&self) -> Result<Session, Refusal> {
        Session::open(&self.door, &self.login).await
    }
}

/// What the clients of one part of a rehearsal have in common.
#[derive(Debug)]
struct Run {
    shared: Rc<Shared>,
    ended: Cell<Option<Instant>>,
    acked: Cell<Instant>,
    log: RefCell<Log>,
}

/// Clients that go on until they are stopped.
#[derive(Debug)]
pub(super) struct Clients {
    run: Rc<Run>,
    tasks: Vec<JoinHandle<()>>,
    idle: Vec<Session>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Clients {
    /// Starts them.
    pub(super) async fn start(shared: &Rc<Shared>) -> Result<Self, String> {
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(shared.open().await.map_err(|why| format!("an idle session: {why:?}"))?);
        }
        let run = Rc::new(Run {
            shared: Rc::clone(shared),
            ended: Cell::default(),
            acked: Cell::new(Instant::now()),
            log: RefCell::default(),
        });
        let begin = Instant::now();
        let start = |number| {
            let due = begin + shared.every() * number;
            tokio::task::spawn_local(Rc::clone(&run).write(due))
        };
        let tasks = (0..WRITERS).map(start).collect();
        Ok(Self { run, tasks, idle })
    }

    /// How long ago the last write was acknowledged.
    pub(super) fn quiet(&self) -> Duration {
        self.run.acked.get().elapsed()
    }

    /// Stops them, and gives what they saw.
    pub(super) async fn stop(mut self) -> Log {
        self.run.ended.set(Some(Instant::now()));
        for task in self.tasks.drain(..) {
            // One that panicked has said so.
            drop(task.await);
        }
        let mut log = self.run.log.take();
        for session in self.idle.drain(..) {
            if session.is_closed() {
                log.idle_closed += 1;
                continue;
            }
            let answer = timeout(PATIENCE, session.execute("SELECT 1")).await;
            log.idle_failed += u64::from(!matches!(answer, Ok(Ok(()))));
        }
        log.writes.sort_by_key(|write| write.at);
        log
    }
}

impl Run {
    async fn write(self: Rc<Self>, mut due: Instant) {
        let mut kept = None;
        loop {
            sleep_until(due).await;
            if self.ended.get().is_some() {
                return;
            }
            due += self.shared.period;
            let now = Instant::now();
            due = due.max(now.checked_sub(LATE_MAX).unwrap_or(now));
            let session = match kept.take() {
                Some(session) => session,
                None => match self.connect().await {
                    Some(session) => session,
                    None => return,
                },
            };
            let key = self.shared.key.replace(self.shared.key.get() + 1);
            let sql = format!("INSERT INTO {TABLE} VALUES ({key})");
            // A fatal error comes before the end of the connection does.
            let (end, over) = tokio::select! {
                answer = session.execute(&sql) => match answer {
                    Ok(()) => (End::Acked, false),
                    Err(refusal) => (End::Refused(refusal.code), refusal.fatal),
                },
                () = self.late() => (End::Silent, true),
            };
            let at = Instant::now();
            if end == End::Acked {
                self.acked.set(at);
            }
            self.log.borrow_mut().writes.push(Write { key, at, end });
            if !over && !session.is_closed() {
                kept = Some(session);
            }
        }
    }

    /// Connects, however often it takes, until the end.
    async fn connect(&self) -> Option<Session> {
        while self.ended.get().is_none() {
            tokio::select! {
                opened = self.shared.open() => match opened {
                    Ok(session) => return Some(session),
                    Err(refusal) => {
                        let mut log = self.log.borrow_mut();
                        *log.connects.entry(refusal.code).or_default() += 1;
                    }
                },
                () = self.late() => {}
            }
            sleep(CONNECT_EVERY).await;
        }
        None
    }

    /// Until an answer is waited for no more.
    async fn late(&self) {
        while self.ended.get().is_none_or(|ended| ended.elapsed() < PATIENCE) {
            sleep(LOOK).await;
        }
    }
}
