//! The lanes a small pool is at home on.
//!
//! A pool with fewer servers than there are lanes cannot have one on each: its servers would
//! travel to whoever waits, and each lane would wake for little. So its clients are brought
//! together on few lanes, before they are let in: the startup packet says which pool is theirs.

use crate::action::Action;
use crate::hash::Keys;
use crate::id::{ConnId, Core};
use crate::lane::client::Phase;
use crate::lane::console::is_console;
use crate::lane::{Lane, Out};
use crate::mail::{Before, Entrance, Mail};

/// One lane is enough for so many servers.
const SERVERS_PER_LANE: usize = 4;

/// Some of the lanes: so many, from the first one on, and round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Homes {
    lanes: usize,
    first: usize,
    count: usize,
}

impl Homes {
    /// Those of the pool of a database and a user of this size; none: it is at home everywhere.
    /// Every lane comes to the same.
    fn of(database: &str, user: &str, size: usize, lanes: usize) -> Option<Self> {
        if size >= lanes {
            return None;
        }
        let name = [database.as_bytes(), user.as_bytes()].join(&0);
        let place = Keys::new(0).hash(&name) % u64::try_from(lanes).unwrap_or(1);
        let first = usize::try_from(place).unwrap_or(0);
        Some(Self { lanes, first, count: size.div_ceil(SERVERS_PER_LANE).max(1) })
    }

    fn has(self, lane: usize) -> bool {
        (lane + self.lanes - self.first) % self.lanes < self.count
    }

    /// One of them, each in its turn.
    fn at(self, turn: u64) -> usize {
        let turn = turn % u64::try_from(self.count).unwrap_or(1);
        (self.first + usize::try_from(turn).unwrap_or(0)) % self.lanes
    }
}

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
        let user = entry.user.as_deref().unwrap_or(user);
        let homes = Homes::of(database, user, entry.pool.size, self.config.workers);
        let Some(homes) = homes.filter(|homes| !homes.has(usize::from(self.core.0))) else {
            return false;
        };
        self.sent_home = self.sent_home.wrapping_add(1);
        let to = Core(u16::try_from(homes.at(self.sent_home)).unwrap_or(0));
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
    use super::Homes;
    use crate::action::{Action, Progress, Want};
    use crate::id::{ConnId, Core};
    use crate::lane::trial::{Trial, has_error};
    use crate::mail::{Before, Entrance, Event, Mail, Peer};
    use crate::time::{Duration, Instant};
    use pgring_wire::client::write;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    #[test]
    fn a_pool_with_a_server_for_each_lane_is_at_home_everywhere() {
        assert_eq!(Homes::of("shop", "app", 4, 4), None);
        assert_eq!(Homes::of("shop", "app", 20, 16), None);
        assert_eq!(Homes::of("shop", "app", 1, 1), None);
    }

    #[test]
    fn a_small_pool_has_a_lane_for_each_four_servers_and_each_gets_its_share() {
        for (size, lanes, count) in [(1, 2, 1), (2, 4, 1), (3, 4, 1), (5, 8, 2), (15, 16, 4)] {
            for user in 0..50 {
                let homes = Homes::of("shop", &format!("u{user}"), size, lanes).expect("small");
                let all: Vec<_> = (0..lanes).filter(|&lane| homes.has(lane)).collect();
                assert_eq!(all.len(), count, "{homes:?}");
                let given: BTreeSet<_> = (7..7 + count).map(|turn| homes.at(turn as u64)).collect();
                assert!(given.into_iter().eq(all), "{homes:?}");
            }
        }
    }

    #[test]
    fn small_pools_are_spread_over_the_lanes() {
        let mut pools = [0; 4];
        for number in 0..400 {
            let homes = Homes::of(&format!("tenant{number}"), "app", 2, 4).expect("small");
            pools[homes.at(0)] += 1;
        }
        assert!(pools.iter().all(|count| (60..140).contains(count)), "{pools:?}");
    }

    /// A lane with three others that nobody else is on, and where its pool is at home.
    fn lanes(size: usize) -> (Trial, Option<Homes>) {
        let mut trial = Trial::start(&format!("pool.size = {size}"));
        let mut config = (*trial.lane.config).clone();
        config.workers = 4;
        trial.happens(Event::Mail(Mail::Config(Arc::new(config))));
        (trial, Homes::of("app", "app", size, 4))
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
    fn away(size: usize) -> (Trial, usize) {
        let (mut trial, homes) = lanes(size);
        let home = homes.expect("a small pool").at(0);
        trial.lane.core = Core(u16::try_from((home + 1) % 4).expect("few"));
        (trial, home)
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
        assert_eq!(usize::from(to.0), home);
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
        let (mut trial, homes) = lanes(4);
        assert_eq!(homes, None);
        let client = comes(&mut trial, Entrance::default());
        assert_eq!(says(&mut trial, client, &hello(&[])).1, None);
        let (mut trial, homes) = lanes(3);
        trial.lane.core = Core(u16::try_from(homes.expect("small").at(0)).expect("few"));
        let client = comes(&mut trial, Entrance::default());
        assert_eq!(says(&mut trial, client, &hello(&[])).1, None);
    }
}
