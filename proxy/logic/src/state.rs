//! Session parameters that follow a client from server to server.
//!
//! Pgring does not guess what a text did to the session: when a text may have done something
//! (its `hints` say so), the server itself is asked at the end of the transaction, by
//! [`inspection`], which parameters differ from the session's start and what else holds the
//! session (listening, advisory locks, temporary tables...). So rolled-back, local and computed
//! settings come out right. At checkout a server whose parameters differ from the client's is
//! given the difference ([`replay`]) in front of the client's first message.
//!
//! Sets of parameters are interned: two clients that set the same are equal by address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// Session parameters by name (lower case), with their values as `current_setting` gives them.
pub type Parameters = BTreeMap<String, String>;

/// The interned sets of one lane.
#[derive(Debug, Default)]
pub struct States {
    sets: BTreeSet<Arc<Parameters>>,
    sweep_at: usize,
}

impl States {
    /// The one shared copy of these parameters.
    pub fn intern(&mut self, parameters: Parameters) -> Arc<Parameters> {
        if let Some(known) = self.sets.get(&parameters) {
            return Arc::clone(known);
        }
        if self.sets.len() >= self.sweep_at.max(64) {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            self.sweep_at = self.sets.len() * 2;
        }
        let shared = Arc::new(parameters);
        self.sets.insert(Arc::clone(&shared));
        shared
    }
}

/// What keeps a server with its client, as a set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pins(u8);

impl Pins {
    /// `LISTEN`.
    pub const LISTEN: Self = Self(1);
    /// A session-level advisory lock.
    pub const ADVISORY_LOCK: Self = Self(2);
    /// A temporary table, view or sequence.
    pub const TEMPORARY: Self = Self(4);
    /// A cursor declared WITH HOLD.
    pub const HOLD: Self = Self(8);
    /// A statement prepared by SQL.
    pub const PREPARED: Self = Self(16);
    /// Something that cannot be looked up, until DISCARD ALL.
    pub const UNKNOWN: Self = Self(32);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::LISTEN, "listen"),
        (Self::ADVISORY_LOCK, "advisory lock"),
        (Self::TEMPORARY, "temporary table"),
        (Self::HOLD, "cursor with hold"),
        (Self::PREPARED, "prepared statement"),
        (Self::UNKNOWN, "unknown session state"),
    ];

    /// Whether nothing pins.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// "listen, advisory lock".
    pub fn words(self) -> String {
        let named = Self::NAMES.iter().filter(|(pin, _)| self.contains(*pin));
        named.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// The most that an inspection may find, in bytes of names and values.
const INSPECTED_BYTES_MAX: usize = 256 << 10;

/// What an inspection found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inspected {
    /// Parameters set in this session.
    pub parameters: Parameters,
    /// What else holds the session.
    pub pins: Pins,
    bytes: usize,
}

impl Inspected {
    /// Takes in one row of [`inspection`]. A session with more than can be kept is pinned: it may
    /// be a client's doing, or a server's that answers without end.
    pub fn row(&mut self, kind: &[u8], name: &[u8], value: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match kind {
            b"g" if self.bytes + name.len() + value.len() > INSPECTED_BYTES_MAX => {
                self.pins.insert(Pins::UNKNOWN);
            }
            b"g" => {
                self.bytes += name.len() + value.len();
                // Names are compared in lower case: `DateStyle` is `datestyle`.
                self.parameters.insert(text(name).to_ascii_lowercase(), text(value));
            }
            b"l" => self.pins.insert(Pins::LISTEN),
            b"a" => self.pins.insert(Pins::ADVISORY_LOCK),
            b"t" => self.pins.insert(Pins::TEMPORARY),
            b"h" => self.pins.insert(Pins::HOLD),
            b"p" => self.pins.insert(Pins::PREPARED),
            _ => self.pins.insert(Pins::UNKNOWN),
        }
    }
}

/// Parameters that belong to a transaction, not to a session.
const OF_TRANSACTION: &str =
    "('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')";

/// The query that asks a server for its session state. Every name and operator is qualified, so
/// that a `search_path` cannot change its meaning. `login` is the user the server was logged in
/// as; `custom` are names with a dot, which `pg_settings` does not show.
pub fn inspection(login: &str, custom: &BTreeSet<String>) -> String {
    let eq = "OPERATOR(pg_catalog.=)";
    let ne = "OPERATOR(pg_catalog.<>)";
    let mut sql = format!(
        "SELECT 'g', s.name, pg_catalog.current_setting(s.name) FROM pg_catalog.pg_settings s \
         WHERE s.source {eq} 'session' AND s.context {ne} 'internal' \
         AND NOT (s.name {eq} ANY (ARRAY[{}]::pg_catalog.text[])) \
         UNION ALL SELECT 'g', 'role', pg_catalog.current_setting('role') \
         WHERE pg_catalog.current_setting('role') {ne} 'none' \
         UNION ALL SELECT 'g', 'session_authorization', session_user::pg_catalog.text \
         WHERE session_user::pg_catalog.text {ne} {} \
         UNION ALL (SELECT 'l', '', '' FROM pg_catalog.pg_listening_channels() LIMIT 1) \
         UNION ALL (SELECT 'a', '', '' FROM pg_catalog.pg_locks l WHERE l.locktype {eq} 'advisory' \
         AND l.pid {eq} pg_catalog.pg_backend_pid() LIMIT 1) \
         UNION ALL (SELECT 'h', '', '' FROM pg_catalog.pg_cursors c WHERE c.is_holdable LIMIT 1) \
         UNION ALL (SELECT 'p', '', '' FROM pg_catalog.pg_prepared_statements p \
         WHERE p.from_sql LIMIT 1) \
         UNION ALL (SELECT 't', '', '' FROM pg_catalog.pg_class t \
         WHERE t.relnamespace {eq} pg_catalog.pg_my_temp_schema() LIMIT 1)",
        OF_TRANSACTION.trim_matches(['(', ')']),
        literal(login),
    );
    for name in custom {
        let name = literal(name);
        let _infallible = write!(
            sql,
            " UNION ALL SELECT 'g', {name}, pg_catalog.current_setting({name}, true) WHERE \
             pg_catalog.current_setting({name}, true) {ne} ''"
        );
    }
    sql
}

/// The text that takes a session from parameters `from` to `to`; none if there is nothing to do.
///
/// Where anything must go, everything does: RESET ALL also reaches what cannot be looked up
/// (`hidden`: an earlier client may have set parameters that `pg_settings` does not show), and a
/// value like `DateStyle = 'SQL'` is relative to what was there. Roles are given up before
/// anything else and taken last, because what may be set depends on them.
pub fn replay(from: &Parameters, to: &Parameters, hidden: bool) -> Option<String> {
    let mut sql = String::new();
    let differs = |name: &str| from.get(name) != to.get(name);
    let relative = from.contains_key("datestyle") && differs("datestyle");
    let resets = hidden || relative || from.keys().any(|name| !to.contains_key(name));
    for role in ["role", "session_authorization"] {
        if from.contains_key(role) && (resets || differs(role)) {
            let _infallible = write!(sql, "RESET {role};");
        }
    }
    if resets {
        sql.push_str("RESET ALL;");
    }
    let changed = |name: &&String| resets || differs(name);
    let ordinary = to.keys().filter(|name| !is_role(name)).filter(changed);
    let authorization = to.keys().filter(|name| *name == "session_authorization").filter(changed);
    let role = to.keys().filter(|name| *name == "role").filter(changed);
    let mut separator = "SELECT ";
    for name in ordinary.chain(authorization).chain(role) {
        let (name, value) = (literal(name), literal(&to[name]));
        let _infallible = write!(sql, "{separator}pg_catalog.set_config({name}, {value}, false)");
        separator = ", ";
    }
    if sql.is_empty() { None } else { Some(sql) }
}

fn is_role(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

/// A string constant that means the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Session parameters in a startup packet: all but those with a meaning of their own, and those
/// within `options`. The error says what is wrong with `options`.
pub fn of_startup(startup: &[(String, String)]) -> Result<Parameters, String> {
    let mut parameters = Parameters::new();
    for (name, value) in startup.iter().filter(|(name, _)| name == "options") {
        debug_assert_eq!(name, "options");
        options(value, &mut parameters)?;
    }
    for (name, value) in startup {
        let own = matches!(name.as_str(), "user" | "database" | "replication" | "options");
        if !own && !name.starts_with("_pq_.") {
            parameters.insert(name.to_ascii_lowercase(), value.clone());
        }
    }
    Ok(parameters)
}

/// `-c name=value` and `--name=value`, with backslashes before spaces ("options" in the chapter
/// "libpq", "Parameter Key Words").
fn options(text: &str, parameters: &mut Parameters) -> Result<(), String> {
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or("-c is followed by nothing")?
        } else if let Some(rest) = word.strip_prefix("--") {
            rest.to_owned()
        } else if let Some(rest) = word.strip_prefix("-c") {
            rest.to_owned()
        } else {
            return Err(format!("{word} is not of the form -c name=value"));
        };
        let (name, value) =
            setting.split_once('=').ok_or_else(|| format!("{setting} has no value"))?;
        parameters.insert(name.to_ascii_lowercase().replace('-', "_"), value.to_owned());
    }
    Ok(())
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut open) = (Vec::new(), String::new(), false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                word.extend(characters.next());
                open = true;
            }
            space if space.is_ascii_whitespace() => {
                if open {
                    words.push(core::mem::take(&mut word));
                }
                open = false;
            }
            other => {
                word.push(other);
                open = true;
            }
        }
    }
    if open {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{Inspected, Parameters, Pins, States, inspection, of_startup, replay};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn set(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn equal_parameters_are_one() {
        let mut states = States::default();
        let one = states.intern(set(&[("a", "1")]));
        let two = states.intern(set(&[("a", "1")]));
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn a_replay_resets_everything_or_nothing() {
        let from = set(&[("work_mem", "1MB"), ("app.x", "1"), ("role", "bob")]);
        let to = set(&[("work_mem", "1MB"), ("session_authorization", "eve")]);
        assert_eq!(
            replay(&from, &to, false).as_deref(),
            Some(
                "RESET role;RESET ALL;SELECT pg_catalog.set_config('work_mem', '1MB', false), \
                 pg_catalog.set_config('session_authorization', 'eve', false)"
            )
        );
        let more = set(&[("work_mem", "1MB"), ("app.x", "2"), ("role", "bob")]);
        assert_eq!(
            replay(&from, &more, false).as_deref(),
            Some("SELECT pg_catalog.set_config('app.x', '2', false)")
        );
        assert_eq!(replay(&to, &to, false), None);
        assert_eq!(
            replay(&Parameters::new(), &Parameters::new(), true).as_deref(),
            Some("RESET ALL;")
        );
    }

    #[test]
    fn values_cannot_leave_their_quotes() {
        let to = set(&[("app.x", "a'b\\")]);
        let sql = replay(&Parameters::new(), &to, false).expect("it differs");
        assert!(sql.contains(" E'a''b\\\\'"), "{sql}");
        let custom = BTreeSet::from(["app.o'x".to_owned()]);
        assert!(inspection("bob", &custom).contains("'app.o''x'"));
    }

    #[test]
    fn options_are_session_parameters() {
        let pairs = |text: &str| {
            of_startup(&[
                ("user".to_owned(), "bob".to_owned()),
                ("options".to_owned(), text.to_owned()),
                ("DateStyle".to_owned(), "ISO".to_owned()),
            ])
        };
        assert_eq!(
            pairs("-c search_path=a,\\ b --work-mem=1MB"),
            Ok(set(&[("datestyle", "ISO"), ("search_path", "a, b"), ("work_mem", "1MB")]))
        );
        assert!(pairs("-d 5").is_err());
    }

    #[test]
    fn a_server_that_answers_an_inspection_without_end_fills_no_memory() {
        let mut found = Inspected::default();
        for number in 0..10_000 {
            found.row(b"g", format!("a.{number}").as_bytes(), &[b'x'; 1000]);
        }
        assert!(found.pins.contains(Pins::UNKNOWN) && found.parameters.len() < 300);
    }

    #[test]
    fn pins_are_named() {
        let mut found = Inspected::default();
        found.row(b"l", b"", b"");
        found.row(b"t", b"", b"");
        assert_eq!(found.pins.words(), "listen, temporary table");
        assert!(!found.pins.contains(Pins::HOLD));
    }
}
