//! What is done to nodes, as PostgreSQL and the commands of an operator do it.

use crate::failover::act::{Act, Done, Hook, target};
use crate::failover::sim::node::{Process, Stream, Via, parse_sync};
use crate::failover::sim::world::{Ev, MS, Msg, S, World, micros};
use crate::time::Duration;

fn failed(unknown: bool, reason: &str) -> Done {
    Done::Failed { unknown, reason: reason.to_owned() }
}

impl World {
    fn reply(&mut self, node: usize, run: u32, number: u64, done: Done) {
        self.send(node + 1, 0, Msg::Done { run, number, done });
    }

    /// An act has come to a node.
    pub(super) fn act_begins(&mut self, node: usize, run: u32, number: u64, act: Act) {
        if !self.nodes[node].accepts(self.now) {
            return self.reply(node, run, number, failed(false, "refused"));
        }
        let boot = self.nodes[node].boot;
        let mut after = self.between(0, MS);
        match &act {
            Act::Freeze => {
                self.nodes[node].conninfo.clear();
                self.nodes[node].source = None;
                let gone = self.between(MS, 250 * MS);
                self.later(gone, Ev::StopStream { node, boot });
                after = gone + 50 * MS;
            }
            Act::Follow { conninfo, slot } => self.follow_by(node, conninfo, slot),
            Act::Prepare(_) => self.nodes[node].retry = Duration::from_millis(50),
            Act::Sync(setting) => {
                self.nodes[node].sync.clone_from(setting);
                let heard = self.between(0, 400 * MS);
                self.later(heard, Ev::Reload { node, boot });
            }
            Act::Promote(_) if self.nodes[node].recovery => {
                let slow = self.nodes[node].retry > Duration::from_secs(1) && self.percent(50);
                after = self.between(20 * MS, if slow { 5 * S } else { 500 * MS });
            }
            Act::Look | Act::Slots(_) | Act::Advance(_) | Act::Promote(_) => {}
            Act::Canary => {
                let it = &self.nodes[node];
                if it.recovery || it.read_only {
                    return self.reply(node, run, number, failed(false, "read-only"));
                }
                self.ids += 1;
                return self.write(node, self.ids, Via::Canary { run, number });
            }
            Act::Checkpoint => after = self.between(5 * MS, 300 * MS),
            Act::Kick => {
                self.nodes[node].read_only = true;
                self.end_sessions(node);
            }
            Act::Unkick => self.nodes[node].read_only = false,
            Act::Command(_) => unreachable!("no command goes over a link"),
        }
        self.later(after, Ev::ActEnds { node, boot, run, number, act });
    }

    pub(super) fn act_ends(&mut self, node: usize, boot: u32, run: u32, number: u64, act: Act) {
        let it = &self.nodes[node];
        if it.boot != boot || !it.runs(self.now) {
            if it.frozen {
                self.backlog.push((node, Ev::ActEnds { node, boot, run, number, act }));
            } else if it.host {
                self.reply(node, run, number, failed(true, "the connection ended"));
            }
            return;
        }
        let done = match act {
            Act::Look | Act::Freeze => Done::Seen(Box::new(it.view(self.now, &self.names))),
            Act::Promote(_) => {
                if it.recovery {
                    self.promote(node);
                }
                Done::Well
            }
            Act::Follow { .. }
            | Act::Prepare(_)
            | Act::Slots(_)
            | Act::Advance(_)
            | Act::Sync(_)
            | Act::Canary
            | Act::Checkpoint
            | Act::Kick
            | Act::Unkick
            | Act::Command(_) => Done::Well,
        };
        if self.percent(1) && !matches!(done, Done::Seen(_)) {
            return self.reply(node, run, number, failed(true, "the connection ended"));
        }
        self.reply(node, run, number, done);
    }

    fn follow_by(&mut self, node: usize, conninfo: &str, slot: &str) {
        let source = target(conninfo).and_then(|(host, _)| self.place(&host));
        let soon = self.now + self.between(10 * MS, 100 * MS);
        let it = &mut self.nodes[node];
        conninfo.clone_into(&mut it.conninfo);
        slot.clone_into(&mut it.slot);
        it.source = source;
        if it.stream.is_some_and(|stream| Some(stream.from) != source) {
            it.stream = None;
        }
        it.next_try = soon;
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|it| it == name)
    }

    /// The end of recovery.
    pub(super) fn promote(&mut self, node: usize) {
        self.ids += 1;
        let id = self.ids;
        let it = &mut self.nodes[node];
        it.history.push((it.timeline() + 1, it.log.len()));
        it.append(id, false);
        it.recovery = false;
        it.stream = None;
        let sync = parse_sync(&it.sync, &self.names);
        self.nodes[node].in_force = sync;
        self.tell(|it| format!("PROMOTED: {}, {}", it.names[node], it.nodes[node].timeline()));
        self.stream_out(node);
        self.check_promoted(node);
    }

    pub(super) fn reload(&mut self, node: usize, boot: u32) {
        if self.nodes[node].boot != boot {
            return;
        }
        self.nodes[node].in_force = parse_sync(&self.nodes[node].sync, &self.names);
        self.acknowledge(node);
    }

    pub(super) fn stop_stream(&mut self, node: usize, boot: u32) {
        let it = &mut self.nodes[node];
        if it.boot == boot && it.source.is_none() {
            it.stream = None;
        }
    }

    // --- commands

    pub(super) fn hook(&mut self, (run, number, node): (u32, u64, usize), hook: Hook, to: usize) {
        let there = self.is_open(0, node + 1) && self.nodes[node].host;
        let done = match hook {
            Hook::Fence if self.percent(90) => {
                self.nodes[node].die();
                self.reset_lanes(node);
                Done::Well
            }
            Hook::Fence => failed(false, "exit status 1"),
            Hook::Stop if !there => failed(false, "ssh"),
            Hook::Stop => {
                self.stop(node);
                Done::Well
            }
            Hook::Rejoin if !there || node == to => failed(false, "ssh"),
            Hook::Rejoin => {
                self.crash(node);
                let after = self.between(200 * MS, 3 * S);
                self.later(after, Ev::Hook { run, number, node, hook, to, step: 1 });
                return;
            }
        };
        self.tell(|it| format!("{hook:?} on {}: {done:?}", it.names[node]));
        self.act_done(run, number, done);
    }

    pub(super) fn rejoins(&mut self, (run, number, node): (u32, u64, usize), to: usize) {
        let well = self.build(node, to);
        self.tell(|it| format!("rejoin of {} to {}: {well}", it.names[node], it.names[to]));
        let done = if well { Done::Well } else { failed(false, "pg_rewind") };
        self.act_done(run, number, done);
    }

    /// A node is built from a primary, and follows it.
    pub(super) fn build(&mut self, node: usize, to: usize) -> bool {
        let (source, it) = (&self.nodes[to], &self.nodes[node]);
        if !source.accepts(self.now) || source.recovery || !it.host || node == to {
            return false;
        }
        let source = source.clone();
        let it = &mut self.nodes[node];
        it.die();
        it.system = source.system;
        it.log = source.log;
        it.history = source.history;
        it.sync = source.sync;
        it.read_only = source.read_only;
        it.retry = source.retry;
        it.recovery = true;
        it.source = Some(to);
        it.conninfo = format!("user=repl host=pg{to} port=5432 application_name={}", it.name);
        self.start(node);
        true
    }

    // --- processes

    pub(super) fn start(&mut self, node: usize) {
        let from = self.now + self.between(50 * MS, 1_500 * MS);
        let it = &mut self.nodes[node];
        if it.process != Process::Dead || !it.host {
            return;
        }
        it.die();
        it.process = Process::Up(from);
        it.boot += 1;
        it.started = self.now.cast_signed() + 2;
        it.in_force = parse_sync(&it.sync, &self.names);
        it.next_try = from;
        self.tell(|it| format!("{} starts", it.names[node]));
    }

    /// Everything of it ends at once.
    pub(super) fn crash(&mut self, node: usize) {
        self.nodes[node].die();
        self.reset_lanes(node);
    }

    /// In order: all it has is sent to those who receive.
    pub(super) fn stop(&mut self, node: usize) {
        if !self.nodes[node].accepts(self.now) {
            return;
        }
        self.end_sessions(node);
        if !self.nodes[node].recovery {
            self.ids += 1;
            let id = self.ids;
            self.nodes[node].append(id, false);
        }
        for other in 0..self.nodes.len() {
            let stream = self.nodes[other].stream.is_some_and(|it| it.from == node);
            if stream && self.is_open(node + 1, other + 1) && self.nodes[other].accepts(self.now) {
                let (log, history) = (self.nodes[node].log.clone(), &self.nodes[node].history);
                let history = history.clone();
                self.nodes[other].log = log;
                self.nodes[other].inherit(&history);
            }
        }
        self.crash(node);
    }

    fn reset_lanes(&mut self, node: usize) {
        for lane in 0..self.lanes.len() {
            if let Some((_, conn)) = self.lanes[lane].conn.filter(|(it, _)| *it == node) {
                self.send(node + 1, 0, Msg::Reset { lane, conn });
            }
        }
    }

    /// Sessions are ended; what waited for standbys is visible, and nobody was told.
    pub(super) fn end_sessions(&mut self, node: usize) {
        self.nodes[node].sessions.clear();
        self.nodes[node].waits.clear();
        self.reset_lanes(node);
    }

    // --- replication

    /// Whoever receives nothing and should tries again; who hears nothing gives up.
    pub(super) fn receivers(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].runs(self.now) || !self.nodes[node].recovery {
                continue;
            }
            if let Some(stream) = self.nodes[node].stream {
                let from = stream.from;
                let path = self.is_open(from + 1, node + 1);
                let known =
                    self.nodes[from].followers.get(&node).is_some_and(|it| it.0 == stream.id);
                if path && self.nodes[from].runs(self.now) && known {
                    if let Some(stream) = &mut self.nodes[node].stream {
                        stream.heard = self.now;
                    }
                } else if path && self.nodes[from].host && !self.nodes[from].frozen && !known
                    || self.now - stream.heard > 4 * S
                {
                    self.nodes[node].stream = None;
                    self.nodes[node].next_try = self.now + micros(self.nodes[node].retry);
                }
            } else if let Some(from) = self.nodes[node].source
                && self.now >= self.nodes[node].next_try
            {
                self.nodes[node].next_try = self.now + micros(self.nodes[node].retry);
                self.connect(node, from);
            }
        }
    }

    fn connect(&mut self, node: usize, from: usize) {
        let path = self.is_open(from + 1, node + 1);
        if !path || !self.nodes[from].accepts(self.now) || from == node {
            return;
        }
        if !self.nodes[from].feeds(&self.nodes[node]) {
            return;
        }
        let len = self.nodes[node].log.len();
        self.check_same(node, from, len);
        self.streams += 1;
        let id = self.streams;
        self.nodes[node].stream = Some(Stream { from, id, heard: self.now });
        self.nodes[from].followers.insert(node, (id, len));
        let history = self.nodes[from].history.clone();
        self.nodes[node].inherit(&history);
        self.stream_to(from, node, len);
        self.acknowledge(from);
    }

    pub(super) fn stream_out(&mut self, from: usize) {
        let followers: Vec<usize> = self.nodes[from].followers.keys().copied().collect();
        let len = self.nodes[from].log.len() - 1;
        for node in followers {
            self.stream_to(from, node, len);
        }
    }

    fn stream_to(&mut self, from: usize, node: usize, len: usize) {
        let it = &self.nodes[from];
        let Some((stream, _)) = it.followers.get(&node).copied() else { return };
        let (items, history) = (it.log[len..].to_vec(), it.history.clone());
        if !items.is_empty() {
            self.send(from + 1, node + 1, Msg::Wal { stream, from: len, items, history });
        }
    }

    pub(super) fn wal(
        &mut self,
        node: usize,
        stream: u64,
        from: usize,
        items: &[crate::failover::sim::node::Item],
        history: &[(u32, usize)],
    ) {
        let it = &mut self.nodes[node];
        let Some(own) = it.stream.filter(|own| own.id == stream) else { return };
        if from > it.log.len() {
            // Something has been lost on the way: the connection is broken.
            it.stream = None;
        }
        if !it.runs(self.now) || it.log.len() != from {
            return;
        }
        it.log.extend_from_slice(items);
        it.inherit(history);
        let len = it.log.len();
        self.send(node + 1, own.from + 1, Msg::Flushed { stream, len });
        if !self.nodes[node].followers.is_empty() {
            let followers: Vec<usize> = self.nodes[node].followers.keys().copied().collect();
            for other in followers {
                self.stream_to(node, other, from);
            }
        }
    }

    pub(super) fn flushed(&mut self, node: usize, standby: usize, stream: u64, len: usize) {
        if let Some((own, known)) = self.nodes[node].followers.get_mut(&standby)
            && *own == stream
        {
            *known = len;
            self.acknowledge(node);
        }
    }
}
