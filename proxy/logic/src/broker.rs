//! The broker: keeps the budget of each pool over all cores.
//!
//! A lane opens a server only with a permit, and a permit is out until the lane returns it. So
//! the sum over all lanes never exceeds the size of the pool, whatever letters are on their way;
//! it is asserted at every grant. What cannot be granted is told to the lanes that hold servers,
//! and those lend what they can spare directly; the broker only hears that a server moved.
//!
//! What a lane says it needs holds until it says something else, less what it is granted. A lane
//! whose clients go on waiting says so again, so that no letter has to be the last word.
//!
//! It also counts clients where a limit per database or user is set, because no lane can.

use crate::broker::budget::Budget;
use crate::config::{Config, PoolSettings};
use crate::id::{Core, PoolKey};
use crate::mail::Mail;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;

mod budget;

/// How long a client waits behind a limit that several pools share, before another pool is asked
/// to close a server.
const EVICT_AFTER: Duration = Duration::from_millis(100);

/// The shortest time between two attempts to reach the least number of servers.
const TOP_UP_PAUSE: Duration = Duration::from_secs(1);

/// Attempts to reach the least number of servers without a client that waits.
const TOP_UPS_LOST_MAX: u32 = 5;

/// What the broker knows of a pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolView<'b> {
    /// Which.
    pub pool: &'b PoolKey,
    /// Permits that are out: servers, and what lanes have not yet opened.
    pub held: u32,
    /// How many more the lanes could use.
    pub need: u32,
    /// Of which core, how many.
    pub cores: Vec<(Core, u32)>,
}

/// Keeps the budget of each pool over all cores.
#[derive(Debug)]
pub struct Broker {
    config: Arc<Config>,
    cores: usize,
    pools: BTreeMap<PoolKey, Budget>,
    /// Clients that were let in, by database and by user.
    database_clients: BTreeMap<Arc<str>, usize>,
    user_clients: BTreeMap<Arc<str>, usize>,
}

impl Broker {
    /// Nothing granted yet; lanes are numbered below `cores`.
    pub fn new(config: Arc<Config>, cores: usize) -> Self {
        Self {
            config,
            cores,
            pools: BTreeMap::new(),
            database_clients: BTreeMap::new(),
            user_clients: BTreeMap::new(),
        }
    }

    /// Takes a new snapshot. What exceeds its limits is to be closed; what it allows beyond the
    /// old ones is granted at the next tick.
    pub fn configure(&mut self, config: Arc<Config>, out: &mut Vec<(Core, Mail)>) {
        self.config = config;
        self.trim(out);
    }

    /// Takes in a letter of a lane; those that are none of its business are ignored.
    pub fn handle(&mut self, now: Instant, letter: &Mail, out: &mut Vec<(Core, Mail)>) {
        match letter {
            Mail::Demand { core, pool, need, since } => {
                self.check(*core);
                if *need > 0 || self.pools.contains_key(pool) {
                    self.pools.entry(pool.clone()).or_default().demand(*core, *need, *since);
                }
                self.serve(now, pool, out);
            }
            Mail::Returned { pool, core, count } => {
                self.check(*core);
                let Some(budget) = self.pools.get_mut(pool) else { return };
                budget.returned(*core, *count);
                self.serve_all(now, pool, out);
            }
            Mail::Moved { pool, from, to } => {
                self.check(*from);
                self.check(*to);
                self.pools.entry(pool.clone()).or_default().moved(*from, *to);
                self.serve(now, pool, out);
            }
            Mail::Enter { core, conn, database, user } => {
                let refused = self.enter(database, user);
                out.push((*core, Mail::Entered { conn: *conn, refused }));
            }
            Mail::Left { database, user } => {
                leave(&mut self.database_clients, database);
                leave(&mut self.user_clients, user);
            }
            Mail::Config(_)
            | Mail::Permit { .. }
            | Mail::Hungry { .. }
            | Mail::Shrink { .. }
            | Mail::Entered { .. }
            | Mail::Derived { .. }
            | Mail::Answer { .. }
            | Mail::Ask(_)
            | Mail::Order { .. }
            | Mail::Derive { .. }
            | Mail::Console { .. }
            | Mail::Report(_)
            | Mail::Done { .. }
            | Mail::Cancel { .. }
            | Mail::Cancelled { .. }
            | Mail::Parcel(_) => {}
        }
    }

    /// What only time brings: reserves, the least number of servers, limits shared by several
    /// pools. Some five times a second is enough.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<(Core, Mail)>) {
        self.trim(out);
        let keys: Vec<PoolKey> = self.pools.keys().cloned().collect();
        for key in &keys {
            self.serve(now, key, out);
            self.top_up(now, key, out);
            self.evict_for(now, key, out);
        }
        let config = &self.config;
        self.pools.retain(|key, budget| {
            let lasts = config.database(&key.database).is_some_and(|database| {
                database.pool.size_min > 0 && budget.top_ups_lost < TOP_UPS_LOST_MAX
            });
            lasts || !budget.is_empty()
        });
    }

    /// The pools that have servers or clients that wait.
    pub fn pools(&self) -> impl Iterator<Item = PoolView<'_>> {
        self.pools.iter().map(|(pool, budget)| PoolView {
            pool,
            held: budget.total,
            need: budget.need(),
            cores: budget
                .shares
                .iter()
                .filter_map(|(&core, share)| Some((core, u32::try_from(share.held).ok()?)))
                .filter(|(_, held)| *held > 0)
                .collect(),
        })
    }

    fn check(&self, core: Core) {
        assert!(usize::from(core.0) < self.cores, "a letter of a core that does not exist");
    }

    /// Serves a pool that got permits back, and those that share a limit with it.
    fn serve_all(&mut self, now: Instant, pool: &PoolKey, out: &mut Vec<(Core, Mail)>) {
        self.serve(now, pool, out);
        let shares = |key: &PoolKey| {
            let settings = settings(&self.config, key);
            settings.is_some_and(|settings| {
                settings.database_servers_max > 0 && key.database == pool.database
                    || settings.user_servers_max > 0 && key.user == pool.user
            })
        };
        let hungry = self.pools.iter().filter(|(_, budget)| budget.need() > 0);
        let mut keys: Vec<_> = hungry
            .filter(|(key, _)| *key != pool && shares(key))
            .map(|(key, budget)| (budget.oldest(), key.clone()))
            .collect();
        keys.sort();
        for (_, key) in keys {
            self.serve(now, &key, out);
        }
    }

    /// Grants what may be granted, and spreads the news of who still waits.
    fn serve(&mut self, now: Instant, key: &PoolKey, out: &mut Vec<(Core, Mail)>) {
        let shared = self.room_shared(key);
        let Some(budget) = self.pools.get_mut(key) else { return };
        let Some(settings) = settings(&self.config, key) else {
            budget.forget_needs();
            return budget.spread(key, out);
        };
        let size = count(settings.size);
        let full = size.saturating_add(reserve(settings));
        let mut permits: BTreeMap<Core, u32> = BTreeMap::new();
        for _ in 0..shared {
            let aged = |since: Instant| now.since(since) >= settings.reserve_timeout;
            let core = if budget.total < size {
                budget.hungriest(|_| true)
            } else if budget.total < full {
                budget.hungriest(|share| aged(share.since))
            } else {
                None
            };
            let Some(core) = core else { break };
            budget.grant(core);
            *permits.entry(core).or_default() += 1;
            assert!(budget.total <= full, "more servers than the pool may have");
        }
        for (core, count) in permits {
            out.push((core, Mail::Permit { pool: key.clone(), count }));
        }
        budget.spread(key, out);
    }

    /// Opens servers that nobody waits for yet, up to the least number of the pool.
    fn top_up(&mut self, now: Instant, key: &PoolKey, out: &mut Vec<(Core, Mail)>) {
        let shared = self.room_shared(key);
        let Some(settings) = settings(&self.config, key) else { return };
        let Some(budget) = self.pools.get_mut(key) else { return };
        let missing = count(settings.size_min.min(settings.size)).saturating_sub(budget.total);
        let lost = budget.top_ups_lost >= TOP_UPS_LOST_MAX;
        let permits = missing.min(shared);
        if permits == 0 || lost || now < budget.top_up_at || budget.need() > 0 {
            return;
        }
        let Some(core) = budget.poorest() else { return };
        budget.top_ups_lost += u32::from(budget.total == 0);
        budget.top_up_at = now + settings.server_login_retry.max(TOP_UP_PAUSE);
        for _ in 0..permits {
            budget.grant(core);
        }
        out.push((core, Mail::Permit { pool: key.clone(), count: permits }));
    }

    /// Has another pool close a server, if this one has waited long enough behind a limit that
    /// both share, and the other has more than its part or waits for nothing.
    fn evict_for(&mut self, now: Instant, key: &PoolKey, out: &mut Vec<(Core, Mail)>) {
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

    /// Has servers closed that exceed a limit, those of the largest holders first.
    fn trim(&mut self, out: &mut Vec<(Core, Mail)>) {
        let mut letters: BTreeMap<(PoolKey, Core), u32> = BTreeMap::new();
        let keys: Vec<PoolKey> = self.pools.keys().cloned().collect();
        for key in keys {
            let settings = settings(&self.config, &key);
            let full = settings.map_or(0, |it| count(it.size).saturating_add(reserve(it)));
            let (by_database, by_user) =
                settings.map_or((0, 0), |it| (it.database_servers_max, it.user_servers_max));
            self.shrink_to(full, |other| *other == key, &mut letters);
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

    /// How many more servers the limits allow that this pool shares with others.
    fn room_shared(&self, key: &PoolKey) -> u32 {
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

    /// Lets a client in, or says which limit is reached.
    fn enter(&mut self, database: &Arc<str>, user: &Arc<str>) -> Option<String> {
        let Some(settings) = self.config.database(database).map(|database| &database.pool) else {
            return Some(format!("database \"{database}\" does not exist"));
        };
        for (clients, max, what, name) in [
            (&self.database_clients, settings.database_clients_max, "database", database),
            (&self.user_clients, settings.user_clients_max, "user", user),
        ] {
            if max > 0 && clients.get(name).is_some_and(|clients| *clients >= max) {
                return Some(format!(
                    "{what} \"{name}\" has {max} clients already (max_{what}_clients)"
                ));
            }
        }
        *self.database_clients.entry(Arc::clone(database)).or_default() += 1;
        *self.user_clients.entry(Arc::clone(user)).or_default() += 1;
        None
    }
}

fn leave(clients: &mut BTreeMap<Arc<str>, usize>, name: &Arc<str>) {
    if let Some(count) = clients.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            clients.remove(name);
        }
    }
}

fn settings<'c>(config: &'c Config, key: &PoolKey) -> Option<&'c PoolSettings> {
    config.database(&key.database).map(|database| &database.pool)
}

/// Servers beyond the size, for clients that waited for long.
fn reserve(settings: &PoolSettings) -> u32 {
    if settings.reserve_timeout.is_zero() { 0 } else { count(settings.reserve_size) }
}

fn count(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}
