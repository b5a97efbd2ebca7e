//! What clients for reads only are told when a standby is lost, or is none any more.

use crate::action::Address;
use crate::id::{ConnId, Core, Secret};
use crate::lane::trial::{ANSWERED, Trial, error, has_error, query};
use crate::mail::{Entrance, Event};
use crate::parcel::Parcel;
use crate::state::Parameters;
use crate::time::{Duration, Instant};
use crate::topology::Role;
use pgring_wire::backend::write::{self as backend, ErrorText};
use pgring_wire::client::write;
use std::sync::Arc;

fn prepare(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::parse(&mut out, name, b"SELECT 1\0\0\0").expect("it is short");
    write::sync(&mut out);
    out
}

/// A segment that needed no server was kept, though it was answered. What is said next may not be
/// said again, and surely not that in its place.
#[test]
fn what_was_kept_before_is_not_said_in_place_of_what_is_lost() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    assert!(trial.receives(client, &prepare(b"s")) > 0);
    trial.receives(standby, b"1\0\0\0\x04Z\0\0\0\x05I");
    assert!(trial.receives(client, &prepare(b"t")) > 0);
    assert_eq!(trial.said_to(client), b"1\0\0\0\x04Z\0\0\0\x05I");
    assert_eq!(trial.said_to(standby), b"", "it needs no server");
    assert!(trial.receives(client, &query("SELECT who_knows()")) > 0);
    trial.happens(Event::Ended { conn: standby });
    let said = trial.said_to(client);
    assert!(has_error(&said, "08007"), "{}", said.escape_ascii());
    assert!(trial.closes(client));
}

#[test]
fn a_read_that_is_lost_is_said_again_to_the_next_standby() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    let read = query("SELECT 1");
    assert_eq!(trial.receives(client, &read), read.len());
    trial.happens(Event::Ended { conn: standby });
    assert!(!trial.closes(client));
    trial.happens(Event::Closed { conn: standby });
    let next = trial.connecting().expect("it waits for another server");
    trial.happens(Event::Connected { conn: next });
    trial.server_greets(next, "on");
    assert!(trial.said_to(next).ends_with(&read));
}

/// The monitor sees it while a login is under way, whose server has said that it is a standby.
#[test]
fn a_login_that_ends_behind_a_promotion_serves_nobody() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    trial.loses(standby);
    let read = query("SELECT 1");
    assert_eq!(trial.receives(client, &read), 0);
    let late = trial.dial(trial.away());
    trial.stands(Role::Primary);
    trial.server_greets(late, "on");
    assert!(trial.closes(late) && !trial.closes(client));
    assert_eq!(trial.receives(client, &read), 0, "it waits for a standby");
}

/// Servers that are at rest go at once, and whoever rests on one with them.
#[test]
fn a_promoted_node_is_left() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    trial.stands(Role::Primary);
    assert!(trial.closes(standby) && !trial.closes(client));
    assert_eq!(trial.receives(client, &query("SELECT 1")), 0, "it waits for a standby");
}

/// Another lane had lent it before it heard of the promotion.
#[test]
fn a_server_that_comes_from_another_lane_behind_a_promotion_serves_nobody() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    let read = query("SELECT 1");
    trial.loses(standby);
    assert_eq!(trial.receives(client, &read), 0);
    trial.stands(Role::Primary);
    let lent = adopt(&mut trial);
    assert!(trial.closes(lent) && !trial.closes(client));
    assert_eq!(trial.receives(client, &read), 0, "it waits for a standby");
}

fn adopt(trial: &mut Trial) -> ConnId {
    let parcel = Parcel {
        pool: trial.lane.pools[trial.away()].key.clone(),
        base: Parameters::new(),
        from: Core(1),
        touched: false,
        node: Arc::from("pg2"),
        cluster: Arc::from("main"),
        gate: None,
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
    };
    let mut lent = None;
    trial.with_lane(|lane, now, actions| lent = Some(lane.adopt(now, parcel, actions)));
    lent.expect("a server")
}

/// Whatever has come there behind the first time is closed when the monitor looks again.
#[test]
fn what_came_behind_a_promotion_is_looked_for_each_time() {
    let (mut trial, standby) = Trial::routed("");
    let pool = trial.away();
    trial.with_lane(|lane, _, _| lane.pools[pool].promoted = true);
    trial.stands(Role::Primary);
    assert!(trial.closes(standby));
}

/// It may be what the read does that ends them.
#[test]
fn a_read_that_no_standby_survives_is_said_three_times() {
    let (mut trial, mut standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    let read = query("SELECT 1");
    assert_eq!(trial.receives(client, &read), read.len());
    for _ in 0..2 {
        trial.happens(Event::Ended { conn: standby });
        assert!(!trial.closes(client));
        trial.happens(Event::Closed { conn: standby });
        standby = trial.connecting().expect("it waits for another server");
        trial.happens(Event::Connected { conn: standby });
        trial.server_greets(standby, "on");
        assert!(trial.said_to(standby).ends_with(&read));
    }
    trial.happens(Event::Ended { conn: standby });
    assert!(has_error(&trial.said_to(client), "08007"));
    assert!(trial.closes(client));
}

/// And it may be what the read does that fails.
#[test]
fn a_read_that_fails_on_each_standby_is_said_three_times() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    let read = query("SELECT 1");
    let failed = [&error("40001")[..], b"Z\0\0\0\x05I"].concat();
    for again in 0..2 {
        assert_eq!(trial.receives(client, &read), read.len(), "{again}: it is counted anew");
        for _ in 0..2 {
            trial.receives(standby, &failed);
            assert_eq!(trial.forwards_to(client), 0);
            assert!(trial.said_to(standby).ends_with(&read));
        }
        trial.receives(standby, &failed);
        assert_eq!(trial.forwards_to(client), failed.len(), "it is its client's");
    }
}

/// A login that no attempt can mend is the end for those who need that standby. Who has gone to the
/// primary meanwhile waits there.
#[test]
fn who_has_left_the_queue_of_a_standby_does_not_hear_why_it_is_closed() {
    let (mut trial, standby) = Trial::routed("pool.size = 1");
    let client = trial.enter_readonly(standby);
    let other = trial.enter(Entrance::default());
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(other, &begin), begin.len(), "it has the primary's only server");
    trial.loses(standby);
    let read = query("SELECT 1");
    assert_eq!(trial.client_says(&read), 0, "it waits for the standby");
    assert_eq!(trial.receives(client, &read), 0, "and so does the other");
    let next = trial.dial(trial.away());
    let mut refusal = Vec::new();
    backend::error(&mut refusal, &ErrorText::fatal("28P01", "password authentication failed"));
    trial.receives(next, &refusal);
    assert!(has_error(&trial.said_to(client), "28P01"), "it has nowhere else to go");
    assert!(trial.said_to(trial.client).is_empty(), "it waits for the primary");
}

/// Who waited for the standby to be made its own was done with it then, having said nothing, and
/// the next one in its turn, for ever.
#[test]
fn who_is_granted_a_standby_in_another_state_keeps_it_until_it_has_asked() {
    let (mut trial, standby) = Trial::routed("pool.size = 1");
    let readonly = Entrance { readonly: true, ..Entrance::default() };
    let styles = ["German", "SQL"];
    let clients = styles.map(|style| {
        let client = trial.enter_in(readonly, style);
        assert!(trial.said_to(standby).starts_with(b"Q"), "its parameters are tried");
        trial.receives(standby, ANSWERED);
        assert!(trial.said_to(client).ends_with(b"Z\0\0\0\x05I"), "it is in");
        client
    });
    let read = query("SELECT 1");
    assert_eq!(trial.client_says(&read), read.len());
    let ask = query("SELECT who_knows()");
    for client in clients {
        assert_eq!(trial.receives(client, &ask), 0, "it waits");
    }
    trial.receives(standby, &ANSWERED.repeat(2));
    for (client, style) in clients.into_iter().zip(styles) {
        let told = trial.said_to(standby);
        assert!(told.windows(style.len()).any(|part| part == style.as_bytes()), "{style}");
        assert_eq!(trial.receives(client, &ask), ask.len());
        assert_eq!(trial.forwards_to(standby), ask.len());
        trial.receives(standby, &ANSWERED.repeat(2));
    }
}

/// One that does not report `in_hot_standby`, as before `PostgreSQL` 14, is asked.
#[test]
fn a_standby_that_has_to_be_asked_what_it_is_serves() {
    let (mut trial, standby) = Trial::routed("");
    let client = trial.enter_readonly(standby);
    trial.loses(standby);
    let read = query("SELECT 1");
    assert_eq!(trial.receives(client, &read), 0, "it waits");
    let old = trial.dial(trial.away());
    let mut welcome = Vec::new();
    backend::authentication_ok(&mut welcome);
    backend::backend_key_data(&mut welcome, 42, &[1, 2, 3, 4]);
    backend::ready_for_query(&mut welcome, b'I');
    assert_eq!(trial.receives(old, &welcome), welcome.len());
    assert!(trial.said_to(old).ends_with(b"pg_is_in_recovery()\0"));
    trial.receives(old, &[&b"D\0\0\0\x0b\0\x01\0\0\0\x01t"[..], ANSWERED].concat());
    assert!(!trial.closes(old));
    assert_eq!(trial.receives(client, &read), read.len());
    assert_eq!(trial.forwards_to(old), read.len());
}
