//! Carries out what is to be done to a node by SQL: see [`Act`], which says what each one means.
//!
//! Each is done again without harm. A setting counts as changed when this session sees the new
//! value: the postmaster has read it by then, and new sessions have it. Whoever is told that the
//! outcome is unknown closes the session, which may still be busy with what was given up.
//!
//! What it takes in rights is in `config/failover.sql`.

mod look;

use pgring_logic::failover::act::{Act, Done};
use pgring_logic::topology::Lsn;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// How long an act may take that says nothing else.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a checkpoint may take.
const CHECKPOINT_MAX: Duration = Duration::from_secs(600);
/// How long a changed setting may take to be seen, and a receiver to end.
const EFFECT_MAX: Duration = Duration::from_secs(5);
/// Between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(5);
/// For so long the end of a frozen log must not move.
const STILL: Duration = Duration::from_millis(50);
/// The `wal_retrieve_retry_interval` that [`Act::Prepare`] sets.
const RETRY_MS: u32 = 50;

/// Why something is not done.
#[derive(Debug)]
struct Failed {
    unknown: bool,
    reason: String,
}

impl Failed {
    fn not(reason: impl Into<String>) -> Self {
        Self { unknown: false, reason: reason.into() }
    }

    fn perhaps(reason: impl Into<String>) -> Self {
        Self { unknown: true, reason: reason.into() }
    }
}

impl From<tokio_postgres::Error> for Failed {
    /// An error of a statement is an answer; one of the session or of an order to stop is none.
    fn from(why: tokio_postgres::Error) -> Self {
        let Some(own) = why.as_db_error() else { return Self::perhaps(why.to_string()) };
        let ended = own.code() == &SqlState::QUERY_CANCELED || own.code().code().starts_with("57P");
        let mut reason = own.message().to_owned();
        for more in [own.detail(), own.hint()].into_iter().flatten() {
            // Writing to a string never fails.
            let _ok = write!(reason, " ({more})");
        }
        Self { unknown: ended, reason }
    }
}

/// Does it, on a session of the role that `config/failover.sql` makes. [`Act::Command`] is
/// nothing that SQL could do.
pub async fn carry_out(client: &Client, act: &Act) -> Done {
    let limit = match act {
        Act::Promote(limit) => *limit + LIMIT,
        Act::Checkpoint => CHECKPOINT_MAX,
        Act::Look
        | Act::Freeze
        | Act::Follow { .. }
        | Act::Prepare(_)
        | Act::Slots(_)
        | Act::Advance(_)
        | Act::Sync(_)
        | Act::Canary
        | Act::Kick
        | Act::Unkick
        | Act::Command(_) => LIMIT,
    };
    match timeout(limit, perform(client, act)).await {
        Ok(Ok(done)) => done,
        Ok(Err(Failed { unknown, reason })) => {
            Done::Failed { unknown: unknown || client.is_closed(), reason }
        }
        Err(_late) => Done::Failed { unknown: true, reason: format!("no answer in {limit:?}") },
    }
}

async fn perform(client: &Client, act: &Act) -> Result<Done, Failed> {
    match act {
        Act::Look => return look::look(client).await.map(|view| Done::Seen(Box::new(view))),
        Act::Freeze => return freeze(client).await,
        Act::Follow { conninfo, slot } => follow(client, conninfo, slot).await?,
        Act::Prepare(patience) => prepare(client, *patience).await?,
        Act::Slots(names) => slots(client, names).await?,
        Act::Advance(slots) => advance(client, slots).await?,
        Act::Sync(names) => set(client, &[("synchronous_standby_names", names)]).await?,
        Act::Promote(limit) => promote(client, *limit).await?,
        Act::Canary => client.batch_execute(CANARY).await?,
        Act::Checkpoint => client.batch_execute("CHECKPOINT").await?,
        Act::Kick => kick(client).await?,
        Act::Unkick => unkick(client).await?,
        Act::Command(hook) => {
            return Err(Failed::not(format!("{} is no matter of SQL", hook.name())));
        }
    }
    Ok(Done::Well)
}

/// A transaction, for statements sent together are one, with a record that nobody decodes. It has
/// a number of its own, so that its end waits for standbys as a client's does.
const CANARY: &str = "SET LOCAL synchronous_commit = on; \
    SELECT pg_catalog.pg_logical_emit_message(true, 'pgring', 'canary')";

/// The first row of an answer.
async fn row(client: &Client, sql: &str) -> Result<Option<SimpleQueryRow>, Failed> {
    let answers = client.simple_query(sql).await?;
    Ok(answers.into_iter().find_map(|answer| {
        let SimpleQueryMessage::Row(row) = answer else { return None };
        Some(row)
    }))
}

async fn holds(client: &Client, condition: &str) -> Result<bool, Failed> {
    let row = row(client, &format!("SELECT {condition}")).await?;
    Ok(row.is_some_and(|row| row.get(0) == Some("t")))
}

async fn is_standby(client: &Client) -> Result<bool, Failed> {
    holds(client, "pg_catalog.pg_is_in_recovery()").await
}

/// Waits until a condition holds; false if it does not for too long.
async fn until(client: &Client, condition: &str, limit: Duration) -> Result<bool, Failed> {
    let begun = Instant::now();
    while !holds(client, condition).await? {
        if begun.elapsed() > limit {
            return Ok(false);
        }
        sleep(POLL).await;
    }
    Ok(true)
}

/// Changes settings of the server, and waits until they are in force here. What is in force
/// already is written all the same: the file may say something else, if somebody ended between
/// writing it and having it read. Nothing restarts because of a value that stays.
async fn set(client: &Client, settings: &[(&str, &str)]) -> Result<(), Failed> {
    let mut conditions = Vec::new();
    for (name, value) in settings {
        let value = literal(value);
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = {value}")).await?;
        conditions
            .push(format!("pg_catalog.current_setting('{name}') OPERATOR(pg_catalog.=) {value}"));
    }
    reload(client, &conditions.join(" AND ")).await
}

async fn reload(client: &Client, condition: &str) -> Result<(), Failed> {
    client.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
    if until(client, condition, EFFECT_MAX).await? {
        return Ok(());
    }
    Err(Failed::perhaps(
        "what was changed is not in force: its log says why the server does not take its \
         configuration, or its command line or this role has a value of its own",
    ))
}

/// A text as SQL has it, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 3);
    quoted.push_str(if text.contains('\\') { " E'" } else { "'" });
    for c in text.chars() {
        if matches!(c, '\'' | '\\') {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// Whether there is no receiver and none can begin. One that has not got through to its primary
/// yet is a process, but no row of its view. It is the startup process that reads the setting and
/// that ends the receiver. While a query of this standby holds it up, or replay is paused or
/// delayed, it does neither (tried on `PostgreSQL` 15.20), and might begin one with the old
/// setting afterwards. Who may not see these processes is told nothing.
const STOPPED: &str = "NOT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walreceiver') \
    AND EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'startup' \
    AND COALESCE(wait_event_type NOT IN ('Lock', 'BufferPin') \
    AND wait_event NOT LIKE 'RecoveryConflict%' \
    AND wait_event NOT IN ('RecoveryPause', 'RecoveryApplyDelay'), true))";

async fn freeze(client: &Client) -> Result<Done, Failed> {
    if !is_standby(client).await? {
        return Err(Failed::not("it is a primary, so it has no receiver to be stopped"));
    }
    set(client, &[("primary_conninfo", "")]).await?;
    let begun = Instant::now();
    let mut before = None;
    loop {
        if holds(client, STOPPED).await? {
            let view = look::look(client).await?;
            if !view.recovery {
                return Err(Failed::not("it has become a primary"));
            }
            if before == Some(view.end) {
                return Ok(Done::Seen(Box::new(view)));
            }
            before = Some(view.end);
        } else {
            before = None;
        }
        if begun.elapsed() > EFFECT_MAX {
            return Err(Failed::perhaps(if before.is_some() {
                "its log goes on growing, from an archive perhaps (restore_command)"
            } else {
                "its receiver does not end: replay is paused, delayed, or held up by a query"
            }));
        }
        sleep(if before.is_some() { STILL } else { POLL }).await;
    }
}

async fn follow(client: &Client, conninfo: &str, slot: &str) -> Result<(), Failed> {
    if !is_standby(client).await? {
        return Err(Failed::not("it is a primary, and follows nobody"));
    }
    set(client, &[("primary_conninfo", conninfo), ("primary_slot_name", slot)]).await
}

async fn prepare(client: &Client, patience: Duration) -> Result<(), Failed> {
    let patience = patience.as_millis();
    let at_most = format!(
        "(SELECT bool_and(setting::int BETWEEN 1 AND CASE name \
         WHEN 'wal_receiver_timeout' THEN {patience} ELSE {RETRY_MS} END) \
         FROM pg_catalog.pg_settings \
         WHERE name IN ('wal_retrieve_retry_interval', 'wal_receiver_timeout'))"
    );
    if holds(client, &at_most).await? {
        return Ok(());
    }
    let sql = format!("ALTER SYSTEM SET wal_retrieve_retry_interval = {RETRY_MS}");
    client.batch_execute(&sql).await?;
    let sql = format!("ALTER SYSTEM SET wal_receiver_timeout = {patience}");
    client.batch_execute(&sql).await?;
    reload(client, &at_most).await
}

async fn slots(client: &Client, names: &[String]) -> Result<(), Failed> {
    for name in names {
        let name = literal(name);
        // One that has lost its WAL serves nobody.
        let sql = format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {name} \
             AND slot_type = 'physical' AND wal_status = 'lost' AND NOT active; \
             SELECT pg_catalog.pg_create_physical_replication_slot({name}, true) \
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = {name} AND slot_type = 'physical')"
        );
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

async fn advance(client: &Client, slots: &[(String, Lsn)]) -> Result<(), Failed> {
    for (name, lsn) in slots {
        let sql = format!(
            "SELECT pg_catalog.pg_replication_slot_advance(slot_name, '{lsn}') \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {} \
             AND slot_type = 'physical' AND NOT active AND restart_lsn < '{lsn}'",
            literal(name)
        );
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

/// `pg_promote` itself would look only ten times a second.
async fn promote(client: &Client, limit: Duration) -> Result<(), Failed> {
    if !is_standby(client).await? {
        return Ok(());
    }
    match client.batch_execute("SELECT pg_catalog.pg_promote(false)").await.map_err(Failed::from) {
        Ok(()) => {}
        // In the meantime it has been, or it could not be told.
        Err(why) if client.is_closed() => return Err(why),
        Err(why) => return if is_standby(client).await? { Err(why) } else { Ok(()) },
    }
    // From here on it may happen, whatever is heard.
    let ended = until(client, "NOT pg_catalog.pg_is_in_recovery()", limit).await;
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failed::perhaps(format!("it is still in recovery after {limit:?}"))),
        Err(Failed { reason, .. }) => Err(Failed::perhaps(reason)),
    }
}

/// Only a superuser ends the sessions of superusers.
const END_OTHERS: &str = "SELECT pg_catalog.pg_terminate_backend(a.pid) \
    FROM pg_catalog.pg_stat_activity a \
    JOIN pg_catalog.pg_roles other ON other.oid = a.usesysid \
    JOIN pg_catalog.pg_roles own ON own.rolname = session_user \
    WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid() \
    AND other.oid <> own.oid AND (own.rolsuper OR NOT other.rolsuper)";

async fn kick(client: &Client) -> Result<(), Failed> {
    set(client, &[("default_transaction_read_only", "on")]).await?;
    client.batch_execute(END_OTHERS).await?;
    Ok(())
}

async fn unkick(client: &Client) -> Result<(), Failed> {
    client.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await?;
    // What the configuration file has is none of our business; mostly it is "off".
    let file = "pg_catalog.current_setting('default_transaction_read_only') = 'off' \
        OR (SELECT source <> 'configuration file' \
        OR sourcefile NOT LIKE '%postgresql.auto.conf' FROM pg_catalog.pg_settings \
        WHERE name = 'default_transaction_read_only')";
    reload(client, file).await
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn a_text_cannot_leave_its_quotes() {
        assert_eq!(literal(""), "''");
        assert_eq!(literal("host=a"), "'host=a'");
        assert_eq!(literal("a'; DROP"), "'a''; DROP'");
        assert_eq!(literal(r"password='a\'b'"), r" E'password=''a\\''b'''");
        assert_eq!(literal("\\'"), " E'\\\\'''");
    }
}
