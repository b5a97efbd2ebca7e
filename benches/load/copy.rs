//! Bulk data: rows of a kilobyte, as COPY has them in text format.

use pgring_wire::frame::message;

/// Rows of one COPY: 200 MB on the wire.
const ROWS: usize = 200_000;
/// Rows handed to a socket at once: 64 KB.
const ROWS_AT_ONCE: usize = 64;

/// A COPY on its way out of this program.
#[derive(Debug)]
pub(crate) struct Bulk {
    rows: Vec<u8>,
}

impl Bulk {
    /// The rows of the bench's table `bulk`, as alike as rows may be.
    pub(crate) fn new() -> Self {
        let text = "abcdefghij".repeat(99);
        let mut rows = Vec::new();
        for number in 0..ROWS_AT_ONCE {
            message(&mut rows, b'd', |out| {
                out.extend_from_slice(format!("{:06}\t{text}\n", 100_000 + number).as_bytes());
            });
        }
        Self { rows }
    }

    /// How often [`Self::rows`] are to be sent for one COPY.
    pub(crate) const fn times() -> usize {
        ROWS / ROWS_AT_ONCE
    }

    /// Some rows, each in a message of its own.
    pub(crate) fn rows(&self) -> &[u8] {
        &self.rows
    }
}
