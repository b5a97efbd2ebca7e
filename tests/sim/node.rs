//! A modelled `PostgreSQL` node: connections, logins, cancel requests and sudden deaths.
//!
//! What a session says is the business of `session.rs`; this is about when it says it, and about
//! nodes that lie.

use crate::link::{End, LinkId, MS, Time, US};
use crate::message::{Cutter, Message, Reader, report, text};
use crate::scram::Visit;
use crate::session::{Fault, Session, Tx};
use crate::sql::owner;
use crate::world::{Happening, World};
use std::collections::{BTreeMap, BTreeSet};

/// One node.
pub(crate) struct Node {
    number: usize,
    pub(crate) backends: BTreeMap<LinkId, Backend>,
    next_pid: u32,
    /// Connections are refused.
    pub(crate) down: bool,
    /// Connections are not answered.
    pub(crate) silent: bool,
    /// Logins are refused.
    pub(crate) full: bool,
    pub(crate) inserted: BTreeSet<String>,
    /// Counts changes of tables.
    pub(crate) shape: u64,
}

/// One connection of a node.
pub(crate) struct Backend {
    pub(crate) pid: u32,
    secret: [u8; 4],
    cutter: Cutter,
    pub(crate) session: Option<Session>,
    /// The login that comes before it.
    pub(crate) visit: Option<Visit>,
    /// A slow statement, and when it is done.
    pub(crate) busy: Option<(Message, Time)>,
    /// What is not flushed yet.
    out: Vec<u8>,
    stepping: bool,
    /// Whose transaction it is.
    pub(crate) owner: Option<u32>,
    /// Whose locks, tables and channels these are.
    pinner: Option<u32>,
    /// The next answer becomes this lie.
    pub(crate) lie: Option<Lie>,
    pub(crate) dead: bool,
    /// Since when it has had nothing to do.
    pub(crate) rests: Time,
}

/// How a node lies in the middle of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lie {
    Tag,
    Short,
    Long,
    Cut,
}

impl Node {
    /// The node of this number.
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            backends: BTreeMap::new(),
            next_pid: 1000,
            down: false,
            silent: false,
            full: false,
            inserted: BTreeSet::new(),
            shape: 0,
        }
    }
}

impl Backend {
    /// Whether it does nothing and is asked nothing.
    pub(crate) fn idle(&self) -> bool {
        let still = self.session.as_ref().is_some_and(|session| {
            session.tx == Tx::Idle && session.before.is_none() && session.copying.is_none()
        });
        still && self.busy.is_none() && self.out.is_empty() && self.cutter.left() == 0 && !self.dead
    }
}

impl World {
    /// A connection reaches a node.
    pub(crate) fn node_accept(&mut self, node: usize, link: LinkId) {
        let node = &mut self.nodes[node];
        node.next_pid += 1;
        let pid = node.next_pid + 100_000 * u32::try_from(node.number).expect("few nodes");
        let backend = Backend {
            pid,
            secret: pid.wrapping_mul(2_654_435_761).to_be_bytes(),
            cutter: Cutter::default(),
            session: None,
            visit: None,
            busy: None,
            out: Vec::new(),
            stepping: false,
            owner: None,
            pinner: None,
            lie: None,
            dead: false,
            rests: 0,
        };
        node.backends.insert(link, backend);
    }

    /// A node has something to read.
    pub(crate) fn node_read(&mut self, node: usize, link: LinkId) {
        let Some(found) = self.links.get_mut(&link) else { return };
        let bytes = found.to_far.read(usize::MAX);
        let ended = found.to_far.ended;
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        backend.cutter.push(&bytes);
        if !bytes.is_empty() {
            self.pump(link, End::Far);
        }
        if ended {
            return self.node_lost(node, link);
        }
        self.node_wake(node, link, 50 * US);
    }

    fn node_wake(&mut self, node: usize, link: LinkId, most: Time) {
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        if !backend.stepping {
            backend.stepping = true;
            self.soon(most, Happening::Node(link));
        }
    }

    /// The other side is gone: so is the session.
    pub(crate) fn node_lost(&mut self, node: usize, link: LinkId) {
        self.nodes[node].backends.remove(&link);
        self.close(link, End::Far, false);
    }

    /// A node ends a connection by itself.
    pub(crate) fn node_ends(&mut self, node: usize, link: LinkId, said: &str, abrupt: bool) {
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        backend.dead = true;
        let mut out = std::mem::take(&mut backend.out);
        if !abrupt {
            report(b'E', "FATAL", "57P01", said).write(&mut out);
        }
        self.send(link, End::Near, &out);
        self.nodes[node].backends.remove(&link);
        self.close(link, End::Far, abrupt);
    }

    fn node_of(&self, link: LinkId) -> Option<usize> {
        self.nodes.iter().position(|node| node.backends.contains_key(&link))
    }

    /// A node goes on with a connection.
    pub(crate) fn node_step(&mut self, link: LinkId) {
        let Some(node) = self.node_of(link) else { return };
        let now = self.now;
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        backend.stepping = false;
        backend.rests = now;
        if self.links.get(&link).is_none_or(|link| link.silent) {
            return;
        }
        if backend.visit.is_some() {
            if let Ok(Some(message)) = backend.cutter.tagged() {
                self.node_checks(node, link, &message);
            }
            return;
        }
        if backend.session.is_none() {
            return self.node_startup(node, link);
        }
        let (message, slept) = match backend.busy.take() {
            Some((message, until)) if until <= now => (message, true),
            Some(busy) => {
                backend.busy = Some(busy);
                return;
            }
            None => match backend.cutter.tagged() {
                Ok(Some(message)) => (message, false),
                Ok(None) => return,
                Err(error) => {
                    return self.violate(format!("a server was sent {error:?} (link {link})"));
                }
            },
        };
        if message.tag == b'X' {
            return self.node_lost(node, link);
        }
        if slept {
            self.node_answers(node, link, &message, None);
        } else {
            self.node_message(node, link, message);
        }
        self.node_wake(node, link, 30 * US);
    }

    fn node_message(&mut self, node: usize, link: LinkId, message: Message) {
        self.say(|| format!("node {node} link {link} works on {}", message.brief()));
        if !self.node_judges(node, link, &message) {
            return;
        }
        let now = self.now;
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let Some(session) = &mut backend.session else { return };
        let cost = session.cost(&message);
        if cost > 0 {
            if message.tag == b'Q' {
                session.forget_unnamed();
            }
            let until = now + cost * MS;
            backend.busy = Some((message, until));
            return self.at(until, Happening::Node(link));
        }
        self.node_answers(node, link, &message, None);
    }

    /// Answers one message, or fails it.
    fn node_answers(&mut self, node: usize, link: LinkId, message: &Message, fault: Option<Fault>) {
        let notice = self.plan.notices && self.dice.chance(4);
        let eager = self.dice.chance(10);
        let shape = self.nodes[node].shape;
        let view = self.plan.routed.then(|| self.view(node));
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let Some(session) = &mut backend.session else { return };
        session.shape = shape;
        session.view = view;
        let mut answers = Vec::new();
        if notice && let Some(owner) = backend.owner.filter(|_| !session.skipping) {
            answers.push(report(b'N', "NOTICE", "00000", &format!("for c{owner}.")));
        }
        let pinned = pins(session);
        match fault {
            Some(fault) => answers.extend(session.refuse(Some(message), &fault)),
            None => session.feed(message, &mut answers),
        }
        if !pinned && pins(session) {
            backend.pinner = backend.owner;
        }
        let failed = answers.iter().any(|answer| answer.tag == b'E');
        let ran = std::mem::take(&mut session.ran);
        let committed = std::mem::take(&mut session.committed);
        let flush = matches!(message.tag, b'Q' | b'F' | b'S' | b'H' | b'c' | b'f')
            || failed
            || eager
            || session.copying.is_some();
        for answer in &answers {
            answer.write(&mut backend.out);
        }
        let lie = if answers.is_empty() { None } else { backend.lie.take() };
        self.replicas.committed(committed);
        if let Some(lie) = lie {
            return self.node_lies(node, link, lie);
        }
        let full = backend.out.len() / self.plan.send_buffer * self.plan.send_buffer;
        let sent = if flush { backend.out.len() } else { full };
        let out: Vec<u8> = backend.out.drain(..sent).collect();
        for nonce in ran {
            if !self.nodes[node].inserted.insert(nonce.clone()) {
                self.violate(format!("the insert {nonce} was carried out twice"));
            }
        }
        if !out.is_empty() {
            self.send(link, End::Near, &out);
        }
    }

    fn node_lies(&mut self, node: usize, link: LinkId, lie: Lie) {
        self.say(|| format!("node {node} link {link} lies: {lie:?}"));
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let mut out = std::mem::take(&mut backend.out);
        match lie {
            Lie::Tag => Message::new(b'y', *b"c0.LIE").write(&mut out),
            Lie::Short => out.extend(b"D\0\0\0\x03c0.LIE"),
            Lie::Long => out.extend(b"D\x7f\xff\xff\xffc0.LIE"),
            Lie::Cut => {
                out.truncate(out.len().saturating_sub(3));
                self.send(link, End::Near, &out);
                self.nodes[node].backends.remove(&link);
                return self.close(link, End::Far, false);
            }
        }
        backend.dead = true;
        let now = self.now;
        if let Some(link) = self.links.get_mut(&link) {
            link.lied = Some(now);
        }
        self.send(link, End::Near, &out);
    }

    fn node_startup(&mut self, node: usize, link: LinkId) {
        let full = self.nodes[node].full;
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let Some(body) = backend.cutter.untagged() else { return };
        let mut reader = Reader::new(&body);
        match reader.long() {
            Some(80_877_103 | 80_877_104) => {
                self.send(link, End::Near, b"N");
                self.node_wake(node, link, 50 * US);
            }
            Some(80_877_102) => {
                let (pid, secret) = (reader.long().unwrap_or(0), reader.rest().to_vec());
                self.node_cancel(node, pid, &secret);
                self.node_lost(node, link);
            }
            Some(_) => {
                let mut parameters = Vec::new();
                while let (Some(name), Some(value)) = (reader.text(), reader.text()) {
                    parameters.push((name, value));
                }
                if full {
                    let refusal = report(b'E', "FATAL", "53300", "sorry, too many clients already");
                    let mut out = Vec::new();
                    refusal.write(&mut out);
                    self.send(link, End::Near, &out);
                    return self.node_lost(node, link);
                }
                if self.plan.scram {
                    return self.node_asks(node, link, parameters);
                }
                self.node_login(node, link, &parameters);
            }
            None => self.node_lost(node, link),
        }
    }

    /// Who wants in is in.
    pub(crate) fn node_login(
        &mut self,
        node: usize,
        link: LinkId,
        parameters: &[(String, String)],
    ) {
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let pool = (self.plan.pool_at(&find("database"), node), find("user"));
        if let Some(link) = self.links.get_mut(&link) {
            link.pool = Some(pool.clone());
        }
        self.oracle_opened(&pool);
        let standby = node > 0;
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let mut session = Session::new(parameters);
        if standby {
            let mut defaults = (*session.defaults).clone();
            defaults.insert("in_hot_standby".to_owned(), "on".to_owned());
            defaults.insert("transaction_read_only".to_owned(), "on".to_owned());
            session.defaults = defaults.into();
        }
        let mut answers = vec![Message::new(b'R', [0, 0, 0, 0])];
        session.ready(&mut answers);
        let mut key = backend.pid.to_be_bytes().to_vec();
        key.extend(backend.secret);
        answers.insert(answers.len() - 1, Message::new(b'K', key));
        backend.session = Some(session);
        let mut out = Vec::new();
        for answer in &answers {
            answer.write(&mut out);
        }
        self.send(link, End::Near, &out);
        self.node_wake(node, link, 50 * US);
    }

    fn node_cancel(&mut self, node: usize, pid: u32, secret: &[u8]) {
        let hit = self.nodes[node]
            .backends
            .iter()
            .find(|(_, backend)| backend.pid == pid && backend.secret == secret);
        let Some((&link, _)) = hit else {
            self.say(|| format!("node {node}: a cancel for pid {pid} finds nobody"));
            return;
        };
        self.say(|| format!("node {node}: a cancel for pid {pid}, link {link}"));
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        if let Some((message, _)) = backend.busy.take() {
            let owner = backend.owner;
            self.oracle_cancelled(owner);
            let fault = Fault("57014", "canceling statement due to user request".to_owned());
            self.node_answers(node, link, &message, Some(fault));
            self.node_wake(node, link, 30 * US);
        }
    }

    /// Who asks, and may they? False: the story is over.
    fn node_judges(&mut self, node: usize, link: LinkId, message: &Message) -> bool {
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return false };
        let Some(session) = &backend.session else { return false };
        if session.before.is_none() && session.tx == Tx::Idle {
            backend.owner = None;
        }
        if !matches!(message.tag, b'Q' | b'P' | b'B' | b'F') {
            return true;
        }
        let said = String::from_utf8_lossy(&message.body);
        let Some(by) = owner(&said) else { return true };
        let wrong = match backend.owner {
            Some(owner) if owner != by => Some(format!("in the transaction of c{owner}")),
            _ if pins(session) && backend.pinner.is_some_and(|pinner| pinner != by) => {
                Some(format!("on the pinned session of {:?}: {:?}", backend.pinner, session.pins))
            }
            _ => None,
        };
        backend.owner = Some(by);
        match wrong {
            Some(wrong) => {
                self.violate(format!("c{by} has a statement run {wrong} (link {link})"));
                false
            }
            None => true,
        }
    }

    /// Something is said on a connection that nobody asked for.
    pub(crate) fn node_says(&mut self, node: usize, link: LinkId, message: &Message) {
        self.say(|| format!("node {node} link {link} says unasked {}", message.brief()));
        if self.nodes[node].backends.contains_key(&link) {
            let mut out = Vec::new();
            message.write(&mut out);
            self.send(link, End::Near, &out);
        }
    }

    /// Notifies every session that listens.
    pub(crate) fn node_notifies(&mut self, node: usize) {
        let mut heard = Vec::new();
        for (&link, backend) in &self.nodes[node].backends {
            if let Some(session) = &backend.session
                && backend.idle()
            {
                heard.extend(session.pins.channels.iter().map(|name| (link, name.clone())));
            }
        }
        for (link, name) in heard {
            let mut body = vec![0, 0, 0, 1];
            body.extend(text(&name));
            body.extend(text("hello"));
            self.node_says(node, link, &Message::new(b'A', body));
        }
    }
}

/// Whether something holds the session at its server.
fn pins(session: &Session) -> bool {
    !session.pins.channels.is_empty()
        || session.pins.locks > 0
        || !session.pins.tables.is_empty()
        || session.prepared.values().any(|statement| statement.from_sql)
}
