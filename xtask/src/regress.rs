//! `cargo xtask regress`: `PostgreSQL`'s own tests, direct and through pgring, compared.
//!
//! Each way gets a node of its own, made for it, so neither meets what the other left. A test
//! that fails direct is no concern of pgring's, as long as it fails through pgring with the same
//! output.

mod sources;
mod verdicts;

use crate::demo;
use crate::install;
use crate::place::{self, Workplace};
use crate::pooler::Pooler;
use crate::postgres::{Node, Site};
use crate::process::{self, Outcome};
use sources::Sources;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use verdicts::{Verdict, Verdicts};

/// Compare `PostgreSQL`'s own tests direct and through pgring.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The isolation tests instead of the regression tests
    #[arg(long)]
    isolation: bool,
    /// The pool mode of pgring
    #[arg(long, value_enum, default_value_t = Mode::Session)]
    mode: Mode,
    /// Standbys that reads go to; with --mode transaction
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    standbys: u8,
    /// Transactions begin on standbys too; reads show what their own session wrote
    #[arg(long, requires = "standbys")]
    leading_reads: bool,
    /// Only direct: what these tests do on this machine without pgring
    #[arg(long)]
    direct: bool,
    /// Only these tests, in this order (most regression tests want `test_setup` first)
    tests: Vec<String>,
}

/// A pool mode.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// The promise: no difference.
    Session,
    /// Differences have their reasons.
    Transaction,
}

/// Runs the tests both ways and compares.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    process::catch_interrupts()?;
    install::for_regress()?;
    let program = if options.direct { None } else { Some(demo::build()?) };
    let place = Workplace::open("regress")?;
    let site = Site::new(&place)?;
    let tests = Suite {
        sources: Sources::get(&place.path.join("sources"), &site.bin)?,
        site,
        place,
        tests: options.tests.clone(),
        isolation: options.isolation,
    };
    let (direct, directory) = tests.direct()?;
    let Some(program) = program else { return Ok(()) };
    let (pooled, pooled_directory) = tests.pooled(options, &program)?;
    let differences = verdicts::differences((&direct, &directory), (&pooled, &pooled_directory));
    if differences.is_empty() {
        println!("\n{} tests: the same results direct and through pgring", direct.len());
        return Ok(());
    }
    println!("\n{}", differences.join("\n"));
    let diffs = pooled_directory.join("regression.diffs");
    Err(format!("{} of {} tests differ; see {}", differences.len(), direct.len(), diffs.display()))
}

/// What standbys are called.
const NAMES: [&str; 4] = ["standby1", "standby2", "standby3", "standby4"];
/// Who may connect: everybody.
const HBA: &str = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

/// The tests to run and where.
struct Suite {
    sources: Sources,
    site: Site,
    place: Workplace,
    tests: Vec<String>,
    isolation: bool,
}

impl Suite {
    /// All tests straight at a node.
    fn direct(&self) -> Outcome<(Verdicts, PathBuf)> {
        let node = self.node()?;
        self.run("direct", node.port)
    }

    /// All tests through pgring at another node.
    fn pooled(&self, options: &Options, program: &Path) -> Outcome<(Verdicts, PathBuf)> {
        let node = self.node()?;
        let standby = |number: u8| Node::standby(&self.site, NAMES[usize::from(number)], &node);
        let standbys: Vec<Node> = (0..options.standbys).map(standby).collect::<Outcome<_>>()?;
        let nodes: Vec<&Node> = std::iter::once(&node).chain(&standbys).collect();
        let port = place::free_port()?;
        let config = self.place.write("pgring.toml", &config(options, port, &nodes))?;
        let mut pooler = Pooler::start(&self.place, program, &config, port)?;
        let done = self.run("pgring", port)?;
        pooler.check_alive()?;
        Ok(done)
    }

    fn node(&self) -> Outcome<Node> {
        let settings = "fsync = off\nmax_connections = 200\nmax_prepared_transactions = 10\n\
                        shared_buffers = '128MB'\nlog_min_messages = fatal\n";
        Node::primary(&self.site, "node", settings, HBA)
    }

    /// Runs the tests at a port; gives the verdicts and the directory of their output.
    fn run(&self, way: &str, port: u16) -> Outcome<(Verdicts, PathBuf)> {
        let kind = if self.isolation { "isolation" } else { "regress" };
        let output = self.place.path.join(format!("{kind}-{way}"));
        place::remove(&output)?;
        place::create(&output)?;
        self.place.account.own(&output)?;
        let runner = if self.isolation { "pg_isolation_regress" } else { "pg_regress" };
        let runner = self.sources.runners.join(kind).join(runner);
        let input = self.sources.tests.join(kind);
        let mut command = self.site.account.command(runner, &output);
        command
            .env("LC_ALL", "C.UTF-8")
            .arg(format!("--inputdir={}", input.display()))
            .arg(format!("--outputdir={}", output.display()))
            .arg(format!("--bindir={}", self.site.bin.display()))
            .arg(format!("--dlpath={}", self.sources.libraries.display()))
            .args(["--host=127.0.0.1", "--user=postgres", "--max-concurrent-tests=20"])
            .arg(format!("--port={port}"));
        if self.tests.is_empty() {
            let schedule = if self.isolation { "isolation_schedule" } else { "parallel_schedule" };
            command.arg(format!("--schedule={}", input.join(schedule).display()));
        }
        self.listen(way, command.args(&self.tests), output)
    }

    /// Reads the verdicts as they come, with a line that counts them.
    fn listen(
        &self,
        way: &str,
        command: &mut std::process::Command,
        output: PathBuf,
    ) -> Outcome<(Verdicts, PathBuf)> {
        let kind = if self.isolation { "isolation tests" } else { "regression tests" };
        let live = std::io::stdout().is_terminal();
        let (start, mut verdicts, mut failed) = (Instant::now(), Verdicts::new(), 0);
        let said = process::run(command, "", &mut |line| {
            let Some((name, verdict)) = verdicts::of_line(line) else { return };
            failed += u32::from(verdict == Verdict::Failed);
            verdicts.insert(name.clone(), verdict);
            if live {
                print!("\r{kind}, {way}: {} done, {failed} failed  {name}\x1b[K", verdicts.len());
                // The line is for show.
                drop(std::io::stdout().flush());
            }
        });
        if live {
            print!("\r\x1b[K");
        }
        let said = said?;
        if verdicts.is_empty() {
            return Err(format!("no test ran ({way}):\n{}", process::tail(&said.stdout, 20)));
        }
        let time = start.elapsed().as_secs_f64();
        println!("{kind}, {way}: {} done, {failed} failed, {time:.0} s", verdicts.len());
        for (name, _) in verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Failed) {
            println!("  {name}");
        }
        Ok((verdicts, output))
    }
}

/// A configuration in which nothing but the pool mode, and standbys, could make a difference.
fn config(options: &Options, port: u16, nodes: &[&Node]) -> String {
    let mode = match options.mode {
        Mode::Session => "session",
        Mode::Transaction => "transaction",
    };
    let mut text = format!(
        "# Written by `cargo xtask regress`.\nworkers = 2\nlisten = [\"127.0.0.1:{port}\"]\n\n\
         admin_users = [\"postgres\"]\n[auth]\nmethod = \"trust\"\n\n\
         [pool]\nmode = \"{mode}\"\nsize = 60\n\n"
    );
    if nodes.len() > 1 {
        text += "[routing]\nreads = \"replicas\"\n";
        // Sessions of the tests see what others have written at once, as on one node.
        text += if options.leading_reads {
            "leading_reads = \"replicas\"\n"
        } else {
            "consistency = \"strict\"\n"
        };
        text += "[monitor]\nuser = \"postgres\"\n\n";
    }
    text += "[[clusters]]\nname = \"main\"\n";
    for node in nodes {
        let (name, address) = (&node.name, node.address());
        text = format!("{text}[[clusters.nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text + "\n[[databases]]\nname = \"*\"\ncluster = \"main\"\n"
}
