//! What a statement does, by `PostgreSQL`'s own grammar: reads, opens a transaction, or anything
//! else, which belongs to the primary.
//!
//! A statement is a read only if everything in its tree is on the list of `walk`; a node that is
//! not on the list, a text that does not parse, one that is long or could be read in two ways all
//! count as something else. What the names in a read mean (a function may write, a name may be a
//! view) the text does not tell; that is for the catalog of its database to say.

use crate::lexer::{Lexer, Token};
use core::fmt::{self, Write as _};
use pg_query::NodeEnum;
use pg_query::protobuf::{CopyStmt, ExplainStmt, Node, TransactionStmt, TransactionStmtKind};
use std::collections::BTreeSet;

pub mod cache;
pub mod comment;
pub mod key;
mod walk;

/// Longer texts are not parsed.
pub const LENGTH_MAX: usize = 16 * 1024;

/// Stack that a parse may need: the grammar allows itself 2 MiB, and trees are a hundred levels
/// deep, of up to 20 KB each when they are decoded. A worker's thread has more than that; where
/// there is less, it is got for the time.
pub const STACK_BYTES: usize = 4 * 1024 * 1024;

/// What a statement does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Class {
    /// It reads, if all that it names only reads.
    Read(Names),
    /// It opens a transaction.
    Begin {
        /// READ ONLY, in its own words.
        read_only: bool,
        /// SERIALIZABLE, in its own words: no standby can do that.
        serializable: bool,
        /// It says nothing of its kind, or READ COMMITTED.
        plain: bool,
    },
    /// It belongs to the primary.
    Primary(Reason),
}

impl Class {
    /// Bytes that it takes up, about.
    fn bytes(&self) -> usize {
        match self {
            Self::Read(names) => names.bytes(),
            Self::Begin { .. } | Self::Primary(_) => 0,
        }
    }
}

/// Why a statement belongs to the primary.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// Longer than [`LENGTH_MAX`].
    Long,
    /// No UTF-8.
    Encoding,
    /// Where its strings end depends on `standard_conforming_strings`.
    Ambiguous,
    /// More than one statement.
    Multiple,
    /// The grammar does not know it, or it is nested too deeply.
    Unparsed,
    /// There is something in it that is not known to only read: a node of the grammar.
    Holds(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long => write!(f, "longer than {LENGTH_MAX} bytes"),
            Self::Encoding => f.write_str("not UTF-8"),
            Self::Ambiguous => f.write_str("a backslash before a quote, which may end a string"),
            Self::Multiple => f.write_str("more than one statement"),
            Self::Unparsed => f.write_str("not understood, or nested too deeply"),
            Self::Holds(node) => {
                f.write_str("not known to only read: ")?;
                let node = node.strip_suffix("Stmt").unwrap_or(node);
                let mut before = None;
                for letter in node.chars() {
                    let begins = letter.is_ascii_uppercase()
                        && before.is_some_and(|letter: char| letter.is_ascii_lowercase());
                    if begins {
                        f.write_char(' ')?;
                    }
                    f.write_char(letter.to_ascii_uppercase())?;
                    before = Some(letter);
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.schema.is_empty() {
            write!(f, "{}.", self.schema)?;
        }
        f.write_str(&self.name)
    }
}

/// Statements after which names mean what they meant before, by their nodes. A block and a
/// procedure may do anything; whether they did shows when the catalog is next read.
const DEFINES_NOTHING: &[&str] = &[
    "CallStmt",
    "CheckPointStmt",
    "ClosePortalStmt",
    "ClusterStmt",
    "ConstraintsSetStmt",
    "CopyStmt",
    "DeallocateStmt",
    "DeclareCursorStmt",
    "DeleteStmt",
    "DiscardStmt",
    "DoStmt",
    "ExecuteStmt",
    "ExplainStmt",
    "FetchStmt",
    "InsertStmt",
    "ListenStmt",
    "LoadStmt",
    "LockStmt",
    "MergeStmt",
    "NotifyStmt",
    "PrepareStmt",
    "RefreshMatViewStmt",
    "ReindexStmt",
    "TransactionStmt",
    "TruncateStmt",
    "UnlistenStmt",
    "UpdateStmt",
    "VacuumStmt",
    "VariableSetStmt",
    "VariableShowStmt",
];

/// Statements that write nothing themselves.
const WRITES_NOTHING: &[&str] = &[
    "ClosePortalStmt",
    "DeallocateStmt",
    "ListenStmt",
    "PrepareStmt",
    "TransactionStmt",
    "UnlistenStmt",
    "VariableSetStmt",
    "VariableShowStmt",
];

/// Words that begin statements of which names may mean something else afterwards.
const DEFINING: [&[u8]; 7] =
    [b"alter", b"create", b"drop", b"import", b"into", b"reassign", b"security"];

impl Reason {
    /// Whether the statement may write something. The end of a transaction writes no more than
    /// what was written in it.
    pub fn may_write(self) -> bool {
        match self {
            Self::Holds(node) => WRITES_NOTHING.binary_search(&node).is_err(),
            Self::Long | Self::Encoding | Self::Ambiguous | Self::Multiple | Self::Unparsed => true,
        }
    }

    /// Whether names may mean something else behind the statement.
    pub fn may_define(self, text: &[u8]) -> bool {
        match self {
            Self::Holds("COMMIT PREPARED") => true,
            Self::Holds(node) if node.ends_with("Stmt") => {
                DEFINES_NOTHING.binary_search(&node).is_err()
            }
            // An expression ended the look at it; what stands behind that is read by its words, as
            // is what the grammar has not read.
            Self::Holds(_)
            | Self::Long
            | Self::Encoding
            | Self::Ambiguous
            | Self::Multiple
            | Self::Unparsed => Lexer::new(text).any(|token| match token {
                Token::Word(word) => {
                    DEFINING.iter().any(|defining| word.eq_ignore_ascii_case(defining))
                }
                Token::Quoted(_)
                | Token::Escaped(_)
                | Token::String(_)
                | Token::Number(_)
                | Token::Parameter(_)
                | Token::Semicolon
                | Token::Symbol(_) => false,
            }),
        }
    }
}

/// A name as a statement says it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// The schema in front of it; empty if there is none.
    pub schema: Box<str>,
    /// The last part.
    pub name: Box<str>,
}

/// What a read names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// Tables, views, and what else can be read from.
    pub relations: BTreeSet<Name>,
    /// Queries of WITH clauses. A relation of that name is one of them, or hidden by it.
    pub queries: BTreeSet<Box<str>>,
    /// Functions, aggregates included.
    pub functions: BTreeSet<Name>,
    /// Operators that are written out.
    pub operators: BTreeSet<Name>,
    /// Types that are written out.
    pub types: BTreeSet<Name>,
    /// What stands behind a dot: a column, or a function of one row, `t.f` for `f(t)`.
    pub attributes: BTreeSet<Box<str>>,
}

impl Names {
    /// Bytes that they take up, about.
    fn bytes(&self) -> usize {
        let parts = [&self.relations, &self.functions, &self.operators, &self.types];
        let full = parts.iter().flat_map(|set| set.iter());
        let full = full.map(|name| name.schema.len() + name.name.len() + size_of::<Name>());
        let plain = self.queries.iter().chain(&self.attributes);
        full.chain(plain.map(|name| name.len() + size_of::<Box<str>>())).sum()
    }
}

/// What `text` does.
pub fn classify(text: &[u8]) -> Class {
    stacker::maybe_grow(STACK_BYTES, STACK_BYTES, || parse(text)).unwrap_or_else(Class::Primary)
}

fn parse(text: &[u8]) -> Result<Class, Reason> {
    if text.len() > LENGTH_MAX {
        return Err(Reason::Long);
    }
    let text = core::str::from_utf8(text).map_err(|_| Reason::Encoding)?;
    let mut lexer = Lexer::new(text.as_bytes());
    lexer.by_ref().for_each(drop);
    if lexer.is_ambiguous() {
        return Err(Reason::Ambiguous);
    }
    let parsed = pg_query::parse(text, 0).map_err(|_| Reason::Unparsed)?;
    let mut statements = parsed.protobuf.stmts.into_iter();
    let Some(first) = statements.next() else { return Ok(Class::Read(Names::default())) };
    if statements.next().is_some() {
        return Err(Reason::Multiple);
    }
    statement(first.stmt.as_deref())
}

fn statement(node: Option<&Node>) -> Result<Class, Reason> {
    let node = node.and_then(|node| node.node.as_ref()).ok_or(Reason::Unparsed)?;
    if let NodeEnum::ExplainStmt(explain) = node {
        return explained(explain);
    }
    if let NodeEnum::CopyStmt(copy) = node {
        return copied(copy);
    }
    if let NodeEnum::TransactionStmt(transaction) = node {
        return bordered(transaction);
    }
    if let NodeEnum::SelectStmt(select) = node {
        return walk::read(&**select).map(Class::Read);
    }
    Err(walk::read(node).map_or_else(|reason| reason, |_| Reason::Unparsed))
}

/// EXPLAIN does what it explains, or less.
fn explained(explain: &ExplainStmt) -> Result<Class, Reason> {
    match statement(explain.query.as_deref())? {
        Class::Read(names) => Ok(Class::Read(names)),
        Class::Begin { .. } | Class::Primary(_) => Err(Reason::Holds("ExplainStmt")),
    }
}

fn copied(copy: &CopyStmt) -> Result<Class, Reason> {
    if copy.is_from || copy.is_program || !copy.filename.is_empty() {
        return Err(Reason::Holds("CopyStmt"));
    }
    match (&copy.relation, copy.query.as_deref()) {
        (Some(relation), None) => walk::read(relation).map(Class::Read),
        (None, query) => statement(query),
        (Some(_), Some(_)) => Err(Reason::Unparsed),
    }
}

fn bordered(transaction: &TransactionStmt) -> Result<Class, Reason> {
    let prepared = TransactionStmtKind::TransStmtCommitPrepared;
    if prepared as i32 == transaction.kind {
        // It ends what another session, or another node's client, has written.
        return Err(Reason::Holds("COMMIT PREPARED"));
    }
    let begins = [TransactionStmtKind::TransStmtBegin, TransactionStmtKind::TransStmtStart];
    if !begins.iter().any(|kind| *kind as i32 == transaction.kind) {
        return Err(Reason::Holds("TransactionStmt"));
    }
    let options = transaction.options.iter().filter_map(|node| match &node.node {
        Some(NodeEnum::DefElem(option)) => Some((option.defname.as_str(), option)),
        Some(_) | None => None,
    });
    let (mut read_only, mut serializable, mut plain) = (false, false, true);
    for (name, option) in options {
        match name {
            "transaction_read_only" => {
                read_only = walk::integer(option) == Some(1);
                plain = false;
            }
            "transaction_isolation" => {
                let level = walk::string(option);
                serializable = level.is_none_or(|level| level == "serializable");
                plain &= level.is_some_and(|level| level == "read committed");
            }
            _ => plain = false,
        }
    }
    Ok(Class::Begin { read_only, serializable, plain })
}

#[cfg(test)]
mod tests;
