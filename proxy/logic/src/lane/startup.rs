//! The first bytes of a client: encryption requests, cancel requests, the startup packet.

use crate::action::{Action, CloseMode, Progress, Want};
use crate::id::{ConnId, Core, Secret};
use crate::lane::client::Phase;
use crate::lane::{Lane, Out, all, later, more};
use crate::mail::Mail;
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};
use pgring_wire::startup::{Packet, StartupError, packet};
use std::sync::Arc;

/// The newest minor version of protocol 3 that pgring speaks.
pub(super) const NEWEST_MINOR: u16 = 2;

/// Bits of [`Login::refused_encryption`].
const SSL: u8 = 1;
const GSS: u8 = 2;

impl Lane {
    /// Bytes of a client that has not said who it is.
    #[cold]
    pub(super) fn receive_startup(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let (packet, used) = match packet(bytes) {
            Ok(None) => return more(0),
            Ok(Some(found)) => found,
            Err(error) => {
                self.refuse_startup(now, id, error, actions);
                return all(bytes);
            }
        };
        match packet {
            Packet::Ssl => self.refuse_encryption(now, id, SSL, bytes.len() > used, actions),
            Packet::Gss => self.refuse_encryption(now, id, GSS, bytes.len() > used, actions),
            Packet::Cancel { pid, secret } => {
                self.cancel_requested(now, id, pid, secret, actions);
                return all(bytes);
            }
            Packet::Startup { minor, parameters, .. } => {
                if !self.startup(now, id, minor, &parameters, actions) {
                    return later(0);
                }
            }
        }
        Progress { consumed: used, want: Want::More }
    }

    fn refuse_startup(&mut self, now: Instant, id: ConnId, error: StartupError, actions: &mut Out) {
        let message = error.to_string();
        Self::say(id, &ErrorText::fatal(error.sqlstate(), &message), actions);
        self.client_left(now, id, CloseMode::Flush, actions);
    }

    /// `SSLRequest` and `GSSENCRequest` are answered `N`, each once. Bytes behind them in the same
    /// segment were sent before the answer was known: somebody may have put them there
    /// (CVE-2021-23214), so they end the connection.
    fn refuse_encryption(
        &mut self,
        now: Instant,
        id: ConnId,
        kind: u8,
        stuffed: bool,
        actions: &mut Out,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let login = client.login.get_or_insert_default();
        let again = login.refused_encryption & kind != 0;
        login.refused_encryption |= kind;
        if again || stuffed {
            let message = if stuffed {
                "received data after an encryption request and before its answer"
            } else {
                "encryption was requested twice"
            };
            Self::say(id, &ErrorText::fatal(sqlstate::PROTOCOL_VIOLATION, message), actions);
            self.client_left(now, id, CloseMode::Flush, actions);
            return;
        }
        actions.write(id, |out| out.push(b'N'));
    }

    /// Tells whether it stays on this lane.
    fn startup(
        &mut self,
        now: Instant,
        id: ConnId,
        minor: u16,
        parameters: &[(&str, &str)],
        actions: &mut Out,
    ) -> bool {
        let find = |name: &str| {
            parameters.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
        };
        let Some(user) = find("user").filter(|user| !user.is_empty()) else {
            let text = ErrorText::fatal(
                sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
                "no PostgreSQL user name specified in startup packet",
            );
            Self::say(id, &text, actions);
            self.client_left(now, id, CloseMode::Flush, actions);
            return true;
        };
        let database = find("database").filter(|name| !name.is_empty()).unwrap_or(user);
        let replication = find("replication").is_some_and(wants_replication);
        if !replication && self.send_home(id, (database, user), actions) {
            return false;
        }
        let unknown: Vec<&str> = parameters
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if minor > NEWEST_MINOR || !unknown.is_empty() {
            actions.write(id, |out| {
                write::negotiate_protocol_version(out, NEWEST_MINOR.min(minor), &unknown);
            });
        }
        let Some(client) = self.clients.get_mut(id) else { return true };
        client.user = Arc::from(user);
        client.database = Arc::from(database);
        let login = client.login.get_or_insert_default();
        login.minor = minor.min(NEWEST_MINOR);
        login.replication = replication;
        login.startup =
            parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.start_login(now, id, actions);
        true
    }

    /// A connection that carries a cancel request.
    fn cancel_requested(
        &mut self,
        now: Instant,
        id: ConnId,
        pid: u32,
        secret: &[u8],
        actions: &mut Out,
    ) {
        if let Some(client) = self.clients.get_mut(id) {
            client.phase = Phase::Cancelling;
        }
        let secret = Secret::new(secret);
        // In transaction mode the pid names the core; in session mode it is the server's own.
        // Cancelling is rare, so every lane is asked, and each answers once.
        let from = (self.core, id);
        let lanes = u16::try_from(self.config.workers.max(1)).unwrap_or(u16::MAX);
        if let Some(client) = self.clients.get_mut(id) {
            client.left = usize::from(lanes);
        }
        for to in (0..lanes).map(Core).filter(|core| *core != self.core) {
            let mail = Box::new(Mail::Cancel { pid, secret: secret.clone(), from });
            actions.push(Action::Post { to, mail });
        }
        self.cancel(now, pid, &secret, from, actions);
    }
}

/// `replication` as a boolean, or `database` ("Streaming Replication Protocol").
fn wants_replication(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "database" | "true" | "on" | "yes" | "1" | "t" | "y" | "tr" | "tru" | "ye"
    )
}

#[cfg(test)]
mod tests {
    use super::wants_replication;
    use crate::action::Action;
    use crate::lane::trial::{Trial, query};
    use crate::mail::{Entrance, Peer};
    use pgring_wire::client::write;

    /// What is forwarded is counted from the first byte that the driver shows.
    #[test]
    fn a_client_may_send_its_first_query_with_its_startup_packet() {
        let mut trial = Trial::start("");
        let mut said = Vec::new();
        write::startup(&mut said, 3, 0, [("user", "app"), ("database", "app")]);
        let hello = said.len();
        said.extend(query("SELECT 1"));
        let mut hasty = trial.client;
        trial.with_lane(|lane, now, _| {
            hasty = lane.accept(now, Peer::Unix(0), Entrance::default());
        });
        let mut at = 0;
        while at < said.len() {
            let shown = &said[at..];
            let taken = trial.receives(hasty, shown);
            for action in &trial.asked().list {
                if let Action::Forward { start, len, .. } = action {
                    assert_eq!(shown[*start..start + len], said[hello..], "other bytes are sent");
                }
            }
            let goes_on = trial
                .asked()
                .list
                .iter()
                .any(|action| matches!(action, Action::Resume(conn) if *conn == hasty));
            assert!(taken == shown.len() || taken > 0 && goes_on, "it is shown no more");
            at += taken;
        }
        assert_eq!(trial.forwards_to(trial.server), said.len() - hello, "it is on its way");
    }

    #[test]
    fn replication_is_a_boolean_or_a_database() {
        assert!(wants_replication("database") && wants_replication("TRUE"));
        assert!(!wants_replication("false") && !wants_replication("0"));
    }
}
