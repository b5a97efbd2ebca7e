//! The unnamed prepared statement: each client's own, on servers that have room for one.
//!
//! Its text is kept by its client. A server has one unnamed statement and knows it by whoever
//! parsed it last, so it is parsed again only where something else was unnamed since.

use crate::hints::{Hints, scan};
use crate::id::ConnId;
use crate::lane::client::Unnamed;
use crate::lane::rename::NO_UNNAMED;
use crate::lane::server::purpose;
use crate::lane::{Lane, Out};
use crate::ledger::{Expect, Origin};
use pgring_wire::client::{Parse, write};

impl Lane {
    pub(super) fn parse_unnamed(&mut self, id: ConnId, parse: &Parse<'_>) {
        let hints = scan(parse.text);
        self.note_hints(id, hints, Some(parse.text));
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(server) = client.server else { return };
        // With nothing under way before it, only its own failure can undo it.
        let before = client.unnamed.take();
        let alone = self.server_ref(server).is_some_and(|far| {
            !far.ledger.is_waiting() && !far.ledger.is_skipping() && !far.ledger.is_unsynced()
        });
        let mut unnamed = Box::<Unnamed>::default();
        unnamed.sequence = before.as_ref().map_or(1, |before| before.sequence + 1);
        let mut kept = before;
        if alone && let Some(old) = kept.take() {
            unnamed.body = old.body;
        }
        unnamed.body.clear();
        unnamed.body.extend_from_slice(parse.body_after_name);
        unnamed.hints = hints;
        let sequence = unnamed.sequence;
        if self.ignored(server) {
            if let Some(client) = self.clients.get_mut(id) {
                client.unnamed = kept;
            }
            self.push(id, Expect::Parse, Origin::Client, 0);
            return;
        }
        self.change_unnamed(id, Expect::Parse, kept);
        if let Some(client) = self.clients.get_mut(id) {
            client.unnamed = Some(unnamed);
        }
        let segment = self.clients.get(id).map_or(0, |client| client.segment);
        if let Some(far) = self.server_mut(server) {
            far.unnamed = Some((id, sequence));
            far.unnamed_segment = segment;
        }
    }

    /// Makes sure that the unnamed statement of the server is this client's.
    pub(super) fn ensure_unnamed(
        &mut self,
        id: ConnId,
        server: ConnId,
        actions: &mut Out,
    ) -> Option<Vec<u8>> {
        let client = self.clients.get(id)?;
        let last = client.unnamed.as_ref();
        let far = self.servers.get_mut(server)?.server_mut()?;
        // A Parse of an earlier segment whose end has not been answered may have been skipped; then
        // another's statement is there.
        let sure = far.unnamed_segment == client.segment || !far.ledger.is_behind();
        let maybe_lost = !sure && last.is_some_and(|unnamed| !unnamed.body.is_empty());
        let theirs = last.map(|unnamed| (id, unnamed.sequence));
        if far.unnamed.is_some() && far.unnamed == theirs && !maybe_lost {
            let hints = last.map_or(Hints::NONE, |unnamed| unnamed.hints);
            if !hints.is_empty() {
                let text = last.map(|last| super::lending::text_of(&last.body).to_vec());
                self.note_hints(id, hints, text.as_deref().filter(|text| !text.is_empty()));
            }
            return None;
        }
        let mine = last.filter(|unnamed| !unnamed.body.is_empty());
        let wanted = mine.map(|unnamed| (id, unnamed.sequence));
        let Some(wanted) = wanted else {
            // The client has none. If the server has one it is another's: a name that nobody
            // has lets the server say that there is none.
            return far.unnamed.is_some().then(|| NO_UNNAMED.as_bytes().to_vec());
        };
        let unnamed = mine?;
        let hints = unnamed.hints;
        let body = &unnamed.body;
        let mut sent = Ok(());
        actions.write(server, |out| sent = write::parse(out, b"", body));
        assert!(sent.is_ok(), "a statement that is kept is far below the largest message");
        far.unnamed = Some(wanted);
        far.unnamed_segment = client.segment;
        far.ledger.push(Expect::Parse, Origin::Own, purpose::PARSE);
        let text = (!hints.is_empty()).then(|| super::lending::text_of(&unnamed.body).to_vec());
        if let Some(text) = text {
            self.note_hints(id, hints, Some(&text));
        }
        None
    }

    /// The unnamed statement of the server is this client's, with a text that is not kept.
    pub(super) fn own_unnamed(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let unnamed = client.unnamed.get_or_insert_default();
        unnamed.body.clear();
        unnamed.sequence += 1;
        let (sequence, server) = (unnamed.sequence, client.server);
        if let Some(far) = server.and_then(|server| self.server_mut(server)) {
            far.unnamed = Some((id, sequence));
        }
    }

    /// A simple Query drops the unnamed statement, here as there. What it was is returned where
    /// the server may yet skip the Query.
    pub(super) fn forget_unnamed(&mut self, id: ConnId) -> Option<Box<Unnamed>> {
        let client = self.clients.get_mut(id)?;
        let far = self.servers.get_mut(client.server?)?.server_mut()?;
        if far.ledger.is_skipping() {
            return None;
        }
        far.unnamed = None;
        let unnamed = client.unnamed.as_mut().filter(|unnamed| !unnamed.body.is_empty())?;
        if !far.ledger.is_unsynced() {
            unnamed.body.clear();
            return None;
        }
        let mut none = Box::<Unnamed>::default();
        none.sequence = unnamed.sequence;
        client.unnamed.replace(none)
    }
}
