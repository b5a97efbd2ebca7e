//! The simulator: production lanes, modelled nodes that lie, seeded clients, virtual time.
//!
//! `PGRING_SEEDS=1000` tells that many stories, `PGRING_SEED=8123` tells one and prints it. A
//! broken rule names its seed and the last things that happened before.
#![expect(clippy::print_stdout, reason = "a story is to be read")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a model may ignore what it does not know")]
#![expect(clippy::struct_excessive_bools, reason = "a plan is a list of switches")]

#[path = "sim/chaos.rs"]
mod chaos;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/control.rs"]
mod control;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/driver.rs"]
mod driver;
#[path = "sim/ending.rs"]
mod ending;
#[path = "sim/eval.rs"]
mod eval;
#[path = "sim/exec.rs"]
mod exec;
#[path = "sim/judge.rs"]
mod judge;
#[path = "sim/link.rs"]
mod link;
#[path = "sim/message.rs"]
mod message;
#[path = "sim/node.rs"]
mod node;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/replicas.rs"]
mod replicas;
#[path = "sim/scram.rs"]
mod scram;
#[path = "sim/script.rs"]
mod script;
#[path = "sim/session.rs"]
mod session;
#[path = "sim/sql.rs"]
mod sql;
#[path = "sim/world.rs"]
mod world;

use crate::link::SEC;
use crate::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a story went.
#[derive(Debug, Default)]
struct Story {
    events: u64,
    answers: u64,
    refusals: u64,
    lines: Vec<String>,
}

/// A broken rule.
#[derive(Debug)]
struct Violation {
    seed: u64,
    what: String,
    lines: Vec<String>,
}

/// Tells the story of a seed, and keeps its last `keep` lines.
fn run(seed: u64, keep: usize) -> Result<Story, Violation> {
    let mut world = World::new(seed, keep);
    let told = catch_unwind(AssertUnwindSafe(|| tell(&mut world)));
    if let Err(panic) = told {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.violate(format!("a panic: {}", text.unwrap_or_default()));
    }
    match world.violation.take() {
        Some(what) => Err(Violation {
            seed,
            what: format!("{what} ({})", world.plan.brief()),
            lines: world.story(),
        }),
        None => Ok(Story {
            events: world.events,
            answers: world.oracle.answers,
            refusals: world.oracle.refusals,
            lines: world.story(),
        }),
    }
}

/// Safety first: all clients live their lives. Then the drain.
fn tell(world: &mut World) {
    let mut limit = 0;
    while world.violation.is_none() && !world.clients.iter().all(client::Client::done) {
        limit += SEC;
        while world.step(limit) {}
        if limit > 1_000 * SEC {
            world.violate("the clients never end");
        }
    }
    // What the last clients left behind is cleaned up, and the troubles end.
    let rest = world.now.max(world.plan.calm_from) + 15 * SEC;
    while world.step(rest) {}
    // A server may be closing just now: what is wrong three times is wrong.
    for time in 0..3 {
        if world.violation.is_some() {
            return;
        }
        world.ask();
        while world.step(rest + (time + 1) * 2 * SEC) {}
        world.check_drained();
        if world.violation.is_none() {
            break;
        }
        if time < 2 {
            world.violation = None;
        }
    }
    if world.violation.is_none() {
        let orphans = world.orphans();
        if orphans > 0 {
            world.violate(format!("{orphans} connections have no owner"));
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_rule_is_broken_in_any_story() {
    if let Some(seed) = number("PGRING_SEED") {
        let keep = number("PGRING_LINES").unwrap_or(100_000);
        let (lines, what) = match run(seed, usize::try_from(keep).unwrap_or(usize::MAX)) {
            Ok(story) => (story.lines, None),
            Err(violation) => (violation.lines, Some(violation.what)),
        };
        println!("{}", lines.join("\n"));
        assert_eq!(what, None, "seed {seed}");
        return;
    }
    let first = number("PGRING_FIRST").unwrap_or(0);
    let count = number("PGRING_SEEDS").unwrap_or(300);
    let (mut total, mut broken) = (Story::default(), Vec::new());
    for seed in first..first + count {
        match run(seed, 0) {
            Ok(story) => {
                total.events += story.events;
                total.answers += story.answers;
                total.refusals += story.refusals;
            }
            Err(violation) => broken.push(violation),
        }
    }
    let (events, answers, refusals) = (total.events, total.answers, total.refusals);
    println!("{count} stories: {events} events, {answers} answers, {refusals} refusals");
    for violation in &broken {
        println!("seed {}: {}", violation.seed, violation.what);
    }
    if let Some(first) = broken.first() {
        let again = run(first.seed, 60).err();
        let lines = again.map(|again| again.lines).unwrap_or_default();
        println!("seed {}, the last 60 lines:\n{}", first.seed, lines.join("\n"));
        panic!("{} of {count} seeds broke a rule, first {}", broken.len(), first.seed);
    }
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 0..3 {
        let lines = |told: Result<Story, Violation>| match told {
            Ok(story) => story.lines,
            Err(violation) => violation.lines,
        };
        assert_eq!(lines(run(seed, 2000)), lines(run(seed, 2000)), "seed {seed}");
    }
}
