//! Transactions that have only read so far (`routing.leading_reads`), where a node is slow, or no
//! standby any more.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::delay::Delay;
use pgring_tests::message::{Message, cancel, query};
use pgring_tests::pgring::Settings;
use pgring_tests::postgres::Postgres;
use pgring_tests::routed::{SCENE, SOON, Scene, say, scene};
use pgring_tests::wire::Wire;
use std::time::{Duration, Instant};

/// A scene with a standby whose primary may be slow.
fn slow(change: impl FnOnce(Settings) -> Settings) -> (Scene, Delay) {
    at_most_minutes(5);
    let primary = Postgres::start_with(&["wal_writer_delay = 10ms"]);
    primary.psql(SCENE);
    let standby = primary.start_standby(&[]);
    let delay = Delay::start(primary.address());
    let nodes = [delay.address(), standby.address()].map(|address| address.to_string());
    let settings = Settings::new(&primary).nodes(&nodes).set("monitor.user", "guest");
    let settings = settings.set("monitor.interval", "50ms").set("routing.reads", "replicas");
    let settings = settings.set("routing.leading_reads", "replicas");
    // The one server that the primary has is open before it is slow.
    let pgring = change(settings.set("pool.size", 1).set("workers", 1)).start();
    (Scene { primary, standbys: vec![standby], pgring }, delay)
}

/// A client whose first statement is a write; that waits for the BEGIN in front of it, which the
/// primary has carried out.
fn beginning(scene: &Scene, delay: &Delay, late: Duration, write: &str) -> Wire {
    let mut client = scene.client();
    client.query("UPDATE notes SET text = 'x' WHERE id = 1");
    delay.set(late);
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    client.send(&query(write));
    let begun = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    until("the primary to begin", SOON, || scene.primary.psql(begun).trim() == "1");
    client
}

#[test]
fn a_statement_whose_begin_is_not_answered_is_ended_by_its_limit() {
    let (scene, delay) = slow(|settings| settings.set("pool.query_timeout", "1s"));
    let write = "INSERT INTO notes VALUES (860, 'x')";
    let mut client = beginning(&scene, &delay, Duration::from_mins(1), write);
    let last = client.until_end();
    assert_eq!(last.last().map(Message::code).as_deref(), Some("57014"), "{last:?}");
    assert_eq!(scene.primary.psql("SELECT count(*) FROM notes WHERE id = 860").trim(), "0");
}

/// Its client has been told of a transaction: what it says goes into one.
#[test]
fn a_transaction_is_one_although_its_begin_was_lost_with_the_server() {
    let (scene, delay) = slow(|settings| settings);
    let mut client = scene.client();
    client.query("UPDATE notes SET text = 'x' WHERE id = 1");
    delay.set(Duration::from_secs(1));
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    assert_eq!(scene.primary.psql(end).trim(), "t");
    assert_eq!(say(&mut client, "BEGIN"), "BEGIN T");
    client.send(&query("INSERT INTO notes VALUES (862, 'x')"));
    // The server has ended before the BEGIN came there, and that is yet to be heard.
    let answers = client.until_ready(1);
    assert_eq!(answers.last().map(|ready| ready.body.clone()), Some(b"T".to_vec()), "{answers:?}");
    assert_eq!(say(&mut client, "ROLLBACK"), "ROLLBACK I");
    assert_eq!(scene.primary.psql("SELECT count(*) FROM notes WHERE id = 862").trim(), "0");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// Its client does not know of the BEGIN: it means the statement.
#[test]
fn a_cancel_request_during_a_begin_reaches_the_statement_behind_it() {
    let (scene, delay) = slow(|settings| settings);
    let write = "INSERT INTO notes SELECT 861, 'x' FROM pg_sleep(15)";
    let mut client = beginning(&scene, &delay, Duration::from_secs(1), write);
    let start = Instant::now();
    let mut request = Wire::connect(scene.pgring.address());
    request.send(&cancel(client.pid, &client.key));
    while request.read_byte().is_some() {}
    let answers = client.until_ready(1);
    let code = answers.iter().find(|it| it.tag == b'E').map(Message::code);
    assert_eq!(code.as_deref(), Some("57014"), "{answers:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    delay.set(Duration::ZERO);
    assert_eq!(say(&mut client, "SELECT 1"), "25P02 E");
    assert_eq!(say(&mut client, "ROLLBACK"), "ROLLBACK I");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// What was a standby has a history of its own: nothing begins there any more, and what had begun
/// writes where everybody does.
#[test]
fn a_standby_that_is_promoted_is_left_by_transactions_too() {
    at_most_minutes(5);
    let scene = scene(1, |settings| settings.set("routing.leading_reads", "replicas"));
    let [primary, standby] = [&scene.primary, &scene.standbys[0]];
    let mut clients: Vec<_> = (0..3).map(|_| scene.client()).collect();
    for client in &mut clients {
        until("a transaction on the standby", SOON, || {
            assert_eq!(say(client, "BEGIN"), "BEGIN T");
            let here = say(client, "SELECT port()");
            let away = here == format!("{} T", standby.port());
            if !away {
                say(client, "ROLLBACK");
            }
            away
        });
    }
    standby.psql("SELECT pg_promote()");
    until("the promotion to be seen", SOON, || {
        let nodes = scene.pgring.console().show("SHOW NODES");
        nodes.iter().any(|node| node["node"] == "pg2" && node["role"] == "primary")
    });
    let at_home = format!("{} T", primary.port());
    for (number, client) in (870..).zip(&mut clients) {
        let insert = format!("INSERT INTO notes VALUES ({number}, 'x') RETURNING port()");
        assert_eq!(say(client, &insert), at_home);
        assert_eq!(say(client, "COMMIT"), "COMMIT I");
        assert_eq!(say(client, "BEGIN"), "BEGIN T");
        assert_eq!(say(client, "SELECT port()"), at_home);
        assert_eq!(say(client, "COMMIT"), "COMMIT I");
    }
    let servers = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    until("its servers to be closed", SOON, || standby.psql(servers).trim() == "0");
    let written = "SELECT count(*) FROM notes WHERE id >= 870";
    assert_eq!((primary.psql(written).trim(), standby.psql(written).trim()), ("3", "0"));
    assert_eq!(scene.pgring.violations(), Some(0));
}
