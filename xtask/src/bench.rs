//! `cargo xtask bench`: pgring beside a direct connection and its peers, in turns.
//!
//! Machines drift: the same program is a tenth faster an hour later. So everybody is measured in
//! every round, each round in another order, and what is judged is the median of the ratios to
//! `PgBouncer` of the same round. `benches/README.md` has the whole of it.

mod case;
mod load;
mod page;
pub(crate) mod peers;
mod pgbench;
mod play;
pub(crate) mod plot;
mod record;
mod scene;
mod show;
pub(crate) mod stats;
mod target;
mod usage;
mod verdict;

use crate::demo;
use crate::install;
use crate::place;
use crate::process::{self, Outcome};
use case::Case;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use record::{CaseResult, Report, Series};
use scene::Scene;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use target::{Subject, Target};

/// Measure pgring and its peers.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A verdict in less than five minutes: fewer cases, three rounds of three seconds
    #[arg(long)]
    quick: bool,
    /// Only cases of these names, or that contain them: `--case simple-64,copy`
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Only these targets [default: all; with --quick what a verdict needs]
    #[arg(long, value_enum, value_delimiter = ',')]
    targets: Vec<Target>,
    /// Rounds of each case [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each run [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Workers of pgring beside its peers [default: 1, because `PgBouncer` has one thread]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: Option<u32>,
    /// Only say which cases there are
    #[arg(long)]
    list: bool,
}

impl Options {
    /// Rounds of each case, and seconds of each run.
    fn lengths(&self) -> (u32, u32) {
        let default = if self.quick { 3 } else { 5 };
        (self.rounds.unwrap_or(default), self.seconds.unwrap_or(default))
    }

    /// Who takes part in a case. A quick verdict needs more than two in bulk data only.
    fn targets_of(&self, case: &Case, targets: &[Target]) -> Vec<Target> {
        let short = self.quick && self.targets.is_empty() && !case.is_bulk();
        let in_short = |target: &&Target| !short || **target != Target::Haproxy;
        targets.iter().filter(in_short).copied().collect()
    }
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let cases = chosen(options)?;
    if options.list {
        for case in &cases {
            println!("{:<24}{}", case.name, case.title);
        }
        return Ok(());
    }
    process::catch_interrupts()?;
    raise_files();
    install::postgres()?;
    let targets = targets(options);
    let program = demo::build()?;
    let load = build_load()?;
    let started = SystemTime::now();
    let scene = Scene::set(&cases, program, load)?;
    let (mut results, mut stopped) = (Vec::new(), None);
    for (index, case) in cases.iter().enumerate() {
        println!("\n{} ({} of {}): {}", case.name, index + 1, cases.len(), case.title);
        match one(&scene, case, options, &targets) {
            Ok(result) => {
                print!("{}", show::case(&result));
                results.push(result);
            }
            // What is there is worth a report, whatever ended it.
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
    }
    drop(scene);
    if !results.is_empty() {
        conclude(options, &targets, started, results)?;
    }
    stopped.map_or(Ok(()), Err)
}

/// The cases asked for.
fn chosen(options: &Options) -> Outcome<Vec<Case>> {
    let all = case::all();
    // A whole name is that case alone: `simple-1` is not `simple-16`.
    let whole = |name: &String| all.iter().any(|case| case.name == *name);
    let is_meant = |case: &Case, name: &String| {
        case.name == *name || (!whole(name) && case.name.contains(name.as_str()))
    };
    let wanted = |case: &&Case| match options.case.as_slice() {
        [] => case.quick || !options.quick,
        some => some.iter().any(|name| is_meant(case, name)),
    };
    let cases: Vec<Case> = all.iter().filter(wanted).cloned().collect();
    if cases.is_empty() {
        return Err("no case has such a name; `cargo xtask bench --list` shows all".to_owned());
    }
    Ok(cases)
}

/// The targets asked for that this machine has; the others are named.
fn targets(options: &Options) -> Vec<Target> {
    let wanted = match options.targets.as_slice() {
        [] if options.quick => vec![Target::Pgring, Target::Pgbouncer, Target::Haproxy],
        [] => Target::ALL.to_vec(),
        some => some.to_vec(),
    };
    let packages: Vec<&str> = wanted
        .iter()
        .filter(|target| target.program().is_none())
        .filter_map(|target| target.package())
        .collect();
    install::peers(&packages);
    let mut there = Vec::new();
    for target in wanted {
        match target.check() {
            Ok(()) => there.push(target),
            Err(reason) => println!("without   {}: {reason}", target.name()),
        }
    }
    there
}

/// Five thousand clients want as many descriptors, in each of the programs started here.
fn raise_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        println!("the limit of open files stays at {soft}: {error}");
    }
}

/// Builds the load generator, for a machine's own speed.
fn build_load() -> Outcome<PathBuf> {
    println!("building the load generator (release)");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(place::root());
    let arguments = ["build", "--quiet", "--release", "--package", "pgring-benches", "--bins"];
    process::show(cargo.args(arguments))?;
    Ok(place::target().join("release/pgring-load"))
}

/// Plays one case: all subjects in each round, each round in another order.
fn one(scene: &Scene, case: &Case, options: &Options, targets: &[Target]) -> Outcome<CaseResult> {
    let (rounds, seconds) = options.lengths();
    let targets = options.targets_of(case, targets);
    let subjects = case.subjects(&targets, options.workers);
    let series = |subject: &Subject| Series {
        subject: subject.name.clone(),
        runs: Vec::new(),
        failure: None,
    };
    let mut all: Vec<Series> = subjects.iter().map(series).collect();
    for round in 1..=rounds {
        for turn in 0..subjects.len() {
            let index = (turn + round as usize - 1) % subjects.len();
            let (subject, series) = (&subjects[index], &mut all[index]);
            if series.failure.is_some() {
                continue;
            }
            print!("  round {round} of {rounds}   {:<20} ", subject.name);
            show::flush();
            match play::run(scene, case, subject, seconds) {
                Ok(run) => {
                    println!("{}", show::run(&run, case.unit()));
                    series.runs.push(record::Run { round, ..run });
                }
                Err(error) => {
                    process::check_interrupt()?;
                    println!("given up: {}", error.trim_end());
                    series.failure = Some(error);
                }
            }
        }
    }
    let absent = targets
        .iter()
        .filter_map(|target| Some((target.name().to_owned(), case.excludes(*target)?.to_owned())))
        .collect();
    Ok(CaseResult {
        name: case.name.clone(),
        title: case.title.clone(),
        unit: case.unit(),
        own: case.own().name,
        base: case.base().name,
        series: all,
        absent,
    })
}

/// Judges, files and shows what was found.
fn conclude(
    options: &Options,
    targets: &[Target],
    started: SystemTime,
    cases: Vec<CaseResult>,
) -> Outcome<()> {
    let (rounds, seconds) = options.lengths();
    let versions = targets
        .iter()
        .map(|target| (target.name().to_owned(), target.version().unwrap_or_default()))
        .collect();
    let report = Report {
        started: show::time(started),
        machine: machine(),
        versions,
        rounds,
        seconds,
        quantiles: stats::QUANTILES.to_vec(),
        verdicts: verdict::judge(&cases),
        cases,
    };
    let directory = place::target().join("bench");
    place::create(&directory)?;
    let json = directory.join(format!("{}.json", report.started.replace(':', "-")));
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    write(&json, &text)?;
    let html = json.with_extension("html");
    write(&html, &page::page(&report))?;
    if !report.verdicts.is_empty() {
        println!("\nverdict\n{}", show::verdicts(&report.verdicts));
    }
    println!("results   {}", json.display());
    println!("report    {}", html.display());
    println!("took      {}", minutes(started.elapsed().unwrap_or_default()));
    Ok(())
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn minutes(time: Duration) -> String {
    format!("{}:{:02} minutes", time.as_secs() / 60, time.as_secs() % 60)
}

/// What the figures depend on.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unnamed processor", |(_, model)| model);
    format!("{cores} cores of {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
