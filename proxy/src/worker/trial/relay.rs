//! A world that relays each client to a server of its own, and obeys a few words of the client.

use crate::worker::World;
use pgring_logic::action::{Action, Actions, Address, CloseMode, Progress, Want};
use pgring_logic::id::{ConnId, Core, PoolKey, Secret, Side};
use pgring_logic::mail::{Before, Entrance, Event, Mail, Peer};
use pgring_logic::parcel::Parcel;
use pgring_logic::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// What the worlds of one trial have seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) opened: AtomicUsize,
    pub(super) closed: AtomicUsize,
    pub(super) highest: AtomicUsize,
    /// So many worlds cannot be made.
    pub(super) stillborn: AtomicU32,
    /// The generation last given.
    pub(super) newest: AtomicU32,
    pub(super) stalled: AtomicUsize,
    pub(super) adopted: AtomicUsize,
    pub(super) heard: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    pub(super) ordered: AtomicUsize,
    /// Bytes that have gone from servers to clients.
    pub(super) answered: AtomicUsize,
}

/// A client that has taken nothing for this long is said to stall.
const STALLED: Duration = Duration::from_secs(3);

/// A client with its server.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, all may be true")]
struct Pair {
    client: ConnId,
    server: Option<ConnId>,
    connected: bool,
    refused: bool,
    obeyed: bool,
    chats: bool,
    /// It came from the other core.
    moved: bool,
    /// Bytes of the client that have gone to its server.
    forwarded: usize,
}

/// The world.
pub(super) struct Relay {
    core: Core,
    server: SocketAddr,
    seen: Arc<Seen>,
    /// Generations begin after this one.
    before: u32,
    /// By place, of each side: the generation of its present or next life, and whether it lives.
    slots: [Vec<(u32, bool)>; 2],
    pairs: Vec<Pair>,
    waiting: Vec<ConnId>,
    adopted: Vec<ConnId>,
}

impl Relay {
    pub(super) fn new(place: (Core, u32), server: SocketAddr, seen: Arc<Seen>) -> Self {
        let (core, before) = place;
        let one_less = |left: u32| left.checked_sub(1);
        let stillborn = seen.stillborn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        assert!(stillborn.is_err(), "as it was told");
        let slots = [Vec::new(), Vec::new()];
        let (pairs, waiting, adopted) = (Vec::new(), Vec::new(), Vec::new());
        Self { core, server, seen, before, slots, pairs, waiting, adopted }
    }

    fn take_slot(&mut self, side: Side) -> ConnId {
        let slots = &mut self.slots[usize::from(side == Side::Server)];
        let index = slots.iter().position(|(_, lives)| !lives).unwrap_or_else(|| {
            slots.push((self.before.wrapping_add(1), false));
            slots.len() - 1
        });
        slots[index].1 = true;
        self.seen.opened.fetch_add(1, Ordering::SeqCst);
        self.seen.highest.fetch_max(index, Ordering::SeqCst);
        self.seen.newest.store(slots[index].0, Ordering::SeqCst);
        ConnId::new(side, u32::try_from(index).unwrap(), slots[index].0)
    }

    fn free_slot(&mut self, id: ConnId) {
        let slot = &mut self.slots[usize::from(id.side() == Side::Server)][id.index()];
        assert_eq!(*slot, (id.generation(), true), "closed twice: {id:?}");
        *slot = (id.generation() + 1, false);
        self.seen.closed.fetch_add(1, Ordering::SeqCst);
        self.adopted.retain(|&adopted| adopted != id);
    }

    fn part(&mut self, id: ConnId, mode: CloseMode, actions: &mut Actions<Mail>) {
        let ours = |pair: &Pair| pair.client == id || pair.server == Some(id);
        let Some(at) = self.pairs.iter().position(ours) else {
            if self.adopted.contains(&id) {
                actions.push(Action::Close { conn: id, mode });
            }
            return;
        };
        let pair = self.pairs.swap_remove(at);
        actions.push(Action::Close { conn: pair.client, mode });
        if let Some(server) = pair.server {
            actions.push(Action::Unpair(server));
            actions.push(Action::Close { conn: server, mode });
        }
    }

    fn obey(&mut self, at: usize, bytes: &[u8], actions: &mut Actions<Mail>) -> Option<Progress> {
        if std::mem::replace(&mut self.pairs[at].obeyed, false) {
            return None;
        }
        let done = Some(Progress { consumed: bytes.len(), want: Want::More });
        if bytes == b"!fall" {
            panic!("as it was told");
        } else if bytes == b"!move" {
            self.give_away(at, actions);
            done
        } else if bytes.starts_with(b"!wait") {
            self.pairs[at].obeyed = true;
            self.waiting.push(self.pairs[at].client);
            self.seen.waiting.fetch_add(1, Ordering::SeqCst);
            Some(Progress { consumed: 0, want: Want::Resume })
        } else {
            self.pairs[at].chats = bytes == b"!chat";
            None
        }
    }

    fn give_away(&mut self, at: usize, actions: &mut Actions<Mail>) {
        let parcel = Parcel {
            touched: false,
            pool: PoolKey::new("d", "u"),
            from: self.core,
            node: "n".into(),
            cluster: "c".into(),
            gate: None,
            pid: 1,
            secret: Secret::new(&[]),
            opened: Instant::START,
            expires: Instant::START,
            address: Address::Tcp(self.server),
            state: BTreeMap::new(),
            reported: BTreeMap::new(),
            base: BTreeMap::new(),
            startup: BTreeMap::new(),
            statements: Vec::new(),
            statement_next: 0,
            epoch: 0,
        };
        let Some(conn) = self.pairs[at].server.take() else { return };
        let mail = Box::new(Mail::Parcel(Box::new(parcel)));
        actions.push(Action::Surrender { conn, to: Core(1 - self.core.0), mail });
    }

    fn send_away(&mut self, at: usize, actions: &mut Actions<Mail>) -> Progress {
        let conn = self.pairs.swap_remove(at).client;
        let before = Some(Before { connected: Instant::START, refused_encryption: 0 });
        let entrance = Entrance { before, ..Entrance::default() };
        let mail = Box::new(Mail::Client { peer: Peer::Unix(0), entrance });
        actions.write(conn, |out| out.extend_from_slice(b"sent to the other core "));
        actions.push(Action::Surrender { conn, to: Core(1 - self.core.0), mail });
        Progress { consumed: 0, want: Want::Resume }
    }
}

impl World for Relay {
    fn accept(&mut self, _now: Instant, _peer: Peer, entrance: Entrance) -> ConnId {
        let client = self.take_slot(Side::Client);
        let (server, connected, obeyed, chats) = (None, false, false, false);
        self.pairs.push(Pair {
            client,
            server,
            connected,
            refused: entrance.refused,
            obeyed,
            chats,
            moved: entrance.before.is_some(),
            forwarded: 0,
        });
        client
    }

    fn adopt(&mut self, _now: Instant, _parcel: Parcel, actions: &mut Actions<Mail>) -> ConnId {
        let server = self.take_slot(Side::Server);
        self.adopted.push(server);
        self.seen.adopted.fetch_add(1, Ordering::SeqCst);
        actions.write(server, |out| out.extend_from_slice(b"adopted"));
        server
    }

    fn receive(
        &mut self,
        _now: Instant,
        conn: ConnId,
        bytes: &[u8],
        actions: &mut Actions<Mail>,
    ) -> Progress {
        let all = Progress { consumed: bytes.len(), want: Want::More };
        let ours = |pair: &Pair| pair.client == conn || pair.server == Some(conn);
        let Some(at) = self.pairs.iter().position(ours) else {
            self.seen.heard.fetch_add(bytes.len(), Ordering::SeqCst);
            return all;
        };
        if self.pairs[at].refused {
            actions.write(conn, |out| out.extend_from_slice(b"full"));
            self.part(conn, CloseMode::Flush, actions);
            return Progress { consumed: 0, want: Want::More };
        }
        if bytes.starts_with(b"!seat") && self.pairs[at].server.is_none() && !self.pairs[at].moved {
            return self.send_away(at, actions);
        }
        if self.pairs[at].chats && conn.side() == Side::Server {
            self.give_away(at, actions);
            return Progress { consumed: 0, want: Want::More };
        }
        if conn.side() == Side::Server {
            self.seen.answered.fetch_add(bytes.len(), Ordering::SeqCst);
            actions.forward(conn, self.pairs[at].client, 0, bytes.len());
            return all;
        }
        if self.pairs[at].server.is_none() {
            let server = self.take_slot(Side::Server);
            self.pairs[at].server = Some(server);
            let address = Address::Tcp(self.server);
            actions.push(Action::Connect { conn: server, address });
        }
        if !self.pairs[at].connected {
            return Progress { consumed: 0, want: Want::Resume };
        }
        if let Some(progress) = self.obey(at, bytes, actions) {
            return progress;
        }
        let Some(server) = self.pairs[at].server else { return all };
        // All but a few bytes, which are to be joined with the next ones.
        let forwarded = &mut self.pairs[at].forwarded;
        let rest = if bytes.len() > 1000 { (*forwarded + bytes.len()) % 8 } else { 0 };
        *forwarded += bytes.len() - rest;
        actions.forward(conn, server, 0, bytes.len() - rest);
        Progress { consumed: bytes.len() - rest, want: Want::More }
    }

    fn hears_out(&self, _conn: ConnId, _held: &[u8]) -> bool {
        false
    }

    fn handle(&mut self, _now: Instant, event: Event, actions: &mut Actions<Mail>) {
        match event {
            Event::Connected { conn } => {
                let ours = |pair: &&mut Pair| pair.server == Some(conn);
                if let Some(pair) = self.pairs.iter_mut().find(ours) {
                    pair.connected = true;
                    actions.push(Action::Resume(pair.client));
                }
            }
            Event::Ended { conn } => self.part(conn, CloseMode::Flush, actions),
            Event::Failed { conn, .. } => self.part(conn, CloseMode::Now, actions),
            Event::Stalled { quiet, .. } if quiet >= STALLED => {
                self.seen.stalled.fetch_add(1, Ordering::SeqCst);
            }
            Event::Closed { conn } => self.free_slot(conn),
            Event::Mail(Mail::Ask(1)) => {
                actions.list.extend(self.waiting.drain(..).map(Action::Resume));
            }
            Event::Mail(Mail::Ask(_)) => {
                for &conn in &self.adopted {
                    actions.push(Action::Close { conn, mode: CloseMode::Flush });
                }
            }
            Event::Mail(Mail::Order { .. }) => {
                self.seen.ordered.fetch_add(1, Ordering::SeqCst);
            }
            Event::Stalled { .. } | Event::Timeout | Event::Mail(_) => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
