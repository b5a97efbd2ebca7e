//! Where the nodes stand, as the monitor has seen them.

use crate::clock;
use crate::control::monitor::{Answer, Hears};
use crate::control::{Control, State};
use pgring_logic::config::Reads;
use pgring_logic::mail::Mail;
use pgring_logic::topology::{Lsn, Role, Standing};
use std::sync::Arc;
use std::time::Duration;

/// How long nodes are asked more often after a read waited for one.
const HURRY: Duration = Duration::from_secs(1);

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
        let track = tracks.entry(Arc::clone(&target.cluster)).or_default();
        let standings = topology.clusters.entry(Arc::clone(&target.cluster)).or_default();
        let primary = standings.values().find(|it| it.role == Role::Primary).map(|it| it.asked);
        let standing = standings.entry(Arc::clone(&target.node)).or_default();
        let role = answer.as_ref().ok().map(|answer| (answer.role, answer.hears));
        match answer {
            Ok(Answer { role, lsn, end, asked, lost, address, hears: _ }) => {
                if role == Role::Primary {
                    track.mark(now, lsn);
                }
                let (lag_bytes, lag) = track.lag(now, lsn);
                // What is seen of the primary is a little old, and older where it does not answer.
                // What stays ahead of it has lines of a log that this primary does not have, and
                // never will.
                let fresh = primary.is_some_and(|asked| now.since(asked) < patience);
                let leads = role == Role::Standby && lsn > track.last() && track.last() > Lsn(0);
                let ahead = (leads && fresh).then(|| standing.ahead.unwrap_or(now));
                let other = ahead.is_some_and(|since| now.since(since) > patience);
                let error = other.then(|| "it is ahead of the primary, and follows another".into());
                let stood = standing.role == Role::Standby && standing.error.is_none();
                let since = if stood { standing.since } else { now };
                let (weight, zone) = (node.weight, Arc::from(&*node.zone));
                *standing = Standing {
                    role,
                    lsn,
                    end,
                    asked,
                    lost,
                    lag_bytes,
                    lag,
                    address,
                    since,
                    weight,
                    zone,
                    ahead,
                    error,
                    health: standing.health,
                    sockets: standing.sockets,
                };
            }
            Err(error) => {
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
        let routed = routed.any(|it| it.routing.reads == Reads::Replicas)
            || !state.config.listen_readonly.is_empty();
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
