//! Every statement text of a lane, kept once however many clients and servers use it.

use crate::hash::Keys;
use crate::hints::Hints;
use hashbrown::HashTable;
use std::sync::Arc;

/// A text with its parameter types: its place in the [`Texts`] of one lane.
///
/// It means something while a reference is held; after the last release the place is given away.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StatementId(u32);

impl StatementId {
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    /// A number for a ledger entry: below 2^31 and never zero.
    pub const fn mark(self) -> u32 {
        (self.0 + 1) & 0x7fff_ffff
    }

    /// The statement with this mark; none for zero.
    pub const fn from_mark(mark: u32) -> Option<Self> {
        match mark & 0x7fff_ffff {
            0 => None,
            some => Some(Self(some - 1)),
        }
    }
}

/// The statement texts of one lane.
#[derive(Debug)]
pub struct Texts {
    /// Places in `slots`, found by hash, told apart by their full bytes. Never iterated.
    table: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    bytes: usize,
    keys: Keys,
    /// All ones but in tests.
    mask: u64,
}

#[derive(Debug)]
struct Slot {
    body: Option<Arc<[u8]>>,
    /// Kept so that growing the table does not read every text again.
    hash: u64,
    references: u32,
    hints: Hints,
    /// Pools of which a server has taken it.
    proven: Vec<usize>,
}

impl Texts {
    /// No texts. `seed` comes from the lane's dice: no client knows it.
    pub fn new(seed: u64) -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            keys: Keys::new(seed),
            mask: u64::MAX,
        }
    }

    /// No texts, and nearly all hashes collide.
    #[cfg(test)]
    pub(crate) fn with_hash_bits(seed: u64, bits: u32) -> Self {
        Self { mask: (1 << bits) - 1, ..Self::new(seed) }
    }

    /// The statement with this body: text, zero byte and parameter types, as in a Parse message
    /// after the name. The caller holds one reference more.
    ///
    /// `hints` is asked only for a body not yet known.
    pub fn intern(&mut self, body: &[u8], hints: impl FnOnce() -> Hints) -> StatementId {
        let hash = self.keys.hash(body) & self.mask;
        let slots = &self.slots;
        let same = |&place: &u32| slots[place as usize].body.as_deref() == Some(body);
        if let Some(&place) = self.table.find(hash, same) {
            let id = StatementId(place);
            self.retain(id);
            return id;
        }
        let (shared, hints) = (Some(body.into()), hints());
        let slot = Slot { body: shared, hash, references: 1, hints, proven: Vec::new() };
        let place = if let Some(place) = self.free.pop() {
            self.slots[place as usize] = slot;
            place
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("memory ends long before 4 billion texts")
        };
        let slots = &self.slots;
        self.table.insert_unique(hash, place, |&place| slots[place as usize].hash);
        self.bytes += body.len();
        StatementId(place)
    }

    /// Somebody else keeps `id` as well.
    pub fn retain(&mut self, id: StatementId) {
        let slot = &mut self.slots[id.0 as usize];
        assert!(slot.references > 0, "only a text in use can be kept");
        slot.references = slot.references.checked_add(1).expect("fewer holders than 4 billion");
    }

    /// One holder less; the last one frees the text.
    pub fn release(&mut self, id: StatementId) {
        let slot = &mut self.slots[id.0 as usize];
        assert!(slot.references > 0, "a text is released as often as it was kept");
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        let hash = slot.hash;
        let body = slot.body.take();
        self.bytes -= body.map_or(0, |body| body.len());
        if let Ok(entry) = self.table.find_entry(hash, |&place| place == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
    }

    /// Text, zero byte and parameter types.
    pub fn body(&self, id: StatementId) -> &Arc<[u8]> {
        self.slots[id.0 as usize].body.as_ref().expect("whoever asks holds a reference")
    }

    /// A server of `pool` has taken the statement.
    pub fn prove(&mut self, id: StatementId, pool: usize) {
        let proven = &mut self.slots[id.0 as usize].proven;
        if !proven.contains(&pool) {
            proven.push(pool);
        }
    }

    /// Whether a server of `pool` has taken the statement.
    pub fn is_proven(&self, id: StatementId, pool: usize) -> bool {
        self.slots[id.0 as usize].proven.contains(&pool)
    }

    /// What is known of the text.
    pub fn hints(&self, id: StatementId) -> Hints {
        self.slots[id.0 as usize].hints
    }

    /// Bytes of all bodies.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Texts;

    const INT4: &[u8] = b"select $1\0\0\x01\0\0\0\x17";
    const TEXT: &[u8] = b"select $1\0\0\x01\0\0\0\x19";

    #[test]
    fn the_same_text_with_other_types_is_another_statement() {
        for mut texts in [Texts::new(1), Texts::with_hash_bits(1, 0)] {
            let number = texts.intern(INT4, Default::default);
            let text = texts.intern(TEXT, Default::default);
            assert_ne!(number, text);
            assert_eq!((&**texts.body(number), &**texts.body(text)), (INT4, TEXT));
        }
    }

    #[test]
    fn a_text_is_looked_into_once_and_kept_until_its_last_holder_leaves() {
        let mut texts = Texts::new(1);
        let first = texts.intern(INT4, Default::default);
        let again = texts.intern(INT4, || panic!("the text is known"));
        assert_eq!(first, again);
        texts.release(first);
        assert_eq!((texts.len(), texts.bytes()), (1, INT4.len()));
        texts.release(first);
        assert_eq!((texts.len(), texts.bytes()), (0, 0));
        let next = texts.intern(TEXT, Default::default);
        assert_eq!(next, first, "the place is used again");
        assert_eq!(&**texts.body(next), TEXT);
    }

    #[test]
    fn texts_whose_hashes_collide_are_told_apart_while_others_come_and_go() {
        let body = |n: u32| format!("select {n}\0\0\0").into_bytes();
        let mut texts = Texts::with_hash_bits(7, 4);
        let ids: Vec<_> = (0..200).map(|n| texts.intern(&body(n), Default::default)).collect();
        for &id in ids.iter().step_by(2) {
            texts.release(id);
        }
        for n in (1..200).step_by(2) {
            let id = texts.intern(&body(n), || panic!("the text is known"));
            assert_eq!(id, ids[n as usize]);
            assert_eq!(**texts.body(id), *body(n));
        }
        assert_eq!(texts.len(), 100);
    }

    #[test]
    #[should_panic(expected = "as often as it was kept")]
    fn releasing_once_too_often_is_our_bug() {
        let mut texts = Texts::new(1);
        let id = texts.intern(INT4, Default::default);
        texts.release(id);
        texts.release(id);
    }
}
