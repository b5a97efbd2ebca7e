//! What a gate means to a lane.

use crate::action::Address;
use crate::id::{ConnId, Core, PoolKey, Secret};
use crate::lane::trial::guarded::{drain, open, shut};
use crate::lane::trial::standby::BEGUN;
use crate::lane::trial::{ANSWERED, Trial, has_error, query};
use crate::mail::{Entrance, Event, Mail, Order, Peer};
use crate::parcel::Parcel;
use crate::state::Parameters;
use crate::time::{Duration, Instant};
use std::sync::Arc;

fn vacate(epoch: u64) -> Order {
    Order::Vacate("main".to_owned(), epoch)
}

/// One more client, that is in.
fn another(trial: &mut Trial) -> ConnId {
    let client = trial.enter(Entrance::default());
    assert!(trial.said_to(client).ends_with(b"Z\0\0\0\x05I"), "it is in");
    client
}

#[test]
fn a_commit_under_way_when_the_gate_is_shut_is_unknown() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.client_runs("BEGIN");
    trial.server_says(BEGUN);
    trial.client_runs("COMMIT");
    trial.hears(shut(2));
    let (client, server) = (trial.client, trial.server);
    assert!(trial.closes(server) && trial.closes(client));
    let said = trial.said_to(client);
    assert!(has_error(&said, "08007"), "{}", said.escape_ascii());
    assert!(said.windows(7).any(|part| part == b"epoch 2"), "{}", said.escape_ascii());
}

#[test]
fn a_transaction_that_nobody_has_ended_is_rolled_back_when_the_gate_is_shut() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.client_runs("BEGIN");
    trial.server_says(BEGUN);
    trial.hears(shut(2));
    assert!(trial.closes(trial.client));
    assert!(has_error(&trial.said_to(trial.client), "08006"));
}

#[test]
fn an_idle_client_notices_only_that_it_waits() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let (client, server) = (trial.client, trial.server);
    trial.hears(shut(2));
    assert!(trial.closes(server) && !trial.closes(client));
    let next = query("SELECT 1");
    assert_eq!(trial.client_says(&next), 0, "it waits");
    trial.is_closed(server);
    assert!(!trial.connects(), "nobody may be written to");
    trial.hears(shut(2));
    trial.wait(Duration::from_secs(1));
    assert!(!trial.connects() && trial.said_to(client).is_empty());
    trial.hears(open(3, "pg2"));
    let [(server, 2)] = trial.dialled()[..] else { panic!("{:?}", trial.dialled()) };
    trial.happens(Event::Connected { conn: server });
    trial.server_greets(server, "off");
    assert!(trial.is_resumed());
    trial.client_says(&next);
    assert!(trial.said_to(server).len() + trial.forwards_to(server) > 0);
    assert!(!trial.closes(client));
}

#[test]
fn another_node_is_another_server() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.hears(open(2, "pg2"));
    assert!(trial.closes(trial.server) && !trial.closes(trial.client));
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    trial.is_closed(trial.server);
    assert_eq!(trial.dialled()[0].1, 2);
}

/// Only the count says that it was.
#[test]
fn what_was_opened_before_the_gate_was_shut_unheard_is_not_used_behind_it() {
    for (gate, ends) in [(open(1, "pg1"), false), (open(3, "pg1"), true), (drain(3), true)] {
        let mut trial = Trial::guarded("");
        trial.settles();
        trial.client_runs("BEGIN");
        trial.server_says(BEGUN);
        trial.hears(gate.clone());
        assert_eq!(trial.closes(trial.server), ends, "{gate:?}");
    }
}

#[test]
fn a_lane_that_has_heard_of_no_gate_opens_nothing() {
    let mut trial = Trial::unheard("");
    let pool = trial.lane.pools[0].key.clone();
    trial.happens(Event::Mail(Mail::Permit { pool, count: 1 }));
    assert!(!trial.connects());
    trial.wait(Duration::from_secs(1));
    assert!(!trial.connects() && !trial.closes(trial.client), "it waits for its greeting");
    trial.hears(open(1, "pg2"));
    assert_eq!(trial.dialled()[0].1, 2);
    // Nor where there is no such node.
    let mut trial = Trial::unheard("");
    trial.hears(open(1, "pg9"));
    let pool = trial.lane.pools[0].key.clone();
    trial.happens(Event::Mail(Mail::Permit { pool, count: 1 }));
    assert!(!trial.connects());
}

#[test]
fn who_waits_for_too_long_is_told_of_the_failover_and_stays() {
    let mut trial = Trial::guarded("pool.query_wait_timeout = \"3s\"");
    trial.settles();
    trial.hears(shut(2));
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    let mut said = Vec::new();
    for _ in 0..4 {
        trial.wait(Duration::from_secs(1));
        said.extend(trial.said_to(trial.client));
        assert!(!trial.closes(trial.client));
    }
    assert!(has_error(&said, "57P03"), "{}", said.escape_ascii());
    assert!(said.windows(8).any(|part| part == b"failover"), "{}", said.escape_ascii());
}

#[test]
fn a_lane_is_vacated_when_the_driver_has_let_go_of_all() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let second = another(&mut trial);
    trial.client_runs("SELECT pg_sleep(1)");
    assert_eq!(trial.receives(second, &query("SELECT 1")), 0);
    let server = trial.dial(0);
    trial.with_lane(|lane, now, actions| {
        let busy = lane.clients.iter().find_map(|(_, it)| it.server).expect("a busy one");
        lane.send_cancel(now, busy, None, actions);
    });
    let [(errand, 1)] = trial.dialled()[..] else { panic!("{:?}", trial.dialled()) };
    trial.is_ordered(7, vacate(2));
    assert_eq!(trial.outcome(), None, "the gate is open");
    trial.hears(shut(2));
    assert!(trial.closes(server) && trial.closes(trial.server) && trial.closes(errand));
    assert!(!trial.connects());
    assert_eq!(trial.outcome(), None);
    for conn in [server, errand, trial.server] {
        assert_eq!(trial.outcome(), None);
        trial.is_closed(conn);
    }
    assert_eq!(trial.outcome(), Some((7, None)));
    trial.is_ordered(8, vacate(2));
    assert_eq!(trial.outcome(), Some((8, None)), "it is so already");
    trial.is_ordered(9, vacate(3));
    assert_eq!(trial.outcome(), None, "that epoch has not come");
    trial.hears(open(4, "pg1"));
    let (number, error) = trial.outcome().expect("an answer");
    assert!(number == 9 && error.is_some_and(|error| error.contains("epoch 4")));
}

#[test]
fn nothing_is_vacated_where_pgring_does_not_decide() {
    let mut trial = Trial::start("");
    trial.is_ordered(1, vacate(2));
    assert!(trial.outcome().is_some_and(|(number, error)| number == 1 && error.is_some()));
}

#[test]
fn a_drain_lets_what_has_begun_end_and_begins_nothing() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let second = another(&mut trial);
    trial.client_runs("BEGIN");
    trial.server_says(BEGUN);
    trial.hears(drain(2));
    let server = trial.server;
    assert!(!trial.closes(server) && !trial.closes(trial.client));
    trial.is_ordered(1, vacate(2));
    assert_eq!(trial.receives(second, &query("SELECT 1")), 0, "it waits");
    trial.client_runs("INSERT INTO t VALUES (1)");
    trial.server_says(b"C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05T");
    trial.client_runs("COMMIT");
    trial.server_says(b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
    assert!(trial.closes(server) && !trial.closes(trial.client) && !trial.closes(second));
    assert_eq!(trial.client_says(&query("BEGIN")), 0, "so does this");
    trial.is_closed(server);
    assert_eq!(trial.outcome(), Some((1, None)));
    trial.hears(shut(2));
    trial.hears(open(3, "pg2"));
    assert_eq!(trial.dialled()[0].1, 2);
}

#[test]
fn a_drain_closes_what_is_idle_and_what_is_being_opened() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let server = trial.server;
    trial.hears(drain(2));
    assert!(trial.closes(server) && trial.said_to(server).starts_with(b"X"), "politely");
    // Its goodbye may never be heard.
    trial.hears(shut(2));
    assert!(trial.closes(server));
    trial.is_closed(server);
    assert_eq!(trial.returned(), 1);
    trial.hears(open(3, "pg1"));
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    let opening = trial.dial(0);
    trial.hears(drain(4));
    assert!(trial.closes(opening));
    trial.is_closed(opening);
    assert!(!trial.connects() && trial.returned() == 0, "its permit is kept");
    trial.hears(open(5, "pg1"));
    assert_eq!(trial.dialled().len(), 1);
}

#[test]
fn a_drain_that_is_called_off_costs_nobody_anything() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.client_runs("BEGIN");
    trial.server_says(BEGUN);
    trial.hears(drain(2));
    trial.hears(open(3, "pg1"));
    trial.client_runs("COMMIT");
    trial.server_says(b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
    assert!(!trial.closes(trial.server) && trial.lane.idle_servers() == 1);
    trial.client_runs("SELECT 1");
    assert!(trial.forwards_to(trial.server) > 0);
}

#[test]
fn who_has_waited_for_longest_is_served_first_when_the_gate_opens() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let mut clients = vec![another(&mut trial), another(&mut trial)];
    clients.insert(1, trial.client);
    trial.hears(shut(2));
    trial.is_closed(trial.server);
    for &client in &clients {
        trial.wait(Duration::from_millis(100));
        assert_eq!(trial.receives(client, &query("SELECT 1")), 0);
    }
    trial.hears(open(3, "pg2"));
    let server = trial.open(0, "off");
    let who = |trial: &Trial| {
        let first = trial.lane.clients.iter().find(|(_, client)| client.server.is_some());
        first.map(|(id, _)| id)
    };
    trial.server = server;
    for (client, answers) in clients.into_iter().zip([2, 1, 1]) {
        assert_eq!(who(&trial), Some(client));
        trial.receives(client, &query("SELECT 1"));
        trial.server_says(&ANSWERED.repeat(answers));
    }
    assert_eq!(who(&trial), None);
}

fn parcel(pool: PoolKey, node: &str, gate: Option<u64>) -> Parcel {
    Parcel {
        pool,
        base: Parameters::new(),
        from: Core(1),
        touched: false,
        node: Arc::from(node),
        cluster: Arc::from("main"),
        gate,
        pid: 43,
        secret: Secret::new(&[1, 2, 3, 4]),
        opened: Instant::START,
        expires: Instant::START + Duration::from_hours(1),
        address: Address::Unix("nowhere".into()),
        state: Parameters::new(),
        reported: Parameters::new(),
        startup: Parameters::new(),
        statements: Vec::new(),
        statement_next: 1,
        epoch: 0,
    }
}

#[test]
fn a_server_of_another_lane_is_used_in_its_epoch_and_at_the_primary_only() {
    for (gate, node, epoch, used) in [
        (open(3, "pg1"), "pg1", Some(3), true),
        (open(3, "pg1"), "pg1", Some(1), false),
        (open(3, "pg1"), "pg1", None, false),
        (open(3, "pg1"), "pg2", Some(3), false),
        (shut(3), "pg1", Some(3), false),
        (drain(3), "pg1", Some(3), false),
    ] {
        let mut trial = Trial::guarded("");
        trial.settles();
        trial.hears(shut(2));
        trial.is_closed(trial.server);
        trial.hears(gate.clone());
        assert_eq!(trial.client_says(&query("SELECT 1")), 0);
        let key = trial.lane.pools[0].key.clone();
        let mut lent = None;
        trial.with_lane(|lane, now, actions| {
            lent = Some(lane.adopt(now, parcel(key, node, epoch), actions));
        });
        let lent = lent.expect("a server");
        assert_eq!(trial.is_resumed(), used, "{gate:?} {node} {epoch:?}");
        assert_eq!(trial.closes(lent), !used);
        trial.is_closed(lent);
        assert_eq!(trial.lane.servers(), trial.lane.pools[0].held as usize);
        assert!(trial.dialled().iter().all(|(_, node)| *node == 1));
    }
}

#[test]
fn what_logs_in_under_another_gate_is_dropped() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let second = another(&mut trial);
    trial.client_runs("SELECT pg_sleep(1)");
    assert_eq!(trial.receives(second, &query("SELECT 1")), 0);
    let opening = trial.dial(0);
    // As if nobody had ended it when the gate changed.
    trial.with_lane(|lane, _, _| {
        lane.server_mut(opening).expect("it").pass.epoch = Some(0);
    });
    trial.server_greets(opening, "off");
    assert!(trial.closes(opening) && !trial.closes(second));
    assert_eq!(trial.lane.pools[0].opening, 0);
    let opening = {
        trial.is_closed(opening);
        trial.connecting().expect("another one")
    };
    trial.hears(shut(2));
    assert!(trial.closes(opening) && trial.lane.pools[0].opening == 0);
    trial.hears(open(3, "pg1"));
    assert!(trial.lane.pools[0].retry_at.is_none() && trial.lane.pools[0].last_error.is_none());
}

/// Its login is refused by nobody: it waits as all do.
#[test]
fn a_client_that_is_being_greeted_waits_for_another_server() {
    let mut trial = Trial::guarded("");
    trial.settles();
    let client = trial.lane.accept(Instant::START, Peer::Unix(0), Entrance::default());
    let mut hello = Vec::new();
    let own = [("user", "app"), ("database", "app"), ("search_path", "x")];
    pgring_wire::client::write::startup(&mut hello, 3, 0, own);
    trial.receives(client, &hello);
    assert!(trial.said_to(trial.server).starts_with(b"Q"), "its parameters are tried");
    trial.hears(shut(2));
    assert!(trial.closes(trial.server) && !trial.closes(client));
    assert!(trial.said_to(client).is_empty());
    trial.is_closed(trial.server);
    trial.hears(open(3, "pg2"));
    let [(server, 2)] = trial.dialled()[..] else { panic!("{:?}", trial.dialled()) };
    trial.happens(Event::Connected { conn: server });
    trial.server_greets(server, "off");
    trial.receives(server, ANSWERED);
    assert!(trial.said_to(client).ends_with(b"Z\0\0\0\x05I"), "it is in");
}

#[test]
fn a_replication_client_waits_for_the_gate_and_goes_where_it_is_open() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.hears(shut(2));
    trial.is_closed(trial.server);
    let client = trial.lane.accept(Instant::START, Peer::Unix(0), Entrance::default());
    let mut hello = Vec::new();
    let own = [("user", "app"), ("database", "app"), ("replication", "database")];
    pgring_wire::client::write::startup(&mut hello, 3, 0, own);
    trial.receives(client, &hello);
    assert!(!trial.connects() && !trial.closes(client));
    trial.hears(open(3, "pg2"));
    let [(raw, 2)] = trial.dialled()[..] else { panic!("{:?}", trial.dialled()) };
    // While it is being opened, it goes unnoticed.
    trial.happens(Event::Connected { conn: raw });
    trial.hears(shut(4));
    assert!(trial.closes(raw) && !trial.closes(client));
    trial.is_closed(raw);
    trial.hears(open(5, "pg1"));
    let [(raw, 1)] = trial.dialled()[..] else { panic!("{:?}", trial.dialled()) };
    trial.happens(Event::Connected { conn: raw });
    trial.server_greets(raw, "off");
    assert!(trial.said_to(client).ends_with(b"Z\0\0\0\x05I"), "it is in");
    trial.is_ordered(1, vacate(6));
    trial.hears(shut(6));
    assert!(trial.closes(raw) && trial.closes(client) && trial.outcome().is_none());
    trial.is_closed(raw);
    assert_eq!(trial.outcome(), Some((1, None)));
}

mod nodes;
