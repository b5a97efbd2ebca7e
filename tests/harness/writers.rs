//! Clients that write keys again and again, and remember what became of each.

use crate::command::until;
use crate::message::query;
use crate::wire::{Polled, Wire};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two writes of one client, so that a small machine has time for others.
const PACE: Duration = Duration::from_millis(5);
/// How long writes may take to go on.
const SOON: Duration = Duration::from_secs(30);

/// Clients at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    threads: Vec<JoinHandle<()>>,
}

/// What they were told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Keys that were acknowledged: when, and on which port, in the order of their answers.
    pub acknowledged: Vec<(Instant, String, String)>,
    /// Errors: the code, and the message.
    pub errors: Vec<(String, String)>,
    /// Connections that ended without any.
    pub cut: usize,
}

impl Writers {
    /// So many. No two write the same key.
    pub fn start(address: SocketAddr, count: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let threads = (0..count).map(|_| {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let (stop, told) = (Arc::clone(&stop), Arc::clone(&told));
            thread::spawn(move || work(address, number, &stop, &told))
        });
        let threads = threads.collect();
        Self { stop, told, threads }
    }

    /// So many keys are acknowledged so far.
    pub fn count(&self) -> usize {
        self.told.lock().expect("nobody has panicked").acknowledged.len()
    }

    /// Waits for so many more.
    #[track_caller]
    pub fn until_more(&self, more: usize) {
        let wanted = self.count() + more;
        until("more writes", SOON, || self.count() >= wanted);
    }

    /// Waits until a write is acknowledged on this port.
    #[track_caller]
    pub fn until_on(&self, port: u16) {
        let port = port.to_string();
        until("a write on the other node", SOON, || {
            let told = self.told.lock().expect("nobody has panicked");
            told.acknowledged.last().is_some_and(|(_, _, at)| *at == port)
        });
    }

    /// Ends them.
    pub fn stop(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client that does not panic");
        }
        let told = self.told.lock().expect("nobody has panicked");
        told.clone()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        // The port of a test that has failed is soon that of another.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Told {
    /// Where was written, one after the other.
    pub fn leaders(&self) -> Vec<u16> {
        let mut leaders: Vec<u16> = self.acknowledged.iter().map(|(_, _, at)| number(at)).collect();
        leaders.dedup();
        leaders
    }

    /// The longest time without an acknowledgement.
    pub fn outage(&self) -> Duration {
        let times = self.acknowledged.iter().map(|(at, _, _)| *at);
        let pairs = times.clone().zip(times.skip(1));
        pairs.map(|(before, after)| after - before).max().unwrap_or(Duration::MAX)
    }

    /// Every key that was acknowledged is there, and none is there twice.
    #[track_caller]
    pub fn is_kept_in(&self, keys: &[String]) {
        let twice = keys.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "written twice");
        let told = self.acknowledged.iter().map(|(_, key, _)| key);
        let lost: Vec<_> = told.filter(|key| keys.binary_search(key).is_err()).collect();
        assert_eq!((lost.len(), lost.first()), (0, None), "acknowledged keys are lost");
    }
}

fn number(text: &str) -> u16 {
    text.parse().expect("a port")
}

fn work(address: SocketAddr, number: u32, stop: &AtomicBool, told: &Mutex<Told>) {
    let login = [("user", "app"), ("database", "app")];
    let (mut wire, mut turn) = (None, 0);
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = wire.as_mut() else {
            wire = Wire::try_login(address, &login);
            thread::sleep(PACE);
            continue;
        };
        turn += 1;
        let key = format!("{number}-{turn:06}");
        if !write(open, &key, told) {
            wire = None;
        }
        thread::sleep(PACE);
    }
}

/// Writes a key; false if the connection is not to be used any more.
fn write(wire: &mut Wire, key: &str, told: &Mutex<Told>) -> bool {
    let sql = format!("INSERT INTO keys VALUES ('{key}') RETURNING current_setting('port')");
    let mut port = None;
    let mut failed = false;
    let told = || told.lock().expect("nobody has panicked");
    if !wire.try_send(&query(&sql)) {
        told().cut += 1;
        return false;
    }
    loop {
        match wire.poll() {
            Polled::Message(message) => match message.tag {
                b'D' => port = Some(message.value()),
                b'E' => {
                    let text = message.field(b'M').unwrap_or_default();
                    told().errors.push((message.code(), text));
                    failed = true;
                }
                b'Z' => {
                    if let Some(port) = port.filter(|_| !failed) {
                        told().acknowledged.push((Instant::now(), key.to_owned(), port));
                    }
                    return true;
                }
                _ => {}
            },
            Polled::Nothing => {
                told().errors.push((String::new(), "no answer in time".to_owned()));
                return false;
            }
            Polled::End => {
                if !failed {
                    told().cut += 1;
                }
                return false;
            }
        }
    }
}
