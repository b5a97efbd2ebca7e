//! While all is well: what nodes say of themselves is held against the record, and what they lack
//! is given to them.

use crate::conninfo::Conninfo;
use crate::failover::act::{Act, View, target};
use crate::failover::slot::slot_name;
use crate::failover::{At, Failover, Out, Stage};
use crate::record::{Chapter, Quarantine, Source, State, Synchronous};
use crate::time::{Duration, Instant};
use crate::topology::Lsn;
use std::collections::BTreeSet;

/// A view that is older says nothing.
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// How long a setting takes to reach every process of a node.
const HEARD: Duration = Duration::from_secs(2);
/// Longer than that a node may not rest before it looks for WAL again.
const RETRY: Duration = Duration::from_millis(50);
/// So many places of the primary are remembered.
const TRACK_MAX: usize = 600;
/// A node out of quarantine has followed for so long.
const STEADY: Duration = Duration::from_secs(10);
/// Who was told to follow and does not is told again, or shut out.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl Failover {
    /// A node has said how it is.
    pub(super) fn seen(&mut self, at: At, node: usize, asked: Instant, view: View) {
        if self.members[node].view.as_ref().is_some_and(|(known, _)| *known > asked) {
            // It has come late.
            return;
        }
        let primary = self.primary() == Some(node);
        let streams = !primary && self.follows(node, &view);
        if primary && !view.recovery {
            self.track.push_back((asked, view.end));
            if self.track.len() > TRACK_MAX {
                self.track.pop_front();
            }
        }
        let known = self.members[node].view.as_ref().map(|(_, view)| view.started);
        if primary && known.is_some_and(|known| known != view.started) {
            // It has started again, sooner than anybody could notice.
            self.hold_from(at.now);
        }
        let member = &mut self.members[node];
        member.view = Some((asked, view));
        member.streaming = streams.then(|| member.streaming.unwrap_or(at.now));
    }

    /// Whether a standby receives what the primary of the record writes.
    fn follows(&self, node: usize, view: &View) -> bool {
        let Some(primary) = self.primary().filter(|primary| *primary != node) else { return false };
        let from = &self.members[primary].peer;
        view.recovery
            && view.receiver.is_some()
            && view.timeline == self.record.timeline
            && target(&view.conninfo).is_some_and(|to| to == *from)
    }

    /// What a node said of itself lately.
    pub(super) fn fresh(&self, now: Instant, node: usize) -> Option<&View> {
        let (seen, view) = self.members[node].view.as_ref()?;
        (now.since(*seen) < FRESH).then_some(view)
    }

    /// Nobody was ever the primary: it is the only one that is not in recovery.
    pub(super) fn begin(&mut self, at: At) {
        let views: Vec<_> = (0..self.members.len())
            .filter_map(|node| self.fresh(at.now, node).map(|view| (node, view.clone())))
            .collect();
        let primaries: Vec<_> = views.iter().filter(|(_, view)| !view.recovery).collect();
        let [(primary, view)] = primaries[..] else {
            self.status = match primaries.len() {
                0 => "no node that answers is a primary yet".to_owned(),
                _ => "more than one node is a primary: say SET ROLE OVERRIDE node primary".into(),
            };
            return;
        };
        if views.len() * 2 <= self.members.len() {
            self.status = "most nodes have not answered yet".into();
            return;
        }
        if views.iter().any(|(_, other)| other.system != view.system) {
            self.status = "the nodes are not of one cluster (system_identifier)".into();
            return;
        }
        let (name, view) = (self.members[*primary].name.to_string(), view.clone());
        self.record.system = view.system.to_string();
        self.begun = at.now;
        self.record.started = at.unix;
        self.record.reason = "the first start".into();
        self.enthrone(at, &name, &view, "begin");
    }

    /// The record says from now on that this node is the primary.
    pub(super) fn enthrone(&mut self, at: At, name: &str, view: &View, kind: &str) {
        let record = &mut self.record;
        let from = std::mem::replace(&mut record.primary, name.to_owned());
        let changed = from != name;
        record.epoch += 1;
        record.state = State::Normal;
        record.timeline = view.timeline;
        record.quarantine.remove(name);
        let chapter = Chapter {
            epoch: record.epoch,
            started: record.started,
            kind: kind.to_owned(),
            reason: std::mem::take(&mut record.reason),
            from,
            to: name.to_owned(),
            timeline: view.timeline,
            switch_lsn: record.switch_lsn,
            bound: std::mem::take(&mut record.bound),
            steps: std::mem::take(&mut record.steps),
        };
        record.remember(chapter);
        record.candidate.clear();
        record.promote_issued = false;
        record.stop_issued = false;
        record.stopped = false;
        record.forced = false;
        self.held = None;
        self.stage = Stage::Rest;
        self.crowned = at.now;
        if changed {
            self.track.clear();
            let seen = self.place(name).and_then(|node| self.members[node].view.as_ref());
            let seen =
                seen.filter(|(_, seen)| !seen.recovery).map(|(asked, view)| (*asked, view.end));
            self.track.extend(seen);
        }
        self.target = None;
        self.frozen.clear();
        self.status.clear();
        for member in &mut self.members {
            member.next_look = at.now;
            member.streaming = None;
            member.told = None;
            member.idle = None;
        }
    }

    /// The primary is written to, as long as it is what the record says.
    pub(super) fn normal(&mut self, at: At, out: &mut Out) {
        self.status.clear();
        let Some(primary) = self.primary() else {
            let name = self.record.primary.clone();
            return self.conflict(&format!("the primary, {name}, is no node of the configuration"));
        };
        if self.preflight(at, out) {
            return;
        }
        let asked = self.members[primary].view.as_ref().map(|(asked, _)| *asked);
        let since = asked.is_some_and(|asked| asked >= self.crowned);
        let view = self.fresh(at.now, primary).filter(|_| since).cloned();
        if let Some(view) = &view
            && let Some(reason) = self.is_other(view)
        {
            return self.conflict(&format!("{}: {reason}", self.record.primary));
        }
        self.shut_out(at);
        if self.record.state != State::Normal {
            return;
        }
        self.hold(primary);
        self.decide(at, primary, out);
        if self.record.state != State::Normal {
            return;
        }
        if let Some(view) = view.filter(|_| self.members[primary].health.verdict.serves()) {
            self.tend(at, primary, &view, out);
        }
        if self.status.is_empty() && self.is_sync() && self.record.synchronous.fence().is_none() {
            let name = &self.record.primary;
            self.status = if self.record.synchronous.names.is_empty() {
                format!("no standby acknowledges commits: what {name} acknowledges is lost with it")
            } else {
                format!("it is not certain yet that standbys have all that {name} acknowledges")
            };
        }
    }

    /// Why the primary is not the one of the record.
    fn is_other(&self, view: &View) -> Option<String> {
        let timeline = self.record.timeline;
        if view.system.to_string() != self.record.system {
            return Some(format!("it has another system_identifier, {}", view.system));
        }
        if view.recovery {
            return Some("it is in recovery, though nobody was asked to change that".to_owned());
        }
        (view.timeline != timeline)
            .then(|| format!("it writes timeline {}, not {timeline}", view.timeline))
    }

    pub(super) fn conflict(&mut self, reason: &str) {
        if self.record.state == State::Conflict {
            return;
        }
        self.record.state = State::Conflict;
        self.record.epoch += 1;
        self.status = format!("conflict: {reason}");
        reason.clone_into(&mut self.record.reason);
        self.stage = Stage::Rest;
    }

    /// Nodes that are something else than standbys of the primary get nothing.
    fn shut_out(&mut self, at: At) {
        for node in 0..self.members.len() {
            if self.primary() == Some(node) {
                continue;
            }
            let Some(view) = self.fresh(at.now, node).cloned() else { continue };
            let name = self.members[node].name.to_string();
            if view.system.to_string() != self.record.system {
                self.quarantine(&name, "it has another system_identifier", &view, true);
            } else if self.record.quarantine.contains_key(&name) {
                self.readmit(at, node, &name);
            } else if !view.recovery && view.timeline > self.record.timeline {
                let reason = format!("{name} was promoted by somebody else");
                return self.conflict(&reason);
            } else if !view.recovery {
                self.quarantine(&name, "it is not in recovery, and not the primary", &view, false);
            } else if view.timeline > self.record.timeline {
                // Another timeline may get the same number: what it has is nobody's (trap 17).
                self.quarantine(&name, "it follows another timeline", &view, true);
            } else if view.timeline < self.record.timeline && view.end > self.record.switch_lsn {
                let reason = "its log goes on where that of the primary begins";
                self.quarantine(&name, reason, &view, false);
            }
        }
    }

    /// A node that has followed for a while may be read from again.
    fn readmit(&mut self, at: At, node: usize, name: &str) {
        let steady = self.members[node].streaming.is_some_and(|it| at.now.since(it) >= STEADY);
        if steady && self.record.quarantine.get(name).is_some_and(|it| !it.rebuild) {
            self.record.quarantine.remove(name);
        }
    }

    pub(super) fn quarantine(&mut self, name: &str, reason: &str, view: &View, rebuild: bool) {
        if let Some(known) = self.record.quarantine.get_mut(name) {
            known.rebuild |= rebuild;
            return;
        }
        let (epoch, reason) = (self.record.epoch, reason.to_owned());
        let quarantine = Quarantine { epoch, reason, lsn: view.end, rebuild };
        self.record.quarantine.insert(name.to_owned(), quarantine);
    }

    /// Rule R5: commits that waited for standbys become visible when the primary starts again,
    /// though none has them. Nobody is written to before as many as must have all of its log.
    fn hold(&mut self, primary: usize) {
        let Some((since, end)) = self.held else { return };
        if self.record.synchronous.fence().is_none()
            && self.members[primary].health.verdict.serves()
        {
            // There is no promise to be kept: who is well is enough, even if it lets us not in.
            self.held = None;
            return;
        }
        let name = &self.record.primary;
        self.status = format!("{name} is asked how it is, before anybody writes to it");
        let Some((asked, view)) = &self.members[primary].view else { return };
        if *asked <= since || view.recovery {
            return;
        }
        let end = end.unwrap_or(view.end);
        let sync = &self.record.synchronous;
        let free = sync.fence().is_none() || has_all(sync, view, end);
        self.held = Some((since, Some(end)));
        if free {
            self.held = None;
            self.status.clear();
        } else {
            self.status = format!("{name} may have commits that its standbys lack");
        }
    }

    /// Nobody is written to before as many standbys as must have what the primary has from now on.
    pub(super) fn hold_from(&mut self, now: Instant) {
        self.held = Some((now, None));
    }

    /// Gives nodes what they lack.
    fn tend(&mut self, at: At, primary: usize, view: &View, out: &mut Out) {
        self.keep_synchronous(at.now, primary, view, out);
        for node in 0..self.members.len() {
            let view = self.fresh(at.now, node);
            let slow = view.is_some_and(|view| view.retry > RETRY || !self.is_witness(view));
            if slow && self.is_free(node) {
                let number = self.act(node, Act::Prepare(self.silence), out);
                self.members[node].busy = Some(number);
            }
        }
        if view.read_only && self.is_free(primary) {
            let number = self.act(primary, Act::Unkick, out);
            self.members[primary].busy = Some(number);
        }
        for node in 0..self.members.len() {
            if node != primary {
                self.keep_following(at, (primary, node), out);
            }
        }
        self.move_slots(at.now, out);
        let rejoin =
            if self.is_saved() { std::mem::take(&mut self.rejoin) } else { BTreeSet::new() };
        for node in rejoin {
            if let Err(reason) = self.rejoin_node(node, None, out) {
                let name = &self.members[node].name;
                let text = format!("{name} is not made a standby: {reason}");
                out.push(super::Action::Note(crate::action::Level::Warn, text));
            }
        }
    }

    /// Whether nothing is being done to a node, and it was seen since.
    pub(super) fn is_free(&self, node: usize) -> bool {
        let member = &self.members[node];
        let seen = member.view.as_ref().is_some_and(|(asked, _)| *asked >= member.touched);
        seen && member.busy.is_none()
    }

    /// Who is to acknowledge commits. In the record there is always everybody who may: a name is
    /// written there before PostgreSQL hears it, and is taken out when PostgreSQL has forgotten it.
    fn keep_synchronous(&mut self, now: Instant, primary: usize, view: &View, out: &mut Out) {
        if !self.is_sync() {
            return;
        }
        let wanted = self.synchronous_for(primary);
        let known = self.record.synchronous.names.clone();
        let union = |with: &[String]| {
            let mut names = known.clone();
            names.extend(with.iter().filter(|name| !known.contains(name)).cloned());
            names
        };
        if view.sync == wanted.setting() {
            if self.record.synchronous == wanted {
                return;
            }
            let (since, end) = *self.agreed.get_or_insert((now, None));
            // By then all of its processes have heard of it.
            if now.since(since) < HEARD {
                return;
            }
            // And what was acknowledged before, by others or by nobody, these have too.
            let end = end.unwrap_or(view.end);
            self.agreed = Some((since, Some(end)));
            if has_all(&wanted, view, end) {
                self.record.synchronous = wanted;
            }
            return;
        }
        self.agreed = None;
        let all = union(&wanted.names);
        // The least that it may be meanwhile: nobody, if nobody had to acknowledge anything.
        let quorum = self.record.synchronous.quorum.min(wanted.quorum);
        self.record.synchronous = Synchronous { quorum, names: all };
        if self.is_saved() && self.is_free(primary) {
            let number = self.act(primary, Act::Sync(wanted.setting()), out);
            self.members[primary].busy = Some(number);
        }
    }

    /// Who acknowledges commits if this node is the primary.
    pub(super) fn synchronous_for(&self, primary: usize) -> Synchronous {
        let others = self.members.iter().enumerate().filter(|(node, _)| *node != primary);
        let names = others.map(|(_, member)| member.name.to_string());
        let names: Vec<_> =
            names.filter(|name| !self.record.quarantine.contains_key(name)).collect();
        // More than there are would never acknowledge anything, and so no node could be promoted.
        let quorum = self.settings.quorum.min(u32::try_from(names.len()).unwrap_or(u32::MAX));
        Synchronous { quorum, names }
    }

    /// A standby that was stopped, or follows who is no primary any more, follows this one.
    fn keep_following(&mut self, at: At, (primary, node): (usize, usize), out: &mut Out) {
        let Some(view) = self.fresh(at.now, node).cloned() else { return };
        let name = self.members[node].name.to_string();
        if self.members[node].streaming.is_some() {
            self.members[node].idle = None;
            if self.record.frozen.remove(&name).is_some() {
                self.members[node].told = None;
            }
            if self.is_nameless(at.now, primary, node) {
                self.follow(at, (primary, node), out);
            }
            return;
        }
        let to = target(&view.conninfo);
        let aimed = to.as_ref().is_some_and(|to| *to == self.members[primary].peer);
        // It may lack a slot, or have what the primary lacks since an earlier change.
        let idle = self.members[node].idle.filter(|_| view.recovery).unwrap_or(at.now);
        self.members[node].idle = Some(idle);
        let stuck = aimed && at.now.since(idle) >= PATIENCE;
        let lost = stuck || to.is_none_or(|to| self.is_left(&to, primary));
        let rebuild = self.record.quarantine.get(&name).is_some_and(|it| it.rebuild);
        if !view.recovery || rebuild || !self.is_free(node) {
            return;
        }
        let told = self.members[node].told.is_some_and(|told| at.now.since(told) < PATIENCE);
        if self.members[node].told.is_some() && !told {
            self.quarantine(&name, "it does not receive from the primary", &view, false);
        }
        if !told && (lost || self.record.frozen.contains_key(&name)) {
            self.follow(at, (primary, node), out);
        }
    }

    /// Whether a standby follows under a name that is not its own, so that it acknowledges nothing
    /// and commits wait without end. It is told once.
    fn is_nameless(&self, now: Instant, primary: usize, node: usize) -> bool {
        let member = &self.members[node];
        let steady = member.streaming.is_some_and(|since| now.since(since) >= HEARD);
        let named = |view: &View| view.followers.iter().any(|it| it.name == member.name);
        self.is_sync()
            && steady
            && member.told.is_none()
            && self.is_free(node)
            && self.fresh(now, primary).is_some_and(|view| !view.recovery && !named(view))
    }

    /// Whether an address is that of a node that was a primary once.
    fn is_left(&self, to: &(String, u16), primary: usize) -> bool {
        let there = |(node, member): (usize, &super::Member)| {
            let was = self.record.history.iter().any(|chapter| *chapter.from == *member.name);
            let left = was || self.record.quarantine.contains_key(&*member.name);
            node != primary && member.peer == *to && left
        };
        self.members.iter().enumerate().any(there)
    }

    /// Lets a node follow another.
    pub(super) fn follow(&mut self, at: At, (primary, node): (usize, usize), out: &mut Out) -> u64 {
        let conninfo = self.conninfo(primary, node);
        let slot = self.slot(node);
        if self.settings.slots {
            self.act(primary, Act::Slots(vec![slot.clone()]), out);
        }
        let number = self.act(node, Act::Follow { conninfo, slot }, out);
        self.members[node].busy = Some(number);
        self.members[node].told = Some(at.now);
        number
    }

    /// The slot of a standby on its primary; empty: none.
    pub(super) fn slot(&self, node: usize) -> String {
        if self.settings.slots { slot_name(&self.members[node].name) } else { String::new() }
    }

    /// How a node reaches a primary: as it reached the one before, or as another node does.
    pub(super) fn conninfo(&self, primary: usize, node: usize) -> String {
        let own = self.record.frozen.get(&*self.members[node].name);
        let others = self.record.frozen.values();
        let kept = own.into_iter().chain(others).map(|source| source.conninfo.as_str());
        let views = std::iter::once(node).chain(0..self.members.len());
        let views = views.filter_map(|node| self.view(node)).map(|view| view.conninfo.as_str());
        let usable = |text: &&str| !text.is_empty() && Conninfo::parse(text).is_ok();
        let pattern = kept.chain(views).find(usable).unwrap_or_default();
        let mut pattern = Conninfo::parse(pattern).unwrap_or_default();
        if pattern.get("user").is_none()
            && let Some(user) = &self.settings.user
        {
            pattern = pattern.with("user", user);
            if let Some(password) = &self.settings.password {
                pattern = pattern.with("password", &password.0);
            }
        }
        let (host, port) = &self.members[primary].peer;
        pattern.towards(host, *port, &self.members[node].name).to_string()
    }

    /// Where a standby receives from now, to be put back if nothing comes of a change.
    pub(super) fn note_source(&mut self, node: usize) {
        let member = &self.members[node];
        let Some((_, view)) = &member.view else { return };
        if view.conninfo.is_empty() {
            return;
        }
        let source = Source { conninfo: view.conninfo.clone(), slot: view.slot.clone() };
        self.record.frozen.entry(member.name.to_string()).or_insert(source);
    }
}

/// Whether as many standbys as must have the log of their primary up to here.
fn has_all(synchronous: &Synchronous, view: &View, end: Lsn) -> bool {
    let has = |name: &&String| {
        let known = view.followers.iter().find(|it| *it.name == ***name);
        known.is_some_and(|it| it.flushed >= end)
    };
    synchronous.names.iter().filter(has).count() >= synchronous.quorum as usize
}
