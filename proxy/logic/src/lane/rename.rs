//! Errors that name a statement as the server knows it, told with the client's own name.

use crate::id::ConnId;
use crate::lane::{Lane, Out};
use pgring_wire::backend::{ErrorView, sqlstate};

/// Where our own names for statements stand in an error: in quotes.
const QUOTED: &str = "\"pgring_";

/// Stands for the unnamed statement of a client that has none, where the server has another's.
pub(super) const NO_UNNAMED: &str = "no unnamed statement";

impl Lane {
    /// Tells a client an error in its own words, if it names a statement in ours. Tells whether
    /// it did.
    #[cold]
    pub(super) fn rename_error(&mut self, server: ConnId, body: &[u8], actions: &mut Out) -> bool {
        let view = ErrorView::new(body);
        let code = view.code().unwrap_or_default();
        let names = [sqlstate::DUPLICATE_PREPARED_STATEMENT, sqlstate::INVALID_SQL_STATEMENT_NAME];
        if !names.iter().any(|name| name.as_bytes() == code) {
            return false;
        }
        let Ok(message) = core::str::from_utf8(view.message().unwrap_or_default()) else {
            return false;
        };
        let Some(id) = self.server_ref(server).and_then(|far| far.client) else { return false };
        let Some(said) = self.renamed(id, server, message) else { return false };
        actions.write(id, |out| {
            pgring_wire::frame::message(out, b'E', |out| {
                for (letter, value) in view.fields() {
                    out.push(letter);
                    let value = if letter == b'M' { said.as_bytes() } else { value };
                    pgring_wire::frame::cstr(out, value);
                }
                out.push(0);
            });
        });
        // It is an answer like any other: what it answers is not said again.
        self.end_reading(id);
        true
    }

    fn renamed(&mut self, id: ConnId, server: ConnId, message: &str) -> Option<String> {
        if message.contains(NO_UNNAMED) {
            return Some("unnamed prepared statement does not exist".to_owned());
        }
        let start = message.find(QUOTED)?;
        let digits = &message[start + QUOTED.len()..];
        let end = digits.find('"')?;
        let number: u64 = digits[..end].parse().ok()?;
        let far = self.servers.get_mut(server)?.server_mut()?;
        let client = self.clients.get(id)?;
        let doubled = client.doubled.as_ref().filter(|(of, _)| *of == number);
        let name = if let Some((_, name)) = doubled {
            &**name
        } else {
            let mut names = client.names.iter();
            names.find(|(_, statement)| far.statements.get(*statement) == Some(number))?.0
        };
        let name = String::from_utf8_lossy(name);
        let rest = &digits[end + 1..];
        Some(format!("{}\"{name}\"{rest}", &message[..start]))
    }
}
