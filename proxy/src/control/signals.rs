//! Signals, with `PgBouncer`'s meaning.

use sd_notify::NotifyState;
use std::io;
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signal {
    /// HUP: read the config file again.
    Reload,
    /// TERM: take no more clients, end when the last one has left.
    DrainClients,
    /// INT: end when no server is busy.
    DrainServers,
    /// QUIT: end now.
    Quit,
}

/// The signals the process listens to.
pub(super) struct Signals {
    reload: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    /// From now on these signals come here.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.reload.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::DrainClients,
            _ = self.interrupt.recv() => Signal::DrainServers,
            _ = self.quit.recv() => Signal::Quit,
        }
    }
}

/// Tells the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
