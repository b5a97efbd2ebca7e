//! The traps in which other routers were caught, one test each, on live nodes: what must not run on
//! a standby is not even tried there, and gives what the primary gives.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::routed::{SOON, Scene, scene};
use pgring_tests::wire::Wire;

/// Nodes with what the trap needs, and a client whose reads go to the standby.
fn trap(needs: &str) -> (Scene, Wire) {
    at_most_minutes(3);
    let scene = scene(1, |settings| settings);
    let mut client = scene.client();
    if !needs.is_empty() {
        client.query(needs);
        until("the catalog to be known anew", SOON, || client.value("SELECT here()") == "standby");
    }
    (scene, client)
}

/// What a statement gives, which goes to the primary at the first attempt: nothing of it is seen on
/// the standby.
fn on_primary(scene: &Scene, client: &mut Wire, sql: &str) -> Vec<String> {
    let before = scene.pgring.queries("pg2");
    let answers = client.query(sql);
    if let Some(error) = answers.iter().find(|message| message.tag == b'E') {
        panic!("{sql}: {} {:?}", error.code(), error.field(b'M'));
    }
    assert_eq!(scene.pgring.queries("pg2"), before, "{sql}: it was tried on the standby");
    let rows = answers.iter().filter(|message| message.tag == b'D');
    rows.map(|row| row.columns().into_iter().flatten().collect::<Vec<_>>().join(" ")).collect()
}

/// A read goes to the standby as soon as that has what was written.
fn on_standby(client: &mut Wire, sql: &str) {
    until("the read to go to the standby", SOON, || client.value(sql) == "standby");
}

#[test]
fn nextval_counts_on_the_primary() {
    let (scene, mut client) = trap("");
    for count in ["1", "2", "3"] {
        assert_eq!(on_primary(&scene, &mut client, "SELECT nextval('counter')"), [count]);
    }
    let sql = "SELECT id FROM notes WHERE id = nextval('counter')";
    assert_eq!(on_primary(&scene, &mut client, sql).len(), 0, "it counts faster than it looks");
    assert_eq!(scene.primary.psql("SELECT last_value > 3 FROM counter").trim(), "t");
}

#[test]
fn setval_and_what_it_set_are_the_primarys() {
    let (scene, mut client) = trap("");
    assert_eq!(on_primary(&scene, &mut client, "SELECT setval('counter', 41)"), ["41"]);
    assert_eq!(on_primary(&scene, &mut client, "SELECT last_value FROM counter"), ["41"]);
    let sql = "SELECT setval('counter', (SELECT max(id) FROM notes)) FROM notes LIMIT 1";
    assert_eq!(on_primary(&scene, &mut client, sql), ["100"]);
}

#[test]
fn a_with_that_writes_is_a_write() {
    let (scene, mut client) = trap("");
    for sql in [
        "WITH q AS (INSERT INTO notes VALUES (501, 'x') RETURNING id) SELECT id FROM q",
        "WITH q AS (UPDATE notes SET text = 'y' WHERE id = 501 RETURNING id) SELECT id FROM q",
        "WITH a AS (TABLE notes), b AS (DELETE FROM notes WHERE id = 501 RETURNING id) TABLE b",
    ] {
        assert_eq!(on_primary(&scene, &mut client, sql), ["501"]);
    }
}

#[test]
fn with_as_materialized_is_what_is_in_it() {
    let (scene, mut client) = trap("");
    on_standby(&mut client, "WITH q AS MATERIALIZED (SELECT here() h) SELECT h FROM q");
    on_standby(&mut client, "WITH q AS NOT MATERIALIZED (SELECT here() h) SELECT h FROM q");
    let sql = "WITH q AS MATERIALIZED (INSERT INTO notes VALUES (502, 'x') RETURNING id) \
               SELECT id FROM q";
    assert_eq!(on_primary(&scene, &mut client, sql), ["502"]);
    let sql = "WITH q AS MATERIALIZED (SELECT nextval('counter') n) SELECT n FROM q";
    assert_eq!(on_primary(&scene, &mut client, sql), ["1"]);
}

#[test]
fn rows_are_locked_on_the_primary_in_every_strength() {
    let (scene, mut client) = trap("");
    for strength in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"] {
        for tail in ["", " OF notes", " NOWAIT", " SKIP LOCKED"] {
            let sql = format!("SELECT here() FROM notes WHERE id = 1 FOR {strength}{tail}");
            assert_eq!(on_primary(&scene, &mut client, &sql), ["primary"], "{sql}");
            let sql = format!("SELECT * FROM ({sql}) q");
            assert_eq!(on_primary(&scene, &mut client, &sql), ["primary"], "{sql}");
        }
    }
}

#[test]
fn a_volatile_function_of_the_user_may_write() {
    let (scene, mut client) = trap("");
    assert_eq!(on_primary(&scene, &mut client, "SELECT writes()"), ["primary"]);
    assert_eq!(on_primary(&scene, &mut client, "SELECT w FROM writes() w"), ["primary"]);
    let sql = "SELECT id FROM notes WHERE id = 1 AND writes() <> ''";
    assert_eq!(on_primary(&scene, &mut client, sql), ["1"]);
    assert_eq!(scene.primary.psql("SELECT count(*) FROM notes").trim(), "103");
}

#[test]
fn a_function_in_a_view_is_seen() {
    let (scene, mut client) = trap(
        "CREATE VIEW counting AS SELECT nextval('counter') AS n;
         CREATE VIEW above AS SELECT n FROM counting;
         CREATE VIEW reading AS SELECT here() AS h",
    );
    on_standby(&mut client, "SELECT h FROM reading");
    assert_eq!(on_primary(&scene, &mut client, "SELECT n FROM counting"), ["1"]);
    assert_eq!(on_primary(&scene, &mut client, "SELECT n FROM above"), ["2"]);
    // A view that changes its mind.
    client.query("CREATE OR REPLACE VIEW reading AS SELECT writes() AS h");
    assert_eq!(on_primary(&scene, &mut client, "SELECT h FROM reading"), ["primary"]);
}

#[test]
fn a_table_made_in_a_transaction_is_read_in_it() {
    let (scene, mut client) = trap("");
    client.query("BEGIN");
    client.query("CREATE TABLE fresh (id int)");
    client.query("INSERT INTO fresh VALUES (1)");
    assert_eq!(on_primary(&scene, &mut client, "SELECT id, here() FROM fresh"), ["1 primary"]);
    client.query("COMMIT");
    // Behind it too, whatever the standby knows.
    for _ in 0..20 {
        assert_eq!(client.value("SELECT count(*) FROM fresh"), "1");
    }
    on_standby(&mut client, "SELECT here() FROM fresh");
    client.query("BEGIN");
    client.query("ALTER TABLE fresh ADD COLUMN more int DEFAULT 7");
    assert_eq!(on_primary(&scene, &mut client, "SELECT more FROM fresh"), ["7"]);
    client.query("ROLLBACK");
    assert_eq!(client.failure("SELECT more FROM fresh"), "42703");
}

#[test]
fn advisory_locks_are_taken_on_the_primary() {
    let (scene, mut client) = trap("");
    let mut other = scene.client();
    assert_eq!(on_primary(&scene, &mut client, "SELECT pg_try_advisory_lock(7)"), ["t"]);
    assert_eq!(on_primary(&scene, &mut other, "SELECT pg_try_advisory_lock(7)"), ["f"]);
    assert_eq!(on_primary(&scene, &mut client, "SELECT pg_advisory_unlock(7)"), ["t"]);
    assert_eq!(on_primary(&scene, &mut other, "SELECT pg_try_advisory_xact_lock(7)"), ["t"]);
    let sql = "SELECT id FROM notes WHERE id = 1 AND pg_try_advisory_lock_shared(id)";
    assert_eq!(on_primary(&scene, &mut client, sql), ["1"]);
}

#[test]
fn explain_analyze_runs_what_it_explains() {
    let (scene, mut client) = trap("");
    for (sql, count) in [
        ("EXPLAIN ANALYZE INSERT INTO notes VALUES (503, 'x')", "101"),
        ("EXPLAIN (ANALYZE, COSTS OFF) DELETE FROM notes WHERE id = 503", "100"),
        ("EXPLAIN (ANALYZE true) SELECT writes()", "101"),
        // These run nothing, but are not looked into that far.
        ("EXPLAIN (ANALYZE off) DELETE FROM notes", "101"),
        ("EXPLAIN DELETE FROM notes", "101"),
    ] {
        on_primary(&scene, &mut client, sql);
        assert_eq!(scene.primary.psql("SELECT count(*) FROM notes").trim(), count, "{sql}");
    }
}

#[test]
fn what_cannot_be_parsed_is_the_primarys_to_refuse() {
    let (scene, mut client) = trap("");
    let before = scene.pgring.queries("pg2");
    for (sql, code) in [
        ("SELEC here()", "42601"),
        ("SELECT here(", "42601"),
        ("SELECT 'here()", "42601"),
        ("SELECT here() FROM notes WHERE", "42601"),
        ("SELECT nowhere()", "42883"),
        ("SELECT nothing FROM nowhere", "42P01"),
    ] {
        assert_eq!(client.failure(sql), code, "{sql}");
    }
    assert_eq!(scene.pgring.queries("pg2"), before);
    let long = format!("SELECT here(), '{}'", "x".repeat(20_000));
    assert!(on_primary(&scene, &mut client, &long)[0].starts_with("primary"), "it is too long");
}

#[test]
fn comments_and_dollar_quotes_hide_what_they_hide() {
    let (scene, mut client) = trap("");
    for sql in [
        "SELECT here() /* ; DELETE FROM notes */",
        "SELECT here() -- FOR UPDATE",
        "SELECT here() /* /* nested */ FOR UPDATE */",
        "SELECT here() WHERE $$ FOR UPDATE nextval('counter') $$ <> ''",
        "SELECT here() WHERE $a$ $$ INSERT $$ $a$ <> 'writes()'",
        "SELECT here() WHERE 'it''s FOR UPDATE' <> E'\\' FOR UPDATE'",
    ] {
        on_standby(&mut client, sql);
    }
    for (sql, rows) in [
        ("/* SELECT here() */ INSERT INTO notes VALUES (504, 'x') RETURNING here()", "primary"),
        ("SELECT here() /* a */ FROM notes WHERE id = 1 /* b */ FOR /* c */ UPDATE", "primary"),
        ("SELECT here() -- a\n FROM notes WHERE id = 1 FOR UPDATE", "primary"),
        ("SELECT $$--$$ || here() FROM notes WHERE id = 1 FOR UPDATE", "--primary"),
        ("SELECT '/*' || here() FROM notes WHERE id = 1 FOR UPDATE --*/", "/*primary"),
        ("SELECT E'\\'' || here() FROM notes WHERE id = 1 FOR UPDATE --'", "'primary"),
        ("SELECT \"writes\" () -- here", "primary"),
        ("SELECT 1; -- SELECT here()\n SELECT here()", "1"),
    ] {
        assert_eq!(on_primary(&scene, &mut client, sql)[0], rows, "{sql}");
    }
}

#[test]
fn a_search_path_makes_no_read_of_a_write() {
    let (scene, mut client) = trap(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS
             'INSERT INTO public.notes VALUES (505, $1); SELECT $1';
         CREATE VIEW evil.notes AS SELECT nextval('public.counter') AS id;
         CREATE FUNCTION evil.same(int, int) RETURNS bool LANGUAGE sql AS
             'INSERT INTO public.notes VALUES (506, '''') ON CONFLICT DO NOTHING; SELECT true';
         CREATE OPERATOR evil.@@@ (FUNCTION = evil.same, LEFTARG = int, RIGHTARG = int)",
    );
    client.query("SET search_path = evil, public, pg_catalog");
    assert_eq!(on_primary(&scene, &mut client, "SELECT lower('X')"), ["X"]);
    assert_eq!(on_primary(&scene, &mut client, "SELECT id FROM notes"), ["1"]);
    assert_eq!(on_primary(&scene, &mut client, "SELECT 1 @@@ 2"), ["t"]);
    client.query("RESET search_path");
    // The names might mean that again, at any time.
    assert_eq!(on_primary(&scene, &mut client, "SELECT lower('X')"), ["x"]);
    on_standby(&mut client, "SELECT here() WHERE pg_catalog.lower('X') = 'x'");
    client.query("DROP SCHEMA evil CASCADE");
    on_standby(&mut client, "SELECT here() FROM notes WHERE lower('X') = 'x' LIMIT 1");
}

#[test]
fn what_is_unlogged_or_temporary_is_on_one_node_only() {
    let (scene, mut client) = trap("CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS id");
    assert_eq!(on_primary(&scene, &mut client, "SELECT id FROM fleeting"), ["1"]);
    client.query("CREATE TEMP TABLE mine AS SELECT 2 AS id");
    assert_eq!(on_primary(&scene, &mut client, "SELECT id FROM mine"), ["2"]);
    client.query("CREATE TEMP TABLE notes AS SELECT 3 AS id");
    assert_eq!(on_primary(&scene, &mut client, "SELECT id FROM notes"), ["3"], "it hides another");
}
