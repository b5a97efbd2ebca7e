//! A stand-in for the control thread's broker.

use pgring_logic::config::Config;
use pgring_logic::id::{Core, PoolKey};
use pgring_logic::mail::Mail;
use pgring_logic::time::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
struct Pool {
    held: BTreeMap<Core, usize>,
    demand: BTreeMap<Core, (u32, Instant)>,
}

/// The budget.
pub(crate) struct Broker {
    config: Arc<Config>,
    lanes: usize,
    pools: BTreeMap<PoolKey, Pool>,
}

impl Broker {
    pub(crate) fn new(config: &Arc<Config>, lanes: usize) -> Self {
        Self { config: Arc::clone(config), lanes, pools: BTreeMap::new() }
    }

    pub(crate) fn held(&self, pool: &PoolKey) -> usize {
        self.pools.get(pool).map_or(0, |pool| pool.held.values().sum())
    }

    pub(crate) fn reload(&mut self, _: Instant, config: &Arc<Config>) -> Vec<(usize, Mail)> {
        self.config = Arc::clone(config);
        Vec::new()
    }

    pub(crate) fn turn(&mut self, _: Instant) -> Vec<(usize, Mail)> {
        Vec::new()
    }

    pub(crate) fn take(&mut self, _: Instant, mail: Mail) -> Vec<(usize, Mail)> {
        let key = match mail {
            Mail::Demand { core, pool, need, since } => {
                let known = self.pools.entry(pool.clone()).or_default();
                known.demand.insert(core, (need, since));
                pool
            }
            Mail::Returned { pool, core, count } => {
                let known = self.pools.entry(pool.clone()).or_default();
                let held = known.held.entry(core).or_default();
                *held = held.checked_sub(count as usize).expect("more returned than held");
                pool
            }
            Mail::Moved { pool, from, to } => {
                let known = self.pools.entry(pool.clone()).or_default();
                *known.held.entry(from).or_default() -= 1;
                *known.held.entry(to).or_default() += 1;
                pool
            }
            _ => return Vec::new(),
        };
        self.serve(&key)
    }

    fn serve(&mut self, key: &PoolKey) -> Vec<(usize, Mail)> {
        let size = self.config.database(&key.database).map_or(0, |found| found.pool.size);
        let mut letters = Vec::new();
        let Some(pool) = self.pools.get_mut(key) else { return letters };
        for (&core, (need, since)) in &mut pool.demand {
            let held: usize = pool.held.values().sum();
            let count = (*need as usize).min(size.saturating_sub(held));
            if count > 0 {
                *pool.held.entry(core).or_default() += count;
                *need -= count as u32;
                let count = count as u32;
                letters.push((usize::from(core.0), Mail::Permit { pool: key.clone(), count }));
            }
            for other in 0..self.lanes {
                let has = pool.held.get(&Core(other as u16)).copied().unwrap_or(0);
                if other != usize::from(core.0) && has > 0 {
                    let hungry =
                        Mail::Hungry { pool: key.clone(), core, need: *need, since: *since };
                    letters.push((other, hungry));
                }
            }
        }
        letters
    }
}
