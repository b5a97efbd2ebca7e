//! The hands of pgring outside of it: an agent that runs the hooks of nodes.
//!
//! pgring runs as an account that may enter no namespace. Its commands are this very program
//! (`xtask outage-hook`), which passes arguments and environment over a Unix socket to a thread of
//! the rig; that thread runs the hook where the node lives, as the account that owns the node, and
//! passes back what it said. A node that is cut off from everybody is cut off from this too, as a
//! hook that came over the network would be.

use crate::account::Account;
use crate::process::{Outcome, interrupted};
use crate::rig::net::Namespace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the names of variables begin with that a hook gets.
const PREFIX: &str = "PGRING_";
/// The variable that names the node.
const NODE: &str = "PGRING_NODE";
/// Between two looks whether a hook has ended, or nobody waits for it any more.
const LOOK: Duration = Duration::from_millis(5);
/// How long nobody answers at a host that is cut off.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(2);
/// What a shell says of a program that it cannot run.
const CANNOT_RUN: i32 = 127;

/// A hook that is to be run.
#[derive(Debug, Deserialize, Serialize)]
struct Call {
    hook: String,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// How it ended.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Reply {
    /// Its exit code.
    pub(super) code: i32,
    /// Its standard output.
    output: String,
    /// Its standard error.
    errors: String,
}

impl Reply {
    fn failed(code: i32, errors: String) -> Self {
        Self { code, output: String::new(), errors }
    }
}

/// Where a node lives.
#[derive(Debug)]
pub(super) struct Home {
    /// Its place.
    pub(super) space: Arc<Namespace>,
    /// Whether nobody reaches it.
    pub(super) silent: AtomicBool,
}

/// What the threads of an agent know.
#[derive(Debug)]
struct Desk {
    homes: BTreeMap<String, Arc<Home>>,
    /// The directory of the hooks.
    hooks: PathBuf,
    /// `PATH` of a hook, with `PostgreSQL`'s programs.
    path: String,
    account: Account,
    directory: PathBuf,
    log: Mutex<File>,
    calls: AtomicU64,
    ending: AtomicBool,
}

/// An agent that ends with this value.
#[derive(Debug)]
pub(super) struct Agent {
    desk: Arc<Desk>,
    socket: PathBuf,
    listener: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens on this socket, which the account may use.
    pub(super) fn start(
        socket: &Path,
        hooks: &Path,
        bin: &Path,
        account: &Account,
        homes: BTreeMap<String, Arc<Home>>,
    ) -> Outcome<Self> {
        let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
        crate::place::remove_file(socket)?;
        let listener = UnixListener::bind(socket).map_err(failed)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        account.own(socket)?;
        let directory = socket.parent().unwrap_or(Path::new("/")).to_path_buf();
        let log = File::create(directory.join("hooks.log")).map_err(failed)?;
        let desk = Arc::new(Desk {
            homes,
            hooks: hooks.to_path_buf(),
            path: format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()),
            account: account.clone(),
            directory,
            log: log.into(),
            calls: 0.into(),
            ending: false.into(),
        });
        let own = Arc::clone(&desk);
        let listener = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.ending.load(Ordering::SeqCst) {
                    return;
                }
                let desk = Arc::clone(&own);
                // One that waits for a node must not keep another from it.
                thread::spawn(move || desk.serve(stream));
            }
        });
        Ok(Self { desk, socket: socket.to_path_buf(), listener: Some(listener) })
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> u64 {
        self.desk.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.desk.ending.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that this is the end.
        drop(UnixStream::connect(&self.socket));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
    }
}

impl Desk {
    fn serve(&self, stream: UnixStream) {
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        let read = reader.read_line(&mut line);
        let mut stream = reader.into_inner();
        let call = read
            .map_err(|error| error.to_string())
            .and_then(|_| serde_json::from_str(&line).map_err(|error| error.to_string()));
        let reply = match call {
            Ok(call) => self.answer(&call, &stream),
            Err(error) => Reply::failed(CANNOT_RUN, format!("not a call: {error}\n")),
        };
        let text = serde_json::to_string(&reply).unwrap_or_default();
        // Whoever has given up hears nothing.
        drop(stream.write_all(format!("{text}\n").as_bytes()));
    }

    /// Runs a hook and notes how that went.
    fn answer(&self, call: &Call, caller: &UnixStream) -> Reply {
        let start = Instant::now();
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let reply = self
            .run(call, number, caller)
            .unwrap_or_else(|error| Reply::failed(CANNOT_RUN, format!("{error}\n")));
        let variables: String =
            call.environment.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        let line = format!(
            "{number} {}{variables}: exit {} after {} ms\n{}{}",
            call.hook,
            reply.code,
            start.elapsed().as_millis(),
            reply.output,
            reply.errors
        );
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Only for people who look afterwards.
        drop(log.write_all(line.as_bytes()));
        reply
    }

    fn run(&self, call: &Call, number: u64, caller: &UnixStream) -> Outcome<Reply> {
        let name = call.environment.get(NODE).ok_or_else(|| format!("{NODE} is not set"))?;
        let home = self.homes.get(name).ok_or_else(|| format!("there is no node {name}"))?;
        if home.silent.load(Ordering::SeqCst) {
            thread::sleep(UNREACHABLE_AFTER);
            return Ok(Reply::failed(255, format!("the host of {name} cannot be reached\n")));
        }
        if call.hook.contains('/') {
            return Err(format!("{} is no name of a hook", call.hook));
        }
        let program = self.hooks.join(&call.hook);
        // A server that a hook starts keeps its outputs open: a pipe would never end.
        let file = |kind: &str| self.directory.join(format!("hook-{number}.{kind}"));
        let (out, err) = (file("out"), file("err"));
        let open = |path: &Path| {
            File::create(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let (stdout, stderr) = (open(&out)?, open(&err)?);
        let mut command = self.account.command(&program, &self.directory);
        command.args(&call.arguments).envs(&call.environment).env("PATH", &self.path);
        command.env("LC_ALL", "C.UTF-8").env("PGCONNECT_TIMEOUT", "10");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let child = home.space.within(|| {
            command.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))
        })?;
        let code = wait(child, caller)?;
        let said = |path: &Path| {
            let text = fs::read(path).unwrap_or_default();
            drop(fs::remove_file(path));
            String::from_utf8_lossy(&text).into_owned()
        };
        Ok(Reply { code, output: said(&out), errors: said(&err) })
    }
}

/// Waits for a hook; ends it if nobody waits for its end.
fn wait(mut child: Child, caller: &UnixStream) -> Outcome<i32> {
    caller.set_nonblocking(true).map_err(|error| error.to_string())?;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            caller.set_nonblocking(false).map_err(|error| error.to_string())?;
            // Killed by a signal: as a shell says it.
            return Ok(status.code().unwrap_or(128));
        }
        let mut caller = caller;
        if interrupted() || matches!(caller.read(&mut [0]), Ok(0)) {
            crate::process::stop(
                &mut child,
                nix::sys::signal::Signal::SIGTERM,
                Duration::from_secs(1),
            );
            return Err("nobody waits for the end of the hook any more".to_owned());
        }
        thread::sleep(LOOK);
    }
}

/// `xtask outage-hook SOCKET HOOK ARGUMENTS..`: passes a call to the agent and acts as the hook
/// did. Gives the exit code.
pub(super) fn call(socket: &Path, hook: &str, arguments: &[String]) -> Outcome<i32> {
    let environment = std::env::vars().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let call = Call { hook: hook.to_owned(), arguments: arguments.to_vec(), environment };
    let reply = pass(socket, &call)?;
    print!("{}", reply.output);
    eprint!("{}", reply.errors);
    Ok(reply.code)
}

fn pass(socket: &Path, call: &Call) -> Outcome<Reply> {
    let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    let text = serde_json::to_string(call).map_err(|error| error.to_string())?;
    stream.write_all(format!("{text}\n").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    serde_json::from_str(&answer).map_err(|error| format!("no answer of the agent: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Agent, Call, Home, pass};
    use crate::account::Account;
    use crate::rig::net::Namespace;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn script(path: &Path, text: &str) {
        fs::write(path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }

    #[test]
    fn a_hook_runs_where_its_node_lives_and_says_what_it_says() {
        if !crate::rig::allowed() {
            eprintln!("skipped: network namespaces take root");
            return;
        }
        let account = Account::find().expect("an account");
        let directory = std::env::temp_dir().join(format!("pgring-agent-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        account.own(&directory).expect("owned");
        script(
            &directory.join("stop"),
            "#!/bin/sh\ncat /proc/net/dev | grep -c mark0\necho $PGRING_NODE $1 >&2\nexit 3\n",
        );
        let space = Arc::new(Namespace::new("agent").expect("a namespace"));
        space.ip(&["link", "add", "mark0", "type", "veth"]).expect("a mark");
        let home = Arc::new(Home { space, silent: false.into() });
        let homes = BTreeMap::from([("n1".to_owned(), Arc::clone(&home))]);
        let socket = directory.join("agent.sock");
        let agent = Agent::start(&socket, &directory, Path::new("/bin"), &account, homes);
        let agent = agent.expect("started");
        let call = |node: &str| {
            let environment = [("PGRING_NODE".to_owned(), node.to_owned())].into();
            let arguments = vec!["there".to_owned()];
            pass(&socket, &Call { hook: "stop".to_owned(), arguments, environment })
        };

        let reply = call("n1").expect("an answer");
        let said = (reply.code, reply.output.as_str(), reply.errors.as_str());
        assert_eq!(said, (3, "1\n", "n1 there\n"));
        assert_eq!(call("n9").expect("an answer").code, 127);
        home.silent.store(true, Ordering::SeqCst);
        assert_eq!(call("n1").expect("an answer").code, 255);
        assert_eq!(agent.calls(), 3);
        drop(agent);
        assert!(call("n1").is_err());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
