//! Bytes on their way: a range of a lent buffer, or a copy in memory of our own.

use super::buffers::{Buffers, Lease};

/// Bytes of one piece of own memory. Small, because a slow reader may hold one for a few bytes.
pub const PIECE_SIZE: usize = 4 * 1024;

/// Pieces kept for later.
const PIECES_KEPT: usize = 1024;
/// Larger memory kept for later.
const JOINS_KEPT: usize = 16;
/// Memory larger than this is not kept.
const JOIN_KEPT_SIZE: usize = 64 * 1024;

/// Bytes in one place.
#[derive(Debug)]
#[must_use = "a chunk may hold a lease"]
pub enum Chunk {
    /// `start..start + len` of a lent buffer.
    Lent {
        /// The lease on it.
        lease: Lease,
        /// First byte.
        start: u32,
        /// How many.
        len: u32,
    },
    /// A copy, from `start` to its end.
    Own {
        /// The memory.
        data: Vec<u8>,
        /// First byte.
        start: usize,
    },
}

impl Chunk {
    /// The bytes.
    #[inline]
    pub fn bytes<'a>(&'a self, buffers: &'a Buffers) -> &'a [u8] {
        match self {
            Self::Lent { lease, start, len } => {
                let start = *start as usize;
                &buffers.bytes(lease)[start..start + *len as usize]
            }
            Self::Own { data, start } => &data[*start..],
        }
    }

    /// How many bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Lent { len, .. } => *len as usize,
            Self::Own { data, start } => data.len() - start,
        }
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the first `count` bytes.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "nobody uses more than there is");
        match self {
            Self::Lent { start, len, .. } => {
                let count = u32::try_from(count).unwrap_or(*len);
                *start += count;
                *len -= count;
            }
            Self::Own { start, .. } => *start += count,
        }
    }

    /// Gives back what it holds.
    #[inline]
    pub fn release(self, buffers: &mut Buffers, spare: &mut Spare) {
        match self {
            Self::Lent { lease, .. } => buffers.release(lease),
            Self::Own { data, .. } => spare.keep(data),
        }
    }

    /// The same bytes in memory of our own.
    pub fn into_own(self, buffers: &mut Buffers, spare: &mut Spare) -> Self {
        match self {
            Self::Lent { .. } => {
                let bytes = self.bytes(buffers);
                let mut data = spare.memory(bytes.len());
                data.extend_from_slice(bytes);
                self.release(buffers, spare);
                Self::Own { data, start: 0 }
            }
            Self::Own { data, start } => Self::Own { data, start },
        }
    }

    /// The same bytes and those of `next` behind them, in one place.
    pub fn join(self, next: Self, buffers: &mut Buffers, spare: &mut Spare) -> Self {
        let (mut data, mut start) = match self {
            Self::Own { data, start } => (data, start),
            Self::Lent { .. } => {
                let bytes = self.bytes(buffers);
                let mut data = spare.memory(bytes.len() + next.len());
                data.extend_from_slice(bytes);
                self.release(buffers, spare);
                (data, 0)
            }
        };
        // Moved to the front only when at least half of it is done with, so that joining costs
        // no more than a constant for each byte.
        if start > data.len() / 2 {
            data.drain(..start);
            start = 0;
        }
        data.extend_from_slice(next.bytes(buffers));
        next.release(buffers, spare);
        Self::Own { data, start }
    }
}

/// Memory that is empty and waits for its next use.
#[derive(Debug, Default)]
pub struct Spare {
    pieces: Vec<Vec<u8>>,
    joins: Vec<Vec<u8>>,
}

impl Spare {
    /// A piece of [`PIECE_SIZE`].
    pub fn piece(&mut self) -> Vec<u8> {
        self.pieces.pop().unwrap_or_else(|| Vec::with_capacity(PIECE_SIZE))
    }

    /// Memory for `size` bytes; more if there is some at hand.
    pub fn memory(&mut self, size: usize) -> Vec<u8> {
        if size <= PIECE_SIZE {
            return self.piece();
        }
        match self.joins.pop() {
            Some(mut data) => {
                data.reserve(size);
                data
            }
            None => Vec::with_capacity(size.next_power_of_two()),
        }
    }

    /// Takes back what nobody reads any more.
    pub fn keep(&mut self, mut data: Vec<u8>) {
        data.clear();
        let (list, kept) = match data.capacity() {
            PIECE_SIZE => (&mut self.pieces, PIECES_KEPT),
            size if size > PIECE_SIZE && size <= JOIN_KEPT_SIZE => (&mut self.joins, JOINS_KEPT),
            _ => return,
        };
        if list.len() < kept {
            list.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunk, PIECE_SIZE, Spare};
    use crate::ring::buffers::Buffers;

    fn own(bytes: &[u8], spare: &mut Spare) -> Chunk {
        let mut data = spare.memory(bytes.len());
        data.extend_from_slice(bytes);
        Chunk::Own { data, start: 0 }
    }

    #[test]
    fn a_rest_and_what_follows_become_one() {
        let (mut buffers, mut spare) = (Buffers::new(4).unwrap(), Spare::default());
        let lent = Chunk::Lent { lease: buffers.filled(0), start: 10, len: 20 };
        let mut rest = lent.into_own(&mut buffers, &mut spare);
        assert_eq!(buffers.free(), 4);
        rest.advance(15);
        let next = own(b"next", &mut spare);
        let joined = rest.join(next, &mut buffers, &mut spare);
        assert_eq!(joined.len(), 9);
        assert_eq!(&joined.bytes(&buffers)[5..], b"next");
        joined.release(&mut buffers, &mut spare);
    }

    #[test]
    fn memory_is_used_again() {
        let mut spare = Spare::default();
        let piece = spare.piece();
        let place = piece.as_ptr();
        spare.keep(piece);
        let again = spare.memory(PIECE_SIZE);
        assert_eq!(again.as_ptr(), place);
        spare.keep(Vec::with_capacity(1 << 20));
        assert!(spare.joins.is_empty(), "what is too large is not kept");
    }
}
