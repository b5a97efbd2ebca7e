//! What pgring's console says of a cluster: who is the primary, and how that came about.

use crate::rig::event::Table;
use serde::Serialize;

/// SHOW TOPOLOGY.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Topology {
    /// It grows whenever writes are opened or shut.
    pub(crate) epoch: u64,
    /// What is going on, in one small word.
    pub(crate) state: String,
    /// Who is written to.
    pub(crate) primary: String,
    /// Nodes that get nothing, with the reason.
    pub(crate) quarantine: Vec<(String, String)>,
    /// All of it, for people.
    pub(crate) text: String,
}

impl Topology {
    /// Reads what the console has shown. A column that is not there is empty.
    pub(crate) fn parse(table: &Table) -> Self {
        let mut topology = Self::default();
        for row in table.rows() {
            let field = |name| row.field(name).unwrap_or_default();
            let fill = |slot: &mut String, name| {
                if slot.is_empty() {
                    field(name).clone_into(slot);
                }
            };
            topology.epoch = topology.epoch.max(field("epoch").parse().unwrap_or(0));
            fill(&mut topology.state, "state");
            fill(&mut topology.primary, "primary");
            let reason = field("quarantine");
            if !["", "-", "no", "f", "false"].contains(&reason) {
                topology.quarantine.push((field("node").to_owned(), reason.to_owned()));
            }
            topology.text += &format!("  {}\n", row.line());
        }
        topology.state = topology.state.to_lowercase();
        topology
    }

    /// Whether writes are open, to somebody.
    pub(crate) fn is_normal(&self) -> bool {
        self.state == "normal" && !self.primary.is_empty()
    }
}

/// A change of the primary that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Chapter {
    /// The epoch in which it ended.
    pub(crate) epoch: u64,
    /// When it began, in seconds since 1970.
    pub(crate) time: f64,
    pub(crate) kind: String,
    pub(crate) reason: String,
    pub(crate) from: String,
    pub(crate) to: String,
    /// What is lost at most, in words.
    pub(crate) bound: String,
    /// How long pgring itself says that writes were shut.
    pub(crate) outage: String,
    /// Name of each step, and milliseconds from the start until it was done.
    pub(crate) steps: Vec<(String, f64)>,
}

/// SHOW HISTORY: the chapters since this epoch, the oldest first.
pub(crate) fn history(table: &Table, since: u64) -> Vec<Chapter> {
    let mut chapters: Vec<Chapter> = table
        .rows()
        .map(|row| {
            let field = |name| row.field(name).unwrap_or_default().to_owned();
            Chapter {
                epoch: field("epoch").parse().unwrap_or(0),
                time: field("time").parse().unwrap_or(0.0),
                kind: field("kind"),
                reason: field("reason"),
                from: field("from"),
                to: field("to"),
                bound: field("bound"),
                outage: field("outage"),
                steps: steps(&field("steps")),
            }
        })
        .filter(|chapter| chapter.epoch > since)
        .collect();
    chapters.sort_by_key(|chapter| chapter.epoch);
    chapters
}

/// Steps as they are written: `fenced 12 ms, chosen 80.5 ms`, also with `=` or `:` in between, and
/// also without a unit, which is milliseconds then.
fn steps(text: &str) -> Vec<(String, f64)> {
    text.split([',', ';']).filter_map(step).collect()
}

fn step(text: &str) -> Option<(String, f64)> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let text = text.trim();
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let (name, rest) = text.split_at(start);
    let end = rest.find(|c: char| !is_number(c)).unwrap_or(rest.len());
    let (number, unit) = rest.split_at(end);
    let name = name.trim_end_matches([' ', '=', ':', '+', '@']).to_owned();
    let scale = match unit.trim() {
        "s" => 1000.0,
        "us" => 0.001,
        _ => 1.0,
    };
    Some((name, number.parse::<f64>().ok()? * scale))
}

/// The time in a bound, in seconds: all that was acknowledged longer ago than this before the
/// fault is kept. None if the words have no time in them.
pub(crate) fn bound_seconds(text: &str) -> Option<f64> {
    let words: Vec<&str> = text.split([' ', ',', ';', '(', ')']).collect();
    words.iter().enumerate().find_map(|(index, word)| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let (number, unit) = word.split_at(end);
        let unit = if unit.is_empty() { words.get(index + 1)? } else { unit };
        let scale = match unit {
            "s" => 1.0,
            "ms" => 0.001,
            "us" => 0.000_001,
            _ => return None,
        };
        Some(number.parse::<f64>().ok()? * scale)
    })
}

#[cfg(test)]
mod tests {
    use super::{Topology, bound_seconds, history, steps};
    use crate::rig::event::Table;

    fn table(lines: &[&str]) -> Table {
        Table::parse(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), '|')
    }

    #[test]
    fn a_topology_is_read_by_the_names_of_its_columns() {
        let table = table(&[
            "node|more|cluster|epoch|state|primary|quarantine",
            "n1|?|main|7|NORMAL|n2|was the primary",
            "n2|?|main|7|NORMAL|n2|",
        ]);
        let topology = Topology::parse(&table);
        assert_eq!((topology.epoch, topology.primary.as_str()), (7, "n2"));
        assert!(topology.is_normal());
        assert_eq!(topology.quarantine, [("n1".to_owned(), "was the primary".to_owned())]);
        assert!(topology.text.contains("epoch=7 state=NORMAL primary=n2"), "{}", topology.text);
        assert!(!Topology::parse(&Table::default()).is_normal());
    }

    #[test]
    fn a_history_is_what_came_since() {
        let table = table(&[
            "epoch|kind|from|to|bound|steps",
            "4|failover|n1|n2|nothing|fenced 1.5 ms, promoted 80 ms",
            "2|begin||n1||",
        ]);
        let chapters = history(&table, 2);
        assert_eq!(chapters.len(), 1);
        assert_eq!((chapters[0].to.as_str(), chapters[0].steps.len()), ("n2", 2));
    }

    #[test]
    fn steps_and_bounds_are_read_out_of_words() {
        let wanted = [("fenced", 12.0), ("chosen", 80.5), ("open", 1200.0), ("x", 7.0)];
        let wanted: Vec<_> = wanted.map(|(name, time)| (name.to_owned(), time)).into();
        assert_eq!(steps("fenced 12ms, chosen=80.5 ms; open: 1.2 s, x 7, none"), wanted);
        assert_eq!(bound_seconds("16 kB and 500 ms of commits"), Some(0.5));
        assert_eq!(bound_seconds("at most 1.5s"), Some(1.5));
        assert_eq!(bound_seconds("nothing"), None);
    }
}
