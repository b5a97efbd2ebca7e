//! What must always hold, looked at after every event.

use crate::config::FailoverMode;
use crate::failover::Failover;
use crate::failover::act::{Act, Hook};
use crate::failover::sim::node::{Pg, Via};
use crate::failover::sim::world::{Us, World};
use crate::failover::verb::{Reply, Verb};
use crate::record::{Record, State, Synchronous};
use crate::topology::gate::Writes;
use std::collections::BTreeMap;

/// A commit that somebody has been told of, or has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) id: u32,
    pub(super) len: usize,
    /// It must survive any failover.
    pub(super) promised: bool,
    /// A client of pgring got the answer.
    pub(super) answered: Option<Us>,
}

/// What the machine said before an event.
#[derive(Debug)]
pub(super) struct Before {
    state: State,
    epoch: u64,
    paused: bool,
    last: u64,
    bound: String,
}

#[expect(clippy::struct_excessive_bools, reason = "each happens or does not")]
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) wrong: Option<String>,
    pub(super) kept: Vec<Kept>,
    /// Where to find what a lane waits for.
    by_id: BTreeMap<u32, usize>,
    /// An operator has chosen: what is lost is lost.
    pub(super) loose: bool,
    /// Somebody else has promoted.
    pub(super) outside: bool,
    /// An operator has said who is the primary: others may believe to be it.
    overridden: bool,
    /// The last node promoted, and who in which epoch.
    pub(super) promoted: Option<usize>,
    epochs: BTreeMap<u64, usize>,
    pub(super) verbs: BTreeMap<u64, (u32, Verb)>,
    /// Since then, in microseconds of ours, something may have been lost, by the last bound.
    bound: Option<(String, i64)>,
    pub(super) failovers: u32,
    pub(super) switchovers: u32,
    pub(super) goal: bool,
    /// So many wishes were not granted.
    pub(super) refused: u32,
}

impl Oracle {
    pub(super) fn before(machine: &Failover) -> Before {
        let record = machine.record();
        Before {
            state: record.state,
            epoch: record.epoch,
            paused: !record.paused.is_empty(),
            last: record.history.last().map_or(0, |it| it.epoch),
            bound: record.bound.clone(),
        }
    }

    pub(super) fn answered(&mut self, id: u32, now: Us) {
        if let Some(place) = self.by_id.get(&id) {
            self.kept[*place].answered = Some(now);
        }
    }

    /// A client has read this on a node.
    pub(super) fn seen(&mut self, id: u32, len: usize, _node: usize) {
        if self.kept.last().is_some_and(|it| it.id == id) || self.by_id.contains_key(&id) {
            return;
        }
        let kept = Kept { id, len, promised: true, answered: None };
        self.by_id.insert(id, self.kept.len());
        self.kept.push(kept);
    }
}

impl World {
    pub(super) fn blame(&mut self, text: String) {
        self.tell(|_| format!("WRONG: {text}"));
        if self.oracle.wrong.is_none() {
            self.oracle.wrong = Some(text);
        }
    }

    fn kept_record(&self) -> Option<&Record> {
        self.store.1.as_ref()
    }

    /// Whether the record promises that what this node acknowledges is never lost.
    pub(super) fn is_promised(&self, node: usize) -> bool {
        let name = &self.names[node];
        let meant = self.machine.record().primary == *name;
        let kept = self.kept_record().filter(|it| meant && it.primary == *name);
        kept.is_some_and(|it| it.synchronous.fence().is_some())
    }

    pub(super) fn acknowledged(&mut self, node: usize, id: u32, len: usize, via: Via) {
        if matches!(via, Via::Canary { .. }) {
            return;
        }
        self.oracle.loose |= self.kept_record().is_some_and(|it| it.forced);
        let sync = self.nodes[node].in_force.0 > 0;
        let promised = sync && self.is_promised(node);
        if let Some(new) = self.oracle.promoted
            && new != node
            && sync
            && !self.oracle.loose
            && !self.nodes[new].has(id, len)
            && self.settings.durability == crate::config::Durability::Sync
        {
            let text = format!("{} acknowledges {id} after {new} was promoted", self.names[node]);
            self.blame(text);
        }
        let kept = Kept { id, len, promised, answered: None };
        self.oracle.by_id.insert(id, self.oracle.kept.len());
        self.oracle.kept.push(kept);
    }

    /// A lane is about to send something to a node.
    pub(super) fn check_lanes(&mut self, node: usize) {
        let other = self.lanes.iter().filter_map(|it| it.conn).find(|(it, _)| *it != node);
        if let Some((other, _)) = other {
            self.blame(format!("writes go to {node} while {other} has connections"));
        }
        // An operator's word is kept before lanes have let go of the one before.
        let by_hand = |it: &Record| it.history.last().is_some_and(|it| it.kind == "override");
        let named = |it: &Record| it.primary == self.names[node] || by_hand(it);
        if !self.kept_record().is_some_and(named) {
            self.blame(format!("writes go to {node}, which the record does not name"));
        }
    }

    pub(super) fn check_act(&mut self, node: usize, act: &Act) {
        let name = self.names[node].clone();
        let Some(record) = self.kept_record() else { return };
        match act {
            Act::Promote(_) => {
                let said = record.state == State::Promoting
                    && record.promote_issued
                    && record.candidate == name;
                let epoch = record.epoch;
                if !said {
                    return self.blame(format!("{name} is promoted, and no record says so"));
                }
                let other = *self.oracle.epochs.entry(epoch).or_insert(node);
                if other != node {
                    self.blame(format!("{other} and {node} are promoted in epoch {epoch}"));
                }
                self.check_losses(node, "at promotion");
            }
            Act::Command(Hook::Rejoin) if record.primary == name => {
                self.blame(format!("the primary, {name}, is rebuilt"));
            }
            Act::Freeze | Act::Command(Hook::Fence) => {
                if record.state != State::Fencing {
                    return self.blame(format!("{act:?} on {name}, and no record says so"));
                }
                self.check_vacated(act);
            }
            Act::Kick | Act::Command(Hook::Stop) => {
                if !record.stop_issued {
                    return self.blame(format!("{act:?} on {name}, and no record says so"));
                }
                self.check_vacated(act);
            }
            Act::Command(Hook::Rejoin)
            | Act::Look
            | Act::Follow { .. }
            | Act::Prepare(_)
            | Act::Slots(_)
            | Act::Advance(_)
            | Act::Sync(_)
            | Act::Canary
            | Act::Checkpoint
            | Act::Unkick => {}
        }
    }

    fn check_vacated(&mut self, act: &Act) {
        if self.lanes.iter().any(|lane| lane.conn.is_some()) {
            self.blame(format!("{act:?}, and lanes have connections"));
        }
    }

    /// The record says who may have acknowledged what: any as many of them as it says must have
    /// stopped have everything, if all that anybody was told of is with as many as must have it.
    pub(super) fn check_quorum(&mut self, before: &Synchronous) {
        let Some(record) = self.kept_record().filter(|_| !self.oracle.loose) else { return };
        let (primary, sync) = (self.place(&record.primary), &record.synchronous);
        let Some(primary) = primary.filter(|_| sync.fence().is_some() && sync != before) else {
            return;
        };
        let names = sync.names.iter().filter_map(|name| self.place(name));
        let nodes: Vec<&Pg> = names.map(|node| &self.nodes[node]).collect();
        let few = |it: &&Kept| {
            let having = nodes.iter().filter(|node| node.has(it.id, it.len)).count();
            self.nodes[primary].has(it.id, it.len) && having < sync.quorum as usize
        };
        if let Some(few) = self.oracle.kept.iter().find(few).copied() {
            let text = format!("{few:?} is with fewer than {sync:?} says");
            self.blame(text);
        }
    }

    /// A node has left recovery because pgring said so.
    pub(super) fn check_promoted(&mut self, node: usize) {
        let named = self.kept_record().is_some_and(|it| {
            it.candidate == self.names[node] && it.promote_issued || it.primary == self.names[node]
        });
        if named {
            self.check_losses(node, "after promotion");
            self.oracle.promoted = Some(node);
        }
    }

    /// Whether a node has all that was promised.
    fn check_losses(&mut self, node: usize, when: &str) {
        // What an operator gives away is given away.
        if self.oracle.outside || self.kept_record().is_some_and(|it| it.forced) {
            self.oracle.loose = true;
            return;
        }
        let has = |it: &Kept| !it.promised || self.nodes[node].has(it.id, it.len);
        if let Some(lost) = self.oracle.kept.iter().find(|it| !has(it)) {
            let text = format!("{} lacks {lost:?} {when}", self.names[node]);
            self.blame(text);
        }
    }

    /// What the machine has made of an event.
    pub(super) fn watch(&mut self, before: &Before) {
        let record = self.machine.record();
        self.oracle.loose |= record.forced;
        // One that is read anew was said when another clock was right.
        let known = self.oracle.bound.as_ref().is_some_and(|(known, _)| *known == record.bound);
        if record.bound != before.bound && !record.bound.is_empty() && !known {
            self.oracle.bound = Some((record.bound.clone(), self.clock));
        }
        let record = self.machine.record();
        let (state, epoch) = (record.state, record.epoch);
        if (state, epoch) != (before.state, before.epoch) {
            self.tell(|it| {
                let record = it.machine.record();
                format!("state {state}, epoch {epoch}: {}", record.reason)
            });
        }
        let record = self.machine.record();
        let began = before.state == State::Normal && state == State::Fencing && !record.forced;
        let paused = before.paused && !record.paused.is_empty();
        let own = before.epoch > 0 && !record.stop_issued;
        if began && own && (paused || self.settings.mode == FailoverMode::Manual) {
            self.blame("a failover by itself, which is forbidden".to_owned());
        }
        let ours = !self.oracle.outside && !self.oracle.overridden;
        if state == State::Conflict && before.state != state && ours {
            let text = format!("conflict: {}", self.machine.record().reason);
            self.blame(text);
        }
        let record = self.machine.record();
        let chapter = record.history.last().filter(|it| it.epoch > before.last);
        let Some(chapter) = chapter.cloned() else { return };
        self.tell(|_| {
            format!(
                "chapter {}: {} -> {}: {}",
                chapter.kind, chapter.from, chapter.to, chapter.bound
            )
        });
        if chapter.from == chapter.to {
            return;
        }
        let Some(node) = self.place(&chapter.to) else { return };
        match chapter.kind.as_str() {
            "failover" => self.oracle.failovers += 1,
            "switchover" => self.oracle.switchovers += 1,
            _ => {}
        }
        self.oracle.overridden |= chapter.kind == "override";
        if !chapter.from.is_empty() && chapter.kind != "override" {
            self.check_bound(node, &chapter.bound);
        }
        // What is lost is known to be lost.
        let new = &self.nodes[node];
        let lost: Vec<u32> =
            self.oracle.kept.iter().filter(|it| !new.has(it.id, it.len)).map(|it| it.id).collect();
        self.oracle.kept.retain(|it| !lost.contains(&it.id));
        self.oracle.by_id =
            self.oracle.kept.iter().enumerate().map(|(place, it)| (it.id, place)).collect();
        if !self.machine.record().quarantine.is_empty() && chapter.kind == "override" {
            self.oracle.loose = true;
        }
    }

    /// What has been lost is no more than was said.
    fn check_bound(&mut self, node: usize, bound: &str) {
        let new = &self.nodes[node];
        let lost = self.oracle.kept.iter().filter(|it| !new.has(it.id, it.len));
        let lost: Vec<_> = lost.filter(|it| it.answered.is_some()).copied().collect();
        let Some(first) = lost.iter().min_by_key(|it| it.answered) else { return };
        if bound == "nobody knows what" {
            return;
        }
        let after = bound.split("acknowledged after ").nth(1).and_then(|it| {
            let (seconds, micros) = it.split_once('.')?;
            let micros = micros.get(..6)?;
            Some(seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?)
        });
        let Some(after) = after else {
            return self.blame(format!("{bound:?} is lost, they said, and {lost:?} are"));
        };
        let clock = self.oracle.bound.as_ref().map_or(0, |(_, clock)| *clock);
        let after = self.ours(after) + self.clock - clock;
        if first.answered.is_some_and(|it| it.cast_signed() <= after) {
            self.blame(format!("{first:?} is lost, and not after {after}: {bound:?}"));
        }
    }

    /// A standby receives from a node: is its log the beginning of that one's?
    pub(super) fn check_same(&mut self, node: usize, from: usize, len: usize) {
        let same = self.nodes[from].log[len - 1] == self.nodes[node].log[len - 1];
        if !same && !self.oracle.outside {
            let text = format!(
                "{} receives from {} what does not belong to its log",
                self.names[node], self.names[from]
            );
            self.blame(text);
        }
    }

    pub(super) fn replied(&mut self, ticket: u64, reply: &Reply) {
        self.tell(|_| format!("reply {ticket}: {reply:?}"));
        let Some((_, verb)) = self.oracle.verbs.remove(&ticket) else {
            return self.blame(format!("ticket {ticket} is answered, and nobody waits"));
        };
        if reply.is_err() {
            self.oracle.refused += 1;
            return;
        }
        let record = self.machine.record();
        let to = record.history.last().map_or("", |it| &it.to);
        match &verb {
            Verb::Switchover { to: name, dry: false }
            | Verb::Failover { to: name, dry: false, .. }
                if *to != **name =>
            {
                self.blame(format!("{verb:?} is done, they say, and {to} is the primary"));
            }
            Verb::Rejoin { node, dry: false } => {
                let node = self.place(node).unwrap_or(0);
                if !self.nodes[node].recovery {
                    self.blame(format!("{verb:?} is done, they say"));
                }
            }
            Verb::Switchover { .. }
            | Verb::Failover { .. }
            | Verb::Rejoin { .. }
            | Verb::Pause(_)
            | Verb::Override { .. } => {}
        }
    }

    /// All is well again.
    pub(super) fn check_goal(&mut self, lane: usize) {
        let record = self.machine.record();
        let Some(primary) = self.healed.and_then(|_| self.place(&record.primary)) else { return };
        let open =
            matches!(&self.lanes[lane].gate.writes, Writes::Open(name) if **name == record.primary);
        let follows = |node: usize| {
            node == primary
                || record.quarantine.get(&self.names[node]).is_some_and(|it| it.rebuild)
                || self.nodes[node].stream.is_some_and(|it| it.from == primary)
        };
        let all = (0..self.nodes.len()).all(follows);
        self.oracle.goal = open && all && record.state == State::Normal;
        if self.oracle.goal {
            let new = &self.nodes[primary];
            let lost = self.oracle.kept.iter().find(|it| it.promised && !new.has(it.id, it.len));
            if let Some(lost) = lost.filter(|_| !self.oracle.outside).copied() {
                self.blame(format!("{lost:?} is lost in the end"));
            }
        }
    }
}
