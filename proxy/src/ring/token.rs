//! What a completion belongs to, in the 64 bits that the kernel carries for us.
//!
//! ```text
//!  63      56 55                     32 31                                      0
//! ┌──────────┬─────────────────────────┬─────────────────────────────────────────┐
//! │   kind   │          slot           │               generation                │
//! └──────────┴─────────────────────────┴─────────────────────────────────────────┘
//! ```
//!
//! The generation tells the lives of a slot apart (invariant I4).

use pgring_logic::id::ConnId;

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Multishot receive of a connection.
    Receive,
    /// A send of a connection.
    Send,
    /// One that does not wait: the kernel says nothing if it takes everything.
    HastySend,
    /// The connect of a server connection.
    Connect,
    /// The cancelling of something else of a connection.
    Cancel,
    /// The close of a descriptor.
    Close,
    /// Multishot accept; the slot is the number of the listener.
    Accept,
    /// The poll of the mailbox's bell.
    Bell,
}

/// Kind, slot and generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Token {
    kind: Kind,
    slot: u32,
    generation: u32,
}

/// One more than the largest slot.
pub const SLOTS: u32 = 1 << 24;

impl Token {
    /// For something of this connection.
    pub fn of(kind: Kind, conn: ConnId) -> Self {
        Self::new(kind, conn.slot(), conn.generation())
    }

    /// For this life of a slot.
    pub fn new(kind: Kind, slot: u32, generation: u32) -> Self {
        assert!(slot < SLOTS, "a slot has 24 bits");
        Self { kind, slot, generation }
    }

    /// The same, for a send that waits.
    #[must_use]
    pub const fn patient(self) -> Self {
        Self { kind: Kind::Send, ..self }
    }

    /// What was asked for.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// Whose it was.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// In which life of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// As the kernel carries it.
    pub const fn bits(self) -> u64 {
        let kind: u64 = match self.kind {
            Kind::Receive => 1,
            Kind::Send => 2,
            Kind::Connect => 3,
            Kind::Cancel => 4,
            Kind::Close => 5,
            Kind::Accept => 6,
            Kind::Bell => 7,
            Kind::HastySend => 8,
        };
        kind << 56 | (self.slot as u64) << 32 | self.generation as u64
    }

    /// What the kernel carried; none if it was never ours.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let kind = match bits >> 56 {
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::Connect,
            4 => Kind::Cancel,
            5 => Kind::Close,
            6 => Kind::Accept,
            7 => Kind::Bell,
            8 => Kind::HastySend,
            _ => return None,
        };
        let slot = u32::try_from(bits >> 32 & 0xFF_FFFF).ok()?;
        let generation = u32::try_from(bits & 0xFFFF_FFFF).ok()?;
        Some(Self { kind, slot, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, SLOTS, Token};

    #[test]
    fn a_token_survives_its_way_through_the_kernel() {
        let kinds = [
            Kind::Receive,
            Kind::Send,
            Kind::HastySend,
            Kind::Connect,
            Kind::Cancel,
            Kind::Close,
            Kind::Accept,
            Kind::Bell,
        ];
        for kind in kinds {
            for (slot, generation) in [(0, 0), (SLOTS - 1, u32::MAX), (7, 1 << 31)] {
                let token = Token::new(kind, slot, generation);
                assert_eq!(Token::from_bits(token.bits()), Some(token));
            }
        }
    }

    #[test]
    fn what_was_never_ours_is_nobodys() {
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(u64::MAX), None);
    }
}
