//! How nodes are asked where they stand: `[monitor]`.

use crate::config::error::Errors;
use crate::config::table::{At, Table};
use crate::config::{Monitor, Password, Users};
use crate::time::Duration;

/// The kernel takes no more (`TCP_RTO_MIN`).
const RTO_MIN_MAX: Duration = Duration::from_millis(200);

/// Lays the keys of `table` over `monitor`.
pub(super) fn lay_over(
    monitor: &mut Monitor,
    mut table: Table<'_>,
    users: &Users,
    errors: &mut Errors,
) {
    let user = table.name_of("user", errors);
    if let Some(At { line, value }) = table.name_of("password", errors) {
        if user.is_none() {
            table.blame(line, "password", "there is no user to go with it", errors);
        }
        monitor.password = Some(Password(value));
    }
    if let Some(At { line, value }) = user {
        if monitor.password.is_none() {
            monitor.password = users.get(&value).map(|user| user.password.clone());
        }
        let text = monitor.password.as_ref().map_or("", |password| password.0.as_str());
        if text.starts_with("SCRAM-SHA-256$") || text.starts_with("md5") && text.len() == 35 {
            let message = "its password in the users file is not plain; give monitor.password";
            table.blame(line, "user", message, errors);
        }
        monitor.user = Some(value);
    }
    if let Some(At { value, .. }) = table.name_of("database", errors) {
        monitor.database = value;
    }
    let min = Duration::from_millis(1);
    table.time("interval", Duration::from_millis(10), &mut monitor.interval, errors);
    table.time("interval_busy", min, &mut monitor.interval_busy, errors);
    table.time("timeout", Duration::from_millis(10), &mut monitor.timeout, errors);
    table.time("ping", Duration::from_millis(20), &mut monitor.ping, errors);
    table.time("login", Duration::from_millis(100), &mut monitor.login, errors);
    table.timeout("heartbeat", &mut monitor.heartbeat, errors);
    table.time("blackout", Duration::from_millis(100), &mut monitor.blackout, errors);
    let line = table.line;
    table.timeout("rto_min", &mut monitor.rto_min, errors);
    if monitor.rto_min > RTO_MIN_MAX {
        table.blame(line, "rto_min", "is more than the 200 ms of the kernel", errors);
    }
    table.flag("probe", &mut monitor.probe, errors);
    table.finish(errors);
}
