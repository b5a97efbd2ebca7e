//! The world: virtual time, what is on its way, and pgring with its store.
//!
//! Party 0 is pgring, the others are nodes. What is sent between two of them arrives in order; what
//! is sent while nothing gets through arrives when the network is whole again, if anybody still
//! wants it.

use crate::config::{Cluster, Failover as Settings};
use crate::dice::Chance;
use crate::failover::act::{Act, Done, Hook};
use crate::failover::sim::faults::Fault;
use crate::failover::sim::lanes::Lane;
use crate::failover::sim::node::{Item, Pg};
use crate::failover::sim::oracle::Oracle;
use crate::failover::{Action, At, Event, Failover};
use crate::record::{Record, Revision};
use crate::time::{Duration, Instant};
use crate::topology::gate::Gate;
use crate::topology::verdict::Verdict;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Microseconds since the start.
pub(super) type Us = u64;
pub(super) const MS: Us = 1_000;
pub(super) const S: Us = 1_000_000;
/// When the world begins, for people.
const UNIX: u64 = 1_790_000_000_000_000;
/// What is older is not wanted any more when it arrives.
const STALE: Us = 5 * S;

pub(super) fn micros(duration: Duration) -> Us {
    Us::try_from(duration.as_micros()).unwrap_or(Us::MAX)
}

/// What goes from one party to another.
#[derive(Clone, Debug)]
pub(super) enum Msg {
    Act { run: u32, number: u64, act: Act },
    Done { run: u32, number: u64, done: Done },
    Commit { lane: usize, conn: u64, id: u32 },
    Ack { lane: usize, conn: u64, id: u32 },
    Refused { lane: usize, conn: u64 },
    Reset { lane: usize, conn: u64 },
    Wal { stream: u64, from: usize, items: Vec<Item>, history: Vec<(u32, usize)> },
    Flushed { stream: u64, len: usize },
}

/// What a lane hears from the machine.
#[derive(Clone, Debug)]
pub(super) enum ToLane {
    Gate(Gate),
    Vacate(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Ev {
    Tick,
    Arrive {
        from: usize,
        to: usize,
        sent: Us,
        msg: Msg,
    },
    /// An act on a node ends.
    ActEnds {
        node: usize,
        boot: u32,
        run: u32,
        number: u64,
        act: Act,
    },
    ActLate {
        run: u32,
        number: u64,
    },
    /// The receiver of a frozen node is gone.
    StopStream {
        node: usize,
        boot: u32,
    },
    Reload {
        node: usize,
        boot: u32,
    },
    Hook {
        run: u32,
        number: u64,
        node: usize,
        hook: Hook,
        to: usize,
        step: u32,
    },
    Ring {
        run: u32,
        event: Box<Event>,
    },
    StoreLoad {
        run: u32,
    },
    StoreSave {
        run: u32,
        revision: Revision,
        record: Box<Record>,
    },
    Lane {
        run: u32,
        lane: usize,
        say: ToLane,
    },
    Client(usize),
    Direct,
    Fault(Fault),
    PgringStarts,
    PgringWakes,
}

/// How the store fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Disk {
    Good,
    Refuses,
    /// It says it has not, and it has.
    Lies,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Us,
    pub(super) chance: Chance,
    queue: BinaryHeap<Reverse<(Us, u64)>>,
    events: BTreeMap<u64, Ev>,
    order: u64,
    /// From, to: whether it gets through, when the last arrives, and what waits.
    pub(super) reach: Vec<Vec<bool>>,
    last: Vec<Vec<Us>>,
    pub(super) held: Vec<(usize, usize, Us, Msg)>,
    pub(super) nodes: Vec<Pg>,
    pub(super) names: Vec<String>,
    /// What came to a node that stood still.
    pub(super) backlog: Vec<(usize, Ev)>,
    pub(super) cluster: Cluster,
    pub(super) settings: Arc<Settings>,
    pub(super) direct: bool,
    // pgring
    pub(super) run: u32,
    pub(super) alive: bool,
    pub(super) paused: bool,
    pub(super) asleep: Vec<Ev>,
    pub(super) machine: Failover,
    pub(super) lanes: Vec<Lane>,
    pub(super) acts: BTreeMap<u64, usize>,
    pub(super) verdicts: Vec<Verdict>,
    /// Since when a node is as it is, and what is wrongly believed of it until when.
    pub(super) condition: Vec<(u8, Us, Us)>,
    pub(super) fake: Vec<Option<(Verdict, Us)>>,
    pub(super) store: (Revision, Option<Record>),
    pub(super) disk: Disk,
    pub(super) clock: i64,
    // Others
    pub(super) ids: u32,
    pub(super) streams: u64,
    pub(super) tickets: u64,
    pub(super) ambush: Option<(u32, Fault)>,
    pub(super) healed: Option<Us>,
    pub(super) operator_next: Us,
    pub(super) oracle: Oracle,
    pub(super) story: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(
        seed: u64,
        chance: Chance,
        (cluster, settings): (Cluster, Arc<Settings>),
        (lanes, direct, tell): (usize, bool, bool),
    ) -> Self {
        let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let count = names.len();
        let at = At { now: Instant::START, unix: UNIX };
        let silence = Duration::from_millis(1_200);
        let machine = Failover::new(at, &cluster, &settings, (silence, Gate::default()));
        let mut nodes: Vec<Pg> = names.iter().cloned().map(Pg::new).collect();
        nodes[0].recovery = false;
        for node in &mut nodes[1..] {
            node.source = Some(0);
            node.conninfo = format!("user=repl host=pg0 port=5432 application_name={}", node.name);
        }
        Self {
            seed,
            now: 0,
            chance,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            order: 0,
            reach: vec![vec![true; count + 1]; count + 1],
            last: vec![vec![0; count + 1]; count + 1],
            held: Vec::new(),
            nodes,
            names,
            backlog: Vec::new(),
            cluster,
            settings,
            direct,
            run: 1,
            alive: true,
            paused: false,
            asleep: Vec::new(),
            machine,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            acts: BTreeMap::new(),
            verdicts: vec![Verdict::Unknown; count],
            condition: vec![(0, 0, 0); count],
            fake: vec![None; count],
            store: (0, None),
            disk: Disk::Good,
            clock: 0,
            ids: 1,
            streams: 0,
            tickets: 0,
            ambush: None,
            healed: None,
            operator_next: 0,
            oracle: Oracle::default(),
            story: tell.then(Vec::new),
        }
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let line = format!("{:>6} ms  {}", self.now / MS, line(self));
            self.story.get_or_insert_default().push(line);
        }
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        u64::from(self.chance.below(u32::try_from(limit).unwrap_or(u32::MAX)))
    }

    pub(super) fn between(&mut self, low: Us, high: Us) -> Us {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn later(&mut self, after: Us, event: Ev) {
        self.order += 1;
        self.queue.push(Reverse((self.now + after, self.order)));
        self.events.insert(self.order, event);
    }

    pub(super) fn next(&mut self) -> Option<Ev> {
        let Reverse((when, order)) = self.queue.pop()?;
        self.now = self.now.max(when);
        self.events.remove(&order)
    }

    pub(super) fn is_open(&self, one: usize, two: usize) -> bool {
        self.reach[one][two] && self.reach[two][one]
    }

    pub(super) fn send(&mut self, from: usize, to: usize, msg: Msg) {
        if !self.reach[from][to] {
            self.held.push((from, to, self.now, msg));
            return;
        }
        let slow = if self.percent(3) { 80 * MS } else { 2 * MS };
        let delay = self.between(100, slow);
        let when = (self.now + delay).max(self.last[from][to] + 1);
        self.last[from][to] = when;
        let sent = self.now;
        self.later(when - self.now, Ev::Arrive { from, to, sent, msg });
    }

    /// The network is whole again between these: what waited comes, if somebody still wants it.
    pub(super) fn open(&mut self, from: usize, to: usize) {
        self.reach[from][to] = true;
        let held = std::mem::take(&mut self.held);
        for (one, two, when, msg) in held {
            if (one, two) != (from, to) {
                self.held.push((one, two, when, msg));
            } else if self.now - when < STALE || !matches!(msg, Msg::Act { .. }) {
                self.send(one, two, msg);
            }
        }
    }

    pub(super) fn arrive(&mut self, from: usize, to: usize, sent: Us, msg: Msg) {
        let Some(node) = to.checked_sub(1) else {
            return match msg {
                Msg::Done { run, number, done } => self.act_done(run, number, done),
                Msg::Ack { lane, conn, id } => self.lane_ack(lane, conn, id),
                Msg::Refused { lane, conn } => self.lane_refused(lane, conn),
                Msg::Reset { lane, conn } => self.lane_close(lane, Some(conn)),
                Msg::Act { .. } | Msg::Commit { .. } | Msg::Wal { .. } | Msg::Flushed { .. } => {}
            };
        };
        if !self.nodes[node].host {
            return;
        }
        if self.nodes[node].frozen {
            self.backlog.push((node, Ev::Arrive { from, to, sent, msg }));
            return;
        }
        match msg {
            Msg::Act { run, number, act } => {
                if self.now - sent < STALE {
                    self.act_begins(node, run, number, act);
                }
            }
            Msg::Commit { lane, conn, id } => self.commit(node, lane, conn, id),
            Msg::Wal { stream, from, items, history } => {
                self.wal(node, stream, from, &items, &history);
            }
            Msg::Flushed { stream, len } => self.flushed(node, from - 1, stream, len),
            Msg::Done { .. } | Msg::Ack { .. } | Msg::Refused { .. } | Msg::Reset { .. } => {}
        }
    }

    // --- pgring

    pub(super) fn at(&self) -> At {
        let unix = UNIX.wrapping_add(self.now).wrapping_add_signed(self.clock);
        At { now: Instant::from_nanos(self.now * 1_000), unix }
    }

    /// From the clock on the wall to ours.
    pub(super) fn ours(&self, unix: u64) -> i64 {
        unix.cast_signed() - UNIX.cast_signed() - self.clock
    }

    pub(super) fn hear(&mut self, event: Event) {
        if self.paused {
            let run = self.run;
            return self.asleep.push(Ev::Ring { run, event: Box::new(event) });
        }
        if !self.alive {
            return;
        }
        let mut out = Vec::new();
        let before = Oracle::before(&self.machine);
        self.machine.handle(self.at(), event, &mut out);
        self.perform(out);
        self.watch(&before);
    }

    pub(super) fn tick_machine(&mut self) {
        if !self.alive || self.paused {
            return;
        }
        let mut out = Vec::new();
        let before = Oracle::before(&self.machine);
        self.machine.tick(self.at(), &mut out);
        self.perform(out);
        self.watch(&before);
    }

    pub(super) fn perform(&mut self, out: Vec<Action>) {
        let run = self.run;
        for action in out {
            match action {
                Action::Load => {
                    let after = self.between(MS, 20 * MS);
                    self.later(after, Ev::StoreLoad { run });
                }
                Action::Save(revision, record) => {
                    self.tell(|_| format!("save {} epoch {}", record.state, record.epoch));
                    let after = self.between(MS, 30 * MS);
                    self.later(after, Ev::StoreSave { run, revision, record });
                }
                Action::Gate(gate) => {
                    self.tell(|_| format!("gate {} {:?}", gate.epoch, gate.writes));
                    self.tell_lanes(&ToLane::Gate(gate));
                }
                Action::Vacate(epoch) => self.tell_lanes(&ToLane::Vacate(epoch)),
                Action::Act { number, node, act } => self.do_act(number, node, act),
                Action::Reply(ticket, reply) => self.replied(ticket, &reply),
                Action::Note(level, text) => self.tell(|_| format!("{level:?}: {text}")),
            }
        }
    }

    fn do_act(&mut self, number: u64, node: usize, act: Act) {
        let run = self.run;
        self.check_act(node, &act);
        if act != Act::Look {
            self.tell(|it| format!("act {number} on {}: {act:?}", it.names[node]));
            if let Some((left, fault)) = self.ambush.take()
                && self.machine.record().state != crate::record::State::Normal
            {
                match left {
                    0 => {
                        self.later(0, Ev::Fault(fault));
                        if self.percent(60) {
                            let next = self.any_fault();
                            self.ambush = Some((self.chance.below(10), next));
                        }
                    }
                    _ => self.ambush = Some((left - 1, fault)),
                }
            }
        }
        self.acts.insert(number, node);
        if let Act::Command(hook) = act {
            let to = self.store.1.as_ref().map_or("", |it| &it.primary).to_owned();
            let to = self.names.iter().position(|name| *name == to).unwrap_or(0);
            let after = self.between(50 * MS, 800 * MS);
            return self.later(after, Ev::Hook { run, number, node, hook, to, step: 0 });
        }
        let limit = match &act {
            Act::Look => S,
            Act::Promote(limit) => micros(*limit) + S,
            Act::Freeze
            | Act::Follow { .. }
            | Act::Prepare(_)
            | Act::Slots(_)
            | Act::Advance(_)
            | Act::Sync(_)
            | Act::Canary
            | Act::Checkpoint
            | Act::Kick
            | Act::Unkick
            | Act::Command(_) => 3 * S,
        };
        self.later(limit, Ev::ActLate { run, number });
        self.send(0, node + 1, Msg::Act { run, number, act });
    }

    pub(super) fn act_done(&mut self, run: u32, number: u64, done: Done) {
        if run != self.run || !self.alive {
            return;
        }
        let Some(_node) = self.acts.remove(&number) else { return };
        if let Done::Failed { unknown, reason } = &done {
            self.tell(|_| format!("act {number} failed (unknown: {unknown}): {reason}"));
        }
        self.hear(Event::Done { number, done });
    }

    pub(super) fn load(&mut self, run: u32) {
        if run == self.run {
            let (revision, record) = self.store.clone();
            self.hear(Event::Loaded(revision, record.map(Box::new)));
        }
    }

    pub(super) fn save(&mut self, run: u32, revision: Revision, record: Box<Record>) {
        if run != self.run || !self.alive {
            return;
        }
        let good = revision == self.store.0 && self.disk != Disk::Refuses;
        if good {
            // What was read back is what is meant: the text itself is tried elsewhere.
            let before = self.store.1.take().unwrap_or_default().synchronous;
            self.store = (revision + 1, Some(*record));
            self.check_quorum(&before);
        }
        let event = if good && self.disk == Disk::Good {
            Event::Saved(revision + 1)
        } else {
            Event::Unsaved("disk".to_owned())
        };
        let after = self.between(0, 10 * MS);
        self.later(after, Ev::Ring { run, event: Box::new(event) });
    }
}
