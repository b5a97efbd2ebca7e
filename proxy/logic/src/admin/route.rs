//! EXPLAIN ROUTE and SHOW ROUTES: where statements go, and what decides that.

use crate::admin::show::{Cell, Column, int, long, number, text, word};
use crate::catalog::Catalog;
use crate::classify::cache::Route;
use crate::classify::comment::{Hint, hint};
use crate::classify::{Class, Name, Names, classify};
use crate::config::Reads;
use crate::mail::Report;
use core::cmp::Reverse;
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const COLUMNS: [Column; 2] = [text("target"), text("reason")];

/// Where a statement goes that comes outside a transaction. `reads`: where those of its database
/// go; `catalog`: that of the database, if it is known.
pub fn explain(sql: &str, reads: Reads, catalog: Option<&Catalog>) -> Vec<Vec<Cell>> {
    let class = classify(sql.as_bytes());
    let (replica, reason) = decide((sql, &class), reads, catalog);
    let shared = reads == Reads::All
        && hint(sql.as_bytes()) != Some(Hint::Replica)
        && !believes(&class, catalog);
    vec![vec![target(replica, shared), word(reason)]]
}

/// Whether a text only reads by somebody's word.
fn believes(class: &Class, catalog: Option<&Catalog>) -> bool {
    match class {
        Class::Read(names) => catalog.is_some_and(|catalog| catalog.believes(names)),
        Class::Begin { .. } | Class::Primary(_) => false,
    }
}

/// `shared`: the primary takes its part of what may go to a replica.
fn target(replica: bool, shared: bool) -> Cell {
    word(match (replica, shared) {
        (false, _) => "primary",
        (true, false) => "replica",
        (true, true) => "any",
    })
}

fn decide((sql, class): (&str, &Class), reads: Reads, catalog: Option<&Catalog>) -> (bool, String) {
    if !reads.leave() {
        return (false, "routing.reads of the database is \"primary\"".to_owned());
    }
    let asked = hint(sql.as_bytes());
    if asked == Some(Hint::Primary) {
        return (false, "a comment asks for the primary".to_owned());
    }
    let (replica, reason) = judge(class, catalog);
    if let (Reason::Names(_) | Reason::Unread, Some(Hint::Replica)) = (&reason, asked) {
        return (true, "a comment asks for a replica".to_owned());
    }
    (replica, reason.to_string())
}

/// What decides on a text.
enum Reason {
    /// What it does, by its grammar.
    Text(String),
    /// What it names.
    Names(String),
    /// Nobody knows yet what it names.
    Unread,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(reason) | Self::Names(reason) => f.write_str(reason),
            Self::Unread => f.write_str("the catalog of the database is not known yet"),
        }
    }
}

fn judge(class: &Class, catalog: Option<&Catalog>) -> (bool, Reason) {
    let says = |reason: &str| Reason::Text(reason.to_owned());
    match class {
        Class::Primary(reason) => (false, Reason::Text(reason.to_string())),
        Class::Begin { serializable: true, .. } => {
            (false, says("a transaction that begins SERIALIZABLE"))
        }
        Class::Begin { read_only: false, .. } => {
            (false, says("a transaction that does not begin READ ONLY"))
        }
        Class::Begin { .. } => (true, says("a transaction that begins READ ONLY")),
        Class::Read(names) => match catalog.map(|catalog| catalog.judge(names)) {
            None => (false, Reason::Unread),
            Some(Some(cause)) => (false, Reason::Names(cause.to_string())),
            Some(None) => (true, Reason::Text(only_reads(names))),
        },
    }
}

pub(crate) const ROUTES: [Column; 8] = [
    text("database"),
    text("statement"),
    long("count"),
    long("moved"),
    int("moved_percent"),
    long("time_us"),
    text("target"),
    text("reason"),
];

/// How many statements SHOW ROUTES has.
const ROUTES_MAX: usize = 100;

/// Where the statements went that came most often, on all lanes. `known`: where the reads of a
/// database go, and its catalog, if that is known.
pub fn top<'c>(
    reports: &[Report],
    known: impl Fn(&str) -> (Reads, Option<&'c Catalog>),
) -> Vec<Vec<Cell>> {
    let mut sums: BTreeMap<(&str, &str), Route> = BTreeMap::new();
    for route in reports.iter().flat_map(|report| &report.routes) {
        match sums.get_mut(&(&*route.database, &*route.statement)) {
            Some(sum) => {
                sum.seen += route.seen;
                sum.moved += route.moved;
                sum.time += route.time;
                sum.refused |= route.refused;
            }
            None => drop(sums.insert((&route.database, &route.statement), route.clone())),
        }
    }
    let mut routes: Vec<_> = sums.into_values().collect();
    routes.sort_by_key(|route| Reverse(route.seen));
    routes.truncate(ROUTES_MAX);
    routes.iter().map(|route| row(route, known(&route.database))).collect()
}

fn row(route: &Route, (reads, catalog): (Reads, Option<&Catalog>)) -> Vec<Cell> {
    let (replica, reason) = judge(&route.class, catalog);
    let (replica, reason) = if route.refused {
        (false, "a standby has refused it".to_owned())
    } else {
        (replica, reason.to_string())
    };
    vec![
        word(&*route.database),
        word(&*route.statement),
        number(route.seen),
        number(route.moved),
        number(route.moved * 100 / route.seen.max(1)),
        number(u64::try_from(route.time.as_micros()).unwrap_or(u64::MAX)),
        target(replica, reads == Reads::All && !believes(&route.class, catalog)),
        word(reason),
    ]
}

fn only_reads(names: &Names) -> String {
    let list = |kind: &str, names: &BTreeSet<Name>| {
        let names = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("{kind} {names}"))
    };
    let parts = [list("relations", &names.relations), list("functions", &names.functions)];
    let parts = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if parts.is_empty() {
        "it only reads".to_owned()
    } else {
        format!("it only reads, as do the {parts}")
    }
}

#[cfg(test)]
mod tests {
    use super::{classify, decide, explain, top};
    use crate::admin::show::Cell;
    use crate::admin::world::tests::reports;
    use crate::catalog::rows::{Function, Rows};
    use crate::catalog::{Catalog, Lists};
    use crate::config::Reads;
    use std::sync::Arc;

    #[test]
    fn lanes_are_added_up_and_what_was_refused_says_so() {
        let mut reports = reports();
        let rows = top(&reports, |_| (Reads::Replicas, None));
        let said = |row: &[Cell]| row.iter().flatten().cloned().collect::<Vec<_>>().join("|");
        let sums = "shop|select a from t|10|7|70|10000|primary|the catalog of the database";
        assert!(said(&rows[0]).starts_with(sums), "{rows:?}");
        reports[1].routes[0].refused = true;
        let rows = top(&reports, |_| (Reads::Replicas, None));
        assert!(said(&rows[0]).ends_with("primary|a standby has refused it"), "{rows:?}");
    }

    #[test]
    fn every_answer_has_its_reason() {
        let catalog = Catalog::default();
        let told =
            |sql: &str, reads, catalog| decide((sql, &classify(sql.as_bytes())), reads, catalog);
        let says = |sql| told(sql, Reads::Replicas, Some(&catalog));
        assert_eq!(says("SELECT 1"), (true, "it only reads".to_owned()));
        for (sql, reason) in [
            ("INSERT INTO t VALUES (1)", "INSERT"),
            ("SELECT 1 FOR UPDATE", "LOCKING CLAUSE"),
            ("CREATE TABLE t AS SELECT 1", "CREATE TABLE AS"),
            ("COMMIT PREPARED 'x'", "COMMIT PREPARED"),
            ("SELECT 1; SELECT 2", "more than one statement"),
            ("SELECT nextval('s')", "nextval: not in the catalog"),
            ("BEGIN", "does not begin READ ONLY"),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", "SERIALIZABLE"),
        ] {
            let (replica, found) = says(sql);
            assert!(!replica && found.contains(reason), "{sql}: {found}");
        }
        assert!(!told("SELECT 1", Reads::Primary, Some(&catalog)).0);
        assert!(told("SELECT 1", Reads::Replicas, None).1.contains("not known yet"));
        assert!(says("BEGIN READ ONLY").0);
        assert!(!says("/* pgring: primary */ SELECT 1").0);
        assert!(says("/* pgring: replica */ SELECT f()").0);
        assert!(!says("/* pgring: replica */ INSERT INTO t SELECT 1").0);
    }

    #[test]
    fn what_the_primary_shares_may_go_anywhere() {
        let stable = Function {
            schema: "public".to_owned(),
            name: "stable".to_owned(),
            volatile: false,
            defaults: String::new(),
            compiled: false,
        };
        let rows = Rows { functions: vec![stable], ..Rows::default() };
        let catalog = Catalog::new(1, &rows, &Lists::default());
        for (sql, target) in [
            ("SELECT 1", "any"),
            ("BEGIN READ ONLY", "any"),
            ("SELECT stable()", "replica"),
            ("/* pgring: replica */ SELECT 1", "replica"),
            ("/* pgring: replica */ SELECT f()", "replica"),
            ("/* pgring: primary */ SELECT 1", "primary"),
            ("DELETE FROM t", "primary"),
        ] {
            let rows = explain(sql, Reads::All, Some(&catalog));
            assert_eq!(rows[0][0].as_deref(), Some(target), "{sql}");
        }
        let catalog = &catalog;
        let mut reports = reports();
        reports[0].routes[0].class = Arc::new(classify(b"SELECT 1"));
        for (reads, target) in [(Reads::Replicas, "replica"), (Reads::All, "any")] {
            let rows = top(&reports[..1], |_| (reads, Some(catalog)));
            assert_eq!(rows[0][6].as_deref(), Some(target));
        }
    }
}
