//! STATS: totals by database, and averages over the last full minute.

use crate::admin::show::{Cell, Column, int, number, numeric, text};
use crate::admin::world::World;
use crate::mail::{PoolReport, Stats};
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// How many totals there are.
const TOTALS: usize = 11;

/// The totals of one database, in the order of the columns.
type Totals = [u64; TOTALS];

/// The columns of STATS.
pub(crate) const STATS: [Column; 1 + 2 * TOTALS] = [
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
];

/// The columns of `STATS_TOTALS` and of `STATS_AVERAGES`.
pub(crate) const HALF: [Column; 1 + TOTALS] = [
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
];

/// The columns of TOTALS.
pub(crate) const SUM: [Column; 2] = [text("name"), int("value")];

/// What a total is divided by to make an average.
#[derive(Clone, Copy)]
enum Per {
    /// The seconds of the window.
    Second,
    /// How often the total at this place was counted.
    Count(usize),
}

const PER: [Per; TOTALS] = [
    Per::Second,
    Per::Second,
    Per::Second,
    Per::Second,
    Per::Second,
    Per::Count(1),
    Per::Count(2),
    Per::Count(0),
    Per::Second,
    Per::Second,
    Per::Second,
];

/// The totals at the beginning and at the end of the last full minute.
///
/// Until the first minute is over, averages are those since the start.
#[derive(Clone, Debug, Default)]
pub struct Window {
    from: (Instant, BTreeMap<String, Totals>),
    to: Option<(Instant, BTreeMap<String, Totals>)>,
}

impl Window {
    /// How long a window is (`stats_period`).
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// A window that begins now, with nothing counted yet.
    pub fn new(now: Instant) -> Self {
        Self { from: (now, BTreeMap::new()), to: None }
    }

    /// The next minute begins.
    pub fn turn<'a>(&mut self, now: Instant, pools: impl IntoIterator<Item = &'a PoolReport>) {
        let end = (now, by_database(pools));
        if let Some(to) = self.to.replace(end) {
            self.from = to;
        }
    }

    fn averages(&self, database: Option<&str>, current: Totals, now: Instant) -> Totals {
        let (at, totals) = match &self.to {
            Some((at, all)) => (*at, find(all, database)),
            None => (now, current),
        };
        let before = find(&self.from.1, database);
        let us = u64::try_from(at.since(self.from.0).as_micros()).unwrap_or(u64::MAX);
        let grown: Totals = std::array::from_fn(|i| totals[i].saturating_sub(before[i]));
        std::array::from_fn(|index| {
            let (factor, divisor) = match PER[index] {
                Per::Second => (1_000_000, us),
                Per::Count(place) => (1, grown[place]),
            };
            let average = u128::from(grown[index]) * factor / u128::from(divisor.max(1));
            u64::try_from(average).unwrap_or(u64::MAX)
        })
    }
}

/// The totals of one database, or of all.
fn find(all: &BTreeMap<String, Totals>, database: Option<&str>) -> Totals {
    match database {
        Some(name) => all.get(name).copied().unwrap_or_default(),
        None => all.values().fold(Totals::default(), |sum, one| plus(sum, *one)),
    }
}

fn plus(one: Totals, other: Totals) -> Totals {
    std::array::from_fn(|index| one[index].saturating_add(other[index]))
}

fn totals(stats: &Stats) -> Totals {
    [
        stats.assignments,
        stats.transactions,
        stats.queries,
        stats.received_bytes,
        stats.sent_bytes,
        stats.transaction_us,
        stats.query_us,
        stats.wait_us,
        stats.client_parses,
        stats.server_parses,
        stats.binds,
    ]
}

fn by_database<'a>(pools: impl IntoIterator<Item = &'a PoolReport>) -> BTreeMap<String, Totals> {
    let mut databases: BTreeMap<String, Totals> = BTreeMap::new();
    for pool in pools {
        let sum = databases.entry(pool.pool.database.to_string()).or_default();
        *sum = plus(*sum, totals(&pool.stats));
    }
    databases
}

/// Rows by database: the totals, the averages, or both.
pub(crate) fn rows(world: &World<'_>, with_totals: bool, with_averages: bool) -> Vec<Vec<Cell>> {
    let databases = by_database(world.pools().values());
    databases
        .into_iter()
        .map(|(name, current)| {
            let averages = world.window.averages(Some(&name), current, world.now);
            let mut row = vec![Some(name)];
            if with_totals {
                row.extend(current.map(number));
            }
            if with_averages {
                row.extend(averages.map(number));
            }
            row
        })
        .collect()
}

/// TOTALS: one row for each column of STATS but the first.
pub(crate) fn sums(world: &World<'_>) -> Vec<Vec<Cell>> {
    let databases = by_database(world.pools().values());
    let current = find(&databases, None);
    let averages = world.window.averages(None, current, world.now);
    let values = current.into_iter().chain(averages);
    let names = STATS[1..].iter().map(|column| column.name.to_owned());
    names.zip(values).map(|(name, value)| vec![Some(name), number(value)]).collect()
}

#[cfg(test)]
mod tests {
    use super::{HALF, STATS, Window, rows, sums};
    use crate::admin::world::tests::{pool, reports, sample, world};
    use crate::time::{Duration, Instant};

    #[test]
    fn averages_are_those_of_the_last_full_minute() {
        let at = |seconds| Instant::START + Duration::from_secs(seconds);
        let mut window = Window::new(at(0));
        let mut shop = pool("shop", 1);
        shop.stats.transactions = 60;
        window.turn(at(60), [&shop]);
        shop.stats.transactions = 660;
        shop.stats.transaction_us = 600_000;
        window.turn(at(120), [&shop]);

        let averages = window.averages(Some("shop"), [9; 11], at(130));
        assert_eq!((averages[1], averages[5]), (10, 1_000), "10 a second, 1 ms each");
        assert_eq!(window.averages(Some("other"), [9; 11], at(130)), [0; 11]);
    }

    #[test]
    fn before_the_first_minute_is_over_averages_are_those_since_the_start() {
        let window = Window::new(Instant::START);
        let averages = window.averages(None, [50; 11], Instant::START + Duration::from_secs(10));
        assert_eq!((averages[1], averages[5]), (5, 1));
    }

    #[test]
    fn rows_fit_their_columns() {
        let (config, reports, window) = (sample(), reports(), Window::default());
        let world = world(&config, &reports, &window);
        for row in rows(&world, true, true) {
            assert_eq!(row.len(), STATS.len());
        }
        for row in rows(&world, false, true) {
            assert_eq!(row.len(), HALF.len());
        }
        let sums = sums(&world);
        assert_eq!(sums.len(), 22);
        assert_eq!(sums[1], [Some("total_xact_count".to_owned()), Some("300".to_owned())]);
    }
}
