//! Troubles: servers that die, nodes that go down, nodes that lie, and somebody at the console.

use crate::link::{End, LinkId, MS, SEC};
use crate::message::Message;
use crate::node::Lie;
use crate::world::{Happening, World};
use pgring_logic::mail::Order;

impl World {
    /// Something goes wrong, until the story calms down.
    pub(crate) fn chaos(&mut self) {
        if self.now >= self.plan.calm_from {
            return self.calm();
        }
        if self.plan.faults && self.dice.chance(40) {
            self.oracle.trouble = self.now;
            self.fault();
        }
        if self.plan.lies && self.dice.chance(50) {
            self.oracle.trouble = self.now;
            self.lie();
        }
        if self.plan.orders && self.dice.chance(40) {
            self.console();
        }
        if self.plan.moves && self.dice.chance(15) {
            self.move_database();
        }
        if self.plan.alters && self.dice.chance(20) {
            self.say(|| "tables change".to_owned());
            for node in &mut self.nodes {
                node.shape += 1;
            }
        }
        if self.plan.pins && self.dice.chance(50) {
            for node in 0..self.plan.nodes {
                self.node_notifies(node);
            }
        }
        let next = self.now + self.dice.range(5 * MS, 300 * MS);
        self.at(next, Happening::Chaos);
    }

    /// From now on all is well.
    fn calm(&mut self) {
        self.say(|| "all is well from now on".to_owned());
        self.oracle.trouble = self.now;
        for node in &mut self.nodes {
            node.down = false;
            node.silent = false;
            node.full = false;
        }
        if self.control.paused {
            self.control.paused = false;
            self.order(&Order::Resume(None));
        }
        if self.control.absent && self.dice.chance(60) {
            self.move_database();
        }
    }

    /// Who is in for trouble: the first node, unless there are standbys.
    fn troubled(&mut self) -> usize {
        let standby = self.plan.routed && (self.plan.spared || self.dice.chance(50));
        if standby { 1 + self.dice.place(self.plan.nodes - 1) } else { 0 }
    }

    /// One of the connections of a node.
    fn victim(&mut self, node: usize) -> Option<LinkId> {
        let links: Vec<LinkId> = self.nodes[node].backends.keys().copied().collect();
        if links.is_empty() { None } else { Some(*self.dice.pick(&links)) }
    }

    fn fault(&mut self) {
        let node = self.troubled();
        match self.dice.below(12) {
            0..4 => {
                let Some(link) = self.victim(node) else { return };
                let abrupt = self.dice.chance(40);
                self.say(|| format!("the server of link {link} dies, abruptly: {abrupt}"));
                let said = "terminating connection due to administrator command";
                self.node_ends(node, link, said, abrupt);
            }
            4 => {
                let Some(link) = self.victim(node) else { return };
                self.say(|| format!("link {link} falls silent"));
                if let Some(found) = self.links.get_mut(&link) {
                    found.silent = true;
                }
                let when = self.now + self.dice.range(SEC, 10 * SEC);
                self.at(when, Happening::Break(link, End::Near, "connection timed out"));
                self.at(when, Happening::Break(link, End::Far, "connection timed out"));
            }
            5 => {
                self.say(|| format!("node {node} restarts"));
                self.nodes[node].down = true;
                let links: Vec<LinkId> = self.nodes[node].backends.keys().copied().collect();
                for link in links {
                    let abrupt = self.dice.chance(30);
                    let said = "the database system is shutting down";
                    self.node_ends(node, link, said, abrupt);
                }
            }
            6 => self.nodes[node].full = true,
            7 => self.nodes[node].silent = self.dice.chance(40),
            _ => {
                self.nodes[node].down = false;
                self.nodes[node].full = false;
                self.nodes[node].silent = false;
            }
        }
    }

    fn lie(&mut self) {
        let node = self.troubled();
        let idle: Vec<LinkId> = self.nodes[node]
            .backends
            .iter()
            .filter(|(_, backend)| backend.idle())
            .map(|(&link, _)| link)
            .collect();
        if idle.is_empty() || self.dice.chance(40) {
            let lie = *self.dice.pick(&[Lie::Tag, Lie::Short, Lie::Long, Lie::Cut]);
            let Some(link) = self.victim(node) else { return };
            if let Some(backend) = self.nodes[node].backends.get_mut(&link) {
                backend.lie = Some(lie);
            }
            return;
        }
        let link = *self.dice.pick(&idle);
        let lie = match self.dice.below(4) {
            0 => Message::new(b'Z', *b"I"),
            1 => crate::exec::row(&[Some("c0.LIE".to_owned())]),
            2 => Message::new(b'y', *b"c0.LIE"),
            _ => Message::new(b's', []),
        };
        let now = self.now;
        if let Some(found) = self.links.get_mut(&link) {
            found.lied = Some(now);
        }
        self.node_says(node, link, &lie);
    }

    fn console(&mut self) {
        let database = self.some_database();
        match self.dice.below(8) {
            0 | 1 if !self.control.paused => {
                self.control.paused = true;
                self.order(&Order::Pause(database));
            }
            0..4 if self.control.paused => {
                self.control.paused = false;
                self.order(&Order::Resume(None));
            }
            4 => self.order(&Order::Reconnect(database)),
            5 | 6 => {
                let size = self.dice.range(1, 5);
                self.reload(usize::try_from(size).unwrap_or(1));
            }
            _ => self.ask(),
        }
    }
}
