//! Which replica a read goes to.
//!
//! Of the standbys that show all the client has written, and are not too far behind, two are drawn
//! by weight, and the one where less is waiting is taken, measured by how long its answers take
//! ("power of two choices": Mitzenmacher 2001). The worst is thus never taken, and no two lanes run
//! after the same best one. A node that answers twice as slowly gets half as much.

use crate::dice::Chance;
use crate::time::{Duration, Instant};
use crate::topology::{Lsn, Role, Standing};

/// What a read asks of a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wish {
    /// It has replayed this place.
    pub lsn: Lsn,
    /// It is at most so many bytes behind.
    pub lag_bytes_max: u64,
    /// It is behind for at most so long.
    pub lag_max: Duration,
}

impl Wish {
    /// Whether a node fulfils it.
    pub fn is_granted_by(&self, standing: &Standing) -> bool {
        standing.role == Role::Standby
            && standing.error.is_none()
            && standing.lsn >= self.lsn
            && standing.lag_bytes <= self.lag_bytes_max
            && standing.lag <= self.lag_max
    }
}

/// What a lane knows of its own traffic with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Statements that are not answered, and clients that wait for a server.
    pub waiting: u32,
    /// How long an answer takes, lately; zero: nobody knows.
    pub latency: Duration,
    /// The share it is to have beside others; 0: none.
    pub weight: u32,
}

impl Load {
    /// How long one more would take, about, for its weight.
    fn cost(&self) -> u128 {
        // What nobody knows is tried, but not by all at once.
        let latency = self.latency.max(Duration::from_micros(50)).as_nanos();
        latency * (u128::from(self.waiting) + 1)
    }
}

/// The one to take of these loads; none, if all have no weight.
pub fn choose(loads: &[Load], chance: &mut Chance) -> Option<usize> {
    let first = draw(loads, None, chance)?;
    let Some(second) = draw(loads, Some(first), chance) else { return Some(first) };
    // Both were drawn by their weights; only how busy they are counts now.
    Some(if loads[second].cost() < loads[first].cost() { second } else { first })
}

/// One of them, by weight.
fn draw(loads: &[Load], without: Option<usize>, chance: &mut Chance) -> Option<usize> {
    let weight = |index: usize| if Some(index) == without { 0 } else { loads[index].weight };
    let all = (0..loads.len()).map(weight).fold(0, u32::saturating_add);
    if all == 0 {
        return None;
    }
    let mut left = chance.below(all);
    (0..loads.len()).find(|&index| {
        let found = left < weight(index);
        left = left.saturating_sub(weight(index));
        found
    })
}

/// How long answers take: each new one counts for an eighth. What was seen long ago counts for
/// less and less, so that one slow answer does not keep a node idle for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    average: Duration,
    seen: Instant,
}

impl Latency {
    /// One more answer took so long.
    pub fn observe(&mut self, now: Instant, took: Duration) {
        let before = self.get(now);
        self.average = if before.is_zero() { took } else { before / 8 * 7 + took / 8 };
        self.seen = now;
    }

    /// The average, halved for each second since the last; zero: there was none.
    pub fn get(self, now: Instant) -> Duration {
        let seconds = now.since(self.seen).as_secs();
        self.average / 2u32.saturating_pow(u32::try_from(seconds).unwrap_or(31).min(31))
    }
}

#[cfg(test)]
mod tests {
    use super::{Latency, Load, Wish, choose};
    use crate::dice::Chance;
    use crate::time::{Duration, Instant};
    use crate::topology::{Lsn, Role, Standing};

    fn load(waiting: u32, micros: u64, weight: u32) -> Load {
        Load { waiting, latency: Duration::from_micros(micros), weight }
    }

    /// How many of ten thousand each of them gets.
    fn shares(loads: &[Load]) -> Vec<usize> {
        let mut chance = Chance::new(7);
        let mut shares = vec![0; loads.len()];
        for _ in 0..10_000 {
            shares[choose(loads, &mut chance).expect("there are some")] += 1;
        }
        shares
    }

    #[test]
    fn equals_share_and_the_worst_of_three_gets_nothing() {
        let two = shares(&[load(1, 100, 1), load(1, 100, 1)]);
        assert!(two.iter().all(|share| (4_700..5_300).contains(share)), "{two:?}");
        let three = shares(&[load(0, 100, 1), load(5, 100, 1), load(0, 100, 1)]);
        assert_eq!(three[1], 0, "{three:?}");
        assert_eq!(shares(&[load(0, 9_000, 1), load(0, 100, 1)])[0], 0);
    }

    #[test]
    fn weights_decide_who_is_drawn_and_nothing_is_drawn_without() {
        let shares = shares(&[load(0, 100, 3), load(0, 100, 1), load(0, 100, 0)]);
        assert!(shares[0] > 2 * shares[1] && shares[1] > 1_000 && shares[2] == 0, "{shares:?}");
        let mut chance = Chance::new(1);
        assert_eq!(choose(&[load(0, 1, 0)], &mut chance), None);
        assert_eq!(choose(&[], &mut chance), None);
    }

    #[test]
    fn a_replica_must_have_replayed_what_the_client_wrote() {
        let wish = Wish { lsn: Lsn(100), lag_bytes_max: 1_000, lag_max: Duration::from_secs(1) };
        let good = Standing { role: Role::Standby, lsn: Lsn(100), ..Standing::default() };
        assert!(wish.is_granted_by(&good));
        let behind = Standing { lsn: Lsn(99), ..good.clone() };
        let far = Standing { lag_bytes: 1_001, ..good.clone() };
        let late = Standing { lag: Duration::from_millis(1_001), ..good.clone() };
        let dead = Standing { error: Some("connection refused".to_owned()), ..good.clone() };
        let primary = Standing { role: Role::Primary, ..good };
        for other in [behind, far, late, dead, primary] {
            assert!(!wish.is_granted_by(&other), "{other:?}");
        }
    }

    #[test]
    fn latency_follows_what_is_seen() {
        let mut latency = Latency::default();
        let (start, ms) = (Instant::START, Duration::from_millis);
        latency.observe(start, ms(800));
        assert_eq!(latency.get(start), ms(800));
        assert_eq!(latency.get(start + ms(3_000)), ms(100), "it is tried again");
        assert_eq!(latency.get(start + Duration::MAX).as_millis(), 0);
        for _ in 0..50 {
            latency.observe(start, ms(100));
        }
        assert!(latency.get(start) < ms(110), "{latency:?}");
    }
}
