//! Whether the primary is to be replaced without anybody asking for it.
//!
//! Somebody who is silent for us may be heard by others. So there is a vote: of this process, by
//! the verdict on the primary, and of each standby, by whether it still receives from it. And who
//! replaces a primary that is only cut off from us does harm, so a standby that hears it forbids
//! that.

use crate::config::FailoverMode;
use crate::failover::act::View;
use crate::failover::{Action, At, Failover, Out, Stage};
use crate::record::{Source, State};
use crate::time::{Duration, Instant};
use crate::topology::verdict::{Cause, Verdict};

/// For so long a standby that hears the primary forbids its replacement where nobody else can
/// write to it anyway.
const VETO: Duration = Duration::from_secs(3);
/// What standbys said before is asked again.
const VOTE: Duration = Duration::from_millis(500);

impl Failover {
    /// Begins a failover if there is every reason to. Else the status says what is missing.
    pub(super) fn decide(&mut self, at: At, primary: usize, out: &mut Out) {
        if self.members[primary].health.verdict.serves() {
            return;
        }
        match self.reason(at, primary) {
            Ok(reason) => {
                self.fail_wish(&format!("failover: {reason}"), out);
                self.declare(at, &reason, None, out);
            }
            Err(missing) => self.status = missing,
        }
    }

    /// Why the primary is to be replaced; or why not.
    fn reason(&self, at: At, primary: usize) -> Result<String, String> {
        let (name, verdict) = (&self.record.primary, self.members[primary].health.verdict);
        let lasting = at.now.since(self.members[primary].since);
        let hard = match verdict {
            Verdict::DeadProcess
            | Verdict::DeadPath
            | Verdict::Hung
            | Verdict::Suspect(Cause::Path) => true,
            Verdict::Recovering => lasting >= self.settings.crash_grace,
            Verdict::Unknown
            | Verdict::Healthy
            | Verdict::Degraded
            | Verdict::Suspect(Cause::Process | Cause::Hang)
            | Verdict::Refusing => false,
        };
        let is = format!("{name} is {verdict}");
        if !hard {
            return Err(is);
        }
        if self.settings.mode == FailoverMode::Manual {
            return Err(format!("{is}; failover.mode is \"manual\": say FAILOVER TO a standby"));
        }
        if !self.record.paused.is_empty() {
            return Err(format!("{is}; failover is paused by {}", self.record.paused));
        }
        if self.cooldown.is_some_and(|until| at.now < until) {
            return Err(format!("{is}; the last failover is too short a time ago (cooldown)"));
        }
        self.fence_at_hand(at.now, primary).map_err(|missing| format!("{is}; {missing}"))?;
        let votes = self.votes(at.now, primary).map_err(|missing| format!("{is}; {missing}"))?;
        Ok(format!("{is}; {votes}"))
    }

    /// Whether the old primary can be shut out, and a standby can take over.
    fn fence_at_hand(&self, now: Instant, primary: usize) -> Result<(), String> {
        let ready = |name: &str| {
            let node = self.place(name).filter(|node| *node != primary)?;
            let view = self.fresh(now, node)?;
            let serves = self.members[node].health.verdict.serves();
            let good = view.recovery && view.timeline == self.record.timeline;
            (serves && good && !self.record.quarantine.contains_key(name)).then_some(node)
        };
        let others = self.members.iter().filter_map(|member| ready(&member.name));
        let others: Vec<usize> = others.collect();
        let promotable = |node: &&usize| {
            self.members[**node].priority > 0
                && self.fresh(now, **node).is_some_and(|it| it.unfit.is_none())
        };
        if others.iter().filter(promotable).count() == 0 {
            return Err("no standby is fit to take over".to_owned());
        }
        let sync = &self.record.synchronous;
        if let Some(needed) = sync.fence() {
            let count = sync.names.iter().filter(|name| ready(name).is_some()).count();
            if count >= needed {
                return Ok(());
            }
            if !self.settings.fence_command.is_empty() || self.settings.only_path {
                return Err(format!(
                    "{needed} of the synchronous standbys would have to answer so that no commit \
                     is lost, and {count} do"
                ));
            }
            return Err(format!(
                "only {count} of the {needed} standbys answer that must be stopped so that it can \
                 acknowledge nothing"
            ));
        }
        if !self.settings.fence_command.is_empty() || self.settings.only_path {
            return Ok(());
        }
        Err("replication is asynchronous and nothing can keep it from being written to: declare \
             failover.only_path, give a fence_command, or say FAILOVER TO a standby FORCE"
            .to_owned())
    }

    /// What this process and the standbys say of the primary.
    fn votes(&self, now: Instant, primary: usize) -> Result<String, String> {
        let (mut down, mut voters, mut hear) = (1, 1, Vec::new());
        for (node, member) in self.members.iter().enumerate() {
            if node == primary || self.record.quarantine.contains_key(&*member.name) {
                continue;
            }
            voters += 1;
            let Some((asked, view)) = &member.view else { continue };
            if now.since(*asked) > VOTE || *asked < self.members[primary].since {
                continue;
            }
            match &view.receiver {
                // One that does not ask says nothing by silence.
                Some(receiver) if receiver.heard < self.silence || !self.is_witness(view) => {
                    hear.push(&*member.name);
                }
                Some(_) | None => down += 1,
            }
        }
        let lasting = now.since(self.members[primary].since);
        let veto = !self.settings.only_path || lasting < VETO;
        if !hear.is_empty() && veto {
            return Err(format!("{} still hears it", hear.join(", ")));
        }
        if down * 2 <= voters {
            return Err(format!("{down} of {voters} have no word of it"));
        }
        Ok(format!("{down} of {voters} have no word of it"))
    }

    /// Whether the receiver of a standby asks a silent primary whether it is there, soon enough.
    pub(super) fn is_witness(&self, view: &View) -> bool {
        !view.patience.is_zero() && view.patience <= self.silence
    }

    /// F1: nobody is written to from now on.
    pub(super) fn declare(
        &mut self,
        at: At,
        reason: &str,
        candidate: Option<usize>,
        out: &mut Out,
    ) {
        let record = &mut self.record;
        record.state = State::Fencing;
        record.epoch += 1;
        reason.clone_into(&mut record.reason);
        record.started = at.unix;
        record.candidate =
            candidate.map_or_else(String::new, |it| self.members[it].name.to_string());
        record.promote_issued = false;
        record.stop_issued = false;
        record.stopped = false;
        record.steps.clear();
        record.bound.clear();
        record.frozen.retain(|_, source| *source != Source::default());
        self.begun = at.now;
        self.asked_to_stop = None;
        self.target = None;
        self.frozen.clear();
        for node in 0..self.members.len() {
            if self.primary() != Some(node) {
                self.note_source(node);
            }
            self.members[node].busy = None;
            self.members[node].told = None;
        }
        self.stage = Stage::Vacating { epoch: 0 };
        let text = format!("cluster {}: failover: {reason}", self.cluster);
        out.push(Action::Note(crate::action::Level::Warn, text));
    }
}
