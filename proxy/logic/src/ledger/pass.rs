//! The short way for answers that mean nothing to pgring.
//!
//! Most of what a server says goes to its client as it is, and all there is to do for it is to
//! cross it off. [`Ledger::pass`] does what [`Ledger::answer`] would, for these messages alone.

use super::{Copying, Entry, Expect, Ledger, Origin, SAME, Stage};

impl Ledger {
    /// Nothing is due but that pgring's own statements are closed.
    pub fn is_only_closing(&self) -> bool {
        let closes = |entry: &Entry| matches!(entry.expect, Expect::Close | Expect::Sync);
        let mut due = self.due.iter();
        !self.due.is_empty() && due.all(|entry| entry.origin == Origin::Own && closes(entry))
    }

    /// Crosses off a message that answers the client, changes nothing that pgring keeps of the
    /// session, and fits; false for any other, with the ledger as it was.
    #[inline]
    pub fn pass(&mut self, tag: u8) -> bool {
        let Some(entry) = self.due.front_mut() else { return false };
        if !passes(entry) {
            return false;
        }
        match (tag, entry.expect) {
            (b'D', Expect::Execute) => true,
            (b'D', Expect::Query) => self.stage == Stage::Rows,
            (b'd', Expect::Query | Expect::Execute) => self.copying == Copying::Out,
            (b'T', Expect::Query) => {
                self.stage = Stage::Rows;
                true
            }
            (b't', Expect::DescribeStatement) => {
                entry.expect = Expect::DescribePortal;
                true
            }
            (b'C', Expect::Query) => {
                (self.stage, self.copying) = (Stage::Complete, Copying::No);
                true
            }
            (b'C', Expect::Execute) => {
                self.copying = Copying::No;
                self.due.pop_front().is_some()
            }
            (b'1', Expect::Parse)
            | (b'2', Expect::Bind)
            | (b'T' | b'n', Expect::DescribePortal)
            | (b's', Expect::Execute) => self.due.pop_front().is_some(),
            _ => false,
        }
    }

    /// Whether the next answer is not the server's to give.
    #[inline]
    pub fn tells(&self) -> bool {
        let not_its =
            |entry: &Entry| entry.origin == Origin::Told || entry.expect == Expect::CopyEnd;
        self.due.front().is_some_and(not_its)
    }
}

/// Whether nothing hangs on the answer but the client's own interest in it.
#[inline]
fn passes(entry: &Entry) -> bool {
    entry.origin == Origin::Client && entry.mark == 0 && matches!(entry.change, 0 | SAME)
}

#[cfg(test)]
mod tests {
    use super::{Entry, Expect, Ledger, Origin};

    const EXPECTS: [Expect; 10] = [
        Expect::Query,
        Expect::Parse,
        Expect::Bind,
        Expect::DescribeStatement,
        Expect::DescribePortal,
        Expect::Execute,
        Expect::Close,
        Expect::Sync,
        Expect::Call,
        Expect::CopyEnd,
    ];

    /// Every conversation of up to three answers to two messages, however they are meant.
    #[test]
    fn the_short_way_ends_where_the_long_one_does() {
        let tags = *b"12DTtnCsdHGEZ3I";
        let mut compared = 0;
        for (first, second) in EXPECTS.iter().flat_map(|a| EXPECTS.iter().map(move |b| (*a, *b))) {
            for number in 0..tags.len().pow(3) {
                let said = (0..3).map(|place| tags[number / tags.len().pow(place) % tags.len()]);
                compared += compare(&[first, second], said);
            }
        }
        assert!(compared > 10_000, "the short way is hardly ever taken: {compared}");
    }

    fn compare(asked: &[Expect], said: impl Iterator<Item = u8>) -> usize {
        let (mut short, mut long, mut skipped) = (Ledger::default(), Ledger::default(), Vec::new());
        for expect in asked {
            short.push(*expect, Origin::Client, 0);
            long.push(*expect, Origin::Client, 0);
        }
        let mut passed = 0;
        for tag in said {
            let answer = long.answer(tag, &mut skipped);
            if short.pass(tag) {
                let entry = answer.expect("what passes fits").entry.expect("it was asked for");
                assert_eq!(entry.origin, Origin::Client);
                passed += 1;
            } else if answer.is_err() || short.answer(tag, &mut skipped).is_err() {
                break;
            }
            assert_eq!(short, long, "after '{}'", char::from(tag));
        }
        passed
    }

    #[test]
    fn what_is_not_the_clients_alone_goes_the_long_way() {
        let plain = Entry { expect: Expect::Parse, origin: Origin::Client, mark: 0, change: 0 };
        let others = [
            Entry { origin: Origin::Own, ..plain },
            Entry { origin: Origin::Told, ..plain },
            Entry { mark: 7, ..plain },
            Entry { change: 7, ..plain },
        ];
        for entry in others {
            let mut ledger = Ledger::default();
            ledger.push_entry(entry);
            assert!(!ledger.pass(b'1') && ledger.head() == Some(entry));
        }
    }
}
