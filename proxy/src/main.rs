//! The pgring program: arguments, config file, exit code.

use clap::{Parser, Subcommand, ValueEnum};
use pgring::check;
use pgring::control::file;
use pgring::probe::look;
use pgring::rehearse;
use pgring_logic::config::Config;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A `PostgreSQL` pooler appliance.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The config file.
    #[arg(long, default_value = "/etc/pgring/pgring.toml")]
    config: PathBuf,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a config file: exit code 0, or 1 with each mistake's line and key.
    Check {
        /// The config file.
        #[arg(long, default_value = "/etc/pgring/pgring.toml")]
        config: PathBuf,
        /// Also logs in to all nodes, and says what is missing there and on this machine: a line
        /// each, with "ok:", "warning:" or "error:"; exit code 1 with any error.
        #[arg(long)]
        connect: bool,
    },
    /// Shows what the kernel tells of this machine's connections, as they happen.
    Probe {
        /// Those of this process only.
        #[arg(long)]
        pid: Option<u32>,
        /// Those to, or from, this port only.
        #[arg(long)]
        port: Option<u16>,
        /// For so many seconds; else until it is interrupted.
        #[arg(long)]
        seconds: Option<u64>,
        /// Seconds between two looks at the figures of each connection.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,
    },
    /// Rehearses the loss of the primary, on a cluster that is not in production: exit code 0 if
    /// nothing was lost and all came back.
    Rehearse(rehearse::Wanted),
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Check { config, connect }) => match file::read(&config) {
            Ok(read) if connect => look_at_nodes(read, &config),
            Ok(_) => {
                print(&format!("{}: no mistakes", config.display()));
                ExitCode::SUCCESS
            }
            Err(errors) => {
                complain(&errors);
                ExitCode::FAILURE
            }
        },
        Some(Command::Probe { pid, port, seconds, every }) => {
            let (time, every) = (seconds.map(Duration::from_secs), Duration::from_secs(every));
            match look::run(&look::Wanted { pid, port, time, every }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(&[error]);
                    ExitCode::FAILURE
                }
            }
        }
        Some(Command::Rehearse(wanted)) => match rehearse::run(&wanted) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                complain(&[error]);
                ExitCode::FAILURE
            }
        },
        None => {
            log(arguments.log_format);
            let config = match file::read(&arguments.config) {
                Ok(config) => config,
                Err(errors) => {
                    complain(&errors);
                    return ExitCode::FAILURE;
                }
            };
            match pgring::serve(config, arguments.config) {
                Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
                Err(error) => {
                    complain(&[error]);
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// `check --connect`, once the config itself is fine.
fn look_at_nodes(config: Config, path: &Path) -> ExitCode {
    print(&format!("ok: {}: no mistakes", path.display()));
    let findings = match check::run(config) {
        Ok(findings) => findings,
        Err(error) => {
            complain(&[format!("error: {error}")]);
            return ExitCode::FAILURE;
        }
    };
    for finding in &findings {
        print(&finding.to_string());
    }
    let bad = findings.iter().any(|finding| finding.grade == check::Grade::Error);
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("PGRING_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A line that cannot be written (a full disk) is lost; to complain of it there would panic.
    let subscriber = subscriber.log_internal_errors(false);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

fn print(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn complain(lines: &[String]) {
    for line in lines {
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}
