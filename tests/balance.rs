//! How reads are shared among standbys, under pgbench: evenly, by speed, and without an error when
//! one of them is killed.

use pgring_tests::command::{Outcome, at_most_minutes, run, say, until};
use pgring_tests::console::http;
use pgring_tests::delay::Delay;
use pgring_tests::dice::amount;
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres, program};
use pgring_tests::routed::SOON;
use pgring_tests::wire::Wire;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// A primary with pgbench's tables and two standbys, each behind a relay that can be slow.
struct Scene {
    _primary: Postgres,
    standbys: [Postgres; 2],
    ways: [Delay; 2],
    pgring: Pgring,
}

fn scene() -> Scene {
    let primary = Postgres::start();
    primary.fill_pgbench(1);
    let standbys = [primary.start_standby(&[]), primary.start_standby(&[])];
    let ways = [Delay::start(standbys[0].address()), Delay::start(standbys[1].address())];
    let nodes = [primary.address(), ways[0].address(), ways[1].address()];
    let settings = Settings::new(&primary).nodes(&nodes.map(|node| node.to_string()));
    let settings = settings.set("monitor.user", "guest").set("monitor.interval", "50ms");
    let settings = settings.set("routing.reads", "replicas").set("routing.slow_start", "off");
    // One worker, so that each has enough to go by.
    let pgring = settings.set("workers", 1).set("pool.size", 40).start();
    let mut client = Wire::login(pgring.address(), "app");
    let count = "SELECT count(*) FROM pgbench_branches";
    until("reads on both standbys", SOON, || {
        client.query(count);
        queries(&pgring).iter().all(|queries| *queries > 0)
    });
    Scene { _primary: primary, standbys, ways, pgring }
}

/// Queries that each standby has got so far.
fn queries(pgring: &Pgring) -> [u64; 2] {
    let (_, metrics) = http(pgring.http(), "/metrics");
    ["pg2", "pg3"].map(|node| {
        let label = format!("node=\"{node}\"");
        let lines = metrics.lines().filter(|line| line.starts_with("pgring_queries_total{"));
        let numbers = lines.filter(|line| line.contains(&label)).filter_map(|line| {
            line.rsplit_once(' ').and_then(|(_, number)| number.parse::<u64>().ok())
        });
        numbers.sum()
    })
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
fn equal_standbys_share_equally_and_a_slow_one_gets_little() {
    at_most_minutes(5);
    let scene = scene();
    let seconds = amount("PGRING_BENCH_SECONDS", 3);
    // Beside other tests a start may find one of them cold, or short of a core, for a while.
    until("equal standbys to share equally", Duration::from_mins(2), || {
        let [one, two] = shares(&scene, seconds);
        say(&format!("equal standbys: {one:.1} and {two:.1} %"));
        (47.0..=53.0).contains(&one)
    });
    scene.ways[0].set(Duration::from_millis(20));
    let [slow, quick] = shares(&scene, seconds);
    say(&format!("one 20 ms slower: {slow:.1} and {quick:.1} %"));
    assert!(slow < 20.0, "{slow:.1} and {quick:.1} %");
    scene.ways[0].set(Duration::ZERO);
    until("the slow one to be as good as the other", Duration::from_mins(2), || {
        let [again, other] = shares(&scene, 2);
        say(&format!("no longer: {again:.1} and {other:.1} %"));
        again > 40.0
    });
}

#[test]
fn a_standby_killed_under_load_costs_no_read() {
    at_most_minutes(5);
    let Scene { _primary, mut standbys, ways: _ways, pgring } = scene();
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
