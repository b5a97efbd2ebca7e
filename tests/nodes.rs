//! Which node gets the statements: the one that is not in recovery, wherever it stands in the list
//! and whatever the others do.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::message::{Message, cancel, query};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::ports::Port;
use pgring_tests::postgres::Postgres;
use pgring_tests::wire::Wire;
use std::net::TcpListener;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Twenty clients at once, each of which wants a server for itself before any has been opened.
fn crowd(pgring: &Pgring) {
    let ask = || {
        let mut client = Wire::login(pgring.address(), "app");
        let answers = client.query("BEGIN; SELECT pg_is_in_recovery()");
        let row = answers.iter().find(|message| message.tag == b'D').map(Message::value);
        assert_eq!(row.as_deref(), Some("f"), "{answers:?}");
        client
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        let clients: Vec<_> = clients.into_iter().map(ScopedJoinHandle::join).collect();
        assert!(clients.iter().all(Result::is_ok), "one of them was refused");
    });
}

fn start(first: &[String], primary: &Postgres) -> Pgring {
    let nodes = [first, &[primary.address().to_string()]].concat();
    let settings = Settings::new(primary).nodes(&nodes).set("workers", 1).set("pool.size", 20);
    let settings = settings.set("pool.server_login_retry", "1s");
    settings.set("pool.server_connect_timeout", "300ms").start()
}

#[test]
fn the_primary_is_found_behind_a_standby_and_a_dead_node() {
    at_most_minutes(2);
    let (mut standby, primary) = (Postgres::start(), Postgres::start());
    standby.stop();
    standby.start_again_in_recovery();
    let dead = Port::take();
    crowd(&start(&[standby.address().to_string(), dead.address().to_string()], &primary));
}

#[test]
fn the_primary_is_found_behind_a_silent_node() {
    at_most_minutes(2);
    let primary = Postgres::start();
    // Its backlog takes connections, and nobody ever says anything.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    crowd(&start(&[silent.local_addr().expect("an address").to_string()], &primary));
}

#[test]
fn a_node_that_becomes_a_standby_is_left_for_the_one_that_is_none() {
    at_most_minutes(3);
    let (mut first, mut second) = (Postgres::start(), Postgres::start());
    second.stop();
    second.start_again_in_recovery();
    let pgring = start(&[first.address().to_string()], &second);
    let mut client = Wire::login(pgring.address(), "app");
    let port = "SELECT inet_server_port()";
    assert_eq!(client.value(port), first.port().to_string());
    first.stop();
    first.start_again_in_recovery();
    second.psql("SELECT pg_promote()");
    until("the other node to be found", SOON, || {
        let answers = client.query(port);
        let row = answers.iter().find(|message| message.tag == b'D').map(Message::value);
        row == Some(second.port().to_string())
    });
}

#[test]
fn replication_connections_go_to_the_primary_too_and_can_be_cancelled() {
    at_most_minutes(2);
    let (mut standby, primary) = (Postgres::start(), Postgres::start());
    standby.stop();
    standby.start_again_in_recovery();
    let dead = Port::take();
    let nodes = [standby.address().to_string(), dead.address().to_string()];
    let pgring = start(&nodes, &primary);
    let parameters = [("user", "postgres"), ("database", "app"), ("replication", "database")];
    let mut client = Wire::login_with(pgring.address(), &parameters);
    assert_eq!(client.value("SELECT pg_is_in_recovery()"), "f");
    client.send(&query("SELECT pg_sleep(100)"));
    until("it to run", SOON, || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(100)'";
        primary.psql(running).trim() == "1"
    });
    Wire::connect(pgring.address()).send(&cancel(client.pid, &client.key));
    let answers = client.until_ready(1);
    let error = answers.iter().find(|message| message.tag == b'E').map(Message::code);
    assert_eq!(error.as_deref(), Some("57014"), "{answers:?}");
}
