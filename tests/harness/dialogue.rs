//! Dialogues: what a client sends and what it waits for, played against any address.

use crate::dice::Dice;
use crate::message::{Message, V3_0, startup};
use crate::transcript::line;
use crate::wire::Wire;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// What a client waits for before its next step.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// So many ReadyForQuery.
    Ready(usize),
    /// A message of this type.
    Tag(u8),
    /// The other side closes.
    End,
    /// Nothing: the next step follows at once.
    Nothing,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is sent.
    pub send: Vec<u8>,
    /// What is waited for afterwards.
    pub wait: Wait,
}

/// A conversation after login.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// What it is about.
    pub name: &'static str,
    /// What is said.
    pub steps: Vec<Step>,
}

/// How the bytes of a step are cut into sends.
#[derive(Clone, Debug)]
pub enum Cuts {
    /// Not at all.
    Whole,
    /// After every byte.
    Bytes,
    /// At random places.
    Random(Dice),
}

impl Dialogue {
    /// A conversation of steps.
    pub fn new(name: &'static str, steps: Vec<(Vec<u8>, Wait)>) -> Self {
        let steps = steps.into_iter().map(|(send, wait)| Step { send, wait }).collect();
        Self { name, steps }
    }

    /// A conversation of one step that ends with so many ReadyForQuery.
    pub fn one(name: &'static str, parts: &[Vec<u8>], ready: usize) -> Self {
        Self::new(name, vec![(parts.concat(), Wait::Ready(ready))])
    }

    /// All bytes the client sends after login.
    pub fn bytes(&self) -> usize {
        self.steps.iter().map(|step| step.send.len()).sum()
    }

    /// Plays it on a new connection and gives the answers as lines.
    pub fn play(&self, address: SocketAddr, cuts: &mut Cuts) -> Vec<String> {
        let mut wire = Wire::connect(address);
        wire.send(&startup(V3_0, &[("user", "app"), ("database", "app")]));
        wire.until_ready(1);
        self.steps.iter().flat_map(|step| step.play(&mut wire, cuts)).collect()
    }
}

impl Step {
    /// Plays it on a connection and gives the answers as lines.
    pub fn play(&self, wire: &mut Wire, cuts: &mut Cuts) -> Vec<String> {
        send_cut(wire, &self.send, cuts);
        await_answers(wire, self.wait).iter().map(line).collect()
    }
}

/// Sends bytes in pieces; if the other side closes in the middle the rest is left.
pub fn send_cut(wire: &mut Wire, bytes: &[u8], cuts: &mut Cuts) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = match cuts {
            Cuts::Whole => rest.len(),
            Cuts::Bytes => 1,
            Cuts::Random(dice) => 1 + dice.below(rest.len()),
        };
        let (now, later) = rest.split_at(piece);
        if !wire.try_send(now) {
            return;
        }
        rest = later;
        if let Cuts::Random(dice) = cuts
            && dice.once_in(3)
        {
            // Long enough for the other side to see the pieces one by one.
            thread::sleep(Duration::from_micros(300));
        }
    }
}

/// Reads what is waited for, and all before it.
pub fn await_answers(wire: &mut Wire, wait: Wait) -> Vec<Message> {
    match wait {
        Wait::Ready(count) => wire.until_ready(count),
        Wait::End => wire.until_end(),
        Wait::Nothing => Vec::new(),
        Wait::Tag(tag) => {
            let mut messages = Vec::new();
            while let Some(message) = wire.read() {
                let found = message.tag == tag;
                messages.push(message);
                if found {
                    break;
                }
            }
            messages
        }
    }
}
