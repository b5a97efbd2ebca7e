//! Questions to all lanes, and who has not answered yet.

use pgring_logic::id::Core;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// Rounds of one kind of question that are under way, by number.
#[derive(Debug)]
pub(super) struct Rounds<T> {
    open: BTreeMap<u64, Round<T>>,
}

#[derive(Debug)]
struct Round<T> {
    missing: BTreeSet<Core>,
    answers: BTreeMap<Core, T>,
    done: oneshot::Sender<Vec<T>>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self { open: BTreeMap::new() }
    }
}

impl<T> Rounds<T> {
    /// A new round; the answers, in the order of the cores, come when the last one is in.
    pub(super) fn open(&mut self, number: u64, cores: BTreeSet<Core>) -> oneshot::Receiver<Vec<T>> {
        let (done, answers) = oneshot::channel();
        self.open.insert(number, Round { missing: cores, answers: BTreeMap::new(), done });
        answers
    }

    /// An answer. One that comes too late, or twice, fits nothing.
    pub(super) fn answer(&mut self, number: u64, core: Core, answer: T) {
        let Some(round) = self.open.get_mut(&number) else { return };
        if round.missing.remove(&core) {
            round.answers.insert(core, answer);
        }
        if round.missing.is_empty()
            && let Some(round) = self.open.remove(&number)
        {
            // Who asked may be gone.
            drop(round.done.send(round.answers.into_values().collect()));
        }
    }

    /// Ends a round early; the answers that are in.
    pub(super) fn close(&mut self, number: u64) -> Vec<T> {
        let round = self.open.remove(&number);
        round.map(|round| round.answers.into_values().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Core, Rounds};

    #[test]
    fn a_round_is_over_when_the_last_core_has_answered() {
        let mut rounds = Rounds::default();
        let mut done = rounds.open(7, [Core(0), Core(1)].into());
        rounds.answer(7, Core(1), 'b');
        rounds.answer(7, Core(1), 'x');
        rounds.answer(8, Core(0), 'x');
        assert!(done.try_recv().is_err());
        rounds.answer(7, Core(0), 'a');
        assert_eq!(done.try_recv(), Ok(vec!['a', 'b']));
    }

    #[test]
    fn a_round_may_end_without_all() {
        let mut rounds = Rounds::default();
        let mut done = rounds.open(7, [Core(0), Core(1)].into());
        rounds.answer(7, Core(1), 'b');
        assert_eq!(rounds.close(7), ['b']);
        assert!(done.try_recv().is_err());
        assert!(rounds.close(7).is_empty());
    }
}
