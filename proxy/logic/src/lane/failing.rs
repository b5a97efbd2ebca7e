//! Statements that fail before they reach a server.

use crate::id::ConnId;
use crate::lane::client::Failing;
use crate::lane::traffic::{Message, Step, hint_for};
use crate::lane::{Lane, Out};
use crate::time::Instant;
use pgring_wire::backend::write::{self, ErrorText};

impl Lane {
    /// A statement of a client fails before it reaches a server. The client stays, unless it has
    /// been told that it is in a transaction.
    #[cold]
    pub(super) fn fail_statement(
        &mut self,
        now: Instant,
        id: ConnId,
        code: &str,
        message: &str,
        actions: &mut Out,
    ) {
        if self.is_deferred(id) {
            let text = ErrorText::fatal(code, message);
            return self.fatal(now, id, &ErrorText { hint: hint_for(code), ..text }, actions);
        }
        self.lead_no_more(id);
        let Some(client) = self.clients.get_mut(id) else { return };
        client.failing = Failing::First;
        let text = ErrorText::error(code, message);
        Self::say(id, &ErrorText { hint: hint_for(code), ..text }, actions);
    }

    /// A message of a statement that has failed: a Query is answered by `ReadyForQuery`, an
    /// extended one by nothing until the Sync, as a server would.
    #[cold]
    pub(super) fn fail_message(
        &mut self,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        let status = self.status_alone(id);
        let Some(client) = self.clients.get_mut(id) else { return Step::Over };
        let simple = matches!(message.head.tag, b'Q' | b'F') && client.failing == Failing::First;
        if simple || message.head.tag == b'S' {
            client.failing = Failing::No;
            actions.write(id, |out| write::ready_for_query(out, status));
        } else {
            client.failing = Failing::ToSync;
        }
        self.skip(id, message)
    }
}
