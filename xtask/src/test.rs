//! `cargo xtask test`: everything that CI checks, in one command.

use crate::install;
use crate::outage;
use crate::place;
use crate::probe;
use crate::process::{self, Outcome};
use crate::rig;
use crate::tidy;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the quick run leaves out: the long tests that start real nodes.
///
/// Of the package `pgring-tests` it keeps the library, the simulator and the corpus of the fuzz
/// targets, and of the tests with real nodes those that have `smoke` in their names.
const QUICK: &str = "not package(pgring-tests) or kind(lib) or test(/smoke/) or \
                     test(psql_does_its_work) or binary(/^(simulation|fuzz_corpus)$/)";

/// Runs all steps; the tests come last, so the last lines are their summary.
pub(crate) fn run(quick: bool) -> Outcome<()> {
    let start = Instant::now();
    let mut steps = Steps::default();
    let tools = steps.take("tools", install::for_tests)?;
    let profile = if quick { "debug" } else { "release" };
    drop(steps.take("fmt", || cargo(&["fmt", "--all", "--check"], &[])));
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    drop(steps.take("clippy", || cargo(&clippy, &[])));
    drop(steps.take("tidy", tidy::run));
    if !quick {
        drop(steps.take("probe", probe::prove));
        let doc = ["doc", "--quiet", "--no-deps", "--workspace"];
        let warnings = [("RUSTDOCFLAGS", PathBuf::from("-Dwarnings"))];
        drop(steps.take("doc", || cargo(&doc, &warnings)));
    }
    let build: &[&str] = if quick {
        &["build", "--quiet", "--package", "pgring"]
    } else {
        &["build", "--quiet", "--release", "--package", "pgring"]
    };
    let made = steps.take("build", || cargo(build, &[]));
    if made.is_ok() {
        if !quick {
            drop(steps.take("rig", rig::smoke));
            drop(steps.take("outage", outage::smoke));
        }
        let mut environment = tools;
        environment.push(("PGRING_BIN", place::program(profile)));
        let mut nextest = vec!["nextest", "run", "--workspace", "--no-fail-fast"];
        if quick {
            nextest.extend(["-E", QUICK]);
        }
        drop(steps.take("tests", || cargo(&nextest, &environment)));
    }
    steps.judge(start.elapsed())
}

/// The steps so far: name, time, and whether it went well.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration, bool)>);

impl Steps {
    /// Takes one step and says how it went.
    fn take<T>(&mut self, name: &'static str, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        println!("== {name}");
        let start = Instant::now();
        let done = act();
        let time = start.elapsed();
        let word = match &done {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("FAILED: {error}"),
        };
        println!("== {name}: {word}, {:.1} s", time.as_secs_f64());
        self.0.push((name, time, done.is_ok()));
        done
    }

    /// An error that names every step that failed.
    fn judge(&self, time: Duration) -> Outcome<()> {
        let times: Vec<String> = self
            .0
            .iter()
            .map(|(name, time, _)| format!("{name} {:.0} s", time.as_secs_f64()))
            .collect();
        let failed: Vec<_> =
            self.0.iter().filter(|(_, _, well)| !well).map(|(name, ..)| *name).collect();
        println!("== {:.0} s in all: {}", time.as_secs_f64(), times.join(", "));
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
    }
}

/// Runs cargo at the root of the workspace.
fn cargo(arguments: &[&str], environment: &[(&'static str, PathBuf)]) -> Outcome<()> {
    let mut command = Command::new("cargo");
    command.current_dir(place::root()).args(arguments);
    for (name, value) in environment {
        command.env(name, value);
    }
    process::show(&mut command)
}

#[cfg(test)]
mod tests {
    use super::Steps;
    use std::time::Duration;

    #[test]
    fn a_failed_step_is_named_at_the_end_and_later_steps_still_run() {
        let mut steps = Steps::default();
        assert_eq!(steps.take("one", || Ok(1)), Ok(1));
        assert!(steps.take("two", || Err::<(), _>("no".to_owned())).is_err());
        assert!(steps.take("three", || Ok(())).is_ok());
        assert_eq!(steps.judge(Duration::ZERO), Err("failed: two".to_owned()));
    }
}
