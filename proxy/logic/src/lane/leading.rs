//! A transaction that has only read so far is on a standby (`routing.leading_reads`).
//!
//! ```text
//!            BEGIN                read                  COMMIT
//!   (none) ---------> deferred ---------> on a standby ---------> (none)
//!                        |                     | anything but a read, or no standby is left
//!                        | anything but a read v
//!                        +-------------------> on the primary, as any transaction
//! ```
//!
//! The BEGIN is answered at once and kept. What comes first decides where it is said: a read has
//! it said to a standby, anything else to the primary. When something that is no read follows,
//! nothing of the transaction has lasted yet, so the standby's part is rolled back and the
//! primary's begins. Under READ COMMITTED no statement can tell: each sees what is committed when
//! it begins.

use crate::action::Action;
use crate::config::{Consistency, PoolMode};
use crate::id::ConnId;
use crate::lane::aim::Aim;
use crate::lane::client::{Aimed, Client};
use crate::lane::segment::{
    First, begins_with, first_in, first_of, leaves_nothing, looks_like_begin, messages, only_ends,
    runs, text_in,
};
use crate::lane::server::purpose;
use crate::lane::traffic::{Message, Step};
use crate::lane::{Lane, Out};
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};
use pgring_wire::client::{Parse, bind_names};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

/// How far such a transaction has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Leading {
    /// Its BEGIN is about to be answered.
    New,
    /// It has been answered, and no server knows of it.
    Deferred {
        /// The primary's part has begun: what a standby showed, another one may not show yet.
        home: bool,
    },
    /// It is on a standby, or on its way there.
    Reading {
        /// The BEGIN is in the segment that is kept while it is under way.
        kept: bool,
    },
}

/// What a transaction begins with, when a server is told of it.
const BEGIN: &str = "BEGIN";

/// The session parameter that says at which level transactions are by default.
const LEVEL: &str = "default_transaction_isolation";

impl Lane {
    /// How far a client's transaction has come that has only read so far.
    fn leading(&self, id: ConnId) -> Option<Leading> {
        self.clients.get(id)?.reading.as_ref()?.leading
    }

    fn set_leading(&mut self, id: ConnId, leading: Option<Leading>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        match (&mut client.reading, leading) {
            (Some(reading), leading) => reading.leading = leading,
            (None, Some(_)) => client.reading.get_or_insert_default().leading = leading,
            (None, None) => {}
        }
    }

    /// Whether a client is in a transaction that has only read so far.
    pub(super) fn is_leading(&self, id: ConnId) -> bool {
        self.leading(id).is_some()
    }

    /// Whether such a transaction is on a standby.
    pub(super) fn is_reading_ahead(&self, id: ConnId) -> bool {
        let server = self.clients.get(id).and_then(|client| client.server);
        let far = server.and_then(|server| self.server_ref(server));
        far.is_some_and(|far| self.pools[far.pool].key.node.is_some())
            && matches!(self.leading(id), Some(Leading::Reading { .. }))
    }

    /// Whether it has begun, and no server knows of it.
    pub(super) fn is_deferred(&self, id: ConnId) -> bool {
        matches!(self.leading(id), Some(Leading::Deferred { .. }))
    }

    /// What `ReadyForQuery` says to a client that has no server.
    pub(super) fn status_alone(&self, id: ConnId) -> u8 {
        self.clients.get(id).map_or(b'I', Self::status_of)
    }

    /// The same of a client that is at hand.
    pub(super) fn status_of(client: &Client) -> u8 {
        match client.reading.as_ref().and_then(|reading| reading.leading) {
            None | Some(Leading::New | Leading::Reading { .. }) => b'I',
            Some(Leading::Deferred { .. }) => b'T',
        }
    }

    /// Whether a transaction that begins without saying how may begin on a standby.
    pub(super) fn may_lead(&self, id: ConnId, home: usize) -> bool {
        let rank = &self.pools[home];
        let routing = &rank.database.routing;
        let Some(client) = self.clients.get(id) else { return false };
        let level = client.state.get(LEVEL).is_none_or(|level| level == "read committed");
        routing.leading_reads.leave()
            && routing.consistency != Consistency::Strict
            && rank.settings.mode == PoolMode::Transaction
            && rank.catalog.as_ref().is_some_and(|catalog| catalog.is_read_committed())
            && level
            && client.pins.is_empty()
    }

    /// Whether the message that these bytes begin with is answered without a server: a BEGIN, and
    /// the end of what it has begun. `lead` does it.
    pub(super) fn needs_no_server(&mut self, id: ConnId, home: usize, bytes: &[u8]) -> bool {
        let text = text_in(bytes);
        match self.leading(id) {
            None | Some(Leading::Reading { .. }) => {
                let begins = text.is_some_and(looks_like_begin)
                    && self.may_lead(id, home)
                    && self.aim_of(id, home, bytes) == Aim::Begin;
                self.verdicts.take_last();
                if begins {
                    self.set_leading(id, Some(Leading::New));
                }
                begins
            }
            Some(Leading::Deferred { .. }) => text.is_some_and(only_ends),
            Some(Leading::New) => true,
        }
    }

    /// What a segment asks for whose client has no server, with regard to its transaction.
    pub(super) fn aim_of_led(&self, id: ConnId, aim: Aim, bytes: &[u8]) -> Aim {
        match (aim, self.leading(id)) {
            (Aim::Replica, Some(Leading::Deferred { home })) if home || !leaves_nothing(bytes) => {
                Aim::Quiet
            }
            // What a function does that is only said to read may be meant to last.
            (Aim::Guess, Some(Leading::Deferred { .. })) => Aim::PRIMARY,
            // Drivers say it in front of the first statement.
            (Aim::Begin, None | Some(Leading::Reading { .. }))
                if runs(bytes) > 1 && leaves_nothing(bytes) =>
            {
                Aim::Begin
            }
            (Aim::Begin, _) => Aim::Quiet,
            (aim, _) => aim,
        }
    }

    /// Answers a message of a client that has no server and is in such a transaction; none if it is
    /// not to be answered here.
    pub(super) fn lead(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Option<Step> {
        let leading = self.leading(id)?;
        let text = text_in(message.shown);
        let ends = text.is_some_and(only_ends);
        let (tag, next) = match leading {
            Leading::New => {
                let starts = text.is_some_and(|text| begins_with(text, "start"));
                let next = Leading::Deferred { home: false };
                (if starts { "START TRANSACTION" } else { BEGIN }, Some(next))
            }
            Leading::Deferred { .. } if ends => {
                let commits = text
                    .is_some_and(|text| begins_with(text, "commit") || begins_with(text, "end"));
                (if commits { "COMMIT" } else { "ROLLBACK" }, None)
            }
            Leading::Deferred { .. } | Leading::Reading { .. } => return None,
        };
        self.set_leading(id, next);
        let status = self.status_alone(id);
        actions.write(id, |out| {
            write::command_complete(out, tag);
            write::ready_for_query(out, status);
        });
        self.client_idles(now, id);
        if next.is_none() && self.drained(now, id, actions) {
            return Some(Step::Over);
        }
        Some(self.skip(id, message))
    }

    /// A client has got a server, which is told of the transaction that its client is in. On the
    /// primary nothing may follow before it is known to be in one.
    pub(super) fn begin_led(&mut self, id: ConnId, server: ConnId, actions: &mut Out) {
        let pool = self.server_ref(server).map(|far| far.pool);
        let replica = pool.is_some_and(|pool| self.pools[pool].key.node.is_some());
        match self.leading(id) {
            Some(Leading::Deferred { .. }) => {}
            // No standby was had: it is a transaction as any other.
            Some(Leading::Reading { .. }) if !replica => return self.set_leading(id, None),
            None | Some(Leading::New | Leading::Reading { .. }) => return,
        }
        self.set_leading(id, replica.then_some(Leading::Reading { kept: false }));
        if let Some(far) = self.server_mut(server) {
            far.beginning = !replica;
        }
        self.own_query(server, BEGIN, purpose::BEGIN, actions);
    }

    /// A segment goes to a standby that begins a transaction itself.
    pub(super) fn begin_with_it(&mut self, id: ConnId) {
        self.set_leading(id, Some(Leading::Reading { kept: true }));
    }

    /// Whether the server of a client is yet to say that it is in a transaction.
    pub(super) fn is_beginning(&mut self, now: Instant, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id).filter(|client| !client.again) else {
            return false;
        };
        let far = client.server.and_then(|server| self.server_ref(server));
        let beginning = far.is_some_and(|far| far.beginning);
        if let Some(client) = self.clients.get_mut(id).filter(|_| beginning) {
            client.stalled = true;
            // It is under way for its client, who does not know of the BEGIN.
            client.query_since.get_or_insert(now);
            self.watch_client(id);
        }
        beginning
    }

    /// A server has said whether it is in the transaction of its client.
    pub(super) fn begun(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        far.beginning = false;
        let (error, client) = (far.error.take(), far.client);
        let Some(error) = error else { return };
        far.unfit = true;
        if let Some(id) = client.filter(|id| !self.is_torn(*id)) {
            self.fatal(now, id, &ErrorText::fatal(&error.code, &error.message), actions);
        }
    }

    /// What a client says whose transaction is on a standby. Tells whether it must wait.
    pub(super) fn aim_led(
        &mut self,
        now: Instant,
        id: ConnId,
        server: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> bool {
        let home = self.clients.get(id).and_then(|client| client.home);
        let (Some(home), Some(far)) = (home, self.server_ref(server)) else { return false };
        if far.ledger.is_unsynced() || self.is_begun(id) || far.parted {
            // Its segment was seen whole; or its session has ended.
            return false;
        }
        let leaves = far.ledger.is_waiting() || far.cancels > 0 || far.left > 0;
        let status = far.status;
        if let Some(client) = self.clients.get_mut(id) {
            client.stalled |= leaves;
        }
        if leaves {
            return true;
        }
        let aims = matches!(bytes.first(), Some(b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F'));
        if !aims || self.only_ends_it(id, bytes) {
            self.end_reading(id);
            return false;
        }
        if status != b'T' {
            if status == b'E' {
                self.aim_failed(now, id, server, bytes, actions);
            }
            return false;
        }
        let aim = self.aim_of(id, home, bytes);
        if aim == Aim::Open && self.is_shown_again(id, bytes) {
            return false;
        }
        let stays = aim == Aim::Replica && leaves_nothing(bytes);
        self.count_route(id, home, stays);
        if stays {
            self.set_leading(id, Some(Leading::Reading { kept: false }));
            self.begin_reading(id);
            return false;
        }
        self.lead_home(now, id, server, aim, actions);
        false
    }

    /// Whether a text that is not there whole is shown again when it is, before any of it is sent.
    fn is_shown_again(&self, id: ConnId, bytes: &[u8]) -> bool {
        let cut = |head: Header| head.total() > bytes.len();
        header(bytes, LENGTH_MAX).is_ok_and(|head| head.is_some_and(cut))
            && (bytes.first() == Some(&b'Q') || self.looks(id))
    }

    /// What a client says whose transaction has failed on a standby. That refuses all but the end;
    /// what ends it and goes on needs the primary for the rest.
    fn aim_failed(
        &mut self,
        now: Instant,
        id: ConnId,
        server: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) {
        let first = match (bytes.first(), text_in(bytes)) {
            (Some(b'Q'), Some(text)) => first_of(text),
            (Some(b'Q'), None) => self.first_of_cut(bytes),
            (_, _) => first_in(bytes, |name| self.ends_failed(id, name)),
        };
        match first {
            First::Refused | First::Ends => {}
            First::RollsBack => self.lead_home(now, id, server, Aim::PRIMARY, actions),
            First::GoesOn => {
                // A COMMIT among others would be answered as one that has succeeded, elsewhere.
                let message = "the transaction has failed, and what ends it must be said alone";
                let text = ErrorText::fatal(sqlstate::IN_FAILED_SQL_TRANSACTION, message);
                self.fatal(now, id, &text.with_hint("Say ROLLBACK first."), actions);
            }
        }
    }

    /// What a Query does first that is not there whole: if it may be looked at, it comes here again
    /// when it is.
    fn first_of_cut(&self, bytes: &[u8]) -> First {
        let large = header(bytes, LENGTH_MAX).is_ok_and(|head| {
            head.is_some_and(|it| it.body() > self.config.limits.statement_bytes_max)
        });
        match first_of(bytes.get(Header::SIZE..).unwrap_or_default()) {
            First::Ends | First::RollsBack | First::GoesOn if large => First::GoesOn,
            First::Refused | First::Ends | First::RollsBack | First::GoesOn => First::Refused,
        }
    }

    /// Whether a statement that a client has parsed ends a transaction that has failed.
    fn ends_failed(&self, id: ConnId, name: &[u8]) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let unnamed = client.unnamed.as_ref().filter(|_| name.is_empty()).map(|it| &it.body[..]);
        let known = client.names.get(name).map(|known| &**self.texts.body(known));
        let body = unnamed.or(known);
        body.is_some_and(|body| first_of(super::lending::text_of(body)) == First::Ends)
    }

    /// Takes a transaction from a standby, on which nothing of it is under way: the primary's
    /// begins with what follows.
    fn lead_home(&mut self, now: Instant, id: ConnId, server: ConnId, aim: Aim, actions: &mut Out) {
        // What has come of it defines nothing; the rest is looked at there, when it comes.
        self.note_primary(id, if aim == Aim::Open { Aim::PRIMARY } else { aim });
        self.goes_on_at_home(id, true);
        self.drop_cancel(now, server, actions);
        let Some(far) = self.server_mut(server) else { return };
        far.client = None;
        actions.push(Action::Unpair(server));
        self.limit_cleaning(now, server);
        self.settle_abandoned(now, server, actions);
    }

    /// A standby is lost, by its last word in a transaction. Whether that is nothing to its client,
    /// which has only read there and has heard all of it.
    pub(super) fn leads_on(
        &mut self,
        now: Instant,
        id: ConnId,
        (pool, status): (usize, u8),
    ) -> bool {
        let parting = |client: &Client| client.has_said_goodbye() || client.is_partial();
        let stays = self.clients.get(id).is_some_and(|client| !parting(client));
        let reads = matches!(self.leading(id), Some(Leading::Reading { .. }));
        if !stays || !reads || status != b'T' || self.pools[pool].key.node.is_none() {
            return false;
        }
        self.goes_on_at_home(id, false);
        self.client_idles(now, id);
        true
    }

    /// A client without a server goes on with its transaction on the primary, with a segment that
    /// has been aimed, or with the next one.
    pub(super) fn goes_on_at_home(&mut self, id: ConnId, aimed: bool) {
        self.land(id);
        self.end_reading(id);
        self.set_leading(id, Some(Leading::Deferred { home: true }));
        if let Some(client) = self.clients.get_mut(id) {
            client.server = None;
            client.pool = client.home;
            client.aimed = if aimed { Aimed::Yes } else { Aimed::No };
        }
    }

    /// The segment that was kept is said again, to another node: with its BEGIN, or behind one.
    pub(super) fn lead_again(&mut self, id: ConnId) {
        match self.leading(id) {
            Some(Leading::Reading { kept: true }) => self.set_leading(id, None),
            Some(Leading::Reading { kept: false }) => {
                self.set_leading(id, Some(Leading::Deferred { home: true }));
            }
            None | Some(Leading::New | Leading::Deferred { .. }) => {}
        }
    }

    /// A transaction is over.
    pub(super) fn lead_no_more(&mut self, id: ConnId) {
        self.set_leading(id, None);
    }

    /// Whether a segment is whole and has nothing but an end of the transaction.
    fn only_ends_it(&self, id: ConnId, bytes: &[u8]) -> bool {
        if bytes.first() == Some(&b'Q') {
            return text_in(bytes).is_some_and(only_ends);
        }
        let Some(segment) = messages(bytes) else { return false };
        let mut ends = 0;
        let mut parsed: Vec<&[u8]> = Vec::new();
        for (tag, body) in segment {
            let fits = match tag {
                b'P' => Parse::read(body).is_ok_and(|parse| {
                    parsed.push(parse.name);
                    only_ends(parse.text)
                }),
                b'B' => bind_names(body).is_some_and(|names| {
                    parsed.contains(&names.statement) || self.is_known_end(id, names.statement)
                }),
                b'E' => {
                    ends += 1;
                    true
                }
                b'D' | b'S' => true,
                _ => false,
            };
            if !fits {
                return false;
            }
        }
        ends == 1
    }

    /// Whether a client has prepared an end of a transaction under this name.
    fn is_known_end(&self, id: ConnId, name: &[u8]) -> bool {
        let client = self.clients.get(id).filter(|_| !name.is_empty());
        let statement = client.and_then(|client| client.names.get(name));
        statement.is_some_and(|known| only_ends(super::lending::text_of(self.texts.body(known))))
    }
}

#[cfg(test)]
mod tests;
