//! What statements are, one by one.

use super::{Class, LENGTH_MAX, Name, Names, Reason, classify};
use std::collections::BTreeSet;

fn names(text: &str) -> Names {
    match classify(text.as_bytes()) {
        Class::Read(names) => names,
        other @ (Class::Begin { .. } | Class::Primary(_)) => panic!("{text}: {other:?}"),
    }
}

fn reason(text: &str) -> Reason {
    match classify(text.as_bytes()) {
        Class::Primary(reason) => reason,
        other @ (Class::Begin { .. } | Class::Read(_)) => panic!("{text}: {other:?}"),
    }
}

/// As written with a dot.
fn list(names: &BTreeSet<Name>) -> Vec<String> {
    let shown = |name: &Name| match &*name.schema {
        "" => name.name.to_string(),
        schema => format!("{schema}.{}", name.name),
    };
    names.iter().map(shown).collect()
}

#[test]
fn what_reads_names_what_it_reads() {
    let found = names(
        "WITH q AS MATERIALIZED (SELECT a.x, lower(b) FROM s.t1 AS a JOIN t2 USING (x)) \
         SELECT count(*) FILTER (WHERE y > 5), (r).f, CAST(z AS text), u::myschema.money \
         FROM q, LATERAL generate_series(1, 3) g WHERE EXISTS (SELECT 1 FROM \"T 3\") \
         AND a OPERATOR(pg_catalog.=) ANY (SELECT b + 1 FROM t4) \
         GROUP BY GROUPING SETS ((1), ()) HAVING max(x) BETWEEN 1 AND 2 \
         WINDOW w AS (PARTITION BY p ORDER BY o USING <) UNION ALL VALUES (1) ORDER BY 1 LIMIT $1",
    );
    assert_eq!(list(&found.relations), ["T 3", "q", "t2", "t4", "s.t1"]);
    assert_eq!(found.queries.iter().map(|name| &**name).collect::<Vec<_>>(), ["q"]);
    assert_eq!(list(&found.functions), ["count", "generate_series", "lower", "max"]);
    assert_eq!(list(&found.types), ["text", "myschema.money"]);
    assert_eq!(list(&found.operators), ["+", "<", ">", "BETWEEN", "pg_catalog.="]);
    assert_eq!(found.attributes.iter().map(|name| &**name).collect::<Vec<_>>(), ["f", "x"]);
}

#[test]
fn what_only_looks_like_something_else_reads() {
    for text in [
        "",
        ";",
        "-- nothing",
        "SELECT 'INSERT INTO t'",
        "SELECT $$ DELETE FROM t $$ /* UPDATE t /* nested */ SET x = 1 */",
        "SELECT \"insert\" FROM \"update\"",
        "TABLE t",
        "VALUES (1, 2), (3, 4)",
        "select * from t where deleted and updated_at > now() -- for update",
        "EXPLAIN SELECT 1",
        "EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM t",
        "COPY t TO STDOUT",
        "COPY (SELECT * FROM t) TO STDOUT WITH (FORMAT csv)",
        "WITH RECURSIVE q(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM q) SELECT * FROM q",
        "SELECT '\\x00'::bytea, E'it\\'s', U&'d\\0061t'",
        "SELECT CURRENT_TIMESTAMP, extract(year FROM d), d AT TIME ZONE 'UTC', a[1:2], ARRAY[1]",
        "SELECT x COLLATE \"C\" FROM t ORDER BY x NULLS FIRST OFFSET 2 FETCH FIRST 1 ROW WITH TIES",
    ] {
        names(text);
    }
}

#[test]
fn no_constant_is_a_name() {
    for text in ["SELECT (a)[$1].b", "SELECT (a)['c'].b", "SELECT (a)[1].b"] {
        let found = names(text);
        assert_eq!(
            found.attributes.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["b"],
            "{text}"
        );
    }
}

/// FEATURES ask 4: what others have sent to standbys.
#[test]
fn what_is_not_known_to_only_read_belongs_to_the_primary() {
    for (text, node) in [
        ("INSERT INTO t VALUES (1)", "InsertStmt"),
        ("UPDATE t SET x = 1", "UpdateStmt"),
        ("DELETE FROM t", "DeleteStmt"),
        ("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", "MergeStmt"),
        ("WITH q AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM q", "InsertStmt"),
        ("SELECT * FROM (WITH q AS (DELETE FROM t RETURNING 1) TABLE q) x", "DeleteStmt"),
        ("SELECT * FROM t FOR UPDATE", "LockingClause"),
        ("SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED", "LockingClause"),
        ("SELECT * FROM t FOR SHARE OF t NOWAIT", "LockingClause"),
        ("SELECT * FROM t FOR KEY SHARE", "LockingClause"),
        ("SELECT (SELECT x FROM t FOR UPDATE)", "LockingClause"),
        ("SELECT * INTO t2 FROM t", "IntoClause"),
        ("SELECT 1 INTO TEMP t2", "IntoClause"),
        ("CREATE TABLE t2 AS SELECT 1", "CreateTableAsStmt"),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "InsertStmt"),
        ("EXPLAIN DELETE FROM t", "DeleteStmt"),
        ("EXPLAIN ANALYZE CREATE TABLE t2 AS SELECT 1", "CreateTableAsStmt"),
        ("EXPLAIN EXECUTE p", "ExecuteStmt"),
        ("COPY t FROM STDIN", "CopyStmt"),
        ("COPY t TO '/tmp/x'", "CopyStmt"),
        ("COPY t TO PROGRAM 'cat'", "CopyStmt"),
        ("COPY (DELETE FROM t RETURNING *) TO STDOUT", "DeleteStmt"),
        ("CALL p()", "CallStmt"),
        ("DO $$ BEGIN END $$", "DoStmt"),
        ("LOCK TABLE t IN ACCESS SHARE MODE", "LockStmt"),
        ("LISTEN c", "ListenStmt"),
        ("NOTIFY c", "NotifyStmt"),
        ("SET x.y = 1", "VariableSetStmt"),
        ("SHOW search_path", "VariableShowStmt"),
        ("SET TRANSACTION READ ONLY", "VariableSetStmt"),
        ("PREPARE p AS SELECT 1", "PrepareStmt"),
        ("EXECUTE p", "ExecuteStmt"),
        ("DEALLOCATE ALL", "DeallocateStmt"),
        ("DISCARD ALL", "DiscardStmt"),
        ("DECLARE c CURSOR FOR SELECT 1", "DeclareCursorStmt"),
        ("FETCH 1 FROM c", "FetchStmt"),
        ("PREPARE TRANSACTION 'x'", "TransactionStmt"),
        ("COMMIT", "TransactionStmt"),
        ("ROLLBACK TO SAVEPOINT s", "TransactionStmt"),
        ("DROP TABLE t", "DropStmt"),
        ("VACUUM t", "VacuumStmt"),
        ("REFRESH MATERIALIZED VIEW v", "RefreshMatViewStmt"),
        ("SELECT * FROM t TABLESAMPLE mine (1)", "RangeTableSample"),
        ("SELECT xmlelement(name x)", "XmlExpr"),
    ] {
        assert_eq!(reason(text), Reason::Holds(node), "{text}");
    }
}

#[test]
fn what_cannot_be_told_belongs_to_the_primary() {
    assert_eq!(reason("SELECT 1; SELECT 2"), Reason::Multiple);
    assert_eq!(reason("SELECT 1; DROP TABLE t"), Reason::Multiple);
    assert_eq!(reason("SELEC 1"), Reason::Unparsed);
    assert_eq!(reason("SELECT 'no end"), Reason::Unparsed);
    assert_eq!(reason("SELECT 'x\\'; DROP TABLE t; --'"), Reason::Ambiguous);
    assert_eq!(classify(b"SELECT '\xff'"), Class::Primary(Reason::Encoding));
    assert_eq!(reason(&format!("SELECT {}", "1".repeat(LENGTH_MAX))), Reason::Long);
}

/// A hundred levels are decoded, at 20 KB of stack a level.
#[test]
fn a_tree_is_read_at_any_depth_or_belongs_to_the_primary() {
    let nested = |before: &str, after: &str, times: usize| {
        format!("SELECT {}x{}", before.repeat(times), after.repeat(times))
    };
    for times in [1, 10, 20, 30, 40, 45, 50, 60, 90, 100, 200, 2_000] {
        for text in [
            nested("abs(", ")", times),
            nested("1 + ", "", times),
            nested("- ", "", times),
            nested("NOT ", "", times),
            nested("(SELECT ", ")", times),
            nested("", "::int", times),
            nested("", "[1]", times),
            nested("ARRAY[", "]", times),
            nested("CASE WHEN true THEN ", " END", times),
            nested("", " UNION SELECT 1", times),
            nested("(1, ", ")", times),
            nested("", " COLLATE c", times),
            format!("SELECT * FROM {}t{}", "(".repeat(times), " CROSS JOIN u)".repeat(times)),
            format!("SELECT * FROM {}t{}", "(TABLE ".repeat(times), ") a".repeat(times)),
        ] {
            let class = classify(text.as_bytes());
            let known = matches!(class, Class::Read(_));
            let deep = matches!(class, Class::Primary(Reason::Unparsed | Reason::Long));
            assert!(known || deep && times > 1, "{times} {class:?}: {text:.100}");
        }
    }
}

#[test]
fn a_transaction_says_how_it_begins() {
    let begin = |read_only, serializable| Class::Begin { read_only, serializable, plain: false };
    for text in ["begin work", "START TRANSACTION", "BEGIN ISOLATION LEVEL READ COMMITTED"] {
        let plain = Class::Begin { read_only: false, serializable: false, plain: true };
        assert_eq!(classify(text.as_bytes()), plain, "{text}");
    }
    for (text, class) in [
        ("BEGIN DEFERRABLE", begin(false, false)),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", begin(false, false)),
        ("START TRANSACTION READ ONLY", begin(true, false)),
        ("BEGIN READ WRITE", begin(false, false)),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", begin(true, false)),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE", begin(true, true)),
        ("BEGIN READ ONLY, READ WRITE", begin(false, false)),
    ] {
        assert_eq!(classify(text.as_bytes()), class, "{text}");
    }
}
