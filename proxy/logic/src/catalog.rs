//! What the names of a database mean: which functions write, which relations hide something.
//!
//! A read of the grammar ([`crate::classify`]) is a read indeed if nothing that it names can
//! write, or is at home on one node only. `PostgreSQL` resolves a name without a schema by the
//! session's `search_path`; here it stands for everything of that name in any schema, so that no
//! path, however it was set, makes a read of something else. An unknown name counts as a write.
//!
//! Views, row-level security policies, default arguments and the checks of domains run
//! expressions that no statement shows. Their texts are part of the catalog and are classified
//! like statements.
//!
//! Trusted: that a function is as volatile as its owner says (`pg_proc.provolatile`). `PostgreSQL`
//! itself plans by it. A standby refuses whoever lied, and the statement then runs on the primary.
//! So what names a function that somebody of the database has written ([`Catalog::believes`]) is
//! none of the reads that the primary shares, and where the primary runs it before any standby
//! has, it counts as a write for what its session is to read next: nobody is refused there. One
//! text stands for all values and every `search_path`: what writes for some of them only, and was
//! tried with others, is found out when a standby runs it with these.

use crate::catalog::known::Known;
use crate::catalog::rows::{Function, Relation, Rows};
use crate::classify::{Class, Name, Names, classify};
use core::fmt;
use std::collections::BTreeSet;

mod builtin;
mod known;
pub mod rows;

/// Why a read belongs to the primary after all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cause {
    /// A function that may write, or whose answer differs from node to node.
    Function(Box<str>),
    /// An operator of such a function.
    Operator(Box<str>),
    /// A view that calls one, a table that standbys do not have, a catalog, a sequence.
    Relation(Box<str>),
    /// A column that may be a function of its row.
    Attribute(Box<str>),
    /// The catalog does not have it.
    Unknown(Box<str>),
    /// The database has casts, comparisons or types that may write, which no statement shows: a
    /// domain of this name, if it is one.
    Unsound(Box<str>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(name) => {
                write!(f, "function {name}: volatile (pg_proc.provolatile), or bound to a node")
            }
            Self::Operator(name) => write!(f, "operator {name}: its function is volatile"),
            Self::Relation(name) => write!(
                f,
                "relation {name}: a system catalog, a sequence, unlogged or foreign, or a view or \
                 policy that does more than read"
            ),
            Self::Attribute(name) => {
                write!(f, "column {name}: may be a function of that name, which is volatile")
            }
            Self::Unknown(name) => write!(f, "{name}: not in the catalog"),
            Self::Unsound(name) if name.is_empty() => {
                f.write_str("the database has casts, comparisons or types with volatile functions")
            }
            Self::Unsound(name) => write!(f, "the database has domain {name}, whose check writes"),
        }
    }
}

/// What the names of a database mean.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Different for each catalog of the process.
    version: u64,
    functions: Known,
    operators: Known,
    types: Known,
    relations: Known,
    /// Functions of one argument, which can be called as if they were columns of it.
    singles: BTreeSet<Box<str>>,
    /// Functions, in any schema, that only read by the word of their owner or of the configuration.
    believed: BTreeSet<Box<str>>,
    /// Views and tables with policies that run one of these.
    believing: BTreeSet<Box<str>>,
    unsound: Option<Box<str>>,
    read_committed: bool,
}

/// What the configuration says of functions, whatever the catalog says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lists {
    /// These only read: names, with or without a schema.
    pub reads: BTreeSet<String>,
    /// These write.
    pub writes: BTreeSet<String>,
}

impl Lists {
    fn says(list: &BTreeSet<String>, name: &Name) -> bool {
        list.contains(&*name.name)
            || list.iter().any(|entry| {
                entry.split_once('.').is_some_and(|(schema, rest)| {
                    rest == &*name.name && (name.schema.is_empty() || schema == &*name.schema)
                })
            })
    }
}

impl Catalog {
    /// What follows from the rows of a database. `version` is to differ from every other.
    pub fn new(version: u64, rows: &Rows, lists: &Lists) -> Self {
        let unsound = rows.unsound.then(Box::default);
        let read_committed = rows.read_committed;
        let mut catalog = Self { version, unsound, read_committed, ..Self::default() };
        for operator in &rows.operators {
            catalog.operators.add(&operator.schema, &operator.name, !operator.volatile);
        }
        catalog.add_functions(&rows.functions, lists);
        catalog.singles.extend(rows.singles.iter().map(|name| name.as_str().into()));
        catalog.settle(rows, lists);
        catalog
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether transactions are READ COMMITTED unless they say otherwise.
    pub fn is_read_committed(&self) -> bool {
        self.read_committed
    }

    /// Why a read that names these belongs to the primary; none if it does not.
    pub fn judge(&self, names: &Names) -> Option<Cause> {
        if let Some(unsound) = &self.unsound {
            return Some(Cause::Unsound(unsound.clone()));
        }
        let judge = |known: &Known, names: &BTreeSet<Name>, cause: fn(Box<str>) -> Cause| {
            names.iter().find_map(|name| match known.get(name) {
                Some(true) => None,
                Some(false) => Some(cause(name.name.clone())),
                None => Some(Cause::Unknown(name.name.clone())),
            })
        };
        let relations = || {
            names.relations.iter().find_map(|name| {
                let query = name.schema.is_empty() && names.queries.contains(&name.name);
                match self.relations.get(name) {
                    Some(true) => None,
                    Some(false) => Some(Cause::Relation(name.name.clone())),
                    None if query => None,
                    None => Some(Cause::Unknown(name.name.clone())),
                }
            })
        };
        let operators = || {
            // BETWEEN and its kin come under their keywords; they stand for comparisons.
            let written = names.operators.iter().filter(|name| {
                !name.name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            });
            judge(&self.operators, &written.cloned().collect(), Cause::Operator)
        };
        // A cast may write only where the whole database is unsound.
        let types = || {
            let mut types = names.types.iter();
            let unknown = types.find(|name| self.types.get(name).is_none());
            unknown.map(|name| Cause::Unknown(name.name.clone()))
        };
        // `t.f` and `(1).f` mean `f(t)` and `f(1)` where there is no such column.
        let attributes = || {
            let called = names.attributes.iter().filter(|name| self.singles.contains(*name));
            let mut writers = called.filter(|name| self.functions.get_any(name) != Some(true));
            writers.next().map(|name| Cause::Attribute(name.clone()))
        };
        judge(&self.functions, &names.functions, Cause::Function)
            .or_else(relations)
            .or_else(operators)
            .or_else(types)
            .or_else(attributes)
    }

    /// Whether a read that names these only reads by somebody's word: no function of `PostgreSQL`'s
    /// own, or of a compiled extension, lies about that.
    pub fn believes(&self, names: &Names) -> bool {
        let called = names.attributes.iter().filter(|name| self.singles.contains(*name));
        let mut functions = names.functions.iter().map(|name| &name.name).chain(called);
        let mut relations = names.relations.iter();
        functions.any(|name| self.believed.contains(name))
            || relations.any(|name| self.believing.contains(&name.name))
    }

    fn add_functions(&mut self, functions: &[Function], lists: &Lists) {
        for function in functions {
            let name = Name {
                schema: function.schema.as_str().into(),
                name: function.name.as_str().into(),
            };
            let reads = if Lists::says(&lists.writes, &name) {
                false
            } else if Lists::says(&lists.reads, &name) {
                self.believed.insert(name.name.clone());
                true
            } else if *name.schema == *"pg_catalog" && builtin::is_bound(&name.name) {
                false
            } else {
                let harmless = function.compiled && builtin::is_harmless(&name.name);
                !function.volatile || harmless
            };
            self.functions.add(&name.schema, &name.name, reads);
            if !function.compiled && !builtin::is_system(&name.schema) {
                self.believed.insert(name.name);
            }
        }
    }

    /// What runs expressions of its own counts as a writer until these are known, in as many
    /// turns as views stand on views. What is left then stands on itself, or on a writer.
    fn settle(&mut self, rows: &Rows, lists: &Lists) {
        let mut open: Vec<Open<'_>> = Vec::new();
        for function in rows.functions.iter().filter(|function| !function.defaults.is_empty()) {
            let name = Name {
                schema: function.schema.as_str().into(),
                name: function.name.as_str().into(),
            };
            if !Lists::says(&lists.reads, &name) {
                let texts = [format!("SELECT {}", function.defaults)];
                open.push(Open::new(Kind::Function, &function.schema, &function.name, &texts));
            }
        }
        for found in &rows.types {
            let texts = found.checks.iter().map(|check| format!("SELECT {check}"));
            let texts: Vec<_> = texts.collect();
            self.types.add(&found.schema, &found.name, true);
            open.push(Open::new(Kind::Type, &found.schema, &found.name, &texts));
        }
        for relation in &rows.relations {
            let bound = relation.bound || builtin::is_system(&relation.schema);
            self.relations.add(&relation.schema, &relation.name, !bound);
            if !bound {
                let texts = &relation.texts;
                open.push(Open::new(Kind::Relation, &relation.schema, &relation.name, texts));
            }
        }
        open.retain(|item| !item.names.is_empty());
        for item in &open {
            self.known_mut(item.kind).add(item.schema, item.name, false);
        }
        while self.settle_some(&mut open) {}
        self.find_believing(&rows.relations);
        // A domain's check runs wherever a value becomes one: in a function's arguments, in a row,
        // by a parameter's type. No statement needs to say so.
        let domain = open.iter().find(|item| matches!(item.kind, Kind::Type));
        let domain = domain.map(|item| item.name.into());
        self.unsound = self.unsound.take().or(domain);
    }

    /// Looks for what runs functions that are believed, in as many turns as views stand on views.
    fn find_believing(&mut self, relations: &[Relation]) {
        let texts = relations.iter().filter(|relation| !relation.texts.is_empty());
        let mut open: Vec<Open<'_>> =
            texts.map(|it| Open::new(Kind::Relation, &it.schema, &it.name, &it.texts)).collect();
        loop {
            let before = open.len();
            open.retain(|item| {
                let mut names = item.names.iter().flatten();
                let believes = names.any(|names| self.believes(names));
                if believes {
                    self.believing.insert(item.name.into());
                }
                !believes
            });
            if open.len() == before {
                return;
            }
        }
    }

    /// Absolves what stands on readers only. Tells whether there was any.
    fn settle_some(&mut self, open: &mut Vec<Open<'_>>) -> bool {
        let before = open.len();
        let (ready, rest): (Vec<_>, Vec<_>) = open
            .drain(..)
            .partition(|item| item.names.iter().all(|names| self.is_read(names.as_ref())));
        for item in &ready {
            self.known_mut(item.kind).absolve(item.schema, item.name);
        }
        *open = rest;
        open.len() < before
    }

    fn is_read(&self, names: Option<&Names>) -> bool {
        names.is_some_and(|names| self.judge(names).is_none())
    }

    fn known_mut(&mut self, kind: Kind) -> &mut Known {
        match kind {
            Kind::Function => &mut self.functions,
            Kind::Type => &mut self.types,
            Kind::Relation => &mut self.relations,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Function,
    Type,
    Relation,
}

/// Something whose own expressions are yet to be judged.
#[derive(Debug)]
struct Open<'r> {
    kind: Kind,
    schema: &'r str,
    name: &'r str,
    /// What each expression names; none if it is no read.
    names: Vec<Option<Names>>,
}

impl<'r> Open<'r> {
    fn new(kind: Kind, schema: &'r str, name: &'r str, texts: &[String]) -> Self {
        let names = texts.iter().map(|text| match classify(text.as_bytes()) {
            Class::Read(names) => Some(in_pg_catalog(names)),
            Class::Begin { .. } | Class::Primary(_) => None,
        });
        Self { kind, schema, name, names: names.collect() }
    }
}

/// Texts of the catalog are written where only `pg_catalog` needs no schema in front.
fn in_pg_catalog(mut names: Names) -> Names {
    let full = |set: &mut BTreeSet<Name>, queries: &BTreeSet<Box<str>>| {
        let all = core::mem::take(set).into_iter();
        set.extend(all.map(|name| {
            let plain = name.schema.is_empty() && !queries.contains(&name.name);
            if plain { Name { schema: "pg_catalog".into(), ..name } } else { name }
        }));
    };
    full(&mut names.relations, &names.queries);
    for set in [&mut names.functions, &mut names.operators, &mut names.types] {
        full(set, &BTreeSet::new());
    }
    names
}

#[cfg(test)]
mod tests;
