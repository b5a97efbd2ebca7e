//! `SHOW pgring.lsn`: where a client's writes end, as a token for other sessions.
//!
//! To a server that is an unknown parameter, so in its place it is sent a text that selects the
//! answer. A session that says `SET pgring.min_lsn` with it reads what the first one
//! has written, through any pgring before the same nodes.

use crate::config::Consistency;
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::client::Client;
use crate::lane::traffic::{Message, Step};
use crate::lane::{Lane, Out};
use crate::ledger::{Expect, Origin};
use crate::lexer::{Lexer, Token};
use crate::time::Instant;
use pgring_wire::client::{Parse, write};

impl Lane {
    /// Says another text in place of one that the server would misunderstand.
    pub(super) fn simple_rewritten(
        &mut self,
        id: ConnId,
        message: Message<'_>,
        (text, hints): (&[u8], Hints),
        actions: &mut Out,
    ) -> Option<Step> {
        let token = self.simple_token(id, message, text, actions);
        // Texts that drop statements have this hint.
        let drops = token.is_none() && hints.has(Hints::STATEMENTS);
        if drops { self.simple_deallocate(id, message, text, actions) } else { token }
    }

    /// The same, for an extended statement without a name.
    pub(super) fn extended_rewritten(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        parse: &Parse<'_>,
        actions: &mut Out,
    ) -> Option<Step> {
        let text = if asks(parse.text) && self.tells_place(id) {
            answer(self.clients.get(id)?).as_bytes().to_vec()
        } else if self.memo.scan(parse.text).has(Hints::STATEMENTS) {
            self.deallocated(id, parse.text, actions)?
        } else {
            return None;
        };
        let server = self.clients.get(id)?.server?;
        let body = [&text[..], &[0], parse.types].concat();
        let mut sent = Ok(());
        actions.write(server, |out| sent = write::parse(out, b"", &body));
        if let Err(error) = sent {
            return Some(self.too_long(now, id, error, actions));
        }
        if let Ok(view) = Parse::read(&[&[0], &body[..]].concat()) {
            let hints = self.memo.scan(view.text);
            self.parse_unnamed(id, &view, hints);
        }
        Some(Step::Took(message.shown.len()))
    }

    /// `SHOW pgring.lsn` as a simple Query.
    fn simple_token(
        &mut self,
        id: ConnId,
        message: Message<'_>,
        text: &[u8],
        actions: &mut Out,
    ) -> Option<Step> {
        if !asks(text) || !self.tells_place(id) {
            return None;
        }
        let client = self.clients.get_mut(id)?;
        let (server, answer) = (client.server?, answer(client));
        client.segment = client.segment.wrapping_add(1);
        actions.write(server, |out| write::query(out, answer.as_bytes()));
        self.push(id, Expect::Query, Origin::Client, 0);
        Some(Step::Took(message.shown.len()))
    }

    /// Whether it is followed where a client's writes end.
    fn tells_place(&self, id: ConnId) -> bool {
        let home = self.clients.get(id).and_then(|client| client.home);
        home.is_some_and(|home| {
            let level = self.pools[home].database.routing.consistency;
            self.is_routed(home) && level != Consistency::Eventual
        })
    }
}

/// What the primary is asked in place of the question: where its log ends, which is behind all that
/// the session has committed.
const ANSWER: &str =
    "SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text AS \"pgring.lsn\"";
/// A standby does not know what the session has committed elsewhere: no standby will do.
const NOBODY: &str = "SELECT 'FFFFFFFF/FFFFFFFF'::pg_catalog.text AS \"pgring.lsn\"";

/// What is said to the server of a client.
fn answer(client: &Client) -> &'static str {
    if client.pool == client.home { ANSWER } else { NOBODY }
}

/// Whether a text is `SHOW pgring.lsn`.
fn asks(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    if text.len() > 64 || !matches!(text.first(), Some(b's' | b'S')) {
        return false;
    }
    let words: [&[u8]; 3] = [b"show", b"pgring", b"lsn"];
    let mut words = words.into_iter();
    let mut rest = Lexer::new(text).filter(|token| *token != Token::Semicolon);
    let all = rest.by_ref().all(|token| match token {
        Token::Word(word) => words.next().is_some_and(|known| word.eq_ignore_ascii_case(known)),
        Token::Symbol(b'.') => words.len() == 1,
        Token::Quoted(_)
        | Token::Escaped(_)
        | Token::String(_)
        | Token::Number(_)
        | Token::Parameter(_)
        | Token::Semicolon
        | Token::Symbol(_) => false,
    });
    all && words.len() == 0
}

#[cfg(test)]
mod tests {
    use super::asks;

    #[test]
    fn the_question_is_known_however_it_is_written() {
        for text in ["SHOW pgring.lsn", " show  pgring.LSN ;", "show/**/pgring . lsn"] {
            assert!(asks(text.as_bytes()), "{text}");
        }
        for text in [
            "SHOW pgring.min_lsn",
            "SHOW pgring",
            "SHOW pgring.lsn.x",
            "SHOW 'pgring.lsn'",
            "SHOW pgring.lsn, pgring.lsn",
            "SELECT 1",
            "",
        ] {
            assert!(!asks(text.as_bytes()), "{text}");
        }
    }
}
