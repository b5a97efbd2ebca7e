//! A server that lies: it speaks as much of the protocol as its script wants to.
//!
//! The name of the database, which is in the startup packet, says which lie is told.

use crate::message::{Message, Reader, message};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a liar waits for the other side to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a liar does with one connection, once it has heard who wants what.
pub type Script = fn(&mut Talk);

/// A listening liar. Its threads end with the test's process.
#[derive(Debug)]
pub struct Liar {
    address: SocketAddr,
    counts: Arc<Mutex<BTreeMap<String, Counts>>>,
}

/// Connections to one database of a liar.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Those that came.
    pub opened: usize,
    /// Those that the other side has closed.
    pub dropped: usize,
}

/// One connection of a liar.
#[derive(Debug)]
pub struct Talk {
    stream: TcpStream,
    /// Which connection to its database this is, from 1.
    pub number: usize,
}

impl Liar {
    /// Listens, and plays to each connection the script that its database has in the list.
    pub fn start(scripts: impl Fn(&str) -> Option<Script> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let counts = Arc::new(Mutex::new(BTreeMap::<String, Counts>::new()));
        let (scripts, kept) = (Arc::new(scripts), Arc::clone(&counts));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (scripts, counts) = (Arc::clone(&scripts), Arc::clone(&kept));
                thread::spawn(move || {
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                    let mut talk = Talk { stream, number: 0 };
                    let Some(database) = talk.startup() else { return };
                    let count = |add: fn(&mut Counts)| {
                        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                        let entry = counts.entry(database.clone()).or_default();
                        add(entry);
                        entry.opened
                    };
                    talk.number = count(|counts| counts.opened += 1);
                    let Some(script) = scripts(&database) else { return };
                    script(&mut talk);
                    if talk.is_dropped() {
                        count(|counts| counts.dropped += 1);
                    }
                });
            }
        });
        Self { address, counts }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came to a database.
    pub fn counts(&self, database: &str) -> Counts {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(database).copied().unwrap_or_default()
    }
}

impl Talk {
    /// Reads the startup packet; the database it names. A cancel request names none.
    fn startup(&mut self) -> Option<String> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).ok()?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(size)).ok()? - 4];
        self.stream.read_exact(&mut body).ok()?;
        let mut reader = Reader(&body);
        let mut database = None;
        if reader.u32() >> 16 == 3 {
            while reader.0.len() > 1 {
                let (name, value) = (reader.text(), reader.text());
                database = database.or((name == "database").then_some(value));
            }
        }
        database
    }

    /// Says something; false if nobody listens any more.
    pub fn say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Says something one byte at a time, each in a packet of its own.
    pub fn say_slowly(&mut self, bytes: &[u8]) -> bool {
        bytes.chunks(1).all(|byte| {
            thread::sleep(Duration::from_micros(300));
            self.say(byte)
        })
    }

    /// Says it without end, until nobody listens.
    pub fn say_for_ever(&mut self, bytes: &[u8]) {
        while self.say(bytes) {}
    }

    /// The next message of the client.
    pub fn hear(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let [tag, size @ ..] = head;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(size)).ok()? - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some(Message { tag, body })
    }

    /// Greets and serves until this statement comes, which is left to be answered: pgring asks
    /// for something of its own before.
    pub fn greet(&mut self, statement: &str) -> Option<Message> {
        self.say(&greeting());
        loop {
            let asked = self.hear()?;
            if asked.body.starts_with(statement.as_bytes()) {
                return Some(asked);
            }
            self.say(&answer(&asked));
        }
    }

    /// Answers a query or a Sync as a server should, whatever was asked, until it is left.
    pub fn serve(&mut self) {
        while let Some(asked) = self.hear() {
            self.say(&answer(&asked));
        }
    }

    /// Ends the connection.
    pub fn close(&mut self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Whether the other side closes the connection in time.
    fn is_dropped(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// What a server says to a client it knows.
pub fn greeting() -> Vec<u8> {
    let mut bytes = authentication(0, b"");
    for (name, value) in [
        ("server_version", "17.0"),
        ("in_hot_standby", "off"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
    ] {
        bytes.extend(report(name, value));
    }
    bytes.extend(message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]));
    bytes.extend(ready());
    bytes
}

/// An Authentication message.
pub fn authentication(kind: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), rest].concat())
}

/// A ParameterStatus.
pub fn report(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// A ReadyForQuery outside a transaction.
pub fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// A row with this one value.
pub fn row(value: &[u8]) -> Vec<u8> {
    let size = u32::try_from(value.len()).expect("a length").to_be_bytes();
    message(b'D', &[&[0, 1][..], &size, value].concat())
}

/// The honest answer to a message; nothing to those that have none.
pub fn answer(asked: &Message) -> Vec<u8> {
    let column = [&b"\0\x01one\0"[..], &[0; 6], &[0, 0, 0, 25, 255, 255], &[255; 4], &[0; 2]];
    let head = message(b'T', &column.concat());
    let body = [row(b"honest"), message(b'C', b"SELECT 1\0")].concat();
    match asked.tag {
        b'Q' => [head, body, ready()].concat(),
        b'P' => message(b'1', b""),
        b'B' => message(b'2', b""),
        b'D' => head,
        b'E' => body,
        b'C' => message(b'3', b""),
        b'S' => ready(),
        _ => Vec::new(),
    }
}
