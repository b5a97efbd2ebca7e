//! The simulated world: virtual time, what is going to happen, and the network.
//!
//! Everything that happens is an entry of one heap, ordered by time and then by the order of
//! scheduling; nothing else moves time. So a seed tells the same story each time it is asked.

use crate::client::Client;
use crate::control::Control;
use crate::dice::Dice;
use crate::driver::Driver;
use crate::link::{End, Link, LinkId, MS, Peer, Time, US, Want};
use crate::node::Node;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::replicas::Replicas;
use pgring_logic::config::PoolMode;
use pgring_logic::id::ConnId;
use pgring_logic::mail::{Entrance, Event, Mail};
use pgring_logic::parcel::Parcel;
use pgring_logic::time::Instant;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A chunk arrives at this end.
    Arrive(LinkId, End),
    /// The end of the stream arrives at this end.
    End(LinkId, End),
    /// This end learns that the connection is broken.
    Break(LinkId, End, &'static str),
    /// A client reaches a lane.
    Accept(usize, LinkId),
    /// A client reaches a lane from another one, with what it said there.
    Seat(usize, LinkId, Entrance, Vec<u8>),
    /// A lane is told something.
    Lane(usize, Event),
    /// A lane's driver looks whether there is something to show.
    Read(usize, ConnId),
    /// A lane's deadline.
    Tick(usize, Time),
    /// A surrendered connection leaves its lane, if it can.
    Settle(usize, ConnId),
    /// A closing connection has had its time to flush.
    Hurry(usize, ConnId),
    /// Is somebody not reading?
    Stall(usize, ConnId),
    /// A parcel arrives with its connection.
    Adopt(usize, LinkId, Box<Parcel>),
    /// A letter arrives at the control thread.
    Control(Box<Mail>),
    /// The control thread's own turn.
    ControlTurn,
    /// A standby replays something.
    Replay(usize),
    /// The monitor asks the nodes.
    Monitor,
    /// They answer: asked when, and how many commits were lost before.
    Answered(Instant, u64),
    /// A node goes on with a connection.
    Node(LinkId),
    /// A client goes on: its number and life.
    Client(usize, u32),
    /// A client sends a cancel request.
    Cancel(usize, u32),
    /// A client reads again.
    Wake(usize, u32),
    /// Something goes wrong somewhere, or somebody at the console does something.
    Chaos,
}

struct Entry {
    time: Time,
    order: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives its greatest first: the earliest is the greatest.
        (other.time, other.order).cmp(&(self.time, self.order))
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) now: Time,
    heap: BinaryHeap<Entry>,
    order: u64,
    pub(crate) events: u64,
    pub(crate) dice: Dice,
    pub(crate) plan: Plan,
    pub(crate) links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    pub(crate) lanes: Vec<Driver>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) control: Control,
    pub(crate) oracle: Oracle,
    pub(crate) replicas: Replicas,
    /// The last arrivals of mail by sender and receiver: letters do not overtake each other.
    posts: BTreeMap<(usize, usize), Time>,
    trace: Option<VecDeque<String>>,
    keep: usize,
    pub(crate) violation: Option<String>,
}

impl World {
    /// A world by this plan. `keep` lines of its story are kept.
    pub(crate) fn new(seed: u64, keep: usize) -> Self {
        let mut dice = Dice::new(seed);
        let mut plan = Plan::new(&mut dice);
        // Drawn apart: the stories that were there before it are told as they were.
        let mut apart = Dice::new(!seed);
        plan.homes = apart.chance(40);
        plan.hasty = apart.chance(30);
        plan.parting = apart.chance(40);
        if apart.chance(40) && plan.mode != PoolMode::Session {
            plan.route(&mut apart);
        }
        let config = plan.config();
        let lanes = (0..plan.lanes).map(|core| Driver::new(core, &config, dice.seed())).collect();
        let nodes = (0..plan.nodes).map(Node::new).collect();
        let clients = (0..plan.clients).map(|_| Client::new(dice.fork(), &plan)).collect();
        let control = Control::new(&config, plan.lanes);
        let oracle = Oracle::new(&plan);
        let mut world = Self {
            now: 0,
            heap: BinaryHeap::new(),
            order: 0,
            events: 0,
            dice,
            plan,
            links: BTreeMap::new(),
            next_link: 0,
            lanes,
            nodes,
            clients,
            control,
            oracle,
            replicas: Replicas::default(),
            posts: BTreeMap::new(),
            trace: (keep > 0).then(VecDeque::new),
            keep,
            violation: None,
        };
        for client in 0..world.plan.clients {
            let when = world.dice.below(world.plan.arrival);
            world.at(when, Happening::Client(client, 0));
        }
        world.at(0, Happening::ControlTurn);
        if world.plan.routed {
            world.replicas_begin();
        }
        let first = world.dice.below(crate::link::SEC);
        world.at(first, Happening::Chaos);
        world
    }

    /// Time as lanes know it.
    pub(crate) fn instant(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// Lets something happen at a time.
    pub(crate) fn at(&mut self, time: Time, happening: Happening) {
        self.order += 1;
        let time = time.max(self.now);
        self.heap.push(Entry { time, order: self.order, happening });
    }

    /// Lets something happen after up to `most`.
    pub(crate) fn soon(&mut self, most: Time, happening: Happening) {
        let delay = self.dice.below(most);
        self.at(self.now + delay, happening);
    }

    /// Posts a letter: it arrives later, but not before an earlier one of the same sender.
    pub(crate) fn post(&mut self, from: usize, to: usize, happening: Happening) {
        let most = self.plan.mail;
        let delay = self.dice.below(most);
        let last = self.posts.entry((from, to)).or_default();
        *last = (*last).max(self.now + delay);
        let when = *last;
        self.at(when, happening);
    }

    /// Notes that a rule was broken; the story ends here.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(|| format!("VIOLATION {what}"));
        if self.violation.is_none() {
            self.violation = Some(what);
        }
    }

    /// Adds a line to the story, if somebody reads it.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            if trace.len() >= self.keep {
                trace.pop_front();
            }
            trace.push_back(format!("{:>6}.{:03} ms  {}", now / MS, now % MS / US, line()));
        }
    }

    /// The kept lines.
    pub(crate) fn story(&self) -> Vec<String> {
        self.trace.iter().flatten().cloned().collect()
    }

    /// The next thing happens. False: nothing is left, or a rule was broken.
    pub(crate) fn step(&mut self, until: Time) -> bool {
        if self.violation.is_some() || self.heap.peek().is_none_or(|next| next.time > until) {
            return false;
        }
        let Some(entry) = self.heap.pop() else { return false };
        self.now = entry.time;
        self.events += 1;
        match entry.happening {
            Happening::Arrive(link, end) => self.arrive(link, end),
            Happening::End(link, end) => self.ended(link, end),
            Happening::Break(link, end, why) => self.broke(link, end, why),
            Happening::Accept(core, link) => self.accept(core, link),
            Happening::Seat(core, link, entrance, said) => self.seat(core, link, entrance, said),
            Happening::Lane(core, event) => self.tell_lane(core, event),
            Happening::Read(core, conn) => self.read(core, conn),
            Happening::Tick(core, time) => self.tick(core, time),
            Happening::Settle(core, conn) => self.settle(core, conn),
            Happening::Hurry(core, conn) => self.hurry(core, conn),
            Happening::Stall(core, conn) => self.stall(core, conn),
            Happening::Adopt(core, link, parcel) => self.adopt(core, link, *parcel),
            Happening::Control(mail) => self.control_hears(*mail),
            Happening::ControlTurn => self.control_turn(),
            Happening::Replay(node) => self.replay(node),
            Happening::Monitor => self.monitor(),
            Happening::Answered(asked, lost) => self.monitor_hears(asked, lost),
            Happening::Node(link) => self.node_step(link),
            Happening::Client(client, life) => self.client_step(client, life),
            Happening::Cancel(client, life) => self.client_cancel(client, life),
            Happening::Wake(client, life) => self.client_wake(client, life),
            Happening::Chaos => self.chaos(),
        }
        self.check();
        self.violation.is_none()
    }

    /// A new connection.
    pub(crate) fn connect(&mut self, peer: Peer) -> LinkId {
        self.next_link += 1;
        self.links.insert(self.next_link, Link::new(peer));
        self.next_link
    }

    /// Queues bytes for the other end of a connection.
    pub(crate) fn send(&mut self, link: LinkId, to: End, bytes: &[u8]) {
        if let Some(found) = self.links.get_mut(&link) {
            found.to(to).unsent.extend(bytes);
        }
        self.pump(link, to);
    }

    /// Moves what can move towards `to`.
    pub(crate) fn pump(&mut self, link: LinkId, to: End) {
        let Some(found) = self.links.get_mut(&link) else { return };
        if found.silent {
            return;
        }
        let wants = found.to(to).pump(self.now, &self.plan.weather, &mut self.dice);
        let moved = !wants.is_empty();
        for want in wants {
            match want {
                Want::Arrive(time) => self.at(time, Happening::Arrive(link, to)),
                Want::End(time) => self.at(time, Happening::End(link, to)),
            }
        }
        if to == End::Far && moved {
            self.sent(link);
        }
    }

    /// `by` closes its end: what it wrote still arrives, what it has not read breaks the
    /// connection for the other side.
    pub(crate) fn close(&mut self, link: LinkId, by: End, abrupt: bool) {
        let Some(found) = self.links.get_mut(&link) else { return };
        let (other, closed) = match by {
            End::Near => (End::Far, &mut found.near_closed),
            End::Far => (End::Near, &mut found.far_closed),
        };
        if *closed {
            return;
        }
        *closed = true;
        let reset = abrupt || by == End::Far && !found.to(by).readable.is_empty();
        found.to(by).lose();
        if reset {
            found.to(other).unsent.clear();
            let most = self.plan.weather.latency;
            self.soon(most, Happening::Break(link, other, "connection reset by peer"));
        } else {
            found.to(other).finished = true;
            self.pump(link, other);
        }
        // A side that still writes into a closed socket stays blocked by nothing.
        self.pump(link, by);
        self.forget(link);
    }

    /// The far end will send no more; it goes on reading.
    pub(crate) fn finish(&mut self, link: LinkId) {
        if let Some(found) = self.links.get_mut(&link) {
            found.to_near.finished = true;
        }
        self.pump(link, End::Near);
    }

    /// Drops a connection that nobody holds any more.
    pub(crate) fn forget(&mut self, link: LinkId) {
        if self.links.get(&link).is_some_and(|link| link.near_closed && link.far_closed) {
            self.links.remove(&link);
        }
    }

    fn arrive(&mut self, link: LinkId, end: End) {
        let Some(found) = self.links.get_mut(&link) else { return };
        if found.silent {
            return;
        }
        found.to(end).arrive();
        if found.to(end).void {
            self.pump(link, end);
            return;
        }
        self.look(link, end);
    }

    fn ended(&mut self, link: LinkId, end: End) {
        let Some(found) = self.links.get_mut(&link) else { return };
        if found.silent {
            return;
        }
        found.to(end).ended = true;
        self.look(link, end);
    }

    /// Somebody has something to read.
    fn look(&mut self, link: LinkId, end: End) {
        let Some(found) = self.links.get(&link) else { return };
        match (end, found.peer) {
            (End::Near, _) => {
                if let Some((core, conn)) = found.near {
                    self.read(core, conn);
                }
            }
            (End::Far, Peer::Node(node)) => self.node_read(node, link),
            (End::Far, Peer::Client(client)) => self.client_read(client, link),
            (End::Far, Peer::Canceller) => {
                if found.to_far.ended {
                    self.close(link, End::Far, false);
                }
            }
        }
    }

    fn broke(&mut self, link: LinkId, end: End, why: &'static str) {
        let Some(found) = self.links.get_mut(&link) else { return };
        found.to(end).lose();
        match (end, found.peer) {
            (End::Near, _) => {
                found.broken = true;
                if let Some((core, conn)) = found.near {
                    self.failed(core, conn, why);
                }
            }
            (End::Far, Peer::Node(node)) => self.node_lost(node, link),
            (End::Far, Peer::Client(client)) => self.client_lost(client, link),
            (End::Far, Peer::Canceller) => self.close(link, End::Far, true),
        }
    }
}
