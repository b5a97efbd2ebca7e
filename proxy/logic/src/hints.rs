//! What a text may do to its session, judged by the words in it: hints, never a parse tree.
//!
//! A hint may say too much, never too little of what is visible in the text. What a function does
//! inside is not visible; `DO`, `CALL` and `EXECUTE` are therefore taken for everything. A word
//! counts only where the grammar can mean it (`SET` at the start of a statement but not in an
//! `UPDATE`, `TEMP` after `CREATE` or `INTO`), because columns are called "temp" and "close" too.
//!
//! A string whose end depends on `standard_conforming_strings` is read both ways.

use crate::lexer::{Lexer, Token};
use core::ops::{BitOr, BitOrAssign};

mod deallocate;
mod names;
mod parameters;

/// What a text may do to its session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hints(u8);

impl Hints {
    /// Nothing that lasts.
    pub const NONE: Self = Self(0);
    /// Session parameters may change.
    pub const STATE: Self = Self(1);
    /// Something may come to be that cannot move to another server.
    pub const PIN: Self = Self(1 << 1);
    /// Something that could not move may be gone.
    pub const UNPIN: Self = Self(1 << 2);
    /// Prepared statements may be dropped.
    pub const STATEMENTS: Self = Self(1 << 3);
    /// A COPY.
    pub const COPY: Self = Self(1 << 4);
    /// More than one statement.
    pub const MULTI: Self = Self(1 << 5);
    /// The transaction may end, and with it what was done in it may last.
    pub const ENDS: Self = Self(1 << 6);

    /// Whether one of `others` is among them.
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Hints {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Hints {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What `text` may do to its session.
pub fn scan(text: &[u8]) -> Hints {
    let mut lexer = Lexer::new(text);
    let mut hints = read(&mut lexer);
    if lexer.is_ambiguous() {
        hints |= read(&mut Lexer::with_backslashes(text));
    }
    hints
}

/// What a DEALLOCATE drops.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deallocate {
    /// Every prepared statement.
    All,
    /// One of them.
    Name {
        /// Where its name starts in the text, quotes included.
        start: usize,
        /// Where it ends.
        end: usize,
        /// As `PostgreSQL` keeps it: folded or unquoted, and cut to 63 bytes.
        name: Vec<u8>,
    },
}

/// What `text` drops, if it is one DEALLOCATE and nothing else.
pub fn deallocate(text: &[u8]) -> Option<Deallocate> {
    deallocate::only(text)
}

/// A prepared statement that a text names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Naming {
    /// As `PostgreSQL` keeps it.
    pub name: Vec<u8>,
    /// By EXECUTE.
    pub runs: bool,
    /// By PREPARE.
    pub makes: bool,
    /// By DEALLOCATE.
    pub drops: bool,
}

/// The prepared statements that `text` names, in order; none if that cannot be told for certain.
pub fn statement_names(text: &[u8]) -> Option<Vec<Naming>> {
    names::all(text)
}

/// How many parameters with a dot in their name are followed, for one text and for one client;
/// where there are more, there may be any.
pub const CUSTOM_MAX: usize = 100;

/// Adds to `out` the parameters with a dot in their name that `text` may set, in lower case.
///
/// `false` if it may set others that cannot be told from the text: a `set_config` whose first
/// argument is no plain string, an UPDATE of `pg_settings`, a name with escapes; or if `out` would
/// grow beyond [`CUSTOM_MAX`].
pub fn custom_parameters(text: &[u8], out: &mut Vec<String>) -> bool {
    let known = parameters::custom(text, out);
    parameters::quoted(text, out) && known
}

/// The statement being read, as far as its first words matter.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Other,
    Set,
    /// `SET TRANSACTION` or `SET CONSTRAINTS`, unless these are names of parameters.
    SetMode,
    Prepare,
    /// `PREPARE TRANSACTION`, unless that is the statement's name.
    PrepareTransaction,
    Declare,
    Explain,
}

/// One statement while it is read.
struct Statement<'t> {
    kind: Kind,
    /// How many tokens it has so far.
    tokens: usize,
    /// The last two tokens; empty if they were no words.
    last: [&'t [u8]; 2],
    /// It makes something temporary that outlives its transaction.
    temporary: bool,
    updates: bool,
    names_settings: bool,
}

impl Statement<'_> {
    const EMPTY: Self = Self {
        kind: Kind::Other,
        tokens: 0,
        last: [b"", b""],
        temporary: false,
        updates: false,
        names_settings: false,
    };

    /// What is known only when it is whole.
    const fn hints(&self) -> Hints {
        let pin = if self.temporary { Hints::PIN.0 } else { 0 };
        // An UPDATE of that view calls set_config.
        let state = if self.updates && self.names_settings { Hints::STATE.0 } else { 0 };
        Hints(pin | state)
    }
}

fn read(lexer: &mut Lexer<'_>) -> Hints {
    let mut hints = Hints::NONE;
    let mut ended = false;
    let mut statement = Statement::EMPTY;
    for token in lexer {
        if token == Token::Semicolon {
            hints |= statement.hints();
            ended |= statement.tokens > 0;
            statement = Statement::EMPTY;
            continue;
        }
        if statement.tokens == 0 && ended {
            hints |= Hints::MULTI;
        }
        hints |= beginning(&mut statement, token);
        let mut word: &[u8] = b"";
        match token {
            Token::Word(bytes) => {
                hints |= inside(&mut statement, bytes);
                word = bytes;
            }
            Token::Quoted(inner) => hints |= named(inner),
            // Escapes may spell any name.
            Token::Escaped(_) => hints |= Hints::STATE | Hints::PIN,
            Token::String(_)
            | Token::Number(_)
            | Token::Parameter(_)
            | Token::Semicolon
            | Token::Symbol(_) => {}
        }
        statement.last = [statement.last[1], word];
        statement.tokens += 1;
    }
    hints | statement.hints()
}

/// What the first three tokens of a statement say.
fn beginning(statement: &mut Statement<'_>, token: Token<'_>) -> Hints {
    let word = if let Token::Word(word) = token { word } else { b"" };
    let (kind, hints) = match (statement.tokens, statement.kind) {
        (0, _) => first(word),
        (1, Kind::Set) if is_one_of(word, &["transaction", "constraints"]) => {
            (Kind::SetMode, Hints::NONE)
        }
        (1, Kind::Set) => (Kind::Other, Hints::STATE),
        (2, Kind::SetMode) if word.is_empty() || is(word, "to") => (Kind::Other, Hints::STATE),
        (1, Kind::Prepare) if is(word, "transaction") => (Kind::PrepareTransaction, Hints::NONE),
        (1, Kind::Prepare) => (Kind::Other, Hints::PIN),
        (2, Kind::PrepareTransaction) if !matches!(token, Token::String(_)) => {
            (Kind::Other, Hints::PIN)
        }
        (_, kind) => (kind, Hints::NONE),
    };
    statement.kind = kind;
    hints
}

/// What the first word of a statement says.
fn first(word: &[u8]) -> (Kind, Hints) {
    let mut buffer = [0; 16];
    // Most statements begin with none of these; that is told by their first letter and length.
    let plausible = matches!(
        (word.first().map_or(0, |letter| letter | 0x20), word.len()),
        (b'a' | b'r', 5)
            | (b'c', 4..=6)
            | (b'd', 2 | 4 | 7 | 10)
            | (b'e', 3 | 7)
            | (b'p', 7)
            | (b'l', 4 | 6)
            | (b'r' | b'u', 8)
            | (b's', 3)
    );
    let lower = if plausible { lowered(word, &mut buffer) } else { None };
    let Some(lower) = lower else { return (Kind::Other, Hints::NONE) };
    match lower {
        b"set" => (Kind::Set, Hints::NONE),
        b"reset" => (Kind::Other, Hints::STATE),
        b"do" | b"call" | b"execute" => (Kind::Other, Hints::STATE | Hints::PIN),
        b"discard" => (Kind::Other, Hints::STATE | Hints::UNPIN | Hints::STATEMENTS),
        b"deallocate" => (Kind::Other, Hints::UNPIN | Hints::STATEMENTS),
        b"listen" | b"load" => (Kind::Other, Hints::PIN),
        b"unlisten" | b"drop" | b"close" => (Kind::Other, Hints::UNPIN),
        b"rollback" | b"abort" => (Kind::Other, Hints::UNPIN | Hints::ENDS),
        b"commit" | b"end" => (Kind::Other, Hints::ENDS),
        b"copy" => (Kind::Other, Hints::COPY),
        b"prepare" => (Kind::Prepare, Hints::ENDS),
        b"declare" => (Kind::Declare, Hints::NONE),
        b"explain" => (Kind::Explain, Hints::NONE),
        _ => (Kind::Other, Hints::NONE),
    }
}

/// What a word says wherever it stands.
fn inside(statement: &mut Statement<'_>, word: &[u8]) -> Hints {
    let [before, last] = statement.last;
    match (word[0] | 0x20, word.len()) {
        (b't', 4 | 9) if is_one_of(word, &["temp", "temporary"]) => {
            let makers = ["create", "into", "local", "global", "replace"];
            statement.temporary |= is_one_of(last, &makers);
        }
        (b'd', 4) if is(word, "drop") && is(last, "commit") && is(before, "on") => {
            statement.temporary = false;
        }
        (b'h', 4) if statement.kind == Kind::Declare && is(word, "hold") && is(last, "with") => {
            return Hints::PIN;
        }
        (b'e', 7) if is(word, "execute") && (statement.kind == Kind::Explain || is(last, "as")) => {
            return Hints::STATE | Hints::PIN;
        }
        (b'u', 6) => statement.updates |= is(word, "update"),
        (b'p', 11) if is(word, "pg_settings") => statement.names_settings = true,
        (b'p' | b's' | b'd', 7..) => return named(word),
        _ => {}
    }
    Hints::NONE
}

/// What the name of a function or schema says, with or without quotes.
fn named(name: &[u8]) -> Hints {
    let Some(&[a, b, c]) = name.first_chunk() else { return Hints::NONE };
    let start = (a | 0x20, b | 0x20, c | 0x20);
    if !matches!(start, (b'p', b'g', _) | (b's', b'e', b't') | (b'd', b'b', b'l')) {
        return Hints::NONE;
    }
    let mut buffer = [0; 48];
    let Some(lower) = lowered(name, &mut buffer) else { return Hints::NONE };
    match lower {
        b"set_config" | b"set_limit" => Hints::STATE,
        b"setseed"
        | b"dblink_connect"
        | b"dblink_connect_u"
        | b"pg_backup_start"
        | b"pg_start_backup"
        | b"pg_create_logical_replication_slot"
        | b"pg_create_physical_replication_slot"
        | b"pg_copy_logical_replication_slot"
        | b"pg_copy_physical_replication_slot"
        | b"pg_replication_origin_session_setup" => Hints::PIN,
        b"dblink_disconnect"
        | b"pg_backup_stop"
        | b"pg_stop_backup"
        | b"pg_drop_replication_slot"
        | b"pg_replication_origin_session_reset" => Hints::UNPIN,
        _ if lower.starts_with(b"pg_temp") => Hints::PIN,
        _ if lower.starts_with(b"pg_advisory_unlock") => Hints::UNPIN,
        b"pg_advisory_lock"
        | b"pg_advisory_lock_shared"
        | b"pg_try_advisory_lock"
        | b"pg_try_advisory_lock_shared" => Hints::PIN,
        _ => Hints::NONE,
    }
}

fn is(word: &[u8], lower: &str) -> bool {
    word.eq_ignore_ascii_case(lower.as_bytes())
}

fn is_one_of(word: &[u8], lower: &[&str]) -> bool {
    lower.iter().any(|lower| is(word, lower))
}

/// `word` in lower case; `None` if it does not fit.
fn lowered<'b>(word: &[u8], buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let lower = buffer.get_mut(..word.len())?;
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::{Hints, scan};

    const NONE: Hints = Hints::NONE;
    const STATE: Hints = Hints::STATE;
    const PIN: Hints = Hints::PIN;
    const UNPIN: Hints = Hints::UNPIN;
    const STATEMENTS: Hints = Hints::STATEMENTS;
    const COPY: Hints = Hints::COPY;
    const MULTI: Hints = Hints::MULTI;
    const ENDS: Hints = Hints::ENDS;

    fn all_say(hints: Hints, texts: &[&str]) {
        for text in texts {
            assert_eq!(scan(text.as_bytes()), hints, "{text}");
        }
    }

    #[test]
    fn daily_statements_do_nothing_that_lasts() {
        all_say(
            NONE,
            &[
                "",
                ";;",
                "SELECT temp, hold, close, copy FROM sensors WHERE load > $1",
                "UPDATE t SET a = 1",
                "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = excluded.a",
                "BEGIN; ".trim_end_matches("; "),
                "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                "set constraints all deferred",
                "GRANT EXECUTE ON FUNCTION f TO bob",
                "CREATE TRIGGER a BEFORE UPDATE ON t EXECUTE FUNCTION f()",
                "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
                "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)",
                "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
                "SELECT name FROM pg_settings",
                "SELECT 'a' AS \"SET\"",
            ],
        );
    }

    #[test]
    fn words_in_comments_and_strings_are_not_said() {
        all_say(
            NONE,
            &[
                "SELECT 'set_config; LISTEN a'",
                "SELECT $$;LISTEN a;$$, $x$ set_config('a.b') $x$",
                "SELECT E'\\'; LISTEN a; --'",
                "-- ; LISTEN a\nSELECT 1",
                "/* ; /* LISTEN a */ ; SET a = 1 */ SELECT 1",
                "SELECT 1 -- set_config(",
                "SELECT '",
                "SELECT $q$ ; LISTEN a",
                "/* ; LISTEN a",
                "\u{feff}LISTEN a",
            ],
        );
    }

    #[test]
    fn what_changes_parameters_is_seen() {
        all_say(
            STATE,
            &[
                "set search_path = a",
                "/* x */ -- y\n SeT LOCAL a.b TO 1",
                "RESET ALL",
                "SET transaction.x = 1",
                "SET constraints TO 1",
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "SELECT pg_catalog.set_config ('a', 'b', false)",
                "WITH x AS (SELECT \"set_config\"('a', 'b', true)) SELECT 1",
                "UPDATE pg_settings SET setting = 'x' WHERE name = 'y'",
                "SELECT set_limit(0.5)",
            ],
        );
        all_say(
            STATE | PIN,
            &[
                "DO $$ BEGIN PERFORM 1; END $$",
                "call p()",
                "EXECUTE s(1)",
                "EXPLAIN (ANALYZE) EXECUTE s",
                "CREATE TABLE t AS EXECUTE s",
                "SELECT U&\"\\0073et_config\"('a', 'b', false)",
            ],
        );
    }

    #[test]
    fn what_cannot_move_is_seen_and_so_is_its_end() {
        all_say(
            PIN,
            &[
                "LISTEN a",
                "LOAD 'auto_explain'",
                "SELECT pg_advisory_lock(1)",
                "SELECT \"pg_catalog\".\"pg_try_advisory_lock_shared\"(1)",
                "CREATE TEMP TABLE t (a int)",
                "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1",
                "CREATE TEMP TABLE t AS SELECT commit drop FROM u",
                "SELECT 1 INTO LOCAL TEMP t",
                "CREATE TABLE pg_temp.t (a int)",
                "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
                "SELECT setseed(0.5)",
            ],
        );
        all_say(
            UNPIN,
            &["UNLISTEN *", "DROP TABLE t", "close c", "SELECT pg_advisory_unlock_all()"],
        );
        all_say(PIN | ENDS, &["PREPARE s AS SELECT 1", "PREPARE transaction AS SELECT 1"]);
        all_say(UNPIN | ENDS, &["ROLLBACK", "abort work", "ROLLBACK TO a"]);
        all_say(ENDS, &["COMMIT", "/* */ End", "PREPARE TRANSACTION 'x'", "commit prepared 'x'"]);
        all_say(NONE, &["SELECT 1 AS \"end\"", "BEGIN", "SAVEPOINT commit", "ended"]);
        all_say(UNPIN | STATEMENTS, &["DEALLOCATE ALL", "deallocate prepare s"]);
        all_say(STATE | UNPIN | STATEMENTS, &["DISCARD ALL", "discard plans"]);
        all_say(COPY, &["COPY t FROM STDIN", "copy (select 1) to stdout;"]);
    }

    #[test]
    fn every_statement_of_a_text_counts() {
        all_say(MULTI, &["SELECT 1; SELECT 2", ";SELECT 1;;SELECT 2;"]);
        all_say(NONE, &["SELECT 1;", "; SELECT 1 ; -- end\n ;"]);
        all_say(MULTI | STATE | PIN, &["SELECT 1; SET a = 1; LISTEN b"]);
        all_say(MULTI | PIN, &["CREATE TEMP TABLE t (a int); SELECT 1"]);
        // Which of the two it is depends on standard_conforming_strings.
        all_say(MULTI | PIN, &[r"SELECT 'a\'; LISTEN b; --'"]);
        all_say(MULTI | PIN, &[r"SELECT 'a\', '; LISTEN b; --'"]);
    }
}
