//! One pool's budget: which core holds how much of it, and who waits for more.

use crate::id::{Core, PoolKey};
use crate::mail::Mail;
use crate::time::Instant;
use std::collections::BTreeMap;

/// What one core has of a pool, and what it wants.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    /// Permits it holds: servers, and what it has not yet opened. Below zero for the moment in
    /// which a server it got from another core is closed before that core's letter is read.
    pub(super) held: i64,
    /// How many more it could use.
    pub(super) need: u32,
    /// Since when its oldest client has been waiting.
    pub(super) since: Instant,
    /// Permits granted since it last said what it needs.
    granted: u32,
    /// How many it has been told to close and has not.
    shrinking: u32,
    /// What other cores believe of its hunger; `None`: they are to be told anew.
    told: BTreeMap<Core, Option<(u32, Instant)>>,
}

impl Share {
    /// What it will hold once it has closed what it was told to.
    fn kept(&self) -> u32 {
        let held = u32::try_from(self.held.max(0)).unwrap_or(u32::MAX);
        held.saturating_sub(self.shrinking)
    }
}

/// One pool over all cores.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    pub(super) shares: BTreeMap<Core, Share>,
    /// Permits that are out: the sum of what the shares hold.
    pub(super) total: u32,
    /// When servers may next be opened that nobody waits for.
    pub(super) top_up_at: Instant,
    /// How often that was done with no server left, since a client last waited: after some times
    /// either the node refuses this pool or nobody uses it.
    pub(super) top_ups_lost: u32,
}

impl Budget {
    /// A core says what it needs.
    pub(super) fn demand(&mut self, core: Core, need: u32, since: Instant) {
        let share = self.shares.entry(core).or_default();
        share.need = need;
        share.since = since;
        share.granted = 0;
        // It says so again because nothing came: who heard of it may have forgotten.
        for told in share.told.values_mut() {
            *told = None;
        }
        if need > 0 {
            self.top_ups_lost = 0;
        }
    }

    /// A core gives permits back; more than there are would be a bug of the lane, and no reason
    /// to grant more than the limit.
    pub(super) fn returned(&mut self, core: Core, count: u32) {
        let count = count.min(self.total);
        self.total -= count;
        let share = self.shares.entry(core).or_default();
        share.held -= i64::from(count);
        share.shrinking = share.shrinking.saturating_sub(count);
    }

    /// A server has gone from one core to another.
    pub(super) fn moved(&mut self, from: Core, to: Core) {
        self.shares.entry(from).or_default().held -= 1;
        self.shares.entry(to).or_default().held += 1;
    }

    /// Who gets the next permit: first whoever has got none since it asked, then whoever has
    /// been waiting for longest.
    pub(super) fn hungriest(&self, eligible: impl Fn(&Share) -> bool) -> Option<Core> {
        self.shares
            .iter()
            .filter(|(_, share)| share.need > 0 && eligible(share))
            .min_by_key(|(_, share)| (share.granted, share.since))
            .map(|(&core, _)| core)
    }

    /// Since when the oldest client of all cores has been waiting.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let hungry = self.shares.values().filter(|share| share.need > 0);
        hungry.map(|share| share.since).min()
    }

    /// One permit more for this core.
    pub(super) fn grant(&mut self, core: Core) {
        let share = self.shares.entry(core).or_default();
        share.held += 1;
        share.granted += 1;
        share.need = share.need.saturating_sub(1);
        self.total += 1;
    }

    /// What a core holds.
    pub(super) fn held(&self, core: Core) -> u32 {
        self.shares.get(&core).map_or(0, |share| u32::try_from(share.held).unwrap_or(0))
    }

    /// How many more could be used over all cores.
    pub(super) fn need(&self) -> u32 {
        self.shares.values().fold(0, |sum, share| sum.saturating_add(share.need))
    }

    /// What will be held once all have closed what they were told to.
    pub(super) fn kept(&self) -> u32 {
        self.shares.values().map(Share::kept).sum::<u32>().min(self.total)
    }

    /// Whether some core still has to close servers.
    pub(super) fn is_shrinking(&self) -> bool {
        self.shares.values().any(|share| share.shrinking > 0 && share.held > 0)
    }

    /// Has the core that holds most close one more. `None` if there is nothing left to close.
    pub(super) fn shrink(&mut self) -> Option<Core> {
        let largest = self.shares.iter_mut().max_by_key(|(_, share)| share.kept());
        let (&core, share) = largest.filter(|(_, share)| share.kept() > 0)?;
        // A core that has lent what it was told to close owes nothing any more.
        let held = u32::try_from(share.held.max(0)).unwrap_or(u32::MAX);
        share.shrinking = share.shrinking.min(held) + 1;
        Some(core)
    }

    /// Nobody may wait for a pool that is gone.
    pub(super) fn forget_needs(&mut self) {
        for share in self.shares.values_mut() {
            share.need = 0;
        }
    }

    /// Tells those who hold servers who waits for them, as far as they do not know.
    pub(super) fn spread(&mut self, pool: &PoolKey, out: &mut Vec<(Core, Mail)>) {
        let holds = |share: &Share| share.held > 0;
        let holders: Vec<Core> =
            self.shares.iter().filter(|(_, share)| holds(share)).map(|(&core, _)| core).collect();
        for (&core, share) in &mut self.shares {
            let (need, since) = (share.need, share.since);
            if need > 0 {
                for &holder in holders.iter().filter(|&&holder| holder != core) {
                    share.told.entry(holder).or_insert(None);
                }
            }
            for (&other, told) in &mut share.told {
                if *told != Some((need, since)) {
                    *told = Some((need, since));
                    let hungry = Mail::Hungry { pool: pool.clone(), core, need, since };
                    out.push((other, hungry));
                }
            }
            if need == 0 {
                share.told.clear();
            }
        }
    }

    /// Whether nothing is out and nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.total == 0 && self.shares.values().all(|share| share.need == 0 && share.held == 0)
    }
}
