//! `cargo xtask demo --failover`: the primary is killed under writes, and pgring promotes another.
//!
//! Nothing is asked of the machine but what the demo takes anyway: nodes, pgring and clients share
//! the loopback interface. What `cargo xtask outage` measures with links that can fail is here
//! only shown once, for people.

mod picture;
mod stage;

use crate::outage::check::{self, Findings};
use crate::outage::ground::sweep;
use crate::outage::topology::Chapter;
use crate::outage::writer::{Clients, End, Log, TABLE};
use crate::place::Workplace;
use crate::process::{self, Outcome};
use crate::rig::family::send;
use crate::rig::rest;
use nix::sys::signal::Signal;
use picture::Picture;
use stage::Stage;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long clients write before anything happens.
const LEAD: Duration = Duration::from_secs(2);
/// How long an outage may last.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// Acknowledgements that come at least so often flow; they must do so for this time.
const FLOW: Duration = Duration::from_millis(200);
const FLOW_MIN: Duration = Duration::from_millis(1200);
/// Steps that are drawn; all of them stand in the account of pgring.
const MARKED: [&str; 5] = ["drain", "stop", "fence", "promote", "write"];
/// How long a command of the console may take.
const COMMAND_MAX: Duration = Duration::from_secs(90);

/// A part of the demo, drawn.
struct Act {
    title: String,
    findings: Findings,
    chapters: Vec<Chapter>,
    picture: Picture,
}

/// What is done to the primary, and the name of that.
enum Deed {
    Kill(i32),
    Switchover(String),
}

/// Shows it; with `keep` everything runs on until Ctrl-C.
pub(super) fn run(place: &Workplace, program: &Path, keep: bool) -> Outcome<()> {
    let stage = Stage::set(place, program)?;
    let done = show(&stage, place);
    let done = done.and_then(|()| {
        if !keep {
            return Ok(());
        }
        println!("{}\nrunning until Ctrl-C", stage.doors());
        stage.keep()
    });
    drop(stage);
    sweep(&place.path)?;
    done
}

fn show(stage: &Stage, place: &Workplace) -> Outcome<()> {
    let first = stage.topology()?.primary;
    let pid = stage.node(&first)?.process();
    let pid = pid.ok_or_else(|| format!("{first} has no postmaster.pid"))?;
    let kill = act(stage, 1, &format!("kill -9 of {first}, the primary"), &Deed::Kill(pid))?;
    println!("\n{}", kill.report());
    let start = Instant::now();
    stage.ask(&format!("REJOIN {first}"), COMMAND_MAX)?;
    stage.settle()?;
    let took = start.elapsed().as_secs_f64();
    println!("REJOIN {first}: a standby again, and all is well, after {took:.1} s");
    let back = Deed::Switchover(first.clone());
    let back = act(stage, 2, &format!("SWITCHOVER TO {first}"), &back)?;
    println!("\n{}", back.report());
    let pictures = [&kill, &back].map(|act| {
        let figures = act.figures();
        (act.title.clone(), figures, act.picture.clone())
    });
    let path = place.path.join("failover.html");
    fs::write(&path, picture::page(&pictures))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!("drawn     {}\n", path.display());
    stage.settle()?;
    [kill, back].iter().try_for_each(Act::judge)
}

/// Does something to the primary while clients write, and sees what comes of it.
fn act(stage: &Stage, number: u64, title: &str, deed: &Deed) -> Outcome<Act> {
    let before = stage.topology()?;
    let clients = Clients::start(stage.guests(), number)?;
    rest(LEAD)?;
    let (fault, wall) = (Instant::now(), SystemTime::now());
    match deed {
        Deed::Kill(pid) => send(*pid, Signal::SIGKILL)?,
        Deed::Switchover(to) => drop(stage.ask(&format!("SWITCHOVER TO {to}"), COMMAND_MAX)?),
    }
    let (mut since, mut changed) = (None, false);
    let over = process::wait_until(OUTAGE_MAX, || {
        let flows = clients.quiet() < FLOW;
        since = flows.then(|| since.unwrap_or_else(Instant::now));
        let flows = since.is_some_and(|since: Instant| since.elapsed() >= FLOW_MIN);
        if flows && !changed {
            let now = stage.topology()?;
            changed = now.is_normal() && now.primary != before.primary;
        }
        Ok(flows && changed)
    })?;
    let log = clients.stop()?;
    if !over {
        let now = stage.topology()?.text;
        let limit = OUTAGE_MAX.as_secs();
        return Err(format!("{title}: not over after {limit} s; SHOW TOPOLOGY says\n{now}"));
    }
    let chapters = stage.history(before.epoch)?;
    let findings = check::judge(&log, fault, &table(stage)?);
    let name = match deed {
        Deed::Kill(_) => "kill",
        Deed::Switchover(_) => "command",
    };
    let picture = draw(&log, &chapters, name, (fault, wall));
    Ok(Act { title: title.to_owned(), findings, chapters, picture })
}

/// The table as the primary has it: each key, and how often it is there.
fn table(stage: &Stage) -> Outcome<BTreeMap<u64, u64>> {
    let primary = stage.topology()?.primary;
    let login = stage.node(&primary)?.login(super::USER);
    let said =
        stage.site.ask(&login, &format!("SELECT key, count(*) FROM {TABLE} GROUP BY key"))?;
    let parse = |line: &str| {
        let (key, count) = line.split_once('|')?;
        Some((key.parse().ok()?, count.parse().ok()?))
    };
    said.lines().map(|line| parse(line).ok_or_else(|| format!("no key: {line}"))).collect()
}

/// The acknowledgements with what pgring says it did in between.
fn draw(
    log: &Log,
    chapters: &[Chapter],
    name: &str,
    (fault, wall): (Instant, SystemTime),
) -> Picture {
    let ms = |at: Instant| {
        check::ms(at.saturating_duration_since(fault))
            - check::ms(fault.saturating_duration_since(at))
    };
    let acks = log.writes.iter().filter(|write| write.end == End::Acked);
    let acks: Vec<f64> = acks.map(|write| ms(write.at)).collect();
    let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut marks = vec![(name.to_owned(), 0.0)];
    for chapter in chapters {
        let began = (chapter.time - wall) * 1000.0;
        let steps = chapter.steps.iter().filter(|(name, _)| MARKED.contains(&name.as_str()));
        marks.extend(steps.map(|(name, at)| (name.clone(), began + at)));
    }
    // Writes flow again behind the longest silence after the fault.
    let pairs = acks.windows(2).filter(|pair| pair[1] > 0.0);
    let longest = pairs.max_by(|one, other| (one[1] - one[0]).total_cmp(&(other[1] - other[0])));
    let back = longest.map_or(0.0, |pair| pair[1]);
    marks.push(("acknowledged".to_owned(), back));
    Picture { acks, marks, back }
}

impl Act {
    /// What people see in the terminal.
    fn report(&self) -> String {
        format!("{}\n\n{}\n{}", self.title, self.picture.strip(), self.figures())
    }

    /// How long it took, and what clients heard.
    fn figures(&self) -> String {
        let Findings { outage_ms, writes, acked, lost, doubled, lies, .. } = self.findings;
        let found = &self.findings;
        let mut heard = found.codes.clone();
        if found.unknown > 0 {
            heard.insert("08007".to_owned(), found.unknown);
        }
        let reads_failed: u64 = found.reads_failed.values().sum();
        let mut text = format!(
            "outage    {outage_ms:.0} ms without an acknowledgement\n\
             writes    {acked} of {writes} acknowledged; lost {lost}, doubled {doubled}, \
             there though refused {lies}\n\
             heard     errors of writes: {}; of connects: {}\n\
             others    idle sessions: {} closed, {} failed afterwards; reads: {}, {reads_failed} \
             failed\n",
            counts(&heard),
            counts(&found.connects),
            found.idle_closed,
            found.idle_failed,
            found.reads,
        );
        for chapter in &self.chapters {
            let Chapter { kind, from, to, reason, bound, .. } = chapter;
            let bound = if bound.is_empty() { "nothing" } else { bound };
            text +=
                &format!("history   {kind} from {from} to {to}: {reason}; at most lost: {bound}\n");
            let steps: Vec<String> =
                chapter.steps.iter().map(|(name, at)| format!("{name} {at:.1} ms")).collect();
            text += &format!("          {}\n", steps.join(", "));
        }
        text
    }

    /// An error if it was not as pgring promises.
    fn judge(&self) -> Outcome<()> {
        let Findings { lost, doubled, lies, idle_closed, idle_failed, .. } = self.findings;
        if lost + doubled + lies == 0 && idle_closed + idle_failed == 0 {
            return Ok(());
        }
        let shown = self.findings.shown.join("\n  ");
        Err(format!(
            "{}: lost {lost}, doubled {doubled}, there though refused {lies}; \
             idle sessions: {idle_closed} closed, {idle_failed} failed\n  {shown}",
            self.title
        ))
    }
}

/// Counts by name, in a line.
fn counts<N: std::fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(code, count)| format!("{code} x{count}")).collect::<Vec<_>>().join(" ")
}
