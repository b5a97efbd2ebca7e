//! What texts are, kept for the next time they come.
//!
//! The cache is bounded in bytes. What was not asked for since the hand of a clock came by last
//! makes room for what is new. A hit costs one pass over the text and allocates nothing. Texts
//! that do not parse are not kept: a broken text must not stand for a good one of the same key.

use super::{Class, Reason, classify, key};
use crate::hash::Keys;
use crate::time::Duration;
use hashbrown::HashTable;
use std::sync::Arc;

/// What is to be done with a statement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Any node may run it.
    Read(Trust),
    /// It reads, but what it names may write, or is not known.
    Unproven,
    /// It opens a transaction; see [`Class::Begin`].
    Begin {
        /// READ ONLY.
        read_only: bool,
        /// SERIALIZABLE.
        serializable: bool,
        /// READ COMMITTED, or not said.
        plain: bool,
    },
    /// It belongs to the primary.
    Primary {
        /// It may write.
        writes: bool,
        /// What names mean may be another thing behind it.
        defines: bool,
    },
}

/// Why something is a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trust {
    /// It is one.
    Proven,
    /// By somebody's word, and a standby has run it, which refuses writes.
    Tried,
    /// By somebody's word only.
    Believed,
}

/// Whether what a read names only reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// It does.
    Proven,
    /// By somebody's word.
    Believed,
    /// It may write, or is not known.
    None,
}

/// What an entry costs beside its key and its names, about.
const ENTRY_BYTES: usize = 192;

/// A text that is kept, for as long as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    index: u32,
    stamp: u32,
    /// It says nothing of what the text does.
    doubted: bool,
}

impl Mark {
    /// The statement that it was taken for has failed, or may be another one.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }
}

/// Where the statements went that are one but for their values.
#[derive(Clone, Debug)]
pub struct Route {
    /// Their text, values left out.
    pub statement: String,
    /// The database of the last one.
    pub database: Arc<str>,
    /// What the text does.
    pub class: Arc<Class>,
    /// A standby has refused it.
    pub refused: bool,
    /// How many there were.
    pub seen: u64,
    /// How many of them went to a replica.
    pub moved: u64,
    /// What they took, all together.
    pub time: Duration,
}

/// What became of the statements of one key.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// The database that the last one was in.
    database: Option<Arc<str>>,
    seen: u64,
    moved: u64,
    time: Duration,
}

/// Classes of texts.
#[derive(Debug)]
pub struct Cache {
    keys: Keys,
    bytes_max: usize,
    bytes: usize,
    scratch: Vec<u8>,
    table: HashTable<usize>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    hand: usize,
    stamp: u32,
    /// The text that was asked for last.
    last: Option<Mark>,
}

#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    class: Arc<Class>,
    /// What was said of it, and by which edition of what names mean.
    verdict: Option<(u64, Verdict)>,
    /// A standby has refused it as a write.
    writes: bool,
    /// Tells it from what was in its place before.
    stamp: u32,
    tally: Tally,
    bytes: usize,
    used: bool,
}

impl Cache {
    /// An empty one for so many bytes. Whoever does not know `seed` cannot make texts collide.
    pub fn new(seed: u64, bytes_max: usize) -> Self {
        Self {
            keys: Keys::new(seed),
            bytes_max,
            bytes: 0,
            scratch: Vec::new(),
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            hand: 0,
            stamp: 0,
            last: None,
        }
    }

    /// Bytes in use, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What `text` does.
    pub fn classify(&mut self, text: &[u8]) -> Arc<Class> {
        match self.find(text) {
            Ok(index) => {
                let entry = self.entries[index].as_ref();
                entry.map_or_else(|| Arc::new(classify(text)), |entry| Arc::clone(&entry.class))
            }
            Err(class) => class,
        }
    }

    /// What is to be done with `text` by this edition of what names mean: `judge` says of what a
    /// read names whether that only reads, and is asked once for each edition. Whoever knows where
    /// a text of its key was kept says so; if it still is, its key need not be found.
    pub fn verdict(
        &mut self,
        text: &[u8],
        known: Option<Mark>,
        edition: u64,
        judge: impl FnOnce(&super::Names) -> Proof,
    ) -> Verdict {
        let kept = known.and_then(|mark| self.kept(mark));
        let found = kept.map_or_else(|| self.find(text), Ok);
        let entry = found.as_ref().ok().and_then(|index| self.entries[*index].as_ref());
        self.last = found.as_ref().ok().zip(entry).and_then(|(&index, entry)| {
            let index = u32::try_from(index).ok()?;
            Some(Mark { index, stamp: entry.stamp, doubted: false })
        });
        if entry.is_some_and(|entry| entry.writes) {
            return Verdict::Primary { writes: true, defines: false };
        }
        let known = entry.and_then(|entry| entry.verdict);
        if let Some((_, verdict)) = known.filter(|(of, _)| *of == edition) {
            return verdict;
        }
        let class = match &found {
            Ok(index) => self.entries[*index].as_ref().map(|entry| Arc::clone(&entry.class)),
            Err(class) => Some(Arc::clone(class)),
        };
        let Some(class) = class else {
            return Verdict::Primary { writes: true, defines: true };
        };
        let verdict = match &*class {
            Class::Read(names) => match judge(names) {
                Proof::Proven => Verdict::Read(Trust::Proven),
                Proof::Believed => Verdict::Read(Trust::Believed),
                Proof::None => Verdict::Unproven,
            },
            Class::Begin { read_only, serializable, plain } => {
                let (read_only, serializable, plain) = (*read_only, *serializable, *plain);
                Verdict::Begin { read_only, serializable, plain }
            }
            Class::Primary(reason) => {
                Verdict::Primary { writes: reason.may_write(), defines: reason.may_define(text) }
            }
        };
        if let Ok(index) = found
            && let Some(entry) = &mut self.entries[index]
        {
            entry.verdict = Some((edition, verdict));
            if verdict == Verdict::Read(Trust::Believed) {
                // What runs by another edition, perhaps of another database, says nothing of it.
                self.stamp = self.stamp.wrapping_add(1);
                entry.stamp = self.stamp;
                self.last = self.last.map(|mark| Mark { stamp: entry.stamp, ..mark });
            }
        }
        verdict
    }

    /// A standby has refused `text` as a write, whatever it was thought to be: it and all of its
    /// key belong to the primary from now on.
    pub fn learn(&mut self, text: &[u8]) {
        if let Ok(index) = self.find(text)
            && let Some(entry) = &mut self.entries[index]
        {
            entry.writes = true;
        }
    }

    /// Where the text that a verdict was last asked for is kept, until it is taken.
    pub fn last(&self) -> Option<Mark> {
        self.last
    }

    /// The text that a verdict was last asked for, if it is kept; once.
    pub fn take_last(&mut self) -> Option<Mark> {
        self.last.take()
    }

    /// A statement went to a replica (`moved`) or stayed on the primary.
    pub fn count(&mut self, mark: Mark, database: &Arc<str>, moved: bool) {
        let Some(Entry { tally, .. }) = self.entry(mark) else { return };
        tally.seen += 1;
        tally.moved += u64::from(moved);
        if tally.database.as_ref().is_none_or(|known| !Arc::ptr_eq(known, database)) {
            tally.database = Some(Arc::clone(database));
        }
    }

    /// A statement took so long, on a standby (`moved`) or not.
    pub fn took(&mut self, mark: Mark, time: Duration, moved: bool) {
        let Some(entry) = self.entry(mark) else { return };
        entry.tally.time += time;
        if let Some((_, Verdict::Read(trust @ Trust::Believed))) = &mut entry.verdict
            && moved
            && !mark.doubted
        {
            *trust = Trust::Tried;
        }
    }

    /// What stands there, if it is what stood there; it is needed once more.
    fn kept(&mut self, mark: Mark) -> Option<usize> {
        let index = mark.index as usize;
        let entry = self.entries.get_mut(index)?.as_mut()?;
        entry.used |= entry.stamp == mark.stamp;
        (entry.stamp == mark.stamp).then_some(index)
    }

    fn entry(&mut self, mark: Mark) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(mark.index as usize)?.as_mut()?;
        (entry.stamp == mark.stamp).then_some(entry)
    }

    /// The texts that came most often, at most so many.
    pub fn routes(&self, count_max: usize) -> Vec<Route> {
        let counted = |entry: &&Entry| entry.tally.seen > 0;
        let mut entries: Vec<_> = self.entries.iter().flatten().filter(counted).collect();
        if entries.len() > count_max {
            let order = |entry: &&Entry| core::cmp::Reverse(entry.tally.seen);
            entries.select_nth_unstable_by_key(count_max, order);
            entries.truncate(count_max);
        }
        let report = |entry: &Entry| Route {
            statement: String::from_utf8_lossy(&entry.key).into_owned(),
            database: entry.tally.database.clone().unwrap_or_default(),
            class: Arc::clone(&entry.class),
            refused: entry.writes,
            seen: entry.tally.seen,
            moved: entry.tally.moved,
            time: entry.tally.time,
        };
        entries.into_iter().map(report).collect()
    }

    /// The place of a text, which may be new; or its class, if it has none.
    fn find(&mut self, text: &[u8]) -> Result<usize, Arc<Class>> {
        let mut scratch = core::mem::take(&mut self.scratch);
        scratch.clear();
        let found = self.find_by_key(text, &mut scratch);
        self.scratch = scratch;
        found
    }

    /// The same; the key is written to `scratch`, which is empty.
    fn find_by_key(&mut self, text: &[u8], scratch: &mut Vec<u8>) -> Result<usize, Arc<Class>> {
        if text.len() > super::LENGTH_MAX {
            return Err(Arc::new(Class::Primary(Reason::Long)));
        }
        if !key::write(text, scratch) {
            return Err(Arc::new(Class::Primary(Reason::Ambiguous)));
        }
        let number = self.keys.hash(scratch);
        let found = self.table.find(number, |&index| self.is_at(index, scratch)).copied();
        if let Some(index) = found {
            if let Some(entry) = &mut self.entries[index] {
                entry.used = true;
            }
            return Ok(index);
        }
        let class = Arc::new(classify(text));
        if matches!(*class, Class::Primary(Reason::Unparsed | Reason::Encoding)) {
            return Err(class);
        }
        self.insert(number, scratch, &class).ok_or(class)
    }

    fn is_at(&self, index: usize, key: &[u8]) -> bool {
        self.entries[index].as_ref().is_some_and(|entry| *entry.key == *key)
    }

    fn insert(&mut self, number: u64, key: &[u8], class: &Arc<Class>) -> Option<usize> {
        let bytes = ENTRY_BYTES + key.len() + class.bytes();
        if bytes > self.bytes_max {
            return None;
        }
        while self.bytes + bytes > self.bytes_max {
            self.make_room();
        }
        self.bytes += bytes;
        let (class, verdict) = (Arc::clone(class), None);
        let (key, used, writes) = (key.into(), false, false);
        self.stamp = self.stamp.wrapping_add(1);
        let (stamp, tally) = (self.stamp, Tally::default());
        let entry = Entry { key, class, verdict, writes, stamp, tally, bytes, used };
        let index = if let Some(index) = self.free.pop() {
            self.entries[index] = Some(entry);
            index
        } else {
            self.entries.push(Some(entry));
            self.entries.len() - 1
        };
        let (keys, entries) = (self.keys, &self.entries);
        self.table.insert_unique(number, index, |&index| {
            entries[index].as_ref().map_or(0, |entry| keys.hash(&entry.key))
        });
        Some(index)
    }

    /// The hand moves on by one.
    fn make_room(&mut self) {
        self.hand = (self.hand + 1) % self.entries.len();
        let index = self.hand;
        match &mut self.entries[index] {
            Some(entry) if entry.used => entry.used = false,
            Some(entry) => {
                let number = self.keys.hash(&entry.key);
                self.bytes -= entry.bytes;
                self.entries[index] = None;
                self.free.push(index);
                if let Ok(found) = self.table.find_entry(number, |&other| other == index) {
                    found.remove();
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
