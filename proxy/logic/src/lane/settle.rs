//! The end of a transaction: who keeps the server, and what must happen before it is free.
//!
//! A server leaves its client only when nothing is due on it, its last word was
//! `ReadyForQuery` with status `I`, no cancel request is on its way to it, and nothing pins it
//! (invariant I2). Where a text may have changed the session, the server is asked first what the
//! session has become; the client does not wait for that.

use crate::action::{Action, CloseMode};
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::client::{Aimed, Client, Phase as ClientPhase};
use crate::lane::server::{Phase, purpose};
use crate::lane::{Lane, Out};
use crate::ledger::{Expect, Origin};
use crate::state::{Inspected, Pins, inspection};
use crate::time::{Duration, Instant};
use crate::timers::Owner;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;
use pgring_wire::client::write;
use std::sync::Arc;

impl Lane {
    /// A server may have come to rest.
    pub(super) fn settle(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_ref(server) else { return };
        if !matches!(far.phase, Phase::Busy) || !far.ledger.is_settled() || far.left > 0 {
            return;
        }
        if far.dying {
            return;
        }
        if far.cancels > 0 {
            // Queries of our own would be hit by a cancel request that is still on its way.
            return;
        }
        let (status, pool) = (far.status, far.pool);
        // Half a message is on its way (data of a COPY that has failed): nothing of our own may
        // come into it.
        let client = far.client.and_then(|id| self.clients.get(id));
        if client.is_some_and(Client::is_partial) {
            return;
        }
        if let Some(far) = self.server_mut(server) {
            far.statements.settle();
        }
        if self.evict_at_rest(server, actions) {
            return;
        }
        let Some(far) = self.server_ref(server) else { return };
        let Some(id) = far.client else { return self.settle_abandoned(now, server, actions) };
        if self.clients.get(id).is_some_and(Client::has_said_goodbye) {
            return self.client_parted(now, id, CloseMode::Flush, actions);
        }
        if status != b'I' {
            return self.client_idles(now, id);
        }
        if self.is_session_mode(pool) {
            return self.client_idles(now, id);
        }
        let spent = Self::is_spent(far);
        let Some(client) = self.clients.get_mut(id) else { return };
        if !matches!(client.phase, ClientPhase::Ready) {
            return;
        }
        let mut asks = Hints::STATE | Hints::PIN;
        if spent && (!client.pins.is_empty() || client.hints.has(asks)) {
            let message = "the server connection had to be closed, and with it the session";
            let text = ErrorText::fatal(sqlstate::CONNECTION_FAILURE, message);
            return self.fatal(now, id, &text.with_hint("Connect again."), actions);
        }
        if !client.pins.is_empty() {
            asks |= Hints::UNPIN;
        }
        if client.hints.has(asks) && !spent {
            client.hints = Hints::NONE;
            return self.inspect(server, id, actions);
        }
        client.hints = Hints::NONE;
        if !client.pins.is_empty() && !spent {
            if self.pools[pool].key.node.is_some() && !self.is_readonly(id) {
                let message = "a session cannot keep a standby beyond its transaction";
                let text = ErrorText::fatal(sqlstate::FEATURE_NOT_SUPPORTED, message);
                let hint = "Do not say READ ONLY where something is to last: PREPARE, WITH HOLD.";
                return self.fatal(now, id, &text.with_hint(hint), actions);
            }
            self.note_commit(now, id, actions);
            return self.client_idles(now, id);
        }
        self.note_commit(now, id, actions);
        self.detach(now, id, server, actions);
    }

    /// Takes a server from a client that is done with it.
    fn detach(&mut self, now: Instant, id: ConnId, server: ConnId, actions: &mut Out) {
        self.land(id);
        self.end_reading(id);
        self.lead_no_more(id);
        if let Some(client) = self.clients.get_mut(id) {
            client.server = None;
            client.pool = client.home;
            client.aimed = Aimed::No;
        }
        self.client_idles(now, id);
        let Some(far) = self.server_mut(server) else { return };
        far.client = None;
        let (clean, pool) = (far.is_clean(), far.pool);
        actions.push(Action::Unpair(server));
        if clean {
            self.free(now, server, actions);
        } else {
            self.settle_abandoned(now, server, actions);
        }
        if !self.drained(now, id, actions) && self.pools[pool].removed {
            self.evict_client(now, id, actions);
        }
    }

    /// Asks a server what the session has become.
    fn inspect(&mut self, server: ConnId, id: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(far) = self.server_ref(server) else { return };
        let mut custom = client.custom.clone();
        let dotted = |name: &&String| name.contains('.');
        custom.extend(far.state.keys().filter(dotted).cloned());
        custom.extend(client.startup.keys().filter(dotted).cloned());
        let sql = inspection(&self.pools[far.pool].key.user, &custom);
        if let Some(far) = self.server_mut(server) {
            far.inspected = Some(Box::new(Inspected::default()));
            far.touched = Some(id);
        }
        self.own_query(server, &sql, purpose::INSPECT, actions);
    }

    /// A query of pgring's own is answered.
    pub(super) fn own_done(&mut self, now: Instant, server: ConnId, why: u32, actions: &mut Out) {
        match why {
            purpose::INSPECT => self.inspected(server, actions),
            purpose::VERIFY => self.verified(now, server, actions),
            purpose::REPLAY => self.replayed(now, server, actions),
            purpose::RESTORE => {
                self.restored(server);
                self.replayed(now, server, actions);
            }
            purpose::BEGIN => self.begun(now, server, actions),
            purpose::ROLLBACK | purpose::RESET | purpose::TEMPORARY => {
                let Some(far) = self.server_mut(server) else { return };
                // An answer without a row says nothing.
                let unseen = why == purpose::TEMPORARY && core::mem::take(&mut far.unseen);
                far.unfit |= far.error.take().is_some() || unseen;
            }
            _ => {}
        }
    }

    /// The server has said what the session has become.
    fn inspected(&mut self, server: ConnId, actions: &mut Out) {
        let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) else {
            return;
        };
        let found = far.inspected.take();
        let error = far.error.take();
        let cancelled = error.as_ref().is_some_and(|error| error.code == sqlstate::QUERY_CANCELED);
        let failed = error.is_some();
        let client = far.client.and_then(|client| self.clients.get_mut(client));
        let (Some(found), false) = (found, failed) else {
            // What cannot be asked cannot be undone: the client keeps the server, then it goes.
            far.dirty = true;
            match client {
                Some(client) if cancelled => client.hints |= Hints::STATE,
                Some(client) => client.pins.insert(Pins::UNKNOWN),
                None => {}
            }
            return;
        };
        far.state = self.states.intern(found.parameters.clone());
        let Some(client) = client else { return };
        // RESET brings back what the startup packet said, which the server cannot know.
        let mut wanted = found.parameters;
        for (name, value) in &*client.startup {
            wanted.entry(name.clone()).or_insert_with(|| value.clone());
        }
        client.state = self.states.intern(wanted);
        let mut pins = found.pins;
        if client.pins.contains(Pins::UNKNOWN) {
            pins.insert(Pins::UNKNOWN);
        }
        client.pins = pins;
        let restored = !Arc::ptr_eq(&client.state, &far.state);
        // The client has gone on. What pgring said now would come into the middle of a message, or
        // of a segment, where it would end the client's portals or be skipped; so the server is
        // asked again when it is at rest.
        if restored && (client.is_partial() || !far.ledger.is_settled()) {
            client.hints |= Hints::STATE;
            return;
        }
        match far.client.filter(|_| restored) {
            Some(id) => self.replay(id, server, purpose::RESTORE, actions),
            None => self.restored(server),
        }
    }

    /// A client's session is what it must be after a reset.
    fn restored(&mut self, server: ConnId) {
        let client = self.server_ref(server).and_then(|far| far.client);
        if let Some(client) = client.and_then(|client| self.clients.get_mut(client)) {
            client.resetting = false;
        }
    }

    /// A replay has been answered. If it failed, the client's statement behind it ran in a
    /// session that was not the client's: nothing more may happen there.
    fn replayed(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        let Some(error) = far.error.take() else { return };
        // With or without a client: the session is not what its books say.
        far.unfit = true;
        let Some(id) = far.client else { return };
        let message = format!("session parameters could not be restored: {}", error.message);
        let text = ErrorText::fatal(&error.code, &message)
            .with_hint("The statement behind it may have run without them.");
        self.fatal(now, id, &text, actions);
        self.close_server(now, server, actions);
    }

    /// An exchange with the client is complete.
    pub(super) fn exchange_done(&mut self, now: Instant, server: ConnId) {
        let Some(far) = self.server_ref(server) else { return };
        let (status, pool) = (far.status, far.pool);
        let Some(id) = far.client else { return };
        let waiting = far.ledger.is_clients();
        self.end_reading(id);
        let Some(client) = self.clients.get_mut(id) else { return };
        client.requested = now;
        client.dropping.clear();
        let mark = client.mark.take();
        let counters = &mut self.pools[pool].stats;
        if let Some(since) = client.query_since.take() {
            let took = now.since(since);
            counters.query_us += u64::try_from(took.as_micros()).unwrap_or(0);
            counters.query_times.observe(took);
            // Nodes are compared by how long reads take. What writes waits for others.
            let moved = self.pools[pool].key.node.is_some();
            if client.aimed == Aimed::Shared || moved {
                self.pools[pool].latency.observe(now, took);
            }
            if let Some(mark) = mark {
                self.verdicts.took(mark, took, moved);
            }
        }
        let counters = &mut self.pools[pool].stats;
        if status == b'I' {
            counters.transactions += 1;
            client.idle_in_since = None;
            if let Some(since) = client.transaction_since.take() {
                let took = now.since(since);
                counters.transaction_us += u64::try_from(took.as_micros()).unwrap_or(0);
                counters.transaction_times.observe(took);
            }
            client.transaction_since = waiting.then_some(now);
        } else {
            client.idle_in_since = Some(now);
            client.transaction_since.get_or_insert(now);
        }
        if waiting {
            client.query_since = Some(now);
        }
        if !waiting {
            self.exchanged(now, id);
        }
    }

    /// A server whose client is gone, or done with it while something was still on its way, is
    /// brought back to a clean state step by step.
    #[cold]
    pub(super) fn settle_abandoned(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        if !matches!(far.phase, Phase::Busy) || !far.ledger.is_settled() {
            return;
        }
        if Self::is_spent(far) {
            return self.close_server(now, server, actions);
        }
        if far.cancels > 0 {
            return;
        }
        if far.status != b'I' {
            return self.own_query(server, "ROLLBACK", purpose::ROLLBACK, actions);
        }
        let unseen = !far.dirty && far.unseen;
        if far.dirty {
            far.dirty = false;
            let pool = far.pool;
            let reset = if self.is_session_mode(pool) {
                self.pools[pool].settings.server_reset_query.clone()
            } else {
                "DISCARD ALL".to_owned()
            };
            if !reset.is_empty() {
                let session = self.is_session_mode(pool);
                if let Some(far) = self.server_mut(server) {
                    far.unseen = session;
                }
                return self.own_query(server, &reset, purpose::RESET, actions);
            }
        }
        if unseen {
            let sql = "SELECT pg_catalog.pg_my_temp_schema()";
            return self.own_query(server, sql, purpose::TEMPORARY, actions);
        }
        self.free(now, server, actions);
    }

    /// A server is to be free soon, or closed.
    pub(super) fn limit_cleaning(&mut self, now: Instant, server: ConnId) {
        let limit = now + Duration::from_secs(5);
        let owner = Owner::Conn(server);
        if let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) {
            far.cleaning = Some(limit);
            self.timers.schedule(&mut far.scheduled, owner, limit);
        }
    }

    /// Takes the server of a client that has left.
    pub(super) fn abandon(
        &mut self,
        now: Instant,
        server: ConnId,
        (partial, dirty, cancel): (bool, bool, bool),
        actions: &mut Out,
    ) {
        self.drop_cancel(now, server, actions);
        let Some(far) = self.server_mut(server) else { return };
        far.client = None;
        far.dirty |= dirty;
        far.inspected = None;
        far.hides = 0;
        actions.push(Action::Unpair(server));
        // Half a message cannot be taken back, and a raw conversation was never followed.
        let lost = far.dying || far.ledger.is_doubtful();
        if partial || !matches!(far.phase, Phase::Busy) || lost {
            far.unfit = true;
            return self.close_server(now, server, actions);
        }
        let Some(far) = self.server_mut(server) else { return };
        far.ledger.disown();
        if far.ledger.is_unsynced() || far.ledger.is_skipping() {
            // Without a Sync of its client nothing of this is to be committed, and ours would do
            // that. If some of it fails this is skipped with the rest.
            if !far.ledger.is_skipping() {
                self.own_query(server, "ROLLBACK", purpose::ROLLBACK, actions);
            }
            let Some(far) = self.server_mut(server) else { return };
            far.ledger.push(Expect::Sync, Origin::Own, 0);
            actions.write(server, write::sync);
        }
        let Some(far) = self.server_mut(server) else { return };
        let running = far.ledger.is_waiting();
        self.limit_cleaning(now, server);
        if running && cancel {
            self.send_cancel(now, server, None, actions);
        }
        self.settle_abandoned(now, server, actions);
    }

    /// A client of a database that is no more.
    #[cold]
    pub(super) fn evict_client(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let text = ErrorText::fatal(
            sqlstate::ADMIN_SHUTDOWN,
            "the database has been removed from the configuration",
        );
        self.fatal(now, id, &text, actions);
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use crate::state::Parameters;
    use pgring_wire::backend::write as say;
    use pgring_wire::client::write;
    use std::sync::Arc;

    /// A client has sent this text; its server is found unfit before it is answered.
    fn unfit_after(text: &str) -> Trial {
        let mut trial = Trial::start("");
        trial.client_says(&query(text));
        trial.server_says(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        let server = trial.server;
        trial.with_lane(|lane, _, _| lane.server_mut(server).expect("a server").unfit = true);
        trial.server_says(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        trial
    }

    /// A COPY fails while a piece of its data is half sent.
    #[test]
    fn nothing_is_said_in_the_middle_of_a_clients_message() {
        let mut trial = Trial::start("");
        trial.client_says(&query("COPY t FROM STDIN"));
        trial.server_says(&[ANSWERED, b"G\0\0\0\x07\0\0\0"].concat());
        let server = trial.server;
        trial.with_lane(|lane, _, _| {
            lane.server_mut(server).expect("it").unclosed.push(1);
        });
        trial.client_says(b"d\0\0\0\x0chalf");
        trial.server_says(b"E\0\0\0\x1dSERROR\0VERROR\0C22P04\0Mx\0\0Z\0\0\0\x05I");
        assert!(trial.said_to(server).is_empty(), "it would be data");
        trial.client_says(b"more");
        assert!(trial.said_to(server).starts_with(b"C"), "the name is closed behind it");
        trial.server_says(b"3\0\0\0\x04Z\0\0\0\x05I");
        assert_eq!(trial.lane.idle_servers(), 1);
    }

    /// `SET x TO DEFAULT` of a parameter that the startup packet has set: what it brings back is
    /// found out when the client may be in the middle of its next message.
    #[test]
    fn a_session_is_restored_between_the_clients_segments_and_not_within() {
        let mut trial = Trial::start("");
        let client = trial.client;
        trial.client_says(&query("SELECT 0"));
        trial.server_says(&ANSWERED.repeat(2));
        trial.with_lane(|lane, _, _| {
            let work_mem = Parameters::from([("work_mem".to_owned(), "8MB".to_owned())]);
            lane.clients.get_mut(client).expect("it").startup = Arc::new(work_mem);
        });
        trial.client_says(&query("SET work_mem TO DEFAULT"));
        trial.server_says(ANSWERED);
        assert!(trial.said_to(trial.server).starts_with(b"Q"), "the session is looked at");
        let mut said = Vec::new();
        write::parse(&mut said, b"", b"SELECT $1\0\0\0").expect("it is short");
        let before = said.len();
        said.extend_from_slice(b"B\0\0\x10\0\0\0half of a value");
        assert_eq!(trial.client_says(&said), said.len());
        assert!(said.len() > before);
        trial.server_says(ANSWERED);
        let told = trial.said_to(trial.server);
        assert!(told.is_empty(), "{} would be a part of the value", told.escape_ascii());
        let rest = 0x1000 + 1 - (said.len() - before);
        let mut end = vec![b'x'; rest];
        write::sync(&mut end);
        trial.client_says(&end);
        trial.server_says(b"1\0\0\0\x042\0\0\0\x04Z\0\0\0\x05I");
        assert!(trial.said_to(trial.server).starts_with(b"Q"), "it is looked at again");
        trial.server_says(ANSWERED);
        let told = trial.said_to(trial.server);
        assert!(told.windows(8).any(|word| word == b"work_mem"), "{}", told.escape_ascii());
    }

    /// PostgreSQL's own test `temp`: a session after a reconnect must not meet the temporary schema
    /// of the one before.
    #[test]
    fn a_server_with_a_temporary_schema_serves_no_second_session() {
        for (schema, left) in [(Some(&b"0"[..]), 1), (Some(b"16385"), 0), (None, 0)] {
            let mut trial = Trial::start("pool.mode = \"session\"");
            trial.client_ends();
            assert!(trial.said_to(trial.server).starts_with(b"Q"), "DISCARD ALL");
            trial.server_says(b"C\0\0\0\x10DISCARD ALL\0Z\0\0\0\x05I");
            let asked = trial.said_to(trial.server);
            assert!(asked.windows(9).any(|word| word == b"my_temp_s"), "{}", asked.escape_ascii());
            let mut answer = Vec::new();
            say::row_description(&mut answer, &[say::Column::text("schema")]);
            if schema.is_some() {
                say::data_row(&mut answer, &[schema]);
            }
            trial.server_says(&[&answer[..], ANSWERED].concat());
            assert_eq!(trial.lane.idle_servers(), left);
        }
    }

    #[test]
    fn who_says_goodbye_leaves_no_more_statements_than_a_server_may_have() {
        let mut trial = Trial::start("pool.prepared_statements = 1");
        trial.client_says(&query("SELECT 0"));
        trial.server_says(&ANSWERED.repeat(2));
        let mut said = Vec::new();
        write::parse(&mut said, b"s", b"SELECT 1\0\0\0").expect("it is short");
        write::parse(&mut said, b"t", b"SELECT 2\0\0\0").expect("it is short");
        write::sync(&mut said);
        write::terminate(&mut said);
        trial.client_says(&said);
        trial.server_says(b"1\0\0\0\x041\0\0\0\x04Z\0\0\0\x05I");
        assert!(trial.said_to(trial.server).starts_with(b"C"), "one is closed");
        trial.server_says(b"3\0\0\0\x04Z\0\0\0\x05I");
        assert!(trial.closes(trial.client));
        assert_eq!(trial.lane.idle_servers(), 1);
    }

    #[test]
    fn nobody_goes_on_without_a_session_that_was_closed() {
        let trial = unfit_after("SET search_path = a");
        let said = trial.said_to(trial.client);
        assert!(said.windows(6).any(|field| field == b"C08006"), "{}", said.escape_ascii());
        let trial = unfit_after("SELECT 1");
        assert!(trial.said_to(trial.client).is_empty(), "nothing was lost");
    }
}
