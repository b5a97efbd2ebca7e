//! One table of the file, read key by key: every key is optional and laid over its default.
//!
//! The table notes which keys it was asked for, so that in the end it can name those nobody knows,
//! and which of the known ones they look like.

use crate::config::error::Errors;
use crate::time::Duration;
use core::ops::RangeInclusive;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// `PgBouncer`'s names, for those who come from there, and where the same thing is here.
const ELSEWHERE: [(&str, &str); 18] = [
    ("auth_file", "auth.users_file"),
    ("auth_type", "auth.method"),
    ("client_login_timeout", "auth.login_timeout"),
    ("default_pool_size", "pool.size"),
    ("idle_transaction_timeout", "pool.idle_transaction_timeout"),
    ("listen_addr", "listen"),
    ("listen_port", "listen"),
    ("max_client_conn", "limits.clients_max"),
    ("max_db_client_connections", "pool.max_database_clients"),
    ("max_db_connections", "pool.max_database_servers"),
    ("max_prepared_statements", "pool.prepared_statements"),
    ("max_user_client_connections", "pool.max_user_clients"),
    ("max_user_connections", "pool.max_user_servers"),
    ("min_pool_size", "pool.min_size"),
    ("pool_mode", "pool.mode"),
    ("reserve_pool_size", "pool.reserve_size"),
    ("reserve_pool_timeout", "pool.reserve_timeout"),
    ("server_idle_timeout", "pool.server_idle_timeout"),
];

/// The longest time that can be asked for: ten years.
const TIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A value and the line it is on.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// A key, and what it is set to.
type Entry<'t> = At<Spanned<DeValue<'t>>>;

/// One table of the file.
#[derive(Debug)]
pub(super) struct Table<'t> {
    /// The line it starts on.
    pub(super) line: usize,
    /// `pool.` for the keys of `[pool]`; empty at the top.
    prefix: String,
    entries: BTreeMap<String, Entry<'t>>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    /// The table at `line`; `prefix` goes before its keys where they are named.
    pub(super) fn new(line: usize, prefix: String, table: DeTable<'t>, errors: &Errors) -> Self {
        let entry = |(key, value): (Spanned<std::borrow::Cow<'t, str>>, Spanned<DeValue<'t>>)| {
            let line = errors.line(&key.span());
            (key.into_inner().into_owned(), At { line, value })
        };
        Self { line, prefix, entries: table.into_iter().map(entry).collect(), known: Vec::new() }
    }

    /// The key as errors name it.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An error at this line of this table.
    pub(super) fn blame(
        &self,
        line: usize,
        key: &str,
        message: impl Into<String>,
        errors: &mut Errors,
    ) {
        errors.push(line, &self.name(key), message);
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str, errors: &mut Errors) -> Option<At<String>> {
        let At { line, value } = self.take::<String>(key, errors)?;
        if value.contains('\0') {
            self.blame(line, key, "a text has no zero byte", errors);
            return None;
        }
        Some(At { line, value })
    }

    /// A text that says something.
    pub(super) fn name_of(&mut self, key: &'static str, errors: &mut Errors) -> Option<At<String>> {
        let At { line, value } = self.text(key, errors)?;
        if value.is_empty() {
            self.blame(line, key, "is empty", errors);
            return None;
        }
        Some(At { line, value })
    }

    /// A list of texts.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        errors: &mut Errors,
    ) -> Option<At<Vec<At<String>>>> {
        let At { line, value } = self.take::<Vec<Spanned<String>>>(key, errors)?;
        let at = |text: Spanned<String>| At {
            line: errors.line(&text.span()),
            value: text.into_inner(),
        };
        Some(At { line, value: value.into_iter().map(at).collect() })
    }

    /// A whole number in `range`.
    pub(super) fn number<N: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
        slot: &mut N,
        errors: &mut Errors,
    ) {
        let Some(At { line, value }) = self.take::<i64>(key, errors) else { return };
        if let (true, Ok(number)) = (range.contains(&value), N::try_from(value)) {
            *slot = number;
            return;
        }
        let message = format!("{value} is not in {} to {}", range.start(), range.end());
        self.blame(line, key, message, errors);
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &'static str, slot: &mut bool, errors: &mut Errors) {
        if let Some(At { value, .. }) = self.take::<bool>(key, errors) {
            *slot = value;
        }
    }

    /// A time; zero and "off" switch it off.
    pub(super) fn timeout(&mut self, key: &'static str, slot: &mut Duration, errors: &mut Errors) {
        self.time(key, Duration::ZERO, slot, errors);
    }

    /// A time of at least `min`.
    pub(super) fn time(
        &mut self,
        key: &'static str,
        min: Duration,
        slot: &mut Duration,
        errors: &mut Errors,
    ) {
        let Some(At { line, value }) = self.take::<Quantity>(key, errors) else { return };
        match value.time() {
            Ok(time) if time.is_zero() && !min.is_zero() => {
                self.blame(line, key, "cannot be switched off", errors);
            }
            Ok(time) if time < min => {
                self.blame(line, key, format!("{value} is less than {min:?}"), errors);
            }
            Ok(time) if time > TIME_MAX => {
                self.blame(line, key, format!("{value} is more than ten years"), errors);
            }
            Ok(time) => *slot = time,
            Err(message) => self.blame(line, key, message, errors),
        }
    }

    /// An amount of memory, in KiB from `range`.
    pub(super) fn bytes(
        &mut self,
        key: &'static str,
        range_kib: RangeInclusive<usize>,
        slot: &mut usize,
        errors: &mut Errors,
    ) {
        let Some(At { line, value }) = self.take::<Quantity>(key, errors) else { return };
        let (min, max) = (range_kib.start() * 1024, range_kib.end() * 1024);
        match value.bytes() {
            Ok(bytes) if (min..=max).contains(&bytes) => *slot = bytes,
            Ok(_) => {
                let (min, max) = (range_kib.start(), range_kib.end());
                let message = format!("{value} is not in {min}KiB to {max}KiB");
                self.blame(line, key, message, errors);
            }
            Err(message) => self.blame(line, key, message, errors),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        slot: &mut T,
        errors: &mut Errors,
    ) {
        let Some(At { line, value }) = self.text(key, errors) else { return };
        if let Some((_, choice)) = words.iter().find(|(word, _)| *word == value) {
            *slot = *choice;
            return;
        }
        let list: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let message = match nearest(&value, list.iter().copied()) {
            Some(word) => format!("unknown value {value:?}; did you mean {word:?}?"),
            None => format!("unknown value {value:?}; one of {}", list.join(", ")),
        };
        self.blame(line, key, message, errors);
    }

    /// The table under this key.
    pub(super) fn table(&mut self, key: &'static str, errors: &mut Errors) -> Option<Self> {
        let At { line, value } = self.entry(key)?;
        let kind = value.get_ref().type_str();
        let DeValue::Table(table) = value.into_inner() else {
            let message = format!("expected a table, [{}], found a {kind}", self.name(key));
            self.blame(line, key, message, errors);
            return None;
        };
        Some(Table::new(line, format!("{}.", self.name(key)), table, errors))
    }

    /// The tables under this key; `None` if there is no such key.
    pub(super) fn tables(&mut self, key: &'static str, errors: &mut Errors) -> Option<Vec<Self>> {
        let At { line, value } = self.entry(key)?;
        let DeValue::Array(array) = value.into_inner() else {
            let message = format!("expected tables, each under its own [[{}]]", self.name(key));
            self.blame(line, key, message, errors);
            return Some(Vec::new());
        };
        let mut tables = Vec::new();
        for value in array {
            let line = errors.line(&value.span());
            let kind = value.get_ref().type_str();
            if let DeValue::Table(table) = value.into_inner() {
                let prefix = format!("{}.", self.name(key));
                tables.push(Table::new(line, prefix, table, errors));
            } else {
                self.blame(line, key, format!("expected a table, found a {kind}"), errors);
            }
        }
        Some(tables)
    }

    /// Names what nobody has asked for.
    pub(super) fn finish(self, errors: &mut Errors) {
        for (key, At { line, .. }) in &self.entries {
            let message = match nearest(key, self.known.iter().copied()) {
                Some(known) => format!("unknown key; did you mean {known:?}?"),
                None => match ELSEWHERE.iter().find(|(name, _)| name == key) {
                    Some((_, here)) => format!("unknown key; here it is {here}"),
                    None => "unknown key".to_owned(),
                },
            };
            self.blame(*line, key, message, errors);
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<Entry<'t>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    fn take<T: Deserialize<'t>>(
        &mut self,
        key: &'static str,
        errors: &mut Errors,
    ) -> Option<At<T>> {
        let At { line, value } = self.entry(key)?;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(At { line, value }),
            Err(error) => {
                let line = error.span().map_or(line, |span| errors.line(&span));
                // Serde names its own types; operators know others.
                let message = error.message();
                let message = message.replace("i64", "a whole number");
                self.blame(line, key, message.replace("a sequence", "a list"), errors);
                None
            }
        }
    }
}

/// A number with its unit, as written: "15s", "64KiB", or a bare number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number with its unit, as in \"15s\" or \"64KiB\"")]
enum Quantity {
    Bare(i64),
    Written(String),
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bare(number) => write!(f, "{number}"),
            Self::Written(text) => write!(f, "{text:?}"),
        }
    }
}

impl Quantity {
    /// "1h30m" is the sum of its parts; zero needs no unit.
    fn time(&self) -> Result<Duration, String> {
        const WRONG: &str = "is no time; write it as in \"200ms\", \"15s\", \"10m\", \"1h\"";
        let text = match self {
            Self::Bare(0) => return Ok(Duration::ZERO),
            Self::Bare(number) => {
                return Err(format!("{number} needs a unit, as in \"{number}s\""));
            }
            Self::Written(text) => text.trim(),
        };
        if text == "0" || text == "off" {
            return Ok(Duration::ZERO);
        }
        let wrong = || format!("{self} {WRONG}");
        let mut rest = text;
        let mut sum = Duration::ZERO;
        while !rest.is_empty() {
            let (number, unit, after) = split(rest).ok_or_else(wrong)?;
            let one = match unit {
                "us" => Duration::from_micros(1),
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" | "min" => Duration::from_secs(60),
                "h" => Duration::from_secs(60 * 60),
                "d" => Duration::from_secs(24 * 60 * 60),
                "" => return Err(format!("{self} needs a unit, as in \"{number}s\"")),
                _ => return Err(wrong()),
            };
            let part = one.checked_mul(number).ok_or_else(wrong)?;
            sum = sum.checked_add(part).ok_or_else(wrong)?;
            rest = after.trim_start();
        }
        if text.is_empty() { Err(wrong()) } else { Ok(sum) }
    }

    fn bytes(&self) -> Result<usize, String> {
        let text = match self {
            Self::Bare(0) => return Ok(0),
            Self::Bare(number) => {
                return Err(format!("{number} needs a unit, as in \"{number}KiB\""));
            }
            Self::Written(text) => text.trim(),
        };
        let wrong = || format!("{self} is no size; write it as in \"512B\", \"64KiB\", \"8MiB\"");
        let (number, unit, rest) = split(text).ok_or_else(wrong)?;
        let one: usize = match unit {
            "B" => 1,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" if number == 0 => 0,
            _ => return Err(wrong()),
        };
        let bytes = usize::try_from(number).ok().and_then(|number| number.checked_mul(one));
        bytes.filter(|_| rest.is_empty()).ok_or_else(wrong)
    }
}

/// The number `text` starts with, its unit, and what follows.
fn split(text: &str) -> Option<(u32, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, rest))
}

/// The word that `text` was probably meant to be.
fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |word: &str| strsim::damerau_levenshtein(&text.to_ascii_lowercase(), word);
    words
        .map(|word| (distance(word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| word)
}
