//! A model of PostgreSQL: a log, a history of timelines, and who receives from whom.
//!
//! Each record of the log has a number of its own, so two logs that have the same record at a place
//! are the same up to there. The rules by which a standby may receive are those of PostgreSQL,
//! which knows timelines and places only: who follows them may get what does not belong to its
//! log (trap 17), and the oracle sees it.

use crate::failover::act::{Follower, Receiver, View};
use crate::failover::sim::world::Us;
use crate::time::Duration;
use crate::topology::Lsn;
use std::collections::BTreeMap;

/// So many bytes has a record.
pub(super) const BYTES: u64 = 100;

/// A record of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Item {
    pub(super) id: u32,
    pub(super) commit: bool,
}

/// How its processes are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Process {
    /// It answers, from then on.
    Up(Us),
    /// The postmaster was killed: its children go on until then.
    Orphans(Us),
    Dead,
}

/// Who waits for a commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Via {
    Lane { lane: usize, conn: u64 },
    Direct,
    Canary { run: u32, number: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) id: u32,
    /// The length of the log with it.
    pub(super) len: usize,
    pub(super) via: Via,
}

/// A WAL receiver that streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) from: usize,
    pub(super) id: u64,
    pub(super) heard: Us,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug)]
pub(super) struct Pg {
    pub(super) name: String,
    pub(super) process: Process,
    pub(super) frozen: bool,
    pub(super) host: bool,
    /// Grows with each start.
    pub(super) boot: u32,
    pub(super) started: i64,
    pub(super) log: Vec<Item>,
    /// Each timeline, and how long the log was when it began.
    pub(super) history: Vec<(u32, usize)>,
    pub(super) recovery: bool,
    pub(super) conninfo: String,
    pub(super) source: Option<usize>,
    pub(super) slot: String,
    pub(super) stream: Option<Stream>,
    pub(super) next_try: Us,
    pub(super) retry: Duration,
    /// `synchronous_standby_names`, and what of it is in force.
    pub(super) sync: String,
    pub(super) in_force: (usize, Vec<usize>),
    pub(super) read_only: bool,
    /// Who receives from it: the stream, and what it has flushed.
    pub(super) followers: BTreeMap<usize, (u64, usize)>,
    pub(super) waits: Vec<Wait>,
    /// Open sessions of lanes.
    pub(super) sessions: Vec<u64>,
    pub(super) system: u64,
}

impl Pg {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            process: Process::Up(0),
            frozen: false,
            host: true,
            boot: 1,
            started: 1,
            log: vec![Item { id: 1, commit: false }],
            history: vec![(1, 0)],
            recovery: true,
            conninfo: String::new(),
            source: None,
            slot: String::new(),
            stream: None,
            next_try: 0,
            retry: Duration::from_secs(5),
            sync: String::new(),
            in_force: (0, Vec::new()),
            read_only: false,
            followers: BTreeMap::new(),
            waits: Vec::new(),
            sessions: Vec::new(),
            system: 7,
        }
    }

    pub(super) fn timeline(&self) -> u32 {
        self.history.last().map_or(1, |(timeline, _)| *timeline)
    }

    /// It takes new sessions.
    pub(super) fn accepts(&self, now: Us) -> bool {
        self.host && !self.frozen && matches!(self.process, Process::Up(from) if from <= now)
    }

    /// Those who are there are served.
    pub(super) fn runs(&self, now: Us) -> bool {
        self.host
            && !self.frozen
            && match self.process {
                Process::Up(from) => from <= now,
                Process::Orphans(until) => now < until,
                Process::Dead => false,
            }
    }

    pub(super) fn is_primary(&self, now: Us) -> bool {
        self.runs(now) && !self.recovery
    }

    pub(super) fn has(&self, id: u32, len: usize) -> bool {
        self.log.get(len.wrapping_sub(1)).is_some_and(|item| item.id == id)
    }

    /// Whether PostgreSQL lets a standby with this log receive from here.
    pub(super) fn feeds(&self, standby: &Self) -> bool {
        let (timeline, len) = (standby.timeline(), standby.log.len());
        if self.system != standby.system || len > self.log.len() {
            return false;
        }
        let Some(place) = self.history.iter().position(|(it, _)| *it == timeline) else {
            return false;
        };
        self.history.get(place + 1).is_none_or(|(_, end)| len <= *end)
    }

    /// Takes over the history of whoever it receives from, as far as its log goes.
    pub(super) fn inherit(&mut self, history: &[(u32, usize)]) {
        let len = self.log.len();
        self.history.clear();
        self.history.extend(history.iter().filter(|(_, begin)| *begin < len || *begin == 0));
    }

    pub(super) fn append(&mut self, id: u32, commit: bool) -> usize {
        self.log.push(Item { id, commit });
        self.log.len()
    }

    /// Whether as many have this as must.
    pub(super) fn is_acknowledged(&self, len: usize) -> bool {
        let (quorum, names) = &self.in_force;
        let has = |name: &&usize| self.followers.get(name).is_some_and(|(_, it)| *it >= len);
        *quorum == 0 || names.iter().filter(has).count() >= *quorum
    }

    /// Commits that wait for nobody any more.
    pub(super) fn released(&mut self) -> Vec<Wait> {
        let (done, waits) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition(|it| self.is_acknowledged(it.len));
        self.waits = waits;
        done
    }

    /// The last commit that a reader sees.
    pub(super) fn visible(&self) -> Option<(u32, usize)> {
        let waiting = |id: u32| self.waits.iter().any(|it| it.id == id);
        let seen = |(_, item): &(usize, &Item)| item.commit && !waiting(item.id);
        let last = self.log.iter().enumerate().rev().find(seen);
        last.map(|(place, item)| (item.id, place + 1))
    }

    /// Nothing of its processes is left.
    pub(super) fn die(&mut self) {
        self.process = Process::Dead;
        self.frozen = false;
        self.stream = None;
        self.followers.clear();
        self.waits.clear();
        self.sessions.clear();
    }

    pub(super) fn view(&self, now: Us, names: &[String]) -> View {
        let end = Lsn(self.log.len() as u64 * BYTES);
        let follower = |(node, (_, len)): (&usize, &(u64, usize))| Follower {
            name: names[*node].as_str().into(),
            streaming: true,
            flushed: Lsn(*len as u64 * BYTES),
        };
        let receiver = self.stream.filter(|_| self.recovery).map(|stream| Receiver {
            heard: Duration::from_micros(now.saturating_sub(stream.heard)),
            from: format!("{}:5432", names[stream.from]),
        });
        View {
            recovery: self.recovery,
            system: self.system,
            timeline: self.timeline(),
            started: self.started,
            end,
            replayed: end,
            redo: end,
            spare: Vec::new(),
            receiver,
            conninfo: self.conninfo.clone(),
            slot: self.slot.clone(),
            sync: self.sync.clone(),
            read_only: self.read_only,
            unfit: None,
            archive: false,
            retry: self.retry,
            patience: Duration::from_millis(700),
            followers: self.followers.iter().map(follower).collect(),
        }
    }
}

/// What `synchronous_standby_names` says, as the machine writes it.
pub(super) fn parse_sync(text: &str, names: &[String]) -> (usize, Vec<usize>) {
    let Some(rest) = text.strip_prefix("ANY ") else { return (0, Vec::new()) };
    let (quorum, list) = rest.split_once(" (").unwrap_or((rest, ""));
    let place = |quoted: &str| names.iter().position(|name| *name == quoted.replace('"', ""));
    let list = list.trim_end_matches(')').split(", ").filter_map(place).collect();
    (quorum.parse().unwrap_or(0), list)
}
