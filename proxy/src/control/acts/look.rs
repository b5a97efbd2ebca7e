//! How a node is, asked in one round trip.
//!
//! The timeline is the part that is easily got wrong (tried on `PostgreSQL` 15.18):
//!
//! - The control file knows a new one only from the next checkpoint on, on a primary and on a
//!   standby alike, so it is asked last. On a primary the name of the segment it writes has it.
//! - A receiver knows the timeline it receives.
//! - A standby without one is asked for the segments it has: the highest timeline of which it has
//!   the segment where its log ends. A segment of a new timeline is there as soon as the first
//!   byte of it has been received.

use super::Failed;
use pgring_logic::failover::act::{Follower, Receiver, View};
use pgring_logic::topology::Lsn;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// One row of the node, then one for each that receives from it.
const QUESTION: &str = "SET LOCAL search_path = pg_catalog, pg_temp; \
    SELECT s.recovery, c.system_identifier, \
      CASE WHEN NOT s.recovery THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) \
           WHEN r.pid IS NOT NULL THEN to_hex(r.received_tli) \
           ELSE COALESCE((SELECT max(left(w.name, 8)) FROM pg_ls_waldir() w \
             WHERE w.name ~ '^[0-9A-F]{24}$' AND right(w.name, 16) = ( \
               SELECT upper(lpad(to_hex(n / per), 8, '0') || lpad(to_hex(n % per), 8, '0')) \
               FROM (SELECT 4294967296 / z AS per, \
                       div(greatest(s.the_end - '0/0' - 1, 0), z)::int8 AS n \
                     FROM (SELECT setting::int8 AS z FROM pg_settings \
                           WHERE name = 'wal_segment_size') size) segment)), \
             to_hex((SELECT timeline_id FROM pg_control_checkpoint()))) END, \
      (EXTRACT(epoch FROM pg_postmaster_start_time()) * 1000000)::int8, \
      s.the_end, s.replayed, \
      CASE WHEN r.pid IS NOT NULL THEN \
        EXTRACT(epoch FROM clock_timestamp() - r.last_msg_receipt_time) END, \
      r.sender_host, r.sender_port, \
      current_setting('primary_conninfo'), current_setting('primary_slot_name'), \
      current_setting('synchronous_standby_names'), \
      current_setting('default_transaction_read_only'), \
      CASE WHEN s.recovery THEN pg_get_wal_replay_pause_state() END, \
      g.delay, current_setting('restore_command'), g.retry, s.recovery AND r.pid IS NOT NULL, \
      g.patience, \
      CASE WHEN s.recovery THEN (SELECT redo_lsn FROM pg_control_checkpoint()) END, \
      CASE WHEN s.recovery THEN (SELECT string_agg(slot_name || ' ' || restart_lsn, ',') \
        FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active \
        AND restart_lsn IS NOT NULL AND starts_with(slot_name, 'pgring_')) END \
    FROM (SELECT pg_is_in_recovery() AS recovery, \
        CASE WHEN pg_is_in_recovery() \
          THEN COALESCE(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0') \
          ELSE pg_current_wal_flush_lsn() END AS the_end, \
        CASE WHEN pg_is_in_recovery() THEN COALESCE(pg_last_wal_replay_lsn(), '0/0') \
          END AS replayed OFFSET 0) s \
    CROSS JOIN pg_control_system() c \
    CROSS JOIN (SELECT max(setting) FILTER (WHERE name = 'recovery_min_apply_delay') AS delay, \
        max(setting) FILTER (WHERE name = 'wal_retrieve_retry_interval') AS retry, \
        max(setting) FILTER (WHERE name = 'wal_receiver_timeout') AS patience \
      FROM pg_settings) g \
    LEFT JOIN pg_stat_wal_receiver r ON r.status = 'streaming'; \
    SELECT application_name, state = 'streaming', COALESCE(flush_lsn, '0/0') \
    FROM pg_stat_replication WHERE NOT pg_is_in_recovery()";

/// Asks.
pub(super) async fn look(client: &Client) -> Result<View, Failed> {
    let answers = client.simple_query(QUESTION).await?;
    let mut rows = answers.iter().filter_map(|answer| {
        let SimpleQueryMessage::Row(row) = answer else { return None };
        Some(row)
    });
    let mut view = view(rows.next().ok_or_else(|| Failed::not("an answer without a row"))?)?;
    for row in rows {
        let name = text(row, 0).into();
        let flushed = number(row, 2)?;
        view.followers.push(Follower { name, streaming: is(row, 1), flushed });
    }
    Ok(view)
}

fn view(row: &SimpleQueryRow) -> Result<View, Failed> {
    let recovery = is(row, 0);
    let end: Lsn = number(row, 4)?;
    let timeline = text(row, 2);
    let timeline = u32::from_str_radix(timeline, 16)
        .map_err(|_| Failed::not(format!("{timeline:?} is no timeline")))?;
    // The identifier is a number of 64 bits, which SQL shows with a sign.
    let system: i64 = number(row, 1)?;
    let receiver = is(row, 17).then(|| {
        let seconds = text(row, 6).parse().unwrap_or(0.0);
        let heard = Duration::try_from_secs_f64(f64::max(seconds, 0.0)).unwrap_or(Duration::MAX);
        Receiver { heard, from: format!("{}:{}", text(row, 7), text(row, 8)) }
    });
    let delay: u64 = number(row, 14)?;
    let unfit = match text(row, 13) {
        "" | "not paused" if delay == 0 || !recovery => None,
        "" | "not paused" => {
            Some(format!("replay is delayed by {:?}", Duration::from_millis(delay)))
        }
        state => Some(format!("replay is {state}")),
    };
    let spare = text(row, 20).split(',').filter(|slot| !slot.is_empty()).map(|slot| {
        let (name, lsn) = slot.split_once(' ').unwrap_or((slot, ""));
        let lsn = lsn.parse().map_err(|_| Failed::not(format!("a strange slot: {slot:?}")))?;
        Ok((name.to_owned(), lsn))
    });
    Ok(View {
        recovery,
        system: system.cast_unsigned(),
        timeline,
        started: number(row, 3)?,
        end,
        replayed: if recovery { number(row, 5)? } else { end },
        redo: if recovery { number(row, 19)? } else { end },
        spare: spare.collect::<Result<_, Failed>>()?,
        receiver,
        conninfo: text(row, 9).to_owned(),
        slot: text(row, 10).to_owned(),
        sync: text(row, 11).to_owned(),
        read_only: text(row, 12) == "on",
        unfit,
        archive: !text(row, 15).is_empty(),
        retry: Duration::from_millis(number(row, 16)?),
        patience: Duration::from_millis(number(row, 18)?),
        followers: Vec::new(),
    })
}

fn text(row: &SimpleQueryRow, column: usize) -> &str {
    row.get(column).unwrap_or_default()
}

fn is(row: &SimpleQueryRow, column: usize) -> bool {
    row.get(column) == Some("t")
}

fn number<T: FromStr>(row: &SimpleQueryRow, column: usize) -> Result<T, Failed> {
    let text = text(row, column);
    text.parse().map_err(|_| Failed::not(format!("column {column}: {text:?} is no number")))
}
