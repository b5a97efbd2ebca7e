//! Every class of fault in the model, at any moment.

use crate::health::Sight;
use crate::health::model::{Model, Path, Process};
use crate::time::Duration;
use crate::topology::verdict::{Cause, Verdict};

/// A fault, what it is to be taken for, and within how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Process(Process, Verdict, u64),
    /// Silent both ways, there only, back only.
    Dark([bool; 2]),
}

const FAULTS: [Fault; 9] = [
    Fault::Process(Process::Gone, Verdict::DeadProcess, 300),
    Fault::Process(Process::Frozen, Verdict::Hung, 3_000),
    Fault::Process(Process::Closed, Verdict::Hung, 3_000),
    Fault::Process(Process::Says("53300"), Verdict::Refusing, 1_300),
    Fault::Process(Process::Says("28P01"), Verdict::Refusing, 1_300),
    Fault::Process(Process::Starts, Verdict::Recovering, 300),
    Fault::Dark([true, true]),
    Fault::Dark([true, false]),
    Fault::Dark([false, true]),
];

const GOOD: Path = Path { delay: (0, 1), loss: 0, dark: [false; 2] };
/// A blackout ends, and whatever was lost is sent again.
const BACK: Duration = Duration::from_secs(15);

#[expect(clippy::disallowed_methods, reason = "how long a test runs is no setting")]
fn seeds() -> u64 {
    std::env::var("PGRING_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn healthy(seed: u64) -> Model {
    let mut model = Model::new(seed, 3);
    for node in 0..3 {
        model.until(node, Verdict::Healthy, ms(2_000));
    }
    let more = model.below(3_000);
    model.run(ms(u64::from(more)));
    assert!(model.changes.len() == 3, "{:?}", model.changes);
    model
}

#[test]
fn every_fault_is_known_for_what_it_is_and_in_time() {
    for seed in 0..seeds() {
        for fault in FAULTS {
            let mut model = healthy(seed);
            let node = usize::try_from(model.below(3)).unwrap();
            let start = model.now;
            match fault {
                Fault::Process(process, verdict, within) => {
                    model.process(node, process);
                    model.until(node, verdict, ms(within));
                    model.run(ms(u64::from(within.min(1_000) == within)));
                    model.process(node, Process::Works);
                }
                Fault::Dark(dark) => {
                    model.path(node, Path { dark, ..GOOD });
                    model.until(node, Verdict::Suspect(Cause::Path), ms(1_000));
                    model.until(node, Verdict::DeadPath, ms(3_600));
                    assert!(model.now.since(start) > ms(2_500), "{:?}", model.changes);
                    model.path(node, GOOD);
                }
            }
            model.until(node, Verdict::Healthy, BACK);
            model.run(ms(3_000));
            assert_eq!(model.verdict(node), Verdict::Healthy, "{fault:?} {seed}");
            for (_, change) in &model.changes[3..] {
                assert_eq!(change.node, node, "{fault:?} {seed}: {:?}", model.changes);
            }
        }
    }
}

/// Nothing of this is a death: networks that lose, delay or are dark for two seconds, sessions that
/// are ended, ourselves who stand still.
#[test]
fn nobody_is_declared_dead_who_is_not() {
    for seed in 0..seeds() {
        for kind in 0..6 {
            let mut model = healthy(seed);
            let node = usize::try_from(model.below(3)).unwrap();
            for _ in 0..4 {
                match kind {
                    0 => model.path(node, Path { delay: (25, 1), loss: 20, dark: [false; 2] }),
                    1 => model.path(node, Path { delay: (50, 200), loss: 5, dark: [false; 2] }),
                    2 => {
                        for dark in [true, false] {
                            model.path(node, Path { dark: [dark; 2], ..GOOD });
                            model.run(ms(2_000));
                        }
                    }
                    3 => model.end_sessions(node),
                    4 => model.sleep(Duration::from_secs(20)),
                    _ => {
                        for node in 0..3 {
                            model.path(node, Path { dark: [true; 2], ..GOOD });
                        }
                        model.run(ms(5_000));
                        for node in 0..3 {
                            model.path(node, GOOD);
                        }
                    }
                }
                model.run(ms(5_000));
            }
            let dead = |change: &crate::health::Change| change.health.verdict.is_dead();
            let deaths: Vec<_> = model.changes.iter().filter(|it| dead(&it.1)).collect();
            assert!(deaths.is_empty(), "{kind} {seed}: {deaths:#?}");
            if matches!(kind, 3 | 4) {
                let bad = model.changes.iter().any(|it| !it.1.health.verdict.serves());
                assert!(!bad, "{kind} {seed}: {:#?}", model.changes);
            }
        }
    }
}

/// A standby behind a silent path is cut off before its death; a primary is not.
#[test]
fn what_runs_is_given_up_sooner_on_a_standby() {
    for (node, process) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut model = healthy(7);
        let start = model.now;
        if process {
            model.process(node, Process::Frozen);
        } else {
            model.path(node, Path { dark: [true; 2], ..GOOD });
        }
        model.run(ms(6_000));
        let cut = model.changes.iter().find(|it| it.1.health.cut);
        let after = cut.map(|(at, _)| at.since(start));
        match (node, process) {
            (0, true) => assert_eq!(after, None, "a primary that hangs goes on hanging"),
            (0, false) => assert!(after.is_some_and(|it| it > ms(2_500)), "{after:?}"),
            (_, true) => assert!(after.is_some_and(|it| it < ms(3_000)), "{after:?}"),
            (_, false) => assert!(after.is_some_and(|it| it < ms(1_000)), "{after:?}"),
        }
    }
}

/// A disk that hangs for as long as disks do at times is none that has died.
#[test]
fn a_write_that_does_not_end_is_a_node_that_hangs() {
    let mut model = healthy(9);
    model.tell(0, Sight::Writes);
    model.run(ms(4_000));
    assert_eq!(model.verdict(0), Verdict::Healthy);
    model.until(0, Verdict::Hung, ms(2_500));
    model.tell(0, Sight::Written);
    model.until(0, Verdict::Healthy, BACK);
    assert!(model.changes.iter().all(|it| !it.1.health.cut), "{:#?}", model.changes);
}

/// With all of them silent it is ourselves, for a while.
#[test]
fn all_at_once_is_one_of_us() {
    let mut model = healthy(3);
    for node in 0..3 {
        model.path(node, Path { dark: [true; 2], ..GOOD });
    }
    model.run(ms(9_000));
    assert!(model.changes.iter().all(|it| !it.1.health.cut), "{:#?}", model.changes);
    model.run(ms(4_000));
    for node in 0..3 {
        assert_eq!(model.verdict(node), Verdict::DeadPath);
        model.path(node, GOOD);
    }
    model.until(0, Verdict::Healthy, BACK);
}

/// A node that goes again and again is damped, and is no less healthy for it.
#[test]
fn flapping_is_damped() {
    let mut model = healthy(5);
    for _ in 0..4 {
        model.process(1, Process::Gone);
        model.until(1, Verdict::DeadProcess, ms(300));
        model.process(1, Process::Works);
        model.until(1, Verdict::Healthy, BACK);
    }
    let last = model.changes.last().map(|it| it.1.health);
    assert!(last.is_some_and(|it| it.damped && it.verdict == Verdict::Healthy), "{last:?}");
    model.run(Duration::from_secs(150));
    let last = model.changes.last().map(|it| it.1.health);
    assert!(last.is_some_and(|it| !it.damped), "{last:?}");
}
