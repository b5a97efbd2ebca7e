//! Rows of pgring's own questions about a session.

use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::Lane;
use crate::lane::server::purpose;
use crate::ledger::{Entry, Origin};
use crate::state::Inspected;
use pgring_wire::backend;

impl Lane {
    /// A server reports a parameter anew. If it is not pgring that has set it, the client has, in a
    /// function perhaps, where no text shows it: the session is looked at. That a standby has been
    /// promoted no client does.
    pub(super) fn suspect(&mut self, id: ConnId, body: &[u8]) {
        if backend::parameter_status(body).is_ok_and(|(name, _)| name == b"in_hot_standby") {
            return;
        }
        let Some(far) = self.server_ref(id) else { return };
        let own = far.ledger.head().is_some_and(|entry| entry.origin == Origin::Own);
        let client = far.client.filter(|client| !own && self.watches(*client));
        if let Some(client) = client.and_then(|client| self.clients.get_mut(client)) {
            client.hints |= Hints::STATE;
        }
    }

    /// A row of an inspection.
    pub(super) fn row(&mut self, id: ConnId, body: &[u8], whose: Option<Entry>) {
        let Some(entry) = whose.filter(|entry| entry.origin == Origin::Own) else { return };
        let Some(far) = self.server_mut(id) else { return };
        if entry.mark == purpose::TEMPORARY {
            let value = backend::data_row(body).into_iter().flatten().next().flatten();
            let none = value == Some(b"0");
            far.unseen &= !none;
            far.unfit |= !none;
        }
        if entry.mark != purpose::INSPECT {
            return;
        }
        let Some(found) = &mut far.inspected else { return };
        let mut values = backend::data_row(body).into_iter().flatten();
        let mut next = || values.next().flatten().unwrap_or_default();
        let (kind, name, value) = (next(), next(), next());
        Inspected::row(found, kind, name, value);
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use crate::mail::Event;
    use crate::topology::Role;
    use pgring_wire::backend::write::{self, ErrorText};

    /// The node becomes the primary while it is read from: seen by the rig as a read that failed
    /// (08006), once in fifty failovers.
    #[test]
    fn a_read_outlives_the_promotion_of_its_standby() {
        let (mut trial, standby) = Trial::routed("");
        let (client, read) = (trial.client, query("SELECT 0"));
        assert_eq!(trial.client_says(&read), read.len());
        assert_eq!(trial.forwards_to(standby), read.len());
        trial.stands(Role::Primary);
        let mut answer = Vec::new();
        write::parameter_status(&mut answer, "in_hot_standby", "off");
        answer.extend_from_slice(ANSWERED);
        trial.receives(standby, &answer);
        assert_eq!(trial.forwards_to(client), answer.len());
        assert!(trial.closes(standby), "it is no standby any more");
        assert!(trial.said_to(client).is_empty() && !trial.closes(client));
    }

    /// A server that is shut down says so behind its answer, and both come at once.
    #[test]
    fn who_has_its_answer_does_not_hear_how_its_server_ends() {
        for there in [false, true] {
            let (mut trial, standby) = Trial::routed("");
            let server = if there { standby } else { trial.server };
            let text = query(if there { "SELECT 1" } else { "DELETE FROM t" });
            assert_eq!(trial.client_says(&text), text.len());
            assert_eq!(trial.forwards_to(server), text.len());
            let mut last = Vec::new();
            let reason = ErrorText::fatal("57P01", "the database system is shutting down");
            write::error(&mut last, &reason);
            let both = [ANSWERED, &last].concat();
            assert_eq!(trial.receives(server, &both), both.len());
            assert_eq!(trial.forwards_to(trial.client), ANSWERED.len(), "there: {there}");
            assert!(trial.closes(server) && !trial.closes(trial.client), "there: {there}");
            assert!(trial.said_to(trial.client).is_empty(), "there: {there}");
            trial.happens(Event::Closed { conn: server });
            assert_eq!(trial.client_says(&text), 0, "it waits for the next one");
        }
    }
}
