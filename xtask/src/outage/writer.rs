//! The clients of a run: writers that keep to their times whatever becomes of their writes,
//! readers, and sessions that do nothing.
//!
//! A write is a row with a key of its own. It is never tried again: what became of each is the
//! question, and the table answers it afterwards.

use super::client::{Answer, Client};
use crate::process::Outcome;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections that write.
const WRITERS: u64 = 8;
/// Between two writes of all of them together.
pub(crate) const WRITE_EVERY: Duration = Duration::from_millis(5);
/// Connections that read, and the time between two reads of all of them together.
const READERS: u32 = 4;
const READ_EVERY: Duration = Duration::from_millis(20);
/// Connections that do nothing.
const IDLE: usize = 8;
/// Whose time has passed by more than this is left out: after a long outage it would only be load.
const LATE_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(10);
/// How long an answer may take after the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The table of the writes.
pub(crate) const TABLE: &str = "outage";
/// Keys of a writer in one run, and of all writers in one run.
const WRITER_KEYS: u64 = 1_000_000;
const RUN_KEYS: u64 = 100 * WRITER_KEYS;

/// What a write was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Done.
    Acked,
    /// This SQLSTATE.
    Refused(String),
    /// The connection ended.
    Closed,
    /// Nothing, to the end of the run.
    Silent,
}

/// A write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Write {
    /// No other write has it.
    pub(crate) key: u64,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// When its end was heard.
    pub(crate) at: Instant,
    /// What that was.
    pub(crate) end: End,
}

/// What all clients of a run saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// All writes.
    pub(crate) writes: Vec<Write>,
    /// Connects of writers that failed, by SQLSTATE.
    pub(crate) connects: BTreeMap<String, u64>,
    /// Reads that succeeded.
    pub(crate) reads: u64,
    /// Those that did not, by SQLSTATE.
    pub(crate) reads_failed: BTreeMap<String, u64>,
    /// What they were told, and when.
    pub(crate) read_errors: Vec<(Instant, String)>,
    /// Idle sessions that were closed.
    pub(crate) idle_closed: u64,
    /// Idle sessions on which a statement failed afterwards.
    pub(crate) idle_failed: u64,
}

/// Who they are, and where they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guests {
    /// Where pgring listens.
    pub(crate) address: SocketAddr,
    /// User and database of those who write or do nothing.
    pub(crate) writer: (&'static str, &'static str),
    /// User and database of those who read.
    pub(crate) reader: (&'static str, &'static str),
    /// Says `f` if it goes to the primary, as it must: an idle session is asked it at the end.
    pub(crate) idle: &'static str,
}

/// What the clients share.
struct Shared {
    guests: Guests,
    begin: Instant,
    ending: AtomicBool,
    /// When the last write was acknowledged, in microseconds since `begin`.
    acked: AtomicU64,
}

/// Clients that go on until they are stopped.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Log>>,
    idle: Vec<Client>,
}

impl Clients {
    /// Starts them. A thread stays in the namespace of the one that started it.
    pub(crate) fn start(guests: Guests, run: u64) -> Outcome<Self> {
        let begin = Instant::now();
        let shared = Arc::new(Shared { guests, begin, ending: false.into(), acked: 0.into() });
        let mut clients =
            Self { shared: Arc::clone(&shared), threads: Vec::new(), idle: Vec::new() };
        for number in 0..WRITERS {
            let shared = Arc::clone(&shared);
            let first = run * RUN_KEYS + number * WRITER_KEYS;
            let due = begin + WRITE_EVERY * u32::try_from(number).unwrap_or(0);
            clients.threads.push(thread::spawn(move || write(&shared, first, due)));
        }
        for number in 0..READERS {
            let shared = Arc::clone(&shared);
            let due = begin + READ_EVERY * number;
            clients.threads.push(thread::spawn(move || read(&shared, due)));
        }
        for _ in 0..IDLE {
            let idle = Client::connect(guests.address, guests.writer, &|| late(begin));
            clients.idle.push(idle.map_err(|error| format!("an idle session: {error:?}"))?);
        }
        Ok(clients)
    }

    /// How long ago the last write was acknowledged.
    pub(crate) fn quiet(&self) -> Duration {
        let acked = Duration::from_micros(self.shared.acked.load(Ordering::SeqCst));
        self.shared.begin.elapsed().saturating_sub(acked)
    }

    /// Stops them and gives what they saw.
    pub(crate) fn stop(mut self) -> Outcome<Log> {
        self.shared.ending.store(true, Ordering::SeqCst);
        let mut log = Log::default();
        for thread in self.threads.drain(..) {
            let part = thread.join().map_err(|_| "a client panicked".to_owned())?;
            log.writes.extend(part.writes);
            log.reads += part.reads;
            add(&mut log.connects, part.connects);
            add(&mut log.reads_failed, part.reads_failed);
            log.read_errors.extend(part.read_errors);
        }
        for mut idle in self.idle.drain(..) {
            if !idle.stands() {
                log.idle_closed += 1;
                continue;
            }
            let asked = Instant::now();
            let answer = idle.ask(self.shared.guests.idle, &|| asked.elapsed() > PATIENCE);
            // It goes to whoever is the primary now.
            log.idle_failed += u64::from(answer != Answer::Done("f".to_owned()));
        }
        log.writes.sort_by_key(|write| write.at);
        Ok(log)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // What it has seen nobody wants any more.
            drop(thread.join());
        }
    }
}

fn add(sums: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (code, count) in more {
        *sums.entry(code).or_default() += count;
    }
}

fn late(since: Instant) -> bool {
    since.elapsed() > PATIENCE
}

impl Shared {
    fn ends(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Waits for this time; says whether to go on.
    fn wait(&self, due: Instant) -> bool {
        while !self.ends() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(Duration::from_millis(25)));
        }
        false
    }

    /// Connects, however often it takes, until the end.
    fn connect(&self, login: (&str, &str), failures: &mut BTreeMap<String, u64>) -> Option<Client> {
        while !self.ends() {
            match Client::connect(self.guests.address, login, &|| self.ends()) {
                Ok(client) => return Some(client),
                // The end is nobody's failure.
                Err(Answer::Silent) => {}
                Err(answer) => *failures.entry(code(&answer)).or_default() += 1,
            }
            thread::sleep(CONNECT_EVERY);
        }
        None
    }

    /// After the end an answer has a while left, and no more.
    fn ask(&self, client: &mut Client, sql: &str) -> Answer {
        let end = std::cell::Cell::new(None::<Instant>);
        client.ask(sql, &|| {
            if self.ends() && end.get().is_none() {
                end.set(Some(Instant::now()));
            }
            end.get().is_some_and(late)
        })
    }
}

/// What stands for an answer in a table.
fn code(answer: &Answer) -> String {
    match answer {
        Answer::Done(_) => "done".to_owned(),
        Answer::Refused { code, .. } => code.clone(),
        Answer::Closed => "closed".to_owned(),
        Answer::Silent => "silent".to_owned(),
    }
}

/// Whether the session is of no use after this answer.
fn is_over(answer: &Answer) -> bool {
    matches!(answer, Answer::Closed | Answer::Silent | Answer::Refused { fatal: true, .. })
}

fn write(shared: &Shared, first: u64, mut due: Instant) -> Log {
    let mut log = Log::default();
    let mut client = None;
    let period = WRITE_EVERY * u32::try_from(WRITERS).unwrap_or(1);
    let (mut key, mut seq) = (first, 0_u64);
    while shared.wait(due) {
        due = (due + period).max(Instant::now().checked_sub(LATE_MAX).unwrap_or(due));
        let connected = client.take();
        let connected =
            connected.or_else(|| shared.connect(shared.guests.writer, &mut log.connects));
        let Some(mut session) = connected else { break };
        let number = first % RUN_KEYS / WRITER_KEYS;
        let sql = format!("INSERT INTO {TABLE} VALUES ({number}, {seq}, {key})");
        let sent = Instant::now();
        let answer = shared.ask(&mut session, &sql);
        let at = Instant::now();
        let end = match &answer {
            Answer::Done(_) => End::Acked,
            Answer::Refused { code, .. } => End::Refused(code.clone()),
            Answer::Closed => End::Closed,
            Answer::Silent => End::Silent,
        };
        if end == End::Acked {
            let passed = at.saturating_duration_since(shared.begin).as_micros();
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            shared.acked.fetch_max(passed, Ordering::SeqCst);
        }
        log.writes.push(Write { key, sent, at, end });
        (key, seq) = (key + 1, seq + 1);
        if is_over(&answer) {
            // At once, not when the next write is due.
            drop(session);
            client = shared.connect(shared.guests.writer, &mut log.connects);
        } else {
            client = Some(session);
        }
    }
    log
}

fn read(shared: &Shared, mut due: Instant) -> Log {
    let mut log = Log::default();
    let mut client = None;
    while shared.wait(due) {
        due = (due + READ_EVERY * READERS).max(Instant::now());
        let connected = client.take();
        // A reader that cannot connect fails as one does whose statement fails.
        let connected =
            connected.or_else(|| shared.connect(shared.guests.reader, &mut log.reads_failed));
        let Some(mut session) = connected else { break };
        let answer = shared.ask(&mut session, "SELECT count(*) FROM pgbench_branches");
        match &answer {
            Answer::Done(count) if count == "1" => log.reads += 1,
            Answer::Done(count) => {
                *log.reads_failed.entry(format!("counted {count}")).or_default() += 1;
            }
            failed => {
                log.read_errors.push((Instant::now(), format!("{failed:?}")));
                *log.reads_failed.entry(code(failed)).or_default() += 1;
            }
        }
        if !is_over(&answer) {
            client = Some(session);
        }
    }
    log
}
