//! The control thread: everything that is not traffic.
//!
//! It keeps the budget of servers (by the broker), works out what costs milliseconds (key
//! derivation, names), reads the config file again, answers the console and HTTP, and turns
//! signals into orders. It talks to lanes by letters only; lanes never wait for it to carry
//! traffic they already have servers for.
//!
//! All of it runs in one thread on a tokio-uring runtime, so its state needs no lock: it is
//! borrowed for a moment and never across an `await`.

pub mod acts;
pub mod catalog;
mod catalogs;
pub(crate) mod checks;
mod console;
mod derive;
pub mod file;
mod guard;
mod heartbeat;
pub mod hooks;
mod http;
mod metrics;
mod monitor;
mod prepare;
mod publish;
mod rounds;
mod senses;
mod signals;
mod standings;
pub mod store;

use crate::clock;
use crate::dialer::Dialer;
use crate::mailbox::MailboxSender;
use crate::probe::Probe;
use crate::ring::support::{RingError, explain};
use catalogs::Edition;
use checks::News;
use console::{Letter, Line};
use guard::{Deeds, Guards};
use pgring_logic::admin::events::Events;
use pgring_logic::admin::stats::Window;
use pgring_logic::admin::world::{Phase, World, merge_pools};
use pgring_logic::broker::Broker;
use pgring_logic::config::Config;
use pgring_logic::id::{ConnId, Core};
use pgring_logic::mail::{Mail, Order, Report};
use pgring_logic::topology::{Topology, Track};
use rounds::Rounds;
use sd_notify::NotifyState;
use senses::Senses;
use signals::{Signal, Signals, notify};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, Notify, Semaphore, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};

/// What SHOW VERSION says.
const VERSION: &str = concat!("pgring ", env!("CARGO_PKG_VERSION"));
/// How often the broker looks for stale demands.
const BROKER_TICK: Duration = Duration::from_millis(200);
/// How often names of nodes are looked up again.
const NAMES_TICK: Duration = Duration::from_secs(30);
/// How long a lane may take to answer a question.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// What an answer to the console needs to reach its client before the process ends.
const FAREWELL: Duration = Duration::from_millis(100);
/// Derivations at once; the other cores belong to the lanes.
const DERIVATIONS_MAX: usize = 2;

/// What the control thread is started with.
pub struct Start {
    /// The config as it was read.
    pub config: Arc<Config>,
    /// The file it was read from.
    pub config_path: PathBuf,
    /// The lanes' mailboxes, in the order of the cores.
    pub lanes: Vec<MailboxSender>,
    /// How many lanes fell over.
    pub falls: fn() -> u64,
    /// Where lanes write to.
    pub inbox: UnboundedReceiver<Mail>,
    /// How nodes are connected to.
    pub dialer: Dialer,
    /// What watches these connections, if it could be loaded.
    pub probe: Option<Probe>,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

/// Runs until the process is to end; gives its exit code. Call it on a thread of its own.
pub fn run(start: Start) -> i32 {
    let Start { config, config_path, lanes, falls, inbox, dialer, probe } = start;
    let count = lanes.len();
    let post = move |core: Core, mail| {
        if let Some(lane) = lanes.get(usize::from(core.0)) {
            lane.send(mail);
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(why) => {
            tracing::error!("{why}");
            return 1;
        }
    };
    runtime.block_on(async move {
        let lanes = Lanes { count, post: Box::new(post), falls };
        match serve(config, config_path, lanes, inbox, (dialer, probe)).await {
            Ok(code) => code,
            Err(error) => {
                tracing::error!("{error}");
                1
            }
        }
    })
}

/// Fills in what a config needs before lanes may have it: addresses of named nodes, verifiers of
/// plain passwords. It blocks, for start only; at a reload the control thread does it by itself.
pub fn prepare(config: Config) -> Result<Config, RingError> {
    Ok(runtime()?.block_on(prepare::prepare(config, None)))
}

fn runtime() -> Result<tokio_uring::Runtime, RingError> {
    tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(explain)
}

/// The way to the lanes.
struct Lanes {
    count: usize,
    post: Box<dyn Fn(Core, Mail)>,
    falls: fn() -> u64,
}

/// The control thread's world.
struct Control {
    lanes: Lanes,
    config_path: PathBuf,
    state: RefCell<State>,
    /// Reloads and lookups take their turns, so that none undoes another.
    publishing: Mutex<()>,
    derivations: Semaphore,
    /// Catalogs are read one after the other.
    readings: Semaphore,
    /// Where the exit code goes.
    end: UnboundedSender<i32>,
    /// How nodes are connected to.
    dialer: Rc<Dialer>,
    /// Where what was seen of nodes goes, and how often they are asked.
    news: UnboundedSender<News>,
    pace: watch::Sender<Duration>,
    /// Where what has happened to clusters is told.
    deeds: Deeds,
    /// Something was seen.
    sighted: Notify,
}

/// What changes.
struct State {
    config: Arc<Config>,
    broker: Broker,
    phase: Phase,
    window: Window,
    /// The number of the last question or order.
    number: u64,
    reports: Rounds<Report>,
    orders: Rounds<Option<String>>,
    /// Orders to pause that are not carried out yet; RESUME ends them.
    pauses: Vec<u64>,
    /// What console clients said while their last command was still being carried out.
    lines: BTreeMap<(Core, ConnId), Line>,
    /// Where the nodes stand, and where each cluster's primary was when.
    topology: Topology,
    tracks: BTreeMap<Arc<str>, Track>,
    /// How they are, and what was thought of them; until when they are asked in a hurry.
    senses: Senses,
    events: Events,
    hurry: Option<pgring_logic::time::Instant>,
    /// The clusters whose primaries are decided on here.
    guards: Guards,
    /// What names mean, by database as clients name it.
    catalogs: BTreeMap<Arc<str>, Edition>,
    edition: u64,
    /// The config may say something else of them.
    reread: bool,
}

async fn serve(
    config: Arc<Config>,
    config_path: PathBuf,
    lanes: Lanes,
    mut inbox: UnboundedReceiver<Mail>,
    (dialer, probe): (Dialer, Option<Probe>),
) -> Result<i32, String> {
    let mut signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
    let listener = match &config.http {
        Some(address) => Some(http::listen(address).await?),
        None => None,
    };
    let (end, mut ended) = unbounded_channel();
    let (news, mut seen) = unbounded_channel();
    let (deeds, mut done) = unbounded_channel();
    let control = Rc::new(Control::new(config, config_path, lanes, (end, news, deeds), dialer));
    if let Some(probe) = probe {
        tokio::task::spawn_local(Rc::clone(&control).listen(probe));
    }
    tokio::task::spawn_local(Rc::clone(&control).begin());
    if let Some(listener) = listener {
        tokio::task::spawn_local(http::serve(listener, Rc::clone(&control)));
    }
    let mut broker = every(BROKER_TICK);
    let mut names = every(NAMES_TICK);
    let mut window = every(Window::PERIOD);
    let mut editions = every(catalogs::PERIOD);
    let mut moments = every(senses::TICK);
    loop {
        tokio::select! {
            mail = inbox.recv() => match mail {
                Some(mail) => control.take(mail),
                None => return Err("all lanes are gone".to_owned()),
            },
            signal = signals.next() => control.heed(signal),
            Some(news) = seen.recv() => control.learn(news),
            Some(deed) = done.recv() => control.happen(deed),
            _ = moments.tick() => {
                control.feel();
                control.watch_over();
            }
            _ = broker.tick() => control.tick(),
            _ = editions.tick() => control.read_again(),
            _ = names.tick() => drop(tokio::task::spawn_local(Rc::clone(&control).look_up())),
            _ = window.tick() => drop(tokio::task::spawn_local(Rc::clone(&control).turn())),
            Some(code) = ended.recv() => return Ok(code),
        }
    }
}

/// Ticks that are late come once, and the first one is not now.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Control {
    fn new(
        config: Arc<Config>,
        config_path: PathBuf,
        lanes: Lanes,
        (end, news, deeds): (UnboundedSender<i32>, UnboundedSender<News>, Deeds),
        dialer: Dialer,
    ) -> Self {
        let pace = watch::Sender::new(config.monitor.interval);
        let senses = Senses::none(&config);
        let broker = Broker::new(Arc::clone(&config), lanes.count);
        let state = State {
            config,
            broker,
            phase: Phase::Active,
            window: Window::new(clock::now()),
            number: 0,
            reports: Rounds::default(),
            orders: Rounds::default(),
            pauses: Vec::new(),
            lines: BTreeMap::new(),
            topology: Topology::default(),
            tracks: BTreeMap::new(),
            senses,
            events: Events::default(),
            hurry: None,
            guards: Guards::default(),
            catalogs: BTreeMap::new(),
            edition: 0,
            reread: false,
        };
        Self {
            lanes,
            config_path,
            state: RefCell::new(state),
            publishing: Mutex::new(()),
            derivations: Semaphore::new(DERIVATIONS_MAX),
            readings: Semaphore::new(1),
            end,
            dialer: Rc::new(dialer),
            news,
            pace,
            deeds,
            sighted: Notify::new(),
        }
    }

    fn cores(&self) -> impl Iterator<Item = Core> {
        (0..self.lanes.count).map(|core| Core(u16::try_from(core).unwrap_or(u16::MAX)))
    }

    fn post(&self, core: Core, mail: Mail) {
        (self.lanes.post)(core, mail);
    }

    fn post_all(&self, letters: Vec<(Core, Mail)>) {
        for (core, mail) in letters {
            self.post(core, mail);
        }
    }

    /// Deals with a letter from a lane.
    fn take(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Demand { .. }
            | Mail::Returned { .. }
            | Mail::Moved { .. }
            | Mail::Enter { .. }
            | Mail::Left { .. } => {
                let mut letters = Vec::new();
                self.state.borrow_mut().broker.handle(clock::now(), &mail, &mut letters);
                self.post_all(letters);
            }
            Mail::Derive { core, conn, password, salt, iterations } => {
                let work = Rc::clone(self).derive((core, conn), password, salt, iterations);
                tokio::task::spawn_local(work);
            }
            Mail::Console { core, conn, user, text, shape } => {
                console::receive(self, (core, conn), Letter { user, text, shape });
            }
            Mail::Want { core, database, changed } => self.want(core, database, changed),
            Mail::Behind => self.hurry(),
            Mail::Report(report) => {
                let (number, core) = (report.number, report.core);
                self.state.borrow_mut().reports.answer(number, core, *report);
            }
            Mail::Done { core, number, error } => {
                self.state.borrow_mut().orders.answer(number, core, error);
            }
            Mail::Config(_)
            | Mail::Permit { .. }
            | Mail::Hungry { .. }
            | Mail::Shrink { .. }
            | Mail::Entered { .. }
            | Mail::Derived { .. }
            | Mail::Answer { .. }
            | Mail::Ask(_)
            | Mail::AskRoutes(_)
            | Mail::Order { .. }
            | Mail::Cancel { .. }
            | Mail::Cancelled { .. }
            | Mail::Base { .. }
            | Mail::Topology(_)
            | Mail::Catalog { .. }
            | Mail::Client { .. }
            | Mail::Parcel(_) => tracing::error!("a letter for lanes came to the control thread"),
        }
    }

    fn heed(self: &Rc<Self>, signal: Signal) {
        tracing::info!(?signal, "signal");
        match signal {
            Signal::Reload => {
                let control = Rc::clone(self);
                tokio::task::spawn_local(async move { drop(control.reload().await) });
            }
            Signal::DrainClients => self.drain(Order::DrainClients),
            Signal::DrainServers => self.drain(Order::DrainServers),
            Signal::Quit => self.finish(0),
        }
    }

    fn tick(self: &Rc<Self>) {
        self.calm_down();
        if std::mem::take(&mut self.state.borrow_mut().reread) {
            self.read_again();
        }
        let mut letters = Vec::new();
        self.state.borrow_mut().broker.tick(clock::now(), &mut letters);
        self.post_all(letters);
    }

    /// Ends the process with this exit code.
    fn finish(&self, code: i32) {
        if self.end.send(code).is_err() {
            tracing::debug!("the process is ending already");
        }
    }

    /// Ends the process once the lanes have carried out `order`; at once if asked a second time.
    fn drain(self: &Rc<Self>, order: Order) {
        notify(&[NotifyState::Stopping]);
        let mut state = self.state.borrow_mut();
        if state.phase == Phase::Stopping {
            return self.finish(0);
        }
        state.phase = Phase::Stopping;
        drop(state);
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let (_, errors) = control.order(&order, control.cores().collect());
            drop(errors.await);
            tracing::info!("drained");
            control.finish(0);
        });
    }

    /// What all lanes look like; those that do not answer in time are missing.
    async fn ask(&self, question: fn(u64) -> Mail) -> Vec<Report> {
        let (number, reports) = self.question(question);
        match tokio::time::timeout(ANSWER_MAX, reports).await {
            Ok(reports) => reports.unwrap_or_default(),
            Err(_late) => self.state.borrow_mut().reports.close(number),
        }
    }

    /// Asks all lanes what they look like.
    fn question(&self, question: fn(u64) -> Mail) -> (u64, oneshot::Receiver<Vec<Report>>) {
        let number = self.number();
        let cores = self.cores().collect();
        let reports = self.state.borrow_mut().reports.open(number, cores);
        for core in self.cores() {
            self.post(core, question(number));
        }
        (number, reports)
    }

    /// Gives an order to these lanes: its number, and what went wrong once all have done it.
    fn order(
        &self,
        order: &Order,
        cores: BTreeSet<Core>,
    ) -> (u64, oneshot::Receiver<Vec<Option<String>>>) {
        let number = self.number();
        let done = self.state.borrow_mut().orders.open(number, cores.clone());
        for core in cores {
            self.post(core, Mail::Order { number, order: order.clone() });
        }
        (number, done)
    }

    /// The next number of a question or order.
    fn number(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.number += 1;
        state.number
    }

    /// The next minute of averages begins.
    async fn turn(self: Rc<Self>) {
        let pools = merge_pools(&self.ask(Mail::Ask).await);
        self.state.borrow_mut().window.turn(clock::now(), pools.values());
    }

    /// Shows these reports, and all that goes with them.
    fn look<T>(&self, reports: &[Report], show: impl FnOnce(&World<'_>) -> T) -> T {
        let state = self.state.borrow();
        let unix = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        show(&World {
            config: &state.config,
            defaults: &Config::default(),
            reports,
            window: &state.window,
            topology: &state.topology,
            events: &state.events,
            failovers: &state.guards.machines(),
            now: clock::now(),
            unix,
            version: VERSION,
            phase: state.phase,
            memory_bytes: metrics::resident_bytes(),
            falls: (self.lanes.falls)(),
        })
    }
}

#[cfg(test)]
mod tests;
