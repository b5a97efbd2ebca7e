//! What the bench is to show, and whether it did.
//!
//! The bounds are promises of the project, not observations: where one is not reached, the
//! program is to become faster, or `benches/README.md` says with a profile why it cannot.

use super::record::{CaseResult, Metric, Verdict};
use super::show::short;

/// To what a figure is compared.
#[derive(Clone, Copy)]
enum To {
    /// The measure of the case, round by round.
    Base,
    /// `HAProxy`, round by round.
    Haproxy,
    /// Nothing: it is a bound in itself.
    Itself,
}

/// A bound.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// One promise: a figure in some cases.
type Promise = (&'static [&'static str], Metric, To, Bound);

const STANDIN: &[&str] =
    &["standin-simple-64", "standin-extended-64", "standin-simple-256", "standin-extended-256"];
const SELECT: &[&str] = &["simple-64", "extended-64"];
const ONE: &[&str] = &["simple-1", "extended-1", "prepared-1"];
const COPY: &[&str] = &["copy-out-pinned", "copy-out"];
const IDLE: &[&str] = &["idle-5000-trust", "idle-5000-state"];

const SPLIT: &[&str] = &["split-64", "split-mixed-32"];

const PROMISES: [Promise; 23] = [
    (STANDIN, Metric::Cpu, To::Base, Bound::AtMost(0.75)),
    (STANDIN, Metric::Throughput, To::Base, Bound::AtLeast(1.20)),
    (SELECT, Metric::Cpu, To::Base, Bound::AtMost(0.77)),
    (SELECT, Metric::Throughput, To::Base, Bound::AtLeast(1.10)),
    (SELECT, Metric::P99, To::Base, Bound::AtMost(1.0)),
    (&["prepared-64"], Metric::Cpu, To::Base, Bound::AtMost(0.70)),
    (&["prepared-64"], Metric::Throughput, To::Base, Bound::AtLeast(1.05)),
    (ONE, Metric::Cpu, To::Base, Bound::AtMost(0.95)),
    (ONE, Metric::P50, To::Base, Bound::AtMost(1.0)),
    (&["pipeline-16"], Metric::Cpu, To::Base, Bound::AtMost(0.60)),
    (COPY, Metric::Cpu, To::Base, Bound::AtMost(0.65)),
    (COPY, Metric::Cpu, To::Haproxy, Bound::AtMost(0.90)),
    (COPY, Metric::Throughput, To::Haproxy, Bound::AtLeast(1.0)),
    (&["storm-16"], Metric::Cpu, To::Base, Bound::AtMost(0.90)),
    (&["storm-16"], Metric::Throughput, To::Base, Bound::AtLeast(1.0)),
    (&["idle-5000-trust"], Metric::ClientBytes, To::Itself, Bound::AtMost(1024.0)),
    (&["idle-5000-state"], Metric::ClientBytes, To::Itself, Bound::AtMost(2048.0)),
    (IDLE, Metric::AmongIdle, To::Itself, Bound::AtMost(1.05)),
    (&["pool-2"], Metric::Throughput, To::Base, Bound::AtLeast(0.95)),
    (SPLIT, Metric::Cpu, To::Base, Bound::AtMost(0.35)),
    (SPLIT, Metric::Throughput, To::Base, Bound::AtLeast(1.8)),
    (&["routing-64"], Metric::Cpu, To::Base, Bound::AtMost(1.05)),
    (&["routing-tpcb-16"], Metric::Throughput, To::Base, Bound::AtLeast(0.97)),
];

/// Judges all promises about cases that were played; then whether pgring is ahead of the peers.
pub(super) fn judge(cases: &[CaseResult]) -> Vec<Verdict> {
    let find = |name: &&str| cases.iter().find(|case| case.name == **name);
    let mut verdicts = Vec::new();
    for (names, metric, to, bound) in PROMISES {
        let played = names.iter().filter_map(find);
        verdicts.extend(played.map(|case| promise(case, metric, to, bound)));
    }
    verdicts.extend(cases.iter().flat_map(ahead));
    verdicts
}

fn promise(case: &CaseResult, metric: Metric, to: To, bound: Bound) -> Verdict {
    let figure = match to {
        To::Base => case.ratio_to(&case.own, &case.base, metric),
        To::Haproxy => case.ratio_to(&case.own, "haproxy", metric),
        To::Itself => case.series(&case.own).and_then(|series| series.spread(metric)),
    };
    let (sign, limit) = match bound {
        Bound::AtMost(limit) => ("at most", limit),
        Bound::AtLeast(limit) => ("at least", limit),
    };
    let whose = match to {
        To::Base => format!(" of {}", case.base),
        To::Haproxy => " of haproxy".to_owned(),
        To::Itself => String::new(),
    };
    Verdict {
        what: format!("{}: {}", case.name, metric.name()),
        wanted: format!("{sign} {}{whose}", short(limit)),
        measured: figure.map_or_else(
            || "not measured".to_owned(),
            |spread| {
                let (min, max) = (short(spread.min), short(spread.max));
                format!("{} ({min} to {max})", short(spread.median))
            },
        ),
        reached: figure.map(|spread| match bound {
            Bound::AtMost(limit) => spread.median <= limit,
            Bound::AtLeast(limit) => spread.median >= limit,
        }),
    }
}

/// Whether pgring uses less of the processor than each of the other peers that took part.
fn ahead(case: &CaseResult) -> Vec<Verdict> {
    let peers = ["haproxy", "pgpool", "odyssey"].into_iter();
    let ratio = |peer| Some((peer, case.ratio_to(&case.own, peer, Metric::Cpu)?));
    let verdict = |(peer, spread): (&str, super::stats::Spread)| Verdict {
        what: format!("{}: {}", case.name, Metric::Cpu.name()),
        wanted: format!("less than {peer}"),
        measured: format!("{} of it", short(spread.median)),
        reached: Some(spread.median < 1.0),
    };
    peers.filter_map(ratio).map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::bench::record::{CaseResult, Run, Series};

    fn series(subject: &str, cpu_us: f64, throughput: f64) -> Series {
        let run = |round| Run { round, throughput, cpu_us: Some(cpu_us), ..Run::default() };
        Series { subject: subject.to_owned(), runs: (1..=3).map(run).collect(), failure: None }
    }

    fn case(name: &str, series: Vec<Series>) -> CaseResult {
        CaseResult {
            name: name.to_owned(),
            title: String::new(),
            unit: "transaction",
            own: "pgring".to_owned(),
            base: "pgbouncer".to_owned(),
            series,
            absent: Vec::new(),
        }
    }

    #[test]
    fn a_promise_is_judged_by_the_ratio_to_the_measure() {
        let bouncer = series("pgbouncer", 10.0, 100.0);
        let cases = [case("standin-simple-64", vec![series("pgring", 7.5, 119.0), bouncer])];
        let verdicts = judge(&cases);
        let reached: Vec<_> = verdicts.iter().map(|verdict| verdict.reached).collect();
        assert_eq!(reached, [Some(true), Some(false)]);
        assert_eq!(verdicts[0].wanted, "at most 0.75 of pgbouncer");
        assert_eq!(verdicts[1].measured, "1.19 (1.19 to 1.19)");
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        let verdicts = judge(&[case("prepared-64", vec![series("pgring", 7.0, 100.0)])]);
        assert!(verdicts.iter().all(|verdict| verdict.reached.is_none()));
        assert_eq!(verdicts.len(), 2);
    }

    #[test]
    fn the_other_peers_are_to_be_behind() {
        let all = vec![series("pgring", 7.0, 1.0), series("haproxy", 6.0, 1.0)];
        let verdicts = judge(&[case("tpcb-16", all)]);
        assert_eq!((verdicts.len(), verdicts[0].reached), (1, Some(false)));
    }
}
