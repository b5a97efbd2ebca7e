//! The runs of a case together: figures for people, and for the file.

use super::check::Findings;
use super::topology::Chapter;
use serde::Serialize;
use std::collections::BTreeMap;

/// One run. Times are in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Run {
    /// Who was the primary, and who is.
    pub(super) from: String,
    pub(super) to: String,
    /// How many steps the epoch took.
    pub(super) epochs: u64,
    pub(super) findings: Findings,
    /// How pgring tells it.
    pub(super) history: Vec<Chapter>,
    /// How long the node itself took to be back, where that is asked.
    pub(super) restart_ms: Option<f64>,
    /// Until REJOIN of each old primary was answered.
    pub(super) rejoin_ms: Vec<(String, u128)>,
    /// Calls of hooks.
    pub(super) hooks: u64,
    pub(super) notes: Vec<String>,
    /// What should not be; empty if all was well.
    pub(super) failures: Vec<String>,
}

impl Run {
    /// The run in a line, and its failures below it.
    pub(super) fn line(&self) -> String {
        let Findings { outage_ms, lost, doubled, lies, unknown, .. } = self.findings;
        let word = if self.failures.is_empty() { "" } else { "  FAILED" };
        let mut line = format!(
            "{} > {}  outage {outage_ms:>7.1} ms  lost {lost}, doubled {doubled}, lies {lies}, \
             08007 {unknown}, unclear {}{word}",
            self.from,
            self.to,
            counts(&self.findings.unclear),
        );
        for failure in &self.failures {
            let shown = failure.trim_end().replace('\n', "\n        ");
            line += &format!("\n        {shown}");
        }
        line
    }
}

/// All runs of a case.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Score {
    pub(super) case: String,
    pub(super) durability: String,
    pub(super) runs: Vec<Run>,
}

impl Score {
    /// Whether anything was not as it must be.
    pub(super) fn failed(&self) -> bool {
        self.runs.is_empty() || self.runs.iter().any(|run| !run.failures.is_empty())
    }

    /// The figures of a case, in some lines.
    pub(super) fn page(&self) -> String {
        let Self { case, durability, runs } = self;
        let outages = runs.iter().map(|run| run.findings.outage_ms).collect();
        let sum = |get: fn(&Findings) -> usize| -> usize {
            runs.iter().map(|run| get(&run.findings)).sum()
        };
        let failed = runs.iter().filter(|run| !run.failures.is_empty()).count();
        let changed = runs.iter().filter(|run| run.from != run.to).count();
        let epochs: u64 = runs.iter().map(|run| run.epochs).sum();
        let mut page = format!(
            "{case} ({durability}): {} runs, {failed} failed, {changed} changes of the primary, \
             {epochs} steps of the epoch\n  outage      {}\n",
            runs.len(),
            spread(outages),
        );
        let restarts: Vec<f64> = runs.iter().filter_map(|run| run.restart_ms).collect();
        if !restarts.is_empty() {
            page += &format!("  restart     {}\n", spread(restarts));
        }
        page += &format!(
            "  writes      {} acked of {}; lost {}, doubled {}, lies {}\n",
            sum(|it| it.acked),
            sum(|it| it.writes),
            sum(|it| it.lost),
            sum(|it| it.doubled),
            sum(|it| it.lies),
        );
        page += &format!(
            "  errors      08007: {} ({} of them there); others: {}; unclear: {} ({} in flight)\n",
            sum(|it| it.unknown),
            sum(|it| it.unknown_there),
            counts(&all(runs.iter().map(|run| &run.findings.codes))),
            counts(&all(runs.iter().map(|run| &run.findings.unclear))),
            sum(|it| it.unclear_in_flight),
        );
        let total =
            |get: fn(&Findings) -> u64| -> u64 { runs.iter().map(|run| get(&run.findings)).sum() };
        page += &format!(
            "  sessions    connects failed: {}; idle: {} closed, {} failed; \
             reads: {}, failed: {}\n",
            counts(&all(runs.iter().map(|run| &run.findings.connects))),
            total(|it| it.idle_closed),
            total(|it| it.idle_failed),
            total(|it| it.reads),
            counts(&all(runs.iter().map(|run| &run.findings.reads_failed))),
        );
        page + &self.steps()
    }

    /// When each step of a change was done, in the order in which they were first done.
    fn steps(&self) -> String {
        let mut names = Vec::new();
        let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, time) in
            self.runs.iter().flat_map(|run| &run.history).flat_map(|chapter| &chapter.steps)
        {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
            times.entry(name).or_default().push(*time);
        }
        let line = |name: &&str| {
            let times = times.get(name).cloned().unwrap_or_default();
            format!("  step        {name:<12} {}\n", spread(times))
        };
        names.iter().map(line).collect()
    }
}

/// Counts of some runs together.
fn all<'run, N: Copy + Default + std::ops::AddAssign + 'run>(
    parts: impl Iterator<Item = &'run BTreeMap<String, N>>,
) -> BTreeMap<String, N> {
    let mut sums = BTreeMap::new();
    for (code, count) in parts.flatten() {
        *sums.entry(code.clone()).or_default() += *count;
    }
    sums
}

/// Counts by name, in a line.
fn counts<N: std::fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(code, count)| format!("{code} x{count}")).collect::<Vec<_>>().join(" ")
}

/// The middle, nearly the longest, and the longest of some times.
fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).copied().unwrap_or(f64::NAN)
    };
    format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(50), at(99), at(100))
}

#[cfg(test)]
mod tests {
    use super::{Run, Score, spread};
    use crate::outage::check::Findings;
    use crate::outage::topology::Chapter;

    #[test]
    fn times_are_ranked() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), "p50 2.0 ms, p99 3.0 ms, max 3.0 ms");
        let many = (1..=200).map(f64::from).collect();
        assert_eq!(spread(many), "p50 100.0 ms, p99 198.0 ms, max 200.0 ms");
    }

    #[test]
    fn a_case_fails_with_a_run_and_without_any() {
        let chapter = Chapter { steps: vec![("fenced".to_owned(), 12.0)], ..Chapter::default() };
        let findings = Findings { lost: 1, ..Findings::default() };
        let run = Run { findings, history: vec![chapter], ..Run::default() };
        let mut score = Score { case: "kill".to_owned(), ..Score::default() };
        assert!(score.failed());
        score.runs = vec![run.clone(), run.clone()];
        assert!(!score.failed());
        let page = score.page();
        assert!(page.contains("lost 2,") && page.contains("fenced       p50 12.0 ms"), "{page}");
        score.runs.push(Run { failures: vec!["no".to_owned()], ..run });
        assert!(score.failed() && score.runs[2].line().ends_with("FAILED\n        no"));
    }
}
