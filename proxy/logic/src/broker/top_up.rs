//! Servers that are opened before anybody waits for them: the least number of a pool.

use crate::broker::Broker;
use crate::broker::limits::{count, settings};
use crate::homes::Homes;
use crate::id::{Core, PoolKey};
use crate::mail::Mail;
use crate::time::{Duration, Instant};

/// The shortest time between two attempts to reach the least number of servers.
const TOP_UP_PAUSE: Duration = Duration::from_secs(1);

/// Attempts to reach the least number of servers without a client that waits.
pub(super) const TOP_UPS_LOST_MAX: u32 = 5;

impl Broker {
    /// Opens servers that nobody waits for yet, up to the least number of the pool.
    pub(super) fn top_up(&mut self, now: Instant, key: &PoolKey, out: &mut Vec<(Core, Mail)>) {
        let shared = self.room_shared(key);
        let Some(settings) = settings(&self.config, key) else { return };
        let Some(budget) = self.pools.get_mut(key) else { return };
        let missing = count(settings.size_min.min(settings.size)).saturating_sub(budget.total);
        let lost = budget.top_ups_lost >= TOP_UPS_LOST_MAX;
        let permits = missing.min(shared);
        if permits == 0 || lost || now < budget.top_up_at || budget.need() > 0 {
            return;
        }
        budget.top_ups_lost += u32::from(budget.total == 0);
        budget.top_up_at = now + settings.server_login_retry.max(TOP_UP_PAUSE);
        let mut left = permits;
        let homes = Homes::of(&self.config, self.cores, key);
        for index in 0..self.cores {
            // Each lane keeps its part of them open, so each must have its part.
            let core = Core(u16::try_from(index).unwrap_or(u16::MAX));
            let part = homes.part(settings.size_min, core);
            let given = count(part).saturating_sub(budget.held(core)).min(left);
            if given == 0 {
                continue;
            }
            left -= given;
            for _ in 0..given {
                budget.grant(core);
            }
            out.push((core, Mail::Permit { pool: key.clone(), count: given }));
        }
    }
}
