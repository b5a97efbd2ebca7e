//! A client that speaks the protocol by hand, byte by byte if it must.

use crate::message::{Message, Reader, V3_0, message, password, query, startup};
use crate::postgres::PASSWORD;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for an answer before it calls it lost.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    start: usize,
    /// The pid of BackendKeyData.
    pub pid: u32,
    /// The key of BackendKeyData.
    pub key: Vec<u8>,
    /// What ParameterStatus has said so far.
    pub parameters: BTreeMap<String, String>,
}

impl Wire {
    /// Connects and says nothing.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|| panic!("nobody listens on {address}"))
    }

    fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let (received, key, parameters) = (Vec::new(), Vec::new(), BTreeMap::new());
        Some(Self { stream, received, start: 0, pid: 0, key, parameters })
    }

    /// Logs in with startup parameters, or `None` if that does not work.
    pub fn try_login(address: SocketAddr, parameters: &[(&str, &str)]) -> Option<Self> {
        let mut wire = Self::try_connect(address)?;
        wire.try_send(&startup(V3_0, parameters));
        wire.authenticate(parameters[0].1, PASSWORD).ok()?;
        Some(wire)
    }

    /// Logs in as a user of the database `app`.
    pub fn login(address: SocketAddr, user: &str) -> Self {
        Self::login_with(address, &[("user", user), ("database", "app")])
    }

    /// Logs in with startup parameters, the user first.
    pub fn login_with(address: SocketAddr, parameters: &[(&str, &str)]) -> Self {
        let mut wire = Self::connect(address);
        wire.send(&startup(V3_0, parameters));
        let result = wire.authenticate(parameters[0].1, PASSWORD);
        result.unwrap_or_else(|error| panic!("{parameters:?}: {error:?}"));
        wire
    }

    /// Does what the server asks for after the startup packet, up to the first ReadyForQuery.
    /// The error is the server's, or `None` if it closed without one.
    pub fn authenticate(&mut self, user: &str, secret: &str) -> Result<(), Option<Message>> {
        let mut scram = None;
        while let Some(message) = self.read() {
            match message.tag {
                b'R' => self.prove(&message, (user, secret), &mut scram),
                b'E' => return Err(Some(message)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
        Err(None)
    }

    fn prove(
        &mut self,
        asked: &Message,
        (user, secret): (&str, &str),
        scram: &mut Option<ScramSha256>,
    ) {
        let mut body = Reader(&asked.body);
        match body.u32() {
            3 => self.try_send(&password(secret)),
            5 => {
                let salt = body.take(4).try_into().expect("a salt");
                let hash = md5_hash(user.as_bytes(), secret.as_bytes(), salt);
                self.try_send(&password(&hash))
            }
            10 => {
                let begun = ScramSha256::new(secret.as_bytes(), ChannelBinding::unsupported());
                let first = begun.message();
                let size = u32::try_from(first.len()).expect("a length").to_be_bytes();
                let sent = self.try_send(&message(
                    b'p',
                    &[b"SCRAM-SHA-256\0", size.as_slice(), first].concat(),
                ));
                *scram = Some(begun);
                sent
            }
            11 => {
                let scram = scram.as_mut().expect("SCRAM to have begun");
                scram.update(body.0).expect("a good challenge");
                self.try_send(&message(b'p', scram.message()))
            }
            12 => {
                scram.as_mut().expect("SCRAM").finish(body.0).expect("a server that knows me");
                true
            }
            _ => true,
        };
    }

    /// Sends bytes; the other side must still be there.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("to send");
    }

    /// Sends bytes; false if the other side is gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Ends the sending direction.
    pub fn shut(&self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// The port of this end.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().expect("an address").port()
    }

    /// The socket, for what this type cannot do.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Changes how long a read waits.
    pub fn patience(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a time-out");
    }

    /// The next message, `None` at the end of the stream; panics when nothing comes for long.
    pub fn read(&mut self) -> Option<Message> {
        match self.poll() {
            Polled::Message(message) => Some(message),
            Polled::End => None,
            Polled::Nothing => panic!("no answer in time"),
        }
    }

    /// The next message, or what there is instead.
    pub fn poll(&mut self) -> Polled {
        loop {
            if let Some(message) = self.take() {
                self.note(&message);
                return Polled::Message(message);
            }
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Polled::End,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Polled::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Polled::End,
            }
        }
    }

    /// One raw byte, as the answer to an SSLRequest; `None` at the end of the stream.
    pub fn read_byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        matches!(self.stream.read(&mut byte), Ok(1)).then_some(byte[0])
    }

    /// The next message, which must be there.
    pub fn expect(&mut self, tag: u8) -> Message {
        let message = self.read().expect("an answer");
        assert_eq!(char::from(message.tag), char::from(tag), "{message:?}");
        message
    }

    /// All messages up to and with the `count`th ReadyForQuery.
    pub fn until_ready(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..count {
            loop {
                let message = self.read().unwrap_or_else(|| panic!("closed after {messages:?}"));
                let ready = message.is_ready();
                messages.push(message);
                if ready {
                    break;
                }
            }
        }
        messages
    }

    /// All messages up to the end of the stream.
    pub fn until_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.read()).collect()
    }

    /// A simple query's answers.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until_ready(1)
    }

    /// Runs a simple query that must not fail, and gives the first columns of its rows.
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        let answers = self.query(sql);
        if let Some(error) = answers.iter().find(|message| message.tag == b'E') {
            panic!("{sql}: {:?} {:?}", error.code(), error.field(b'M'));
        }
        let rows = answers.iter().filter(|message| message.tag == b'D');
        rows.map(Message::value).collect()
    }

    /// The one value of a simple query that must not fail.
    pub fn value(&mut self, sql: &str) -> String {
        self.rows(sql).pop().unwrap_or_else(|| panic!("{sql}: no row"))
    }

    /// The SQLSTATE with which a simple query fails, empty if it does not.
    pub fn failure(&mut self, sql: &str) -> String {
        let answers = self.query(sql);
        answers.iter().find(|message| message.tag == b'E').map(Message::code).unwrap_or_default()
    }

    fn take(&mut self) -> Option<Message> {
        let rest = &self.received[self.start..];
        let size = u32::from_be_bytes(rest.get(1..5)?.try_into().expect("four bytes"));
        let end = usize::try_from(size).expect("a length") + 1;
        let message = Message { tag: rest[0], body: rest.get(5..end)?.to_vec() };
        self.start += end;
        if self.start == self.received.len() || self.start > 1 << 20 {
            self.received.drain(..self.start);
            self.start = 0;
        }
        Some(message)
    }

    fn note(&mut self, message: &Message) {
        let mut body = Reader(&message.body);
        match message.tag {
            b'K' => {
                self.pid = body.u32();
                self.key = body.0.to_vec();
            }
            b'S' => {
                let name = body.text();
                self.parameters.insert(name, body.text());
            }
            _ => {}
        }
    }
}

/// What a read found.
#[derive(Debug)]
pub enum Polled {
    /// A whole message.
    Message(Message),
    /// Nothing yet.
    Nothing,
    /// The other side has closed.
    End,
}
