//! Endings: clients that leave, servers that are lost or closed.

use crate::action::{Action, CloseMode};
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::client::{Aimed, Client, Goodbye, Phase as ClientPhase};
use crate::lane::server::{Far, Phase, Server, ServerError};
use crate::lane::{Lane, Out};
use crate::mail::Mail;
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;
use pgring_wire::frame::{Header, LENGTH_MAX, header};
use std::sync::Arc;

/// So many servers may end before a client has said anything to them.
const GRANTS_MAX: u8 = 3;

impl Lane {
    /// A client says goodbye: what it asked for before is answered first.
    pub(super) fn terminate(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        if let Some(client) = self.clients.get_mut(id) {
            client.goodbye = Goodbye::Said;
        }
        if !self.is_owed(id) {
            self.client_parted(now, id, CloseMode::Flush, actions);
        }
    }

    /// Whether a client has said goodbye, and what it said before is yet to be answered.
    pub(super) fn is_owed(&self, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id).filter(|client| client.has_said_goodbye()) else {
            return false;
        };
        let server = client.server.and_then(|server| self.server_ref(server));
        let answers = |far: &Server| {
            // Of what no Sync has ended nobody is owed anything.
            let ends = far.ledger.is_waiting() && !far.ledger.is_unsynced();
            (ends || far.ledger.is_exchanging()) && !far.ledger.is_copying_in()
        };
        self.is_between(id) || server.is_some_and(answers)
    }

    /// A client that is owed answers will say no more. It may listen still, for a while.
    pub(super) fn listens_on(&mut self, now: Instant, id: ConnId) {
        if let Some(client) = self.clients.get_mut(id) {
            client.goodbye = Goodbye::Shut;
            client.idle_since = now;
        }
        self.watch_client(id);
    }

    /// A server has answered. If its client has said goodbye and is owed nothing more it leaves,
    /// though the server waits for a Sync.
    pub(super) fn let_go(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let unsynced = |far: &&Server| far.ledger.is_unsynced() || far.ledger.is_skipping();
        let Some(far) = self.server_ref(server).filter(unsynced) else { return };
        let Some(id) = far.client else { return };
        if self.clients.get(id).is_some_and(Client::has_said_goodbye) && !self.is_owed(id) {
            self.client_parted(now, id, CloseMode::Flush, actions);
        }
    }

    /// What a client that waits has said and the lane has not seen is `held`, and it will say no
    /// more. Whether all of that is to be shown before its end is told: it is, behind a goodbye.
    /// Who has left without one has no more use for what is not begun, and others wait as well.
    pub fn hears_out(&self, conn: ConnId, held: &[u8]) -> bool {
        let talks = self.clients.get(conn).is_some_and(|client| match client.phase {
            ClientPhase::Entering
            | ClientPhase::Welcoming
            | ClientPhase::Ready
            | ClientPhase::Console(_) => true,
            ClientPhase::Startup
            | ClientPhase::Auth(_)
            | ClientPhase::Raw
            | ClientPhase::Cancelling
            | ClientPhase::Gone => false,
        });
        talks && has_goodbye(held)
    }

    /// A client has vanished, or is sent away: what it left running is cancelled.
    #[cold]
    pub(super) fn client_left(
        &mut self,
        now: Instant,
        id: ConnId,
        mode: CloseMode,
        actions: &mut Out,
    ) {
        self.leave(now, id, mode, true, actions);
    }

    /// A client has said goodbye: what it asked for before is carried out.
    #[cold]
    pub(super) fn client_parted(
        &mut self,
        now: Instant,
        id: ConnId,
        mode: CloseMode,
        actions: &mut Out,
    ) {
        self.leave(now, id, mode, false, actions);
    }

    fn leave(
        &mut self,
        now: Instant,
        id: ConnId,
        mode: CloseMode,
        cancel: bool,
        actions: &mut Out,
    ) {
        if self.clients.get(id).is_none_or(Client::is_gone) {
            return;
        }
        if let Some(client) = self.clients.get_mut(id) {
            // Nobody is told of it any more.
            client.commit = None;
        }
        self.forget_changes(id);
        let Some(client) = self.clients.get_mut(id) else { return };
        let raw = matches!(client.phase, ClientPhase::Raw);
        client.phase = ClientPhase::Gone;
        actions.push(Action::Close { conn: id, mode });
        let copies = client.hints.has(Hints::COPY);
        let partial = client.is_partial();
        let looked = Hints::STATE | Hints::PIN | Hints::UNPIN;
        let dirty = client.hints.has(looked) || !client.pins.is_empty();
        let server = client.server.take();
        let waited = client.wait.take().is_some();
        client.unnamed = None;
        let defines = client.defines;
        for statement in client.names.drain() {
            self.texts.release(statement);
        }
        if client.entered {
            let mail = Mail::Left {
                database: Arc::clone(&client.database),
                user: Arc::clone(&client.user),
            };
            actions.push(Action::Tell(Box::new(mail)));
        }
        let (Some(pool), Some(home)) = (client.pool, client.home) else { return };
        self.pools[home].clients -= 1;
        if defines && self.is_routed(home) {
            self.catalog_changed(home, actions);
        }
        if waited {
            self.pools[pool].unqueue();
            self.ask(now, pool, actions);
        }
        let Some(server) = server else { return };
        let session = self.is_session_mode(pool);
        // Whether a server reads what follows as COPY data is a race nobody can see the end of.
        let copying = self
            .server_ref(server)
            .is_some_and(|far| far.ledger.is_copying_in() || copies && far.ledger.is_waiting());
        let closes = partial || raw || copying;
        self.abandon(now, server, (closes, dirty || session, cancel), actions);
    }

    /// A server waits for the data of a COPY. Tells whether nobody is left to send them: then it is
    /// closed.
    #[cold]
    pub(super) fn is_left_copying(
        &mut self,
        now: Instant,
        server: ConnId,
        actions: &mut Out,
    ) -> bool {
        let Some(far) = self.server_ref(server) else { return false };
        let Some(client) = far.client else {
            self.close_server(now, server, actions);
            return true;
        };
        // Whoever has said goodbye may have sent them ahead.
        let waits = far.ledger.is_copying_in();
        let left = waits && self.clients.get(client).is_some_and(Client::has_said_goodbye);
        if left {
            self.client_parted(now, client, CloseMode::Flush, actions);
        }
        left
    }

    /// Closes a server that nobody uses. Its place in the budget is used again or given back.
    #[cold]
    pub(super) fn close_server(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(id).filter(|far| !far.is_gone()) else { return };
        // A goodbye behind half a message would complete it.
        let between = matches!(far.phase, Phase::Idle | Phase::Busy) && far.ledger.is_settled();
        let polite = between && far.left == 0 && !far.unfit;
        self.uncount(now, id, None, actions);
        if polite {
            Self::part(id, actions);
        } else {
            actions.push(Action::Close { conn: id, mode: CloseMode::Now });
        }
    }

    /// Takes a server out of the books of its pool.
    fn uncount(
        &mut self,
        now: Instant,
        id: ConnId,
        failure: Option<ServerError>,
        actions: &mut Out,
    ) {
        self.drop_cancel(now, id, actions);
        let Some(far) = self.servers.get_mut(id).and_then(Far::server_mut) else { return };
        let (pool, step) = (far.pool, far.step);
        let (counted, opening) = (far.counted, far.is_opening());
        far.phase = Phase::Gone;
        for statement in far.statements.clear() {
            self.texts.release(statement);
        }
        if !counted {
            return;
        }
        let rank = &mut self.pools[pool];
        rank.remove_idle(id);
        rank.closing += 1;
        if opening {
            rank.opening -= 1;
        }
        if let Some(error) = failure {
            self.open_failed(now, (pool, step), &error, actions);
        }
    }

    /// A server connection is closed for good: only now may another take its place, or there
    /// would be more of them than the pool's size.
    pub(super) fn server_closed(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(far) = self.server_ref(id).filter(|far| far.counted) else { return };
        let (pool, moved) = (far.pool, matches!(far.phase, Phase::Leaving));
        if moved {
            return;
        }
        let rank = &mut self.pools[pool];
        rank.held -= 1;
        rank.closing -= 1;
        if rank.surplus > 0 {
            rank.surplus -= 1;
            self.give_back(pool, 1, actions);
        } else {
            // Kept for whoever waits; `ask` gives it back if nobody does.
            rank.permits += 1;
            self.ask(now, pool, actions);
            self.watch_pool(now, pool);
        }
        self.check_orders(actions);
    }

    /// A server connection has ended, or must.
    #[cold]
    pub(super) fn server_lost(
        &mut self,
        now: Instant,
        id: ConnId,
        reason: &str,
        actions: &mut Out,
    ) {
        match self.servers.get_mut(id) {
            None => return,
            Some(Far::Errand(_)) => return self.errand_done(now, id, actions),
            Some(Far::Server(_)) => {}
        }
        let Some(far) = self.server_mut(id).filter(|far| !far.is_gone()) else { return };
        let opening = far.is_opening();
        let client = far.client.take();
        let (running, parted, counted) = (far.ledger.is_clients(), far.parted, far.counted);
        let within = running || far.ledger.is_unsynced() || far.ledger.is_skipping();
        let from = (far.pool, far.step);
        let status = far.status;
        let open = status != b'I';
        let beginning = far.beginning;
        let torn = tears(far);
        let stays = !torn && !parted;
        let closing = far.inspected.is_none() && far.ledger.is_only_closing();
        let error = far.error.take();
        let failure = opening.then(|| match &error {
            Some(error) => (**error).clone(),
            None => ServerError { code: String::new(), message: reason.to_owned() },
        });
        self.uncount(now, id, failure.filter(|_| counted), actions);
        actions.push(Action::Close { conn: id, mode: CloseMode::Now });
        let Some(client) = client else { return };
        let unknown = running && self.may_last(client, open);
        if let Some(client) = self.clients.get_mut(client) {
            client.server = None;
        }
        if opening {
            let error = error.map_or_else(
                || ServerError { code: String::new(), message: reason.to_owned() },
                |error| *error,
            );
            if !counted && self.raw_failed(now, client, (from, &error), actions) {
                return;
            }
            return self.refuse_welcome(now, client, &error.code, &error.message, actions);
        }
        if stays && self.survives(client, from.0) {
            self.go_home(now, client, actions);
            return actions.push(Action::Resume(client));
        }
        if stays && !within && self.leads_on(now, client, (from.0, status)) {
            return actions.push(Action::Resume(client));
        }
        if stays && !within && !open && self.has_said_nothing(client) {
            if beginning {
                // It has heard that its transaction has begun.
                self.goes_on_at_home(client, false);
            } else {
                self.waits_anew(client);
            }
            return actions.push(Action::Resume(client));
        }
        if stays && !within && !open && closing && self.has_nothing_there(client) {
            self.note_commit(now, client, actions);
            if self.clients.get(client).is_some_and(Client::has_said_goodbye) {
                return self.client_parted(now, client, CloseMode::Flush, actions);
            }
            self.waits_anew(client);
            self.client_idles(now, client);
            return actions.push(Action::Resume(client));
        }
        // A last word that answered a query of ours its client has not heard.
        if !parted && !torn {
            Self::say_lost(client, reason, unknown, actions);
        }
        self.client_left(now, client, CloseMode::Flush, actions);
    }

    /// Nobody asked: a server is about to end the connection and says why.
    #[cold]
    pub(super) fn last_word(
        &mut self,
        now: Instant,
        id: ConnId,
        head: Header,
        (at, shown): (usize, &[u8]),
        actions: &mut Out,
    ) {
        let body = shown.get(Header::SIZE..).unwrap_or_default();
        // Who has heard all that it asked for is done with it, though both came at once.
        if self.leaves_dying(now, id, actions) {
            return;
        }
        // If that is nothing to its client, what that says next must not go there any more.
        if self.is_parting(id, body) {
            return self.server_lost(now, id, "the connection was closed", actions);
        }
        let Some(far) = self.server_mut(id) else { return };
        far.left = head.total() - shown.len();
        far.forward = true;
        far.unfit = true;
        let to = far.client;
        if to.is_some() {
            far.note_error(body, true);
        }
        self.forward_answer(id, to, at, at + shown.len(), actions);
    }

    /// A server is about to end the connection. Whether its client is done with it: then it leaves
    /// it before it could hear of that.
    fn leaves_dying(&mut self, now: Instant, id: ConnId, actions: &mut Out) -> bool {
        let Some(far) = self.server_mut(id).filter(|far| far.client.is_some()) else {
            return false;
        };
        if far.status != b'I' || !far.ledger.is_settled() {
            return false;
        }
        far.unfit = true;
        self.unstall(id, actions);
        self.settle(now, id, actions);
        self.server_ref(id).is_none_or(|far| far.client.is_none())
    }

    /// Whether a client has a server, and has not begun to say there what it has it for: it may as
    /// well say that to another. Not without end: what it is granted may be what ends.
    pub(super) fn has_said_nothing(&self, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        (1..=GRANTS_MAX).contains(&client.grants)
            && matches!(client.phase, ClientPhase::Ready)
            && client.pins.is_empty()
            && !client.has_said_goodbye()
            && !client.is_partial()
            && !self.is_leading(id)
            && !self.is_between(id)
    }

    /// Whether a client that has been answered would have left its server by now, but for
    /// statements that are closed there: its session is not on it.
    fn has_nothing_there(&self, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let session = client.pool.is_none_or(|pool| self.is_session_mode(pool));
        !session
            && matches!(client.phase, ClientPhase::Ready)
            && client.pins.is_empty()
            && !client.hints.has(Hints::STATE | Hints::PIN)
            && !client.is_partial()
            && !self.is_leading(id)
            && !self.is_between(id)
    }

    /// Its next message looks for a server anew.
    fn waits_anew(&mut self, id: ConnId) {
        self.end_reading(id);
        if let Some(client) = self.clients.get_mut(id) {
            client.transaction_since = None;
            client.pool = client.home;
            client.aimed = Aimed::No;
        }
    }

    /// Whether a client has part of an answer: what is said now it would take for the rest.
    pub(super) fn is_torn(&self, id: ConnId) -> bool {
        let server = self.clients.get(id).and_then(|client| client.server);
        server.and_then(|server| self.server_ref(server)).is_some_and(tears)
    }

    /// Whether what runs for a client may last without another word of it. Inside a transaction
    /// whose end nobody has asked for nothing does, if every text that may run there is known.
    fn may_last(&self, id: ConnId, open: bool) -> bool {
        let sure = open && self.looks(id);
        let ends = |client: &Client| client.hints.has(Hints::ENDS) || !client.pins.is_empty();
        !sure || self.clients.get(id).is_some_and(ends)
    }

    /// Whether what runs for a client now may last, or has lasted already, if it is cut off: a
    /// commit that waits for standbys is done. Nothing lasts that a standby does.
    pub(super) fn may_have_lasted(&self, id: ConnId) -> bool {
        let server = self.clients.get(id).and_then(|client| client.server);
        server.and_then(|server| self.server_ref(server)).is_some_and(|far| {
            let writes = self.pools[far.pool].key.node.is_none();
            writes && far.ledger.is_clients() && self.may_last(id, far.status != b'I')
        })
    }

    /// A statement that was sent may have been carried out: nobody can know, and that is what
    /// the client is told (SQLSTATE 08007).
    fn say_lost(client: ConnId, reason: &str, unknown: bool, actions: &mut Out) {
        let detail = format!("Connection to the server: {reason}.");
        if unknown {
            let message = "the server connection was lost while a statement was running";
            return Self::say_unknown(client, message, &detail, actions);
        }
        let text = ErrorText::fatal(sqlstate::CONNECTION_FAILURE, "the server connection was lost")
            .with_hint("The transaction, if one was open, has been rolled back. Connect again.");
        Self::say(client, &text.with_detail(&detail), actions);
    }

    /// A client hears that nobody knows what became of its statement.
    pub(super) fn say_unknown(client: ConnId, message: &str, detail: &str, actions: &mut Out) {
        let text = ErrorText::fatal(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, message)
            .with_hint("Whether the statement took effect is unknown: check before repeating it.");
        Self::say(client, &text.with_detail(detail), actions);
    }
}

/// Whether there is a Terminate among the messages that `bytes` begin with.
fn has_goodbye(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
        if head.tag == b'X' {
            return true;
        }
        rest = rest.get(head.total()..).unwrap_or_default();
    }
    false
}

/// Whether a server has given part of an answer to its client, or nobody knows.
fn tears(far: &Server) -> bool {
    far.left > 0 && far.forward || matches!(far.phase, Phase::Raw)
}

#[cfg(test)]
mod tests;
