//! What an operator may want of a cluster.

use crate::action::Level;
use crate::failover::act::View;
use crate::failover::{Action, At, Failover, Out, Stage, Wish};
use crate::record::State;
use std::sync::Arc;

/// Something an operator wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Another primary, with nothing lost and nobody disconnected.
    Switchover {
        /// The node.
        to: Arc<str>,
        /// Only say what would happen.
        dry: bool,
    },
    /// Another primary, whatever is lost.
    Failover {
        /// The node.
        to: Arc<str>,
        /// The name of the cluster: said to be sure.
        force: Option<Arc<str>>,
        /// Only say what would happen.
        dry: bool,
    },
    /// A node that was a primary is made a standby.
    Rejoin {
        /// The node.
        node: Arc<str>,
        /// Only say what would happen.
        dry: bool,
    },
    /// No automatic changes, or some again.
    Pause(bool),
    /// What a node is, whatever the record says.
    Override {
        /// The node.
        node: Arc<str>,
        /// What it is.
        role: Override,
        /// Only say what would happen.
        dry: bool,
    },
}

/// What an operator says a node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Override {
    /// The primary.
    Primary,
    /// Nothing that may be used.
    None,
    /// What it says itself: it leaves the quarantine.
    Default,
}

/// What the operator hears: lines, or why not.
pub type Reply = Result<Vec<String>, String>;

impl Failover {
    /// An operator wants something.
    pub(super) fn verb(&mut self, at: At, ticket: u64, user: &str, verb: &Verb, out: &mut Out) {
        let reply = if self.kept.is_none() {
            Err("the record has not been read yet".to_owned())
        } else {
            match verb {
                Verb::Switchover { to, dry } => {
                    self.node(to).and_then(|to| self.switch(at, (ticket, to, *dry), out))
                }
                Verb::Failover { to, force, dry } => {
                    let force = force.as_deref();
                    self.node(to).and_then(|to| self.force(at, (ticket, to, *dry), force, out))
                }
                Verb::Rejoin { node, dry } => {
                    self.node(node).and_then(|node| self.come_back((ticket, node, *dry), out))
                }
                Verb::Pause(pause) => Ok(Some(self.pause_failover(*pause, user))),
                Verb::Override { node, role, dry } => {
                    self.node(node).and_then(|node| self.set_role(at, node, *role, *dry, out))
                }
            }
        };
        match reply {
            Ok(None) => {}
            Ok(Some(lines)) => out.push(Action::Reply(ticket, Ok(lines))),
            Err(reason) => out.push(Action::Reply(ticket, Err(reason))),
        }
    }

    fn node(&self, name: &str) -> Result<usize, String> {
        let names: Vec<_> = self.members.iter().map(|member| &*member.name).collect();
        let known = names.join(", ");
        self.place(name).ok_or_else(|| format!("there is no node {name:?}; there is {known}"))
    }

    fn switch(
        &mut self,
        at: At,
        (ticket, to, dry): (u64, usize, bool),
        out: &mut Out,
    ) -> Result<Option<Vec<String>>, String> {
        let behind = self.is_ready_for(at, to)?;
        let (from, name) = (self.record.primary.clone(), self.members[to].name.to_string());
        if dry {
            let stop = if self.settings.stop_command.is_empty() {
                "its sessions would be ended and new ones only read"
            } else {
                "it would be stopped by failover.stop_command"
            };
            let after = if self.settings.rejoin_command.is_empty() {
                format!("{from} would have to be made a standby by hand")
            } else {
                format!("{from} would be made a standby by failover.rejoin_command")
            };
            return Ok(Some(vec![
                format!("what has begun on {from} would get {:?} to end", self.settings.drain),
                format!("{from}: {stop}"),
                format!("{name}, {behind} bytes behind now, would receive the rest: 0 bytes lost"),
                format!("{name} would be promoted; all others would follow it"),
                after,
            ]));
        }
        self.wish = Some(Wish { ticket, to });
        self.plan(to, out);
        Ok(None)
    }

    fn force(
        &mut self,
        at: At,
        (ticket, to, dry): (u64, usize, bool),
        force: Option<&str>,
        out: &mut Out,
    ) -> Result<Option<Vec<String>>, String> {
        let (from, name) = (self.record.primary.clone(), self.members[to].name.to_string());
        if self.primary() == Some(to) && self.record.state == State::Normal {
            return Err(format!("{name} is the primary"));
        }
        let view = self.fresh(at.now, to).ok_or_else(|| format!("{name} does not answer"))?;
        if !view.recovery {
            return Err(format!("{name} is not in recovery: nothing is to be promoted there"));
        }
        if from.is_empty() {
            return Err(format!("nobody was a primary yet: {}", self.status));
        }
        if view.system.to_string() != self.record.system {
            return Err(format!("{name} has another system_identifier"));
        }
        if view.timeline != self.record.timeline {
            let (timeline, known) = (view.timeline, self.record.timeline);
            return Err(format!("{name} is on timeline {timeline}, {from} was on {known}"));
        }
        if self.record.state == State::Promoting && *self.record.candidate == *name {
            return Err(format!("{name} is becoming the primary already"));
        }
        let (end, known) = (view.end, self.last());
        let lost = known.0.saturating_sub(end.0);
        if dry {
            return Ok(Some(vec![
                format!("all connections to {from} would be ended"),
                format!(
                    "standbys would stop to receive; {name} is at {end}, {from} was at {known}"
                ),
                format!("{lost} bytes of the log would be lost, and what came after {known}"),
                format!("{name} would be promoted; all others would follow it"),
                format!("{from} would be shut out until REJOIN {from}"),
            ]));
        }
        if force != Some(&*self.cluster) {
            return Err(format!(
                "up to {lost} bytes of the log are lost, and what came after {known}; to do it all \
                 the same say FAILOVER TO {name} FORCE '{}'",
                self.cluster
            ));
        }
        self.fail_wish("somebody has forced a failover", out);
        self.abandon_candidate();
        self.wish = Some(Wish { ticket, to });
        self.record.quarantine.remove(&name);
        self.declare(at, &format!("FAILOVER TO {name} FORCE"), Some(to), out);
        self.record.forced = true;
        Ok(None)
    }

    fn come_back(
        &mut self,
        (ticket, node, dry): (u64, usize, bool),
        out: &mut Out,
    ) -> Result<Option<Vec<String>>, String> {
        let name = self.members[node].name.to_string();
        if self.record.state != State::Normal {
            return Err(format!("the cluster is {}: {}", self.record.state, self.status));
        }
        if self.members[node].streaming.is_some() {
            return Err(format!("{name} follows {} already", self.record.primary));
        }
        if dry {
            if self.primary() == Some(node) {
                return Err(format!("{name} is the primary"));
            }
            let view = self.view(node).map(|view| view.end);
            let end = view.unwrap_or_default().0.saturating_sub(self.record.switch_lsn.0);
            let (primary, lsn) = (&self.record.primary, self.record.switch_lsn);
            return Ok(Some(vec![
                format!("failover.rejoin_command would make {name} a standby of {primary}"),
                format!("its own log behind {lsn}, {end} bytes as last seen, would be put aside"),
            ]));
        }
        self.rejoin_node(node, Some(ticket), out).map(|()| None)
    }

    fn pause_failover(&mut self, pause: bool, user: &str) -> Vec<String> {
        self.record.paused = if pause { user.to_owned() } else { String::new() };
        let what = if pause { "no failover by itself" } else { "failover by itself again" };
        vec![format!("{}: {what}", self.cluster)]
    }

    fn set_role(
        &mut self,
        at: At,
        node: usize,
        role: Override,
        dry: bool,
        out: &mut Out,
    ) -> Result<Option<Vec<String>>, String> {
        let name = self.members[node].name.to_string();
        let primary = self.primary() == Some(node) && self.record.state == State::Normal;
        match role {
            Override::Primary => {
                if primary {
                    return Err(format!("{name} is the primary"));
                }
                if !matches!(self.record.state, State::Normal | State::Conflict) {
                    return Err(format!("the cluster is {}", self.record.state));
                }
                let view = self.fresh(at.now, node).cloned();
                let view = view.ok_or_else(|| format!("{name} does not answer"))?;
                if view.recovery {
                    return Err(format!("{name} is in recovery: say FAILOVER TO {name}"));
                }
                if !self.record.system.is_empty() && view.system.to_string() != self.record.system {
                    return Err(format!("{name} has another system_identifier"));
                }
                if dry {
                    return Ok(Some(vec![format!(
                        "all connections to {:?} would be ended, and writes go to {name}, \
                         timeline {}",
                        self.record.primary, view.timeline
                    )]));
                }
                self.fail_wish("an operator has said who is the primary", out);
                self.appoint_by_hand(at, &name, &view);
            }
            Override::Default if !matches!(self.record.state, State::Normal | State::Conflict) => {
                return Err(format!("the cluster is {}", self.record.state));
            }
            Override::Default if !primary && self.is_alone(at, node) => {
                return Err(format!("{name} is not in recovery: say REJOIN {name}"));
            }
            Override::None if primary => return Err(format!("{name} is the primary")),
            Override::None if !dry => {
                let view = self.view(node).cloned().unwrap_or_default();
                self.quarantine(&name, "an operator said so", &view, true);
            }
            Override::Default if !dry => {
                self.record.quarantine.remove(&name);
            }
            Override::None => {
                return Ok(Some(vec![format!("{name} would get nothing, reads included")]));
            }
            Override::Default => {
                return Ok(Some(vec![format!("{name} would get reads if it follows")]));
            }
        }
        Ok(Some(vec![format!("{name}: done")]))
    }

    /// Whether a node says that it follows nobody.
    fn is_alone(&self, at: At, node: usize) -> bool {
        self.fresh(at.now, node).is_some_and(|view| !view.recovery)
    }

    fn appoint_by_hand(&mut self, at: At, name: &str, view: &View) {
        if *self.record.candidate != *name {
            self.abandon_candidate();
        }
        let old = self.record.primary.clone();
        // Nobody knows who has acknowledged its commits: perhaps nobody.
        self.record.synchronous.quorum = 0;
        self.record.system = view.system.to_string();
        self.record.started = at.unix;
        self.record.reason = format!("SET ROLE OVERRIDE {name} primary");
        self.begun = at.now;
        for other in 0..self.members.len() {
            let (its, known) = (self.members[other].name.to_string(), self.view(other).cloned());
            let known = known.unwrap_or_default();
            if its != name && (its == old || !known.recovery) {
                // Its timeline may be taken again by who is promoted next (trap 17).
                let rebuild = known.timeline > view.timeline;
                self.quarantine(&its, "another was made the primary by hand", &known, rebuild);
            }
        }
        self.stage = Stage::Rest;
        self.enthrone(at, name, view, "override");
    }

    /// What an operator waits for is done.
    pub(super) fn grant_wish(&mut self, primary: usize, line: &str, out: &mut Out) {
        match self.wish.take() {
            Some(Wish { ticket, to }) if to == primary => {
                out.push(Action::Reply(ticket, Ok(vec![line.to_owned()])));
            }
            Some(Wish { ticket, .. }) => out.push(Action::Reply(ticket, Err(line.to_owned()))),
            None => {}
        }
    }

    /// It will not be.
    pub(super) fn fail_wish(&mut self, reason: &str, out: &mut Out) {
        match self.wish.take() {
            Some(Wish { ticket, .. }) => out.push(Action::Reply(ticket, Err(reason.to_owned()))),
            None => out.push(Action::Note(Level::Debug, reason.to_owned())),
        }
    }
}
