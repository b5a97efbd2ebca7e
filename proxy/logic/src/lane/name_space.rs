//! One name space: statements made by the protocol and named by SQL, and the other way round.
//!
//! On the server a client's statement has a name of ours, which SQL cannot know. So a Query that
//! names statements of the client finds them there under the client's names as well, lent for
//! just as long as it runs; it does with them what it would do without a pooler, and what it
//! drops is learnt from its answers. A name that SQL has made keeps its client on the server that
//! knows it, and that server is asked before a Parse takes the name.

use crate::hints::{Hints, Naming, statement_names};
use crate::id::ConnId;
use crate::lane::lending::text_of;
use crate::lane::server::purpose;
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Expect, Origin};
use crate::prepared::StatementId;
use crate::state::Pins;
use pgring_wire::backend::command_tag;
use pgring_wire::client::write;
use std::sync::Arc;

/// How many statements are lent to one text.
const LENT_MAX: usize = 16;

/// A statement without a text, as in Parse behind the name. It cannot fail, not even in a failed
/// transaction, unless its name is taken.
const EMPTY: &[u8] = b"\0\0\0";

impl Lane {
    /// The names in a text that means statements of the client which the protocol has made.
    pub(super) fn names_in(&self, id: ConnId, text: &[u8], hints: Hints) -> Vec<Naming> {
        let Some(client) = self.clients.get(id) else { return Vec::new() };
        // Before anything else, because nearly all texts end here.
        if client.names.is_empty() || !hints.has(Hints::PIN | Hints::STATEMENTS) {
            return Vec::new();
        }
        let names = statement_names(text).unwrap_or_default();
        let any = names.iter().any(|naming| client.names.get(&naming.name).is_some());
        // A server that waits for COPY data reads nothing else, and says nothing before it has.
        let far = client.server.and_then(|server| self.server_ref(server));
        let copying = far.is_some_and(|far| far.ledger.is_copying_in());
        if any && !copying && self.looks(id) { names } else { Vec::new() }
    }

    /// Whether something of the client's is under way, whose end may change what names mean, or
    /// the transaction.
    pub(super) fn must_wait_for_all(&mut self, id: ConnId) -> bool {
        let server = self.clients.get(id).and_then(|client| client.server);
        let waits = server
            .and_then(|server| self.server_ref(server))
            .is_some_and(|far| far.ledger.is_exchanging());
        if let Some(client) = self.clients.get_mut(id).filter(|_| waits) {
            client.stalled = true;
        }
        waits
    }

    /// Gives a server the statements that the Query behind it names. Tells whether it did.
    pub(super) fn lend_names(
        &mut self,
        id: ConnId,
        hints: Hints,
        names: &[Naming],
        actions: &mut Out,
    ) -> bool {
        let Some(server) = self.clients.get(id).and_then(|client| client.server) else {
            return false;
        };
        let Some(lent) = self.lendable(id, server, hints, names) else { return false };
        for (name, statement) in lent {
            let body = statement.map(|statement| Arc::clone(self.texts.body(statement)));
            if let (Some(statement), Some(body)) = (statement, &body) {
                let hints = self.texts.hints(statement);
                self.note_hints(id, hints, Some(text_of(body)));
            }
            let body = body.as_deref().unwrap_or(EMPTY);
            let mut sent = Ok(());
            actions.write(server, |out| sent = write::parse(out, name, body));
            assert!(sent.is_ok(), "a statement that is kept is far below the largest message");
            self.push(id, Expect::Parse, Origin::Own, purpose::QUIET);
            // If it fails, the Query and what closes the names must not be skipped.
            actions.write(server, write::sync);
            self.push(id, Expect::Sync, Origin::Own, purpose::QUIET);
        }
        if let Some(client) = self.clients.get_mut(id) {
            let drops = names.iter().rev().filter(|naming| naming.drops);
            client.dropping = drops.map(|naming| naming.name.clone().into()).collect();
        }
        true
    }

    /// Which of the names can be lent, with the statement where the text runs it; none: the text
    /// is better sent as it is.
    fn lendable<'n>(
        &self,
        id: ConnId,
        server: ConnId,
        hints: Hints,
        names: &'n [Naming],
    ) -> Option<Vec<(&'n [u8], Option<StatementId>)>> {
        let (client, far) = (self.clients.get(id)?, self.server_ref(server)?);
        // COPY data would be followed by messages that are not data.
        if far.ledger.is_unsynced() || far.ledger.is_skipping() || hints.has(Hints::COPY) {
            return None;
        }
        // Where a name is dropped and made anew, whose it is in the end is not known.
        let drops = hints.has(Hints::STATEMENTS);
        let mut lent: Vec<(&[u8], Option<StatementId>)> = Vec::new();
        for Naming { name, runs, makes, .. } in names {
            let Some(statement) = client.names.get(name) else { continue };
            let inner = self.texts.hints(statement);
            if *makes && drops || inner.has(Hints::COPY | Hints::STATEMENTS) {
                return None;
            }
            // A Parse that fails here would fail the transaction even where its statement is run
            // behind a COMMIT.
            if *runs && far.status == b'T' && hints.has(Hints::MULTI) {
                return None;
            }
            let statement = runs.then_some(statement);
            match lent.iter_mut().find(|(other, _)| *other == &**name) {
                Some((_, kept)) => *kept = kept.or(statement),
                None => lent.push((name, statement)),
            }
        }
        (lent.len() <= LENT_MAX).then_some(lent)
    }

    /// Closes behind a Query what was lent to it.
    pub(super) fn take_names_back(&mut self, id: ConnId, names: &[Naming], actions: &mut Out) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(server) = client.server else { return };
        let known = |naming: &&Naming| client.names.get(&naming.name).is_some();
        let mut lent: Vec<&[u8]> = names.iter().filter(known).map(|it| &*it.name).collect();
        lent.sort_unstable();
        lent.dedup();
        for name in lent {
            self.push(id, Expect::Close, Origin::Own, purpose::LENT);
            actions.write(server, |out| write::close(out, b'S', name));
        }
        self.push(id, Expect::Sync, Origin::Own, purpose::QUIET);
        actions.write(server, write::sync);
    }

    /// A command is complete: some drop prepared statements.
    pub(super) fn completed(&mut self, id: ConnId, body: &[u8], whose: Option<Entry>) {
        match command_tag(body) {
            Ok(b"DEALLOCATE") => self.name_dropped(id, whose),
            Ok(tag @ (b"DEALLOCATE ALL" | b"DISCARD ALL" | b"RESET")) => {
                self.all_dropped(id, tag, whose);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// `DEALLOCATE ALL` and `DISCARD ALL`, wherever they came from, leave no statement.
    #[cold]
    fn all_dropped(&mut self, id: ConnId, tag: &[u8], whose: Option<Entry>) {
        self.resets(id, tag, whose);
        if tag == b"RESET" {
            return;
        }
        let Some(far) = self.servers.get_mut(id).and_then(|far| far.server_mut()) else { return };
        // Statements parsed behind it in the same pipeline are forgotten as well; their numbers
        // are never used again, so the server only keeps some it will not be asked for.
        for statement in far.statements.clear() {
            self.texts.release(statement);
        }
        let client = far.client.filter(|_| whose.is_some_and(|e| e.origin == Origin::Client));
        if let Some(client) = client.and_then(|client| self.clients.get_mut(client)) {
            // What was parsed behind it in the same pipeline stays.
            let names: Vec<Box<[u8]>> = client.changes.iter().map(|c| c.name.clone()).collect();
            let behind: Vec<_> = names
                .into_iter()
                .filter_map(|name| Some((client.names.remove(&name)?, name)))
                .collect();
            for statement in client.names.drain() {
                self.texts.release(statement);
            }
            for change in &mut client.changes {
                if let Some(before) = change.before.take() {
                    self.texts.release(before);
                }
            }
            for (statement, name) in behind {
                client.names.insert(&name, statement);
            }
        }
        if tag != b"DISCARD ALL" {
            return;
        }
        if whose.is_some_and(|entry| entry.origin == Origin::Own) {
            far.state = Arc::clone(&self.nothing.parameters);
            far.touched = None;
        } else if let Some(client) = far.client.and_then(|client| self.clients.get_mut(client)) {
            // What could not be looked up is gone for certain; the rest will be looked up.
            client.pins = Pins::default();
        }
    }

    /// A client has reset parameters.
    fn resets(&mut self, id: ConnId, tag: &[u8], whose: Option<Entry>) {
        let own = whose.is_some_and(|entry| entry.origin == Origin::Own);
        let client = self.server_ref(id).and_then(|far| far.client);
        let Some(client) = client.and_then(|client| self.clients.get_mut(client)) else { return };
        client.resetting |= !own && tag != b"DEALLOCATE ALL" && !client.startup.is_empty();
    }

    /// A DEALLOCATE is complete: the next of those in the text that is running.
    #[cold]
    pub(super) fn name_dropped(&mut self, server: ConnId, whose: Option<Entry>) {
        let query = |entry: Entry| entry.expect == Expect::Query && entry.origin == Origin::Client;
        if !whose.is_some_and(query) {
            return;
        }
        let client = self.server_ref(server).and_then(|far| far.client);
        let Some(client) = client.and_then(|id| self.clients.get_mut(id)) else { return };
        let Some(name) = client.dropping.pop() else { return };
        if let Some(statement) = client.names.remove(&name) {
            self.texts.release(statement);
        }
    }

    /// Whether the server of a client may know names that are the client's own.
    pub(super) fn may_know_names(&self, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let inspects = client
            .server
            .and_then(|server| self.server_ref(server))
            .is_some_and(|far| far.inspected.is_some());
        client.pins.contains(Pins::PREPARED)
            || client.pins.contains(Pins::UNKNOWN)
            || client.hints.has(Hints::PIN)
            || inspects
    }

    /// Has the server refuse what follows if it knows this name.
    pub(super) fn ask_for_name(
        &mut self,
        id: ConnId,
        server: ConnId,
        name: &[u8],
        actions: &mut Out,
    ) {
        let mut sent = Ok(());
        actions.write(server, |out| {
            sent = write::parse(out, name, EMPTY);
            write::close(out, b'S', name);
        });
        assert!(sent.is_ok(), "a name that is kept is far below the largest message");
        self.push(id, Expect::Parse, Origin::Own, purpose::PARSE);
        self.push(id, Expect::Close, Origin::Own, purpose::LENT);
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{Trial, query};
    use pgring_wire::client::write;

    /// A client on whose server SQL may have made names, and which has sent a Parse.
    fn parsing() -> Trial {
        let mut trial = Trial::start("");
        trial.client_says(&query("BEGIN; PREPARE p AS SELECT 1"));
        trial.server_says(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        trial.server_says(b"C\0\0\0\x0aBEGIN\0C\0\0\0\x0cPREPARE\0Z\0\0\0\x05T");
        let mut parse = Vec::new();
        write::parse(&mut parse, b"p", b"SELECT 2\0\0\0").expect("it is short");
        write::sync(&mut parse);
        trial.client_says(&parse);
        trial
    }

    #[test]
    fn a_text_with_a_name_does_not_wait_for_a_server_that_waits_for_data() {
        let mut trial = parsing();
        trial.server_says(b"1\0\0\0\x043\0\0\0\x04Z\0\0\0\x05T");
        trial.client_says(&query("COPY t FROM STDIN"));
        trial.server_says(b"G\0\0\0\x07\0\0\0");
        let execute = query("EXECUTE p");
        assert_eq!(trial.client_says(&execute), execute.len());
        assert!(trial.said_to(trial.server).is_empty(), "nothing of pgring's may be data");
    }

    const FAILED: &[u8] = b"E\0\0\0\x1dSERROR\0VERROR\0C57014\0Mx\0\0Z\0\0\0\x05E";

    fn is_unfit(trial: &Trial) -> bool {
        trial.lane.server_ref(trial.server).is_none_or(|far| far.unfit)
    }

    #[test]
    fn a_name_that_is_taken_makes_a_server_no_worse() {
        let mut trial = parsing();
        trial.server_says(FAILED);
        assert!(!is_unfit(&trial));
    }

    #[test]
    fn a_server_that_may_have_kept_a_name_lent_to_it_is_unfit_for_others() {
        let mut trial = parsing();
        trial.server_says(b"1\0\0\0\x04");
        trial.server_says(FAILED);
        assert!(is_unfit(&trial));
    }
}
