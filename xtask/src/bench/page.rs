//! The report as one HTML file without anything from elsewhere, to be opened or sent.

use super::plot::{self, colour, escape};
use super::record::{CaseResult, Report, Verdict};
use super::show;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.5rem 0 .25rem; }
svg { display: block; max-width: 100%; height: auto; margin: .5rem 0; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
svg .title { font-weight: 600; }
.grid { stroke: currentColor; opacity: .15; }
.range { stroke: currentColor; stroke-width: 2; opacity: .7; }
.curve { fill: none; stroke-width: 2; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .15rem .8rem .15rem 0; }
pre { overflow-x: auto; font-size: 12px; line-height: 1.35; }
.reached { color: #1d8348; font-weight: 600; }
.missed { color: #c0392b; font-weight: 600; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.key-name { margin-right: 1em; }
";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let versions: String = report
        .versions
        .iter()
        .map(|(name, version)| format!("<tr><td>{}<td>{}\n", escape(name), escape(version)))
        .collect();
    let verdicts: String = report.verdicts.iter().map(verdict).collect();
    let cases: String = report.cases.iter().map(case).collect();
    let (started, machine) = (escape(&report.started), escape(&report.machine));
    let (rounds, seconds) = (report.rounds, report.seconds);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>pgring bench {started}</title>\n<style>{STYLE}</style>\n\
         <h1>pgring bench</h1>\n<p>{started} UTC, {machine}. {rounds} rounds of {seconds} s; \
         bars are medians, lines on them go from minimum to maximum. CPU is user and system \
         time of the proxy's threads and processes.</p>\n\
         <table>{versions}</table>\n<h2>Verdict</h2>\n\
         <p>Ratios are medians of the ratios within a round.</p>\n<table>{verdicts}</table>\n\
         {cases}</html>\n"
    )
}

fn verdict(verdict: &Verdict) -> String {
    let (class, word) = match verdict.reached {
        Some(true) => ("reached", "reached"),
        Some(false) => ("missed", "not reached"),
        None => ("", "not measured"),
    };
    let (what, wanted) = (escape(&verdict.what), escape(&verdict.wanted));
    let measured = escape(&verdict.measured);
    format!("<tr><td class=\"{class}\">{word}<td>{what}<td>{wanted}<td>{measured}\n")
}

fn case(case: &CaseResult) -> String {
    let (name, title) = (escape(&case.name), escape(&case.title));
    let key: String = case
        .series
        .iter()
        .map(|series| {
            let (colour, name) = (colour(&series.subject), escape(&series.subject));
            format!(
                "<span class=\"key\" style=\"background:{colour}\"></span>\
                 <span class=\"key-name\">{name}</span>"
            )
        })
        .collect();
    let (bars, curves) = (plot::bars(case), plot::curves(case));
    let table = escape(&show::case(case));
    format!(
        "<h2 id=\"{name}\">{name}</h2>\n<p>{title}</p>\n<p>{key}</p>\n{bars}{curves}\
         <details><summary>figures</summary><pre>{table}</pre></details>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::bench::record::{Report, Verdict};

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let report = Report {
            started: "2025-01-31T12:34:56".to_owned(),
            machine: "2 cores".to_owned(),
            versions: vec![("haproxy".to_owned(), "<2.6>".to_owned())],
            rounds: 5,
            seconds: 5,
            quantiles: Vec::new(),
            cases: Vec::new(),
            verdicts: vec![Verdict {
                what: "a".to_owned(),
                wanted: "b".to_owned(),
                measured: "c".to_owned(),
                reached: Some(false),
            }],
        };
        let page = page(&report);
        assert!(page.contains("&lt;2.6&gt;") && page.contains("not reached"));
        for word in ["http://", "https://", "src=", "<script"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
