//! What goes wrong, what operators want, and the end of it all.

use crate::failover::sim::node::Process;
use crate::failover::sim::world::{Disk, Ev, MS, S, Us, World};
use crate::failover::verb::{Override, Verb};
use crate::failover::{At, Event, Failover};
use crate::record::State;
use crate::time::Duration;
use crate::topology::verdict::{Cause, Health, Verdict};
use std::sync::Arc;

/// Who is meant, when the time has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Primary,
    Candidate,
    Node(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Fault {
    Kill(Who),
    Stop(Who),
    Freeze(Who),
    Thaw,
    HostDown(Who),
    Start,
    /// From and to, as parties; both ways.
    Cut(usize, usize, bool),
    Isolate(Who),
    Heal,
    KillPgring,
    PausePgring(Us),
    Clock(i64),
    Disk(Disk),
    Lie(Who, Verdict, Us),
    Switchover(usize, bool),
    Failover(usize, bool, bool),
    Rejoin(usize),
    Pause(bool),
    Override(usize, Override, bool),
    OutsidePromotion(usize),
    /// The last one: everything is repaired.
    End,
}

impl World {
    fn who(&self, who: Who) -> usize {
        let record = self.machine.record();
        let named = match who {
            Who::Primary => &record.primary,
            Who::Candidate if record.candidate.is_empty() => &self.names[1],
            Who::Candidate => &record.candidate,
            Who::Node(node) => return node,
        };
        self.place(named).unwrap_or(0)
    }

    fn anybody(&mut self) -> Who {
        match self.below(10) {
            0..=4 => Who::Primary,
            5 | 6 => Who::Candidate,
            _ => Who::Node(self.any_node()),
        }
    }

    fn any_node(&mut self) -> usize {
        let count = self.nodes.len() as u64;
        usize::try_from(self.below(count)).unwrap_or(0)
    }

    pub(super) fn any_fault(&mut self) -> Fault {
        let who = self.anybody();
        let (node, other) = (self.any_node(), self.any_node());
        match self.below(44) {
            0..=4 => Fault::Kill(who),
            5 => Fault::Stop(who),
            6..=8 => Fault::Freeze(who),
            9 | 10 => Fault::Thaw,
            11..=12 => Fault::HostDown(who),
            13..=17 => Fault::Start,
            18 | 19 => Fault::Cut(0, node + 1, self.percent(60)),
            20 => Fault::Cut(node + 1, 0, self.percent(60)),
            21..=23 => Fault::Cut(node + 1, other + 1, self.percent(60)),
            24 | 25 => Fault::Isolate(who),
            26 | 27 => Fault::Heal,
            28..=30 => Fault::KillPgring,
            31 => Fault::PausePgring(self.between(100 * MS, 8 * S)),
            32 => Fault::Clock(if self.percent(50) { 3_600_000_000 } else { -3_600_000_000 }),
            33 | 34 => Fault::Disk([Disk::Refuses, Disk::Lies][node % 2]),
            35 | 36 => {
                let lies = [
                    Verdict::DeadPath,
                    Verdict::DeadProcess,
                    Verdict::Hung,
                    Verdict::Recovering,
                    Verdict::Suspect(Cause::Path),
                ];
                let lie = lies[usize::try_from(self.below(5)).unwrap_or(0)];
                Fault::Lie(who, lie, self.between(100 * MS, 6 * S))
            }
            37..=39 => Fault::Switchover(node, self.percent(10)),
            40 => Fault::Failover(node, self.percent(85), self.percent(10)),
            41 => Fault::Rejoin(node),
            42 => Fault::Pause(self.percent(40)),
            _ => {
                let roles = [Override::Primary, Override::None, Override::Default];
                let role = roles[usize::try_from(self.below(3)).unwrap_or(0)];
                Fault::Override(node, role, self.percent(20))
            }
        }
    }

    pub(super) fn strike(&mut self, fault: &Fault) {
        self.tell(|it| format!("FAULT {fault:?} (primary {})", it.machine.record().primary));
        match *fault {
            Fault::Kill(who) => self.kill(who),
            Fault::Stop(who) => {
                let node = self.who(who);
                self.stop(node);
            }
            Fault::Freeze(who) => {
                let node = self.who(who);
                self.nodes[node].frozen = self.nodes[node].host;
            }
            Fault::Thaw => self.thaw(),
            Fault::HostDown(who) => {
                let node = self.who(who);
                self.nodes[node].die();
                self.nodes[node].host = false;
            }
            Fault::Start => (0..self.nodes.len()).for_each(|node| {
                self.nodes[node].host = true;
                self.start(node);
            }),
            Fault::Cut(from, to, both) => {
                self.reach[from][to] = from == to;
                self.reach[to][from] &= !both || from == to;
            }
            Fault::Isolate(who) => {
                let node = self.who(who) + 1;
                for other in (0..self.reach.len()).filter(|it| *it != node) {
                    self.reach[node][other] = false;
                    self.reach[other][node] = false;
                }
            }
            Fault::Heal => self.heal(),
            Fault::KillPgring => self.kill_pgring(),
            Fault::PausePgring(time) if !self.paused => {
                self.paused = true;
                self.later(time, Ev::PgringWakes);
            }
            Fault::PausePgring(_) => {}
            Fault::Clock(step) => self.clock += step,
            Fault::Disk(disk) => self.disk = disk,
            Fault::Lie(who, verdict, time) => {
                let node = self.who(who);
                self.fake[node] = Some((verdict, self.now + time));
            }
            Fault::OutsidePromotion(node) => {
                let it = &self.nodes[node];
                if it.accepts(self.now) && it.recovery {
                    self.oracle.outside = true;
                    self.promote(node);
                }
            }
            Fault::End => self.repair(),
            Fault::Switchover(..)
            | Fault::Failover(..)
            | Fault::Rejoin(_)
            | Fault::Pause(_)
            | Fault::Override(..) => self.operator(fault),
        }
    }

    fn operator(&mut self, fault: &Fault) {
        let name = |node: usize| Arc::<str>::from(self.names[node].as_str());
        let verb = match *fault {
            Fault::Switchover(to, dry) => Verb::Switchover { to: name(to), dry },
            Fault::Failover(to, force, dry) => {
                let force = force.then(|| Arc::from(self.cluster.name.as_str()));
                Verb::Failover { to: name(to), force, dry }
            }
            Fault::Rejoin(node) => {
                Verb::Rejoin { node: name(node), dry: self.seed.is_multiple_of(8) }
            }
            Fault::Pause(pause) => Verb::Pause(pause),
            Fault::Override(node, role, dry) => Verb::Override { node: name(node), role, dry },
            Fault::Kill(_)
            | Fault::Stop(_)
            | Fault::Freeze(_)
            | Fault::Thaw
            | Fault::HostDown(_)
            | Fault::Start
            | Fault::Cut(..)
            | Fault::Isolate(_)
            | Fault::Heal
            | Fault::KillPgring
            | Fault::PausePgring(_)
            | Fault::Clock(_)
            | Fault::Disk(_)
            | Fault::Lie(..)
            | Fault::OutsidePromotion(_)
            | Fault::End => return,
        };
        self.say(verb);
    }

    pub(super) fn say(&mut self, verb: Verb) {
        if !self.alive || self.paused {
            return;
        }
        self.tell(|_| format!("operator: {verb:?}"));
        self.tickets += 1;
        let ticket = self.tickets;
        self.oracle.verbs.insert(ticket, (self.run, verb.clone()));
        let dry = match &verb {
            Verb::Switchover { dry, .. }
            | Verb::Failover { dry, .. }
            | Verb::Rejoin { dry, .. }
            | Verb::Override { dry, .. } => *dry,
            Verb::Pause(_) => false,
        };
        self.tick_machine();
        let before = self.machine.record().clone();
        self.hear(Event::Verb { ticket, user: "ann".into(), verb });
        if dry && before != *self.machine.record() {
            self.blame("a dry run has changed the record".to_owned());
        }
    }

    fn kill(&mut self, who: Who) {
        let node = self.who(who);
        let orphans = self.percent(40);
        if orphans && self.nodes[node].accepts(self.now) {
            let until = self.now + self.between(10 * MS, S);
            self.nodes[node].process = Process::Orphans(until);
        } else {
            self.crash(node);
        }
    }

    /// Children of a postmaster that was killed end after a while.
    pub(super) fn bury(&mut self) {
        for node in 0..self.nodes.len() {
            if matches!(self.nodes[node].process, Process::Orphans(until) if self.now >= until) {
                self.crash(node);
            }
        }
    }

    fn thaw(&mut self) {
        for node in &mut self.nodes {
            node.frozen = false;
        }
        for (_, event) in std::mem::take(&mut self.backlog) {
            self.later(0, event);
        }
    }

    fn heal(&mut self) {
        for from in 0..self.reach.len() {
            for to in 0..self.reach.len() {
                if !self.reach[from][to] {
                    self.open(from, to);
                }
            }
        }
    }

    fn kill_pgring(&mut self) {
        if !self.alive {
            return;
        }
        self.alive = false;
        self.paused = false;
        self.asleep.clear();
        self.run += 1;
        for lane in 0..self.lanes.len() {
            self.lane_close(lane, None);
            self.lanes[lane] = crate::failover::sim::lanes::Lane::default();
        }
        self.acts.clear();
        self.oracle.verbs.clear();
        let after = self.between(100 * MS, 3 * S);
        self.later(after, Ev::PgringStarts);
    }

    pub(super) fn pgring_starts(&mut self) {
        let at: At = self.at();
        let silence = Duration::from_millis(1_200);
        self.machine = Failover::new(
            at,
            &self.cluster,
            &self.settings,
            (silence, crate::topology::gate::Gate::default()),
        );
        self.alive = true;
        self.verdicts.fill(Verdict::Unknown);
        let run = self.run;
        let after = self.between(MS, 50 * MS);
        self.later(after, Ev::StoreLoad { run });
        self.tell(|_| "pgring starts".to_owned());
    }

    pub(super) fn pgring_wakes(&mut self) {
        self.paused = false;
        for event in std::mem::take(&mut self.asleep) {
            self.later(0, event);
        }
    }

    /// How nodes seem to be, and whether that is new.
    pub(super) fn judge(&mut self) {
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            let condition = match it.process {
                _ if !it.host || !self.is_open(0, node + 1) => 1,
                _ if it.frozen => 3,
                Process::Dead | Process::Orphans(_) => 2,
                Process::Up(from) if from > self.now => 4,
                Process::Up(_) => 0,
            };
            if condition != self.condition[node].0 {
                let jitter = self.between(10 * MS, 300 * MS);
                self.condition[node] = (condition, self.now, jitter);
            }
            let verdict = self.verdict(node);
            if verdict != self.verdicts[node] && self.alive && !self.paused {
                self.verdicts[node] = verdict;
                self.tell(|it| format!("verdict: {} is {verdict}", it.names[node]));
                let health = Health { verdict, ..Health::default() };
                self.hear(Event::Verdict { node, health });
            }
        }
    }

    fn verdict(&self, node: usize) -> Verdict {
        if let Some((verdict, until)) = self.fake[node]
            && self.now < until
        {
            return verdict;
        }
        let (condition, since, jitter) = self.condition[node];
        let age = self.now - since;
        match condition {
            1 if age > 2_500 * MS => Verdict::DeadPath,
            1 if age > 300 * MS => Verdict::Suspect(Cause::Path),
            2 if age > jitter => Verdict::DeadProcess,
            3 if age > 1_600 * MS => Verdict::Hung,
            3 if age > 800 * MS => Verdict::Suspect(Cause::Hang),
            4 if age > jitter => Verdict::Recovering,
            0 if age > S => Verdict::Healthy,
            _ => self.verdicts[node],
        }
    }

    // --- the end

    fn repair(&mut self) {
        self.thaw();
        self.heal();
        self.ambush = None;
        for node in 0..self.nodes.len() {
            self.nodes[node].host = true;
            self.start(node);
            self.fake[node] = None;
        }
        self.disk = Disk::Good;
        self.healed = Some(self.now);
        self.operator_next = self.now + S;
    }

    /// What an operator does when all is repaired.
    pub(super) fn mend(&mut self) {
        if self.healed.is_none() || self.now < self.operator_next || !self.alive || self.paused {
            return;
        }
        self.operator_next = self.now + 2 * S;
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        let record = self.machine.record().clone();
        if !record.paused.is_empty() {
            self.say(Verb::Pause(false));
        }
        if record.state == State::Conflict {
            let furthest = |node: &usize| {
                let it = &self.nodes[*node];
                (it.is_primary(self.now), it.timeline(), it.log.len())
            };
            let best = (0..self.nodes.len()).max_by_key(furthest).unwrap_or(0);
            let node = self.names[best].as_str().into();
            return self.say(Verb::Override { node, role: Override::Primary, dry: false });
        }
        let Some(primary) = self.place(&record.primary) else {
            let node = self.names[0].as_str().into();
            return self.say(Verb::Override { node, role: Override::Primary, dry: false });
        };
        for (name, why) in &record.quarantine {
            let Some(node) = self.place(name).filter(|_| record.state == State::Normal) else {
                continue;
            };
            let follows = self.nodes[node].stream.is_some_and(|it| it.from == primary);
            let away = follows || !self.nodes[node].accepts(self.now);
            if why.rebuild && follows {
                let node = name.as_str().into();
                self.say(Verb::Override { node, role: Override::Default, dry: false });
            } else if !away && self.settings.rejoin_command.is_empty() {
                self.build(node, primary);
            } else if !away {
                self.say(Verb::Rejoin { node: name.as_str().into(), dry: false });
            }
        }
    }
}
