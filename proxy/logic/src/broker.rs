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
use crate::broker::clients::Clients;
use crate::broker::limits::{count, reserve, settings};
use crate::broker::top_up::TOP_UPS_LOST_MAX;
use crate::config::Config;
use crate::id::{Core, PoolKey};
use crate::mail::Mail;
use crate::time::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;

mod budget;
mod clients;
mod limits;
mod top_up;

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
    clients: Clients,
}

impl Broker {
    /// Nothing granted yet; lanes are numbered below `cores`.
    pub fn new(config: Arc<Config>, cores: usize) -> Self {
        Self { config, cores, pools: BTreeMap::new(), clients: Clients::default() }
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
                let refused = self.clients.enter(&self.config, database, user);
                let (database, user) = (Arc::clone(database), Arc::clone(user));
                out.push((*core, Mail::Entered { conn: *conn, database, user, refused }));
            }
            Mail::Left { database, user } => self.clients.left(database, user),
            Mail::Config(_)
            | Mail::Permit { .. }
            | Mail::Hungry { .. }
            | Mail::Shrink { .. }
            | Mail::Entered { .. }
            | Mail::Derived { .. }
            | Mail::Answer { .. }
            | Mail::Ask(_)
            | Mail::AskRoutes(_)
            | Mail::Order { .. }
            | Mail::Derive { .. }
            | Mail::Console { .. }
            | Mail::Report(_)
            | Mail::Done { .. }
            | Mail::Cancel { .. }
            | Mail::Cancelled { .. }
            | Mail::Base { .. }
            | Mail::Topology(_)
            | Mail::Catalog { .. }
            | Mail::Behind
            | Mail::Want { .. }
            | Mail::Client { .. }
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
}

#[cfg(test)]
mod tests {
    use super::Broker;
    use crate::config::{Config, parse};
    use crate::id::{ConnId, Core, PoolKey, Side};
    use crate::mail::Mail;
    use crate::time::{Duration, Instant};
    use std::sync::Arc;

    const CORES: u16 = 4;

    fn config(pool: &str) -> Arc<Config> {
        let text = format!(
            "auth.method = \"trust\"\n[pool]\n{pool}\n[[clusters]]\nname = \"main\"\n\
             [[clusters.nodes]]\nname = \"pg1\"\naddress = \"127.0.0.1:5432\"\n"
        );
        Arc::new(parse(&text, &mut |_| Ok(String::new())).expect("a good config"))
    }

    fn key(user: &str) -> PoolKey {
        PoolKey::new("shop", user)
    }

    fn at(ms: u64) -> Instant {
        Instant::START + Duration::from_millis(ms)
    }

    fn wants(core: u16, user: &str, need: u32, since: u64) -> Mail {
        Mail::Demand { core: Core(core), pool: key(user), need, since: at(since) }
    }

    fn returns(core: u16, user: &str, count: u32) -> Mail {
        Mail::Returned { pool: key(user), core: Core(core), count }
    }

    /// What the broker answers, in short.
    fn told(letters: Vec<(Core, Mail)>) -> Vec<String> {
        let short = |(to, letter): (Core, Mail)| {
            if let Mail::Permit { pool, count } = letter {
                format!("{}: {count} for {}", to.0, pool.user)
            } else if let Mail::Shrink { pool, count } = letter {
                format!("{}: close {count} of {}", to.0, pool.user)
            } else if let Mail::Hungry { core, need, .. } = letter {
                format!("{}: {} needs {need}", to.0, core.0)
            } else if let Mail::Entered { refused, .. } = letter {
                refused.unwrap_or_else(|| "come in".to_owned())
            } else {
                format!("{letter:?}")
            }
        };
        letters.into_iter().map(short).collect()
    }

    fn tell(broker: &mut Broker, ms: u64, letter: &Mail) -> Vec<String> {
        let mut out = Vec::new();
        broker.handle(at(ms), letter, &mut out);
        told(out)
    }

    fn tick(broker: &mut Broker, ms: u64) -> Vec<String> {
        let mut out = Vec::new();
        broker.tick(at(ms), &mut out);
        told(out)
    }

    fn reload(broker: &mut Broker, config: Arc<Config>) -> Vec<String> {
        let mut out = Vec::new();
        broker.configure(config, &mut out);
        told(out)
    }

    #[test]
    fn a_pool_is_one_budget_and_who_holds_hears_who_waits() {
        let mut broker = Broker::new(config("size = 2"), CORES.into());
        assert_eq!(tell(&mut broker, 0, &wants(0, "a", 3, 0)), ["0: 2 for a"]);
        assert_eq!(tell(&mut broker, 1, &wants(1, "a", 1, 1)), ["0: 1 needs 1"]);
        let moved = Mail::Moved { pool: key("a"), from: Core(0), to: Core(1) };
        assert_eq!(tell(&mut broker, 2, &moved), ["1: 0 needs 1"]);
        assert_eq!(tell(&mut broker, 3, &wants(1, "a", 0, 3)), ["0: 1 needs 0"]);
        assert_eq!(tell(&mut broker, 4, &returns(1, "a", 1)), ["0: 1 for a", "1: 0 needs 0"]);
        let pools: Vec<_> = broker.pools().map(|view| (view.held, view.need, view.cores)).collect();
        assert_eq!(pools, [(2, 0, vec![(Core(0), 2)])]);
    }

    #[test]
    fn a_permit_that_comes_back_goes_to_whoever_waited_longest() {
        let mut broker = Broker::new(config("size = 2"), CORES.into());
        tell(&mut broker, 0, &wants(0, "a", 2, 0));
        tell(&mut broker, 2, &wants(2, "a", 9, 2));
        tell(&mut broker, 3, &wants(1, "a", 1, 1));
        assert_eq!(tell(&mut broker, 4, &returns(0, "a", 1))[0], "1: 1 for a");
        assert_eq!(tell(&mut broker, 5, &returns(0, "a", 1))[0], "2: 1 for a");
    }

    #[test]
    fn a_lane_with_many_clients_leaves_permits_to_a_lane_with_one() {
        let mut broker = Broker::new(config("size = 2"), CORES.into());
        tell(&mut broker, 0, &wants(0, "a", 2, 0));
        tell(&mut broker, 1, &wants(2, "a", 9, 1));
        tell(&mut broker, 2, &wants(1, "a", 1, 2));
        let letters = tell(&mut broker, 3, &returns(0, "a", 2));
        assert_eq!(letters[..2], ["1: 1 for a", "2: 1 for a"]);
    }

    #[test]
    fn hunger_that_is_said_again_is_spread_again() {
        let mut broker = Broker::new(config("size = 1"), CORES.into());
        tell(&mut broker, 0, &wants(0, "a", 1, 0));
        for ms in 1..4 {
            assert_eq!(tell(&mut broker, ms, &wants(1, "a", 1, 1)), ["0: 1 needs 1"]);
        }
        assert!(tick(&mut broker, 200).is_empty());
    }

    #[test]
    fn the_reserve_is_for_those_who_waited_for_long() {
        let settings = "size = 1\nreserve_size = 1\nreserve_timeout = \"1s\"";
        let mut broker = Broker::new(config(settings), CORES.into());
        tell(&mut broker, 0, &wants(0, "a", 1, 0));
        tell(&mut broker, 0, &wants(1, "a", 2, 0));
        assert!(tick(&mut broker, 999).is_empty());
        assert_eq!(tick(&mut broker, 1000)[0], "1: 1 for a");
        assert!(tick(&mut broker, 5000).is_empty());
    }

    #[test]
    fn the_least_number_of_servers_is_kept_while_clients_come() {
        let mut broker = Broker::new(config("min_size = 2"), CORES.into());
        assert!(tick(&mut broker, 0).is_empty());
        tell(&mut broker, 0, &wants(3, "a", 1, 0));
        assert_eq!(tick(&mut broker, 200), ["0: 1 for a"], "each lane keeps its part");
        tell(&mut broker, 1000, &returns(3, "a", 1));
        for attempt in 1..6 {
            tell(&mut broker, attempt * 2000, &returns(0, "a", 1));
            tell(&mut broker, attempt * 2000, &returns(1, "a", u32::from(attempt > 1)));
            let letters = tick(&mut broker, attempt * 2000 + 1000);
            assert_eq!(letters, ["0: 1 for a", "1: 1 for a"], "{attempt}");
        }
        // Nobody has come for so long, or the node lets nobody in: it is given up.
        tell(&mut broker, 13_000, &returns(0, "a", 1));
        tell(&mut broker, 13_000, &returns(1, "a", 1));
        assert!(tick(&mut broker, 15_000).is_empty());
        assert_eq!(broker.pools().count(), 0);
    }

    #[test]
    fn a_smaller_size_closes_servers_and_a_larger_one_opens_them() {
        let mut broker = Broker::new(config("size = 5"), CORES.into());
        tell(&mut broker, 0, &wants(0, "a", 2, 0));
        tell(&mut broker, 0, &wants(1, "a", 4, 0));
        let letters = reload(&mut broker, config("size = 2"));
        assert_eq!(letters, ["0: close 1 of a", "1: close 2 of a"]);
        assert!(tick(&mut broker, 200).is_empty(), "it is told once");
        tell(&mut broker, 300, &returns(1, "a", 2));
        tell(&mut broker, 300, &returns(0, "a", 1));
        assert!(reload(&mut broker, config("size = 3")).is_empty());
        assert_eq!(tick(&mut broker, 400), ["1: 1 for a", "0: 1 needs 0"]);
    }

    #[test]
    fn a_database_that_is_gone_gets_nothing_and_gives_all_back() {
        let mut broker = Broker::new(config("size = 2"), CORES.into());
        tell(&mut broker, 0, &wants(0, "a", 2, 0));
        let mut other = Config::clone(&config("size = 2"));
        other.databases.clear();
        assert_eq!(reload(&mut broker, Arc::new(other)), ["0: close 2 of a"]);
        assert!(tell(&mut broker, 1, &wants(1, "a", 1, 1)).is_empty());
        tell(&mut broker, 2, &returns(0, "a", 2));
        tick(&mut broker, 200);
        assert_eq!(broker.pools().count(), 0);
    }

    #[test]
    fn pools_share_the_limit_of_their_database() {
        let mut broker = Broker::new(config("max_database_servers = 3"), CORES.into());
        assert_eq!(tell(&mut broker, 0, &wants(0, "a", 5, 0)), ["0: 3 for a"]);
        assert!(tell(&mut broker, 1, &wants(1, "b", 1, 1)).is_empty());
        assert_eq!(tick(&mut broker, 200), ["0: close 1 of a"]);
        assert!(tick(&mut broker, 400).is_empty(), "one at a time");
        // Its own clients wait for longer: one at a time, but not all to one.
        tell(&mut broker, 500, &wants(0, "a", 0, 0));
        assert_eq!(tell(&mut broker, 501, &returns(0, "a", 1)), ["1: 1 for b"]);
    }

    #[test]
    fn clients_are_counted_where_a_limit_is_set() {
        let mut broker = Broker::new(config("max_user_clients = 1"), CORES.into());
        let (database, user): (Arc<str>, Arc<str>) = ("shop".into(), "a".into());
        let enter = Mail::Enter {
            core: Core(1),
            conn: ConnId::new(Side::Client, 1, 1),
            database: Arc::clone(&database),
            user: Arc::clone(&user),
        };
        assert_eq!(tell(&mut broker, 0, &enter), ["come in"]);
        let refused = "user \"a\" has 1 clients already (max_user_clients)";
        assert_eq!(tell(&mut broker, 0, &enter), [refused]);
        assert!(tell(&mut broker, 0, &Mail::Left { database, user }).is_empty());
        assert_eq!(tell(&mut broker, 0, &enter), ["come in"]);
    }

    /// A world of lanes that ask, return and lend at random.
    struct World {
        broker: Broker,
        dice: u64,
        held: [u32; CORES as usize],
        need: [u32; CORES as usize],
    }

    impl World {
        fn roll(&mut self, sides: u64) -> u64 {
            let dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.dice = dice;
            (dice >> 33) % sides
        }

        fn send(&mut self, ms: u64, letter: &Mail) {
            let mut out = Vec::new();
            self.broker.handle(at(ms), letter, &mut out);
            for (to, letter) in out {
                let Mail::Permit { count, .. } = letter else { continue };
                let lane = usize::from(to.0);
                self.held[lane] += count;
                self.need[lane] -= count;
            }
            let held = self.held.iter().sum::<u32>();
            assert!(held <= 5, "{held} servers in a pool of 5");
        }

        fn step(&mut self, ms: u64) {
            let core = u16::try_from(self.roll(CORES.into())).expect("a core");
            let lane = usize::from(core);
            match self.roll(3) {
                0 => {
                    self.need[lane] = u32::try_from(self.roll(7)).expect("a need");
                    self.send(ms, &wants(core, "a", self.need[lane], ms));
                }
                1 if self.held[lane] > 0 => {
                    self.held[lane] -= 1;
                    self.send(ms, &returns(core, "a", 1));
                }
                _ if self.held[lane] > 0 => {
                    let to = (core + 1) % CORES;
                    self.held[lane] -= 1;
                    self.held[usize::from(to)] += 1;
                    let (from, to) = (Core(core), Core(to));
                    self.send(ms, &Mail::Moved { pool: key("a"), from, to });
                }
                _ => {}
            }
        }
    }

    #[test]
    fn whatever_the_lanes_do_the_limit_holds_and_nobody_starves() {
        for seed in 0..50 {
            let broker = Broker::new(config("size = 5"), CORES.into());
            let mut world = World { broker, dice: seed, held: [0; 4], need: [0; 4] };
            for ms in 0..1000 {
                world.step(ms);
            }
            for ms in 1000..1100 {
                let holder = world.held.iter().position(|&held| held > 0);
                let Some(lane) = holder else { break };
                world.held[lane] -= 1;
                world.send(ms, &returns(u16::try_from(lane).expect("a core"), "a", 1));
            }
            assert_eq!((world.need, world.held), ([0; 4], [0; 4]), "seed {seed}");
        }
    }
}
