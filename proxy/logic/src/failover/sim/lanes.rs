//! Lanes, their clients, and clients that know a way around pgring.

use crate::failover::Event;
use crate::failover::sim::node::{Process, Via, Wait};
use crate::failover::sim::world::{Ev, MS, Msg, S, ToLane, Us, World};
use crate::topology::gate::{Gate, Writes};

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) gate: Gate,
    /// A connection to a primary: the node, and a number of its own.
    pub(super) conn: Option<(usize, u64)>,
    /// What runs on it, since when.
    pub(super) commit: Option<(u32, Us)>,
    vacate: Option<u64>,
    pub(super) vacated: u64,
    last: Us,
}

impl World {
    pub(super) fn tell_lanes(&mut self, say: &ToLane) {
        for lane in 0..self.lanes.len() {
            let slow = if self.percent(5) { 400 * MS } else { MS };
            let delay = self.between(0, slow);
            let when = (self.now + delay).max(self.lanes[lane].last + 1);
            self.lanes[lane].last = when;
            let (run, say) = (self.run, say.clone());
            self.later(when - self.now, Ev::Lane { run, lane, say });
        }
    }

    pub(super) fn lane_hears(&mut self, lane: usize, say: ToLane) {
        match say {
            ToLane::Gate(gate) => {
                let node = self.lanes[lane].conn.map(|(node, _)| node);
                let stays = match &gate.writes {
                    Writes::Open(name) => node.is_some_and(|it| self.names[it] == **name),
                    Writes::Drain => self.lanes[lane].commit.is_some(),
                    Writes::Shut => false,
                };
                self.lanes[lane].gate = gate;
                if !stays {
                    self.lane_close(lane, None);
                }
            }
            ToLane::Vacate(epoch) => self.lanes[lane].vacate = Some(epoch),
        }
        self.vacate(lane);
    }

    /// Says that there is no connection any more, when all lanes have none.
    fn vacate(&mut self, lane: usize) {
        let it = &mut self.lanes[lane];
        if it.conn.is_none()
            && let Some(epoch) = it.vacate.take()
        {
            it.vacated = epoch;
            if self.lanes.iter().all(|it| it.vacated == epoch) {
                let (run, after) = (self.run, self.between(0, MS));
                let event = Box::new(Event::Vacated(epoch));
                self.later(after, Ev::Ring { run, event });
            }
        }
    }

    pub(super) fn lane_close(&mut self, lane: usize, which: Option<u64>) {
        let it = &mut self.lanes[lane];
        let Some((node, conn)) = it.conn.filter(|(_, conn)| which.is_none_or(|it| it == *conn))
        else {
            return;
        };
        it.conn = None;
        it.commit = None;
        // What is on its way may be carried out yet.
        if self.percent(50) {
            self.nodes[node].sessions.retain(|it| *it != conn);
        }
        self.vacate(lane);
    }

    /// A client of this lane wants to commit.
    pub(super) fn client(&mut self, lane: usize) {
        let pause = self.between(20 * MS, 120 * MS);
        self.later(pause, Ev::Client(lane));
        if !self.alive || self.paused {
            return;
        }
        let it = &self.lanes[lane];
        if let Some((_, since)) = it.commit {
            if self.now - since > 3 * S {
                self.lane_close(lane, None);
            }
            return;
        }
        let Writes::Open(name) = &it.gate.writes else { return };
        let Some(node) = self.names.iter().position(|it| *it == **name) else { return };
        if it.conn.is_none() {
            if !self.is_open(0, node + 1) || !self.nodes[node].accepts(self.now) {
                return;
            }
            self.streams += 1;
            let conn = self.streams;
            self.nodes[node].sessions.push(conn);
            self.lanes[lane].conn = Some((node, conn));
        }
        let Some((node, conn)) = self.lanes[lane].conn else { return };
        self.check_lanes(node);
        self.ids += 1;
        let id = self.ids;
        self.lanes[lane].commit = Some((id, self.now));
        self.send(0, node + 1, Msg::Commit { lane, conn, id });
    }

    pub(super) fn lane_ack(&mut self, lane: usize, conn: u64, id: u32) {
        let it = &self.lanes[lane];
        if self.alive && it.conn.is_some_and(|(_, it)| it == conn) {
            if self.paused {
                let sent = self.now;
                let msg = Msg::Ack { lane, conn, id };
                return self.asleep.push(Ev::Arrive { from: 1, to: 0, sent, msg });
            }
            if it.commit.is_some_and(|(it, _)| it == id) {
                self.lanes[lane].commit = None;
                self.oracle.answered(id, self.now);
                self.check_goal(lane);
                if self.lanes[lane].gate.writes == Writes::Drain {
                    self.lane_close(lane, None);
                }
            }
        }
    }

    pub(super) fn lane_refused(&mut self, lane: usize, conn: u64) {
        let it = &mut self.lanes[lane];
        if it.conn.is_some_and(|(_, it)| it == conn) {
            it.commit = None;
            if it.gate.writes == Writes::Drain {
                self.lane_close(lane, None);
            }
        }
    }

    // --- on the node

    pub(super) fn commit(&mut self, node: usize, lane: usize, conn: u64, id: u32) {
        let it = &self.nodes[node];
        if !it.runs(self.now) || !it.sessions.contains(&conn) {
            return;
        }
        if it.recovery {
            return self.send(node + 1, 0, Msg::Refused { lane, conn });
        }
        self.read(node);
        self.write(node, id, Via::Lane { lane, conn });
    }

    /// What a client sees is not to be lost either; but for what it sees on a primary that has
    /// started again, before the machine can have heard of that: only a lane could know.
    fn read(&mut self, node: usize) {
        let it = &self.nodes[node];
        if it.in_force.0 > 0
            && self.is_promised(node)
            && self.machine.view(node).is_some_and(|view| view.started == it.started)
            && let Some((id, len)) = it.visible()
        {
            self.oracle.seen(id, len, node);
        }
    }

    pub(super) fn write(&mut self, node: usize, id: u32, via: Via) {
        let it = &mut self.nodes[node];
        let len = it.append(id, !matches!(via, Via::Canary { .. }));
        it.waits.push(Wait { id, len, via });
        self.stream_out(node);
        self.acknowledge(node);
    }

    /// Answers those who have waited long enough.
    pub(super) fn acknowledge(&mut self, node: usize) {
        if !self.nodes[node].runs(self.now) {
            return;
        }
        for Wait { id, len, via } in self.nodes[node].released() {
            self.acknowledged(node, id, len, via);
            match via {
                Via::Lane { lane, conn } => self.send(node + 1, 0, Msg::Ack { lane, conn, id }),
                Via::Direct => {}
                Via::Canary { run, number } => {
                    let done = crate::failover::act::Done::Well;
                    self.send(node + 1, 0, Msg::Done { run, number, done });
                }
            }
        }
    }

    /// Somebody who goes around pgring, or did before a node was cut off.
    pub(super) fn direct(&mut self) {
        let pause = self.between(70 * MS, 250 * MS);
        self.later(pause, Ev::Direct);
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            let there = it.is_primary(self.now) && !it.read_only;
            let there = there && matches!(it.process, Process::Up(_) | Process::Orphans(_));
            if self.direct && there && it.waits.len() < 20 {
                self.ids += 1;
                self.write(node, self.ids, Via::Direct);
            }
        }
    }
}
