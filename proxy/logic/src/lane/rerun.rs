//! A prepared statement whose result type has changed: parsed afresh and run once more.
//!
//! `PostgreSQL` refuses to run a prepared statement whose result columns a DDL has changed since
//! it was parsed (0A000, "cached plan must not change result type"). A client that prepared
//! before the DDL, perhaps on another server, can do nothing about that. So the messages from
//! its Bind to its Sync are kept while they are under way, and where nothing else is and no
//! transaction is open, the error is swallowed and they are sent again behind a new Parse.

use crate::id::ConnId;
use crate::lane::traffic::Message;
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Expect, Origin};
use crate::prepared::StatementId;
use pgring_wire::backend::ErrorView;
use pgring_wire::client::{bind_names, write};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

/// What is kept of a flight; larger ones are not run again.
const BYTES_MAX: usize = 4_096;

/// Messages under way, from a Bind to a Sync.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// As the client sent them.
    bytes: Vec<u8>,
    statement: Option<StatementId>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    /// Nothing is kept.
    #[default]
    Off,
    /// Up to the Sync.
    Recording,
    /// All of it is kept, nothing came behind it.
    Whole,
    /// The error came; the `ReadyForQuery` behind it will be swallowed too.
    Failed,
}

impl Flight {
    /// Nothing of what comes next is kept.
    pub(super) fn is_off(&self) -> bool {
        self.stage == Stage::Off
    }

    /// What comes next is kept, if it is no more than this.
    pub(super) fn keeps(&self, len: usize) -> bool {
        self.stage == Stage::Recording && self.bytes.len() + len <= BYTES_MAX
    }

    /// Keeps messages; `whole` tells that the Sync is among them.
    pub(super) fn keep(&mut self, messages: &[u8], whole: bool) {
        self.bytes.extend_from_slice(messages);
        if whole {
            self.stage = Stage::Whole;
        }
    }
}

impl Lane {
    /// A Bind of a named statement is about to be sent: the start of a flight, if nothing else
    /// is under way.
    pub(super) fn take_off(&mut self, id: ConnId, statement: StatementId, message: Message<'_>) {
        let Some(client) = self.clients.get(id) else { return };
        let alone = client.server.and_then(|server| self.server_ref(server)).is_some_and(|far| {
            let begins = far.beginning || self.is_leading(id);
            far.status == b'I' && !begins && !far.ledger.is_unsynced() && !far.ledger.is_clients()
        });
        let Some(client) = self.clients.get_mut(id) else { return };
        let whole = message.body().is_some() && message.shown.len() <= BYTES_MAX;
        if !alone || !whole {
            return;
        }
        let flight = client.flight.get_or_insert_default();
        flight.bytes.clear();
        flight.statement = Some(statement);
        flight.stage = Stage::Recording;
    }

    /// Every message of a client passes here once it is on its way.
    pub(super) fn log_flight(&mut self, id: ConnId, message: Message<'_>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(flight) = &mut client.flight else { return };
        match flight.stage {
            Stage::Recording => {}
            Stage::Whole => {
                flight.stage = Stage::Off;
                return;
            }
            Stage::Off | Stage::Failed => return,
        }
        let fits = flight.bytes.len() + message.shown.len() <= BYTES_MAX;
        let simple = matches!(message.head.tag, b'B' | b'D' | b'E' | b'S')
            && (message.head.tag != b'B' || flight.bytes.is_empty())
            && (message.head.tag != b'D' || message.shown.get(Header::SIZE) == Some(&b'P'));
        if !fits || !simple || message.body().is_none() {
            flight.stage = Stage::Off;
            return;
        }
        flight.keep(message.shown, message.head.tag == b'S');
    }

    /// Whether an error is the one that a new Parse cures, and may be cured: then it is
    /// swallowed.
    #[cold]
    pub(super) fn is_curable(&mut self, id: ConnId, body: &[u8], whose: Option<Entry>) -> bool {
        let view = ErrorView::new(body);
        if view.code() != Some(b"0A000") || view.field(b'R') != Some(b"RevalidateCachedQuery") {
            return false;
        }
        let Some(entry) = whose.filter(|entry| entry.origin == Origin::Client) else {
            return false;
        };
        let Some(far) = self.server_ref(id) else { return false };
        let Some(client) = far.client.and_then(|client| self.clients.get_mut(client)) else {
            return false;
        };
        if let Some(flight) = &mut client.flight
            && flight.stage == Stage::Whole
            && entry.expect == Expect::Bind
        {
            flight.stage = Stage::Failed;
            return true;
        }
        // Too late for this one, and nobody has noted which it is: whatever is asked for next
        // finds a new Parse.
        self.unlearn_all(id);
        false
    }

    /// Forgets the statements of a server, but for those that are being parsed.
    fn unlearn_all(&mut self, server: ConnId) {
        let Some(far) = self.server_ref(server) else { return };
        let parsing = |id: &StatementId| far.parsing.iter().any(|(parsing, _)| parsing == id);
        let known: Vec<_> = far.statements.ids().into_iter().filter(|id| !parsing(id)).collect();
        for statement in known {
            self.unlearn(server, statement);
        }
    }

    /// Whether the `ReadyForQuery` at hand ends a flight that failed and is to start again.
    pub(super) fn is_failed_flight(&self, server: ConnId) -> bool {
        let client = self.server_ref(server).and_then(|far| far.client);
        let flight = client.and_then(|id| self.clients.get(id)?.flight.as_ref());
        flight.is_some_and(|flight| flight.stage == Stage::Failed)
    }

    /// Whether what a client has sent before is about to be sent again: it must wait for that.
    pub(super) fn waits_for_rerun(&mut self, id: ConnId) -> bool {
        let Some(client) = self.clients.get_mut(id) else { return false };
        let failed = client.flight.as_ref().is_some_and(|flight| flight.stage == Stage::Failed);
        client.stalled |= failed;
        failed
    }

    /// A flight is over, well or not.
    pub(super) fn land(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if let Some(flight) = &mut client.flight {
            flight.stage = Stage::Off;
        }
    }

    fn unlearn(&mut self, server: ConnId, statement: StatementId) {
        let Some(far) = self.server_mut(server) else { return };
        if let Some(number) = far.statements.forget(statement) {
            far.unclosed.push(number);
            self.texts.release(statement);
        }
    }

    /// Sends a failed flight again.
    pub(super) fn rerun(&mut self, server: ConnId, actions: &mut Out) {
        let Some(id) = self.server_ref(server).and_then(|far| far.client) else { return };
        let Some(flight) = self.clients.get_mut(id).and_then(|client| client.flight.as_mut())
        else {
            return;
        };
        flight.stage = Stage::Off;
        let bytes = core::mem::take(&mut flight.bytes);
        let Some(statement) = flight.statement else { return };
        self.unlearn(server, statement);
        let mut rest = &bytes[..];
        while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
            let (message, behind) = rest.split_at(head.total());
            rest = behind;
            let expect = match head.tag {
                b'B' => {
                    self.bind_again(id, server, statement, message, actions);
                    continue;
                }
                b'D' => Expect::DescribePortal,
                b'E' => Expect::Execute,
                _ => Expect::Sync,
            };
            self.push(id, expect, Origin::Client, 0);
            actions.write(server, |out| out.extend_from_slice(message));
        }
        if let Some(flight) = self.clients.get_mut(id).and_then(|client| client.flight.as_mut()) {
            flight.bytes = bytes;
        }
    }

    fn bind_again(
        &mut self,
        id: ConnId,
        server: ConnId,
        statement: StatementId,
        message: &[u8],
        actions: &mut Out,
    ) {
        let name = self.ensure_name(id, server, statement, actions);
        let body = &message[Header::SIZE..];
        let Some(names) = bind_names(body) else { return };
        let values = &body[names.end..];
        let mut sent = Ok(());
        actions.write(server, |out| {
            sent = write::bind_header(out, names.portal, name.as_bytes(), values.len());
            out.extend_from_slice(values);
        });
        assert!(sent.is_ok(), "what is kept of a flight is far below the largest message");
        self.push(id, Expect::Bind, Origin::Client, 0);
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use crate::mail::Event;
    use pgring_wire::client::write;

    const CHANGED: &[u8] = b"E\0\0\0\x2dSERROR\0C0A000\0Mx\0RRevalidateCachedQuery\0\0";

    /// A standby that fails in the middle of it is left with all that was said there.
    #[test]
    fn a_flight_that_fails_on_a_standby_that_ends_is_the_primarys() {
        let (mut trial, standby) = Trial::routed("");
        let mut parse = Vec::new();
        write::parse(&mut parse, b"s", b"SELECT 1\0\0\0").expect("it is short");
        write::sync(&mut parse);
        assert_eq!(trial.client_says(&parse), parse.len());
        trial.receives(standby, b"1\0\0\0\x04Z\0\0\0\x05I");
        let mut run = Vec::new();
        write::bind(&mut run, b"", b"s");
        write::execute(&mut run, b"");
        write::sync(&mut run);
        assert_eq!(trial.client_says(&run), run.len());
        trial.receives(standby, CHANGED);
        assert!(trial.said_to(trial.client).is_empty(), "it is cured");
        trial.happens(Event::Ended { conn: standby });
        assert!(!trial.closes(trial.client) && trial.said_to(trial.client).is_empty());
        assert!(trial.said_to(trial.server).ends_with(b"S\0\0\0\x04"), "it is said again");
    }

    /// The error and the `ReadyForQuery` behind it may come one by one.
    #[test]
    fn what_comes_while_a_flight_fails_goes_behind_its_second_try() {
        let mut trial = Trial::start("");
        let mut parse = Vec::new();
        write::parse(&mut parse, b"s", b"SELECT * FROM t\0\0\0").expect("it is short");
        write::sync(&mut parse);
        trial.client_says(&[query("SELECT 0"), parse].concat());
        trial.server_says(&[&ANSWERED.repeat(2)[..], b"1\0\0\0\x04Z\0\0\0\x05I"].concat());
        let mut run = Vec::new();
        write::bind(&mut run, b"", b"s");
        write::execute(&mut run, b"");
        write::sync(&mut run);
        trial.client_says(&run);
        trial.server_says(CHANGED);
        assert!(trial.said_to(trial.client).is_empty(), "it is cured");
        assert_eq!(trial.client_says(&query("SELECT 2")), 0, "its answer would come first");
        trial.server_says(b"Z\0\0\0\x05I");
        let again = trial.said_to(trial.server);
        assert!(again.starts_with(b"C") || again.starts_with(b"P"), "{}", again.escape_ascii());
        assert!(trial.is_resumed());
        assert!(trial.client_says(&query("SELECT 2")) > 0);
    }
}
