//! Servers that lie: pgring closes the connection, counts it where the protocol was broken, tells
//! the client what it can know, and nobody else notices.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::console::http;
use pgring_tests::liar::{
    Liar, Script, Talk, answer, authentication, greeting, ready, report, row,
};
use pgring_tests::message::{V3_0, extended, lying, message, query, startup, sync};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres};
use pgring_tests::wire::{Polled, Wire};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);
/// Memory that is kept though nobody needs it just now.
const SPARE: u64 = 32 << 20;

/// What is answered with a lie.
const STATEMENT: &str = "SELECT 'the truth'";

/// One lie: its name, which is that of its database, how it is told, and what follows.
struct Lie {
    name: &'static str,
    tell: Script,
    /// The SQLSTATE that ends the client's statement; none if the client is not to notice.
    code: Option<&'static str>,
    /// Whether the protocol was broken, so that it counts.
    counts: bool,
}

const fn lie(name: &'static str, code: &'static str, tell: Script) -> Lie {
    Lie { name, tell, code: Some(code), counts: true }
}

/// Greets, hears a statement, and says this in place of the answer.
fn instead(talk: &mut Talk, bytes: &[u8]) {
    if talk.greet(STATEMENT).is_some() {
        talk.say(bytes);
    }
}

/// Greets, answers a statement, and says this behind the answer in the same breath.
fn behind(talk: &mut Talk, bytes: &[u8]) {
    if let Some(asked) = talk.greet(STATEMENT) {
        talk.say(&[&answer(&asked), bytes].concat());
    }
}

/// Greets, answers a statement, and says this a little later; the next connection is honest.
fn later(talk: &mut Talk, bytes: &[u8]) {
    let Some(asked) = talk.greet(STATEMENT) else { return };
    talk.say(&answer(&asked));
    if talk.number > 1 {
        return talk.serve();
    }
    thread::sleep(Duration::from_millis(200));
    talk.say(bytes);
}

fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0C00000\0Msomething\0\0")
}

/// Many ParameterStatus, each of another parameter.
fn reports() -> Vec<u8> {
    (0..100).flat_map(|number| report(&format!("p{number}"), &"x".repeat(1000))).collect()
}

/// The lost statement may have run; the transaction that was over is only cut off.
const UNKNOWN: &str = "08007";
const LOST: &str = "08006";

const ANSWERS: [Lie; 24] = [
    lie("ready_twice", LOST, |talk| behind(talk, &ready())),
    lie("row_unasked", LOST, |talk| behind(talk, &row(b"x"))),
    lie("report_unreadable", LOST, |talk| behind(talk, &message(b'S', b"no end"))),
    lie("reports_behind", LOST, |talk| behind(talk, &reports())),
    lie("row_for_nothing", UNKNOWN, |talk| instead(talk, &message(b'2', b""))),
    lie("length_short", UNKNOWN, |talk| instead(talk, &lying(b'T', 2, b""))),
    lie("length_zero", UNKNOWN, |talk| instead(talk, &lying(b'C', 0, b""))),
    lie("length_huge", UNKNOWN, |talk| instead(talk, &lying(b'D', 0x7fff_ffff, b"x"))),
    lie("length_wrap", UNKNOWN, |talk| instead(talk, &lying(b'D', u32::MAX, b"x"))),
    lie("ready_long", UNKNOWN, |talk| instead(talk, &message(b'Z', &[b'I'; 100]))),
    lie("ready_empty", UNKNOWN, |talk| instead(talk, &message(b'Z', b""))),
    lie("ready_odd", UNKNOWN, |talk| instead(talk, &message(b'Z', b"?"))),
    lie("unknown_tag", UNKNOWN, |talk| instead(talk, &message(b'~', b"x"))),
    lie("tag_zero", UNKNOWN, |talk| instead(talk, &message(0, b""))),
    lie("login_again", UNKNOWN, |talk| instead(talk, &authentication(3, b""))),
    lie("key_again", UNKNOWN, |talk| instead(talk, &message(b'K', &[9; 8]))),
    lie("parsed", UNKNOWN, |talk| instead(talk, &message(b'1', b""))),
    lie("called", UNKNOWN, |talk| instead(talk, &message(b'V', &[255; 4]))),
    lie("copy_data", UNKNOWN, |talk| instead(talk, &message(b'd', b"x"))),
    lie("http", UNKNOWN, |talk| instead(talk, b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    Lie { name: "idle_row", tell: |talk| later(talk, &row(b"x")), code: None, counts: true },
    Lie { name: "idle_ready", tell: |talk| later(talk, &ready()), code: None, counts: true },
    Lie { name: "idle_half", tell: |talk| later(talk, b"D"), code: None, counts: true },
    Lie {
        name: "idle_notices",
        tell: |talk| {
            later(talk, &notice());
            if talk.number == 1 {
                talk.say_for_ever(&notice());
            }
        },
        code: None,
        counts: false,
    },
];

/// Begins a SCRAM login and answers its first message with this.
fn scram(talk: &mut Talk, challenge: fn(&str) -> Vec<u8>) {
    talk.say(&authentication(10, b"SCRAM-SHA-256\0\0"));
    let Some(first) = talk.hear() else { return };
    let text = String::from_utf8_lossy(&first.body).into_owned();
    let nonce = text.rsplit("r=").next().unwrap_or_default();
    talk.say(&challenge(nonce));
}

const fn failed(name: &'static str, tell: Script) -> Lie {
    Lie { name, tell, code: Some("28P01"), counts: false }
}

const LOGINS: [Lie; 14] = [
    failed("in_clear", |talk| _ = talk.say(&authentication(3, b""))),
    failed("by_md5", |talk| _ = talk.say(&authentication(5, b"salt"))),
    failed("by_kerberos", |talk| _ = talk.say(&authentication(7, b""))),
    failed("by_novelty", |talk| _ = talk.say(&authentication(99, b""))),
    failed("half_a_request", |talk| _ = talk.say(&message(b'R', b"\0\0"))),
    failed("bound_only", |talk| _ = talk.say(&authentication(10, b"SCRAM-SHA-256-PLUS\0\0"))),
    failed("in_the_middle", |talk| _ = talk.say(&authentication(11, b"r=x,s=AAAA,i=4096"))),
    failed("unproved", |talk| scram(talk, |_| greeting())),
    failed("other_nonce", |talk| {
        scram(talk, |_| authentication(11, b"r=other,s=AAAA,i=4096"));
    }),
    failed("greedy", |talk| {
        scram(talk, |nonce| {
            authentication(11, format!("r={nonce}x,s=AAAA,i=2000000000").as_bytes())
        });
    }),
    failed("no_salt", |talk| {
        scram(talk, |nonce| authentication(11, format!("r={nonce}x,i=4096").as_bytes()));
    }),
    failed("false_proof", |talk| {
        scram(talk, |nonce| {
            authentication(11, format!("r={nonce}x,s=c2FsdHNhbHQ=,i=4096").as_bytes())
        });
        if talk.hear().is_some() {
            let proof = authentication(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
            talk.say(&[proof, greeting()].concat());
        }
    }),
    failed("asks_twice", |talk| {
        scram(talk, |_| authentication(3, b""));
    }),
    failed("unknown_user", |talk| {
        _ = talk.say(&message(b'E', b"SFATAL\0C28P01\0Mnobody knows you\0\0"));
    }),
];

/// What is wrong with a server that cannot be spoken to may pass: its clients wait.
const GREETINGS: [Lie; 12] = [
    lie("web_server", LOST, |talk| _ = talk.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    lie("shell", LOST, |talk| _ = talk.say(b"SSH-2.0-OpenSSH_9.2\r\n")),
    lie("row_first", LOST, |talk| _ = talk.say(&row(b"x"))),
    lie("too_long", LOST, |talk| _ = talk.say(&lying(b'R', 100_000, b""))),
    lie("reports", LOST, |talk| {
        talk.say(&authentication(0, b""));
        talk.say_for_ever(&reports());
    }),
    lie("short_key", LOST, |talk| {
        _ = talk.say(&[authentication(0, b""), message(b'K', &[1; 6])].concat());
    }),
    lie("ready_first", LOST, |talk| _ = talk.say(&ready())),
    Lie { counts: false, ..lie("silent", LOST, |_| ()) },
    Lie { counts: false, ..lie("closes", LOST, Talk::close) },
    Lie { counts: false, ..lie("notices", LOST, |talk| talk.say_for_ever(&notice())) },
    Lie { counts: false, ..lie("no_code", LOST, |talk| _ = talk.say(&message(b'E', b"Mno\0\0"))) },
    Lie { counts: false, ..lie("no_error", LOST, |talk| _ = talk.say(&message(b'E', b""))) },
];

/// An honest node, a pgring in front of it and of a liar, and a client that must not notice.
struct Stage {
    _node: Postgres,
    liar: Liar,
    pgring: Pgring,
    bystander: Wire,
    pid: String,
    memory: u64,
}

impl Stage {
    fn set(scripts: impl Fn(&str) -> Option<Script> + Send + Sync + 'static) -> Self {
        at_most_minutes(4);
        let node = Postgres::start();
        let liar = Liar::start(scripts);
        let verifier = node.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'plain'");
        let databases = format!(
            "[[clusters]]\nname = \"liars\"\n[[clusters.nodes]]\nname = \"liar\"\naddress = \
             \"{}\"\n[[databases]]\nname = \"app\"\ncluster = \"main\"\n[[databases]]\nname = \
             \"*\"\ncluster = \"liars\"\n[databases.pool]\nquery_wait_timeout = \"1500ms\"\n\
             server_connect_timeout = \"500ms\"\nserver_login_retry = \"200ms\"\n",
            liar.address()
        );
        let users = format!(
            "\"postgres\" \"{PASSWORD}\"\n\"app\" \"{PASSWORD}\"\n\"hashed\" \"{}\"\n",
            verifier.trim()
        );
        let pgring = Settings::new(&node).databases(&databases).users(&users).start();
        pgring.warm();
        let mut bystander = Wire::login(pgring.address(), "app");
        bystander.query("BEGIN");
        let pid = bystander.value("SELECT pg_backend_pid()");
        let memory = pgring.resident();
        Self { _node: node, liar, pgring, bystander, pid, memory }
    }

    fn violations(&self) -> u64 {
        let (_, metrics) = http(self.pgring.http(), "/metrics");
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        let counts = lines.filter(|line| line.contains("invariant_violations"));
        let numbers = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        numbers.sum()
    }

    /// What holds after every lie.
    fn check(&mut self, lie: &Lie, violations: u64) {
        let name = lie.name;
        until(&format!("{name}: the liar to be left"), SOON, || {
            let counts = self.liar.counts(name);
            counts.dropped > 0
        });
        if lie.counts {
            until(&format!("{name}: a violation"), SOON, || self.violations() > violations);
        }
        assert_eq!(self.bystander.value("SELECT pg_backend_pid()"), self.pid, "{name}");
    }

    fn end(mut self) {
        self.bystander.query("COMMIT");
        let grown = self.pgring.resident().saturating_sub(self.memory);
        assert!(grown < SPARE, "{grown} bytes more");
        self.pgring.signal("TERM");
        drop(self.bystander);
        assert!(self.pgring.wait_for_end(SOON), "a good end");
        assert!(!self.pgring.log().contains("panicked"), "{}", self.pgring.log());
    }
}

/// The first error up to the end of the stream or a pause, and whether rows came before it.
fn outcome(wire: &mut Wire) -> (Option<String>, bool) {
    let mut rows = false;
    loop {
        match wire.poll() {
            Polled::Message(message) if message.tag == b'E' => return (Some(message.code()), rows),
            Polled::Message(message) => rows |= message.tag == b'D',
            Polled::End => return (Some("closed without a word".to_owned()), rows),
            Polled::Nothing => return (None, rows),
        }
    }
}

fn find(lies: &'static [Lie], name: &str) -> Option<Script> {
    lies.iter().find(|lie| lie.name == name).map(|lie| lie.tell)
}

#[test]
fn a_server_that_breaks_the_protocol_is_left_and_its_client_told() {
    let mut stage = Stage::set(|name| find(&ANSWERS, name));
    for lie in &ANSWERS {
        let violations = stage.violations();
        let login = [("user", "app"), ("database", lie.name)];
        let mut wire = Wire::login_with(stage.pgring.address(), &login);
        wire.patience(Duration::from_millis(800));
        wire.send(&query(STATEMENT));
        let (code, _) = outcome(&mut wire);
        assert_eq!(code.as_deref(), lie.code, "{}", lie.name);
        stage.check(lie, violations);
        if lie.code.is_none() {
            wire.patience(SOON);
            assert_eq!(wire.value("SELECT 2"), "honest", "{}", lie.name);
        }
    }
    stage.end();
}

#[test]
fn a_server_that_wants_a_strange_login_gets_none_and_the_client_hears_why() {
    let mut stage = Stage::set(|name| find(&LOGINS, name));
    for lie in &LOGINS {
        // What a hash cannot answer; all others could have the password.
        let user = if ["in_clear", "by_md5"].contains(&lie.name) { "hashed" } else { "app" };
        let mut wire = Wire::connect(stage.pgring.address());
        wire.send(&startup(V3_0, &[("user", user), ("database", lie.name)]));
        let error = wire.authenticate(user, "").expect_err("no server").expect("a reason");
        assert_eq!(Some(&*error.code()), lie.code, "{}: {error:?}", lie.name);
        assert!(error.field(b'M').is_some_and(|text| text.len() > 10), "{error:?}");
        stage.check(lie, 0);
    }
    stage.end();
}

#[test]
fn a_server_that_cannot_be_spoken_to_costs_a_wait_and_no_more() {
    let mut stage = Stage::set(|name| find(&GREETINGS, name));
    for lie in &GREETINGS {
        let violations = stage.violations();
        let start = Instant::now();
        let mut wire = Wire::connect(stage.pgring.address());
        wire.send(&startup(V3_0, &[("user", "app"), ("database", lie.name)]));
        let error = wire.authenticate("app", "").expect_err("no server").expect("a reason");
        let code = error.code();
        assert!(["08006", "57P03", "53300"].contains(&&*code), "{}: {error:?}", lie.name);
        assert!(start.elapsed() < Duration::from_secs(6), "{}", lie.name);
        stage.check(lie, violations);
    }
    stage.end();
}

#[test]
fn a_server_that_speaks_byte_by_byte_is_understood() {
    let mut stage = Stage::set(|_| {
        Some(|talk| {
            talk.say_slowly(&greeting());
            while let Some(asked) = talk.hear() {
                talk.say_slowly(&answer(&asked));
            }
        })
    });
    let login = [("user", "app"), ("database", "slow")];
    let mut wire = Wire::login_with(stage.pgring.address(), &login);
    assert_eq!(wire.value("SELECT 1"), "honest");
    wire.send(&[extended("SELECT 1", &[]), sync()].concat());
    let tags: Vec<_> = wire.until_ready(1).iter().map(|message| char::from(message.tag)).collect();
    assert_eq!(tags, ['1', '2', 'T', 'D', 'C', 'Z']);
    assert_eq!(stage.bystander.value("SELECT pg_backend_pid()"), stage.pid);
    assert_eq!(stage.violations(), 0);
    stage.end();
}

#[test]
fn a_server_without_end_fills_no_memory() {
    let mut stage = Stage::set(|name| match name {
        "rows" => Some(|talk| {
            talk.greet(STATEMENT);
            talk.say_for_ever(&row(&[b'x'; 8000]));
        }),
        "notices" => Some(|talk| {
            talk.greet(STATEMENT);
            talk.say_for_ever(&message(
                b'N',
                &[&b"SNOTICE\0M"[..], &[b'x'; 8000], b"\0\0"].concat(),
            ));
        }),
        _ => Some(|talk| {
            // One message of a gigabyte, to a client that hears of an error only if it is whole.
            talk.greet(STATEMENT);
            talk.say(&lying(b'E', 0x3fff_0000, b"SERROR\0M"));
            talk.say_for_ever(&[b'x'; 16_000]);
        }),
    });
    for name in ["rows", "notices", "error"] {
        let login = [("user", "app"), ("database", name)];
        let mut wire = Wire::login_with(stage.pgring.address(), &login);
        wire.send(&query(STATEMENT));
        // Nobody reads.
        thread::sleep(Duration::from_secs(2));
        let grown = stage.pgring.resident().saturating_sub(stage.memory);
        assert!(grown < SPARE, "{name}: {grown} bytes more");
        assert_eq!(stage.bystander.value("SELECT pg_backend_pid()"), stage.pid, "{name}");
        drop(wire);
        until(&format!("{name}: the liar to be left"), SOON, || {
            stage.liar.counts(name).dropped > 0
        });
    }
    stage.end();
}
