//! A lane with clients that are logged in and one server that answers at once; no driver between.
//!
//! The server is driven by hand: at login and in the first exchange of each kind it reads what it
//! is sent, afterwards it only repeats itself, so that what is measured is the lane.

use pgring_logic::action::{Action, Actions, Address, Progress, Want};
use pgring_logic::catalog::rows::{Operator, Relation, Rows};
use pgring_logic::catalog::{Catalog, Lists};
use pgring_logic::config::{
    AuthMethod, Cluster, Config, Database, Node, PoolSettings, Reads, Routing,
};
use pgring_logic::id::{ConnId, Core, PoolKey, Side};
use pgring_logic::lane::Lane;
use pgring_logic::mail::{Entrance, Event, Mail, Peer};
use pgring_logic::time::{Duration, Instant};
use pgring_logic::topology::horizon::Horizon;
use pgring_logic::topology::{Role, Standing, Topology};
use pgring_wire::backend::write as say;
use pgring_wire::client::write as ask;
use pgring_wire::frame::{self, LENGTH_MAX};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

const EVERYTHING: &str = "every shown byte is forwarded or answered";

/// The lane, its clients, and what its server says.
#[derive(Debug)]
pub struct Stage {
    lane: Lane,
    actions: Actions<Mail>,
    now: Instant,
    clients: Vec<ConnId>,
    /// Whose turn it is.
    turn: usize,
    query: Vec<u8>,
    query_answer: Vec<u8>,
    execute: Vec<u8>,
    execute_answer: Vec<u8>,
    pipeline: Vec<u8>,
    pipeline_answer: Vec<u8>,
    /// Who has the server (the client inside a transaction, or first of the queue), and which.
    holder: Option<(ConnId, ConnId)>,
    /// Pools whose one server was permitted.
    granted: Vec<PoolKey>,
}

impl Stage {
    /// A lane with `count` clients.
    pub fn open(count: usize) -> Self {
        Self::before(count, config(Reads::Primary))
    }

    /// The same beside a standby, where reads go.
    pub fn routed(count: usize) -> Self {
        let mut stage = Self::before(count, config(Reads::Replicas));
        let equal = Operator { schema: "pg_catalog".into(), name: "=".into(), volatile: false };
        let accounts = Relation {
            schema: "public".into(),
            name: "pgbench_accounts".into(),
            bound: false,
            texts: Vec::new(),
            view: None,
        };
        let rows = Rows {
            read_committed: true,
            operators: vec![equal],
            relations: vec![accounts],
            ..Rows::default()
        };
        let catalog = Some(Arc::new(Catalog::new(1, &rows, &Lists::default())));
        stage.happens(Mail::Catalog { database: Arc::from("shop"), catalog });
        let mut topology = Topology::default();
        let nodes = topology.clusters.entry(Arc::from("main")).or_default();
        for (name, role) in [("pg1", Role::Primary), ("pg2", Role::Standby)] {
            nodes.insert(Arc::from(name), Standing { role, weight: 100, ..Standing::default() });
        }
        stage.happens(Mail::Topology(Arc::new(topology)));
        let query = stage.query.clone();
        stage.exchange(stage.clients[0], &query);
        assert_eq!(stage.granted.len(), 2, "a read goes to the standby");
        stage
    }

    fn happens(&mut self, mail: Mail) {
        self.lane.handle(self.now, Event::Mail(mail), &mut self.actions);
        self.settle(&[]);
    }

    fn before(count: usize, config: Config) -> Self {
        let (mut query, mut execute) = (Vec::new(), Vec::new());
        ask::query(&mut query, "select abalance from pgbench_accounts where aid = 4711");
        ask::bind(&mut execute, b"", b"S_1");
        ask::execute(&mut execute, b"");
        ask::sync(&mut execute);
        let mut stage = Self {
            lane: Lane::new(Core(0), Arc::new(config), [7; 32], 0),
            actions: Actions::default(),
            now: Instant::START,
            clients: Vec::new(),
            turn: 0,
            query_answer: answer(&query),
            execute_answer: answer(&execute),
            pipeline: Vec::new(),
            pipeline_answer: Vec::new(),
            query,
            execute,
            holder: None,
            granted: Vec::new(),
        };
        for _ in 0..count {
            stage.enter();
        }
        let query = stage.query.clone();
        stage.exchange(stage.clients[0], &query);
        stage
    }

    /// The next client sends a simple query and is answered.
    pub fn simple_query(&mut self) {
        let id = self.next();
        let (query, answer) = (core::mem::take(&mut self.query), &self.query_answer);
        round(&mut self.lane, self.now, &mut self.actions, (id, &query, answer));
        self.query = query;
    }

    /// Every client prepares the same statement, `S_1`.
    pub fn prepare(&mut self) {
        let mut parse = Vec::new();
        let text = b"select abalance from pgbench_accounts where aid = 4711\0\0\0";
        ask::parse(&mut parse, b"S_1", text).expect("a short message");
        ask::sync(&mut parse);
        for index in 0..self.clients.len() {
            self.exchange(self.clients[index], &parse);
        }
        let execute = self.execute.clone();
        self.exchange(self.clients[0], &execute);
    }

    /// The next client executes what it prepared, and is answered.
    pub fn execute_prepared(&mut self) {
        let id = self.next();
        let (execute, answer) = (core::mem::take(&mut self.execute), &self.execute_answer);
        round(&mut self.lane, self.now, &mut self.actions, (id, &execute, answer));
        self.execute = execute;
    }

    /// From now on clients ask by pipelines of so many statements without names, each parsed,
    /// bound, described and executed.
    pub fn fill_pipeline(&mut self, statements: usize) {
        let mut pipeline = Vec::new();
        let text = b"select abalance from pgbench_accounts where aid = $1\0\0\0";
        for _ in 0..statements {
            ask::parse(&mut pipeline, b"", text).expect("a short message");
            ask::bind(&mut pipeline, b"", b"");
            ask::describe(&mut pipeline, b'P', b"");
            ask::execute(&mut pipeline, b"");
        }
        ask::sync(&mut pipeline);
        self.pipeline_answer = answer(&pipeline);
        self.pipeline = pipeline;
    }

    /// The next client sends its pipeline and is answered.
    pub fn run_pipeline(&mut self) {
        let id = self.next();
        let (pipeline, answer) = (core::mem::take(&mut self.pipeline), &self.pipeline_answer);
        round(&mut self.lane, self.now, &mut self.actions, (id, &pipeline, answer));
        self.pipeline = pipeline;
    }

    /// A client opens a transaction, and with it keeps the server.
    pub fn begin(&mut self) {
        let id = self.next();
        let mut begin = Vec::new();
        ask::query(&mut begin, "begin");
        round(&mut self.lane, self.now, &mut self.actions, (id, &begin, &opened()));
        // From now on every answer says that the transaction is open.
        *self.query_answer.last_mut().expect("an answer ends with a status") = b'T';
        self.holder = Some((id, id));
    }

    /// The client with the transaction asks once more and is answered: two events, no grant.
    pub fn query_inside(&mut self) {
        self.pass_time();
        let (id, _) = self.holder.expect("somebody has begun");
        let (query, answer) = (core::mem::take(&mut self.query), &self.query_answer);
        round(&mut self.lane, self.now, &mut self.actions, (id, &query, answer));
        self.query = query;
    }

    /// Every client asks: one has the server, the others queue for it.
    pub fn crowd(&mut self) {
        for index in 0..self.clients.len() {
            let id = self.clients[index];
            self.actions.clear();
            let progress = self.lane.receive(self.now, id, &self.query, &mut self.actions);
            if progress.consumed > 0 {
                assert!(self.holder.is_none(), "there is one server");
                self.holder = Some((id, target(&self.actions, Side::Server)));
            }
        }
        self.actions.clear();
    }

    /// The answer comes, the server is granted to who has waited longest and is asked again; who
    /// was answered joins the queue.
    pub fn queued_query(&mut self) {
        self.pass_time();
        let (answered, server) = self.holder.expect("there is a crowd");
        self.actions.clear();
        let Self { lane, actions, now, query, query_answer, .. } = self;
        let progress = lane.receive(*now, server, query_answer, actions);
        assert_eq!(progress.consumed, query_answer.len(), "{EVERYTHING}");
        let granted = actions.list.iter().find_map(|action| match action {
            Action::Resume(id) => Some(*id),
            Action::Forward { .. }
            | Action::Write { .. }
            | Action::Unpair(_)
            | Action::Connect { .. }
            | Action::Close { .. }
            | Action::Surrender { .. }
            | Action::Post { .. }
            | Action::Tell(_)
            | Action::Note { .. } => None,
        });
        let granted = granted.expect("somebody waits, and is granted the server");
        actions.clear();
        let progress = lane.receive(*now, granted, query, actions);
        assert_eq!(progress.consumed, query.len(), "{EVERYTHING}");
        actions.clear();
        let progress = lane.receive(*now, answered, query, actions);
        assert_eq!(progress, Progress { consumed: 0, want: Want::Resume });
        actions.clear();
        self.holder = Some((granted, server));
    }

    /// A client in an order that no cache can guess; time goes on.
    fn next(&mut self) -> ConnId {
        self.turn = (self.turn + 7_919) % self.clients.len();
        self.pass_time();
        self.clients[self.turn]
    }

    fn pass_time(&mut self) {
        self.now = self.now + Duration::from_micros(20);
        if self.lane.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.lane.handle(self.now, Event::Timeout, &mut self.actions);
            self.settle(&[]);
        }
    }

    fn enter(&mut self) {
        let peer = Peer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);
        let id = self.lane.accept(self.now, peer, Entrance::default());
        let mut startup = Vec::new();
        ask::startup(&mut startup, 3, 0, [("user", "app"), ("database", "shop")]);
        self.exchange(id, &startup);
        self.clients.push(id);
    }

    /// Shows the lane `bytes` of a client and plays the server until nothing is left to do.
    fn exchange(&mut self, id: ConnId, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let progress = self.lane.receive(self.now, id, &bytes[at..], &mut self.actions);
            let shown = &bytes[at..];
            at += progress.consumed;
            let resumed = self.settle(shown);
            assert!(progress.consumed > 0 || resumed, "a lane that waits is woken");
        }
    }

    /// Does what the lane asks for, and what that leads to. Tells whether a client was woken.
    fn settle(&mut self, shown: &[u8]) -> bool {
        let mut resumed = false;
        let mut shown = shown.to_vec();
        while !self.actions.list.is_empty() {
            let scratch = core::mem::take(&mut self.actions.scratch);
            let (mut server, mut told, mut sent) = (None, Vec::new(), Vec::new());
            for action in self.actions.list.drain(..) {
                match action {
                    Action::Forward { to, start, len, .. } if to.side() == Side::Server => {
                        server = Some(to);
                        sent.extend_from_slice(&shown[start..start + len]);
                    }
                    Action::Write { to, start, len } if to.side() == Side::Server => {
                        server = Some(to);
                        sent.extend_from_slice(&scratch[start..start + len]);
                    }
                    Action::Connect { conn, .. } => told.push(Event::Connected { conn }),
                    Action::Tell(mail) => told.extend(broker(*mail, &mut self.granted)),
                    Action::Resume(_) => resumed = true,
                    Action::Close { conn, .. } => panic!("the lane closes {conn:?}"),
                    Action::Note { text, .. } => panic!("the lane notes: {text}"),
                    Action::Forward { .. }
                    | Action::Write { .. }
                    | Action::Unpair(_)
                    | Action::Surrender { .. }
                    | Action::Post { .. } => {}
                }
            }
            for event in told {
                self.lane.handle(self.now, event, &mut self.actions);
            }
            if let Some(id) = server {
                // A startup packet has no tag: it begins with its length.
                shown = match sent.first() {
                    Some(0) => welcome(self.granted.last().is_some_and(|it| it.node.is_some())),
                    Some(_) | None => answer(&sent),
                };
                let progress = self.lane.receive(self.now, id, &shown, &mut self.actions);
                assert_eq!(progress.consumed, shown.len(), "{EVERYTHING}");
            }
        }
        resumed
    }
}

/// One exchange: (client, what it says, what the server answers).
fn round(
    lane: &mut Lane,
    now: Instant,
    actions: &mut Actions<Mail>,
    (client, question, answer): (ConnId, &[u8], &[u8]),
) {
    for (from, bytes) in [(Some(client), question), (None, answer)] {
        let from = from.unwrap_or_else(|| target(actions, Side::Server));
        actions.clear();
        let progress = lane.receive(now, from, bytes, actions);
        assert_eq!(progress, Progress { consumed: bytes.len(), want: Want::More });
    }
    assert_eq!(target(actions, Side::Client), client, "who asked is answered");
    actions.clear();
}

/// To whom of `side` the lane sends something.
fn target(actions: &Actions<Mail>, side: Side) -> ConnId {
    let to = actions.list.iter().find_map(|action| match action {
        Action::Forward { to, .. } | Action::Write { to, .. } => {
            Some(*to).filter(|to| to.side() == side)
        }
        Action::Resume(_)
        | Action::Unpair(_)
        | Action::Connect { .. }
        | Action::Close { .. }
        | Action::Surrender { .. }
        | Action::Post { .. }
        | Action::Tell(_)
        | Action::Note { .. } => None,
    });
    to.expect(EVERYTHING)
}

/// What the control thread answers: a permit for one server of a pool, to whoever needs the first.
fn broker(mail: Mail, granted: &mut Vec<PoolKey>) -> Option<Event> {
    let Mail::Demand { pool, need, .. } = mail else { return None };
    if need == 0 || granted.contains(&pool) {
        return None;
    }
    granted.push(pool.clone());
    Some(Event::Mail(Mail::Permit { pool, count: 1 }))
}

/// What the server answers to BEGIN.
fn opened() -> Vec<u8> {
    let mut out = Vec::new();
    say::command_complete(&mut out, "BEGIN");
    say::ready_for_query(&mut out, b'T');
    out
}

/// What a server says to who logs in.
fn welcome(standby: bool) -> Vec<u8> {
    let mut out = Vec::new();
    say::authentication_ok(&mut out);
    say::parameter_status(&mut out, "in_hot_standby", if standby { "on" } else { "off" });
    say::parameter_status(&mut out, "server_version", "15.4");
    say::backend_key_data(&mut out, 4711, &[1, 2, 3, 4]);
    say::ready_for_query(&mut out, b'I');
    out
}

/// What the server answers to these messages.
fn answer(mut asked: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok(Some(header)) = frame::header(asked, LENGTH_MAX) {
        let (message, rest) = asked.split_at(header.total());
        asked = rest;
        match header.tag {
            b'Q' => {
                say::row_description(&mut out, &[say::Column::text("abalance")]);
                row(&mut out);
                say::ready_for_query(&mut out, b'I');
            }
            b'P' => say::parse_complete(&mut out),
            b'B' => say::bind_complete(&mut out),
            b'C' => say::close_complete(&mut out),
            b'D' => say::row_description(&mut out, &[say::Column::text("abalance")]),
            b'E' => row(&mut out),
            b'S' => say::ready_for_query(&mut out, b'I'),
            _ => panic!("no answer is known to {}", message.escape_ascii()),
        }
    }
    out
}

fn row(out: &mut Vec<u8>) {
    say::data_row(out, &[Some(b"-1234")]);
    say::command_complete(out, "SELECT 1");
}

fn config(reads: Reads) -> Config {
    let node = |name: &str, port| {
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Node::new(name, &format!("127.0.0.1:{port}"), vec![address])
    };
    let cluster = Arc::new(Cluster {
        name: "main".to_owned(),
        nodes: vec![node("pg1", 5432), node("pg2", 5433)],
        failover: None,
        horizon: Horizon::default(),
    });
    let database = Database {
        name: "*".to_owned(),
        cluster: Arc::clone(&cluster),
        dbname: None,
        user: None,
        password: None,
        pool: PoolSettings::default(),
        routing: Routing { reads, ..Routing::default() },
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
