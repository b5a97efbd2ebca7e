//! Clients of the console: the database `pgring`, alias `pgbouncer`.
//!
//! The lane only speaks the protocol: texts go to the control thread one at a time, and its
//! answers, framed for the message that asked, come back by mail.

use crate::action::{Action, CloseMode, Progress, Want};
use crate::config::Config;
use crate::id::ConnId;
use crate::lane::client::{Client, Phase};
use crate::lane::welcome::key_pid;
use crate::lane::{Lane, Out, all, behind, later, more};
use crate::mail::{AnswerShape, Mail, Peer};
use crate::time::Instant;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};
use pgring_wire::client::{Parse, Target, query};
use pgring_wire::frame::Header;

/// The longest console command.
const LENGTH_MAX: u32 = 65_536;

/// One client of the console.
#[derive(Debug, Default)]
pub(super) struct Console {
    /// The control thread works on an answer.
    waiting: bool,
    /// An error was said: everything is dropped up to the Sync.
    skipping: bool,
    /// Extended messages since the last Sync.
    extended: bool,
    /// The text last parsed.
    text: String,
}

/// What a client is told of the console's session.
const PARAMETERS: [(&str, &str); 8] = [
    ("server_version", "15.0 (pgring console)"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("application_name", ""),
];

/// Clients of the console beyond `clients_max`: somebody can look when all places are taken.
const SPARE_MAX: usize = 8;

/// Whether the console is the database that a client wants.
pub(super) fn is_console(database: &str) -> bool {
    matches!(database, "pgring" | "pgbouncer")
}

/// Whether a client is the user `pgring` on this machine, with the user id of this process: the
/// kernel vouches for whoever has started pgring.
pub(super) fn is_owner(client: &Client, config: &Config) -> bool {
    let same = |uid| config.auth.owner == Some(uid);
    &*client.user == "pgring" && matches!(client.peer, Peer::Unix(uid) if same(uid))
}

impl Lane {
    /// Whether there is a place for a client of the console although all are taken.
    pub(super) fn has_spare_place(&self) -> bool {
        let inside = |client: &Client| matches!(client.phase, Phase::Auth(_) | Phase::Console(_));
        let spare = |client: &Client| client.refused && inside(client);
        self.clients.iter().filter(|(_, client)| spare(client)).count() < SPARE_MAX
    }

    /// A client that has proved who it is wants to talk to the console.
    pub(super) fn enter_console(&mut self, now: Instant, id: ConnId, actions: &mut Out) {
        let secret = self.dice.bytes();
        let Some(client) = self.clients.get_mut(id) else { return };
        let listed = |users: &[String]| users.iter().any(|user| **user == *client.user);
        let local = is_owner(client, &self.config);
        if !listed(&self.config.admin_users) && !listed(&self.config.stats_users) && !local {
            let text = ErrorText::fatal(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                "only users in admin_users or stats_users may use the console",
            );
            return self.fatal(now, id, &text, actions);
        }
        client.key = (key_pid(self.core, id), secret);
        client.phase = Phase::Console(Box::default());
        let minor = client.login.take().map_or(0, |login| login.minor);
        actions.write(id, |out| {
            for (name, value) in PARAMETERS {
                write::parameter_status(out, name, value);
            }
            write::backend_key_data(out, client.key.0, client.secret(minor));
            write::ready_for_query(out, b'I');
        });
    }

    /// Bytes of a client of the console.
    #[cold]
    pub(super) fn receive_console(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let mut at = 0;
        while at < bytes.len() {
            let Some(client) = self.clients.get(id) else { return all(bytes) };
            let Phase::Console(console) = &client.phase else { return all(bytes) };
            if console.waiting {
                return later(at);
            }
            let head = match self.head(now, id, (&bytes[at..], LENGTH_MAX), actions) {
                Ok(head) => head,
                Err(end) => return behind(at, end),
            };
            let Some(body) = bytes.get(at + Header::SIZE..at + head.total()) else {
                return more(at);
            };
            at += head.total();
            self.console_message(now, id, head.tag, body, actions);
        }
        Progress { consumed: at, want: Want::More }
    }

    fn console_message(
        &mut self,
        now: Instant,
        id: ConnId,
        tag: u8,
        body: &[u8],
        actions: &mut Out,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Console(console) = &mut client.phase else { return };
        if console.skipping && !matches!(tag, b'S' | b'X') {
            return;
        }
        console.extended = !matches!(tag, b'Q' | b'S');
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match tag {
            b'Q' => match query(body) {
                Ok(sql) => self.ask_console(id, text(sql), AnswerShape::Simple, actions),
                Err(_) => self.console_error(id, "malformed message", actions),
            },
            b'P' => match Parse::read(body) {
                Ok(parse) => {
                    console.text = text(parse.text);
                    actions.write(id, write::parse_complete);
                }
                Err(_) => self.console_error(id, "malformed message", actions),
            },
            b'B' => actions.write(id, write::bind_complete),
            b'C' => actions.write(id, write::close_complete),
            b'D' => {
                let statement = Target::read(body).is_ok_and(|target| target.kind == b'S');
                let shape = if statement {
                    AnswerShape::DescribeStatement
                } else {
                    AnswerShape::DescribePortal
                };
                let text = console.text.clone();
                self.ask_console(id, text, shape, actions);
            }
            b'E' => {
                let text = console.text.clone();
                self.ask_console(id, text, AnswerShape::Execute, actions);
            }
            b'S' => {
                console.skipping = false;
                actions.write(id, |out| write::ready_for_query(out, b'I'));
            }
            b'H' => {}
            b'X' => self.client_parted(now, id, CloseMode::Flush, actions),
            _ => {
                let text = ErrorText::fatal(
                    sqlstate::PROTOCOL_VIOLATION,
                    "the console knows queries only",
                );
                self.fatal(now, id, &text, actions);
            }
        }
    }

    fn ask_console(&mut self, id: ConnId, text: String, shape: AnswerShape, actions: &mut Out) {
        let core = self.core;
        let Some(client) = self.clients.get_mut(id) else { return };
        let user = client.user.clone();
        if let Phase::Console(console) = &mut client.phase {
            console.waiting = true;
        }
        let mail = Mail::Console { core, conn: id, user, text, shape };
        actions.push(Action::Tell(Box::new(mail)));
    }

    fn console_error(&mut self, id: ConnId, message: &str, actions: &mut Out) {
        Self::say(id, &ErrorText::error(sqlstate::PROTOCOL_VIOLATION, message), actions);
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Console(console) = &mut client.phase else { return };
        if console.extended {
            console.skipping = true;
        } else {
            actions.write(id, |out| write::ready_for_query(out, b'I'));
        }
    }

    /// The control thread has answered.
    pub(super) fn console_answered(&mut self, id: ConnId, bytes: &[u8], actions: &mut Out) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Console(console) = &mut client.phase else { return };
        console.waiting = false;
        console.skipping = console.extended && bytes.first() == Some(&b'E');
        actions.write(id, |out| out.extend_from_slice(bytes));
        actions.push(Action::Resume(id));
    }
}
