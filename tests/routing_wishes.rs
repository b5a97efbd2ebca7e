//! What operators and sessions may wish of routing: hints, tokens, waits, weights, zones.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::dice::amount;
use pgring_tests::message::{Message, bind, execute, extended, parse, query, sync};
use pgring_tests::routed::{SOON, Scene, scene, scene_with};
use pgring_tests::wire::Wire;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn comments_and_sessions_say_where_statements_go() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    for (sql, node) in [
        ("/* pgring: primary */ SELECT here()", "primary"),
        ("SELECT here() /*controller='notes',pgring='primary'*/", "primary"),
        ("/*NO LOAD BALANCE*/ SELECT here()", "primary"),
        ("SELECT here() /* pgdog_role: primary */", "primary"),
        ("SELECT here() || ' /* pgring: primary */'", "standby /* pgring: primary */"),
        // Volatile, as far as anybody knows.
        ("SELECT maybe()", "primary"),
        ("/* pgring: replica */ SELECT maybe()", "standby"),
        // It writes, whatever the comment says.
        ("/* pgring: replica */ SELECT writes()", "primary"),
        ("/* pgring: replica */ INSERT INTO notes VALUES (500, 'x') RETURNING here()", "primary"),
    ] {
        until("the standby to follow", SOON, || client.value("SELECT here()") == "standby");
        assert_eq!(client.value(sql), node, "{sql}");
    }
    client.query("SET pgring.route = 'primary'");
    assert_eq!(client.value("SELECT here()"), "primary");
    client.query("SET pgring.route = 'replica'");
    until("the standby to follow", SOON, || client.value("SELECT maybe()") == "standby");
    client.query("BEGIN");
    client.query("SET LOCAL pgring.route = 'primary'");
    client.query("COMMIT");
    until("the end of what was local", SOON, || client.value("SELECT maybe()") == "standby");
    client.query("RESET pgring.route");
    until("a read that may be one", SOON, || client.value("SELECT here()") == "standby");
    assert_eq!(client.value("SELECT maybe()"), "primary");
    let options = [("user", "app"), ("options", "-c pgring.route=primary")];
    let mut bound = Wire::login_with(scene.pgring.address(), &options);
    assert_eq!(bound.value("SELECT here()"), "primary");
}

#[test]
fn rules_say_where_the_statements_of_users_and_applications_go() {
    at_most_minutes(3);
    let scene = scene(1, |settings| {
        settings.rules(&[
            &[("application_name", "exact"), ("route", "auto")],
            &[("application_name", "bill*"), ("route", "primary")],
            &[("user", "app"), ("application_name", "metabase"), ("route", "replica")],
            &[("user", "guest"), ("route", "primary")],
        ])
    });
    let mut client = scene.client();
    let mut place = |name: &str, sql: &str| {
        client.query(&format!("SET application_name = '{name}'"));
        until("the standby to follow", SOON, || {
            client.value("/* pgring: replica */ SELECT here()") == "standby"
        });
        client.value(sql)
    };
    assert_eq!(place("billing", "SELECT here()"), "primary");
    assert_eq!(place("exact", "SELECT here()"), "standby");
    assert_eq!(place("metabase2", "SELECT maybe()"), "primary");
    assert_eq!(place("metabase", "SELECT maybe()"), "standby");
    assert_eq!(place("metabase", "SELECT writes()"), "primary", "the guess was wrong");
    assert_eq!(place("metabase", "/* pgring: primary */ SELECT here()"), "primary");
    client.query("SET pgring.route = 'auto'");
    assert_eq!(client.value("SELECT maybe()"), "primary", "the session goes before a rule");
    client.query("RESET pgring.route");
    until("the rule to count", SOON, || client.value("SELECT maybe()") == "standby");
    let login = |user, name| [("user", user), ("database", "app"), ("application_name", name)];
    let mut named = Wire::login_with(scene.pgring.address(), &login("app", "billing"));
    assert_eq!(named.value("SELECT here()"), "primary", "named in its startup packet");
    let mut guest = Wire::login_with(scene.pgring.address(), &login("guest", "x"));
    assert_eq!(guest.value("SELECT here()"), "primary");
}

/// The place behind the last write of a session.
fn token(client: &mut Wire) -> String {
    client.value("SHOW pgring.lsn")
}

#[test]
fn what_one_session_wrote_another_reads_by_its_token() {
    at_most_minutes(5);
    let scene = scene_with(&["recovery_min_apply_delay = 500ms"], 1, |settings| {
        settings.set("monitor.interval_busy", "5ms")
    });
    let (mut writer, mut reader) = (scene.client(), scene.client());
    let text = "SELECT text || ' ' || here() FROM notes WHERE id = 7";
    for round in 0..20 {
        writer.query(&format!("UPDATE notes SET text = '{round}' WHERE id = 7"));
        let place = token(&mut writer);
        assert!(place.contains('/') && place != "FFFFFFFF/FFFFFFFF", "{place}");
        reader.query(&format!("SET pgring.min_lsn = '{place}'"));
        let read = reader.value(text);
        assert!(read.starts_with(&format!("{round} ")), "round {round}: {read}");
    }
    until("a read on the standby", SOON, || reader.value(text) == "19 standby");
    reader.query("SET pgring.min_lsn = 'what is this'");
    assert_eq!(reader.value("SELECT here()"), "primary", "nobody knows what it shows");
    // In a pipeline, and as an extended statement without a name.
    let update = extended("UPDATE notes SET text = 'last' WHERE id = 7", &[]);
    let question = extended("SHOW pgring.lsn", &[]);
    let before = token(&mut writer);
    writer.send(&[update, sync(), question, sync()].concat());
    let answers = writer.until_ready(2);
    let place = answers.iter().find(|it| it.tag == b'D').map(Message::value).expect("a place");
    assert_ne!(place, before, "that was the place before the update");
    assert_eq!(place, token(&mut writer));
    reader.query(&format!("SET pgring.min_lsn = '{place}'"));
    assert_eq!(reader.value("SELECT text FROM notes WHERE id = 7"), "last");
}

#[test]
fn a_read_waits_for_a_standby_that_shows_what_was_written() {
    at_most_minutes(5);
    let mut scene = scene(1, |settings| {
        settings.set("routing.read_wait_max", "10s").set("monitor.interval_busy", "5ms")
    });
    let mut client = scene.client();
    let text = "SELECT text || ' ' || here() FROM notes WHERE id = 7";
    for round in 0..50 {
        client.query(&format!("UPDATE notes SET text = '{round}' WHERE id = 7"));
        assert_eq!(client.value(text), format!("{round} standby"));
    }
    // As long as it may, and no longer.
    scene.pgring.rewrite(|settings| settings.set("routing.read_wait_max", "300ms"));
    scene.pgring.console().ask("RELOAD").expect("it is a good config");
    until("a read on the standby", SOON, || client.value("SELECT here()") == "standby");
    scene.standbys[0].psql("SELECT pg_wal_replay_pause()");
    client.query("UPDATE notes SET text = 'paused' WHERE id = 7");
    let start = Instant::now();
    assert_eq!(client.value(text), "paused primary");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(10), "{took:?}");
    // Nobody else waits, and who leaves while it waits leaves nothing behind.
    let mut other = Wire::login(scene.pgring.address(), "app");
    assert_eq!(other.value("SELECT here()"), "standby");
    client.send(&query(text));
    drop(client);
    assert_eq!(other.value("SELECT here()"), "standby");
}

fn reads_fail(scene: &Scene, client: &mut Wire) {
    until("reads to fail", SOON, || {
        let code = client.failure("SELECT here()");
        assert!(code.is_empty() || code == "57P03", "{code}");
        code == "57P03"
    });
    assert_eq!(client.value("SELECT writes()"), "primary", "all else goes on");
    let ended = [extended("SELECT here()", &[]), sync()].concat();
    until("extended reads to fail", SOON, || {
        client.send(&ended);
        let answers = client.until_ready(1);
        let failed = answers.iter().any(|it| it.tag == b'E');
        assert!(failed != answers.iter().any(|it| it.tag == b'D'));
        failed
    });
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn without_a_standby_reads_fail_where_the_operator_wants_it_so() {
    at_most_minutes(5);
    let mut scene = scene(1, |settings| settings.set("routing.fallback", "error"));
    let mut client = scene.client();
    // What is behind for a moment is no reason.
    client.query("UPDATE notes SET text = 'x' WHERE id = 7");
    assert_eq!(client.value("SELECT text FROM notes WHERE id = 7"), "x");
    scene.standbys[0].end();
    reads_fail(&scene, &mut client);
    scene.standbys[0].start_again_in_recovery();
    until("the standby to be back", SOON, || {
        let answer = client.query("SELECT here()");
        answer.iter().any(|it| it.tag == b'D' && it.value() == "standby")
    });
}

/// How many of `count` reads went to the first standby; none if one went to the primary.
fn share(scene: &Scene, client: &mut Wire, count: u32) -> Option<u32> {
    let (first, primary) = (scene.standbys[0].port(), scene.primary.port());
    let mut seen = 0;
    for _ in 0..count {
        let port = client.value("SELECT port()");
        if port == primary.to_string() {
            return None;
        }
        seen += u32::from(port == first.to_string());
    }
    Some(seen)
}

/// A client whose reads go to both standbys.
fn with_ports(scene: &Scene) -> Wire {
    let mut client = scene.client();
    let mut seen = std::collections::BTreeSet::new();
    until("reads on all standbys", SOON, || {
        let here = client.value("SELECT here()");
        let shown = client.rows("SELECT port()");
        seen.extend(shown);
        here == "standby" && scene.standbys.iter().all(|it| seen.contains(&it.port().to_string()))
    });
    client
}

#[test]
fn weights_and_zones_say_who_gets_how_much() {
    at_most_minutes(5);
    let mut scene = scene(2, |settings| {
        let nodes = ["pg2", "pg3"];
        let settings = settings.node_set(nodes[0], "weight", 3);
        settings.node_set(nodes[1], "zone", "b").set("routing.slow_start", "off")
    });
    let mut client = with_ports(&scene);
    // One client: nobody ever waits, so the weights alone decide.
    let seen = share(&scene, &mut client, 1000).expect("reads on standbys");
    assert!((600..900).contains(&seen), "{seen} of 1000 with three shares of four");
    scene.pgring.rewrite(|settings| settings.set("routing.zone", "b"));
    scene.pgring.console().ask("RELOAD").expect("it is a good config");
    until("reads in the zone only", SOON, || share(&scene, &mut client, 50) == Some(0));
    scene.pgring.rewrite(|settings| settings.set("routing.zone", "").node_set("pg3", "weight", 0));
    scene.pgring.console().ask("RELOAD").expect("it is a good config");
    until("no reads without a weight", SOON, || share(&scene, &mut client, 50) == Some(50));
}

#[test]
fn the_console_says_where_statements_went_and_why() {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    for number in 0..30 {
        client.query(&format!("SELECT text FROM notes WHERE id = {number}"));
    }
    for _ in 0..10 {
        client.query("SELECT maybe()");
        client.query("BEGIN");
        client.query("SELECT text FROM notes WHERE id = 1");
        client.query("COMMIT");
    }
    let mut console = scene.pgring.console();
    let mut routes = |statement: &str| {
        let rows = console.show("SHOW ROUTES");
        let row = rows.into_iter().find(|row| row["statement"] == statement);
        row.unwrap_or_else(|| panic!("no {statement}"))
    };
    let read = routes("select text from notes where id = 0");
    assert_eq!((&*read["database"], &*read["count"], &*read["target"]), ("app", "40", "replica"));
    // What had just been written may have had to be read on the primary.
    let moved: u32 = read["moved"].parse().expect("a number");
    assert!((1..=30).contains(&moved), "{read:?}");
    assert_eq!(read["moved_percent"], (moved * 100 / 40).to_string());
    assert!(read["time_us"].parse::<u64>().is_ok_and(|time| time > 0), "{read:?}");
    assert!(read["reason"].contains("relations notes"), "{read:?}");
    let kept = routes("select maybe()");
    assert_eq!((&*kept["count"], &*kept["moved"], &*kept["target"]), ("10", "0", "primary"));
    assert!(kept["reason"].contains("function maybe: volatile"), "{kept:?}");
    assert_eq!(routes("begin")["count"], "10");
}

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

#[test]
fn who_waits_for_a_standby_or_a_place_waits_for_something_that_comes() {
    at_most_minutes(3);
    let mut scene = scene(1, |settings| settings.set("routing.read_wait_max", "60s"));
    let mut client = scene.client();
    // Nothing of a segment is answered before its Sync.
    let update = extended("UPDATE notes SET text = 'x' WHERE id = 7", &[]);
    client.send(&[update, extended("SHOW pgring.lsn", &[]), sync()].concat());
    let answers = client.until_ready(1);
    assert!(answers.iter().any(|it| it.tag == b'D' && it.value().contains('/')), "{answers:?}");
    scene.standbys[0].psql("SELECT pg_wal_replay_pause()");
    client.query("UPDATE notes SET text = 'waits' WHERE id = 7");
    client.send(&query("SELECT text FROM notes WHERE id = 7"));
    let mut other = Wire::login(scene.pgring.address(), "app");
    assert_eq!(other.value("SELECT here()"), "standby");
    scene.pgring.rewrite(|settings| {
        settings.set("routing.reads", "primary").set("routing.read_wait_max", "off")
    });
    scene.pgring.console().ask("RELOAD").expect("it is a good config");
    let answers = client.until_ready(1);
    let text = answers.iter().find(|it| it.tag == b'D').map(Message::value);
    assert_eq!(text.as_deref(), Some("waits"));
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
