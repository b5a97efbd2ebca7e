//! A changed file at work: what SIGHUP and RELOAD apply to passwords, users and nodes, and whom
//! they leave alone; and a setting of one database that concerns no other.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::message::{Message, V3_0, query, startup};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres};
use pgring_tests::wire::Wire;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

const PID: &str = "SELECT pg_backend_pid()";

/// Tells which node answers.
const PORT: &str = "SHOW port";

/// Logs in with a password of the test's choice, or gives the refusal.
fn login_by(pgring: &Pgring, user: &str, secret: &str) -> Result<Wire, Message> {
    let mut wire = Wire::connect(pgring.address());
    wire.send(&startup(V3_0, &[("user", user), ("database", "app")]));
    match wire.authenticate(user, secret) {
        Ok(()) => Ok(wire),
        Err(refusal) => Err(refusal.expect("a reason")),
    }
}

fn login_to(pgring: &Pgring, database: &str) -> Wire {
    Wire::login_with(pgring.address(), &[("user", "app"), ("database", database)])
}

#[test]
fn sighup_applies_a_changed_file_and_keeps_the_old_settings_at_a_bad_one() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut console = pgring.console();
    let [mut holder, mut waiting] = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
    holder.query("BEGIN");
    let pid = holder.value(PID);
    waiting.send(&query("SELECT 'served'"));
    until("it to wait", SOON, || console.sum("SHOW POOLS", "cl_waiting") == 1);
    pgring.rewrite(|settings| settings.set("pool.size", 2));
    pgring.signal("HUP");
    assert_eq!(waiting.until_ready(1)[1].value(), "served", "there is room for a second server");

    pgring.rewrite(|settings| settings.set("pool.size", 1).set("pool.sice", 1));
    pgring.signal("HUP");
    until("the log to name the wrong key", SOON, || pgring.log().contains("pool.sice"));
    let size = console.find("SHOW CONFIG", "key", "pool.size").expect("the size");
    assert_eq!(size["value"], "2");
    assert_eq!(holder.value(PID), pid, "still in its transaction");
    assert_eq!(waiting.query("BEGIN").len(), 2, "the old pool size is in force");
}

#[test]
fn a_new_password_is_asked_of_new_logins_and_given_to_new_servers() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut pgring = Settings::new(&node).set("auth.method", "scram-sha-256").start();
    let mut console = pgring.console();
    let [mut old, mut busy] =
        [(); 2].map(|()| login_by(&pgring, "scrammer", PASSWORD).expect("the first password"));
    let mut other = login_by(&pgring, "app", PASSWORD).expect("the password of another");
    let other_pid = other.value(PID);
    busy.query("BEGIN");
    let busy_pid = busy.value(PID);

    node.psql("ALTER ROLE scrammer PASSWORD 'close sesame'");
    let users = [("postgres", PASSWORD), ("app", PASSWORD), ("scrammer", "close sesame")];
    let users = users.map(|(user, secret)| format!("\"{user}\" \"{secret}\"\n")).concat();
    pgring.rewrite(|settings| settings.users(&users));
    console.show("RELOAD");

    let refusal = login_by(&pgring, "scrammer", PASSWORD).expect_err("a refusal");
    assert_eq!(refusal.code(), "28P01");
    let mut new = login_by(&pgring, "scrammer", "close sesame").expect("the new password");
    assert_eq!(new.value("SELECT current_user"), "scrammer");
    assert_eq!(busy.value(PID), busy_pid, "its transaction keeps its server");
    busy.query("COMMIT");
    for connected in [&mut old, &mut busy] {
        assert_eq!(connected.value("SELECT current_user"), "scrammer");
    }
    assert_eq!(other.value(PID), other_pid, "the server of another user stays");
    console.show("RECONNECT");
    assert_eq!(old.value("SELECT 'by the new password'"), "by the new password");
    assert_eq!(other.value("SELECT current_user"), "app");
    login_by(&pgring, "app", PASSWORD).expect("the password of another");
}

#[test]
fn a_user_taken_from_the_file_gets_in_no_more() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut pgring = Settings::new(&node).set("auth.method", "scram-sha-256").start();
    let mut console = pgring.console();
    let mut app = login_by(&pgring, "app", PASSWORD).expect("app");
    let mut guest = login_by(&pgring, "guest", PASSWORD).expect("guest");
    let app_pid = app.value(PID);
    guest.query("BEGIN");

    let users = ["postgres", "app"].map(|user| format!("\"{user}\" \"{PASSWORD}\"\n")).concat();
    pgring.rewrite(|settings| settings.users(&users));
    console.show("RELOAD");

    let refusal = login_by(&pgring, "guest", PASSWORD).expect_err("a refusal");
    assert_eq!(refusal.code(), "28P01");
    assert_eq!(guest.value("SELECT 'in its transaction'"), "in its transaction");
    guest.query("COMMIT");
    assert_eq!(guest.value("SELECT current_user"), "guest", "who is connected stays");
    assert_eq!(app.value(PID), app_pid, "the server of another user stays");
    login_by(&pgring, "app", PASSWORD).expect("another user");
}

/// Two databases that have the same name on the server, each on a cluster of its own.
fn two_clusters(other: &Postgres) -> String {
    let address = other.address();
    format!(
        "[[clusters]]\nname = \"other\"\n[[clusters.nodes]]\nname = \"pg2\"\n\
         address = \"{address}\"\n\
         [[databases]]\nname = \"moved\"\ncluster = \"main\"\ndbname = \"app\"\n\
         [[databases]]\nname = \"steady\"\ncluster = \"other\"\ndbname = \"app\"\n"
    )
}

#[test]
fn a_node_is_moved_between_transactions_and_other_databases_do_not_notice() {
    at_most_minutes(2);
    let [old, new, other] = [(); 3].map(|()| Postgres::start());
    let mut pgring = Settings::new(&old).databases(&two_clusters(&other)).start();
    let mut console = pgring.console();
    let [mut idle, mut busy] = [(); 2].map(|()| login_to(&pgring, "moved"));
    let [mut steady, mut steady_busy] = [(); 2].map(|()| login_to(&pgring, "steady"));
    assert_eq!(idle.value(PORT), old.port().to_string());
    for client in [&mut busy, &mut steady_busy] {
        client.query("BEGIN");
    }
    let pids = [&mut steady, &mut steady_busy].map(|client| client.value(PID));

    pgring.rewrite(|settings| settings.node(&new.address().to_string()));
    console.show("RELOAD");

    assert_eq!(idle.value(PORT), new.port().to_string());
    assert_eq!(busy.value(PORT), old.port().to_string(), "not inside of a transaction");
    busy.query("COMMIT");
    assert_eq!(busy.value(PORT), new.port().to_string());
    assert_eq!(login_to(&pgring, "moved").value(PORT), new.port().to_string());
    assert_eq!([&mut steady, &mut steady_busy].map(|client| client.value(PID)), pids);
    steady_busy.query("COMMIT");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    until("the servers of the old node to go", SOON, || old.psql(left).trim() == "0");
}

#[test]
fn who_waits_for_a_stopped_node_is_served_by_the_one_that_takes_its_place() {
    at_most_minutes(2);
    let [mut old, new, other] = [(); 3].map(|()| Postgres::start());
    let mut pgring = Settings::new(&old).databases(&two_clusters(&other)).start();
    let mut console = pgring.console();
    let mut client = login_to(&pgring, "moved");
    let mut steady = login_to(&pgring, "steady");
    assert_eq!(client.value(PORT), old.port().to_string());
    let pid = steady.value(PID);
    old.stop();
    client.send(&query(PORT));
    until("it to wait", SOON, || console.sum("SHOW POOLS", "cl_waiting") == 1);

    pgring.rewrite(|settings| settings.node(&new.address().to_string()));
    console.show("RELOAD");

    assert_eq!(client.until_ready(1)[1].value(), new.port().to_string());
    assert_eq!(login_to(&pgring, "moved").value(PORT), new.port().to_string());
    assert_eq!(steady.value(PID), pid);
}

#[test]
fn a_reload_ends_attempts_at_the_address_it_replaces() {
    at_most_minutes(2);
    let node = Postgres::start();
    // Its backlog takes connections, and nobody ever says anything.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let settings = Settings::new(&node).node(&address).set("pool.size", 1);
    let mut pgring = settings.set("pool.server_connect_timeout", "1m").start();
    let address = pgring.address();
    let waiter = thread::spawn(move || Wire::login(address, "app").value("SELECT 'served'"));
    let attempt = silent.accept().expect("an attempt");
    let start = Instant::now();
    pgring.rewrite(|settings| settings.node(&node.address().to_string()));
    pgring.console().show("RELOAD");
    assert_eq!(waiter.join().expect("to be served"), "served");
    drop(attempt);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn an_idle_timeout_of_one_database_concerns_no_other() {
    at_most_minutes(2);
    let node = Postgres::start();
    let databases = "[[databases]]\nname = \"hasty\"\ncluster = \"main\"\ndbname = \"app\"\n\
         [databases.pool]\nclient_idle_timeout = \"1s\"\n\
         [[databases]]\nname = \"calm\"\ncluster = \"main\"\ndbname = \"app\"\n";
    let pgring = Settings::new(&node).databases(databases).start();
    // The calm one is idle for longer than the hasty ones at all times.
    let mut calm = login_to(&pgring, "calm");
    calm.query("SELECT 1");
    for round in 0..2 {
        let mut hasty = login_to(&pgring, "hasty");
        let mut within = login_to(&pgring, "hasty");
        within.query("BEGIN");
        if round > 0 {
            assert_eq!(hasty.value("SELECT 'not idle yet'"), "not idle yet");
        }
        let codes: Vec<_> = hasty.until_end().iter().map(Message::code).collect();
        assert_eq!(codes, ["57P05"]);
        assert_eq!(within.value("SELECT 'in a transaction'"), "in a transaction");
    }
    assert_eq!(calm.value("SELECT 'still here'"), "still here");
}

#[test]
fn a_limit_that_a_reload_sets_concerns_clients_who_are_idle_or_busy_already() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut pgring = Settings::new(&node).set("auth.login_timeout", "500ms").start();
    let mut console = pgring.console();
    let [mut idle, mut within, mut running] = [(); 3].map(|()| login_to(&pgring, "app"));
    idle.query("SELECT 1");
    within.query("BEGIN");
    running.send(&query("SELECT pg_sleep(30)"));
    // When a later one is refused for its slow login, no timer of a login is left.
    Wire::connect(pgring.address()).until_end();
    pgring.rewrite(|settings| {
        let settings = settings.set("pool.client_idle_timeout", "500ms");
        settings.set("pool.idle_transaction_timeout", "500ms").set("pool.query_timeout", "500ms")
    });
    console.show("RELOAD");
    for (client, code) in [(&mut idle, "57P05"), (&mut within, "25P03"), (&mut running, "08007")] {
        client.patience(SOON);
        assert_eq!(client.expect(b'E').code(), code);
    }
}
