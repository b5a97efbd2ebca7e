//! Connections of the simulated world: two streams that cut, delay, fill up and break.

use crate::dice::Dice;
use pgring_logic::id::ConnId;
use std::collections::VecDeque;

/// Nanoseconds since the start of a story.
pub(crate) type Time = u64;
/// A microsecond.
pub(crate) const US: Time = 1_000;
/// A millisecond.
pub(crate) const MS: Time = 1_000 * US;
/// A second.
pub(crate) const SEC: Time = 1_000 * MS;

/// A connection's number; never used twice.
pub(crate) type LinkId = u64;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum End {
    /// Pgring.
    Near,
    /// A client or a node.
    Far,
}

/// Who is at the far end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    /// A client, by number.
    Client(usize),
    /// The connection of a client that only brings a cancel request.
    Canceller,
    /// A node, by number.
    Node(usize),
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// Written, and held by the writer because the kernel takes no more.
    pub(crate) unsent: VecDeque<u8>,
    /// On its way, with the time of arrival.
    flight: VecDeque<Vec<u8>>,
    /// Arrived and not read.
    pub(crate) readable: VecDeque<u8>,
    /// Bytes in flight or readable.
    used: usize,
    last: Time,
    /// The writer will write no more.
    pub(crate) finished: bool,
    fin_sent: bool,
    /// The end has arrived.
    pub(crate) ended: bool,
    /// The writer writes into the void.
    pub(crate) void: bool,
}

/// What a pipe wants to happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Want {
    /// Call [`Pipe::arrive`] then.
    Arrive(Time),
    /// Call [`Pipe::end`] then.
    End(Time),
}

/// How quick and how roomy the network of a story is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) latency: Time,
    pub(crate) room: usize,
    /// Percent of chunks that are cut very small.
    pub(crate) shreds: u64,
}

impl Pipe {
    /// Sends what there is room for.
    pub(crate) fn pump(&mut self, now: Time, weather: &Weather, dice: &mut Dice) -> Vec<Want> {
        let mut wants = Vec::new();
        if self.void {
            self.unsent.clear();
        }
        while !self.unsent.is_empty() && self.used < weather.room {
            let room = weather.room - self.used;
            let cut = match dice.below(100) {
                part if part < weather.shreds && self.unsent.len() < 4096 => dice.range(1, 9),
                part if part < 2 * weather.shreds => dice.range(1, 200),
                _ => dice.range(1_000, 16_384),
            };
            let count = room.min(self.unsent.len()).min(usize::try_from(cut).unwrap_or(1));
            self.flight.push_back(self.unsent.drain(..count).collect());
            self.used += count;
            wants.push(Want::Arrive(self.when(now, weather, dice)));
        }
        if self.finished && self.unsent.is_empty() && !self.fin_sent {
            self.fin_sent = true;
            wants.push(Want::End(self.when(now, weather, dice)));
        }
        wants
    }

    fn when(&mut self, now: Time, weather: &Weather, dice: &mut Dice) -> Time {
        let slow = if dice.chance(3) { 20 } else { 1 };
        let delay = weather.latency / 4 + dice.below(weather.latency * slow);
        self.last = self.last.max(now + delay);
        self.last
    }

    /// The next chunk has come.
    pub(crate) fn arrive(&mut self) {
        if let Some(chunk) = self.flight.pop_front() {
            if self.void {
                self.used -= chunk.len();
            } else {
                self.readable.extend(chunk);
            }
        }
    }

    /// Reads up to `most` bytes.
    pub(crate) fn read(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.readable.len());
        self.used -= count;
        self.readable.drain(..count).collect()
    }

    /// The reader is gone: whatever comes is lost.
    pub(crate) fn lose(&mut self) {
        self.void = true;
        self.used -= self.readable.len();
        self.readable.clear();
        self.unsent.clear();
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// The lane and the slot at the near end, while there is one.
    pub(crate) near: Option<(usize, ConnId)>,
    pub(crate) peer: Peer,
    pub(crate) to_near: Pipe,
    pub(crate) to_far: Pipe,
    /// Whether an end has closed its socket.
    pub(crate) near_closed: bool,
    pub(crate) far_closed: bool,
    /// The near end was told that the connection is broken.
    pub(crate) broken: bool,
    /// Nothing passes any more, and nobody is told.
    pub(crate) silent: bool,
    /// The pool a server connection was opened for, once its node knows.
    pub(crate) pool: Option<(String, String)>,
    /// When its node said something nobody asked for.
    pub(crate) lied: Option<Time>,
}

impl Link {
    /// A fresh connection.
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            near: None,
            peer,
            to_near: Pipe::default(),
            to_far: Pipe::default(),
            near_closed: false,
            far_closed: false,
            broken: false,
            silent: false,
            pool: None,
            lied: None,
        }
    }

    /// The stream that `end` reads.
    pub(crate) fn to(&mut self, end: End) -> &mut Pipe {
        match end {
            End::Near => &mut self.to_near,
            End::Far => &mut self.to_far,
        }
    }
}
