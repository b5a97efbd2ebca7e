//! Reading what an operator wants of a cluster.

use crate::admin::command::{Command, CommandError, Token, Words};
use crate::failover::verb::{Override, Verb};
use std::sync::Arc;

const SWITCHOVER: &str = "SWITCHOVER TO node [IN cluster] [DRY RUN]";
const FAILOVER: &str = "FAILOVER TO node [FORCE 'cluster'] [IN cluster] [DRY RUN]";
const REJOIN: &str = "REJOIN node [IN cluster] [DRY RUN]";
const OVERRIDE: &str = "SET ROLE OVERRIDE node PRIMARY | NONE | DEFAULT [IN cluster] [DRY RUN]";
const PAUSE: &str = "PAUSE FAILOVER [IN cluster]";

/// The tag of what is answered.
pub(super) const fn tag(verb: &Verb) -> &'static str {
    match verb {
        Verb::Switchover { .. } => "SWITCHOVER",
        Verb::Failover { .. } => "FAILOVER",
        Verb::Rejoin { .. } => "REJOIN",
        Verb::Pause(true) => "PAUSE FAILOVER",
        Verb::Pause(false) => "RESUME FAILOVER",
        Verb::Override { .. } => "SET ROLE OVERRIDE",
    }
}

impl Words {
    /// Whether the next word is this one, which then is read.
    pub(super) fn is_next(&mut self, word: &str) -> bool {
        self.are_next([word])
    }

    /// The same for some words in a row. What is quoted is a name, and no word of the language.
    pub(super) fn are_next<const N: usize>(&mut self, words: [&str; N]) -> bool {
        let rest = self.tokens.iter().skip(self.next);
        let is = |(token, word): (&Token, &str)| match token {
            Token::Word(text) => text.eq_ignore_ascii_case(word),
            Token::Quoted(_) | Token::End => false,
        };
        let all = rest.zip(words).filter(|(token, word)| is((token, word))).count() == N;
        self.next += if all { N } else { 0 };
        all
    }

    fn name(&mut self, usage: &'static str) -> Result<Arc<str>, CommandError> {
        self.word().map(Into::into).ok_or(CommandError::Incomplete(usage))
    }

    /// The words that may stand behind all of them.
    fn rest(&mut self, usage: &'static str) -> Result<(Option<String>, bool), CommandError> {
        let named = self.is_next("IN");
        let cluster = if named { Some(self.name(usage)?.to_string()) } else { None };
        Ok((cluster, self.are_next(["DRY", "RUN"])))
    }

    pub(super) fn pause_failover(&mut self, pause: bool) -> Result<Command, CommandError> {
        let (cluster, dry) = self.rest(PAUSE)?;
        if dry {
            return Err(CommandError::Unexpected("DRY RUN".to_owned()));
        }
        Ok(Command::Cluster { cluster, verb: Verb::Pause(pause) })
    }

    fn target(&mut self, usage: &'static str) -> Result<Arc<str>, CommandError> {
        if !self.is_next("TO") {
            return Err(CommandError::Incomplete(usage));
        }
        self.name(usage)
    }

    pub(super) fn switchover(&mut self) -> Result<Command, CommandError> {
        let to = self.target(SWITCHOVER)?;
        let (cluster, dry) = self.rest(SWITCHOVER)?;
        Ok(Command::Cluster { cluster, verb: Verb::Switchover { to, dry } })
    }

    pub(super) fn failover(&mut self) -> Result<Command, CommandError> {
        let to = self.target(FAILOVER)?;
        let forced = self.is_next("FORCE");
        let force = if forced { Some(self.name(FAILOVER)?) } else { None };
        let (cluster, dry) = self.rest(FAILOVER)?;
        Ok(Command::Cluster { cluster, verb: Verb::Failover { to, force, dry } })
    }

    pub(super) fn rejoin(&mut self) -> Result<Command, CommandError> {
        let node = self.name(REJOIN)?;
        let (cluster, dry) = self.rest(REJOIN)?;
        Ok(Command::Cluster { cluster, verb: Verb::Rejoin { node, dry } })
    }

    pub(super) fn role_override(&mut self) -> Result<Command, CommandError> {
        let node = self.name(OVERRIDE)?;
        let role = if self.is_next("PRIMARY") {
            Override::Primary
        } else if self.is_next("NONE") {
            Override::None
        } else if self.is_next("DEFAULT") {
            Override::Default
        } else {
            return Err(CommandError::Incomplete(OVERRIDE));
        };
        let (cluster, dry) = self.rest(OVERRIDE)?;
        Ok(Command::Cluster { cluster, verb: Verb::Override { node, role, dry } })
    }
}

#[cfg(test)]
mod tests {
    use super::Override;
    use crate::admin::command::{Command, CommandError, Right};
    use crate::failover::verb::Verb;

    #[test]
    fn verbs_are_read_with_all_that_belongs_to_them() {
        let some = |name: &str| Some(name.to_owned());
        let to = || "pg2".into();
        for (text, cluster, verb) in [
            ("switchover to pg2", None, Verb::Switchover { to: to(), dry: false }),
            (
                "SWITCHOVER TO pg2 IN main DRY RUN;",
                some("main"),
                Verb::Switchover { to: to(), dry: true },
            ),
            ("failover to pg2", None, Verb::Failover { to: to(), force: None, dry: false }),
            (
                "FAILOVER TO \"pg2\" FORCE 'main' IN x",
                some("x"),
                Verb::Failover { to: to(), force: Some("main".into()), dry: false },
            ),
            ("REJOIN pg2 dry run", None, Verb::Rejoin { node: to(), dry: true }),
            ("PAUSE FAILOVER", None, Verb::Pause(true)),
            ("resume failover in main", some("main"), Verb::Pause(false)),
            (
                "SET ROLE OVERRIDE pg2 PRIMARY",
                None,
                Verb::Override { node: to(), role: Override::Primary, dry: false },
            ),
            (
                "set role override pg2 default",
                None,
                Verb::Override { node: to(), role: Override::Default, dry: false },
            ),
        ] {
            let command = Command::Cluster { cluster, verb };
            assert_eq!(Command::parse(text), Ok(command.clone()), "{text}");
            assert_eq!(command.needs(), Right::All);
        }
        assert_eq!(Command::parse("PAUSE \"failover\""), Ok(Command::Pause(some("failover"))));
        assert_eq!(Command::parse("SET role TO x"), Ok(Command::Ignored("SET")));
    }

    #[test]
    fn half_a_verb_does_nothing() {
        for text in [
            "switchover",
            "switchover pg2",
            "switchover to",
            "failover to pg2 force",
            "set role override pg2",
            "set role override pg2 boss",
            "rejoin",
        ] {
            assert!(matches!(Command::parse(text), Err(CommandError::Incomplete(_))), "{text}");
        }
        for text in ["switchover to pg2 now", "rejoin a b", "failover to a dry", "pause failover x"]
        {
            assert!(matches!(Command::parse(text), Err(CommandError::Unexpected(_))), "{text}");
        }
        assert!(Command::parse("promote pg2").is_err());
    }
}
