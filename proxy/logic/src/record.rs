//! What pgring has decided about a cluster: the one record by which all of its processes go.
//!
//! It is kept in a [store](self#the-store) and changed by compare-and-swap only. `epoch` grows
//! whenever writes are opened or shut, so whatever carries an older one is stale. Nothing else is
//! authoritative: not what nodes say of themselves, and not what a process remembers.
//!
//! # The store
//!
//! A store keeps one text for each cluster under a revision. Reading gives both; writing gives the
//! revision that was read and fails if that is no longer the one that is kept. Here it is a file
//! for a single pgring; the record is made so that several may share one.

use crate::topology::Lsn;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How the record is written; another number is refused.
const SCHEMA: u32 = 1;
/// So many changes of the primary are remembered.
pub const HISTORY_MAX: usize = 100;

/// Which version of the record somebody has read. 0: there is none yet.
pub type Revision = u64;

/// What is going on in a cluster.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The primary is written to.
    #[default]
    Normal,
    /// Nobody is written to; the old primary is being shut out.
    Fencing,
    /// Nobody is written to; the candidate is, or may have been, told to become primary.
    Promoting,
    /// A planned change: what has begun may end, nothing begins.
    Switching,
    /// Nobody is written to until an operator has said who is the primary.
    Conflict,
}

impl State {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fencing => "fencing",
            Self::Promoting => "promoting",
            Self::Switching => "switching",
            Self::Conflict => "conflict",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The record of one cluster.
#[expect(clippy::struct_excessive_bools, reason = "each says what may have been done already")]
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// How it is written.
    pub schema: u32,
    /// Of which cluster.
    pub cluster: String,
    /// Grows whenever writes are opened or shut.
    pub epoch: u64,
    /// What is going on.
    pub state: State,
    /// Who is, or was last, written to; empty: nobody ever.
    pub primary: String,
    /// The system identifier that all nodes have; empty: not known yet.
    pub system: String,
    /// The timeline that the primary writes.
    pub timeline: u32,
    /// Who may acknowledge a commit on the primary, and how many must; none: nobody must.
    #[serde(default)]
    pub synchronous: Synchronous,
    /// Who is to be the next primary.
    #[serde(default)]
    pub candidate: String,
    /// The candidate may have been told so: there is no way back.
    #[serde(default)]
    pub promote_issued: bool,
    /// A planned change: the primary may have been told to stop.
    #[serde(default)]
    pub stop_issued: bool,
    /// And it has stopped.
    #[serde(default)]
    pub stopped: bool,
    /// Asked for by an operator, who accepts what is lost.
    #[serde(default)]
    pub forced: bool,
    /// Why the primary is being changed, in words.
    #[serde(default)]
    pub reason: String,
    /// The end of the candidate's log when it was chosen.
    #[serde(default)]
    pub switch_lsn: Lsn,
    /// When the change began, in microseconds since 1970.
    #[serde(default)]
    pub started: u64,
    /// What is lost at most, in words.
    #[serde(default)]
    pub bound: String,
    /// No automatic change before this, in seconds since 1970.
    #[serde(default)]
    pub cooldown_until: u64,
    /// Who has forbidden automatic changes; empty: nobody.
    #[serde(default)]
    pub paused: String,
    /// Where standbys received from before they were stopped. It is put back if nothing comes of
    /// the change.
    #[serde(default)]
    pub frozen: BTreeMap<String, Source>,
    /// Nodes that get nothing, with the reason.
    #[serde(default)]
    pub quarantine: BTreeMap<String, Quarantine>,
    /// The steps of the change under way: the name of each, and how long after the start, in
    /// microseconds.
    #[serde(default)]
    pub steps: Vec<(String, u64)>,
    /// What became of earlier changes; the oldest first.
    #[serde(default)]
    pub history: Vec<Chapter>,
}

/// Who acknowledges commits.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Synchronous {
    /// `ANY quorum (names)`.
    pub quorum: u32,
    /// The names of nodes.
    pub names: Vec<String>,
}

impl Synchronous {
    /// How many of the names must be stopped so that no commit can be acknowledged any more, and
    /// one of them has all that have been: any n - k + 1 meet any k.
    pub fn fence(&self) -> Option<usize> {
        let quorum = usize::try_from(self.quorum).ok().filter(|quorum| *quorum > 0)?;
        (self.names.len() + 1).checked_sub(quorum).filter(|_| !self.names.is_empty())
    }

    /// As `synchronous_standby_names` has it; empty: nobody.
    pub fn setting(&self) -> String {
        if self.names.is_empty() || self.quorum == 0 {
            return String::new();
        }
        let quoted = self.names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
        format!("ANY {} ({})", self.quorum, quoted.collect::<Vec<_>>().join(", "))
    }
}

/// Where a standby receives from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `primary_conninfo`.
    pub conninfo: String,
    /// `primary_slot_name`.
    pub slot: String,
}

/// Why a node gets nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Since which epoch.
    pub epoch: u64,
    /// In words.
    pub reason: String,
    /// The last that was seen of its log.
    pub lsn: Lsn,
    /// A promotion may have been asked of it: its contents are nobody's, it is to be built anew.
    pub rebuild: bool,
}

/// One change of the primary that has ended, well or not.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Chapter {
    /// The epoch in which it ended.
    pub epoch: u64,
    /// When it began, in microseconds since 1970.
    pub started: u64,
    /// "failover", "switchover", "override", "begin".
    pub kind: String,
    /// Why.
    pub reason: String,
    /// The primary before.
    pub from: String,
    /// The primary after.
    pub to: String,
    /// The timeline after.
    pub timeline: u32,
    /// Where the log of the new one begins.
    pub switch_lsn: Lsn,
    /// What was lost at most, in words.
    pub bound: String,
    /// The name of each step, and when it was done, in microseconds after the start.
    pub steps: Vec<(String, u64)>,
}

/// Why a text is no record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoRecord(pub String);

impl fmt::Display for NoRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Record {
    /// The first one of a cluster.
    pub fn new(cluster: &str) -> Self {
        Self { schema: SCHEMA, cluster: cluster.to_owned(), ..Self::default() }
    }

    /// As it is kept.
    ///
    /// # Errors
    /// Never, as long as TOML can write all of its fields.
    pub fn write(&self) -> Result<String, NoRecord> {
        toml::to_string(self).map_err(|error| NoRecord(error.to_string()))
    }

    /// From what was kept.
    ///
    /// # Errors
    /// It is no record, one of another cluster, or one of a version that is not known here.
    pub fn read(text: &str, cluster: &str) -> Result<Self, NoRecord> {
        let record: Self =
            toml::from_str(text).map_err(|error| NoRecord(error.message().to_owned()))?;
        if record.schema != SCHEMA {
            let found = record.schema;
            return Err(NoRecord(format!("it has the schema {found}, and {SCHEMA} is known here")));
        }
        if record.cluster != cluster {
            return Err(NoRecord(format!("it is of the cluster {:?}", record.cluster)));
        }
        Ok(record)
    }

    /// One more change has ended.
    pub fn remember(&mut self, chapter: Chapter) {
        self.history.push(chapter);
        let over = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::{Chapter, HISTORY_MAX, Quarantine, Record, Source, State, Synchronous};
    use crate::topology::Lsn;

    fn full() -> Record {
        let mut record = Record::new("main");
        record.state = State::Promoting;
        record.system = u64::MAX.to_string();
        record.synchronous = Synchronous { quorum: 1, names: vec!["a".into(), "b\"".into()] };
        record.switch_lsn = Lsn(u64::MAX);
        let source = Source { conninfo: "host=x password='a\\'b'".into(), slot: "s".into() };
        record.frozen.insert("a".into(), source);
        record.quarantine.insert("b".into(), Quarantine { epoch: 7, ..Quarantine::default() });
        record.steps.push(("fence".into(), 12));
        record.remember(Chapter { epoch: 3, steps: vec![("x".into(), 1)], ..Chapter::default() });
        record
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for record in [Record::new("main"), full()] {
            let text = record.write().expect("TOML");
            assert_eq!(Record::read(&text, "main"), Ok(record), "{text}");
        }
    }

    #[test]
    fn what_is_not_of_here_is_refused() {
        let text = full().write().expect("TOML");
        assert!(Record::read(&text, "other").is_err());
        assert!(Record::read(&text.replace("schema = 1", "schema = 2"), "main").is_err());
        assert!(Record::read(&format!("new = 1\n{text}"), "main").is_err());
        assert!(Record::read("", "main").is_err());
    }

    #[test]
    fn any_fence_meets_any_quorum() {
        let fence = |quorum, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Synchronous { quorum, names }.fence()
        };
        assert_eq!(fence(1, &["a"]), Some(1));
        assert_eq!(fence(1, &["a", "b"]), Some(2));
        assert_eq!(fence(2, &["a", "b"]), Some(1));
        assert_eq!(fence(2, &["a", "b", "c"]), Some(2));
        assert_eq!(fence(2, &["a", "b", "c", "d"]), Some(3));
        assert_eq!((fence(0, &["a"]), fence(1, &[])), (None, None));
        assert_eq!(full().synchronous.setting(), "ANY 1 (\"a\", \"b\"\"\")");
    }

    #[test]
    fn history_is_bounded() {
        let mut record = Record::new("main");
        for epoch in 0..150 {
            record.remember(Chapter { epoch, ..Chapter::default() });
        }
        assert_eq!((record.history.len(), record.history[0].epoch), (HISTORY_MAX, 50));
    }
}
