//! The rows of a database that a catalog is made of, and the queries for them.
//!
//! The queries are to be run behind [`BEGIN`], in one transaction, but for [`VIEWS`]: to read the
//! text of a view locks what it stands on until the transaction ends, so that is done a few at a
//! time. Columns come in the order of the fields.

/// What is read from a database.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rows {
    /// By [`FUNCTIONS`].
    pub functions: Vec<Function>,
    /// By [`OPERATORS`].
    pub operators: Vec<Operator>,
    /// By [`TYPES`].
    pub types: Vec<Type>,
    /// By [`RELATIONS`].
    pub relations: Vec<Relation>,
    /// By [`SINGLES`].
    pub singles: Vec<String>,
    /// By [`UNSOUND`].
    pub unsound: bool,
    /// By [`READ_COMMITTED`].
    pub read_committed: bool,
}

/// Functions of one name and schema that are alike.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Function {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// It may write, or one of the functions that it is made of, if it is an aggregate.
    pub volatile: bool,
    /// The default values of its arguments, as a list; empty if there are none.
    pub defaults: String,
    /// It is compiled: no function of the same name in SQL or another language.
    pub compiled: bool,
}

/// An operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operator {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its function may write.
    pub volatile: bool,
}

/// A type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Type {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The checks of a domain; and the domains that it is made of, as casts of NULL.
    pub checks: Vec<String>,
}

/// Something to read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relation {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Standbys do not have its contents, or have others: it is unlogged, temporary, foreign (or a
    /// part of it is), or a sequence.
    pub bound: bool,
    /// What it runs: the conditions of its policies, and the query of a view, which comes by
    /// [`VIEWS`].
    pub texts: Vec<String>,
    /// Its number, if it is a view.
    pub view: Option<u32>,
}

/// Begins a transaction that sees one moment, and in which texts name their schemas.
///
/// It waits for nobody for long: whoever gives up here leaves a server behind that still waits.
pub const BEGIN: &str = "\
    BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL search_path = pg_catalog; \
    SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '25s'; SET LOCAL jit = off";

/// Rows of [`Function`]. Some of the extensions `tablefunc` and `xml2` are called stable and run
/// any text.
pub const FUNCTIONS: &str = "\
    SELECT DISTINCT n.nspname::text, p.proname::text, \
           p.prokind = 'p' OR p.provolatile = 'v' OR p.prosrc IN ('crosstab', 'crosstab_hash', \
               'connectby_text', 'connectby_text_serial', 'xpath_table') OR EXISTS ( \
               SELECT FROM pg_proc part WHERE part.provolatile = 'v' AND part.oid IN ( \
                   a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, \
                   a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)), \
           COALESCE(pg_get_expr(p.proargdefaults, 0), ''), l.lanname IN ('internal', 'c') \
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
      JOIN pg_language l ON l.oid = p.prolang \
      LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid";

/// Rows of [`Operator`].
pub const OPERATORS: &str = "\
    SELECT n.nspname::text, o.oprname::text, COALESCE(bool_or(p.provolatile = 'v'), true) \
      FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace \
      LEFT JOIN pg_proc p ON p.oid = o.oprcode GROUP BY 1, 2";

/// Rows of [`Type`].
pub const TYPES: &str = "\
    SELECT n.nspname::text, t.typname::text, \
           array_remove(ARRAY(SELECT pg_get_expr(c.conbin, 0) FROM pg_constraint c \
                  WHERE c.contypid = t.oid AND c.conbin IS NOT NULL \
           UNION ALL SELECT 'NULL::' || format_type(t.typbasetype, NULL) WHERE t.typtype = 'd' \
           UNION ALL SELECT 'NULL::' || format_type(a.atttypid, NULL) \
                       FROM pg_attribute a JOIN pg_type part ON part.oid = a.atttypid \
                      WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
                        AND part.typtype IN ('c', 'd')), NULL) \
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
     WHERE (t.typcategory <> 'A' OR t.typtype = 'd') AND n.nspname !~ '^pg_t(oast|emp)'";

/// Rows of [`Relation`].
pub const RELATIONS: &str = "\
    WITH RECURSIVE tree AS ( \
        SELECT oid AS root, oid FROM pg_class WHERE relkind IN ('r', 'p', 'f') \
        UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid \
    ), bound AS ( \
        SELECT DISTINCT tree.root FROM tree JOIN pg_class c ON c.oid = tree.oid \
         WHERE c.relpersistence <> 'p' OR c.relkind = 'f' \
    ) \
    SELECT n.nspname::text, c.relname::text, \
           c.relkind = 'S' OR c.relpersistence <> 'p' OR EXISTS ( \
               SELECT FROM bound WHERE bound.root = c.oid), \
           array_remove(ARRAY(SELECT 'SELECT ' || pg_get_expr(polqual, polrelid) FROM pg_policy \
                  WHERE polrelid = c.oid AND polqual IS NOT NULL), NULL), \
           CASE WHEN c.relkind = 'v' AND n.nspname !~ '^(pg_|information_schema$)' \
                THEN c.oid END \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND n.nspname !~ '^pg_t(oast|emp)'";

/// Whether transactions that do not say otherwise are READ COMMITTED, whoever begins them.
pub const READ_COMMITTED: &str = "\
    SELECT reset_val = 'read committed' AND NOT EXISTS ( \
           SELECT FROM pg_db_role_setting, unnest(setconfig) entry \
            WHERE entry LIKE 'default_transaction_isolation=%') \
      FROM pg_settings WHERE name = 'default_transaction_isolation'";

/// The texts of the views with these numbers, `(oid, text)`; one that is gone has none.
pub const VIEWS: &str = "\
    SELECT oid, COALESCE(pg_get_viewdef(oid), '') FROM pg_class WHERE oid = ANY ($1)";

/// How many of them are read in one transaction. Each locks a few relations, and all sessions
/// share `max_locks_per_transaction` for each of them.
pub const VIEWS_AT_ONCE: usize = 200;

/// Names of functions that can be called with one argument, and so as if they were a column of it.
pub const SINGLES: &str = "\
    SELECT DISTINCT proname::text FROM pg_proc \
     WHERE pronargs >= 1 AND pronargs - pronargdefaults <= 1";

/// Whether the database has casts, comparisons or types that may write and that no statement
/// shows. The checks of its domains are judged with the other texts.
pub const UNSOUND: &str = "\
    SELECT EXISTS (SELECT FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc \
                    WHERE p.provolatile = 'v') \
        OR EXISTS (SELECT FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode \
                    WHERE p.provolatile = 'v' AND (o.oprname IN ('=', '<>', '<', '<=', '>', '>=') \
                       OR o.oid IN (SELECT amopopr FROM pg_amop))) \
        OR EXISTS (SELECT FROM pg_amproc s JOIN pg_proc p ON p.oid = s.amproc \
                     JOIN pg_opfamily f ON f.oid = s.amprocfamily \
                     JOIN pg_am m ON m.oid = f.opfmethod \
                    WHERE p.provolatile = 'v' AND m.amname IN ('btree', 'hash')) \
        OR EXISTS (SELECT FROM (SELECT typinput AS oid FROM pg_type UNION \
                                SELECT typoutput FROM pg_type UNION \
                                SELECT typreceive FROM pg_type UNION \
                                SELECT typsend FROM pg_type) io \
                     JOIN pg_proc p ON p.oid = io.oid WHERE p.provolatile = 'v')";
