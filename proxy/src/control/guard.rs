//! Drives the failover machine of each cluster whose primary pgring decides on: brings it what was
//! seen, and does what it asks for.

pub(super) mod contact;

use crate::clock;
use crate::control::Control;
use crate::control::hooks::{self, Told};
use crate::control::store::Store;
use contact::Contacts;
use pgring_logic::action::Level;
use pgring_logic::config::{Cluster, Config, Monitor};
use pgring_logic::failover::Failover;
use pgring_logic::failover::act::{Act, Hook};
use pgring_logic::failover::verb::{Reply, Verb};
use pgring_logic::failover::words::{Action, At, Event};
use pgring_logic::mail::{Mail, Order};
use pgring_logic::record::{Record, Revision};
use pgring_logic::topology::gate::Writes;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Lanes that have not let go of a primary by then are told again: one may have fallen over.
const VACATE_AGAIN: Duration = Duration::from_millis(500);
/// A store that cannot be opened or read is tried again after this.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Lanes hear again who may be written to: one may have fallen over and know nothing.
const REPEAT: Duration = Duration::from_millis(500);

/// Something has happened to a cluster.
#[derive(Debug)]
pub(super) struct Deed {
    /// Tells what was begun before a reload.
    watch: u64,
    cluster: Arc<str>,
    event: Event,
}

/// Where it is told.
pub(super) type Deeds = UnboundedSender<Deed>;

/// A cluster whose primary pgring decides on.
#[derive(Debug)]
pub(super) struct Guard {
    watch: u64,
    cluster: Arc<Cluster>,
    monitor: Monitor,
    machine: Failover,
    store: Option<Store>,
    contacts: Contacts,
    /// Operators who wait for an answer.
    tickets: BTreeMap<u64, oneshot::Sender<Reply>>,
    told: pgring_logic::time::Instant,
    begun: bool,
}

impl Guard {
    /// Whether it is this cluster that it guards, with all that matters to it.
    fn is_same(&self, cluster: &Arc<Cluster>, monitor: &Monitor) -> bool {
        let own = &self.cluster;
        own.nodes == cluster.nodes && own.failover == cluster.failover && self.monitor == *monitor
    }

    /// What a command is told of a node.
    fn told(&self, node: usize) -> Told {
        let record = self.machine.record();
        let candidate = !record.candidate.is_empty();
        let primary = if candidate { &record.candidate } else { &record.primary };
        let address = |name: &str| {
            let found = self.cluster.nodes.iter().find(|node| node.name == name);
            found.map(|node| node.address.clone()).unwrap_or_default()
        };
        let name = self.cluster.nodes.get(node).map(|node| node.name.clone()).unwrap_or_default();
        let (conninfo, slot) = self.machine.source_of(node);
        Told {
            cluster: self.cluster.name.clone(),
            address: address(&name),
            node: name,
            epoch: record.epoch,
            primary: primary.clone(),
            primary_address: address(primary),
            conninfo,
            slot,
        }
    }
}

/// All of them, by name.
#[derive(Debug, Default)]
pub(super) struct Guards {
    by_cluster: BTreeMap<Arc<str>, Guard>,
    watch: u64,
    tickets: u64,
}

impl Guards {
    /// The machines, in the order of their names.
    pub(super) fn machines(&self) -> Vec<&Failover> {
        self.by_cluster.values().map(|guard| &guard.machine).collect()
    }
}

fn at() -> At {
    let unix = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    At { now: clock::now(), unix: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX) }
}

impl Control {
    /// Guards the clusters of the config that are to be guarded, and no others. A cluster that is
    /// as it was goes on undisturbed.
    pub(super) fn guard(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let config = Arc::clone(&state.config);
        let managed = config.clusters.iter().filter(|it| it.failover.is_some());
        let mut before = std::mem::take(&mut state.guards.by_cluster);
        for cluster in managed {
            let name: Arc<str> = cluster.name.as_str().into();
            let old = before.remove(&name);
            match old {
                Some(old) if old.is_same(cluster, &config.monitor) => {
                    state.guards.by_cluster.insert(name, old);
                }
                old => {
                    state.guards.watch += 1;
                    let watch = state.guards.watch;
                    let guard = self.begin_guard(&config, cluster, watch, old);
                    state.guards.by_cluster.insert(name, guard);
                }
            }
        }
        for name in before.keys() {
            state.topology.gates.remove(name);
        }
        let fresh = state.guards.by_cluster.values().filter(|guard| !guard.begun);
        let fresh: Vec<_> = fresh.map(|guard| (guard.watch, Arc::clone(&guard.cluster))).collect();
        for guard in state.guards.by_cluster.values_mut() {
            guard.begun = true;
        }
        // Stores that are not used any more are let go of before another one takes them.
        drop(before);
        drop(state);
        for (watch, cluster) in fresh {
            tokio::task::spawn_local(Rc::clone(self).open_store(watch, cluster));
        }
    }

    fn begin_guard(
        &self,
        config: &Config,
        cluster: &Arc<Cluster>,
        watch: u64,
        old: Option<Guard>,
    ) -> Guard {
        let settings = cluster.failover.clone().unwrap_or_default();
        let gate = old.as_ref().map(|old| old.machine.gate().clone()).unwrap_or_default();
        let machine = Failover::new(at(), cluster, &settings, (settings.witness_timeout, gate));
        let same = |old: &Guard| {
            old.cluster.failover.as_ref().is_some_and(|it| it.state_file == settings.state_file)
        };
        let store = old.filter(same).and_then(|old| old.store);
        let name: Arc<str> = cluster.name.as_str().into();
        let tell: contact::Tell = {
            let (deeds, name) = (self.deeds.clone(), Arc::clone(&name));
            Rc::new(move |number, done| {
                let event = Event::Done { number, done };
                // Nobody listens when the process ends.
                let _ends = deeds.send(Deed { watch, cluster: Arc::clone(&name), event });
            })
        };
        let contacts = Contacts::new(config, cluster, &self.dialer, &tell);
        let (cluster, told) = (Arc::clone(cluster), clock::now());
        let monitor = config.monitor.clone();
        let tickets = BTreeMap::new();
        Guard { watch, cluster, monitor, machine, store, contacts, tickets, told, begun: false }
    }

    /// Takes the store of a cluster, again and again as long as somebody else has it, and reads it.
    async fn open_store(self: Rc<Self>, watch: u64, cluster: Arc<Cluster>) {
        let Some(settings) = cluster.failover.clone() else { return };
        let name: Arc<str> = cluster.name.as_str().into();
        let mut said = String::new();
        while self.has_guard(&name, watch) {
            if self.store(&name).is_some() {
                return self.load(name).await;
            }
            let path = settings.state_file.clone();
            let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
            match opened.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(store) => {
                    let mut state = self.state.borrow_mut();
                    let guard = state.guards.by_cluster.get_mut(&name);
                    if let Some(guard) = guard.filter(|guard| guard.watch == watch) {
                        guard.store = Some(store);
                    }
                }
                Err(why) => {
                    if said != why {
                        tracing::error!(cluster = &*name, "nobody is written to: {why}");
                        self.deed(&name, watch, Event::Unread(why.clone()));
                        said = why;
                    }
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }

    fn has_guard(&self, cluster: &str, watch: u64) -> bool {
        let state = self.state.borrow();
        state.guards.by_cluster.get(cluster).is_some_and(|guard| guard.watch == watch)
    }

    fn store(&self, cluster: &str) -> Option<Store> {
        self.state.borrow().guards.by_cluster.get(cluster)?.store.clone()
    }

    fn deed(self: &Rc<Self>, cluster: &Arc<str>, watch: u64, event: Event) {
        self.happen(Deed { watch, cluster: Arc::clone(cluster), event });
    }

    fn watch_of(&self, cluster: &str) -> u64 {
        let state = self.state.borrow();
        state.guards.by_cluster.get(cluster).map_or(0, |guard| guard.watch)
    }

    /// Reads the record; what is none is left alone, and nobody is written to.
    async fn load(self: Rc<Self>, cluster: Arc<str>) {
        let watch = self.watch_of(&cluster);
        let mut said = String::new();
        while self.has_guard(&cluster, watch) {
            let Some(store) = self.store(&cluster) else { return };
            let read = store.read().await.and_then(|kept| match kept {
                None => Ok((0, None)),
                Some((revision, text)) => {
                    let record = Record::read(&text, &cluster).map_err(|why| why.to_string())?;
                    Ok((revision, Some(Box::new(record))))
                }
            });
            match read {
                Ok((revision, record)) => {
                    return self.deed(&cluster, watch, Event::Loaded(revision, record));
                }
                Err(why) => {
                    if said != why {
                        tracing::error!(cluster = &*cluster, "the record cannot be read: {why}");
                        self.deed(&cluster, watch, Event::Unread(why.clone()));
                        said = why;
                    }
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }

    async fn keep(self: Rc<Self>, cluster: Arc<str>, seen: Revision, record: Box<Record>) {
        let watch = self.watch_of(&cluster);
        let Some(store) = self.store(&cluster) else { return };
        let event = match record.write() {
            Ok(text) => match store.write(seen, &text).await {
                Ok(revision) => Event::Saved(revision),
                Err(why) => Event::Unsaved(why.to_string()),
            },
            Err(why) => Event::Unsaved(why.to_string()),
        };
        self.deed(&cluster, watch, event);
    }

    /// Lets all lanes let go of the cluster's primaries.
    async fn vacate(self: Rc<Self>, cluster: Arc<str>, epoch: u64) {
        let watch = self.watch_of(&cluster);
        let order = Order::Vacate(cluster.to_string(), epoch);
        while self.has_guard(&cluster, watch) {
            let (number, done) = self.order(&order, self.cores().collect());
            match tokio::time::timeout(VACATE_AGAIN, done).await {
                Ok(Ok(errors)) if errors.iter().all(Option::is_none) => {
                    return self.deed(&cluster, watch, Event::Vacated(epoch));
                }
                // It is no longer wanted; or a lane has not heard yet what is.
                Ok(_) if !self.is_shut(&cluster, epoch) => return,
                Ok(_) => tokio::time::sleep(VACATE_AGAIN).await,
                Err(_late) => drop(self.state.borrow_mut().orders.close(number)),
            }
        }
    }

    /// Whether the gate is still the one behind which lanes are to let go.
    fn is_shut(&self, cluster: &str, epoch: u64) -> bool {
        let state = self.state.borrow();
        let gate = state.guards.by_cluster.get(cluster).map(|guard| guard.machine.gate());
        gate.is_some_and(|gate| gate.epoch == epoch && !matches!(gate.writes, Writes::Open(_)))
    }

    /// Runs a command of the operator.
    fn command(self: &Rc<Self>, cluster: &Arc<str>, number: u64, node: usize, hook: Hook) {
        let state = self.state.borrow();
        let Some(guard) = state.guards.by_cluster.get(cluster) else { return };
        let settings = guard.cluster.failover.clone().unwrap_or_default();
        let told = guard.told(node);
        let watch = guard.watch;
        drop(state);
        let (control, cluster) = (Rc::clone(self), Arc::clone(cluster));
        tokio::task::spawn_local(async move {
            let command = match hook {
                Hook::Fence => &settings.fence_command,
                Hook::Stop => &settings.stop_command,
                Hook::Rejoin => &settings.rejoin_command,
            };
            let (name, node) = (hook.name(), &*told.node);
            tracing::warn!(cluster = &*cluster, node, "{name} is run");
            let done = hooks::run(hook, command, &told, settings.command_timeout).await;
            tracing::info!(cluster = &*cluster, node, ?done, "{name} has ended");
            control.deed(&cluster, watch, Event::Done { number, done });
        });
    }

    /// What an operator wants; the answer comes when it is done.
    pub(super) async fn ask_guard(
        self: &Rc<Self>,
        cluster: &Arc<str>,
        user: &Arc<str>,
        verb: Verb,
    ) -> Reply {
        let (answer, reply) = oneshot::channel();
        let watch = self.watch_of(cluster);
        let ticket = self.take_ticket(cluster, answer);
        self.deed(cluster, watch, Event::Verb { ticket, user: Arc::clone(user), verb });
        reply.await.unwrap_or_else(|_| Err("the configuration has changed meanwhile".to_owned()))
    }

    fn take_ticket(&self, cluster: &str, answer: oneshot::Sender<Reply>) -> u64 {
        let mut state = self.state.borrow_mut();
        state.guards.tickets += 1;
        let ticket = state.guards.tickets;
        if let Some(guard) = state.guards.by_cluster.get_mut(cluster) {
            guard.tickets.insert(ticket, answer);
        }
        ticket
    }

    /// Something has happened to a cluster.
    pub(super) fn happen(self: &Rc<Self>, deed: Deed) {
        let mut out = Vec::new();
        let mut state = self.state.borrow_mut();
        let Some(guard) = state.guards.by_cluster.get_mut(&deed.cluster) else { return };
        if guard.watch != deed.watch {
            return;
        }
        guard.machine.handle(at(), deed.event, &mut out);
        drop(state);
        self.carry_on(&deed.cluster, out);
    }

    /// Time has passed.
    pub(super) fn watch_over(self: &Rc<Self>) {
        let names: Vec<_> = self.state.borrow().guards.by_cluster.keys().cloned().collect();
        let mut repeat = false;
        for name in names {
            let mut out = Vec::new();
            let mut state = self.state.borrow_mut();
            let Some(guard) = state.guards.by_cluster.get_mut(&name) else { continue };
            guard.machine.tick(at(), &mut out);
            if clock::now().since(guard.told) >= REPEAT {
                guard.told = clock::now();
                repeat = true;
            }
            drop(state);
            self.carry_on(&name, out);
        }
        if repeat {
            self.tell_lanes();
        }
    }

    /// Verdicts have changed, of nodes at these places among all that are watched.
    pub(super) fn hear_verdicts(&self, places: &[usize]) {
        let state = self.state.borrow();
        for place in places {
            let Some(target) = state.senses.target(*place) else { continue };
            let Some(guard) = state.guards.by_cluster.get(&target.cluster) else { continue };
            let mut nodes = guard.cluster.nodes.iter();
            let Some(node) = nodes.position(|node| *node.name == *target.node) else { continue };
            let standings = state.topology.clusters.get(&target.cluster);
            let standing = standings.and_then(|nodes| nodes.get(&target.node));
            let health = standing.map(|standing| standing.health).unwrap_or_default();
            let (watch, cluster) = (guard.watch, Arc::clone(&target.cluster));
            // The other end is this process' own loop.
            let _ends =
                self.deeds.send(Deed { watch, cluster, event: Event::Verdict { node, health } });
        }
    }

    /// Does what a machine asks for.
    fn carry_on(self: &Rc<Self>, cluster: &Arc<str>, actions: Vec<Action>) {
        for action in actions {
            let (control, name) = (Rc::clone(self), Arc::clone(cluster));
            match action {
                Action::Load => drop(tokio::task::spawn_local(control.load(name))),
                Action::Save(seen, record) => {
                    drop(tokio::task::spawn_local(control.keep(name, seen, record)));
                }
                Action::Gate(gate) => {
                    self.state.borrow_mut().topology.gates.insert(name, gate);
                    self.tell_lanes();
                }
                Action::Vacate(epoch) => {
                    drop(tokio::task::spawn_local(control.vacate(name, epoch)));
                }
                Action::Act { number, node, act: Act::Command(hook) } => {
                    self.command(cluster, number, node, hook);
                }
                Action::Act { number, node, act } => {
                    let state = self.state.borrow();
                    if let Some(guard) = state.guards.by_cluster.get(cluster) {
                        guard.contacts.ask(node, number, act);
                    }
                }
                Action::Reply(ticket, reply) => {
                    let mut state = self.state.borrow_mut();
                    let guard = state.guards.by_cluster.get_mut(cluster);
                    if let Some(ticket) = guard.and_then(|guard| guard.tickets.remove(&ticket)) {
                        // Who asked may be gone.
                        let _gone = ticket.send(reply);
                    }
                }
                Action::Note(Level::Debug, text) => tracing::debug!("{text}"),
                Action::Note(Level::Info, text) => tracing::info!("{text}"),
                Action::Note(Level::Warn, text) => tracing::warn!("{text}"),
                Action::Note(Level::Error, text) => tracing::error!("{text}"),
            }
        }
    }

    /// All lanes hear who may be written to.
    pub(super) fn tell_lanes(&self) {
        let topology = Arc::new(self.state.borrow().topology.clone());
        self.sighted.notify_waiters();
        for core in self.cores() {
            self.post(core, Mail::Topology(Arc::clone(&topology)));
        }
    }
}
