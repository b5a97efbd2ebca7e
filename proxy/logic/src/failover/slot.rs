//! Physical slots: their names, `pgring_` and the node that receives through it; and how far those
//! are moved on standbys that nobody receives through yet.

use crate::failover::act::{Act, View};
use crate::failover::{Failover, Out};
use crate::time::Instant;
use crate::topology::Lsn;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// `PostgreSQL` takes no longer name.
const NAME_MAX: usize = 63;
/// So many hexadecimal digits tell long names apart.
const DIGITS: usize = 16;

/// The slot through which a node receives. It has letters, digits and `_` only, as slots must; no
/// two nodes share one. Another character is written as `_` and its bytes in hexadecimal, `_` as
/// two of them; of a name that gets too long a hash stands for the end.
pub fn slot_name(node: &str) -> String {
    let mut name = "pgring_".to_owned();
    for byte in node.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => name.push(char::from(byte)),
            b'_' => name.push_str("__"),
            other => {
                // Writing to a string never fails.
                let _ok = write!(name, "_{other:02x}");
            }
        }
    }
    if name.len() > NAME_MAX {
        let hash = Sha256::digest(node.as_bytes());
        // No escape begins with `_h`; what was cut within one stays different by the hash.
        name.truncate(NAME_MAX - DIGITS - 2);
        name.push_str("_h");
        for byte in hash.iter().take(DIGITS / 2) {
            let _ok = write!(name, "{byte:02x}");
        }
    }
    name
}

impl Failover {
    /// A standby that was a primary, or was to be one, has slots for the others: without this it
    /// would keep all of the log since then.
    pub(super) fn move_slots(&mut self, now: Instant, out: &mut Out) {
        for node in 0..self.members.len() {
            let Some(view) = self.fresh(now, node).filter(|view| view.recovery) else { continue };
            let moves = moves(view, |slot| {
                let owner = self.members.iter().position(|it| slot_name(&it.name) == slot);
                let Some(owner) = owner else { return Some(Lsn(u64::MAX)) };
                if self.primary() == Some(owner) {
                    return Some(Lsn(u64::MAX));
                }
                let standby = self.fresh(now, owner).filter(|view| view.recovery)?;
                let sane = !self.record.quarantine.contains_key(&*self.members[owner].name);
                sane.then_some(standby.end)
            });
            if !moves.is_empty() && self.is_free(node) {
                let number = self.act(node, Act::Advance(moves), out);
                self.members[node].busy = Some(number);
            }
        }
    }
}

/// Which slots of a standby are moved, and where to: no further than their owner has received, for
/// it may have to go on from there, and not beyond what the standby itself keeps anyway. A primary
/// that becomes a standby has the log up to there; who is not known any more needs nothing; where
/// nobody can tell the slot stays.
fn moves(view: &View, owner_has: impl Fn(&str) -> Option<Lsn>) -> Vec<(String, Lsn)> {
    let there = |(slot, from): &(String, Lsn)| {
        let to = owner_has(slot)?.min(view.redo).min(view.replayed);
        (to > *from).then(|| (slot.clone(), to))
    };
    view.spare.iter().filter_map(there).collect()
}

#[cfg(test)]
mod tests {
    use super::{moves, slot_name};
    use crate::failover::act::View;
    use crate::topology::Lsn;
    use std::collections::BTreeSet;

    #[test]
    fn a_slot_moves_no_further_than_its_owner_and_the_restartpoint() {
        let spare = [("behind", 50), ("ahead", 50), ("gone", 50), ("there", 100), ("unknown", 50)];
        let spare = spare.map(|(slot, lsn)| (slot.to_owned(), Lsn(lsn))).into();
        let view = View { redo: Lsn(100), replayed: Lsn(200), spare, ..View::default() };
        let moved = moves(&view, |slot| match slot {
            "behind" => Some(Lsn(70)),
            "unknown" => None,
            "gone" => Some(Lsn(u64::MAX)),
            _ => Some(Lsn(150)),
        });
        let wanted = [("behind", 70), ("ahead", 100), ("gone", 100)];
        assert_eq!(moved, wanted.map(|(slot, lsn)| (slot.to_owned(), Lsn(lsn))));
    }

    #[test]
    fn a_slot_is_named_after_its_node() {
        assert_eq!(slot_name("pg1"), "pgring_pg1");
        assert_eq!(slot_name("pg-1"), "pgring_pg_2d1");
        assert_eq!(slot_name("PG_1"), "pgring__50_47__1");
        assert_eq!(slot_name("ä"), "pgring__c3_a4");
    }

    #[test]
    fn every_node_has_a_legal_one_of_its_own() {
        let long = "x".repeat(56);
        let names = [
            "",
            "a",
            "A",
            "_",
            "__",
            "_5f",
            "-",
            "_2d",
            "a_b",
            "a-b",
            "a b",
            "a__b",
            "'",
            "\"",
            "é",
            &long,
            &format!("{long}y"),
            &format!("{long}z"),
            &"-".repeat(40),
            &"-".repeat(41),
        ];
        let slots: BTreeSet<String> = names.iter().map(|name| slot_name(name)).collect();
        assert_eq!(slots.len(), names.len(), "{slots:?}");
        for slot in slots {
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(slot.len() <= 63 && slot.chars().all(legal), "{slot}");
        }
    }
}
