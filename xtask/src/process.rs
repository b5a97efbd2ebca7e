//! Running other programs: before everybody's eyes, or quietly with their output kept.
//!
//! Programs that run quietly get a process group of their own, so a Ctrl-C of the terminal reaches
//! this program alone. It sets a flag; whoever waits here notices within [`POLL`], ends the program
//! it waits for and returns an error, and the owners of everything started clean up as they drop.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What a task gives back: a failure is a sentence for the person at the terminal.
pub(crate) type Outcome<T> = Result<T, String>;

/// How often a wait looks whether it was interrupted.
const POLL: Duration = Duration::from_millis(25);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C, SIGTERM and SIGHUP end waits instead of this program. It may be said twice.
pub(crate) fn catch_interrupts() -> Outcome<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst))
        .map_err(|error| format!("cannot catch signals: {error}"))
}

/// Whether somebody asked for the end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// An error once somebody asked for the end.
pub(crate) fn check_interrupt() -> Outcome<()> {
    if interrupted() { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// Waits until `ready`, an interrupt, or the end of `limit`; says whether it became ready.
pub(crate) fn wait_until(
    limit: Duration,
    mut ready: impl FnMut() -> Outcome<bool>,
) -> Outcome<bool> {
    let end = Instant::now() + limit;
    loop {
        check_interrupt()?;
        if ready()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        thread::sleep(POLL);
    }
}

/// Runs a program in the foreground, with the terminal.
pub(crate) fn show(command: &mut Command) -> Outcome<()> {
    let name = name_of(command);
    let mut child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
    let mut asked = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| format!("{name}: {error}"))? {
            break status;
        }
        if interrupted() && !asked {
            // Refused for sudo's root child, which hears the terminal's Ctrl-C itself.
            asked = true;
            drop(child.kill());
        }
        thread::sleep(POLL);
    };
    check_interrupt()?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed ({status})")) }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
    /// Whether it ended well.
    pub(crate) success: bool,
}

/// Runs a program quietly and gives its standard output; its failure is an error with its words.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let name = name_of(command);
    let said = run(command, "", &mut |_| ())?;
    if said.success {
        return Ok(said.stdout);
    }
    Err(format!("{name} failed:\n{}{}", indented(&said.stdout), indented(&said.stderr)))
}

/// Runs a program quietly with this standard input, and shows `line` whatever it says, on either
/// output, line by line, as it comes.
pub(crate) fn run(command: &mut Command, input: &str, line: &mut dyn FnMut(&str)) -> Outcome<Said> {
    let name = name_of(command);
    check_interrupt()?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
    feed(&mut child, input.to_owned());
    let (tell, heard) = mpsc::channel();
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        listen(out, false, tell.clone());
        listen(err, true, tell);
    }
    let (mut stdout, mut stderr) = (String::new(), String::new());
    loop {
        match heard.recv_timeout(POLL) {
            Ok((is_error, text)) => {
                line(&text);
                let all = if is_error { &mut stderr } else { &mut stdout };
                all.push_str(&text);
                all.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if interrupted() {
            stop(&mut child, Signal::SIGTERM, Duration::from_secs(2));
            check_interrupt()?;
        }
    }
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    Ok(Said { stdout, stderr, success: status.success() })
}

/// Runs a program to its end whatever happens: for cleaning up.
pub(crate) fn finish(command: &mut Command) -> Outcome<()> {
    let name = name_of(command);
    let said = command
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err(format!("{name} failed:\n{}", indented(&String::from_utf8_lossy(&said.stderr))))
}

/// Signals the child's process group, and kills it when it is still there after `patience`.
pub(crate) fn stop(child: &mut Child, signal: Signal, patience: Duration) {
    let Ok(group) = i32::try_from(child.id()) else { return };
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    // An error here says that the group is gone already.
    let _ = killpg(Pid::from_raw(group), signal);
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(POLL);
    }
    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    drop(child.wait());
}

/// The last lines of a text, each set in by two blanks.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    indented(&all[all.len().saturating_sub(lines)..].join("\n"))
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + "  " + line + "\n")
}

fn name_of(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    program.rsplit('/').next().unwrap_or(&program).to_owned()
}

/// Writes the input from a thread, because a program may talk before it has listened to the end.
fn feed(child: &mut Child, input: String) {
    if let Some(mut pipe) = child.stdin.take() {
        // A program that stops listening has its reasons, and says them on standard error.
        thread::spawn(move || drop(pipe.write_all(input.as_bytes())));
    }
}

/// Sends the lines of one output; the channel closes when both outputs have ended.
pub(crate) fn listen(
    pipe: impl Read + Send + 'static,
    is_error: bool,
    tell: mpsc::Sender<(bool, String)>,
) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            if tell.send((is_error, String::from_utf8_lossy(&line).into_owned())).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{output, run, tail};
    use std::process::Command;

    #[test]
    fn a_program_is_fed_and_heard_on_both_ways() {
        let mut lines = Vec::new();
        let said = run(
            Command::new("sh").args(["-c", "cat; echo one >&2; echo two >&2; exit 3"]),
            "input",
            &mut |line| lines.push(line.to_owned()),
        )
        .expect("sh runs");

        assert_eq!((said.stdout.as_str(), said.success), ("input\n", false));
        lines.sort();
        assert_eq!(lines, ["input", "one", "two"]);
    }

    #[test]
    fn a_failure_repeats_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such luck >&2; false"]));
        assert_eq!(error, Err("sh failed:\n  no such luck\n".to_owned()));
    }

    #[test]
    fn a_tail_is_the_end_of_a_text() {
        assert_eq!(tail("a\nb\nc\n", 2), "  b\n  c\n");
        assert_eq!(tail("a", 5), "  a\n");
    }
}
