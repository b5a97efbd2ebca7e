//! The prepared statements of one server: texts, the names they have there, and their age.

use crate::hints::Hints;
use crate::parcel::Packed;
use crate::prepared::texts::{StatementId, Texts};
use hashbrown::HashTable;

/// The name of a statement on a server: `pgring_` and a number.
#[derive(Clone, Copy, Debug)]
pub struct ServerName {
    bytes: [u8; PREFIX.len() + DIGITS],
    start: u8,
}

const PREFIX: &[u8] = b"pgring_";
/// Digits of the largest number.
const DIGITS: usize = 20;

impl ServerName {
    /// The name of statement `number`.
    pub fn new(number: u64) -> Self {
        let mut bytes = [0; PREFIX.len() + DIGITS];
        let mut start = bytes.len();
        let mut rest = number;
        loop {
            start -= 1;
            bytes[start] = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        start -= PREFIX.len();
        bytes[start..start + PREFIX.len()].copy_from_slice(PREFIX);
        Self { bytes, start: u8::try_from(start).unwrap_or(0) }
    }

    /// The name, without a zero byte at its end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// What one server has prepared. Each statement in it holds one reference of [`Texts`].
///
/// Statements stand in a line from the most to the least recently used, so those touched since
/// [`Self::settle`] are always at its front: when the last in line is busy, all are.
#[derive(Debug, Default)]
pub struct ServerStatements {
    /// Numbers are never used twice, so a name that is being closed is not met again.
    next: u64,
    line: Option<Box<Line>>,
}

#[derive(Debug)]
struct Line {
    /// Places in `entries` by statement. Never iterated.
    table: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    bytes: usize,
    /// Rises with each `settle`.
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    id: StatementId,
    number: u64,
    bytes: usize,
    /// The turn it was last touched in: busy as long as that turn lasts.
    turn: u64,
    newer: u32,
    older: u32,
}

/// No entry: an end of the line.
const NONE: u32 = u32::MAX;

impl ServerStatements {
    /// The number of `id` on the server, if it has it. It is now the most recently used.
    pub fn get(&mut self, id: StatementId) -> Option<u64> {
        let line = self.line.as_mut()?;
        let place = line.find(id)?;
        line.touch(place);
        Some(line.entries[place as usize].number)
    }

    /// The server is given `id`, whose text has `bytes`: its number from now on.
    pub fn add(&mut self, id: StatementId, bytes: usize) -> u64 {
        let number = self.next;
        self.next += 1;
        self.line.get_or_insert_default().push(id, number, bytes);
        number
    }

    /// A number for a statement that is dropped as soon as it is parsed.
    pub fn spare_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// What was in flight is answered: nothing is busy any more.
    pub fn settle(&mut self) {
        if let Some(line) = &mut self.line {
            line.turn += 1;
        }
    }

    /// Forgets the least recently used statement, if there are more of them or of their bytes
    /// than allowed and it is not busy: touched or added since [`Self::settle`], so that a
    /// message in flight may still name it. To be asked until it says `None`.
    pub fn evict(&mut self, count_max: usize, bytes_max: usize) -> Option<(StatementId, u64)> {
        let line = self.line.as_mut()?;
        if line.table.len() <= count_max && line.bytes <= bytes_max {
            return None;
        }
        let oldest = line.entries.get(line.oldest as usize)?;
        if oldest.turn == line.turn {
            return None;
        }
        let out = (oldest.id, oldest.number);
        line.remove(line.oldest);
        Some(out)
    }

    /// Forgets `id`: closed on the server, or never accepted by it.
    pub fn forget(&mut self, id: StatementId) -> Option<u64> {
        let line = self.line.as_mut()?;
        let place = line.find(id)?;
        let number = line.entries[place as usize].number;
        line.remove(place);
        Some(number)
    }

    /// Forgets all of them: `DISCARD ALL`, or the server is gone. Numbers go on.
    pub fn clear(&mut self) -> Vec<StatementId> {
        let ids = self.ids();
        self.line = None;
        ids
    }

    /// All of them, the one that was used first in front.
    pub fn ids(&self) -> Vec<StatementId> {
        self.oldest_first().map(|entry| entry.id).collect()
    }

    /// What another lane must know to go on, and the next number. Still here until
    /// [`Self::clear`].
    pub fn pack(&self, texts: &Texts) -> (Vec<Packed>, u64) {
        let pack =
            |entry: &Entry| Packed { number: entry.number, body: texts.body(entry.id).clone() };
        (self.oldest_first().map(pack).collect(), self.next)
    }

    /// What another lane packed, with the texts as they are numbered here.
    pub fn unpack(
        packed: Vec<Packed>,
        next: u64,
        texts: &mut Texts,
        hints: impl Fn(&[u8]) -> Hints,
    ) -> Self {
        let mut all = Self { next, line: None };
        for Packed { number, body } in packed {
            let id = texts.intern(&body, || hints(&body));
            all.next = all.next.max(number + 1);
            all.line.get_or_insert_default().push(id, number, body.len());
        }
        all.settle();
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.table.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of their texts.
    pub fn bytes(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.bytes)
    }

    fn oldest_first(&self) -> impl Iterator<Item = &Entry> {
        let line = self.line.as_deref();
        let first = line.and_then(|line| line.entries.get(line.oldest as usize));
        std::iter::successors(first, move |entry| line?.entries.get(entry.newer as usize))
    }
}

impl Default for Line {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            turn: 0,
        }
    }
}

impl Line {
    fn find(&self, id: StatementId) -> Option<u32> {
        self.table.find(hash(id), |&place| self.entries[place as usize].id == id).copied()
    }

    fn push(&mut self, id: StatementId, number: u64, bytes: usize) {
        assert!(self.find(id).is_none(), "a server has a statement once");
        let entry = Entry { id, number, bytes, turn: self.turn, newer: NONE, older: NONE };
        let place = if let Some(place) = self.free.pop() {
            self.entries[place as usize] = entry;
            place
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("there are fewer than statement ids")
        };
        let entries = &self.entries;
        self.table.insert_unique(hash(id), place, |&place| hash(entries[place as usize].id));
        self.bytes += bytes;
        self.link(place);
    }

    fn touch(&mut self, place: u32) {
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
        self.entries[place as usize].turn = self.turn;
    }

    fn remove(&mut self, place: u32) {
        self.unlink(place);
        let entry = &self.entries[place as usize];
        self.bytes -= entry.bytes;
        if let Ok(found) = self.table.find_entry(hash(entry.id), |&other| other == place) {
            found.remove();
        }
        self.free.push(place);
    }

    /// Puts an entry that is not in line at its front.
    fn link(&mut self, place: u32) {
        let behind = self.newest;
        self.entries[place as usize].newer = NONE;
        self.entries[place as usize].older = behind;
        match self.entries.get_mut(behind as usize) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

/// Ids are small numbers that no client chooses: spreading them is enough.
fn hash(id: StatementId) -> u64 {
    u64::from(id.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::{ServerName, ServerStatements};
    use crate::hints::Hints;
    use crate::prepared::texts::{StatementId, Texts};

    fn four() -> (Texts, [StatementId; 4]) {
        let mut texts = Texts::new(1);
        let ids = [0, 1, 2, 3].map(|n| texts.intern(&[b'a' + n, 0, 0, 0], Default::default));
        (texts, ids)
    }

    #[test]
    fn names_are_numbers_behind_a_prefix() {
        for number in [0, 9, 10, 123_456, u64::MAX] {
            let name = ServerName::new(number);
            assert_eq!(name.as_bytes(), format!("pgring_{number}").as_bytes());
        }
    }

    #[test]
    fn a_server_without_statements_costs_two_words() {
        assert_eq!(size_of::<ServerStatements>(), 16);
    }

    #[test]
    fn with_room_for_one_the_statement_in_flight_is_not_its_own_victim() {
        let (_, [first, second, ..]) = four();
        let mut server = ServerStatements::default();
        let number = server.add(first, 4);
        assert_eq!(server.evict(1, 100), None);
        server.settle();

        server.add(second, 4);
        assert_eq!(server.evict(1, 100), Some((first, number)));
        assert_eq!(server.evict(1, 100), None);
        assert_eq!((server.get(first), server.get(second)), (None, Some(1)));
    }

    #[test]
    fn a_pipeline_may_use_more_statements_than_there_is_room_for() {
        let (_, ids) = four();
        let mut server = ServerStatements::default();
        server.add(ids[0], 4);
        server.settle();
        for id in ids {
            if server.get(id).is_none() {
                server.add(id, 4);
            }
        }
        assert_eq!(server.evict(1, 100), None, "all four are in flight");
        server.settle();
        let out: Vec<_> = std::iter::from_fn(|| server.evict(1, 100)).collect();
        assert_eq!(out, [(ids[0], 0), (ids[1], 1), (ids[2], 2)]);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_bytes_count_too() {
        let (_, ids) = four();
        let mut server = ServerStatements::default();
        for id in ids {
            server.add(id, 50);
        }
        server.settle();
        assert_eq!(server.get(ids[0]), Some(0));
        server.settle();
        assert_eq!(server.evict(9, 199), Some((ids[1], 1)));
        assert_eq!(server.evict(9, 199), None);
        assert_eq!(server.evict(9, 50), Some((ids[2], 2)));
        assert_eq!(server.evict(9, 50), Some((ids[3], 3)));
        assert_eq!((server.len(), server.bytes()), (1, 50));
    }

    #[test]
    fn a_statement_forgotten_comes_back_under_a_name_never_used() {
        let (_, [first, ..]) = four();
        let mut server = ServerStatements::default();
        assert_eq!(server.add(first, 4), 0);
        assert_eq!(server.forget(first), Some(0));
        assert_eq!((server.forget(first), server.get(first)), (None, None));
        assert_eq!(server.add(first, 4), 1);
        assert_eq!(server.clear(), [first]);
        assert_eq!(server.add(first, 4), 2);
    }

    #[test]
    fn a_server_keeps_its_names_and_their_age_when_it_moves_to_another_lane() {
        let (mut texts, ids) = four();
        let mut server = ServerStatements::default();
        for id in &ids[..3] {
            texts.retain(*id);
            server.add(*id, 4);
        }
        server.get(ids[0]);
        let (packed, next) = server.pack(&texts);

        let mut there = Texts::new(2);
        let c = there.intern(b"c\0\0\0", Default::default);
        let a = there.intern(b"a\0\0\0", Default::default);
        let mut moved = ServerStatements::unpack(packed, next, &mut there, |_| Hints::NONE);
        assert_eq!((there.len(), moved.len(), moved.bytes()), (3, 3, 12));
        let (gone, number) = moved.evict(2, 100).unwrap();
        assert_eq!((&**there.body(gone), number), (&b"b\0\0\0"[..], 1));
        assert_eq!((moved.get(c), moved.get(a)), (Some(2), Some(0)));
        assert_eq!(moved.add(gone, 4), 3);
    }
}
