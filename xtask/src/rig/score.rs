//! What a run has shown, and the figures of all runs of a fault.

use super::event::{Event, Verdict};
use super::fault::Fault;
use crate::bench::stats::{self, P50, P99};
use serde::Serialize;
use std::time::Duration;

/// A verdict of a run, as the results file has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Seen {
    /// Milliseconds from the fault; negative before it.
    pub(super) ms: f64,
    node: String,
    verdict: &'static str,
    evidence: String,
    #[serde(skip)]
    held: Verdict,
}

/// One fault at one node, from its injection until all is well again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Run {
    #[serde(skip)]
    fault: Fault,
    #[serde(skip)]
    node: String,
    /// When it was injected, since 1970.
    #[serde(skip)]
    at: Duration,
    /// All verdicts, in their order.
    pub(super) seen: Vec<Seen>,
}

impl Run {
    /// A run in which nothing has been seen yet.
    pub(super) fn new(fault: Fault, node: &str, at: Duration) -> Self {
        Self { fault, node: node.to_owned(), at, seen: Vec::new() }
    }

    /// Something has happened.
    pub(super) fn see(&mut self, event: Event) {
        let ms = (event.time.as_secs_f64() - self.at.as_secs_f64()) * 1000.0;
        let (held, verdict) = (event.verdict, event.verdict.name());
        let Event { node, evidence, .. } = event;
        self.seen.push(Seen { ms, node, verdict, evidence, held });
    }

    /// The first verdict after the fault that something is wrong with the node.
    pub(super) fn first(&self) -> Option<&Seen> {
        self.own().find(|seen| seen.held.is_unwell())
    }

    /// The first that is right.
    pub(super) fn right(&self) -> Option<&Seen> {
        self.own().find(|seen| self.fault.right().contains(&seen.held))
    }

    /// How often another node was held to be unwell.
    pub(super) fn others(&self) -> usize {
        let other = |seen: &&Seen| seen.node != self.node && seen.held.is_unwell();
        self.seen.iter().filter(other).count()
    }

    /// How often a node was held to be dead that was not: any other, and this one if the fault
    /// spares it or is yet to come.
    pub(super) fn false_dead(&self) -> usize {
        let wrong = |seen: &&Seen| {
            let own = seen.node == self.node;
            seen.held.is_dead() && (!own || self.fault.spares_the_node() || seen.ms < 0.0)
        };
        self.seen.iter().filter(wrong).count()
    }

    /// Whether what had to be noticed was.
    pub(super) fn detected(&self) -> bool {
        self.fault.may_pass_unnoticed() || self.right().is_some()
    }

    /// The run in a line.
    pub(super) fn line(&self) -> String {
        let mut line: Vec<String> = self
            .seen
            .iter()
            .map(|seen| {
                let node = if seen.node == self.node { "" } else { &seen.node };
                let blank = if node.is_empty() { "" } else { " " };
                format!("{node}{blank}{} {:.0}", seen.verdict, seen.ms)
            })
            .collect();
        if line.is_empty() {
            line.push("nothing seen".to_owned());
        }
        if !self.detected() {
            line.push("NOT DETECTED".to_owned());
        }
        if self.false_dead() > 0 {
            line.push("FALSE DEAD".to_owned());
        }
        line.join(", ")
    }

    fn own(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|seen| seen.node == self.node && seen.ms >= 0.0)
    }
}

/// All runs of a fault.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Score {
    /// The fault.
    pub(super) fault: String,
    /// The node it was injected at.
    pub(super) node: String,
    /// Its runs.
    pub(super) runs: Vec<Run>,
}

/// What stands over the lines of [`Score::line`].
pub(super) const HEAD: [&str; 2] = [
    "fault              node runs found |  first verdict, ms     |  right verdict, ms     | false",
    "                                   | median     p99     max | median     p99     max \
     | others dead",
];

impl Score {
    /// The figures in a line.
    pub(super) fn line(&self) -> String {
        let (runs, node) = (self.runs.len(), &self.node);
        let times = |seen: fn(&Run) -> Option<&Seen>| {
            figures(self.runs.iter().filter_map(seen).map(|seen| seen.ms))
        };
        let found = self.runs.iter().filter(|run| run.right().is_some()).count();
        let (first, right) = (times(Run::first), times(Run::right));
        let others: usize = self.runs.iter().map(Run::others).sum();
        let dead: usize = self.runs.iter().map(Run::false_dead).sum();
        format!(
            "{:<18} {node:>4} {runs:>4} {found:>5} | {first} | {right} | {others:>6} {dead:>4}",
            self.fault
        )
    }

    /// Whether a run went as it must not.
    pub(super) fn failed(&self) -> bool {
        self.runs.iter().any(|run| !run.detected() || run.false_dead() > 0)
    }
}

/// Median, 99th percentile and maximum of some milliseconds.
fn figures(times: impl Iterator<Item = f64>) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    let micros = times.map(|ms| (ms * 1000.0).round().clamp(0.0, f64::from(u32::MAX)) as u32);
    let micros: Vec<u32> = micros.collect();
    let Some(max) = micros.iter().max().copied() else {
        return format!("{:>6} {:>7} {:>7}", "-", "-", "-");
    };
    let points = stats::quantiles(micros);
    let ms = |micros: f64| format!("{:.1}", micros / 1000.0);
    let (median, p99) = (ms(points[P50]), ms(points[P99]));
    format!("{median:>6} {p99:>7} {:>7}", ms(f64::from(max)))
}

#[cfg(test)]
mod tests {
    use super::{Run, Score, figures};
    use crate::rig::event::{Event, Verdict};
    use crate::rig::fault::Fault;
    use std::time::Duration;

    fn run(fault: Fault, seen: &[(u64, &str, Verdict)]) -> Run {
        let mut run = Run::new(fault, "n1", Duration::from_secs(100));
        for (ms, node, verdict) in seen.iter().copied() {
            let time = Duration::from_millis(ms);
            let (node, evidence) = (node.to_owned(), String::new());
            run.see(Event { id: 1, time, node, verdict, evidence });
        }
        run
    }

    #[test]
    fn the_right_verdict_may_come_after_the_first() {
        let run = run(
            Fault::Drop,
            &[
                (99_000, "n1", Verdict::Degraded),
                (100_060, "n1", Verdict::SuspectPath),
                (100_300, "n1", Verdict::DeadPath),
                (105_000, "n1", Verdict::Healthy),
            ],
        );
        assert_eq!(run.first().map(|seen| seen.ms.round()), Some(60.0));
        assert_eq!(run.right().map(|seen| seen.ms.round()), Some(300.0));
        assert_eq!((run.detected(), run.false_dead(), run.others()), (true, 0, 0));
        assert!(run.line().contains("suspect (path) 60, dead path 300"), "{}", run.line());
    }

    #[test]
    fn dead_is_false_of_another_node_and_of_one_that_lives() {
        let at_another = run(Fault::Drop, &[(100_060, "n2", Verdict::DeadPath)]);
        assert_eq!((at_another.false_dead(), at_another.others()), (1, 1));
        assert!(!at_another.detected());

        let alive = run(Fault::Loss, &[(100_060, "n1", Verdict::DeadPath)]);
        assert_eq!((alive.false_dead(), alive.others()), (1, 0));

        let early = run(Fault::Kill, &[(99_999, "n1", Verdict::DeadProcess)]);
        assert_eq!(early.false_dead(), 1);
    }

    #[test]
    fn a_fault_that_need_not_be_noticed_is_no_failure() {
        let runs = vec![run(Fault::Starve, &[])];
        let score = Score { fault: "starve".to_owned(), node: "n1".to_owned(), runs };
        assert!(!score.failed());
        assert!(score.line().starts_with("starve               n1    1     0 |      -"));
    }

    #[test]
    fn figures_are_milliseconds() {
        assert_eq!(figures([1.0, 2.0, 30.5].into_iter()), "   2.0    30.5    30.5");
    }
}
