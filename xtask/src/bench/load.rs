//! Our own load generator: started, listened to, and its summary read.

use super::case::{Case, Own, Stage};
use super::play::{self, Way};
use super::record::Run;
use super::scene::{self, LOAD_CORE};
use super::stats;
use crate::process::{self, Outcome};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long thousands of clients may take to log in.
const HOLD_MAX: Duration = Duration::from_secs(90);

impl Own {
    /// The generator's word for it.
    const fn word(self) -> &'static str {
        match self {
            Self::Simple | Self::Wide => "simple",
            Self::Extended => "extended",
            Self::CopyOut => "copy-out",
            Self::CopyIn => "copy-in",
            Self::Storm => "storm",
        }
    }
}

/// What the generator says in the end.
#[derive(Debug, Deserialize)]
struct Summary {
    transactions: u64,
    bytes: u64,
    errors: u64,
    seconds: f64,
    latencies_us: Vec<f64>,
}

/// Runs the load for so many seconds, and reads the proxy's clock where the generator says that
/// counting begins and ends.
pub(super) fn run(way: &Way<'_>, own: Own, seconds: u32) -> Outcome<Run> {
    let mut command = command(way, "run");
    let thousandths: Vec<String> = stats::QUANTILES.iter().map(usize::to_string).collect();
    command.args(["--mode", own.word(), "--clients", &way.case.clients.to_string()]);
    command.args(["--seconds", &seconds.to_string(), "--quantiles", &thousandths.join(",")]);
    if own == Own::Wide {
        command.args(["--sql", "SELECT text FROM wide WHERE id = 1"]);
    }
    let (mut before, mut after) = (None, None);
    let said = process::run(&mut command, "", &mut |line| match line {
        "begin" => before = way.cpu_us(),
        "end" => after = way.cpu_us(),
        _ => {}
    })?;
    if !said.success {
        return Err(format!("the load failed: {}", process::tail(&said.stderr, 3).trim()));
    }
    let summary = said.stdout.lines().last().unwrap_or_default();
    let summary: Summary = serde_json::from_str(summary)
        .map_err(|error| format!("the load says what it should not: {error}"))?;
    let run = run_of(summary, own);
    Ok(Run { cpu_us: play::per(before, after, run.count), ..run })
}

/// Bulk data counts by the megabyte, everything else by the piece.
fn run_of(summary: Summary, own: Own) -> Run {
    let count = match own {
        Own::CopyIn | Own::CopyOut => stats::number(summary.bytes) / 1e6,
        Own::Simple | Own::Extended | Own::Wide | Own::Storm => stats::number(summary.transactions),
    };
    Run {
        count,
        throughput: if summary.seconds > 0.0 { count / summary.seconds } else { 0.0 },
        errors: summary.errors,
        latencies_us: summary.latencies_us,
        ..Run::default()
    }
}

/// The generator in one of its tasks, on the core of loads if the case is pinned.
fn command(way: &Way<'_>, task: &str) -> Command {
    let Case { stage, .. } = way.case;
    let program = &way.scene.load;
    let mut command = match stage {
        Stage::Real | Stage::Split => Command::new(program),
        Stage::Pinned => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", LOAD_CORE]).arg(program);
            command
        }
    };
    let login = scene::login(way.case, way.port);
    command.args([task, "--port", &login.port.to_string(), "--user", login.user]);
    command.args(["--password", login.password, "--database", login.database]);
    command
}

/// Clients that do nothing, until this value ends.
#[derive(Debug)]
pub(super) struct Crowd {
    child: Child,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        process::stop(&mut self.child, Signal::SIGTERM, Duration::from_secs(5));
    }
}

/// Brings so many clients, and waits until all are logged in.
pub(super) fn hold(way: &Way<'_>, clients: u32, state: bool) -> Outcome<Crowd> {
    let mut command = command(way, "hold");
    command.args(["--clients", &clients.to_string()]);
    if state {
        command.arg("--state");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().map_err(|error| format!("the crowd: {error}"))?;
    let mut crowd = Crowd { child };
    let (tell, heard) = mpsc::channel();
    if let Some(out) = crowd.child.stdout.take() {
        std::thread::spawn(move || {
            let mut line = String::new();
            // Whether it said so or ended: the line shows.
            drop(BufReader::new(out).read_line(&mut line));
            drop(tell.send(line));
        });
    }
    let mut line = None;
    process::wait_until(HOLD_MAX, || {
        line = heard.try_recv().ok();
        Ok(line.is_some())
    })?;
    match line.as_deref().map(str::trim) {
        Some("ready") => Ok(crowd),
        Some(_) => {
            let mut why = String::new();
            if let Some(err) = crowd.child.stderr.take() {
                drop(BufReader::new(err).read_line(&mut why));
            }
            Err(format!("{clients} idle clients: {}", why.trim()))
        }
        None => Err(format!("{clients} idle clients: not logged in after {HOLD_MAX:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Own, Summary, run_of};

    #[test]
    fn bulk_data_counts_by_the_megabyte() {
        let summary = || Summary {
            transactions: 3,
            bytes: 600_000_000,
            errors: 0,
            seconds: 2.0,
            latencies_us: Vec::new(),
        };
        let run = run_of(summary(), Own::CopyOut);
        assert!((run.count - 600.0).abs() < 1e-9 && (run.throughput - 300.0).abs() < 1e-9);
        let run = run_of(summary(), Own::Storm);
        assert!((run.count - 3.0).abs() < 1e-9 && (run.throughput - 1.5).abs() < 1e-9);
    }

    #[test]
    fn what_the_generator_says_is_read() {
        let text = r#"{"transactions":5,"bytes":0,"errors":1,"seconds":1.5,"latencies_us":[2.5]}"#;
        let summary: Summary = serde_json::from_str(text).expect("its own words");
        assert_eq!((summary.transactions, summary.errors), (5, 1));
    }
}
