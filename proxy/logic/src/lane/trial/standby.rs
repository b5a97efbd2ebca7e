//! The same with a standby behind the primary, where reads go.

use super::{ANSWERED, Trial, query};
use crate::catalog::rows::{Function, Rows};
use crate::catalog::{Catalog, Lists};
use crate::id::ConnId;
use crate::mail::{Entrance, Event, Mail};
use crate::topology::{Role, Standing, Topology};
use std::sync::Arc;

/// What a server says to BEGIN.
pub(in crate::lane) const BEGUN: &[u8] = b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T";

impl Trial {
    /// A client whose reads, and the transactions that begin with them, are the standby's; and the
    /// server that it has there. Neither server has anything to be told of its session.
    pub(in crate::lane) fn routed(settings: &str) -> (Self, ConnId) {
        Self::reading_from("replicas", settings)
    }

    /// The same, and the primary takes its part of the reads.
    pub(in crate::lane) fn shared(settings: &str) -> (Self, ConnId) {
        let (mut trial, standby) = Self::reading_from("all", settings);
        trial.weighs([1, 1]);
        (trial, standby)
    }

    fn reading_from(reads: &str, settings: &str) -> (Self, ConnId) {
        let routing = format!(
            "monitor.user = \"app\"\nrouting.reads = \"{reads}\"\n\
             routing.leading_reads = \"replicas\""
        );
        let mut trial = Self::start_before(2, &format!("{routing}\n{settings}"));
        let read = query("SELECT 0");
        assert_eq!(trial.client_says(&read), read.len());
        trial.server_says(&ANSWERED.repeat(2));
        let believed = Function {
            schema: "public".to_owned(),
            name: "believed".to_owned(),
            volatile: false,
            defaults: String::new(),
            compiled: false,
        };
        let functions = vec![believed];
        let rows = Rows { functions, read_committed: true, ..Rows::default() };
        let catalog = Some(Arc::new(Catalog::new(1, &rows, &Lists::default())));
        trial.happens(Event::Mail(Mail::Catalog { database: Arc::from("app"), catalog }));
        trial.weighs([0, 1]);
        assert_eq!(trial.client_says(&read), 0, "it waits for the standby's first server");
        let standby = trial.open(trial.away(), "on");
        assert_eq!(trial.client_says(&read), read.len());
        trial.receives(standby, &ANSWERED.repeat(2));
        assert_eq!(trial.lane.idle_servers(), 2);
        (trial, standby)
    }

    /// The monitor finds the standby to be this, behind a primary.
    pub(in crate::lane) fn stands(&mut self, role: Role) {
        let standing = |role| Standing { role, weight: 1, ..Standing::default() };
        self.finds([Some(standing(Role::Primary)), Some(standing(role))]);
    }

    /// The primary and the standby are to have these shares of the reads.
    pub(in crate::lane) fn weighs(&mut self, weights: [u32; 2]) {
        let roles = [Role::Primary, Role::Standby];
        let standing =
            |at| Standing { role: roles[at], weight: weights[at], ..Standing::default() };
        self.finds([Some(standing(0)), Some(standing(1))]);
    }

    /// The monitor finds the two nodes like this, if they are there.
    pub(in crate::lane) fn finds(&mut self, standings: [Option<Standing>; 2]) {
        let mut topology = Topology::default();
        let named = ["pg1", "pg2"].into_iter().zip(standings);
        let nodes = named.filter_map(|(name, standing)| Some((Arc::from(name), standing?)));
        topology.clusters.insert(Arc::from("main"), nodes.collect());
        self.happens(Event::Mail(Mail::Topology(Arc::new(topology))));
    }

    /// The pool of the standby's servers, which somebody has wanted.
    pub(in crate::lane) fn away(&self) -> usize {
        let pool = self.lane.pools.iter().position(|pool| pool.key.node.is_some());
        pool.expect("somebody has wanted to read")
    }

    /// A client of the listener for reads only is greeted by a server of the standby.
    pub(in crate::lane) fn enter_readonly(&mut self, standby: ConnId) -> ConnId {
        let client = self.enter(Entrance { readonly: true, ..Entrance::default() });
        assert!(self.said_to(standby).starts_with(b"Q"), "its parameters are tried");
        self.receives(standby, ANSWERED);
        assert!(self.said_to(client).ends_with(b"Z\0\0\0\x05I"), "it is in");
        client
    }

    /// A server of the standby is gone, and nobody waits for another.
    pub(in crate::lane) fn loses(&mut self, standby: ConnId) {
        self.happens(Event::Ended { conn: standby });
        self.happens(Event::Closed { conn: standby });
        assert!(!self.connects());
    }

    /// The client begins a transaction, of which no server is told yet.
    pub(in crate::lane) fn begin(&mut self) {
        assert!(self.client_says(&query("BEGIN")) > 0);
        assert_eq!(self.said_to(self.client), BEGUN, "no server is needed");
    }
}
