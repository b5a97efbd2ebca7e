//! Figures for the terminal: a line for each run, a table for each case.

use super::record::{CaseResult, Metric, Run, Series, Verdict};
use super::stats::Spread;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Shows what was printed so far.
pub(super) fn flush() {
    // The line is for show.
    drop(std::io::stdout().flush());
}

/// A run in a line.
pub(super) fn run(run: &Run, unit: &str) -> String {
    let unit = if unit == "MB" { "MB" } else { &unit[..1] };
    let mut line = format!("{:>9.0} {unit}/s", run.throughput);
    for (name, metric) in [("p50", Metric::P50), ("p99", Metric::P99), ("cpu", Metric::Cpu)] {
        if let Some(figure) = metric.of(run) {
            line += &format!("   {name} {} us", short(figure));
        }
    }
    if let Some(bytes) = run.client_bytes {
        line += &format!("   {bytes:.0} bytes/client");
    }
    line
}

/// The columns of a table.
const COLUMNS: [(&str, Metric); 7] = [
    ("per second", Metric::Throughput),
    ("p50 us", Metric::P50),
    ("p99 us", Metric::P99),
    ("CPU us", Metric::Cpu),
    ("peak KiB", Metric::Peak),
    ("bytes/client", Metric::ClientBytes),
    ("p99/alone", Metric::AmongIdle),
];

/// A case as a table: medians, with minimum and maximum below, and the ratios to the measure.
pub(super) fn case(case: &CaseResult) -> String {
    let present = |metric| case.series.iter().any(|series| series.spread(metric).is_some());
    let columns: Vec<_> = COLUMNS.iter().filter(|(_, metric)| present(*metric)).collect();
    let mut text = format!("\n  {:<20}", plural(case.unit));
    for (name, _) in &columns {
        text += &format!("{name:>16}");
    }
    text.push('\n');
    for series in &case.series {
        text += &rows(case, series, &columns);
    }
    for (target, reason) in &case.absent {
        text += &format!("  {target:<20}absent: {reason}\n");
    }
    text
}

fn rows(case: &CaseResult, series: &Series, columns: &[&(&str, Metric)]) -> String {
    let line = |name: &str, cell: &dyn Fn(Metric) -> Option<String>| {
        let cells: Vec<_> = columns.iter().map(|(_, metric)| cell(*metric)).collect();
        if cells.iter().all(Option::is_none) {
            return String::new();
        }
        let cells: String =
            cells.into_iter().map(|cell| format!("{:>16}", cell.unwrap_or_default())).collect();
        format!("  {name:<20}{cells}\n")
    };
    let range = |spread: Spread| format!("{}-{}", short(spread.min), short(spread.max));
    let middle = |metric| series.spread(metric).map(|spread| short(spread.median));
    let mut text = line(&series.subject, &middle);
    text += &line("", &|metric| series.spread(metric).map(range));
    if series.subject != case.base {
        let ratio = |metric| {
            let ratio = case.ratio(&series.subject, metric)?;
            Some(format!("{:.2}x", ratio.median))
        };
        text += &line(&format!("  to {}", case.base), &ratio);
    }
    if let Some(failure) = &series.failure {
        let first = failure.lines().next().unwrap_or_default();
        text += &format!("  {:<20}given up: {first}\n", series.subject);
    }
    text
}

/// Several of a unit.
pub(super) fn plural(unit: &str) -> String {
    if unit == "MB" { unit.to_owned() } else { format!("{unit}s") }
}

/// The verdicts as a table.
pub(super) fn verdicts(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for Verdict { what, wanted, measured, reached } in verdicts {
        let word = match reached {
            Some(true) => "reached",
            Some(false) => "not reached",
            None => "",
        };
        text += &format!("  {word:<12} {what:<58} {wanted:<28} {measured}\n");
    }
    text
}

/// A figure with three digits that say something.
pub(super) fn short(figure: f64) -> String {
    let digits = match figure.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{figure:.digits$}")
}

/// A moment in UTC, as `2025-01-31T12:34:56`.
pub(super) fn time(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day is the last of its year.
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::{short, time};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!([0.754, 13.06, 118_250.4].map(short), ["0.75", "13.1", "118250"]);
    }

    #[test]
    fn moments_are_told_in_utc() {
        let at = |seconds| time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59");
    }
}
