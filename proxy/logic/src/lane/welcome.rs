//! The greeting: what a client is told of its session before its first statement.
//!
//! In session mode a client gets a server opened with its own startup parameters, and is told
//! what that server said. In transaction mode servers are shared, so they are opened without
//! parameters; a client's own become session state that follows it. A startup packet that no
//! server of the pool has taken before is tried on one first, so that a mistake in it fails the
//! login, as it does without a pooler.

use crate::action::Action;
use crate::id::{ConnId, Core, PoolKey};
use crate::lane::client::Phase;
use crate::lane::pool::VERIFIED_MAX;
use crate::lane::server::purpose;
use crate::lane::traffic::hint_for;
use crate::lane::{Lane, Out};
use crate::state::{Parameters, of_startup};
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};
use std::sync::Arc;

impl Lane {
    /// The client may come in: greets it, or has it wait for what it takes to do so.
    pub(super) fn welcome(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.readonly
            && let Some(home) = client.home
        {
            client.phase = Phase::Welcoming;
            if !self.seek_standby(now, id, home, actions) {
                return;
            }
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(pool) = client.pool else { return };
        let login = client.login.get_or_insert_default();
        if login.replication {
            return self.open_raw(now, id, (pool, 0), actions);
        }
        let session = self.pools[pool].mode() == crate::config::PoolMode::Session;
        let parameters =
            if session { Ok(raw_startup(&login.startup)) } else { of_startup(&login.startup) };
        match parameters {
            Ok(mut parameters) => {
                if client.readonly {
                    // Should the standby be promoted, it says so before anybody else knows.
                    let on = || "on".to_owned();
                    parameters.entry("default_transaction_read_only".to_owned()).or_insert_with(on);
                }
                client.startup = self.states.intern(parameters);
            }
            Err(reason) => {
                let message = format!("invalid startup parameter options: {reason}");
                let text = ErrorText::fatal("22023", &message);
                return self.fatal(now, id, &text, actions);
            }
        }
        client.phase = Phase::Welcoming;
        if !session && self.greet_from_memory(now, id, pool, actions) {
            return;
        }
        self.wait_for_server(now, id, actions);
    }

    /// Greets a client with what is known of the pool, if all of it is known.
    fn greet_from_memory(
        &mut self,
        now: Instant,
        id: ConnId,
        pool: usize,
        actions: &mut Out,
    ) -> bool {
        let Some(base) = self.pools[pool].base.clone() else { return false };
        let Some(client) = self.clients.get_mut(id) else { return true };
        let wanted = self.states.intern(beyond(&client.startup, &base));
        let tried = self.states.intern(without_name(&wanted));
        let overlay = if tried.is_empty() {
            Arc::clone(&self.nothing.parameters)
        } else if let Some(overlay) = self.pools[pool].verified.get(&tried) {
            Arc::clone(overlay)
        } else {
            return false;
        };
        client.startup = Arc::clone(&wanted);
        client.state = wanted;
        self.greet(now, id, &base, &overlay, actions);
        true
    }

    /// Another lane knows what servers of a pool report: those who wait only for that come in.
    pub(super) fn hear_base(
        &mut self,
        now: Instant,
        key: &PoolKey,
        reported: Arc<Parameters>,
        actions: &mut Out,
    ) {
        let Some(database) = self.config.database(&key.database).cloned() else { return };
        let pool = self.pool_by_key(key, &database);
        if self.is_session_mode(pool) || self.pools[pool].base.is_some() {
            return;
        }
        self.pools[pool].base = Some(reported);
        let waiting: Vec<(ConnId, u64)> = self.pools[pool].queued().collect();
        for (id, ticket) in waiting {
            let Some(client) = self.clients.get(id) else { continue };
            let waits = client.wait.is_some_and(|wait| wait.ticket == ticket);
            let welcomed = waits && matches!(client.phase, Phase::Welcoming);
            if welcomed && self.greet_from_memory(now, id, pool, actions) {
                if let Some(client) = self.clients.get_mut(id) {
                    client.wait = None;
                }
                self.pools[pool].unqueue();
            }
        }
        self.ask(now, pool, actions);
    }

    /// A client that waits for its greeting has got a server.
    #[cold]
    pub(super) fn granted_welcome(
        &mut self,
        now: Instant,
        id: ConnId,
        server: ConnId,
        actions: &mut Out,
    ) {
        let Some(pool) = self.clients.get(id).and_then(|client| client.pool) else { return };
        if self.is_session_mode(pool) {
            let Some(far) = self.server_ref(server) else { return };
            let (reported, pid) = (Arc::clone(&far.reported), far.pid);
            if let Some(client) = self.clients.get_mut(id) {
                client.key.0 = pid;
            }
            let overlay = Arc::clone(&self.nothing.parameters);
            return self.greet(now, id, &reported, &overlay, actions);
        }
        if self.greet_from_memory(now, id, pool, actions) {
            return self.settle(now, server, actions);
        }
        let Some(base) = self.pools[pool].base.clone() else { return };
        let Some(client) = self.clients.get_mut(id) else { return };
        let wanted = self.states.intern(beyond(&client.startup, &base));
        client.startup = Arc::clone(&wanted);
        client.state = self.states.intern(without_name(&wanted));
        self.replay(id, server, purpose::VERIFY, actions);
    }

    /// A server has taken, or refused, startup parameters that were new.
    pub(super) fn verified(&mut self, now: Instant, server: ConnId, actions: &mut Out) {
        let Some(far) = self.server_mut(server) else { return };
        let error = far.error.take();
        let (Some(id), pool) = (far.client, far.pool) else {
            far.unfit |= error.is_some();
            return;
        };
        let (state, reported) = (Arc::clone(&far.state), Arc::clone(&far.reported));
        if let Some(error) = error {
            let text = ErrorText::fatal(&error.code, &error.message);
            far.unfit = true;
            return self.fatal(now, id, &text, actions);
        }
        let Some(base) = self.pools[pool].base.clone() else {
            // The pool has begun anew meanwhile. What this server reports is the client's.
            if let Some(client) = self.clients.get_mut(id) {
                client.state = Arc::clone(&client.startup);
            }
            let overlay = Arc::clone(&self.nothing.parameters);
            return self.greet(now, id, &reported, &overlay, actions);
        };
        let overlay: Parameters = reported
            .iter()
            .filter(|(name, value)| base.get(*name) != Some(*value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let overlay = self.states.intern(overlay);
        let verified = &mut self.pools[pool].verified;
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(state, Arc::clone(&overlay));
        let Some(client) = self.clients.get_mut(id) else { return };
        client.state = Arc::clone(&client.startup);
        self.greet(now, id, &base, &overlay, actions);
    }

    /// Tells a client what it needs to begin.
    fn greet(
        &mut self,
        now: Instant,
        id: ConnId,
        base: &Parameters,
        overlay: &Parameters,
        actions: &mut Out,
    ) {
        let secret = self.dice.bytes();
        let core = self.core;
        let Some(client) = self.clients.get_mut(id) else { return };
        client.key.1 = secret;
        if client.key.0 == 0 {
            client.key.0 = key_pid(core, id);
        }
        client.minor =
            client.login.take().map_or(0, |login| u8::try_from(login.minor).unwrap_or(0));
        let minor = u16::from(client.minor);
        let name = client.startup.get("application_name").map(|name| printable(name));
        actions.write(id, |out| {
            for (key, value) in base {
                let value = overlay.get(key).unwrap_or(value);
                match &name {
                    Some(name) if key == "application_name" => {
                        write::parameter_status(out, key, name);
                    }
                    Some(_) | None => write::parameter_status(out, key, value),
                }
            }
            for (key, value) in overlay.iter().filter(|(key, _)| !base.contains_key(*key)) {
                write::parameter_status(out, key, value);
            }
            write::backend_key_data(out, client.key.0, client.secret(minor));
            write::ready_for_query(out, b'I');
        });
        client.phase = Phase::Ready;
        client.requested = now;
        client.idle_since = now;
        self.client_idles(now, id);
        actions.push(Action::Resume(id));
    }

    /// Greets a replication client with what its own server said.
    pub(super) fn greet_raw(
        &mut self,
        now: Instant,
        id: ConnId,
        server: ConnId,
        actions: &mut Out,
    ) {
        let Some(far) = self.server_ref(server) else { return };
        let reported = Arc::clone(&far.reported);
        let overlay = Arc::clone(&self.nothing.parameters);
        self.greet(now, id, &reported, &overlay, actions);
    }

    /// A login that cannot succeed is told why.
    #[cold]
    pub(super) fn refuse_welcome(
        &mut self,
        now: Instant,
        id: ConnId,
        code: &str,
        message: &str,
        actions: &mut Out,
    ) {
        let code = if code.is_empty() { sqlstate::CONNECTION_FAILURE } else { code };
        let text = ErrorText::fatal(code, message);
        self.fatal(now, id, &ErrorText { hint: hint_for(code), ..text }, actions);
    }
}

/// The process id a client is told: it names the core and the client. Never zero, and positive
/// as a signed number: some drivers cancel nothing otherwise.
pub(super) fn key_pid(core: Core, id: ConnId) -> u32 {
    (u32::from(core.0) % 0x7f + 1) << 24 | id.slot() & 0x00ff_ffff
}

/// The startup parameters a session-mode server is opened with.
fn raw_startup(startup: &[(String, String)]) -> Parameters {
    let own = |name: &str| matches!(name, "user" | "database" | "replication");
    let kept = startup.iter().filter(|(name, _)| !own(name) && !name.starts_with("_pq_."));
    kept.cloned().collect()
}

/// The parameters that differ from what every server of the pool reports anyway.
fn beyond(wanted: &Parameters, base: &Parameters) -> Parameters {
    let usual = |name: &str, value: &str| {
        base.iter().any(|(key, reported)| {
            key.eq_ignore_ascii_case(name) && reported.eq_ignore_ascii_case(value)
        })
    };
    let kept = wanted.iter().filter(|(name, value)| !usual(name, value));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// All but the one parameter that takes every value.
fn without_name(parameters: &Parameters) -> Parameters {
    let mut rest = parameters.clone();
    rest.remove("application_name");
    rest
}

/// `application_name` as a server reports it: what is not printable ASCII becomes `?`, and it is
/// cut to a name's length (`NAMEDATALEN`).
fn printable(name: &str) -> String {
    let question = |byte: u8| if (32..127).contains(&byte) { char::from(byte) } else { '?' };
    name.bytes().map(question).take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::{beyond, printable};
    use crate::lane::trial::{ANSWERED, Trial, query};
    use crate::mail::Entrance;
    use crate::state::Parameters;

    /// Its startup parameters are being tried on a server that is of the past by then.
    #[test]
    fn who_is_let_in_while_the_nodes_change_is_greeted() {
        let mut trial = Trial::start_before(2, "monitor.user = \"app\"");
        let client = trial.enter_in(Entrance::default(), "German");
        assert!(trial.said_to(trial.server).starts_with(b"Q"), "its parameters are tried");
        trial.reloads("127.0.0.9:5432", false);
        trial.receives(trial.server, ANSWERED);
        assert!(trial.said_to(client).ends_with(b"Z\0\0\0\x05I"), "it is in");
        assert!(trial.closes(trial.server) && !trial.closes(client));
        assert_eq!(trial.receives(client, &query("SELECT 1")), 0, "it waits for a new one");
    }

    #[test]
    fn what_servers_report_anyway_is_no_session_state() {
        let base = Parameters::from([("client_encoding".into(), "UTF8".into())]);
        let wanted = Parameters::from([
            ("client_encoding".to_owned(), "utf8".to_owned()),
            ("search_path".to_owned(), "x".to_owned()),
        ]);
        assert_eq!(beyond(&wanted, &base).into_keys().collect::<Vec<_>>(), ["search_path"]);
    }

    #[test]
    fn application_names_are_cleaned_as_a_server_does() {
        assert_eq!(printable("caf\u{e9}\n"), "caf???");
    }
}
