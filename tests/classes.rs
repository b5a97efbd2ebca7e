//! What is a read: the catalog of a real database against what its functions say of themselves,
//! and the traps in which routers were caught.

use pgring::control::catalog::load;
use pgring_logic::catalog::{Catalog, Cause, Lists};
use pgring_logic::classify::{Class, classify};
use pgring_tests::command::{at_most_minutes, say};
use pgring_tests::postgres::Postgres;
use pgring_tests::sql::{block_on, connect};

/// Volatile functions that only answer: the documented list.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "timeofday",
];

fn catalog(node: &Postgres) -> Catalog {
    let rows = block_on(async {
        let client = connect(node.address(), "app").await;
        load(&client).await.expect("the catalog can be read")
    });
    Catalog::new(1, &rows, &Lists::default())
}

/// Why `text` belongs to the primary; none if it is a read.
fn reason(catalog: &Catalog, text: &str) -> Option<String> {
    match classify(text.as_bytes()) {
        Class::Read(names) => catalog.judge(&names).map(|cause| format!("{cause:?}")),
        other @ (Class::Begin { .. } | Class::Primary(_)) => Some(format!("{other:?}")),
    }
}

#[test]
fn every_function_is_what_its_volatility_says() {
    at_most_minutes(2);
    let node = Postgres::start();
    let catalog = catalog(&node);
    let sql = "SELECT proname::text, bool_or(provolatile = 'v' OR prokind = 'p') \
               FROM pg_proc GROUP BY 1 ORDER BY 1";
    let found = block_on(async { connect(node.address(), "app").await.query(sql, &[]).await });
    let (mut reads, mut kept) = (0, 0);
    for row in found.expect("functions") {
        let (name, volatile): (&str, bool) = (row.get(0), row.get(1));
        let reason =
            reason(&catalog, &format!("SELECT \"{name}\"(x) FROM generate_series(1, 2) x"));
        let function = Some(format!("{:?}", Cause::Function(name.into())));
        if volatile && !HARMLESS.contains(&name) {
            assert_eq!(reason, function, "it may write");
        } else if reason.is_some() {
            // Stable, but of its node.
            assert_eq!(reason, function, "{name}");
            let bound = [
                "pg_",
                "txid_",
                "inet_",
                "current_setting",
                "mxid_age",
                "version",
                "database_to_xml",
                "schema_to_xml",
                "table_to_xml",
            ];
            assert!(bound.iter().any(|start| name.starts_with(start)), "{name} only reads");
            kept += 1;
        } else {
            reads += 1;
        }
    }
    say(&format!("{reads} functions may run anywhere, {kept} are stable and kept on the primary"));
    assert!(reads > 2_000 && kept > 100, "{reads} and {kept}");
}

const TRAPS: &str = "
    CREATE SCHEMA other;
    CREATE TABLE plain (id int PRIMARY KEY, owner text);
    CREATE SEQUENCE counter;
    CREATE UNLOGGED TABLE fleeting (id int);
    CREATE TABLE parted (id int) PARTITION BY LIST (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE UNLOGGED TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
    CREATE TABLE whole (id int) PARTITION BY LIST (id);
    CREATE TABLE whole_1 PARTITION OF whole FOR VALUES IN (1);
    CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO plain VALUES (1); SELECT 1';
    CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION counts(n bigint DEFAULT nextval('counter')) RETURNS bigint STABLE
        LANGUAGE sql AS 'SELECT n';
    CREATE FUNCTION overloaded(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION overloaded(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION other.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION next_of(plain) RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''counter'')';
    CREATE FUNCTION step(int, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE sums (int) (SFUNC = step, STYPE = int);
    CREATE FUNCTION bump(int) RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''counter'')';
    CREATE FUNCTION counts2(plain, n bigint DEFAULT nextval('counter')) RETURNS bigint STABLE
        LANGUAGE sql AS 'SELECT n';
    CREATE FUNCTION step_row(int, plain) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE summed (plain) (SFUNC = step_row, STYPE = int);
    CREATE SCHEMA app;
    CREATE FUNCTION app.random() RETURNS float LANGUAGE sql AS 'SELECT 1.0';
    CREATE TABLE tables (id int);
    CREATE VIEW lowered AS SELECT lower(owner) AS owner FROM plain;
    CREATE OPERATOR <+> (FUNCTION = step, LEFTARG = int, RIGHTARG = int);
    CREATE DOMAIN small AS int CHECK (VALUE < 10);
    CREATE VIEW reading AS SELECT id, upper(owner) AS owner FROM plain;
    CREATE VIEW writing AS SELECT nextval('counter') AS n;
    CREATE VIEW above AS SELECT * FROM writing;
    CREATE VIEW calling AS SELECT writes() AS n;
    CREATE VIEW looking AS SELECT relname FROM pg_class;
    CREATE MATERIALIZED VIEW stored AS SELECT nextval('counter') AS n;
    CREATE TABLE guarded (id int);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY watch ON guarded USING (writes() = 1);
    CREATE TABLE fenced (id int, owner text);
    ALTER TABLE fenced ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON fenced USING (owner = CURRENT_USER);
    CREATE VIEW other.plain AS SELECT 1 AS id;
    CREATE VIEW other.fenced AS SELECT nextval('counter') AS id;
";

/// What must not run on a standby.
const WRITES: &[&str] = &[
    "SELECT nextval('counter')",
    "SELECT setval('counter', 1)",
    "SELECT currval('counter')",
    "SELECT last_value FROM counter",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT set_config('a.b', 'c', false)",
    "SELECT pg_notify('a', 'b')",
    "SELECT lo_create(0)",
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    "SELECT pg_backend_pid()",
    "SELECT writes()",
    "SELECT * FROM writes()",
    "SELECT id FROM plain WHERE id = (SELECT writes())",
    "SELECT id FROM plain ORDER BY writes()",
    "SELECT id FROM plain GROUP BY id HAVING count(writes()) > 0",
    "SELECT 1 LIMIT writes()",
    "SELECT sum(id) OVER (ORDER BY writes()) FROM plain",
    "SELECT CASE WHEN true THEN writes() END",
    "SELECT (ARRAY[1, 2])[writes()]",
    "VALUES (writes())",
    "EXPLAIN ANALYZE SELECT writes()",
    "COPY (SELECT writes()) TO STDOUT",
    "SELECT counts()",
    "SELECT counts(1)",
    "SELECT overloaded(1)",
    "SELECT sums(id) FROM plain",
    "SELECT 1 <+> 2",
    "SELECT 1 OPERATOR(public.<+>) 2",
    "SELECT p.next_of FROM plain p",
    "SELECT ('counter').nextval",
    "SELECT (1).pg_advisory_lock",
    "SELECT ('work_mem').current_setting",
    "SELECT (p.id).bump FROM plain p",
    "SELECT p.counts2 FROM plain p",
    "SELECT p.summed FROM plain p",
    "SELECT app.random()",
    "SELECT table_to_xml('writing', true, false, '')",
    "SELECT U&\"!006eextval\" UESCAPE '!' ('counter')",
    "SELECT (p).next_of FROM plain p",
    "SELECT lower('A')",
    "SELECT * FROM writing",
    "SELECT * FROM above",
    "SELECT * FROM calling",
    "SELECT * FROM looking",
    "SELECT * FROM guarded",
    "SELECT * FROM fenced",
    "SELECT * FROM other.fenced",
    "SELECT * FROM fleeting",
    "SELECT * FROM parted",
    "SELECT * FROM parted_2",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM plain TABLESAMPLE system (1)",
    "SELECT * FROM made_meanwhile",
    "SELECT made_meanwhile()",
    "/* SELECT */ INSERT INTO plain VALUES (1)",
    "SELECT $$ $$ FROM plain FOR NO KEY UPDATE",
];

/// What may.
const READS: &[&str] = &[
    "SELECT id, reads(), pg_catalog.random() FROM plain WHERE owner LIKE 'a%' AND id IN (1, 2)",
    "SELECT pg_catalog.lower('A')",
    "SELECT * FROM tables",
    "SELECT * FROM lowered",
    "SELECT * FROM reading JOIN whole USING (id) JOIN stored ON n = id",
    "SELECT * FROM public.fenced",
    "SELECT 1::small, '{1}'::int[], now()::date - 1, p.owner, '5 days'::interval FROM plain p",
    "SELECT 'nextval(1)', $x$ writes() $x$ -- writes()",
    "WITH a AS MATERIALIZED (SELECT * FROM plain) SELECT count(*) FROM a",
    "SELECT to_char(now(), 'YYYY'), coalesce(max(id), 0), string_agg(owner, ',') FROM plain",
    "SELECT * FROM whole_1 UNION ALL SELECT * FROM parted_1",
];

#[test]
fn no_trap_makes_a_read_of_a_write() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql(TRAPS);
    let catalog = catalog(&node);
    for text in WRITES {
        assert!(reason(&catalog, text).is_some(), "{text} went to a standby");
    }
    for text in READS {
        assert_eq!(reason(&catalog, text), None, "{text}");
    }
}

/// What makes a write of statements that do not show it.
const UNSOUND: [(&str, &str); 6] = [
    ("a cast", "CREATE CAST (pair AS int) WITH FUNCTION cast_it(pair) AS IMPLICIT"),
    ("an explicit cast", "CREATE CAST (pair AS int) WITH FUNCTION cast_it(pair)"),
    ("an operator", "CREATE OPERATOR = (FUNCTION = same, LEFTARG = pair, RIGHTARG = pair)"),
    ("a domain", "CREATE DOMAIN counted AS int CHECK (VALUE < nextval('counter'))"),
    (
        "a domain on a domain",
        "CREATE DOMAIN base AS int CHECK (VALUE < nextval('counter')); CREATE DOMAIN top AS base",
    ),
    ("a domain on an array", "CREATE DOMAIN list AS int[] CHECK (VALUE[1] < nextval('counter'))"),
];

#[test]
fn what_writes_without_being_named_keeps_all_reads_on_the_primary() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql(
        "CREATE TABLE plain (id int);
         CREATE SEQUENCE counter;
         CREATE TYPE pair AS (a int, b int);
         CREATE FUNCTION cast_it(pair) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION same(pair, pair) RETURNS bool LANGUAGE plpgsql AS
             'BEGIN RETURN true; END'",
    );
    assert_eq!(reason(&catalog(&node), "SELECT * FROM plain"), None);
    for (what, sql) in UNSOUND {
        node.psql(&format!("CREATE SCHEMA scene; SET search_path = scene, public; {sql}"));
        let reason = reason(&catalog(&node), "SELECT * FROM plain");
        assert!(reason.is_some_and(|reason| reason.starts_with("Unsound")), "{what}");
        node.psql("DROP SCHEMA scene CASCADE; DROP CAST IF EXISTS (pair AS int)");
    }
    assert_eq!(reason(&catalog(&node), "SELECT * FROM plain"), None);
}
