//! Clients of small pools go to the lanes where those are at home (`homes.rs`), before they are let
//! in: the startup packet says which pool is theirs.

use crate::action::Action;
use crate::homes::Homes;
use crate::id::{ConnId, PoolKey};
use crate::lane::client::Phase;
use crate::lane::console::is_console;
use crate::lane::{Lane, Out};
use crate::mail::{Before, Entrance, Mail};

impl Lane {
    /// A client has said who it is. Sends it to a lane where its pool is at home, if that is
    /// another one; tells whether it goes.
    pub(super) fn send_home(
        &mut self,
        id: ConnId,
        (database, user): (&str, &str),
        actions: &mut Out,
    ) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let moved = client.login.as_ref().is_some_and(|login| login.moved);
        if moved || client.refused || is_console(database) || self.orders.is_draining() {
            return false;
        }
        let Some(entry) = self.config.database(database) else { return false };
        let pool = PoolKey::new(database, entry.user.as_deref().unwrap_or(user));
        let homes = Homes::of(&self.config, self.config.workers, &pool);
        if homes.has(self.core) {
            return false;
        }
        let turn = self.chance.below(u32::try_from(homes.count()).unwrap_or(1));
        let to = homes.nth(usize::try_from(turn).unwrap_or(0));
        let Some(client) = self.clients.get_mut(id) else { return false };
        client.phase = Phase::Gone;
        let refused_encryption = client.login.take().map_or(0, |login| login.refused_encryption);
        let before = Some(Before { connected: client.connected, refused_encryption });
        let entrance = Entrance { refused: false, readonly: client.readonly, before };
        let mail = Box::new(Mail::Client { peer: client.peer, entrance });
        actions.push(Action::Surrender { conn: id, to, mail });
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::action::{Action, Progress, Want};
    use crate::homes::Homes;
    use crate::id::{ConnId, Core, PoolKey};
    use crate::lane::trial::{Trial, has_error};
    use crate::mail::{Before, Entrance, Event, Mail, Peer};
    use crate::time::{Duration, Instant};
    use pgring_wire::client::write;
    use std::sync::Arc;

    /// A lane with three others that nobody else is on, and where its pool is at home.
    fn lanes(size: usize) -> (Trial, Homes) {
        let mut trial = Trial::start(&format!("pool.size = {size}"));
        let mut config = (*trial.lane.config).clone();
        config.workers = 4;
        let homes = Homes::of(&config, 4, &PoolKey::new("app", "app"));
        trial.happens(Event::Mail(Mail::Config(Arc::new(config))));
        (trial, homes)
    }

    fn hello(more: &[(&str, &str)]) -> Vec<u8> {
        let mut said = Vec::new();
        let named = [("user", "app"), ("database", "app")];
        write::startup(&mut said, 3, 0, named.into_iter().chain(more.iter().copied()));
        said
    }

    /// What becomes of a client that says this, and where it is sent.
    fn says(
        trial: &mut Trial,
        client: ConnId,
        said: &[u8],
    ) -> (Progress, Option<(Core, Entrance)>) {
        let mut outcome = None;
        trial.with_lane(|lane, now, actions| {
            let progress = lane.receive(now, client, said, actions);
            let sent = actions.list.iter().find_map(|action| {
                let Action::Surrender { to, mail, .. } = action else { return None };
                let Mail::Client { entrance, .. } = &**mail else { return None };
                Some((*to, *entrance))
            });
            outcome = Some((progress, sent));
        });
        outcome.expect("it was told")
    }

    fn comes(trial: &mut Trial, entrance: Entrance) -> ConnId {
        let mut client = None;
        trial.with_lane(|lane, now, _| client = Some(lane.accept(now, Peer::Unix(0), entrance)));
        client.expect("it came")
    }

    /// The lane of the trial is made not to be the pool's home.
    fn away(size: usize) -> (Trial, Core) {
        let (mut trial, homes) = lanes(size);
        let mut others = (0..4).map(Core).filter(|&lane| !homes.has(lane));
        trial.lane.core = others.next().expect("a small pool");
        (trial, homes.nth(0))
    }

    #[test]
    fn a_client_of_a_small_pool_is_sent_home_with_all_it_said_and_stays_there() {
        let (mut trial, home) = away(2);
        trial.wait(Duration::from_secs(1));
        let start = Entrance { readonly: true, ..Entrance::default() };
        let client = comes(&mut trial, start);
        let mut ssl = Vec::new();
        write::ssl_request(&mut ssl);
        assert_eq!(says(&mut trial, client, &ssl).1, None);
        trial.wait(Duration::from_secs(1));
        let (progress, sent) = says(&mut trial, client, &hello(&[]));
        assert_eq!(progress, Progress { consumed: 0, want: Want::Resume });
        let (to, entrance) = sent.expect("it goes");
        assert_eq!(to, home);
        assert!(entrance.readonly && !entrance.refused);
        let before = entrance.before.expect("it was here");
        assert!(before.connected > Instant::START && before.refused_encryption != 0);
        let clients = trial.lane.clients();
        trial.happens(Event::Closed { conn: client });
        assert_eq!(trial.lane.clients(), clients - 1);

        // Wherever it arrives, even if that lane has heard of another size of the pool.
        let there = comes(&mut trial, Entrance { readonly: false, ..entrance });
        let since = trial.lane.clients.get(there).map(|client| client.connected);
        assert_eq!(since, Some(before.connected), "its time to log in goes on");
        assert_eq!(says(&mut trial, there, &hello(&[])).1, None);
    }

    #[test]
    fn encryption_that_was_refused_elsewhere_is_not_asked_for_again() {
        let (mut trial, _) = away(1);
        let before = Before { connected: Instant::START, refused_encryption: u8::MAX };
        let client = comes(&mut trial, Entrance { before: Some(before), ..Entrance::default() });
        let mut ssl = Vec::new();
        write::ssl_request(&mut ssl);
        trial.receives(client, &ssl);
        assert!(has_error(&trial.said_to(client), "08P01"));
    }

    #[test]
    fn who_is_at_home_everywhere_is_not_sent_away() {
        let (mut trial, _) = away(2);
        for more in [("replication", "true"), ("database", "pgring"), ("database", "pgbouncer")] {
            let client = comes(&mut trial, Entrance::default());
            assert_eq!(says(&mut trial, client, &hello(&[more])).1, None, "{more:?}");
        }
        let refused = Entrance { refused: true, ..Entrance::default() };
        let client = comes(&mut trial, refused);
        assert_eq!(says(&mut trial, client, &hello(&[])).1, None);
        let (mut trial, _) = lanes(4);
        let client = comes(&mut trial, Entrance::default());
        assert_eq!(says(&mut trial, client, &hello(&[])).1, None);
        let (mut trial, homes) = lanes(3);
        trial.lane.core = homes.nth(0);
        let client = comes(&mut trial, Entrance::default());
        assert_eq!(says(&mut trial, client, &hello(&[])).1, None);
    }
}
