//! Where a client's writes end in the log of the primary: its reads are not to be shown less.
//!
//! Behind a transaction that may have written, the server is asked where its log ends, before
//! anybody else gets it. The client does not wait for that. Were there no answer, no replica would
//! do for the client's reads any more.

use crate::config::Consistency;
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::server::purpose;
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Origin};
use crate::topology::Lsn;
use pgring_wire::client::query;
use pgring_wire::frame::{Header, LENGTH_MAX, header};

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
        let level = self.pools[home].database.routing.consistency;
        if !wrote || level == Consistency::Eventual {
            return false;
        }
        let spent = self.server_ref(server).is_none_or(Self::is_spent);
        let mut commit = None;
        if let Some(client) = self.clients.get_mut(id) {
            // Until the answer is there.
            client.lsn = Lsn(u64::MAX);
            commit = client.commit.take();
        }
        if spent {
            return false;
        }
        if let Some(commit) = &mut commit {
            commit.asks();
        }
        if let Some(far) = self.server_mut(server) {
            // The client may leave before the answer comes.
            far.commit = commit;
        }
        self.own_query(server, QUESTION, purpose::PLACE, actions);
        true
    }

    /// A message of a client is about to go to the primary. Where reads must show what any session
    /// has written, all lanes are to know of it before the client can hear that it has committed.
    pub(super) fn expect_commit(&mut self, id: ConnId, home: usize, bytes: &[u8]) {
        let database = &self.pools[home].database;
        if database.routing.consistency != Consistency::Strict {
            return;
        }
        let Some(client) = self.clients.get(id) else { return };
        if !client.wrote || client.commit.is_some() {
            return;
        }
        let far = client.server.and_then(|server| self.server_ref(server));
        if far.is_some_and(|far| far.status != b'I') && !self.may_end(bytes) {
            return;
        }
        let commit = self.pools[home].database.cluster.horizon.begin();
        if let Some(client) = self.clients.get_mut(id) {
            client.commit = Some(Box::new(commit));
        }
    }

    /// Whether a message may end the transaction that is open.
    fn may_end(&mut self, bytes: &[u8]) -> bool {
        let Ok(Some(head)) = header(bytes, LENGTH_MAX) else { return true };
        let text = bytes.get(Header::SIZE..head.total()).filter(|_| head.tag == b'Q').map(query);
        match text {
            Some(Ok(text)) => self.memo.scan(text).has(Hints::ENDS),
            Some(Err(_)) | None => true,
        }
    }

    /// An answer has left a client's transaction open, and nothing else of it is under way.
    pub(super) fn nothing_committed(&mut self, id: ConnId) {
        if let Some(commit) = self.clients.get_mut(id).and_then(|client| client.commit.take()) {
            commit.end();
        }
    }

    /// Whether a read had better wait until it is known where its client's writes end: only then is
    /// there a standby to wait for.
    pub(super) fn awaits_place(&mut self, id: ConnId, home: usize, server: ConnId) -> bool {
        if self.pools[home].database.routing.read_wait_max.is_zero() {
            return false;
        }
        let asked = self.server_ref(server).is_some_and(|far| {
            let own = |entry: Entry| entry.origin == Origin::Own && entry.mark == purpose::PLACE;
            far.status == b'I' && !far.ledger.is_clients() && far.ledger.head().is_some_and(own)
        });
        if let Some(client) = self.clients.get_mut(id) {
            client.stalled |= asked;
        }
        asked
    }

    /// The server has said where its log ends.
    pub(super) fn place(&mut self, server: ConnId, value: Option<&[u8]>) {
        let lsn = value.and_then(|value| core::str::from_utf8(value).ok()?.parse::<Lsn>().ok());
        let lsn = lsn.map(Lsn::end_of_record);
        let Some(far) = self.server_mut(server) else { return };
        if let Some(lsn) = lsn
            && let Some(commit) = far.commit.take()
        {
            commit.tell(lsn);
            commit.end();
        }
        let client = far.client;
        if let Some(client) = client.and_then(|client| self.clients.get_mut(client)) {
            client.lsn = lsn.unwrap_or(Lsn(u64::MAX));
        }
    }

    /// The answer is complete.
    pub(super) fn placed(&mut self, server: ConnId) {
        if let Some(far) = self.server_mut(server) {
            // A refusal leaves the client without a place, and a commit lost; both are safe.
            far.error = None;
            far.commit = None;
        }
    }
}
