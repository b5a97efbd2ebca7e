//! Standbys of the simulation: what was committed, who has replayed how much of it, and a monitor
//! that tells the lanes.
//!
//! Each insert that commits on the primary has a place in a log. A standby shows what it has
//! replayed, and `seen` asks whether an insert is shown.

use crate::link::{MS, Time};
use crate::plan::Plan;
use crate::world::{Happening, World};
use pgring_logic::catalog::rows::{Function, Relation, Rows};
use pgring_logic::catalog::{Catalog, Lists};
use pgring_logic::mail::{Event, Mail};
use pgring_logic::time::Instant;
use pgring_logic::topology::{Lsn, Role, Standing, Topology};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What was committed on the primary, and where.
#[derive(Debug, Default)]
pub(crate) struct Log {
    places: BTreeMap<String, u64>,
}

/// What a session of a node sees of it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    log: Rc<RefCell<Log>>,
    /// Up to here; none: all of it.
    until: Option<u64>,
}

impl View {
    /// Whether an insert is shown.
    pub(crate) fn shows(&self, nonce: &str) -> bool {
        let log = self.log.borrow();
        let place = log.places.get(nonce);
        place.is_some_and(|place| self.until.is_none_or(|until| *place <= until))
    }
}

/// The cluster as seen by its monitor.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    log: Rc<RefCell<Log>>,
    /// How far each node has replayed; the first writes.
    replayed: Vec<u64>,
    /// No standby replays before this.
    paused: Time,
    edition: u64,
}

/// A nonce as `seen` is asked for it: nobody is to take it for a mark of whose the text is.
pub(crate) fn mask(nonce: &str) -> String {
    nonce.replacen('c', "k", 1).replace('.', "-")
}

/// What was meant by it.
pub(crate) fn unmask(text: &str) -> String {
    text.replacen('k', "c", 1).replace('-', ".")
}

impl Replicas {
    /// These inserts have committed on the primary.
    pub(crate) fn committed(&mut self, nonces: Vec<String>) {
        let mut log = self.log.borrow_mut();
        for nonce in nonces {
            let place = log.places.len() as u64 + 1;
            log.places.insert(nonce, place);
        }
    }
}

impl World {
    /// The monitor begins, and the standbys follow.
    pub(crate) fn replicas_begin(&mut self) {
        self.replicas.replayed = vec![0; self.plan.nodes];
        for node in 1..self.plan.nodes {
            self.at(0, Happening::Replay(node));
        }
        self.at(0, Happening::Monitor);
        for database in 0..self.plan.databases {
            self.tell_catalog(&Plan::database(database));
        }
    }

    /// What a session of this node sees.
    pub(crate) fn view(&self, node: usize) -> View {
        let until = (node > 0).then(|| self.replicas.replayed[node]);
        View { log: Rc::clone(&self.replicas.log), until }
    }

    /// A standby replays something.
    pub(crate) fn replay(&mut self, node: usize) {
        let end = self.replicas.log.borrow().places.len() as u64;
        let behind = end - self.replicas.replayed[node];
        if self.dice.chance(2) && self.now < self.plan.calm_from {
            self.replicas.paused = self.now + self.dice.range(10 * MS, 300 * MS);
        }
        if self.now >= self.replicas.paused {
            self.replicas.replayed[node] += self.dice.below(behind + 1);
        }
        let slow = self.dice.chance(20);
        let most = if slow { 60 * MS } else { 3 * MS };
        self.soon(most, Happening::Replay(node));
    }

    /// The monitor asks all nodes, and tells the lanes what they said.
    pub(crate) fn monitor(&mut self) {
        let (lost, asked) = (self.plan.horizon.lost(), self.instant());
        let delay = self.dice.below(3 * MS);
        self.at(self.now + delay, Happening::Answered(asked, lost));
        let next = self.now + 3 * MS + self.dice.range(MS, self.plan.watch);
        self.at(next, Happening::Monitor);
    }

    /// The nodes answer.
    pub(crate) fn monitor_hears(&mut self, asked: Instant, lost: u64) {
        let end = self.replicas.log.borrow().places.len() as u64;
        let standing = |node: usize| {
            let lsn = Lsn(if node == 0 { end } else { self.replicas.replayed[node] });
            let up = !self.nodes[node].down && !self.nodes[node].silent;
            let role = if node == 0 { Role::Primary } else { Role::Standby };
            let standing = Standing {
                role: if up { role } else { Role::Unknown },
                lsn,
                end: lsn,
                asked,
                answered: self.instant(),
                lost,
                lag_bytes: end - lsn.0,
                weight: 1,
                error: (!up).then(|| "no answer".to_owned()),
                ..Standing::default()
            };
            (Arc::from(format!("pg{node}")), standing)
        };
        let mut topology = Topology::default();
        let standings = (0..self.plan.nodes).map(standing).collect();
        topology.clusters.insert(Arc::from("main"), standings);
        let topology = Arc::new(topology);
        for core in 0..self.plan.lanes {
            let mail = Mail::Topology(Arc::clone(&topology));
            self.post(usize::MAX, core, Happening::Lane(core, Event::Mail(mail)));
        }
    }

    /// The lanes hear what names mean in a database.
    pub(crate) fn tell_catalog(&mut self, database: &str) {
        self.replicas.edition += 1;
        let relation = |name: &str| Relation {
            schema: "public".to_owned(),
            name: name.to_owned(),
            bound: false,
            texts: Vec::new(),
            view: None,
        };
        let relations = vec![relation("t"), relation("shifting")];
        // One of them is said to read, and writes.
        let names = ["rows", "sleep", "wide", "fail", "seen", "current_setting", "lies"];
        let functions = names.map(|name| Function {
            schema: "public".to_owned(),
            name: name.to_owned(),
            volatile: false,
            defaults: String::new(),
            compiled: name != "lies",
        });
        let functions = functions.to_vec();
        let rows = Rows { functions, relations, read_committed: true, ..Rows::default() };
        let catalog = Catalog::new(self.replicas.edition, &rows, &Lists::default());
        let catalog = Arc::new(catalog);
        for core in 0..self.plan.lanes {
            let (database, catalog) = (Arc::from(database), Some(Arc::clone(&catalog)));
            let mail = Mail::Catalog { database, catalog };
            self.post(usize::MAX, core, Happening::Lane(core, Event::Mail(mail)));
        }
    }
}
