//! Making the candidate the primary: steps F8 to F12.

use crate::action::Level;
use crate::failover::act::{Act, Done, Hook, View, target};
use crate::failover::slot::slot_name;
use crate::failover::watch::PATIENCE;
use crate::failover::{Action, At, Failover, Out, Stage};
use crate::record::Quarantine;
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;

/// What has failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);

impl Failover {
    /// One look at where it is.
    pub(super) fn promoting(&mut self, at: At, out: &mut Out) {
        if !self.is_saved() {
            // Nothing is asked of the candidate that the record does not know of.
            return;
        }
        let Some(candidate) = self.place(&self.record.candidate) else {
            let name = self.record.candidate.clone();
            return self.conflict(&format!("the candidate, {name}, is not in the configuration"));
        };
        match self.stage {
            Stage::Stuck { until } if at.now < until => return,
            Stage::Rest | Stage::Stuck { .. } => self.prepare(candidate, out),
            Stage::Preparing { .. }
            | Stage::Promoting { .. }
            | Stage::Verifying { .. }
            | Stage::Proving { .. } => {}
            Stage::Vacating { .. }
            | Stage::Freezing { .. }
            | Stage::Ending { .. }
            | Stage::Preflight { .. }
            | Stage::Draining { .. }
            | Stage::Reading { .. }
            | Stage::Stopping { .. }
            | Stage::CatchingUp { .. } => self.stage = Stage::Rest,
        }
        self.status = format!("{} is becoming the primary", self.record.candidate);
    }

    /// Whoever may acknowledge its commits is said before it writes the first; and so are the
    /// slots from which the others will receive.
    fn prepare(&mut self, candidate: usize, out: &mut Out) {
        let (mut left, mut slots) = (BTreeSet::new(), 0);
        if self.settings.slots {
            let others = self.members.iter().enumerate().filter(|(node, _)| *node != candidate);
            let names = others.map(|(_, member)| slot_name(&member.name)).collect();
            slots = self.act(candidate, Act::Slots(names), out);
            left.insert(slots);
        }
        if self.is_sync() {
            let wanted = self.synchronous_for(candidate);
            self.promised = wanted.clone();
            left.insert(self.act(candidate, Act::Sync(wanted.setting()), out));
        }
        if self.view(candidate).is_some_and(|view| view.read_only) {
            left.insert(self.act(candidate, Act::Unkick, out));
        }
        self.stage = Stage::Preparing { left, slots };
        if let Stage::Preparing { left, .. } = &self.stage
            && left.is_empty()
        {
            self.promote(candidate, out);
        }
    }

    /// The others already follow it while it becomes the primary.
    fn promote(&mut self, candidate: usize, out: &mut Out) {
        let number = self.act(candidate, Act::Promote(self.settings.promote_timeout), out);
        self.stage = Stage::Promoting { number };
        let old = self.primary();
        // Those too that were never seen, and come back only now.
        for node in 0..self.members.len() {
            let vain = self.record.quarantine.get(&*self.members[node].name);
            if node == candidate || Some(node) == old || vain.is_some_and(|it| it.rebuild) {
                continue;
            }
            self.members[node].told.get_or_insert(self.now);
            let (conninfo, slot) = (self.conninfo(candidate, node), self.slot(node));
            let number = self.act(node, Act::Follow { conninfo, slot }, out);
            self.members[node].busy = Some(number);
        }
    }

    /// Something that was asked for during the promotion has ended.
    pub(super) fn promoting_done(&mut self, at: At, number: u64, done: Done, out: &mut Out) {
        let Some(candidate) = self.place(&self.record.candidate) else { return };
        if let Stage::Preparing { left, slots } = &mut self.stage {
            if !left.remove(&number) {
                return;
            }
            let (over, spare) = (left.is_empty(), *slots == number);
            match done {
                // A primary that not all can receive from is better than none.
                Done::Failed { reason, unknown: false } if spare => {
                    let text = format!("{} has no slots: {reason}", self.record.candidate);
                    out.push(Action::Note(Level::Warn, text));
                    if over {
                        self.promote(candidate, out);
                    }
                }
                Done::Failed { reason, .. } => self.stumble(at, "is not ready", &reason, out),
                Done::Well | Done::Seen(_) if over => self.promote(candidate, out),
                Done::Well | Done::Seen(_) => {}
            }
        } else if self.stage == (Stage::Promoting { number }) {
            // Whatever the answer: how is it?
            let well = match done {
                Done::Well | Done::Seen(_) => true,
                Done::Failed { reason, .. } => {
                    self.stumble(at, "was not promoted, or did not say so", &reason, out);
                    false
                }
            };
            if well {
                self.step(at, "promote");
                let number = self.act(candidate, Act::Look, out);
                self.stage = Stage::Verifying { number };
            }
        } else if self.stage == (Stage::Verifying { number }) {
            match done {
                Done::Seen(view) => self.verify(at, candidate, &view, out),
                Done::Well => {}
                Done::Failed { reason, .. } => self.stumble(at, "does not answer", &reason, out),
            }
        } else if let Stage::Proving { number: awaited, timeline } = self.stage
            && awaited == number
        {
            match done {
                Done::Well | Done::Seen(_) => {
                    self.step(at, "write");
                    self.crown(at, candidate, timeline, out);
                }
                Done::Failed { reason, .. } => {
                    self.dismiss(at.now, candidate);
                    self.stumble(at, "takes no writes", &reason, out);
                }
            }
        }
    }

    /// Standbys that are there, and cannot receive what the candidate writes, are not waited for:
    /// they have more of the old primary's log than it has.
    fn dismiss(&mut self, now: Instant, candidate: usize) {
        for name in self.promised.names.clone() {
            let Some(node) = self.place(&name) else { continue };
            let told = self.members[node].told.is_some_and(|told| now.since(told) >= PATIENCE);
            let Some(view) = self.fresh(now, node).filter(|_| told).cloned() else { continue };
            let aimed = target(&view.conninfo).is_some_and(|to| to == self.members[candidate].peer);
            if view.receiver.is_none() && aimed {
                self.quarantine(&name, "it does not receive from the primary", &view, false);
            }
        }
    }

    /// It is tried again: whatever has been done already is done.
    fn stumble(&mut self, at: At, what: &str, reason: &str, out: &mut Out) {
        let text = format!("cluster {}: {} {what}: {reason}", self.cluster, self.record.candidate);
        out.push(Action::Note(Level::Warn, text));
        self.stage = Stage::Stuck { until: at.now + AGAIN };
    }

    fn verify(&mut self, at: At, candidate: usize, view: &View, out: &mut Out) {
        if view.recovery || view.system.to_string() != self.record.system {
            return self.stumble(at, "is not the primary yet", "it is in recovery", out);
        }
        if view.timeline <= self.record.timeline {
            let timeline = view.timeline;
            let reason = format!("{} writes timeline {timeline}", self.record.candidate);
            return self.conflict(&reason);
        }
        let timeline = view.timeline;
        let number = self.act(candidate, Act::Canary, out);
        self.stage = Stage::Proving { number, timeline };
    }

    /// F10: it is the primary, and everybody may know.
    fn crown(&mut self, at: At, candidate: usize, timeline: u32, out: &mut Out) {
        let name = self.members[candidate].name.to_string();
        let planned = self.record.stop_issued;
        let kind = if planned { "switchover" } else { "failover" };
        let old = self.primary();
        let end = self.view(candidate).map(|view| view.end).unwrap_or_default();
        let view = View { timeline, end, ..View::default() };
        if self.is_sync() {
            self.record.synchronous = std::mem::take(&mut self.promised);
        }
        if !planned {
            let cooldown = self.settings.cooldown;
            self.cooldown = Some(at.now + cooldown);
            self.record.cooldown_until = at.unix / 1_000_000 + cooldown.as_secs();
        }
        self.enthrone(at, &name, &view, kind);
        self.act(candidate, Act::Checkpoint, out);
        if let Some(old) = old.filter(|_| planned && !self.settings.rejoin_command.is_empty()) {
            self.rejoin.insert(old);
        }
        self.grant_wish(candidate, &format!("{name} is the primary, on timeline {timeline}"), out);
    }

    /// A node that was a primary, or lost its way, is made a standby by a command. Never the
    /// primary itself (rule R8).
    pub(super) fn rejoin_node(
        &mut self,
        node: usize,
        ticket: Option<u64>,
        out: &mut Out,
    ) -> Result<(), String> {
        let name = self.members[node].name.to_string();
        if self.settings.rejoin_command.is_empty() {
            return Err("there is no failover.rejoin_command".to_owned());
        }
        if self.primary() == Some(node) || *self.record.candidate == *name {
            return Err(format!("{name} is the primary"));
        }
        if !self.is_saved() {
            return Err("the record is being written; say it again".to_owned());
        }
        if self.rejoins.values().any(|(_, other)| *other == node) {
            return Err(format!("{name} is being made a standby already"));
        }
        let number = self.act(node, Act::Command(Hook::Rejoin), out);
        self.rejoins.insert(number, (ticket.unwrap_or_default(), node));
        self.members[node].busy = Some(number);
        // It is not what it was.
        self.members[node].view = None;
        Ok(())
    }

    /// Whether this was a rejoin: who waits for it is told.
    pub(super) fn rejoined(&mut self, number: u64, done: &Done, out: &mut Out) -> bool {
        let Some((ticket, node)) = self.rejoins.remove(&number) else { return false };
        let name = self.members[node].name.to_string();
        let reply = match done {
            Done::Well | Done::Seen(_) => {
                // It has been built from the primary: what was on it is gone.
                if let Some(known) = self.record.quarantine.get_mut(&name) {
                    known.rebuild = false;
                }
                Ok(vec![format!("{name} is a standby again; it gets reads once it keeps up")])
            }
            Done::Failed { reason, .. } => Err(format!("{name}: {reason}")),
        };
        let text = match &reply {
            Ok(lines) => lines.join(""),
            Err(reason) => format!("rejoin_command: {reason}"),
        };
        out.push(Action::Note(Level::Info, text));
        if ticket > 0 {
            out.push(Action::Reply(ticket, reply));
        }
        true
    }

    /// A candidate that may have been promoted is given up for another.
    pub(super) fn abandon_candidate(&mut self) {
        let name = std::mem::take(&mut self.record.candidate);
        if name.is_empty() || !self.record.promote_issued {
            return;
        }
        let reason = "it may have been promoted in vain: build it anew".to_owned();
        let (epoch, lsn) = (self.record.epoch, self.record.switch_lsn);
        let quarantine = Quarantine { epoch, reason, lsn, rebuild: true };
        self.record.quarantine.insert(name, quarantine);
    }
}
