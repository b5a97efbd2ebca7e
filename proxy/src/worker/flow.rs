//! What is queued goes out, and who sends faster than another one reads is paused.
//!
//! ```text
//!   A ──▶ lane ──▶ outbox of B ──▶ B        above HIGH: A is not fed and not received from
//!                                           below LOW:  A goes on
//! ```
//!
//! A pause belongs to the pair: it is lifted too when the lane parts the two, or B closes.

use crate::ring::socket::{Patience, reading, set_patience, shut_down};
use crate::ring::token::{Kind, Token};
use crate::worker::conn::{End, Phase, STREAM_ROUNDS};
use crate::worker::{SWEEP, Worker, World};
use pgring_logic::id::{ConnId, Side};
use pgring_logic::mail::Event;
use pgring_logic::time::Duration;
use std::net::Shutdown;
use std::os::fd::AsFd;

/// An outbox that keeps more memory than this pauses who fills it. What a receive had brought
/// before it was stopped comes on top; all in all at most 256 KiB wait for one reader.
const HIGH: usize = 128 * 1024;
/// One with more bytes than this is filled by a stream.
const STREAM: usize = 32 * 1024;
/// One with less lets it go on.
const LOW: usize = 48 * 1024;
/// A peer that has taken nothing for this long is looked at more closely.
const QUIET: Duration = Duration::from_secs(2);
/// How long a peer may go on talking after we have said our last.
const LINGER: Duration = Duration::from_secs(1);
/// How long a flush may take where the config sets no limit.
const FLUSH_MAX: Duration = Duration::from_secs(60);

impl<W: World> Worker<'_, W> {
    /// Bytes were queued for `to`, while `from` was shown.
    pub(super) fn queued(&mut self, to: ConnId, from: Option<ConnId>) {
        self.mark_dirty(to);
        self.stop_gathering(to);
        let Some(busy) = self.table.busy(to) else { return };
        let (heavy, waits) = (busy.outbox.weight() > HIGH, busy.outbox.in_flight());
        let long = busy.outbox.len() > STREAM;
        let Some(from) = from.filter(|_| heavy || long) else { return };
        if let Some(source) = self.table.get(from)
            && source.paused_by.is_none()
        {
            let streamed = std::mem::replace(&mut source.streams, STREAM_ROUNDS) > 0;
            // While a send waits for its reader, more of a stream gathers in the kernel than is
            // gained by fetching it piece by piece.
            let pauses = heavy || waits && streamed;
            if !pauses {
                return;
            }
            source.paused_by = Some(to);
            if let Some(busy) = self.table.busy(to) {
                busy.holds.push(from);
            }
        }
    }

    /// Has something to send at the end of this turn.
    pub(super) fn mark_dirty(&mut self, id: ConnId) {
        if let Some(conn) = self.table.get(id)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Asks the kernel to send what is queued, of each connection one send at a time. Where
    /// nobody waits for the end of a send, it is a hasty one; those who found no buffer wait for
    /// the buffers of all.
    pub(super) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(conn) = self.table.get(id) else { continue };
            conn.dirty = false;
            let sends = matches!(conn.phase, Phase::Open | Phase::Surrendering | Phase::Flushing);
            let (Some(fd), Some(busy)) = (&conn.fd, &mut conn.busy) else { continue };
            if !sends || busy.outbox.is_empty() || busy.outbox.in_flight() {
                continue;
            }
            let hasty = conn.phase == Phase::Open && busy.is_light() && self.starved.is_empty();
            let kind = if hasty { Kind::HastySend } else { Kind::Send };
            self.ring.send(fd.as_fd(), Token::of(kind, id), &mut busy.outbox);
            conn.ops += 1;
            conn.since = self.now;
            self.sweep.get_or_insert(self.now + SWEEP);
        }
        self.dirty = dirty;
    }

    /// A send has ended.
    pub(super) fn sent(&mut self, id: ConnId, result: Result<u32, i32>) {
        let Some(conn) = self.table.get(id) else { return };
        conn.ops -= 1;
        conn.since = self.now;
        let Some(busy) = &mut conn.busy else { return };
        let sent = result.map_or(0, |sent| usize::try_from(sent).unwrap_or(usize::MAX));
        busy.outbox.arrived(sent, &mut self.ring.buffers, &mut self.spare);
        if busy.patience == Patience::Long
            && let Some(fd) = &conn.fd
        {
            busy.patience = Patience::Short;
            set_patience(fd.as_fd(), Patience::Short);
        }
        if conn.phase == Phase::Closing {
            busy.outbox.clear(&mut self.ring.buffers, &mut self.spare);
            return self.try_close(id);
        }
        let (left, empty) = (busy.outbox.weight(), busy.outbox.is_empty());
        // A hasty send found no room; the next one waits for it.
        if let Err(errno) = result
            && errno != libc::EAGAIN
        {
            return self.break_off(id, errno);
        }
        if !empty {
            self.mark_dirty(id);
        }
        if left < LOW {
            self.let_go_on(id);
        }
        if empty {
            self.sent_all(id);
        }
        self.table.rest(id);
    }

    fn sent_all(&mut self, id: ConnId) {
        match self.table.get(id).map(|conn| conn.phase) {
            Some(Phase::Flushing) => self.linger(id),
            Some(Phase::Surrendering) => self.try_surrender(id),
            Some(
                Phase::Open | Phase::Connecting | Phase::Lingering | Phase::Closing | Phase::Free,
            )
            | None => {}
        }
    }

    /// Sending has failed. What the peer said before it left is still shown to the lane, and the
    /// failure only after that: it may be the answer that a client waits for.
    #[cold]
    fn break_off(&mut self, id: ConnId, errno: i32) {
        let Some(conn) = self.table.get(id) else { return };
        if let Some(busy) = &mut conn.busy {
            busy.outbox.clear(&mut self.ring.buffers, &mut self.spare);
        }
        if conn.phase != Phase::Open {
            return self.abort(id);
        }
        if conn.broken == 0 {
            conn.broken = errno;
        }
        match (conn.end, &conn.fd) {
            // Ends the receive after what has come, even if the peer stays. If none is armed,
            // because the connection is paused, or has no buffer, or the receive is being
            // cancelled, the next one ends so.
            (End::Not, Some(fd)) => shut_down(fd.as_fd(), Shutdown::Both),
            (End::Not, None) => conn.end = End::Failed(conn.broken),
            // What was told, or is kept back, was that it says no more; now it hears no more.
            (End::Finished | End::Behind, _) => {
                conn.end = End::Failed(conn.broken);
                conn.ended = false;
            }
            (End::Failed(_), _) => {}
        }
        self.let_go_on(id);
        self.feed_later(id);
    }

    /// Lifts the pauses that this connection is the cause of.
    pub(super) fn let_go_on(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        let Some(busy) = conn.busy.as_mut().filter(|busy| !busy.holds.is_empty()) else { return };
        let mut holds = std::mem::take(&mut busy.holds);
        for source in holds.drain(..) {
            if let Some(paused) = self.table.get(source)
                && paused.paused_by == Some(id)
            {
                paused.paused_by = None;
                self.feed_later(source);
            }
        }
        if let Some(busy) = self.table.busy(id) {
            busy.holds = holds;
        }
    }

    /// Lifts the pause that another connection holds on this one. What the other one has not taken
    /// is its own affair from now on: nothing more of it is heard until it has taken some, or each
    /// of its transactions would add to what waits for it.
    pub(super) fn unpair(&mut self, id: ConnId) {
        self.stop_gathering(id);
        let Some(conn) = self.table.get(id) else { return };
        conn.streams = 0;
        let Some(other) = conn.paused_by.filter(|&other| other != id) else { return };
        conn.paused_by = None;
        if let Some(conn) = self.table.get(other)
            && let Some(busy) = &mut conn.busy
        {
            busy.holds.retain(|&held| held != id);
            if busy.outbox.weight() > LOW && conn.paused_by.is_none() {
                conn.paused_by = Some(other);
                busy.holds.push(other);
                self.arm(other);
            }
        }
        self.feed_later(id);
    }

    /// Looks at connections whose peers take nothing.
    #[cold]
    pub(super) fn sweep_the_slow(&mut self) {
        let mut slow = Vec::new();
        self.table.slow(&mut slow);
        self.sweep = (!slow.is_empty()).then(|| self.now + SWEEP);
        for id in slow {
            self.sweep_one(id);
        }
    }

    fn sweep_one(&mut self, id: ConnId) {
        let limit = self.base.config.pool.client_write_timeout;
        let now = self.now;
        let Some(conn) = self.table.get(id) else { return };
        let quiet = now.since(conn.since);
        if conn.phase == Phase::Lingering {
            if quiet >= LINGER {
                self.abort(id);
            }
            return;
        }
        let (Some(fd), Some(busy)) = (&conn.fd, &mut conn.busy) else { return };
        if quiet < QUIET || !busy.outbox.in_flight() {
            return;
        }
        let reading = reading(fd.as_fd());
        if reading.gone {
            // The send in flight fails by this.
            conn.broken = libc::ETIMEDOUT;
            return shut_down(fd.as_fd(), Shutdown::Both);
        }
        if reading.shut && busy.patience == Patience::Short {
            busy.patience = Patience::Long;
            set_patience(fd.as_fd(), Patience::Long);
        }
        if reading.mark != busy.mark {
            busy.mark = reading.mark;
            conn.since = now;
        } else if conn.phase == Phase::Flushing {
            if quiet >= if limit.is_zero() { FLUSH_MAX } else { limit } {
                self.abort(id);
            }
        } else if id.side() == Side::Client {
            // Said again and again, until the lane has heard enough.
            self.events.push_back(Event::Stalled { conn: id, quiet });
        }
    }
}
