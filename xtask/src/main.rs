//! The tasks of the workspace: `cargo xtask test`, `tidy`, `demo`, `bench`, `rig`, `outage`,
//! `regress`, `fuzz` and `build-probe`.
//!
//! A task needs nothing but cargo to start; what else it needs it installs first, or says which
//! command would. Tasks see files and programs, no crate of ours.

mod account;
mod bench;
mod demo;
mod fuzz;
mod install;
mod outage;
mod place;
mod pooler;
mod postgres;
mod probe;
mod process;
mod regress;
mod rig;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The tasks of the pgring workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI checks: format, lints, house rules, documentation, all tests
    Test {
        /// Only what is quick: unit and logic tests and a smoke test on a real node
        #[arg(long)]
        quick: bool,
    },
    /// The house rules that the compiler does not know
    Tidy,
    /// A primary, two standbys and pgring, shown at work
    Demo(demo::Options),
    /// pgring beside a direct connection and its peers: speed, latency, CPU, memory
    Bench(bench::Options),
    /// Faults injected into nodes and links, and how long pgring takes to notice
    Rig(rig::Options),
    /// The primary lost under writes: how long nobody can write, and whether anything is lost
    Outage(outage::Options),
    /// What the outage rig's pgring calls in place of a hook
    #[command(hide = true)]
    OutageHook(outage::HookCall),
    /// `PostgreSQL`'s own tests, direct and through pgring, compared
    Regress(regress::Options),
    /// Build the programs for the kernel, or prove that the committed ones are what they should be
    BuildProbe(probe::Build),
    /// Show what the probe sees of this machine's connections: `--port 5432`, `--help`
    Probe {
        /// What `pgring probe` takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Hostile bytes and texts for every reader, by libFuzzer on the stable compiler
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Test { quick } => test::run(quick),
        Task::Tidy => tidy::run(),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Rig(_) if !rig::allowed() => return needs_root("rig"),
        Task::Rig(options) => rig::run(&options),
        Task::Outage(_) if !rig::allowed() => return needs_root("outage"),
        Task::Outage(options) => outage::run(&options),
        Task::OutageHook(call) => return outage::hook(&call),
        Task::Regress(options) => regress::run(&options),
        Task::BuildProbe(options) => probe::build(&options),
        Task::Probe { arguments } => probe::watch(&arguments),
        Task::Fuzz(options) => fuzz::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn needs_root(task: &str) -> ExitCode {
    eprintln!("{task} makes network namespaces, which takes root: sudo -E cargo xtask {task}");
    ExitCode::from(2)
}
