//! Runs commands of the operator.
//!
//! A command is a program with arguments; no shell reads them. It is told what it is about by its
//! environment, has a limit on its time, and says by its exit code how it went: 0 is success. It
//! leads a process group of its own, all of which is ended when the time is over; what it has
//! started and left behind after a success, such as a node, runs on.

use pgring_logic::failover::act::{Done, Hook};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// Where programs are looked for that a command starts.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much is kept of what a command says, on each of its two outputs: the last.
const SAID_MAX: usize = 2048;
/// How long what it said is waited for once it has ended: whoever it left behind may have its
/// output still open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a command is told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// `PGRING_CLUSTER`.
    pub cluster: String,
    /// `PGRING_NODE`: the node it is about.
    pub node: String,
    /// `PGRING_ADDRESS`: where that listens, as `host:port`.
    pub address: String,
    /// `PGRING_EPOCH`.
    pub epoch: u64,
    /// `PGRING_PRIMARY`: the node that is the primary, or is to be; empty: nobody yet.
    pub primary: String,
    /// `PGRING_PRIMARY_ADDRESS`: where that listens, as `host:port`.
    pub primary_address: String,
    /// `PGRING_CONNINFO`: the `primary_conninfo` that the node is to have.
    pub conninfo: String,
    /// `PGRING_SLOT`: the `primary_slot_name` that it is to have; empty: none.
    pub slot: String,
}

/// Runs a command to its end, but not longer than `limit`.
pub async fn run(hook: Hook, command: &[String], told: &Told, limit: Duration) -> Done {
    let failed = |unknown, what: &str| {
        let reason = format!("{}: {what}", hook.name());
        Done::Failed { unknown, reason }
    };
    let Some((program, arguments)) = command.split_first() else {
        return failed(false, "there is none");
    };
    let mut child = match start(hook, program, arguments, told) {
        Ok(child) => child,
        Err(why) => return failed(false, &format!("{program}: {why}")),
    };
    let group = Group::of(&child);
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return failed(true, "it has no output");
    };
    let mut ears = Ears { out: Ear::new(out), err: Ear::new(err) };
    let ended = async {
        tokio::select! {
            status = child.wait() => status,
            () = ears.listen() => child.wait().await,
        }
    };
    let Ok(status) = timeout(limit, ended).await else {
        group.end();
        // It cannot refuse; whoever does not end hangs in the kernel, and is not waited for.
        drop(timeout(LAST_WORDS, child.wait()).await);
        let what = format!("not done within {limit:?}, so it was ended{}", ears.text());
        return failed(true, &what);
    };
    drop(timeout(LAST_WORDS, ears.listen()).await);
    group.leave();
    match status {
        Ok(status) if status.success() => Done::Well,
        Ok(status) => failed(false, &format!("{status}{}", ears.text())),
        Err(why) => failed(true, &why.to_string()),
    }
}

fn start(hook: Hook, program: &str, arguments: &[String], told: &Told) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear().env("PATH", PATH).env("PGRING_HOOK", hook.name());
    command.env("PGRING_EPOCH", told.epoch.to_string());
    for (name, value) in [
        ("PGRING_CLUSTER", &told.cluster),
        ("PGRING_NODE", &told.node),
        ("PGRING_ADDRESS", &told.address),
        ("PGRING_PRIMARY", &told.primary),
        ("PGRING_PRIMARY_ADDRESS", &told.primary_address),
        ("PGRING_CONNINFO", &told.conninfo),
        ("PGRING_SLOT", &told.slot),
    ] {
        command.env(name, value);
    }
    command.spawn()
}

/// The processes of a command, ended if nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    fn end(self) {
        drop(self);
    }

    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Where nobody is left there is nothing to end.
            let _gone = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Hears what a command says. One output does not drown the other.
struct Ears {
    out: Ear<ChildStdout>,
    err: Ear<ChildStderr>,
}

/// One of its outputs, and the last that was heard there.
struct Ear<R> {
    from: R,
    open: bool,
    said: VecDeque<u8>,
}

impl Ears {
    /// Until both ends are closed. It may be given up and called again.
    async fn listen(&mut self) {
        tokio::join!(self.out.listen(), self.err.listen());
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.out.said.iter().chain(&self.err.said).copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        if text.is_empty() { String::new() } else { format!(": {text}") }
    }
}

impl<R: AsyncRead + Unpin> Ear<R> {
    fn new(from: R) -> Self {
        Self { from, open: true, said: VecDeque::new() }
    }

    async fn listen(&mut self) {
        let mut buffer = [0; 1024];
        while self.open {
            let count = self.from.read(&mut buffer).await.unwrap_or(0);
            self.said.extend(&buffer[..count]);
            let over = self.said.len().saturating_sub(SAID_MAX);
            self.said.drain(..over);
            self.open = count > 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Told, run};
    use pgring_logic::failover::act::{Done, Hook};
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use tokio::time::Instant;

    const LONG: Duration = Duration::from_secs(20);

    fn sh(script: &str, told: &Told, limit: Duration) -> Done {
        let command = ["/bin/sh", "-c", script, "hook", "an argument; with $HOME"];
        go(&command.map(str::to_owned), told, limit)
    }

    fn go(command: &[String], told: &Told, limit: Duration) -> Done {
        // The runtime of the control thread.
        tokio_uring::start(run(Hook::Fence, command, told, limit))
    }

    fn reason(done: Done, unknown_wanted: bool) -> String {
        let Done::Failed { unknown, reason } = done else { panic!("{done:?}") };
        assert_eq!(unknown, unknown_wanted, "{reason}");
        reason
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pgring-hook-{name}-{}", std::process::id()))
    }

    fn alive(pid: &str) -> bool {
        let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_command_is_told_what_it_is_about_and_nothing_else() {
        let file = scratch("told");
        let told = Told {
            cluster: "main".into(),
            node: "pg 1".into(),
            address: "10.0.0.1:5432".into(),
            epoch: 7,
            primary: "pg2".into(),
            primary_address: "10.0.0.2:5432".into(),
            conninfo: "host=10.0.0.2 password='a b'".into(),
            slot: "pgring_pg1".into(),
        };
        let script = format!("{{ env | grep -v ^PWD= | sort; echo \"$1\"; }} >{}", file.display());
        assert_eq!(sh(&script, &told, LONG), Done::Well);
        let text = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('_')).collect();
        let wanted = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PGRING_ADDRESS=10.0.0.1:5432",
            "PGRING_CLUSTER=main",
            "PGRING_CONNINFO=host=10.0.0.2 password='a b'",
            "PGRING_EPOCH=7",
            "PGRING_HOOK=fence_command",
            "PGRING_NODE=pg 1",
            "PGRING_PRIMARY=pg2",
            "PGRING_PRIMARY_ADDRESS=10.0.0.2:5432",
            "PGRING_SLOT=pgring_pg1",
        ];
        let ours = |line: &&&str| !["SHLVL=", "OLDPWD="].iter().any(|name| line.starts_with(name));
        let lines: Vec<&str> = lines.iter().filter(ours).copied().collect();
        assert_eq!(lines[..wanted.len()], wanted);
        assert_eq!(lines[wanted.len()..], ["an argument; with $HOME"]);
    }

    #[test]
    fn a_failure_is_told_with_the_last_words() {
        let script = "echo first; seq 1 5000; echo 'no such node' >&2; exit 3";
        let why = reason(sh(script, &Told::default(), LONG), false);
        assert!(why.starts_with("fence_command: exit status: 3: "), "{why}");
        assert!(why.contains("no such node") && why.contains("5000"), "{why}");
        assert!(!why.contains("first") && why.len() < 4200, "{}", why.len());
        let why = reason(sh("kill -9 $$", &Told::default(), LONG), false);
        assert!(why.contains("signal: 9"), "{why}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let nothing = ["/nonexistent/fence".to_owned()];
        let why = reason(go(&nothing, &Told::default(), LONG), false);
        assert!(why.contains("/nonexistent/fence: No such file"), "{why}");
        assert!(reason(go(&[], &Told::default(), LONG), false).contains("there is none"));
    }

    #[test]
    fn when_the_time_is_over_its_whole_group_ends() {
        let file = scratch("group");
        let script = format!(
            "echo started; trap '' TERM; (sleep 60 & echo $! >>{0}; wait) & echo $$ >>{0}; wait",
            file.display()
        );
        let why = reason(sh(&script, &Told::default(), Duration::from_millis(500)), true);
        assert!(why.contains("500ms") && why.contains("started"), "{why}");
        let pids = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(pids.lines().count(), 2, "{pids}");
        let begun = Instant::now();
        while pids.lines().any(alive) {
            assert!(begun.elapsed() < LONG, "still there: {pids}");
        }
    }

    #[test]
    fn what_it_leaves_behind_runs_on_and_is_not_waited_for() {
        let file = scratch("left");
        let begun = Instant::now();
        let script = format!("sleep 30 & echo $! >{}; echo done", file.display());
        assert_eq!(sh(&script, &Told::default(), LONG), Done::Well);
        assert!(begun.elapsed() < Duration::from_secs(5));
        let pid = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(alive(pid.trim()), "{pid}");
        go(&["/bin/kill".to_owned(), pid.trim().to_owned()], &Told::default(), LONG);
    }
}
