//! The whole protocol in one thread: nodes, network, store, lanes, clients and operators, all of
//! them a model, and the machine in the middle, which is the real one. A seed tells the story.
//!
//! `PGRING_SEEDS=100000` tries so many; `PGRING_SEED=7` tries one and tells what happened.

mod acts;
mod faults;
mod lanes;
mod node;
mod oracle;
mod world;

use crate::config::{Cluster, Durability, Failover as Settings, FailoverMode, Node};
use crate::dice::Chance;
use crate::failover::sim::faults::Fault;
use crate::failover::sim::node::parse_sync;
use crate::failover::sim::world::{Ev, MS, S, World};
use crate::time::Duration;
use crate::topology::horizon::Horizon;
use std::sync::Arc;

/// Seeds that have found something once.
const FOUND: [u64; 5] = [352, 965, 7_990, 6_011_574, 6_094_813];

/// All is to be well so long after everything is repaired.
const LIVES: u64 = 60 * S;

#[expect(clippy::disallowed_methods, reason = "what a test does is no setting")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn below(chance: &mut Chance, limit: u32) -> usize {
    chance.below(limit) as usize
}

fn node(place: usize, priority: u32) -> Node {
    Node {
        name: format!("pg{place}"),
        address: format!("pg{place}:5432"),
        resolved: Vec::new(),
        weight: 1,
        zone: String::new(),
        priority,
        peer_address: String::new(),
    }
}

fn settings(chance: &mut Chance, nodes: usize) -> Settings {
    let command = |yes: bool| if yes { vec!["/bin/x".to_owned()] } else { Vec::new() };
    let sync = below(chance, 100) < 65;
    let quorum = if sync && nodes > 2 && below(chance, 4) == 0 { 2 } else { 1 };
    Settings {
        mode: if below(chance, 12) == 0 { FailoverMode::Manual } else { FailoverMode::Auto },
        durability: if sync { Durability::Sync } else { Durability::Async },
        quorum,
        only_path: below(chance, 3) == 0,
        crash_grace: Duration::from_millis([0, 500, 2_000][below(chance, 3)]),
        cooldown: Duration::from_secs([0, 1, 5][below(chance, 3)]),
        drain: Duration::from_millis([50, 500, 2_000][below(chance, 3)]),
        promote_timeout: Duration::from_secs([1, 5][below(chance, 2)]),
        slots: below(chance, 2) == 0,
        fence_command: command(below(chance, 3) == 0),
        stop_command: command(below(chance, 2) == 0),
        rejoin_command: command(below(chance, 2) == 0),
        ..Settings::default()
    }
}

/// A world, with all that will happen to it.
fn world(seed: u64, tell: bool, calm: bool) -> World {
    let mut chance = Chance::new(seed);
    let nodes = 2 + below(&mut chance, 3);
    let settings = Arc::new(settings(&mut chance, nodes));
    let list = (0..nodes).map(|place| node(place, [1, 1, 1, 0, 2][below(&mut chance, 5)]));
    let cluster = Cluster {
        name: "main".to_owned(),
        nodes: list.collect(),
        failover: Some(Arc::clone(&settings)),
        horizon: Horizon::default(),
    };
    let lanes = 1 + below(&mut chance, 3);
    let direct = !settings.only_path && below(&mut chance, 2) == 0;
    let mut world = World::new(seed, chance, (cluster, settings), (lanes, direct, tell));
    world.later(0, Ev::StoreLoad { run: 1 });
    world.later(0, Ev::Tick);
    world.later(0, Ev::Direct);
    for lane in 0..lanes {
        world.later(0, Ev::Client(lane));
    }
    if calm {
        return world;
    }
    let faults = 1 + world.below(9);
    let mut when = 4 * S;
    for _ in 0..faults {
        let fault = world.any_fault();
        let wide = if world.percent(50) { 300 * MS } else { 4 * S };
        when += world.between(0, wide);
        world.later(when, Ev::Fault(fault));
    }
    if world.percent(60) {
        let fault = world.any_fault();
        let force = Fault::Failover(below(&mut world.chance, 4) % nodes, true, false);
        let fault = if world.percent(20) { force } else { fault };
        world.ambush = Some((world.chance.below(12), fault));
    }
    if world.percent(2) {
        let node = 1 + usize::try_from(world.below(nodes as u64 - 1)).unwrap_or(0);
        world.later(when, Ev::Fault(Fault::OutsidePromotion(node)));
    }
    when += world.between(0, 8 * S);
    world.later(when, Ev::Fault(Fault::End));
    world
}

fn happen(world: &mut World, event: Ev) {
    match event {
        Ev::Tick => {
            world.later(50 * MS, Ev::Tick);
            world.bury();
            world.receivers();
            world.judge();
            world.tick_machine();
            world.mend();
        }
        Ev::Arrive { from, to, sent, msg } if to == 0 && world.paused => {
            world.asleep.push(Ev::Arrive { from, to, sent, msg });
        }
        Ev::Arrive { from, to, sent, msg } => world.arrive(from, to, sent, msg),
        Ev::ActEnds { node, boot, run, number, act } => {
            world.act_ends(node, boot, run, number, act);
        }
        Ev::ActLate { run, number } => {
            let reason = "it took too long".to_owned();
            let done = crate::failover::act::Done::Failed { unknown: true, reason };
            world.act_done(run, number, done);
        }
        Ev::StopStream { node, boot } => world.stop_stream(node, boot),
        Ev::Reload { node, boot } => world.reload(node, boot),
        Ev::Hook { run, number, node, hook, to, step: 0 } => {
            world.hook((run, number, node), hook, to);
        }
        Ev::Hook { run, number, node, to, .. } => world.rejoins((run, number, node), to),
        Ev::Ring { run, event } => {
            if run == world.run {
                world.hear(*event);
            }
        }
        Ev::StoreLoad { run } => world.load(run),
        Ev::StoreSave { run, revision, record } => world.save(run, revision, record),
        Ev::Lane { run, lane, say } => {
            if world.paused {
                world.asleep.push(Ev::Lane { run, lane, say });
            } else if run == world.run {
                world.lane_hears(lane, say);
            }
        }
        Ev::Client(lane) => world.client(lane),
        Ev::Direct => world.direct(),
        Ev::Fault(fault) => world.strike(&fault),
        Ev::PgringStarts => world.pgring_starts(),
        Ev::PgringWakes => world.pgring_wakes(),
    }
}

/// How a seed ends.
#[derive(Debug, Default)]
struct End {
    wrong: Option<String>,
    failovers: u32,
    switchovers: u32,
    story: Vec<String>,
}

fn run(seed: u64, tell: bool) -> End {
    let mut world = world(seed, tell, false);
    world.tell(|it| format!("{:#?}, {} nodes, direct {}", it.settings, it.nodes.len(), it.direct));
    while let Some(event) = world.next() {
        happen(&mut world, event);
        if world.oracle.wrong.is_some() || world.oracle.goal {
            break;
        }
        if world.healed.is_some_and(|healed| world.now > healed + LIVES) {
            let (status, record) = (world.machine.status().to_owned(), world.machine.record());
            let text = format!("not well in time: {}: {status}", record.state);
            world.blame(text);
        }
    }
    if world.story.is_some() {
        let text = format!("{:#?}\n{:#?}", world.machine.record(), world.machine);
        world.tell(|_| text);
    }
    let oracle = world.oracle;
    End {
        wrong: oracle.wrong,
        failovers: oracle.failovers,
        switchovers: oracle.switchovers,
        story: world.story.unwrap_or_default(),
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "it is asked for")]
fn seeds_are_safe() {
    if let Some(seed) = number("PGRING_SEED") {
        let end = run(seed, true);
        for line in &end.story {
            println!("{line}");
        }
        assert_eq!(end.wrong, None, "seed {seed}");
        return;
    }
    let (first, count) = (number("PGRING_FIRST").unwrap_or(0), number("PGRING_SEEDS"));
    let (mut failovers, mut switchovers, mut wrong) = (0, 0, Vec::new());
    for seed in FOUND.into_iter().chain(first..first + count.unwrap_or(300)) {
        let end = run(seed, false);
        failovers += end.failovers;
        switchovers += end.switchovers;
        wrong.extend(end.wrong.map(|text| format!("seed {seed}: {text}")));
    }
    println!("{failovers} failovers, {switchovers} switchovers, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// Where nothing goes wrong an operator gets what is asked for, and nothing is lost.
#[test]
fn a_planned_change_in_calm_weather_is_done() {
    let mut done = 0;
    for seed in 0..100 {
        let mut world = world(seed, false, true);
        world.later(8 * S, Ev::Fault(Fault::Switchover(1, false)));
        while world.now < 16 * S
            && let Some(event) = world.next()
        {
            happen(&mut world, event);
        }
        assert_eq!(world.oracle.wrong, None, "seed {seed}");
        let record = world.machine.record();
        let (why, last) = (world.machine.status(), record.history.last());
        if world.oracle.refused == 0 {
            assert_eq!(record.primary, "pg1", "seed {seed}: {why} {last:#?}");
            done += 1;
        }
    }
    assert!(done > 60, "{done}");
}

#[test]
fn the_model_reads_what_the_machine_writes() {
    let names = ["pg0", "pg1", "pg2"].map(str::to_owned);
    assert_eq!(parse_sync("ANY 1 (\"pg1\", \"pg2\")", &names), (1, vec![1, 2]));
    assert_eq!(parse_sync("", &names), (0, vec![]));
}
