//! A lane whose only client and only server are played by the test.

pub(super) mod guarded;
pub(super) mod standby;

use crate::action::{Action, Actions};
use crate::config::parse;
use crate::id::{ConnId, Core};
use crate::lane::{Lane, Out};
use crate::mail::{Entrance, Event, Mail, Peer};
use crate::time::{Duration, Instant};
use pgring_wire::backend::write::{self as say, ErrorText};
use pgring_wire::client::write;
use std::sync::Arc;

/// A Query.
pub(super) fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::query(&mut out, text);
    out
}

/// What a server says to a statement without rows, outside of a transaction.
pub(super) const ANSWERED: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

/// What a server says when a statement fails, without what ends that.
pub(super) fn error(code: &str) -> Vec<u8> {
    let mut out = Vec::new();
    say::error(&mut out, &ErrorText::error(code, "as the test wants it"));
    out
}

/// Whether something said to a client has an error of this code.
pub(super) fn has_error(said: &[u8], code: &str) -> bool {
    let field = format!("\0C{code}\0");
    said.windows(field.len()).any(|part| part == field.as_bytes())
}

/// A lane, and what it has asked for.
pub(super) struct Trial {
    pub(super) lane: Lane,
    pub(super) client: ConnId,
    pub(super) server: ConnId,
    /// Who cancels what the client does.
    pub(super) requester: Option<ConnId>,
    now: Instant,
    actions: Out,
    key: Vec<u8>,
}

impl Trial {
    /// A client that is in, in front of a server that waits; `settings` are more of the config.
    pub(super) fn start(settings: &str) -> Self {
        Self::start_before(1, settings)
    }

    /// The same, in front of so many nodes, of which the first writes.
    pub(super) fn start_before(nodes: usize, settings: &str) -> Self {
        let mut trial = Self::before(nodes, settings, "");
        trial.is_let_in();
        trial
    }

    /// The same, before the server has been opened; `cluster` is more of the cluster's config.
    fn before(nodes: usize, settings: &str, cluster: &str) -> Self {
        let node = |number: usize| {
            format!(
                "[[clusters.nodes]]\nname = \"pg{number}\"\naddress = \"127.0.0.{number}:5432\"\n"
            )
        };
        let nodes: String = (1..=nodes).map(node).collect();
        let watched = cluster.is_empty() || settings.contains("monitor.user");
        let monitor = if watched { "" } else { "monitor.user = \"app\"\n" };
        let text = format!(
            "workers = 1\n{monitor}{settings}\nauth.method = \"trust\"\n\
             [[clusters]]\nname = \"main\"\n{nodes}{cluster}\
             [[databases]]\nname = \"*\"\ncluster = \"main\"\n"
        );
        let mut config = parse(&text, &mut |_| Ok(String::new())).expect("a good config");
        config.workers = 1;
        let mut lane = Lane::new(Core(0), Arc::new(config), [7; 32], 0);
        let client = lane.accept(Instant::START, Peer::Unix(0), Entrance::default());
        let (now, actions, key) = (Instant::START, Actions::default(), Vec::new());
        let mut trial = Self { lane, client, server: client, requester: None, now, actions, key };
        trial.says_hello(client);
        trial
    }

    /// The client's server is opened, and the client greeted.
    fn is_let_in(&mut self) {
        self.server = self.open(0, "off");
        let greeting = self.said_to(self.client);
        let at = greeting.windows(5).position(|head| head == b"K\0\0\0\x0c");
        self.key = greeting[at.expect("a key") + 5..][..8].to_vec();
    }

    fn says_hello(&mut self, client: ConnId) {
        self.says_hello_with(client, None);
    }

    fn says_hello_with(&mut self, client: ConnId, parameter: Option<(&str, &str)>) {
        let named = [("user", "app"), ("database", "app")].into_iter().chain(parameter);
        let mut hello = Vec::new();
        write::startup(&mut hello, 3, 0, named);
        self.receives(client, &hello);
    }

    /// One more client comes; it is in if a server has greeted before.
    pub(super) fn enter(&mut self, entrance: Entrance) -> ConnId {
        let client = self.lane.accept(self.now, Peer::Unix(0), entrance);
        self.says_hello(client);
        client
    }

    /// The same, with a parameter that servers are to be told of.
    pub(super) fn enter_in(&mut self, entrance: Entrance, style: &str) -> ConnId {
        let client = self.lane.accept(self.now, Peer::Unix(0), entrance);
        self.says_hello_with(client, Some(("datestyle", style)));
        client
    }

    /// A pool opens a server, which somebody waits for.
    pub(super) fn open(&mut self, pool: usize, in_hot_standby: &str) -> ConnId {
        let server = self.dial(pool);
        self.server_greets(server, in_hot_standby);
        server
    }

    /// The same, before it has said anything.
    pub(super) fn dial(&mut self, pool: usize) -> ConnId {
        let pool = self.lane.pools[pool].key.clone();
        self.happens(Event::Mail(Mail::Permit { pool, count: 1 }));
        let server = self.connecting().expect("a server is wanted");
        self.happens(Event::Connected { conn: server });
        server
    }

    /// It lets pgring in.
    pub(super) fn server_greets(&mut self, server: ConnId, in_hot_standby: &str) {
        let mut welcome = Vec::new();
        say::authentication_ok(&mut welcome);
        say::parameter_status(&mut welcome, "in_hot_standby", in_hot_standby);
        say::backend_key_data(&mut welcome, 42, &[1, 2, 3, 4]);
        say::ready_for_query(&mut welcome, b'I');
        assert_eq!(self.receives(server, &welcome), welcome.len());
    }

    /// So much time passes.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.happens(Event::Timeout);
    }

    /// Lets the test do something with the lane.
    pub(super) fn with_lane(&mut self, act: impl FnOnce(&mut Lane, Instant, &mut Out)) {
        self.actions.clear();
        act(&mut self.lane, self.now, &mut self.actions);
    }

    /// Something else happens.
    pub(super) fn happens(&mut self, event: Event) {
        self.with_lane(|lane, now, actions| lane.handle(now, event, actions));
    }

    /// Bytes of a connection come. Tells how many of them were taken.
    pub(super) fn receives(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        self.with_lane(|lane, now, actions| {
            consumed = lane.receive(now, conn, bytes, actions).consumed;
        });
        consumed
    }

    /// Tells how many of the bytes were taken.
    pub(super) fn client_says(&mut self, bytes: &[u8]) -> usize {
        self.receives(self.client, bytes)
    }

    /// The beginning of something: tells how many of the bytes were taken.
    pub(super) fn server_begins(&mut self, bytes: &[u8]) -> usize {
        self.receives(self.server, bytes)
    }

    /// What it has asked for when the last thing happened.
    pub(super) fn asked(&self) -> &Out {
        &self.actions
    }

    /// Whether what the client has said is to be shown again.
    pub(super) fn is_resumed(&self) -> bool {
        let resumes =
            |action: &Action<Mail>| matches!(action, Action::Resume(id) if *id == self.client);
        self.actions.list.iter().any(resumes)
    }

    /// Whether this connection is to be closed.
    pub(super) fn closes(&self, id: ConnId) -> bool {
        let closes = |action: &Action<Mail>| {
            if let Action::Close { conn, .. } = action { *conn == id } else { false }
        };
        self.actions.list.iter().any(closes)
    }

    /// Whether an order has been carried out.
    pub(super) fn is_done(&self) -> bool {
        let done = |action: &Action<Mail>| {
            if let Action::Tell(mail) = action {
                matches!(**mail, Mail::Done { .. })
            } else {
                false
            }
        };
        self.actions.list.iter().any(done)
    }

    /// Whether a connection is to be opened.
    pub(super) fn connects(&self) -> bool {
        self.connecting().is_some()
    }

    /// All of them must be taken.
    pub(super) fn server_says(&mut self, bytes: &[u8]) {
        assert_eq!(self.receives(self.server, bytes), bytes.len());
    }

    /// The client is gone.
    pub(super) fn client_ends(&mut self) {
        self.happens(Event::Ended { conn: self.client });
    }

    /// Cancels what the client does; tells whether that was answered at once.
    pub(super) fn send_cancel(&mut self) -> bool {
        let requester = self.lane.accept(self.now, Peer::Unix(0), Entrance::default());
        self.requester = Some(requester);
        let pid = u32::from_be_bytes(self.key[..4].try_into().expect("four bytes"));
        let mut request = Vec::new();
        write::cancel_request(&mut request, pid, &self.key[4..]);
        self.receives(requester, &request);
        self.is_cancel_answered()
    }

    /// Whether the last thing that happened has ended the cancel request.
    pub(super) fn is_cancel_answered(&self) -> bool {
        let ends = |action: &Action<Mail>| {
            if let Action::Close { conn, .. } = action { Some(*conn) } else { None }
        };
        self.actions.list.iter().filter_map(ends).any(|conn| Some(conn) == self.requester)
    }

    /// The connection that is to be opened.
    pub(super) fn connecting(&self) -> Option<ConnId> {
        self.actions.list.iter().find_map(|action| {
            if let Action::Connect { conn, .. } = action { Some(*conn) } else { None }
        })
    }

    /// Bytes that have gone to a connection as they came.
    pub(super) fn forwards_to(&self, conn: ConnId) -> usize {
        let len = |action: &Action<Mail>| {
            if let Action::Forward { to, len, .. } = action {
                (*to == conn).then_some(*len)
            } else {
                None
            }
        };
        self.actions.list.iter().filter_map(len).sum()
    }

    /// What pgring itself has said to a connection when the last thing happened.
    pub(super) fn said_to(&self, conn: ConnId) -> Vec<u8> {
        let mut said = Vec::new();
        for action in &self.actions.list {
            if let Action::Write { to, start, len } = action
                && *to == conn
            {
                said.extend_from_slice(&self.actions.scratch[*start..start + len]);
            }
        }
        said
    }
}
