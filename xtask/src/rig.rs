//! `cargo xtask rig`: faults in nodes and links, and the time until pgring's verdict.
//!
//! Each run waits until all nodes are well, injects a fault at a random moment, reads from the
//! console when pgring noticed what, takes the fault away, and waits until all are well again.
//! Everything belongs to a value that ends or undoes it, so the machine is as it was after the
//! last line, after an error, and after Ctrl-C.

pub(crate) mod console;
pub(crate) mod dice;
pub(crate) mod event;
pub(crate) mod family;
mod fault;
mod inject;
pub(crate) mod link;
pub(crate) mod load;
pub(crate) mod net;
mod packet;
mod queue;
mod replica_loss;
pub(crate) mod scene;
mod score;
pub(crate) mod weather;

use crate::account::Account;
use crate::demo;
use crate::install;
use crate::place::Workplace;
use crate::process::{self, Outcome};
use clap::ValueEnum;
use dice::Dice;
use fault::Fault;
use scene::Scene;
use score::{Run, Score};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How long pgring may take to notice.
const NOTICE_MAX: Duration = Duration::from_secs(15);
/// Between two looks at the console. When a verdict came is what its event says.
const LOOK: Duration = Duration::from_millis(100);
/// How long the console may take to answer during a fault that pgring itself may have.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most that a run waits before its fault, so that no timer of pgring is in step with it.
const PHASE_MAX: Duration = Duration::from_secs(1);
/// The longest sleep in which nobody is heard.
const NAP: Duration = Duration::from_millis(25);
/// Runs of each fault with `--quick`.
const QUICK_RUNS: u32 = 3;

/// Inject faults and measure the time until pgring's verdict.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The faults; all of them unless named
    #[arg(long, value_enum, value_delimiter = ',')]
    fault: Vec<Fault>,
    /// Runs of each fault
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// The node at which the fault is
    #[arg(long, value_enum, default_value_t = Target::Primary)]
    target: Target,
    /// What clients do meanwhile
    #[arg(long, value_enum, default_value_t = Load::None)]
    load: Load,
    /// Start pgring without capabilities, so that it has no probe in the kernel
    #[arg(long)]
    no_probe: bool,
    /// Faults that have a length are shorter
    #[arg(long)]
    short: bool,
    /// Three short runs of each fault
    #[arg(long)]
    quick: bool,
    /// Write all verdicts of all runs to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Where a fault is injected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Target {
    /// The primary, n1
    Primary,
    /// The first standby, n2
    Standby,
}

/// What clients do during the runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Load {
    /// Nothing
    None,
    /// `pgbench -S`, a hundred reads a second
    Reads,
}

/// Whether the rig may run: namespaces are root's, and not every root's (in a container).
pub(crate) fn allowed() -> bool {
    Account::find().is_ok_and(|account| account.is_other()) && net::allowed()
}

/// One fault of each kind, once: that it works, not how fast it is. Namespaces are root's, and TUN
/// devices not everywhere: without, it says so.
pub(crate) fn smoke() -> Outcome<()> {
    if !allowed() || !Path::new("/dev/net/tun").exists() {
        println!("left out: the rig takes a root who may make namespaces, and TUN devices");
        return Ok(());
    }
    run(&Options {
        fault: vec![Fault::Kill, Fault::Sigstop, Fault::Drop, Fault::Connections],
        runs: 1,
        target: Target::Standby,
        load: Load::None,
        no_probe: false,
        short: true,
        quick: false,
        json: None,
    })
}

/// Runs the rig.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    process::catch_interrupts()?;
    install::postgres()?;
    let program = demo::build()?;
    let place = Workplace::open("rig")?;
    let start = Instant::now();
    let done = measure(options, &place, &program);
    println!("\n{} s; configuration and logs: {}", start.elapsed().as_secs(), place.path.display());
    done
}

fn measure(options: &Options, place: &Workplace, program: &Path) -> Outcome<()> {
    let scene = Scene::set(place, program, !options.no_probe)?;
    let number = match options.target {
        Target::Primary => 1,
        Target::Standby => 2,
    };
    let reads = match options.load {
        Load::None => None,
        Load::Reads => Some(load::Running::start(&scene, load::database(number == 1))?),
    };
    let faults =
        if options.fault.is_empty() { Fault::value_variants() } else { options.fault.as_slice() };
    let runs = if options.quick { QUICK_RUNS } else { options.runs };
    let (mut scores, mut losses) = (Vec::new(), Vec::new());
    for fault in faults.iter().copied() {
        if fault == Fault::ReplicaLoss {
            losses.extend(replica_loss::run(&scene, runs)?);
        } else {
            scores.push(all_runs(options, &scene, (fault, number), runs)?);
        }
    }
    if let Some(reads) = reads {
        let load::Reads { done, failed } = reads.sum();
        println!("\nreads     {done} succeeded, {failed} failed");
    }
    report(options, &scores, &losses)
}

/// All runs of a fault, each in a line.
fn all_runs(
    options: &Options,
    scene: &Scene,
    (fault, number): (Fault, u8),
    runs: u32,
) -> Outcome<Score> {
    let node = scene.spot(number)?.node.name.clone();
    let mut dice = Dice::new(u64::from(number));
    let mut score = Score { fault: fault.name(), node, runs: Vec::new() };
    for turn in 1..=runs {
        let short = options.short || options.quick;
        let run = one(scene, (fault, number), short, &mut dice)
            .map_err(|error| format!("{} {turn}: {error}", score.fault))?;
        println!("{:<18} {turn:>4}  {}", score.fault, run.line());
        score.runs.push(run);
    }
    Ok(score)
}

/// One run: injected, watched, undone, and waited for.
fn one(scene: &Scene, (fault, number): (Fault, u8), short: bool, dice: &mut Dice) -> Outcome<Run> {
    scene.settle(drop)?;
    rest(dice.between(Duration::ZERO, PHASE_MAX))?;
    // What happens until the fault is there is no news of it.
    scene.console.borrow_mut().news(PATIENCE)?;
    let injected = inject::inject(fault, scene, number)?;
    let at = injected.at.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let mut run = Run::new(fault, &scene.spot(number)?.node.name, at);
    let lasts = fault.lasts(short);
    let end = Instant::now() + lasts.unwrap_or(NOTICE_MAX);
    while Instant::now() < end && (lasts.is_some() || run.right().is_none()) {
        rest(LOOK)?;
        let news = scene.console.borrow_mut().news(PATIENCE)?;
        for event in news {
            run.see(event);
        }
    }
    injected.undo()?;
    scene.settle(|event| run.see(event))?;
    Ok(run)
}

/// Lets exactly this time pass, unless somebody asks for the end.
pub(crate) fn rest(time: Duration) -> Outcome<()> {
    let end = Instant::now() + time;
    loop {
        process::check_interrupt()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(NAP));
    }
}

/// The table of all faults, the file, and the judgement.
fn report(options: &Options, scores: &[Score], losses: &[replica_loss::Loss]) -> Outcome<()> {
    if !scores.is_empty() {
        println!("\n{}", score::HEAD.join("\n"));
    }
    for score in scores {
        println!("{}", score.line());
    }
    if !losses.is_empty() {
        println!("\n{}", replica_loss::table(losses));
    }
    if let Some(path) = &options.json {
        let all = serde_json::json!({ "faults": scores, "replica_loss": losses });
        std::fs::write(path, format!("{all:#}\n"))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let mut failed: Vec<&str> =
        scores.iter().filter(|score| score.failed()).map(|score| score.fault.as_str()).collect();
    if losses.iter().any(replica_loss::Loss::failed) {
        failed.push("replica-loss");
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("not as it must be: {}", failed.join(", ")))
    }
}
