//! One session of a modelled node: what a `PostgreSQL` backend remembers of its client.
//!
//! The same model stands in two places: behind pgring, as the server; and beside each client, as
//! what it would have seen without pgring (the reference its answers are compared with).

use crate::message::{Message, Reader, report, text};
use crate::replicas::View;
use crate::sql::{Stmt, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Session parameters by lower-case name.
pub(crate) type Settings = BTreeMap<String, String>;

/// An SQLSTATE and what is said with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault(pub(crate) &'static str, pub(crate) String);

/// Where a session is in a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tx {
    /// Outside.
    Idle,
    /// Inside a block.
    Open,
    /// Inside a failed block.
    Failed,
}

/// A prepared statement.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) list: Vec<Stmt>,
    pub(crate) parameters: usize,
    pub(crate) from_sql: bool,
    /// The shape of tables when it was prepared.
    pub(crate) shape: u64,
}

/// What a portal has still to give.
#[derive(Clone, Debug)]
pub(crate) struct Portal {
    pub(crate) statement: Rc<Prepared>,
    pub(crate) values: Vec<Option<String>>,
    pub(crate) rows: Option<Rc<Vec<Message>>>,
    pub(crate) next: usize,
}

/// What holds a session at its server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pins {
    pub(crate) channels: BTreeSet<String>,
    pub(crate) locks: u32,
    pub(crate) tables: BTreeSet<String>,
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// What RESET goes back to.
    pub(crate) defaults: Rc<Settings>,
    /// What has been set in the session.
    pub(crate) set: Settings,
    /// What SET LOCAL set.
    pub(crate) local: Settings,
    pub(crate) tx: Tx,
    /// `set` as it was before the transaction, block or not.
    pub(crate) before: Option<Settings>,
    pub(crate) prepared: BTreeMap<String, Rc<Prepared>>,
    pub(crate) portals: BTreeMap<String, Portal>,
    /// An error came: ignore everything up to Sync.
    pub(crate) skipping: bool,
    /// Receiving COPY data, in the extended protocol or not.
    pub(crate) copying: Option<bool>,
    pub(crate) copied: u64,
    pub(crate) pins: Pins,
    /// What the client was last told.
    pub(crate) told: Settings,
    /// The shape of tables now: it changes with DDL.
    pub(crate) shape: u64,
    /// Nonces of the statements that took effect since last asked.
    pub(crate) ran: Vec<String>,
    /// The transaction is READ ONLY.
    pub(crate) read_only: bool,
    /// What the transaction has inserted.
    pub(crate) own: Vec<String>,
    /// What has been inserted and committed; a node takes it from here into its log.
    pub(crate) committed: Vec<String>,
    /// What a node shows; a client's own picture of its session shows all that was ever written.
    pub(crate) view: Option<View>,
}

/// The parameters a node reports, with their start values.
pub(crate) const REPORTED: [(&str, &str); 9] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.4"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

/// Parameters it has but does not report.
const SILENT: [(&str, &str); 6] = [
    ("search_path", "\"$user\", public"),
    ("statement_timeout", "0"),
    ("work_mem", "4MB"),
    ("role", "none"),
    ("transaction_read_only", "off"),
    ("default_transaction_read_only", "off"),
];

impl Session {
    /// A fresh session. Startup parameters are what RESET goes back to.
    pub(crate) fn new(startup: &[(String, String)]) -> Self {
        let known = REPORTED.iter().chain(&SILENT);
        let mut defaults: Settings =
            known.map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
        for (name, value) in startup {
            if name == "options" {
                // As clients of the simulation write it: `-c name=value`.
                let setting = value.trim_start_matches("-c ").split_once('=');
                defaults.extend(setting.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            if !matches!(name.as_str(), "user" | "database" | "options" | "replication")
                && !name.starts_with("_pq_.")
            {
                defaults.insert(name.to_ascii_lowercase(), value.clone());
            }
        }
        Self {
            defaults: Rc::new(defaults),
            set: Settings::new(),
            local: Settings::new(),
            tx: Tx::Idle,
            before: None,
            prepared: BTreeMap::new(),
            portals: BTreeMap::new(),
            skipping: false,
            copying: None,
            copied: 0,
            pins: Pins::default(),
            told: Settings::new(),
            shape: 0,
            ran: Vec::new(),
            read_only: false,
            own: Vec::new(),
            committed: Vec::new(),
            view: None,
        }
    }

    /// Whether it is one of a standby.
    pub(crate) fn is_standby(&self) -> bool {
        self.defaults.get("in_hot_standby").is_some_and(|value| value == "on")
    }

    /// A parameter's value; none if there is no such parameter.
    pub(crate) fn setting(&self, name: &str) -> Option<&String> {
        let name = name.to_ascii_lowercase();
        let own = self.local.get(&name).or_else(|| self.set.get(&name));
        own.or_else(|| self.defaults.get(&name))
    }

    /// The status in `ReadyForQuery`.
    pub(crate) fn status(&self) -> u8 {
        match self.tx {
            Tx::Idle => b'I',
            Tx::Open => b'T',
            Tx::Failed => b'E',
        }
    }

    /// `ParameterStatus` of what has changed, then `ReadyForQuery`.
    pub(crate) fn ready(&mut self, out: &mut Vec<Message>) {
        for (name, _) in REPORTED {
            let value = self.setting(name).cloned().unwrap_or_default();
            if self.told.get(name) != Some(&value) {
                let mut body = text(name);
                body.extend(text(&value));
                out.push(Message::new(b'S', body));
                self.told.insert(name.to_owned(), value);
            }
        }
        out.push(Message::new(b'Z', [self.status()]));
    }

    /// Takes in one message and answers it.
    pub(crate) fn feed(&mut self, message: &Message, out: &mut Vec<Message>) {
        if let Some(extended) = self.copying {
            return self.copy(message, extended, out);
        }
        match message.tag {
            b'S' => {
                self.skipping = false;
                self.end_implicit();
                self.ready(out);
            }
            b'd' | b'c' | b'f' | b'H' => {}
            _ if self.skipping => {}
            b'F' => {
                self.start();
                if self.tx == Tx::Failed {
                    let text = "current transaction is aborted".to_owned();
                    self.fail(&Fault("25P02", text), out);
                } else {
                    out.push(Message::new(b'V', message.body.get(8..).unwrap_or_default()));
                }
                self.end_implicit();
                self.ready(out);
            }
            b'Q' => {
                if let Err(fault) = self.query(&message.body, out) {
                    self.fail(&fault, out);
                    self.skipping = false;
                }
                if self.copying.is_none() {
                    self.end_implicit();
                    self.ready(out);
                }
            }
            _ => {
                self.start();
                if let Err(fault) = self.extended(message, out) {
                    self.fail(&fault, out);
                    self.skipping = true;
                }
            }
        }
    }

    /// How many milliseconds a message will take.
    pub(crate) fn cost(&self, message: &Message) -> u64 {
        if self.skipping || self.copying.is_some() {
            return 0;
        }
        match message.tag {
            b'Q' => {
                let sql = Reader::new(&message.body).text().unwrap_or_default();
                if sql.contains("sleep") { crate::exec::sleep(&parse(&sql)) } else { 0 }
            }
            b'E' => {
                let name = Reader::new(&message.body).text().unwrap_or_default();
                let portal = self.portals.get(&name).filter(|portal| portal.rows.is_none());
                portal.map_or(0, |portal| crate::exec::sleep(&portal.statement.list))
            }
            _ => 0,
        }
    }

    /// The message in hand fails with `fault` instead of being carried out.
    pub(crate) fn refuse(&mut self, message: Option<&Message>, fault: &Fault) -> Vec<Message> {
        let mut out = Vec::new();
        let simple = match self.copying {
            Some(extended) => !extended,
            None => message.is_some_and(|message| matches!(message.tag, b'Q' | b'F')),
        };
        self.start();
        self.fail(fault, &mut out);
        if simple {
            self.skipping = false;
            self.ready(&mut out);
        } else {
            self.skipping = true;
        }
        out
    }

    /// The connection to the server was lost, but not the one to the client: the transaction is
    /// gone.
    pub(crate) fn lose_transaction(&mut self) {
        self.tx = Tx::Failed;
        self.end(false);
    }

    /// An error: says so and rolls back.
    fn fail(&mut self, fault: &Fault, out: &mut Vec<Message>) {
        out.push(report(b'E', "ERROR", fault.0, &fault.1));
        self.copying = None;
        match self.tx {
            Tx::Idle => self.end(false),
            Tx::Open | Tx::Failed => {
                self.tx = Tx::Failed;
                if let Some(before) = &self.before {
                    self.set = before.clone();
                }
                self.local.clear();
                self.portals.clear();
            }
        }
    }

    /// A statement begins: remembers what to go back to.
    pub(crate) fn start(&mut self) {
        if self.before.is_none() {
            self.before = Some(self.set.clone());
        }
    }

    /// Ends a transaction, block or not.
    pub(crate) fn end(&mut self, commit: bool) {
        let commit = commit && self.tx != Tx::Failed;
        if let Some(before) = self.before.take()
            && !commit
        {
            self.set = before;
        }
        let own = std::mem::take(&mut self.own);
        if commit {
            self.committed.extend(own);
        }
        self.local.clear();
        self.portals.clear();
        self.tx = Tx::Idle;
        self.read_only = false;
    }

    fn end_implicit(&mut self) {
        if self.tx == Tx::Idle {
            self.end(true);
        }
    }

    fn copy(&mut self, message: &Message, extended: bool, out: &mut Vec<Message>) {
        let fault = match message.tag {
            b'd' => {
                self.copied += 1;
                return;
            }
            b'H' | b'S' => return,
            b'c' => {
                self.copying = None;
                let tag = format!("COPY {}", self.copied);
                out.push(Message::new(b'C', text(&tag)));
                None
            }
            b'f' => Some(Fault("57014", "COPY from stdin failed".to_owned())),
            _ => Some(Fault("08P01", "unexpected message during COPY from stdin".to_owned())),
        };
        if let Some(fault) = fault {
            self.fail(&fault, out);
            self.skipping = extended;
        }
        if !extended {
            self.end_implicit();
            self.ready(out);
        }
    }

    /// A Query begins with that, whatever becomes of it.
    pub(crate) fn forget_unnamed(&mut self) {
        self.prepared.remove("");
        self.portals.remove("");
    }

    fn query(&mut self, body: &[u8], out: &mut Vec<Message>) -> Result<(), Fault> {
        let sql = Reader::new(body).text().unwrap_or_default();
        let list = parse(&sql);
        self.forget_unnamed();
        self.start();
        if list.is_empty() {
            out.push(Message::new(b'I', []));
        }
        for stmt in &list {
            self.simple(stmt, list.len() > 1, out)?;
        }
        Ok(())
    }
}
