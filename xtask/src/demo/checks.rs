//! The main job, once each: a read, a write, a prepared statement, COPY both ways, replication.

use super::Scene;
use crate::pooler;
use crate::process::{self, Outcome};
use std::time::{Duration, Instant};

/// What is checked, and what does it.
type Check = (&'static str, fn(&Scene) -> Outcome<String>);

const CHECKS: [Check; 8] = [
    ("both standbys stream", standbys),
    ("a read", read),
    ("a write", write),
    ("reads on standbys", routed),
    ("a prepared statement", prepared),
    ("COPY in and out", copy),
    ("the console", console),
    ("metrics and health", metrics),
];

/// Checks everything through pgring; the first failure ends it.
pub(super) fn run(scene: &Scene) -> Outcome<()> {
    for (name, check) in CHECKS {
        let start = Instant::now();
        match check(scene) {
            Ok(found) => {
                let ms = start.elapsed().as_millis();
                println!("checked   {name:<26} {ms:>5} ms  {found}");
            }
            Err(error) => {
                process::check_interrupt()?;
                let log = scene.pooler.borrow().said();
                return Err(format!("{name}: {error}\nthe end of pgring's log:\n{log}"));
            }
        }
    }
    Ok(())
}

fn standbys(scene: &Scene) -> Outcome<String> {
    let sql = "SELECT string_agg(application_name, ', ' ORDER BY application_name) \
               FROM pg_stat_replication WHERE state = 'streaming'";
    let mut found = String::new();
    let all = process::wait_until(Duration::from_secs(20), || {
        found = scene.site.ask(&scene.pooled(), sql)?;
        Ok(found == "pg2, pg3")
    })?;
    if all { Ok(found) } else { Err(format!("streaming after 20 s: {found:?}")) }
}

fn read(scene: &Scene) -> Outcome<String> {
    expect(
        &scene.site.ask(&scene.pooled(), "SELECT sum(n) FROM generate_series(1, 100) n")?,
        "5050",
    )
}

fn write(scene: &Scene) -> Outcome<String> {
    let pooled = scene.pooled();
    scene.site.ask(&pooled, "CREATE TABLE notes (id bigint PRIMARY KEY, note text)")?;
    scene.site.ask(&pooled, "INSERT INTO notes VALUES (1, 'through pgring')")?;
    let sql = "SELECT note FROM notes WHERE id = 1";
    expect(&scene.site.ask(&scene.direct(), sql)?, "through pgring")?;
    for standby in &scene.standbys {
        let login = crate::postgres::Login { port: standby.port, ..scene.direct() };
        let arrived = process::wait_until(Duration::from_secs(10), || {
            // Until the table has arrived, the question itself is an error.
            Ok(scene.site.ask(&login, sql).is_ok_and(|note| note == "through pgring"))
        })?;
        if !arrived {
            return Err(format!("the write did not reach {} within 10 s", standby.name));
        }
    }
    Ok("seen on the primary and both standbys".to_owned())
}

/// A read moves to the standbys once pgring has read what its table is.
fn routed(scene: &Scene) -> Outcome<String> {
    let pooled = scene.pooled();
    let login = crate::postgres::Login { database: "pgring", ..scene.pooled() };
    let sql = "SELECT note FROM notes WHERE id = 1";
    let explain = format!("EXPLAIN ROUTE IN {} {sql}", pooled.database);
    let mut said = String::new();
    let known = process::wait_until(Duration::from_secs(20), || {
        said = scene.site.ask(&login, &explain)?;
        Ok(said.starts_with("replica"))
    })?;
    if !known {
        return Err(format!("{explain}: {said}"));
    }
    let moved = process::wait_until(Duration::from_secs(20), || {
        expect(&scene.site.ask(&pooled, sql)?, "through pgring")?;
        let pools = scene.site.ask(&login, "SHOW POOLS")?;
        Ok(scene.standbys.iter().any(|standby| pools.contains(&format!("|{}", standby.name))))
    })?;
    if moved { Ok(said.replace('|', ": ")) } else { Err("no read has moved in 20 s".to_owned()) }
}

/// Four clients run two statements 50 times each; they meet all servers of the pool.
fn prepared(scene: &Scene) -> Outcome<String> {
    let script = scene.site.directory.join("prepared.sql");
    let text = "\\set n random(1, 1000)\nSELECT :n + 1;\nBEGIN;\nSELECT note FROM notes \
                WHERE id = :n;\nCOMMIT;\n";
    std::fs::write(&script, text).map_err(|error| format!("{}: {error}", script.display()))?;
    let mut pgbench = scene.site.client("pgbench", &scene.pooled());
    pgbench.args(["-n", "-M", "prepared", "-c", "4", "-t", "50", "-f"]).arg(&script);
    let said = process::output(&mut pgbench)?;
    if said.contains("transactions actually processed: 200/200") {
        return Ok("200 transactions of 4 clients".to_owned());
    }
    Err(format!("pgbench said:\n{}", process::tail(&said, 20)))
}

fn copy(scene: &Scene) -> Outcome<String> {
    let pooled = scene.pooled();
    let mut lines: Vec<_> = (0..100_000).map(|n| format!("{n}\tline {n} of a copy")).collect();
    lines.push(String::new());
    let lines = lines.join("\n");
    scene.site.ask(&pooled, "CREATE TABLE lines (id bigint, line text)")?;
    scene.site.ask_with(&pooled, "COPY lines FROM STDIN", &lines)?;
    // It is another session, to which a standby need not show yet what this one has written.
    let sql = "/* pgring: primary */ COPY (SELECT * FROM lines ORDER BY id) TO STDOUT";
    let out = scene.site.ask(&pooled, sql)?;
    if out.trim_end() != lines.trim_end() {
        return Err(format!("{} bytes in, {} other bytes out", lines.len(), out.len()));
    }
    Ok(format!("{} KiB each way", lines.len() / 1024))
}

fn console(scene: &Scene) -> Outcome<String> {
    let login = crate::postgres::Login { database: "pgring", ..scene.pooled() };
    scene.site.ask(&login, "SHOW POOLS")?;
    scene.site.ask(&login, "SHOW VERSION")
}

fn metrics(scene: &Scene) -> Outcome<String> {
    for path in ["/livez", "/readyz", "/metrics"] {
        let (status, body) = pooler::get(scene.http, path)?;
        if status != "200" {
            return Err(format!("{path} answers {status}: {}", body.trim()));
        }
    }
    Ok("/livez, /readyz and /metrics answer 200".to_owned())
}

fn expect(found: &str, wanted: &str) -> Outcome<String> {
    if found == wanted {
        return Ok(found.to_owned());
    }
    Err(format!("the answer is {found:?} and should be {wanted:?}"))
}
