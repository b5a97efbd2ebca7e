//! What catalogs make of names.

use super::rows::{Function, Operator, Relation, Rows, Type};
use super::{Catalog, Cause, Lists};
use crate::classify::{Class, classify};

fn function(schema: &str, name: &str, volatile: bool, defaults: &str) -> Function {
    Function {
        schema: schema.to_owned(),
        name: name.to_owned(),
        volatile,
        defaults: defaults.to_owned(),
        compiled: schema == "pg_catalog",
    }
}

fn relation(schema: &str, name: &str, bound: bool, texts: &[&str]) -> Relation {
    Relation {
        schema: schema.to_owned(),
        name: name.to_owned(),
        bound,
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        view: None,
    }
}

fn operator(schema: &str, name: &str, volatile: bool) -> Operator {
    Operator { schema: schema.to_owned(), name: name.to_owned(), volatile }
}

fn domain(schema: &str, name: &str, checks: &[&str]) -> Type {
    Type {
        schema: schema.to_owned(),
        name: name.to_owned(),
        checks: checks.iter().map(|check| (*check).to_owned()).collect(),
    }
}

fn rows() -> Rows {
    Rows {
        read_committed: true,
        functions: vec![
            function("pg_catalog", "lower", false, ""),
            function("pg_catalog", "nextval", true, ""),
            function("pg_catalog", "random", true, ""),
            function("pg_catalog", "pg_backend_pid", false, ""),
            function("pg_catalog", "pg_typeof", false, ""),
            function("public", "upper", true, ""),
            function("pg_catalog", "upper", false, ""),
            function("public", "next_of", true, ""),
            function("app", "random", true, ""),
            function("public", "cast_to", false, ""),
            function("public", "numbered", false, "nextval('s'::regclass)"),
            function("public", "plain", false, "1, pg_catalog.lower('A'::text)"),
        ],
        operators: vec![
            operator("pg_catalog", "=", false),
            operator("public", "<<<", true),
            operator("pg_catalog", ">=", false),
        ],
        types: vec![
            domain("pg_catalog", "text", &[]),
            domain("pg_catalog", "regclass", &[]),
            domain("public", "short", &["(pg_catalog.lower(VALUE) = 'a'::text)"]),
        ],
        relations: vec![
            relation("public", "t", false, &[]),
            relation("public", "unlogged", true, &[]),
            relation("pg_catalog", "pg_class", false, &[]),
            // Named before what they stand on.
            relation("public", "above", false, &["SELECT * FROM public.writing"]),
            relation("public", "over", false, &["SELECT t.x FROM public.reading t"]),
            relation("public", "reading", false, &["SELECT lower(x) AS x FROM public.t;"]),
            relation("public", "writing", false, &["SELECT nextval('s'::regclass) AS n"]),
            relation("public", "looking", false, &["SELECT relname FROM pg_catalog.pg_class"]),
            relation("public", "itself", false, &["SELECT * FROM public.itself"]),
            relation("public", "guarded", false, &["SELECT (owner = public.upper('x'::text))"]),
            relation("other", "t", false, &["SELECT nextval('s'::regclass)"]),
        ],
        singles: ["next_of", "lower", "pg_backend_pid"].map(str::to_owned).to_vec(),
        unsound: false,
    }
}

fn cause(catalog: &Catalog, text: &str) -> Option<Cause> {
    match classify(text.as_bytes()) {
        Class::Read(names) => catalog.judge(&names),
        other @ (Class::Begin { .. } | Class::Primary(_)) => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_names_only_readers_is_a_read() {
    let catalog = Catalog::new(1, &rows(), &Lists::default());
    for text in [
        "SELECT lower(x), pg_typeof(x), plain() FROM public.t WHERE x = 'a'::text",
        "SELECT pg_catalog.random()",
        "SELECT * FROM reading JOIN over USING (x)",
        "SELECT pg_catalog.upper('a')",
        "SELECT 'a'::short, x BETWEEN 1 AND 2 FROM public.t",
        "WITH q AS (SELECT 1) SELECT * FROM q",
        "SELECT a.x FROM public.t a",
    ] {
        assert_eq!(cause(&catalog, text), None, "{text}");
    }
}

#[test]
fn what_names_something_else_is_none() {
    let catalog = Catalog::new(1, &rows(), &Lists::default());
    let function = |name: &str| Cause::Function(name.into());
    let relation = |name: &str| Cause::Relation(name.into());
    for (text, expected) in [
        ("SELECT nextval('s')", function("nextval")),
        ("SELECT pg_backend_pid()", function("pg_backend_pid")),
        ("SELECT numbered()", function("numbered")),
        // One of that name in some schema writes, and the path may lead there.
        ("SELECT upper('a')", function("upper")),
        ("SELECT missing()", Cause::Unknown("missing".into())),
        ("SELECT * FROM nowhere", Cause::Unknown("nowhere".into())),
        ("SELECT * FROM t", relation("t")),
        ("SELECT * FROM other.t", relation("t")),
        ("SELECT * FROM unlogged", relation("unlogged")),
        ("SELECT * FROM pg_class", relation("pg_class")),
        ("SELECT * FROM writing", relation("writing")),
        ("SELECT * FROM above", relation("above")),
        ("SELECT * FROM looking", relation("looking")),
        ("SELECT * FROM itself", relation("itself")),
        ("SELECT * FROM guarded", relation("guarded")),
        // The table inside is not the query outside.
        ("WITH writing AS (SELECT * FROM writing) TABLE writing", relation("writing")),
        ("SELECT app.random()", Cause::Function("random".into())),
        ("SELECT (1).pg_backend_pid", Cause::Attribute("pg_backend_pid".into())),
        ("SELECT 1::nowhere", Cause::Unknown("nowhere".into())),
        ("SELECT 1 <<< 2", Cause::Operator("<<<".into())),
        ("SELECT 1 ~~~ 2", Cause::Unknown("~~~".into())),
        ("SELECT a.next_of FROM public.t a", Cause::Attribute("next_of".into())),
        ("SELECT (a).next_of FROM public.t a", Cause::Attribute("next_of".into())),
    ] {
        assert_eq!(cause(&catalog, text), Some(expected), "{text}");
    }
}

#[test]
fn what_only_reads_by_its_owners_word_is_believed() {
    let mut rows = rows();
    rows.relations.push(relation("public", "asking", false, &["SELECT public.plain() AS a"]));
    rows.relations.push(relation("public", "further", false, &["SELECT a FROM public.asking"]));
    rows.singles.push("plain".to_owned());
    let lists = Lists { reads: ["nextval".to_owned()].into(), ..Lists::default() };
    let trusting = Catalog::new(1, &rows, &lists);
    let catalog = Catalog::new(2, &rows, &Lists::default());
    let believes = |catalog: &Catalog, text: &str| match classify(text.as_bytes()) {
        Class::Read(names) => {
            assert_eq!(catalog.judge(&names), None, "{text}");
            catalog.believes(&names)
        }
        other @ (Class::Begin { .. } | Class::Primary(_)) => panic!("{text}: {other:?}"),
    };
    for text in [
        "SELECT plain()",
        "SELECT 1 FROM public.t WHERE x = public.plain()",
        "SELECT t.plain FROM public.t",
        "SELECT a FROM asking",
        "SELECT a FROM public.further",
    ] {
        assert!(believes(&catalog, text), "{text}");
    }
    for text in ["SELECT nextval('s')", "SELECT * FROM writing"] {
        assert!(believes(&trusting, text), "{text}");
    }
    for text in ["SELECT lower(x), pg_typeof(x) FROM public.t", "SELECT * FROM reading", "SELECT 1"]
    {
        assert!(!believes(&catalog, text), "{text}");
    }
}

#[test]
fn what_no_statement_shows_keeps_all_reads_on_the_primary() {
    let unsound = Catalog::new(2, &Rows { unsound: true, ..rows() }, &Lists::default());
    assert_eq!(cause(&unsound, "SELECT 1"), Some(Cause::Unsound("".into())));
    let mut rows = rows();
    rows.types.push(domain("public", "twice", &["NULL::public.counted"]));
    rows.types.push(domain("public", "counted", &["(nextval('s'::regclass) > 0)"]));
    let unsound = Catalog::new(3, &rows, &Lists::default());
    assert_eq!(cause(&unsound, "SELECT * FROM public.t"), Some(Cause::Unsound("counted".into())));
}

#[test]
fn the_configuration_has_the_last_word() {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let lists = Lists { reads: list(&["nextval", "public.upper"]), writes: list(&["lower"]) };
    let mut rows = rows();
    rows.types.truncate(2);
    let catalog = Catalog::new(1, &rows, &lists);
    assert_eq!(cause(&catalog, "SELECT nextval('s'), upper('x')"), None);
    assert_eq!(cause(&catalog, "SELECT * FROM writing"), None);
    assert_eq!(cause(&catalog, "SELECT lower('x')"), Some(Cause::Function("lower".into())));
    assert_eq!(cause(&catalog, "SELECT * FROM reading"), Some(Cause::Relation("reading".into())));
}
