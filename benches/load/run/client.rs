//! One client of the load.

use super::{Mode, World};
use crate::Outcome;
use crate::channel::{Channel, Got};
use crate::copy::Bulk;
use crate::frames::Frames;
use crate::login::Login;
use pgring_wire::client::write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

/// What a client does.
enum Phase {
    LoggingIn(Login),
    /// Has said what precedes the first question.
    Preparing,
    /// Has asked.
    Asking,
    /// Makes room for the next COPY.
    Emptying,
    /// Sends the rows of a COPY, so many times yet.
    Copying(usize),
}

/// One client.
pub(super) struct Client {
    channel: Channel,
    frames: Frames,
    phase: Phase,
    /// Since when it waits: for its answer, in a storm for its connection.
    since: Instant,
}

/// What a client sees next, of what concerns it.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Seen {
    Error,
    CopyIn,
    Ready,
}

impl Client {
    /// Connects and begins to log in.
    pub(super) fn open(world: &World, token: usize) -> Outcome<Self> {
        let since = Instant::now();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, world.who.port))
            .map_err(|error| format!("connect to port {}: {error}", world.who.port))?;
        let mut channel = Channel::new(stream, &world.poll, token)?;
        channel.send(&world.who.startup());
        let phase = Phase::LoggingIn(Login::default());
        Ok(Self { channel, frames: Frames::default(), phase, since })
    }

    /// Whether it is past what is done once.
    pub(super) const fn has_begun(&self) -> bool {
        !matches!(self.phase, Phase::LoggingIn(_) | Phase::Preparing)
    }

    /// Does what can be done; false when it is through, which happens in a storm only.
    pub(super) fn serve(&mut self, world: &mut World) -> Outcome<bool> {
        if self.channel.waits() && self.channel.flush() {
            self.pump(world);
        }
        let mut buffer = core::mem::take(&mut world.buffer);
        let mut goes_on = Ok(true);
        loop {
            match self.channel.read(&mut buffer) {
                Got::Nothing => break,
                Got::End => goes_on = Err("the connection was closed".to_owned()),
                Got::Bytes(count) => {
                    goes_on = self.take(&buffer[..count], world);
                    // Less than fits: there is no more now, and asking costs a system call.
                    if goes_on == Ok(true) && count == buffer.len() {
                        continue;
                    }
                }
            }
            break;
        }
        world.buffer = buffer;
        goes_on
    }

    fn take(&mut self, bytes: &[u8], world: &mut World) -> Outcome<bool> {
        if let Phase::LoggingIn(login) = &mut self.phase {
            let (answer, done) = login.take(bytes, &world.who, &mut world.keys)?;
            if !answer.is_empty() {
                self.channel.send(&answer);
            }
            if done {
                self.begin(world);
            }
            return Ok(true);
        }
        if world.mode == Mode::CopyOut {
            world.tally.moved(bytes.len());
        }
        let mut seen = None;
        let sound = self.frames.take(bytes, |tag| match tag {
            b'E' => seen = Some(Seen::Error),
            b'G' => seen = Some(Seen::CopyIn),
            b'Z' if seen != Some(Seen::Error) => seen = Some(Seen::Ready),
            _ => {}
        });
        if !sound {
            return Err("what came is not PostgreSQL's protocol".to_owned());
        }
        match seen {
            None => Ok(true),
            Some(Seen::Error) => Err(self.frames.error()),
            Some(Seen::CopyIn) => {
                self.phase = Phase::Copying(Bulk::times());
                self.pump(world);
                Ok(true)
            }
            Some(Seen::Ready) => Ok(self.answered(world)),
        }
    }

    /// The first thing after the login.
    fn begin(&mut self, world: &World) {
        if world.prepare.is_empty() {
            if world.mode != Mode::Storm {
                self.since = Instant::now();
            }
            self.ask(world);
        } else {
            self.channel.send(&world.prepare);
            self.phase = Phase::Preparing;
        }
    }

    fn ask(&mut self, world: &World) {
        self.channel.send(&world.request);
        let empties = world.mode == Mode::CopyIn;
        self.phase = if empties { Phase::Emptying } else { Phase::Asking };
    }

    /// Has its answer; says whether it goes on.
    fn answered(&mut self, world: &mut World) -> bool {
        let now = Instant::now();
        match self.phase {
            Phase::LoggingIn(_) | Phase::Preparing => {}
            Phase::Emptying => {
                let mut copy = Vec::new();
                write::query(&mut copy, "COPY sink FROM STDIN");
                self.channel.send(&copy);
                self.phase = Phase::Asking;
                self.since = now;
                return true;
            }
            Phase::Asking | Phase::Copying(_) => {
                world.tally.done(now.duration_since(self.since));
                if world.mode == Mode::Storm {
                    let mut end = Vec::new();
                    write::terminate(&mut end);
                    self.channel.send(&end);
                    return false;
                }
            }
        }
        self.since = now;
        self.ask(world);
        true
    }

    /// Sends rows until the socket is full or all are sent.
    fn pump(&mut self, world: &mut World) {
        let Phase::Copying(left) = &mut self.phase else { return };
        while *left > 0 {
            *left -= 1;
            let rows = world.bulk.rows();
            world.tally.moved(rows.len());
            if !self.channel.send(rows) {
                return;
            }
        }
        let mut done = Vec::new();
        pgring_wire::frame::message(&mut done, b'c', |_| ());
        self.phase = Phase::Asking;
        self.channel.send(&done);
    }
}
