//! From the network to the lane: what has come is shown in order, until the lane waits.

use crate::ring::Completion;
use crate::ring::buffers::BUFFER_SIZE;
use crate::ring::chunk::Chunk;
use crate::ring::socket::words;
use crate::ring::token::{Kind, Token};
use crate::worker::conn::{End, Phase, STREAM_ROUNDS, Table};
use crate::worker::{Worker, World};
use pgring_logic::action::Want;
use pgring_logic::id::ConnId;
use pgring_logic::mail::Event;
use std::os::fd::AsFd;

impl<W: World> Worker<'_, W> {
    /// A receive has brought something, or has ended.
    pub(super) fn received(&mut self, completion: Completion) {
        let id = Table::owner(completion.token);
        let chunk = match (completion.lease, completion.result) {
            (Some(lease), Ok(0) | Err(_)) => {
                self.ring.buffers.release(lease);
                None
            }
            (Some(lease), Ok(len)) => Some(Chunk::Lent { lease, start: 0, len }),
            (None, _) => None,
        };
        let Some(conn) = self.table.get(id) else {
            return self.drop_chunk(chunk);
        };
        if !completion.more {
            conn.ops -= 1;
            conn.receiving = false;
            conn.stopping = false;
            let large = std::mem::take(&mut conn.large);
            if large {
                self.ring.buffers.end_large();
            }
            match completion.result {
                // The small ones will do.
                Err(libc::ENOBUFS) if large => conn.streams = 0,
                Err(libc::ENOBUFS) if !conn.starved => {
                    self.ring.buffers.ran_short();
                    conn.starved = true;
                    self.starved.push_back(id);
                }
                Err(libc::ENOBUFS | libc::ECANCELED | libc::EINTR) => {}
                Ok(0) | Err(_) if conn.broken != 0 => conn.end = End::Failed(conn.broken),
                Ok(0) => conn.end = End::Finished,
                Err(errno) => conn.end = End::Failed(errno),
                Ok(len) if conn.once && len as usize >= 2 * BUFFER_SIZE => {
                    conn.streams = STREAM_ROUNDS;
                }
                // So little waited that the small ones do.
                Ok(_) if conn.once => conn.streams = conn.streams.saturating_sub(1),
                Ok(_) => {}
            }
        }
        match conn.phase {
            Phase::Open => {
                if let Some(chunk) = &chunk {
                    let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
                    if conn.rushes(self.now, len) {
                        self.gather(id);
                    }
                }
                self.arrived(id, chunk);
            }
            Phase::Surrendering => {
                if let Some(chunk) = chunk {
                    self.hold(id, chunk);
                }
                self.try_surrender(id);
            }
            Phase::Flushing | Phase::Lingering => {
                self.drop_chunk(chunk);
                self.heard_out(id);
                self.arm(id);
            }
            Phase::Closing | Phase::Connecting | Phase::Free => {
                self.drop_chunk(chunk);
                self.try_close(id);
            }
        }
    }

    /// Shows the lane what has come for an open connection, or keeps it.
    fn arrived(&mut self, id: ConnId, chunk: Option<Chunk>) {
        let Some(conn) = self.table.get(id) else { return self.drop_chunk(chunk) };
        let direct = conn.is_fed() && conn.busy.as_ref().is_none_or(|busy| busy.inbox.is_empty());
        match chunk {
            Some(chunk) if direct => self.show(id, chunk),
            Some(chunk) => self.hold(id, chunk),
            None => {}
        }
        self.feed(id);
    }

    /// Shows the lane what waits, as far as it wants to see it.
    pub(super) fn feed(&mut self, id: ConnId) {
        while let Some(conn) = self.table.get(id).filter(|conn| conn.is_fed()) {
            let Some(busy) = &mut conn.busy else { break };
            let Some(chunk) = busy.inbox.take(&mut self.ring.buffers, &mut self.spare) else {
                break;
            };
            self.show(id, chunk);
        }
        let Some(conn) = self.table.get(id) else { return };
        conn.weigh();
        // The end comes after all that came before it, unless the lane does not want to see that.
        let (fresh, leaves) = (conn.is_fresh(), conn.phase == Phase::Surrendering);
        let seen = conn.waiting || !fresh;
        if conn.phase == Phase::Open && !conn.ended && seen {
            match conn.end {
                // It may hold so much that no more is received, so its end is not awaited.
                End::Not if conn.waiting && conn.broken != 0 => {
                    conn.ended = true;
                    let reason = words(conn.broken);
                    self.events.push_back(Event::Failed { conn: id, reason });
                }
                End::Not => {}
                End::Behind if fresh => {}
                End::Finished if fresh => self.hear_out(id),
                End::Finished | End::Behind => {
                    conn.ended = true;
                    self.events.push_back(Event::Ended { conn: id });
                }
                End::Failed(errno) => {
                    conn.ended = true;
                    self.events.push_back(Event::Failed { conn: id, reason: words(errno) });
                }
            }
        }
        self.table.rest(id);
        self.arm(id);
        if leaves {
            self.try_surrender(id);
        }
    }

    /// The peer has said its last while the lane waits. Whether that is shown all that came before
    /// or told at once is for the lane to say, who is asked once: no more will come.
    #[cold]
    fn hear_out(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        let Some(busy) = &mut conn.busy else { return };
        let data = busy.inbox.empty(&mut self.ring.buffers, &mut self.spare);
        if self.world.hears_out(id, &data) {
            conn.end = End::Behind;
        } else {
            conn.ended = true;
            self.events.push_back(Event::Ended { conn: id });
        }
        let held = Chunk::Own { data, start: 0 };
        busy.inbox.push(held, &mut self.ring.buffers, &mut self.spare);
    }

    /// Shows one chunk and does what the lane asks for.
    fn show(&mut self, id: ConnId, mut chunk: Chunk) {
        let bytes = chunk.bytes(&self.ring.buffers);
        let progress = self.world.receive(self.now, id, bytes, &mut self.actions);
        assert!(progress.consumed <= bytes.len(), "the lane is done with more than it saw");
        let waiting = progress.want == Want::Resume;
        if let Some(conn) = self.table.get(id) {
            conn.waiting = waiting;
        }
        self.perform(Some((id, &chunk)));
        chunk.advance(progress.consumed);
        let kept = !chunk.is_empty()
            && self
                .table
                .get(id)
                .is_some_and(|conn| matches!(conn.phase, Phase::Open | Phase::Surrendering));
        if kept && let Some(busy) = self.table.busy(id) {
            let memory = (waiting, &mut self.ring.buffers, &mut self.spare);
            busy.inbox.put_back(chunk, memory);
        } else {
            chunk.release(&mut self.ring.buffers, &mut self.spare);
        }
    }

    /// Keeps what the lane does not want to see yet.
    pub(super) fn hold(&mut self, id: ConnId, chunk: Chunk) {
        match self.table.busy(id) {
            Some(busy) => busy.inbox.push(chunk, &mut self.ring.buffers, &mut self.spare),
            None => chunk.release(&mut self.ring.buffers, &mut self.spare),
        }
    }

    fn drop_chunk(&mut self, chunk: Option<Chunk>) {
        if let Some(chunk) = chunk {
            chunk.release(&mut self.ring.buffers, &mut self.spare);
        }
    }

    /// Sees that the connection is received from exactly if it should be.
    pub(super) fn arm(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        let wanted = conn.wants_input();
        if wanted && !conn.receiving && !conn.starved {
            if let Some(fd) = &conn.fd {
                let token = Token::of(Kind::Receive, id);
                conn.once = conn.streams > 0;
                if conn.once {
                    conn.large = self.ring.receive_once(fd.as_fd(), token, conn.gathers);
                    if conn.gathers {
                        conn.rush_since = self.now;
                    }
                } else {
                    self.ring.receive(fd.as_fd(), token);
                }
                conn.receiving = true;
                conn.ops += 1;
            }
        } else if conn.receiving && !conn.stopping && (!wanted || conn.streams > 0 && !conn.once) {
            conn.stopping = true;
            conn.ops += 1;
            self.ring.cancel(Token::of(Kind::Receive, id), Token::of(Kind::Cancel, id));
        }
    }

    /// Arms as many of those that found no buffer as there are buffers now.
    pub(super) fn feed_the_starved(&mut self) {
        let mut free = self.ring.buffers.free();
        while free > 0 {
            let Some(id) = self.starved.pop_front() else { return };
            let Some(conn) = self.table.get(id) else { continue };
            conn.starved = false;
            self.arm(id);
            // Who wants nothing any more takes none.
            let receives = self.table.get(id).is_some_and(|conn| conn.receiving);
            free -= u16::from(receives);
        }
    }

    /// Shows the connection's bytes later in this turn.
    pub(super) fn feed_later(&mut self, id: ConnId) {
        if let Some(conn) = self.table.get(id)
            && !conn.queued
        {
            conn.queued = true;
            self.work.push_back(id);
        }
    }
}
