//! What must always hold, and what must hold at the end.

use crate::client::Phase;
use crate::driver;
use crate::link::{LinkId, MS, Peer, SEC, Time};
use crate::plan::Plan;
use crate::session::{Pins, Tx};
use crate::world::World;
use pgring_logic::action::Level;
use pgring_logic::config::PoolMode;
use pgring_logic::id::PoolKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the oracle remembers.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    lives: u32,
    pub(crate) answers: u64,
    pub(crate) refusals: u64,
    /// Pool sizes, and until when they still count.
    sizes: Vec<(usize, Time)>,
    /// When the last trouble was over.
    pub(crate) trouble: Time,
    /// Inserts that clients were told are committed.
    pub(crate) told: Vec<String>,
}

impl Oracle {
    /// The oracle of a story.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { sizes: vec![(plan.size + plan.reserve, Time::MAX)], ..Self::default() }
    }

    /// The number of the next life.
    pub(crate) fn next_life(&mut self) -> u32 {
        self.lives += 1;
        self.lives
    }

    /// How many servers a pool may have now.
    fn size(&self, now: Time) -> usize {
        let valid = self.sizes.iter().filter(|(_, until)| *until >= now);
        valid.map(|(size, _)| *size).max().unwrap_or(0)
    }
}

impl World {
    /// The pool size has changed; servers above it may go on for a while.
    pub(crate) fn oracle_resized(&mut self, size: usize) {
        for (_, until) in &mut self.oracle.sizes {
            *until = (*until).min(self.now + 20 * SEC);
        }
        self.oracle.sizes.push((size + self.plan.reserve, Time::MAX));
    }

    /// Servers of each pool whose near end is alive, also on their way between lanes.
    fn open_servers(&self) -> BTreeMap<(String, String), usize> {
        let mut open = BTreeMap::new();
        for link in self.links.values() {
            if let Some(pool) = &link.pool
                && !link.near_closed
            {
                *open.entry(pool.clone()).or_insert(0) += 1;
            }
        }
        open
    }

    /// A server was opened: is there room for it?
    pub(crate) fn oracle_opened(&mut self, pool: &(String, String)) {
        let open = self.open_servers().get(pool).copied().unwrap_or(0);
        // Whoever looks for the primary comes to standbys, too, and leaves.
        let ways = if pool.0.contains('@') { 2 } else { 1 };
        let size = ways * self.oracle.size(self.now);
        if open > size {
            self.violate(format!("pool {pool:?} has {open} servers, but its size is {size}"));
        }
    }

    /// A lane says something in the log.
    pub(crate) fn oracle_note(&mut self, level: Level, text: &str) {
        self.say(|| format!("      log: {text}"));
        if level == Level::Error && self.plan.peaceful() {
            self.violate(format!("an error in the log of a peaceful story: {text}"));
        }
    }

    /// After every event.
    pub(crate) fn check(&mut self) {
        let now = self.now;
        let late: Vec<LinkId> = if self.events.is_multiple_of(256) {
            let old = |at: Time| at + 20 * SEC < now;
            let lied = self.links.iter().filter(|(_, link)| link.lied.is_some_and(old));
            lied.filter(|(_, link)| !link.near_closed).map(|(&number, _)| number).collect()
        } else {
            Vec::new()
        };
        if let Some(link) = late.first() {
            self.violate(format!("link {link} is still open, but its server lied long ago"));
        }
    }

    /// A cancel request has hit a statement: was it its client's own, or is that client gone?
    pub(crate) fn oracle_cancelled(&mut self, owner: Option<u32>) {
        let lives = self.clients.iter().filter_map(|client| client.life.as_ref());
        let foreign = lives
            .filter(|life| Some(life.number) == owner && life.cancelled.is_none() && !life.refused)
            .map(|life| life.number)
            .next();
        if let Some(number) = foreign {
            self.violate(format!("c{number} is cancelled, but did not ask for it"));
        }
    }

    /// No client waits while a server of its pool has had nothing to do for a while.
    fn look_at_idlers(&mut self) {
        let swift = self.plan.weather.room >= 65_536;
        let movable = swift && self.plan.mode != PoolMode::Session && !self.plan.pins;
        if !movable
            || self.plan.routed
            || !self.plan.peaceful()
            || self.control.paused
            || self.plan.orders
        {
            return;
        }
        // The answer to a deaf client still holds its server.
        let lives = || self.clients.iter().filter_map(|client| client.life.as_ref());
        if lives().any(|life| life.was_deaf) {
            return;
        }
        let limit = 100 * MS;
        let mut wrong = None;
        for life in self.clients.iter().filter_map(|client| client.life.as_ref()) {
            let waits = life.asked.is_some_and(|asked| asked + limit < self.now);
            if !waits || life.deaf.is_some() {
                continue;
            }
            let backends = self.nodes.iter().flat_map(|node| &node.backends);
            let mut idler = None;
            let mut served = false;
            for (link, backend) in backends {
                let pool = self.links.get(link).and_then(|link| link.pool.as_ref());
                let mine = backend.owner.is_none_or(|owner| owner == life.number);
                served |= mine && !backend.idle();
                let idle = backend.idle() && backend.rests + limit < self.now;
                if idle && pool == Some(&life.pool) && !self.links[link].near_closed {
                    idler = Some(backend.pid);
                }
            }
            if let (Some(pid), false) = (idler, served) {
                wrong = Some(format!("c{} waits while pid {pid} idles", life.number));
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// Nobody waits for longer than promised.
    pub(crate) fn look_at_waits(&mut self) {
        self.look_at_idlers();
        if self.control.paused {
            self.oracle.trouble = self.now;
        }
        // A read may wait for a standby's server, and for the primary's then.
        let queues = if self.plan.routed { 2 } else { 1 };
        let bound = queues * self.plan.wait_timeout + 12 * SEC;
        let (now, trouble) = (self.now, self.oracle.trouble);
        let mut late = None;
        for client in &self.clients {
            if let Some(life) = &client.life
                && let Some(asked) = life.asked
                && life.deaf.is_none()
                && now > asked.max(trouble) + bound
            {
                let hand = life.hand.as_ref().map(crate::message::Message::brief);
                let stage = if life.phase == Phase::Talk { "talks" } else { "logs in" };
                let waited = (now - asked) / MS;
                late = Some(format!("c{} waits for {waited} ms, {stage}: {hand:?}", life.number));
            }
        }
        if let Some(late) = late {
            self.violate(late);
        }
    }

    /// At the end, when all clients have gone and the lanes have reported.
    pub(crate) fn check_drained(&mut self) {
        for core in 0..self.plan.lanes {
            let (clients, slots) = (self.lanes[core].lane.clients(), self.clients_open(core));
            if self.lanes[core].lane.broken() > 0 {
                self.violate(format!("lane {core} has broken an invariant"));
            }
            if clients > 0 || slots > 0 {
                self.violate(format!("lane {core} still has {clients} clients, {slots} slots"));
            }
            let stuck = self.lanes[core].conns.iter().find(|(_, conn)| {
                !matches!(conn.phase, driver::Phase::Open | driver::Phase::Connecting)
            });
            if let Some((conn, stuck)) = stuck {
                let text = format!("lane {core} has {conn:?} {:?} at the end", stuck.phase);
                self.violate(text);
            }
        }
        let reports = std::mem::take(&mut self.control.reports);
        if reports.len() != self.plan.lanes {
            self.violate(format!("only {} lanes report", reports.len()));
        }
        let mut reported: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut books = BTreeMap::new();
        for report in &reports {
            if report.violations > 0 && !self.plan.lies {
                let text =
                    format!("lane {:?} counts {} violations", report.core, report.violations);
                self.violate(text);
            }
            if !report.clients.is_empty() {
                self.violate(format!("lane {:?} reports {:?}", report.core, report.clients));
            }
            for server in &report.servers {
                if server.state != "idle" {
                    self.violate(format!("a server is {} at the end", server.state));
                }
                let node = server.pool.node.as_ref().and_then(|node| node.get(2..)?.parse().ok());
                let database = self.plan.pool_at(&server.pool.database, node.unwrap_or(0));
                let pool = (database, server.pool.user.to_string());
                *reported.entry(pool).or_insert(0) += 1;
                books.insert(server.pid, server.prepared_statements as usize);
            }
        }
        self.check_sessions(&books);
        let open = self.open_servers();
        if open != reported {
            self.violate(format!("open at nodes: {open:?}, in reports: {reported:?}"));
        }
        for database in 0..self.plan.databases {
            for user in 0..self.plan.users {
                for node in 0..if self.plan.routed { self.plan.nodes } else { 1 } {
                    self.check_budget((database, user), node, &open);
                }
            }
        }
        if let Some((number, left)) = self.control.pending.first_key_value() {
            let text = format!("order {number} is not done by {left} lanes");
            self.violate(text);
        }
    }

    /// What is left on servers must not disturb whoever comes next.
    fn check_sessions(&mut self, books: &BTreeMap<u32, usize>) {
        let mut wrong = Vec::new();
        for backend in self.nodes.iter().flat_map(|node| node.backends.values()) {
            let Some(session) = &backend.session else { continue };
            let named = session.prepared.keys().filter(|name| !name.is_empty()).count();
            let movable = self.plan.mode != PoolMode::Session;
            if session.pins != Pins::default() || session.tx != Tx::Idle {
                wrong.push(format!(
                    "pid {} is left {:?} {:?}",
                    backend.pid, session.tx, session.pins
                ));
            }
            let known = books.get(&backend.pid).copied().unwrap_or(0);
            if movable && (named != known || named > self.plan.statements) {
                let (pid, most) = (backend.pid, self.plan.statements);
                wrong.push(format!(
                    "pid {pid} has {named} prepared statements, {known} by the books, \
                     {most} allowed"
                ));
            }
        }
        for wrong in wrong {
            self.violate(wrong);
        }
    }

    fn check_budget(
        &mut self,
        (database, user): (usize, usize),
        node: usize,
        open: &BTreeMap<(String, String), usize>,
    ) {
        let mut names = (Plan::database(database), Plan::user(user));
        let mut key = PoolKey::new(&names.0, &names.1);
        if node > 0 {
            key = key.on(&Arc::from(format!("pg{node}")));
        }
        let moving = self.plan.is_moving(&names.0);
        names.0 = self.plan.pool_at(&names.0, node);
        let held = self.permits(&key);
        let there = open.get(&names).copied().unwrap_or(0);
        if held != there {
            let text = format!("pool {names:?}: {held} permits are held, {there} servers are open");
            self.violate(text);
        }
        let absent = self.control.absent && moving;
        let size = if absent { 0 } else { self.oracle.size(self.now) };
        if there > size {
            self.violate(format!("pool {names:?} ends with {there} servers, its size is {size}"));
        }
    }

    /// How many connections nobody closes any more.
    pub(crate) fn orphans(&self) -> usize {
        let lost = |link: &&crate::link::Link| {
            link.near.is_none() && !link.near_closed && matches!(link.peer, Peer::Node(_))
        };
        self.links.values().filter(lost).count()
    }
}
