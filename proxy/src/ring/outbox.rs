//! What waits to be sent on one connection, in order, and which part of it the kernel has.
//!
//! At most one send is in flight (invariant I5). The chunks it covers are neither changed nor
//! given back until its completion, so the kernel never reads freed memory; an outbox that is
//! dropped before that leaks them instead.

use super::buffers::{Buffers, Lease};
use super::chunk::{Chunk, PIECE_SIZE, Spare};
use std::collections::VecDeque;

/// Chunks that one send may cover.
pub const CHUNKS_PER_SEND: usize = 64;

/// Queued bytes of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// All queued bytes, those in flight included.
    len: usize,
    /// Lent chunks among them.
    leases: u16,
    /// Bytes of the buffers these keep.
    lent: usize,
    /// Chunks in flight, from the front.
    flight: usize,
    /// Bytes in flight.
    flight_len: usize,
    /// The socket took less than it was given: the next send waits until it takes more.
    blocked: bool,
}

impl Outbox {
    /// Queued bytes, those in flight included.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing queued, nothing in flight.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// A send is in flight.
    #[inline]
    pub fn in_flight(&self) -> bool {
        self.flight > 0
    }

    /// Buffers held.
    #[inline]
    pub fn leases(&self) -> u16 {
        self.leases
    }

    /// Memory that the queued bytes keep from other use: whole buffers and whole pieces.
    #[inline]
    pub fn weight(&self) -> usize {
        let leases = usize::from(self.leases);
        self.lent + (self.chunks.len() - leases) * PIECE_SIZE
    }

    /// The next send covers everything, and the socket has taken everything before: it will most
    /// likely be done at once.
    pub fn is_light(&self) -> bool {
        !self.blocked && self.chunks.len() <= CHUNKS_PER_SEND
    }

    /// Bytes in flight.
    pub(super) fn flight_len(&self) -> usize {
        self.flight_len
    }

    /// Queues a copy.
    pub fn append(&mut self, mut bytes: &[u8], spare: &mut Spare) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let open = self.chunks.len() > self.flight;
            let room = match self.chunks.back_mut() {
                // A piece never grows beyond its capacity, so it is never moved.
                Some(Chunk::Own { data, .. }) if open => PIECE_SIZE.saturating_sub(data.len()),
                Some(Chunk::Own { .. } | Chunk::Lent { .. }) | None => 0,
            };
            if room == 0 {
                self.chunks.push_back(Chunk::Own { data: spare.piece(), start: 0 });
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(Chunk::Own { data, .. }) = self.chunks.back_mut() {
                data.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// Queues a range of a lent buffer.
    pub fn lend(&mut self, lease: Lease, start: u32, len: u32) {
        self.len += len as usize;
        self.leases += 1;
        self.lent += lease.size();
        self.chunks.push_back(Chunk::Lent { lease, start, len });
    }

    /// Puts the next chunks in flight and shows each of them to `each`.
    pub(super) fn depart(&mut self, limit: usize, mut each: impl FnMut(&Chunk)) {
        assert_eq!(self.flight, 0, "two sends on one connection (I5)");
        for chunk in self.chunks.iter().take(limit) {
            each(chunk);
            self.flight += 1;
            self.flight_len += chunk.len();
        }
    }

    /// The send in flight has ended, with `sent` bytes sent; the rest is queued again.
    pub fn arrived(&mut self, sent: usize, buffers: &mut Buffers, spare: &mut Spare) {
        assert!(sent <= self.flight_len, "the kernel sent more than it had");
        self.blocked = sent < self.flight_len;
        self.flight = 0;
        self.flight_len = 0;
        self.len -= sent;
        let mut left = sent;
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.len() > left {
                chunk.advance(left);
                return;
            }
            left -= chunk.len();
            self.pop(buffers, spare);
        }
    }

    /// Forgets what is not in flight.
    pub fn clear(&mut self, buffers: &mut Buffers, spare: &mut Spare) {
        while self.chunks.len() > self.flight {
            let Some(chunk) = self.chunks.pop_back() else { return };
            self.len -= chunk.len();
            self.give_up(&chunk);
            chunk.release(buffers, spare);
        }
    }

    fn pop(&mut self, buffers: &mut Buffers, spare: &mut Spare) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.give_up(&chunk);
            chunk.release(buffers, spare);
        }
    }

    fn give_up(&mut self, chunk: &Chunk) {
        if let Chunk::Lent { lease, .. } = chunk {
            self.leases -= 1;
            self.lent -= lease.size();
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.flight > 0 {
            for chunk in self.chunks.drain(..) {
                match chunk {
                    // The buffers of a ring outlive every operation on it by themselves.
                    Chunk::Lent { .. } => {}
                    Chunk::Own { data, .. } => {
                        let _for_good = data.leak();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNKS_PER_SEND, Outbox};
    use crate::ring::buffers::{BUFFER_SIZE, Buffers};
    use crate::ring::chunk::{PIECE_SIZE, Spare};

    #[test]
    fn a_short_send_goes_on_where_it_stopped() {
        let (mut buffers, mut spare) = (Buffers::new(4).unwrap(), Spare::default());
        let mut outbox = Outbox::default();
        outbox.append(b"hello ", &mut spare);
        outbox.lend(buffers.filled(2), 100, 50);
        outbox.append(b"world", &mut spare);
        assert_eq!((outbox.len(), outbox.leases()), (61, 1));
        assert_eq!(outbox.weight(), BUFFER_SIZE + 2 * PIECE_SIZE);
        outbox.depart(CHUNKS_PER_SEND, |_| ());
        outbox.append(b"!", &mut spare);
        outbox.arrived(10, &mut buffers, &mut spare);
        let mut lengths = Vec::new();
        outbox.depart(CHUNKS_PER_SEND, |chunk| lengths.push(chunk.len()));
        assert_eq!(lengths, [46, 5, 1]);
        outbox.arrived(52, &mut buffers, &mut spare);
        assert!(outbox.is_empty());
        assert_eq!(outbox.len(), 0);
        assert_eq!(buffers.free(), 4);
    }

    #[test]
    fn what_is_in_flight_is_not_forgotten() {
        let (mut buffers, mut spare) = (Buffers::new(4).unwrap(), Spare::default());
        let mut outbox = Outbox::default();
        outbox.append(&[1; PIECE_SIZE + 1], &mut spare);
        outbox.depart(1, |_| ());
        outbox.lend(buffers.filled(0), 0, 9);
        outbox.clear(&mut buffers, &mut spare);
        assert_eq!((outbox.len(), outbox.leases(), buffers.free()), (PIECE_SIZE, 0, 4));
        outbox.arrived(0, &mut buffers, &mut spare);
        outbox.clear(&mut buffers, &mut spare);
        assert!(outbox.is_empty());
    }

    #[test]
    #[should_panic(expected = "I5")]
    fn there_are_never_two_sends_on_one_connection() {
        let mut outbox = Outbox::default();
        outbox.append(b"x", &mut Spare::default());
        outbox.depart(1, |_| ());
        outbox.depart(1, |_| ());
    }
}
