//! A socket that never waits, and the one wait for all of them.

use crate::Outcome;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;

/// Sockets reported by one wait.
const BATCH: usize = 256;

/// Waits for all sockets of this program.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: Rc<Epoll>,
    events: Vec<EpollEvent>,
}

impl Poll {
    /// Without any socket yet.
    pub(crate) fn new() -> Outcome<Self> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| error.to_string())?;
        Ok(Self { epoll: Rc::new(epoll), events: vec![EpollEvent::empty(); BATCH] })
    }

    /// Waits at most so long; gives the tokens of sockets with something to do.
    pub(crate) fn wait(&mut self, milliseconds: u16) -> impl Iterator<Item = usize> + '_ {
        // An interrupted wait is one that reports nothing.
        let count = self.epoll.wait(&mut self.events, EpollTimeout::from(milliseconds));
        let tokens = self.events[..count.unwrap_or(0)].iter().map(EpollEvent::data);
        tokens.map(|token| usize::try_from(token).unwrap_or(usize::MAX))
    }

    /// Watches a listener.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize) -> Outcome<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token as u64);
        self.epoll.add(socket, event).map_err(|error| format!("epoll: {error}"))
    }
}

/// What became of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end, or an error, which is the same here.
    End,
}

/// A connection; it is watched as long as it lives.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: TcpStream,
    epoll: Rc<Epoll>,
    token: usize,
    /// Bytes that the socket did not take yet, from `at` on.
    unsent: Vec<u8>,
    at: usize,
    /// Whether the wait also reports that the socket takes bytes again.
    watches_room: bool,
}

impl Channel {
    /// Watches a connection under this token.
    pub(crate) fn new(stream: TcpStream, poll: &Poll, token: usize) -> Outcome<Self> {
        let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        ready.map_err(|error| format!("a new connection: {error}"))?;
        poll.add(&stream, token)?;
        let epoll = Rc::clone(&poll.epoll);
        Ok(Self { stream, epoll, token, unsent: Vec::new(), at: 0, watches_room: false })
    }

    /// Reads what is there, at most as much as fits.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Got {
        match self.stream.read(buffer) {
            Ok(0) => Got::End,
            Ok(count) => Got::Bytes(count),
            Err(error) if is_later(&error) => Got::Nothing,
            Err(_) => Got::End,
        }
    }

    /// Sends all of this, now or when there is room; says whether it was now. An error shows at
    /// the next read.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        let mut sent = 0;
        if self.unsent.is_empty() {
            sent = match self.stream.write(bytes) {
                Ok(count) => count,
                Err(error) if is_later(&error) => 0,
                Err(_) => bytes.len(),
            };
        }
        if sent < bytes.len() {
            self.unsent.extend_from_slice(&bytes[sent..]);
            self.watch_room(true);
        }
        self.unsent.is_empty()
    }

    /// Whether something waits for room.
    pub(crate) const fn waits(&self) -> bool {
        self.watches_room
    }

    /// Sends what waits; says whether nothing waits any more.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(rest) = self.unsent.get(self.at..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.at += count,
                Err(error) if is_later(&error) => return false,
                Err(_) => self.at = self.unsent.len(),
            }
        }
        self.unsent.clear();
        self.at = 0;
        self.watch_room(false);
        true
    }

    fn watch_room(&mut self, wanted: bool) {
        if self.watches_room == wanted {
            return;
        }
        let room = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN | room, self.token as u64);
        // It fails for a socket that is gone, which shows at the next read.
        if self.epoll.modify(&self.stream, &mut event).is_ok() {
            self.watches_room = wanted;
        }
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
