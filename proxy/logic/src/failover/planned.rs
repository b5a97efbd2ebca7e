//! A planned change of the primary: what has begun ends, the primary stops with everything sent to
//! its standbys, and one of them takes over. Up to that nothing is lost by giving up.

use crate::failover::act::{Act, Done, Hook, View};
use crate::failover::{At, Failover, Out, Stage};
use crate::record::State;
use crate::time::Duration;
use std::collections::BTreeSet;

/// How far a standby may be behind for a planned change, in bytes of the log.
const LAG_BYTES_MAX: u64 = 1024 * 1024;
/// How long the candidate may take to receive the rest.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

impl Failover {
    /// Why a planned change to this node cannot be; or the end of the log that it lacks.
    pub(super) fn is_ready_for(&self, at: At, target: usize) -> Result<u64, String> {
        let name = &self.members[target].name;
        let Some(primary) = self.primary() else { return Err("there is no primary".to_owned()) };
        if self.record.state != State::Normal {
            return Err(format!("the cluster is {}: {}", self.record.state, self.status));
        }
        if self.stage != Stage::Rest || self.held.is_some() {
            return Err("something else is under way".to_owned());
        }
        if primary == target {
            return Err(format!("{name} is the primary"));
        }
        if let Some(why) = self.record.quarantine.get(&**name) {
            return Err(format!("{name} is in quarantine: {}", why.reason));
        }
        if !self.members[primary].health.verdict.serves() {
            return Err(format!(
                "{} is {}",
                self.record.primary, self.members[primary].health.verdict
            ));
        }
        let (Some(old), Some(new)) = (self.fresh(at.now, primary), self.fresh(at.now, target))
        else {
            return Err(format!("{} or {name} does not answer", self.record.primary));
        };
        if self.members[target].streaming.is_none() {
            return Err(format!("{name} does not receive from {}", self.record.primary));
        }
        if let Some(why) = &new.unfit {
            return Err(format!("{name}: {why}"));
        }
        let (behind, replay) = (behind(name, old, new), new.end.0.saturating_sub(new.replayed.0));
        if behind.max(replay) > LAG_BYTES_MAX {
            return Err(format!("{name} is {behind} bytes behind and has {replay} to replay"));
        }
        let fence = !self.settings.stop_command.is_empty()
            || self.settings.only_path
            || self.record.synchronous.fence().is_some();
        if !fence {
            return Err(format!(
                "nothing keeps {} from being written to: give a stop_command, or declare \
                 failover.only_path",
                self.record.primary
            ));
        }
        Ok(behind)
    }

    /// S1: checkpoints, so that nothing takes long afterwards.
    pub(super) fn plan(&mut self, target: usize, out: &mut Out) {
        let mut left = BTreeSet::new();
        for node in self.primary().into_iter().chain([target]) {
            left.insert(self.act(node, Act::Checkpoint, out));
        }
        self.stage = Stage::Preflight { left, target };
    }

    /// Whether a planned change is being prepared. When it is ready it begins.
    pub(super) fn preflight(&mut self, at: At, out: &mut Out) -> bool {
        let Stage::Preflight { left, target } = &self.stage else { return false };
        let target = *target;
        self.status = format!("{} is being made ready", self.members[target].name);
        if !left.is_empty() {
            return false;
        }
        self.stage = Stage::Rest;
        if let Err(reason) = self.is_ready_for(at, target) {
            self.fail_wish(&reason, out);
            return false;
        }
        let record = &mut self.record;
        record.state = State::Switching;
        record.epoch += 1;
        record.candidate = self.members[target].name.to_string();
        record.started = at.unix;
        record.reason = format!("SWITCHOVER TO {}", record.candidate);
        record.steps.clear();
        record.stop_issued = false;
        record.stopped = false;
        record.forced = false;
        self.begun = at.now;
        self.asked_to_stop = None;
        self.target = None;
        self.frozen.clear();
        for node in 0..self.members.len() {
            if self.primary() != Some(node) {
                self.note_source(node);
            }
        }
        self.stage = Stage::Draining { epoch: 0, until: at.now + self.settings.drain };
        true
    }

    /// One look at where it is.
    pub(super) fn switching(&mut self, at: At, out: &mut Out) {
        self.status = self.record.reason.clone();
        match &self.stage {
            Stage::Rest if !self.record.stop_issued => {
                // This process has just started: nothing has been done to the primary yet.
                self.give_up(at, "it was interrupted", out);
            }
            Stage::Rest => self.fall_over(at),
            Stage::Draining { until, .. } if at.now >= *until => {
                self.give_up(at, "what had begun did not end in time (failover.drain)", out);
            }
            Stage::Reading { .. } if self.is_primary_lost() => {
                self.give_up(at, "the primary does not answer", out);
            }
            Stage::CatchingUp { until } => {
                let late = at.now >= *until;
                let there = self.target.zip(self.place(&self.record.candidate));
                let there = there.is_some_and(|(target, node)| {
                    self.view(node).is_some_and(|view| view.end >= target)
                });
                if there {
                    self.step(at, "catch up");
                }
                if there || late {
                    self.fall_over(at);
                }
            }
            Stage::Draining { .. }
            | Stage::Reading { .. }
            | Stage::Stopping { .. }
            | Stage::Vacating { .. }
            | Stage::Freezing { .. }
            | Stage::Ending { .. }
            | Stage::Stuck { .. }
            | Stage::Preparing { .. }
            | Stage::Promoting { .. }
            | Stage::Verifying { .. }
            | Stage::Proving { .. }
            | Stage::Preflight { .. } => {}
        }
        if self.stage == (Stage::Reading { number: 0 }) && self.is_saved() {
            self.read_end(out);
        }
        if self.stage == (Stage::Stopping { number: 0 }) && self.is_saved() {
            self.stop(out);
        }
    }

    fn is_primary_lost(&self) -> bool {
        self.primary().is_none_or(|node| !self.members[node].health.verdict.serves())
    }

    /// S3: nobody writes to it any more.
    pub(super) fn drained(&mut self, at: At) {
        self.step(at, "drain");
        self.stage = Stage::Reading { number: 0 };
    }

    fn read_end(&mut self, out: &mut Out) {
        let Some(primary) = self.primary() else { return };
        let number = self.act(primary, Act::Look, out);
        self.stage = Stage::Reading { number };
    }

    /// S4: it stops, and with that sends all it has; where there is no command for it, its sessions
    /// are ended.
    fn stop(&mut self, out: &mut Out) {
        let Some(primary) = self.primary() else { return };
        let act = if self.settings.stop_command.is_empty() {
            Act::Kick
        } else {
            Act::Command(Hook::Stop)
        };
        let number = self.act(primary, act, out);
        self.stage = Stage::Stopping { number };
    }

    /// Something that was asked for during a planned change has ended.
    pub(super) fn planned_done(
        &mut self,
        at: At,
        number: u64,
        node: usize,
        done: Done,
        out: &mut Out,
    ) {
        if let Stage::Preflight { left, .. } = &mut self.stage {
            if !left.remove(&number) {
                return;
            }
            if let Done::Failed { reason, .. } = done {
                let reason = format!("{}: checkpoint: {reason}", self.members[node].name);
                self.stage = Stage::Rest;
                self.fail_wish(&reason, out);
            }
        } else if self.stage == (Stage::Reading { number }) {
            match done {
                Done::Seen(view) => self.read(&view, at, out),
                Done::Well => {}
                Done::Failed { reason, .. } => self.give_up(at, &reason, out),
            }
        } else if self.stage == (Stage::Stopping { number }) {
            if let Done::Failed { reason, .. } = &done {
                let text = format!("stop_command: {reason}");
                out.push(super::Action::Note(crate::action::Level::Warn, text));
            } else {
                self.record.stopped = !self.settings.stop_command.is_empty();
            }
            self.asked_to_stop = Some(at.now);
            self.step(at, "stop");
            self.stage = Stage::CatchingUp { until: at.now + CATCH_UP_MAX };
            for member in &mut self.members {
                member.next_look = at.now;
            }
        }
    }

    fn read(&mut self, view: &View, at: At, out: &mut Out) {
        if !self.is_the_primary(view) {
            return self.give_up(at, "it is not the primary of the record", out);
        }
        self.target = Some(view.end);
        self.record.stop_issued = true;
        self.stage = Stage::Stopping { number: 0 };
    }

    /// S6: from here on it is as if the primary had failed, only that its standbys have all.
    fn fall_over(&mut self, at: At) {
        self.record.state = State::Fencing;
        self.record.epoch += 1;
        self.stage = Stage::Vacating { epoch: 0 };
        for member in &mut self.members {
            member.busy = None;
            member.next_look = at.now;
        }
    }
}

/// How much of the log a standby lacks. It is looked at at another time than its primary, which
/// writes a lot in between: what counts is what the primary knew of it when its own end was seen.
fn behind(name: &str, primary: &View, standby: &View) -> u64 {
    let known = primary.followers.iter().find(|it| *it.name == *name).map(|it| it.flushed);
    let has = known.unwrap_or_default().max(standby.end);
    primary.end.0.saturating_sub(has.0)
}

#[cfg(test)]
mod tests {
    use super::behind;
    use crate::failover::act::{Follower, View};
    use crate::topology::Lsn;

    /// Seen by the rig: a SWITCHOVER under load was refused, because the standby had been looked at
    /// 0.9 s before its primary.
    #[test]
    fn a_standby_that_was_seen_earlier_is_not_behind_for_that() {
        let follower = |name: &str, flushed| Follower {
            name: name.into(),
            streaming: true,
            flushed: Lsn(flushed),
        };
        let followers = vec![follower("pg2", 9_990), follower("pg3", 5_000)];
        let primary = View { end: Lsn(10_000), followers, ..View::default() };
        let seen = |end| View { end: Lsn(end), ..View::default() };
        assert_eq!(behind("pg2", &primary, &seen(1_000)), 10);
        assert_eq!(behind("pg3", &primary, &seen(1_000)), 5_000);
        assert_eq!(behind("pg3", &primary, &seen(20_000)), 0, "it was seen later");
        assert_eq!(behind("pg4", &primary, &seen(1_000)), 9_000, "by another name");
    }
}
