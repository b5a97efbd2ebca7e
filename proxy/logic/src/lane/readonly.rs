//! Clients that came in by a listener for reads only (`listen_readonly`): they live on standbys.
//!
//! Nothing they say reaches the primary, whatever it is; a standby refuses what writes by itself
//! (SQLSTATE 25006). In transaction mode each transaction looks for a standby anew, in session mode
//! the session has one from its greeting to its end. While no standby is fit for them they wait, as
//! others do for a server.

use crate::action::{Action, CloseMode};
use crate::id::ConnId;
use crate::lane::balance::{Among, Fit};
use crate::lane::client::{Aimed, Phase as ClientPhase};
use crate::lane::server::Phase;
use crate::lane::{Lane, Out};
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;

/// What is said where there is none.
pub(super) const NONE_FIT: &str = "no standby is fit for reads";

impl Lane {
    /// Whether a client may be on standbys only.
    pub(super) fn is_readonly(&self, id: ConnId) -> bool {
        self.clients.get(id).is_some_and(|client| client.readonly)
    }

    /// Whether a client is about to get a server that it must not have.
    pub(super) fn strays(&self, id: ConnId) -> bool {
        let client = self.clients.get(id);
        client.is_some_and(|client| client.readonly && client.pool == client.home)
    }

    /// Looks for a standby for a client that has no server. Without one, it waits, or is told that
    /// there is none. Tells whether it has one.
    pub(super) fn seek_standby(
        &mut self,
        now: Instant,
        id: ConnId,
        home: usize,
        actions: &mut Out,
    ) -> bool {
        let fit = self.fit_for(now, id, home, Among::Standbys, actions);
        let limit = self.pools[home].settings.query_wait_timeout;
        let Some(client) = self.clients.get_mut(id) else { return false };
        if let Fit::Pool(pool) = fit {
            client.pool = Some(pool);
            client.behind_since = None;
            return true;
        }
        let since = *client.behind_since.get_or_insert(now);
        if limit.is_zero() || now.since(since) < limit {
            self.behind.push(id);
            self.watch_client(id);
            return false;
        }
        client.behind_since = None;
        if matches!(client.phase, ClientPhase::Ready) {
            self.fail_statement(now, id, sqlstate::CANNOT_CONNECT_NOW, NONE_FIT, actions);
        } else {
            self.refuse_welcome(now, id, sqlstate::CANNOT_CONNECT_NOW, NONE_FIT, actions);
        }
        false
    }

    /// Chooses the standby for the segment that begins with these bytes. Tells whether that must
    /// wait.
    pub(super) fn aim_readonly(
        &mut self,
        now: Instant,
        id: ConnId,
        home: usize,
        bytes: &[u8],
        actions: &mut Out,
    ) -> bool {
        if !self.seek_standby(now, id, home, actions) {
            return self.clients.get(id).is_some_and(|client| client.behind_since.is_some());
        }
        // What was kept before is not what is said now.
        self.end_reading(id);
        if self.is_routed(home) && self.only_reads(id, home, bytes) {
            self.begin_reading(id);
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.aimed = Aimed::Yes;
        }
        false
    }

    /// A client that waits for a server of a node, which cannot be had: it goes to a standby, to
    /// another one if it waited for one, or waits on if there is none.
    pub(super) fn seek_another(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get(id) else { return };
        let (Some(home), Some(pool), Some(wait)) = (client.home, client.pool, client.wait) else {
            return;
        };
        let fit = self.fit_for(now, id, home, Among::StandbysBut(pool), actions);
        let Fit::Pool(other) = fit else { return };
        let waiting_max = self.pools[other].settings.waiting_max;
        if self.pools[other].waiting_count as usize >= waiting_max {
            return;
        }
        if pool == home {
            self.begin_reading(id);
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        client.wait = None;
        client.pool = Some(other);
        client.aimed = Aimed::Yes;
        self.pools[pool].unqueue();
        self.wait_for_server(now, id, actions);
        // It has waited for as long as before.
        if let Some(new) = self.clients.get_mut(id).and_then(|client| client.wait.as_mut()) {
            new.since = wait.since;
        }
    }

    /// A node is no standby any more: whoever must be on one leaves it.
    pub(super) fn leave_promoted(&mut self, now: Instant, pool: usize, actions: &mut Out) {
        let Some(node) = self.pools[pool].key.node.clone() else { return };
        for server in self.servers.ids() {
            let Some(far) = self.server_mut(server).filter(|far| far.pool == pool) else {
                continue;
            };
            if far.is_gone() || far.is_opening() {
                continue;
            }
            far.unfit = true;
            let Some(id) = far.client else {
                self.close_server(now, server, actions);
                continue;
            };
            // What its session keeps there it has there only. A transaction that runs cannot write,
            // as it has begun in recovery.
            let raw = matches!(far.phase, Phase::Raw);
            let rests = far.status == b'I' && !far.ledger.is_waiting();
            if self.is_readonly(id) && (raw || rests || self.is_session_mode(pool)) {
                let message = format!("node {node} is no longer a standby");
                let text = ErrorText::fatal(sqlstate::ADMIN_SHUTDOWN, &message);
                if !self.is_torn(id) {
                    Self::say(id, &text.with_hint("Connect again."), actions);
                }
                self.client_left(now, id, CloseMode::Flush, actions);
            }
        }
    }

    /// Who waits for a standby is looked at again when where nodes stand is known anew.
    pub(super) fn look_again(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get(id) else { return };
        if matches!(client.phase, ClientPhase::Welcoming) {
            return self.welcome(now, id, actions);
        }
        actions.push(Action::Resume(id));
    }
}

#[cfg(test)]
mod tests;
