//! What becomes of a client whose transaction a server has not begun yet, or does not begin.

use crate::id::ConnId;
use crate::lane::trial::standby::BEGUN;
use crate::lane::trial::{ANSWERED, Trial, error, has_error, query};
use crate::ledger::{Expect, Origin};
use crate::mail::{Entrance, Event, Mail, Order};
use crate::time::Duration;
use crate::topology::Role;
use pgring_wire::backend::write::{self as say, ErrorText};
use pgring_wire::client::write as ask;

const READY: &[u8] = b"Z\0\0\0\x05I";

/// What a server says to a statement without rows, within a transaction.
const READ: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";

fn write() -> Vec<u8> {
    query("INSERT INTO t VALUES (1)")
}

/// A write waits for the BEGIN in front of it: the primary was free, or is somebody else's first.
fn beginning(settings: &str, queues: bool) -> Trial {
    let (mut trial, _) = Trial::routed(settings);
    let other = trial.enter(Entrance::default());
    if queues {
        assert!(trial.receives(other, &write()) > 0);
    }
    trial.begin();
    assert_eq!(trial.client_says(&write()), 0);
    if queues {
        trial.server_says(ANSWERED);
        assert!(trial.is_resumed());
    }
    assert_eq!(trial.said_to(trial.server), query("BEGIN"), "queues: {queues}");
    if queues {
        assert_eq!(trial.client_says(&write()), 0, "it would come to the server too early");
    }
    trial
}

#[test]
fn a_statement_that_waits_for_its_begin_is_under_the_limit_of_queries() {
    for queues in [false, true] {
        let mut trial = beginning("pool.query_timeout = \"1s\"", queues);
        trial.wait(Duration::from_millis(999));
        assert!(!trial.closes(trial.client), "queues: {queues}");
        trial.wait(Duration::from_millis(1));
        assert!(trial.closes(trial.client), "queues: {queues}");
        assert!(has_error(&trial.said_to(trial.client), "57014"), "queues: {queues}");
    }
}

/// Who cancels means the statement, of whose BEGIN nobody knows.
#[test]
fn a_cancel_request_waits_for_the_statement_behind_a_begin() {
    for queues in [false, true] {
        let mut trial = beginning("", queues);
        assert!(!trial.send_cancel() && !trial.connects(), "the BEGIN is not meant");
        trial.server_says(BEGUN);
        assert!(!trial.is_cancel_answered() && !trial.connects(), "there is nothing to cancel yet");
        assert!(trial.is_resumed());
        assert_eq!(trial.client_says(&write()), write().len());
        assert_eq!(trial.forwards_to(trial.server), write().len());
        assert!(trial.connects(), "the statement is cancelled");
    }
}

#[test]
fn a_cancel_request_ends_with_the_client_whose_begin_fails() {
    let mut trial = beginning("", false);
    assert!(!trial.send_cancel());
    trial.server_says(&[error("53200"), READY.to_vec()].concat());
    assert!(trial.is_cancel_answered());
}

/// What was sent behind it has been run outside of the transaction that its client is in.
#[test]
fn nobody_hears_of_a_read_behind_a_begin_that_failed() {
    let read = query("SELECT 1");
    // The second of them would have a read moved, if it were the read's.
    for (at_once, code) in [(true, "53200"), (false, "53200"), (true, "40001"), (false, "40001")] {
        let failed = [&error(code)[..], READY].concat();
        let (mut trial, standby) = Trial::routed("");
        trial.begin();
        assert_eq!(trial.client_says(&read), read.len());
        assert_eq!(trial.said_to(standby), query("BEGIN"));
        assert_eq!(trial.forwards_to(standby), read.len(), "it is not waited for");
        let mut errand = None;
        let said = [&failed[..], ANSWERED];
        let said = if at_once { vec![said.concat()] } else { said.map(<[u8]>::to_vec).to_vec() };
        for bytes in said {
            trial.receives(standby, &bytes);
            if errand.is_none() {
                let told = trial.said_to(trial.client);
                assert!(has_error(&told, code), "{}", told.escape_ascii());
                assert!(trial.closes(trial.client), "it may not believe in its transaction");
                errand = trial.connecting();
            }
            assert_eq!(trial.forwards_to(trial.client), 0, "at once: {at_once}");
            assert_eq!(trial.said_to(trial.server), b"", "at once: {at_once}");
        }
        // What it runs is cancelled, and it is nobody's behind that.
        trial.happens(Event::Ended { conn: errand.expect("a cancel request") });
        assert!(trial.closes(standby) && trial.lane.idle_servers() == 1, "at once: {at_once}");
    }
}

#[test]
fn nothing_is_written_behind_a_begin_that_failed() {
    for queues in [false, true] {
        let mut trial = beginning("", queues);
        trial.server_says(&[error("53200"), READY.to_vec()].concat());
        assert!(has_error(&trial.said_to(trial.client), "53200"));
        assert!(trial.closes(trial.client) && trial.closes(trial.server));
        assert_eq!(trial.forwards_to(trial.server), 0);
    }
}

/// The primary is lost before it has answered: its successor begins, or what follows would be
/// committed statement by statement.
#[test]
fn a_transaction_whose_begin_is_lost_with_the_primary_begins_on_the_next_one() {
    for (queues, last_words) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut trial = beginning("", queues);
        if last_words {
            trial.server_says(&error("57P01"));
        }
        trial.happens(Event::Ended { conn: trial.server });
        assert!(!trial.closes(trial.client) && trial.said_to(trial.client).is_empty());
        assert_eq!(trial.client_says(&write()), 0);
        trial.server = trial.open(0, "off");
        let told = trial.said_to(trial.server);
        assert!(told.ends_with(&query("BEGIN")), "queues: {queues}: {}", told.escape_ascii());
        assert_eq!(trial.client_says(&write()), 0, "queues: {queues}");
        // A query of pgring's own is in front of it.
        trial.server_says(&[ANSWERED, BEGUN].concat());
        assert_eq!(trial.client_says(&write()), write().len());
    }
}

/// The standby ends in place of an answer to BEGIN: the primary begins, and is asked.
#[test]
fn a_standby_that_ends_at_a_begin_is_left_for_the_primary() {
    let (mut trial, standby) = Trial::routed("");
    trial.begin();
    let read = query("SELECT 1");
    assert_eq!(trial.client_says(&read), read.len());
    trial.receives(standby, &error("57P01"));
    trial.happens(Event::Ended { conn: standby });
    assert!(!trial.closes(trial.client));
    assert_eq!(trial.said_to(trial.client), b"");
    assert_eq!(trial.said_to(trial.server), [query("BEGIN"), read].concat());
    trial.server_says(BEGUN);
    assert_eq!(trial.forwards_to(trial.client), 0, "it has heard of a BEGIN");
    let answer = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";
    trial.server_says(answer);
    assert_eq!(trial.forwards_to(trial.client), answer.len());
}

/// It has begun in recovery, so it may go on where it is; but what it was is closed behind it.
#[test]
fn a_transaction_that_leaves_a_promoted_node_is_the_last_there() {
    let (mut trial, standby) = Trial::routed("");
    trial.begin();
    assert!(trial.client_says(&query("SELECT 1")) > 0);
    trial.receives(standby, &[BEGUN, b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T"].concat());
    trial.stands(Role::Primary);
    assert!(!trial.closes(trial.client));
    assert_eq!(trial.client_says(&write()), 0);
    assert!(trial.closes(standby));
    assert_eq!(trial.said_to(trial.server), query("BEGIN"));
}

/// A transaction that is on a standby, where its only read is answered.
fn reading() -> (Trial, ConnId) {
    let (mut trial, standby) = Trial::routed("");
    trial.begin();
    assert!(trial.client_says(&query("SELECT 1")) > 0);
    trial.receives(standby, &[BEGUN, READ].concat());
    (trial, standby)
}

/// A standby may have limits of its own, as `idle_in_transaction_session_timeout`.
#[test]
fn who_was_told_that_its_session_has_ended_does_not_go_on() {
    for speaks in [false, true] {
        let (mut trial, standby) = reading();
        let mut last = Vec::new();
        say::error(&mut last, &ErrorText::fatal("25P03", "as the test wants it"));
        trial.receives(standby, &last);
        assert_eq!(trial.forwards_to(trial.client), last.len());
        if speaks {
            trial.client_says(&write());
            assert_eq!(trial.said_to(trial.server), b"", "it is nobody's transaction");
        }
        trial.happens(Event::Ended { conn: standby });
        assert!(trial.closes(trial.client), "speaks: {speaks}");
        assert_eq!(trial.said_to(trial.server), b"");
    }
}

/// Between the last word of the standby and its end. It has only read: its COMMIT needs no server.
#[test]
fn what_is_said_behind_a_last_word_that_nobody_has_heard_does_not_go_there() {
    for (code, next) in [("57P01", query("COMMIT")), ("40001", query("SELECT 1"))] {
        let (mut trial, standby) = reading();
        let mut last = Vec::new();
        say::error(&mut last, &ErrorText::fatal(code, "as the test wants it"));
        trial.receives(standby, &last);
        assert_eq!(trial.forwards_to(trial.client), 0);
        assert!(trial.closes(standby), "nobody gets it any more");
        trial.client_says(&next);
        assert_eq!(trial.forwards_to(standby), 0, "{code}");
        let ends = trial.said_to(trial.client) == b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I";
        let begins = trial.said_to(trial.server) == query("BEGIN");
        assert!(if code == "57P01" { ends } else { begins }, "{code}");
        trial.happens(Event::Ended { conn: standby });
        assert!(!trial.closes(trial.client));
    }
}

/// The same, whose second read has failed.
fn failed() -> (Trial, ConnId) {
    let (mut trial, standby) = reading();
    assert!(trial.client_says(&query("SELECT 1")) > 0);
    trial.receives(standby, &[&error("22012")[..], b"Z\0\0\0\x05E"].concat());
    (trial, standby)
}

/// The standby answers them as the primary would: none of them does anything but roll back.
#[test]
fn what_ends_a_failed_transaction_and_what_does_not_is_the_standbys() {
    let long = format!("/*{}*/ ROLLBACK", "x".repeat(10_000));
    for text in [
        "ROLLBACK WORK",
        "rollback transaction;",
        "COMMIT WORK",
        "END TRANSACTION",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'a'",
        "/* tag */ ROLLBACK",
        "ROLLBACK /* tag; */ ; ",
        "-- \u{e9}\n;COMMIT -- \u{e9}",
        "SELECT '\u{e9}'",
        "SELECT 1; ROLLBACK",
        "ROLLBACK TO SAVEPOINT a; COMMIT",
        &long,
    ] {
        let (mut trial, standby) = failed();
        let said = query(text);
        if said.len() > 8192 {
            assert_eq!(trial.client_says(&said[..8192]), 0, "it is to be seen whole");
            assert!(!trial.closes(trial.client));
        }
        assert_eq!(trial.client_says(&said), said.len(), "{text}");
        assert_eq!(trial.forwards_to(standby), said.len(), "{text}");
        assert!(!trial.closes(trial.client), "{text}");
    }
}

#[test]
fn what_goes_on_behind_a_failed_transaction_is_the_primarys() {
    for text in ["ROLLBACK; INSERT", "/* a */ ROLLBACK WORK; INSERT", "ABORT;;ROLLBACK"] {
        let (mut trial, standby) = failed();
        assert_eq!(trial.client_says(&query(text)), 0, "{text}");
        assert_eq!(trial.said_to(standby), query("ROLLBACK"), "{text}");
        assert_eq!(trial.said_to(trial.server), query("BEGIN"), "{text}");
    }
    for text in ["COMMIT; INSERT", "/* a */ END; INSERT", "ROLLBACK AND CHAIN; INSERT"] {
        let (mut trial, standby) = failed();
        trial.client_says(&query(text));
        assert_eq!(trial.forwards_to(standby), 0, "{text}");
        assert!(has_error(&trial.said_to(trial.client), "25P02"), "{text}");
        assert!(trial.closes(trial.client), "{text}");
    }
}

/// The messages that run a text.
fn run(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    ask::parse(&mut out, b"", format!("{text}\0\0\0").as_bytes()).expect("it is short");
    ask::bind(&mut out, b"", b"");
    ask::execute(&mut out, b"");
    out
}

const SYNC: &[u8] = b"S\0\0\0\x04";

#[test]
fn a_failed_transaction_may_be_ended_by_extended_messages_on_the_standby() {
    let mut parse = Vec::new();
    ask::parse(&mut parse, b"", b"ROLLBACK\0\0\0").expect("it is short");
    let length = parse.len();
    let both = run("ROLLBACK")[length..].to_vec();
    let apart = [[&parse[..], SYNC].concat(), [&both[..], SYNC].concat()];
    let long = [&b"B\0\0\x40\0\0x\0"[..], &[0; 100]].concat();
    for segments in [
        &apart[..],
        &[[run("COMMIT /* tag */"), SYNC.to_vec()].concat()],
        &[[run("INSERT"), run("COMMIT"), SYNC.to_vec()].concat()],
        &[long],
    ] {
        let (mut trial, standby) = failed();
        for segment in segments {
            assert_eq!(trial.client_says(segment), segment.len());
            assert!(trial.forwards_to(standby) > 0);
            assert!(!trial.closes(trial.client));
            if segments.len() > 1 {
                trial.receives(standby, b"1\0\0\0\x04Z\0\0\0\x05E");
            }
        }
    }
    let (mut trial, standby) = failed();
    trial.client_says(&[run("COMMIT"), run("INSERT"), SYNC.to_vec()].concat());
    assert_eq!(trial.forwards_to(standby), 0);
    assert!(has_error(&trial.said_to(trial.client), "25P02"));
}

/// The server skips all up to the Sync: so must what comes before that, wherever it belongs. A
/// Query in between ends nothing. Found by seed 5202.
#[test]
fn what_comes_behind_a_failed_message_is_not_run_elsewhere() {
    let (mut trial, standby) = reading();
    let mut segment = Vec::new();
    ask::parse(&mut segment, b"s", b"SELECT nothing\0\0\0").expect("it is short");
    segment.extend(query("SELECT 1"));
    let rest = b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    let all = [&segment[..], rest].concat();
    assert_eq!(trial.client_says(&all), segment.len(), "whether there is an `s` is yet to be told");
    trial.receives(standby, &error("42703"));
    assert!(trial.is_resumed());
    assert_eq!(trial.client_says(rest), rest.len());
    assert_eq!(trial.forwards_to(trial.server), 0);
    assert!(trial.said_to(trial.server).is_empty());
    assert!(trial.forwards_to(standby) > 0, "it hears the Sync");
    trial.receives(standby, b"Z\0\0\0\x05E");
    assert_eq!(trial.forwards_to(trial.client), 6, "nothing has been run");
}

/// What it does is known when it is whole; until then it is not said to change what names mean.
#[test]
fn a_read_that_comes_in_pieces_changes_nothing_for_others() {
    let (mut trial, standby) = reading();
    let read = query(&format!("SELECT 1 /*{}*/", "x".repeat(10_000)));
    assert_eq!(trial.client_says(&read[..8192]), 0);
    assert_eq!(trial.client_says(&read), read.len());
    assert_eq!(trial.forwards_to(standby), read.len(), "it is where it was");
    trial.receives(standby, READ);
    let mut parse = Vec::new();
    ask::parse(&mut parse, b"", b"SELECT $1\0\0\0").expect("it is short");
    let bind = [&b"B\0\0\x40\0\0\0"[..], &[0; 0x4000 - 6]].concat();
    assert_eq!(trial.client_says(&[&parse[..], &bind[..100]].concat()), 0);
    assert_eq!(trial.said_to(trial.server), query("BEGIN"));
    trial.server_says(BEGUN);
    let mut execute = Vec::new();
    ask::execute(&mut execute, b"");
    let rest = [&parse[..], &bind, &execute, SYNC].concat();
    assert_eq!(trial.client_says(&rest), rest.len());
    trial.server_says(&[b"1\0\0\0\x042\0\0\0\x04", READ].concat());
    assert!(trial.client_says(&query("COMMIT")) > 0);
    trial.server_says(b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
    assert_eq!(trial.lane.idle_servers(), 1, "the transaction is over");
    assert!(trial.lane.pools.iter().any(|pool| pool.catalog.is_some()), "it is as it was");
}

/// What was said without a Sync is lost with the standby, whatever of it was answered.
#[test]
fn who_loses_half_a_segment_does_not_go_on() {
    for ends in [true, false] {
        let (mut trial, standby) = reading();
        trial.with_lane(|lane, _, _| {
            let ledger = &mut lane.server_mut(standby).expect("it").ledger;
            ledger.push(Expect::Parse, Origin::Own, 0);
            ledger.answer(b'1', &mut Vec::new()).expect("it is due");
            if ends {
                ledger.push(Expect::Sync, Origin::Own, 0);
                ledger.answer(b'Z', &mut Vec::new()).expect("it is due");
            }
        });
        trial.happens(Event::Ended { conn: standby });
        assert_eq!(trial.closes(trial.client), !ends);
    }
}

/// As a transaction that has a server is left alone by a shutdown, until it ends.
#[test]
fn a_transaction_that_no_server_knows_of_outlives_a_shutdown() {
    for (order, writes) in [
        (Order::DrainClients, false),
        (Order::DrainClients, true),
        (Order::DrainServers, false),
        (Order::DrainServers, true),
    ] {
        let (mut trial, _) = Trial::routed("");
        trial.begin();
        trial.happens(Event::Mail(Mail::Order { number: 1, order: order.clone() }));
        assert!(!trial.closes(trial.client) && !trial.is_done(), "it was told that it has begun");
        if writes {
            assert_eq!(trial.client_says(&write()), 0);
            trial.server_says(BEGUN);
            assert!(trial.client_says(&write()) > 0);
            trial.server_says(READ);
        }
        assert!(!trial.closes(trial.client) && !trial.is_done());
        assert!(trial.client_says(&query("COMMIT")) > 0);
        if writes {
            trial.server_says(b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
        }
        assert!(trial.closes(trial.client), "{order:?}, writes: {writes}");
        trial.happens(Event::Closed { conn: trial.client });
        assert!(trial.is_done() || writes, "{order:?}");
    }
}
