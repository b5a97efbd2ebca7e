//! pgbench as load: its report, and the latencies that it logs.

use super::case::{Case, Protocol, Script, Stage};
use super::record::Run;
use super::scene::{self, SCALE, Scene};
use super::stats;
use crate::place;
use crate::process::{self, Outcome};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Transactions of each client before it counts: servers are opened, caches filled.
const WARM_UP: u32 = 30;
/// What part of the transactions of many clients is logged: writing all would cost more than
/// many a proxy.
const SAMPLED: &str = "0.2";

/// Lets the pooler open its servers.
pub(super) fn warm_up(
    scene: &Scene,
    case: &Case,
    kind: (Protocol, Script),
    port: u16,
) -> Outcome<()> {
    let mut command = command(scene, case, kind, (port, case.clients))?;
    match case.stage {
        Stage::Real | Stage::Pinned => command.args(["-t", &WARM_UP.to_string()]),
        // Who splits has to find out first what is where.
        Stage::Split => command.args(["-T", "3"]),
    };
    process::output(&mut command).map(|_| ())
}

/// Runs pgbench for so many seconds: one where there is one port, else one at each of them with its
/// part of the clients.
pub(super) fn run(
    scene: &Scene,
    case: &Case,
    kind: (Protocol, Script),
    (ports, seconds): (&[u16], u32),
) -> Outcome<Run> {
    let logs = scene.place.path.join("logs");
    let clients = case.clients / u32::try_from(ports.len()).unwrap_or(1).max(1);
    let one = |port| {
        let mut command = command(scene, case, kind, (port, clients))?;
        command.args(["-T", &seconds.to_string(), "-l", "--log-prefix"]).arg(logs.join("pgbench"));
        if clients > 1 {
            command.args(["--sampling-rate", SAMPLED]);
        }
        let said = process::run(&mut command, "", &mut |_| ())?;
        report(&said.stdout, &said.stderr)
            .ok_or_else(|| format!("pgbench failed:\n{}", process::tail(&said.stderr, 5)))
    };
    let runs: Vec<Outcome<Run>> = thread::scope(|scope| {
        let all: Vec<_> = ports.iter().map(|port| scope.spawn(|| one(*port))).collect();
        all.into_iter().map(|run| run.join().unwrap_or_else(|_| Err("no report".into()))).collect()
    });
    let mut all = Run { latencies_us: stats::quantiles(take_latencies(&logs)?), ..Run::default() };
    for run in runs {
        let run = run?;
        all.throughput += run.throughput;
        all.count += run.count;
        all.errors += run.errors;
    }
    Ok(all)
}

fn command(
    scene: &Scene,
    case: &Case,
    kind: (Protocol, Script),
    (port, clients): (u16, u32),
) -> Outcome<Command> {
    let (protocol, script) = kind;
    let mut command = scene.site.client("pgbench", &scene::login(case, port));
    // A second thread pays from some clients on; before, it only takes turns with the proxy.
    let threads = if case.clients > 16 { "2" } else { "1" };
    command.args(["-n", "-M", protocol.word(), "-j", threads, "-c", &clients.to_string()]);
    match script {
        Script::SelectOnly => command.arg("-S"),
        Script::TpcB => command.args(["-b", "tpcb-like"]),
        Script::Mixed => command.args(["-b", "select-only@9", "-b", "simple-update@1"]),
        Script::Pipeline => {
            let file = scene.place.write("pipeline.sql", &pipeline())?;
            command.args(["-D", &format!("scale={SCALE}"), "-f"]).arg(file)
        }
    };
    Ok(command)
}

/// Ten selects of `pgbench -S`, asked before the first answer is read.
fn pipeline() -> String {
    let set = |n| format!("\\set aid{n} random(1, 100000 * :scale)\n");
    let select = |n| format!("SELECT abalance FROM pgbench_accounts WHERE aid = :aid{n};\n");
    let sets: String = (1..=10).map(set).collect();
    let selects: String = (1..=10).map(select).collect();
    format!("{sets}\\startpipeline\n{selects}\\endpipeline\n")
}

/// Reads the report of pgbench.
fn report(stdout: &str, stderr: &str) -> Option<Run> {
    let after = |name: &str| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches([':', '=', ' ']).split([' ', '/']).next()
    };
    let count: u64 = after("number of transactions actually processed")?.parse().ok()?;
    let failed = after("number of failed transactions").and_then(|text| text.parse().ok());
    let aborted = stderr.lines().filter(|line| line.contains("aborted")).count();
    Some(Run {
        throughput: after("tps")?.parse().ok()?,
        count: stats::number(count),
        errors: failed.unwrap_or(0) + u64::try_from(aborted).unwrap_or(u64::MAX),
        ..Run::default()
    })
}

/// The latencies of all logs in a directory, which is empty afterwards.
fn take_latencies(directory: &Path) -> Outcome<Vec<u32>> {
    let said = |error| format!("{}: {error}", directory.display());
    let mut latencies = Vec::new();
    for entry in fs::read_dir(directory).map_err(said)? {
        let path = entry.map_err(said)?.path();
        let log = fs::read_to_string(&path).map_err(said)?;
        latencies.extend(log.lines().filter_map(latency));
        place::remove_file(&path)?;
    }
    Ok(latencies)
}

/// The latency in a line of a log: `client transaction microseconds script seconds us`.
fn latency(line: &str) -> Option<u32> {
    line.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{latency, pipeline, report, take_latencies};
    use crate::bench::record::Run;
    use std::fs;

    const REPORT: &str = "pgbench (15.20)\ntransaction type: <builtin: select only>\n\
        number of transactions actually processed: 91234\n\
        number of failed transactions: 2 (0.002%)\nlatency average = 1.093 ms\n\
        initial connection time = 13.37 ms\n\
        tps = 18274.123456 (without initial connection time)\n";

    #[test]
    fn a_report_says_how_many_and_how_fast() {
        let wanted =
            Run { count: 91_234.0, throughput: 18_274.123_456, errors: 3, ..Run::default() };
        assert_eq!(report(REPORT, "pgbench: error: client 3 aborted in command 5\n"), Some(wanted));
        assert_eq!(report("", "pgbench: error: connection failed"), None);
    }

    #[test]
    fn latencies_are_the_third_field_of_a_log() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2241));
        assert_eq!(latency("0 199 failed 0 1175850568 995598"), None);

        let directory = std::env::temp_dir().join(format!("pgring-logs-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("can write");
        for thread in 1..=2 {
            let log = format!("0 1 {thread}00 0 17 5\n1 1 {thread}50 0 17 5\n");
            fs::write(directory.join(format!("pgbench.1.{thread}")), log).expect("can write");
        }
        let mut latencies = take_latencies(&directory).expect("two logs");
        latencies.sort_unstable();
        assert_eq!(latencies, [100, 150, 200, 250]);
        assert_eq!(take_latencies(&directory), Ok(Vec::new()));
        fs::remove_dir(&directory).expect("is empty");
    }

    #[test]
    fn a_pipeline_asks_ten_times() {
        assert_eq!(pipeline().matches("SELECT").count(), 10);
    }
}
