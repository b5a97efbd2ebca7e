//! A cancel reaches the query it is meant for, or nothing.

use pgring_tests::command::{at_most_minutes, say, until};
use pgring_tests::crowd::{Bell, among};
use pgring_tests::dice::{Dice, amount, seed};
use pgring_tests::message::{
    Message, V3_2, bind, cancel, execute, flush, parse, query, startup, sync,
};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::Postgres;
use pgring_tests::wire::{PATIENCE, Polled, Wire};
use std::thread;
use std::time::{Duration, Instant};

/// Sends a cancel for `wire` and waits until the other side has closed, as libpq does.
fn send_cancel(pgring: &Pgring, (pid, key): (u32, &[u8])) {
    let mut request = Wire::connect(pgring.address());
    request.send(&cancel(pid, key));
    while request.read_byte().is_some() {}
}

fn error_of(answers: &[Message]) -> String {
    answers.iter().find(|message| message.tag == b'E').map(Message::code).unwrap_or_default()
}

/// A client whose queries nobody cancels.
fn bystander(pgring: &Pgring, number: usize, bell: &Bell) {
    let mut wire = Wire::login(pgring.address(), "app");
    let mut round = 0;
    while bell.silent() {
        round += 1;
        let nonce = format!("{number}-{round}");
        let answers = wire.query(&format!("SELECT '{nonce}' FROM pg_sleep(0.001)"));
        assert_eq!(error_of(&answers), "", "a cancel for another has reached me");
        assert_eq!(answers[1].value(), nonce);
    }
}

#[test]
fn a_cancel_never_reaches_another_client() {
    let races = amount("PGRING_RACES", 3_000);
    at_most_minutes(5 + u64::try_from(races / 5_000).expect("a number"));
    let seed = seed();
    say(&format!("PGRING_SEED={seed}"));
    let node = Postgres::start();
    for (size, workers) in [(1, 1), (1, 4), (2, 2)] {
        let pgring = Settings::new(&node).set("pool.size", size).set("workers", workers).start();
        among(
            2 * size,
            |number, bell| bystander(&pgring, number, bell),
            || {
                race(&pgring, Dice::new(seed), races / 3);
            },
        );
        pgring.wait_until_quiet();
    }
}

fn race(pgring: &Pgring, mut dice: Dice, times: usize) {
    let mut victim = Wire::login(pgring.address(), "app");
    for number in 0..times {
        let millis = dice.below(4);
        victim.send(&query(&format!("SELECT pg_sleep(0.00{millis})")));
        let pause = Duration::from_micros(dice.below(4_000) as u64);
        let (pid, key) = (victim.pid, victim.key.clone());
        thread::sleep(pause);
        let answers = match dice.below(3) {
            // The cancel comes after the answer, when the server may be with another client.
            0 => {
                let answers = victim.until_ready(1);
                send_cancel(pgring, (pid, &key));
                answers
            }
            1 => {
                send_cancel(pgring, (pid, &key));
                victim.until_ready(1)
            }
            _ => {
                Wire::connect(pgring.address()).send(&cancel(pid, &key));
                victim.until_ready(1)
            }
        };
        let code = error_of(&answers);
        assert!(code.is_empty() || code == "57014", "{code}");
        if number % 50 == 49 {
            victim = Wire::login(pgring.address(), "app");
            send_cancel(pgring, (pid, &key));
        }
    }
}

#[test]
fn a_cancel_ends_a_running_query_from_whatever_worker_it_comes() {
    at_most_minutes(2);
    let node = Postgres::start();
    for mode in ["transaction", "session"] {
        let pgring = Settings::new(&node).set("workers", 4).set("pool.mode", mode).start();
        for _ in 0..8 {
            let mut wire = Wire::login(pgring.address(), "app");
            wire.send(&query("SELECT pg_sleep(60)"));
            wait_for_sleepers(&node, 1);
            let start = Instant::now();
            send_cancel(&pgring, (wire.pid, &wire.key));
            assert_eq!(error_of(&wire.until_ready(1)), "57014");
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
            assert_eq!(wire.value("SELECT 'usable'"), "usable");
        }
    }
}

fn wait_for_sleepers(node: &Postgres, count: usize) {
    let mut wire = Wire::login(node.address(), "postgres");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let wanted = count.to_string();
    until("a query to run", Duration::from_secs(10), || wire.value(sleeping) == wanted);
}

#[test]
fn long_keys_of_the_newer_protocol_cancel_as_well() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("workers", 2).start();
    for _ in 0..4 {
        let mut wire = Wire::connect(pgring.address());
        wire.send(&startup(V3_2, &[("user", "app"), ("database", "app")]));
        wire.until_ready(1);
        assert!(wire.key.len() > 4, "a key of {} bytes", wire.key.len());
        wire.send(&query("SELECT pg_sleep(60)"));
        wait_for_sleepers(&node, 1);
        send_cancel(&pgring, (wire.pid, &wire.key[..4]));
        send_cancel(&pgring, (wire.pid, &wire.key));
        assert_eq!(error_of(&wire.until_ready(1)), "57014");
    }
}

#[test]
fn a_cancel_ends_the_wait_in_the_queue() {
    at_most_minutes(2);
    let node = Postgres::start();
    for workers in [1, 4] {
        let pgring = Settings::new(&node).set("pool.size", 1).set("workers", workers).start();
        let mut holder = Wire::login(pgring.address(), "app");
        let mut waiting: Vec<_> = (0..4).map(|_| Wire::login(pgring.address(), "app")).collect();
        holder.query("BEGIN");
        for wire in &mut waiting {
            wire.send(&query("SELECT 'mine'"));
        }
        let mut console = pgring.console();
        until("four clients to wait", Duration::from_secs(5), || {
            console.sum("SHOW POOLS", "cl_waiting") == 4
        });
        for wire in waiting.iter_mut().step_by(2) {
            let start = Instant::now();
            send_cancel(&pgring, (wire.pid, &wire.key));
            assert_eq!(error_of(&wire.until_ready(1)), "57014");
            assert!(start.elapsed() < Duration::from_secs(3));
        }
        assert_eq!(holder.value("SELECT 'undisturbed'"), "undisturbed");
        holder.query("COMMIT");
        for (number, wire) in waiting.iter_mut().enumerate() {
            if number % 2 == 1 {
                assert_eq!(wire.until_ready(1)[1].value(), "mine");
            }
            assert_eq!(wire.value("SELECT 'again'"), "again");
        }
    }
}

#[test]
fn a_cancel_with_a_wrong_key_does_nothing() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 2).start();
    let mut wire = Wire::login(pgring.address(), "app");
    wire.send(&query("SELECT 'kept' FROM pg_sleep(1)"));
    wait_for_sleepers(&node, 1);
    let (pid, key) = (wire.pid, wire.key.clone());
    assert!(
        i32::try_from(pid).is_ok_and(|pid| pid > 0),
        "some drivers cancel nothing of pid {pid}"
    );
    let mut wrong = key.clone();
    wrong[0] ^= 1;
    let long = [key.clone(), vec![0; 300]].concat();
    for (pid, key) in
        [(pid, &wrong), (pid ^ 1, &key), (pid, &vec![]), (pid, &long), (pid + 1, &key)]
    {
        send_cancel(&pgring, (pid, key));
        wire.patience(Duration::from_millis(80));
        let answer = wire.poll();
        if let Polled::Message(first) = answer {
            panic!("pid {pid:x}, key {key:?}: {first:?} {:?}", wire.until_ready(1));
        }
    }
    wire.patience(PATIENCE);
    let mut cut = Wire::connect(pgring.address());
    cut.send(&cancel(pid, &key)[..10]);
    drop(cut);
    assert_eq!(wire.until_ready(1)[1].value(), "kept");
}

#[test]
fn a_client_that_leaves_during_a_query_leaves_no_query_behind() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    for begin in ["", "BEGIN; CREATE TABLE never (i int);"] {
        let mut wire = Wire::login(pgring.address(), "app");
        wire.send(&query(&format!("{begin} SELECT pg_sleep(60)")));
        wait_for_sleepers(&node, 1);
        drop(wire);
        let mut next = Wire::login(pgring.address(), "app");
        next.patience(Duration::from_secs(10));
        assert_eq!(next.value("SELECT 'served'"), "served");
        assert_eq!(next.failure("SELECT * FROM never"), "42P01");
        wait_for_sleepers(&node, 0);
    }
    let mut quiet = Wire::login(pgring.address(), "app");
    quiet.patience(Duration::from_millis(50));
    assert!(matches!(quiet.poll(), Polled::Nothing));
}

/// The server has to be given the statement again, and keeps the answer to that back while the
/// statement runs: nothing but the clock says whose turn it is.
#[test]
fn a_statement_that_its_server_had_lost_can_be_cancelled() {
    at_most_minutes(2);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 1).set("workers", 1);
    let pgring = settings.set("pool.prepared_statements", 1).start();
    let mut wire = Wire::login(pgring.address(), "app");
    for (name, sql) in [("s", "SELECT pg_sleep($1::float8)"), ("t", "SELECT 1")] {
        wire.send(&[parse(name, sql, &[]), sync()].concat());
        assert_eq!(error_of(&wire.until_ready(1)), "");
    }
    for end in [sync(), flush()] {
        wire.send(&[bind("", "s", &["60"]), execute("", 0), end.clone()].concat());
        until("it to run", PATIENCE, || {
            let runs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            node.psql(runs).trim() == "1"
        });
        let start = Instant::now();
        send_cancel(&pgring, (wire.pid, &wire.key.clone()));
        if end == flush() {
            wire.send(&sync());
        }
        assert_eq!(error_of(&wire.until_ready(1)), "57014");
        assert!(start.elapsed() < PATIENCE, "it was cancelled only when it had ended");
        // The next one finds the server without it again.
        wire.send(&[bind("", "t", &[]), execute("", 0), sync()].concat());
        assert_eq!(error_of(&wire.until_ready(1)), "");
    }
}
