//! Where a client's writes end in the log of the primary: its reads are not to be shown less.
//!
//! Behind a transaction that may have written, the server is asked where its log ends, before
//! anybody else gets it. The client does not wait for that. Were there no answer, no replica would
//! do for the client's reads any more.

use crate::config::Consistency;
use crate::id::ConnId;
use crate::lane::server::purpose;
use crate::lane::{Lane, Out};
use crate::topology::Lsn;

/// No record of the transaction lies behind this place.
const QUESTION: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()";

impl Lane {
    /// A client is about to give its server back. Tells whether that must wait for an answer.
    pub(super) fn asks_place(&mut self, id: ConnId, server: ConnId, actions: &mut Out) -> bool {
        let Some(client) = self.clients.get_mut(id) else { return false };
        let Some(home) = client.home.filter(|home| client.pool == Some(*home)) else {
            return false;
        };
        let (wrote, defines) = (client.wrote, client.defines);
        client.wrote = false;
        client.defines = false;
        if !self.is_routed(home) {
            return false;
        }
        if defines {
            self.catalog_changed(home, actions);
        }
        let spent = self.server_ref(server).is_none_or(Self::is_spent);
        let session = self.pools[home].database.routing.consistency == Consistency::Session;
        if !wrote || !session {
            return false;
        }
        if let Some(client) = self.clients.get_mut(id) {
            // Until the answer is there.
            client.lsn = Lsn(u64::MAX);
        }
        if spent {
            return false;
        }
        self.own_query(server, QUESTION, purpose::PLACE, actions);
        true
    }

    /// The server has said where its log ends.
    pub(super) fn place(&mut self, server: ConnId, value: Option<&[u8]>) {
        let client = self.server_ref(server).and_then(|far| far.client);
        let Some(client) = client.and_then(|client| self.clients.get_mut(client)) else { return };
        let lsn = value.and_then(|value| core::str::from_utf8(value).ok()?.parse::<Lsn>().ok());
        client.lsn = lsn.map_or(Lsn(u64::MAX), Lsn::end_of_record);
    }

    /// The answer is complete.
    pub(super) fn placed(&mut self, server: ConnId) {
        if let Some(far) = self.server_mut(server) {
            // A refusal leaves the client without a place, which is safe.
            far.error = None;
        }
    }
}
