//! A small timer: nanoseconds per operation, as the median of several runs.
//!
//! The loop is first made long enough for the clock not to matter, then run several times. The
//! spread between the fastest and the slowest run says how far the machine can be trusted: on a
//! busy one it is large and the median means little.

pub mod stage;

use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A run is at least this long.
const RUN: Duration = Duration::from_millis(20);
/// Runs per figure; odd, so that one of them is the median.
const RUNS: usize = 11;

/// Measures and prints one line per operation.
#[derive(Debug)]
pub struct Bench {
    filter: Option<String>,
}

impl Bench {
    /// With the program's arguments: the first that is not an option picks operations whose name
    /// contains it.
    pub fn from_arguments() -> Self {
        Self { filter: std::env::args().skip(1).find(|argument| !argument.starts_with('-')) }
    }

    /// Starts a group of lines.
    pub fn section(&self, name: &str) {
        say(&format!("\n{name}"));
    }

    /// Whether an operation of this name was asked for; preparing it may be costly.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Measures `operation`, which does `batch` of what is counted each time it is called.
    pub fn measure<T>(&self, name: &str, batch: usize, mut operation: impl FnMut() -> T) {
        if !self.wants(name) {
            return;
        }
        let mut calls = 1u32;
        while time(calls, &mut operation) < RUN {
            calls = calls.saturating_mul(2);
        }
        let mut nanoseconds: Vec<f64> = (0..RUNS)
            .map(|_| {
                let whole = time(calls, &mut operation).as_secs_f64() * 1e9;
                whole / f64::from(calls) / f64::from(u32::try_from(batch).unwrap_or(u32::MAX))
            })
            .collect();
        nanoseconds.sort_by(f64::total_cmp);
        let (low, median, high) = (nanoseconds[0], nanoseconds[RUNS / 2], nanoseconds[RUNS - 1]);
        say(&format!("  {name:<52} {median:>10.1} ns   ({low:.1} to {high:.1})"));
    }
}

fn time<T>(calls: u32, operation: &mut impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        black_box(operation());
    }
    start.elapsed()
}

fn say(line: &str) {
    if writeln!(io::stdout(), "{line}").is_err() {
        // Nobody reads any more, which is no reason to fail.
    }
}
