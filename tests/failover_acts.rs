//! What pgring does to nodes by SQL, on real ones, with the role of `config/failover.sql` and no
//! right more. Times are printed: `cargo test --test failover_acts -- --nocapture`.
#![expect(clippy::print_stdout, reason = "how long things take is half of what is to be known")]

use pgring_logic::conninfo::Conninfo;
use pgring_logic::failover::act::{Act, Done, Hook, View};
use pgring_logic::failover::slot::slot_name;
use pgring_logic::record::Synchronous;
use pgring_logic::topology::Lsn;
use pgring_tests::acting::{Node, ROLE, SOON, make_role};
use pgring_tests::command::at_most_minutes;
use pgring_tests::postgres::{Postgres, psql};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

fn sync(names: &[&str]) -> Act {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Act::Sync(Synchronous { quorum: 1, names }.setting())
}

fn streams(view: &View) -> bool {
    view.receiver.is_some()
}

/// A commit by a client, on a thread of its own.
fn commit(node: &Postgres) -> thread::JoinHandle<bool> {
    let address = node.address();
    thread::spawn(move || {
        let sql = "SET synchronous_commit = on; INSERT INTO t VALUES (1)";
        psql(address, "app", "postgres", sql).success
    })
}

/// The one that is ahead is promoted; it waits for the other one from its first commit on. Gives
/// a commit that hangs on the old primary.
fn replace([p, a, b]: [&Node<'_>; 3], sources: &[View; 2]) -> thread::JoinHandle<bool> {
    let (seen_a, took) = a.freeze();
    println!("freeze a: {took:?}");
    let (seen_b, _) = b.freeze();
    assert!(seen_a.end > seen_b.end, "a has the commit: {seen_a:?} {seen_b:?}");
    let fence = commit(p.postgres);
    a.well(&sync(&["b"]));
    a.well(&Act::Slots(vec![slot_name("b")]));
    println!("promote: {:?}", a.well(&Act::Promote(SOON)));
    println!("promote again: {:?}", a.well(&Act::Promote(SOON)));
    let after = a.look();
    assert_eq!((after.recovery, after.timeline, after.sync.as_str()), (false, 2, "ANY 1 (\"b\")"));
    assert!(after.end > seen_a.end);
    let first = commit(a.postgres);
    thread::sleep(Duration::from_millis(300));
    assert!(!first.is_finished(), "nobody could have acknowledged it");
    println!("follow: {:?}", b.well(&b.follow(&sources[1], a, &slot_name("b"))));
    let (_, took) = b.until("it streams from a", |view| streams(view) && view.timeline == 2);
    println!("streams from the new one after: {took:?}");
    assert!(first.join().expect("a commit"));
    println!("canary: {:?}", a.well(&Act::Canary));
    println!("checkpoint: {:?}", a.well(&Act::Checkpoint));
    assert!(!fence.is_finished(), "the old primary acknowledged a commit");
    let rows = psql(a.postgres.address(), "postgres", "postgres", "SELECT count(*) FROM t");
    assert_eq!(rows.stdout.trim(), "3", "one before, one thawed, one on the new primary");
    fence
}
/// How long a receiver waits for a silent primary.
const PATIENCE: Duration = Duration::from_millis(700);

#[test]
fn a_primary_is_replaced_by_one_of_two_standbys_without_a_lost_commit() {
    at_most_minutes(4);
    let p = Postgres::start_with(&["synchronous_commit = on", "fsync = on"]);
    make_role(&p);
    psql(p.address(), "postgres", "postgres", "CREATE TABLE t (i int); GRANT ALL ON t TO app")
        .expect_success("a table");
    let (a, b) = (p.start_standby(&[]), p.start_standby(&[]));
    let (p, a, b) = (Node::new(&p, "p"), Node::new(&a, "a"), Node::new(&b, "b"));
    let before = p.look();
    assert_eq!((before.recovery, before.timeline, &before.receiver), (false, 1, &None));
    assert!(before.system != 0 && before.started > 0 && before.unfit.is_none());

    // Both follow by name and through slots, and one of them acknowledges.
    p.well(&Act::Slots(vec![slot_name("a"), slot_name("b")]));
    p.well(&Act::Slots(vec![slot_name("a"), slot_name("b")]));
    for node in [&a, &b] {
        let (view, _) = node.until("it streams", streams);
        assert_eq!((view.recovery, view.timeline, view.system), (true, 1, before.system));
        assert!(
            view.receiver.as_ref().expect("one").from.ends_with(&p.postgres.port().to_string())
        );
        node.well(&Act::Prepare(PATIENCE));
        assert_eq!(node.look().retry, Duration::from_millis(50));
        let follow = node.follow(&view, &p, &slot_name(node.name));
        println!("follow {}: {:?}", node.name, node.well(&follow));
        let (view, took) = node.until("it streams by name", |view| {
            streams(view)
                && p.look().followers.iter().any(|it| &*it.name == node.name && it.streaming)
        });
        println!("streams again: {took:?}");
        assert_eq!(view.slot, slot_name(node.name));
    }
    p.well(&sync(&["a", "b"]));
    println!("canary: {:?}", p.well(&Act::Canary));
    assert!(commit(p.postgres).join().expect("a commit"));

    // Frozen, they acknowledge nothing; thawed, they do.
    let sources = [a.look(), b.look()];
    for node in [&a, &b] {
        println!("freeze {}: {:?}", node.name, node.freeze().1);
        println!("freeze again: {:?}", node.freeze().1);
    }
    let waiting = commit(p.postgres);
    thread::sleep(Duration::from_millis(700));
    assert!(!waiting.is_finished(), "somebody acknowledged it");
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(p.postgres.psql(waits).trim(), "1");
    let begun = Instant::now();
    a.well(&a.follow(&sources[0], &p, &slot_name("a")));
    assert!(waiting.join().expect("a commit"));
    println!("thaw until the commit is acknowledged: {:?}", begun.elapsed());

    let fence = replace([&p, &a, &b], &sources);

    // The old one is shut, as long as somebody can ask it.
    println!("kick: {:?}", p.well(&Act::Kick));
    drop(fence.join());
    assert!(p.look().read_only);
    let refused = psql(p.postgres.address(), "app", "app", "CREATE TABLE u ()");
    assert!(refused.stderr.contains("read-only"), "{}", refused.stderr);
}

#[test]
fn the_timeline_of_a_standby_without_a_receiver_is_that_of_its_log() {
    at_most_minutes(4);
    let p = Postgres::start();
    make_role(&p);
    let (a, b, c) = (p.start_standby(&[]), p.start_standby(&[]), p.start_standby(&[]));
    let nodes = [Node::new(&a, "a"), Node::new(&b, "b"), Node::new(&c, "c")];
    let p = Node::new(&p, "p");
    let mut old = nodes.each_ref().map(Node::look);
    for (index, node) in nodes.iter().enumerate() {
        node.well(&Act::Prepare(PATIENCE));
        old[index] = node.freeze().0;
        assert_eq!((old[index].timeline, node.identified()), (1, 1));
    }
    let [a, b, c] = &nodes;
    a.well(&Act::Promote(SOON));
    // Before any checkpoint of the new timeline, on whichever side.
    let control = "SELECT timeline_id FROM pg_control_checkpoint()";
    println!("the control file of a new primary: {}", a.postgres.psql(control).trim());
    assert_eq!((a.look().timeline, a.identified()), (2, 2));
    b.well(&b.follow(&old[1], a, ""));
    b.until("it streams", |view| streams(view) && view.timeline == 2);
    a.well(&Act::Canary);
    b.until("it has all", |view| view.replayed == a.look().end);
    let (frozen, _) = b.freeze();
    println!(
        "a frozen standby of it: by segments {}, IDENTIFY_SYSTEM {}, checkpoint {}, recovery {}",
        frozen.timeline,
        b.identified(),
        b.postgres.psql(control).trim(),
        b.postgres.psql("SELECT min_recovery_end_timeline FROM pg_control_recovery()").trim(),
    );
    assert_eq!((frozen.timeline, b.identified()), (2, 2));
    // Cascades: c has it from b, and b is promoted afterwards.
    b.well(&b.follow(&frozen, a, ""));
    c.well(&c.follow(&old[2], b, ""));
    c.until("it streams from b", |view| streams(view) && view.timeline == 2);
    b.freeze();
    b.well(&Act::Promote(SOON));
    assert_eq!(b.look().timeline, 3);
    c.until("it is led over", |view| streams(view) && view.timeline == 3);
    a.well(&Act::Canary);
    let (frozen, _) = c.freeze();
    assert_eq!((frozen.timeline, c.identified()), (3, 3));
    assert_eq!(p.look().timeline, 1);
}

#[test]
fn what_cannot_be_done_is_said() {
    at_most_minutes(3);
    let p = Postgres::start();
    make_role(&p);
    let s = p.start_standby(&["recovery_min_apply_delay = '1min'"]);
    let (p, s) = (Node::new(&p, "p"), Node::new(&s, "s"));
    assert!(p.refuses(&Act::Freeze).contains("it is a primary"));
    let follow = Act::Follow { conninfo: "host=x".into(), slot: String::new() };
    assert!(p.refuses(&follow).contains("it is a primary"));
    p.well(&Act::Promote(SOON));
    assert!(p.refuses(&Act::Command(Hook::Fence)).contains("fence_command"));
    assert!(p.refuses(&Act::Slots(vec!["Not'legal".into()])).contains("Not'legal"));
    assert!(p.refuses(&Act::Sync("ANY x".into())).contains("synchronous_standby_names"));
    assert!(!s.refuses(&Act::Canary).is_empty());
    let view = s.look();
    assert_eq!(view.unfit.as_deref(), Some("replay is delayed by 60s"));
    assert!(!view.archive);
    let bad = Act::Follow { conninfo: view.conninfo.clone(), slot: "Not legal".into() };
    assert!(s.refuses(&bad).contains("primary_slot_name"));
    s.postgres.psql("SELECT pg_wal_replay_pause()");
    s.until("it pauses", |view| view.unfit.as_deref() == Some("replay is paused"));
    let done = s.act(&Act::Freeze);
    let Done::Failed { unknown: true, reason } = done else { panic!("{done:?}") };
    assert!(reason.contains("paused"), "{reason}");
}

#[test]
fn values_that_are_hostile_arrive_as_they_are() {
    at_most_minutes(3);
    let p = Postgres::start();
    make_role(&p);
    let s = p.start_standby(&[]);
    let (p, s) = (Node::new(&p, "p"), Node::new(&s, "s"));
    let old = Conninfo::parse(&s.look().conninfo).expect("fine");
    for name in [r"a'\'b ", "\\", "'", "x' host='nowhere", "\"; SELECT 1; --"] {
        let hostile = old.with("application_name", name).to_string();
        s.well(&Act::Follow { conninfo: hostile.clone(), slot: String::new() });
        assert_eq!(s.look().conninfo, hostile);
        let arrived = |view: &View| view.followers.iter().any(|it| &*it.name == name);
        p.until("it is called so", arrived);
    }
}

#[test]
fn a_kicked_node_only_reads_until_that_is_undone() {
    at_most_minutes(3);
    let p = Postgres::start();
    make_role(&p);
    let p = Node::new(&p, "p");
    let address = p.postgres.address();
    let other = thread::spawn(move || psql(address, "app", "app", "SELECT pg_sleep(60)").success);
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while p.postgres.psql(sleeps).trim() != "1" {
        thread::sleep(Duration::from_millis(5));
    }
    p.well(&Act::Kick);
    assert!(!other.join().expect("an end"), "its session was ended");
    assert!(p.look().read_only);
    assert!(!psql(address, "app", "app", "CREATE TABLE u ()").success);
    p.well(&Act::Kick);
    p.well(&Act::Unkick);
    p.well(&Act::Unkick);
    assert!(!p.look().read_only);
    assert!(psql(address, "app", "app", "CREATE TABLE u ()").success);
}

/// What the interval is good for: one that was refused comes again.
#[test]
fn a_prepared_standby_soon_tries_again() {
    at_most_minutes(3);
    let p = Postgres::start();
    make_role(&p);
    let s = p.start_standby(&[]);
    let (p, s) = (Node::new(&p, "p"), Node::new(&s, "s"));
    for (prepared, slot) in [(false, "pgring_a"), (true, "pgring_b")] {
        if prepared {
            s.well(&Act::Prepare(PATIENCE));
        }
        s.well(&s.follow(&s.look(), &p, slot));
        s.until("it is refused", |view| !streams(view));
        thread::sleep(Duration::from_secs(1));
        p.well(&Act::Slots(vec![slot.to_owned()]));
        let (_, took) = s.until("it streams", streams);
        println!("prepared {prepared}: it streams {took:?} after there is a slot");
        assert!(!prepared || took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn slots_of_a_standby_are_moved_by_hand() {
    at_most_minutes(3);
    let p = Postgres::start();
    make_role(&p);
    let s = p.start_standby(&[]);
    let (p, s) = (Node::new(&p, "p"), Node::new(&s, "s"));
    let name = slot_name("other");
    for node in [&p, &s] {
        node.well(&Act::Slots(vec![name.clone()]));
    }
    let place = "SELECT restart_lsn FROM pg_replication_slots";
    let old: Lsn = s.postgres.psql(place).trim().parse().expect("a place");
    for _ in 0..3 {
        p.well(&Act::Canary);
    }
    let end = p.look().end;
    s.until("it has all", |view| view.replayed >= end);
    s.well(&Act::Advance(vec![(name.clone(), end), ("missing".into(), end)]));
    let new: Lsn = s.postgres.psql(place).trim().parse().expect("a place");
    assert!(old < new && new == end, "{old} {new} {end}");
    s.well(&Act::Advance(vec![(name, old)]));
    assert_eq!(s.postgres.psql(place).trim(), end.to_string(), "never backwards");
}

/// How long a freeze and a promotion take with each interval, whether the primary lives or not.
#[test]
fn a_prepared_standby_is_promoted_at_once() {
    at_most_minutes(4);
    for (prepared, dead) in [(false, false), (false, true), (true, false), (true, true)] {
        for wait in [0, 100, 700] {
            let mut p = Postgres::start();
            make_role(&p);
            let s = p.start_standby(&[]);
            let s = Node::new(&s, "s");
            s.until("it streams", streams);
            if prepared {
                s.well(&Act::Prepare(PATIENCE));
            }
            if dead {
                p.end();
                s.until("it has noticed", |view| !streams(view));
            }
            let (_, froze) = s.freeze();
            thread::sleep(Duration::from_millis(wait));
            let took = s.well(&Act::Promote(SOON));
            let kind = format!("prepared {prepared}, dead {dead}, {wait} ms");
            println!("{kind}: frozen in {froze:?}, promoted in {took:?}");
            assert!(!prepared || took < Duration::from_secs(1), "{took:?}");
        }
    }
}

/// A primary behind a broken network: a receiver that has not got through to it hangs.
#[test]
fn a_standby_that_hangs_at_a_silent_primary_is_frozen_and_promoted() {
    at_most_minutes(4);
    let p = Postgres::start();
    make_role(&p);
    // Its backlog takes connections, and nobody ever says anything.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    for prepared in [false, true] {
        for wait in [0, 300, 1_500] {
            let s = p.start_standby(&[]);
            let s = Node::new(&s, "s");
            s.until("it streams", streams);
            if prepared {
                s.well(&Act::Prepare(PATIENCE));
            }
            let conninfo = format!("host=127.0.0.1 port={port} user=postgres");
            s.well(&Act::Follow { conninfo, slot: String::new() });
            s.until("it leaves", |view| !streams(view));
            thread::sleep(Duration::from_millis(wait));
            let (_, froze) = s.freeze();
            let receivers = "SELECT count(*) FROM pg_stat_activity \
                WHERE backend_type = 'walreceiver'";
            assert_eq!(s.postgres.psql(receivers).trim(), "0");
            let took = s.well(&Act::Promote(SOON));
            println!(
                "silent, prepared {prepared}, {wait} ms: frozen in {froze:?}, promoted in {took:?}"
            );
            assert!(!prepared || took < Duration::from_secs(1), "{took:?}");
        }
    }
}

/// A query on a standby that holds up replay holds up the freeze, too.
#[test]
fn a_standby_that_is_held_up_by_a_query_is_not_said_to_be_frozen() {
    at_most_minutes(3);
    let p = Postgres::start_with(&["synchronous_commit = on"]);
    make_role(&p);
    let s = p.start_standby(&["max_standby_streaming_delay = -1"]);
    let (p, s) = (Node::new(&p, "p"), Node::new(&s, "s"));
    p.postgres.psql("CREATE TABLE held AS SELECT 1");
    s.until("it has the table", |view| view.replayed >= p.look().end);
    let address = s.postgres.address();
    let query = thread::spawn(move || {
        psql(address, "postgres", "app", "SELECT pg_sleep(12) FROM held").success
    });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while s.postgres.psql(sleeps).trim() != "1" {
        thread::sleep(Duration::from_millis(5));
    }
    p.postgres.psql("DROP TABLE held");
    let waits = "SELECT wait_event_type FROM pg_stat_activity WHERE backend_type = 'startup'";
    while s.postgres.psql(waits).trim() != "Lock" {
        thread::sleep(Duration::from_millis(5));
    }
    let done = s.act(&Act::Freeze);
    let Done::Failed { unknown: true, reason } = done else { panic!("{done:?}") };
    assert!(reason.contains("held up by a query"), "{reason}");
    assert!(query.join().expect("an end"));
    println!("after the query: frozen in {:?}", s.freeze().1);
}

/// Changes rights on the primary, and waits until the standby has that.
fn change(p: &Postgres, s: &Postgres, how: impl FnOnce()) {
    how();
    let place = p.psql("SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", place.trim());
    // Of a primary there is nothing to wait for.
    while s.psql(&replayed).trim() == "f" {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Each right is needed: without it something fails, and says so.
#[test]
fn no_right_of_the_role_is_one_too_many() {
    at_most_minutes(4);
    let p = Postgres::start_with(&["synchronous_commit = on"]);
    make_role(&p);
    let (s, f) = (p.start_standby(&[]), p.start_standby(&[]));
    let (p, s, f) = (Node::new(&p, "p"), Node::new(&s, "s"), Node::new(&f, "f"));
    s.until("it streams", streams);
    let address = p.postgres.address();
    thread::spawn(move || psql(address, "app", "app", "SELECT pg_sleep(50)"));
    let follow = Act::Follow { conninfo: s.look().conninfo, slot: String::new() };
    for (right, node, act) in [
        ("pg_read_all_settings", &s, Act::Look),
        ("ALTER SYSTEM ON PARAMETER primary_conninfo", &s, Act::Freeze),
        ("ALTER SYSTEM ON PARAMETER primary_slot_name", &s, follow),
        ("ALTER SYSTEM ON PARAMETER wal_retrieve_retry_interval", &s, Act::Prepare(PATIENCE)),
        ("ALTER SYSTEM ON PARAMETER wal_receiver_timeout", &s, Act::Prepare(PATIENCE)),
        ("EXECUTE ON FUNCTION pg_promote(boolean, integer)", &s, Act::Promote(SOON)),
        ("ALTER SYSTEM ON PARAMETER synchronous_standby_names", &p, Act::Sync(String::new())),
        ("ALTER SYSTEM ON PARAMETER default_transaction_read_only", &p, Act::Kick),
        ("EXECUTE ON FUNCTION pg_reload_conf()", &p, Act::Unkick),
        ("pg_signal_backend", &p, Act::Kick),
        ("pg_checkpoint", &p, Act::Checkpoint),
        ("REPLICATION", &p, Act::Slots(vec!["x".into()])),
        // At last, for it stops receiving.
        ("EXECUTE ON FUNCTION pg_ls_waldir()", &f, Act::Freeze),
    ] {
        let revoke = match right {
            "REPLICATION" => format!("ALTER ROLE {ROLE} NOREPLICATION"),
            right => format!("REVOKE {right} FROM {ROLE}"),
        };
        change(p.postgres, node.postgres, || {
            let sql = format!("SET default_transaction_read_only = off; {revoke}");
            psql(address, "postgres", "postgres", &sql).expect_success(&revoke);
        });
        let why = node.refuses(&act);
        println!("{revoke}: {why}");
        assert!(why.contains("permission denied") || why.contains("must be"), "{why}");
        make_role(p.postgres);
        p.well(&Act::Unkick);
        change(p.postgres, s.postgres, || {});
    }
    change(p.postgres, s.postgres, || {
        let sql = format!("REVOKE pg_read_all_stats FROM {ROLE}");
        psql(address, "postgres", "postgres", &sql).expect_success(&sql);
    });
    assert_eq!(s.look().receiver, None, "it may not see it");
}
