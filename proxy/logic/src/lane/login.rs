//! Who a client is: from the startup packet to the pool it belongs to.

use crate::action::{Action, CloseMode, Level, Progress, Want};
use crate::auth_client::{AuthDice, ClientAuth, Verdict};
use crate::config::{Database, PoolMode, User};
use crate::id::{ConnId, PoolKey};
use crate::lane::client::Phase;
use crate::lane::console::{is_console, is_owner};
use crate::lane::pool::Pool;
use crate::lane::{Lane, Out, all, more};
use crate::mail::Mail;
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};
use std::sync::Arc;

/// The largest password or SASL message: before anybody is known, little is kept (hazard H12).
const AUTH_LENGTH_MAX: u32 = 4_096;

impl Lane {
    /// The startup packet has been read.
    pub(super) fn start_login(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let (salt, nonce) = (self.dice.bytes(), self.dice.bytes());
        let Some(client) = self.clients.get(id) else { return };
        let console = is_console(&client.database);
        let refused = client.refused && !(console && self.has_spare_place());
        let Some(client) = self.clients.get_mut(id) else { return };
        if refused {
            let hint = "Close connections, or raise limits.clients_max.";
            let text = ErrorText::fatal(sqlstate::TOO_MANY_CONNECTIONS, "too many clients already")
                .with_hint(hint);
            return self.fatal(now, id, &text, actions);
        }
        if self.orders.is_draining() {
            let text = ErrorText::fatal(sqlstate::ADMIN_SHUTDOWN, "pgring is shutting down");
            return self.fatal(now, id, &text, actions);
        }
        if console && is_owner(client, &self.config) {
            return self.accepted(now, id, None, actions);
        }
        let name = Arc::clone(&client.user);
        let user = self.config.users.get(&*name);
        let dice = AuthDice {
            salt: [salt[0], salt[1], salt[2], salt[3]],
            nonce: core::array::from_fn(|index| nonce[index]),
            mock_secret: self.config.auth.mock_secret,
        };
        let method = self.config.auth.method;
        let mut auth = None;
        actions.write(id, |out| {
            auth = Some(ClientAuth::start(method, user.map(|user| &**user), &name, dice, out));
        });
        let Some(auth) = auth else { return };
        if auth.is_trusted() {
            return self.accepted(now, id, None, actions);
        }
        client.phase = Phase::Auth(Box::new(auth));
    }

    /// Bytes of a client that proves who it is.
    #[cold]
    pub(super) fn receive_auth(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let head = match self.head(now, id, (bytes, AUTH_LENGTH_MAX), actions) {
            Ok(head) => head,
            Err(end) => return end,
        };
        let Some(body) = bytes.get(5..head.total()) else { return more(0) };
        let Some(client) = self.clients.get_mut(id) else { return all(bytes) };
        let Phase::Auth(auth) = &mut client.phase else { return all(bytes) };
        let mut verdict = Verdict::Continue;
        actions.write(id, |out| verdict = auth.receive(head.tag, body, out));
        match verdict {
            Verdict::Continue => {}
            Verdict::Accepted { client_key, .. } => self.accepted(now, id, client_key, actions),
            Verdict::Refused(reason) => {
                self.login_failures += 1;
                actions.note(Level::Info, format!("login refused: {}", reason.message));
                self.fatal(now, id, &ErrorText::fatal(reason.code, &reason.message), actions);
                return all(bytes);
            }
        }
        Progress { consumed: head.total(), want: Want::More }
    }

    /// Says a last word to a client.
    #[cold]
    pub(super) fn fatal(
        &mut self,
        now: Instant,
        id: ConnId,
        text: &ErrorText<'_>,
        actions: &mut Out,
    ) {
        if !self.is_torn(id) {
            Self::say(id, text, actions);
        }
        self.client_left(now, id, CloseMode::Flush, actions);
    }

    /// A client has proved who it is.
    fn accepted(
        &mut self,
        now: Instant,
        id: ConnId,
        client_key: Option<[u8; 32]>,
        actions: &mut Out,
    ) {
        actions.write(id, write::authentication_ok);
        let Some(client) = self.clients.get(id) else { return };
        let (user, name) = (Arc::clone(&client.user), Arc::clone(&client.database));
        if is_console(&name) {
            return self.enter_console(now, id, actions);
        }
        let Some(database) = self.config.database(&name).cloned() else {
            let message = format!("database \"{name}\" does not exist");
            let hint = "Add it to [[databases]], or a database named \"*\".";
            let text = ErrorText::fatal(sqlstate::INVALID_CATALOG_NAME, &message).with_hint(hint);
            return self.fatal(now, id, &text, actions);
        };
        let pool = self.pool_of(&name, &user, &database);
        self.want_catalog(pool, actions);
        self.pools[pool].clients += 1;
        if client_key.is_some() && *self.pools[pool].key.user == *user {
            self.pools[pool].client_key = client_key;
        }
        let settings = Arc::clone(&self.pools[pool].settings);
        let Some(client) = self.clients.get_mut(id) else { return };
        client.pool = Some(pool);
        client.home = Some(pool);
        if settings.database_clients_max == 0 && settings.user_clients_max == 0 {
            return self.welcome(now, id, actions);
        }
        client.phase = Phase::Entering;
        actions.push(Action::Tell(Box::new(Mail::Enter {
            core: self.core,
            conn: id,
            database: name,
            user,
        })));
    }

    /// The control thread has counted.
    pub(super) fn entered(
        &mut self,
        now: Instant,
        (id, database, user): (ConnId, Arc<str>, Arc<str>),
        refused: Option<String>,
        actions: &mut Out,
    ) {
        let Some(client) = self.clients.get_mut(id).filter(|client| !client.is_gone()) else {
            // It has left meanwhile, or fell with an earlier lane: the place it got is free.
            if refused.is_none() {
                actions.push(Action::Tell(Box::new(Mail::Left { database, user })));
            }
            return;
        };
        if let Some(limit) = refused {
            let text = ErrorText::fatal(sqlstate::TOO_MANY_CONNECTIONS, &limit)
                .with_hint("Close connections, or raise the limit in the configuration.");
            return self.fatal(now, id, &text, actions);
        }
        client.entered = true;
        self.welcome(now, id, actions);
        actions.push(Action::Resume(id));
    }

    /// The pool of a database (as clients name it) and a client's user; made if it is new.
    fn pool_of(&mut self, name: &str, user: &str, database: &Arc<Database>) -> usize {
        let server_user = database.user.as_deref().unwrap_or(user);
        let key = PoolKey::new(name, server_user);
        self.pool_by_key(&key, database)
    }

    /// The pool with this key; made if it is new.
    pub(super) fn pool_by_key(&mut self, key: &PoolKey, database: &Arc<Database>) -> usize {
        if let Some(&known) = self.pools_by_key.get(key) {
            return known;
        }
        let login = self.login_of(&key.user, database);
        let mut pool = Pool::new(key.clone(), Arc::clone(database), login);
        pool.paused = self.orders.is_paused(&key.database);
        pool.gate = self.stance(key, &database.cluster);
        let same = self.pools.iter().find(|other| other.key.database == key.database);
        pool.catalog = same.and_then(|other| other.catalog.clone());
        self.pools.push(pool);
        self.pools_by_key.insert(key.clone(), self.pools.len() - 1);
        self.pools.len() - 1
    }

    /// What the servers of a database are logged in with.
    pub(super) fn login_of(&self, user: &str, database: &Database) -> Option<Arc<User>> {
        if let Some(password) = &database.password {
            return Some(Arc::new(User {
                name: user.to_owned(),
                password: password.clone(),
                verifier: None,
            }));
        }
        self.config.users.get(user).cloned()
    }

    /// Whether the client's server is its own until it leaves.
    pub(super) fn is_session_mode(&self, pool: usize) -> bool {
        self.pools[pool].mode() == PoolMode::Session
    }
}

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::lane::trial::Trial;
    use crate::mail::{Event, Mail};

    /// Whether the lane says that a place is free again, when this client is answered.
    fn leaves(trial: &mut Trial, refused: Option<&str>) -> bool {
        let (conn, database, user) = (trial.client, "app".into(), "app".into());
        let refused = refused.map(str::to_owned);
        let mut left = false;
        trial.with_lane(|lane, now, actions| {
            let mail = Mail::Entered { conn, database, user, refused };
            lane.handle(now, Event::Mail(mail), actions);
            let tells = |action: &Action<Mail>| {
                if let Action::Tell(mail) = action {
                    matches!(**mail, Mail::Left { .. })
                } else {
                    false
                }
            };
            left = actions.list.iter().any(tells);
        });
        left
    }

    #[test]
    fn who_left_before_it_was_let_in_gives_its_place_back() {
        let mut trial = Trial::start("");
        trial.client_ends();
        assert!(!leaves(&mut trial, Some("full")), "somebody else's place would be given up");
        assert!(leaves(&mut trial, None));
        // Nor does it matter whether there is still something to be seen of it.
        trial.happens(Event::Closed { conn: trial.client });
        assert!(!leaves(&mut trial, Some("full")));
        assert!(leaves(&mut trial, None));
    }
}
