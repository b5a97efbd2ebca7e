//! `cargo xtask outage`: how long nobody can write when the primary fails, and whether anything
//! that was acknowledged is lost.
//!
//! Each run writes through pgring all the time, lets something happen to the primary, waits until
//! writes flow again, holds what each client was told against the table of the new primary, and
//! asks the old one back. The primary's role moves from node to node with the runs.
//!
//! Without failover (`--durability none`) the rig itself starts what it has killed: that shows
//! what the rig measures, and what a restart alone costs.

mod agent;
mod case;
pub(crate) mod check;
mod client;
mod config;
pub(crate) mod ground;
mod pgpool;
mod play;
mod record;
pub(crate) mod scene;
mod score;
mod settle;
pub(crate) mod topology;
mod watch;
pub(crate) mod writer;

use crate::demo;
use crate::install;
use crate::place::Workplace;
use crate::process::{self, Outcome};
use crate::rig;
use crate::rig::dice::Dice;
use crate::rig::rest;
use crate::rig::scene::{USER, client as login};
use case::Case;
use clap::ValueEnum;
use ground::{Ground, Spot};
use pgpool::Profile;
use play::{Played, Stage};
use scene::Scene;
use score::{Run, Score};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use writer::{Clients, TABLE};

/// How long clients write before the fault, at the least.
const LEAD: Duration = Duration::from_secs(1);
/// The most that comes to it, so that no timer of pgring is in step with the fault.
const PHASE_MAX: Duration = Duration::from_secs(1);
/// A primary whose backend was killed may keep clients waiting so much longer than it restarts.
const RESTART_MARGIN_MS: f64 = 200.0;

/// Measure how long nobody can write when the primary fails, and what is lost.
#[derive(clap::Args)]
#[command(after_help = "\
Each run writes 200 rows a second over 8 connections through pgring, reads 50 times a second from
standbys, and keeps 8 sessions idle. The outage is the longest time without an acknowledgement
that ends after the fault, less the 5 ms between two writes. A run fails if

  - an acknowledged row is missing (with --case async: one that the stated bound does not cover),
  - a row is there twice, or although its client was told for certain that it is not,
  - an idle session was closed, or a read failed (not with --case crash),
  - the primary did not change, or did where it must not,
  - what its case asks for besides does not hold.

Examples:
  cargo xtask outage --case kill --runs 100 --json kill.json
  cargo xtask outage --case switchover,return --durability async
  cargo xtask outage --durability none --case kill     without failover: a restart
  cargo xtask outage --target pgpool --runs 10         the same faults behind pgpool-II

It takes root, for network namespaces. PGRING_BIN names another pgring than that of this tree.
Logs of pgring, of the nodes and of the hooks are in the directory named at the end.")]
pub(crate) struct Options {
    /// The cases; all that fit the durability unless named
    #[arg(long, value_enum, value_delimiter = ',')]
    case: Vec<Case>,
    /// Who is in the middle; pgpool-II has its cases kill, silent and sigstop, and is not judged
    #[arg(long, value_enum, default_value_t = Target::Pgring)]
    target: Target,
    /// How pgpool-II looks whether nodes live
    #[arg(long, value_enum, default_value_t = Profile::Fast)]
    pgpool_profile: Profile,
    /// Runs of each case
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// What pgring promises of acknowledged writes; the case `async` has its own
    #[arg(long, value_enum, default_value_t = Durability::Sync)]
    durability: Durability,
    /// Leave out the `fence_command`
    #[arg(long)]
    no_fence: bool,
    /// Write all findings of all runs to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// After a run that could not be brought to its end build a new scene and go on
    #[arg(long)]
    keep_going: bool,
}

/// Who changes the primary.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Target {
    Pgring,
    Pgpool,
}

/// What is promised of an acknowledged write.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Durability {
    /// Nothing, and nobody takes over: pgring without failover
    None,
    /// One standby has it
    Sync,
    /// Standbys have it soon
    Async,
}

impl Durability {
    fn words(self) -> &'static str {
        match self {
            Self::None => "without failover",
            Self::Sync => "durability sync",
            Self::Async => "durability async",
        }
    }
}

/// Where a hook of the rig's pgring goes: this program, called by pgring.
#[derive(clap::Args)]
pub(crate) struct HookCall {
    /// The socket of the rig's agent
    socket: PathBuf,
    /// The name of the hook
    hook: String,
    /// What the hook gets
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Passes a call of a hook to the agent of the rig, and ends as the hook did.
pub(crate) fn hook(call: &HookCall) -> ExitCode {
    match agent::call(&call.socket, &call.hook, &call.arguments) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(u8::MAX)
        }
    }
}

/// One run of a kill and of a planned change: that they work, not how fast they are.
pub(crate) fn smoke() -> Outcome<()> {
    if !rig::allowed() || !Path::new("/dev/net/tun").exists() {
        println!("left out: the rig takes a root who may make namespaces, and TUN devices");
        return Ok(());
    }
    run(&Options {
        case: vec![Case::Kill, Case::Switchover],
        target: Target::Pgring,
        pgpool_profile: Profile::Fast,
        runs: 1,
        durability: Durability::Sync,
        no_fence: false,
        json: None,
        keep_going: false,
    })
}

/// Runs the rig.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    process::catch_interrupts()?;
    install::postgres()?;
    match options.target {
        Target::Pgpool => return pgpool::run(options),
        Target::Pgring => {}
    }
    let cases = cases(options)?;
    let program = demo::build()?;
    let place = Workplace::open("outage")?;
    let start = Instant::now();
    let mut scores = Vec::new();
    let done = measure(options, &cases, &place, &program, &mut scores);
    // What was measured before an error is shown and kept nevertheless.
    let reported = report(options, &scores);
    println!("\n{} s; configuration and logs: {}", start.elapsed().as_secs(), place.path.display());
    done.and(reported)
}

/// The cases to run.
fn cases(options: &Options) -> Outcome<Vec<Case>> {
    let fits = |case: Case| {
        case.durability(options.durability) != Durability::None || case.runs_without_failover()
    };
    if options.case.is_empty() {
        let none = options.durability == Durability::None;
        let all = Case::value_variants().iter().copied();
        let fits = |case: &Case| !none || case.runs_without_failover();
        return Ok(all.filter(fits).collect());
    }
    match options.case.iter().find(|case| !fits(**case)) {
        Some(case) => Err(format!("`{}` takes failover: not --durability none", case.name())),
        None => Ok(options.case.clone()),
    }
}

fn measure(
    options: &Options,
    cases: &[Case],
    place: &Workplace,
    program: &Path,
    scores: &mut Vec<Score>,
) -> Outcome<()> {
    let mut scene = None::<Scene<'_>>;
    let mut dice = Dice::new(1);
    // Keys of an earlier call of this program are not those of this one either.
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut number = seconds % 100_000_000;
    for case in cases {
        let durability = case.durability(options.durability);
        scores.push(Score {
            case: case.name(),
            durability: format!("{durability:?}").to_lowercase(),
            runs: Vec::new(),
        });
        for turn in 1..=options.runs {
            number += 1;
            // One at a time: they have the same place.
            drop(scene.take_if(|scene| scene.durability != durability));
            if scene.is_none() {
                let made = Scene::set(place, program, durability, !options.no_fence)?;
                settle::settle(&made, Duration::ZERO)?;
                scene = Some(made);
            }
            let run = scene.as_ref().map(|scene| one(scene, *case, (number, turn), &mut dice));
            let run = match run.unwrap_or_else(|| Err("there is no scene".to_owned())) {
                Ok(run) => run,
                Err(error) if options.keep_going && !process::interrupted() => {
                    drop(scene.take());
                    Run { failures: vec![error], ..Run::default() }
                }
                Err(error) => return Err(format!("{} {turn}: {error}", case.name())),
            };
            println!("{:<11} {turn:>4}  {}", case.name(), run.line());
            if let Some(score) = scores.last_mut() {
                score.runs.push(run);
            }
        }
    }
    Ok(())
}

/// One run, from well to well.
fn one(scene: &Scene<'_>, case: Case, (number, turn): (u64, u32), dice: &mut Dice) -> Outcome<Run> {
    let site = &scene.site;
    scene.clients.within(|| site.ask(&login(USER), &format!("TRUNCATE {TABLE}")))?;
    let primary = scene.primary()?;
    let before = play::topology_after(scene)?;
    let epoch = before.as_ref().map_or(0, |before| before.epoch);
    let calls = scene.agent.calls();
    let guests = scene.guests();
    let clients = scene.clients.within(|| Clients::start(guests, number))?;
    rest(LEAD + dice.between(Duration::ZERO, PHASE_MAX))?;
    let changes = scene.has_failover() && case.changes_primary();
    let stage = Stage { scene, clients: &clients, primary, before, changes, turn };
    let played = stage.play(case, dice)?;
    let log = clients.stop()?;
    let after = play::topology_after(scene)?;
    let last = match &after {
        Some(topology) => scene.spot(&topology.primary)?,
        None => scene.primary()?,
    };
    let findings = check::judge(&log, played.fault, &table(scene, last)?);
    let history = if scene.has_failover() { scene.history(epoch)? } else { Vec::new() };
    let mut run = Run {
        from: primary.node.name.clone(),
        to: last.node.name.clone(),
        epochs: after.map_or(0, |after| after.epoch.saturating_sub(epoch)),
        findings,
        history,
        restart_ms: played.restart.map(check::ms),
        ..Run::default()
    };
    condemn(scene, case, &played, &mut run);
    run.rejoin_ms = settle::settle(scene, case.rejoins_within())?;
    if run.failures.is_empty() {
        // Nobody will look for a commit in there.
        ground::sweep(&site.directory)?;
    }
    run.hooks = scene.agent.calls() - calls;
    Ok(run)
}

/// The table as the primary has it: each key, and how often it is there.
fn table(ground: &Ground, primary: &Spot) -> Outcome<BTreeMap<u64, u64>> {
    let sql = format!("SELECT key, count(*) FROM {TABLE} GROUP BY key");
    let site = &ground.site;
    let said = primary.home.space.within(|| site.ask(&primary.node.login(USER), &sql))?;
    let parse = |line: &str| {
        let (key, count) = line.split_once('|')?;
        Some((key.parse().ok()?, count.parse().ok()?))
    };
    said.lines().map(|line| parse(line).ok_or_else(|| format!("no key: {line}"))).collect()
}

/// Says what is not as it must be.
fn condemn(scene: &Scene<'_>, case: Case, played: &Played, run: &mut Run) {
    run.notes.clone_from(&played.notes);
    run.failures.clone_from(&played.failures);
    let found = &run.findings;
    let mut fail = |is: bool, words: String| {
        if is {
            run.failures.push(words);
        }
    };
    if case == Case::Async {
        let bound = run.history.last().map_or("", |chapter| chapter.bound.as_str());
        let kept = check::keeps(found, bound);
        fail(kept.is_err(), kept.err().unwrap_or_default());
    } else {
        fail(found.lost > 0, format!("{} acknowledged writes are lost", found.lost));
    }
    fail(found.doubled > 0, format!("{} keys are there twice", found.doubled));
    fail(found.lies > 0, format!("{} keys are there though refused for certain", found.lies));
    fail(!found.came_back, "nothing was acknowledged after the fault".to_owned());
    let planned = case == Case::Switchover;
    let errors = found.codes.values().sum::<usize>() + found.unknown;
    fail(planned && errors > 0, format!("{errors} errors during a planned switchover"));
    if case.keeps_sessions() && scene.has_failover() {
        let (closed, failed) = (found.idle_closed, found.idle_failed);
        fail(closed + failed > 0, format!("idle sessions: {closed} closed, {failed} failed"));
        let failed: u64 = found.reads_failed.values().sum();
        fail(failed > 0, format!("{failed} reads failed"));
    }
    if scene.has_failover() {
        let changed = run.from != run.to;
        let words = if changed { "another primary" } else { "still the same primary" };
        fail(changed != case.changes_primary(), words.to_owned());
    }
    if let (Case::Backend, Some(restart)) = (case, run.restart_ms) {
        let longer = found.outage_ms - restart;
        fail(longer > RESTART_MARGIN_MS, format!("{longer:.0} ms longer than the restart"));
    }
    let shown = found.shown.clone();
    if !run.failures.is_empty() {
        run.failures.extend(shown);
    }
}

/// The figures of all cases, and the file.
fn show(options: &Options, scores: &[Score]) -> Outcome<()> {
    for score in scores.iter().filter(|score| !score.runs.is_empty()) {
        println!("\n{}", score.page().trim_end());
        let notes = score.runs.last().map(|run| run.notes.as_slice()).unwrap_or_default();
        for note in notes {
            println!("  last run    {}", note.trim_end().replace('\n', "\n            "));
        }
    }
    if let Some(path) = &options.json {
        let all = serde_json::json!({ "cases": scores });
        std::fs::write(path, format!("{all:#}\n"))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// What is shown, and the judgement.
fn report(options: &Options, scores: &[Score]) -> Outcome<()> {
    show(options, scores)?;
    let failed: Vec<&str> =
        scores.iter().filter(|it| it.failed()).map(|it| it.case.as_str()).collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("not as it must be: {}", failed.join(", ")))
    }
}
