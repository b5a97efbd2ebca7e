//! Statement mode: transactions of several statements are refused.

use crate::id::ConnId;
use crate::lane::{Lane, Out};
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::ErrorText;

impl Lane {
    /// Whether a `ReadyForQuery` says that a transaction is open where there may be none: the
    /// client hears an error in its place.
    pub(super) fn is_refused(&self, id: ConnId, body: &[u8]) -> bool {
        let pool = self.server_ref(id).filter(|far| far.client.is_some()).map(|far| far.pool);
        body != b"I" && pool.is_some_and(|pool| self.is_statement_mode(pool))
    }

    /// The answer that goes before it is kept until it is known whether the transaction ends
    /// within its text: whatever else comes for the client comes behind it.
    pub(super) fn holds_begin(&mut self, id: ConnId, body: &[u8]) -> bool {
        let tag = match body {
            b"BEGIN\0" => "BEGIN",
            b"START TRANSACTION\0" => "START TRANSACTION",
            _ => return false,
        };
        let pool = self.server_ref(id).filter(|far| far.client.is_some()).map(|far| far.pool);
        let holds = pool.is_some_and(|pool| self.is_statement_mode(pool));
        // One that is held already goes out in front, as it would for anything else.
        let far = self.server_mut(id).filter(|far| holds && far.begun.is_none());
        far.is_some_and(|far| far.begun.replace(tag).is_none())
    }

    /// Statement mode: a transaction is open where there may be none. What its client has sent
    /// behind it may be on its way already, so it is told and closed at once.
    pub(super) fn refuse_transaction(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        far.begun = None;
        if let Some(id) = far.client {
            let text = ErrorText::fatal(
                sqlstate::PROTOCOL_VIOLATION,
                "transactions of several statements are not allowed in statement pooling mode",
            )
            .with_hint("Set pool.mode = \"transaction\" for this database.");
            self.fatal(now, id, &text, actions);
        }
    }
}
