//! DEALLOCATE and DISCARD ALL: statements that clients prepared by protocol and drop by SQL.
//!
//! A name is the client's, so the text is sent with the server's name in its place. What drops all
//! statements goes as it is, and the names of the client and its server are dropped with it.

use crate::hints::{Deallocate, deallocate};
use crate::id::ConnId;
use crate::lane::server::purpose;
use crate::lane::traffic::{Message, Step};
use crate::lane::{Lane, Out};
use crate::ledger::{Expect, Origin};
use crate::prepared::ServerName;
use pgring_wire::client::write;

impl Lane {
    /// DEALLOCATE of a statement that the client prepared by protocol, as a simple Query.
    pub(super) fn simple_deallocate(
        &mut self,
        id: ConnId,
        message: Message<'_>,
        text: &[u8],
        actions: &mut Out,
    ) -> Option<Step> {
        let server = self.clients.get(id)?.server?;
        let rewritten = self.deallocated(id, text, actions)?;
        if self.server_ref(server)?.ledger.is_unsynced() {
            // Should the Parse in front of it fail, the Query must not be skipped.
            actions.write(server, write::sync);
            self.push(id, Expect::Sync, Origin::Own, purpose::QUIET);
        }
        actions.write(server, |out| write::query(out, &rewritten));
        self.push(id, Expect::Query, Origin::Client, 0);
        Some(Step::Took(message.shown.len()))
    }

    /// What to send in place of a text that drops prepared statements; none: the text itself.
    pub(super) fn deallocated(
        &mut self,
        id: ConnId,
        text: &[u8],
        actions: &mut Out,
    ) -> Option<Vec<u8>> {
        let server = self.clients.get(id)?.server?;
        if self.ignored(server) {
            return None;
        }
        match deallocate(text) {
            Some(Deallocate::All) => {
                self.expect_drop(id);
                None
            }
            Some(Deallocate::Name { start, end, name }) => {
                // In a failed transaction it fails, and the name stays.
                let far = self.server_ref(server)?;
                if far.status == b'E' || far.ledger.is_unsynced() {
                    return None;
                }
                let statement = self.clients.get_mut(id)?.names.remove(&name)?;
                self.texts.release(statement);
                // The statement itself stays for others: one that stands for it is dropped. Its
                // Parse cannot fail here; if it could, the server would skip a Query behind it.
                // Its name is unlike all others, because a text that was parsed may run again
                // elsewhere.
                let name = ServerName::new(u64::MAX - self.number());
                self.push(id, Expect::Parse, Origin::Own, purpose::QUIET);
                let mut sent = Ok(());
                actions.write(server, |out| {
                    sent = write::parse(out, name.as_bytes(), b"SELECT 1\0\0\0");
                });
                assert!(sent.is_ok(), "it is far below the largest message");
                Some([&text[..start], name.as_bytes(), &text[end..]].concat())
            }
            None if text.trim_ascii().trim_ascii_end().eq_ignore_ascii_case(b"discard all") => {
                // It fails in a transaction.
                if self.server_ref(server)?.status == b'I' {
                    self.expect_drop(id);
                }
                None
            }
            None => None,
        }
    }

    /// A text that drops all statements is about to be sent. Where nothing can keep it from
    /// being carried out, messages behind it find them gone; otherwise its answer decides.
    fn expect_drop(&mut self, id: ConnId) {
        let server = self.clients.get(id).and_then(|client| client.server);
        let sure = server.and_then(|server| self.server_ref(server)).is_some_and(|far| {
            far.status != b'E' && !far.ledger.is_waiting() && !far.ledger.is_unsynced()
        });
        if sure {
            self.drop_statements(id);
        }
    }

    /// All named statements of a client, and of the server it has, are gone.
    pub(super) fn drop_statements(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        for statement in client.names.drain() {
            self.texts.release(statement);
        }
        let Some(server) = client.server else { return };
        let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) else {
            return;
        };
        for statement in far.statements.clear() {
            self.texts.release(statement);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use pgring_wire::client::write;

    /// A late cancel request may hit the Parse that stands in for the statement.
    #[test]
    fn a_deallocate_is_answered_whatever_becomes_of_what_pgring_says_in_front_of_it() {
        let mut trial = Trial::start("");
        let mut parse = Vec::new();
        write::parse(&mut parse, b"s", b"SELECT 1\0\0\0").expect("it is short");
        write::sync(&mut parse);
        trial.client_says(&[query("SELECT 0"), parse].concat());
        trial.server_says(&[&ANSWERED.repeat(2)[..], b"1\0\0\0\x04Z\0\0\0\x05I"].concat());
        trial.client_says(&query("DEALLOCATE s"));
        let said = trial.said_to(trial.server);
        let sync = said.windows(5).position(|bytes| bytes == b"S\0\0\0\x04");
        let asked = said.windows(10).position(|bytes| bytes == b"DEALLOCATE");
        assert!(sync.is_some_and(|sync| asked.is_some_and(|asked| sync < asked)));
        trial.server_says(b"E\0\0\0\x1dSERROR\0VERROR\0C57014\0Mx\0\0Z\0\0\0\x05I");
        assert!(trial.said_to(trial.client).is_empty());
        trial.server_says(b"C\0\0\0\x0fDEALLOCATE\0Z\0\0\0\x05I");
        assert!(trial.forwards_to(trial.client) > 0);
    }
}
