//! What a gate means to the nodes of a lane, and a new configuration to a gate.

use super::parcel;
use crate::catalog::rows::Rows;
use crate::catalog::{Catalog, Lists};
use crate::id::ConnId;
use crate::lane::trial::guarded::{drain, open, shut};
use crate::lane::trial::standby::BEGUN;
use crate::lane::trial::{ANSWERED, Trial, query};
use crate::mail::{Event, Mail};
use crate::topology::Role;
use crate::topology::gate::{Gate, Writes};
use crate::topology::verdict::{Cause, Verdict};
use std::sync::Arc;

/// Where reads go to the other node.
const ROUTED: &str = "monitor.user = \"app\"\nrouting.reads = \"replicas\"\n\
                      routing.leading_reads = \"replicas\"";

/// A client with a server of its own on each node; that of the replica is told too.
fn routed() -> (Trial, ConnId) {
    let mut trial = Trial::guarded(ROUTED);
    trial.settles();
    let rows = Rows { read_committed: true, ..Rows::default() };
    let catalog = Catalog::new(1, &rows, &Lists::default());
    let catalog = Some(Arc::new(catalog));
    trial.happens(Event::Mail(Mail::Catalog { database: Arc::from("app"), catalog }));
    assert_eq!(trial.client_says(&query("SELECT 0")), 0, "it waits for the standby's server");
    let standby = trial.open(trial.away(), "on");
    trial.client_runs("SELECT 0");
    trial.receives(standby, &ANSWERED.repeat(2));
    assert_eq!(trial.lane.idle_servers(), 2);
    (trial, standby)
}

#[test]
fn a_transaction_of_which_no_server_knows_waits_for_the_primary() {
    for gate in [drain(2), shut(2)] {
        let (mut trial, _) = routed();
        trial.begin();
        trial.hears(gate);
        assert!(trial.closes(trial.server) && !trial.closes(trial.client));
        assert_eq!(trial.client_says(&query("INSERT INTO t VALUES (1)")), 0, "it waits");
        trial.is_closed(trial.server);
        trial.hears(open(3, "pg2"));
        let [(server, 2)] = trial.dialled()[..] else { panic!("{:?}", trial.dialled()) };
        trial.happens(Event::Connected { conn: server });
        trial.server_greets(server, "off");
        assert!(trial.said_to(server).windows(6).any(|part| part == b"BEGIN\0"));
        assert!(!trial.closes(trial.client));
    }
}

#[test]
fn a_node_in_quarantine_has_no_connection_and_no_reads() {
    let (mut trial, standby) = routed();
    trial.client_runs("SELECT 0");
    assert_eq!(trial.forwards_to(standby), query("SELECT 0").len());
    let out = Gate { quarantine: [Arc::from("pg2")].into(), ..open(1, "pg1") };
    trial.hears(out.clone());
    let (client, server) = (trial.client, trial.server);
    assert!(trial.closes(standby) && !trial.closes(server) && !trial.closes(client));
    assert_eq!(trial.forwards_to(server) + trial.said_to(server).len(), 14, "it is said there");
    trial.server_says(ANSWERED);
    trial.client_runs("SELECT 0");
    assert!(trial.forwards_to(server) > 0, "and so is the next one");
    trial.server_says(ANSWERED);
    trial.is_closed(standby);
    // What comes from another lane serves nobody either.
    let key = trial.lane.pools[trial.away()].key.clone();
    let mut lent = None;
    trial.with_lane(|lane, now, actions| {
        lent = Some(lane.adopt(now, parcel(key, "pg2", Some(1)), actions));
    });
    assert!(trial.closes(lent.expect("a server")));
    trial.is_closed(lent.expect("a server"));
    trial.hears(open(1, "pg1"));
    assert!(!trial.closes(server));
    assert_eq!(trial.client_says(&query("SELECT 0")), 0, "it is a replica again");
}

/// Should the monitor still take it for a standby.
#[test]
fn the_node_that_may_be_written_to_is_no_replica() {
    let (mut trial, standby) = routed();
    let standbys = ["pg1", "pg2"].map(|name| (name, Role::Standby, Verdict::Healthy));
    trial.hears(shut(2));
    assert!(!trial.closes(standby), "reads go on");
    trial.is_closed(trial.server);
    trial.hears_of(Some(open(3, "pg2")), standbys);
    assert!(trial.closes(standby));
    let pool = trial.away();
    trial.is_closed(standby);
    assert_eq!(trial.client_says(&query("SELECT 0")), 0);
    let waits = trial.lane.clients.get(trial.client).and_then(|client| client.pool);
    assert!(waits != Some(pool), "a read does not go there as to a replica");
}

#[test]
fn a_reload_keeps_the_gate() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.hears(open(1, "pg1"));
    trial.reloads("127.0.0.3:5432", true);
    assert_eq!(trial.lane.topology.gate("main"), &open(1, "pg1"));
    trial.is_closed(trial.server);
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    let server = trial.open(0, "off");
    assert_eq!(&*trial.lane.server_ref(server).expect("it").node, "pg1");
    // Nor does one let through what it did not.
    trial.hears(shut(2));
    trial.is_closed(server);
    trial.reloads("127.0.0.2:5432", true);
    assert!(!trial.connects());
}

#[test]
fn a_reload_may_hand_a_cluster_over() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.reloads("127.0.0.2:5432", false);
    trial.hears(shut(2));
    assert!(!trial.closes(trial.server), "the gate means nothing");
    trial.hears(open(3, "pg1"));
    trial.reloads("127.0.0.2:5432", true);
    assert!(trial.closes(trial.server), "it was opened without one");
    let mut trial = Trial::guarded("");
    trial.hears(shut(2));
    trial.is_closed(trial.server);
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    let pool = trial.lane.pools[0].key.clone();
    trial.happens(Event::Mail(Mail::Permit { pool, count: 1 }));
    assert!(!trial.connects());
    trial.reloads("127.0.0.2:5432", false);
    assert!(trial.connects());
}

/// The first of the nodes stands so, in a cluster that has this gate.
fn first_is(trial: &mut Trial, gate: Option<Gate>, verdict: Verdict) {
    let second = ("pg2", Role::Standby, Verdict::Healthy);
    trial.hears_of(gate, [("pg1", Role::Primary, verdict), second]);
}

#[test]
fn a_node_that_serves_again_is_logged_in_to_at_once() {
    for gate in [Some(open(1, "pg1")), None] {
        let mut trial = match gate {
            Some(_) => Trial::guarded(""),
            None => Trial::start_before(2, ""),
        };
        trial.settles();
        first_is(&mut trial, gate.clone(), Verdict::Healthy);
        let mut server = Some(trial.server);
        trial.happens(Event::Ended { conn: trial.server });
        trial.is_closed(trial.server);
        assert_eq!(trial.client_says(&query("SELECT 1")), 0);
        first_is(&mut trial, gate.clone(), Verdict::Suspect(Cause::Process));
        let pool = trial.lane.pools[0].key.clone();
        trial.happens(Event::Mail(Mail::Permit { pool, count: 1 }));
        while let Some(opening) = trial.connecting() {
            server = Some(opening);
            let reason = "connection refused".to_owned();
            trial.happens(Event::Failed { conn: opening, reason });
            trial.is_closed(opening);
        }
        assert!(server != Some(trial.server) && trial.lane.pools[0].retry_at.is_some());
        first_is(&mut trial, gate.clone(), Verdict::Suspect(Cause::Process));
        assert!(!trial.connects(), "{gate:?}: it is down");
        first_is(&mut trial, gate.clone(), Verdict::Healthy);
        assert!(trial.connects(), "{gate:?}: it is back");
    }
}

#[test]
fn a_gate_means_nothing_where_pgring_does_not_decide() {
    let mut trial = Trial::start_before(2, "");
    trial.settles();
    let server = trial.server;
    let quarantine = [Arc::from("pg1")].into();
    for writes in [Writes::Shut, Writes::Drain, Writes::Open(Arc::from("pg2"))] {
        trial.hears(Gate { epoch: 1, writes, quarantine: Clone::clone(&quarantine) });
        assert!(!trial.closes(server));
        trial.client_runs("SELECT 1");
        assert!(trial.forwards_to(server) > 0);
        trial.server_says(ANSWERED);
    }
    trial.happens(Event::Ended { conn: server });
    trial.is_closed(server);
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    let server = trial.open(0, "off");
    assert_eq!(&*trial.lane.server_ref(server).expect("it").node, "pg1");
}

#[test]
fn what_runs_in_a_cluster_that_gets_another_name_answers_to_its_gate() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.client_runs("BEGIN");
    trial.server_says(BEGUN);
    trial.renames("other");
    assert!(trial.closes(trial.server), "its gate is shut");
}

#[test]
fn a_node_in_quarantine_is_not_written_to_whatever_the_gate_says() {
    let mut trial = Trial::guarded("");
    trial.settles();
    trial.hears(Gate { quarantine: [Arc::from("pg1")].into(), ..open(1, "pg1") });
    assert!(trial.closes(trial.server) && !trial.closes(trial.client));
    trial.is_closed(trial.server);
    assert_eq!(trial.client_says(&query("SELECT 1")), 0);
    let pool = trial.lane.pools[0].key.clone();
    trial.happens(Event::Mail(Mail::Permit { pool, count: 1 }));
    assert!(!trial.connects());
}

#[test]
fn a_gate_that_opens_is_gone_through_at_once_whatever_failed_before() {
    for gates in [&[open(2, "pg2")][..], &[shut(2), open(3, "pg1")]] {
        let mut trial = Trial::guarded("");
        trial.settles();
        trial.happens(Event::Ended { conn: trial.server });
        trial.is_closed(trial.server);
        assert_eq!(trial.client_says(&query("SELECT 1")), 0);
        let opening = trial.dial(0);
        let reason = "connection refused".to_owned();
        trial.happens(Event::Failed { conn: opening, reason });
        trial.is_closed(opening);
        assert!(!trial.connects() && trial.lane.pools[0].retry_at.is_some());
        for gate in gates {
            assert!(!trial.connects());
            trial.hears(gate.clone());
        }
        assert!(trial.connects(), "{gates:?}");
    }
}
