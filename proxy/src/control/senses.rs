//! The senses of the control thread: carries out the checks that the judge asks for, brings it what
//! was seen, and lets the world know of its verdicts.

use crate::clock;
use crate::control::checks::{Lines, News, Target, Told};
use crate::control::heartbeat;
use crate::control::{Control, State};
use crate::dialer::Dialer;
use crate::probe::Probe;
use crate::probe::info::TcpInfo;
use crate::probe::mark::number;
use crate::ring::socket::shut_down;
use pgring_ebpf_common::{Event, kind, state};
use pgring_logic::admin::events::NodeEvent;
use pgring_logic::config::Config;
use pgring_logic::health::{Change, Check, Judge, Link, Sight, Watched};
use pgring_logic::topology::{Sockets, Standing};
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// How often time passes for the judge, and sockets that wait for something are looked at.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The checks of all nodes; they end with it.
#[derive(Debug)]
pub(super) struct Senses {
    /// Tells what belongs to it from what is left of those before.
    pub(super) number: u64,
    judge: Judge,
    targets: Vec<Rc<Target>>,
    logins: BTreeMap<u64, Login>,
    /// Of each node, the login that is its session.
    sessions: Vec<Option<u64>>,
    /// Who writes on primaries.
    beats: BTreeMap<usize, Beat>,
}

/// A task that ends with this.
#[derive(Debug)]
struct Beat(JoinHandle<()>);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A login, or the session that it became.
#[derive(Debug)]
struct Login {
    task: JoinHandle<()>,
    pings: UnboundedSender<()>,
    /// To look at.
    socket: Option<OwnedFd>,
    /// It has nothing to do any more, and ends by itself with its orders.
    well: bool,
}

impl Drop for Login {
    fn drop(&mut self) {
        if self.well {
            return;
        }
        self.task.abort();
        if let Some(socket) = &self.socket {
            // What it still has to say nobody waits for.
            shut_down(socket.as_fd(), Shutdown::Both);
        }
    }
}

impl Senses {
    /// Of no node.
    pub(super) fn none(config: &Config) -> Self {
        Self {
            number: 0,
            judge: Judge::new(clock::now(), &config.monitor, Vec::new()),
            targets: Vec::new(),
            logins: BTreeMap::new(),
            sessions: Vec::new(),
            beats: BTreeMap::new(),
        }
    }

    /// Of all nodes of `config`; of none without a user to ask as.
    fn start(config: &Config, number: u64, dialer: &Rc<Dialer>) -> Self {
        let mut targets = Vec::new();
        let clusters = config.clusters.iter().filter(|_| config.monitor.user.is_some());
        for cluster in clusters {
            let name: Arc<str> = cluster.name.as_str().into();
            for node in &cluster.nodes {
                targets.push(Rc::new(Target {
                    watch: number,
                    place: targets.len(),
                    cluster: Arc::clone(&name),
                    node: node.name.as_str().into(),
                    addresses: node.resolved.clone(),
                    first: std::cell::Cell::new(0),
                    settings: config.monitor.clone(),
                    dialer: Rc::clone(dialer),
                    horizon: cluster.horizon.clone(),
                }));
            }
        }
        let watched = |target: &Rc<Target>| Watched {
            name: Arc::clone(&target.node),
            // Until it is known to be none.
            primary: true,
        };
        let watched = targets.iter().map(watched).collect();
        Self {
            number,
            judge: Judge::new(clock::now(), &config.monitor, watched),
            sessions: vec![None; targets.len()],
            targets,
            logins: BTreeMap::new(),
            beats: BTreeMap::new(),
        }
    }

    /// The nodes to which connections with this number lead.
    fn places(&self, wanted: u32) -> Vec<usize> {
        let there = |target: &&Rc<Target>| target.addresses.iter().any(|it| number(it) == wanted);
        self.targets.iter().filter(there).map(|target| target.place).collect()
    }

    pub(super) fn target(&self, place: usize) -> Option<&Rc<Target>> {
        self.targets.get(place)
    }

    /// The node of this name.
    fn place_of(&self, cluster: &str, node: &str) -> Option<usize> {
        let named = |it: &Rc<Target>| *it.cluster == *cluster && *it.node == *node;
        self.targets.iter().position(named)
    }

    /// A login or session is over.
    fn forget(&mut self, place: usize, sight: &Sight) {
        let (Sight::Ended { session: over, .. } | Sight::Failed { login: over, .. }) = sight else {
            return;
        };
        self.logins.remove(over);
        if let Some(session) = self.sessions.get_mut(place) {
            session.take_if(|session| session == over);
        }
    }

    /// What the kernel knows of a connection.
    fn info(&self, login: u64) -> Option<TcpInfo> {
        let socket = self.logins.get(&login)?.socket.as_ref()?;
        TcpInfo::of(socket.as_fd()).ok()
    }
}

fn link(info: &TcpInfo) -> Link {
    Link {
        stuck: info.unacknowledged > 0 || info.unsent_bytes > 0,
        progress: info.acknowledged_bytes + info.received_bytes,
        received: info.received_bytes,
        round_trip: Duration::from_micros(info.round_trip_us.into()),
        retransmits: info.retransmits,
    }
}

/// What the counters of the kernel's programs say of an event.
fn count(sockets: &mut Sockets, event: &Event) {
    match (event.kind, event.second) {
        (kind::STATE, state::CLOSE_WAIT) => sockets.ends += 1,
        (kind::RETRANSMIT, _) => {
            sockets.retransmits += 1;
            sockets.timeouts += u64::from(event.first > 0);
        }
        (kind::RESET, _) => sockets.resets += 1,
        (kind::ERROR, _) => sockets.errors += 1,
        _ => {}
    }
}

/// Whether it is worth a look at the node.
fn hints(event: &Event) -> bool {
    match event.kind {
        kind::STATE => event.second == state::CLOSE_WAIT,
        kind::RETRANSMIT => event.first > 0,
        kind::RESET | kind::ERROR => true,
        _ => false,
    }
}

impl Control {
    /// Watches the nodes of the config, and forgets those that are no longer in it.
    pub(super) fn watch(&self) {
        let mut state = self.state.borrow_mut();
        let config = Arc::clone(&state.config);
        state.topology.clusters.clear();
        state.tracks.clear();
        self.pace.send_replace(config.monitor.interval);
        let number = state.senses.number + 1;
        state.senses = Senses::start(&config, number, &self.dialer);
    }

    /// A check has something to tell.
    pub(super) fn learn(&self, news: News) {
        let now = clock::now();
        let mut state = self.state.borrow_mut();
        if news.watch != state.senses.number {
            // It was begun before a reload: perhaps at another place.
            return;
        }
        let place = news.place;
        let mut checks = Vec::new();
        match news.told {
            Told::Sight(sight) => {
                let error = trouble(&state.senses, place, &sight);
                state.senses.forget(place, &sight);
                self.look_at(&mut state, now, place, &sight, &mut checks);
                state.senses.judge.see(now, place, sight, &mut checks);
                let more = self.carry_out(&mut state, checks);
                drop(state);
                if let Some(error) = error {
                    self.see(place, Err(error));
                }
                self.publish_verdicts(&more);
            }
            Told::Connected { login, took, socket } => {
                if let Some(it) = state.senses.logins.get_mut(&login) {
                    it.socket = socket;
                }
                if let Some(standing) = standing(&mut state, place) {
                    standing.sockets.connect = took;
                }
                state.senses.judge.see(now, place, Sight::Connected { login }, &mut checks);
                let more = self.carry_out(&mut state, checks);
                drop(state);
                self.publish_verdicts(&more);
            }
            Told::Stands(answer) => {
                drop(state);
                self.see(place, Ok(answer));
            }
        }
    }

    /// Time has passed.
    pub(super) fn feel(&self) {
        let now = clock::now();
        let mut state = self.state.borrow_mut();
        let mut checks = Vec::new();
        let pending: Vec<_> = state.senses.judge.pending().collect();
        for (place, login) in pending {
            let Some(info) = state.senses.info(login) else { continue };
            let link = link(&info);
            state.senses.judge.see(now, place, Sight::Link { login, link }, &mut checks);
        }
        state.senses.judge.tick(now, &mut checks);
        let more = self.carry_out(&mut state, checks);
        drop(state);
        self.publish_verdicts(&more);
    }

    /// What the kernel knows of the session that has just answered.
    fn look_at(
        &self,
        state: &mut State,
        now: pgring_logic::time::Instant,
        place: usize,
        sight: &Sight,
        checks: &mut Vec<Check>,
    ) {
        let Sight::Answered { session } = *sight else { return };
        let Some(info) = state.senses.info(session) else { return };
        let link = link(&info);
        state.senses.judge.see(now, place, Sight::Link { login: session, link }, checks);
        let probed = self.dialer.is_watched();
        let Some(standing) = standing(state, place) else { return };
        let sockets = &mut standing.sockets;
        sockets.round_trip = Duration::from_micros(info.round_trip_us.into());
        sockets.variation = Duration::from_micros(info.variation_us.into());
        sockets.round_trip_min = Duration::from_micros(info.round_trip_min_us.into());
        sockets.unacknowledged = info.unacknowledged + info.unsent_bytes;
        sockets.zero_windows += u64::from(info.window == 0);
        if !probed {
            // Only what this session has seen.
            sockets.retransmits = info.retransmits.into();
            sockets.timeouts = info.timeouts.into();
        }
    }

    /// Does what the judge asks for; whether verdicts have changed.
    fn carry_out(&self, state: &mut State, checks: Vec<Check>) -> Vec<usize> {
        let mut changed = Vec::new();
        for check in checks {
            match check {
                Check::Login { node, login } => self.log_in(&mut state.senses, node, login),
                Check::Leave { node, login, well } => {
                    if let Some(mut over) = state.senses.logins.remove(&login) {
                        over.well = well;
                    }
                    if state.senses.sessions[node].take_if(|it| *it == login).is_some() {
                        let wait = state.config.monitor.timeout;
                        let error = format!("no answer within {wait:?}");
                        if let Some(standing) = standing(state, node) {
                            standing.role = pgring_logic::topology::Role::Unknown;
                            standing.error = Some(error);
                        }
                        changed.push(node);
                    }
                }
                Check::Keep { node, login } => state.senses.sessions[node] = Some(login),
                Check::Ping { session, .. } => {
                    if let Some(login) = state.senses.logins.get(&session) {
                        // One that is over says so by itself.
                        let _over = login.pings.send(());
                    }
                }
                Check::Changed(change) => {
                    changed.push(change.node);
                    note(state, change);
                }
            }
        }
        changed
    }

    fn log_in(&self, senses: &mut Senses, node: usize, login: u64) {
        let Some(target) = senses.targets.get(node).map(Rc::clone) else { return };
        let (pings, orders) = unbounded_channel();
        let (pace, out) = (self.pace.subscribe(), self.news.clone());
        let lines = Lines { pings: orders, pace, out };
        let task = tokio::task::spawn_local(async move { target.check(login, lines).await });
        senses.logins.insert(login, Login { task, pings, socket: None, well: false });
    }

    /// Lanes hear of new verdicts, whether they route or not.
    fn publish_verdicts(&self, changed: &[usize]) {
        if changed.is_empty() {
            return;
        }
        self.tell_lanes();
        self.hear_verdicts(changed);
    }

    /// The kernel has something to tell of a connection, of whomever.
    fn hear_kernel(&self, event: &Event) {
        let now = clock::now();
        let mut state = self.state.borrow_mut();
        let mut checks = Vec::new();
        for place in state.senses.places(event.node) {
            if let Some(standing) = standing(&mut state, place) {
                count(&mut standing.sockets, event);
            }
            if hints(event) {
                state.senses.judge.see(now, place, Sight::Hint, &mut checks);
            }
        }
        let changed = self.carry_out(&mut state, checks);
        drop(state);
        self.publish_verdicts(&changed);
    }

    /// Listens to the probe for as long as the process lives.
    pub(super) async fn listen(self: Rc<Self>, probe: Probe) {
        let mut ready: AsyncFd<Probe> = match probe.awaited() {
            Ok(ready) => ready,
            Err(why) => return tracing::warn!("events of the kernel are not heard: {why}"),
        };
        loop {
            let Ok(mut guard) = ready.readable_mut().await else { return };
            while let Some(event) = guard.get_inner_mut().event() {
                self.hear_kernel(&event);
            }
            guard.clear_ready();
        }
    }

    /// A standby has said whether it hears its primary.
    pub(super) fn witness(&self, by: usize, primary: &str, heard: Option<Duration>) {
        let now = clock::now();
        let mut state = self.state.borrow_mut();
        let Some(standby) = state.senses.targets.get(by).map(Rc::clone) else { return };
        let Some(place) = state.senses.place_of(&standby.cluster, primary) else { return };
        let sight = Sight::Witness { by: Arc::clone(&standby.node), heard };
        let mut checks = Vec::new();
        state.senses.judge.see(now, place, sight, &mut checks);
        let changed = self.carry_out(&mut state, checks);
        drop(state);
        self.publish_verdicts(&changed);
    }

    /// A node has said whether it writes: if so it is written on, where the operator wants that.
    pub(super) fn set_primary(&self, place: usize, primary: bool) {
        let mut state = self.state.borrow_mut();
        let senses = &mut state.senses;
        senses.judge.set_primary(place, primary);
        let beats = senses.beats.get(&place).is_some_and(|beat| !beat.0.is_finished());
        let Some(target) = senses.targets.get(place) else { return };
        if !primary {
            senses.beats.remove(&place);
        } else if !beats && !target.settings.heartbeat.is_zero() {
            let (target, out) = (Rc::clone(target), self.news.clone());
            let task = async move { heartbeat::beat(&target, &out).await };
            senses.beats.insert(place, Beat(tokio::task::spawn_local(task)));
        }
    }
}

/// The standing of a node; there is one from the first look at it on.
fn standing(state: &mut State, place: usize) -> Option<&mut Standing> {
    let target = state.senses.target(place)?;
    let (cluster, node) = (Arc::clone(&target.cluster), Arc::clone(&target.node));
    Some(state.topology.clusters.entry(cluster).or_default().entry(node).or_default())
}

/// Why a node does not tell where it stands, if that is what was seen.
fn trouble(senses: &Senses, place: usize, sight: &Sight) -> Option<String> {
    let session = senses.sessions.get(place).copied().flatten();
    match sight {
        Sight::Ended { session: ended, reason, .. } => {
            (session == Some(*ended)).then(|| reason.clone())
        }
        Sight::Failed { why, .. } => session.is_none().then(|| why.to_string()),
        Sight::Connected { .. }
        | Sight::LoggedIn { .. }
        | Sight::Answered { .. }
        | Sight::Link { .. }
        | Sight::Writes
        | Sight::Written
        | Sight::Hint
        | Sight::Witness { .. } => None,
    }
}

/// A new verdict: in the log, in SHOW EVENTS, and where the node stands.
fn note(state: &mut State, change: Change) {
    let Change { node, before, health, evidence } = change;
    let Some(target) = state.senses.target(node).map(Rc::clone) else { return };
    let now = clock::now();
    if let Some(standing) = standing(state, node) {
        standing.health = health;
        if !before.verdict.serves() && health.verdict.serves() {
            standing.since = now;
        }
    }
    // Whoever is unwell is a last resort at most; that is no news.
    let steady = before.damped == health.damped || !health.verdict.serves();
    if before.verdict == health.verdict && steady {
        return;
    }
    let (cluster, name) = (&*target.cluster, &*target.node);
    let (was, is) = (before.verdict.name(), health.verdict.name());
    if health.verdict.serves() {
        tracing::info!(cluster, node = name, was, is, evidence, "a node has a new verdict");
    } else {
        tracing::warn!(cluster, node = name, was, is, evidence, "a node has a new verdict");
    }
    let unix = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    state.events.push(NodeEvent {
        unix,
        cluster: Arc::clone(&target.cluster),
        node: Arc::clone(&target.node),
        before: before.verdict,
        verdict: health.verdict,
        evidence,
    });
}
