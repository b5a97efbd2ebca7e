//! What a lane asks its driver to do, and what the driver tells it.
//!
//! Bodies do not enter the logic: a lane is shown the bytes a connection received, and answers
//! which ranges of them go where ([`Action::Forward`]). Only what pgring says itself is written,
//! into [`Actions::scratch`].

use crate::id::{ConnId, Core};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a node listens.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket: the full path of the socket file.
    Unix(PathBuf),
}

/// How a connection is to be closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CloseMode {
    /// Send what is queued (bounded by `client_write_timeout`), then close.
    Flush,
    /// Drop what is queued.
    Now,
}

/// How loud a note is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// For those who look for a bug.
    Debug,
    /// Part of normal life.
    Info,
    /// Somebody should look.
    Warn,
    /// Something is broken.
    Error,
}

/// One thing to be done, in the order asked for.
#[derive(Debug)]
pub enum Action<Mail> {
    /// Queue `bytes[start..start + len]` of what is being received on `from` to be sent on `to`.
    Forward {
        /// The connection whose bytes the lane is being shown.
        from: ConnId,
        /// Where they go.
        to: ConnId,
        /// First byte, in the slice being shown.
        start: usize,
        /// How many.
        len: usize,
    },
    /// Queue `scratch[start..start + len]` to be sent on `to`.
    Write {
        /// Where they go.
        to: ConnId,
        /// First byte in [`Actions::scratch`].
        start: usize,
        /// How many.
        len: usize,
    },
    /// Show the held bytes of this connection again: what it waited for has come.
    Resume(ConnId),
    /// Lift any back-pressure pause that other connections hold on this one.
    Unpair(ConnId),
    /// Open a connection for this slot.
    Connect {
        /// The slot, already reserved by the lane.
        conn: ConnId,
        /// Where to.
        address: Address,
    },
    /// Close this connection. [`Event::Closed`](crate::mail::Event::Closed) follows when the
    /// kernel has let go of it; until then the slot stays taken.
    Close {
        /// Which.
        conn: ConnId,
        /// What happens to what is queued.
        mode: CloseMode,
    },
    /// Take this idle server connection, or this client that waits to be let in, off this lane and
    /// send it, with `mail`, to `to`.
    ///
    /// When the last receive has ended without bytes, the driver moves the descriptor and tells
    /// [`Event::Closed`](crate::mail::Event::Closed). If bytes came instead of a server, it drops
    /// the mail and closes; those of a client go with it, behind what it is not done with.
    Surrender {
        /// Which.
        conn: ConnId,
        /// The lane that gets it.
        to: Core,
        /// What the other lane must know of it.
        mail: Box<Mail>,
    },
    /// Send this to another lane.
    Post {
        /// Which lane.
        to: Core,
        /// What.
        mail: Box<Mail>,
    },
    /// Send this to the control thread.
    Tell(Box<Mail>),
    /// Say this in the log.
    Note {
        /// How loud.
        level: Level,
        /// What.
        text: String,
    },
}

/// What has to be done, in order, and the bytes pgring itself says.
#[derive(Debug)]
pub struct Actions<Mail> {
    /// In order.
    pub list: Vec<Action<Mail>>,
    /// What [`Action::Write`] refers to. The driver clears it after each event.
    pub scratch: Vec<u8>,
}

impl<Mail> Default for Actions<Mail> {
    fn default() -> Self {
        Self { list: Vec::with_capacity(64), scratch: Vec::with_capacity(4096) }
    }
}

impl<Mail> Actions<Mail> {
    /// Asks for `action`.
    pub fn push(&mut self, action: Action<Mail>) {
        self.list.push(action);
    }

    /// Asks to send on `to` what `fill` appends to the scratch.
    pub fn write(&mut self, to: ConnId, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.scratch.len();
        fill(&mut self.scratch);
        let len = self.scratch.len() - start;
        if len == 0 {
            return;
        }
        if let Some(Action::Write { to: last, start: at, len: before }) = self.list.last_mut()
            && *last == to
            && *at + *before == start
        {
            *before += len;
            return;
        }
        self.list.push(Action::Write { to, start, len });
    }

    /// Asks to forward `bytes[start..end]` of `from` to `to`.
    pub fn forward(&mut self, from: ConnId, to: ConnId, start: usize, end: usize) {
        assert!(start <= end, "a range starts before it ends");
        if start == end {
            return;
        }
        if let Some(Action::Forward { from: last_from, to: last_to, start: at, len }) =
            self.list.last_mut()
            && *last_from == from
            && *last_to == to
            && *at + *len == start
        {
            *len += end - start;
            return;
        }
        self.list.push(Action::Forward { from, to, start, len: end - start });
    }

    /// Says `text` in the log.
    pub fn note(&mut self, level: Level, text: impl Into<String>) {
        self.list.push(Action::Note { level, text: text.into() });
    }

    /// Empties both lists; their memory stays.
    pub fn clear(&mut self) {
        self.list.clear();
        self.scratch.clear();
    }
}

/// What a lane made of the bytes it was shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// How many of the bytes are done with. The driver keeps the rest and shows it again.
    pub consumed: usize,
    /// When to show the rest.
    pub want: Want,
}

/// When a lane wants to see the bytes it left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Want {
    /// When more have come: joined with the rest into one slice.
    More,
    /// After [`Action::Resume`].
    Resume,
}
