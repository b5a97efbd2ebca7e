//! What clients send once they are in: message by message to the server, bodies unseen.
//!
//! In session mode everything passes as it is. In transaction mode texts are looked at for what
//! they may do to the session, and statement names are rewritten (`statements.rs`).

use crate::action::{Action, Progress, Want};
use crate::config::PoolMode;
use crate::hints::{CUSTOM_MAX, Hints, custom_parameters};
use crate::id::ConnId;
use crate::lane::client::{Failing, Fate, Phase};
use crate::lane::{Lane, Out, all, behind, later, more};
use crate::ledger::{Expect, Origin};
use crate::state::Pins;
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};
use pgring_wire::client::query;
use pgring_wire::frame::{Header, LENGTH_MAX};

/// What pgring says itself before what came of a client is looked at again: a short Bind may need a
/// long Parse in front of it, and who sends many of them is to be paused by what that has queued.
const SAID_MAX: usize = 64 * 1024;

/// What became of a message.
pub(super) enum Step {
    /// This many bytes are done with; the rest of the body, if any, is the client's `left`.
    Took(usize),
    /// More of it must be shown at once.
    More,
    /// It needs something that will come with `Resume`.
    Wait,
    /// The client's state has changed: look at the message again.
    Again,
    /// The client is gone.
    Over,
}

/// One message of a client: where it starts in what is shown, and how much of it is shown.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) head: Header,
    pub(super) at: usize,
    /// From the tag on, as much as is shown.
    pub(super) shown: &'a [u8],
}

impl<'a> Message<'a> {
    /// The body, if all of it is shown.
    pub(super) fn body(&self) -> Option<&'a [u8]> {
        (self.shown.len() == self.head.total()).then(|| &self.shown[Header::SIZE..])
    }
}

/// What can be done about a refusal of pgring's own.
pub(super) fn hint_for(code: &str) -> Option<&'static str> {
    match code {
        sqlstate::TOO_MANY_CONNECTIONS => {
            Some("Raise pool.size, or make transactions shorter; SHOW POOLS says who waits.")
        }
        sqlstate::CANNOT_CONNECT_NOW => {
            Some("See last_error in SHOW POOLS and the log for why no server can be opened.")
        }
        _ => None,
    }
}

impl Lane {
    /// Bytes of a client.
    pub(super) fn receive_client(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let mut at = 0;
        loop {
            let entering = self.is_entering(id);
            let shown = bytes.get(at..).unwrap_or_default();
            let progress = self.receive_some(now, id, shown, actions);
            let rest = progress.consumed > 0 && progress.consumed < shown.len();
            if !(entering && rest && progress.want == Want::More) {
                return behind(at, progress);
            }
            at += progress.consumed;
            if !self.is_entering(id) {
                // What follows is forwarded, counted from the first byte that is shown.
                actions.push(Action::Resume(id));
                return later(at);
            }
        }
    }

    /// Before a client is in, messages are taken one by one; it need not wait in between.
    fn is_entering(&self, id: ConnId) -> bool {
        let client = self.clients.get(id);
        client.is_some_and(|client| matches!(client.phase, Phase::Startup | Phase::Auth(_)))
    }

    fn receive_some(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let Some(client) = self.clients.get(id) else { return all(bytes) };
        let pool = client.pool;
        let progress = match client.phase {
            Phase::Startup => self.receive_startup(now, id, bytes, actions),
            Phase::Auth(_) => self.receive_auth(now, id, bytes, actions),
            Phase::Entering | Phase::Welcoming => later(0),
            Phase::Ready => {
                let progress = self.traffic(now, id, bytes, actions);
                self.cancel_held(now, id, actions);
                progress
            }
            Phase::Console(_) => self.receive_console(now, id, bytes, actions),
            Phase::Raw => {
                if let Some(server) = client.server {
                    actions.forward(id, server, 0, bytes.len());
                }
                all(bytes)
            }
            Phase::Cancelling | Phase::Gone => all(bytes),
        };
        // What is left is shown again.
        if let Some(pool) = pool {
            self.pools[pool].stats.received_bytes += progress.consumed as u64;
        }
        progress
    }

    fn traffic(&mut self, now: Instant, id: ConnId, bytes: &[u8], actions: &mut Out) -> Progress {
        let mut at = 0;
        while at < bytes.len() {
            let Some(client) = self.clients.get_mut(id) else { return all(bytes) };
            if client.has_said_goodbye() {
                return all(bytes);
            }
            if client.left > 0 {
                let len = client.left.min(bytes.len() - at);
                client.left -= len;
                client.idle_since = now;
                if client.fate == Fate::Pass
                    && let Some(server) = client.server
                {
                    actions.forward(id, server, at, at + len);
                    self.whole(now, id, server, actions);
                }
                at += len;
                continue;
            }
            let passed = self.pass_messages(now, id, (at, bytes), actions);
            if passed > 0 {
                at += passed;
                continue;
            }
            let head = match self.head(now, id, (&bytes[at..], LENGTH_MAX), actions) {
                Ok(head) => head,
                Err(end) => return behind(at, end),
            };
            let end = bytes.len().min(at + head.total());
            let message = Message { head, at, shown: &bytes[at..end] };
            if self.aim(now, id, &bytes[at..], actions) {
                return later(at);
            }
            match self.message(now, id, message, actions) {
                Step::Took(len) => {
                    self.log_flight(id, message);
                    self.log_reading(id, message);
                    self.rest(id, message.head.tag);
                    at += len;
                    if actions.scratch.len() > SAID_MAX {
                        actions.push(Action::Resume(id));
                        return later(at);
                    }
                }
                Step::Again => {}
                Step::More => return more(at),
                Step::Wait => return later(at),
                Step::Over => return all(bytes),
            }
        }
        all(bytes)
    }

    /// More of a message has gone to a server, which may have been at rest since the message was
    /// half sent.
    fn whole(&mut self, now: Instant, id: ConnId, server: ConnId, actions: &mut Out) {
        if self.clients.get(id).is_some_and(|client| client.left == 0) {
            self.settle(now, server, actions);
        }
    }

    pub(super) fn message(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        let Some(client) = self.clients.get_mut(id) else { return Step::Over };
        if !matches!(client.phase, Phase::Ready) {
            return Step::Over;
        }
        client.requested = now;
        if client.failing != Failing::No && message.head.tag != b'X' {
            return self.fail_message(id, message, actions);
        }
        let attached = client.server.is_some();
        // What reads ahead, or has moved, has this; most have nothing of the kind.
        let reads = client.reading.is_some();
        if client.resetting && self.is_restoring(id) {
            return Step::Wait;
        }
        if message.head.tag != b'X' && self.waits_for_rerun(id) {
            return Step::Wait;
        }
        if reads && message.head.tag != b'X' && (self.is_between(id) || self.is_beginning(now, id))
        {
            return Step::Wait;
        }
        if reads
            && !attached
            && self.is_leading(id)
            && let Some(step) = self.lead(now, id, message, actions)
        {
            return step;
        }
        match message.head.tag {
            b'Q' => self.simple_query(now, id, message, actions),
            b'P' => self.parse(now, id, message, actions),
            b'B' => self.bind(now, id, message, actions),
            b'D' => self.describe(now, id, message, actions),
            b'C' => self.close(now, id, message, actions),
            b'E' => self.extended(now, id, message, Expect::Execute, actions),
            b'F' => {
                if let Some(client) = self.clients.get_mut(id) {
                    client.hints |= Hints::STATE | Hints::PIN;
                }
                self.extended(now, id, message, Expect::Call, actions)
            }
            b'S' if !attached => {
                let status = self.status_alone(id);
                actions.write(id, |out| write::ready_for_query(out, status));
                self.skip(id, message)
            }
            b'H' | b'd' | b'c' | b'f' if !attached => self.skip(id, message),
            b'S' => {
                let step = self.expected(id, message, Expect::Sync, actions);
                self.watch_client(id);
                step
            }
            b'c' | b'f' => self.expected(id, message, Expect::CopyEnd, actions),
            b'H' => self.pass(id, message, actions),
            b'd' => {
                self.note_data(id);
                self.pass(id, message, actions)
            }
            b'X' => {
                self.terminate(now, id, actions);
                Step::Over
            }
            tag => {
                let text = format!("invalid frontend message type {tag}");
                let text = ErrorText::fatal(sqlstate::PROTOCOL_VIOLATION, &text);
                self.fatal(now, id, &text, actions);
                Step::Over
            }
        }
    }

    /// Whether the session of a client that has reset it is being looked at, or brought back to
    /// its startup parameters; then it waits for the end of that.
    #[cold]
    fn is_restoring(&mut self, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let server = client.server.and_then(|server| self.server_ref(server));
        let own = server.is_some_and(|far| {
            let asking = far.ledger.is_waiting() && !far.ledger.is_exchanging();
            // Nor is it asked while a cancel request is on its way there.
            let later = far.ledger.is_settled() && far.cancels > 0 && far.status == b'I';
            later || asking && !far.ledger.is_unsynced()
        });
        if let Some(client) = self.clients.get_mut(id) {
            client.stalled |= own;
        }
        own
    }

    /// Sends on what is shown of a message; the rest follows as it comes.
    pub(super) fn pass(&mut self, id: ConnId, message: Message<'_>, actions: &mut Out) -> Step {
        let Some(client) = self.clients.get_mut(id) else { return Step::Over };
        let Some(server) = client.server else { return Step::Over };
        let shown = message.shown.len();
        if client.again {
            actions.write(server, |out| out.extend_from_slice(message.shown));
            return Step::Took(shown);
        }
        actions.forward(id, server, message.at, message.at + shown);
        client.left = message.head.total() - shown;
        client.fate = Fate::Pass;
        Step::Took(shown)
    }

    fn note_data(&mut self, id: ConnId) {
        let server = self.clients.get(id).and_then(|client| client.server);
        if let Some(far) = server.and_then(|server| self.server_mut(server)) {
            far.ledger.data();
        }
    }

    /// Drops a message.
    pub(super) fn skip(&mut self, id: ConnId, message: Message<'_>) -> Step {
        let Some(client) = self.clients.get_mut(id) else { return Step::Over };
        let shown = message.shown.len();
        client.left = message.head.total() - shown;
        client.fate = Fate::Drop;
        Step::Took(shown)
    }

    /// Passes a message for which an answer is due.
    pub(super) fn expected(
        &mut self,
        id: ConnId,
        message: Message<'_>,
        expect: Expect,
        actions: &mut Out,
    ) -> Step {
        self.push(id, expect, Origin::Client, 0);
        if matches!(expect, Expect::Sync | Expect::Query | Expect::Call)
            && let Some(client) = self.clients.get_mut(id)
        {
            client.segment = client.segment.wrapping_add(1);
        }
        self.pass(id, message, actions)
    }

    /// Notes an answer that is due on the server of a client.
    pub(super) fn push(&mut self, id: ConnId, expect: Expect, origin: Origin, mark: u32) -> bool {
        let Some(server) = self.clients.get(id).and_then(|client| client.server) else {
            return false;
        };
        self.server_mut(server).is_some_and(|far| far.ledger.push(expect, origin, mark))
    }

    /// A message that needs a server and is not looked into.
    pub(super) fn extended(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        expect: Expect,
        actions: &mut Out,
    ) -> Step {
        if let Some(step) = self.need_server(now, id, actions) {
            return step;
        }
        if matches!(expect, Expect::Execute | Expect::Call) {
            self.count_query(now, id);
        }
        self.expected(id, message, expect, actions)
    }

    /// Gets a server, or says what to do without one.
    pub(super) fn need_server(
        &mut self,
        now: Instant,
        id: ConnId,
        actions: &mut Out,
    ) -> Option<Step> {
        if self.checkout(now, id, actions) {
            return self.is_beginning(now, id).then_some(Step::Wait);
        }
        let Some(client) = self.clients.get(id).filter(|client| !client.is_gone()) else {
            return Some(Step::Over);
        };
        if client.failing == Failing::No { Some(Step::Wait) } else { Some(Step::Again) }
    }

    /// A query begins.
    pub(super) fn count_query(&mut self, now: Instant, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(pool) = client.pool else { return };
        client.begin_query(now, &mut self.pools[pool]);
        self.watch_client(id);
    }

    fn simple_query(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        let Some(client) = self.clients.get(id) else { return Step::Over };
        let session = client.pool.is_some_and(|pool| self.is_session_mode(pool));
        let small = message.head.body() <= self.config.limits.statement_bytes_max;
        if !session && small && message.body().is_none() {
            return Step::More;
        }
        if let Some(step) = self.need_server(now, id, actions) {
            return step;
        }
        if session {
            self.count_query(now, id);
        } else {
            let text = match message.body().map(query) {
                Some(Ok(text)) => Some(text),
                None => None,
                Some(Err(_)) => return self.malformed(now, id, message.head.tag, actions),
            };
            let hints = self.note_text(id, text);
            let names = text.map(|text| self.names_in(id, text, hints)).unwrap_or_default();
            if !names.is_empty() && self.must_wait_for_all(id) {
                return Step::Wait;
            }
            // It drops the unnamed statement, whatever is yet to become of that.
            if self.must_wait(id, b"", None) {
                return Step::Wait;
            }
            self.count_query(now, id);
            let before = self.forget_unnamed(id);
            if let Some(text) = text
                && let Some(step) = self.simple_rewritten(id, message, (text, hints), actions)
            {
                return step;
            }
            if !names.is_empty() && self.lend_names(id, hints, &names, actions) {
                let step = self.expected(id, message, Expect::Query, actions);
                self.take_names_back(id, &names, actions);
                return step;
            }
            if before.is_some() {
                self.change_unnamed(id, Expect::Query, before);
                if let Some(client) = self.clients.get_mut(id) {
                    client.segment = client.segment.wrapping_add(1);
                }
                return self.pass(id, message, actions);
            }
        }
        self.expected(id, message, Expect::Query, actions)
    }

    /// Notes what a text may do to the session; an unseen one may do anything.
    pub(super) fn note_text(&mut self, id: ConnId, text: Option<&[u8]>) -> Hints {
        let unseen = Hints::STATE | Hints::PIN | Hints::STATEMENTS | Hints::ENDS;
        let hints = text.map_or(unseen, |text| self.memo.scan(text));
        self.note_hints(id, hints, text);
        hints
    }

    /// Notes hints of a text, and the names of parameters that cannot be looked up without.
    pub(super) fn note_hints(&mut self, id: ConnId, hints: Hints, text: Option<&[u8]>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.hints |= hints;
        if !hints.has(Hints::STATE) {
            return;
        }
        let Some(text) = text else { return };
        let mut names = Vec::new();
        if !custom_parameters(text, &mut names) {
            client.pins.insert(Pins::UNKNOWN);
        }
        // A client with more of them keeps its server.
        if client.custom.len() + names.len() > CUSTOM_MAX {
            client.pins.insert(Pins::UNKNOWN);
            return;
        }
        for name in names {
            client.custom.insert(name.to_ascii_lowercase());
        }
    }

    /// A client breaks the protocol: it is told and closed; so is its server, whose place in the
    /// conversation depends on a message that was never sent.
    #[cold]
    pub(super) fn malformed(
        &mut self,
        now: Instant,
        id: ConnId,
        tag: u8,
        actions: &mut Out,
    ) -> Step {
        let text = format!("malformed message '{}'", tag.escape_ascii());
        self.fatal(now, id, &ErrorText::fatal(sqlstate::PROTOCOL_VIOLATION, &text), actions);
        Step::Over
    }

    /// Whether transactions of several statements are refused.
    pub(super) fn is_statement_mode(&self, pool: usize) -> bool {
        self.pools[pool].mode() == PoolMode::Statement
    }
}
