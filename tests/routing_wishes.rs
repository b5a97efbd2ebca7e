//! What operators and sessions may wish of routing: hints, tokens, waits, weights, zones.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::message::{Message, extended, query, sync};
use pgring_tests::routed::{SOON, Scene, scene, scene_with};
use pgring_tests::wire::Wire;
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
    until("three shares of four", SOON, || {
        let seen = share(&scene, &mut client, 1000).expect("reads on standbys");
        (650..850).contains(&seen)
    });
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
