//! A running pgring, or another pooler of the bench, that ends with its owner.

use crate::place::{self, Workplace};
use crate::process::{self, Outcome};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a pooler may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);

/// A pooler that ends with this value.
#[derive(Debug)]
pub(crate) struct Pooler {
    name: &'static str,
    child: Child,
    log: PathBuf,
    end: Signal,
}

/// How a pooler is started and ended.
#[derive(Debug)]
pub(crate) struct Launch<'text> {
    /// How it is called in messages and file names.
    pub(crate) name: &'static str,
    /// Its program with all arguments.
    pub(crate) command: Command,
    /// Something of its command line by which it is known again.
    pub(crate) mark: &'text Path,
    /// Where it will listen, on the loopback interface.
    pub(crate) port: u16,
    /// What ends it at once.
    pub(crate) end: Signal,
}

impl Pooler {
    /// Starts this program with this configuration and waits until it listens on `port`.
    pub(crate) fn start(
        place: &Workplace,
        program: &Path,
        config: &Path,
        port: u16,
    ) -> Outcome<Self> {
        let program = reachable(place, program)?;
        let mut command = place.account.command(&program, &place.path);
        command.arg("--config").arg(config);
        // SIGQUIT: end now. It has nothing to lose; its clients are gone or ours.
        let launch = Launch { name: "pgring", command, mark: config, port, end: Signal::SIGQUIT };
        Self::launch(place, launch)
    }

    /// Starts any pooler and waits until it listens.
    pub(crate) fn launch(place: &Workplace, launch: Launch<'_>) -> Outcome<Self> {
        let Launch { name, mut command, mark, port, end } = launch;
        let note = place.path.join(format!("{name}.pid"));
        end_left_over(&note, mark);
        let log = place.path.join(format!("{name}.log"));
        let failed = |error| format!("cannot write {}: {error}", log.display());
        let file = fs::File::create(&log).map_err(failed)?;
        let second = file.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(file).stderr(second).process_group(0);
        let child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
        let mut pooler = Self { name, child, log, end };
        fs::write(&note, pooler.child.id().to_string())
            .map_err(|error| format!("cannot write {}: {error}", note.display()))?;
        let listens = process::wait_until(START_MAX, || {
            pooler.check_alive()?;
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
        })?;
        if listens {
            return Ok(pooler);
        }
        Err(format!("{name} does not listen on port {port}; its log says:\n{}", pooler.said()))
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// An error if it ended by itself.
    pub(crate) fn check_alive(&mut self) -> Outcome<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(format!("{} ended ({status}); its log says:\n{}", self.name, self.said()))
            }
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// The end of its log.
    pub(crate) fn said(&self) -> String {
        process::tail(&fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        process::stop(&mut self.child, self.end, Duration::from_secs(3));
    }
}

/// Ends the pooler of an earlier run that was killed before it could clean up.
fn end_left_over(note: &Path, mark: &Path) {
    let Ok(pid) = fs::read_to_string(note) else { return };
    // The number may be somebody else's by now; the command line says.
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let ours = String::from_utf8_lossy(&line).contains(&*mark.to_string_lossy());
    if let (true, Ok(group)) = (ours, pid.parse()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// The program where the account can run it: in place, or as a copy in the work place.
pub(crate) fn reachable(place: &Workplace, program: &Path) -> Outcome<PathBuf> {
    if !program.exists() {
        return Err(format!("{} is missing; `cargo build --release` makes it", program.display()));
    }
    if place.account.reaches(program) {
        return Ok(program.to_path_buf());
    }
    let copy = place.path.join("pgring");
    place::remove_file(&copy)?;
    fs::copy(program, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    place.account.own(&copy)?;
    Ok(copy)
}

/// What a GET of this path says: the status code and the body.
pub(crate) fn get(port: u16, path: &str) -> Outcome<(String, String)> {
    let failed = |error| format!("GET http://127.0.0.1:{port}{path}: {error}");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned()))
}
