//! Where the nodes of a cluster stand: which one writes, and how far the others have come.
//!
//! The control thread asks the nodes and draws up a [`Topology`]; lanes get it whole and never
//! change it. A place in the write-ahead log says all that a read must know of a write: a standby
//! that has replayed the place behind a commit shows that commit.

use crate::time::{Duration, Instant};
use crate::topology::gate::Gate;
use crate::topology::verdict::Health;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub mod gate;
pub mod horizon;
pub mod verdict;

/// A place in the write-ahead log, `pg_lsn`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Lsn(pub u64);

/// Bytes of a page of the write-ahead log, and of the header that each begins with. The first of
/// a segment has a longer one.
const PAGE: u64 = 8_192;
const HEADERS: [u64; 2] = [24, 40];

impl Lsn {
    /// Where the record before this place ends. `pg_current_wal_insert_lsn` gives the place where
    /// the next record will begin; at the start of a page that is behind the page's header, which
    /// no standby has replayed before a record follows.
    #[must_use]
    pub const fn end_of_record(self) -> Self {
        let into = self.0 % PAGE;
        if into == HEADERS[0] || into == HEADERS[1] { Self(self.0 - into) } else { self }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is no place in a log: two hexadecimal numbers of at most 32 bits with `/` between.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoLsn;

impl FromStr for Lsn {
    type Err = NoLsn;

    fn from_str(text: &str) -> Result<Self, NoLsn> {
        let (high, low) = text.split_once('/').ok_or(NoLsn)?;
        let part = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(text, 16).ok()).flatten().ok_or(NoLsn)
        };
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |_| serde::de::Error::custom(format!("{text:?} is no place in a log"));
        text.parse().map_err(wrong)
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// It does not answer, or has not been asked yet.
    #[default]
    Unknown,
    /// It is not in recovery.
    Primary,
    /// It is.
    Standby,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Standby => "standby",
        })
    }
}

/// What was last seen of a node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// What it is.
    pub role: Role,
    /// How far its log goes: written, on the primary; replayed, on a standby.
    pub lsn: Lsn,
    /// The end of its log with what has not been written yet, on the primary.
    pub end: Lsn,
    /// When it was asked, and when its answer came.
    pub asked: Instant,
    /// See `asked`.
    pub answered: Instant,
    /// How many statements that may have committed had never been answered by then.
    pub lost: u64,
    /// By how many bytes it is behind the primary.
    pub lag_bytes: u64,
    /// For how long the primary has been where it is now.
    pub lag: Duration,
    /// Which of its addresses answers, from zero.
    pub address: usize,
    /// Since when it has answered, and been the primary or a standby of it.
    pub since: Instant,
    /// Its share of the reads, by the configuration.
    pub weight: u32,
    /// The zone it is in.
    pub zone: Arc<str>,
    /// Since when it has been ahead of the primary: a standby that stays so follows another.
    pub ahead: Option<Instant>,
    /// Why it does not answer, or is no standby of this primary, in words.
    pub error: Option<String>,
    /// What is believed of it.
    pub health: Health,
    /// What the kernel knows of the connections to it.
    pub sockets: Sockets,
}

/// Figures of the connections to a node: of the monitor's session, and counted over all that are
/// watched.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sockets {
    /// How long the last login took to be connected.
    pub connect: Duration,
    /// The smoothed round trip, its variation, and the least of all.
    pub round_trip: Duration,
    /// See `round_trip`.
    pub variation: Duration,
    /// See `round_trip`.
    pub round_trip_min: Duration,
    /// Bytes sent and not acknowledged, or not sent yet.
    pub unacknowledged: u32,
    /// Segments sent again.
    pub retransmits: u64,
    /// Timeouts (RTO).
    pub timeouts: u64,
    /// Resets that came.
    pub resets: u64,
    /// Connections that its side has ended (FIN).
    pub ends: u64,
    /// Errors: refused, unreachable, timed out.
    pub errors: u64,
    /// How often its window was found shut.
    pub zero_windows: u64,
}

/// The nodes of one cluster, by name.
pub type Standings = BTreeMap<Arc<str>, Standing>;

/// Where the nodes of all clusters stand, as of one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Topology {
    /// By the name of the cluster.
    pub clusters: BTreeMap<Arc<str>, Standings>,
    /// Who may be written to, in clusters whose primary pgring decides on.
    pub gates: BTreeMap<Arc<str>, Gate>,
}

impl Topology {
    /// Nothing is known.
    pub const UNKNOWN: &Self = &Self { clusters: BTreeMap::new(), gates: BTreeMap::new() };

    /// Who may be written to in a cluster; nobody, if that has not been heard yet.
    #[must_use]
    pub fn gate(&self, cluster: &str) -> &Gate {
        self.gates.get(cluster).unwrap_or(Gate::UNHEARD)
    }
}

/// How many marks a track has at most: ten minutes of a busy primary.
const MARKS_MAX: usize = 6_000;
/// Marks are at least this far apart.
const MARK: Duration = Duration::from_millis(100);

/// When the primary was where: a standby's lag in time, told by one clock and with no need of
/// commits. The standbys' own answer (`pg_last_xact_replay_timestamp`) grows while nothing is
/// written, and is zero where a standby is cut off from its primary.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// The oldest first. Each says when the primary was first seen behind the place before.
    marks: VecDeque<(Instant, Lsn)>,
    last: Lsn,
}

impl Track {
    /// The primary is here now.
    pub fn mark(&mut self, now: Instant, lsn: Lsn) {
        if lsn < self.last {
            // Another primary: what was seen of the one before says nothing.
            self.marks.clear();
        }
        let recent = self.marks.back().is_some_and(|(at, _)| now.since(*at) < MARK);
        if lsn > self.last || self.marks.is_empty() {
            if recent && self.marks.len() > 1 {
                // Between two marks the earlier time holds: it makes the lag no smaller.
                if let Some(mark) = self.marks.back_mut() {
                    mark.1 = lsn;
                }
            } else {
                self.marks.push_back((now, lsn));
            }
        }
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
        self.last = lsn;
    }

    /// Where the primary is.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// How many bytes, and for how long, a standby that has replayed up to here is behind.
    pub fn lag(&self, now: Instant, replayed: Lsn) -> (u64, Duration) {
        let bytes = self.last.0.saturating_sub(replayed.0);
        let since = self.marks.get(self.marks.partition_point(|(_, lsn)| *lsn <= replayed));
        let time = since.filter(|_| bytes > 0).map_or(Duration::ZERO, |(at, _)| now.since(*at));
        (bytes, time)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lsn, MARKS_MAX, NoLsn, Track};
    use crate::time::{Duration, Instant};

    #[test]
    fn a_place_is_written_and_read_as_postgresql_does() {
        for (text, value) in
            [("0/0", 0), ("16/B374D848", 0x16_b374_d848), ("FFFFFFFF/1", 0xffff_ffff_0000_0001)]
        {
            assert_eq!(text.parse(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for text in ["", "/", "1", "1/", "/1", "1/+2", "1/123456789", "g/1", "1/2/3", " 1/2"] {
            assert_eq!(text.parse::<Lsn>(), Err(NoLsn), "{text}");
        }
    }

    #[test]
    fn a_place_behind_a_header_is_the_end_of_the_page_before() {
        for (at, end) in [(8_192 + 24, 8_192), (8_192 + 40, 8_192), (8_192 + 48, 8_240), (100, 100)]
        {
            assert_eq!(Lsn(at).end_of_record(), Lsn(end));
        }
    }

    #[test]
    fn lag_is_how_long_ago_the_primary_was_there() {
        let at = |ms: u64| Instant::START + Duration::from_millis(ms);
        let mut track = Track::default();
        track.mark(at(0), Lsn(100));
        track.mark(at(1_000), Lsn(200));
        track.mark(at(1_050), Lsn(250));
        track.mark(at(5_000), Lsn(250));
        let lag = |replayed| {
            let (bytes, time) = track.lag(at(5_000), Lsn(replayed));
            (bytes, time.as_millis())
        };
        assert_eq!(lag(250), (0, 0));
        assert_eq!(lag(300), (0, 0), "it is seen before the primary is asked");
        assert_eq!(lag(249), (1, 4_000));
        assert_eq!(lag(100), (150, 4_000));
        assert_eq!(lag(99), (151, 5_000));
    }

    #[test]
    fn a_track_is_bounded_and_starts_anew_with_another_primary() {
        let mut track = Track::default();
        for second in 0..7_000 {
            track.mark(Instant::START + Duration::from_secs(second), Lsn(second));
        }
        assert!(track.marks.len() <= MARKS_MAX);
        track.mark(Instant::START + Duration::from_secs(7_000), Lsn(7));
        assert_eq!(track.lag(Instant::START + Duration::from_secs(7_001), Lsn(6)).0, 1);
        assert_eq!(track.marks.len(), 1);
    }
}
