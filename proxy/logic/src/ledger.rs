//! The ledger of one server connection: which answers are due, in order, and to whom they go.
//!
//! Every message that `PostgreSQL` answers leaves an entry here when it is sent, and the entry
//! leaves when its answer is complete ("Message Flow" in the chapter "Frontend/Backend
//! Protocol"). So a server byte is forwarded only if somebody asked for it (invariant I1), and a
//! server goes back to its pool only when the ledger is empty (I2). An answer that fits no entry
//! is a violation: the place in the conversation is lost, and the connection must close.
//!
//! Three things make it more than a queue. After an error in the extended protocol the server
//! skips to the next Sync, so the entries between will never be answered. In COPY FROM STDIN a
//! Sync is ignored until the copy ends. And some answers are pgring's own to give
//! ([`Origin::Told`]): they wait for their turn among the server's.

use std::collections::VecDeque;

mod fits;
mod pass;

use fits::{Fit, fits};

/// What an entry waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// Everything up to `ReadyForQuery`.
    Query,
    /// `ParseComplete`.
    Parse,
    /// `BindComplete`.
    Bind,
    /// `ParameterDescription`, then `RowDescription` or `NoData`.
    DescribeStatement,
    /// `RowDescription` or `NoData`.
    DescribePortal,
    /// Rows, then `CommandComplete`, `EmptyQueryResponse` or `PortalSuspended`.
    Execute,
    /// `CloseComplete`.
    Close,
    /// `ReadyForQuery`.
    Sync,
    /// `FunctionCallResponse`, then `ReadyForQuery`.
    Call,
    /// Nothing: marks where the client ended its COPY data.
    CopyEnd,
}

/// Whose message it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The client's: the answer is forwarded.
    Client,
    /// Pgring's own: the answer is swallowed.
    Own,
    /// The client's, but never sent: pgring gives the answer when its turn comes.
    Told,
}

/// One expected answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it waits for.
    pub expect: Expect,
    /// Whose it is.
    pub origin: Origin,
    /// A number of the owner's: the prepared statement of a Parse, the purpose of an own query.
    pub mark: u32,
    /// Another: what the client's names were changed to in advance; zero for nothing.
    pub change: u32,
}

/// A [`change`](Entry::change) that has nothing to be taken back if the message is skipped: the
/// unnamed statement was the same before it, or whatever was before it is answered. Only if its
/// own Parse fails there is none.
pub const SAME: u32 = u32::MAX;

/// Where the bytes of a server message go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The entry it belongs to; none for messages that may come at any time.
    pub entry: Option<Entry>,
    /// Whether the entry is done with.
    pub done: bool,
}

/// A server message that fits nothing that was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The tag of the message.
    pub tag: u8,
    /// What was due.
    pub due: Option<Expect>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Copying {
    #[default]
    No,
    /// The client sends data and has not ended it.
    In,
    /// The client has ended its data; the server has not said `CommandComplete`.
    InEnded,
    Out,
}

/// How far the answer to a Query is: rows need their description, and no Query ends without
/// having been answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Fresh,
    Rows,
    Complete,
}

/// The answers due on one server connection.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the exchange")]
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    due: VecDeque<Entry>,
    /// Of the Query or function call at the head.
    stage: Stage,
    copying: Copying,
    /// An error came and the client's Sync has not been sent: the server ignores all before it.
    skipping: bool,
    /// Extended messages were sent after the last Sync.
    unsynced: bool,
    /// COPY data was sent before the server asked for it.
    data_ahead: bool,
    /// A Sync was sent into a COPY: whether it counts depends on a race we cannot see.
    doubtful: bool,
}

impl Ledger {
    /// Notes that a message was sent, or is to be told. Returns false if the server will ignore
    /// it (so no answer will come).
    pub fn push(&mut self, expect: Expect, origin: Origin, mark: u32) -> bool {
        self.push_entry(Entry { expect, origin, mark, change: 0 })
    }

    /// The same, with every field.
    pub fn push_entry(&mut self, entry: Entry) -> bool {
        let expect = entry.expect;
        match expect {
            Expect::Sync => {
                self.unsynced = false;
                if self.copying == Copying::In {
                    self.doubtful = true;
                    return false;
                }
                self.skipping = false;
            }
            Expect::CopyEnd => {
                if self.copying == Copying::In {
                    self.copying = Copying::InEnded;
                    return true;
                }
                if self.due.is_empty() {
                    return true;
                }
            }
            Expect::Query | Expect::Call => {
                if self.skipping {
                    return false;
                }
                // It commits what came before it without a Sync.
                self.unsynced = false;
            }
            Expect::Parse
            | Expect::Bind
            | Expect::DescribeStatement
            | Expect::DescribePortal
            | Expect::Execute
            | Expect::Close => {
                self.unsynced = true;
                if self.skipping {
                    return false;
                }
            }
        }
        self.due.push_back(entry);
        true
    }

    /// Notes that COPY data was sent.
    pub fn data(&mut self) {
        self.data_ahead |= self.copying == Copying::No && !self.due.is_empty();
    }

    /// The next answer pgring has to give itself, if it is its turn.
    pub fn tell(&mut self) -> Option<Entry> {
        while let Some(&entry) = self.due.front() {
            if entry.expect == Expect::CopyEnd {
                self.due.pop_front();
                continue;
            }
            if entry.origin == Origin::Told {
                return self.due.pop_front();
            }
            return None;
        }
        None
    }

    /// Nothing is due, and the server is between two exchanges.
    pub fn is_settled(&self) -> bool {
        self.due.is_empty() && !self.unsynced && !self.skipping && self.copying == Copying::No
    }

    /// Something is due.
    pub fn is_waiting(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether earlier segments are not answered to their end: what was sent in them may have been
    /// skipped.
    pub fn is_behind(&self) -> bool {
        let ends = |expect| matches!(expect, Expect::Sync | Expect::Query | Expect::Call);
        self.due.iter().any(|entry| ends(entry.expect))
    }

    /// Whether a Parse of the unnamed statement is not answered that is [`SAME`].
    pub fn is_parsing_same(&self) -> bool {
        self.due.iter().any(|entry| entry.change == SAME)
    }

    /// Something is due to the client.
    pub fn is_clients(&self) -> bool {
        self.due.iter().any(|entry| entry.origin != Origin::Own)
    }

    /// The server waits for COPY data.
    pub fn is_copying_in(&self) -> bool {
        self.copying == Copying::In
    }

    /// Whether the place in the conversation may be lost although nothing has shown it.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// The server ignores everything up to the next Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The server answers whatever it is sent: it skips nothing, and copies nothing.
    pub fn hears_all(&self) -> bool {
        !self.skipping && self.copying == Copying::No
    }

    /// Extended messages were sent after the last Sync.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// What the server works on is the client's, as far as can be told: a Parse or Close of
    /// pgring's own in front of it takes no time, and its answer is kept back with what follows.
    pub fn is_clients_turn(&self) -> bool {
        let mut due = self.due.iter();
        let quick = |entry: &Entry| matches!(entry.expect, Expect::Parse | Expect::Close);
        due.find(|entry| entry.origin != Origin::Own || !quick(entry))
            .is_some_and(|entry| entry.origin != Origin::Own)
    }

    /// A whole exchange is under way: its end may change the state of the transaction.
    pub fn is_exchanging(&self) -> bool {
        let border = |entry: &Entry| {
            matches!(entry.expect, Expect::Query | Expect::Sync | Expect::Call)
                && entry.origin == Origin::Client
        };
        self.due.iter().any(border)
    }

    /// The entry whose answer is due now.
    pub fn head(&self) -> Option<Entry> {
        self.due.front().copied()
    }

    /// The client is gone: whatever it was due is swallowed from now on, and what pgring would
    /// have told it is dropped. A Parse keeps its mark: whether its statement exists still
    /// matters; and so do pgring's own queries, which may have failed to change the session.
    pub fn disown(&mut self) {
        self.due.retain(|entry| entry.origin != Origin::Told);
        for entry in self.due.iter_mut().filter(|entry| entry.origin == Origin::Client) {
            if entry.expect != Expect::Parse {
                entry.mark = 0;
            }
            entry.origin = Origin::Own;
            entry.change = 0;
        }
    }

    /// Takes in a server message by its tag. `skipped` gets the entries that will never be
    /// answered because of it.
    pub fn answer(&mut self, tag: u8, skipped: &mut Vec<Entry>) -> Result<Answer, Violation> {
        if matches!(tag, b'N' | b'S' | b'A') {
            return Ok(Answer { entry: None, done: false });
        }
        let Some(&entry) = self.due.front() else {
            return Err(Violation { tag, due: None });
        };
        let fit = if self.in_order(tag, entry.expect) { fits(tag, entry.expect) } else { Fit::Not };
        let done = match fit {
            Fit::Stays => false,
            Fit::Ends => true,
            Fit::Error => self.error(entry, skipped),
            Fit::CopyIn => {
                self.copy_in();
                false
            }
            Fit::CopyOut => {
                self.copying = Copying::Out;
                false
            }
            Fit::CopyData if self.copying == Copying::Out => false,
            Fit::CopyData | Fit::Not => return Err(Violation { tag, due: Some(entry.expect) }),
            Fit::Parameters => {
                self.due[0].expect = Expect::DescribePortal;
                false
            }
        };
        if matches!(tag, b'C' | b'E' | b'Z') {
            self.copying = Copying::No;
        }
        self.stage = match (tag, entry.expect) {
            (b'T', Expect::Query) => Stage::Rows,
            (b'C' | b'I' | b'E' | b'V', Expect::Query | Expect::Call) => Stage::Complete,
            (b'Z', _) => Stage::Fresh,
            _ => self.stage,
        };
        if done && tag != b'E' {
            self.due.pop_front();
        }
        if tag == b'Z' {
            // Data, and their end, that were ahead of a COPY that did not start.
            while self.due.front().is_some_and(|next| next.expect == Expect::CopyEnd) {
                self.due.pop_front();
            }
            self.data_ahead &= !self.due.is_empty();
        }
        Ok(Answer { entry: Some(entry), done })
    }

    /// Whether a message comes at its time within the answer to a Query.
    fn in_order(&self, tag: u8, due: Expect) -> bool {
        match (tag, due) {
            (b'D', Expect::Query) => self.stage == Stage::Rows,
            (b'Z', Expect::Query | Expect::Call) => self.stage == Stage::Complete,
            _ => true,
        }
    }

    /// An error: in the extended protocol everything up to the Sync is skipped.
    fn error(&mut self, entry: Entry, skipped: &mut Vec<Entry>) -> bool {
        if matches!(entry.expect, Expect::Query | Expect::Sync | Expect::Call) {
            return false;
        }
        while let Some(&next) = self.due.front() {
            if next.expect == Expect::Sync {
                return true;
            }
            self.due.pop_front();
            skipped.push(next);
        }
        self.skipping = true;
        // A Query among what is skipped commits nothing.
        self.unsynced = true;
        true
    }

    /// The server has started to read COPY data. Syncs already sent it will ignore, up to where
    /// the client ended its data, if it has. Where data went ahead of a Sync, the data may fail
    /// before the server reads the Sync, which then counts: nobody can know.
    fn copy_in(&mut self) {
        self.copying = Copying::In;
        let ahead = core::mem::take(&mut self.data_ahead);
        while let Some(&next) = self.due.get(1) {
            if next.expect == Expect::Sync {
                self.doubtful |= ahead;
                self.due.remove(1);
                continue;
            }
            if next.expect == Expect::CopyEnd {
                self.due.remove(1);
                self.copying = Copying::InEnded;
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Expect, Ledger, Origin, Violation};

    fn sent(messages: &[Expect]) -> Ledger {
        let mut ledger = Ledger::default();
        for &message in messages {
            ledger.push(message, Origin::Client, 0);
        }
        ledger
    }

    fn answers(ledger: &mut Ledger, tags: &[u8]) -> Vec<Expect> {
        let mut skipped = Vec::new();
        for &tag in tags {
            ledger.answer(tag, &mut skipped).expect("it fits");
            while ledger.tell().is_some() {}
        }
        skipped.iter().map(|entry| entry.expect).collect()
    }

    #[test]
    fn a_simple_query_is_answered_by_ready_for_query() {
        let mut ledger = sent(&[Expect::Query]);
        answers(&mut ledger, b"TDDCTDC");
        assert!(!ledger.is_settled());
        answers(&mut ledger, b"Z");
        assert!(ledger.is_settled());
    }

    #[test]
    fn no_query_ends_unanswered_and_no_row_comes_undescribed() {
        let mut skipped = Vec::new();
        for tag in *b"ZD" {
            let mut ledger = sent(&[Expect::Query]);
            let violation = Violation { tag, due: Some(Expect::Query) };
            assert_eq!(ledger.answer(tag, &mut skipped), Err(violation));
        }
        answers(&mut sent(&[Expect::Query, Expect::Query]), b"ECZIZ");
    }

    #[test]
    fn an_error_skips_to_the_sync_and_no_further() {
        let pipeline = [Expect::Parse, Expect::Bind, Expect::Execute, Expect::Sync, Expect::Query];
        let mut ledger = sent(&pipeline);
        assert_eq!(answers(&mut ledger, b"1E"), [Expect::Bind, Expect::Execute]);
        answers(&mut ledger, b"ZTDCZ");
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_query_before_the_sync_of_a_failed_pipeline_is_never_answered() {
        let mut ledger = sent(&[Expect::Parse, Expect::Query]);
        assert_eq!(answers(&mut ledger, b"E"), [Expect::Parse, Expect::Query]);
        assert!(!ledger.push(Expect::Query, Origin::Client, 0));
        assert!(ledger.is_skipping() && ledger.is_unsynced());
        assert!(ledger.push(Expect::Sync, Origin::Client, 0));
        answers(&mut ledger, b"Z");
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_blind_sync_is_swallowed_by_the_copy() {
        let mut ledger = sent(&[Expect::Parse, Expect::Bind, Expect::Execute, Expect::Sync]);
        answers(&mut ledger, b"12G");
        assert!(ledger.is_copying_in());
        ledger.push(Expect::CopyEnd, Origin::Client, 0);
        ledger.push(Expect::Sync, Origin::Client, 0);
        answers(&mut ledger, b"CZ");
        assert!(ledger.is_settled() && !ledger.is_doubtful());
    }

    #[test]
    fn a_sync_behind_data_sent_ahead_of_the_copy_counts() {
        let mut ledger = sent(&[Expect::Execute, Expect::CopyEnd, Expect::Sync]);
        answers(&mut ledger, b"GCZ");
        assert!(ledger.is_settled() && !ledger.is_doubtful());
    }

    #[test]
    fn a_sync_amid_copy_data_leaves_a_doubt() {
        let mut ledger = sent(&[Expect::Execute]);
        answers(&mut ledger, b"G");
        assert!(!ledger.push(Expect::Sync, Origin::Client, 0));
        assert!(ledger.is_doubtful());
    }

    #[test]
    fn what_pgring_tells_waits_for_its_turn() {
        let mut ledger = sent(&[Expect::Query]);
        ledger.push(Expect::Parse, Origin::Told, 7);
        assert_eq!(ledger.tell(), None);
        let mut skipped = Vec::new();
        for tag in *b"CZ" {
            ledger.answer(tag, &mut skipped).expect("it fits");
        }
        assert_eq!(ledger.tell().map(|entry| entry.mark), Some(7));
        assert!(!ledger.is_settled(), "its Sync is still to come");
    }

    #[test]
    fn an_answer_nobody_asked_for_is_a_violation() {
        let mut skipped = Vec::new();
        let mut ledger = Ledger::default();
        assert_eq!(ledger.answer(b'Z', &mut skipped), Err(Violation { tag: b'Z', due: None }));
        let mut ledger = sent(&[Expect::Parse]);
        assert!(ledger.answer(b'2', &mut skipped).is_err());
        assert!(ledger.answer(b'N', &mut skipped).is_ok());
    }
}
