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
use pgring_wire::client::{Parse, bind_names, query};
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
        // If no place is asked for, it is lost.
        let mut commit = client.commit.take();
        if !self.is_routed(home) {
            return false;
        }
        if defines {
            self.catalog_changed(home, actions);
        }
        if !wrote || self.pools[home].database.routing.consistency == Consistency::Eventual {
            return false;
        }
        let spent = self.server_ref(server).is_none_or(Self::is_spent);
        if let Some(client) = self.clients.get_mut(id) {
            // Until the answer is there.
            client.lsn = Lsn(u64::MAX);
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
        let level = self.pools[home].database.routing.consistency;
        let wrote = self.clients.get(id).is_some_and(|client| client.wrote);
        if level != Consistency::Strict || !wrote {
            return;
        }
        let ends = self.may_end(id, bytes);
        let Some(client) = self.clients.get(id) else { return };
        let far = client.server.and_then(|server| self.server_ref(server));
        // What is under way may end the transaction.
        let inside = far.is_some_and(|far| far.status != b'I' && !far.ledger.is_exchanging());
        if client.commit.is_none() && inside && !ends {
            return;
        }
        let horizon = self.pools[home].database.cluster.horizon.clone();
        if let Some(client) = self.clients.get_mut(id) {
            let commit = client.commit.get_or_insert_with(|| Box::new(horizon.begin()));
            if ends {
                commit.is_done();
            }
        }
    }

    /// Whether a message may end the transaction that is open.
    fn may_end(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        let Ok(Some(head)) = header(bytes, LENGTH_MAX) else { return true };
        let Some(body) = bytes.get(Header::SIZE..head.total()) else { return true };
        let text = match head.tag {
            b'Q' => query(body).ok(),
            b'P' => Parse::read(body).ok().map(|parse| parse.text),
            b'B' => {
                let Some(names) = bind_names(body) else { return true };
                let Some(client) = self.clients.get(id) else { return true };
                let known = client.names.get(names.statement);
                return match (&client.unnamed, known) {
                    (Some(unnamed), _) if names.statement.is_empty() => {
                        unnamed.hints.has(Hints::ENDS)
                    }
                    (_, Some(statement)) => self.texts.hints(statement).has(Hints::ENDS),
                    // What is parsed in front of it has been looked at.
                    (_, None) => false,
                };
            }
            b'D' | b'C' | b'E' | b'S' | b'H' => return false,
            _ => None,
        };
        text.is_none_or(|text| self.memo.scan(text).has(Hints::ENDS))
    }

    /// An exchange of a client has ended: its transaction is over (`ended`), or goes on and nothing
    /// else of the client is under way.
    pub(super) fn exchanged(&mut self, id: ConnId, ended: bool) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if ended {
            if let Some(commit) = &mut client.commit {
                commit.is_done();
            }
        } else if let Some(commit) = client.commit.take() {
            commit.goes_on();
        }
    }

    /// What a client said has been answered without a server: none of it was sent.
    pub(super) fn nothing_sent(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.aimed = false;
        client.wrote = false;
        client.defines = false;
        if let Some(commit) = client.commit.take() {
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
