//! Shutting the old primary out, and choosing the new one: steps F2 to F5.

use crate::action::Level;
use crate::config::FailoverMode;
use crate::failover::act::{Act, Done, Hook, View};
use crate::failover::{Action, At, Failover, Out, Stage};
use crate::record::{Quarantine, State};
use crate::time::{Duration, Instant};
use crate::topology::Lsn;
use crate::topology::gate::Writes;
use std::collections::BTreeMap;

/// How long standbys are waited for that need not be stopped.
const OTHERS: Duration = Duration::from_millis(300);
/// So long another is to be promoted though the primary is well, as an operator has said.
const INSIST: Duration = Duration::from_secs(10);
/// What could not be done is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

impl Failover {
    /// One look at where it is.
    pub(super) fn fencing(&mut self, at: At, out: &mut Out) {
        if self.is_well_again(at.now) {
            return self.give_up(at, "the primary is well again", out);
        }
        match &self.stage {
            // This process has just started: no lane of it has a connection.
            Stage::Rest => self.stage = Stage::Vacating { epoch: 0 },
            Stage::Stuck { until } if at.now >= *until => self.freeze(at, out),
            Stage::Freezing { .. } => self.choose_in_time(at, out),
            Stage::Vacating { .. }
            | Stage::Ending { .. }
            | Stage::Stuck { .. }
            | Stage::Preparing { .. }
            | Stage::Promoting { .. }
            | Stage::Verifying { .. }
            | Stage::Proving { .. }
            | Stage::Preflight { .. }
            | Stage::Draining { .. }
            | Stage::Reading { .. }
            | Stage::Stopping { .. }
            | Stage::CatchingUp { .. } => {}
        }
        if let Stage::Freezing { .. } | Stage::Ending { .. } | Stage::Vacating { .. } = self.stage {
            self.status = format!("{}: {}", self.record.state, self.record.reason);
        }
    }

    /// Whether the old primary does what it should, and nobody has been promoted in its place.
    fn is_well_again(&self, now: Instant) -> bool {
        let Some(primary) = self.primary() else { return false };
        let member = &self.members[primary];
        let since = self.asked_to_stop.unwrap_or(self.begun);
        // Who has only lost its sessions looks well all the time: an operator wants another.
        let wanted = self.record.forced || self.record.stop_issued;
        let as_before = |(asked, view): &(Instant, View)| {
            *asked > since && self.is_the_primary(view) && now.since(*asked) < AGAIN
        };
        (!wanted || now.since(since) >= INSIST)
            && member.health.verdict.serves()
            && member.view.as_ref().is_some_and(as_before)
    }

    pub(super) fn is_the_primary(&self, view: &View) -> bool {
        !view.recovery
            && view.timeline == self.record.timeline
            && view.system.to_string() == self.record.system
    }

    /// Nothing is changed: the old primary goes on, and its standbys follow it again.
    pub(super) fn give_up(&mut self, at: At, reason: &str, out: &mut Out) {
        let untouched = self.record.state == State::Switching && !self.record.stop_issued;
        let name = self.record.primary.clone();
        let view = View { timeline: self.record.timeline, end: self.last(), ..View::default() };
        let text = format!("cluster {}: {name} stays the primary: {reason}", self.cluster);
        out.push(Action::Note(Level::Warn, text));
        let before = std::mem::take(&mut self.record.reason);
        self.record.reason = format!("{before}; given up: {reason}");
        self.fail_wish(reason, out);
        self.rejoin.clear();
        self.enthrone(at, &name, &view, "given up");
        if !untouched {
            // What it has acknowledged to nobody its standbys lack (rule R5).
            self.hold_from(at.now);
        }
    }

    /// No lane has a connection to the old primary any more.
    pub(super) fn vacated(&mut self, at: At, epoch: u64) {
        if self.gate.writes == Writes::Shut && epoch == self.gate.epoch {
            self.opened = None;
        }
        match self.stage {
            Stage::Vacating { epoch: awaited } if awaited == epoch && epoch > 0 => {
                self.step(at, "fence");
                self.stage = Stage::Stuck { until: at.now };
            }
            Stage::Draining { epoch: awaited, .. } if awaited == epoch && epoch > 0 => {
                self.drained(at);
            }
            Stage::Rest
            | Stage::Vacating { .. }
            | Stage::Freezing { .. }
            | Stage::Ending { .. }
            | Stage::Stuck { .. }
            | Stage::Preparing { .. }
            | Stage::Promoting { .. }
            | Stage::Verifying { .. }
            | Stage::Proving { .. }
            | Stage::Preflight { .. }
            | Stage::Draining { .. }
            | Stage::Reading { .. }
            | Stage::Stopping { .. }
            | Stage::CatchingUp { .. } => {}
        }
    }

    /// F3 and F4: standbys stop to receive; the old primary is ended where that can be done.
    pub(super) fn freeze(&mut self, at: At, out: &mut Out) {
        if !self.is_saved() {
            // Where they received from is not written down yet.
            return;
        }
        let mut left = BTreeMap::new();
        for node in 0..self.members.len() {
            let there = self.members[node].health.verdict.serves();
            if self.primary() == Some(node) || !there || self.frozen.contains_key(&node) {
                continue;
            }
            // Whose primary has stopped in order receives nothing any more; but somebody may start
            // it again, and then standbys that acknowledge commits would go on to do so.
            let idle = self.record.stopped && self.record.synchronous.fence().is_none();
            let act = if idle { Act::Look } else { Act::Freeze };
            left.insert(self.act(node, act, out), node);
        }
        self.stage = Stage::Freezing { since: at.now, left };
        self.choose_in_time(at, out);
    }

    /// Something that was asked for during the fencing has ended.
    pub(super) fn fencing_done(
        &mut self,
        at: At,
        number: u64,
        node: usize,
        done: Done,
        out: &mut Out,
    ) {
        if let Stage::Freezing { left, .. } = &mut self.stage {
            if left.remove(&number).is_none() {
                return;
            }
            match done {
                Done::Seen(view) => drop(self.frozen.insert(node, *view)),
                Done::Well => {}
                Done::Failed { reason, .. } => {
                    let text = format!("{} does not stop: {reason}", self.members[node].name);
                    out.push(Action::Note(Level::Warn, text));
                }
            }
        } else if self.stage == (Stage::Ending { number }) {
            match done {
                Done::Well | Done::Seen(_) => {
                    self.step(at, "end");
                    self.choose(at, true, out);
                }
                Done::Failed { reason, .. } => self.stick(at, &format!("fence_command: {reason}")),
            }
        }
    }

    fn stick(&mut self, at: At, reason: &str) {
        self.status = format!("nobody is promoted: {reason}");
        self.stage = Stage::Stuck { until: at.now + AGAIN };
        self.record.steps.retain(|(name, _)| name != "freeze" && name != "end");
    }

    /// Goes on when enough have stopped, and those that need not have had time to.
    fn choose_in_time(&mut self, at: At, out: &mut Out) {
        let Stage::Freezing { since, left } = &self.stage else { return };
        let waited = at.now.since(*since);
        let (all, none) = (left.is_empty(), self.frozen.is_empty());
        if self.is_enough() && (all || waited >= OTHERS && !none) {
            self.step(at, "freeze");
            return self.choose(at, false, out);
        }
        if all || waited >= 10 * AGAIN {
            let reason = match self.record.synchronous.fence() {
                Some(needed) => format!(
                    "{} of {needed} synchronous standbys that must stop have stopped",
                    self.stopped().count()
                ),
                None => "no standby answers".to_owned(),
            };
            self.stick(at, &reason);
        }
    }

    /// The synchronous standbys that have stopped, on the timeline of the old primary.
    fn stopped(&self) -> impl Iterator<Item = (usize, &View)> {
        // A command that makes a standby of it lets it receive again.
        let moving = |node: usize| self.rejoins.values().any(|(_, other)| *other == node);
        let sound = move |(node, view): &(&usize, &View)| self.is_sound(view) && !moving(**node);
        let named = |(node, _): &(&usize, &View)| {
            let name = &*self.members[**node].name;
            self.record.synchronous.names.iter().any(|other| *other == *name)
        };
        self.frozen.iter().filter(sound).filter(named).map(|(node, view)| (*node, view))
    }

    fn is_sound(&self, view: &View) -> bool {
        view.recovery
            && view.timeline == self.record.timeline
            && view.system.to_string() == self.record.system
    }

    /// Whether as many have stopped as must.
    fn is_enough(&self) -> bool {
        match self.record.synchronous.fence() {
            Some(needed) => self.stopped().count() >= needed || self.record.forced,
            None => !self.frozen.is_empty(),
        }
    }

    /// Whether the old primary can acknowledge nothing any more, `ended` by a command or not.
    fn is_fenced(&self, ended: bool) -> bool {
        let quorum = self.record.synchronous.fence();
        let quorum = quorum.is_some_and(|needed| self.stopped().count() >= needed);
        ended || quorum || self.settings.only_path || self.record.stopped || self.record.forced
    }

    /// F5: the furthest of those that have stopped.
    fn choose(&mut self, at: At, ended: bool, out: &mut Out) {
        let chosen = self.candidate();
        // No primary is ended, each time it starts, for nobody to take its place.
        if chosen.is_ok() && !self.is_fenced(ended) {
            let hook = match (&self.settings.fence_command[..], &self.settings.stop_command[..]) {
                ([_, ..], _) => Some(Hook::Fence),
                ([], [_, ..]) if self.record.stop_issued => Some(Hook::Stop),
                ([], _) => None,
            };
            let Some((hook, primary)) = hook.zip(self.primary()) else {
                return self.stick(at, "nothing keeps the old primary from being written to");
            };
            let number = self.act(primary, Act::Command(hook), out);
            self.stage = Stage::Ending { number };
            return;
        }
        match chosen {
            Ok((node, view)) => self.appoint(at, node, &view),
            Err(reason) => {
                // A planned change has ended the old primary, and whoever was to follow it cannot.
                let alone = !self.record.forced
                    && self.settings.mode == FailoverMode::Auto
                    && self.record.paused.is_empty();
                if alone && at.now.since(self.asked_to_stop.unwrap_or(self.begun)) >= INSIST {
                    self.record.candidate.clear();
                }
                self.stick(at, &reason);
            }
        }
    }

    /// Who is promoted, and how far its log goes.
    fn candidate(&self) -> Result<(usize, View), String> {
        let forced = self.record.forced;
        let sound = self.frozen.iter().filter(|(_, view)| self.is_sound(view));
        let sound: Vec<(usize, &View)> = sound.map(|(node, view)| (*node, view)).collect();
        let fit = |(node, view): &&(usize, &View)| {
            let member = &self.members[*node];
            let named = self.record.candidate.is_empty() || *self.record.candidate == *member.name;
            let quarantined = self.record.quarantine.contains_key(&*member.name);
            let asked = !self.record.candidate.is_empty();
            named
                && member.health.verdict.serves()
                && !quarantined
                && (asked || member.priority > 0 && view.unfit.is_none())
        };
        let rank = |(node, view): &&(usize, &View)| {
            let order = usize::MAX - node;
            (view.end, view.replayed, self.members[*node].priority, order)
        };
        let best = sound.iter().filter(fit).max_by_key(rank).copied();
        let (node, view) = best.ok_or("no standby that has stopped is fit to take over")?;
        let furthest = sound.iter().map(|(_, view)| view.end).max().unwrap_or_default();
        let must = self.target.unwrap_or_default();
        let sync = self.record.synchronous.fence().is_some();
        if !forced && view.end < furthest.max(must) && (sync || self.target.is_some()) {
            let (name, end) = (&self.members[node].name, view.end);
            return Err(format!("{name} is at {end}, and {} is needed", furthest.max(must)));
        }
        let behind = self.last().0.saturating_sub(view.end.0);
        let limit = u64::try_from(self.settings.lag_bytes_max).unwrap_or(u64::MAX);
        if !forced && !sync && behind > limit {
            let name = &self.members[node].name;
            return Err(format!("{name} lacks {behind} bytes of the log, more than {limit}"));
        }
        Ok((node, view.clone()))
    }

    /// F7: from now on there is no way back.
    fn appoint(&mut self, at: At, node: usize, view: &View) {
        self.step(at, "choose");
        let name = self.members[node].name.to_string();
        self.record.bound = self.bound(at, view.end);
        self.record.state = State::Promoting;
        self.record.candidate.clone_from(&name);
        self.record.promote_issued = true;
        self.record.switch_lsn = view.end;
        self.record.quarantine.remove(&name);
        self.doubt(node);
        let old = self.record.primary.clone();
        let reason = format!("it was the primary before {name}");
        let (epoch, lsn) = (self.record.epoch, self.last());
        let quarantine = Quarantine { epoch, reason, lsn, rebuild: false };
        self.record.quarantine.insert(old, quarantine);
        self.stage = Stage::Rest;
    }

    /// Where another candidate was told before to become the primary, nodes may have received what
    /// only that one has, on a timeline with the number of the new one's (trap 17). Who has stopped
    /// on the timeline of the old primary has nothing of it.
    fn doubt(&mut self, candidate: usize) {
        let last = self.record.history.last().map_or(0, |chapter| chapter.epoch);
        let vain = |it: &Quarantine| it.rebuild && it.epoch > last;
        let vain = self.record.quarantine.values().any(vain);
        for node in 0..self.members.len() {
            let sound = self.frozen.get(&node).is_some_and(|view| self.is_sound(view));
            let ahead = |view: &View| view.timeline > self.record.timeline;
            let ahead = self.frozen.get(&node).is_some_and(ahead);
            if node == candidate || Some(node) == self.primary() || !(ahead || vain && !sound) {
                continue;
            }
            let name = self.members[node].name.to_string();
            let view = self.view(node).cloned().unwrap_or_default();
            self.quarantine(&name, "it may follow who was promoted in vain", &view, true);
        }
    }

    /// What is lost at most.
    fn bound(&self, at: At, end: Lsn) -> String {
        if self.record.synchronous.fence().is_some() && !self.record.forced {
            return "nothing that was acknowledged".to_owned();
        }
        if self.target.is_some_and(|target| end >= target) {
            return "nothing".to_owned();
        }
        let behind = self.last().0.saturating_sub(end.0);
        // When it was last known to have no more than this.
        let known = self.track.iter().rev().find(|(_, known)| *known <= end).map(|(at, _)| *at);
        let Some(known) = known else { return "nobody knows what".to_owned() };
        let ago = at.now.since(known);
        let unix = at.unix.saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX));
        let (seconds, micros) = (unix / 1_000_000, unix % 1_000_000);
        let ago = ago.as_millis() + 1;
        let time = format!("what was acknowledged after {seconds}.{micros:06} ({ago} ms ago)");
        match behind {
            0 => time,
            _ => format!("{time}, {behind} bytes of the log or more"),
        }
    }
}
