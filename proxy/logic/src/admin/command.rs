//! Reading a command, and who may give it.

mod shows;
mod verbs;

pub use shows::Show;

use crate::config::Config;
use crate::failover::verb::Verb;
use std::fmt;

/// A console command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Nothing but blanks and comments.
    Empty,
    /// Look at something.
    Show(Show),
    /// Read the file again.
    Reload,
    /// Take servers away from their clients as they become free. `None`: all databases.
    Pause(Option<String>),
    /// Go on.
    Resume(Option<String>),
    /// Replace servers as they become free.
    Reconnect(Option<String>),
    /// Close one client, by the `id` of SHOW CLIENTS.
    KillClient(u64),
    /// End the process.
    Shutdown(Shutdown),
    /// Say where a statement goes, and why.
    ExplainRoute {
        /// In which database; none: the only one that has reads on replicas.
        database: Option<String>,
        /// The statement.
        sql: String,
    },
    /// Something about the primary of a cluster.
    Cluster {
        /// Which; none: the only one whose primary is decided on here.
        cluster: Option<String>,
        /// What.
        verb: Verb,
    },
    /// `SELECT 1`, by which drivers ask whether anybody is there.
    SelectOne,
    /// Said by drivers and exporters on their own (SET, BEGIN...) and of no meaning here: the
    /// tag it is answered with.
    Ignored(&'static str),
}

/// When SHUTDOWN ends the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shutdown {
    /// At once.
    Now,
    /// When the last client has been sent away, each between its transactions.
    WaitForClients,
    /// When no server is busy.
    WaitForServers,
}

/// The commands beside SHOW, with a line of help.
pub const HELP: [(&str, &str); 16] = [
    ("EXPLAIN ROUTE [IN database] statement", "whether it goes to a replica, and why"),
    (
        "FAILOVER TO node [FORCE 'cluster'] [IN cluster] [DRY RUN]",
        "make a standby the primary, whatever is lost; DRY RUN says what",
    ),
    ("KILL_CLIENT id", "close the client with this id of SHOW CLIENTS"),
    ("PAUSE [database]", "close servers as they become free; answers when none is left"),
    ("PAUSE FAILOVER [IN cluster]", "no change of the primary that nobody asks for"),
    ("RECONNECT [database]", "replace servers as they become free"),
    ("REJOIN node [IN cluster] [DRY RUN]", "make a standby of a node that was a primary"),
    ("RELOAD", "read the config file again; a bad one is refused whole"),
    ("RESUME [database]", "end PAUSE"),
    ("RESUME FAILOVER [IN cluster]", "end PAUSE FAILOVER"),
    (
        "SET ROLE OVERRIDE node PRIMARY | NONE | DEFAULT [IN cluster] [DRY RUN]",
        "say what a node is: NONE gets nothing, DEFAULT leaves the quarantine",
    ),
    ("SET key = value", "accepted and ignored, for drivers that send it"),
    ("SHUTDOWN", "end the process now"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "send clients away between transactions, then end it"),
    ("SHUTDOWN WAIT_FOR_SERVERS", "end it when no server is busy"),
    (
        "SWITCHOVER TO node [IN cluster] [DRY RUN]",
        "make a standby the primary: nothing is lost, nobody disconnected",
    ),
];

/// How much of a wrong word is repeated in the message.
const ECHO_MAX: usize = 40;

/// Why a text is no command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CommandError {
    /// There is no command of this name.
    Unknown(String),
    /// SHOW cannot show this.
    UnknownShow(String),
    /// Something stands behind the end of the command.
    Unexpected(String),
    /// The command needs more words.
    Incomplete(&'static str),
    /// `KILL_CLIENT` wants a number.
    NotANumber(String),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "there is no console command \"{}\"", short(word)),
            Self::UnknownShow(word) => write!(f, "there is no SHOW {}", short(word)),
            Self::Unexpected(word) => {
                write!(f, "\"{}\" does not belong to the command", short(word))
            }
            Self::Incomplete(usage) => write!(f, "the command is incomplete: {usage}"),
            Self::NotANumber(word) => write!(f, "\"{}\" is not a client's id", short(word)),
        }
    }
}

fn short(word: &str) -> String {
    word.chars().filter(|letter| !letter.is_control()).take(ECHO_MAX).collect()
}

/// A word of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Token {
    /// As it stands.
    Word(String),
    /// Between quotes, without them.
    Quoted(String),
    /// `;`
    End,
}

impl Command {
    /// What `text` means.
    pub fn parse(text: &str) -> Result<Self, CommandError> {
        if let Some(rest) = behind(text, "EXPLAIN").and_then(|rest| behind(rest, "ROUTE")) {
            return explain_route(rest);
        }
        let tokens = tokens(text);
        let end = tokens.iter().position(|token| *token != Token::End);
        let Some(start) = end else { return Ok(Self::Empty) };
        let mut words = Words { tokens: tokens.into_iter().skip(start).collect(), next: 0 };
        let command = words.command()?;
        words.end(&command)?;
        Ok(command)
    }

    /// The right one needs to give it.
    pub fn needs(&self) -> Right {
        match self {
            Self::Empty
            | Self::Show(_)
            | Self::ExplainRoute { .. }
            | Self::SelectOne
            | Self::Ignored(_) => Right::Look,
            Self::Reload
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Reconnect(_)
            | Self::KillClient(_)
            | Self::Cluster { .. }
            | Self::Shutdown(_) => Right::All,
        }
    }

    /// The tag it is answered with.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Empty => "",
            Self::Show(_) => "SHOW",
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Reconnect(_) => "RECONNECT",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::ExplainRoute { .. } => "EXPLAIN",
            Self::Cluster { verb, .. } => verbs::tag(verb),
            Self::SelectOne => "SELECT 1",
            Self::Ignored(tag) => tag,
        }
    }
}

/// The words of one command, read from left to right.
struct Words {
    tokens: Vec<Token>,
    next: usize,
}

impl Words {
    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).filter(|token| **token != Token::End)?.clone();
        self.next += 1;
        Some(token)
    }

    fn word(&mut self) -> Option<String> {
        self.take().map(|token| match token {
            Token::Word(word) | Token::Quoted(word) => word,
            Token::End => String::new(),
        })
    }

    fn command(&mut self) -> Result<Command, CommandError> {
        let verb = self.word().unwrap_or_default();
        Ok(match verb.to_ascii_uppercase().as_str() {
            "SHOW" => Command::Show(self.show()?),
            "RELOAD" => Command::Reload,
            "PAUSE" if self.is_next("FAILOVER") => self.pause_failover(true)?,
            "RESUME" if self.is_next("FAILOVER") => self.pause_failover(false)?,
            "SWITCHOVER" => self.switchover()?,
            "FAILOVER" => self.failover()?,
            "REJOIN" => self.rejoin()?,
            "SET" if self.are_next(["ROLE", "OVERRIDE"]) => self.role_override()?,
            "PAUSE" => Command::Pause(self.word()),
            "RESUME" => Command::Resume(self.word()),
            "RECONNECT" => Command::Reconnect(self.word()),
            "KILL_CLIENT" => Command::KillClient(self.number()?),
            "SHUTDOWN" => Command::Shutdown(self.shutdown()?),
            "SELECT" => match self.word().as_deref() {
                Some("1") => Command::SelectOne,
                Some(_) | None => return Err(CommandError::Unknown(verb)),
            },
            "SET" | "RESET" => self.ignored("SET"),
            "DISCARD" => self.ignored("DISCARD"),
            "BEGIN" | "START" => self.ignored("BEGIN"),
            "COMMIT" | "END" => self.ignored("COMMIT"),
            "ROLLBACK" | "ABORT" => self.ignored("ROLLBACK"),
            _ => return Err(CommandError::Unknown(verb)),
        })
    }

    /// The rest of the command is not looked at.
    fn ignored(&mut self, tag: &'static str) -> Command {
        while self.take().is_some() {}
        Command::Ignored(tag)
    }

    fn show(&mut self) -> Result<Show, CommandError> {
        let Some(what) = self.word() else { return Ok(Show::Help) };
        Show::named(&what).ok_or(CommandError::UnknownShow(what))
    }

    fn number(&mut self) -> Result<u64, CommandError> {
        let word = self.word().ok_or(CommandError::Incomplete("KILL_CLIENT id"))?;
        word.parse().map_err(|_not| CommandError::NotANumber(word))
    }

    fn shutdown(&mut self) -> Result<Shutdown, CommandError> {
        let Some(word) = self.word() else { return Ok(Shutdown::Now) };
        match word.to_ascii_uppercase().as_str() {
            "WAIT_FOR_CLIENTS" => Ok(Shutdown::WaitForClients),
            "WAIT_FOR_SERVERS" => Ok(Shutdown::WaitForServers),
            _ => Err(CommandError::Unexpected(word)),
        }
    }

    /// Behind a command there is at most a semicolon; behind what has no effect, anything.
    fn end(&mut self, command: &Command) -> Result<(), CommandError> {
        if matches!(command, Command::Ignored(_)) {
            return Ok(());
        }
        let rest = self.tokens.iter().skip(self.next).find(|token| **token != Token::End);
        match rest {
            None | Some(Token::End) => Ok(()),
            Some(Token::Word(word) | Token::Quoted(word)) => {
                Err(CommandError::Unexpected(word.clone()))
            }
        }
    }
}

/// What stands behind a word at the start of `text`.
fn behind<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let text = text.trim_start();
    let (first, rest) = text.split_at_checked(word.len())?;
    let ends = rest.chars().next().is_none_or(char::is_whitespace);
    (ends && first.eq_ignore_ascii_case(word)).then_some(rest)
}

/// The statement of EXPLAIN ROUTE is taken as it stands.
fn explain_route(rest: &str) -> Result<Command, CommandError> {
    let (database, sql) = match behind(rest, "IN").map(str::trim_start) {
        None => (None, rest),
        Some(rest) => {
            let (name, rest) = if let Some(rest) = rest.strip_prefix('"') {
                quoted(rest, '"')
            } else {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            };
            (Some(name), rest)
        }
    };
    let sql = sql.trim();
    if sql.is_empty() {
        return Err(CommandError::Incomplete("EXPLAIN ROUTE [IN database] statement"));
    }
    Ok(Command::ExplainRoute { database, sql: sql.to_owned() })
}

/// Cuts a text into words; comments and blanks fall away.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = if let Some(behind) = rest.strip_prefix("--") {
            behind.split_once('\n').map_or("", |(_, next)| next)
        } else if let Some(behind) = rest.strip_prefix("/*") {
            behind.split_once("*/").map_or("", |(_, next)| next)
        } else if first == ';' {
            tokens.push(Token::End);
            &rest[1..]
        } else if first == '"' || first == '\'' {
            let (word, next) = quoted(&rest[1..], first);
            tokens.push(Token::Quoted(word));
            next
        } else if first == '=' {
            tokens.push(Token::Word("=".to_owned()));
            &rest[1..]
        } else {
            let stop = |letter: char| letter.is_whitespace() || ";\"'=".contains(letter);
            let len = rest.find(stop).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..len].to_owned()));
            &rest[len..]
        };
        rest = rest.trim_start();
    }
    tokens
}

/// The text up to the closing quote (a doubled one stands for itself), and what follows.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut word = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        if letter != quote {
            word.push(letter);
        } else if text[at + 1..].starts_with(quote) {
            word.push(quote);
            letters.next();
        } else {
            return (word, &text[at + 1..]);
        }
    }
    (word, "")
}

/// What a user may do in the console.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Right {
    /// Nothing.
    Nothing,
    /// SHOW.
    Look,
    /// Everything.
    All,
}

/// What `user` may do. A `pgring` that is not listed comes over the Unix socket with the process'
/// own uid; the lane lets nobody else in under this name.
pub fn right(config: &Config, user: &str) -> Right {
    let is = |name: &String| name == user;
    if config.admin_users.iter().any(is) {
        Right::All
    } else if config.stats_users.iter().any(is) {
        Right::Look
    } else if user == "pgring" {
        Right::All
    } else {
        Right::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, CommandError, Right, Show, Shutdown, right};
    use crate::admin::world::tests::sample;

    #[test]
    fn a_command_is_read_whatever_its_case_blanks_and_semicolons() {
        let some = |name: &str| Some(name.to_owned());
        let explain = |database: Option<&str>, sql: &str| Command::ExplainRoute {
            database: database.map(str::to_owned),
            sql: sql.to_owned(),
        };
        for (text, command) in [
            ("", Command::Empty),
            (" ; -- ping", Command::Empty),
            ("show pools", Command::Show(Show::Pools)),
            ("SHOW Stats_Totals ;", Command::Show(Show::StatsTotals)),
            ("show", Command::Show(Show::Help)),
            ("/* exporter */ SHOW \"databases\"", Command::Show(Show::Databases)),
            ("reload;", Command::Reload),
            ("PAUSE", Command::Pause(None)),
            ("pause Shop", Command::Pause(some("Shop"))),
            ("resume \"my \"\"db\"\"\";", Command::Resume(some("my \"db\""))),
            ("RECONNECT shop;", Command::Reconnect(some("shop"))),
            ("kill_client 42", Command::KillClient(42)),
            ("kill_client '42'", Command::KillClient(42)),
            ("shutdown", Command::Shutdown(Shutdown::Now)),
            ("SHUTDOWN wait_for_clients", Command::Shutdown(Shutdown::WaitForClients)),
            ("select 1", Command::SelectOne),
            ("explain route SELECT ';'", explain(None, "SELECT ';'")),
            (" Explain  ROUTE in shop  select 1;", explain(Some("shop"), "select 1;")),
            ("EXPLAIN ROUTE IN \"my shop\" x", explain(Some("my shop"), "x")),
            ("SET extra_float_digits=3", Command::Ignored("SET")),
            ("set application_name = 'a;b'", Command::Ignored("SET")),
            ("SET a TO 'b'; SET c TO 'd'", Command::Ignored("SET")),
            ("BEGIN", Command::Ignored("BEGIN")),
        ] {
            assert_eq!(Command::parse(text), Ok(command), "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_word_that_is_wrong() {
        let word = |text: &str| text.to_owned();
        for (text, error) in [
            ("drop table t", CommandError::Unknown(word("drop"))),
            ("select 2", CommandError::Unknown(word("select"))),
            ("show passwords", CommandError::UnknownShow(word("passwords"))),
            ("show pools users", CommandError::Unexpected(word("users"))),
            ("show pools; shutdown", CommandError::Unexpected(word("shutdown"))),
            ("kill_client", CommandError::Incomplete("KILL_CLIENT id")),
            ("kill_client -1", CommandError::NotANumber(word("-1"))),
            ("shutdown now", CommandError::Unexpected(word("now"))),
        ] {
            assert_eq!(Command::parse(text), Err(error), "{text}");
        }
        let long = CommandError::Unknown("x".repeat(100_000));
        assert!(long.to_string().len() < 100, "a long word is not repeated whole");
        assert_eq!(
            Command::parse("\"open").map_err(|error| error.to_string().is_empty()),
            Err(false)
        );
    }

    #[test]
    fn only_looking_is_free_for_those_who_may_look() {
        for text in ["show clients", "select 1", "set a = 1", ""] {
            assert_eq!(Command::parse(text).map(|command| command.needs()), Ok(Right::Look));
        }
        for text in [
            "reload",
            "pause",
            "resume",
            "reconnect",
            "kill_client 1",
            "shutdown",
            "shutdown wait_for_servers",
        ] {
            assert_eq!(Command::parse(text).map(|command| command.needs()), Ok(Right::All));
        }
    }

    #[test]
    fn users_have_the_rights_the_config_names() {
        let config = sample();
        for (user, expected) in [
            ("root", Right::All),
            ("pgring", Right::All),
            ("eve", Right::Look),
            ("bob", Right::Nothing),
            ("Root", Right::Nothing),
            ("", Right::Nothing),
        ] {
            assert_eq!(right(&config, user), expected, "{user}");
        }
        let mut config = config;
        config.stats_users.push("pgring".to_owned());
        assert_eq!(right(&config, "pgring"), Right::Look, "it may come from anywhere");
        assert!(Right::Nothing < Right::Look && Right::Look < Right::All);
    }
}
