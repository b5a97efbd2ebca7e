//! The simulated driver of one lane: the contract of the real worker, without sockets.

use crate::link::{End, LinkId, Peer, Time, US};
use crate::world::{Happening, World};
use pgring_logic::action::{Action, Actions, Address, Want};
use pgring_logic::config::Config;
use pgring_logic::id::{ConnId, Core, Side};
use pgring_logic::lane::Lane;
use pgring_logic::mail::{Before, Entrance, Event, Mail};
use pgring_logic::time::Duration;
use pgring_logic::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A lane and its connections.
pub(crate) struct Driver {
    pub(crate) lane: Lane,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    actions: Actions<Mail>,
    tick: Option<Time>,
    /// Deadlines that came without time having passed, to notice a lane that spins.
    spins: u32,
}

/// One connection, as the driver keeps it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) link: LinkId,
    /// Shown and not consumed.
    pub(crate) held: Vec<u8>,
    /// Waits for `Resume`.
    waiting: bool,
    /// `Resume` came: show what is held even without more.
    reshow: bool,
    told_end: bool,
    /// Connections whose queues are too long for this one to be read.
    paused: BTreeSet<ConnId>,
    pub(crate) phase: Phase,
    progress: Time,
    checking: bool,
}

/// Where a connection is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    Connecting,
    Open,
    Leaving(usize, Box<Mail>),
    Closing,
    Gone,
}

impl Conn {
    fn new(link: LinkId, phase: Phase, now: Time) -> Self {
        Self {
            link,
            held: Vec::new(),
            waiting: false,
            reshow: false,
            told_end: false,
            paused: BTreeSet::new(),
            phase,
            progress: now,
            checking: false,
        }
    }
}

impl Driver {
    /// An empty lane.
    pub(crate) fn new(core: usize, config: &Arc<Config>, seed: [u8; 32]) -> Self {
        let core = Core(u16::try_from(core).expect("few lanes"));
        Self {
            lane: Lane::new(core, Arc::clone(config), seed, 0),
            conns: BTreeMap::new(),
            actions: Actions::default(),
            tick: None,
            spins: 0,
        }
    }
}

impl World {
    /// Calls a lane and does what it asks for. `shown` are the bytes it is looking at.
    pub(crate) fn call<R>(
        &mut self,
        core: usize,
        shown: Option<(ConnId, &[u8])>,
        ask: impl FnOnce(&mut Lane, Instant, &mut Actions<Mail>) -> R,
        settle: impl FnOnce(&mut Self, &R),
    ) {
        let now = self.instant();
        let driver = &mut self.lanes[core];
        let mut actions = std::mem::take(&mut driver.actions);
        let answer = ask(&mut driver.lane, now, &mut actions);
        settle(self, &answer);
        let scratch = std::mem::take(&mut actions.scratch);
        for action in actions.list.drain(..) {
            self.say(|| format!("      lane {core} asks {}", brief(&action)));
            self.perform(core, shown, &scratch, action);
        }
        actions.scratch = scratch;
        actions.clear();
        self.lanes[core].actions = actions;
        self.wind(core);
    }

    /// Sets the lane's alarm.
    fn wind(&mut self, core: usize) {
        let deadline = self.lanes[core].lane.deadline().map(Instant::as_nanos);
        if let Some(deadline) = deadline {
            let due = deadline.max(self.now);
            if self.lanes[core].tick.is_none_or(|set| due < set) {
                self.lanes[core].tick = Some(due);
                self.at(due, Happening::Tick(core, due));
            }
        }
    }

    /// The lane's alarm rings.
    pub(crate) fn tick(&mut self, core: usize, time: Time) {
        if self.lanes[core].tick != Some(time) {
            return;
        }
        self.lanes[core].tick = None;
        self.tell_lane(core, Event::Timeout);
        let spins = self.lanes[core].tick == Some(self.now);
        self.lanes[core].spins = if spins { self.lanes[core].spins + 1 } else { 0 };
        if self.lanes[core].spins > 1000 {
            self.violate(format!("lane {core} spins on a deadline that does not move"));
        }
    }

    /// Tells a lane something.
    pub(crate) fn tell_lane(&mut self, core: usize, event: Event) {
        match &event {
            Event::Closed { conn } => {
                self.lanes[core].conns.remove(conn);
            }
            Event::Connected { conn } => {
                let Some(found) = self.lanes[core].conns.get_mut(conn) else { return };
                if !matches!(found.phase, Phase::Connecting) {
                    return;
                }
                found.phase = Phase::Open;
                let link = found.link;
                self.pump(link, End::Far);
                self.at(self.now, Happening::Read(core, *conn));
            }
            Event::Failed { conn, .. } => {
                let Some(found) = self.lanes[core].conns.get(conn) else { return };
                if matches!(found.phase, Phase::Closing | Phase::Gone) {
                    return;
                }
            }
            Event::Ended { .. } | Event::Stalled { .. } | Event::Timeout | Event::Mail(_) => {}
        }
        self.say(|| format!("lane {core} is told {}", brief_event(&event)));
        self.call(core, None, |lane, now, actions| lane.handle(now, event, actions), |_, ()| {});
    }

    /// A client reaches a lane.
    pub(crate) fn accept(&mut self, core: usize, link: LinkId) {
        let stays = Before { connected: self.instant(), refused_encryption: 0 };
        let before = (!self.plan.homes).then_some(stays);
        self.seat(core, link, Entrance { before, ..Entrance::default() }, Vec::new());
    }

    /// The same, for one that has said something elsewhere.
    pub(crate) fn seat(&mut self, core: usize, link: LinkId, entrance: Entrance, said: Vec<u8>) {
        let Some(broken) = self.links.get(&link).map(|link| link.broken) else { return };
        let now = self.instant();
        let peer = pgring_logic::mail::Peer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 1024);
        let conn = self.lanes[core].lane.accept(now, peer, entrance);
        self.say(|| format!("lane {core} accepts {conn:?} (link {link})"));
        self.bind(core, conn, link, Phase::Open);
        self.wind(core);
        if broken {
            return self.failed(core, conn, "connection reset by peer");
        }
        if let Some(found) = self.lanes[core].conns.get_mut(&conn) {
            found.reshow = !said.is_empty();
            found.held = said;
        }
        self.read(core, conn);
    }

    pub(crate) fn bind(&mut self, core: usize, conn: ConnId, link: LinkId, phase: Phase) {
        let fresh = Conn::new(link, phase, self.now);
        if self.lanes[core].conns.insert(conn, fresh).is_some() {
            self.violate(format!("lane {core} used {conn:?} for two connections at once (I4)"));
        }
        if let Some(link) = self.links.get_mut(&link) {
            link.near = Some((core, conn));
        }
    }

    /// Shows a lane what there is to see of a connection.
    pub(crate) fn read(&mut self, core: usize, conn: ConnId) {
        while self.violation.is_none() {
            let most = self.dice.range(1, 8192);
            let Some(found) = self.lanes[core].conns.get_mut(&conn) else { return };
            let Some(link) = self.links.get_mut(&found.link) else { return };
            if !matches!(found.phase, Phase::Open) || !found.paused.is_empty() {
                return;
            }
            let number = found.link;
            let room = if found.waiting { 65_536 - found.held.len().min(65_536) } else { 8192 };
            let fresh = link.to_near.read(room.min(usize::try_from(most).unwrap_or(1)));
            let ended = link.to_near.ended && link.to_near.readable.is_empty();
            let (any, end) = (!fresh.is_empty(), ended && fresh.is_empty() && !found.told_end);
            found.held.extend(fresh);
            if any {
                self.pump(number, End::Near);
            }
            let Driver { lane, conns, .. } = &mut self.lanes[core];
            let Some(found) = conns.get_mut(&conn) else { return };
            let behind = end && found.waiting && lane.hears_out(conn, &found.held);
            if end && !behind && (found.waiting || !found.reshow) {
                found.told_end = true;
                return self.tell_lane(core, Event::Ended { conn });
            }
            if found.waiting && any {
                continue;
            }
            let show = any || found.reshow && !found.held.is_empty();
            found.reshow = false;
            if found.waiting || !show {
                return;
            }
            self.show(core, conn);
        }
    }

    fn show(&mut self, core: usize, conn: ConnId) {
        let Some(found) = self.lanes[core].conns.get_mut(&conn) else { return };
        let bytes = std::mem::take(&mut found.held);
        self.say(|| format!("lane {core} is shown {conn:?} {}", text(&bytes)));
        self.call(
            core,
            Some((conn, &bytes)),
            |lane, now, actions| lane.receive(now, conn, &bytes, actions),
            |world, progress| {
                let waits = progress.want == Want::Resume;
                let consumed = progress.consumed;
                world.say(|| format!("      consumed {consumed}, waits: {waits}"));
                if consumed > bytes.len() {
                    return world.violate(format!("{conn:?}: more consumed than shown"));
                }
                let left = bytes.len() - consumed;
                if !waits && left > world.plan.held_max {
                    world.violate(format!("{conn:?}: {left} bytes are collected"));
                }
                if let Some(found) = world.lanes[core].conns.get_mut(&conn) {
                    found.held = bytes[consumed..].to_vec();
                    found.waiting = waits;
                }
            },
        );
    }

    fn perform(
        &mut self,
        core: usize,
        shown: Option<(ConnId, &[u8])>,
        scratch: &[u8],
        action: Action<Mail>,
    ) {
        match action {
            Action::Forward { from, to, start, len } => match shown {
                Some((conn, bytes)) if conn == from && start + len <= bytes.len() => {
                    self.queue(core, to, &bytes[start..start + len], Some(from));
                }
                _ => self.violate(format!("{from:?} to {to:?}: forwarded what is not shown")),
            },
            Action::Write { to, start, len } => {
                self.queue(core, to, &scratch[start..start + len], None);
            }
            Action::Resume(conn) => {
                if let Some(found) = self.lanes[core].conns.get_mut(&conn)
                    && found.waiting
                {
                    found.waiting = false;
                    found.reshow = true;
                    self.at(self.now, Happening::Read(core, conn));
                }
            }
            Action::Unpair(conn) => {
                if let Some(found) = self.lanes[core].conns.get_mut(&conn) {
                    found.paused.clear();
                    self.at(self.now, Happening::Read(core, conn));
                }
            }
            Action::Connect { conn, address } => self.dial(core, conn, &address),
            Action::Close { conn, mode } => self.shut(core, conn, mode),
            Action::Surrender { conn, to, mail } => {
                if let Some(found) = self.lanes[core].conns.get_mut(&conn) {
                    found.phase = Phase::Leaving(usize::from(to.0), mail);
                    self.soon(200 * US, Happening::Settle(core, conn));
                }
            }
            Action::Post { to, mail } => {
                let to = usize::from(to.0);
                self.post(core, to, Happening::Lane(to, Event::Mail(*mail)));
            }
            Action::Tell(mail) => self.post(core, usize::MAX, Happening::Control(mail)),
            Action::Note { level, text } => self.oracle_note(level, &text),
        }
    }

    fn queue(&mut self, core: usize, to: ConnId, bytes: &[u8], from: Option<ConnId>) {
        let Some(found) = self.lanes[core].conns.get_mut(&to) else {
            return self.violate(format!("lane {core} writes to {to:?}, which does not exist"));
        };
        if matches!(found.phase, Phase::Closing | Phase::Gone) {
            return;
        }
        if matches!(found.phase, Phase::Leaving(..)) {
            return self.violate(format!("lane {core} writes to {to:?}, which it gave away"));
        }
        let (link, open) = (found.link, matches!(found.phase, Phase::Open));
        let Some(pipe) = self.links.get_mut(&link) else { return };
        if pipe.to_far.unsent.is_empty() {
            found.progress = self.now;
        }
        pipe.to_far.unsent.extend(bytes);
        if open {
            self.pump(link, End::Far);
        }
        let left = self.links.get(&link).map_or(0, |link| link.to_far.unsent.len());
        let Some(found) = self.lanes[core].conns.get_mut(&to) else { return };
        if left > 0 && !found.checking {
            found.checking = true;
            self.at(self.now + self.plan.write_timeout, Happening::Stall(core, to));
        }
        if left > self.plan.high_water + 160 * 1024 {
            self.violate(format!("{left} bytes are queued for {to:?}"));
        }
        if left > self.plan.high_water
            && let Some(from) = from
            && let Some(source) = self.lanes[core].conns.get_mut(&from)
        {
            source.paused.insert(to);
        }
    }

    /// Bytes of a connection have gone out.
    pub(crate) fn sent(&mut self, link: LinkId) {
        let Some(found) = self.links.get(&link) else { return };
        let (left, near) = (found.to_far.unsent.len(), found.near);
        let Some((core, conn)) = near else { return };
        if let Some(found) = self.lanes[core].conns.get_mut(&conn) {
            found.progress = self.now;
            if matches!(found.phase, Phase::Closing) && left == 0 {
                return self.gone(core, conn, false);
            }
        }
        if left < self.plan.high_water / 4 {
            self.unpause(core, conn);
        }
    }

    pub(crate) fn unpause(&mut self, core: usize, by: ConnId) {
        let mut free = Vec::new();
        for (&id, conn) in &mut self.lanes[core].conns {
            if conn.paused.remove(&by) && conn.paused.is_empty() {
                free.push(id);
            }
        }
        for id in free {
            self.at(self.now, Happening::Read(core, id));
        }
    }

    /// Has a connection stopped reading?
    pub(crate) fn stall(&mut self, core: usize, conn: ConnId) {
        let timeout = self.plan.write_timeout;
        let Some(found) = self.lanes[core].conns.get_mut(&conn) else { return };
        found.checking = false;
        let left = self.links.get(&found.link).map_or(0, |link| link.to_far.unsent.len());
        if left == 0 || !matches!(found.phase, Phase::Open) {
            return;
        }
        if found.progress + timeout <= self.now {
            let quiet = Duration::from_nanos(self.now - found.progress);
            self.tell_lane(core, Event::Stalled { conn, quiet });
        } else {
            found.checking = true;
            let when = found.progress + timeout;
            self.at(when, Happening::Stall(core, conn));
        }
    }

    fn dial(&mut self, core: usize, conn: ConnId, address: &Address) {
        let node = match address {
            Address::Tcp(address) => usize::from(address.port()) - 1,
            Address::Unix(_) => 0,
        };
        let link = self.connect(Peer::Node(node));
        self.say(|| format!("      {conn:?} is link {link} to node {node}"));
        self.bind(core, conn, link, Phase::Connecting);
        let most = 3 * self.plan.weather.latency;
        let silent = self.nodes[node].silent;
        if self.nodes[node].down {
            self.soon(most, Happening::Break(link, End::Near, "connection refused"));
        } else if !silent {
            self.node_accept(node, link);
            self.soon(most, Happening::Lane(core, Event::Connected { conn }));
        }
    }

    /// Client connections that a lane has not let go of.
    pub(crate) fn clients_open(&self, core: usize) -> usize {
        self.lanes[core].conns.keys().filter(|conn| conn.side() == Side::Client).count()
    }
}

fn text(bytes: &[u8]) -> String {
    let shown: String = bytes
        .iter()
        .take(100)
        .map(|&byte| if (32..127).contains(&byte) { char::from(byte) } else { '.' })
        .collect();
    format!("{} bytes {shown}", bytes.len())
}

fn brief(action: &Action<Mail>) -> String {
    let mut text = format!("{action:?}");
    text.truncate(text.char_indices().nth(220).map_or(text.len(), |(at, _)| at));
    text
}

fn brief_event(event: &Event) -> String {
    let mut text = match event {
        Event::Mail(Mail::Topology(topology)) => {
            let nodes = topology.clusters.values().flatten();
            let told = nodes.map(|(node, it)| format!("{node} {} at {}", it.role, it.lsn));
            format!("where nodes stand: {}", told.collect::<Vec<_>>().join(", "))
        }
        Event::Mail(Mail::Catalog { database, .. }) => format!("the catalog of {database}"),
        _ => format!("{event:?}"),
    };
    text.truncate(text.char_indices().nth(220).map_or(text.len(), |(at, _)| at));
    text
}
