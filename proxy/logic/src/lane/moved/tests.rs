//! What a client of a standby hears, and who hears nothing of it.

use crate::id::ConnId;
use crate::lane::trial::standby::BEGUN;
use crate::lane::trial::{ANSWERED, Trial, error, has_error, query};
use crate::mail::{Entrance, Event};
use crate::state::Parameters;
use crate::time::Duration;
use pgring_wire::backend::write::{self as say, ErrorText};
use pgring_wire::client::write;
use std::sync::Arc;

fn prepare() -> Vec<u8> {
    let mut out = Vec::new();
    write::parse(&mut out, b"s", b"SELECT 1\0\0\0").expect("it is short");
    write::sync(&mut out);
    out
}

/// The standby dies between the error and the end of it.
fn dies_behind(mut trial: Trial, standby: ConnId) {
    trial.happens(Event::Ended { conn: standby });
    assert_eq!(trial.said_to(trial.server), b"", "it would be answered a second time");
    let said = trial.said_to(trial.client);
    assert!(has_error(&said, "08007") || has_error(&said, "08006"), "{}", said.escape_ascii());
    assert!(trial.closes(trial.client));
}

#[test]
fn an_error_that_was_heard_is_not_followed_by_a_second_answer() {
    for begins in [false, true] {
        let (mut trial, standby) = Trial::routed("");
        if begins {
            trial.begin();
        }
        assert!(trial.client_says(&query("SELECT 1")) > 0);
        if begins {
            trial.receives(standby, BEGUN);
        }
        let failed = error("22012");
        trial.receives(standby, &failed);
        assert_eq!(trial.forwards_to(trial.client), failed.len(), "it is the client's");
        dies_behind(trial, standby);
    }
}

/// One that is told in the client's own words is not forwarded as it came.
#[test]
fn an_error_that_was_heard_in_other_words_is_an_answer_too() {
    let (mut trial, standby) = Trial::routed("");
    assert!(trial.client_says(&prepare()) > 0);
    trial.receives(standby, b"1\0\0\0\x04Z\0\0\0\x05I");
    assert!(trial.client_says(&prepare()) > 0, "the name is in use");
    let sent = trial.said_to(standby);
    let at = sent.windows(7).position(|word| word == b"pgring_").expect("a name of our own");
    let name: Vec<u8> = sent[at..].iter().copied().take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8(name).expect("it is ASCII");
    let message = format!("prepared statement \"{name}\" already exists");
    let mut failed = Vec::new();
    say::error(&mut failed, &ErrorText::error("42P05", &message));
    trial.receives(standby, &failed);
    let said = trial.said_to(trial.client);
    assert!(has_error(&said, "42P05") && said.windows(3).any(|word| word == b"\"s\""));
    dies_behind(trial, standby);
}

/// A client moves while a cancel request waits for the end of pgring's own query in front of its
/// read, and another client gets the standby's server in the same breath.
#[test]
fn a_cancel_request_of_a_client_that_has_moved_is_answered_and_hits_nobody() {
    let (mut trial, standby) = Trial::routed("");
    let (client, read) = (trial.client, query("SELECT 1"));
    trial.with_lane(|lane, _, _| {
        let own = Parameters::from([("work_mem".to_owned(), "8MB".to_owned())]);
        lane.clients.get_mut(client).expect("it").state = Arc::new(own);
    });
    assert_eq!(trial.client_says(&read), read.len());
    let next = trial.enter(Entrance::default());
    assert_eq!(trial.receives(next, &read), 0, "it waits for the standby");
    assert!(!trial.send_cancel(), "it waits for the end of pgring's own query");
    let refused = [ANSWERED, &error("40001"), b"Z\0\0\0\x05I"].concat();
    trial.receives(standby, &refused);
    assert!(trial.said_to(trial.server).ends_with(&read), "it is asked in its place");
    assert!(trial.is_cancel_answered());
    assert!(trial.receives(next, &read) > 0, "the server is the next client's");
    trial.receives(standby, ANSWERED);
    assert!(!trial.connects(), "its query is not meant");
}

/// As PostgreSQL 15 does it where a second conflict with its replay comes before it has rolled back
/// for the first one.
#[test]
fn a_standby_that_fails_and_then_ends_is_left_without_a_word() {
    let (mut trial, standby) = Trial::routed("");
    let read = query("SELECT 1");
    assert_eq!(trial.client_says(&read), read.len());
    let mut last = Vec::new();
    let text = ErrorText::fatal("40001", "terminating connection due to conflict with recovery");
    say::error(&mut last, &text);
    for bytes in [error("40001"), last] {
        trial.receives(standby, &bytes);
        assert_eq!(trial.forwards_to(trial.client), 0);
    }
    trial.happens(Event::Ended { conn: standby });
    assert!(!trial.closes(trial.client));
    assert!(trial.said_to(trial.server).ends_with(&read));
}

/// What was answered before has nothing to do with it.
#[test]
fn a_write_that_is_refused_is_learned_and_no_text_before_it() {
    let refused = |status: u8| [&error("25006")[..], b"Z\0\0\0\x05", &[status]].concat();
    let (mut trial, standby) = Trial::routed("");
    for again in [false, true] {
        let begin = query("BEGIN READ ONLY");
        assert_eq!(trial.client_says(&begin), begin.len());
        assert_eq!(trial.forwards_to(standby), begin.len(), "again: {again}");
        trial.receives(standby, BEGUN);
        assert!(trial.client_says(&query("INSERT INTO t VALUES (1)")) > 0);
        trial.receives(standby, &refused(b'E'));
        assert!(trial.client_says(&query("ROLLBACK")) > 0);
        trial.receives(standby, b"C\0\0\0\x0dROLLBACK\0Z\0\0\0\x05I");
    }
    let reader = trial.enter_readonly(standby);
    for (text, answer) in [("SELECT 1", ANSWERED.to_vec()), ("INSERT INTO t", refused(b'I'))] {
        assert!(trial.receives(reader, &query(text)) > 0);
        trial.receives(standby, &answer);
    }
    let read = query("SELECT 1");
    assert_eq!(trial.client_says(&read), read.len());
    assert_eq!(trial.forwards_to(standby), read.len());
}

/// What is not followed keeps its client where it is, which a standby is not for.
#[test]
fn statements_that_are_not_followed_are_the_primarys() {
    for begins in [false, true] {
        let (mut trial, standby) = Trial::routed("pool.prepared_statements = 0");
        if begins {
            trial.begin();
        }
        let mut said = Vec::new();
        write::parse(&mut said, b"", b"SELECT 1\0\0\0").expect("it is short");
        write::bind(&mut said, b"", b"");
        write::execute(&mut said, b"");
        write::sync(&mut said);
        let mut taken = trial.client_says(&said);
        if begins {
            trial.server_says(BEGUN);
            taken = trial.client_says(&said);
        }
        assert_eq!(taken, said.len());
        assert_eq!(trial.forwards_to(standby), 0);
        assert_eq!(trial.forwards_to(trial.server), said.len());
        trial.server_says(&[b"1\0\0\0\x042\0\0\0\x04", ANSWERED].concat());
        assert!(!trial.closes(trial.client));
    }
    let (mut trial, standby) = Trial::routed("pool.prepared_statements = 0");
    assert!(trial.client_says(&query("BEGIN READ ONLY")) > 0);
    assert_eq!(trial.forwards_to(standby), 0, "it could not leave it");
}

/// Only what the standby has confirmed in this segment: names that the client had before are in
/// use, and it is to hear so.
#[test]
fn a_name_that_was_in_use_before_a_move_is_in_use_behind_it() {
    let (mut trial, standby) = Trial::routed("");
    let parse = |name: &[u8]| {
        let mut out = Vec::new();
        write::parse(&mut out, name, b"SELECT 1\0\0\0").expect("it is short");
        out
    };
    let mut sync = Vec::new();
    write::sync(&mut sync);
    let both = [parse(b"s"), parse(b"t"), sync.clone()].concat();
    assert_eq!(trial.client_says(&both), both.len());
    trial.receives(standby, b"1\0\0\0\x04Z\0\0\0\x05I");
    let mut segment = Vec::new();
    write::close(&mut segment, b'S', b"s");
    segment.extend(parse(b"s"));
    write::parse(&mut segment, b"u", b"SELECT 2\0\0\0").expect("it is short");
    segment.extend([parse(b"t"), sync].concat());
    assert_eq!(trial.client_says(&segment), segment.len());
    assert_eq!(trial.said_to(trial.client), b"3\0\0\0\x041\0\0\0\x04");
    trial.receives(standby, &[&error("0A000")[..], b"Z\0\0\0\x05I"].concat());
    let said = trial.said_to(trial.server);
    let count = said.windows(8).filter(|word| word == b"SELECT 1").count();
    assert_eq!(count, 2, "{}", said.escape_ascii());
    assert_eq!(trial.said_to(trial.client), b"");
}

/// Whoever gets the standby's server when a client leaves it has not asked anything yet.
#[test]
fn who_gets_the_server_of_a_read_that_has_moved_keeps_it() {
    let (mut trial, standby) = Trial::routed("");
    let read = query("SELECT 1");
    assert_eq!(trial.client_says(&read), read.len());
    let next = trial.enter(Entrance::default());
    assert_eq!(trial.receives(next, &read), 0, "it waits for the standby");
    trial.receives(standby, &[&error("40001")[..], b"Z\0\0\0\x05I"].concat());
    let server = trial.lane.clients.get(next).expect("it").server;
    assert_eq!(server, Some(standby));
}

/// A client has asked the standby what that refuses, and waits for the primary's only server, which
/// another one has. Then it says goodbye.
fn says_goodbye_between(settings: &str) -> (Trial, Vec<u8>) {
    let (mut trial, standby) = Trial::routed(&format!("pool.size = 1\n{settings}"));
    let other = trial.enter(Entrance::default());
    assert!(trial.receives(other, &query("INSERT INTO t VALUES (1)")) > 0);
    let call = query("SELECT 1");
    assert_eq!(trial.client_says(&call), call.len());
    assert_eq!(trial.forwards_to(standby), call.len());
    trial.receives(standby, &[&error("25006")[..], b"Z\0\0\0\x05I"].concat());
    let mut goodbye = Vec::new();
    write::terminate(&mut goodbye);
    trial.client_says(&goodbye);
    assert!(!trial.closes(trial.client), "nobody has carried it out");
    (trial, call)
}

#[test]
fn what_moves_is_carried_out_though_its_client_has_said_goodbye() {
    for ends in [false, true] {
        let (mut trial, call) = says_goodbye_between("");
        if ends {
            trial.client_ends();
            assert!(!trial.closes(trial.client));
        }
        trial.server_says(ANSWERED);
        assert!(trial.said_to(trial.server).ends_with(&call), "ends: {ends}");
        // A query of pgring's own is in front of it.
        let before = if trial.said_to(trial.server).len() > call.len() { ANSWERED } else { b"" };
        trial.server_says(&[before, ANSWERED].concat());
        assert_eq!(trial.forwards_to(trial.client), ANSWERED.len());
        assert!(trial.closes(trial.client));
        assert_eq!(trial.lane.idle_servers(), 2);
    }
}

#[test]
fn who_has_said_goodbye_and_cannot_move_is_told_and_closed() {
    let (mut trial, _) = says_goodbye_between("pool.query_wait_timeout = \"1s\"");
    trial.wait(Duration::from_secs(2));
    assert!(has_error(&trial.said_to(trial.client), "53300"));
    assert!(trial.closes(trial.client));
}

#[test]
fn what_is_lost_with_its_standby_is_carried_out_though_its_client_has_said_goodbye() {
    let (mut trial, standby) = Trial::routed("");
    let read = query("SELECT 1");
    let mut said = read.clone();
    write::terminate(&mut said);
    assert_eq!(trial.client_says(&said), said.len());
    trial.client_ends();
    trial.happens(Event::Ended { conn: standby });
    assert!(trial.said_to(trial.server).ends_with(&read));
    trial.server_says(ANSWERED);
    assert_eq!(trial.forwards_to(trial.client), ANSWERED.len());
    assert!(trial.closes(trial.client));
}

/// Shows what has come of a server and was not taken, with what comes now, as a driver does. Tells
/// how much of it has gone to the client.
fn comes(trial: &mut Trial, server: ConnId, kept: &mut Vec<u8>, bytes: &[u8]) -> usize {
    kept.extend_from_slice(bytes);
    let taken = trial.receives(server, kept);
    kept.drain(..taken);
    trial.forwards_to(trial.client)
}

/// What a client asks, what it is answered, and up to where that is no row: one statement, and two.
fn reads() -> [(Vec<u8>, Vec<u8>, usize); 2] {
    let mut row = Vec::new();
    say::row_description(&mut row, &[say::Column::text("abalance")]);
    let row_at = row.len();
    say::data_row(&mut row, &[Some(b"17")]);
    say::command_complete(&mut row, "SELECT 1");
    let mut simple = row.clone();
    say::ready_for_query(&mut simple, b'I');

    let mut asks = Vec::new();
    write::parse(&mut asks, b"", b"SELECT 1\0\0\0").expect("it is short");
    write::bind(&mut asks, b"", b"");
    write::describe(&mut asks, b'P', b"");
    write::execute(&mut asks, b"");
    let mut extended = Vec::new();
    say::parse_complete(&mut extended);
    say::bind_complete(&mut extended);
    let extended_at = extended.len() + row_at;
    extended.extend_from_slice(&row);
    let pipeline = [&extended[..], &extended[..], b"Z\0\0\0\x05I"].concat();
    let mut twice = asks.repeat(2);
    write::sync(&mut twice);

    [(query("SELECT 1"), simple, row_at), (twice, pipeline, extended_at)]
}

/// What comes of the standby is cut in two anywhere, and is all that comes of it: either no row has
/// gone out, and the primary's answer is made a whole one by what has, or the client is closed.
#[test]
fn a_read_is_answered_once_wherever_its_standby_is_lost() {
    for (asked, answer, row_at) in reads() {
        for end in 0..answer.len() {
            for cut in [0, end / 3, end / 2, end.saturating_sub(1)] {
                let (mut trial, standby) = Trial::routed("");
                assert_eq!(trial.client_says(&asked), asked.len());
                let mut kept = Vec::new();
                let mut heard = comes(&mut trial, standby, &mut kept, &answer[..cut]);
                heard += comes(&mut trial, standby, &mut kept, &answer[cut..end]);
                assert!(heard <= end, "{end}, {cut}: {heard} heard");
                trial.happens(Event::Ended { conn: standby });
                if heard > row_at {
                    // In the middle of a row there is no room for words.
                    assert!(trial.closes(trial.client), "{end}, {cut}");
                    assert_eq!(trial.said_to(trial.server), b"", "{end}, {cut}: it was heard");
                    continue;
                }
                assert!(trial.said_to(trial.server).ends_with(&asked), "{end}, {cut}");
                let primary = trial.server;
                heard += comes(&mut trial, primary, &mut Vec::new(), &answer);
                assert_eq!(heard, answer.len(), "{end}, {cut}");
            }
        }
    }
}

/// The same where the standby cancels it: between any two messages.
#[test]
fn a_read_is_answered_once_wherever_its_standby_cancels_it() {
    for (asked, answer, row_at) in reads() {
        let mut end = 0;
        while answer[end] != b'Z' {
            let (mut trial, standby) = Trial::routed("");
            assert_eq!(trial.client_says(&asked), asked.len());
            let notice = b"N\0\0\0\x0dSNOTICE\0\0";
            let before = trial.receives(standby, notice) - notice.len();
            let mut heard = before + comes(&mut trial, standby, &mut Vec::new(), &answer[..end]);
            let cancelled = [&error("40001")[..], b"Z\0\0\0\x05I"].concat();
            let more = comes(&mut trial, standby, &mut Vec::new(), &cancelled);
            if heard > row_at {
                assert_eq!(more, cancelled.len(), "{end}: it is the client's");
                assert_eq!(trial.said_to(trial.server), b"", "{end}: it was heard");
            } else {
                assert_eq!(more, 0, "{end}: it is nothing to the client");
                assert!(trial.said_to(trial.server).ends_with(&asked), "{end}");
                let primary = trial.server;
                heard += comes(&mut trial, primary, &mut Vec::new(), &answer);
                assert_eq!(heard, answer.len(), "{end}");
            }
            let length = answer[end + 1..end + 5].try_into().map(u32::from_be_bytes);
            end += 1 + length.expect("four bytes") as usize;
        }
    }
}

/// It is skipped with all up to the Sync, which must come there. Found by seed 35259.
#[test]
fn a_query_behind_a_failed_message_does_not_end_what_is_kept() {
    let (mut trial, standby) = Trial::routed("");
    let mut segment = Vec::new();
    write::parse(&mut segment, b"s", b"SELECT 1\0\0\0").expect("it is short");
    segment.extend(query("SELECT 2"));
    let mut rest = Vec::new();
    write::bind(&mut rest, b"", b"s");
    write::execute(&mut rest, b"");
    write::sync(&mut rest);
    let all = [&segment[..], &rest].concat();
    assert_eq!(trial.client_says(&all), segment.len(), "whether there is an `s` is yet to be told");
    let cancelled = error("40001");
    trial.receives(standby, &cancelled);
    assert!(trial.is_resumed());
    assert_eq!(trial.client_says(&rest), rest.len());
    assert!(trial.forwards_to(standby) > 0);
    trial.receives(standby, b"Z\0\0\0\x05I");
    assert!(!trial.closes(trial.client));
    assert_eq!(trial.client_says(&query("SELECT 3")), query("SELECT 3").len());
}
