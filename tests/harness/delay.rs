//! A way to a server on which every answer is late: a slow node.

use crate::ports::Port;
use crate::wire::PATIENCE;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A relay whose answers are late. Its threads end with the process of the test.
#[derive(Debug)]
pub struct Delay {
    port: Port,
    late_ms: Arc<AtomicU64>,
}

impl Delay {
    /// Starts one in front of a server; nothing is late yet.
    pub fn start(server: SocketAddr) -> Self {
        let port = Port::take();
        let listener = TcpListener::bind(port.address()).expect("the relay's port");
        let late_ms = Arc::new(AtomicU64::new(0));
        let late = Arc::clone(&late_ms);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect_timeout(&server, PATIENCE) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                let (to_server, to_client, late) = (copy(&server), copy(&client), late.clone());
                thread::spawn(move || carry(client, to_server, &AtomicU64::new(0)));
                thread::spawn(move || carry(server, to_client, &late));
            }
        });
        Self { port, late_ms }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on answers are so late.
    pub fn set(&self, late: Duration) {
        let late = u64::try_from(late.as_millis()).expect("a delay");
        self.late_ms.store(late, Ordering::Relaxed);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, late_ms: &AtomicU64) {
    to.set_nodelay(true).expect("TCP_NODELAY");
    let mut chunk = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        let late = late_ms.load(Ordering::Relaxed);
        if late > 0 {
            thread::sleep(Duration::from_millis(late));
        }
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown(Shutdown::Write));
}
