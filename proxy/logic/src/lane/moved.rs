//! A read that a replica cannot finish is finished by the primary, and its client sees nothing.
//!
//! What a client says in a segment that goes to a replica is kept until a row has come. If the
//! replica refuses (a guess was wrong: 25006), cancels (its replay goes first: 40001) or is lost
//! before that, nothing has happened, so the segment is said again to the primary. What the client
//! has been told already (`ParseComplete`, a `RowDescription`) it is not told twice.

use crate::action::{Action, CloseMode};
use crate::id::ConnId;
use crate::lane::balance::{Among, Fit};
use crate::lane::client::Client;
use crate::lane::leading::Leading;
use crate::lane::server::{Server, purpose};
use crate::lane::traffic::{Message, Step};
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Origin};
use crate::time::Instant;
use pgring_wire::backend::{ErrorView, sqlstate, write};
use pgring_wire::client::{Parse, bind_names, query};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

/// What is kept of a segment; a larger one is not said again.
const BYTES_MAX: usize = 16 * 1024;

/// Errors of a replica that the primary does not make: `read_only_sql_transaction`,
/// `feature_not_supported` and `object_not_in_prerequisite_state` (during recovery),
/// `serialization_failure` and `deadlock_detected` (conflicts with replay), the ends of a server.
const MOVING: [&[u8]; 8] =
    [b"25006", b"0A000", b"55000", b"40001", b"40P01", b"57P01", b"57P02", b"57P03"];

/// How often a read that must stay on standbys is said again: what it does may be what ends them.
const AGAIN_MAX: u8 = 2;

/// Those of them that any standby makes.
const REFUSING: [&[u8]; 3] = [b"25006", b"0A000", b"55000"];

/// A segment on a replica.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What the client said.
    bytes: Vec<u8>,
    /// How many answers it has heard, none of which was a row or an end.
    told: u32,
    /// Those of them that describe rows, as they came: those of the primary must be the same.
    described: Vec<u8>,
    stage: Stage,
    /// How often it has been said again.
    moves: u8,
    /// How far its transaction has come, if that has only read so far.
    pub(super) leading: Option<Leading>,
}

impl Reading {
    /// Whether all that comes of its answers is that they are heard.
    pub(super) fn only_hears(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Whole) && self.leading.is_none()
    }

    /// The client hears an answer of the replica that is no error, nor the last.
    pub(super) fn hear(&mut self, tag: u8, body: &[u8]) {
        if is_early(tag, body) {
            self.told += 1;
        } else {
            self.stage = Stage::Off;
        }
        if matches!(tag, b'T' | b't') {
            // What is not shown whole cannot be compared.
            self.described.extend_from_slice(body);
            if self.described.len() > BYTES_MAX {
                self.stage = Stage::Off;
            }
        }
    }
}

/// Whether an answer comes before what a statement has done. A BEGIN in front of a read is no
/// result of it.
fn is_early(tag: u8, body: &[u8]) -> bool {
    let begins = tag == b'C' && matches!(body, b"BEGIN\0" | b"START TRANSACTION\0");
    begins || matches!(tag, b'1' | b'2' | b'3' | b'T' | b't' | b'n')
}

/// What becomes of an answer that is about to go to a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    /// It goes.
    New,
    /// The client has heard it.
    Before,
    /// The client has heard another in its place.
    Otherwise,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    /// Nothing is kept, or it no longer matters.
    #[default]
    Off,
    /// The segment is being said.
    Open,
    /// All of it has been said.
    Whole,
    /// The replica has failed; it may have something to say yet.
    Failed,
    /// It waits for the primary.
    Moving,
}

impl Lane {
    /// A segment of a client is about to go to a replica.
    pub(super) fn begin_reading(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let reading = client.reading.get_or_insert_default();
        reading.bytes.clear();
        reading.described.clear();
        reading.told = 0;
        reading.moves = 0;
        reading.stage = Stage::Open;
    }

    /// Whether a segment that was aimed at a replica is still being said.
    pub(super) fn is_begun(&self, id: ConnId) -> bool {
        let reading = self.clients.get(id).and_then(|client| client.reading.as_ref());
        reading.is_some_and(|reading| reading.stage == Stage::Open)
    }

    /// Every message of a client passes here once it is on its way.
    pub(super) fn log_reading(&mut self, id: ConnId, message: Message<'_>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.grants = 0;
        let Some(reading) = &mut client.reading else { return };
        if reading.stage != Stage::Open {
            return;
        }
        let fits = reading.bytes.len() + message.shown.len() <= BYTES_MAX;
        if !fits || message.body().is_none() {
            reading.stage = Stage::Off;
            return;
        }
        let first = reading.bytes.is_empty();
        reading.bytes.extend_from_slice(message.shown);
        // A Query among extended messages ends nothing: should one of these fail, it is skipped.
        if message.head.tag == b'S' || message.head.tag == b'Q' && first {
            reading.stage = Stage::Whole;
        }
    }

    /// A client has heard an answer that needed no server.
    pub(super) fn note_told(&mut self, id: ConnId) {
        let reading = self.clients.get_mut(id).and_then(|client| client.reading.as_mut());
        if let Some(reading) = reading.filter(|reading| reading.stage == Stage::Open) {
            reading.told += 1;
        }
    }

    /// What a client reads no longer needs to be kept.
    pub(super) fn end_reading(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if let Some(reading) = &mut client.reading {
            reading.stage = Stage::Off;
            // What is refused later has nothing to do with it.
            reading.bytes.clear();
        }
    }

    /// Whether what a server says is to be looked at one by one.
    pub(super) fn is_counted(&self, far: &Server) -> bool {
        if far.hides > 0 {
            return true;
        }
        let client = far.client.filter(|_| self.pools[far.pool].key.node.is_some());
        let reading = client.and_then(|id| self.clients.get(id)?.reading.as_ref());
        reading.is_some_and(|it| matches!(it.stage, Stage::Open | Stage::Whole | Stage::Failed))
    }

    /// An answer is about to go to a client, which may have heard it from a replica.
    pub(super) fn counts(&mut self, server: ConnId, tag: u8, body: &[u8]) -> Heard {
        let Some(far) = self.server_mut(server) else { return Heard::New };
        if matches!(tag, b'N' | b'S' | b'A') {
            return Heard::New;
        }
        let early = is_early(tag, body);
        let describes = matches!(tag, b'T' | b't');
        let (client, pool, hides) = (far.client, far.pool, far.hides);
        if hides > 0 {
            far.hides = if early { hides - 1 } else { 0 };
        }
        let client = client.and_then(|id| self.clients.get_mut(id));
        let Some(reading) = client.and_then(|client| client.reading.as_mut()) else {
            return Heard::New;
        };
        if hides > 0 {
            if describes && reading.described.get(..body.len()) != Some(body) {
                return Heard::Otherwise;
            }
            if describes {
                reading.described.drain(..body.len());
            }
            return if early { Heard::Before } else { Heard::New };
        }
        if self.pools[pool].key.node.is_none() || tag == b'Z' {
            return Heard::New;
        }
        if tag == b'E' {
            // Its client hears of it: whatever comes next, it is not said again.
            reading.stage = Stage::Off;
            return Heard::New;
        }
        reading.hear(tag, body);
        Heard::New
    }

    /// The client has heard of columns that the primary does not give: what follows would be taken
    /// for them.
    #[cold]
    pub(super) fn hears_otherwise(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(id) = self.server_ref(server).and_then(|far| far.client) else { return };
        let text = write::ErrorText::fatal(
            sqlstate::CONNECTION_FAILURE,
            "the columns of a result changed while it moved from a standby to the primary",
        );
        self.fatal(now, id, &text.with_hint("Connect again."), actions);
    }

    /// Whether an error of a replica is none for its client: the primary will answer.
    #[cold]
    pub(super) fn is_moving(&mut self, server: ConnId, body: &[u8], whose: Option<Entry>) -> bool {
        // Of our own only a Parse on the client's behalf, whose error would be the client's.
        let ours = |entry: Entry| entry.origin == Origin::Own && entry.mark & purpose::PARSE == 0;
        if whose.is_none_or(ours) {
            return false;
        }
        let code = ErrorView::new(body).code();
        let moves = code.is_some_and(|code| MOVING.contains(&code));
        let Some(far) = self.server_ref(server).filter(|_| moves) else { return false };
        let client = far.client.filter(|_| self.pools[far.pool].key.node.is_some());
        if client.is_some() && code == Some(b"25006") {
            // Even if it is too late for this one.
            self.learn(server);
        }
        let Some(client) = client.and_then(|id| self.clients.get_mut(id)) else { return false };
        // What one standby does not do, no other does.
        if client.readonly && code.is_some_and(|code| REFUSING.contains(&code)) {
            return false;
        }
        let Some(reading) = &mut client.reading else { return false };
        // One that has failed may end its session behind that (PostgreSQL 15 does, where a conflict
        // with its replay comes twice): its client has heard of neither.
        let moves = matches!(reading.stage, Stage::Whole | Stage::Failed);
        if moves {
            reading.stage = Stage::Failed;
        }
        moves
    }

    /// What a replica's client said was no read, for all that was known.
    fn learn(&mut self, server: ConnId) {
        let client = self.server_ref(server).and_then(|far| far.client);
        let Some(client) = client.and_then(|id| self.clients.get(id)) else { return };
        let Some(reading) = &client.reading else { return };
        let mut rest = &reading.bytes[..];
        while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
            let (message, behind) = rest.split_at(head.total());
            rest = behind;
            let body = &message[Header::SIZE..];
            match head.tag {
                b'Q' => query(body).map_or((), |text| self.verdicts.learn(text)),
                b'P' => Parse::read(body).map_or((), |parse| self.verdicts.learn(parse.text)),
                b'B' => {
                    let Some(names) = bind_names(body) else { continue };
                    let unnamed = client.unnamed.as_ref().filter(|_| names.statement.is_empty());
                    let statement = client.names.get(names.statement);
                    let body = statement.map(|statement| &**self.texts.body(statement));
                    if let Some(body) = body.or(unnamed.map(|unnamed| &unnamed.body[..])) {
                        self.verdicts.learn(super::lending::text_of(body));
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a notice only says that the replica is about to go, when the read outlives it.
    pub(super) fn is_farewell(&self, server: ConnId, body: &[u8]) -> bool {
        let Some(far) = self.server_ref(server) else { return false };
        let ends = ErrorView::new(body).code().is_some_and(|code| code.starts_with(b"57P"));
        let survives = far.client.is_some_and(|id| self.survives(id, far.pool));
        ends && (survives || self.is_parting(server, body))
    }

    /// A server ends a session in which nothing runs: a client has nothing to do with that if it
    /// was to read there, or has said nothing there yet.
    #[cold]
    pub(super) fn is_parting(&self, server: ConnId, body: &[u8]) -> bool {
        let code = ErrorView::new(body).code().unwrap_or_default();
        let goes = code.starts_with(b"57P") || code == b"40001";
        self.server_ref(server).is_some_and(|far| {
            let leads = || goes && far.client.is_some_and(|id| self.is_reading_ahead(id));
            let silent = || goes && far.client.is_some_and(|id| self.has_said_nothing(id));
            (self.pools[far.pool].key.node.is_some() || silent())
                && (far.status == b'I' || far.status == b'T' && leads())
                && !far.ledger.is_waiting()
        })
    }

    /// Whether a replica has failed, and the primary is yet to be asked.
    pub(super) fn is_failed_reading(&self, server: ConnId) -> bool {
        let client = self.server_ref(server).and_then(|far| far.client);
        let reading = client.and_then(|id| self.clients.get(id)?.reading.as_ref());
        reading.is_some_and(|reading| reading.stage == Stage::Failed)
    }

    /// Whether a client's segment is on its way from a replica to the primary.
    pub(super) fn is_between(&self, id: ConnId) -> bool {
        let reading = self.clients.get(id).and_then(|client| client.reading.as_ref());
        reading.is_some_and(|it| matches!(it.stage, Stage::Failed | Stage::Moving))
    }

    /// The replica has said its last word on a segment: the client goes to the primary with it.
    pub(super) fn leave_replica(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        // A session that could not be made the client's is nobody's.
        far.unfit |= far.error.take().is_some();
        let Some(id) = far.client.take() else { return };
        actions.push(Action::Unpair(server));
        self.drop_cancel(now, server, actions);
        // Nobody gets it before all that has come of it is read: see `answers`.
        self.limit_cleaning(now, server);
        self.go_home(now, id, actions);
        actions.push(Action::Resume(id));
    }

    /// Whether the loss of a replica is none for this client: nothing of an answer has come, and
    /// all of the segment is kept.
    pub(super) fn survives(&self, id: ConnId, pool: usize) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let reading = client.reading.as_ref();
        self.pools[pool].key.node.is_some()
            && !client.is_partial()
            && reading.is_some_and(|it| matches!(it.stage, Stage::Whole | Stage::Failed))
    }

    /// A client without a server asks the primary for what a replica did not answer; one that must
    /// not do that, another replica.
    pub(super) fn go_home(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        self.lead_again(id);
        // All of it is said again there, and not twice.
        self.land(id);
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(home) = client.home else { return };
        client.server = None;
        if let Some(reading) = &mut client.reading {
            reading.stage = Stage::Moving;
        }
        if client.readonly {
            // Without another one it waits for this one.
            let others = client.pool.map_or(Among::Standbys, Among::StandbysBut);
            let fit = self.fit_for(now, id, home, others, actions);
            if let (Some(client), Fit::Pool(pool)) = (self.clients.get_mut(id), fit) {
                client.pool = Some(pool);
            }
        } else {
            client.pool = client.home;
            client.wrote = true;
            self.expect_commit(id, home, &[]);
        }
        // What the replica has not confirmed is yet to be.
        self.undo_changes(id);
        self.checkout(now, id, actions);
    }

    /// A client has a server of the primary: what it said to a replica is said again.
    pub(super) fn say_again(
        &mut self,
        now: Instant,
        id: ConnId,
        server: ConnId,
        actions: &mut Out,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(reading) = client.reading.as_mut().filter(|it| it.stage == Stage::Moving) else {
            return;
        };
        let bytes = core::mem::take(&mut reading.bytes);
        let told = reading.told;
        reading.moves = reading.moves.saturating_add(1);
        // A second standby may be lost as the first one was.
        let again = client.readonly && told == 0 && reading.moves < AGAIN_MAX;
        reading.stage = Stage::Off;
        client.again = true;
        if let Some(far) = self.server_mut(server) {
            far.hides = told;
        }
        let mut rest = &bytes[..];
        let mut heard = told;
        while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
            let (shown, behind) = rest.split_at(head.total());
            rest = behind;
            let message = Message { head, at: 0, shown };
            let confirmed = heard > 0;
            heard = heard.saturating_sub(answers_to(message));
            if confirmed && self.has_parsed(id, message) {
                // It was told so, and the name means that statement.
                if let Some(far) = self.server_mut(server) {
                    far.hides = far.hides.saturating_sub(1);
                }
                continue;
            }
            match self.message(now, id, message, actions) {
                Step::Took(_) => self.log_flight(id, message),
                Step::Over => return,
                Step::More | Step::Wait | Step::Again => {
                    // There is nothing that it could wait for.
                    let text = write::ErrorText::fatal(
                        sqlstate::CONNECTION_FAILURE,
                        "the server connection was lost",
                    );
                    return self.fatal(now, id, &text, actions);
                }
            }
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        client.again = false;
        if let Some(reading) = client.reading.as_mut().filter(|_| again) {
            reading.bytes = bytes;
            reading.stage = Stage::Whole;
        }
    }

    /// Whether a message parses under a name that the client has.
    fn has_parsed(&self, id: ConnId, message: Message<'_>) -> bool {
        let parse = message.body().filter(|_| message.head.tag == b'P').map(Parse::read);
        let Some(Ok(parse)) = parse else { return false };
        let client = self.clients.get(id);
        !parse.name.is_empty() && client.is_some_and(|it| it.names.get(parse.name).is_some())
    }

    /// The primary cannot be had for a segment that a replica did not answer.
    #[cold]
    pub(super) fn refuse_moving(
        &mut self,
        now: Instant,
        id: ConnId,
        (code, message): (&str, &str),
        actions: &mut Out,
    ) -> bool {
        if !self.is_between(id) {
            return false;
        }
        self.end_reading(id);
        self.nothing_sent(id);
        if self.is_deferred(id) {
            self.fatal(now, id, &write::ErrorText::fatal(code, message), actions);
            return true;
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.query_since = None;
            client.transaction_since = None;
        }
        self.client_idles(now, id);
        Self::say(id, &write::ErrorText::error(code, message), actions);
        actions.write(id, |out| write::ready_for_query(out, b'I'));
        if self.clients.get(id).is_some_and(Client::has_said_goodbye) {
            self.client_parted(now, id, CloseMode::Flush, actions);
        }
        true
    }
}

/// How many answers a message has that was answered without a row.
fn answers_to(message: Message<'_>) -> u32 {
    match (message.head.tag, message.shown.get(Header::SIZE)) {
        // Its parameters, and its columns.
        (b'D', Some(b'S')) => 2,
        (b'H' | b'S', _) => 0,
        // Of an Execute only a BEGIN.
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
