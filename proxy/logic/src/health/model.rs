//! A model of nodes, networks and sockets, in which the machine is tried: every class of fault, at
//! any moment, over links that lose and delay.
//!
//! A connection is two stop-and-wait senders with TCP's timers: each end sends one message, again
//! after 200 ms, 400 ms and so on, until it is acknowledged; kernels acknowledge, processes answer.

use crate::config::Monitor;
use crate::dice::Chance;
use crate::health::{Change, Check, Failure, Judge, Link, Sight, Watched};
use crate::time::{Duration, Instant};
use crate::topology::verdict::{Health, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// How a node's processes are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Process {
    Works,
    /// Nobody listens, and all sessions have ended.
    Gone,
    /// All of it stands still; its kernel does not.
    Frozen,
    /// Only the postmaster does.
    Closed,
    /// Sessions go on; logins are answered with this.
    Says(&'static str),
    /// Sessions have ended, logins are answered so.
    Starts,
    /// Each session is ended at its first question.
    Ends,
}

/// How the way to a node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// In milliseconds, one way: at least, and how much more at most.
    pub(super) delay: (u32, u32),
    /// In a hundred packets.
    pub(super) loss: u32,
    /// Nothing gets through: there, and back.
    pub(super) dark: [bool; 2],
    /// What begins a connection does not.
    pub(super) shut: bool,
}

pub(super) const GOOD: Path = Path { delay: (0, 1), loss: 0, dark: [false; 2], shut: false };
const RTO: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(20);

/// A message that must get through: its number, when it goes out next, and after how long again.
#[derive(Clone, Copy, Debug)]
struct Out {
    number: u64,
    next: Instant,
    rto: Duration,
}

/// One end of a connection.
#[derive(Debug, Default)]
struct End {
    out: Option<Out>,
    sent: u64,
    got: u64,
}

impl End {
    fn send(&mut self, now: Instant) {
        self.sent += 1;
        self.out = Some(Out { number: self.sent, next: now, rto: RTO });
    }
}

#[derive(Debug, Default)]
struct Conn {
    node: usize,
    /// Ours, and the node's.
    ends: [End; 2],
    again: u32,
    round_trip: Duration,
    asked: Instant,
    /// It has become the session.
    kept: bool,
    refused: Option<&'static str>,
    over: bool,
}

/// What a packet carries from one end to the other.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Packet {
    /// The message with this number, and what was got so far.
    Data(u64, u64),
    Ack(u64),
    Reset,
    /// The node's side is over.
    End,
}

#[derive(Debug)]
struct Node {
    process: Process,
    path: Path,
}

/// The world.
pub(super) struct Model {
    pub(super) now: Instant,
    judge: Judge,
    nodes: Vec<Node>,
    conns: BTreeMap<u64, Conn>,
    /// What is on its way: when it comes, a number that keeps the order, whose, to which end.
    packets: BTreeSet<(Instant, u64, u64, usize, Packet)>,
    number: u64,
    logins: u64,
    chance: Chance,
    checks: Vec<Check>,
    pub(super) changes: Vec<(Instant, Change)>,
}

impl Model {
    pub(super) fn new(seed: u64, count: usize) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let watched = |node: usize| Watched {
            name: format!("pg{}", node + 1).as_str().into(),
            primary: node == 0,
        };
        let judge = Judge::new(now, &Monitor::default(), (0..count).map(watched).collect());
        let node = |_| Node { process: Process::Works, path: GOOD };
        Self {
            now,
            judge,
            nodes: (0..count).map(node).collect(),
            conns: BTreeMap::new(),
            packets: BTreeSet::new(),
            number: 0,
            logins: 0,
            chance: Chance::new(seed),
            checks: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn health(&self, node: usize) -> Health {
        self.judge.health(node)
    }

    /// How many logins there were so far.
    pub(super) fn logins(&self) -> u64 {
        self.logins
    }

    pub(super) fn verdict(&self, node: usize) -> Verdict {
        self.judge.health(node).verdict
    }

    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.chance.below(limit)
    }

    pub(super) fn path(&mut self, node: usize, path: Path) {
        self.nodes[node].path = path;
    }

    /// A node's processes do something else from now on.
    pub(super) fn process(&mut self, node: usize, process: Process) {
        self.nodes[node].process = process;
        if matches!(process, Process::Gone | Process::Starts) {
            self.end_sessions(node);
        }
    }

    pub(super) fn end_sessions(&mut self, node: usize) {
        let of = self.conns.iter().filter(|(_, conn)| conn.node == node);
        for id in of.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.post(id, 0, Packet::End);
        }
    }

    /// The clock moves on while we do nothing.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Until the verdict is this one; how long it took.
    pub(super) fn until(&mut self, node: usize, verdict: Verdict, max: Duration) -> Duration {
        let start = self.now;
        while self.verdict(node) != verdict {
            assert!(
                self.now.since(start) < max,
                "pg{} is not {verdict} after {max:?} but {:?}; {:#?}",
                node + 1,
                self.judge.health(node),
                self.changes
            );
            self.step();
        }
        self.now.since(start)
    }

    /// One tick of the machine, and all packets before it.
    fn step(&mut self) {
        let tick = self.now + TICK;
        loop {
            let sender = self.conns.iter().flat_map(|(id, conn)| {
                let outs = conn.ends.iter().enumerate();
                outs.filter_map(|(end, it)| it.out.map(|out| (out.next, *id, end)))
            });
            let sender = sender.min();
            let packet = self.packets.first().map(|first| first.0);
            let next = sender.map(|it| it.0).into_iter().chain(packet).min();
            let Some(next) = next.filter(|next| *next < tick) else { break };
            self.now = self.now.max(next);
            if packet == Some(next) {
                self.deliver();
            } else if let Some((_, id, end)) = sender {
                self.transmit(id, end);
            }
        }
        self.now = self.now.max(tick);
        for (node, login) in self.judge.pending().collect::<Vec<_>>() {
            let Some(conn) = self.conns.get(&login) else { continue };
            let ours = &conn.ends[0];
            let link = Link {
                stuck: ours.out.is_some(),
                progress: ours.sent - u64::from(ours.out.is_some()) + ours.got,
                received: ours.got,
                round_trip: conn.round_trip,
                retransmits: conn.again,
            };
            self.tell(node, Sight::Link { login, link });
        }
        self.judge.tick(self.now, &mut self.checks);
        self.carry_out();
    }

    pub(super) fn tell(&mut self, node: usize, sight: Sight) {
        self.judge.see(self.now, node, sight, &mut self.checks);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for check in std::mem::take(&mut self.checks) {
            match check {
                Check::Login { node, login } => {
                    let mut conn = Conn { node, asked: self.now, ..Conn::default() };
                    conn.ends[0].send(self.now);
                    self.logins += 1;
                    self.conns.insert(login, conn);
                }
                Check::Leave { login, .. } => drop(self.conns.remove(&login)),
                Check::Keep { login, .. } => {
                    self.conns.get_mut(&login).expect("it is in").kept = true;
                }
                Check::Ping { session, .. } => {
                    let now = self.now;
                    let conn = self.conns.get_mut(&session).expect("it is there");
                    conn.asked = now;
                    conn.ends[0].send(now);
                }
                Check::Changed(change) => self.changes.push((self.now, change)),
            }
        }
    }

    /// Sends what an end has to send, and says when again.
    fn transmit(&mut self, id: u64, end: usize) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let got = conn.ends[end].got;
        let Some(out) = conn.ends[end].out.as_mut() else { return };
        let data = Packet::Data(out.number, got);
        if out.rto > RTO && end == 0 {
            conn.again += 1;
        }
        out.next = now + out.rto;
        out.rto *= 2;
        self.post(id, 1 - end, data);
    }

    /// Puts a packet on its way to an end, if it gets through.
    fn post(&mut self, id: u64, to: usize, packet: Packet) {
        let Some(conn) = self.conns.get(&id) else { return };
        let path = self.nodes[conn.node].path;
        let shut = path.shut && to == 1 && matches!(packet, Packet::Data(1, _));
        if shut || path.dark[1 - to] || self.chance.below(100) < path.loss {
            return;
        }
        let more = self.chance.below(path.delay.1 * 1_000 + 1);
        let delay = Duration::from_micros(u64::from(path.delay.0 * 1_000 + more) + 20);
        self.number += 1;
        self.packets.insert((self.now + delay, self.number, id, to, packet));
    }

    fn deliver(&mut self) {
        let Some((_, _, id, to, packet)) = self.packets.pop_first() else { return };
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (node, end) = (conn.node, &mut conn.ends[to]);
        match packet {
            Packet::Ack(got) | Packet::Data(_, got)
                if end.out.is_some_and(|out| out.number <= got) =>
            {
                end.out = None;
                if to == 0 {
                    conn.round_trip = now.since(conn.asked);
                    if got == 1 && !conn.over {
                        // The connection is there: now the login itself.
                        conn.ends[0].send(now);
                        self.tell(node, Sight::Connected { login: id });
                    }
                }
            }
            Packet::Ack(_) | Packet::Data(..) => {}
            Packet::Reset | Packet::End => return self.ended(id, packet),
        }
        if let Packet::Data(number, _) = packet {
            self.take(id, to, number);
        }
    }

    /// A message has come to an end: its kernel says so, and its process may answer.
    fn take(&mut self, id: u64, to: usize, number: u64) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let process = self.nodes[conn.node].process;
        if to == 1 && process == Process::Gone {
            return self.post(id, 0, Packet::Reset);
        }
        let fresh = number == conn.ends[to].got + 1;
        if fresh {
            conn.ends[to].got = number;
        }
        let got = conn.ends[to].got;
        let node = conn.node;
        if to == 1 && fresh && number > 1 {
            let login = number == 2;
            let answers = match process {
                Process::Gone | Process::Frozen => false,
                Process::Ends if !login => return self.post(id, 0, Packet::End),
                Process::Works | Process::Ends => true,
                Process::Closed => !login,
                Process::Says(code) => {
                    conn.refused = login.then_some(code);
                    true
                }
                Process::Starts => {
                    conn.refused = Some("57P03");
                    true
                }
            };
            if answers {
                conn.ends[1].send(now);
            }
        }
        self.post(id, 1 - to, Packet::Ack(got));
        let Some(conn) = self.conns.get(&id).filter(|_| to == 0 && fresh) else { return };
        match (conn.refused, conn.kept, number) {
            (Some(code), false, _) => {
                let (code, message) = (code.to_owned(), "no".to_owned());
                self.conns.remove(&id);
                let why = Failure::Error { code, message };
                self.tell(node, Sight::Failed { login: id, why });
            }
            (_, false, _) => self.tell(node, Sight::LoggedIn { login: id }),
            (_, true, _) => self.tell(node, Sight::Answered { session: id }),
        }
    }

    fn ended(&mut self, id: u64, packet: Packet) {
        let Some(conn) = self.conns.remove(&id) else { return };
        let sight = match (conn.kept, packet) {
            (true, _) => Sight::Ended { session: id, heard: true, reason: "ended".to_owned() },
            (false, Packet::Reset) if conn.ends[0].sent == 1 => {
                Sight::Failed { login: id, why: Failure::Refused }
            }
            (false, _) => Sight::Failed { login: id, why: Failure::Closed("ended".to_owned()) },
        };
        self.tell(conn.node, sight);
    }
}
