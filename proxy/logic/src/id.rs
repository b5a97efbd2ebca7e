//! Who is meant: connections, cores, and the keys clients cancel with.

use core::fmt;
use std::sync::Arc;

/// A CPU that runs one lane; the number of the lane, from zero.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Core(pub u16);

/// What stands at the other end of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// An application.
    Client,
    /// `PostgreSQL`; also the short connections that carry a cancel request.
    Server,
}

/// One connection of one lane, and which life of its slot.
///
/// A slot is used again only after the last completion of its earlier life; the generation tells
/// the lives apart, so that whatever comes late for an earlier one fits nobody (invariant I4).
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// The connection in place `index` of its side's slab.
    pub const fn new(side: Side, index: u32, generation: u32) -> Self {
        let bit = match side {
            Side::Client => 0,
            Side::Server => 1,
        };
        Self { slot: index << 1 | bit, generation }
    }

    /// Client or server.
    pub const fn side(self) -> Side {
        if self.slot & 1 == 0 { Side::Client } else { Side::Server }
    }

    /// The place in the slab of its side.
    pub const fn index(self) -> usize {
        (self.slot >> 1) as usize
    }

    /// A number that no other live connection of this lane has; small enough for 24 bits.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which life of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.side() {
            Side::Client => 'C',
            Side::Server => 'S',
        };
        write!(f, "{letter}{}.{}", self.slot >> 1, self.generation)
    }
}

/// The secret half of a cancel key: 4 bytes in protocol 3.0, up to 256 in 3.2.
///
/// It has neither `Debug` nor `Display`, so that it reaches no log.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A pool as the whole process knows it: (database as clients name it, server user, node).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PoolKey {
    /// The database as clients name it.
    pub database: Arc<str>,
    /// The user the servers are logged in as.
    pub user: Arc<str>,
    /// The replica that the servers are connected to; none: the primary, whichever node that is.
    pub node: Option<Arc<str>>,
}

impl PoolKey {
    /// The pool of the primary's servers.
    pub fn new(database: &str, user: &str) -> Self {
        Self { database: database.into(), user: user.into(), node: None }
    }

    /// The pool of a replica's servers for the same database and user.
    #[must_use]
    pub fn on(&self, node: &Arc<str>) -> Self {
        Self { node: Some(Arc::clone(node)), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnId, Side};

    #[test]
    fn a_connection_says_its_side_place_and_life() {
        let id = ConnId::new(Side::Server, 7, 3);
        assert_eq!((id.side(), id.index(), id.generation()), (Side::Server, 7, 3));
        assert_eq!(format!("{id:?}"), "S7.3");
    }
}
