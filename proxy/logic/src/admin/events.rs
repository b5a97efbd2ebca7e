//! What has happened to the nodes: the rows of `SHOW EVENTS`.

use crate::admin::show::{Cell, Column, long, number, text, word};
use crate::topology::verdict::Verdict;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// So many are kept.
const EVENTS_MAX: usize = 1_000;

pub(super) const EVENTS: [Column; 7] = [
    long("id"),
    text("time"),
    text("cluster"),
    text("node"),
    text("before"),
    text("verdict"),
    text("evidence"),
];

/// A new verdict on a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeEvent {
    /// When, since 1970.
    pub unix: Duration,
    /// The node's cluster.
    pub cluster: Arc<str>,
    /// The node.
    pub node: Arc<str>,
    /// What was believed of it before.
    pub before: Verdict,
    /// What is believed now.
    pub verdict: Verdict,
    /// Why.
    pub evidence: String,
}

/// The last of them.
#[derive(Debug, Default)]
pub struct Events {
    kept: VecDeque<NodeEvent>,
    gone: u64,
}

impl Events {
    /// Nothing has happened.
    pub const NONE: &Self = &Self { kept: VecDeque::new(), gone: 0 };

    /// One more has happened.
    pub fn push(&mut self, event: NodeEvent) {
        self.kept.push_back(event);
        if self.kept.len() > EVENTS_MAX {
            self.kept.pop_front();
            self.gone += 1;
        }
    }
}

pub(super) fn rows(events: &Events) -> Vec<Vec<Cell>> {
    let row = |(id, event): (u64, &NodeEvent)| {
        vec![
            number(id),
            word(format!("{}.{:06}", event.unix.as_secs(), event.unix.subsec_micros())),
            word(&*event.cluster),
            word(&*event.node),
            word(event.before.name()),
            word(event.verdict.name()),
            word(&*event.evidence),
        ]
    };
    (events.gone + 1..).zip(&events.kept).map(row).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{EVENTS, EVENTS_MAX, Events, NodeEvent, rows};
    use crate::topology::verdict::Verdict;
    use std::sync::LazyLock;
    use std::time::Duration;

    /// One event.
    pub(crate) static ONE: LazyLock<Events> = LazyLock::new(|| {
        let mut events = Events::default();
        events.push(event(7));
        events
    });

    fn event(second: u64) -> NodeEvent {
        NodeEvent {
            unix: Duration::from_secs(second) + Duration::from_micros(42),
            cluster: "main".into(),
            node: "pg1".into(),
            before: Verdict::Healthy,
            verdict: Verdict::DeadPath,
            evidence: "silence".to_owned(),
        }
    }

    #[test]
    fn the_last_are_kept_and_numbered() {
        let mut events = Events::default();
        (0..1_002).for_each(|second| events.push(event(second)));
        let rows = rows(&events);
        assert_eq!(rows.len(), EVENTS_MAX);
        let texts = |row: usize| rows[row].iter().flatten().map(String::as_str).collect::<Vec<_>>();
        let rest = ["main", "pg1", "healthy", "dead path", "silence"];
        assert_eq!(texts(0), [&["3", "2.000042"][..], &rest].concat());
        assert_eq!((texts(999)[0], texts(0).len()), ("1002", EVENTS.len()));
    }
}
