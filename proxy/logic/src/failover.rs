//! Who is the primary of a cluster, and how that changes: a machine of its own for each cluster
//! whose primary pgring decides on.
//!
//! What it believes is its [`Record`], and nothing is done of which the record does not say already
//! that it may have been done: so another process that reads the record knows where to go on.
//!
//! ```text
//!             the primary is down                    a standby is promoted
//!   NORMAL ───────────────────────▶ FENCING ───────────────────────────────▶ PROMOTING ─▶ NORMAL
//!     │  SWITCHOVER                 │   ▲   the primary is well again: back    (no way back)
//!     └───────────▶ SWITCHING ──────┘   └── it is stopped, nothing is left to be asked of it
//! ```
//!
//! What makes it safe:
//!
//! - Nobody is written to while the primary changes: lanes have let go of all connections to the
//!   old one before its standbys are asked how far they are.
//! - The old one can acknowledge no commit any more: so many of its synchronous standbys have
//!   stopped to receive that the rest is no quorum, or a command has ended it, or there is no way
//!   to it but through pgring.
//! - The furthest of the stopped standbys is promoted. With synchronous replication it has every
//!   commit that was ever acknowledged, for any n - k + 1 of n standbys meet any k that have
//!   acknowledged one.
//! - Whoever was a primary before gets nothing until it follows the new one.
//!
//! Events may come late, twice, or never; what is asked for may be asked again. The clock on the
//! wall is written into the record for people, and for a cooldown; nothing else depends on it.

pub mod act;
mod admission;
mod down;
mod fence;
mod planned;
mod promote;
#[cfg(test)]
mod sim;
pub mod slot;
pub mod verb;
mod watch;
pub mod words;

use crate::action::Level;
use crate::config::{Cluster, Durability, Failover as Settings};
use crate::failover::act::{Act, Done, View};
use crate::failover::words::{Action, At, Event, Member, Out, Stage, Wish};
use crate::record::{Record, Revision, State, Synchronous};
use crate::time::{Duration, Instant};
use crate::topology::Lsn;
use crate::topology::gate::{Gate, Writes};
use crate::topology::verdict::{Cause, Health, Verdict};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Nodes are looked at so often while all is well.
const CALM: Duration = Duration::from_secs(1);
/// And so long after the last answer while something is to be decided.
const HASTE: Duration = Duration::from_millis(10);
/// For so long.
const SOON: Duration = Duration::from_secs(5);
/// A failed write of the record is tried again after this.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// The machine of one cluster.
#[derive(Debug)]
pub struct Failover {
    cluster: Arc<str>,
    settings: Arc<Settings>,
    /// How long a standby may not have heard from its primary.
    silence: Duration,
    members: Vec<Member>,
    /// What is to be kept, and what is.
    record: Record,
    kept: Option<(Revision, Record)>,
    saving: Option<Record>,
    save_at: Instant,
    stage: Stage,
    /// Standbys that have stopped to receive, and how they were then.
    frozen: BTreeMap<usize, View>,
    /// What lanes were told.
    gate: Gate,
    /// Who may still be written to, by what lanes were told before; and the gate behind which they
    /// were asked to let go of that.
    opened: Option<Arc<str>>,
    clearing: u64,
    /// Since when nobody is written to before standbys have what the primary has (rule R5), and
    /// where its log ended when it was first seen after that.
    held: Option<(Instant, Option<Lsn>)>,
    /// Where the log of the old primary ended when nobody wrote to it any more.
    target: Option<Lsn>,
    /// Where the primary was when.
    track: VecDeque<(Instant, Lsn)>,
    numbers: u64,
    /// The time of the event that is being handled.
    now: Instant,
    /// What is under way, by number: on which node, and since when.
    acts: BTreeMap<u64, (usize, Instant)>,
    wish: Option<Wish>,
    /// Who acknowledges the candidate's commits, as it was told before it was promoted.
    promised: Synchronous,
    /// Rejoins that somebody waits for.
    rejoins: BTreeMap<u64, (u64, usize)>,
    /// Nodes to be made standbys once the change is over.
    rejoin: BTreeSet<usize>,
    /// When the primary of the record became it, and since when its synchronous standbys are those
    /// of the record, and where its log ended when all of it had heard of them.
    crowned: Instant,
    agreed: Option<(Instant, Option<Lsn>)>,
    /// When the primary had been asked to stop.
    asked_to_stop: Option<Instant>,
    /// When the change under way began, and when something was last wrong with the primary.
    begun: Instant,
    troubled: Instant,
    /// Why nothing is done, in words.
    status: String,
    noted: String,
    /// No automatic change before this.
    cooldown: Option<Instant>,
}

impl Failover {
    /// Nothing is known yet. `silence` is for how long a standby that hears its primary may be
    /// without a word of it; `gate` is what lanes were told before a reload.
    pub fn new(
        at: At,
        cluster: &Cluster,
        settings: &Arc<Settings>,
        (silence, gate): (Duration, Gate),
    ) -> Self {
        let member = |node: &crate::config::Node| Member {
            name: node.name.as_str().into(),
            peer: act::peer(node),
            priority: node.priority,
            health: Health::default(),
            since: at.now,
            view: None,
            looking: None,
            next_look: at.now,
            streaming: None,
            told: None,
            idle: None,
            busy: None,
            touched: at.now,
        };
        let opened = match &gate.writes {
            _ if gate.epoch == 0 => None,
            Writes::Open(name) => Some(Arc::clone(name)),
            // Nobody knows: lanes are to let go of whatever it was.
            Writes::Drain | Writes::Shut => Some("".into()),
        };
        Self {
            cluster: cluster.name.as_str().into(),
            settings: Arc::clone(settings),
            silence,
            members: cluster.nodes.iter().map(member).collect(),
            record: Record::new(&cluster.name),
            kept: None,
            saving: None,
            save_at: at.now,
            stage: Stage::Rest,
            frozen: BTreeMap::new(),
            gate,
            opened,
            clearing: 0,
            promised: Synchronous::default(),
            held: None,
            target: None,
            track: VecDeque::new(),
            numbers: 0,
            now: at.now,
            acts: BTreeMap::new(),
            wish: None,
            rejoins: BTreeMap::new(),
            rejoin: BTreeSet::new(),
            crowned: at.now,
            agreed: None,
            asked_to_stop: None,
            begun: at.now,
            troubled: at.now,
            status: "the record is being read".to_owned(),
            noted: String::new(),
            cooldown: None,
        }
    }

    /// Of which cluster.
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// What a node has to receive from the primary, or the candidate: `primary_conninfo`, and
    /// `primary_slot_name`.
    pub fn source_of(&self, node: usize) -> (String, String) {
        let wanted = if self.record.candidate.is_empty() {
            &self.record.primary
        } else {
            &self.record.candidate
        };
        match self.place(wanted) {
            Some(primary) if node < self.members.len() => {
                (self.conninfo(primary, node), self.slot(node))
            }
            Some(_) | None => Default::default(),
        }
    }

    /// What the machine goes by.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What lanes were told.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What it waits for, or why it does nothing, in words; empty: all is well.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// How a node was when it was last looked at.
    pub fn view(&self, node: usize) -> Option<&View> {
        self.members.get(node)?.view.as_ref().map(|(_, view)| view)
    }

    /// Something has happened.
    pub fn handle(&mut self, at: At, event: Event, out: &mut Out) {
        self.now = at.now;
        match event {
            Event::Loaded(revision, record) => self.loaded(at, revision, record, out),
            Event::Unread(reason) => self.status = reason,
            Event::Saved(revision) => {
                if let Some(record) = self.saving.take() {
                    self.kept = Some((revision, record));
                }
            }
            Event::Unsaved(reason) => {
                out.push(Action::Note(Level::Error, format!("the record is not kept: {reason}")));
                self.saving = None;
                self.save_at = at.now + SAVE_AGAIN;
                // Perhaps it was written after all.
                out.push(Action::Load);
            }
            Event::Verdict { node, health } => self.judged(at, node, health),
            Event::Done { number, done } => self.done(at, number, done, out),
            Event::Vacated(epoch) => self.vacated(at, epoch),
            Event::Verb { ticket, user, verb } => self.verb(at, ticket, &user, &verb, out),
        }
        self.proceed(at, out);
    }

    /// Time has passed. To be called at least every twentieth of a second.
    pub fn tick(&mut self, at: At, out: &mut Out) {
        self.now = at.now;
        self.proceed(at, out);
    }

    /// Does whatever is next.
    fn proceed(&mut self, at: At, out: &mut Out) {
        if self.kept.is_none() {
            return;
        }
        match self.record.state {
            State::Normal if self.record.primary.is_empty() => self.begin(at),
            State::Normal => self.normal(at, out),
            State::Fencing => self.fencing(at, out),
            State::Promoting => self.promoting(at, out),
            State::Switching => self.switching(at, out),
            State::Conflict => {
                self.status = format!("conflict: {}", self.record.reason);
                self.fail_wish(&self.status.clone(), out);
            }
        }
        self.save(at, out);
        self.tell(out);
        self.look(at, out);
        if self.status != self.noted {
            self.noted = self.status.clone();
            let well = self.status.is_empty();
            let level = if well { Level::Info } else { Level::Warn };
            let status = if well { "all is well" } else { &self.status };
            let text = format!("cluster {}, {}: {status}", self.cluster, self.record.state);
            out.push(Action::Note(level, text));
        }
    }

    fn loaded(&mut self, at: At, revision: Revision, record: Option<Box<Record>>, out: &mut Out) {
        let record = record.map_or_else(|| Record::new(&self.cluster), |record| *record);
        let first = self.kept.is_none();
        let known = self.kept.as_ref().map_or(0, |(_, record)| record.epoch);
        if !first && (record == self.record || record.epoch == known) {
            // Nobody else was there: what is to be written is written again.
            self.kept = Some((revision, record));
            return;
        }
        self.record = record.clone();
        self.kept = Some((revision, record));
        self.fail_wish("the record has been read anew", out);
        // It may have started again while nobody looked. Lanes that have been told before a reload
        // go on.
        if first && self.gate.epoch == 0 {
            self.hold_from(at.now);
        }
        self.stage = Stage::Rest;
        self.frozen.clear();
        self.begun = at.now;
        let left = self.record.cooldown_until.saturating_sub(at.unix / 1_000_000);
        let left = Duration::from_secs(left).min(self.settings.cooldown);
        self.cooldown = (!left.is_zero()).then(|| at.now + left);
        let (epoch, state, primary) = (self.record.epoch, self.record.state, &self.record.primary);
        let text = format!(
            "cluster {}: the record says {state}, epoch {epoch}, primary {primary:?}",
            self.cluster
        );
        out.push(Action::Note(Level::Info, text));
    }

    /// Whether what the record says is kept.
    fn is_saved(&self) -> bool {
        self.saving.is_none() && self.kept.as_ref().is_some_and(|(_, kept)| *kept == self.record)
    }

    fn save(&mut self, at: At, out: &mut Out) {
        if self.saving.is_some() || self.is_saved() || at.now < self.save_at {
            return;
        }
        let Some((revision, _)) = self.kept else { return };
        self.saving = Some(self.record.clone());
        out.push(Action::Save(revision, Box::new(self.record.clone())));
    }

    /// Asks nodes how they are, as often as it matters.
    fn look(&mut self, at: At, out: &mut Out) {
        for node in 0..self.members.len() {
            let it = &self.members[node];
            if it.looking.is_none() && it.busy.is_none() && at.now >= it.next_look {
                let number = self.act(node, Act::Look, out);
                self.members[node].looking = Some(number);
            }
        }
    }

    fn act(&mut self, node: usize, act: Act, out: &mut Out) -> u64 {
        self.numbers += 1;
        self.acts.insert(self.numbers, (node, self.now));
        out.push(Action::Act { number: self.numbers, node, act });
        self.numbers
    }

    fn judged(&mut self, at: At, node: usize, health: Health) {
        let Some(it) = self.members.get_mut(node) else { return };
        if it.health.verdict != health.verdict {
            it.since = at.now;
            for other in &mut self.members {
                other.next_look = at.now;
            }
        }
        let before = std::mem::replace(&mut self.members[node].health, health).verdict;
        if self.primary() != Some(node) {
            return;
        }
        if before.serves() && !health.verdict.serves() {
            self.troubled = at.now;
        }
        if ends_sessions(health.verdict) && !ends_sessions(before) {
            self.hold_from(at.now);
        }
    }

    /// An act has ended: whoever waits for it hears of it.
    fn done(&mut self, at: At, number: u64, done: Done, out: &mut Out) {
        let Some((node, asked)) = self.acts.remove(&number) else { return };
        let member = &mut self.members[node];
        if member.busy == Some(number) {
            member.busy = None;
            member.touched = at.now;
            member.next_look = at.now;
        }
        if member.looking.take_if(|looked| *looked == number).is_some() {
            let pause = self.pause(at.now);
            self.members[node].next_look = at.now + pause;
        }
        if let Done::Seen(view) = &done {
            self.seen(at, node, asked, View::clone(view));
        }
        if self.rejoined(number, &done, out) {
            return;
        }
        match self.record.state {
            State::Fencing => self.fencing_done(at, number, node, done, out),
            State::Promoting => self.promoting_done(at, number, done, out),
            State::Switching | State::Normal => self.planned_done(at, number, node, done, out),
            State::Conflict => {}
        }
    }

    /// Between two looks at a node.
    fn pause(&self, now: Instant) -> Duration {
        let ill = |node: usize| !self.members[node].health.verdict.serves();
        let ill = self.primary().is_some_and(ill);
        if self.record.state == State::Normal && self.held.is_none() && !ill {
            return CALM;
        }
        // What takes longer than that is not decided by a look.
        if now.since(self.troubled) < SOON { HASTE } else { 20 * HASTE }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| *member.name == *name)
    }

    /// The node that the record says is the primary.
    fn primary(&self) -> Option<usize> {
        self.place(&self.record.primary)
    }

    /// The furthest that the primary was ever seen.
    fn last(&self) -> Lsn {
        self.track.iter().map(|(_, lsn)| *lsn).max().unwrap_or_default()
    }

    fn is_sync(&self) -> bool {
        self.settings.durability == Durability::Sync
    }

    /// Whether nothing of the old primary's is open any more in a planned change.
    fn is_emptied(&self) -> bool {
        matches!(
            self.stage,
            Stage::Reading { .. } | Stage::Stopping { .. } | Stage::CatchingUp { .. }
        )
    }

    /// A step of the change under way is done.
    fn step(&mut self, at: At, name: &str) {
        let took = at.now.since(self.begun).as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.record.steps.push((name.to_owned(), took));
    }
}

/// Whether a verdict says that the sessions of a node have ended.
const fn ends_sessions(verdict: Verdict) -> bool {
    match verdict {
        Verdict::DeadProcess | Verdict::Recovering => true,
        Verdict::Unknown
        | Verdict::Healthy
        | Verdict::Degraded
        | Verdict::Suspect(Cause::Process | Cause::Hang | Cause::Path)
        | Verdict::Hung
        | Verdict::DeadPath
        | Verdict::Refusing => false,
    }
}
