//! What clients ask of routing by parameters of their sessions, read once for each set of them:
//! most clients share a few.

use crate::classify::comment::{Hint, role};
use crate::config::Route;
use crate::state::Parameters;
use crate::topology::Lsn;
use std::sync::Arc;

/// Where a session's statements go by its own wish: `auto`, `primary` or `replica`.
const ROUTE: &str = "pgring.route";
/// The place in the log that a session's reads must show.
const MIN_LSN: &str = "pgring.min_lsn";

/// A place that no standby reaches: what must be shown, nobody knows.
pub(super) const NOWHERE: Lsn = Lsn(u64::MAX);

/// Sets that are kept.
const PLACES: usize = 8;

/// What a set of parameters asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wishes {
    /// Where statements go; none: it does not say.
    pub(super) route: Option<Route>,
    /// What reads must show by its own word: a place that it has got from another session. What
    /// cannot be read is shown by the primary only.
    pub(super) lsn: Lsn,
    /// Transactions are SERIALIZABLE, which no standby can do.
    pub(super) serializable: bool,
}

impl Wishes {
    fn of(parameters: &Parameters) -> Self {
        let level = parameters.get("default_transaction_isolation");
        let lsn = parameters.get(MIN_LSN).map(|told| told.trim()).filter(|told| !told.is_empty());
        Self {
            route: parameters.get(ROUTE).map(|own| match role(own) {
                None => Route::Auto,
                Some(Hint::Primary) => Route::Primary,
                Some(Hint::Replica) => Route::Replica,
            }),
            lsn: lsn.map_or(Lsn(0), |told| told.parse().map_or(NOWHERE, Lsn::end_of_record)),
            serializable: level.is_some_and(|level| level == "serializable"),
        }
    }
}

/// Those of the sets that were asked for last.
#[derive(Debug, Default)]
pub(super) struct KnownWishes([Option<(Arc<Parameters>, Wishes)>; PLACES]);

impl KnownWishes {
    /// What these ask for.
    pub(super) fn of(&mut self, parameters: &Arc<Parameters>) -> Wishes {
        // While it is kept, no other set has its address.
        let place = &mut self.0[(Arc::as_ptr(parameters).addr() >> 6) % PLACES];
        if let Some((kept, wishes)) = place
            && Arc::ptr_eq(kept, parameters)
        {
            return *wishes;
        }
        let wishes = Wishes::of(parameters);
        *place = Some((Arc::clone(parameters), wishes));
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::{KnownWishes, MIN_LSN, NOWHERE, ROUTE, Wishes};
    use crate::config::Route;
    use crate::state::Parameters;
    use crate::topology::Lsn;
    use std::sync::Arc;

    fn set(parameters: &[(&str, &str)]) -> Arc<Parameters> {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Arc::new(parameters.iter().map(owned).collect())
    }

    #[test]
    fn each_set_asks_for_what_it_says() {
        let nothing = Wishes { route: None, lsn: Lsn(0), serializable: false };
        let level = "default_transaction_isolation";
        let all = [
            (set(&[]), nothing),
            (set(&[(ROUTE, "replica")]), Wishes { route: Some(Route::Replica), ..nothing }),
            (set(&[(ROUTE, "auto")]), Wishes { route: Some(Route::Auto), ..nothing }),
            (set(&[(MIN_LSN, " 0/1F ")]), Wishes { lsn: Lsn(31), ..nothing }),
            (set(&[(MIN_LSN, "there")]), Wishes { lsn: NOWHERE, ..nothing }),
            (set(&[(MIN_LSN, "")]), nothing),
            (set(&[(level, "serializable")]), Wishes { serializable: true, ..nothing }),
            (set(&[(level, "read committed")]), nothing),
        ];
        let mut known = KnownWishes::default();
        for _ in 0..3 {
            for (parameters, wishes) in &all {
                assert_eq!(known.of(parameters), *wishes, "{parameters:?}");
            }
        }
        // Whoever comes to where another was is not taken for it.
        for number in 0..100u64 {
            let lsn = Lsn(number << 8);
            let parameters = set(&[(MIN_LSN, &lsn.to_string())]);
            assert_eq!(known.of(&parameters).lsn, lsn);
        }
    }
}
