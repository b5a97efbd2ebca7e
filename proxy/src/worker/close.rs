//! How a connection ends: flushed, dropped, or handed to another lane.
//!
//! The kernel is never surprised. A descriptor is closed, and a slot used again, only after the
//! last completion of everything that was asked of the kernel for it (invariant I4).

use crate::mailbox::Letter;
use crate::ring::socket::shut_down;
use crate::ring::token::{Kind, Token};
use crate::worker::conn::{End, Phase};
use crate::worker::{SWEEP, Worker, World};
use pgring_logic::action::CloseMode;
use pgring_logic::id::{ConnId, Core};
use pgring_logic::mail::{Event, Mail};
use std::net::Shutdown;
use std::os::fd::AsFd;

impl<W: World> Worker<'_, W> {
    /// The lane is done with a connection.
    #[cold]
    pub(super) fn close(&mut self, id: ConnId, mode: CloseMode) {
        self.let_go_on(id);
        self.drop_input(id);
        let Some(conn) = self.table.get(id) else { return };
        match (conn.phase, mode) {
            (Phase::Open, CloseMode::Flush) if conn.broken == 0 && conn.fd.is_some() => {
                conn.phase = Phase::Flushing;
                if conn.has_unsent() {
                    self.arm(id);
                } else {
                    self.linger(id);
                }
            }
            (Phase::Flushing | Phase::Lingering, CloseMode::Flush) | (Phase::Closing, _) => {}
            (
                Phase::Free
                | Phase::Connecting
                | Phase::Open
                | Phase::Surrendering
                | Phase::Flushing
                | Phase::Lingering,
                CloseMode::Flush | CloseMode::Now,
            ) => self.abort(id),
        }
    }

    /// Everything is said: tells the peer so and waits for its end, but not for long.
    #[cold]
    pub(super) fn linger(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        conn.phase = Phase::Lingering;
        conn.since = self.now;
        if let Some(fd) = &conn.fd {
            shut_down(fd.as_fd(), Shutdown::Write);
        }
        self.sweep.get_or_insert(self.now + SWEEP);
        self.arm(id);
        self.heard_out(id);
    }

    /// Closes a connection of which nothing more is awaited.
    #[cold]
    pub(super) fn heard_out(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        let silent = match conn.end {
            End::Not => false,
            End::Finished | End::Behind => conn.phase == Phase::Lingering,
            End::Failed(_) => true,
        };
        if silent {
            self.abort(id);
        }
    }

    /// Drops what is queued, ends what the kernel is doing, and closes.
    #[cold]
    pub(super) fn abort(&mut self, id: ConnId) {
        self.let_go_on(id);
        self.drop_input(id);
        let Some(conn) = self.table.get(id) else { return };
        if conn.phase == Phase::Closing {
            return;
        }
        let connecting = conn.phase == Phase::Connecting;
        conn.phase = Phase::Closing;
        let mut sending = false;
        let mut surrender = None;
        if let Some(busy) = &mut conn.busy {
            busy.outbox.clear(&mut self.ring.buffers, &mut self.spare);
            sending = busy.outbox.in_flight();
            surrender = busy.surrender.take();
        }
        let receiving = conn.receiving && !conn.stopping;
        conn.stopping |= receiving;
        let tasks =
            [(Kind::Connect, connecting), (Kind::Send, sending), (Kind::Receive, receiving)];
        for (kind, _) in tasks.into_iter().filter(|(_, in_flight)| *in_flight) {
            conn.ops += 1;
            self.ring.cancel(Token::of(kind, id), Token::of(Kind::Cancel, id));
        }
        if let Some((_, mail)) = surrender {
            self.fail_surrender(*mail);
        }
        self.try_close(id);
    }

    /// Closes the descriptor if the kernel has ended everything else.
    #[cold]
    pub(super) fn try_close(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        if conn.phase != Phase::Closing || conn.ops > 0 {
            return;
        }
        match conn.fd.take() {
            Some(fd) => {
                conn.ops += 1;
                self.ring.close(fd, Token::of(Kind::Close, id));
            }
            None => self.forget(id),
        }
    }

    /// The kernel has cancelled something of a connection, or has not found it.
    #[cold]
    pub(super) fn cancelled(&mut self, id: ConnId, result: Result<u32, i32>) {
        let Some(conn) = self.table.get(id) else { return };
        conn.ops -= 1;
        // Not found: it is ending by itself, or the kernel was between two rounds of it.
        if result.is_err() {
            conn.stopping = false;
        }
        match conn.phase {
            Phase::Closing => {
                // Whatever it was, this ends it.
                if let (Err(_), true, Some(fd)) = (result, conn.ops > 0, &conn.fd) {
                    shut_down(fd.as_fd(), Shutdown::Both);
                }
                self.try_close(id);
            }
            Phase::Surrendering => {
                self.arm(id);
                self.try_surrender(id);
            }
            Phase::Free | Phase::Connecting | Phase::Open | Phase::Flushing | Phase::Lingering => {}
        }
    }

    /// The descriptor is closed.
    #[cold]
    pub(super) fn let_go(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        conn.ops -= 1;
        self.forget(id);
    }

    /// Ends the life of the slot.
    fn forget(&mut self, id: ConnId) {
        self.drop_input(id);
        self.table.rest(id);
        self.table.free(id);
        self.events.push_back(Event::Closed { conn: id });
    }

    fn drop_input(&mut self, id: ConnId) {
        if let Some(conn) = self.table.get(id)
            && let Some(busy) = &mut conn.busy
        {
            busy.inbox.clear(&mut self.ring.buffers, &mut self.spare);
        }
    }

    /// The lane gives a server away, or a client that it has not let in.
    #[cold]
    pub(super) fn surrender(&mut self, id: ConnId, (to, mail): (Core, Box<Mail>)) {
        let open = self.table.get(id).is_some_and(|conn| conn.phase == Phase::Open);
        let Some(busy) = self.table.busy(id).filter(|_| open) else {
            return self.fail_surrender(*mail);
        };
        let client = matches!(*mail, Mail::Client { .. });
        busy.surrender = Some((to, mail));
        // Where it goes, nobody knows that it is woken for large pieces only.
        self.stop_gathering(id);
        self.let_go_on(id);
        if let Some(conn) = self.table.get(id) {
            conn.phase = Phase::Surrendering;
            conn.paused_by = None;
        }
        self.arm(id);
        if client {
            // What it is showing just now goes with it, once that is back where the rest waits.
            self.feed_later(id);
        } else {
            self.try_surrender(id);
        }
    }

    /// Hands a connection over if the kernel has ended everything; closes a server that has said
    /// something meanwhile, because nobody knows what that would have meant.
    #[cold]
    pub(super) fn try_surrender(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        if conn.phase != Phase::Surrendering {
            return;
        }
        let Some(busy) = &mut conn.busy else { return };
        let failed = matches!(conn.end, End::Failed(_)) || conn.broken != 0;
        let client =
            matches!(&busy.surrender, Some((_, mail)) if matches!(**mail, Mail::Client { .. }));
        // A client that has said all it has to say ends there as it would here.
        let quiet = conn.end == End::Not && busy.inbox.is_empty();
        if failed || !(client || quiet) {
            return self.abort(id);
        }
        if conn.ops > 0 || !busy.outbox.is_empty() {
            return;
        }
        let Some((to, mail)) = busy.surrender.take() else { return };
        match (*mail, conn.fd.take()) {
            (Mail::Parcel(parcel), Some(fd)) => {
                self.tally.surrendered(&parcel.pool);
                self.base.post(to, Letter::Server { fd, parcel });
                self.forget(id);
            }
            (Mail::Client { peer, entrance }, Some(fd)) => {
                let said = busy.inbox.empty(&mut self.ring.buffers, &mut self.spare);
                let seat = conn.seat.take().map(|seat| seat.reserved(to));
                self.base.post(to, Letter::NewClient { fd, peer, entrance, seat, said });
                self.forget(id);
            }
            (mail, fd) => {
                conn.fd = fd;
                self.fail_surrender(mail);
                self.abort(id);
            }
        }
    }

    /// A server does not arrive; its permit is free again.
    fn fail_surrender(&mut self, mail: Mail) {
        if let Mail::Parcel(parcel) = mail {
            let (pool, core) = (parcel.pool, self.base.core);
            let mail = Mail::Returned { pool, core, count: 1 };
            self.tally.outgoing(&mail);
            self.base.tell(mail);
        }
    }
}
