//! A connection as its driver sees it, and the table of all of them.
//!
//! An idle connection is one small entry in the table and holds no memory besides. What only a
//! busy one needs is a [`Busy`], lent from a stock while there is something to hold.

use crate::mailbox::seats::Seat;
use crate::ring::buffers::Buffers;
use crate::ring::chunk::{Chunk, PIECE_SIZE, Spare};
use crate::ring::outbox::Outbox;
use crate::ring::socket::Patience;
use crate::ring::token::Token;
use pgring_logic::id::{ConnId, Core, Side};
use pgring_logic::mail::Mail;
use pgring_logic::time::{Duration, Instant};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// Buffers that input of one connection may hold while it waits; what comes then is copied.
const HELD_LEASES_MAX: usize = 16;
/// Input that waits for longer than it takes to come stops coming at this many bytes.
const HELD_MAX: usize = 64 * 1024;
/// Receives that bring little until a stream is taken for one no longer.
pub(super) const STREAM_ROUNDS: u8 = 4;
/// Stock of memory for busy connections.
const STOCK_MAX: usize = 1024;

/// Where a connection is on its way.
///
/// ```text
///   Free ─▶ Connecting ─▶ Open ─▶ Flushing ─▶ Lingering ─▶ Closing ─▶ Free
///                          │                                  ▲
///                          └────────▶ Surrendering ───────────┘
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Nobody's.
    Free,
    /// The kernel is connecting it.
    Connecting,
    /// The lane's.
    Open,
    /// It leaves for another lane once the kernel has ended what it was doing.
    Surrendering,
    /// The lane is done with it; what is queued is still sent, what comes is not looked at.
    Flushing,
    /// Everything is sent and we have said so; the peer may still be talking. Closing at once
    /// would make the kernel tell it "reset", which may overtake what we said last.
    Lingering,
    /// Nothing more is sent; closed when the kernel has ended what it was doing.
    Closing,
}

/// How receiving ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// It has not.
    Not,
    /// The peer said so.
    Finished,
    /// The same, and the lane is shown all that came before it first, for which it waits.
    Behind,
    /// With this error.
    Failed(i32),
}

/// One connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, all may be true")]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) fd: Option<OwnedFd>,
    pub(super) phase: Phase,
    /// Operations the kernel has.
    pub(super) ops: u8,
    /// A receive among them.
    pub(super) receiving: bool,
    /// It is being cancelled.
    pub(super) stopping: bool,
    /// It streams: received from one large buffer at a time, because a multishot receive brings a
    /// quarter of a MiB in small ones before it can be stopped. So many receives in a row must
    /// bring little until it does not; 0: it does not.
    pub(super) streams: u8,
    /// Woken for only when a large buffer can be filled (`gather`).
    pub(super) gathers: bool,
    /// Bytes that have come since it was last sent something.
    pub(super) rush: u32,
    /// Since when they came; while it gathers, since when a buffer full is waited for.
    pub(super) rush_since: Instant,
    /// How long a buffer full is waited for.
    pub(super) gather_max: Duration,
    /// The receive is of one buffer.
    pub(super) once: bool,
    /// It may be a large one.
    pub(super) large: bool,
    /// The receive found no buffer; it is armed again when there is one.
    pub(super) starved: bool,
    /// The lane wants to see nothing before `Resume`.
    pub(super) waiting: bool,
    /// So much waits that no more is received.
    pub(super) full: bool,
    /// Among the connections to feed.
    pub(super) queued: bool,
    /// Among the connections to flush.
    pub(super) dirty: bool,
    /// The lane knows that it ended.
    pub(super) ended: bool,
    pub(super) end: End,
    /// The error that sending ended with; 0: none.
    pub(super) broken: i32,
    /// Not fed and not received from, because this one's outbox is too full.
    pub(super) paused_by: Option<ConnId>,
    /// When its peer last took something, or when it began to linger.
    pub(super) since: Instant,
    pub(super) seat: Option<Seat>,
    pub(super) busy: Option<Box<Busy>>,
}

/// What a connection has while something waits.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    /// Paused because of this one.
    pub(super) holds: Vec<ConnId>,
    /// Where it is to go, with what.
    pub(super) surrender: Option<(Core, Box<Mail>)>,
    /// How far its peer was when it was last looked at.
    pub(super) mark: u64,
    pub(super) patience: Patience,
}

impl Default for Busy {
    fn default() -> Self {
        Self {
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            holds: Vec::new(),
            surrender: None,
            mark: 0,
            patience: Patience::Short,
        }
    }
}

impl Busy {
    /// Nobody waits for what is queued here to be sent, and it will be sent in one go.
    pub(super) fn is_light(&self) -> bool {
        self.holds.is_empty() && self.patience == Patience::Short && self.outbox.is_light()
    }

    fn is_idle(&self) -> bool {
        self.inbox.chunks.is_empty()
            && self.outbox.is_empty()
            && self.holds.is_empty()
            && self.surrender.is_none()
            && self.patience == Patience::Short
    }
}

/// Received bytes the lane is not done with.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    chunks: VecDeque<Chunk>,
    len: usize,
    leases: usize,
    /// The first chunk has been shown, and the lane wants it joined with more.
    rest: bool,
}

impl Inbox {
    /// Nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// There is something the lane has not seen.
    pub(super) fn is_fresh(&self) -> bool {
        self.chunks.len() > usize::from(self.rest)
    }

    /// Puts what has come behind the rest.
    pub(super) fn push(&mut self, chunk: Chunk, buffers: &mut Buffers, spare: &mut Spare) {
        self.len += chunk.len();
        if let Chunk::Lent { lease, .. } = &chunk
            && self.leases < HELD_LEASES_MAX
            && !buffers.scarce(lease)
        {
            self.leases += 1;
            self.chunks.push_back(chunk);
            return;
        }
        if let Some(Chunk::Own { data, .. }) = self.chunks.back_mut()
            && data.len() + chunk.len() <= PIECE_SIZE
        {
            data.extend_from_slice(chunk.bytes(buffers));
            chunk.release(buffers, spare);
            self.rest &= self.chunks.len() > 1;
            return;
        }
        self.chunks.push_back(chunk.into_own(buffers, spare));
    }

    /// Puts back what the lane has left of what it was shown.
    pub(super) fn put_back(
        &mut self,
        chunk: Chunk,
        (waiting, buffers, spare): (bool, &mut Buffers, &mut Spare),
    ) {
        self.len += chunk.len();
        // A rest is joined, so it is copied sooner or later; and nobody knows when more comes.
        let scarce = matches!(&chunk, Chunk::Lent { lease, .. } if buffers.scarce(lease));
        let copy = !waiting || scarce;
        let chunk = if copy { chunk.into_own(buffers, spare) } else { chunk };
        self.leases += usize::from(matches!(chunk, Chunk::Lent { .. }));
        self.chunks.push_front(chunk);
        self.rest = !waiting;
    }

    /// What the lane is to be shown next.
    pub(super) fn take(&mut self, buffers: &mut Buffers, spare: &mut Spare) -> Option<Chunk> {
        if !self.is_fresh() {
            return None;
        }
        let first = self.pop()?;
        if !std::mem::take(&mut self.rest) {
            return Some(first);
        }
        let next = self.pop()?;
        Some(first.join(next, buffers, spare))
    }

    /// Takes out everything.
    pub(super) fn empty(&mut self, buffers: &mut Buffers, spare: &mut Spare) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len);
        while let Some(chunk) = self.pop() {
            all.extend_from_slice(chunk.bytes(buffers));
            chunk.release(buffers, spare);
        }
        self.rest = false;
        all
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, buffers: &mut Buffers, spare: &mut Spare) {
        while let Some(chunk) = self.pop() {
            chunk.release(buffers, spare);
        }
        self.rest = false;
    }

    fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.len -= chunk.len();
        self.leases -= usize::from(matches!(chunk, Chunk::Lent { .. }));
        Some(chunk)
    }
}

impl Conn {
    const fn free() -> Self {
        Self {
            id: ConnId::new(Side::Client, 0, 0),
            fd: None,
            phase: Phase::Free,
            ops: 0,
            receiving: false,
            stopping: false,
            streams: 0,
            gathers: false,
            rush: 0,
            rush_since: Instant::START,
            gather_max: Duration::ZERO,
            once: false,
            large: false,
            starved: false,
            waiting: false,
            full: false,
            queued: false,
            dirty: false,
            ended: false,
            end: End::Not,
            broken: 0,
            paused_by: None,
            since: Instant::START,
            seat: None,
            busy: None,
        }
    }

    /// Bytes may be shown to the lane.
    pub(super) fn is_fed(&self) -> bool {
        self.phase == Phase::Open && !self.waiting && self.paused_by.is_none()
    }

    /// Bytes may be queued.
    pub(super) fn is_sink(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting) && self.broken == 0
    }

    /// A receive should be armed.
    pub(super) fn wants_input(&self) -> bool {
        let wanted = match self.phase {
            Phase::Open => self.paused_by.is_none() && !self.full && !self.ended,
            Phase::Flushing | Phase::Lingering => true,
            Phase::Free | Phase::Connecting | Phase::Surrendering | Phase::Closing => false,
        };
        wanted && self.end == End::Not && self.fd.is_some()
    }

    /// The lane has not seen all that came.
    pub(super) fn is_fresh(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.inbox.is_fresh())
    }

    /// Something is queued to be sent, or being sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| !busy.outbox.is_empty())
    }

    /// Sees whether too much input waits, or no longer.
    pub(super) fn weigh(&mut self) {
        let held = self.busy.as_ref().map_or(0, |busy| busy.inbox.len);
        let standing = self.waiting || self.paused_by.is_some();
        if standing && held > HELD_MAX {
            self.full = true;
        } else if !standing || held < HELD_MAX / 4 {
            // What it holds now is the beginning of a message whose rest it needs.
            self.full = false;
        }
    }
}

/// All connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Table {
    clients: Vec<Conn>,
    servers: Vec<Conn>,
    #[expect(clippy::vec_box, reason = "they move between here and the connections as boxes")]
    stock: Vec<Box<Busy>>,
}

impl Table {
    /// Whom a completion belongs to.
    pub(super) fn owner(token: Token) -> ConnId {
        let side = if token.slot() & 1 == 0 { Side::Client } else { Side::Server };
        ConnId::new(side, token.slot() >> 1, token.generation())
    }

    /// Begins a life of a slot.
    pub(super) fn open(
        &mut self,
        id: ConnId,
        fd: Option<OwnedFd>,
        (phase, now): (Phase, Instant),
    ) -> &mut Conn {
        let list = match id.side() {
            Side::Client => &mut self.clients,
            Side::Server => &mut self.servers,
        };
        if list.len() <= id.index() {
            list.resize_with(id.index() + 1, Conn::free);
        }
        let conn = &mut list[id.index()];
        assert_eq!(conn.phase, Phase::Free, "a slot begins its next life after its last (I4)");
        *conn = Conn { id, fd, phase, since: now, ..Conn::free() };
        conn
    }

    /// Ends it.
    pub(super) fn free(&mut self, id: ConnId) {
        if let Some(conn) = self.get(id) {
            assert_eq!(conn.ops, 0, "the kernel still has something of this slot (I4)");
            *conn = Conn::free();
        }
    }

    /// This life of this slot, if it is still that one.
    #[inline]
    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        find(&mut self.clients, &mut self.servers, id)
    }

    /// Memory for what waits on this connection.
    pub(super) fn busy(&mut self, id: ConnId) -> Option<&mut Busy> {
        let stock = &mut self.stock;
        let conn = find(&mut self.clients, &mut self.servers, id)?;
        Some(conn.busy.get_or_insert_with(|| stock.pop().unwrap_or_default()))
    }

    /// Takes the memory back if nothing waits.
    pub(super) fn rest(&mut self, id: ConnId) {
        let Some(conn) = find(&mut self.clients, &mut self.servers, id) else { return };
        if conn.busy.as_ref().is_some_and(|busy| busy.is_idle())
            && let Some(mut busy) = conn.busy.take()
            && self.stock.len() < STOCK_MAX
        {
            busy.mark = 0;
            self.stock.push(busy);
        }
    }

    /// Those of which something waits to be sent, or that linger.
    pub(super) fn slow(&self, list: &mut Vec<ConnId>) {
        let all = self.clients.iter().chain(&self.servers);
        let slow = all.filter(|conn| conn.has_unsent() || conn.phase == Phase::Lingering);
        list.extend(slow.map(|conn| conn.id));
    }
}

fn find<'a>(clients: &'a mut [Conn], servers: &'a mut [Conn], id: ConnId) -> Option<&'a mut Conn> {
    let list = match id.side() {
        Side::Client => clients,
        Side::Server => servers,
    };
    list.get_mut(id.index()).filter(|conn| conn.id == id && conn.phase != Phase::Free)
}

#[cfg(test)]
mod tests {
    use super::{Busy, Conn, Inbox, Phase, Table};
    use crate::ring::buffers::Buffers;
    use crate::ring::chunk::{Chunk, Spare};
    use pgring_logic::id::{ConnId, Side};
    use pgring_logic::time::Instant;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 112, "{}", size_of::<Conn>());
        assert!(size_of::<Busy>() <= 256, "{}", size_of::<Busy>());
    }

    #[test]
    fn a_rest_is_shown_again_only_with_more() {
        let (mut buffers, mut spare) = (Buffers::new(8).unwrap(), Spare::default());
        let mut inbox = Inbox::default();
        let rest = Chunk::Lent { lease: buffers.filled(0), start: 0, len: 3 };
        inbox.put_back(rest, (false, &mut buffers, &mut spare));
        assert!(!inbox.is_fresh() && inbox.take(&mut buffers, &mut spare).is_none());
        let more = Chunk::Lent { lease: buffers.filled(1), start: 0, len: 4 };
        inbox.push(more, &mut buffers, &mut spare);
        let joined = inbox.take(&mut buffers, &mut spare).unwrap();
        assert_eq!((joined.len(), buffers.free()), (7, 8));
        assert!(inbox.is_empty() && inbox.len == 0 && inbox.leases == 0);
    }

    #[test]
    fn tiny_pieces_of_waiting_input_do_not_hold_all_buffers() {
        let (mut buffers, mut spare) = (Buffers::new(64).unwrap(), Spare::default());
        let mut inbox = Inbox::default();
        for _ in 0..1000 {
            buffers.publish();
            let chunk = Chunk::Lent { lease: buffers.filled(63), start: 0, len: 1 };
            let held = inbox.leases;
            inbox.push(chunk.into_own(&mut buffers, &mut spare), &mut buffers, &mut spare);
            assert!(inbox.leases == held, "a copy is no lease");
        }
        assert!(inbox.chunks.len() < 10, "{}", inbox.chunks.len());
        inbox.clear(&mut buffers, &mut spare);
        assert_eq!((inbox.len, buffers.free()), (0, 64));
    }

    #[test]
    fn who_is_shown_half_of_a_long_message_is_received_from_until_it_is_whole() {
        let (mut buffers, mut spare) = (Buffers::new(8).unwrap(), Spare::default());
        let mut table = Table::default();
        let (id, (ours, _theirs)) =
            (ConnId::new(Side::Client, 0, 0), std::os::unix::net::UnixStream::pair().unwrap());
        table.open(id, Some(ours.into()), (Phase::Open, Instant::START)).waiting = true;
        let mut hold = |table: &mut Table, len: usize| {
            let mut chunk = spare.memory(len);
            chunk.resize(len, 0);
            let inbox = &mut table.busy(id).unwrap().inbox;
            inbox.push(Chunk::Own { data: chunk, start: 0 }, &mut buffers, &mut spare);
        };
        hold(&mut table, 70 * 1024);
        let conn = table.get(id).unwrap();
        conn.weigh();
        assert!(!conn.wants_input(), "enough waits");
        // It was shown, and 40 KiB were left: the beginning of a Query.
        conn.waiting = false;
        conn.busy = None;
        hold(&mut table, 40 * 1024);
        let conn = table.get(id).unwrap();
        conn.weigh();
        assert!(conn.wants_input(), "the rest would never come");
    }

    #[test]
    #[should_panic(expected = "I4")]
    fn a_slot_that_lives_is_not_given_to_another() {
        let mut table = Table::default();
        let phase = (Phase::Open, Instant::START);
        table.open(ConnId::new(Side::Client, 0, 0), None, phase);
        table.open(ConnId::new(Side::Client, 0, 1), None, phase);
    }
}
