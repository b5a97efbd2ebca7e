//! EXPLAIN ROUTE: where a statement goes, and what decides that.

use crate::admin::show::{Cell, Column, text, word};
use crate::catalog::Catalog;
use crate::classify::{Class, Name, Names, classify};
use std::collections::BTreeSet;

pub(crate) const COLUMNS: [Column; 2] = [text("target"), text("reason")];

/// Where a statement goes that comes outside a transaction. `catalog`: that of its database, if it
/// is known; `routed`: whether reads of the database go to replicas.
pub fn explain(sql: &str, routed: bool, catalog: Option<&Catalog>) -> Vec<Vec<Cell>> {
    let (replica, reason) = decide(sql, routed, catalog);
    vec![vec![word(if replica { "replica" } else { "primary" }), word(reason)]]
}

fn decide(sql: &str, routed: bool, catalog: Option<&Catalog>) -> (bool, String) {
    if !routed {
        return (false, "routing.reads of the database is \"primary\"".to_owned());
    }
    match classify(sql.as_bytes()) {
        Class::Primary(reason) => (false, reason.to_string()),
        Class::Begin { serializable: true, .. } => {
            (false, "a transaction that begins SERIALIZABLE".to_owned())
        }
        Class::Begin { read_only: false, .. } => {
            (false, "a transaction that does not begin READ ONLY".to_owned())
        }
        Class::Begin { .. } => (true, "a transaction that begins READ ONLY".to_owned()),
        Class::Read(names) => match catalog.map(|catalog| catalog.judge(&names)) {
            None => (false, "the catalog of the database is not known yet".to_owned()),
            Some(Some(cause)) => (false, cause.to_string()),
            Some(None) => (true, only_reads(&names)),
        },
    }
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
    use super::decide;
    use crate::catalog::Catalog;

    #[test]
    fn every_answer_has_its_reason() {
        let catalog = Catalog::default();
        let says = |sql| decide(sql, true, Some(&catalog));
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
        assert!(!decide("SELECT 1", false, Some(&catalog)).0);
        assert!(decide("SELECT 1", true, None).1.contains("not known yet"));
        assert!(says("BEGIN READ ONLY").0);
    }
}
