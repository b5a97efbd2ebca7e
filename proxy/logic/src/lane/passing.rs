//! The short way for answers that mean nothing to pgring: many at once, and one look at the books.

use crate::id::ConnId;
use crate::lane::server::Server;
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
        let pool = far.pool;
        // In statement mode some answers are held back.
        if self.is_statement_mode(pool) || self.is_counted(far) {
            return 0;
        }
        let Some(far) = self.server_mut(id) else { return 0 };
        let Some(client) = far.client else { return 0 };
        let passed = pass(far, bytes.get(at..).unwrap_or_default());
        if passed > 0 {
            actions.forward(id, client, at, at + passed);
            self.pools[pool].stats.sent_bytes += passed as u64;
            self.tell(id, actions);
        }
        passed
    }
}

/// Crosses off the answers that `bytes` begin with and that only pass; the last of them may go on
/// behind `bytes`. Tells how many bytes they have.
fn pass(far: &mut Server, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
        let shown = rest.get(..head.total());
        // Of these the words count.
        let read =
            head.tag == b'C' && !shown.is_some_and(|message| is_plain(&message[Header::SIZE..]));
        if read || !far.ledger.pass(head.tag) {
            break;
        }
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
