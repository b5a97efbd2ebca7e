//! `pgring-load`: the load and the stand-in server of `cargo xtask bench`.
//!
//! Both are one thread on epoll that does next to nothing for a transaction, so that what is
//! between them is what limits, even where they share a core.

mod channel;
mod copy;
mod frames;
mod hold;
mod login;
mod run;
mod serve;
mod tally;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Load and stand-in server of the bench of pgring.
#[derive(Parser)]
#[command(name = "pgring-load")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Answer like a `PostgreSQL` that needs no time
    Serve {
        /// The port of the loopback interface
        #[arg(long)]
        port: u16,
    },
    /// Ask, measure, and say so in JSON
    Run(run::Options),
    /// Log in, be idle until standard input ends
    Hold(hold::Options),
}

/// What a task gives back: a failure is a sentence for whoever started it.
type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Serve { port } => serve::run(port),
        Task::Run(options) => run::run(&options),
        Task::Hold(options) => hold::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut std::io::stderr(), &error);
            ExitCode::FAILURE
        }
    }
}

/// Says a line to whoever listens.
fn say(out: &mut impl std::io::Write, line: &str) {
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // Nobody listens any more; then nobody misses it.
    }
}
