//! Where the nodes stand, as the monitor has seen them.

use crate::clock;
use crate::control::monitor::{Answer, Hears};
use crate::control::{Control, State};
use pgring_logic::mail::Mail;
use pgring_logic::time::Instant;
use pgring_logic::topology::gate::Writes;
use pgring_logic::topology::{Role, Standing, Standings};
use std::sync::Arc;
use std::time::Duration;

/// How long nodes are asked more often after a read waited for one.
const HURRY: Duration = Duration::from_secs(1);

/// Why a standby gets no reads.
const AHEAD: &str = "it is ahead of the primary, and follows another";
/// Why what is not in recovery is not the primary.
const NOT_OURS: &str = "it is not in recovery, and not the primary of the record";

/// Whether a node that is not in recovery is the one that is written to. Where pgring does not
/// decide on that, it is.
fn is_open(gate: Option<&Writes>, node: &str) -> bool {
    match gate {
        None => true,
        Some(Writes::Open(open)) => **open == *node,
        Some(Writes::Drain | Writes::Shut) => false,
    }
}

/// What standbys had replayed before the primary was asked for its place is behind that, or from a
/// log that this primary does not have and never will.
fn compare(standings: &mut Standings, primary: &Answer, (now, patience): (Instant, Duration)) {
    let before = |it: &&mut Standing| it.role == Role::Standby && it.answered < primary.asked;
    for standing in standings.values_mut().filter(before) {
        let leads = standing.lsn > primary.lsn;
        standing.ahead = leads.then(|| standing.ahead.unwrap_or(now));
        if standing.ahead.is_some_and(|since| now.since(since) > patience) {
            standing.error = Some(AHEAD.to_owned());
        } else if standing.error.as_deref() == Some(AHEAD) {
            standing.error = None;
        }
    }
}

impl Control {
    /// A node has told where it stands, or does not answer.
    pub(super) fn see(&self, place: usize, answer: Result<Answer, String>) {
        let now = clock::now();
        let mut state = self.state.borrow_mut();
        let Some(target) = state.senses.target(place).cloned() else { return };
        let State { config, topology, tracks, .. } = &mut *state;
        let cluster = config.clusters.iter().find(|cluster| *cluster.name == *target.cluster);
        let nodes = cluster.map_or(&[][..], |cluster| &cluster.nodes);
        let Some(node) = nodes.iter().find(|node| *node.name == *target.node) else { return };
        let patience = 2 * config.monitor.interval;
        let gate = topology.gates.get(&target.cluster).map(|gate| &gate.writes);
        let track = tracks.entry(Arc::clone(&target.cluster)).or_default();
        let standings = topology.clusters.entry(Arc::clone(&target.cluster)).or_default();
        let role = answer.as_ref().ok().map(|answer| (answer.role, answer.hears));
        match answer {
            Ok(answer) => {
                let written = answer.role == Role::Primary && is_open(gate, &target.node);
                if written {
                    track.mark(now, answer.lsn);
                    compare(standings, &answer, (now, patience));
                }
                let standing = standings.entry(Arc::clone(&target.node)).or_default();
                let (lag_bytes, lag) = track.lag(now, answer.lsn);
                let ahead = standing.ahead.filter(|_| answer.role == Role::Standby);
                let other = ahead.is_some_and(|since| now.since(since) > patience);
                let error = match answer.role {
                    Role::Standby if other => Some(AHEAD.to_owned()),
                    Role::Primary if !written => Some(NOT_OURS.to_owned()),
                    Role::Unknown | Role::Primary | Role::Standby => None,
                };
                let stood = standing.role != Role::Unknown && standing.error.is_none();
                *standing = Standing {
                    role: answer.role,
                    lsn: answer.lsn,
                    end: answer.end,
                    asked: answer.asked,
                    answered: now,
                    lost: answer.lost,
                    lag_bytes,
                    lag,
                    address: answer.address,
                    since: if stood { standing.since } else { now },
                    weight: node.weight,
                    zone: Arc::from(&*node.zone),
                    ahead,
                    error,
                    health: standing.health,
                    sockets: standing.sockets,
                };
            }
            Err(error) => {
                let standing = standings.entry(Arc::clone(&target.node)).or_default();
                if standing.error.as_ref() != Some(&error) {
                    tracing::warn!(node = node.name, error, "a node does not tell where it stands");
                }
                standing.role = Role::Unknown;
                standing.error = Some(error);
            }
        }
        let witnessed = standings.iter().find(|(_, it)| it.role == Role::Primary);
        let witnessed = witnessed.map(|(name, _)| Arc::clone(name));
        drop(state);
        self.sighted.notify_waiters();
        if let Some((role, hears)) = role {
            self.set_primary(place, role == Role::Primary);
            match (witnessed, hears) {
                (None, _) | (_, Hears::Unknown) => {}
                (Some(name), Hears::Nothing) => self.witness(place, &name, None),
                (Some(name), Hears::Ago(time)) => self.witness(place, &name, Some(time)),
            }
        }
        self.tell_routers();
    }

    /// Lanes that route hear where the nodes stand.
    fn tell_routers(&self) {
        let state = self.state.borrow();
        let mut routed = state.config.databases.iter();
        let routed =
            routed.any(|it| it.routing.reads.leave()) || !state.config.listen_readonly.is_empty();
        let topology = routed.then(|| Arc::new(state.topology.clone()));
        drop(state);
        let Some(topology) = topology else { return };
        for core in self.cores() {
            self.post(core, Mail::Topology(Arc::clone(&topology)));
        }
    }

    /// Reads wait for replicas: these are asked more often for a while.
    pub(super) fn hurry(&self) {
        let mut state = self.state.borrow_mut();
        state.hurry = Some(clock::now() + HURRY);
        let pace = state.config.monitor.interval_busy.min(state.config.monitor.interval);
        self.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
    }

    /// They no longer do.
    pub(super) fn calm_down(&self) {
        let mut state = self.state.borrow_mut();
        if state.hurry.is_some_and(|until| until <= clock::now()) {
            state.hurry = None;
            self.pace.send_replace(state.config.monitor.interval);
        }
    }
}
