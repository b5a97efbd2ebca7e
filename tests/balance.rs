//! How reads are shared among standbys, under pgbench: evenly, by speed, and without an error when
//! one of them is killed; and with the primary, where that takes its part.

use pgring_tests::command::{Outcome, at_most_minutes, run, say, until};
use pgring_tests::delay::Delay;
use pgring_tests::dice::amount;
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres, program};
use pgring_tests::routed::SOON;
use pgring_tests::wire::Wire;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// A primary with pgbench's tables and two standbys.
struct Scene {
    primary: Postgres,
    standbys: [Postgres; 2],
    pgring: Pgring,
}

/// The way to the first standby may lead elsewhere.
fn scene(way: impl FnOnce(SocketAddr) -> SocketAddr) -> Scene {
    scene_with(way, "replicas")
}

fn scene_with(way: impl FnOnce(SocketAddr) -> SocketAddr, reads: &str) -> Scene {
    let primary = Postgres::start();
    primary.fill_pgbench(1);
    let standbys = [primary.start_standby(&[]), primary.start_standby(&[])];
    let nodes = [primary.address(), way(standbys[0].address()), standbys[1].address()];
    let settings = Settings::new(&primary).nodes(&nodes.map(|node| node.to_string()));
    let settings = settings.set("monitor.user", "guest").set("monitor.interval", "50ms");
    let settings = settings.set("routing.reads", reads).set("routing.slow_start", "off");
    // One worker, so that each has enough to go by.
    let pgring = settings.set("workers", 1).set("pool.size", 40).start();
    let mut client = Wire::login(pgring.address(), "app");
    let count = "SELECT count(*) FROM pgbench_branches";
    until("reads on both standbys", SOON, || {
        client.query(count);
        queries(&pgring).iter().all(|queries| *queries > 0)
    });
    Scene { primary, standbys, pgring }
}

/// Queries that each standby has got so far.
fn queries(pgring: &Pgring) -> [u64; 2] {
    ["pg2", "pg3"].map(|node| pgring.queries(node))
}

/// Runs `pgbench -S` with 64 clients for so many seconds, and wants no error.
fn pgbench(pgring: &Pgring, seconds: usize) {
    let port = pgring.address().port().to_string();
    let mut command = Command::new(program("pgbench"));
    command.args(["-n", "-S", "-c", "64", "-j", "2", "-h", "127.0.0.1", "-p", &port, "-U", "app"]);
    command.args(["-T", &seconds.to_string(), "app"]).env("PGPASSWORD", PASSWORD);
    let Outcome { success, stdout, stderr } = run(&mut command, Duration::from_mins(5));
    let clean = stdout.contains("number of failed transactions: 0 ");
    assert!(success && clean && !stderr.contains("error"), "{stdout}\n{stderr}");
}

/// What each standby gets of it, in percent.
fn shares(scene: &Scene, seconds: usize) -> [f64; 2] {
    let before = queries(&scene.pgring);
    pgbench(&scene.pgring, seconds);
    let after = queries(&scene.pgring);
    let [one, two] = [0, 1].map(|node| {
        let count = after[node] - before[node];
        f64::from(u32::try_from(count).expect("a test is short"))
    });
    [one, two].map(|queries| 100.0 * queries / (one + two))
}

#[test]
fn equal_standbys_share_equally() {
    at_most_minutes(5);
    let scene = scene(|address| address);
    // Its servers are opened, and its caches filled, while the first clients wait.
    shares(&scene, 1);
    let [one, two] = shares(&scene, amount("PGRING_BENCH_SECONDS", 3));
    say(&format!("equal standbys: {one:.1} and {two:.1} %"));
    assert!((47.0..=53.0).contains(&one), "{one:.1} and {two:.1} %");
}

#[test]
fn a_slow_standby_gets_little_for_as_long_as_it_is_slow() {
    at_most_minutes(5);
    let mut relay = None;
    let scene = scene(|address| relay.insert(Delay::start(address)).address());
    let relay = relay.expect("a relay");
    relay.set(Duration::from_millis(20));
    let seconds = amount("PGRING_BENCH_SECONDS", 3);
    // Beside other tests an answer may take as long anyway.
    until("the slow one to get little", Duration::from_mins(2), || {
        let [slow, quick] = shares(&scene, seconds);
        say(&format!("one 20 ms slower: {slow:.1} and {quick:.1} %"));
        slow < 20.0
    });
    relay.set(Duration::ZERO);
    // As quick as the other it is never: the relay's threads wait for a core, too.
    until("the slow one to be used again", Duration::from_mins(2), || {
        let [again, other] = shares(&scene, seconds);
        say(&format!("no longer: {again:.1} and {other:.1} %"));
        again > 25.0
    });
}

#[test]
fn a_standby_killed_under_load_costs_no_read() {
    at_most_minutes(5);
    let Scene { primary: _primary, mut standbys, pgring } = scene(|address| address);
    let seconds = amount("PGRING_BENCH_SECONDS", 3) + 2;
    thread::scope(|scope| {
        let before = queries(&pgring);
        let load = scope.spawn(|| pgbench(&pgring, seconds));
        until("load on the standby", SOON, || queries(&pgring)[0] > before[0] + 1_000);
        standbys[0].end();
        load.join().expect("no error");
    });
    assert_eq!(pgring.violations(), Some(0));
}

#[test]
fn the_primary_takes_its_part_for_as_long_as_it_lives() {
    at_most_minutes(5);
    let Scene { mut primary, standbys: _standbys, pgring } = scene_with(|address| address, "all");
    pgbench(&pgring, 1);
    let all = || [pgring.queries_of_primary(), pgring.queries("pg2"), pgring.queries("pg3")];
    let before = all();
    pgbench(&pgring, amount("PGRING_BENCH_SECONDS", 3));
    let counts = all().into_iter().zip(before).map(|(after, before)| after - before);
    let counts: Vec<_> = counts.map(|count| u32::try_from(count).expect("it is short")).collect();
    let sum = f64::from(counts.iter().sum::<u32>());
    let shares: Vec<_> = counts.iter().map(|count| 100.0 * f64::from(*count) / sum).collect();
    say(&format!("the primary and two standbys: {shares:.1?} %"));
    assert!(shares.iter().all(|share| (25.0..=42.0).contains(share)), "{shares:.1?} %");

    let mut client = Wire::login(pgring.address(), "app");
    let count = "SELECT count(*) FROM pgbench_branches";
    client.query(count);
    primary.end();
    let mut console = pgring.console();
    until("the primary to be missed", SOON, || {
        console.find("SHOW NODES", "node", "pg1").is_some_and(|row| row["role"] == "unknown")
    });
    let before = all();
    for _ in 0..100 {
        assert_eq!(client.rows(count), ["1"]);
    }
    let after = all();
    assert_eq!(after[0], before[0], "none goes to where the primary was");
    // One by one they may all go to one standby, if the other was just measured to be slow.
    assert_eq!(after[1] + after[2], before[1] + before[2] + 100, "all go to standbys");
}
