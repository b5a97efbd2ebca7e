//! Asks a node where it stands, on the session by which it is checked.

use crate::control::checks::told;
use pgring_logic::topology::{Lsn, Role};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};

/// What a node is, how far its log goes, on a primary how far it goes with what has not been
/// written yet, and on a standby for how long it has not heard from its primary: empty, if it is
/// not connected to any. Who may not see the time (it takes `pg_read_all_stats`) is told nothing.
const QUESTION: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
    CASE WHEN pg_catalog.pg_is_in_recovery() \
         THEN COALESCE(pg_catalog.pg_last_wal_replay_lsn(), '0/0') \
         ELSE pg_catalog.pg_current_wal_lsn() END, \
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.pg_current_wal_insert_lsn() END, \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN COALESCE((SELECT COALESCE( \
         EXTRACT(epoch FROM pg_catalog.clock_timestamp() - last_msg_receipt_time)::text, '?') \
         FROM pg_catalog.pg_stat_wal_receiver), '') END";

/// What a node says of itself; see [`pgring_logic::topology::Standing`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) role: Role,
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) asked: pgring_logic::time::Instant,
    pub(super) lost: u64,
    /// Which of its addresses was asked.
    pub(super) address: usize,
    /// For how long it has not heard from its primary; see [`Hears`].
    pub(super) hears: Hears,
}

/// What a standby says of its primary.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Hears {
    /// It is no standby, or may not say.
    #[default]
    Unknown,
    /// It is not connected to it.
    Nothing,
    /// It heard from it so long ago.
    Ago(Duration),
}

/// Asks a node what it is.
pub(super) async fn ask(client: &Client) -> Result<Answer, String> {
    let answers = client.simple_query(QUESTION).await.map_err(|why| told(&why))?;
    let row = answers.iter().find_map(|answer| {
        let SimpleQueryMessage::Row(row) = answer else { return None };
        Some((row.get(0)?, row.get(1)?, row.get(2), row.get(3)))
    });
    let (recovery, lsn, end, heard) = row.ok_or("an answer without a row")?;
    let role = if recovery == "t" { Role::Standby } else { Role::Primary };
    let place = |lsn: &str| lsn.parse::<Lsn>().map_err(|_| format!("{lsn:?} is no place in a log"));
    let end = end.map(place).transpose()?.map(Lsn::end_of_record).unwrap_or_default();
    Ok(Answer { role, lsn: place(lsn)?, end, hears: hears(heard), ..Answer::default() })
}

fn hears(text: Option<&str>) -> Hears {
    match text {
        None => Hears::Unknown,
        Some("") => Hears::Nothing,
        Some(seconds) => match seconds.parse() {
            // The two clocks that are compared are one, so it is negative only by a hair.
            Ok(seconds) => Duration::try_from_secs_f64(f64::max(seconds, 0.0))
                .map_or(Hears::Unknown, Hears::Ago),
            Err(_) => Hears::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Hears, hears};
    use std::time::Duration;

    #[test]
    fn a_standby_says_whether_it_hears() {
        assert_eq!(hears(Some("1.500000")), Hears::Ago(Duration::from_millis(1_500)));
        assert_eq!(hears(Some("-0.000012")), Hears::Ago(Duration::ZERO));
        assert_eq!((hears(Some("")), hears(Some("?"))), (Hears::Nothing, Hears::Unknown));
        assert_eq!(hears(None), Hears::Unknown);
    }
}
