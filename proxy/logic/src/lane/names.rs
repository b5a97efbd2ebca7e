//! Names that change before the server has agreed: what is said of a statement by Parse and
//! Close holds for the messages behind it at once, and is taken back if the server skips it.
//!
//! After an error `PostgreSQL` ignores everything up to the Sync, so a Parse or Close behind the
//! error never happened. Every such message leaves a [`Change`] with its client, with the number
//! of its ledger entry; the entry's end confirms it, the entry's skipping undoes it.

use crate::id::ConnId;
use crate::lane::Lane;
use crate::lane::client::{Change, Unnamed};
use crate::ledger::{Entry, Expect, Origin};
use crate::prepared::StatementId;

impl Lane {
    /// Sends word of a change of names: the ledger entry first, and the change only if the
    /// server will not ignore the message. Tells whether it was made.
    pub(super) fn change_name(
        &mut self,
        id: ConnId,
        entry: (Expect, Origin, u32),
        name: &[u8],
        after: Option<StatementId>,
    ) -> bool {
        let Some(number) = self.push_change(id, entry) else { return false };
        let Some(client) = self.clients.get_mut(id) else { return false };
        let before = match after {
            Some(statement) => client.names.insert(name, statement),
            None => client.names.remove(name),
        };
        client.changes.push(Change { number, name: name.into(), before, unnamed: None });
        true
    }

    /// The same for the unnamed statement, whose text was `before`.
    pub(super) fn change_unnamed(&mut self, id: ConnId, before: Option<Box<Unnamed>>) -> bool {
        let Some(number) = self.push_change(id, (Expect::Parse, Origin::Client, 0)) else {
            return false;
        };
        let Some(client) = self.clients.get_mut(id) else { return false };
        let name = Box::default();
        client.changes.push(Change { number, name, before: None, unnamed: before });
        true
    }

    fn push_change(&mut self, id: ConnId, entry: (Expect, Origin, u32)) -> Option<u32> {
        let client = self.clients.get_mut(id)?;
        client.change_last = client.change_last.wrapping_add(1).max(1);
        let (change, server) = (client.change_last, client.server?);
        let (expect, origin, mark) = entry;
        let far = self.server_mut(server)?;
        far.ledger.push_entry(Entry { expect, origin, mark, change }).then_some(change)
    }

    /// An entry has been answered: what was said in advance is so.
    pub(super) fn confirm(&mut self, server: ConnId, entry: Entry) {
        let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) else {
            return;
        };
        if entry.expect == Expect::Parse
            && entry.origin != Origin::Told
            && let Some(statement) = StatementId::from_mark(entry.mark)
        {
            far.parsing.retain(|other| *other != statement);
        }
        if entry.change == 0 {
            return;
        }
        let Some(client) = far.client.and_then(|client| self.clients.get_mut(client)) else {
            return;
        };
        let place = client.changes.iter().position(|change| change.number == entry.change);
        if let Some(before) = place.and_then(|place| client.changes.remove(place).before) {
            self.texts.release(before);
        }
    }

    /// Entries that will never be answered: the first failed, the rest were ignored.
    pub(super) fn unsay(&mut self, server: ConnId, skipped: &[Entry]) {
        for (index, entry) in skipped.iter().enumerate().rev() {
            let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) else {
                return;
            };
            let sent = entry.origin != Origin::Told && entry.expect == Expect::Parse;
            match StatementId::from_mark(entry.mark).filter(|_| sent) {
                Some(statement) => {
                    far.parsing.retain(|other| *other != statement);
                    if far.statements.forget(statement).is_some() {
                        self.texts.release(statement);
                    }
                }
                // A failed Parse leaves no unnamed statement, an ignored one whatever was there.
                None if sent => far.unnamed = (index > 0).then_some((server, u64::MAX)),
                None => {}
            }
            let client = far.client;
            if let Some(client) = client.filter(|_| entry.change != 0) {
                self.undo(client, entry.change, index == 0);
            }
        }
    }

    fn undo(&mut self, id: ConnId, number: u32, failed: bool) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(place) = client.changes.iter().rposition(|change| change.number == number) else {
            return;
        };
        let Change { name, before, unnamed, .. } = client.changes.remove(place);
        let unnamed = unnamed.filter(|_| !failed);
        // A later change of the same name stands; it is its past that was another.
        let later = client.changes[place..].iter_mut().find(|later| later.name == name);
        let released = match (later, name.is_empty()) {
            (Some(later), true) => {
                later.unnamed = unnamed;
                None
            }
            (Some(later), false) => core::mem::replace(&mut later.before, before),
            (None, true) => {
                client.unnamed = unnamed;
                None
            }
            (None, false) => match before {
                Some(before) => client.names.insert(&name, before),
                None => client.names.remove(&name),
            },
        };
        if let Some(statement) = released {
            self.texts.release(statement);
        }
    }

    /// A client is gone, and so is what it may have wanted to take back.
    pub(super) fn forget_changes(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        for change in client.changes.drain(..) {
            if let Some(before) = change.before {
                self.texts.release(before);
            }
        }
    }
}
