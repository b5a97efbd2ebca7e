//! How clients and servers leave, and who hears what of it.

use super::GRANTS_MAX;
use crate::action::{Action, CloseMode};
use crate::id::ConnId;
use crate::lane::trial::{ANSWERED, Trial, error, has_error, query};
use crate::mail::{Entrance, Event, Mail};
use crate::time::Duration;
use pgring_wire::backend::write::{self, ErrorText};
use pgring_wire::client::write as ask;

/// A client whose turn has come, and the server it may have.
fn granted() -> (Trial, ConnId) {
    let mut trial = Trial::start("pool.size = 1\n");
    let server = trial.server;
    let other = trial.enter(Entrance::default());
    trial.receives(other, &query("SELECT 1"));
    assert_eq!(trial.client_says(&query(STATEMENT)), 0, "it waits");
    // The first answers a query of pgring's own.
    trial.receives(server, &ANSWERED.repeat(2));
    assert!(trial.is_resumed(), "its turn has come");
    (trial, server)
}

/// A server that has nothing to be told of its client's session.
fn settled() -> Trial {
    let mut trial = Trial::start("");
    trial.client_says(&query("SELECT 0"));
    trial.server_says(&ANSWERED.repeat(2));
    trial
}

const STATEMENT: &str = "INSERT INTO t VALUES (1)";

/// A server ends, with a last word or without; whether its client is told.
fn ends(trial: &mut Trial, server: ConnId, says: bool) -> bool {
    if says {
        let mut last = Vec::new();
        write::error(&mut last, &ErrorText::fatal("57P01", "unexpected postmaster exit"));
        trial.receives(server, &last);
    }
    let client = trial.client;
    let told = trial.said_to(client).len() + trial.forwards_to(client) > 0;
    trial.happens(Event::Ended { conn: server });
    told || !trial.said_to(client).is_empty() || trial.closes(client)
}

/// PostgreSQL commits nothing of what no Sync has ended, and neither may a Sync of ours.
#[test]
fn who_leaves_without_a_sync_has_committed_nothing() {
    for mode in ["transaction", "session"] {
        for polite in [false, true] {
            let mut trial = Trial::start(&format!("pool.mode = \"{mode}\""));
            let mut said = Vec::new();
            ask::parse(&mut said, b"", b"INSERT INTO t VALUES (1)\0\0\0").expect("short");
            ask::bind(&mut said, b"", b"");
            ask::execute(&mut said, b"");
            if polite {
                ask::terminate(&mut said);
            }
            trial.client_says(&said);
            if !polite {
                trial.client_ends();
            }
            let told = trial.said_to(trial.server);
            let mut sync = Vec::new();
            ask::sync(&mut sync);
            let ends = [query("ROLLBACK"), sync].concat();
            assert!(told.ends_with(&ends), "{mode}, {polite}: {}", told.escape_ascii());
        }
    }
}

/// The server ended before its client could begin: seen by the rig as a read that failed.
#[test]
fn who_has_said_nothing_yet_waits_for_another_server() {
    for says in [false, true] {
        let (mut trial, server) = granted();
        assert!(!ends(&mut trial, server, says));
        assert_eq!(trial.client_says(&query(STATEMENT)), 0, "it waits again");
        let server = trial.open(0, "off");
        assert!(trial.is_resumed());
        let said = query(STATEMENT);
        assert_eq!(trial.client_says(&said), said.len());
        assert_eq!(trial.forwards_to(server), said.len());
        assert!(ends(&mut trial, server, says), "now it has");
    }
}

/// As PostgreSQL does: it may have shut its socket for sending only.
#[test]
fn who_says_goodbye_and_no_more_hears_what_it_has_asked_for() {
    for fails in [false, true] {
        let mut trial = settled();
        let mut said = query("SELECT 1");
        ask::terminate(&mut said);
        trial.client_says(&said);
        if fails {
            trial.happens(Event::Failed { conn: trial.client, reason: "reset".to_owned() });
            assert!(trial.closes(trial.client), "it hears nothing any more");
            continue;
        }
        trial.client_ends();
        assert!(!trial.closes(trial.client));
        trial.server_says(ANSWERED);
        assert_eq!(trial.forwards_to(trial.client), ANSWERED.len());
        let closes = |action: &Action<Mail>| {
            let flushed = CloseMode::Flush;
            matches!(action, Action::Close { conn, mode }
                if (*conn, *mode) == (trial.client, flushed))
        };
        assert!(trial.asked().list.iter().any(closes));
        assert_eq!(trial.lane.idle_servers(), 1);
    }
}

/// Its server may keep what it has to say to the second segment until a Sync comes.
#[test]
fn who_says_goodbye_within_a_segment_hears_the_answers_to_those_before_it() {
    for ends in [false, true] {
        let mut trial = settled();
        let mut said = Vec::new();
        for last in [false, true] {
            ask::parse(&mut said, b"", b"SELECT wide()\0\0\0").expect("short");
            ask::bind(&mut said, b"", b"");
            ask::execute(&mut said, b"");
            if !last {
                ask::sync(&mut said);
            }
        }
        ask::terminate(&mut said);
        assert_eq!(trial.client_says(&said), said.len());
        if ends {
            trial.client_ends();
        }
        assert!(!trial.closes(trial.client), "ends: {ends}");
        let first = b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
        let cut = b"1\0\0\0\x042\0\0\0\x04D\0\0\x20\0";
        trial.server_says(&[&first[..], cut].concat());
        assert_eq!(trial.forwards_to(trial.client), first.len());
        assert!(trial.closes(trial.client), "ends: {ends}");
        let mut sync = Vec::new();
        ask::sync(&mut sync);
        assert_eq!(trial.said_to(trial.server), [query("ROLLBACK"), sync].concat());
    }
}

/// It waits for a server, and its socket is shut.
#[test]
fn who_waits_is_heard_out_behind_a_goodbye_and_else_has_gone() {
    let mut trial = Trial::start("pool.size = 1");
    let other = trial.enter(Entrance::default());
    trial.receives(other, &query("SELECT 1"));
    let asked = query(STATEMENT);
    let said = |goodbye: &[u8]| [&asked[..], &asked, goodbye].concat();
    for (held, heard) in [
        (said(b"X\0\0\0\x04"), true),
        (said(b""), false),
        (said(b"Q\0\0\0\x06X"), false),
        (said(b"Q\0\0\0\x03X\0\0\0\x04"), false),
    ] {
        assert_eq!(trial.client_says(&held), 0, "it waits");
        let told = trial.lane.hears_out(trial.client, &held);
        assert_eq!(told, heard, "{}", held.escape_ascii());
    }
    assert!(!trial.lane.hears_out(trial.server, &said(b"X\0\0\0\x04")));
}

/// It has said all at once, and the greeting is yet to come.
#[test]
fn who_is_not_greeted_yet_is_heard_out() {
    let mut trial = Trial::start("pool.mode = \"session\"");
    let hasty = trial.enter(Entrance::default());
    let mut said = query(STATEMENT);
    ask::terminate(&mut said);
    assert_eq!(trial.receives(hasty, &said), 0, "it waits");
    assert!(trial.lane.hears_out(hasty, &said));
}

/// The server skips what follows, up to a Sync that does not come.
#[test]
fn who_says_goodbye_behind_what_a_server_skips_is_let_go() {
    for ends in [false, true] {
        let mut trial = settled();
        let mut said = Vec::new();
        ask::parse(&mut said, b"", b"SELEKT\0\0\0").expect("short");
        said.extend(query("SELECT 1"));
        ask::terminate(&mut said);
        assert_eq!(trial.client_says(&said), said.len());
        if ends {
            trial.client_ends();
        }
        assert!(!trial.closes(trial.client), "ends: {ends}");
        let failed = error("42601");
        trial.server_says(&failed);
        assert_eq!(trial.forwards_to(trial.client), failed.len());
        assert!(trial.closes(trial.client), "ends: {ends}");
        let mut sync = Vec::new();
        ask::sync(&mut sync);
        assert_eq!(trial.said_to(trial.server), sync);
        trial.server_says(b"Z\0\0\0\x05I");
        assert_eq!(trial.lane.idle_servers(), 1);
    }
}

/// Nobody will send the data.
#[test]
fn a_copy_that_begins_behind_a_goodbye_ends_with_its_server() {
    for ends in [false, true] {
        let mut trial = settled();
        let mut said = query("COPY t FROM STDIN");
        ask::terminate(&mut said);
        trial.client_says(&said);
        if ends {
            trial.client_ends();
        }
        trial.server_says(b"G\0\0\0\x07\0\0\0");
        assert!(trial.closes(trial.client) && trial.closes(trial.server), "ends: {ends}");
    }
}

#[test]
fn nobody_waits_anew_without_end() {
    let (mut trial, mut server) = granted();
    for _ in 0..GRANTS_MAX {
        assert!(!ends(&mut trial, server, false));
        assert_eq!(trial.client_says(&query(STATEMENT)), 0);
        server = trial.open(0, "off");
    }
    assert!(ends(&mut trial, server, false));
}

/// A server that dies while it is given its client's parameters says so to pgring alone, and
/// the client was closed without a word: seen by the rig, whose primary was killed.
#[test]
fn a_last_word_that_a_client_has_not_heard_is_not_its_last() {
    let mut trial = Trial::start("");
    let (client, server) = (trial.client, trial.server);
    let other = trial.enter(Entrance::default());
    trial.with_lane(|lane, _, _| lane.server_mut(server).expect("it").touched = Some(other));
    trial.client_says(&query("INSERT INTO t VALUES (1)"));
    let mut last = Vec::new();
    write::error(&mut last, &ErrorText::fatal("57P01", "unexpected postmaster exit"));
    trial.receives(server, &last);
    trial.happens(Event::Ended { conn: server });
    assert!(has_error(&trial.said_to(client), "08007"), "its statement may have been sent");
    assert!(trial.closes(client));
}

/// It has said goodbye, as who gives up at a limit of its own does, and closed its socket.
#[test]
fn a_server_is_not_held_for_ever_by_who_has_gone() {
    for rows in [true, false] {
        let mut trial = settled();
        let mut said = query("SELECT generate_series(1, 1000000000000)");
        ask::terminate(&mut said);
        trial.client_says(&said);
        trial.client_ends();
        if rows {
            trial.server_says(b"T\0\0\0\x06\0\0");
        }
        let mut listened = 0;
        while !trial.closes(trial.client) {
            assert!(listened < 10, "for {listened} s");
            if rows {
                trial.server_says(b"D\0\0\0\x0b\0\x01\0\0\0\x011");
            }
            trial.wait(Duration::from_secs(1));
            listened += 1;
        }
        assert!(listened >= 5, "for {listened} s");
        trial.wait(Duration::from_secs(6));
        assert!(trial.closes(trial.server));
    }
}

/// A client prepares one statement more than its server may keep.
fn prepares_two() -> Trial {
    let mut trial = Trial::start("pool.prepared_statements = 1");
    trial.client_says(&query("SELECT 0"));
    trial.server_says(&ANSWERED.repeat(2));
    let mut both = Vec::new();
    ask::parse(&mut both, b"one", b"SELECT 1\0\0\0").expect("it is short");
    ask::parse(&mut both, b"two", b"SELECT 2\0\0\0").expect("it is short");
    ask::sync(&mut both);
    trial.client_says(&both);
    trial
}

/// What is answered to that.
const PREPARED: &[u8] = b"1\0\0\0\x041\0\0\0\x04Z\0\0\0\x05I";

/// What is closed there is none of its client's business, who has been answered. Seed 29067.
#[test]
fn who_has_its_answer_outlives_the_server_that_closes_statements() {
    let mut trial = prepares_two();
    trial.server_says(PREPARED);
    let closed = trial.said_to(trial.server);
    assert!(closed.starts_with(b"C") && closed.ends_with(b"S\0\0\0\x04"), "one too many is closed");
    trial.happens(Event::Ended { conn: trial.server });
    assert!(!trial.closes(trial.client));
    assert!(trial.said_to(trial.client).is_empty());
    trial.happens(Event::Closed { conn: trial.server });
    assert_eq!(trial.client_says(&query("SELECT 1")), 0, "it waits for the next server");
}

/// The same, and it says its last word before pgring has read what it has answered.
#[test]
fn who_has_its_answer_outlives_a_last_word_right_behind_it() {
    let mut trial = prepares_two();
    trial.server_says(&[PREPARED, &error("57P01")].concat());
    assert_eq!(trial.forwards_to(trial.client), PREPARED.len(), "no more than that");
    assert!(!trial.closes(trial.client) && trial.said_to(trial.client).is_empty());
    trial.happens(Event::Ended { conn: trial.server });
    trial.happens(Event::Closed { conn: trial.server });
    assert_eq!(trial.client_says(&query("SELECT 1")), 0, "it waits for the next server");
}

/// Nothing else would come for what it has said since, and what had to wait for the answer. Seed
/// 32009.
#[test]
fn who_leaves_a_dying_server_is_looked_at_again() {
    let mut trial = Trial::start("");
    trial.client_says(&query("SELECT 0"));
    trial.server_says(&ANSWERED.repeat(2));
    let mut segment = Vec::new();
    ask::parse(&mut segment, b"s", b"SELECT 1\0\0\0").expect("it is short");
    ask::sync(&mut segment);
    assert_eq!(trial.client_says(&segment.repeat(2)), segment.len(), "one name, two meanings");
    trial.server_says(&[&b"1\0\0\0\x04Z\0\0\0\x05I"[..], &error("57P01")].concat());
    assert!(!trial.closes(trial.client) && trial.is_resumed());
    trial.happens(Event::Ended { conn: trial.server });
    trial.happens(Event::Closed { conn: trial.server });
    assert_eq!(trial.client_says(&segment), 0, "it waits for the next server");
}
