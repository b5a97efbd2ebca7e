//! One core: a ring, a lane, and the loop that carries events to the one and actions to the
//! other.
//!
//! ```text
//!   ┌─▶ one io_uring_enter: submit what was asked for, wait ─▶ completions ─▶ the lane ─┐
//!   │                                                                                   │
//!   └── sends, receives, connects, closes ◀── actions ◀── letters, time-outs ◀──────────┘
//! ```
//!
//! The driver decides nothing about clients and servers. What it does by itself is flow: which
//! bytes wait where (`conn`), in which order they are shown (`feed`), when a connection that
//! sends faster than another one reads is paused (`flow`), and how a descriptor is let go of
//! (`close`).

mod begin;
mod close;
mod conn;
mod door;
mod feed;
mod flow;
mod gather;
mod perform;
mod tally;
#[cfg(test)]
mod trial;

use crate::clock;
use crate::dialer::Dialer;
use crate::mailbox::seats::Seats;
use crate::mailbox::{Letter, Mailbox, MailboxSender};
use crate::ring::chunk::Spare;
use crate::ring::support::RingError;
use crate::ring::token::{Kind, Token};
use crate::ring::{Completion, Ring};
use crate::worker::begin::begin;
use crate::worker::conn::{Phase, Table};
use crate::worker::door::Door;
use crate::worker::tally::Tally;
use pgring_logic::action::{Actions, Progress};
use pgring_logic::config::Config;
use pgring_logic::id::{ConnId, Core};
use pgring_logic::lane::Lane;
use pgring_logic::mail::{Entrance, Event, Mail, Peer};
use pgring_logic::parcel::Parcel;
use pgring_logic::time::{Duration, Instant};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::UnboundedSender;

/// Letters taken in one turn; the rest wait for the next, behind what the network brings.
const LETTERS_PER_TURN: usize = 1024;
/// How often connections that take nothing are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// A lane that falls sooner than this after its start is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Lanes that fell over since the start of the process.
static FALLS: AtomicU64 = AtomicU64::new(0);

/// How many lanes fell over (panicked and were started anew) since the start of the process.
pub fn falls() -> u64 {
    FALLS.load(Ordering::Relaxed)
}

/// What a worker drives: a lane, or something simpler in a test.
pub trait World {
    /// A client has come.
    fn accept(&mut self, now: Instant, peer: Peer, entrance: Entrance) -> ConnId;
    /// A server has come from another lane.
    fn adopt(&mut self, now: Instant, parcel: Parcel, actions: &mut Actions<Mail>) -> ConnId;
    /// Shows bytes of a connection.
    fn receive(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        actions: &mut Actions<Mail>,
    ) -> Progress;
    /// Whether a connection whose other end will send no more is to be shown all of `held`, which
    /// waits for `Resume`, before its end is told.
    fn hears_out(&self, conn: ConnId, held: &[u8]) -> bool;
    /// Tells of an event.
    fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions<Mail>);
    /// When to tell of [`Event::Timeout`].
    fn deadline(&self) -> Option<Instant>;
}

impl World for Lane {
    fn accept(&mut self, now: Instant, peer: Peer, entrance: Entrance) -> ConnId {
        Self::accept(self, now, peer, entrance)
    }

    fn adopt(&mut self, now: Instant, parcel: Parcel, actions: &mut Actions<Mail>) -> ConnId {
        Self::adopt(self, now, parcel, actions)
    }

    fn receive(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        actions: &mut Actions<Mail>,
    ) -> Progress {
        Self::receive(self, now, conn, bytes, actions)
    }

    fn hears_out(&self, conn: ConnId, held: &[u8]) -> bool {
        Self::hears_out(self, conn, held)
    }

    fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions<Mail>) {
        Self::handle(self, now, event, actions);
    }

    fn deadline(&self) -> Option<Instant> {
        Self::deadline(self)
    }
}

/// What a worker has whatever becomes of its lane.
#[derive(Debug)]
pub struct Base {
    /// Which core.
    pub core: Core,
    /// The newest configuration.
    pub config: Arc<Config>,
    /// Its letters.
    pub mailbox: Mailbox,
    /// The way to every lane.
    pub lanes: Vec<MailboxSender>,
    /// The way to the control thread.
    pub control: UnboundedSender<Mail>,
    /// Its own listeners.
    pub doors: Vec<OwnedFd>,
    /// How many of them, the last ones, are for clients that only read.
    pub readonly: usize,
    /// The Unix listener, which all workers have.
    pub unix: Option<Arc<OwnedFd>>,
    /// All clients.
    pub seats: Arc<Seats>,
    /// How servers are connected to.
    pub dialer: Dialer,
}

/// Runs the worker of one core on the calling thread until it is told to stop; or tells why it
/// cannot go on, and then the process should not either (`begin`). `ready` hears whether the ring
/// could be built; `make` makes a world, and a fresh one when a lane falls, whose connections have
/// generations after the one it is given.
pub fn run<W: World>(
    mut base: Base,
    ready: impl FnOnce(Result<(), RingError>),
    make: impl Fn(Core, Arc<Config>, u32) -> W,
) -> Result<(), String> {
    let mut ring = match Ring::new(base.config.limits.buffers) {
        Ok(ring) => Some(ring),
        Err(why) => {
            ready(Err(why));
            return Ok(());
        }
    };
    ready(Ok(()));
    let mut tally = Tally::new(base.core);
    loop {
        let world = || make(base.core, Arc::clone(&base.config), tally.before());
        let Some((ring, world)) = begin(&base, ring.take(), world)? else { return Ok(()) };
        let start = clock::now();
        let life = catch_unwind(AssertUnwindSafe(|| {
            Worker::new(ring, world, &mut base, &mut tally).run()
        }));
        let core = base.core.0;
        match life {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => tracing::error!(core, "the ring broke: {why}"),
            Err(panic) => tracing::error!(core, "the lane fell over: {}", reason(&*panic)),
        }
        FALLS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(core, "its clients and servers are dropped; it starts anew");
        for mail in tally.fall() {
            base.tell(mail);
        }
        let now = clock::now();
        if now.since(start) < SHORT_LIFE && base.mailbox.rest(now + SHORT_LIFE) {
            return Ok(());
        }
    }
}

/// What somebody said when he panicked.
fn reason(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason")
}

impl Base {
    /// Tells the control thread.
    fn tell(&self, mail: Mail) {
        // It hears nothing any more only while the process ends.
        drop(self.control.send(mail));
    }

    /// Sends a letter to a lane.
    fn post(&self, to: Core, letter: Letter) {
        let lane = self.lanes.get(usize::from(to.0));
        lane.expect("lanes write to lanes that there are").post(letter);
    }
}

/// One life of a lane and its driver.
struct Worker<'a, W> {
    // Dropped first: with it the kernel lets go of all the rest.
    ring: Ring,
    table: Table,
    world: W,
    base: &'a mut Base,
    tally: &'a mut Tally,
    door: Door,
    actions: Actions<Mail>,
    now: Instant,
    spare: Spare,
    /// What the lane is to be told, in order.
    events: VecDeque<Event>,
    /// Connections that may have something to show.
    work: VecDeque<ConnId>,
    /// Connections with something to send.
    dirty: Vec<ConnId>,
    /// Connections that found no buffer.
    starved: VecDeque<ConnId>,
    /// Connections of which bulk data is gathered.
    gathering: Vec<ConnId>,
    /// When slow connections are looked at next; never, while none has been sending.
    sweep: Option<Instant>,
}

impl<'a, W: World> Worker<'a, W> {
    fn new(ring: Ring, world: W, base: &'a mut Base, tally: &'a mut Tally) -> Self {
        Self {
            ring,
            table: Table::default(),
            world,
            base,
            tally,
            door: Door::default(),
            actions: Actions::default(),
            now: clock::now(),
            spare: Spare::default(),
            events: VecDeque::new(),
            work: VecDeque::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            gathering: Vec::new(),
            sweep: None,
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.ring.listen_to(self.base.mailbox.bell(), Token::new(Kind::Bell, 0, 0));
        self.open_doors();
        // Orders that its lane has been given in an earlier life.
        self.events.extend(self.tally.orders().map(Event::Mail));
        self.settle();
        let mut completions = Vec::with_capacity(1024);
        loop {
            let wait = self.wait();
            self.ring.turn(wait, &mut completions)?;
            self.base.mailbox.awake();
            self.now = clock::now();
            for completion in completions.drain(..) {
                self.complete(completion);
                self.settle();
            }
            let stop = self.read_letters();
            self.look_at_the_clock();
            self.feed_the_starved();
            self.flush();
            if stop {
                // What can be sent at once still is.
                return self.ring.turn(Some(Duration::ZERO), &mut completions);
            }
        }
    }

    /// How long to sleep if nothing happens.
    fn wait(&mut self) -> Option<Duration> {
        if self.ring.has_more() || !self.base.mailbox.doze() {
            return Some(Duration::ZERO);
        }
        let gathered = self.gathered();
        let times = [self.world.deadline(), self.sweep, self.door.retry(), gathered];
        let first = times.into_iter().flatten().min()?;
        Some(first.since(self.now))
    }

    /// Deals with one completion.
    fn complete(&mut self, completion: Completion) {
        match completion.token.kind() {
            Kind::Receive => self.received(completion),
            Kind::Send | Kind::HastySend => {
                self.sent(Table::owner(completion.token), completion.result);
            }
            Kind::Connect => self.connected(Table::owner(completion.token), completion.result),
            Kind::Cancel => {
                self.cancelled(Table::owner(completion.token), completion.result);
            }
            Kind::Close => self.let_go(Table::owner(completion.token)),
            Kind::Accept => self.accepted(completion),
            Kind::Bell if !completion.more => {
                self.ring.listen_to(self.base.mailbox.bell(), completion.token);
            }
            Kind::Bell => {}
        }
    }

    /// Tells and shows the lane what there is, until there is nothing more.
    fn settle(&mut self) {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.world.handle(self.now, event, &mut self.actions);
                self.perform(None);
            } else if let Some(id) = self.work.pop_front() {
                if let Some(conn) = self.table.get(id) {
                    conn.queued = false;
                    self.feed(id);
                }
            } else {
                return;
            }
        }
    }

    /// Reads letters; true if one of them is the last.
    fn read_letters(&mut self) -> bool {
        for _ in 0..LETTERS_PER_TURN {
            let Some(letter) = self.base.mailbox.take() else { return false };
            match letter {
                Letter::Mail(mail) => {
                    self.tally.incoming(&mail);
                    if let Mail::Config(config) = &mail {
                        self.base.config = Arc::clone(config);
                    }
                    self.events.push_back(Event::Mail(mail));
                }
                Letter::NewClient { fd, peer, entrance, seat, said } => {
                    self.admit(fd, (peer, entrance), seat, said);
                }
                Letter::Server { fd, parcel } => {
                    let id = self.world.adopt(self.now, *parcel, &mut self.actions);
                    self.tally.opened();
                    self.table.open(id, Some(fd), (Phase::Open, self.now));
                    self.perform(None);
                    self.arm(id);
                }
                Letter::Stop => return true,
            }
            self.settle();
        }
        false
    }

    fn look_at_the_clock(&mut self) {
        if self.world.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.events.push_back(Event::Timeout);
        }
        self.fetch_the_gathered();
        if self.sweep.is_some_and(|time| time <= self.now) {
            self.sweep_the_slow();
        }
        if self.door.retry().is_some_and(|time| time <= self.now) {
            self.open_doors();
        }
        self.settle();
    }
}
