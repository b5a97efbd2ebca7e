//! Clients of a listener for reads only: they live on standbys, and nothing of theirs reaches the
//! primary.

use pgring_tests::command::{Outcome, at_most_minutes, run, until};
use pgring_tests::message::{Message, extended, query, sync};
use pgring_tests::pgring::Settings;
use pgring_tests::ports::Port;
use pgring_tests::postgres::{PASSWORD, program};
use pgring_tests::routed::{SOON, Scene, say, scene};
use pgring_tests::wire::Wire;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A scene whose second listener is for reads only, and the address of that.
fn stage(standbys: usize, change: impl FnOnce(Settings) -> Settings) -> (Scene, SocketAddr) {
    let port = Port::take();
    let address = port.address();
    let scene = scene(standbys, |settings| {
        change(settings.set("listen_readonly", [&*address.to_string()]))
    });
    until("a standby that is known", SOON, || {
        let nodes = scene.pgring.console().show("SHOW NODES");
        nodes.iter().filter(|node| node["role"] == "standby").count() == standbys
    });
    (scene, address)
}

/// With and without routing, in each mode of pooling.
#[test]
fn all_that_is_said_goes_to_a_standby_and_what_writes_is_refused() {
    at_most_minutes(5);
    for (reads, mode) in [
        ("replicas", "transaction"),
        ("primary", "transaction"),
        ("primary", "session"),
        ("primary", "statement"),
    ] {
        let (scene, address) =
            stage(1, |settings| settings.set("routing.reads", reads).set("pool.mode", mode));
        let mut client = Wire::login(address, "app");
        // By this libpq's target_session_attrs=standby goes.
        assert_eq!(client.parameters["in_hot_standby"], "on", "{reads} {mode}");
        assert_eq!(client.value("SELECT here()"), "standby", "{reads} {mode}");
        assert_eq!(client.value("SELECT maybe()"), "standby");
        assert_eq!(client.value("SHOW transaction_read_only"), "on");
        for sql in [
            "INSERT INTO notes VALUES (900, 'x')",
            "/* pgring: primary */ INSERT INTO notes VALUES (900, 'x')",
            "CREATE TABLE t (n int)",
            "SELECT nextval('counter')",
            "SELECT writes()",
            "/* pgring: replica */ SELECT writes()",
        ] {
            for _ in 0..2 {
                assert_eq!(client.failure(sql), "25006", "{reads} {mode}: {sql}");
            }
        }
        client.query("SET pgring.route = 'primary'");
        assert_eq!(client.value("SELECT here()"), "standby", "{reads} {mode}");
        // A pipeline of segments, of which one fails.
        let read = [extended("SELECT here()", &[]), sync()].concat();
        let write = [extended("DELETE FROM notes", &[]), sync()].concat();
        client.send(&[&read[..], &write, &read, &read].concat());
        let answers = client.until_ready(4);
        let rows: Vec<_> = answers.iter().filter(|it| it.tag == b'D').map(Message::value).collect();
        assert_eq!(rows, ["standby"; 3], "{reads} {mode}");
        if mode != "statement" {
            client.query("BEGIN");
            assert_eq!(client.value("SELECT here()"), "standby");
            assert_eq!(client.failure("UPDATE notes SET text = ''"), "25006");
            client.query("ROLLBACK");
            assert_eq!(client.value("SELECT here()"), "standby");
            // What a session keeps, it keeps where it is.
            client.query("PREPARE kept AS SELECT here()");
            assert_eq!(client.value("EXECUTE kept"), "standby");
            client.query("DEALLOCATE kept");
        }
        // The other listener is as it was.
        let mut other = Wire::login(scene.pgring.address(), "app");
        other.query("INSERT INTO notes VALUES (901, 'y')");
        assert_eq!(other.value("SELECT maybe()"), "primary", "{reads} {mode}");
        assert_eq!(scene.primary.psql("SELECT count(*) FROM notes WHERE id = 900").trim(), "0");
        assert_eq!(scene.pgring.violations(), Some(0));
    }
}

#[test]
fn without_a_standby_they_wait_for_one_and_the_primary_is_not_needed() {
    at_most_minutes(5);
    let (mut scene, address) = stage(1, |settings| {
        settings.set("pool.query_wait_timeout", "2s").set("pool.server_login_retry", "100ms")
    });
    let mut client = Wire::login(address, "app");
    assert_eq!(client.value("SELECT here()"), "standby");
    scene.primary.stop();
    // One that has never been here is greeted without the primary, too.
    let mut guest = Wire::login(address, "guest");
    assert_eq!(guest.value("SELECT here()"), "standby");
    scene.standbys[0].stop();
    until("the standby's end to be known", SOON, || client.failure("SELECT 1") == "57P03");
    let start = Instant::now();
    assert_eq!(client.failure("SELECT here()"), "57P03");
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    scene.primary.start_again();
    assert_eq!(client.failure("INSERT INTO notes VALUES (900, 'x')"), "57P03");
    // Both who come and who are there get it when it is back.
    let waits = thread::spawn(move || {
        until("a greeting", SOON, || Wire::try_login(address, &[("user", "app")]).is_some());
    });
    scene.standbys[0].start_again();
    until("the standby to be back", SOON, || say(&mut client, "SELECT here()") == "standby I");
    waits.join().expect("a greeting");
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn a_standby_that_is_promoted_is_left_by_all_of_them() {
    at_most_minutes(5);
    for mode in ["session", "transaction"] {
        let (scene, address) = stage(1, |settings| {
            let settings = settings.set("routing.reads", "primary").set("pool.mode", mode);
            settings.set("pool.query_wait_timeout", "300ms")
        });
        let mut client = Wire::login(address, "app");
        let mut inside = Wire::login(address, "app");
        assert_eq!(client.value("SELECT here()"), "standby");
        let mut pinned = Wire::login(address, "app");
        pinned.query("PREPARE kept AS SELECT here()");
        inside.query("BEGIN");
        assert_eq!(inside.value("SELECT here()"), "standby");
        scene.standbys[0].psql("SELECT pg_promote()");
        // Of those that are on it, and of those that come.
        let mut ended = false;
        until("nobody to be there", SOON, || {
            ended |= !client.try_send(&query("SELECT here()"));
            let answer = client.read();
            let code = answer.as_ref().map(|it| (it.tag, it.code()));
            while let Some(message) = client.read() {
                if message.tag == b'Z' {
                    break;
                }
            }
            ended |= answer.is_none();
            ended || code.is_some_and(|(tag, code)| tag == b'E' && code.starts_with("57P0"))
        });
        let mut late = None;
        until("a greeting, or none", SOON, || {
            late = Wire::try_login(address, &[("user", "app")]);
            late.as_mut().is_none_or(|late| late.failure("SELECT 1") == "57P03")
        });
        drop(inside);
        // Whatever becomes of it, it writes nothing there.
        pinned.try_send(&query("INSERT INTO notes VALUES (900, 'x')"));
        let last = pinned.until_end();
        assert!(last.iter().all(|it| it.tag != b'C'), "{mode}: {last:?}");
        let insert = "INSERT INTO notes VALUES (900, 'x')";
        if let Some(late) = &mut late {
            assert_eq!(late.failure(insert), "57P03", "{mode}");
        }
        for node in [&scene.primary, &scene.standbys[0]] {
            assert_eq!(node.psql("SELECT count(*) FROM notes WHERE id = 900").trim(), "0");
        }
    }
}

#[test]
fn a_standby_killed_under_load_costs_no_read_here_either() {
    at_most_minutes(5);
    let (mut scene, address) = stage(2, |settings| settings.set("pool.size", 16));
    scene.primary.fill_pgbench(1);
    let mut other = Wire::login(scene.pgring.address(), "app");
    // The catalog is read anew behind it.
    other.query("CREATE TABLE more (n int)");
    until("the tables to be known", SOON, || {
        other.value("SELECT here() FROM pgbench_branches") == "standby"
    });
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let port = address.port().to_string();
            let mut command = Command::new(program("pgbench"));
            command.args(["-n", "-S", "-c", "16", "-j", "2", "-T", "4", "-h", "127.0.0.1"]);
            command.args(["-p", &port, "-U", "app", "app"]).env("PGPASSWORD", PASSWORD);
            run(&mut command, Duration::from_mins(2))
        });
        // Each lane has to have the catalog to know what can be said again.
        until("load on both standbys", SOON, || {
            scene.pgring.queries("pg2") > 2_000 && scene.pgring.queries("pg3") > 2_000
        });
        scene.standbys[0].end();
        let Outcome { success, stdout, stderr } = load.join().expect("pgbench");
        let clean = stdout.contains("number of failed transactions: 0 ");
        assert!(success && clean && !stderr.contains("error"), "{stdout}\n{stderr}");
    });
    assert_eq!(scene.pgring.violations(), Some(0));
}
