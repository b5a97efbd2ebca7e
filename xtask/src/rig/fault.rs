//! The faults: what they are called, how long they last, and what pgring should make of them.

use super::event::Verdict;
use std::time::Duration;

/// A fault that can be injected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Fault {
    /// kill -9 of the postmaster
    Kill,
    /// kill -9 of one backend, after which all sessions end and `PostgreSQL` recovers
    KillBackend,
    /// An immediate shutdown, as of `pg_ctl stop -m immediate`
    StopImmediate,
    /// The postmaster and all its children are stopped
    Sigstop,
    /// Only the postmaster is stopped; open sessions go on
    SigstopPostmaster,
    /// All packets are lost, both ways
    Drop,
    /// All packets to the node are lost
    DropTo,
    /// All packets from the node are lost
    DropFrom,
    /// The interface of the node is down
    LinkDown,
    /// 20 % of the packets are lost each way, the others take 25 ms
    Loss,
    /// A round trip takes 300 +/- 200 ms, and 5 % of the packets are lost
    Slow,
    /// Nothing passes for two seconds, twice
    Blackout,
    /// Whatever belongs to an open connection is answered with resets
    RstStorm,
    /// Nobody seems to listen
    Refused,
    /// `max_connections` is reached
    Connections,
    /// The password of the monitor's user is another
    Password,
    /// pgring itself is stopped for a while
    PgringStop,
    /// Others take nearly all of the processors
    Starve,
    /// A standby is killed, and another time cut off, under reads
    ReplicaLoss,
}

/// What may be held of a node that has ended all sessions and is about to start again.
const RESTARTING: [Verdict; 4] =
    [Verdict::SuspectProcess, Verdict::Degraded, Verdict::Recovering, Verdict::Refusing];

impl Fault {
    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The verdicts that are right about the node, if any is.
    pub(super) fn right(self) -> &'static [Verdict] {
        match self {
            Self::Kill | Self::StopImmediate | Self::Refused => &[Verdict::DeadProcess],
            Self::KillBackend => &RESTARTING,
            Self::Sigstop => &[Verdict::Hung],
            // Open sessions go on: it is no worse than that nobody new gets in.
            Self::SigstopPostmaster => &[Verdict::Hung, Verdict::SuspectHang, Verdict::Degraded],
            Self::Drop | Self::DropTo | Self::DropFrom | Self::LinkDown => &[Verdict::DeadPath],
            Self::Loss | Self::Slow | Self::Blackout => {
                &[Verdict::Degraded, Verdict::SuspectPath, Verdict::SuspectHang]
            }
            // Who resets, node or path, is not to be seen from here.
            Self::RstStorm => &[
                Verdict::SuspectPath,
                Verdict::SuspectProcess,
                Verdict::Degraded,
                Verdict::Refusing,
            ],
            Self::Connections | Self::Password => &[Verdict::Refusing, Verdict::Degraded],
            Self::PgringStop | Self::Starve | Self::ReplicaLoss => &[],
        }
    }

    /// Whether it is well to notice nothing: no node is worse for it, or is well again at once.
    pub(super) fn may_pass_unnoticed(self) -> bool {
        self == Self::KillBackend || self.right().is_empty()
    }

    /// Whether the node lives and is reached often enough, so that "dead" is false.
    pub(super) fn spares_the_node(self) -> bool {
        match self {
            Self::Loss
            | Self::Slow
            | Self::Blackout
            | Self::KillBackend
            | Self::Connections
            | Self::Password
            | Self::PgringStop
            | Self::Starve => true,
            Self::Kill
            | Self::StopImmediate
            | Self::Sigstop
            | Self::SigstopPostmaster
            | Self::Drop
            | Self::DropTo
            | Self::DropFrom
            | Self::LinkDown
            | Self::RstStorm
            | Self::Refused
            | Self::ReplicaLoss => false,
        }
    }

    /// How long it lasts, if it does not end with its detection.
    pub(super) fn lasts(self, short: bool) -> Option<Duration> {
        let (long, brief) = match self {
            Self::Loss | Self::Slow | Self::RstStorm => (8, 4),
            // Two of them, and an end in the bright part.
            Self::Blackout => (8, 8),
            Self::PgringStop => (20, 3),
            Self::Starve => (10, 4),
            Self::Kill
            | Self::KillBackend
            | Self::StopImmediate
            | Self::Sigstop
            | Self::SigstopPostmaster
            | Self::Drop
            | Self::DropTo
            | Self::DropFrom
            | Self::LinkDown
            | Self::Refused
            | Self::Connections
            | Self::Password
            | Self::ReplicaLoss => return None,
        };
        Some(Duration::from_secs(if short { brief } else { long }))
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;
    use clap::ValueEnum;

    #[test]
    fn a_fault_has_the_name_under_which_it_is_chosen() {
        assert_eq!(Fault::RstStorm.name(), "rst-storm");
        assert_eq!(Fault::from_str("sigstop-postmaster", false), Ok(Fault::SigstopPostmaster));
    }

    #[test]
    fn where_dead_is_false_it_is_not_right_either() {
        for fault in Fault::value_variants() {
            let right = fault.right().iter().any(|verdict| verdict.is_dead());
            assert!(!(right && fault.spares_the_node()), "{fault:?}");
        }
    }
}
