//! Bars and curves as SVG, by hand: what a page needs of it is rectangles, lines and words, and a
//! library for plots would be larger than this whole task.

use super::record::{CaseResult, Metric, Series};
use super::show::{plural, short};
use super::stats::{QUANTILES, number};

/// Everybody's colour, on every plot the same.
pub(super) fn colour(subject: &str) -> &'static str {
    match subject {
        "direct" => "#8a8f98",
        "pgbouncer" => "#d9822b",
        "haproxy" => "#7157d9",
        "pgpool" => "#c23030",
        "odyssey" => "#29a634",
        own if own.ends_with("1 worker") => "#d9822b",
        _ => "#137cbd",
    }
}

/// What the bars of a case show.
const PANELS: [Metric; 3] = [Metric::Throughput, Metric::Cpu, Metric::P99];
const PANEL: f64 = 300.0;
const ROW: f64 = 26.0;
const TOP: f64 = 30.0;

/// Bars of medians, with lines from minimum to maximum: a panel for each figure.
pub(super) fn bars(case: &CaseResult) -> String {
    let height = TOP + ROW * count(case.series.len()) + 6.0;
    let panels: Vec<Metric> = PANELS
        .into_iter()
        .filter(|metric| case.series.iter().any(|series| series.spread(*metric).is_some()))
        .collect();
    let width = PANEL * count(panels.len());
    let mut svg = open(width, height);
    for (index, metric) in panels.into_iter().enumerate() {
        let left = PANEL * count(index);
        svg += &panel(case, metric, left);
    }
    svg + "</svg>\n"
}

fn panel(case: &CaseResult, metric: Metric, left: f64) -> String {
    let spreads = || case.series.iter().filter_map(|series| series.spread(metric));
    let most = spreads().map(|spread| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    // Room for names at the left, for figures at the right.
    let (from, room) = (left + 96.0, PANEL - 96.0 - 60.0);
    let x = |figure: f64| from + room * figure / most;
    let title = match metric {
        Metric::Throughput => format!("{} a second (more is better)", plural(case.unit)),
        _ => format!("{} (less is better)", metric.name()),
    };
    let mut svg = text(left + 4.0, 16.0, "title", &title);
    for (row, series) in case.series.iter().enumerate() {
        let y = TOP + ROW * count(row);
        let name = series.subject.trim_start_matches("pgring, ");
        svg += &text(left + 4.0, y + 13.0, "", name);
        let Some(spread) = series.spread(metric) else { continue };
        let (end, low, high) = (x(spread.median), x(spread.min), x(spread.max));
        let (colour, length, middle) = (colour(&series.subject), end - from, y + 9.0);
        svg += &format!(
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"18\" \
             fill=\"{colour}\"/><path d=\"M{low:.1} {middle:.1}H{high:.1}\" class=\"range\"/>"
        );
        svg += &text(high.max(end) + 5.0, y + 13.0, "", &short(spread.median));
    }
    svg
}

const WIDE: f64 = 620.0;
const HIGH: f64 = 260.0;
/// The field in which curves run: left, top, right, bottom.
const FIELD: [f64; 4] = [60.0, 28.0, 600.0, 226.0];
/// Powers of ten that may be labelled, in microseconds.
const TENS: [(f64, &str); 7] = [
    (1.0, "1 us"),
    (10.0, "10 us"),
    (100.0, "100 us"),
    (1e3, "1 ms"),
    (1e4, "10 ms"),
    (1e5, "100 ms"),
    (1e6, "1 s"),
];

/// Latency by the share of transactions that it takes at most; both axes are logarithmic, the
/// lower one in what is left over, so that the slow tail has its room.
pub(super) fn curves(case: &CaseResult) -> String {
    let curves: Vec<(&Series, Vec<f64>)> =
        case.series.iter().map(|series| (series, series.curve())).collect();
    let all = || curves.iter().flat_map(|(_, curve)| curve.iter().copied());
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    if high <= 0.0 {
        return String::new();
    }
    let (low, high) = (low.max(0.5).log10() - 0.05, high.log10() + 0.05);
    let [left, top, right, bottom] = FIELD;
    let y = |us: f64| bottom - (bottom - top) * (us.max(0.5).log10() - low) / (high - low);
    let over = |thousandths: usize| number(1000 - thousandths as u64).log10();
    let (first, last) = (over(QUANTILES[0]), over(QUANTILES[QUANTILES.len() - 1]));
    let x = |thousandths| left + (right - left) * (first - over(thousandths)) / (first - last);
    let mut svg = open(WIDE, HIGH);
    svg += &text(4.0, 16.0, "title", "latency (lower is better)");
    for (us, name) in TENS.iter().filter(|(us, _)| (low..=high).contains(&us.log10())) {
        svg += &format!("<path d=\"M{left} {:.1}H{right}\" class=\"grid\"/>", y(*us));
        svg += &text(4.0, y(*us) + 4.0, "", name);
    }
    for (part, name) in [(500, "50 %"), (900, "90 %"), (990, "99 %"), (999, "99.9 %")] {
        svg += &format!("<path d=\"M{:.1} {top}V{bottom}\" class=\"grid\"/>", x(part));
        // The last one ends where the picture ends.
        svg += &text((x(part) - 16.0).min(WIDE - 44.0), bottom + 18.0, "", name);
    }
    for (series, curve) in &curves {
        let points = QUANTILES.iter().zip(curve);
        let points: String =
            points.map(|(part, us)| format!("{:.1},{:.1} ", x(*part), y(*us))).collect();
        let colour = colour(&series.subject);
        svg += &format!("<polyline points=\"{points}\" stroke=\"{colour}\" class=\"curve\"/>");
    }
    svg + "</svg>\n"
}

pub(crate) fn open(width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         xmlns=\"http://www.w3.org/2000/svg\">\n"
    )
}

pub(crate) fn text(x: f64, y: f64, class: &str, words: &str) -> String {
    let words = escape(words);
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{words}</text>\n")
}

/// Words as HTML and SVG may have them.
pub(crate) fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A small number of things, as a length.
fn count(things: usize) -> f64 {
    number(things as u64)
}

#[cfg(test)]
mod tests {
    use super::{bars, curves, escape};
    use crate::bench::record::{CaseResult, Run, Series};

    fn case() -> CaseResult {
        let run = Run {
            round: 1,
            throughput: 50.0,
            latencies_us: (1..=12).map(|n| f64::from(n) * 10.0).collect(),
            ..Run::default()
        };
        let series = |subject: &str| Series {
            subject: subject.to_owned(),
            runs: vec![run.clone()],
            failure: None,
        };
        CaseResult {
            name: "a".to_owned(),
            title: "a < b".to_owned(),
            unit: "transaction",
            own: "pgring".to_owned(),
            base: "pgbouncer".to_owned(),
            series: vec![series("pgring"), series("pgbouncer")],
            absent: Vec::new(),
        }
    }

    #[test]
    fn a_case_has_a_bar_for_each_subject_and_figure_and_a_curve_for_each_subject() {
        let (bars, curves) = (bars(&case()), curves(&case()));
        assert_eq!(bars.matches("<rect").count(), 4, "no CPU without a proxy's clock");
        assert_eq!(curves.matches("<polyline").count(), 2);
        assert!(!bars.contains("NaN") && !curves.contains("NaN"));
    }

    #[test]
    fn a_case_without_latencies_has_no_curves() {
        let mut case = case();
        for series in &mut case.series {
            series.runs.clear();
        }
        assert_eq!(curves(&case), "");
        assert!(!bars(&case).contains("<rect"));
    }

    #[test]
    fn words_cannot_leave_their_place() {
        assert_eq!(escape("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
    }
}
