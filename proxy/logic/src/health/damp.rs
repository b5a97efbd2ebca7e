//! Flap damping: who comes and goes again and again stays away for a while, as routes do in BGP
//! (RFC 2439): each departure costs a penalty that halves with time; above one limit the node is
//! out, below another it is back.

use crate::time::{Duration, Instant};

/// What a departure costs.
const PENALTY: f64 = 1_000.0;
/// The penalty halves in so long.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Above this the node stays away.
const SUPPRESS: f64 = 3_000.0;
/// Below this it is back.
const REUSE: f64 = 1_000.0;
/// More is never held against it: it is back within four half-lives.
const PENALTY_MAX: f64 = 16.0 * REUSE;

/// How often a node has gone of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Damping {
    penalty: f64,
    at: Instant,
    damped: bool,
}

impl Damping {
    /// It has gone once more.
    pub(super) fn gone(&mut self, now: Instant) {
        self.penalty = (self.penalty(now) + PENALTY).min(PENALTY_MAX);
        self.at = now;
    }

    /// What is held against it now.
    pub(super) fn penalty(&self, now: Instant) -> f64 {
        self.penalty * (-now.since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }

    /// Whether it is to stay away.
    pub(super) fn is_damped(&mut self, now: Instant) -> bool {
        let penalty = self.penalty(now);
        self.damped = if self.damped { penalty >= REUSE } else { penalty > SUPPRESS };
        self.damped
    }
}

#[cfg(test)]
mod tests {
    use super::Damping;
    use crate::time::{Duration, Instant};

    #[test]
    fn who_comes_and_goes_stays_away_for_a_while() {
        let at = |seconds| Instant::START + Duration::from_secs(seconds);
        let mut damping = Damping::default();
        for second in 0..3 {
            damping.gone(at(second));
            assert!(!damping.is_damped(at(second)));
        }
        damping.gone(at(3));
        assert!(damping.is_damped(at(3)), "the fourth within seconds: {damping:?}");
        assert!(damping.is_damped(at(100)));
        assert!(!damping.is_damped(at(130)), "two half-lives later: {damping:?}");
        for second in 0..1_000 {
            damping.gone(at(200 + second));
        }
        assert!(!damping.is_damped(at(1_200 + 241)), "and never for longer than four");
        let mut seldom = Damping::default();
        for time in 0..100 {
            seldom.gone(at(60 * time));
            assert!(!seldom.is_damped(at(60 * time)));
        }
    }
}
