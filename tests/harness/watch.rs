//! A watch beside a test whose clients should always be getting on: if nothing happens for a
//! while, it says where everybody stands, before the first of them gives up.
//!
//! Three places can hold bytes back, and each looks different: pgring's own books (SHOW), what
//! PostgreSQL waits for (`pg_stat_activity`), and what lies in the sockets between them (`ss`).

use crate::command::say;
use crate::pgring::Pgring;
use crate::postgres::Postgres;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Standing still for longer than this is worth a look.
const STILL: Duration = Duration::from_secs(6);

const ACTIVITY: &str = "SELECT pid, state, wait_event_type, wait_event, now() - state_change,
     left(query, 200) FROM pg_stat_activity WHERE datname = 'app' AND pid <> pg_backend_pid()";

/// Tells the watch that work goes on; the watch ends with it.
#[derive(Debug)]
pub struct Pulse(Sender<()>);

impl Pulse {
    /// Something was done.
    pub fn beat(&self) {
        // The watch is gone only when it has nothing more to say.
        let _told = self.0.send(());
    }
}

/// Watches in a thread of the scope, until every pulse made from this one is dropped.
pub fn watch<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    pgring: &'scope Pgring,
    node: &'scope Postgres,
) -> Pulse {
    let (sender, beats) = channel();
    scope.spawn(move || listen(&beats, pgring, node));
    Pulse(sender)
}

impl Clone for Pulse {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn listen(beats: &Receiver<()>, pgring: &Pgring, node: &Postgres) {
    loop {
        match beats.recv_timeout(STILL) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                say(&picture(pgring, node));
                // One picture for each time it stands still.
                if beats.recv().is_err() {
                    return;
                }
            }
        }
    }
}

/// Where everybody stands.
pub fn picture(pgring: &Pgring, node: &Postgres) -> String {
    let mut text = format!("nothing has happened for {STILL:?}\n");
    let mut console = pgring.console();
    for command in ["SHOW POOLS", "SHOW CLIENTS", "SHOW SERVERS"] {
        writeln!(text, "{command}").expect("to write to a string");
        for row in console.show(command) {
            let told = row.iter().filter(|(_, value)| !value.is_empty() && *value != "0");
            let told: Vec<_> = told.map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(text, "  {}", told.join(" ")).expect("to write to a string");
        }
    }
    writeln!(text, "pg_stat_activity\n{}", node.psql(ACTIVITY)).expect("to write to a string");
    let ports = [pgring.address().port(), node.port()];
    for port in ports {
        let filter = format!("( sport = :{port} or dport = :{port} )");
        let sockets = Command::new("ss").args(["-tnopi", &filter]).output();
        let sockets = sockets.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        writeln!(text, "sockets of port {port}\n{sockets}").expect("to write to a string");
    }
    text
}
