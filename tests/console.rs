//! The console, the metrics and the life of the process: looking, reloading under load, pausing
//! around a restart of PostgreSQL, and ending.

use pgring_tests::command::{Running, at_most_minutes, run, start, until};
use pgring_tests::console::{Console, http};
use pgring_tests::dice::amount;
use pgring_tests::message::{Message, V3_0, query, startup};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::{Postgres, as_account, program};
use pgring_tests::sql;
use pgring_tests::wire::Wire;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

const SHOWS: [&str; 12] = [
    "VERSION",
    "CONFIG",
    "DATABASES",
    "POOLS",
    "CLIENTS",
    "SERVERS",
    "STATS",
    "LISTS",
    "NODES",
    "PINS",
    "MEM",
    "HELP",
];

#[test]
fn the_console_shows_itself_in_both_protocols() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let mut client = Wire::login(pgring.address(), "app");
    client.query("SELECT 1");
    let mut console = pgring.console();
    for show in SHOWS {
        let rows = console.show(&format!("SHOW {show}"));
        assert!(!rows.is_empty() || show == "PINS", "SHOW {show} says nothing");
        assert_eq!(rows.len(), console.show(&format!("show {};", show.to_lowercase())).len());
    }
    let pool = console.find("SHOW POOLS", "user", "app").expect("a pool");
    assert_eq!((pool["database"].as_str(), pool["pool_mode"].as_str()), ("app", "transaction"));
    sql::block_on(async {
        for database in ["pgring", "pgbouncer"] {
            let mut config = sql::config(pgring.address(), "postgres");
            config.dbname(database);
            let client = sql::try_connect(&config).await.expect("to log in to the console");
            for show in SHOWS {
                let sql = format!("SHOW {show}");
                let extended = client.query(&sql, &[]).await;
                let extended = extended.unwrap_or_else(|error| panic!("{sql}: {error}"));
                assert!(!extended.is_empty() || show == "PINS", "{sql}");
                let columns = extended.first().map(|row| row.columns().len());
                assert_ne!(columns, Some(0), "{sql}");
            }
        }
    });
    let unknown = console.ask("SHOW NONSENSE").expect_err("an error");
    assert!(!unknown.code().is_empty());
    assert!(!console.show("SHOW VERSION").is_empty(), "the console goes on after an error");
}

#[test]
fn only_named_users_get_at_the_console_and_only_administrators_change_anything() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let mut stranger = Wire::connect(pgring.address());
    let login = [("user", "app"), ("database", "pgring")];
    stranger.send(&startup(V3_0, &login));
    let refusal = stranger.authenticate("app", "").expect_err("a refusal").expect("a reason");
    assert!(refusal.code().starts_with("28") || refusal.code() == "42501", "{}", refusal.code());
    let mut victim = Wire::login(pgring.address(), "app");
    let mut stats = Console::login(pgring.address(), "stats");
    for show in SHOWS {
        stats.show(&format!("SHOW {show}"));
    }
    let id = stats.find("SHOW CLIENTS", "user", "app").expect("a client")["id"].clone();
    for command in [
        "RELOAD",
        "PAUSE",
        "PAUSE app",
        "RESUME",
        "RECONNECT",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        &format!("KILL_CLIENT {id}"),
    ] {
        let error = stats.ask(command).expect_err(command);
        assert_eq!(error.code(), "42501", "{command}");
    }
    assert_eq!(victim.value("SELECT 'alive'"), "alive");
    let texts = format!("{:?}{:?}", stats.show("SHOW CONFIG"), stats.show("SHOW USERS"));
    assert!(!texts.contains("sesame"), "a password is shown");
}

#[test]
fn the_console_has_places_of_its_own() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Settings::new(&node).set("limits.clients_max", 2).start();
    // Whoever looked whether it is ready may still have a place.
    let mut clients = Vec::new();
    until("two clients", SOON, || {
        clients.extend(Wire::try_login(pgring.address(), &[("user", "app"), ("database", "app")]));
        clients.len() == 2
    });
    let mut more = Wire::connect(pgring.address());
    more.send(&startup(V3_0, &[("user", "app"), ("database", "app")]));
    let error = more.authenticate("app", "").expect_err("all places are taken");
    assert_eq!(error.expect("an error").code(), "53300");
    // Whoever is being sent away has none of these places.
    let hello = startup(V3_0, &[("user", "app"), ("database", "app")]);
    let storm: Vec<_> = (0..20)
        .map(|_| {
            let mut refused = Wire::connect(pgring.address());
            refused.send(&hello);
            assert_eq!(refused.expect(b'E').code(), "53300");
            refused
        })
        .collect();
    let rows = pgring.console().show("SHOW CLIENTS");
    assert!(rows.iter().filter(|row| row["user"] == "app").count() >= clients.len());
    drop(storm);
}

/// Whoever runs pgring may use its console by the Unix socket, without a password; nobody else may.
#[test]
fn whoever_runs_pgring_is_its_administrator() {
    at_most_minutes(2);
    let node = Postgres::start();
    let folder = node.home().to_str().expect("a path").to_owned();
    let settings = Settings::new(&node).set("unix_socket_dir", folder.as_str());
    let settings = settings.set("stats_users", ["stats"]).set("auth.method", "scram-sha-256");
    let pgring = settings.start();
    let port = pgring.address().port().to_string();
    let show = |command: &mut Command| {
        command.args(["-X", "-A", "-t", "-w", "-U", "pgring", "-d", "pgring", "-h", &folder]);
        run(command.args(["-p", &port, "-c", "SHOW VERSION"]), SOON)
    };
    let own = show(&mut Command::new(program("psql")));
    assert!(own.success && own.stdout.contains("pgring"), "{}{}", own.stdout, own.stderr);
    let mut other = as_account(&program("psql"), "KILL");
    if fs::metadata("/proc/self").expect("/proc").uid() == 0 {
        let other = show(&mut other);
        assert!(!other.success, "{}", other.stdout);
    }
}

#[test]
fn kill_client_ends_one_client() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let mut console = pgring.console();
    let mut other = Wire::login(pgring.address(), "guest");
    for begin in ["SELECT 1", "BEGIN"] {
        let mut victim = Wire::login(pgring.address(), "app");
        victim.query(begin);
        let id = console.find("SHOW CLIENTS", "user", "app").expect("a client")["id"].clone();
        console.show(&format!("KILL_CLIENT {id}"));
        let answers = victim.until_end();
        let code = answers.first().map(Message::code);
        assert!(code.is_none() || code.as_deref() == Some("57P01"), "{code:?}");
        assert_eq!(other.value("SELECT 'undisturbed'"), "undisturbed");
        until("the client to go", SOON, || console.find("SHOW CLIENTS", "user", "app").is_none());
    }
    let error = console.ask("KILL_CLIENT 99999999").expect_err("an error");
    assert!(!error.code().is_empty());
    pgring.wait_until_quiet();
}

/// pgbench with 64 clients that wants no error.
fn load(pgring: &Pgring, seconds: usize) -> Running {
    let (port, seconds) = (pgring.address().port().to_string(), seconds.to_string());
    let mut command = Command::new(program("pgbench"));
    command.args(["-n", "-h", "127.0.0.1", "-p", &port, "-U", "app", "-S", "-M", "prepared"]);
    command.args(["-c", "64", "-j", "2", "-T", &seconds, "app"]);
    start(&mut command, b"")
}

fn assert_clean(load: Running) {
    let outcome = load.wait(Duration::from_mins(5));
    let clean = outcome.stdout.contains("number of failed transactions: 0 ");
    assert!(outcome.success && clean, "{}\n{}", outcome.stdout, outcome.stderr);
}

#[test]
fn reloading_under_load_disturbs_nobody() {
    let reloads = amount("PGRING_RELOADS", 30);
    at_most_minutes(4 + u64::try_from(reloads / 50).expect("a number"));
    let node = Postgres::start();
    node.fill_pgbench(1);
    let mut pgring = Pgring::start(&node, 16);
    let load = load(&pgring, 2 + reloads / 10);
    let mut console = pgring.console();
    let start = Instant::now();
    let star = "[[databases]]\nname = \"*\"\ncluster = \"main\"\n";
    for number in 0..reloads {
        let size = [16, 4, 10, 30][number % 4];
        let added = "[[databases]]\nname = \"added\"\ncluster = \"main\"\ndbname = \"app\"\n";
        let databases = if number % 2 == 0 { format!("{added}{star}") } else { star.to_owned() };
        pgring.rewrite(|settings| settings.set("pool.size", size).databases(&databases));
        console.show("RELOAD");
        if number % 2 == 0 {
            let login = [("user", "app"), ("database", "added")];
            assert_eq!(Wire::login_with(pgring.address(), &login).value("SELECT 1"), "1");
        }
    }
    assert!(start.elapsed() < Duration::from_mins(4), "reloading takes too long");
    assert_clean(load);
    let last = [16, 4, 10, 30][(reloads - 1) % 4];
    until("the pool to have its new size", SOON, || {
        console.show("SHOW SERVERS").iter().filter(|row| row["database"] == "app").count() <= last
    });
}

#[test]
fn a_bad_file_is_refused_whole() {
    at_most_minutes(2);
    let node = Postgres::start();
    let mut pgring = Pgring::start(&node, 3);
    let mut client = Wire::login(pgring.address(), "app");
    client.query("BEGIN");
    let mut console = pgring.console();
    for (key, value) in
        [("pool.sice", "1"), ("pool.mode", "chaos"), ("pool.query_wait_timeout", "x")]
    {
        let before = fs::read_to_string(pgring.config_path()).expect("the config");
        pgring.rewrite(|settings| settings.set("pool.size", 1).set(key, value));
        let error = console.ask("RELOAD").expect_err("a refusal");
        let text = error.field(b'M').unwrap_or_default() + &error.field(b'D').unwrap_or_default();
        let name = key.split('.').next_back().expect("a name");
        assert!(text.contains(name), "the message names the key: {text}");
        fs::write(pgring.config_path(), before).expect("to restore the config");
    }
    assert_eq!(client.value("SELECT 'still in its transaction'"), "still in its transaction");
    let mut others: Vec<_> = (0..2).map(|_| Wire::login(pgring.address(), "app")).collect();
    for other in &mut others {
        assert_eq!(other.query("BEGIN").len(), 2, "the old pool size is in force");
    }
}

#[test]
fn pause_restart_resume_loses_nothing() {
    at_most_minutes(3);
    let mut node = Postgres::start();
    node.fill_pgbench(1);
    let pgring = Pgring::start(&node, 16);
    let load = load(&pgring, amount("PGRING_BENCH_SECONDS", 3) + 4);
    let mut console = pgring.console();
    until("the load to run", SOON, || console.sum("SHOW POOLS", "sv_active") > 0);
    for _ in 0..2 {
        console.show("PAUSE");
        assert_eq!(console.sum("SHOW POOLS", "sv_active"), 0, "PAUSE answers when all is quiet");
        node.stop();
        node.start_again();
        console.show("RESUME");
        until("the load to go on", SOON, || console.sum("SHOW POOLS", "sv_active") > 0);
    }
    assert_clean(load);
}

#[test]
fn reconnect_replaces_servers_between_transactions() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 1);
    let mut client = Wire::login(pgring.address(), "app");
    let pid = client.value("SELECT pg_backend_pid()");
    client.query("BEGIN");
    let mut console = pgring.console();
    console.show("RECONNECT");
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid, "not inside of a transaction");
    client.query("COMMIT");
    until("a new server", SOON, || client.value("SELECT pg_backend_pid()") != pid);
}

#[test]
fn http_tells_of_life_and_numbers() {
    at_most_minutes(2);
    let node = Postgres::start();
    let pgring = Pgring::start(&node, 2);
    let mut client = Wire::login(pgring.address(), "app");
    for _ in 0..10 {
        client.query("SELECT 1");
    }
    assert_eq!(http(pgring.http(), "/livez").0, 200);
    assert_eq!(http(pgring.http(), "/readyz").0, 200);
    assert_eq!(http(pgring.http(), "/nonsense").0, 404);
    let (status, text) = http(pgring.http(), "/metrics");
    assert_eq!(status, 200);
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("pgring_") || name.starts_with("process_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(text.contains("# TYPE ") && text.contains("# HELP "), "{text}");
}

#[test]
fn shutdown_comes_in_three_kinds() {
    at_most_minutes(2);
    let node = Postgres::start();
    for way in ["SHUTDOWN", "QUIT"] {
        let mut pgring = Pgring::start(&node, 2);
        let mut client = Wire::login(pgring.address(), "app");
        client.query("BEGIN");
        if way == "QUIT" {
            pgring.signal("QUIT");
        } else {
            pgring.console().wire().try_send(&query(way));
        }
        pgring.wait_for_end(SOON);
        client.until_end();
    }
    for way in ["SHUTDOWN WAIT_FOR_CLIENTS", "TERM", "SHUTDOWN WAIT_FOR_SERVERS", "INT"] {
        let mut pgring = Pgring::start(&node, 2);
        let mut client = Wire::login(pgring.address(), "app");
        client.query("BEGIN");
        let mut console = pgring.console();
        if way.starts_with("SHUTDOWN") {
            console.wire().try_send(&query(way));
        } else {
            pgring.signal(way);
        }
        assert_eq!(client.value("SELECT 'drained'"), "drained", "{way} waits for transactions");
        client.query("COMMIT");
        drop((client, console));
        assert!(pgring.wait_for_end(SOON), "{way}: exit code 0");
    }
}
