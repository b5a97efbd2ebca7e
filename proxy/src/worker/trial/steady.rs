//! What traffic costs of memory: in its steady state, nothing.
//!
//! A worker with a real lane lives twice, before a server that knows every answer; the second
//! life has many more transactions. What it has allocated more is what they cost.

use crate::dialer::Dialer;
use crate::mailbox::seats::Seats;
use crate::mailbox::{Letter, Mailbox, MailboxSender};
use crate::ring::listen::Doors;
use crate::worker::trial::server;
use crate::worker::{Base, run};
use pgring_logic::action::Address;
use pgring_logic::config::{AuthMethod, Cluster, Config, Database, Node, PoolSettings, Routing};
use pgring_logic::id::Core;
use pgring_logic::lane::Lane;
use pgring_logic::mail::Mail;
use pgring_wire::backend::write as say;
use pgring_wire::client::write as ask;
use pgring_wire::frame::{LENGTH_MAX, header};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Clients that ask at the same time, on one server.
const CLIENTS: usize = 3;
/// Rounds of a life before anything is compared: everything has found its size by then.
const WARM_UP: usize = 500;
/// So many allocations in thousands of transactions are none of theirs.
const FEW: u64 = 30;

/// Answers like a `PostgreSQL` that has one row for everything.
fn serve(mut stream: TcpStream) {
    let (mut input, mut answers, mut greeted) = (Vec::new(), Vec::new(), false);
    let mut buffer = [0; 16 * 1024];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..len]);
        if !std::mem::replace(&mut greeted, true) {
            input.clear();
            say::authentication_ok(&mut answers);
            say::parameter_status(&mut answers, "in_hot_standby", "off");
            say::parameter_status(&mut answers, "server_version", "15.4");
            say::backend_key_data(&mut answers, 4711, &[1, 2, 3, 4]);
            say::ready_for_query(&mut answers, b'I');
        }
        while let Ok(Some(head)) = header(&input, LENGTH_MAX)
            && input.len() >= head.total()
        {
            answer(head.tag, &mut answers);
            input.drain(..head.total());
        }
        if stream.write_all(&answers).is_err() {
            return;
        }
        answers.clear();
    }
}

fn answer(tag: u8, out: &mut Vec<u8>) {
    let describe = |out: &mut Vec<u8>| say::row_description(out, &[say::Column::text("a")]);
    let run = |out: &mut Vec<u8>| {
        say::data_row(out, &[Some(b"1")]);
        say::command_complete(out, "SELECT 1");
    };
    match tag {
        b'Q' => {
            describe(out);
            run(out);
            say::ready_for_query(out, b'I');
        }
        b'P' => say::parse_complete(out),
        b'B' => say::bind_complete(out),
        b'C' => say::close_complete(out),
        b'D' => describe(out),
        b'E' => run(out),
        b'S' => say::ready_for_query(out, b'I'),
        _ => {}
    }
}

/// A pool of one server at this address.
fn config(node: SocketAddr) -> Config {
    let nodes = vec![Node::new("pg1", &node.to_string(), vec![Address::Tcp(node)])];
    let cluster = Arc::new(Cluster::new("main", nodes));
    let database = Database {
        name: "*".to_owned(),
        cluster: Arc::clone(&cluster),
        dbname: None,
        user: None,
        password: None,
        pool: PoolSettings { size: 1, ..PoolSettings::default() },
        routing: Routing::default(),
    };
    let mut config = Config {
        workers: 1,
        clusters: vec![cluster],
        databases: vec![Arc::new(database)],
        ..Config::default()
    };
    config.auth.method = AuthMethod::Trust;
    config
}

/// One worker with a lane.
struct Life {
    worker: std::thread::JoinHandle<u64>,
    lane: MailboxSender,
    address: SocketAddr,
}

impl Life {
    fn begin() -> Self {
        let node = server(serve);
        let config = config(node);
        let doors = Doors::open([&["127.0.0.1:0".to_owned()], &[]], None, 1).unwrap();
        let (mailbox, address) = (Mailbox::new().unwrap(), doors.addresses[0]);
        let lane = mailbox.sender();
        let (tell, control) = unbounded_channel();
        broker(control, lane.clone());
        let own = doors.tcp.into_iter().next().unwrap();
        let lanes = vec![lane.clone()];
        let worker = std::thread::spawn(move || {
            let config = Arc::new(config);
            let (core, control, unix, seats) = (Core(0), tell, None, Seats::new(1));
            let base = Base {
                core,
                config,
                mailbox,
                lanes,
                control,
                doors: own,
                unix,
                readonly: 0,
                seats,
                dialer: Dialer::default(),
            };
            let make = |core, config, before| Lane::new(core, config, [7; 32], before);
            let life = || run(base, |ready| ready.unwrap(), make).unwrap();
            allocation_counter::measure(life).count_total
        });
        Self { worker, lane, address }
    }

    /// How often its worker has allocated.
    fn end(self) -> u64 {
        self.lane.post(Letter::Stop);
        self.worker.join().unwrap()
    }
}

/// The control thread, as far as it is needed here.
fn broker(mut control: UnboundedReceiver<Mail>, lane: MailboxSender) {
    std::thread::spawn(move || {
        let mut permitted = false;
        while let Some(mail) = control.blocking_recv() {
            if let Mail::Enter { conn, database, user, .. } = mail {
                lane.send(Mail::Entered { conn, database, user, refused: None });
            } else if let Mail::Demand { pool, need: 1.., .. } = mail
                && !std::mem::replace(&mut permitted, true)
            {
                lane.send(Mail::Permit { pool, count: 1 });
            }
        }
    });
}

/// Reads up to so many `ReadyForQuery`.
fn hear(stream: &mut TcpStream, mut ready: usize) {
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    while ready > 0 {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "closed: {}", heard.escape_ascii());
        heard.extend_from_slice(&buffer[..len]);
        while let Ok(Some(head)) = header(&heard, LENGTH_MAX)
            && heard.len() >= head.total()
        {
            assert_ne!(head.tag, b'E', "{}", heard.escape_ascii());
            ready -= usize::from(head.tag == b'Z');
            heard.drain(..head.total());
        }
    }
}

/// Allocations of a life in which every client says `first` once and `again` so many times.
fn allocations(rounds: usize, first: &[u8], again: &[u8]) -> u64 {
    let life = Life::begin();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(life.address).unwrap();
            client.set_nodelay(true).unwrap();
            let mut hello = Vec::new();
            ask::startup(&mut hello, 3, 0, [("user", "app"), ("database", "app")]);
            hello.extend_from_slice(first);
            client.write_all(&hello).unwrap();
            hear(&mut client, if first.is_empty() { 1 } else { 2 });
            client
        })
        .collect();
    for _ in 0..rounds {
        for client in &mut clients {
            client.write_all(again).unwrap();
        }
        for client in &mut clients {
            hear(client, 1);
        }
    }
    drop(clients);
    life.end()
}

/// Allocations that a thousand rounds more cost.
fn cost(first: &[u8], again: &[u8]) -> u64 {
    let few = allocations(WARM_UP, first, again);
    allocations(WARM_UP + 1_000, first, again).saturating_sub(few)
}

fn said(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    fill(&mut bytes);
    bytes
}

#[test]
fn a_transaction_allocates_nothing() {
    let text = b"select a from t where id = $1\0\0\0";
    let simple = said(|out| ask::query(out, "select a from t where id = 4711"));
    let extended = said(|out| {
        for _ in 0..3 {
            ask::parse(out, b"", text).unwrap();
            ask::bind(out, b"", b"");
            ask::describe(out, b'P', b"");
            ask::execute(out, b"");
        }
        ask::sync(out);
    });
    let commit = said(|out| {
        ask::parse(out, b"", b"COMMIT\0\0\0").unwrap();
        ask::bind(out, b"", b"");
        ask::execute(out, b"");
        ask::sync(out);
    });
    let prepare = said(|out| {
        ask::parse(out, b"s", text).unwrap();
        ask::sync(out);
    });
    let prepared = said(|out| {
        ask::bind(out, b"", b"s");
        ask::execute(out, b"");
        ask::sync(out);
    });
    for (what, first, again) in [
        ("simple", &[][..], &simple),
        ("extended", &[][..], &extended),
        ("commit", &[][..], &commit),
        ("prepared", &prepare[..], &prepared),
    ] {
        // A list may still grow once in a while, when more happens in one turn than ever before,
        // and on a busy machine it does; what a transaction costs comes every time.
        let mut counts = Vec::new();
        while counts.last().is_none_or(|&count| count >= FEW) {
            assert!(counts.len() < 5, "{counts:?} allocations for 3,000 transactions, {what}");
            counts.push(cost(first, again));
        }
    }
}
