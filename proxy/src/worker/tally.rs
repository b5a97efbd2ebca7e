//! What the control thread has granted to a lane and ordered it to do, noted as the letters go by.
//!
//! A lane that falls takes its servers and clients with it. The budget must know, and the lane
//! can no longer say so; its driver can. The lane that starts anew must know what it has been
//! ordered to do: that its pools are paused, or that the process is ending.

use pgring_logic::id::{Core, PoolKey};
use pgring_logic::mail::{Mail, Order};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Generations left out between two lives of a lane: more than a lane can have given to
/// connections that its driver did not come to open before it fell.
const LEAP: u32 = 1 << 16;

/// A database and a user.
type Name = (Arc<str>, Arc<str>);

/// Servers and clients of one lane, as the control thread counts them.
#[derive(Debug)]
pub(super) struct Tally {
    core: Core,
    /// At least as high as every generation of the lives before. Within a life it counts what is
    /// opened: no slot can have had more lives than that.
    before: u32,
    servers: BTreeMap<PoolKey, u32>,
    /// Clients that have been let in, those among them that had left before they heard it until
    /// their lane says so.
    inside: BTreeMap<Name, u32>,
    /// Orders that last, with their numbers, oldest first.
    orders: Vec<(u64, Order)>,
}

impl Tally {
    pub(super) fn new(core: Core) -> Self {
        let (servers, inside) = (BTreeMap::new(), BTreeMap::new());
        Self { core, before: 0, servers, inside, orders: Vec::new() }
    }

    /// The generation that those of a lane which begins now are to begin after.
    pub(super) fn before(&self) -> u32 {
        self.before
    }

    /// The lane has a connection more.
    pub(super) fn opened(&mut self) {
        self.before = self.before.wrapping_add(1);
    }

    /// A letter comes to the lane.
    pub(super) fn incoming(&mut self, mail: &Mail) {
        if let Mail::Permit { pool, count } = mail {
            add(&mut self.servers, pool, *count);
        } else if let Mail::Entered { database, user, refused: None, .. } = mail {
            add(&mut self.inside, &(Arc::clone(database), Arc::clone(user)), 1);
        } else if let Mail::Order { number, order } = mail {
            self.ordered(*number, order);
        }
    }

    fn ordered(&mut self, number: u64, order: &Order) {
        match order {
            // The last word on a database counts, and one on all of them ends all before it.
            Order::Pause(about) | Order::Resume(about) => {
                self.orders.retain(|(_, old)| match old {
                    Order::Pause(old) | Order::Resume(old) => about.is_some() && old != about,
                    Order::DrainClients
                    | Order::DrainServers
                    | Order::Reconnect(_)
                    | Order::KillClient(_)
                    | Order::Vacate(..) => true,
                });
            }
            // Of each cluster the last one is enough.
            Order::Vacate(about, _) => {
                let same = |old: &Order| matches!(old, Order::Vacate(name, _) if name == about);
                self.orders.retain(|(_, old)| !same(old));
            }
            Order::DrainClients | Order::DrainServers => {}
            // Done with the lane that fell.
            Order::Reconnect(_) | Order::KillClient(_) => return,
        }
        if *order != Order::Resume(None) {
            self.orders.push((number, order.clone()));
        }
    }

    /// What a lane that starts anew has been ordered to do. Its answers to those that were carried
    /// out before fit nothing.
    pub(super) fn orders(&self) -> impl Iterator<Item = Mail> + '_ {
        let orders = self.orders.iter().cloned();
        orders.map(|(number, order)| Mail::Order { number, order })
    }

    /// The lane tells the control thread something.
    pub(super) fn outgoing(&mut self, mail: &Mail) {
        if let Mail::Returned { pool, count, .. } = mail {
            remove(&mut self.servers, pool, *count);
        } else if let Mail::Moved { pool, .. } = mail {
            add(&mut self.servers, pool, 1);
        } else if let Mail::Left { database, user } = mail {
            remove(&mut self.inside, &(Arc::clone(database), Arc::clone(user)), 1);
        }
    }

    /// A server of this pool has left for another lane.
    pub(super) fn surrendered(&mut self, pool: &PoolKey) {
        remove(&mut self.servers, pool, 1);
    }

    /// The lane has fallen: what the control thread must be told.
    pub(super) fn fall(&mut self) -> Vec<Mail> {
        self.before = self.before.wrapping_add(LEAP);
        let core = self.core;
        let servers = std::mem::take(&mut self.servers).into_iter();
        let mut letters: Vec<_> =
            servers.map(|(pool, count)| Mail::Returned { pool, core, count }).collect();
        for ((database, user), count) in std::mem::take(&mut self.inside) {
            letters.extend(
                (0..count).map(|_| Mail::Left {
                    database: Arc::clone(&database),
                    user: Arc::clone(&user),
                }),
            );
        }
        // Who asked and has no answer yet may be refused. If not, the answer finds nobody in the
        // lane that starts anew, and that one says so.
        letters
    }
}

fn add<Key: Clone + Ord>(counts: &mut BTreeMap<Key, u32>, key: &Key, count: u32) {
    match counts.get_mut(key) {
        Some(there) => *there += count,
        None => drop(counts.insert(key.clone(), count)),
    }
}

fn remove<Key: Ord>(counts: &mut BTreeMap<Key, u32>, key: &Key, count: u32) {
    if let Some(there) = counts.get_mut(key) {
        *there = there.saturating_sub(count);
        if *there == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use pgring_logic::id::{ConnId, Core, PoolKey, Side};
    use pgring_logic::mail::{Mail, Order};
    use pgring_logic::slab::Slab;
    use std::sync::Arc;

    #[test]
    fn a_lane_that_starts_anew_hears_the_last_word_on_every_database() {
        let mut tally = Tally::new(Core(1));
        let some = |name: &str| Some(name.to_owned());
        let mut number = 0;
        let mut heard_after = |order: Order| {
            number += 1;
            tally.incoming(&Mail::Order { number, order });
            let orders = tally.orders().map(|mail| {
                let Mail::Order { number, order } = mail else { panic!("{mail:?}") };
                (number, order)
            });
            orders.collect::<Vec<_>>()
        };
        assert_eq!(heard_after(Order::Pause(some("a"))), [(1, Order::Pause(some("a")))]);
        assert_eq!(heard_after(Order::KillClient(7)).len(), 1);
        assert_eq!(heard_after(Order::Resume(some("a"))), [(3, Order::Resume(some("a")))]);
        assert_eq!(heard_after(Order::Pause(None)), [(4, Order::Pause(None))]);
        let both = [(4, Order::Pause(None)), (5, Order::Resume(some("b")))];
        assert_eq!(heard_after(Order::Resume(some("b"))), both);
        assert_eq!(heard_after(Order::Resume(None)), []);
        assert_eq!(heard_after(Order::DrainServers), [(7, Order::DrainServers)]);
    }

    #[test]
    fn a_lane_that_starts_anew_names_nobody_as_the_one_before_it_did() {
        let mut tally = Tally::new(Core(1));
        let mut lives = Vec::new();
        for _ in 0..3 {
            let mut slab = Slab::new(Side::Client, tally.before());
            for _ in 0..5 {
                let id = slab.insert(|_| ());
                tally.opened();
                slab.remove(id);
                lives.push(id);
            }
            // The lane has taken in one more when it falls.
            lives.push(slab.insert(|_| ()));
            tally.fall();
        }
        let (all, mut seen) = (lives.len(), lives);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn who_falls_while_asking_leaves_once_and_only_if_let_in() {
        let mut tally = Tally::new(Core(1));
        let conn = ConnId::new(Side::Client, 0, 1);
        let (database, user): (Arc<str>, Arc<str>) = ("shop".into(), "app".into());
        let left = Mail::Left { database: Arc::clone(&database), user: Arc::clone(&user) };
        let entered = |refused| {
            let (database, user) = (Arc::clone(&database), Arc::clone(&user));
            Mail::Entered { conn, database, user, refused }
        };
        let (database, user) = (Arc::clone(&database), Arc::clone(&user));
        tally.outgoing(&Mail::Enter { core: Core(1), conn, database, user });
        assert!(tally.fall().is_empty(), "somebody else's place would be given up");
        tally.incoming(&entered(Some("full".to_owned())));
        assert!(tally.fall().is_empty(), "a refused one has no place");
        // The next lane finds nobody of that name and says that its place is free.
        tally.incoming(&entered(None));
        tally.outgoing(&left);
        assert!(tally.fall().is_empty());
        // Or it falls before it can.
        tally.incoming(&entered(None));
        assert!(matches!(tally.fall()[..], [Mail::Left { .. }]));
    }

    #[test]
    fn a_fallen_lane_gives_back_what_it_held_and_no_more() {
        let (core, mut tally) = (Core(1), Tally::new(Core(1)));
        let pool = PoolKey::new("shop", "alice");
        tally.incoming(&Mail::Permit { pool: pool.clone(), count: 5 });
        tally.outgoing(&Mail::Moved { pool: pool.clone(), from: Core(0), to: core });
        tally.outgoing(&Mail::Returned { pool: pool.clone(), core, count: 2 });
        tally.surrendered(&pool);
        let letters = tally.fall();
        assert!(matches!(letters[..], [Mail::Returned { count: 3, .. }]), "{letters:?}");
        assert!(tally.fall().is_empty());
    }
}
