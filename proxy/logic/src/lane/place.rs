//! Where a client's writes end in the log of the primary: its reads are not to be shown less.
//!
//! Nobody asks for that place behind a commit; it is noted when the commit was answered. Where the
//! monitor next finds the primary is behind it, and soon enough: until then no standby is known to
//! have replayed it either. So a commit costs nothing.

use crate::config::{Consistency, Database};
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::client::{Aimed, Client};
use crate::lane::standbys::Primary;
use crate::lane::wishes::NOWHERE;
use crate::lane::{Lane, Out};
use crate::ledger::Ledger;
use crate::time::Instant;
use crate::topology::Lsn;
use pgring_wire::client::{Parse, bind_names, query};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

impl Lane {
    /// A client is about to give its server back: what it has written is committed by now.
    pub(super) fn note_commit(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(home) = client.home.filter(|home| client.pool == Some(*home)) else { return };
        if core::mem::take(&mut client.wrote) {
            client.committed = now;
        }
        let defines = core::mem::take(&mut client.defines);
        if defines && self.is_routed(home) {
            self.catalog_changed(home, actions);
        }
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
        // What is under way may end the transaction, and so may what the segment began with.
        let quiet = |ledger: &Ledger| !ledger.is_exchanging() && !ledger.is_unsynced();
        let inside = far.is_some_and(|far| far.status != b'I' && quiet(&far.ledger));
        if client.commit.is_none() && inside && !ends {
            return;
        }
        let horizon = self.pools[home].database.cluster.horizon.clone();
        if let Some(client) = self.clients.get_mut(id) {
            client.commit.get_or_insert_with(|| Box::new(horizon.begin()));
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
        // In some encodings a backslash is half a letter.
        text.is_none_or(|text| !text.is_ascii() || self.memo.scan(text).has(Hints::ENDS))
    }

    /// An exchange of a client has ended, and nothing else of it is under way. Whether it has
    /// committed anything does not matter.
    pub(super) fn exchanged(&mut self, now: Instant, id: ConnId) {
        if let Some(commit) = self.clients.get_mut(id).and_then(|client| client.commit.take()) {
            commit.end(now);
        }
    }

    /// The configuration has changed. What was written before may not have been followed: a place
    /// must be found behind all of it.
    pub(super) fn forget_places(&mut self, now: Instant) {
        for cluster in &self.config.clusters {
            cluster.horizon.begin().end(now);
        }
        for id in self.clients.ids() {
            if let Some(client) = self.clients.get_mut(id) {
                client.committed = now;
                client.wrote |= client.server.is_some();
            }
        }
    }

    /// What a client said has been answered without a server: none of it was sent.
    pub(super) fn nothing_sent(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.aimed = Aimed::No;
        client.wrote = false;
        client.defines = false;
        if let Some(commit) = client.commit.take() {
            commit.end(Instant::START);
        }
    }
}

/// The place that a read of this client must show, which has been `told` another.
pub(super) fn must_show(
    client: &mut Client,
    database: &Database,
    told: Lsn,
    primary: Option<Primary>,
) -> Lsn {
    let everybody = match database.routing.consistency {
        Consistency::Eventual => return told,
        Consistency::Session => Lsn(0),
        Consistency::Strict => match primary {
            Some(it) if database.cluster.horizon.is_behind(it.asked, it.lost) => it.end,
            // Asked since the read came: behind all that was told of before it, by anybody.
            Some(it) if client.behind_since.is_some_and(|since| it.asked > since) => it.end,
            Some(_) | None => NOWHERE,
        },
    };
    if client.committed > Instant::START {
        let committed = client.committed;
        let Some(primary) = primary.filter(|it| it.asked > committed) else { return NOWHERE };
        client.lsn = client.lsn.max(primary.end);
        client.committed = Instant::START;
    }
    client.lsn.max(everybody).max(told)
}
