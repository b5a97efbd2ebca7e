//! The unnamed prepared statement: each client's own, on servers that have room for one.
//!
//! Its text is kept by its client. A server has one unnamed statement and knows it by whoever
//! parsed it last, so it is parsed again only where something else was unnamed since.

use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::client::{Client, Unnamed};
use crate::lane::rename::NO_UNNAMED;
use crate::lane::server::{Far, Server, purpose};
use crate::lane::statements::Name;
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Expect, Origin, SAME};
use pgring_wire::client::{Parse, write};

impl Client {
    /// Whether a Parse of the text it parsed last changes nothing but the time of that: what was
    /// said in an earlier segment may yet be taken back without this.
    pub(super) fn is_sure_of_unnamed(&self, far: &Server) -> bool {
        self.unnamed.as_ref().is_some_and(|last| last.segment == self.segment)
            || !far.ledger.is_parsing_same() && self.changes.iter().all(|c| !c.name.is_empty())
    }

    /// Its unnamed statement is about to be parsed by this server. Even of the same text it is
    /// another one: what another server has of it was parsed at another time.
    pub(super) fn parses_unnamed(&mut self, id: ConnId, far: &mut Server) {
        let Some(last) = &mut self.unnamed else { return };
        self.unnamed_last += 1;
        (last.sequence, last.segment) = (self.unnamed_last, self.segment);
        far.unnamed = Some((id, last.sequence));
        far.unnamed_segment = self.segment;
    }
}

impl Lane {
    /// A Parse without a name is about to be sent; `hints` are those of its text.
    pub(super) fn parse_unnamed(&mut self, id: ConnId, parse: &Parse<'_>, hints: Hints) {
        self.note_hints(id, hints, Some(parse.text));
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(server) = client.server else { return };
        let Some(far) = self.servers.get_mut(server).and_then(Far::server_mut) else { return };
        if far.ledger.is_skipping() {
            far.ledger.push(Expect::Parse, Origin::Client, 0);
            return;
        }
        // With nothing under way before it, only its own failure can undo it.
        let alone = !far.ledger.is_waiting() && !far.ledger.is_unsynced();
        client.unnamed.get_or_insert_default();
        let sure = client.is_sure_of_unnamed(far);
        let last = client.unnamed.get_or_insert_default();
        let same = last.body == parse.body_after_name && sure;
        let mut before = None;
        if !same && !alone {
            before = Some(core::mem::replace(last, self.spare.pop().unwrap_or_default()));
        }
        if !same {
            last.body.clear();
            last.body.extend_from_slice(parse.body_after_name);
        }
        last.hints = hints;
        client.parses_unnamed(id, far);
        if before.is_some() {
            self.change_unnamed(id, Expect::Parse, before);
        } else {
            let (expect, origin) = (Expect::Parse, Origin::Client);
            far.ledger.push_entry(Entry { expect, origin, mark: 0, change: SAME });
        }
    }

    /// Makes sure that the unnamed statement of the server is this client's.
    pub(super) fn ensure_unnamed(
        &mut self,
        id: ConnId,
        server: ConnId,
        actions: &mut Out,
    ) -> Option<Name> {
        let client = self.clients.get(id)?;
        let last = client.unnamed.as_ref();
        let far = self.servers.get_mut(server)?.server_mut()?;
        // A Parse of an earlier segment whose end has not been answered may have been skipped; then
        // another's statement is there.
        let sure = far.unnamed_segment == client.segment || !far.ledger.is_behind();
        let maybe_lost = !sure && last.is_some_and(|unnamed| !unnamed.body.is_empty());
        let theirs = last.map(|unnamed| (id, unnamed.sequence));
        if far.unnamed.is_some() && far.unnamed == theirs && !maybe_lost {
            let hints = last.map_or(Hints::NONE, |unnamed| unnamed.hints);
            if !hints.is_empty() {
                let text = last.filter(|_| hints.has(Hints::STATE));
                let text = text.map(|last| super::lending::text_of(&last.body).to_vec());
                self.note_hints(id, hints, text.as_deref().filter(|text| !text.is_empty()));
            }
            return None;
        }
        let mine = last.filter(|unnamed| !unnamed.body.is_empty());
        let wanted = mine.map(|unnamed| (id, unnamed.sequence));
        let Some(wanted) = wanted else {
            // The client has none. If the server has one it is another's: a name that nobody
            // has lets the server say that there is none.
            return far.unnamed.is_some().then_some(Name::Other(NO_UNNAMED.as_bytes().into()));
        };
        let unnamed = mine?;
        let hints = unnamed.hints;
        let body = &unnamed.body;
        let mut sent = Ok(());
        actions.write(server, |out| sent = write::parse(out, b"", body));
        assert!(sent.is_ok(), "a statement that is kept is far below the largest message");
        far.unnamed = Some(wanted);
        far.unnamed_segment = client.segment;
        far.ledger.push(Expect::Parse, Origin::Own, purpose::PARSE);
        let read = hints.has(Hints::STATE);
        let text = read.then(|| super::lending::text_of(&unnamed.body).to_vec());
        self.note_hints(id, hints, text.as_deref());
        None
    }

    /// The unnamed statement of the server is about to be this client's, with a text that is not
    /// kept. The ledger is told of its Parse.
    pub(super) fn own_unnamed(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let before = client.unnamed.replace(Box::default());
        let far = client.server.and_then(|server| self.servers.get_mut(server));
        if let Some(far) = far.and_then(Far::server_mut) {
            client.parses_unnamed(id, far);
        }
        self.change_unnamed(id, Expect::Parse, before);
    }

    /// A simple Query drops the unnamed statement, here as there. What it was is returned where
    /// the server may yet skip the Query.
    pub(super) fn forget_unnamed(&mut self, id: ConnId) -> Option<Box<Unnamed>> {
        let client = self.clients.get_mut(id)?;
        let far = self.servers.get_mut(client.server?)?.server_mut()?;
        if far.ledger.is_skipping() {
            return None;
        }
        far.unnamed = None;
        let unnamed = client.unnamed.as_mut().filter(|unnamed| !unnamed.body.is_empty())?;
        // Nor is it what another server still has of this client.
        client.unnamed_last += 1;
        let sequence = client.unnamed_last;
        if !far.ledger.is_unsynced() {
            unnamed.body.clear();
            unnamed.sequence = sequence;
            return None;
        }
        let none = Unnamed { sequence, segment: client.segment, ..Unnamed::default() };
        client.unnamed.replace(Box::new(none))
    }
}

#[cfg(test)]
mod tests {
    use crate::lane::trial::{ANSWERED, Trial, query};
    use pgring_wire::backend::write as say;
    use pgring_wire::client::write;

    const READY: &[u8] = b"Z\0\0\0\x05I";

    fn parse(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write::parse(&mut out, b"", format!("{text}\0\0\0").as_bytes()).expect("a short text");
        out
    }

    fn bind() -> Vec<u8> {
        let mut out = Vec::new();
        write::bind(&mut out, b"", b"");
        write::execute(&mut out, b"");
        write::sync(&mut out);
        out
    }

    fn sync() -> Vec<u8> {
        let mut out = Vec::new();
        write::sync(&mut out);
        out
    }

    fn parsed() -> Vec<u8> {
        let mut out = Vec::new();
        say::parse_complete(&mut out);
        [&out[..], READY].concat()
    }

    fn failed() -> Vec<u8> {
        let mut out = Vec::new();
        say::error(&mut out, &say::ErrorText::error("42601", "no"));
        [&out[..], READY].concat()
    }

    /// A client that has parsed `SELECT 1` without a name.
    fn prepared() -> Trial {
        let mut trial = Trial::start("");
        trial.client_says(&query("SELECT 0"));
        trial.server_says(&[b"C\0\0\0\x0dSELECT 1\0", READY].concat().repeat(2));
        trial.client_says(&[parse("SELECT 1"), sync()].concat());
        trial.server_says(&parsed());
        trial
    }

    /// Whether a Bind of the unnamed statement goes to the server as it is.
    fn binds(trial: &mut Trial) -> bool {
        trial.client_says(&bind());
        trial.said_to(trial.server).is_empty()
    }

    #[test]
    fn the_same_text_again_is_the_same_statement_and_one_that_fails_is_none() {
        let mut trial = prepared();
        trial.client_says(&[parse("SELECT 1"), sync(), parse("SELECT 1"), sync()].concat());
        trial.server_says(&parsed().repeat(2));
        assert!(binds(&mut trial));
        let mut trial = prepared();
        trial.client_says(&[parse("SELECT 1"), sync()].concat());
        trial.server_says(&failed());
        trial.client_says(&bind());
        let told = trial.said_to(trial.server);
        assert!(told.windows(2).any(|bytes| bytes == b"no"), "{}", told.escape_ascii());
    }

    /// Seed 0 of the simulator: the first `SELECT 2` is skipped, the second is not.
    #[test]
    fn the_same_text_in_the_next_segment_is_not_taken_back_with_the_first() {
        let mut trial = prepared();
        let broken = [bind()[..bind().len() - 5].to_vec(), parse("SELECT 2"), sync()].concat();
        trial.client_says(&[broken, parse("SELECT 2"), sync()].concat());
        trial.server_says(&[failed(), parsed()].concat());
        trial.client_says(&bind());
        let told = trial.said_to(trial.server);
        assert_eq!(told, parse("SELECT 2"), "{}", told.escape_ascii());
    }

    /// A table may have changed between the two.
    #[test]
    fn the_same_text_parsed_elsewhere_is_not_what_was_parsed_here() {
        let mut trial = prepared();
        let server = trial.server;
        let mut older = None;
        trial.with_lane(|lane, _, _| older = lane.server_mut(server).expect("it").unnamed);
        trial.client_says(&[parse("SELECT 1"), sync()].concat());
        trial.server_says(&parsed());
        trial.with_lane(|lane, _, _| lane.server_mut(server).expect("it").unnamed = older);
        assert!(!binds(&mut trial));
    }

    /// What drops or replaces the unnamed statement, behind a Parse that will be skipped.
    #[test]
    fn what_was_taken_back_does_not_come_to_life_behind_what_dropped_it() {
        let long = parse(&format!("SELECT {}", "x".repeat(300_000)));
        for drops in [query("SELECT 5"), [long, sync()].concat()] {
            let mut trial = prepared();
            let mut nope = Vec::new();
            write::bind(&mut nope, b"", b"nope");
            let first = [nope, parse("SELECT 2"), sync()].concat();
            let said = [&first[..], &drops].concat();
            let taken = trial.client_says(&said);
            trial.server_says(&failed());
            if taken < said.len() {
                assert!(trial.is_resumed());
                assert_eq!(trial.client_says(&said[taken..]), said.len() - taken);
            }
            trial.server_says(if drops[0] == b'Q' { ANSWERED } else { b"1\0\0\0\x04Z\0\0\0\x05I" });
            trial.client_says(&bind());
            let told = trial.said_to(trial.server);
            let old = told.windows(8).any(|text| text == b"SELECT 1");
            assert!(!old, "{}", told.escape_ascii());
        }
    }

    #[test]
    fn a_bind_behind_a_parse_whose_fate_is_not_known_waits_for_it() {
        for text in ["SELECT 1", "SELECT 2"] {
            let mut trial = prepared();
            trial.client_says(&[parse(text), sync()].concat());
            assert_eq!(trial.client_says(&bind()), 0, "the Parse may yet fail");
            trial.server_says(&failed());
            trial.client_says(&bind());
            assert!(!trial.said_to(trial.server).is_empty(), "it has failed");
        }
    }

    /// The server says nothing more before the client does.
    #[test]
    fn nobody_waits_for_a_server_that_waits_for_data() {
        let mut trial = prepared();
        trial.client_says(&[parse("SELECT 2"), query("COPY t FROM STDIN")].concat());
        trial.server_says(b"1\0\0\0\x04G\0\0\0\x07\0\0\0");
        assert_eq!(trial.client_says(&bind()), bind().len(), "it ends the COPY, with an error");
    }

    #[test]
    fn what_failed_here_is_not_found_elsewhere_under_the_number_of_an_older_one() {
        for lost in [parse("SELEC"), query("SELECT 2")] {
            let mut trial = prepared();
            let server = trial.server;
            let mut older = None;
            trial.with_lane(|lane, _, _| older = lane.server_mut(server).expect("it").unnamed);
            trial.client_says(&[&lost[..], &sync()].concat());
            let simple = lost[0] == b'Q';
            let done = [b"C\0\0\0\x0dSELECT 1\0", READY, READY].concat();
            trial.server_says(&if simple { done } else { failed() });
            // Another server that this client has used before, and nobody since.
            trial.with_lane(|lane, _, _| {
                lane.server_mut(server).expect("it").unnamed = older;
            });
            if !simple {
                trial.client_says(&[parse("SELECT 3"), sync()].concat());
                trial.server_says(&parsed());
                trial.with_lane(|lane, _, _| {
                    lane.server_mut(server).expect("it").unnamed = older;
                });
            }
            assert!(!binds(&mut trial), "SELECT 1 would run");
        }
    }
}
