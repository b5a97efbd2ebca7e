//! Where the nodes stand and how they are: the rows of `SHOW NODES`.

use crate::admin::settings;
use crate::admin::show::{Cell, Column, int, long, number, text, word};
use crate::admin::world::World;
use crate::mail::ServerReport;
use crate::topology::Role;
use std::time::Duration;

pub(super) const NODES: [Column; 23] = [
    text("cluster"),
    text("node"),
    text("address"),
    text("resolved"),
    int("servers"),
    int("servers_active"),
    int("servers_idle"),
    text("role"),
    text("lsn"),
    long("lag_bytes"),
    text("lag"),
    text("error"),
    text("verdict"),
    text("damped"),
    long("connect_us"),
    long("round_trip_us"),
    long("round_trip_min_us"),
    long("variation_us"),
    long("unacknowledged"),
    long("retransmits"),
    long("timeouts"),
    long("resets"),
    long("errors"),
];

pub(super) fn rows(world: &World<'_>) -> Vec<Vec<Cell>> {
    let config = world.config;
    let mut rows = Vec::new();
    for cluster in &config.clusters {
        let standings = world.topology.clusters.get(&*cluster.name);
        for node in &cluster.nodes {
            let standing = standings.and_then(|nodes| nodes.get(&*node.name));
            let standing = standing.cloned().unwrap_or_default();
            let seen = standing.role != Role::Unknown;
            let sockets = standing.sockets;
            let lag = u64::try_from(standing.lag.as_millis()).unwrap_or(u64::MAX);
            let lag = humantime::format_duration(Duration::from_millis(lag));
            let here = |server: &&ServerReport| {
                server.node == node.name
                    && config
                        .database(&server.pool.database)
                        .is_some_and(|database| database.cluster.name == cluster.name)
            };
            let count = |state: Option<&str>| {
                let servers = world.servers().filter(here);
                number(servers.filter(|server| state.is_none_or(|it| it == server.state)).count())
            };
            rows.push(vec![
                word(&*cluster.name),
                word(&*node.name),
                word(&*node.address),
                word(settings::resolved(node)),
                count(None),
                count(Some("active")),
                count(Some("idle")),
                word(standing.role.to_string()),
                seen.then(|| standing.lsn.to_string()),
                seen.then(|| standing.lag_bytes.to_string()),
                seen.then(|| lag.to_string()),
                standing.error,
                word(standing.health.verdict.name()),
                word(if standing.health.damped { "yes" } else { "no" }),
                number(sockets.connect.as_micros()),
                number(sockets.round_trip.as_micros()),
                number(sockets.round_trip_min.as_micros()),
                number(sockets.variation.as_micros()),
                number(sockets.unacknowledged),
                number(sockets.retransmits),
                number(sockets.timeouts),
                number(sockets.resets),
                number(sockets.errors),
            ]);
        }
    }
    rows
}
