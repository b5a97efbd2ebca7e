//! What is said of nodes that lack something, without any node.

use super::cluster;
use crate::check::read::{Access, Facts, Here, Reading};
use crate::check::rights::RIGHTS;
use crate::check::{Finding, Grade};
use pgring_logic::config::{Cluster, Durability, Failover, Monitor, Node};
use pgring_logic::topology::horizon::Horizon;
use std::sync::Arc;

fn node(name: &str, port: u16) -> Node {
    Node {
        name: name.to_owned(),
        address: format!("127.0.0.1:{port}"),
        resolved: Vec::new(),
        weight: 1,
        zone: String::new(),
        priority: 1,
        peer_address: String::new(),
    }
}

fn main(failover: Option<Failover>) -> Cluster {
    Cluster {
        name: "main".to_owned(),
        nodes: vec![node("pg1", 5001), node("pg2", 5002), node("pg3", 5003)],
        failover: failover.map(Arc::new),
        horizon: Horizon::default(),
    }
}

fn failover() -> Failover {
    Failover {
        durability: Durability::Sync,
        rejoin_command: vec!["/bin/true".to_owned()],
        ..Failover::default()
    }
}

fn monitor() -> Monitor {
    Monitor { user: Some("watch".to_owned()), ..Monitor::default() }
}

/// A node as it should be.
fn good(recovery: bool) -> Reading {
    let settings = [
        ("data_checksums", "off"),
        ("default_transaction_read_only", "off"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("hot_standby", "on"),
        ("max_replication_slots", "10"),
        ("max_standby_streaming_delay", "30000"),
        ("max_wal_senders", "10"),
        ("primary_conninfo", if recovery { "host=127.0.0.1 port=5001 user=r" } else { "" }),
        ("recovery_min_apply_delay", "0"),
        ("recovery_target_timeline", "latest"),
        ("restore_command", ""),
        ("synchronous_commit", "on"),
        ("wal_keep_size", "1024"),
        ("wal_level", "replica"),
        ("wal_log_hints", "on"),
        ("wal_retrieve_retry_interval", "200"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let facts = Facts {
        recovery,
        system: "7".to_owned(),
        settings: settings.into(),
        receives: recovery,
        replay: if recovery { "not paused".to_owned() } else { String::new() },
        followers: if recovery { Vec::new() } else { vec!["pg2".to_owned(), "pg3".to_owned()] },
        ..Facts::default()
    };
    let access = Access { version: 150_018, ..Access::default() };
    Reading { monitor: Ok(access), acting: None, facts: Ok(facts) }
}

fn trio() -> [Reading; 3] {
    [good(false), good(true), good(true)]
}

fn facts(reading: &mut Reading) -> &mut Facts {
    reading.facts.as_mut().expect("it has answered")
}

fn set(reading: &mut Reading, name: &str, value: &str) {
    facts(reading).settings.insert(name.to_owned(), value.to_owned());
}

fn found(failover: Option<Failover>, readings: &[Reading]) -> Vec<Finding> {
    cluster(&monitor(), &main(failover), readings, None)
}

/// The findings that are no praise, as lines.
fn bad(failover: Option<Failover>, readings: &[Reading]) -> Vec<String> {
    let all = found(failover, readings).into_iter();
    all.filter(|it| it.grade != Grade::Ok).map(|it| it.to_string()).collect()
}

/// The one complaint that comes of a change.
fn one(change: impl FnOnce(&mut [Reading; 3])) -> String {
    let mut readings = trio();
    change(&mut readings);
    let bad = bad(Some(failover()), &readings);
    assert_eq!(bad.len(), 1, "{bad:#?}");
    bad.concat()
}

#[test]
fn nothing_is_said_against_a_good_cluster() {
    let all = found(Some(failover()), &trio());
    assert!(all.iter().all(|it| it.grade == Grade::Ok), "{all:#?}");
    let lines: Vec<_> = all.iter().map(Finding::to_string).collect();
    assert!(lines.contains(&"ok: main/pg1: it is the primary".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"ok: main/pg3: it streams from pg1".to_owned()), "{lines:#?}");
    assert_eq!(bad(None, &trio()), [""; 0]);
}

#[test]
fn a_missing_right_is_named_with_the_sql_that_gives_it() {
    let promote = RIGHTS.iter().position(|right| right.grant.contains("pg_promote"));
    let promote = promote.expect("it takes that");
    let lacking = Access { version: 150_018, superuser: false, lacks: vec![promote] };
    let line = one(|nodes| nodes[1].monitor = Ok(lacking.clone()));
    assert!(
        line.starts_with("error: main/pg2: \"watch\" lacks a right")
            && line.ends_with("pg_catalog.pg_promote(boolean, integer) TO \"watch\""),
        "{line}"
    );
    // Who only watches promotes nobody; another acts.
    let mut other = trio();
    other[1].monitor = Ok(lacking.clone());
    for node in &mut other {
        node.acting = Some(Ok(Access { version: 150_018, ..Access::default() }));
    }
    let acts = Failover { user: Some("acts".to_owned()), ..failover() };
    assert_eq!(bad(Some(acts.clone()), &other), [""; 0]);
    other[2].acting = Some(Ok(lacking));
    let lines = bad(Some(acts), &other);
    assert!(lines.len() == 1 && lines[0].ends_with("TO \"acts\""), "{lines:#?}");
}

#[test]
fn whoever_cannot_log_in_is_told_where_to_look() {
    let line = one(|nodes| {
        nodes[2].monitor = Err("password authentication failed\nfor user".to_owned());
        nodes[2].facts = Err("the same".to_owned());
    });
    assert!(line.starts_with("error: main/pg3: \"watch\" cannot log in"), "{line}");
    assert!(line.contains("pg_hba.conf") && !line.contains('\n'), "{line}");
    let line = one(|nodes| {
        nodes[2].monitor = Ok(Access { version: 140_009, ..Access::default() });
    });
    assert!(line.contains("superusers") && line.contains("version 14"), "{line}");
}

#[test]
fn there_is_one_primary_of_one_cluster() {
    let lines = bad(Some(failover()), &[good(true), good(true), good(true)]);
    assert!(lines.len() == 1 && lines[0].contains("all nodes are in recovery"), "{lines:#?}");
    let lines = bad(Some(failover()), &[good(false), good(false), good(true)]);
    assert!(lines.len() == 1 && lines[0].contains("pg1, pg2"), "{lines:#?}");
    let line = one(|nodes| facts(&mut nodes[1]).system = "8".to_owned());
    assert!(line.contains("system_identifier 7 and 8"), "{line}");
}

#[test]
fn settings_that_will_be_missed_are_named() {
    for (name, value, grade) in [
        ("wal_level", "minimal", "error"),
        ("hot_standby", "off", "error"),
        ("max_wal_senders", "1", "error"),
        ("max_wal_senders", "3", "warning"),
        ("max_replication_slots", "1", "error"),
        ("wal_log_hints", "off", "warning"),
        ("wal_keep_size", "0", "warning"),
        ("full_page_writes", "off", "warning"),
        ("recovery_target_timeline", "current", "error"),
        ("recovery_target_lsn", "0/1", "error"),
        ("synchronous_commit", "remote_write", "error"),
        ("max_standby_streaming_delay", "-1", "warning"),
        ("restore_command", "cp", "warning"),
        ("recovery_min_apply_delay", "60000", "warning"),
        ("fsync", "off", "warning"),
    ] {
        let line = one(|nodes| set(&mut nodes[1], name, value));
        assert!(line.starts_with(&format!("{grade}: main/pg2: ")), "{line}");
        assert!(line.contains(name) || name == "fsync", "{name}: {line}");
    }
    let line = one(|nodes| {
        facts(&mut nodes[0]).overrides.push(("off".to_owned(), "role app".to_owned()));
    });
    assert!(line.contains("role app has synchronous_commit = off"), "{line}");
    let mut slow = trio();
    set(&mut slow[2], "wal_retrieve_retry_interval", "5000");
    let all = found(Some(failover()), &slow);
    let hint = all.iter().find(|it| it.text.contains("wal_retrieve_retry_interval is 5000 ms"));
    assert_eq!(hint.map(|it| it.grade), Some(Grade::Ok));
}

#[test]
fn a_standby_that_does_not_follow_as_it_should_is_named() {
    let line = one(|nodes| facts(&mut nodes[1]).receives = false);
    assert!(line.starts_with("error: main/pg2: it does not stream"), "{line}");
    let line = one(|nodes| set(&mut nodes[1], "primary_conninfo", "host=db1 port=5001"));
    assert!(line.contains("peer_address = \"db1:5001\""), "{line}");
    let line = one(|nodes| facts(&mut nodes[1]).replay = "paused".to_owned());
    assert!(line.contains("pg_wal_replay_resume"), "{line}");
    // One of two is enough for a quorum of one; none is not.
    let line = one(|nodes| facts(&mut nodes[0]).followers = vec!["pg2".to_owned()]);
    assert!(line.starts_with("warning: main/pg3: ") && line.contains("cluster_name"), "{line}");
    let mut readings = trio();
    facts(&mut readings[0]).followers = vec!["walreceiver".to_owned(), "walreceiver".to_owned()];
    let lines = bad(Some(failover()), &readings);
    let errors = lines.iter().filter(|line| line.starts_with("error: ")).count();
    assert!(errors == 2 && lines[0].contains("without end"), "{lines:#?}");
    let asynchronous = Failover { durability: Durability::Async, only_path: true, ..failover() };
    assert_eq!(bad(Some(asynchronous), &readings), [""; 0]);
}

#[test]
fn what_this_machine_lacks_is_an_error() {
    let here = Here {
        folder: Some("there is no folder /x".to_owned()),
        commands: vec![("fence_command", Some("/x is not there".to_owned()))],
    };
    let all = cluster(&monitor(), &main(Some(failover())), &trio(), Some(&here));
    let errors: Vec<_> = all.iter().filter(|it| it.grade == Grade::Error).collect();
    assert!(errors.len() == 2 && errors.iter().all(|it| it.place == "main"), "{errors:#?}");
    let alone = Failover { durability: Durability::Async, ..failover() };
    let lines = bad(Some(alone), &trio());
    assert!(lines.len() == 1 && lines[0].contains("only_path"), "{lines:#?}");
}
