//! Running other programs with a limit on their time.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a program said, once it has ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether its exit code was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Its output, or a panic with all it said.
    pub fn expect_success(self, what: &str) -> String {
        assert!(self.success, "{what} failed\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A program that is ended by `signal` should the calling thread end first.
pub fn mortal(program: &Path, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// Runs it to its end, at most for `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Outcome {
    run_with(command, b"", limit)
}

/// The same with something on standard input.
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Outcome {
    start(command, input).wait(limit)
}

/// A program on its way.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    stdout: thread::JoinHandle<String>,
    stderr: thread::JoinHandle<String>,
}

/// Starts it, with `input` on its standard input.
pub fn start(command: &mut Command, input: &[u8]) -> Running {
    let name = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    thread::spawn(move || stdin.write_all(&input));
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    Running { name, child, stdout, stderr }
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, at most for `limit`; ends it and panics after that.
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let Some(success) = wait(&mut self.child, limit) else {
            self.child.kill().expect("to end it");
            self.child.wait().expect("it to end");
            let (out, err) = (self.stdout.join(), self.stderr.join());
            let mut said = String::new();
            for text in [out, err].into_iter().flatten() {
                writeln!(said, "{text}").expect("to write to a string");
            }
            panic!("{} took more than {limit:?}\n{said}", self.name);
        };
        let stdout = self.stdout.join().expect("its output");
        let stderr = self.stderr.join().expect("its errors");
        Outcome { success, stdout, stderr }
    }
}

/// Waits for the end of a child; `None` if it has not come within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<bool> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("to wait for a child") {
            return Some(status.success());
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal, by name, to one process.
pub fn signal(pid: u32, name: &str) -> bool {
    let line = format!("kill -{name} {pid}");
    Command::new("sh").args(["-c", &line]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Waits until something holds, asking every few milliseconds.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Aborts the whole process after so many minutes: the last resort against a test that hangs.
/// What the test has started ends by its parent-death signal.
pub fn at_most_minutes(limit: u64) {
    thread::spawn(move || {
        thread::sleep(Duration::from_mins(limit));
        say(&format!("the test took more than {limit} minutes"));
        std::process::abort();
    });
}

/// Says something to whoever watches the test.
#[expect(clippy::print_stderr, reason = "a test has no log, and its reader looks at stderr")]
pub fn say(text: &str) {
    eprintln!("{text}");
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = from.read_to_end(&mut bytes);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(error) = read {
            write!(text, "\n({error})").expect("to write to a string");
        }
        text
    })
}
