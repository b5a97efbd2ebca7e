//! Drivers of other languages through pgring: psycopg 3 and node-postgres, by scripts that end
//! with an error if anything is not as it should be.

use pgring_tests::command::{Outcome, at_most_minutes, run};
use pgring_tests::driver::{installed, node_modules, python};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Runs a script against pools of several shapes.
fn drive(program: &Path, script: &str, environment: &[(&str, OsString)]) {
    let node = Postgres::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers").join(script);
    // Scripts hold at most two servers at a time, for LISTEN and for transactions.
    for (size, mode) in [(2, "transaction"), (4, "transaction"), (10, "session")] {
        let settings = Settings::new(&node).set("pool.size", size).set("pool.mode", mode);
        let pgring: Pgring = settings.set("auth.method", "scram-sha-256").start();
        let mut command = Command::new(program);
        command.arg(&script).envs(environment.iter().cloned());
        command.env("PGHOST", "127.0.0.1").env("PGPORT", pgring.address().port().to_string());
        command.env("PGUSER", "app").env("PGDATABASE", "app").env("PGPASSWORD", PASSWORD);
        let Outcome { success, stdout, stderr } = run(&mut command, Duration::from_mins(2));
        assert!(success, "{mode} pool of {size}\n{stdout}\n{stderr}");
        pgring.wait_until_quiet();
    }
}

#[test]
fn psycopg_works_as_without_a_pooler() {
    at_most_minutes(5);
    let python = python();
    if installed(&python) {
        drive(&python, "psycopg3.py", &[]);
    }
}

#[test]
fn node_postgres_works_as_without_a_pooler() {
    at_most_minutes(5);
    let modules = node_modules();
    if installed(&modules.join("pg")) {
        let environment = [("NODE_PATH", modules.into_os_string())];
        drive(Path::new("node"), "node_postgres.js", &environment);
    }
}
