//! Packets under way in one direction.
//!
//! Packets of one connection keep their order and those of different ones need not. If none could
//! overtake any other, each would wait for the slowest before it, and a delay between 50 and
//! 250 ms would be 250 ms for all as soon as there are many.

use super::packet::{Flow, Segment};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

/// Packets under way; more are lost, as in a router whose queue is full.
const PACKETS_MAX: usize = 10_000;

/// Packets, and when they arrive.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the time of arrival, then by the order in which they came.
    packets: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    /// When the last packet of a connection arrives.
    last: BTreeMap<Flow, Instant>,
    come: u64,
}

impl Queue {
    /// Takes a packet that arrives at this time, or right behind the one before it.
    pub(super) fn push(&mut self, due: Instant, packet: Vec<u8>) {
        if self.packets.len() == PACKETS_MAX {
            return;
        }
        let due = match Segment::parse(&packet) {
            Some(segment) => {
                let last = self.last.entry(segment.flow()).or_insert(due);
                *last = due.max(*last);
                *last
            }
            None => due,
        };
        self.come += 1;
        self.packets.push(Reverse((due, self.come, packet)));
    }

    /// When the next packet arrives.
    pub(super) fn due(&self) -> Option<Instant> {
        self.packets.peek().map(|Reverse((due, ..))| *due)
    }

    /// A packet that has arrived.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let Reverse((.., packet)) = self.packets.pop()?;
        if self.packets.is_empty() {
            // Whoever comes now overtakes nobody.
            self.last.clear();
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::rig::packet::tests::segment_of;
    use std::time::{Duration, Instant};

    #[test]
    fn order_is_kept_within_a_connection_only() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let [slow, second, other] = [(1, b"slow"), (1, b"next"), (2, b"else")]
            .map(|(port, payload)| segment_of(port, payload));
        queue.push(at(250), slow.clone());
        queue.push(at(50), second.clone());
        queue.push(at(60), other.clone());

        assert_eq!((queue.due(), queue.pop(at(59))), (Some(at(60)), None));
        assert_eq!((queue.pop(at(60)), queue.pop(at(249))), (Some(other), None));
        assert_eq!(queue.pop(at(250)), Some(slow));
        assert_eq!((queue.pop(at(250)), queue.due()), (Some(second.clone()), None));

        queue.push(at(50), second);
        assert_eq!(queue.due(), Some(at(50)), "nobody is before it any more");
    }
}
