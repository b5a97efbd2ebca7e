//! Prepared statements in transaction mode: which client means which text, and which server has
//! it under which name.
//!
//! A client prepares on one server and executes on another. So names are kept apart: a lane
//! keeps every text once ([`Texts`]), a client's names point to texts ([`ClientStatements`]),
//! and a server has texts under names of our own making ([`ServerStatements`]), given to it by
//! a Parse where it lacks one.
//!
//! A text is the same statement only if every byte of it and of its parameter types is the same.
//! Hashes speed up the search and decide nothing (test: all hashes forced into 4 bits).
//!
//! Texts are counted. Whoever keeps a [`StatementId`] holds one reference: [`Texts::intern`]
//! gives the first, [`Texts::retain`] another, and what the tables hand back (replaced, removed,
//! evicted, forgotten, cleared) is for the caller to [`Texts::release`].

mod client;
mod server;
mod texts;

pub use client::ClientStatements;
pub use server::{ServerName, ServerStatements};
pub use texts::{StatementId, Texts};

#[cfg(test)]
mod tests {
    use super::{ClientStatements, ServerStatements, StatementId, Texts};
    use crate::hints::Hints;
    use std::collections::BTreeMap;

    /// A small generator (xorshift), so that a seed tells one story.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    /// The three tables, and beside them the same told with texts only, slowly and plainly.
    struct World {
        texts: Texts,
        client: ClientStatements,
        server: ServerStatements,
        names: BTreeMap<Vec<u8>, Vec<u8>>,
        /// (text, number, busy), the least recently used first.
        prepared: Vec<(Vec<u8>, u64, bool)>,
        next: u64,
    }

    impl World {
        fn new(texts: Texts) -> Self {
            let (client, server) = (ClientStatements::default(), ServerStatements::default());
            Self { texts, client, server, names: BTreeMap::new(), prepared: Vec::new(), next: 0 }
        }

        fn text(&self, id: StatementId) -> Vec<u8> {
            self.texts.body(id).to_vec()
        }

        /// The client parses `text` as `name`.
        fn parse(&mut self, name: &[u8], text: &[u8]) {
            let id = self.texts.intern(text, Default::default);
            let old = self.client.insert(name, id);
            let old_text = old.map(|old| self.text(old));
            assert_eq!(old_text, self.names.insert(name.to_vec(), text.to_vec()));
            if let Some(old) = old {
                self.texts.release(old);
            }
        }

        /// The client executes `name`.
        fn execute(&mut self, name: &[u8]) {
            let id = self.client.get(name);
            assert_eq!(id.map(|id| self.text(id)), self.names.get(name).cloned());
            let Some(id) = id else { return };
            let text = self.text(id);
            let place = self.prepared.iter().position(|(other, ..)| *other == text);
            let known = place.map(|place| self.prepared.remove(place).1);
            assert_eq!(self.server.get(id), known);
            let number = known.unwrap_or_else(|| {
                self.texts.retain(id);
                let number = self.server.add(id, text.len());
                assert_eq!(number, self.next, "numbers never repeat");
                self.next += 1;
                number
            });
            self.prepared.push((text, number, true));
        }

        /// The client closes `name`.
        fn close(&mut self, name: &[u8]) {
            let id = self.client.remove(name);
            assert_eq!(id.map(|id| self.text(id)), self.names.remove(name));
            if let Some(id) = id {
                self.texts.release(id);
            }
        }

        /// The server is brought below its limits.
        fn evict(&mut self, count: usize, bytes: usize) {
            while let Some((id, number)) = self.server.evict(count, bytes) {
                let (text, expected, busy) = self.prepared.remove(0);
                assert_eq!((self.text(id), number, false), (text, expected, busy));
                self.texts.release(id);
            }
            let over = self.prepared.len() > count || self.server.bytes() > bytes;
            assert!(!over || self.prepared[0].2, "what is left over the limit is busy");
        }

        /// The server is handed to a lane that numbers its texts in its own way.
        fn travel(&mut self, other: Texts) {
            let (packed, next) = self.server.pack(&self.texts);
            let mut there = other;
            let noise = there.intern(b"noise\0\0\0", Default::default);
            let moved = ServerStatements::unpack(packed, next, &mut there, |_| Hints::NONE);
            for id in self.server.clear() {
                self.texts.release(id);
            }
            there.release(noise);

            // And back again, so that the story goes on here.
            let (packed, next) = moved.pack(&there);
            self.server = ServerStatements::unpack(packed, next, &mut self.texts, |_| Hints::NONE);
            self.prepared.iter_mut().for_each(|(_, _, busy)| *busy = false);
        }

        fn check(&self) {
            assert_eq!(self.client.len(), self.names.len());
            assert_eq!(self.server.len(), self.prepared.len());
            let bytes = self.prepared.iter().map(|(text, ..)| text.len()).sum::<usize>();
            assert_eq!(self.server.bytes(), bytes);
            let mut kept: Vec<&Vec<u8>> = self.names.values().collect();
            kept.extend(self.prepared.iter().map(|(text, ..)| text));
            kept.sort();
            kept.dedup();
            assert_eq!(self.texts.len(), kept.len(), "a text is kept once, while it is used");
            assert_eq!(self.texts.bytes(), kept.iter().map(|text| text.len()).sum::<usize>());
        }
    }

    fn tell_a_story(seed: u64, texts: impl Fn() -> Texts) {
        let mut dice = Dice(seed);
        let mut world = World::new(texts());
        for _ in 0..2_000 {
            let name = match dice.below(12) {
                0 => Vec::new(), // The unnamed statement.
                number => format!("s{number}").into_bytes(),
            };
            let text = format!("select {}\0\0{}", dice.below(24), dice.below(2)).into_bytes();
            match dice.below(16) {
                0..=4 => world.parse(&name, &text),
                5..=10 => world.execute(&name),
                11 => world.close(&name),
                12 => {
                    world.server.settle();
                    world.prepared.iter_mut().for_each(|(_, _, busy)| *busy = false);
                }
                13 | 14 => world.evict(1 + usize::try_from(dice.below(6)).unwrap(), 64),
                _ => world.travel(texts()),
            }
            world.check();
        }
        for id in world.client.drain() {
            world.texts.release(id);
        }
        for id in world.server.clear() {
            world.texts.release(id);
        }
        assert_eq!((world.texts.len(), world.texts.bytes()), (0, 0), "nobody is left to keep any");
    }

    #[test]
    fn clients_and_servers_agree_on_texts_in_every_story() {
        for seed in 1..=20 {
            tell_a_story(seed, || Texts::new(seed));
        }
    }

    #[test]
    fn they_also_agree_when_nearly_all_hashes_collide() {
        for seed in 1..=20 {
            tell_a_story(seed, || Texts::with_hash_bits(seed, 4));
            tell_a_story(seed, || Texts::with_hash_bits(seed, 0));
        }
    }
}
