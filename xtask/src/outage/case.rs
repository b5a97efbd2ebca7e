//! The cases: what they are called, and what must hold in each.

use super::Durability;
use clap::ValueEnum;
use std::time::Duration;

/// What happens to the primary, or is asked of pgring.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(super) enum Case {
    /// kill -9 of the postmaster
    Kill,
    /// The host of the primary answers nobody any more, and comes back after the failover
    Silent,
    /// The whole primary is stopped, and goes on after the failover
    Sigstop,
    /// kill -9 of one backend: the node restarts by itself, and nobody may take over
    Backend,
    /// SWITCHOVER TO a standby, under 64 clients of pgbench
    Switchover,
    /// Only pgring and the primary do not reach each other, for 10 s: nobody may take over
    Cut,
    /// kill, and the old primary is started again by hand as soon as the failover has begun
    Return,
    /// kill, and pgring itself is killed after the next step that it keeps, and started again
    Crash,
    /// kill, with asynchronous standbys: what is lost must keep to the bound that is stated
    Async,
}

impl Case {
    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// With which promise it runs, if this one is asked for.
    pub(super) fn durability(self, asked: Durability) -> Durability {
        match self {
            Self::Async => Durability::Async,
            Self::Kill
            | Self::Silent
            | Self::Sigstop
            | Self::Backend
            | Self::Switchover
            | Self::Cut
            | Self::Return
            | Self::Crash => asked,
        }
    }

    /// Whether another node must be the primary afterwards.
    pub(super) fn changes_primary(self) -> bool {
        !matches!(self, Self::Backend | Self::Cut)
    }

    /// Whether it says anything where pgring changes no primary.
    pub(super) fn runs_without_failover(self) -> bool {
        matches!(self, Self::Kill | Self::Silent | Self::Sigstop | Self::Backend | Self::Cut)
    }

    /// How long pgring has to bring the old primary back by itself before it is asked to: after a
    /// planned change it does.
    pub(super) fn rejoins_within(self) -> Duration {
        Duration::from_secs(if self == Self::Switchover { 10 } else { 0 })
    }

    /// Whether sessions that do nothing may not notice. Those of a pgring that is killed do.
    pub(super) fn keeps_sessions(self) -> bool {
        self != Self::Crash
    }
}

#[cfg(test)]
mod tests {
    use super::Case;
    use crate::outage::Durability;
    use clap::ValueEnum;

    #[test]
    fn a_case_has_the_name_under_which_it_is_chosen() {
        for case in Case::value_variants() {
            assert_eq!(Case::from_str(&case.name(), false), Ok(*case));
        }
        assert_eq!(Case::Async.durability(Durability::Sync), Durability::Async);
        assert_eq!(Case::Kill.durability(Durability::Sync), Durability::Sync);
    }
}
