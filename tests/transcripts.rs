//! Real programs talk to pgring, then to PostgreSQL itself, through a relay that writes both
//! conversations down: they must be the same, and the same as the text that is stored.
//!
//! The texts are `transcripts/NAME.txt`; `UPDATE=1` writes them anew. What may differ is named in
//! `harness/recording.rs` and nowhere else.

use pgring_tests::command::{at_most_minutes, run};
use pgring_tests::driver::{installed, python};
use pgring_tests::pgring::Settings;
use pgring_tests::postgres::{PASSWORD, Postgres, program};
use pgring_tests::recording::{lines, versionless};
use pgring_tests::relay::Relay;
use pgring_tests::transcript::difference;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// What every conversation finds.
const TABLE: &str = "DROP TABLE IF EXISTS conversation;
    CREATE TABLE conversation (id int PRIMARY KEY, name text);
    INSERT INTO conversation VALUES (1, 'one'), (2, 'two'), (3, NULL);
    GRANT ALL ON conversation TO PUBLIC";

/// A program, how it is called, and how it logs in.
struct Talk {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    user: &'static str,
    method: &'static str,
    /// Whether it ends well.
    success: bool,
}

impl Talk {
    fn new(name: &'static str, program: PathBuf, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        Self { name, program, arguments, user: "app", method: "trust", success: true }
    }

    /// Has psql run a script.
    fn psql(name: &'static str, node: &Postgres, script: &str) -> Self {
        let file = file(node, name, script);
        Self::new(name, program("psql"), &["-X", "-q", "-f", &file])
    }

    /// Has pgbench run a script twice.
    fn pgbench(name: &'static str, node: &Postgres, (mode, script): (&str, &str)) -> Self {
        let file = file(node, name, script);
        let arguments = ["-n", "-c", "1", "-t", "2", "-M", mode, "-f", &file];
        Self::new(name, program("pgbench"), &arguments)
    }

    /// Lets it talk to a server and gives what was said.
    fn listen(&self, node: &Postgres, server: SocketAddr) -> Vec<String> {
        node.psql(TABLE);
        let relay = Relay::start(server);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("PGHOST", "127.0.0.1").env("PGUSER", self.user);
        command.env("PGPORT", relay.address().port().to_string()).env("PGDATABASE", "app");
        command.env("PGPASSWORD", PASSWORD).env("PGGSSENCMODE", "disable");
        command.env("LC_ALL", "C").env("PGCLIENTENCODING", "UTF8");
        let outcome = run(&mut command, LIMIT);
        assert_eq!(outcome.success, self.success, "{}: {outcome:?}", self.name);
        let mut heard = lines(&relay.finish());
        // With or without a pooler, psycopg ends a pipeline with one or not, as the answers come.
        heard.retain(|line| line != "-> Flush");
        heard
    }

    /// Compares what is said to pgring with what is said to PostgreSQL and with what is stored.
    fn compare(&self, node: &Postgres) {
        let direct = self.listen(node, node.address());
        for mode in ["transaction", "session"] {
            let settings = Settings::new(node).set("pool.mode", mode).set("pool.size", 2);
            let pgring = settings.set("auth.method", self.method).start();
            let through = self.listen(node, pgring.address());
            if let Some(difference) = difference(&direct, &through) {
                panic!("{}, {mode} mode: {difference}", self.name);
            }
            pgring.wait_until_quiet();
        }
        self.compare_with_stored(&versionless(&direct));
    }

    fn compare_with_stored(&self, heard: &[String]) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
        let path = folder.join(format!("{}.txt", self.name));
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            fs::write(&path, heard.join("\n") + "\n").expect("to store a transcript");
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        let stored: Vec<_> = stored.lines().map(str::to_owned).collect();
        let first = stored.iter().zip(heard).position(|(one, other)| one != other);
        let first = first.unwrap_or_else(|| stored.len().min(heard.len()));
        let [told, told_now] = [stored.get(first), heard.get(first)];
        let place = format!("{}:{}", path.display(), first + 1);
        assert_eq!(told, told_now, "{place}: UPDATE=1 if the new one is right");
    }
}

/// A script as a file, its path.
fn file(node: &Postgres, name: &str, script: &str) -> String {
    let path = node.home().join(name);
    fs::write(&path, script).expect("to write a script");
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn psql_hears_the_same_to_its_queries_and_errors() {
    at_most_minutes(3);
    let node = Postgres::start();
    let script = "SELECT 1 AS one, NULL AS nothing;
        SELECT id, name FROM conversation ORDER BY id;
        SELECT 1 \\; SELECT 2 \\; SELECT 3;
        ;
        SELECT 1 / 0;
        SELEC 1;
        SELECT missing FROM conversation;
        SET TimeZone = 'Asia/Tokyo';
        SELECT TIMESTAMPTZ '2001-02-03 04:05:06+00';
        RESET TimeZone;
        DO $$ BEGIN RAISE NOTICE 'by the way' USING HINT = 'listen'; END $$;
        BEGIN;
        UPDATE conversation SET name = 'three' WHERE id = 3;
        SELECT 1 / 0;
        SELECT 'in vain';
        ROLLBACK;
        SAVEPOINT outside;
        PREPARE named (int) AS SELECT name FROM conversation WHERE id = $1;
        EXECUTE named(2);
        DEALLOCATE named;\n";
    Talk::psql("psql_queries", &node, script).compare(&node);
}

#[test]
fn psql_copies_in_and_out_as_without_a_pooler() {
    at_most_minutes(3);
    let node = Postgres::start();
    let script = "\\copy conversation from stdin
4\tfour
5\t\\N
\\.
\\copy conversation from stdin
1\ttwice
\\.
\\copy (select * from conversation order by id) to stdout with csv header
COPY conversation (id) FROM STDIN;
not a number
\\.
COPY (SELECT 1 / (id - 2) FROM conversation ORDER BY id) TO STDOUT;
SELECT count(*) FROM conversation;\n";
    Talk::psql("psql_copy", &node, script).compare(&node);
}

#[test]
fn psql_uses_cursors_as_without_a_pooler() {
    at_most_minutes(3);
    let node = Postgres::start();
    let script = "BEGIN;
        DECLARE looking CURSOR FOR SELECT id FROM conversation ORDER BY id;
        FETCH 2 FROM looking;
        MOVE looking;
        FETCH 2 FROM looking;
        CLOSE looking;
        FETCH looking;
        COMMIT;
        BEGIN;
        DECLARE kept SCROLL CURSOR WITH HOLD FOR SELECT id FROM conversation ORDER BY id;
        COMMIT;
        FETCH LAST FROM kept;
        FETCH FIRST FROM kept;
        CLOSE kept;\n";
    Talk::psql("psql_cursor", &node, script).compare(&node);
}

#[test]
fn psql_proves_itself_by_scram_as_without_a_pooler() {
    at_most_minutes(3);
    let node = Postgres::start();
    let talk = Talk::psql("psql_scram", &node, "SELECT current_user;\n");
    Talk { user: "scrammer", method: "scram-sha-256", ..talk }.compare(&node);
}

const SCRIPT: &str = "\\set id 2
    BEGIN;
    UPDATE conversation SET name = 'new' WHERE id = :id;
    SELECT name FROM conversation WHERE id = :id;
    END;\n";

#[test]
fn pgbench_talks_as_without_a_pooler_in_each_of_its_modes() {
    at_most_minutes(5);
    let node = Postgres::start();
    for (name, mode) in [
        ("pgbench_simple", "simple"),
        ("pgbench_extended", "extended"),
        ("pgbench_prepared", "prepared"),
    ] {
        Talk::pgbench(name, &node, (mode, SCRIPT)).compare(&node);
    }
}

#[test]
fn pgbench_pipelines_as_without_a_pooler() {
    at_most_minutes(3);
    let node = Postgres::start();
    let script = format!("\\startpipeline\n{SCRIPT}\\endpipeline\n");
    for (name, mode) in
        [("pgbench_pipeline_extended", "extended"), ("pgbench_pipeline_prepared", "prepared")]
    {
        Talk::pgbench(name, &node, (mode, &script)).compare(&node);
    }
}

#[test]
fn psycopg_talks_as_without_a_pooler() {
    at_most_minutes(3);
    let python = python();
    if installed(&python) {
        let node = Postgres::start();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/drivers/conversation.py");
        Talk::new("psycopg", python, &[script]).compare(&node);
    }
}
