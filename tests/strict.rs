//! Strict reads: what any session has been told is committed, every other reads.

use pgring_tests::command::{at_most_minutes, say, until};
use pgring_tests::dice::amount;
use pgring_tests::message::{bind, execute, extended, parse, query, sync};
use pgring_tests::routed::{SOON, Scene, scene, together};
use pgring_tests::wire::Wire;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What one session has been told is committed, another reads at once, on whatever worker it is.
#[test]
fn strict_reads_show_what_any_session_has_written() {
    at_most_minutes(10);
    let scene = scene(2, |settings| {
        settings.set("monitor.interval_busy", "5ms").set("routing.consistency", "strict")
    });
    let pairs = amount("PGRING_PAIRS", 2_000);
    let mut writers: Vec<_> = (0..3).map(|_| scene.client()).collect();
    let mut readers: Vec<_> = (0..4).map(|_| scene.client()).collect();
    let mut on_standby = 0;
    for pair in 0..pairs {
        let (writer, reader) = (pair % writers.len(), pair % readers.len());
        if pair % 200 == 50 {
            scene.standbys[0].psql("SELECT pg_wal_replay_pause()");
        } else if pair % 200 == 150 {
            scene.standbys[0].psql("SELECT pg_wal_replay_resume()");
        }
        let writer = &mut writers[writer];
        let update = format!("UPDATE notes SET text = '{pair}' WHERE id = 7");
        match pair % 4 {
            0 => drop(writer.query(&update)),
            1 => {
                for sql in ["BEGIN", &update, "SELECT 1", "COMMIT"] {
                    writer.query(sql);
                }
            }
            2 => {
                writer.send(&[query("BEGIN"), query(&update), query("COMMIT")].concat());
                writer.until_ready(3);
            }
            _ => {
                // Who leaves at once, and who keeps its server.
                let mut other = Wire::login(scene.pgring.address(), "app");
                if pair % 8 == 3 {
                    other.query("LISTEN nothing");
                }
                other.query(&update);
            }
        }
        let text = "SELECT text || ' ' || here() FROM notes WHERE id = 7";
        let read = |reader: &mut Wire| {
            let answer = reader.value(text);
            let (text, node) = answer.split_once(' ').expect("two words");
            assert_eq!(text, pair.to_string(), "a stale read on a {node}");
            node == "standby"
        };
        on_standby += usize::from(read(&mut readers[reader]));
        if pair % 20 == 0 {
            until("a read on a standby", SOON, || read(&mut readers[reader]));
            on_standby += 1;
        }
    }
    assert!(on_standby > 0, "no read ever went to a standby");
    // A client that is gone in the middle of its transaction holds up nobody for good.
    let mut gone = Wire::login(scene.pgring.address(), "app");
    gone.query("BEGIN");
    gone.query("UPDATE notes SET text = 'never' WHERE id = 8");
    until("a read on a standby", SOON, || readers[0].value("SELECT here()") == "standby");
    gone.send(&query("SELECT pg_sleep(60)"));
    drop(gone);
    writers[0].query("UPDATE notes SET text = 'last' WHERE id = 7");
    until("a read on a standby", SOON, || readers[0].value("SELECT here()") == "standby");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// What is shown at once of a write while the standby replays nothing: anything read there is old.
fn strictly(scene: &Scene, form: &str, write: impl FnOnce(&mut Wire, &str)) {
    let (mut writer, mut reader) = (scene.client(), scene.client());
    scene.standbys[0].psql("SELECT pg_wal_replay_pause()");
    let before = reader.value("SELECT text || ' ' || here() FROM notes WHERE id = 7");
    assert!(before.ends_with(" standby"), "{form}: {before}");
    write(&mut writer, &format!("UPDATE notes SET text = '{form}' WHERE id = 7"));
    for _ in 0..20 {
        assert_eq!(reader.value("SELECT text FROM notes WHERE id = 7"), form, "a stale read");
    }
    scene.standbys[0].psql("SELECT pg_wal_replay_resume()");
    until("a read on the standby", SOON, || reader.value("SELECT here()") == "standby");
}

#[test]
fn strict_reads_show_commits_that_do_not_look_like_any() {
    at_most_minutes(5);
    let scene = scene(1, |settings| {
        settings.set("routing.consistency", "strict").set("monitor.interval", "20ms")
    });
    let three = |client: &mut Wire, sql: [&str; 3]| {
        for sql in sql {
            assert!(client.query(sql).iter().all(|it| it.tag != b'E'), "{sql}");
        }
    };
    strictly(&scene, "chain", |client, sql| three(client, ["BEGIN", sql, "COMMIT AND CHAIN"]));
    strictly(&scene, "multiple", |client, sql| three(client, ["BEGIN", sql, "COMMIT; BEGIN"]));
    strictly(&scene, "failed", |client, sql| {
        three(client, ["BEGIN", sql, "SELECT 1"]);
        client.query("COMMIT AND CHAIN; SELECT 1/0");
    });
    strictly(&scene, "pipeline", |client, sql| {
        client.send(&[query(sql), query("BEGIN")].concat());
        client.until_ready(2);
    });
    strictly(&scene, "behind a rollback", |client, sql| {
        three(client, ["BEGIN", "SELECT 1", "SELECT 2"]);
        client.send(&[query("ROLLBACK"), query(sql)].concat());
        client.until_ready(2);
    });
    strictly(&scene, "in pieces", |client, sql| {
        let bytes = query(sql);
        client.send(&bytes[..10]);
        // The pieces are not to come as one.
        thread::sleep(Duration::from_millis(50));
        client.send(&bytes[10..]);
        client.until_ready(1);
    });
    strictly(&scene, "in a segment", |client, sql| {
        client.send(&[extended("BEGIN", &[]), extended(sql, &[]), sync()].concat());
        client.until_ready(1);
        client.send(&[extended("COMMIT", &[]), extended("BEGIN", &[]), sync()].concat());
        client.until_ready(1);
    });
    strictly(&scene, "behind a commit", |client, sql| {
        three(client, ["BEGIN", "SELECT 1", "SELECT 2"]);
        client.send(&[extended("COMMIT", &[]), extended(sql, &[]), sync()].concat());
        client.until_ready(1);
    });
    strictly(&scene, "pinned", |client, sql| three(client, ["LISTEN x", sql, "SELECT 1"]));
    // One that began before the write, and reads behind it.
    let (mut writer, mut reader) = (scene.client(), scene.client());
    scene.standbys[0].psql("SELECT pg_wal_replay_pause()");
    reader.query("BEGIN READ ONLY");
    writer.query("UPDATE notes SET text = 'begun' WHERE id = 7");
    assert_eq!(reader.value("SELECT text FROM notes WHERE id = 7"), "begun");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// What was never sent is no commit, and holds up nobody.
#[test]
fn statements_that_never_reach_a_server_keep_no_reads_from_standbys() {
    at_most_minutes(3);
    let scene = scene(1, |settings| {
        settings.set("routing.consistency", "strict").set("pool.query_wait_timeout", "500ms")
    });
    let (mut first, mut second, mut reader) = (scene.client(), scene.client(), scene.client());
    let insert = parse("ins", "INSERT INTO notes VALUES (700, 'x')", &[]);
    first.send(&[insert.clone(), bind("", "ins", &[]), execute("", 0), sync()].concat());
    first.until_ready(1);
    second.send(&[insert, sync()].concat());
    second.until_ready(1);
    let standby = |reader: &mut Wire| {
        until("a read on the standby", SOON, || reader.value("SELECT here()") == "standby");
    };
    standby(&mut reader);
    let mut holders: Vec<_> = (0..4).map(|_| scene.client()).collect();
    for holder in &mut holders {
        holder.query("BEGIN");
        holder.query("SELECT 1");
    }
    assert_eq!(second.failure("INSERT INTO notes VALUES (701, 'x')"), "53300");
    standby(&mut reader);
}

/// Somebody is always committing: a read that may wait is shown what the primary had when it came.
#[test]
fn strict_reads_that_may_wait_find_standbys_though_others_write() {
    at_most_minutes(5);
    let scene = scene(1, |settings| {
        let settings = settings.set("routing.consistency", "strict");
        settings.set("routing.read_wait_max", "5s").set("monitor.interval_busy", "5ms")
    });
    let (mut reader, done) = (scene.client(), AtomicBool::new(false));
    thread::scope(|scope| {
        let writers: Vec<_> = [20, 30]
            .map(|row| {
                let (scene, done) = (&scene, &done);
                scope.spawn(move || {
                    let mut writer = scene.client();
                    let update = format!("UPDATE notes SET text = text || 'x' WHERE id = {row}");
                    while !done.load(Ordering::Relaxed) {
                        writer.query(&update);
                    }
                })
            })
            .into();
        let mut last = 0;
        for _ in 0..50 {
            let answer = reader.value("SELECT length(text) || here() FROM notes WHERE id = 20");
            let length = answer.strip_suffix("standby").expect("a standby in time");
            let length = length.parse::<usize>().expect("a number");
            assert!(length >= last, "it went back in time");
            last = length;
        }
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("it only writes");
        }
    });
}

/// A database whose strict reads may wait for a standby, beside one whose reads may not.
const WAITING: &str = "
    [[databases]]
    name = \"app\"
    [[databases]]
    name = \"waits\"
    dbname = \"app\"
    [databases.routing]
    read_wait_max = \"10s\"
";

/// H23 across sessions: one writes, others read, while one standby is late and the other stands
/// still for a while again and again.
#[test]
fn sessions_read_what_others_wrote() {
    const PAIRS: usize = 8;
    at_most_minutes(60);
    let scene = scene(2, |settings| {
        let settings = settings.set("routing.consistency", "strict").databases(WAITING);
        settings.set("monitor.interval_busy", "5ms").set("pool.size", 8)
    });
    scene.standbys[1].psql("ALTER SYSTEM SET recovery_min_apply_delay = '200ms'");
    scene.standbys[1].psql("SELECT pg_reload_conf()");
    let pairs = amount("PGRING_PAIRS", 4_000);
    let talk = |number: usize| {
        let (mut writer, mut reader) = (scene.client(), scene.client());
        let waits = [("user", "app"), ("database", "waits")];
        let mut patient = Wire::login_with(scene.pgring.address(), &waits);
        let row = number + 10;
        let text = format!("SELECT text || ' ' || here() FROM notes WHERE id = {row}");
        let mut on_standby = 0;
        for pair in 0..pairs.div_ceil(PAIRS) {
            writer.query(&format!("UPDATE notes SET text = '{pair}' WHERE id = {row}"));
            let reader = if pair % 50 == 0 { &mut patient } else { &mut reader };
            let answer = reader.value(&text);
            let (text, node) = answer.split_once(' ').expect("two words");
            assert_eq!(text, pair.to_string(), "a stale read on a {node}");
            on_standby += usize::from(node == "standby");
        }
        on_standby
    };
    let on_standby = together(PAIRS, talk, || scene.pause(0, Duration::from_millis(100)));
    say(&format!("{pairs} pairs, {on_standby} reads on standbys"));
    // Of those that wait for one, most.
    assert!(on_standby * 500 >= pairs, "{on_standby} of {pairs} reads on standbys");
    assert_eq!(scene.pgring.violations(), Some(0));
}
