//! The hooks that are shipped in `config/hooks`, on real nodes.
#![expect(clippy::print_stdout, reason = "what a hook says is wanted where a test fails")]

use pgring::control::hooks::{Told, run};
use pgring_logic::failover::act::{Done, Hook};
use pgring_tests::command::{at_most_minutes, signal, until};
use pgring_tests::postgres::{Postgres, psql};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
/// What `pg_rewind` wants, unless there are checksums.
const REWOUND: [&str; 3] =
    ["wal_log_hints = on", "full_page_writes = on", "synchronous_commit = on"];

/// A node that is found by hooks, and that none of them leaves behind.
struct Node {
    postgres: Postgres,
}

impl Node {
    fn new(postgres: Postgres) -> Self {
        // Hooks start it by pg_ctl, with nothing on the command line.
        let conf = postgres.home().join("data/postgresql.conf");
        let mut conf = OpenOptions::new().append(true).open(conf).expect("its settings");
        let (port, home) = (postgres.port(), postgres.home().display());
        writeln!(conf, "port = {port}\nunix_socket_directories = '{home}'").expect("to write");
        Self { postgres }
    }

    fn name(&self) -> String {
        self.postgres.home().file_name().expect("a name").to_str().expect("UTF-8").to_owned()
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.postgres.home().join(format!("data.{end}"))
    }

    /// Runs a hook about this node, which is to be a standby of that one.
    fn hook(&self, hook: Hook, primary: &Node, more: &[&str]) -> Done {
        let file = match hook {
            Hook::Fence => "fence",
            Hook::Stop => "stop",
            Hook::Rejoin => "rejoin",
        };
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/hooks");
        let nodes = self.postgres.home().parent().expect("a folder");
        let mut command = vec![hooks.join(file).display().to_string()];
        command.push(nodes.display().to_string());
        command.extend(more.iter().map(|argument| (*argument).to_owned()));
        let port = primary.postgres.port();
        let told = Told {
            node: self.name(),
            epoch: 7,
            primary: primary.name(),
            primary_address: format!("127.0.0.1:{port}"),
            conninfo: format!("user=postgres host=127.0.0.1 port={port} password='a\\'\\\\b'"),
            ..Told::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let begun = Instant::now();
        let done = runtime.expect("a runtime").block_on(run(hook, &command, &told, SOON * 2));
        println!("{file}: {done:?} in {:?}", begun.elapsed());
        done
    }

    fn sql(&self, sql: &str) -> String {
        self.postgres.psql(sql).trim().to_owned()
    }

    /// Its processes, which work in its data directory.
    fn processes(&self) -> usize {
        let data = self.postgres.home().join("data").canonicalize().expect("a folder");
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        all.filter(|it| fs::read_link(it.path().join("cwd")).is_ok_and(|cwd| cwd == data)).count()
    }

    fn promote(&self) {
        self.sql("SELECT pg_promote()");
        self.sql("CHECKPOINT");
    }

    fn follows(&self, primary: &Node) {
        primary.sql("CREATE TABLE IF NOT EXISTS later ()");
        let end = primary.sql("SELECT pg_current_wal_flush_lsn()");
        until("it to follow", SOON, || {
            let sql = format!(
                "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '{end}' \
                 AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE received_tli = 2)"
            );
            psql(self.postgres.address(), "postgres", "app", &sql).stdout.trim() == "t"
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A node that a hook has started is no child of ours.
        let pid = fs::read_to_string(self.postgres.home().join("data/postmaster.pid"));
        if let Some(pid) = pid.ok().and_then(|text| text.lines().next()?.parse().ok()) {
            signal(pid, "QUIT");
            let begun = Instant::now();
            while self.processes() > 0 && begun.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A standby that has what its primary has, and gets no more.
fn part(p: &Node, s: &Node) {
    p.sql("CREATE TABLE t AS SELECT 1");
    until("the table to arrive", SOON, || s.sql("SELECT to_regclass('t') IS NOT NULL") == "t");
    s.sql("ALTER SYSTEM SET primary_conninfo = ''");
    s.sql("SELECT pg_reload_conf()");
    let ended = || s.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0";
    until("the receiver to end", SOON, ended);
    p.sql("INSERT INTO t SELECT generate_series(1, 1000)");
}

fn pair(settings: &[&str]) -> (Node, Node) {
    let p = Postgres::start_with(settings);
    let s = p.start_standby(&[]);
    (Node::new(p), Node::new(s))
}

fn reason(done: Done) -> String {
    let Done::Failed { unknown: false, reason } = done else { panic!("{done:?}") };
    reason
}

#[test]
fn a_fenced_node_has_no_process_left() {
    at_most_minutes(3);
    let (p, s) = pair(&[]);
    assert_eq!(p.hook(Hook::Fence, &s, &[]), Done::Well);
    assert_eq!(p.processes(), 0);
    assert_eq!(p.hook(Hook::Fence, &s, &[]), Done::Well, "it is fenced already");
    // A postmaster that hears nothing, and one that has gone before its children.
    s.postgres.signal_all("STOP");
    assert_eq!(s.hook(Hook::Fence, &p, &[]), Done::Well);
    assert_eq!(s.processes(), 0);
    let mut lost = Node::new(Postgres::start());
    lost.postgres.kill();
    assert_eq!(lost.hook(Hook::Fence, &p, &[]), Done::Well);
    assert_eq!(lost.processes(), 0);
}

#[test]
fn a_node_that_is_not_here_is_not_fenced() {
    at_most_minutes(2);
    let (p, s) = pair(&[]);
    fs::rename(p.postgres.home().join("data/PG_VERSION"), p.postgres.home().join("away"))
        .expect("to hide it");
    let why = reason(p.hook(Hook::Fence, &s, &[]));
    assert!(why.contains("no data directory"), "{why}");
    assert!(reason(p.hook(Hook::Stop, &s, &[])).contains("no data directory"));
    assert!(reason(p.hook(Hook::Rejoin, &s, &[])).contains("no data directory"));
}

#[test]
fn a_node_that_was_stopped_in_order_comes_back_as_it_is() {
    at_most_minutes(3);
    let (p, s) = pair(&REWOUND);
    p.sql("CREATE TABLE t AS SELECT 1");
    assert_eq!(p.hook(Hook::Stop, &s, &[]), Done::Well);
    assert_eq!(p.hook(Hook::Stop, &s, &[]), Done::Well, "it is stopped already");
    assert_eq!((p.processes(), s.sql("SELECT count(*) FROM t").as_str()), (0, "1"));
    s.promote();
    assert_eq!(p.hook(Hook::Rejoin, &s, &[]), Done::Well);
    p.follows(&s);
    assert!(!p.beside("wal-7").exists() && !p.beside("settings-7").exists());
    assert_eq!(p.hook(Hook::Rejoin, &s, &[]), Done::Well, "it has come back already");
    let why = reason(s.hook(Hook::Rejoin, &s, &[]));
    assert!(why.contains("is the primary"), "{why}");
}

#[test]
fn a_node_that_went_its_own_way_is_rewound_and_its_log_kept() {
    at_most_minutes(3);
    let (p, s) = pair(&REWOUND);
    part(&p, &s);
    assert_eq!(p.hook(Hook::Fence, &s, &[]), Done::Well);
    s.promote();
    s.sql("INSERT INTO t VALUES (2)");
    let settings = fs::read(p.postgres.home().join("data/postgresql.conf")).expect("settings");
    assert_eq!(p.hook(Hook::Rejoin, &s, &[]), Done::Well);
    p.follows(&s);
    assert_eq!(p.sql("SELECT count(*) FROM t"), "2");
    assert!(
        p.beside("wal-7").join("000000010000000000000003").exists() || {
            fs::read_dir(p.beside("wal-7")).expect("the log").count() > 1
        }
    );
    let now = fs::read(p.postgres.home().join("data/postgresql.conf")).expect("settings");
    assert_eq!(settings, now, "its settings are its own");
    assert!(p.sql("SHOW primary_conninfo").contains(r"password='a\'\\b'"));
}

/// Trap 17: both have timeline 2, and different rows in it. `pg_rewind` finds nothing to do.
#[test]
fn two_nodes_with_a_timeline_each_of_the_same_number_are_not_mixed() {
    at_most_minutes(3);
    let (p, a) = pair(&REWOUND);
    let b = Node::new(p.postgres.start_standby(&[]));
    p.sql("CREATE TABLE t AS SELECT 'both' AS name");
    for node in [&a, &b] {
        until("the table to arrive", SOON, || node.sql("SELECT to_regclass('t')") == "t");
    }
    assert_eq!(p.hook(Hook::Fence, &a, &[]), Done::Well);
    for node in [&a, &b] {
        node.promote();
    }
    a.sql("INSERT INTO t VALUES ('a')");
    b.sql("INSERT INTO t VALUES ('b')");
    // A try of the days when it was a standby says nothing of a node that runs as a primary.
    fs::write(b.postgres.home().join("data/pgring.standby"), "").expect("an old mark");
    for _again in 0..2 {
        let why = reason(b.hook(Hook::Rejoin, &a, &[]));
        assert!(why.contains("timeline 2") && why.contains("--rebuild"), "{why}");
        assert_eq!(b.processes(), 0);
    }
    assert_eq!(b.hook(Hook::Rejoin, &a, &["--rebuild"]), Done::Well);
    b.follows(&a);
    assert_eq!(b.sql("SELECT string_agg(name, ' ' ORDER BY name) FROM t"), "a both");
}

/// A standby that was killed, and a try that failed after it had put the signal file aside.
#[test]
fn a_standby_of_the_same_timeline_comes_back_as_it_is() {
    at_most_minutes(3);
    let (p, s) = pair(&REWOUND);
    assert_eq!(p.hook(Hook::Stop, &s, &[]), Done::Well);
    s.promote();
    assert_eq!(p.hook(Hook::Rejoin, &s, &[]), Done::Well);
    for _again in 0..2 {
        p.follows(&s);
        assert_eq!(p.hook(Hook::Fence, &s, &[]), Done::Well);
        let data = p.postgres.home().join("data");
        fs::rename(data.join("standby.signal"), data.join("pgring.standby")).expect("a try");
        assert_eq!(p.hook(Hook::Rejoin, &s, &[]), Done::Well);
        assert!(!data.join("pgring.standby").exists());
    }
}

#[test]
fn a_node_that_cannot_be_rewound_is_copied_only_if_that_is_wanted() {
    at_most_minutes(3);
    // Without checksums and hints, but with what pg_rewind asks of the other side.
    let (p, s) = pair(&REWOUND[1..]);
    part(&p, &s);
    assert_eq!(p.hook(Hook::Fence, &s, &[]), Done::Well);
    s.promote();
    let why = reason(p.hook(Hook::Rejoin, &s, &[]));
    assert!(why.contains("wal_log_hints"), "{why}");
    assert_eq!(p.processes(), 0);
    assert_eq!(p.hook(Hook::Rejoin, &s, &["--rebuild"]), Done::Well);
    p.follows(&s);
    assert_eq!(p.sql("SELECT count(*) FROM t"), "1");
    assert!(p.beside("old-7").join("PG_VERSION").exists() && p.beside("wal-7").exists());
}
