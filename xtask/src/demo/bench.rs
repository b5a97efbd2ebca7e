//! pgbench, direct and through pgring, in turns, with a line that shows how it goes.

use super::Scene;
use crate::postgres::Login;
use crate::process::{self, Outcome};
use std::io::{IsTerminal, Write};

/// Scale factor: a million accounts, 150 MB a node.
const SCALE: &str = "10";

/// One run of pgbench, as its own report says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    load: &'static str,
    way: &'static str,
    /// Transactions a second, connecting left out.
    throughput: f64,
    /// Mean latency and its standard deviation.
    latency_ms: f64,
    deviation_ms: f64,
    transactions: u64,
    /// Failed transactions and aborted clients.
    errors: u64,
}

/// Fills the tables, then runs both loads both ways.
pub(super) fn run(scene: &Scene, clients: u32, seconds: u32) -> Outcome<Vec<Row>> {
    println!("filling   pgbench tables, scale {SCALE}, through pgring");
    let mut fill = scene.site.client("pgbench", &scene.pooled());
    process::output(fill.args(["-i", "-q", "-s", SCALE]))?;
    let mut rows = Vec::new();
    for (load, options) in [("read only (-S)", ["-S"].as_slice()), ("TPC-B", &["-n"])] {
        for (way, login) in [("direct", scene.direct()), ("pgring", scene.pooled())] {
            let heading = format!("{load}, {way}");
            let said = pgbench(scene, &login, options, &heading, (clients, seconds))?;
            rows.push(Row { load, way, ..said });
        }
    }
    Ok(rows)
}

fn pgbench(
    scene: &Scene,
    login: &Login<'_>,
    options: &[&str],
    heading: &str,
    (clients, seconds): (u32, u32),
) -> Outcome<Row> {
    let live = std::io::stdout().is_terminal();
    let mut command = scene.site.client("pgbench", login);
    command.args(["-n", "-M", "prepared", "-P", "1", "-j", "2"]).args(options);
    command.args(["-c", &clients.to_string(), "-T", &seconds.to_string()]);
    let said = process::run(&mut command, "", &mut |line| {
        if let Some(progress) = line.strip_prefix("progress: ") {
            let (start, end) = if live { ("\r", "\x1b[K") } else { ("", "\n") };
            print!("{start}running   {heading:<26} {progress}{end}");
            // The line is for show.
            drop(std::io::stdout().flush());
        }
    });
    if live {
        print!("\r\x1b[K");
    }
    let said = said?;
    // pgbench fails when a client was aborted; that is counted, unless there is no report at all.
    report(&said.stdout, &said.stderr)
        .ok_or_else(|| format!("pgbench ({heading}):\n{}", process::tail(&said.stderr, 10)))
}

/// Reads the report of pgbench.
fn report(stdout: &str, stderr: &str) -> Option<Row> {
    let number = |name: &str| -> Option<f64> {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches([':', '=', ' ']).split([' ', '/']).next()?.parse().ok()
    };
    let count = |name: &str| -> Option<u64> {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches([':', ' ']).split([' ', '/']).next()?.parse().ok()
    };
    let aborted = stderr.lines().filter(|line| line.contains("aborted")).count();
    Some(Row {
        throughput: number("tps")?,
        latency_ms: number("latency average")?,
        deviation_ms: number("latency stddev").unwrap_or(0.0),
        transactions: count("number of transactions actually processed")?,
        errors: count("number of failed transactions").unwrap_or(0)
            + u64::try_from(aborted).unwrap_or(u64::MAX),
        ..Row::default()
    })
}

/// The rows as a table.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16}{:<10}{:>14}{:>14}{:>12}{:>14}{:>8}\n",
        "pgbench", "", "transactions", "per second", "mean ms", "deviation ms", "errors"
    );
    for row in rows {
        text = format!(
            "{text}{:<16}{:<10}{:>14}{:>14.0}{:>12.3}{:>14.3}{:>8}\n",
            row.load,
            row.way,
            row.transactions,
            row.throughput,
            row.latency_ms,
            row.deviation_ms,
            row.errors
        );
    }
    text
}

/// An error if any transaction went wrong.
pub(super) fn judge(rows: &[Row]) -> Outcome<()> {
    match rows.iter().find(|row| row.errors > 0 || row.transactions == 0) {
        None => Ok(()),
        Some(row) => Err(format!(
            "{}, {}: {} transactions, {} errors",
            row.load, row.way, row.transactions, row.errors
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, judge, report, table};

    const REPORT: &str = "pgbench (15.20)\ntransaction type: <builtin: select only>\n\
        number of transactions actually processed: 91234\n\
        number of failed transactions: 2 (0.002%)\nlatency average = 1.093 ms\n\
        latency stddev = 0.512 ms\ninitial connection time = 13.37 ms\n\
        tps = 18274.123456 (without initial connection time)\n";

    #[test]
    fn the_report_of_pgbench_becomes_a_row() {
        let row = report(REPORT, "pgbench: error: client 3 aborted in command 5\n");
        let wanted = Row {
            throughput: 18_274.123_456,
            latency_ms: 1.093,
            deviation_ms: 0.512,
            transactions: 91_234,
            errors: 3,
            ..Row::default()
        };
        assert_eq!(row, Some(wanted));
    }

    #[test]
    fn a_run_without_a_report_is_no_row() {
        assert_eq!(report("", "pgbench: error: connection failed"), None);
    }

    #[test]
    fn an_error_or_an_idle_run_fails_the_demo() {
        let good = Row { transactions: 5, ..Row::default() };
        let bad = Row { errors: 1, ..good.clone() };
        assert_eq!(judge(std::slice::from_ref(&good)), Ok(()));
        assert!(judge(&[good.clone(), bad]).is_err());
        assert!(judge(&[Row::default()]).is_err());
        assert_eq!(table(&[good]).lines().count(), 2);
    }
}
