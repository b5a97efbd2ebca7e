//! Bulk data that is waited for: what is held back, and that nothing is held back for good.

use super::step::{CLIENT, Record, SERVER, over_tcp, with_worker};
use crate::clock;
use crate::ring::buffers::{BUFFER_SIZE, LARGE_SIZE};
use crate::worker::Worker;
use crate::worker::conn::{Conn, Phase, Table};
use pgring_logic::id::Core;
use pgring_logic::mail::Mail;
use pgring_logic::time::{Duration, Instant};
use socket2::Socket;
use std::io::Write;

/// Lets a worker be looked at that gathers what its server sends over TCP.
fn gathering(look: impl FnOnce(&mut Worker<'_, Record>, Socket)) {
    with_worker(|worker, (mut client, _unix)| {
        let (ours, server) = over_tcp();
        server.set_tcp_nodelay(true).unwrap();
        worker.table.get(SERVER).unwrap().fd = Some(ours.into());
        worker.gather(SERVER);
        worker.arm(SERVER);
        // The client takes what it is sent, until the worker is gone.
        std::thread::spawn(move || std::io::copy(&mut client, &mut std::io::sink()));
        look(worker, server);
    });
}

fn gathers(worker: &mut Worker<'_, Record>) -> bool {
    worker.table.get(SERVER).unwrap().gathers
}

#[test]
fn less_than_a_buffer_full_is_waited_for_and_fetched_when_patience_ends() {
    gathering(|worker, mut server| {
        server.write_all(&[1; BUFFER_SIZE]).unwrap();
        worker.steps();
        assert_eq!(worker.world.answers.len(), 0, "a piece is not worth while");
        server.write_all(&vec![2; LARGE_SIZE]).unwrap();
        worker.step();
        assert_eq!(worker.world.answers.len(), LARGE_SIZE, "enough, and all at once");
        worker.steps();
        assert!(gathers(worker) && worker.world.answers.len() == LARGE_SIZE);
        let end = worker.gathered().expect("patience with it ends at some time");
        assert!(end <= clock::now());
        worker.look_at_the_clock();
        assert!(!gathers(worker) && worker.gathered().is_none());
        worker.step();
        assert_eq!(worker.world.answers.len(), LARGE_SIZE + BUFFER_SIZE);
        server.write_all(b"!").unwrap();
        worker.steps();
        assert_eq!(worker.world.answers.len(), LARGE_SIZE + BUFFER_SIZE + 1);
    });
}

#[test]
fn its_end_is_heard_at_once() {
    gathering(|worker, mut server| {
        server.write_all(b"rows, FATAL").unwrap();
        drop(server);
        worker.steps();
        worker.assert_heard_out();
        assert!(worker.gathered().is_none() && worker.gathering.is_empty());
    });
}

#[test]
fn who_is_asked_or_released_is_waited_for_no_longer() {
    gathering(|worker, mut server| {
        worker.queued(SERVER, Some(CLIENT));
        assert!(!gathers(worker), "an answer is due");
        server.write_all(b"answer").unwrap();
        worker.steps();
        assert_eq!(worker.world.answers.len(), 6);
    });
    gathering(|worker, mut server| {
        worker.unpair(SERVER);
        assert!(!gathers(worker), "another client's transaction comes next");
        server.write_all(b"answer").unwrap();
        worker.steps();
        assert_eq!(worker.world.answers.len(), 6);
    });
}

#[test]
fn who_is_paused_is_not_looked_at() {
    gathering(|worker, _server| {
        worker.pause();
        worker.steps();
        assert!(gathers(worker) && worker.gathered().is_none());
    });
}

/// A multishot receive is armed when it begins, and another lane may get the server at any time.
#[test]
fn gathering_begins_in_the_middle_and_ends_with_the_connections_life_here() {
    with_worker(|worker, (_client, _server)| {
        worker.arm(SERVER);
        worker.step();
        assert!(worker.table.get(SERVER).unwrap().receiving);
        worker.gather(SERVER);
        worker.arm(SERVER);
        worker.look_at_the_clock();
        assert!(gathers(worker), "its first receive has not even begun");
        let mail = Box::new(Mail::Behind);
        worker.surrender(SERVER, (Core(0), mail));
        assert!(!gathers(worker) && worker.gathered().is_none());
    });
}

/// How long it is waited for after so many receives of `len` bytes, `apart` from each other; none:
/// it is not.
fn patience(len: usize, apart: Duration) -> Option<Duration> {
    let mut table = Table::default();
    let conn: &mut Conn = table.open(SERVER, None, (Phase::Open, Instant::START));
    let len = u32::try_from(len).unwrap();
    let mut pieces = 0u32..2000;
    let found = pieces.any(|number| conn.rushes(Instant::START + apart * number, len));
    found.then_some(conn.gather_max)
}

#[test]
fn only_who_sends_much_in_many_pieces_is_waited_for() {
    assert!(patience(BUFFER_SIZE, Duration::from_micros(60)).is_some());
    assert!(patience(BUFFER_SIZE, Duration::from_micros(65)).is_none(), "126 MB a second");
    assert!(patience(LARGE_SIZE, Duration::from_micros(50)).is_none(), "enough each time");
    assert!(patience(100, Duration::from_micros(5)).is_none(), "20 MB a second");
}

/// A host on which a server sends 280 MB a second had bulk data in pieces of 8 KiB again and again.
#[test]
fn patience_is_what_a_buffer_full_takes_and_a_little_more() {
    let pieces = u32::try_from(LARGE_SIZE / BUFFER_SIZE).unwrap();
    for apart in [15, 30, 60].map(Duration::from_micros) {
        let patience = patience(BUFFER_SIZE, apart).expect("a hurry");
        let (full, rush) = (apart * pieces, apart * 512);
        assert!(patience > full + full / 4, "{patience:?} for {full:?}");
        assert!(patience <= (rush / 20).max(Duration::from_micros(400)), "{patience:?}");
    }
}
