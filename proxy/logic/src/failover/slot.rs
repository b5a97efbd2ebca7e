//! The names of physical slots: `pgring_` and the node that receives through it.

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

#[cfg(test)]
mod tests {
    use super::slot_name;
    use std::collections::BTreeSet;

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
