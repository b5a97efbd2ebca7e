//! Where reads go: `[routing]` for all databases, `[databases.routing]` over it for one.

use crate::config::error::Errors;
use crate::config::table::{At, Table};
use crate::config::{Consistency, Fallback, Reads, Routing};
use std::collections::BTreeSet;

/// Lays the keys of `table` over `routing`.
pub(super) fn lay_over(routing: &mut Routing, mut table: Table<'_>, errors: &mut Errors) {
    let reads = [("primary", Reads::Primary), ("replicas", Reads::Replicas)];
    table.choice("reads", &reads, &mut routing.reads, errors);
    let levels = [
        ("strict", Consistency::Strict),
        ("session", Consistency::Session),
        ("eventual", Consistency::Eventual),
    ];
    table.choice("consistency", &levels, &mut routing.consistency, errors);
    table.time("lag_max", core::time::Duration::from_millis(1), &mut routing.lag_max, errors);
    table.bytes("lag_bytes_max", 1..=1 << 30, &mut routing.lag_bytes_max, errors);
    table.timeout("read_wait_max", &mut routing.read_wait_max, errors);
    let fallbacks = [("primary", Fallback::Primary), ("error", Fallback::Error)];
    table.choice("fallback", &fallbacks, &mut routing.fallback, errors);
    table.timeout("slow_start", &mut routing.slow_start, errors);
    if let Some(zone) = table.text("zone", errors) {
        routing.zone = zone.value;
    }
    for (key, slot) in [
        ("functions_read", &mut routing.functions_read),
        ("functions_write", &mut routing.functions_write),
    ] {
        if let Some(list) = table.texts(key, errors) {
            *slot = list.value.into_iter().map(|At { value, .. }| value).collect();
        }
    }
    let both: BTreeSet<_> = routing.functions_read.intersection(&routing.functions_write).collect();
    if let Some(name) = both.first() {
        let message = format!("{name:?} is in functions_read, too");
        table.blame(table.line, "functions_write", message, errors);
    }
    table.finish(errors);
}
