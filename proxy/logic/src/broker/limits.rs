//! Limits of servers: those of one pool, and those that several pools share.

use crate::broker::Broker;
use crate::broker::budget::Budget;
use crate::config::{Config, PoolSettings};
use crate::id::{Core, PoolKey};
use crate::mail::Mail;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// How long a client waits behind a limit that several pools share, before another pool is asked
/// to close a server.
const EVICT_AFTER: Duration = Duration::from_millis(100);

impl Broker {
    /// How many more servers the limits allow that this pool shares with others.
    pub(super) fn room_shared(&self, key: &PoolKey) -> u32 {
        let Some(settings) = settings(&self.config, key) else { return 0 };
        let mut room = u32::MAX;
        if settings.database_servers_max > 0 {
            let sum = self.sum(|other| other.database == key.database);
            room = room.min(count(settings.database_servers_max).saturating_sub(sum));
        }
        if settings.user_servers_max > 0 {
            let sum = self.sum(|other| other.user == key.user);
            room = room.min(count(settings.user_servers_max).saturating_sub(sum));
        }
        room
    }

    fn sum(&self, group: impl Fn(&PoolKey) -> bool) -> u32 {
        self.pools.iter().filter(|(key, _)| group(key)).map(|(_, pool)| pool.total).sum()
    }

    /// Has servers closed that exceed a limit, those of the largest holders first.
    pub(super) fn trim(&mut self, out: &mut Vec<(Core, Mail)>) {
        let mut letters: BTreeMap<(PoolKey, Core), u32> = BTreeMap::new();
        let keys: Vec<PoolKey> = self.pools.keys().cloned().collect();
        for key in keys {
            let settings = settings(&self.config, &key);
            let full = settings.map_or(0, |it| count(it.size).saturating_add(reserve(it)));
            let (by_database, by_user) =
                settings.map_or((0, 0), |it| (it.database_servers_max, it.user_servers_max));
            if let Some(budget) = self.pools.get_mut(&key) {
                for _ in full..budget.kept() {
                    let Some(core) = budget.shrink() else { break };
                    *letters.entry((key.clone(), core)).or_default() += 1;
                }
            }
            if by_database > 0 {
                let group = |other: &PoolKey| other.database == key.database;
                self.shrink_to(count(by_database), group, &mut letters);
            }
            if by_user > 0 {
                self.shrink_to(count(by_user), |other| other.user == key.user, &mut letters);
            }
        }
        for ((pool, core), count) in letters {
            out.push((core, Mail::Shrink { pool, count }));
        }
    }

    fn shrink_to(
        &mut self,
        limit: u32,
        group: impl Fn(&PoolKey) -> bool,
        letters: &mut BTreeMap<(PoolKey, Core), u32>,
    ) {
        let kept = self.pools.iter().filter(|(key, _)| group(key)).map(|(_, pool)| pool.kept());
        let excess = kept.sum::<u32>().saturating_sub(limit);
        for _ in 0..excess {
            let group = self.pools.iter_mut().filter(|(key, _)| group(key));
            let Some((key, pool)) = group.max_by_key(|(_, pool)| pool.kept()) else { return };
            let Some(core) = pool.shrink() else { return };
            *letters.entry((key.clone(), core)).or_default() += 1;
        }
    }

    /// Has another pool close a server, if this one has waited long enough behind a limit that
    /// both share, and the other has more than its part or waits for nothing.
    pub(super) fn evict_for(&mut self, now: Instant, key: &PoolKey, out: &mut Vec<(Core, Mail)>) {
        let Some(settings) = settings(&self.config, key) else { return };
        let Some(budget) = self.pools.get(key) else { return };
        let waits = budget.oldest().is_some_and(|since| now.since(since) >= EVICT_AFTER);
        if !waits || budget.total >= count(settings.size) {
            return;
        }
        let mine = budget.kept();
        let full = |limit: usize, sum: u32| limit > 0 && sum >= count(limit);
        let same_database = |other: &PoolKey| other.database == key.database;
        let same_user = |other: &PoolKey| other.user == key.user;
        let by_database = full(settings.database_servers_max, self.sum(same_database));
        let by_user = full(settings.user_servers_max, self.sum(same_user));
        let in_the_way = |other: &PoolKey| {
            other != key && (by_database && same_database(other) || by_user && same_user(other))
        };
        let others = || self.pools.iter().filter(|(other, _)| in_the_way(other));
        if others().any(|(_, other)| other.is_shrinking()) {
            return;
        }
        let victim = others()
            .filter(|(_, other)| other.kept() > mine + 1 || other.need() == 0 && other.kept() > 0)
            .max_by_key(|(_, other)| (other.need() == 0, other.kept()))
            .map(|(key, _)| key.clone());
        let Some(victim) = victim else { return };
        if let Some(core) = self.pools.get_mut(&victim).and_then(Budget::shrink) {
            out.push((core, Mail::Shrink { pool: victim, count: 1 }));
        }
    }
}

/// The settings of a pool; none if its database is gone.
pub(super) fn settings<'c>(config: &'c Config, key: &PoolKey) -> Option<&'c PoolSettings> {
    config.database(&key.database).map(|database| &database.pool)
}

/// Servers beyond the size, for clients that waited for long.
pub(super) fn reserve(settings: &PoolSettings) -> u32 {
    if settings.reserve_timeout.is_zero() { 0 } else { count(settings.reserve_size) }
}

/// A limit of the config as a number of permits.
pub(super) fn count(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}
