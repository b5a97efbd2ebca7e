//! From the lane to the network: what it asks for is done, in order.

use crate::mailbox::Letter;
use crate::ring::chunk::Chunk;
use crate::ring::socket::words;
use crate::ring::token::{Kind, Token};
use crate::worker::conn::Phase;
use crate::worker::{Worker, World};
use pgring_logic::action::{Action, Address, Level};
use pgring_logic::id::ConnId;
use pgring_logic::mail::{Event, Mail};
use std::os::fd::AsFd;

/// Bytes up to this length are copied rather than lent: that costs less than keeping a whole
/// buffer, and what pgring says itself goes out with them in one piece.
const COPY_MAX: usize = 512;
/// Buffers one outbox may hold; what comes then is copied.
const LEASES_MAX: u16 = 16;
/// The scratch keeps no more memory than this.
const SCRATCH_KEPT: usize = 64 * 1024;

impl<W: World> Worker<'_, W> {
    /// Does what the lane has asked for; `source` is what it was shown, if it was.
    pub(super) fn perform(&mut self, source: Option<(ConnId, &Chunk)>) {
        let mut list = std::mem::take(&mut self.actions.list);
        for action in list.drain(..) {
            self.act(action, source);
        }
        self.actions.list = list;
        self.actions.scratch.clear();
        self.actions.scratch.shrink_to(SCRATCH_KEPT);
    }

    fn act(&mut self, action: Action<Mail>, source: Option<(ConnId, &Chunk)>) {
        match action {
            Action::Forward { from, to, start, len } => {
                let shown = source.filter(|(id, _)| *id == from);
                let Some((_, chunk)) = shown else {
                    panic!("bytes of {from:?} are forwarded that it is not showing");
                };
                self.forward(chunk, (from, to), start, len);
            }
            Action::Write { to, start, len } => {
                let bytes = &self.actions.scratch[start..start + len];
                let sink = self.table.get(to).is_some_and(|conn| conn.is_sink());
                if sink && let Some(busy) = self.table.busy(to) {
                    busy.outbox.append(bytes, &mut self.spare);
                    self.queued(to, source.map(|(from, _)| from));
                }
            }
            Action::Resume(conn) => self.resume(conn),
            Action::Unpair(conn) => self.unpair(conn),
            Action::Connect { conn, address } => self.connect(conn, &address),
            Action::Close { conn, mode } => self.close(conn, mode),
            Action::Surrender { conn, to, mail } => self.surrender(conn, (to, mail)),
            Action::Post { to, mail } => self.base.post(to, Letter::Mail(*mail)),
            Action::Tell(mail) => {
                self.tally.outgoing(&mail);
                self.base.tell(*mail);
            }
            Action::Note { level, text } => self.note(level, &text),
        }
    }

    fn forward(&mut self, chunk: &Chunk, (from, to): (ConnId, ConnId), start: usize, len: usize) {
        assert!(start + len <= chunk.len(), "bytes are forwarded that were not shown");
        if !self.table.get(to).is_some_and(|conn| conn.is_sink()) {
            return;
        }
        let Some(busy) = self.table.busy(to) else { return };
        let buffers = &mut self.ring.buffers;
        match chunk {
            Chunk::Lent { lease, start: base, .. }
                if len > COPY_MAX
                    && busy.outbox.leases() < LEASES_MAX
                    && !buffers.scarce(lease) =>
            {
                let part = |number| u32::try_from(number).unwrap_or(u32::MAX);
                busy.outbox.lend(buffers.share(lease), base + part(start), part(len));
            }
            Chunk::Lent { .. } | Chunk::Own { .. } => {
                let bytes = &chunk.bytes(buffers)[start..start + len];
                busy.outbox.append(bytes, &mut self.spare);
            }
        }
        self.queued(to, Some(from));
    }

    fn resume(&mut self, id: ConnId) {
        if let Some(conn) = self.table.get(id)
            && conn.waiting
        {
            conn.waiting = false;
            self.feed_later(id);
        }
    }

    #[cold]
    fn connect(&mut self, id: ConnId, address: &Address) {
        self.tally.opened();
        match self.base.dialer.dial(address) {
            Ok((fd, to)) => {
                self.ring.connect(fd.as_fd(), Token::of(Kind::Connect, id), to);
                self.table.open(id, Some(fd), (Phase::Connecting, self.now)).ops += 1;
            }
            Err(why) => {
                self.table.open(id, None, (Phase::Open, self.now)).ended = true;
                let reason = why.raw_os_error().map_or_else(|| why.to_string(), words);
                self.events.push_back(Event::Failed { conn: id, reason });
            }
        }
    }

    /// The kernel has connected a server, or has not.
    #[cold]
    pub(super) fn connected(&mut self, id: ConnId, result: Result<u32, i32>) {
        let Some(conn) = self.table.get(id) else { return };
        conn.ops -= 1;
        if conn.phase != Phase::Connecting {
            return self.try_close(id);
        }
        conn.phase = Phase::Open;
        match result {
            Ok(_) => {
                self.events.push_back(Event::Connected { conn: id });
                self.arm(id);
                self.mark_dirty(id);
            }
            Err(errno) => {
                conn.ended = true;
                conn.broken = errno;
                self.events.push_back(Event::Failed { conn: id, reason: words(errno) });
            }
        }
    }

    #[cold]
    fn note(&self, level: Level, text: &str) {
        let core = self.base.core.0;
        match level {
            Level::Debug => tracing::debug!(core, "{text}"),
            Level::Info => tracing::info!(core, "{text}"),
            Level::Warn => tracing::warn!(core, "{text}"),
            Level::Error => tracing::error!(core, "{text}"),
        }
    }
}
