//! Who may come in: every client method with every kind of entry in the users file and every
//! server method; wrong passwords; unknown users and databases; hostile logins.

use pgring_tests::command::at_most_minutes;
use pgring_tests::dice::amount;
use pgring_tests::message::{Message, V3_0, lying, message, startup};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres};
use pgring_tests::wire::Wire;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A kind of entry in the users file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Entry {
    Plain,
    Md5,
    Scram,
}

const ROLES: [&str; 4] = ["app", "plain", "md5er", "scrammer"];

/// The users file with all roles in one kind; verifiers are those of the server.
fn users(node: &Postgres, entry: Entry) -> String {
    let stored = |role: &str| match entry {
        Entry::Plain => PASSWORD.to_owned(),
        Entry::Md5 => {
            let sql = format!("SELECT 'md5' || md5('{PASSWORD}{role}')");
            node.psql(&sql).trim().to_owned()
        }
        Entry::Scram => {
            let role = if role == "scrammer" { "scrammer" } else { "plain" };
            let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
            node.psql(&sql).trim().to_owned()
        }
    };
    let line = |role: &&str| format!("\"{role}\" \"{}\"\n", stored(role));
    ["postgres", "app", "plain", "md5er", "scrammer"].iter().map(line).collect()
}

/// Whether a login must work, must not, or is left open by the specification.
fn verdict(method: &str, entry: Entry, role: &str) -> Option<bool> {
    let client = match (method, entry) {
        ("scram-sha-256", Entry::Md5) | ("md5", Entry::Scram) => false,
        ("trust" | "password" | "md5" | "scram-sha-256", _) => true,
        _ => return None,
    };
    if !client {
        return Some(false);
    }
    match (method, entry, role) {
        (_, Entry::Plain, _)
        | (_, _, "app")
        | (_, Entry::Md5, "md5er")
        | ("scram-sha-256", Entry::Scram, "scrammer") => Some(true),
        // A password in clear would allow more than the entry does, if pgring cares to use it.
        ("password", _, _) => None,
        _ => Some(false),
    }
}

/// Logs in with a password; the error of a refusal.
fn login(address: SocketAddr, user: &str, secret: &str) -> Result<Wire, Option<Message>> {
    let mut wire = Wire::connect(address);
    wire.send(&startup(V3_0, &[("user", user), ("database", "app")]));
    wire.authenticate(user, secret).map(|()| wire)
}

fn refusal(address: SocketAddr, user: &str, secret: &str) -> Message {
    let error = login(address, user, secret).expect_err("a refusal");
    error.expect("a refusal with a reason")
}

fn with_method(node: &Postgres, method: &str, entry: Entry) -> Pgring {
    let users = users(node, entry);
    // The console is asked about the test by an administrator, who must come in as well.
    let settings = Settings::new(node).set("auth.method", method).users(&users);
    settings.set("pool.query_wait_timeout", "3s").set("pool.server_login_retry", "100ms").start()
}

#[test]
fn every_method_works_with_every_entry_that_can() {
    at_most_minutes(5);
    let node = Postgres::start();
    for method in ["trust", "password", "md5", "scram-sha-256"] {
        for entry in [Entry::Plain, Entry::Md5, Entry::Scram] {
            if verdict(method, entry, "app") == Some(false) {
                continue;
            }
            let pgring = with_method(&node, method, entry);
            for role in ROLES {
                let case = format!("{method}, {entry:?} entry, {role}");
                let result = login(pgring.address(), role, PASSWORD);
                let result = result.map(|mut wire| wire.rows("SELECT current_user"));
                match verdict(method, entry, role) {
                    Some(true) => {
                        let rows = result.unwrap_or_else(|error| panic!("{case}: {error:?}"));
                        assert_eq!(rows, [role], "{case}");
                    }
                    Some(false) => assert!(result.is_err(), "{case}"),
                    None => {}
                }
            }
        }
    }
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused_alike() {
    at_most_minutes(3);
    let node = Postgres::start();
    for method in ["password", "md5", "scram-sha-256"] {
        let entry = if method == "md5" { Entry::Md5 } else { Entry::Plain };
        let pgring = with_method(&node, method, entry);
        login(pgring.address(), "app", PASSWORD).expect("to log in, so that a server is cached");
        for user in ["app", "nobody_knows_me", "scrammer"] {
            for secret in ["wrong", "", "open sesam", "open sesame "] {
                let error = refusal(pgring.address(), user, secret);
                assert_eq!(error.code(), "28P01", "{method} {user} {secret:?}");
                let text = format!("password authentication failed for user \"{user}\"");
                assert_eq!(error.field(b'M'), Some(text));
                assert_eq!(error.field(b'S').as_deref(), Some("FATAL"));
            }
        }
        login(pgring.address(), "app", PASSWORD).expect("the right password still to work");
        pgring.wait_until_quiet();
    }
}

#[test]
fn an_entry_that_cannot_serve_the_method_is_a_refusal() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut users = users(&node, Entry::Md5);
    users.push_str("\"clear\" \"x\"\n");
    let admin = format!("\"postgres\" \"{PASSWORD}\"\n");
    let users = users.replace(users.lines().next().expect("a line"), admin.trim());
    let scram = Settings::new(&node).set("auth.method", "scram-sha-256").users(&users).start();
    assert_eq!(refusal(scram.address(), "app", PASSWORD).code(), "28P01");
}

#[test]
fn unknown_databases_are_named_in_the_refusal() {
    at_most_minutes(2);
    let node = Postgres::start();
    let only = "[[databases]]\nname = \"app\"\ncluster = \"main\"\n";
    let closed = Settings::new(&node).databases(only).start();
    let open = Settings::new(&node).start();
    for pgring in [&closed, &open] {
        let mut wire = Wire::connect(pgring.address());
        wire.send(&startup(V3_0, &[("user", "app"), ("database", "no_such")]));
        let error = wire.authenticate("app", "").expect_err("a refusal").expect("a reason");
        assert_eq!(error.code(), "3D000");
        assert!(error.field(b'M').is_some_and(|text| text.contains("\"no_such\"")), "{error:?}");
        assert_eq!(Wire::login(pgring.address(), "app").value("SELECT 1"), "1");
    }
}

#[test]
fn broken_scram_is_refused_and_nothing_else_happens() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("auth.method", "scram-sha-256").start();
    let first = |mechanism: &str, text: &str| {
        let size = u32::try_from(text.len()).expect("a length").to_be_bytes();
        message(b'p', &[mechanism.as_bytes(), b"\0", &size, text.as_bytes()].concat())
    };
    let good = || first("SCRAM-SHA-256", "n,,n=,r=clientnonce");
    let finals = [
        "c=biws,r=clientnonce,p=AAAA",
        "c=biws,r=other,p=AAAA",
        "c=biws",
        "",
        "c=biws,r=\u{1F980},p=!!!!",
        "p=AAAA,c=biws",
    ];
    let cases = [
        vec![first("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=x")],
        vec![first("SCRAM-SHA-512", "n,,n=,r=x")],
        vec![first("SCRAM-SHA-256", "")],
        vec![first("SCRAM-SHA-256", "y,,n=,r=x")],
        vec![first("SCRAM-SHA-256", "n,,m=ext,n=,r=x")],
        vec![message(b'p', b"SCRAM-SHA-256")],
        vec![message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff")],
        vec![message(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=x")],
        vec![message(b'p', b"")],
        vec![message(b'Q', b"SELECT 1\0")],
        vec![lying(b'p', 70_000, b"")],
    ];
    let of_finals = finals.map(|text| vec![good(), message(b'p', text.as_bytes())]);
    for case in cases.into_iter().chain(of_finals) {
        let start = Instant::now();
        let mut wire = Wire::connect(pgring.address());
        wire.send(&startup(V3_0, &[("user", "app"), ("database", "app")]));
        assert_eq!(wire.expect(b'R').body[..4], 10_u32.to_be_bytes());
        for part in &case {
            wire.try_send(part);
        }
        wire.shut();
        let answers = wire.until_end();
        let came_in = answers.iter().any(|answer| {
            answer.tag == b'Z' || answer.tag == b'R' && answer.body[..4] == [0, 0, 0, 0]
        });
        let what = case[0].escape_ascii().to_string();
        assert!(!came_in, "{what}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "{what}: refused after {took:?}");
    }
    assert_eq!(Wire::login(pgring.address(), "app").value("SELECT 1"), "1");
}

#[test]
fn who_does_not_log_in_is_sent_away() {
    at_most_minutes(2);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("auth.method", "scram-sha-256");
    let pgring = settings.set("auth.login_timeout", "1s").start();
    let start = Instant::now();
    let mut silent = Wire::connect(pgring.address());
    let mut half = Wire::connect(pgring.address());
    half.send(&startup(V3_0, &[("user", "app")])[..9]);
    let mut slow = Wire::connect(pgring.address());
    slow.send(&startup(V3_0, &[("user", "app")]));
    for wire in [&mut silent, &mut half, &mut slow] {
        wire.until_end();
    }
    assert!(start.elapsed() >= Duration::from_millis(800), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn announcing_a_long_password_costs_no_memory() {
    at_most_minutes(3);
    let node = Postgres::start();
    let count = amount("PGRING_PREAUTH", 400);
    let settings = Settings::new(&node).set("auth.method", "scram-sha-256");
    let pgring = settings.set("limits.clients_max", count + 100).start();
    pgring.warm();
    let before = pgring.resident();
    let announce = |number: usize| {
        let mut wire = Wire::connect(pgring.address());
        if number.is_multiple_of(2) {
            wire.send(&9_999_u32.to_be_bytes());
            wire.send(&[0; 5_000]);
        } else {
            wire.send(&startup(V3_0, &[("user", "app"), ("database", "app")]));
            wire.expect(b'R');
            wire.try_send(&lying(b'p', 1 << 30, &vec![b'x'; 30_000]));
        }
        wire
    };
    let wires: Vec<_> = (0..count).map(announce).collect();
    let mut honest = Wire::login(pgring.address(), "app");
    assert_eq!(honest.value("SELECT 1"), "1");
    let each = pgring.resident().saturating_sub(before) / count as u64;
    assert!(each <= 16 << 10, "{each} bytes for each connection before its login");
    drop(wires);
}
