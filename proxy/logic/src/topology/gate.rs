//! Who may be written to, in a cluster whose primary pgring decides on.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What lanes may do in such a cluster. Without one nothing goes to its primary.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gate {
    /// Counts how often it was opened and shut.
    pub epoch: u64,
    /// Who gets what is for the primary.
    pub writes: Writes,
    /// Nodes that get nothing at all, reads included: they were primaries, or follow another.
    pub quarantine: BTreeSet<Arc<str>>,
}

impl Gate {
    /// Nothing has been heard of it.
    pub const UNHEARD: &Self =
        &Self { epoch: 0, writes: Writes::Shut, quarantine: BTreeSet::new() };

    /// Whether a node is no replica to anybody: it is in quarantine, or is the primary.
    pub fn hides(&self, node: &str) -> bool {
        self.quarantine.contains(node) || self.opens_to(node)
    }

    /// Whether this node may be written to.
    pub fn opens_to(&self, node: &str) -> bool {
        self.primary().is_some_and(|open| **open == *node)
    }

    /// The node that may be written to.
    pub fn primary(&self) -> Option<&Arc<str>> {
        match &self.writes {
            Writes::Open(node) => Some(node).filter(|node| !self.quarantine.contains(*node)),
            Writes::Drain | Writes::Shut => None,
        }
    }
}

/// Who gets what is for the primary.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Writes {
    /// This node. Connections to any other end at once.
    Open(Arc<str>),
    /// What has begun may end; nothing begins. Connections end when they are free.
    Drain,
    /// Nobody. All connections end at once.
    #[default]
    Shut,
}
