//! The lanes that a pool is at home on.
//!
//! A pool with fewer servers than there are lanes cannot have one on each: its servers would
//! travel to whoever waits, and each lane would wake for little. So it is at home on few lanes,
//! where its clients are brought together.

use crate::config::Config;
use crate::hash::Keys;
use crate::id::{Core, PoolKey};

/// One lane is enough for so many servers.
const SERVERS_PER_LANE: usize = 4;

/// Some of the lanes: so many, from the first one on, and round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Homes {
    lanes: usize,
    first: usize,
    count: usize,
}

impl Homes {
    /// Those of the pools of a database and a user, one for each node, among so many lanes.
    /// Everybody with the same config comes to the same, and no client knows which.
    pub fn of(config: &Config, lanes: usize, pool: &PoolKey) -> Self {
        let lanes = lanes.max(1);
        let everywhere = Self { lanes, first: 0, count: lanes };
        let Some(database) = config.database(&pool.database) else { return everywhere };
        let size = database.pool.size;
        if size >= lanes {
            return everywhere;
        }
        let routing = &database.routing;
        let reads = routing.reads.leave()
            || routing.leading_reads.leave()
            || !config.listen_readonly.is_empty();
        let nodes = if reads { database.cluster.nodes.len() } else { 1 };
        let servers = (size + database.pool.reserve_size) * nodes.max(1);
        let count = servers.div_ceil(SERVERS_PER_LANE).max(1);
        if count >= lanes {
            return everywhere;
        }
        let secret = config.auth.mock_secret;
        let seed = u64::from_le_bytes(core::array::from_fn(|index| secret[index]));
        // The second name is hashed in a way that depends on the first.
        let keys = Keys::new(Keys::new(seed).hash(pool.database.as_bytes()));
        let place = keys.hash(pool.user.as_bytes()) % u64::try_from(lanes).unwrap_or(1);
        Self { lanes, first: usize::try_from(place).unwrap_or(0), count }
    }

    /// How many they are.
    pub fn count(self) -> usize {
        self.count
    }

    /// One of them.
    pub fn nth(self, index: usize) -> Core {
        let lane = (self.first + index % self.count) % self.lanes;
        Core(u16::try_from(lane).unwrap_or(0))
    }

    /// Whether this lane is one of them.
    pub fn has(self, lane: Core) -> bool {
        self.index(lane) < self.count
    }

    /// This lane's part of a number of servers.
    pub fn part(self, servers: usize, lane: Core) -> usize {
        let index = self.index(lane);
        if index >= self.count {
            return 0;
        }
        servers / self.count + usize::from(index < servers % self.count)
    }

    fn index(self, lane: Core) -> usize {
        (usize::from(lane.0) + self.lanes - self.first) % self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::Homes;
    use crate::config::{Config, parse};
    use crate::id::{Core, PoolKey};
    use std::collections::BTreeSet;

    fn config(size: usize, more: &str) -> Config {
        let node = |name: &str| {
            format!("[[clusters.nodes]]\nname = {name:?}\naddress = \"127.0.0.1:{}\"\n", name.len())
        };
        let nodes = [node("a"), node("bb")].concat();
        let text = format!(
            "auth.method = \"trust\"\nmonitor.user = \"app\"\n[pool]\nsize = {size}\n\
             [[clusters]]\nname = \"main\"\n{nodes}\
             [[databases]]\nname = \"*\"\ncluster = \"main\"\n{more}"
        );
        parse(&text, &mut |_| Ok(String::new())).expect("a good config")
    }

    fn of(size: usize, lanes: usize, user: &str) -> Homes {
        Homes::of(&config(size, ""), lanes, &PoolKey::new("shop", user))
    }

    fn cores(lanes: usize) -> impl Iterator<Item = Core> {
        (0..lanes).map(|lane| Core(u16::try_from(lane).expect("few")))
    }

    #[test]
    fn a_pool_with_a_server_for_each_lane_is_at_home_everywhere() {
        for (size, lanes) in [(4, 4), (20, 16), (1, 1)] {
            let homes = of(size, lanes, "app");
            assert!(homes.count() == lanes && cores(lanes).all(|lane| homes.has(lane)));
            let parts: Vec<_> = cores(lanes).map(|lane| homes.part(lanes + 1, lane)).collect();
            assert_eq!((parts[0], parts.iter().sum()), (2, lanes + 1));
        }
    }

    #[test]
    fn a_small_pool_has_a_lane_for_each_four_servers_and_each_keeps_its_part() {
        for (size, lanes, count) in [(1, 2, 1), (2, 4, 1), (3, 4, 1), (5, 8, 2), (15, 16, 4)] {
            for user in 0..50 {
                let homes = of(size, lanes, &format!("u{user}"));
                let all: BTreeSet<_> = cores(lanes).filter(|&lane| homes.has(lane)).collect();
                assert_eq!((all.len(), homes.count()), (count, count), "{homes:?}");
                let named: BTreeSet<_> = (0..count).map(|index| homes.nth(index)).collect();
                assert_eq!(named, all, "{homes:?}");
                let kept: Vec<_> = all.iter().map(|&lane| homes.part(size, lane)).collect();
                assert_eq!(kept.iter().sum::<usize>(), size, "{homes:?}");
                assert!(kept.iter().all(|&part| part.abs_diff(size / count) <= 1), "{kept:?}");
                let away = cores(lanes).filter(|&lane| !homes.has(lane));
                assert!(away.map(|lane| homes.part(size, lane)).all(|part| part == 0));
            }
        }
    }

    /// The clients are the same, the servers are more.
    #[test]
    fn servers_of_standbys_and_in_reserve_count_as_well() {
        let pool = PoolKey::new("shop", "app");
        let count = |more: &str| Homes::of(&config(4, more), 8, &pool).count();
        assert_eq!(count(""), 1);
        assert_eq!(count("[databases.routing]\nreads = \"replicas\"\n"), 2);
        assert_eq!(count("[databases.pool]\nsize = 4\nreserve_size = 5\n"), 3);
        assert_eq!(count("[databases.pool]\nsize = 4\nreserve_size = 50\n"), 8);
    }

    #[test]
    fn small_pools_are_spread_over_the_lanes() {
        let mut pools = [0; 4];
        for number in 0..400 {
            let homes = of(2, 4, &format!("tenant{number}"));
            pools[usize::from(homes.nth(0).0)] += 1;
        }
        assert!(pools.iter().all(|count| (60..140).contains(count)), "{pools:?}");
    }
}
