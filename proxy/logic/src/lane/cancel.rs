//! Cancel requests: from a key to the one query it means, and to no other.
//!
//! A request is delivered by a connection of its own, and `PostgreSQL` ends that connection when
//! it has signalled the backend. Until then the server does not change hands (invariant I2), so
//! a late signal can hit nothing but the client that asked. Whoever sent the request hears the
//! end of its connection only then, as without a pooler.

use crate::action::{Action, CloseMode};
use crate::id::{ConnId, Core, Secret};
use crate::lane::client::{Phase, Requester};
use crate::lane::server::{Errand, Far};
use crate::lane::{Lane, Out};
use crate::mail::Mail;
use crate::time::{Duration, Instant};
use crate::timers::{Owner, Scheduled};
use pgring_wire::backend::sqlstate;
use std::sync::Arc;

/// How long the delivery of a cancel request may take.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

impl Lane {
    /// Cancels what the client with this key is doing, if it is one of this lane.
    pub(super) fn cancel(
        &mut self,
        now: Instant,
        pid: u32,
        secret: &Secret,
        from: Requester,
        actions: &mut Out,
    ) {
        let Some(id) = self.client_of_key(pid, secret) else {
            return self.cancel_answered(now, from, actions);
        };
        let Some(client) = self.clients.get(id) else { return };
        let seeks = client.readonly && client.behind_since.is_some();
        if (client.wait.is_some() || seeks) && matches!(client.phase, Phase::Ready) {
            if let Some(client) = self.clients.get_mut(id) {
                client.behind_since = None;
            }
            let message = "canceling statement due to user request";
            self.refuse(now, id, sqlstate::QUERY_CANCELED, message, actions);
            return self.cancel_answered(now, from, actions);
        }
        if matches!(client.phase, Phase::Raw)
            && let Some(server) = client.server
        {
            // What it is doing there nobody knows.
            return self.send_cancel(now, server, Some(from), actions);
        }
        let running = client
            .server
            .filter(|server| self.server_ref(*server).is_some_and(|far| far.ledger.is_waiting()));
        let Some(server) = running else { return self.cancel_answered(now, from, actions) };
        let Some(far) = self.server_mut(server) else { return };
        if far.ledger.is_clients_turn() {
            return self.send_cancel(now, server, Some(from), actions);
        }
        // A query of our own is running: it is not meant. What is behind it may be.
        let comes = far.ledger.is_exchanging() || far.beginning;
        if comes && far.cancel_later.is_none() {
            far.cancel_later = Some(from);
        } else {
            self.cancel_answered(now, from, actions);
        }
    }

    /// The query that a cancel request means may be running now.
    pub(super) fn cancel_now(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        if far.ledger.is_waiting() && !far.ledger.is_clients_turn() {
            return;
        }
        let (waits, client) = (far.ledger.is_waiting(), far.client);
        if !waits && client.is_some_and(|id| self.is_held(id)) {
            return;
        }
        let Some(far) = self.server_mut(server) else { return };
        let Some(from) = far.cancel_later.take() else { return };
        if far.ledger.is_waiting() && far.client.is_some() {
            self.send_cancel(now, server, Some(from), actions);
        } else {
            self.cancel_answered(now, from, actions);
        }
    }

    /// Whether a statement of a client is under way that its server has not been told: it had to
    /// wait for a BEGIN, and is said when its client is looked at again.
    fn is_held(&self, id: ConnId) -> bool {
        self.clients.get(id).is_some_and(|client| client.stalled && client.query_since.is_some())
    }

    /// What a client has said has been looked at: if it had to wait before, a cancel request has
    /// waited for it.
    pub(super) fn cancel_held(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let client = self.clients.get(id).filter(|client| client.reading.is_some());
        if let Some(server) = client.and_then(|client| client.server) {
            self.cancel_now(now, server, actions);
        }
    }

    /// The client with this key. Every client is looked at, in the same time whatever its key:
    /// requests are rare, and nobody learns a key by asking.
    fn client_of_key(&self, pid: u32, secret: &Secret) -> Option<ConnId> {
        let fits = |key: &[u8]| {
            let differences = key.iter().zip(secret.bytes()).map(|(a, b)| a ^ b);
            key.len() == secret.bytes().len() && differences.fold(0, |all, one| all | one) == 0
        };
        let mut found = None;
        for (id, client) in self.clients.iter() {
            let greeted = matches!(client.phase, Phase::Ready | Phase::Raw);
            if client.key.0 == pid && greeted && fits(client.secret(client.minor.into())) {
                found = Some(id);
            }
        }
        found
    }

    /// Opens a connection that delivers a cancel request to a server.
    pub(super) fn send_cancel(
        &mut self,
        now: Instant,
        server: ConnId,
        requester: Option<Requester>,
        actions: &mut Out,
    ) {
        let Some(far) = self.server_mut(server) else { return };
        far.cancels += 1;
        let (address, key) = (far.address.clone(), (far.pid, far.secret.clone()));
        let (pass, node) = (far.pass.clone(), Arc::clone(&far.node));
        let deadline = now + DELIVERY_MAX;
        let errand = Errand {
            server: Some(server),
            pass,
            node,
            requester,
            key,
            gone: false,
            deadline,
            scheduled: Scheduled::default(),
        };
        let id = self.servers.insert(|_| Far::Errand(errand));
        if let Some(Far::Errand(errand)) = self.servers.get_mut(id) {
            self.timers.schedule(&mut errand.scheduled, Owner::Conn(id), deadline);
        }
        actions.push(Action::Connect { conn: id, address });
    }

    /// A cancel request has been delivered, or never will be.
    pub(super) fn errand_done(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(Far::Errand(errand)) = self.servers.get_mut(id) else { return };
        if errand.gone {
            return;
        }
        errand.gone = true;
        let late = errand.deadline <= now;
        let (server, requester) = (errand.server.take(), errand.requester.take());
        actions.push(Action::Close { conn: id, mode: CloseMode::Now });
        if let Some(requester) = requester {
            self.cancel_answered(now, requester, actions);
        }
        let Some(server) = server else { return };
        let Some(far) = self.server_mut(server).filter(|far| !far.is_gone()) else { return };
        far.cancels -= 1;
        // One that did not end in time may still be delivered, to whoever has the server then.
        far.unfit |= late;
        // What had to wait for it: see `settle`.
        self.unstall(server, actions);
        self.settle(now, server, actions);
    }

    /// This lane is done with a request: tells the connection it came in on.
    pub(super) fn cancel_answered(
        &mut self,
        now: Instant,
        (core, conn): Requester,
        actions: &mut Out,
    ) {
        if core == self.core {
            self.cancelled(now, conn, actions);
        } else {
            actions.push(Action::Post { to: core, mail: Box::new(Mail::Cancelled { conn }) });
        }
    }

    /// A server that a request waits for is taken from its client, or closed: it is not meant
    /// any more.
    pub(super) fn drop_cancel(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        if let Some(from) = self.server_mut(server).and_then(|far| far.cancel_later.take()) {
            self.cancel_answered(now, from, actions);
        }
    }

    /// One of the lanes that were asked is done with a request.
    pub(super) fn cancelled(&mut self, now: Instant, conn: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        if !matches!(client.phase, Phase::Cancelling) {
            return;
        }
        client.left = client.left.saturating_sub(1);
        if client.left == 0 {
            self.client_left(now, conn, CloseMode::Flush, actions);
        }
    }

    /// The lane this is.
    pub fn core(&self) -> Core {
        self.core
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use pgring_wire::client::write;

    /// A client with a query behind one of pgring's own, which sets the session's parameters,
    /// and a cancel request that may only hit the former.
    fn waiting() -> Trial {
        let mut trial = Trial::start("");
        trial.client_says(&query("SELECT 1"));
        assert!(!trial.send_cancel(), "it waits for the end of pgring's own query");
        trial
    }

    /// The answer to the Parse stays in the server's buffer until the statement has run.
    #[test]
    fn a_statement_that_had_to_be_parsed_again_can_be_cancelled_while_it_runs() {
        for end in [true, false] {
            let mut trial = Trial::start("");
            let mut parse = Vec::new();
            write::parse(&mut parse, b"s", b"SELECT 1\0\0\0").expect("it is short");
            write::sync(&mut parse);
            trial.client_says(&[query("SELECT 0"), parse].concat());
            let parsed = b"1\0\0\0\x04Z\0\0\0\x05I";
            trial.server_says(&[&ANSWERED.repeat(2)[..], parsed].concat());
            let server = trial.server;
            trial.with_lane(|lane, _, _| {
                let _forgotten = lane.server_mut(server).expect("it").statements.clear();
            });
            let mut run = Vec::new();
            write::bind(&mut run, b"", b"s");
            write::execute(&mut run, b"");
            if end {
                write::sync(&mut run);
            }
            trial.client_says(&run);
            assert!(trial.said_to(server).starts_with(b"P"), "it is parsed again");
            assert!(!trial.send_cancel() && trial.connects(), "with a Sync: {end}");
        }
    }

    #[test]
    fn a_cancel_request_that_waits_is_answered_when_pgring_closes_the_server() {
        let mut trial = waiting();
        let server = trial.server;
        trial.with_lane(|lane, now, actions| lane.close_server(now, server, actions));
        assert!(trial.is_cancel_answered());
    }

    #[test]
    fn a_cancel_request_that_waits_is_answered_when_its_client_leaves() {
        let mut trial = waiting();
        trial.client_ends();
        assert!(trial.is_cancel_answered());
    }
}
