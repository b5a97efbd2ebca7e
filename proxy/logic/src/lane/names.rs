//! Names that change before the server has agreed: what is said of a statement by Parse and
//! Close holds for the messages behind it at once, and is taken back if the server skips it.
//!
//! After an error `PostgreSQL` ignores everything up to the Sync, so a Parse or Close behind the
//! error never happened. Every such message leaves a [`Change`] with its client, with the number
//! of its ledger entry; the entry's end confirms it, the entry's skipping undoes it.

use crate::action::Action;
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::client::{Change, Unnamed};
use crate::lane::server::purpose;
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Expect, Origin, SAME};
use crate::prepared::StatementId;

/// Unnamed statements that are kept to be filled again.
const SPARE_MAX: usize = 64;
/// Those with more memory are not.
const SPARE_SIZE_MAX: usize = 4 * 1024;

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
        let (segment, name) = (client.segment, name.into());
        client.changes.push(Change { number, segment, name, before, unnamed: None });
        true
    }

    /// The same for the unnamed statement, whose text was `before`: a Parse or a Query changes it.
    pub(super) fn change_unnamed(
        &mut self,
        id: ConnId,
        expect: Expect,
        before: Option<Box<Unnamed>>,
    ) -> bool {
        let Some(number) = self.push_change(id, (expect, Origin::Client, 0)) else {
            return false;
        };
        let Some(client) = self.clients.get_mut(id) else { return false };
        let (segment, name) = (client.segment, Box::default());
        client.changes.push(Change { number, segment, name, before: None, unnamed: before });
        true
    }

    fn push_change(&mut self, id: ConnId, entry: (Expect, Origin, u32)) -> Option<u32> {
        let client = self.clients.get_mut(id)?;
        client.change_last = (client.change_last + 1) % SAME;
        client.change_last = client.change_last.max(1);
        let (change, server) = (client.change_last, client.server?);
        let (expect, origin, mark) = entry;
        let far = self.server_mut(server)?;
        far.ledger.push_entry(Entry { expect, origin, mark, change }).then_some(change)
    }

    /// Whether what a name means depends on messages of an earlier segment that are still under
    /// way: if they are skipped it means something else, so one must wait.
    pub(super) fn must_wait(&mut self, id: ConnId, name: &[u8], body: Option<&[u8]>) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let Some(server) = client.server else { return false };
        let segment = client.segment;
        let named = client.changes.iter().rev().find(|change| *change.name == *name);
        let mut waits = named.is_some_and(|change| change.segment != segment);
        // A Parse of the unnamed statement may have left no change.
        if name.is_empty() && client.unnamed.as_ref().is_some_and(|last| last.segment != segment) {
            waits |= self.server_ref(server).is_some_and(|far| far.ledger.is_parsing_same());
        }
        let known = client.names.get(name);
        // Behind a text that may drop statements, its answer says which are left.
        let drops = client.hints.has(Hints::STATEMENTS) && !name.is_empty();
        waits |= drops && self.server_ref(server).is_some_and(|far| far.ledger.is_exchanging());
        if let Some(far) = self.server_ref(server).filter(|far| !far.parsing.is_empty()) {
            waits |= far.parsing.iter().any(|&(statement, of)| {
                let meant = known == Some(statement)
                    || body.is_some_and(|body| **self.texts.body(statement) == *body);
                of != segment && meant
            });
        }
        // A segment ends with what the client is due an answer for. If that has come, so has all
        // before it, and nothing would come to end the wait. Nor does anything come from a server
        // that waits for the client's COPY data.
        waits &= self
            .server_ref(server)
            .is_some_and(|far| far.ledger.is_exchanging() && !far.ledger.is_copying_in());
        if let Some(client) = self.clients.get_mut(id).filter(|_| waits) {
            client.stalled = true;
        }
        waits
    }

    /// Answers have come: a client that had to wait for some looks again.
    pub(super) fn unstall(&mut self, server: ConnId, actions: &mut Out) {
        let Some(id) = self.server_ref(server).and_then(|far| far.client) else { return };
        let Some(client) = self.clients.get_mut(id).filter(|client| client.stalled) else { return };
        client.stalled = false;
        actions.push(Action::Resume(id));
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
            far.parsing.retain(|(other, _)| *other != statement);
            if far.statements.get(statement).is_some() {
                self.texts.prove(statement, far.pool);
            }
        }
        if matches!(entry.change, 0 | SAME) {
            return;
        }
        let Some(client) = far.client.and_then(|client| self.clients.get_mut(client)) else {
            return;
        };
        let place = client.changes.iter().position(|change| change.number == entry.change);
        let Some(change) = place.map(|place| client.changes.remove(place)) else { return };
        if let Some(before) = change.before {
            self.texts.release(before);
        }
        let kept = |unnamed: &Unnamed| unnamed.body.capacity() <= SPARE_SIZE_MAX;
        if let Some(unnamed) = change.unnamed.filter(|unnamed| kept(unnamed))
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(unnamed);
        }
    }

    /// Entries that will never be answered: the first failed, the rest were ignored.
    pub(super) fn unsay(&mut self, server: ConnId, skipped: &[Entry]) {
        for (index, entry) in skipped.iter().enumerate().rev() {
            let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) else {
                return;
            };
            if entry.expect == Expect::Close && entry.origin == Origin::Own && entry.mark != 0 {
                if entry.mark != purpose::LENT {
                    far.unclosed.push(u64::from(entry.mark) - 1);
                } else if skipped[index.saturating_sub(1)].expect != Expect::Parse {
                    // A name of its client's is left on it, which nobody else may ever meet.
                    far.unfit = true;
                }
                continue;
            }
            if matches!(entry.expect, Expect::Query | Expect::Close) {
                // It has not dropped the unnamed statement, whosever that is.
                far.unnamed = Some((server, u64::MAX));
            }
            let sent = entry.origin != Origin::Told && entry.expect == Expect::Parse;
            match StatementId::from_mark(entry.mark).filter(|_| sent) {
                Some(statement) => {
                    far.parsing.retain(|(other, _)| *other != statement);
                    if far.statements.forget(statement).is_some() {
                        self.texts.release(statement);
                    }
                }
                // One without a name that failed leaves no unnamed statement; any other, and one
                // that was ignored, leaves whatever was there.
                None if sent => far.unnamed = Some((server, u64::MAX)),
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
        if number == SAME {
            // All before it is answered, all behind it in its segment is undone: a change that is
            // left is one of a later segment.
            let later = client.changes.iter_mut().find(|later| later.name.is_empty());
            if failed {
                *later.map_or(&mut client.unnamed, |later| &mut later.unnamed) = None;
            }
            return;
        }
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

    /// Nothing that is unconfirmed has come to be.
    pub(super) fn undo_changes(&mut self, id: ConnId) {
        let Some(client) = self.clients.get(id) else { return };
        let numbers: Vec<u32> = client.changes.iter().rev().map(|change| change.number).collect();
        for number in numbers {
            self.undo(id, number, false);
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

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use pgring_wire::client::write;

    /// Ten bytes of a client that uses a name again make pgring send all of the text.
    #[test]
    fn short_messages_do_not_make_long_ones_faster_than_they_are_taken() {
        const TEXT: usize = 200_000;
        let mut trial = Trial::start("");
        trial.client_says(&query("SELECT 0"));
        trial.server_says(&ANSWERED.repeat(2));
        let (mut parse, mut again) = (Vec::new(), Vec::new());
        let text = format!("SELECT '{}'\0\0\0", "x".repeat(TEXT));
        write::parse(&mut parse, b"s", text.as_bytes()).expect("it is short");
        write::parse(&mut again, b"s", b"\0\0\0").expect("it is short");
        trial.client_says(&[query("BEGIN"), parse].concat());
        trial.server_says(b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T1\0\0\0\x04");
        let many = again.repeat(100);
        let mut at = 0;
        let mut shown = 0;
        while at < many.len() {
            at += trial.client_says(&many[at..]);
            let said = trial.said_to(trial.server).len();
            assert!((TEXT..2 * TEXT).contains(&said), "{said} bytes at once");
            assert_eq!(trial.is_resumed(), at < many.len() || said > TEXT);
            shown += 1;
        }
        assert_eq!(shown, 100);
    }
}
