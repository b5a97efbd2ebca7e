//! The stand-in: a server that answers at once, so that what is before it is the bottleneck.
//!
//! It knows the protocol and nothing else. Every query has one row of one column, unless its
//! first word says that it has none; COPY gives and takes what the bench's tables would. Who
//! asks whether it is in recovery is told no.

mod answers;

use crate::Outcome;
use crate::channel::{Channel, Got, Poll};
use crate::copy::Bulk;
use answers::{Answers, Session};
use pgring_wire::backend::write;
use pgring_wire::frame::{Header, LENGTH_MAX, header, message};
use pgring_wire::startup::{Packet, packet};
use std::net::{Ipv4Addr, TcpListener};

/// The listener's place among the tokens.
const LISTENER: usize = usize::MAX;

/// What the connections share.
struct World {
    bulk: Bulk,
    answers: Answers,
    out: Vec<u8>,
}

/// One connection.
struct Connection {
    channel: Channel,
    /// The beginning of a message that is not complete.
    input: Vec<u8>,
    greeted: bool,
    session: Session,
    /// Bytes of COPY data that are still to come, and that nobody looks at.
    skip: usize,
    /// How often rows are still to be sent.
    copying: usize,
}

/// Serves until it is ended.
pub(crate) fn run(port: u16) -> Outcome<()> {
    let failed = |error| format!("port {port}: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER)?;
    let mut world = World { bulk: Bulk::new(), answers: Answers::new(), out: Vec::new() };
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut free, mut tokens, mut buffer) = (Vec::new(), Vec::new(), vec![0; 256 << 10]);
    loop {
        tokens.extend(poll.wait(1000));
        for token in tokens.drain(..) {
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let place = free.pop().unwrap_or(connections.len());
                    let connection = Connection::new(Channel::new(stream, &poll, place)?);
                    if place == connections.len() {
                        connections.push(Some(connection));
                    } else {
                        connections[place] = Some(connection);
                    }
                }
                continue;
            }
            let Some(Some(connection)) = connections.get_mut(token) else { continue };
            if !connection.serve(&mut world, &mut buffer) {
                connections[token] = None;
                free.push(token);
            }
        }
    }
}

impl Connection {
    fn new(channel: Channel) -> Self {
        let session = Session::default();
        Self { channel, input: Vec::new(), greeted: false, session, skip: 0, copying: 0 }
    }

    /// Does what can be done; false when it is to be closed.
    fn serve(&mut self, world: &mut World, buffer: &mut [u8]) -> bool {
        if self.channel.waits() && self.channel.flush() {
            self.pump(world);
        }
        let count = match self.channel.read(buffer) {
            Got::Nothing => return true,
            Got::End => return false,
            Got::Bytes(count) => count,
        };
        world.out.clear();
        let stays = if self.input.is_empty() {
            let used = self.take(&buffer[..count], world);
            used.is_some_and(|used| {
                self.input.extend_from_slice(&buffer[used..count]);
                true
            })
        } else {
            let mut input = core::mem::take(&mut self.input);
            input.extend_from_slice(&buffer[..count]);
            let used = self.take(&input, world);
            used.is_some_and(|used| {
                input.drain(..used);
                self.input = input;
                true
            })
        };
        if !world.out.is_empty() {
            self.channel.send(&world.out);
        }
        if self.copying > 0 && !self.channel.waits() {
            self.pump(world);
        }
        stays
    }

    /// Answers all whole messages; gives the bytes used, or nothing to close.
    fn take(&mut self, bytes: &[u8], world: &mut World) -> Option<usize> {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            let rest = &bytes[at..];
            if !self.greeted {
                let (packet, used) = match packet(rest) {
                    Ok(Some(found)) => found,
                    Ok(None) => return Some(at),
                    Err(_) => return None,
                };
                at += used;
                match packet {
                    Packet::Ssl | Packet::Gss => world.out.push(b'N'),
                    Packet::Cancel { .. } => return None,
                    Packet::Startup { .. } => {
                        self.greeted = true;
                        world.answers.greeting(&mut world.out);
                    }
                }
                continue;
            }
            let head = match header(rest, LENGTH_MAX) {
                Ok(Some(head)) => head,
                Ok(None) => return Some(at),
                Err(_) => return None,
            };
            if head.tag == b'd' {
                at += Header::SIZE;
                self.skip = head.body();
                continue;
            }
            let Some(body) = rest.get(Header::SIZE..head.total()) else { return Some(at) };
            at += head.total();
            if !self.answer(head.tag, body, world) {
                return None;
            }
        }
    }

    /// Answers one message; false to close.
    fn answer(&mut self, tag: u8, body: &[u8], world: &mut World) -> bool {
        let World { answers, out, .. } = world;
        let session = &mut self.session;
        match tag {
            b'Q' if body.starts_with(b"COPY bulk TO") => {
                copy_response(out, b'H');
                self.copying = Bulk::times();
            }
            b'Q' if body.starts_with(b"COPY sink FROM") => copy_response(out, b'G'),
            b'Q' => answers.query(session, body, out),
            b'P' => {
                session.parse(body);
                write::parse_complete(out);
            }
            b'B' => write::bind_complete(out),
            b'D' => answers.describe(session, body, out),
            b'E' => answers.execute(session, out),
            b'C' => write::close_complete(out),
            b'S' => write::ready_for_query(out, b'I'),
            b'c' | b'f' => {
                write::command_complete(out, "COPY 200000");
                write::ready_for_query(out, b'I');
            }
            b'X' => return false,
            _ => {}
        }
        true
    }

    /// Sends rows until the socket is full or all are sent, and then, once, what ends a COPY.
    fn pump(&mut self, world: &World) {
        while self.copying > 0 {
            self.copying -= 1;
            let room = self.channel.send(world.bulk.rows());
            if self.copying == 0 {
                let mut end = Vec::new();
                message(&mut end, b'c', |_| ());
                write::command_complete(&mut end, "COPY 200000");
                write::ready_for_query(&mut end, b'I');
                self.channel.send(&end);
            } else if !room {
                return;
            }
        }
    }
}

/// `CopyOutResponse` or `CopyInResponse`: text, two columns.
fn copy_response(out: &mut Vec<u8>, tag: u8) {
    message(out, tag, |out| out.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0]));
}
