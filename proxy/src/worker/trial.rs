//! Workers on trial: real sockets, real rings, and a world of a few lines in place of the lane.
#![expect(clippy::disallowed_types, reason = "the other end of a socket under test")]
#![expect(clippy::disallowed_methods, reason = "the other end has a pace and threads of its own")]

mod gather;
mod relay;
mod steady;
mod step;

use crate::dialer::Dialer;
use crate::mailbox::seats::Seats;
use crate::mailbox::{Letter, Mailbox, MailboxSender};
use crate::ring::listen::Doors;
use crate::worker::trial::relay::{Relay, Seen};
use crate::worker::{Base, run};
use pgring_logic::config::Config;
use pgring_logic::id::Core;
use pgring_logic::mail::{Mail, Order};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Workers that relay each client to a server of its own at one address.
struct Trial {
    workers: Vec<JoinHandle<()>>,
    lanes: Vec<MailboxSender>,
    address: SocketAddr,
    control: UnboundedReceiver<Mail>,
    seen: Arc<Seen>,
}

impl Trial {
    fn start(workers: usize, server: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.limits.buffers = 8;
        config.limits.clients_max = 1000;
        change(&mut config);
        let config = Arc::new(config);
        let doors = Doors::open([&["127.0.0.1:0".to_owned()], &[]], None, workers).unwrap();
        let mailboxes: Vec<_> = (0..workers).map(|_| Mailbox::new().unwrap()).collect();
        let lanes: Vec<_> = mailboxes.iter().map(Mailbox::sender).collect();
        let (tell, control) = unbounded_channel();
        let (seats, seen) = (Seats::new(workers), Arc::new(Seen::default()));
        let mut threads = Vec::new();
        for ((core, mailbox), own) in (0..).zip(mailboxes).zip(doors.tcp) {
            let (config, lanes, seats) = (Arc::clone(&config), lanes.clone(), Arc::clone(&seats));
            let (control, seen) = (tell.clone(), Arc::clone(&seen));
            let core = Core(core);
            threads.push(std::thread::spawn(move || {
                let (doors, unix) = (own, None);
                let base = Base {
                    core,
                    config,
                    mailbox,
                    lanes,
                    control,
                    doors,
                    unix,
                    readonly: 0,
                    seats,
                    dialer: Dialer::default(),
                };
                let make = |core, _, before| Relay::new((core, before), server, Arc::clone(&seen));
                run(base, |ready| ready.unwrap(), make).unwrap();
            }));
        }
        Self { workers: threads, lanes, address: doors.addresses[0], control, seen }
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client
    }

    /// Waits until what was seen is so.
    fn until(&self, what: &str, so: impl Fn(&Seen) -> bool) {
        for _ in 0..3000 {
            if so(&self.seen) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("not within 15 seconds: {what}; {:?}", self.seen);
    }

    /// Stops the workers, once every connection is closed.
    fn end(self) {
        self.until("all closed", |seen| {
            seen.opened.load(Ordering::SeqCst) == seen.closed.load(Ordering::SeqCst)
        });
        for lane in &self.lanes {
            lane.post(Letter::Stop);
        }
        for worker in self.workers {
            worker.join().unwrap();
        }
    }
}

/// A server that does `serve` for each of its connections.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(connection.unwrap()));
        }
    });
    address
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 100_000];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Bytes that tell where they are.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            eight.copy_from_slice(&(self.0 ^ self.0 >> 29).to_le_bytes());
        }
    }
}

/// Sends `total` bytes through and checks every one that comes back; `pace` after each read.
fn there_and_back(client: &TcpStream, total: usize, pace: impl Fn(usize)) {
    const PIECE: usize = 48 * 1024;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut noise, mut piece) = (Noise(7), vec![0; PIECE]);
            let mut to = client;
            for _ in 0..total / PIECE {
                noise.fill(&mut piece);
                to.write_all(&piece).unwrap();
            }
        });
        let (mut noise, mut piece, mut read) = (Noise(7), vec![0; PIECE], vec![0; PIECE]);
        let mut from = client;
        for round in 0..total / PIECE {
            noise.fill(&mut piece);
            from.read_exact(&mut read).unwrap();
            assert!(read == piece, "the bytes of piece {round} are others");
            pace(round);
        }
    });
}

#[test]
fn a_hundred_megabytes_go_through_eight_buffers_unchanged() {
    let trial = Trial::start(1, server(echo), |_| ());
    let slow = trial.client();
    let fast = trial.client();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            there_and_back(&slow, 8 << 20, |round| {
                if round % 8 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        });
        scope.spawn(|| there_and_back(&fast, 100 << 20, |_| ()));
    });
    drop((slow, fast));
    trial.end();
}

/// Bytes on their way to this client that the kernel has.
fn in_kernel(client: &TcpStream) -> usize {
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let (ours, theirs) = (hex(client.local_addr().unwrap()), hex(client.peer_addr().unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    let queues = |from: &str, to: &str| {
        let line = lines.iter().find(|line| line[1] == from && line[2] == to).unwrap();
        let (sent, received) = line[4].split_once(':').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(sent), number(received))
    };
    queues(&theirs, &ours).0 + queues(&ours, &theirs).1
}

#[test]
fn who_never_reads_has_a_bounded_queue_and_is_said_to_stall() {
    let flood = |mut stream: TcpStream| while stream.write_all(&[1; 8192]).is_ok() {};
    let trial = Trial::start(1, server(flood), |config| config.limits.buffers = 256);
    let mut client = trial.client();
    client.write_all(b"go").unwrap();
    trial.until("stalled", |seen| seen.stalled.load(Ordering::SeqCst) == 1);
    let answered = trial.seen.answered.load(Ordering::SeqCst);
    let queued = answered - in_kernel(&client);
    assert!(queued <= 256 * 1024, "{queued} of {answered} bytes are queued");
    // The world leaves it open, and it begins to read: nothing is lost, it was only late.
    let mut read = vec![0; 1 << 20];
    client.read_exact(&mut read).unwrap();
    assert!(read.iter().all(|&byte| byte == 1));
    client.shutdown(Shutdown::Both).unwrap();
    drop(client);
    trial.end();
}

#[test]
fn slots_are_used_again_after_cuts_at_any_time() {
    let trial = Trial::start(2, server(echo), |_| ());
    let (mut noise, mut bytes) = (Noise(3), [0; 8]);
    let mut open = Vec::new();
    for round in 0..600 {
        let mut client = trial.client();
        noise.fill(&mut bytes);
        let len = usize::from(bytes[0]) * usize::from(bytes[1]);
        // The other end may have gone already.
        let _cut = client.write_all(&vec![bytes[2]; len]);
        if bytes[3] & 1 == 0 {
            let _cut = client.shutdown(Shutdown::Write);
        }
        if bytes[3] & 3 == 1 {
            let mut read = vec![0; len / 2];
            client.read_exact(&mut read).unwrap();
            assert!(read.iter().all(|&byte| byte == bytes[2]), "foreign bytes in round {round}");
        }
        if bytes[3] & 4 == 0 {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        if bytes[3] & 8 == 0 {
            open.push(client);
        }
        if open.len() > 20 {
            open.clear();
        }
    }
    drop(open);
    let highest = trial.seen.highest.load(Ordering::SeqCst);
    assert!(highest < 200, "{highest} slots for some twenty clients at once");
    trial.end();
}

#[test]
fn a_server_changes_cores_between_two_answers_and_loses_nothing() {
    let trial = Trial::start(2, server(echo), |_| ());
    let mut clients: Vec<_> = (0..4).map(|_| trial.client()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        // The world then gives the server of this client to the other core...
        client.write_all(b"!move").unwrap();
    }
    trial.until("adopted", |seen| seen.adopted.load(Ordering::SeqCst) == 4);
    // ...which sends "adopted" through it, and counts what it echoes.
    trial.until("heard", |seen| seen.heard.load(Ordering::SeqCst) == 4 * 7);
    drop(clients);
    trial.until("clients closed", |seen| {
        let open = seen.opened.load(Ordering::SeqCst) - seen.closed.load(Ordering::SeqCst);
        open == 4
    });
    for lane in &trial.lanes {
        lane.send(Mail::Ask(0));
    }
    trial.end();
}

#[test]
fn a_server_that_speaks_while_it_is_given_away_is_closed_and_its_permit_returned() {
    let mut trial = Trial::start(2, server(echo), |_| ());
    let mut client = trial.client();
    // The world gives the server away when this comes back, and leaves it unread.
    client.write_all(b"!chat").unwrap();
    let returned = trial.control.blocking_recv();
    assert!(
        matches!(returned, Some(Mail::Returned { count: 1, core: Core(_), .. })),
        "{returned:?}"
    );
    assert_eq!(trial.seen.adopted.load(Ordering::SeqCst), 0);
    drop(client);
    trial.end();
}

/// With what it has said by then, and what it goes on saying.
#[test]
fn a_client_goes_to_another_core_before_it_is_let_in_and_loses_nothing() {
    const TOLD: &[u8] = b"sent to the other core ";
    let trial = Trial::start(2, server(echo), |_| ());
    for round in 0..40 {
        let mut client = trial.client();
        let mut more = vec![0; 8 * round * round];
        Noise(round as u64).fill(&mut more);
        let mut said = b"!seat, and more.".to_vec();
        client.write_all(&said).unwrap();
        client.write_all(&more).unwrap();
        said.extend(more);
        let mut heard = vec![0; TOLD.len() + said.len()];
        client.read_exact(&mut heard).unwrap();
        assert!(heard.starts_with(TOLD), "{}", heard.escape_ascii());
        assert!(heard[TOLD.len()..] == said, "round {round}: other bytes");
    }
    // Whoever leaves on the way is gone.
    for _ in 0..20 {
        let mut client = trial.client();
        client.write_all(b"!seat").unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
    trial.end();
}

#[test]
fn what_waits_is_shown_after_resume_and_all_of_it() {
    let trial = Trial::start(1, server(echo), |config| config.limits.buffers = 64);
    let mut client = trial.client();
    let mut expected = b"!waiting".to_vec();
    let mut more = vec![0; 512 * 1024];
    Noise(5).fill(&mut more);
    expected.extend_from_slice(&more);
    std::thread::scope(|scope| {
        let mut to = &client;
        scope.spawn(move || {
            to.write_all(b"!waiting").unwrap();
            to.write_all(&more).unwrap();
        });
        trial.until("waiting", |seen| seen.waiting.load(Ordering::SeqCst) == 1);
        std::thread::sleep(Duration::from_millis(100));
        trial.lanes[0].send(Mail::Ask(1));
        let mut read = vec![0; expected.len()];
        let mut from = &client;
        from.read_exact(&mut read).unwrap();
        assert!(read == expected, "held bytes are others");
    });
    client.flush().unwrap();
    drop(client);
    trial.end();
}

#[test]
fn the_last_words_reach_a_client_that_is_still_talking() {
    let trial = Trial::start(1, server(echo), |config| config.limits.clients_max = 0);
    for _ in 0..20 {
        let mut client = trial.client();
        client.write_all(&vec![b'q'; 20_000]).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "full");
    }
    trial.end();
}

#[test]
fn a_lane_that_cannot_begin_is_tried_again() {
    let trial = Trial::start(1, server(echo), |_| ());
    trial.seen.stillborn.store(3, Ordering::SeqCst);
    let mut client = trial.client();
    client.write_all(b"!fall").unwrap();
    assert_eq!(client.read(&mut [0; 9]).unwrap_or(0), 0, "its clients are dropped");
    let mut next = trial.client();
    next.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    next.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, trial.seen.stillborn.load(Ordering::SeqCst)), (b"hello", 0));
    trial.seen.opened.store(2, Ordering::SeqCst);
    drop(next);
    trial.end();
}

#[test]
fn the_process_may_end_while_a_lane_cannot_begin() {
    let trial = Trial::start(1, server(echo), |_| ());
    trial.seen.stillborn.store(u32::MAX, Ordering::SeqCst);
    let mut client = trial.client();
    client.write_all(b"!fall").unwrap();
    trial.until("tried", |seen| seen.stillborn.load(Ordering::SeqCst) < u32::MAX - 1);
    trial.lanes[0].post(Letter::Stop);
    for worker in trial.workers {
        worker.join().unwrap();
    }
}

#[test]
fn a_lane_that_falls_over_starts_anew() {
    let before = crate::worker::falls();
    let trial = Trial::start(1, server(echo), |_| ());
    trial.lanes[0].send(Mail::Order { number: 1, order: Order::Pause(None) });
    trial.until("ordered", |seen| seen.ordered.load(Ordering::SeqCst) == 1);
    let mut client = trial.client();
    client.write_all(b"!fall").unwrap();
    assert_eq!(client.read(&mut [0; 9]).unwrap_or(0), 0, "its clients are dropped");
    let newest = trial.seen.newest.load(Ordering::SeqCst);
    let mut next = trial.client();
    next.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    next.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, crate::worker::falls()), (b"hello", before + 1));
    assert_eq!(trial.seen.ordered.load(Ordering::SeqCst), 2, "it has heard its orders again");
    let newer = trial.seen.newest.load(Ordering::SeqCst);
    assert!(newer > newest, "letters for the earlier life would fit: {newer} after {newest}");
    trial.seen.opened.store(0, Ordering::SeqCst);
    trial.seen.closed.store(0, Ordering::SeqCst);
    drop(next);
    trial.lanes[0].post(Letter::Stop);
    for worker in trial.workers {
        worker.join().unwrap();
    }
}
