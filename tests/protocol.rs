//! The protocol through pgring is the protocol of PostgreSQL: every dialogue gets the same
//! answers both ways, however its bytes are cut.

use pgring_tests::command::at_most_minutes;
use pgring_tests::dialogue::{Cuts, Dialogue};
use pgring_tests::dice::{Dice, seed};
use pgring_tests::message::{Message, V3_0, V3_2, gss_request, lying, query, ssl_request, startup};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::Postgres;
use pgring_tests::transcript::{difference, lines};
use pgring_tests::wire::{Polled, Wire};
use pgring_tests::{corpus, corpus_copy};
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

const USER: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

/// Plays dialogues directly and through pgring, and panics with all that differ.
fn compare(node: &Postgres, pgring: &Pgring, dialogues: &[Dialogue], cuts: &mut Cuts) {
    let mut differences = String::new();
    for dialogue in dialogues {
        let direct = dialogue.play(node.address(), &mut Cuts::Whole);
        let through = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            dialogue.play(pgring.address(), cuts)
        }));
        let through = through.unwrap_or_else(|_| vec![String::from("(no answer)")]);
        if let Some(difference) = difference(&direct, &through) {
            write!(differences, "\n{}, {difference}", dialogue.name).expect("to write");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn all_dialogues() -> Vec<Dialogue> {
    [corpus::dialogues(), corpus_copy::dialogues()].concat()
}

fn node_with_tables() -> Postgres {
    let node = Postgres::start();
    node.psql(corpus::TABLES);
    node
}

#[test]
fn every_dialogue_gets_the_answers_of_postgresql() {
    at_most_minutes(5);
    let node = node_with_tables();
    let pgring = Pgring::start(&node, 1);
    compare(&node, &pgring, &all_dialogues(), &mut Cuts::Whole);
    pgring.wait_until_quiet();
}

#[test]
fn every_dialogue_gets_the_same_answers_in_session_mode() {
    at_most_minutes(5);
    let node = node_with_tables();
    let pgring = Settings::new(&node).set("pool.mode", "session").start();
    compare(&node, &pgring, &all_dialogues(), &mut Cuts::Whole);
}

#[test]
fn every_dialogue_can_be_sent_byte_by_byte() {
    at_most_minutes(5);
    let node = node_with_tables();
    let pgring = Settings::new(&node).set("pool.size", 1).set("workers", 1).start();
    compare(&node, &pgring, &all_dialogues(), &mut Cuts::Bytes);
    pgring.wait_until_quiet();
}

#[test]
fn every_dialogue_can_be_cut_anywhere() {
    at_most_minutes(5);
    let node = node_with_tables();
    let pgring = Settings::new(&node).set("pool.size", 2).set("limits.buffers", 8).start();
    let seed = seed();
    let mut cuts = Cuts::Random(Dice::new(seed));
    for _ in 0..2 {
        compare(&node, &pgring, &all_dialogues(), &mut cuts);
    }
    pgring.wait_until_quiet();
}

#[test]
fn the_login_tells_the_same_parameters() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let cases: [&[(&str, &str)]; 6] = [
        &[("user", "app"), ("database", "app")],
        &[("user", "app")],
        &[("user", "app"), ("database", "app"), ("application_name", "it's me")],
        &[("user", "app"), ("client_encoding", "LATIN1"), ("DateStyle", "German")],
        &[("user", "app"), ("options", "-c TimeZone=Asia/Tokyo -c IntervalStyle=iso_8601")],
        &[("user", "app"), ("options", "-c search_path=\"a\\ b\",public --DateStyle=SQL")],
    ];
    for case in cases {
        let mut direct = Wire::login_with(node.address(), case);
        let mut through = Wire::login_with(pgring.address(), case);
        assert_eq!(direct.parameters, through.parameters, "{case:?}");
        for setting in ["TimeZone", "IntervalStyle", "DateStyle", "search_path"] {
            let show = format!("SHOW {setting}");
            assert_eq!(direct.value(&show), through.value(&show), "{case:?}");
        }
    }
}

#[test]
fn newer_protocols_and_unknown_options_are_negotiated() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let login = |version: u32, parameters: &[(&str, &str)]| {
        let mut wire = Wire::connect(pgring.address());
        wire.send(&startup(version, parameters));
        let answers = wire.until_ready(1);
        assert_eq!(wire.value("SELECT 1"), "1");
        let negotiated = answers.iter().find(|message| message.tag == b'v').cloned();
        (negotiated.map(|message| message.body), wire.key.len())
    };
    assert_eq!(login(V3_0, &USER), (None, 4), "3.0 has keys of four bytes");
    let (negotiated, key) = login(V3_2, &USER);
    assert!(negotiated.is_none(), "3.2 is spoken");
    assert!((4..=256).contains(&key), "a key of {key} bytes");
    let newest = V3_2.to_be_bytes();
    let (negotiated, _) = login(V3_2 + 7, &USER);
    assert_eq!(&negotiated.expect("a newer version to be negotiated")[..4], newest);
    let with_option = [USER.as_slice(), &[("_pq_.surprise", "1")]].concat();
    let (negotiated, _) = login(V3_0, &with_option);
    let body = negotiated.expect("an unknown option to be negotiated");
    assert_eq!(&body[4..8], 1_u32.to_be_bytes(), "one option");
    assert_eq!(&body[8..], b"_pq_.surprise\0");
    for version in [131_072_u32, 262_144] {
        let mut wire = Wire::connect(pgring.address());
        wire.send(&startup(version, &USER));
        let answers = wire.until_end();
        assert_eq!(answers[0].code(), "0A000", "version {version}");
    }
}

#[test]
fn encryption_is_declined_and_nothing_may_be_sent_before_the_answer() {
    at_most_minutes(3);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let mut polite = Wire::connect(pgring.address());
    for request in [gss_request(), ssl_request()] {
        polite.send(&request);
        assert_eq!(polite.read_byte(), Some(b'N'));
    }
    polite.send(&startup(V3_0, &USER));
    polite.until_ready(1);
    assert_eq!(polite.value("SELECT 1"), "1");
    for request in [ssl_request(), gss_request()] {
        let bytes = [request, startup(V3_0, &USER)].concat();
        // A cut after the request itself is how an honest client sends it.
        for cut in (0..bytes.len()).filter(|&cut| cut != 8) {
            let mut wire = Wire::connect(pgring.address());
            wire.try_send(&bytes[..cut]);
            if cut % 4 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            wire.try_send(&bytes[cut..]);
            while let Some(byte) = wire.read_byte() {
                assert_ne!(byte, b'R', "logged in with smuggled bytes, cut at {cut}");
            }
        }
    }
}

#[test]
fn lying_lengths_end_only_their_own_connection() {
    at_most_minutes(3);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 2).start();
    let mut witness = Wire::login(pgring.address(), "app");
    let before = pgring.resident();
    for length in [0_u32, 3, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        for tag in *b"QPBDECHSFdcfXp" {
            let mut wire = Wire::login(pgring.address(), "app");
            wire.try_send(&lying(tag, length, b"SELECT 1\0"));
            assert_ends(&mut wire, &format!("{:?} of {length}", char::from(tag)));
        }
        let mut wire = Wire::login(pgring.address(), "app");
        wire.query("BEGIN");
        wire.send(&query("COPY (SELECT 1) TO STDOUT"));
        wire.try_send(&lying(b'd', length, b""));
        assert_ends(&mut wire, &format!("CopyData of {length} in a transaction"));
        for start in [length.to_be_bytes().to_vec(), lying(b'p', length, b"x")] {
            let mut wire = Wire::connect(pgring.address());
            wire.try_send(&start);
            assert_ends(&mut wire, &format!("a startup packet of {length}"));
        }
        assert_eq!(witness.value("SELECT 'alive'"), "alive");
    }
    let more = pgring.resident().saturating_sub(before);
    assert!(more < 16 << 20, "lengths alone cost {more} bytes");
}

/// The other side closes, soon and without rows.
fn assert_ends(wire: &mut Wire, what: &str) {
    let start = Instant::now();
    loop {
        match wire.poll() {
            Polled::End => break,
            Polled::Message(message) if message.tag == b'E' && start.elapsed().as_secs() < 15 => {}
            Polled::Message(_) => {}
            Polled::Nothing => panic!("{what}: still open"),
        }
    }
}

#[test]
fn long_names_are_refused_or_served_but_never_fatal() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 2).set("auth.method", "trust").start();
    let mut witness = Wire::login(pgring.address(), "app");
    for length in [63, 64, 65, 127, 200, 1_023, 4_096, 9_800, 20_000] {
        let name = "n".repeat(length);
        for case in [
            [("user", name.as_str()), ("database", "app"), ("application_name", "x")],
            [("user", "app"), ("database", &name), ("application_name", "x")],
            [("user", "app"), ("database", "app"), ("application_name", &name)],
            [("user", "app"), ("database", "app"), (&name, "x")],
        ] {
            let mut wire = Wire::connect(pgring.address());
            wire.try_send(&startup(V3_0, &case));
            if wire.authenticate("app", "").is_ok() {
                wire.query("SELECT 1");
            }
        }
        assert_eq!(witness.value("SELECT 'alive'"), "alive", "after names of {length}");
    }
    let garbage = [&b"\0\0\0\x10"[..], &V3_0.to_be_bytes(), b"user\0app"].concat();
    let mut wire = Wire::connect(pgring.address());
    wire.try_send(&garbage);
    wire.shut();
    wire.until_end();
    assert_eq!(witness.value("SELECT 'alive'"), "alive");
}

#[test]
fn unknown_messages_are_a_violation_of_the_protocol() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 1);
    for tag in *b"z\0\xffRTZ12" {
        for before in ["", "BEGIN"] {
            let mut wire = Wire::login(pgring.address(), "app");
            if !before.is_empty() {
                wire.query(before);
            }
            wire.try_send(&lying(tag, 4, b""));
            let answers = wire.until_end();
            let codes: Vec<_> = answers.iter().map(Message::code).collect();
            assert_eq!(codes, ["08P01"], "{tag}: {:?}", lines(&answers));
        }
    }
    assert_eq!(Wire::login(pgring.address(), "app").value("SELECT 1"), "1");
    pgring.wait_until_quiet();
}
