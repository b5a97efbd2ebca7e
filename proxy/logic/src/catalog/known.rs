//! Names of one kind and whether what bears them only reads.

use crate::classify::Name;
use std::collections::BTreeMap;

/// Names of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(BTreeMap<Box<str>, Bearers>);

/// What bears one name.
#[derive(Clone, Debug, Default)]
struct Bearers {
    /// How many do more than read, or may, in each schema: functions have overloads.
    writers: BTreeMap<Box<str>, u32>,
    /// The sum of those that a name without a schema can stand for.
    writers_in_all: u32,
}

/// Its views have names that applications like, and it is in nobody's path.
const NEVER_MEANT: &str = "information_schema";

impl Known {
    /// Adds one that bears this name.
    pub(super) fn add(&mut self, schema: &str, name: &str, reads: bool) {
        let bearers = self.0.entry(name.into()).or_default();
        let writers = bearers.writers.entry(schema.into()).or_default();
        if !reads {
            *writers += 1;
            bearers.writers_in_all += u32::from(schema != NEVER_MEANT);
        }
    }

    /// One that was thought to do more only reads.
    pub(super) fn absolve(&mut self, schema: &str, name: &str) {
        let Some(bearers) = self.0.get_mut(name) else { return };
        let Some(writers) = bearers.writers.get_mut(schema).filter(|writers| **writers > 0) else {
            return;
        };
        *writers -= 1;
        bearers.writers_in_all -= u32::from(schema != NEVER_MEANT);
    }

    /// Whether all that bear a name only read; none if nobody does.
    pub(super) fn get(&self, name: &Name) -> Option<bool> {
        let bearers = self.0.get(&name.name)?;
        if name.schema.is_empty() {
            return Some(bearers.writers_in_all == 0);
        }
        bearers.writers.get(&name.schema).map(|writers| *writers == 0)
    }

    /// The same for a name without a schema.
    pub(super) fn get_any(&self, name: &str) -> Option<bool> {
        self.0.get(name).map(|bearers| bearers.writers_in_all == 0)
    }
}
