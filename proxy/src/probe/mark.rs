//! Which sockets are watched, and where they lead.

use super::{Kept, say};
use aya::maps::{Map, MapData, SkStorage};
use pgring_ebpf_common::Socket;
use pgring_logic::action::Address;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};

/// Puts sockets under watch. It takes no rights, so it works when those with which the programs
/// were loaded are given up. Each thread has its own; all lead to the same programs.
pub struct Marker {
    sockets: RefCell<SkStorage<MapData, Kept>>,
    /// What the others are made of.
    origin: std::os::fd::OwnedFd,
}

impl Marker {
    pub(super) fn new(map: MapData) -> Result<Self, String> {
        let origin = map.fd().as_fd().try_clone_to_owned().map_err(say)?;
        let sockets = SkStorage::try_from(Map::SkStorage(map)).map_err(say)?;
        Ok(Self { sockets: RefCell::new(sockets), origin })
    }

    /// One more, for another thread.
    pub fn again(&self) -> Result<Self, String> {
        let origin = self.origin.try_clone().map_err(say)?;
        Self::new(MapData::from_fd(origin).map_err(say)?)
    }

    /// Watches a TCP socket from now to its end, under this number; best before it connects.
    pub fn watch(&self, socket: BorrowedFd<'_>, number: u32) -> Result<(), String> {
        let facts = Kept(Socket { node: number, ..Socket::default() });
        self.sockets.borrow_mut().insert(&socket.as_raw_fd(), facts, 0).map_err(say)
    }

    /// What was seen of a socket so far; none if it is not watched.
    pub fn facts(&self, socket: BorrowedFd<'_>) -> Option<Socket> {
        self.sockets.borrow().get(&socket.as_raw_fd(), 0).ok().map(|kept| kept.0)
    }
}

impl std::fmt::Debug for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marker").finish_non_exhaustive()
    }
}

/// The number under which connections to an address are watched. Should two addresses share one,
/// the one is looked at when something happens to the other.
pub fn number(address: &Address) -> u32 {
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    let [bytes @ .., _, _, _, _] = hasher.finish().to_ne_bytes();
    u32::from_ne_bytes(bytes)
}
