//! The settings of a pool: `[pool]` for all databases, `[databases.pool]` over it for one.

use crate::config::error::Errors;
use crate::config::table::Table;
use crate::config::{PoolMode, PoolSettings};
use crate::time::Duration;

/// The most servers or clients that a limit can name.
const COUNT_MAX: i64 = 1_000_000;

/// Lays the keys of `table` over `settings`.
pub(super) fn lay_over(settings: &mut PoolSettings, mut table: Table<'_>, errors: &mut Errors) {
    let modes = [
        ("session", PoolMode::Session),
        ("transaction", PoolMode::Transaction),
        ("statement", PoolMode::Statement),
    ];
    table.choice("mode", &modes, &mut settings.mode, errors);
    counts(settings, &mut table, errors);
    times(settings, &mut table, errors);
    table.number("prepared_statements", 0..=100_000, &mut settings.prepared_statements, errors);
    table.bytes("prepared_bytes", 64..=1 << 20, &mut settings.prepared_bytes, errors);
    if let Some(query) = table.text("server_reset_query", errors) {
        settings.server_reset_query = query.value;
    }
    table.flag("server_keepalive", &mut settings.server_keepalive, errors);
    if settings.size_min > settings.size {
        let message = format!("{} is more than the size, {}", settings.size_min, settings.size);
        table.blame(table.line, "min_size", message, errors);
    }
    table.finish(errors);
}

fn counts(settings: &mut PoolSettings, table: &mut Table<'_>, errors: &mut Errors) {
    table.number("size", 1..=65_535, &mut settings.size, errors);
    table.number("min_size", 0..=65_535, &mut settings.size_min, errors);
    table.number("reserve_size", 0..=65_535, &mut settings.reserve_size, errors);
    table.number("waiting_max", 1..=COUNT_MAX, &mut settings.waiting_max, errors);
    for (key, slot) in [
        ("max_database_clients", &mut settings.database_clients_max),
        ("max_user_clients", &mut settings.user_clients_max),
        ("max_database_servers", &mut settings.database_servers_max),
        ("max_user_servers", &mut settings.user_servers_max),
    ] {
        table.number(key, 0..=COUNT_MAX, slot, errors);
    }
}

fn times(settings: &mut PoolSettings, table: &mut Table<'_>, errors: &mut Errors) {
    for (key, slot) in [
        ("reserve_timeout", &mut settings.reserve_timeout),
        ("query_wait_timeout", &mut settings.query_wait_timeout),
        ("server_lifetime", &mut settings.server_lifetime),
        ("server_idle_timeout", &mut settings.server_idle_timeout),
        ("client_idle_timeout", &mut settings.client_idle_timeout),
        ("idle_transaction_timeout", &mut settings.idle_transaction_timeout),
        ("query_timeout", &mut settings.query_timeout),
        ("client_write_timeout", &mut settings.client_write_timeout),
    ] {
        table.timeout(key, slot, errors);
    }
    // Neither a connection that never opens nor a storm of logins may be asked for.
    let min = Duration::from_millis(10);
    table.time("server_connect_timeout", min, &mut settings.server_connect_timeout, errors);
    table.time("server_login_retry", min, &mut settings.server_login_retry, errors);
}
