//! A worker on the thread of the test, which says when it takes its next turn.

use crate::clock;
use crate::dialer::Dialer;
use crate::mailbox::Mailbox;
use crate::mailbox::seats::Seats;
use crate::ring::Ring;
use crate::ring::buffers::BUFFER_SIZE;
use crate::worker::conn::Phase;
use crate::worker::tally::Tally;
use crate::worker::{Base, Worker, World};
use pgring_logic::action::{Action, Actions, CloseMode, Progress, Want};
use pgring_logic::config::Config;
use pgring_logic::id::{ConnId, Core, Side};
use pgring_logic::mail::{Entrance, Event, Mail, Peer};
use pgring_logic::parcel::Parcel;
use pgring_logic::time::{Duration, Instant};
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;

pub(super) const SERVER: ConnId = ConnId::new(Side::Server, 0, 1);
pub(super) const CLIENT: ConnId = ConnId::new(Side::Client, 0, 1);

/// A world that forwards what a server says to the client, and remembers what it is told.
#[derive(Default)]
pub(super) struct Record {
    pub(super) answers: Vec<u8>,
    /// What the client has asked, unless it waits.
    asked: Vec<u8>,
    waits: bool,
    /// The client is owed answers: its end alone changes nothing.
    owes: bool,
    fails: usize,
    ends: Vec<ConnId>,
    closed: Vec<ConnId>,
}

impl World for Record {
    fn accept(&mut self, _now: Instant, _peer: Peer, _entrance: Entrance) -> ConnId {
        panic!("nobody comes")
    }

    fn adopt(&mut self, _now: Instant, _parcel: Parcel, _actions: &mut Actions<Mail>) -> ConnId {
        panic!("nobody comes")
    }

    fn receive(
        &mut self,
        _now: Instant,
        conn: ConnId,
        bytes: &[u8],
        actions: &mut Actions<Mail>,
    ) -> Progress {
        assert!(!self.ends.contains(&conn), "shown after its end");
        if conn == SERVER {
            self.answers.extend_from_slice(bytes);
            actions.forward(SERVER, CLIENT, 0, bytes.len());
        } else if self.waits {
            return Progress { consumed: 0, want: Want::Resume };
        } else {
            self.asked.extend_from_slice(bytes);
        }
        Progress { consumed: bytes.len(), want: Want::More }
    }

    fn hears_out(&self, _conn: ConnId, held: &[u8]) -> bool {
        held.ends_with(b"goodbye")
    }

    fn handle(&mut self, _now: Instant, event: Event, actions: &mut Actions<Mail>) {
        match event {
            Event::Ended { conn } if self.owes && conn == CLIENT => self.ends.push(conn),
            Event::Failed { conn, .. } if self.owes && conn == CLIENT => self.fails += 1,
            Event::Ended { conn } | Event::Failed { conn, .. } => {
                self.ends.push(conn);
                actions.push(Action::Close { conn, mode: CloseMode::Now });
            }
            Event::Closed { conn } => self.closed.push(conn),
            Event::Connected { .. } | Event::Stalled { .. } | Event::Mail(_) | Event::Timeout => {
                panic!("{event:?}")
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// Lets a worker with an open client and an open server be looked at, with their peers.
pub(super) fn with_worker(look: impl FnOnce(&mut Worker<'_, Record>, (Socket, Socket))) {
    let (core, mailbox) = (Core(0), Mailbox::new().unwrap());
    let (control, _heard) = unbounded_channel();
    let config = Arc::new(Config::default());
    let (lanes, doors, unix, seats) = (Vec::new(), Vec::new(), None, Seats::new(1));
    let mut base = Base {
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
    let (ring, mut tally) = (Ring::new(64).unwrap(), Tally::new(core));
    let mut worker = Worker::new(ring, Record::default(), &mut base, &mut tally);
    let [client, server] = [CLIENT, SERVER].map(|id| {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        ours.set_nonblocking(true).unwrap();
        ours.set_send_buffer_size(8 * 1024).unwrap();
        worker.table.open(id, Some(ours.into()), (Phase::Open, clock::now()));
        theirs
    });
    look(&mut worker, (client, server));
}

/// Both ends of a connection over TCP.
pub(super) fn over_tcp() -> (Socket, Socket) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let ours = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    ours.connect(&listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

impl Worker<'_, Record> {
    /// One turn.
    pub(super) fn step(&mut self) {
        self.settle();
        self.flush();
        let mut completions = Vec::new();
        self.ring.turn(Some(Duration::from_millis(10)), &mut completions).unwrap();
        self.now = clock::now();
        for completion in completions {
            self.complete(completion);
            self.settle();
        }
        self.feed_the_starved();
        self.settle();
    }

    pub(super) fn steps(&mut self) {
        for _ in 0..10 {
            self.step();
        }
    }

    /// Queues something for the server, which has said its last and closed: that fails.
    fn ask_the_dead(&mut self, mut server: Socket) {
        server.write_all(b"rows, FATAL").unwrap();
        drop(server);
        self.table.busy(SERVER).unwrap().outbox.append(b"Terminate", &mut self.spare);
        self.mark_dirty(SERVER);
    }

    /// The client takes too little: the server is paused.
    pub(super) fn pause(&mut self) {
        self.table.get(SERVER).unwrap().paused_by = Some(CLIENT);
        self.table.busy(CLIENT).unwrap().holds.push(SERVER);
        self.arm(SERVER);
    }

    /// All its words were heard, and then its end, once.
    pub(super) fn assert_heard_out(&mut self) {
        assert_eq!(self.world.answers.escape_ascii().to_string(), "rows, FATAL");
        assert_eq!((&self.world.ends[..], &self.world.closed[..]), (&[SERVER][..], &[SERVER][..]));
        assert!(self.table.get(SERVER).is_none());
    }
}

#[test]
fn the_last_words_of_a_server_are_heard_though_it_cannot_be_sent_to() {
    with_worker(|worker, (_client, server)| {
        worker.arm(SERVER);
        worker.step();
        worker.ask_the_dead(server);
        worker.steps();
        worker.assert_heard_out();
    });
}

#[test]
fn the_last_words_of_a_paused_server_are_heard_when_it_may_go_on() {
    with_worker(|worker, (_client, server)| {
        worker.pause();
        worker.ask_the_dead(server);
        worker.steps();
        assert!(worker.table.get(SERVER).unwrap().broken != 0, "it cannot be sent to");
        assert!(worker.world.ends.is_empty(), "told of its end before its last words");
        worker.let_go_on(CLIENT);
        worker.steps();
        worker.assert_heard_out();
    });
}

#[test]
fn the_last_words_of_a_server_are_heard_when_the_client_it_waits_for_closes() {
    with_worker(|worker, (client, server)| {
        worker.arm(CLIENT);
        worker.pause();
        worker.ask_the_dead(server);
        worker.steps();
        drop(client);
        worker.steps();
        assert_eq!(worker.world.answers.escape_ascii().to_string(), "rows, FATAL");
        assert_eq!(worker.world.ends, [CLIENT, SERVER]);
    });
}

#[test]
fn the_last_words_of_a_server_are_heard_when_its_receive_was_being_cancelled() {
    with_worker(|worker, (_client, server)| {
        worker.arm(SERVER);
        worker.step();
        worker.pause();
        worker.ask_the_dead(server);
        worker.steps();
        assert!(worker.world.ends.is_empty(), "told of its end before its last words");
        worker.unpair(SERVER);
        worker.steps();
        worker.assert_heard_out();
    });
}

#[test]
fn the_last_words_of_a_server_are_heard_when_there_is_a_buffer_for_them() {
    with_worker(|worker, (_client, server)| {
        worker.table.get(SERVER).unwrap().starved = true;
        worker.ask_the_dead(server);
        worker.flush();
        worker.step();
        worker.starved.push_back(SERVER);
        worker.steps();
        worker.assert_heard_out();
    });
}

#[test]
fn the_last_words_of_a_server_are_heard_behind_a_reset() {
    with_worker(|worker, (_client, old)| {
        let (ours, server) = over_tcp();
        worker.table.get(SERVER).unwrap().fd = Some(ours.into());
        worker.pause();
        // The first that is sent brings the reset, the second fails by it.
        worker.ask_the_dead(server);
        worker.steps();
        worker.table.busy(SERVER).unwrap().outbox.append(b"!", &mut worker.spare);
        worker.mark_dirty(SERVER);
        worker.steps();
        let broken = worker.table.get(SERVER).unwrap().broken;
        assert!(matches!(broken, libc::EPIPE | libc::ECONNRESET), "{broken}");
        worker.let_go_on(CLIENT);
        worker.steps();
        worker.assert_heard_out();
        drop(old);
    });
}

#[test]
fn who_is_not_to_be_shown_anything_is_known_to_be_gone_at_once() {
    with_worker(|worker, (_client, server)| {
        let conn = worker.table.get(SERVER).unwrap();
        (conn.waiting, conn.full) = (true, true);
        worker.ask_the_dead(server);
        worker.steps();
        assert_eq!(worker.world.ends, [SERVER]);
    });
}

#[test]
fn what_waits_is_shown_before_the_end_if_the_lane_wants_to_see_it() {
    for (said, wanted) in [("query, goodbye", true), ("query", false)] {
        with_worker(|worker, (mut client, _server)| {
            worker.world.waits = true;
            worker.arm(CLIENT);
            for part in said.split_inclusive(' ') {
                client.write_all(part.as_bytes()).unwrap();
                worker.steps();
            }
            client.shutdown(std::net::Shutdown::Write).unwrap();
            worker.steps();
            assert_eq!(worker.world.ends.is_empty(), wanted, "{said}");
            worker.world.waits = false;
            worker.actions.push(Action::Resume(CLIENT));
            worker.perform(None);
            worker.steps();
            let asked = if wanted { said } else { "" };
            assert_eq!(worker.world.asked, asked.as_bytes());
            assert_eq!(worker.world.ends, [CLIENT]);
        });
    }
}

#[test]
fn a_server_that_does_not_close_ends_when_it_cannot_be_sent_to() {
    with_worker(|worker, (_client, server)| {
        worker.pause();
        server.shutdown(std::net::Shutdown::Read).unwrap();
        worker.table.busy(SERVER).unwrap().outbox.append(b"Terminate", &mut worker.spare);
        worker.mark_dirty(SERVER);
        worker.steps();
        worker.let_go_on(CLIENT);
        worker.steps();
        assert_eq!(worker.world.ends, [SERVER]);
        drop(server);
    });
}

/// Sends of a long answer that are over when its reader leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cut {
    /// None: the hasty one fails as a whole.
    Before,
    /// The hasty one, which took a part; the next, which waits, fails when it is submitted.
    Between,
    /// The hasty one; the next fails while it waits.
    Waiting,
    /// The same, but the lane closes the connection.
    Closed,
}

/// Cuts a long answer short; `armed`: the client is being received from.
fn cut_short(cut: Cut, armed: bool) {
    with_worker(|worker, (client, mut server)| {
        let free = worker.ring.buffers.free();
        if armed {
            worker.arm(CLIENT);
        }
        worker.arm(SERVER);
        worker.step();
        server.write_all(&vec![7; 8 * BUFFER_SIZE]).unwrap();
        while !worker.table.get(CLIENT).unwrap().has_unsent() {
            worker.step();
        }
        let steps = match cut {
            Cut::Before => 0,
            Cut::Between => 1,
            Cut::Waiting | Cut::Closed => 2,
        };
        for _ in 0..steps {
            worker.step();
        }
        let outbox = &worker.table.busy(CLIENT).unwrap().outbox;
        assert!(outbox.leases() > 0, "{cut:?}: buffers wait to be sent");
        assert_eq!(outbox.is_light(), cut == Cut::Before, "{cut:?}: a part was sent");
        assert_eq!(outbox.in_flight(), steps == 2, "{cut:?}");
        let (reader, ends) = if cut == Cut::Closed {
            worker.close(CLIENT, CloseMode::Now);
            (Some(client), &[][..])
        } else {
            // It has not read what came: that is a reset.
            drop(client);
            (None, &[CLIENT][..])
        };
        worker.steps();
        drop(reader);
        assert_eq!((&worker.world.ends[..], &worker.world.closed[..]), (ends, &[CLIENT][..]));
        assert!(worker.table.get(CLIENT).is_none());
        assert_eq!(worker.ring.buffers.free(), free, "{cut:?}: buffers are left behind");
    });
}

#[test]
fn a_reset_in_the_middle_of_a_hasty_send_leaves_no_buffer_behind_and_ends_the_client_once() {
    for cut in [Cut::Before, Cut::Between, Cut::Waiting, Cut::Closed] {
        cut_short(cut, false);
        cut_short(cut, true);
    }
}

/// A client behind a socket of its own, which says this and closes that. The other end is kept.
fn says_and_closes(worker: &mut Worker<'_, Record>, said: &[u8]) {
    let (ours, mut client) = over_tcp();
    worker.table.get(CLIENT).unwrap().fd = Some(ours.into());
    worker.world.owes = true;
    worker.arm(CLIENT);
    client.write_all(said).unwrap();
    worker.steps();
    drop(client);
    worker.steps();
}

/// It may listen behind its end; when it does not, what runs for it is not to run on for ever.
#[test]
fn who_is_gone_behind_its_end_is_known_to_be_gone() {
    with_worker(|worker, (_client, mut server)| {
        worker.arm(SERVER);
        says_and_closes(worker, b"query, goodbye");
        assert_eq!((worker.world.ends.as_slice(), worker.world.fails), (&[CLIENT][..], 0));
        for _ in 0..5 {
            server.write_all(b"row").unwrap();
            worker.steps();
        }
        assert_eq!(worker.world.fails, 1);
    });
}

#[test]
fn who_waits_in_front_of_its_end_and_is_gone_is_known_to_be_gone() {
    with_worker(|worker, _| {
        worker.world.waits = true;
        says_and_closes(worker, b"query, goodbye");
        assert!(worker.world.ends.is_empty(), "it is heard out");
        for _ in 0..3 {
            worker.table.busy(CLIENT).unwrap().outbox.append(b"refused", &mut worker.spare);
            worker.mark_dirty(CLIENT);
            worker.steps();
        }
        assert_eq!((worker.world.ends.len(), worker.world.fails), (0, 1));
    });
}
