//! What a run gave, and all runs of a bench as they are filed.

use super::stats::{self, P50, P99, Spread};
use serde::Serialize;

/// One run of one subject in one case.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Run {
    /// Which round, from 1.
    pub(super) round: u32,
    /// What was done, in the unit of the case.
    pub(super) count: f64,
    /// Of that a second.
    pub(super) throughput: f64,
    /// What failed.
    pub(super) errors: u64,
    /// Microseconds at each of [`stats::QUANTILES`].
    pub(super) latencies_us: Vec<f64>,
    /// Processor time of the proxy for each of what was done.
    pub(super) cpu_us: Option<f64>,
    /// The most memory the proxy had resident, in KiB.
    pub(super) peak_kib: Option<u64>,
    /// Memory of the proxy for each idle client, in bytes.
    pub(super) client_bytes: Option<f64>,
    /// Microseconds at each of [`stats::QUANTILES`] when nobody else was there.
    pub(super) alone_us: Option<Vec<f64>>,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Metric {
    /// Done a second.
    Throughput,
    /// Processor time of the proxy for each.
    Cpu,
    /// Median latency.
    P50,
    /// 99th percentile.
    P99,
    /// Peak memory of the proxy.
    Peak,
    /// Memory for each idle client.
    ClientBytes,
    /// 99th percentile among idle clients, in parts of the one when alone.
    AmongIdle,
}

impl Metric {
    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Cpu => "CPU us of the proxy for each",
            Self::P50 => "p50 us",
            Self::P99 => "p99 us",
            Self::Peak => "peak memory, KiB",
            Self::ClientBytes => "bytes for each idle client",
            Self::AmongIdle => "p99 among idle clients to p99 alone",
        }
    }

    /// This figure of a run, if it has it.
    pub(super) fn of(self, run: &Run) -> Option<f64> {
        match self {
            Self::Throughput => Some(run.throughput),
            Self::Cpu => run.cpu_us,
            Self::P50 => run.latencies_us.get(P50).copied(),
            Self::P99 => run.latencies_us.get(P99).copied(),
            Self::Peak => run.peak_kib.map(stats::number),
            Self::ClientBytes => run.client_bytes,
            Self::AmongIdle => {
                let alone = run.alone_us.as_ref()?.get(P99)?;
                Some(run.latencies_us.get(P99)? / alone)
            }
        }
    }
}

/// A subject's runs in one case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Series {
    /// Who.
    pub(super) subject: String,
    /// What happened, round by round.
    pub(super) runs: Vec<Run>,
    /// Why it was given up, if it was.
    pub(super) failure: Option<String>,
}

impl Series {
    /// Median, minimum and maximum of a figure.
    pub(super) fn spread(&self, metric: Metric) -> Option<Spread> {
        stats::spread(self.runs.iter().filter_map(|run| metric.of(run)))
    }

    /// The figure of each round.
    fn figures(&self, metric: Metric) -> Vec<(u32, f64)> {
        self.runs.iter().filter_map(|run| Some((run.round, metric.of(run)?))).collect()
    }

    /// The ratio to another's figure of the same round.
    pub(super) fn ratio(&self, metric: Metric, base: &Self) -> Option<Spread> {
        stats::ratio(&self.figures(metric), &base.figures(metric))
    }

    /// The median over all rounds at each point of the latency curve.
    pub(super) fn curve(&self) -> Vec<f64> {
        let points = 0..stats::QUANTILES.len();
        let at = |index| {
            stats::spread(self.runs.iter().filter_map(|run| run.latencies_us.get(index).copied()))
        };
        points.filter_map(|index| at(index).map(|spread| spread.median)).collect()
    }
}

/// All of a case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CaseResult {
    /// The name of the case.
    pub(super) name: String,
    /// What it is.
    pub(super) title: String,
    /// What throughput counts.
    pub(super) unit: &'static str,
    /// Who is judged.
    pub(super) own: String,
    /// Who is the measure.
    pub(super) base: String,
    /// Everybody's runs.
    pub(super) series: Vec<Series>,
    /// Who did not take part, and why.
    pub(super) absent: Vec<(String, String)>,
}

impl CaseResult {
    /// The series of a subject.
    pub(super) fn series(&self, subject: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.subject == subject)
    }

    /// A subject's ratio to the measure of the case.
    pub(super) fn ratio(&self, subject: &str, metric: Metric) -> Option<Spread> {
        self.ratio_to(subject, &self.base, metric)
    }

    /// A subject's ratio to another.
    pub(super) fn ratio_to(&self, subject: &str, base: &str, metric: Metric) -> Option<Spread> {
        self.series(subject)?.ratio(metric, self.series(base)?)
    }
}

/// Everything that a bench found out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// When it began, in UTC.
    pub(super) started: String,
    /// Kernel, processor, number of cores.
    pub(super) machine: String,
    /// What was compared, in which versions.
    pub(super) versions: Vec<(String, String)>,
    /// Rounds of each case.
    pub(super) rounds: u32,
    /// Seconds of each run.
    pub(super) seconds: u32,
    /// In thousandths, where the latencies of each run stand.
    pub(super) quantiles: Vec<usize>,
    /// The cases.
    pub(super) cases: Vec<CaseResult>,
    /// What it was to show, and whether it did.
    pub(super) verdicts: Vec<Verdict>,
}

/// A line of what the bench is to show.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    /// The cases.
    pub(super) what: String,
    /// What was wanted.
    pub(super) wanted: String,
    /// What was measured.
    pub(super) measured: String,
    /// Whether it is reached; nothing if it was not measured.
    pub(super) reached: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::{CaseResult, Metric, Run, Series};

    fn series(subject: &str, figures: [f64; 3]) -> Series {
        let run = |(round, throughput): (u32, f64)| Run {
            round,
            throughput,
            latencies_us: vec![throughput; 12],
            ..Run::default()
        };
        let runs = (1..).zip(figures).map(run).collect();
        Series { subject: subject.to_owned(), runs, failure: None }
    }

    #[test]
    fn a_subject_is_compared_to_the_measure_of_its_case() {
        let case = CaseResult {
            name: "a".to_owned(),
            title: String::new(),
            unit: "transaction",
            own: "pgring".to_owned(),
            base: "pgbouncer".to_owned(),
            series: vec![
                series("pgbouncer", [10.0, 20.0, 40.0]),
                series("pgring", [12.0, 40.0, 50.0]),
            ],
            absent: Vec::new(),
        };
        let ratio = |subject| case.ratio(subject, Metric::P99).map(|spread| spread.median);
        assert_eq!(ratio("pgring"), Some(1.25));
        assert_eq!(ratio("haproxy"), None);
        assert_eq!(case.ratio("pgring", Metric::Cpu), None);
        assert_eq!(case.series[1].curve(), [40.0; 12]);
    }

    #[test]
    fn a_client_among_idle_ones_is_compared_to_itself_alone() {
        let mut run = Run { latencies_us: vec![21.0; 12], ..Run::default() };
        assert_eq!(Metric::AmongIdle.of(&run), None);
        run.alone_us = Some(vec![20.0; 12]);
        assert_eq!(Metric::AmongIdle.of(&run), Some(1.05));
    }
}
