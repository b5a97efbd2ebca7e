//! `cargo xtask fuzz`: libFuzzer on the readers of hostile bytes and texts.
//!
//! libFuzzer wants a compiler with unstable flags; `RUSTC_BOOTSTRAP` makes the stable one take
//! them, so nothing has to be installed but a C++ compiler. What a run finds interesting is kept
//! below `target/fuzz` and is where the next run starts; the corpus of the repository is read and
//! never written.

use crate::install;
use crate::place;
use crate::process::{self, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What makes the compiler count edges and show libFuzzer the two sides of comparisons.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// A reader that makes more of 4 KiB has a bug. `AddressSanitizer` needs half of it itself.
const MEMORY_MAX_MB: u32 = 1024;
/// The largest single allocation.
const ALLOCATION_MAX_MB: u32 = 64;
/// Seconds that one input may take.
const INPUT_SECONDS_MAX: u32 = 5;

/// Feed hostile bytes to the readers.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Only this target
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// Then write the smallest corpus that covers as much to `target/fuzz/TARGET/small`
    #[arg(long)]
    minimise: bool,
}

/// A fuzz target: what its bytes are taken for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Target {
    /// What a client sends: startup packets, messages, its part of SCRAM.
    Frame,
    /// What a server sends: messages, its part of SCRAM.
    Backend,
    /// SQL, console commands, startup options, configuration and users file.
    Text,
    /// SQL: what it does.
    Classify,
}

impl Target {
    const ALL: [Self; 4] = [Self::Frame, Self::Backend, Self::Text, Self::Classify];

    const fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Backend => "backend",
            Self::Text => "text",
            Self::Classify => "classify",
        }
    }
}

/// Builds the targets and runs them one after the other; the others run after a crash, too.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    process::catch_interrupts()?;
    install::for_fuzz()?;
    let programs = build()?;
    let mut crashed = Vec::new();
    let targets = options.target.map_or(Target::ALL.to_vec(), |target| vec![target]);
    for target in targets {
        let place = Place::make(target, &programs)?;
        if !place.fuzz(options.seconds)? {
            crashed.push(target.name());
        }
        if options.minimise {
            place.minimise()?;
        }
    }
    if crashed.is_empty() { Ok(()) } else { Err(format!("crashed: {}", crashed.join(", "))) }
}

/// Builds all targets; gives the directory they are in.
fn build() -> Outcome<PathBuf> {
    let rustc = |arguments: &[&str]| process::output(Command::new("rustc").args(arguments));
    let about = rustc(&["-vV"])?;
    let host = host(&about).ok_or("rustc -vV names no host")?;
    let libraries = PathBuf::from(rustc(&["--print", "target-libdir"])?.trim());
    let mut flags = COVERAGE.to_vec();
    if has_sanitizer(&libraries) {
        flags.push("-Zsanitizer=address");
    }
    let directory = place::target().join("fuzz/build");
    println!("building the fuzz targets: {}", flags.join(" "));
    // With a --target of its own, what builds and runs on the way is not instrumented.
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder()).args(["build", "--quiet", "--release", "--target", host]);
    cargo.arg("--target-dir").arg(&directory);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags.join(" "));
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::show(&mut cargo)?;
    Ok(directory.join(host).join("release"))
}

/// The host in what `rustc -vV` says.
fn host(about: &str) -> Option<&str> {
    about.lines().find_map(|line| line.strip_prefix("host: "))
}

/// Whether the run-time library of `AddressSanitizer` came with the compiler.
fn has_sanitizer(libraries: &Path) -> bool {
    libraries.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with("_rt.asan.a"))
    })
}

/// Where the fuzz targets and their corpus are.
fn folder() -> PathBuf {
    place::root().join("tests/fuzz")
}

/// One target, and where its findings go.
struct Place {
    target: Target,
    program: PathBuf,
    /// `target/fuzz/TARGET/`: reproducers of crashes, the corpus, the small corpus.
    directory: PathBuf,
}

impl Place {
    fn make(target: Target, programs: &Path) -> Outcome<Self> {
        let directory = place::target().join("fuzz").join(target.name());
        place::create(&directory.join("corpus"))?;
        Ok(Self { target, program: programs.join(target.name()), directory })
    }

    fn shipped(&self) -> PathBuf {
        folder().join("corpus").join(self.target.name())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("-artifact_prefix={}/", self.directory.display()));
        command.arg(format!("-rss_limit_mb={MEMORY_MAX_MB}"));
        command.arg(format!("-malloc_limit_mb={ALLOCATION_MAX_MB}"));
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        // Looking for leaks needs ptrace, which containers refuse.
        command.arg("-detect_leaks=0").env("ASAN_OPTIONS", "detect_leaks=0");
        command
    }

    /// Runs the target; `false` after a crash.
    fn fuzz(&self, seconds: u32) -> Outcome<bool> {
        let name = self.target.name();
        println!("== {name}: {seconds} s");
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
        command.arg(self.directory.join("corpus")).arg(self.shipped());
        let mut tally = Tally::default();
        let said = process::run(&mut command, "", &mut |line| tally.hear(line))?;
        let Tally { executions, coverage, reproducer } = tally;
        println!("== {name}: {executions} executions, {coverage} edges covered");
        if said.success {
            return Ok(true);
        }
        println!("{}", process::tail(&said.stderr, 40));
        match reproducer {
            Some(path) => println!("== {name}: CRASH, once more with\n  {} {path}", self.program()),
            None => println!("== {name}: FAILED"),
        }
        Ok(false)
    }

    fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// Writes a small corpus that covers what the large one does.
    fn minimise(&self) -> Outcome<()> {
        let small = self.directory.join("small");
        place::remove(&small)?;
        place::create(&small)?;
        let mut command = self.command();
        command.arg("-set_cover_merge=1").arg(&small);
        process::output(command.arg(self.shipped()).arg(self.directory.join("corpus")))?;
        println!("== {}: the small corpus is {}", self.target.name(), small.display());
        Ok(())
    }
}

/// What libFuzzer says of its work.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    executions: u64,
    coverage: u64,
    reproducer: Option<String>,
}

impl Tally {
    fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(path) = line.split("Test unit written to ").nth(1) {
            self.reproducer = Some(path.to_owned());
        } else if first == "stat::number_of_executed_units:" {
            self.executions = number(words.next()).unwrap_or(self.executions);
        } else if let Some(count) = first.strip_prefix('#').filter(|_| line.contains(" cov: ")) {
            self.executions = number(Some(count)).unwrap_or(self.executions);
            if let Some(coverage) = number(words.skip_while(|word| *word != "cov:").nth(1)) {
                self.coverage = coverage;
            }
        }
    }
}

fn number(word: Option<&str>) -> Option<u64> {
    word?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Tally, host};

    #[test]
    fn the_host_is_read_from_the_compiler() {
        assert_eq!(host("rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\n"), {
            Some("x86_64-unknown-linux-gnu")
        });
        assert_eq!(host("rustc 1.95.0\n"), None);
    }

    #[test]
    fn executions_coverage_and_crashes_are_read_from_what_libfuzzer_says() {
        let mut tally = Tally::default();
        for line in [
            "INFO: Seed: 123",
            "#4 INITED cov: 80 ft: 81 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#1024\tpulse  cov: 91 ft: 99 corp: 3/9b exec/s: 512 rss: 41Mb",
            "    #0 0x55 in main (frame+0x1)",
            "artifact_prefix='t/'; Test unit written to t/crash-12ab",
        ] {
            tally.hear(line);
        }
        let reproducer = Some("t/crash-12ab".to_owned());
        assert_eq!(tally, Tally { executions: 1024, coverage: 91, reproducer });
        tally.hear("stat::number_of_executed_units: 2000");
        assert_eq!(tally.executions, 2000);
    }
}
