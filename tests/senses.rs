//! What pgring knows of nodes that die, hang or come back, and what its clients notice of it.

use pgring_tests::command::{at_most_minutes, signal, until};
use pgring_tests::console::http;
use pgring_tests::message::{Message, query};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{Postgres, account};
use pgring_tests::routed::{SOON, say, scene};
use pgring_tests::wire::Wire;
use std::fs;
use std::time::{Duration, Instant};

/// The verdicts on a node so far, each with what it rests on.
fn verdicts(pgring: &Pgring, node: &str) -> Vec<(String, String)> {
    let rows = pgring.console().show("SHOW EVENTS").into_iter().filter(|row| row["node"] == node);
    rows.map(|row| (row["verdict"].clone(), row["evidence"].clone())).collect()
}

/// Waits until the verdict on a node is this one; what it rests on.
fn becomes(pgring: &Pgring, node: &str, verdict: &str) -> String {
    let mut last = None;
    until(&format!("{node} to be {verdict}"), SOON, || {
        last = verdicts(pgring, node).pop();
        last.as_ref().is_some_and(|(is, _)| is == verdict)
    });
    last.expect("there is one").1
}

/// A client.
fn client_of(pgring: &Pgring) -> Wire {
    Wire::login(pgring.address(), "app")
}

/// The answer to a statement that is under way, and what is said behind it.
fn ending(answers: &[Message]) -> String {
    let last = answers.iter().rfind(|it| it.tag == b'E').map(Message::code);
    last.unwrap_or_else(|| answers.iter().map(|it| char::from(it.tag)).collect())
}

#[test]
fn a_standby_that_dies_is_left_and_found_again() {
    at_most_minutes(5);
    let mut scene = scene(1, |settings| settings);
    let mut client = scene.client();
    becomes(&scene.pgring, "pg2", "healthy");
    scene.standbys[0].kill();
    let evidence = becomes(&scene.pgring, "pg2", "dead process");
    assert!(evidence.contains("nobody listened"), "{evidence}");
    assert_eq!(say(&mut client, "SELECT here()"), "primary I");
    let row = scene.pgring.console().find("SHOW NODES", "node", "pg2").expect("it is there");
    assert_eq!(row["verdict"], "dead process");
    let metrics = http(scene.pgring.http(), "/metrics").1;
    let line = "pgring_node_verdict{cluster=\"main\",node=\"pg2\",verdict=\"dead process\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    scene.standbys[0].start_again();
    becomes(&scene.pgring, "pg2", "healthy");
    until("a read on the standby", SOON, || say(&mut client, "SELECT here()") == "standby I");
    let row = scene.pgring.console().find("SHOW NODES", "node", "pg2").expect("it is there");
    for figure in ["connect_us", "round_trip_us", "round_trip_min_us"] {
        assert!(row[figure].parse::<u64>().is_ok_and(|us| us > 0 && us < 1_000_000), "{row:?}");
    }
}

/// What runs on a standby that hangs is asked of the primary, on a primary it goes on hanging.
#[test]
fn what_hangs_is_known_as_that_and_reads_do_not_wait_for_it() {
    at_most_minutes(5);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    let read = "SELECT here() FROM pg_sleep(0.3)";
    assert_eq!(say(&mut client, read), "standby I");
    let start = Instant::now();
    client.send(&query(read));
    let busy = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ 'sleep[(]0.3' AND \
                state = 'active' AND pid <> pg_backend_pid()";
    until("the read to run", SOON, || scene.standbys[0].psql(busy).trim() == "t");
    scene.standbys[0].signal_all("STOP");
    let answers = client.until_ready(1);
    let took = start.elapsed();
    assert_eq!(
        answers.iter().find(|it| it.tag == b'D').map(Message::value).as_deref(),
        Some("primary")
    );
    assert!(took < Duration::from_secs(6), "{took:?}");
    let evidence = becomes(&scene.pgring, "pg2", "hung");
    assert!(evidence.contains("a ping has arrived"), "{evidence}");
    let all: Vec<_> = verdicts(&scene.pgring, "pg2").into_iter().map(|(is, _)| is).collect();
    assert!(all.iter().all(|is| !is.starts_with("dead")), "{all:?}");
    scene.standbys[0].signal_all("CONT");
    becomes(&scene.pgring, "pg2", "healthy");

    let mut writer = client_of(&scene.pgring);
    writer.send(&query("INSERT INTO notes SELECT 900, 'slow' FROM pg_sleep(0.5)"));
    let busy = busy.replace("0.3", "0.5");
    until("the write to run", SOON, || scene.primary.psql(&busy).trim() == "t");
    scene.primary.signal_all("STOP");
    becomes(&scene.pgring, "pg1", "hung");
    scene.primary.signal_all("CONT");
    assert_eq!(ending(&writer.until_ready(1)), "CZ");
    becomes(&scene.pgring, "pg1", "healthy");
}

/// A primary whose postmaster is gone: a statement that may or may not have done its work ends at
/// once, with the code that says so, though its process is there and may still answer.
#[test]
fn a_write_on_a_dead_primary_ends_as_one_that_nobody_knows_of() {
    at_most_minutes(5);
    let mut primary = Postgres::start();
    primary.psql("CREATE TABLE notes (id int)");
    primary.psql("GRANT ALL ON notes TO app");
    // Nodes of tests keep what was flushed by a checkpoint, and no more.
    primary.psql("CHECKPOINT");
    let pgring = Settings::new(&primary).set("monitor.user", "guest").start();
    becomes(&pgring, "pg1", "healthy");
    let (mut idle, mut writer) = (client_of(&pgring), client_of(&pgring));
    let mut inside = client_of(&pgring);
    assert_eq!(say(&mut idle, "SELECT 1"), "1 I");
    assert_eq!(say(&mut inside, "BEGIN"), "BEGIN T");
    assert_eq!(say(&mut inside, "INSERT INTO notes VALUES (1)"), "INSERT 0 1 T");
    // It looks neither at its postmaster nor at its client before it is done.
    writer.send(&query("INSERT INTO notes SELECT count(*) FROM generate_series(1, 40000000)"));
    let busy = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ '40000000' AND \
                state = 'active' AND pid <> pg_backend_pid()";
    until("the write to run", SOON, || primary.psql(busy).trim() == "t");
    let start = Instant::now();
    primary.kill();
    assert_eq!(ending(&writer.until_end()), "08007");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let told = ending(&inside.until_end());
    assert!(["08006", "57P01", "57P02"].contains(&told.as_str()), "{told}");
    becomes(&pgring, "pg1", "dead process");
    // What is left of it goes by itself; then it can be started again.
    until("its last process to end", SOON, || {
        !fs::read_to_string(primary.home().join("data/postmaster.pid")).is_ok_and(|text| {
            let shared = text.lines().nth(6).and_then(|line| line.split_whitespace().last());
            shared.is_some_and(attached)
        })
    });
    primary.start_again();
    becomes(&pgring, "pg1", "healthy");
    assert_eq!(say(&mut idle, "SELECT count(*) FROM notes WHERE id = 1"), "0 I");
    assert_eq!(pgring.violations(), Some(0));
}

/// Whether a process holds this segment of shared memory.
fn attached(id: &str) -> bool {
    let all = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    all.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(1) == Some(id) && fields.nth(4).is_some_and(|count| count != "0")
    })
}

/// The programs in the kernel are loaded with exactly the rights that it takes, which are given up
/// at once; and without any, verdicts are the same.
#[test]
fn rights_are_given_up_and_can_be_missed() {
    at_most_minutes(5);
    let Some((uid, gid)) = account() else { return };
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let mut primary = Postgres::start();
    let as_user = ["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"];
    let rights = "-all,+bpf,+perfmon,+net_admin";
    let given = ["--bounding-set", rights, "--inh-caps", rights, "--ambient-caps", rights];
    let none = ["--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all"];
    for (rights, watched) in [(given, true), (none, false)] {
        let through = [&as_user[..], &rights].concat();
        let settings = Settings::new(&primary).set("monitor.user", "guest");
        // The memory of rings is counted by user, and let go of a little after their end.
        let settings = settings.set("workers", 1).set("limits.buffers", 64);
        let pgring = settings.through(&through).start();
        becomes(&pgring, "pg1", "healthy");
        let warned = pgring.log().contains("are not watched in the kernel");
        let btf = fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false);
        assert_eq!(warned, !(watched && btf), "{}", pgring.log());
        for thread in fs::read_dir(format!("/proc/{}/task", pgring.pid())).expect("its threads") {
            let status = thread.expect("a thread").path().join("status");
            let status = fs::read_to_string(status).unwrap_or_default();
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                let line = status.lines().find(|line| line.starts_with(set)).unwrap_or_default();
                assert!(line.ends_with("\t0000000000000000"), "{line}");
            }
        }
        assert_eq!(say(&mut client_of(&pgring), "SELECT 1"), "1 I");
        primary.end();
        becomes(&pgring, "pg1", "dead process");
        primary.start_again();
        becomes(&pgring, "pg1", "healthy");
    }
}

/// A write that does not end is seen where pings are answered and logins succeed.
#[test]
fn a_primary_that_cannot_write_hangs() {
    at_most_minutes(5);
    let primary = Postgres::start();
    let settings = Settings::new(&primary).set("monitor.user", "guest");
    let pgring = settings.set("monitor.heartbeat", "100ms").start();
    becomes(&pgring, "pg1", "healthy");
    let end = || primary.psql("SELECT pg_current_wal_lsn()");
    let before = end();
    until("something to be written", SOON, || end() != before);
    let mut writer = String::new();
    until("a heartbeat to be seen", SOON, || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE query ~ 'emit_message' AND \
                   pid <> pg_backend_pid()";
        writer = primary.psql(sql).trim().to_owned();
        !writer.is_empty()
    });
    let writer = writer.parse().expect("a pid");
    assert!(signal(writer, "STOP"));
    let evidence = becomes(&pgring, "pg1", "hung");
    assert!(evidence.contains("a write has not ended"), "{evidence}");
    assert_eq!(say(&mut client_of(&pgring), "SELECT 1"), "1 I");
    assert!(signal(writer, "CONT"));
    becomes(&pgring, "pg1", "healthy");
}
