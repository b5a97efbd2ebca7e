//! How a node is, as far as can be told from here.

use core::fmt;

/// What is wrong with a node, or might be.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// Its postmaster is gone, or going.
    Process,
    /// It is there and does nothing.
    Hang,
    /// Nothing comes from it or from what lies between.
    Path,
}

/// How a node is.
///
/// A path that is silent is first a suspicion, for nobody can tell one that is dead from one that
/// is dark for two seconds before these are over; but what follows from it at once (no more reads)
/// does no harm if the node is back.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verdict {
    /// Nobody has asked, or no answer has come yet.
    #[default]
    Unknown,
    /// It does what it should.
    Healthy,
    /// It answers over a link that is slow or loses much.
    Degraded,
    /// Something is wrong with it; what, is not sure yet.
    Suspect(Cause),
    /// Its kernel answers and `PostgreSQL` does not.
    Hung,
    /// Nobody listens there, and its sessions have ended.
    DeadProcess,
    /// Nothing comes back from it, for longer than a network holds its breath.
    DeadPath,
    /// It starts, stops, or repairs itself (SQLSTATE 57P03).
    Recovering,
    /// It is alive and lets nobody in: no room (53300), a wrong password (28P01).
    Refusing,
}

impl Verdict {
    /// Whether it does what it should, as far as reads go.
    pub const fn serves(self) -> bool {
        match self {
            Self::Unknown | Self::Healthy | Self::Degraded | Self::Refusing => true,
            Self::Suspect(_)
            | Self::Hung
            | Self::DeadProcess
            | Self::DeadPath
            | Self::Recovering => false,
        }
    }

    /// By how much its share of the reads is less.
    pub const fn handicap(self) -> u32 {
        if matches!(self, Self::Degraded) { 4 } else { 1 }
    }

    /// Whether nothing that is said on an open connection will ever be answered.
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::DeadProcess | Self::DeadPath)
    }

    /// In one word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Suspect(Cause::Process) => "suspect (process)",
            Self::Suspect(Cause::Hang) => "suspect (hang)",
            Self::Suspect(Cause::Path) => "suspect (path)",
            Self::Hung => "hung",
            Self::DeadProcess => "dead process",
            Self::DeadPath => "dead path",
            Self::Recovering => "recovering",
            Self::Refusing => "refusing",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a verdict means for the traffic with a node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Health {
    /// How it is.
    pub verdict: Verdict,
    /// Reads go to others.
    pub out: bool,
    /// They do as long as there is one: it has come and gone too often of late, is back only just
    /// now, or serves those who are there and lets nobody in.
    pub damped: bool,
    /// What runs on connections to it will not be answered: they are to be closed.
    pub cut: bool,
}
