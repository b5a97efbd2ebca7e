//! Every class of fault in the model, at any moment.

use crate::health::model::{GOOD, Model, Path, Process};
use crate::health::{Change, Sight};
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
                    0 => model.path(node, Path { delay: (25, 1), loss: 20, ..GOOD }),
                    1 => model.path(node, Path { delay: (50, 200), loss: 5, ..GOOD }),
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
            let dead = |change: &Change| change.health.verdict.is_dead();
            let deaths: Vec<_> = model.changes.iter().filter(|it| dead(&it.1)).collect();
            assert!(deaths.is_empty(), "{kind} {seed}: {deaths:#?}");
            if kind == 2 {
                // What was on its way through the dark was not unanswered for all that time.
                let hung = |it: &Change| it.health.verdict == Verdict::Hung;
                assert!(!model.changes.iter().any(|it| hung(&it.1)), "{:#?}", model.changes);
            }
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
    // One that is not ended is forgotten with its session, and where nobody writes any more.
    model.tell(0, Sight::Writes);
    model.path(0, Path { dark: [true; 2], ..GOOD });
    model.run(ms(8_000));
    model.path(0, GOOD);
    model.until(0, Verdict::Healthy, BACK);
    model.run(ms(8_000));
    assert_eq!(model.verdict(0), Verdict::Healthy);
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
        assert_eq!(model.verdict(node), Verdict::DeadPath, "{:#?}", model.changes);
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

/// What was found by reading: each of these was taken for a death, or ended what went on well.
#[test]
fn who_serves_those_who_are_there_is_no_worse_than_that() {
    for shut in [false, true] {
        let mut model = healthy(11);
        if shut {
            model.path(1, Path { shut, ..GOOD });
        } else {
            model.process(1, Process::Closed);
        }
        model.until(1, Verdict::Hung, ms(3_000));
        model.run(ms(20_000));
        let health = model.health(1);
        assert!(health.damped && !health.out && !health.cut, "{health:?}");
        let seen = model.changes[3..].iter().map(|it| it.1.health);
        for health in seen {
            let bad = health.out || health.cut || health.verdict.is_by_silence();
            assert!(!bad || health.verdict == Verdict::Hung, "{:#?}", model.changes);
        }
    }
}

#[test]
fn a_node_that_answers_again_is_not_cut_off_while_it_is_still_taken_for_dead() {
    let mut model = Model::new(13, 2);
    model.process(0, Process::Gone);
    model.until(0, Verdict::DeadProcess, ms(1_000));
    assert!(model.health(0).cut);
    model.run(ms(5_000));
    model.process(0, Process::Works);
    model.run(ms(600));
    let health = model.health(0);
    assert!(!health.verdict.serves() && !health.cut, "{:#?}", model.changes);
    assert!(!health.out && health.damped, "it may be the only one: {health:?}");
    model.until(0, Verdict::Healthy, BACK);
}

/// Nodes in trouble are not stormed, whatever the trouble is.
#[test]
fn logins_are_few_however_they_fail() {
    let faults =
        [Process::Gone, Process::Starts, Process::Ends, Process::Says("28P01"), Process::Closed];
    for process in faults {
        let mut model = healthy(17);
        model.process(0, process);
        model.run(ms(1_000));
        let before = model.logins();
        model.run(Duration::from_secs(60));
        // Two of the others, and their own.
        let of_others = 2 * 60;
        let count = model.logins() - before - of_others;
        assert!(count < 200, "{count} within a minute: {process:?}");
        let before = model.logins();
        model.run(Duration::from_secs(60));
        let count = model.logins() - before - of_others;
        assert!(count <= 70, "{count} within the next: {process:?}");
    }
}

/// Whoever is dead is none of those who must be heard.
#[test]
fn a_dead_node_keeps_no_other_alive() {
    let mut model = healthy(19);
    model.process(1, Process::Gone);
    model.path(2, Path { dark: [true; 2], ..GOOD });
    model.run(Duration::from_secs(30));
    model.path(0, Path { dark: [true; 2], ..GOOD });
    model.until(0, Verdict::DeadPath, ms(3_600));
}

/// Our own network is dark for a moment, and one of the nodes is far away.
#[test]
fn a_moment_of_darkness_ends_nothing() {
    for seed in 0..seeds() {
        let mut model = healthy(seed);
        let far = Path { delay: (50, 1), ..GOOD };
        model.path(2, far);
        model.run(ms(3_000));
        for _ in 0..5 {
            for node in 0..3 {
                model.path(node, Path { dark: [true; 2], ..far });
            }
            let time = 300 + model.below(500);
            model.run(ms(u64::from(time)));
            for (node, path) in [(0, GOOD), (1, GOOD), (2, far)] {
                model.path(node, path);
            }
            model.run(ms(6_000));
        }
        let cut = model.changes.iter().find(|it| it.1.health.cut);
        assert!(cut.is_none(), "{seed}: {cut:#?}");
    }
}
