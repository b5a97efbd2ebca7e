//! One core's world: its clients, servers and pools, wired together.

use crate::action::{Actions, Progress, Want};
use crate::config::Config;
use crate::id::{ConnId, Core, Side};
use crate::mail::{Event, Mail, Peer};
use crate::parcel::Parcel;
use crate::time::Instant;
use std::sync::Arc;

/// Everything one core knows.
#[derive(Debug)]
pub struct Lane {
    core: Core,
}

impl Lane {
    /// An empty lane. `dice` seeds its random choices (keys, nonces): from the operating system
    /// in life, from the seed in a test.
    pub fn new(core: Core, _config: Arc<Config>, _dice: [u8; 32]) -> Self {
        Self { core }
    }

    /// A client has come. `refused`: the process has reached `clients_max`, so it is to be told.
    pub fn accept(&mut self, _now: Instant, _peer: Peer, _refused: bool) -> ConnId {
        ConnId::new(Side::Client, u32::from(self.core.0), 0)
    }

    /// A server connection has come from another lane.
    pub fn adopt(
        &mut self,
        _now: Instant,
        _parcel: Parcel,
        _actions: &mut Actions<Mail>,
    ) -> ConnId {
        ConnId::new(Side::Server, 0, 0)
    }

    /// Shows bytes of a connection, the oldest that are not done with. Never called for a
    /// connection that waits for `Resume`.
    pub fn receive(
        &mut self,
        _now: Instant,
        _conn: ConnId,
        bytes: &[u8],
        _actions: &mut Actions<Mail>,
    ) -> Progress {
        Progress { consumed: bytes.len(), want: Want::More }
    }

    /// Takes in one event and asks for what follows from it.
    pub fn handle(&mut self, _now: Instant, _event: Event, _actions: &mut Actions<Mail>) {}

    /// When to send [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// How many clients it has.
    pub fn clients(&self) -> usize {
        0
    }
}
