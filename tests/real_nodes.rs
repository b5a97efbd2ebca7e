//! Real programs on real PostgreSQL nodes through pgring: psql, pgbench in all its modes,
//! pipelines, COPY, large objects. None may see an error.

use pgring_tests::command::{Outcome, at_most_minutes, run, run_with};
use pgring_tests::dice::amount;
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{PASSWORD, Postgres, program, psql};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(2);

/// Runs pgbench for some seconds (`PGRING_BENCH_SECONDS`) and wants no error at all.
fn pgbench(address: SocketAddr, what: &str, arguments: &[&str]) {
    let seconds = amount("PGRING_BENCH_SECONDS", 3).to_string();
    let port = address.port().to_string();
    let mut command = Command::new(program("pgbench"));
    command.args(["-n", "-h", "127.0.0.1", "-p", &port, "-U", "app", "-T", &seconds]);
    command.args(["-j", "2"]).args(arguments).arg("app").env("PGPASSWORD", PASSWORD);
    let limit = LIMIT + Duration::from_secs(seconds.parse().expect("a number"));
    let Outcome { success, stdout, stderr } = run(&mut command, limit);
    let clean = stdout.contains("number of failed transactions: 0 ");
    let done = stdout.lines().find_map(|line| line.split_once("actually processed: "));
    let some = done.is_some_and(|(_, count)| count.trim() != "0");
    assert!(success && clean && some && !stderr.contains("error"), "{what}\n{stdout}\n{stderr}");
}

#[test]
fn pgbench_runs_in_every_mode_without_an_error() {
    at_most_minutes(20);
    let node = Postgres::start();
    node.fill_pgbench(10);
    let pgring = Pgring::start(&node, 16);
    for mode in ["simple", "extended", "prepared"] {
        let select = ["-M", mode, "-c", "64", "-S"];
        pgbench(pgring.address(), &format!("select only, {mode}"), &select);
        pgbench(pgring.address(), &format!("TPC-B, {mode}"), &["-M", mode, "-c", "64"]);
        let update = ["-M", mode, "-c", "8", "-b", "simple-update"];
        pgbench(pgring.address(), &format!("simple update, {mode}"), &update);
    }
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) -
                (SELECT sum(bbalance) FROM pgbench_branches)";
    // The simple update leaves the branches alone, so only the tellers must agree with them.
    assert!(!node.psql(sums).is_empty());
    let tellers = "SELECT (SELECT sum(tbalance) FROM pgbench_tellers) =
                   (SELECT sum(bbalance) FROM pgbench_branches)";
    assert_eq!(node.psql(tellers).trim(), "t", "TPC-B has lost or doubled a statement");
}

#[test]
fn pgbench_reconnecting_for_every_transaction_sees_no_error() {
    at_most_minutes(5);
    let node = Postgres::start();
    node.fill_pgbench(1);
    let pgring = Settings::new(&node).set("pool.size", 4).set("workers", 2).start();
    pgbench(pgring.address(), "new connections", &["-C", "-c", "8", "-S"]);
    let scram = Settings::new(&node).set("auth.method", "scram-sha-256").start();
    pgbench(scram.address(), "new connections with SCRAM", &["-C", "-c", "4", "-S"]);
}

#[test]
fn pgbench_pipelines_see_no_error() {
    at_most_minutes(5);
    let node = Postgres::start();
    node.fill_pgbench(1);
    let pgring = Settings::new(&node).set("pool.size", 4).start();
    let script = "\\set aid random(1, 100000)
        \\startpipeline
        SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
        SELECT :aid, generate_series(1, 20);
        BEGIN;
        UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
        SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
        COMMIT;
        SELECT count(*) FROM pgbench_branches;
        \\endpipeline
        \\startpipeline
        SELECT 1;
        SELECT 2;
        \\endpipeline
    ";
    let path = node.home().join("pipeline.sql");
    std::fs::write(&path, script).expect("to write a script");
    let path = path.to_str().expect("a path");
    for mode in ["extended", "prepared"] {
        pgbench(pgring.address(), mode, &["-M", mode, "-c", "32", "-f", path]);
    }
}

#[test]
fn psql_does_its_work() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let script = "
        CREATE TABLE things (id int PRIMARY KEY, name text);
        INSERT INTO things SELECT i, 'thing ' || i FROM generate_series(1, 1000) i;
        \\d things
        \\dt
        \\l
        \\du
        \\df pg_catalog.now
        SELECT count(*) FROM things;
        BEGIN; DELETE FROM things; ROLLBACK;
        \\set FETCH_COUNT 100
        SELECT * FROM things ORDER BY id;
        \\set FETCH_COUNT 0
        SELECT * FROM things WHERE id = 7 \\gset
        SELECT :id, :'name' \\gdesc
        SELECT format('SELECT %s', i) FROM generate_series(1, 3) i \\gexec
        SELECT i % 2, i % 3, count(*) FROM generate_series(1, 9) i GROUP BY 1, 2 \\crosstabview
        DO $$ BEGIN RAISE NOTICE 'hello'; END $$;
        SELECT $1::int + $2::int \\bind_is_too_new
        DROP TABLE things;
    ";
    let script = script.replace("        SELECT $1::int + $2::int \\bind_is_too_new\n", "");
    let direct = psql(node.address(), "app", "app", &script);
    let through = psql(pgring.address(), "app", "app", &script);
    assert!(direct.success, "{}", direct.stderr);
    assert!(through.success, "{}", through.stderr);
    assert_eq!(direct.stdout, through.stdout);
    assert_eq!(direct.stderr, through.stderr);
}

#[test]
fn copy_moves_large_tables_both_ways() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let rows = "SELECT i, md5(i::text), repeat('x', i % 300) FROM generate_series(1, 100000) i";
    let make = format!("CREATE TABLE source AS {rows}; CREATE TABLE target (LIKE source);");
    psql(pgring.address(), "app", "app", &make).expect_success("to make tables");
    let out = psql(pgring.address(), "app", "app", "COPY source TO STDOUT;");
    let out = out.expect_success("COPY out");
    let port = pgring.address().port().to_string();
    let mut copy_in = Command::new(program("psql"));
    copy_in.args(["-X", "-q", "-h", "127.0.0.1", "-p", &port, "-U", "app", "-d", "app"]);
    copy_in.args(["-v", "ON_ERROR_STOP=1", "-c", "COPY target FROM STDIN"]);
    run_with(&mut copy_in, out.as_bytes(), LIMIT).expect_success("COPY in");
    let differ = "SELECT count(*) FROM (SELECT * FROM source EXCEPT SELECT * FROM target) d";
    assert_eq!(node.psql(differ).trim(), "0");
    let binary = "\\copy source TO 'BINARY' (FORMAT binary)
        TRUNCATE target;
        \\copy target FROM 'BINARY' (FORMAT binary)
        SELECT count(*) FROM target;";
    let file = node.home().join("binary.copy");
    let binary = binary.replace("BINARY", file.to_str().expect("a path"));
    let counted = psql(pgring.address(), "app", "app", &binary).expect_success("binary COPY");
    assert_eq!(counted.trim(), "100000");
}

#[test]
fn large_objects_and_large_values_pass_unchanged() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let file = node.home().join("object");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_be_bytes()[3]).collect();
    std::fs::write(&file, &bytes).expect("to write a file");
    let path = file.to_str().expect("a path");
    let script = format!(
        "\\lo_import '{path}'
        \\lo_export :LASTOID '{path}.back'
        \\lo_unlink :LASTOID
        CREATE TABLE big (value text);
        INSERT INTO big SELECT repeat('0123456789abcdef', 1000000);
        SELECT md5(value) = md5(repeat('0123456789abcdef', 1000000)) FROM big;"
    );
    let said = psql(pgring.address(), "app", "app", &script).expect_success("large objects");
    assert_eq!(said.lines().last(), Some("t"));
    assert_eq!(std::fs::read(format!("{path}.back")).expect("the copy"), bytes);
    let whole = psql(pgring.address(), "app", "app", "SELECT value FROM big").expect_success("big");
    assert_eq!(whole.trim().len(), 16_000_000);
}
