//! The short way for answers that mean nothing to pgring: many at once, and one look at the books.

use crate::id::ConnId;
use crate::lane::moved::Reading;
use crate::lane::server::{Far, Server};
use crate::lane::{Lane, Out};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

impl Lane {
    /// Sends on the answers at `at` that only pass, and tells how many bytes that were.
    pub(super) fn pass_answers(
        &mut self,
        id: ConnId,
        (at, bytes): (usize, &[u8]),
        actions: &mut Out,
    ) -> usize {
        let Some(far) = self.server_ref(id) else { return 0 };
        let (pool, counted) = (far.pool, self.is_counted(far));
        // In statement mode some answers are held back.
        if self.is_statement_mode(pool) || far.hides > 0 {
            return 0;
        }
        let Some(far) = self.servers.get_mut(id).and_then(Far::server_mut) else { return 0 };
        let Some(client) = far.client else { return 0 };
        let near = if counted { self.clients.get_mut(client) } else { None };
        let reading = near.and_then(|client| client.reading.as_deref_mut());
        if reading.as_ref().is_some_and(|reading| !reading.only_hears()) {
            return 0;
        }
        let passed = pass(far, reading, bytes.get(at..).unwrap_or_default());
        if passed > 0 {
            actions.forward(id, client, at, at + passed);
            self.pools[pool].stats.sent_bytes += passed as u64;
            self.tell(id, actions);
        }
        passed
    }
}

/// Crosses off the answers that `bytes` begin with and that only pass; the last of them may go on
/// behind `bytes`. What a replica answers its client hears. Tells how many bytes they have.
fn pass(far: &mut Server, mut reading: Option<&mut Reading>, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
        let shown = rest.get(..head.total());
        let body = shown.map(|message| &message[Header::SIZE..]);
        // Of these the words count.
        let read = match head.tag {
            b'C' => !body.is_some_and(is_plain),
            b'T' | b't' => body.is_none() && reading.is_some(),
            _ => false,
        };
        if read || !far.ledger.pass(head.tag) {
            break;
        }
        reading.take_if(|reading| {
            reading.hear(head.tag, body.unwrap_or_default());
            !reading.only_hears()
        });
        far.forward = true;
        far.left = head.total() - shown.unwrap_or(rest).len();
        rest = rest.get(head.total()..).unwrap_or_default();
        if far.ledger.tells() {
            break;
        }
    }
    bytes.len() - rest.len()
}

/// Whether a `CommandComplete` is certainly none of those that drop statements or reset the
/// session.
fn is_plain(tag: &[u8]) -> bool {
    !matches!(tag.first(), Some(b'D' | b'R')) || tag.starts_with(b"DELETE ")
}
