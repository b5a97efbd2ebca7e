//! Pools and databases: how long servers live, what becomes of a client whose node is away, and
//! what the entries of the config mean.

use pgring_tests::command::{at_most_minutes, run, signal, until};
use pgring_tests::console::Row;
use pgring_tests::message::{Message, V3_0, query, startup, terminate};
use pgring_tests::pgring::{Pgring, Settings, binary};
use pgring_tests::postgres::{PASSWORD, Postgres, program};
use pgring_tests::wire::Wire;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_mins(1);

/// How many servers a user has, by PostgreSQL.
fn servers(node: &Postgres, user: &str) -> usize {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'");
    node.psql(&sql).trim().parse().expect("a number")
}

#[test]
fn idle_servers_close_down_to_the_least_number() {
    at_most_minutes(2);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 4).set("pool.min_size", 1);
    let pgring = settings.set("pool.server_idle_timeout", "500ms").start();
    let mut clients: Vec<_> = (0..4).map(|_| Wire::login(pgring.address(), "app")).collect();
    for client in &mut clients {
        client.query("BEGIN");
    }
    assert_eq!(servers(&node, "app"), 4);
    for client in &mut clients {
        client.query("COMMIT");
    }
    until("all but one to close", SOON, || servers(&node, "app") == 1);
    assert_eq!(clients[0].value("SELECT 1"), "1");
}

/// Where clients of the pool come, or the next one would wait for a login beside an idle server.
#[test]
fn the_least_number_of_a_small_pool_is_kept_where_its_clients_are() {
    at_most_minutes(2);
    let node = Postgres::start();
    for user in ["app", "guest"] {
        let settings = Settings::new(&node).set("pool.size", 2).set("workers", 4);
        let settings = settings.set("pool.min_size", 1);
        let pgring = settings.set("pool.server_idle_timeout", "500ms").start();
        let mut first = Wire::login(pgring.address(), user);
        let pid = first.value("SELECT pg_backend_pid()");
        let start = Instant::now();
        // The lanes look around once a second.
        until("three looks", SOON, || start.elapsed() > Duration::from_secs(3));
        assert_eq!(first.value("SELECT pg_backend_pid()"), pid, "it was closed");
        let mut next = Wire::login(pgring.address(), user);
        assert_eq!((next.value("SELECT pg_backend_pid()"), servers(&node, user)), (pid, 1));
    }
}

#[test]
fn old_servers_are_replaced_between_transactions() {
    at_most_minutes(2);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 1);
    let pgring = settings.set("pool.server_lifetime", "1s").start();
    let mut client = Wire::login(pgring.address(), "app");
    let pid = client.value("SELECT pg_backend_pid()");
    client.query("BEGIN");
    let start = Instant::now();
    until("a second and a half to pass", SOON, || start.elapsed() > Duration::from_millis(1_500));
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid, "not inside of a transaction");
    client.query("COMMIT");
    until("a new server", SOON, || client.value("SELECT pg_backend_pid()") != pid);
}

/// Otherwise a session that a broken network has cut off would keep its locks for two hours.
#[test]
fn a_server_looks_whether_pgring_is_still_there() {
    at_most_minutes(2);
    let node = Postgres::start();
    let shown = |client: &mut Wire| {
        ["idle", "interval", "count"]
            .map(|name| client.value(&format!("SHOW tcp_keepalives_{name}")))
            .join(" ")
    };
    for mode in ["transaction", "session"] {
        let pgring = Settings::new(&node).set("pool.mode", mode).start();
        let mut client = Wire::login(pgring.address(), "app");
        assert_eq!(shown(&mut client), "15 5 3");
        client.query("SET tcp_keepalives_idle = 77");
        client.query("DISCARD ALL");
        assert_eq!(shown(&mut client), "15 5 3");
    }
    let pgring = Settings::new(&node).set("pool.server_keepalive", false).start();
    let mut client = Wire::login(pgring.address(), "app");
    assert_ne!(shown(&mut client), "15 5 3");
}

#[test]
fn the_reserve_helps_who_has_waited_long_enough() {
    at_most_minutes(2);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 1).set("pool.reserve_size", 1);
    let pgring = settings.set("pool.reserve_timeout", "400ms").start();
    let [mut holder, mut second] = [(); 2].map(|()| Wire::login(pgring.address(), "app"));
    holder.query("BEGIN");
    let start = Instant::now();
    assert_eq!(second.value("SELECT 'from the reserve'"), "from the reserve");
    let waited = start.elapsed();
    assert!((300..5_000).contains(&waited.as_millis()), "{waited:?}");
    assert!(servers(&node, "app") <= 2);
}

#[test]
fn the_size_of_a_pool_is_for_all_workers_together() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 3).set("workers", 4).start();
    let mut clients: Vec<_> = (0..24).map(|_| Wire::login(pgring.address(), "app")).collect();
    for _ in 0..20 {
        for client in &mut clients {
            client.send(&query("SELECT pg_sleep(0.001)"));
        }
        for client in &mut clients {
            client.until_ready(1);
        }
        assert!(servers(&node, "app") <= 3);
    }
    pgring.wait_until_quiet();
}

/// Fewer servers than workers: one worker has them all, and nobody waits for what another one has.
#[test]
fn clients_of_a_small_pool_meet_on_one_worker() {
    at_most_minutes(2);
    let node = Postgres::start();
    for (size, meet) in [(2, true), (4, false)] {
        let pgring = Settings::new(&node).set("pool.size", size).set("workers", 4).start();
        let clients: Vec<_> = (0..16).map(|_| Wire::login(pgring.address(), "app")).collect();
        let mut console = pgring.console();
        let cores = |rows: Vec<Row>| -> BTreeSet<String> {
            let of_app = rows.into_iter().filter(|row| row["user"] == "app");
            of_app.map(|row| row["core"].clone()).collect()
        };
        let cores_of_clients = cores(console.show("SHOW CLIENTS"));
        assert_eq!(cores_of_clients.len() == 1, meet, "{size} servers: {cores_of_clients:?}");
        if meet {
            assert_eq!(cores(console.show("SHOW SERVERS")), cores_of_clients);
        }
        drop(clients);
        pgring.wait_until_quiet();
    }
}

/// Wherever it came in.
#[test]
fn who_says_all_at_once_is_answered_in_full() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.size", 1).set("workers", 4).start();
    for number in 0..24 {
        let mut client = Wire::connect(pgring.address());
        let hello = startup(V3_0, &[("user", "app"), ("database", "app")]);
        let select = query(&format!("SELECT {number}"));
        client.send(&[hello, select, terminate()].concat());
        let answers = client.until_end();
        let rows: Vec<_> = answers.iter().filter(|answer| answer.tag == b'D').collect();
        assert_eq!(rows.len(), 1, "{answers:?}");
        assert_eq!(rows[0].value(), number.to_string());
    }
}

#[test]
fn who_says_all_at_once_and_leaves_is_obeyed() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql("CREATE TABLE said (number int); GRANT ALL ON said TO PUBLIC");
    let pgring = Settings::new(&node).set("pool.size", 1).set("workers", 4).start();
    // Somebody must have been greeted before.
    pgring.warm();
    for number in 0..24 {
        let mut client = Wire::connect(pgring.address());
        let hello = startup(V3_0, &[("user", "app"), ("database", "app")]);
        let insert = query(&format!("INSERT INTO said VALUES ({number})"));
        client.send(&[hello, insert, terminate()].concat());
        client.shut();
        let count = || node.psql(&format!("SELECT count(*) FROM said WHERE number = {number}"));
        until("it to be written", SOON, || count().trim() == "1");
    }
}

#[test]
fn a_login_needs_no_free_server_once_the_pool_is_known() {
    at_most_minutes(2);
    let node = Postgres::start();
    for workers in [1, 4] {
        let pgring = Settings::new(&node).set("pool.size", 1).set("workers", workers).start();
        let mut holder = Wire::login(pgring.address(), "app");
        holder.query("BEGIN");
        let start = Instant::now();
        let clients: Vec<_> = (0..8).map(|_| Wire::login(pgring.address(), "app")).collect();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(holder.value("SELECT 'mine'"), "mine");
        drop(clients);
    }
}

/// The end of the connection tells what has become of the work: nothing, if nobody has asked for
/// the end of the transaction; else nobody knows.
#[test]
fn a_client_is_told_what_is_known_when_its_server_is_lost() {
    at_most_minutes(3);
    let node = Postgres::start();
    let settings = Settings::new(&node).set("pool.size", 2);
    let pgring = settings.set("pool.server_login_retry", "100ms").start();
    for (begin, last, code) in [
        ("SELECT 1", "SELECT pg_sleep(100)", "08007"),
        ("BEGIN", "SELECT pg_sleep(100)", "08006"),
        ("BEGIN", "SELECT pg_sleep(100); COMMIT", "08007"),
        ("BEGIN; SAVEPOINT a", "ROLLBACK; SELECT pg_sleep(100)", "08007"),
    ] {
        let mut client = Wire::login(pgring.address(), "app");
        client.query(begin);
        client.send(&query(last));
        let mut pid = String::new();
        until("it to run", SOON, || {
            let sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            node.psql(sleeping).trim().clone_into(&mut pid);
            !pid.is_empty()
        });
        assert!(signal(pid.parse().expect("a pid"), "KILL"), "no server");
        let error = client.until_end().into_iter().find(|message| message.tag == b'E');
        let error = error.expect("an error");
        assert_eq!(error.code(), code, "{begin}, {last}: {error:?}");
        let up = || Wire::try_login(node.address(), &[("user", "app"), ("database", "app")]);
        until("PostgreSQL to recover", SOON, || up().is_some());
    }
}

#[test]
fn a_node_that_is_away_is_an_error_and_then_forgotten() {
    at_most_minutes(2);
    let mut node = Postgres::start();
    let settings = Settings::new(&node).set("pool.query_wait_timeout", "2s");
    let pgring = settings.set("pool.server_login_retry", "100ms").start();
    let mut busy = Wire::login(pgring.address(), "app");
    let mut idle = Wire::login(pgring.address(), "app");
    idle.query("SELECT 1");
    busy.query("BEGIN");
    node.stop();
    busy.try_send(&query("SELECT 1"));
    let code = busy.read().map(|message| message.code()).unwrap_or_default();
    let known = ["57P01", "08006", "08007", "25P02", "57P03"];
    assert!(known.contains(&code.as_str()), "in a transaction: {code:?}");
    idle.send(&query("SELECT 1"));
    let code = idle.read().map(|message| message.code()).unwrap_or_default();
    assert!(["57P03", "53300", "08001", "08006"].contains(&code.as_str()), "no node: {code:?}");
    node.start_again();
    let login = || Wire::try_login(pgring.address(), &[("user", "app"), ("database", "app")]);
    until("the node to be used again", SOON, || {
        login().is_some_and(|mut wire| wire.failure("SELECT 1").is_empty())
    });
}

#[test]
fn servers_that_die_while_idle_are_noticed() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let mut client = Wire::login(pgring.address(), "app");
    for _ in 0..10 {
        assert_eq!(client.value("SELECT 'alive'"), "alive");
        node.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
        until("the server to be gone", SOON, || servers(&node, "app") == 0);
    }
    client.query("BEGIN");
    node.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
    client.try_send(&query("SELECT 1"));
    let codes: Vec<_> = client.until_end().iter().map(Message::code).collect();
    assert!(codes.iter().any(|code| code == "57P01" || code.starts_with("08")), "{codes:?}");
}

#[test]
fn databases_have_names_users_and_sizes_of_their_own() {
    at_most_minutes(2);
    let node = Postgres::start();
    let databases = format!(
        "[[databases]]\nname = \"alias\"\ncluster = \"main\"\ndbname = \"app\"\n\
         [[databases]]\nname = \"shared\"\ncluster = \"main\"\ndbname = \"app\"\n\
         user = \"scrammer\"\npassword = \"{PASSWORD}\"\n[databases.pool]\nsize = 1\n\
         [[databases]]\nname = \"sessions\"\ncluster = \"main\"\ndbname = \"app\"\n\
         [databases.pool]\nmode = \"session\"\n"
    );
    let pgring = Settings::new(&node).databases(&databases).start();
    let login = |user, database| {
        Wire::login_with(pgring.address(), &[("user", user), ("database", database)])
    };
    let who = "SELECT current_user || ' ' || current_database()";
    assert_eq!(login("app", "alias").value(who), "app app");
    assert_eq!(login("app", "shared").value(who), "scrammer app");
    assert_eq!(login("guest", "shared").value(who), "scrammer app");
    assert!(servers(&node, "scrammer") <= 1);
    let mut session = login("app", "sessions");
    let pid = session.value("SELECT pg_backend_pid()");
    assert_eq!(session.pid.to_string(), pid, "in session mode the pid is the real one");
    let mut other = login("app", "sessions");
    assert_ne!(other.value("SELECT pg_backend_pid()"), pid);
    let mut wire = Wire::connect(pgring.address());
    let unlisted = [("user", "app"), ("database", "app")];
    wire.send(&startup(V3_0, &unlisted));
    let error = wire.authenticate("app", "").expect_err("a refusal").expect("a reason");
    assert_eq!(error.code(), "3D000");
}

#[test]
fn a_session_keeps_its_server_and_its_own_defaults() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.mode", "session").set("pool.size", 2).start();
    let login = [("user", "app"), ("database", "app"), ("options", "-c work_mem=5MB")];
    let mut one = Wire::login_with(pgring.address(), &login);
    let pid = one.value("SELECT pg_backend_pid()");
    assert_eq!(pid, one.pid.to_string());
    one.query("SET work_mem = '6MB'; CREATE TEMP TABLE mine (i int); PREPARE p AS SELECT 1");
    let mut other = Wire::login(pgring.address(), "app");
    assert_ne!(other.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(one.value("SHOW work_mem"), "6MB");
    assert_eq!(one.value("EXECUTE p"), "1");
    one.query("RESET work_mem");
    assert_eq!(one.value("SHOW work_mem"), "5MB", "RESET falls back to the startup packet");
    one.query("DISCARD ALL");
    assert_eq!(one.value("SHOW work_mem"), "5MB");
    drop(one);
    let mut pids = BTreeSet::new();
    for _ in 0..5 {
        let mut next = Wire::login(pgring.address(), "app");
        assert_eq!(next.value("SHOW work_mem"), "4MB");
        assert_eq!(next.failure("SELECT * FROM mine"), "42P01");
        pids.insert(next.pid);
        drop(next);
    }
    assert!(servers(&node, "app") <= 2);
}

#[test]
fn statement_mode_refuses_transactions_of_several_statements() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("pool.mode", "statement").set("pool.size", 1).start();
    let mut client = Wire::login(pgring.address(), "app");
    assert_eq!(client.value("SELECT 1"), "1");
    let whole = client.query("BEGIN; SELECT 1; COMMIT");
    let tags: Vec<_> = whole.iter().map(|message| char::from(message.tag)).collect();
    assert_eq!(tags, ['C', 'T', 'D', 'C', 'C', 'Z'], "a transaction in one text is one statement");
    client.send(&query("BEGIN"));
    let refused = client.read().expect("an answer");
    assert_eq!(char::from(refused.tag), 'E', "{refused:?}");
    let mut other = Wire::login(pgring.address(), "app");
    assert_eq!(other.value("SELECT 'free'"), "free");
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    at_most_minutes(2);
    let node = Postgres::start();
    let folder = node.home().to_owned();
    let directory = format!("{}:{}", node.home().display(), node.port());
    let settings = Settings::new(&node).node(&directory);
    let pgring = settings.set("unix_socket_dir", folder.to_str().expect("a path")).start();
    let mut psql = Command::new(program("psql"));
    let port = pgring.address().port().to_string();
    psql.args(["-X", "-A", "-t", "-U", "app", "-d", "app", "-p", &port, "-h"]).arg(&folder);
    psql.args(["-c", "SELECT inet_client_addr() IS NULL"]);
    let said = run(&mut psql, LIMIT).expect_success("psql by a Unix socket");
    assert_eq!(said.trim(), "t", "the server side is a Unix socket too");
}

#[test]
fn replication_connections_pass_through() {
    at_most_minutes(3);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 1);
    let port = pgring.address().port().to_string();
    let mut psql = Command::new(program("psql"));
    let line = format!("host=127.0.0.1 port={port} user=postgres dbname=app replication=database");
    psql.args(["-X", "-A", "-t", "-c", "IDENTIFY_SYSTEM", &line]);
    let said = run(&mut psql, LIMIT).expect_success("IDENTIFY_SYSTEM");
    assert_eq!(said.trim().split('|').count(), 4, "{said}");
    let copy = node.home().join("copy");
    let mut backup = Command::new(program("pg_basebackup"));
    backup.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", "fast", "-X", "stream"]);
    run(backup.arg("-D").arg(&copy), LIMIT).expect_success("pg_basebackup");
    let mut verify = Command::new(program("pg_verifybackup"));
    run(verify.arg(&copy), LIMIT).expect_success("pg_verifybackup");
}

#[test]
fn check_names_the_line_and_the_key() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut pgring = Pgring::start(&node, 1);
    let check = |pgring: &Pgring| {
        let mut command = Command::new(binary());
        run(command.arg("check").arg("--config").arg(pgring.config_path()), LIMIT)
    };
    let good = check(&pgring);
    assert!(good.success, "{}{}", good.stdout, good.stderr);
    pgring.rewrite(|settings| settings.set("pool.query_wait_timout", "15s"));
    let text = std::fs::read_to_string(pgring.config_path()).expect("the config");
    let line = text.lines().position(|line| line.starts_with("query_wait_timout")).expect("a line");
    let bad = check(&pgring);
    let said = format!("{}{}", bad.stdout, bad.stderr);
    assert!(!bad.success, "{said}");
    for part in ["query_wait_timout", "query_wait_timeout", &(line + 1).to_string()] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}
