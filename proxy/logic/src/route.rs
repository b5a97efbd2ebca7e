//! Which replica a read goes to.
//!
//! Of the standbys that show all the client has written, and are not too far behind, two are drawn
//! by weight, and the first is taken unless it is more than twice as busy as the second, by what
//! waits there and how long answers take ("power of two choices": Mitzenmacher 2001). So equals
//! share equally, the worst is never taken, and no two lanes run after the same best one.

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
            && !standing.health.out
            && standing.lsn >= self.lsn
            && standing.lag_bytes <= self.lag_bytes_max
            && standing.lag <= self.lag_max
    }
}

/// Parts of a share.
const WHOLE: u32 = 100;
/// What a node gets of its share when it has just come back.
const FIRST: u32 = 10;

/// The share of a node that has stood for `age`, in hundredths of its weight: a tenth at first, so
/// that its caches can fill, and all after `slow_start`.
pub fn share(weight: u32, age: Duration, slow_start: Duration) -> u32 {
    if age >= slow_start {
        return weight * WHOLE;
    }
    let part = age.as_micros() * u128::from(WHOLE - FIRST) / slow_start.as_micros().max(1);
    weight * (FIRST + u32::try_from(part).unwrap_or(0))
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

/// Times below this make no difference.
const NOTHING: Duration = Duration::from_micros(100);
/// Answers that take so many times as long take very much longer.
const MUCH: u128 = 4;
/// In what time half of what was seen is forgotten: a node that is twenty times as slow is tried
/// twice a second where nobody waits, and one that only seemed slow is back before long.
const FORGET: Duration = Duration::from_millis(100);
/// Parts of a unit of cost.
const PARTS: u128 = 1 << 16;

impl Load {
    /// What one more would cost beside one of this weight, with the quicker of both at `best`: one,
    /// times as often as its answers take longer, and what waits already, for its weight. That much
    /// waits tells by itself that answers take longer; only where they take very much longer what
    /// waits counts for more.
    fn cost(&self, beside: u32, best: Duration) -> u128 {
        let least = u128::from(self.weight.min(beside));
        let waiting = PARTS * u128::from(self.waiting) * least / u128::from(self.weight.max(1));
        let times = PARTS * self.took().as_micros() / best.as_micros().max(1);
        times + waiting * times.max(MUCH * PARTS) / (MUCH * PARTS)
    }

    fn took(&self) -> Duration {
        // What nobody knows is tried.
        self.latency.max(NOTHING)
    }
}

/// The one to take of these loads; none, if all have no weight.
pub fn choose(loads: &[Load], chance: &mut Chance) -> Option<usize> {
    let one = draw(loads, None, chance)?;
    let Some(other) = draw(loads, Some(one), chance) else { return Some(one) };
    let (first, second) = (&loads[one], &loads[other]);
    let best = first.took().min(second.took());
    // What is measured is the mix of statements too. Were the slightly better one taken, it would
    // get everything while little is to be done; so the draw decides until one is twice as good.
    let better = 2 * second.cost(first.weight, best) < first.cost(second.weight, best);
    Some(if better { other } else { one })
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

/// How long an answer takes as a rule: about the median. Each new one moves it by an eighth at
/// most, so that a moment in which a node answers nothing, which all that was asked there then
/// tells of, does not make it a slow one, and a node that has become slow is known as that after
/// two dozen. What was seen long ago counts for less and less, so that a node that was slow is
/// tried again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// In nanoseconds: this is reckoned for each answer.
    usual: u64,
    seen: Instant,
}

impl Latency {
    /// One more answer took so long.
    pub fn observe(&mut self, now: Instant, took: Duration) {
        let before = self.nanos(now).max(nanos(NOTHING));
        self.usual = nanos(took).clamp(before / 8 * 7, before / 8 * 9);
        self.seen = now;
    }

    /// The usual, halved for each tenth of a second since the last; zero: there was none.
    pub fn get(self, now: Instant) -> Duration {
        Duration::from_nanos(self.nanos(now))
    }

    fn nanos(self, now: Instant) -> u64 {
        let times = now.as_nanos().saturating_sub(self.seen.as_nanos()) / nanos(FORGET);
        self.usual >> times.min(31)
    }
}

const fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::{Latency, Load, NOTHING, Wish, choose, share};
    use crate::dice::Chance;
    use crate::time::{Duration, Instant};
    use crate::topology::verdict::Health;
    use crate::topology::{Lsn, Role, Standing};
    use std::collections::BTreeSet;

    #[test]
    fn who_has_come_back_gets_more_and_more() {
        let at = |seconds| share(3, Duration::from_secs(seconds), Duration::from_secs(30));
        assert_eq!([at(0), at(15), at(29), at(30), at(100)], [30, 165, 291, 300, 300]);
        assert_eq!(share(3, Duration::ZERO, Duration::ZERO), 300, "without a slow start");
        assert_eq!(share(0, Duration::MAX, Duration::ZERO), 0);
    }

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

    /// The shares, in percent, of nodes that take so many microseconds for each of a number of
    /// clients that ask one statement after the other.
    fn closed(nodes: &[(u64, u32)], clients: u32) -> Vec<u64> {
        let mut chance = Chance::new(11);
        let mut latencies = vec![Latency::default(); nodes.len()];
        let mut waiting = vec![0; nodes.len()];
        let mut counts = vec![0; nodes.len()];
        // What is running: its end, its node, and its time.
        let mut running: BTreeSet<(u64, u64, usize, u64)> = BTreeSet::new();
        let mut now = 0;
        for number in 0..u64::from(clients) + 100_000 {
            if running.len() == clients as usize
                && let Some((end, _, node, took)) = running.pop_first()
            {
                now = end;
                let at = Instant::from_nanos(now * 1_000);
                latencies[node].observe(at, Duration::from_micros(took));
                waiting[node] -= 1;
                counts[node] += 1;
            }
            let at = Instant::from_nanos(now * 1_000);
            let loads: Vec<_> = (0..nodes.len())
                .map(|node| Load {
                    waiting: waiting[node],
                    latency: latencies[node].get(at),
                    weight: nodes[node].1,
                })
                .collect();
            let node = choose(&loads, &mut chance).expect("there is one");
            waiting[node] += 1;
            let usual = u32::try_from(nodes[node].0).expect("it is short");
            let took = u64::from(usual / 2 + chance.below(usual));
            running.insert((now + took, number, node, took));
        }
        let all: u64 = counts.iter().sum();
        counts.into_iter().map(|count| 100 * count / all).collect()
    }

    #[test]
    fn equals_share_equally_and_the_slow_get_little() {
        for clients in [1, 4, 64] {
            let equal = closed(&[(1_000, 1), (1_000, 1)], clients);
            assert!((47..=53).contains(&equal[0]), "{clients}: {equal:?}");
            let nearly = closed(&[(1_000, 1), (1_200, 1)], clients);
            assert!((44..=58).contains(&nearly[0]), "{clients}: {nearly:?}");
            let busier = closed(&[(1_000, 1), (2_500, 1)], 64);
            assert!(busier[1] >= 40, "{clients}: {busier:?}");
            let slow = closed(&[(1_000, 1), (21_000, 1)], clients);
            assert!(slow[1] < 5, "{clients}: {slow:?}");
            let three = closed(&[(1_000, 1), (1_000, 1), (21_000, 1)], clients);
            assert!(three[2] < 10 && three[0].abs_diff(three[1]) < 5, "{clients}: {three:?}");
            let weighed = closed(&[(1_000, 3), (1_000, 1)], clients);
            assert!((70..=80).contains(&weighed[0]), "{clients}: {weighed:?}");
        }
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
        let health = Health { out: true, ..Health::default() };
        let suspect = Standing { health, ..good.clone() };
        let primary = Standing { role: Role::Primary, ..good };
        for other in [behind, far, late, dead, suspect, primary] {
            assert!(!wish.is_granted_by(&other), "{other:?}");
        }
    }

    /// Beside other work all processes of a node may wait for a core, and then answer at once. With
    /// a mean it took a node 20 s to get its share again.
    #[test]
    fn a_node_that_stood_still_for_a_moment_is_not_slow() {
        let (mut latency, now, ms) = (Latency::default(), Instant::START, Duration::from_millis);
        (0..100).for_each(|_| latency.observe(now, ms(1)));
        (0..16).for_each(|_| latency.observe(now, ms(200)));
        assert!(latency.get(now) < ms(8), "{latency:?}");
        (0..20).for_each(|_| latency.observe(now, ms(1)));
        assert!(latency.get(now).abs_diff(ms(1)) < NOTHING, "{latency:?}");
    }

    #[test]
    fn latency_follows_what_is_seen() {
        let mut latency = Latency::default();
        let (start, ms) = (Instant::START, Duration::from_millis);
        latency.observe(start, ms(800));
        assert!(latency.get(start) < 2 * NOTHING, "one says little: {latency:?}");
        (0..100).for_each(|_| latency.observe(start, ms(800)));
        assert!((ms(790)..=ms(800)).contains(&latency.get(start)), "{latency:?}");
        assert!(latency.get(start + ms(300)) <= ms(100), "it is tried again");
        assert_eq!(latency.get(start + Duration::MAX).as_millis(), 0);
        for _ in 0..50 {
            latency.observe(start, ms(100));
        }
        assert!(latency.get(start) < ms(110), "{latency:?}");
    }
}
