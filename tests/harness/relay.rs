//! A relay that stands between a program and a server and keeps every byte that passes.
//!
//! It keeps the two directions apart and leaves no note of when a byte came: what a program and a
//! server say to each other does not depend on time, so what is written down must not either.

use crate::ports::Port;
use crate::wire::PATIENCE;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// What was said on one connection.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// By the program.
    pub client: Vec<u8>,
    /// By the server.
    pub server: Vec<u8>,
}

/// A relay at work.
#[derive(Debug)]
pub struct Relay {
    port: Port,
    ending: Arc<AtomicBool>,
    acceptor: JoinHandle<Vec<Ears>>,
}

/// The two threads of a connection; each gives what it has heard when its direction ends.
#[derive(Debug)]
struct Ears {
    client: JoinHandle<Vec<u8>>,
    server: JoinHandle<Vec<u8>>,
}

impl Relay {
    /// Starts one in front of a server.
    pub fn start(server: SocketAddr) -> Self {
        let port = Port::take();
        let listener = TcpListener::bind(port.address()).expect("the relay's port");
        let ending = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ending);
        let acceptor = thread::spawn(move || accept(&listener, server, &told));
        Self { port, ending, acceptor }
    }

    /// Where the program connects to.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What was said on each connection, in the order in which they came. The program must have
    /// ended; the servers are waited for.
    pub fn finish(self) -> Vec<Heard> {
        self.ending.store(true, Ordering::Release);
        // Wakes the acceptor, which looks at `ending` first.
        drop(TcpStream::connect(self.port.address()).expect("the relay"));
        let connections = self.acceptor.join().expect("the relay to end well");
        let heard = |direction: JoinHandle<_>| direction.join().expect("a direction to end well");
        connections
            .into_iter()
            .map(|ears| Heard { client: heard(ears.client), server: heard(ears.server) })
            .collect()
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, ending: &AtomicBool) -> Vec<Ears> {
    let mut connections = Vec::new();
    loop {
        let (client, _) = listener.accept().expect("a connection");
        if ending.load(Ordering::Acquire) {
            return connections;
        }
        let server = TcpStream::connect_timeout(&server, PATIENCE).expect("the server");
        let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        let (to_server, to_client) = (copy(&server), copy(&client));
        connections.push(Ears {
            client: thread::spawn(move || carry(client, to_server)),
            server: thread::spawn(move || carry(server, to_client)),
        });
    }
}

/// Carries one direction to its end.
fn carry(mut from: TcpStream, mut to: TcpStream) -> Vec<u8> {
    from.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    to.set_nodelay(true).expect("TCP_NODELAY");
    let mut heard = Vec::new();
    let mut chunk = [0; 16_384];
    // A reset is an end as well, and so is silence: the transcript shows what is missing.
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        heard.extend_from_slice(&chunk[..count]);
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown(Shutdown::Write));
    heard
}
