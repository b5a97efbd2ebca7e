//! The rights that it takes, how each is looked for, and how it is given. They are those of
//! `config/failover.sql`.

use pgring_logic::config::{Durability, Failover, Monitor};

/// What a right is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    /// Whoever watches; without it standbys are no witnesses.
    Watching,
    /// Whoever watches, for heartbeats.
    Beating,
    /// Whoever acts.
    Acting,
    /// Whoever acts, with slots.
    Slots,
    /// Whoever acts, where commits wait for standbys.
    Sync,
}

/// One right.
#[derive(Debug)]
pub(super) struct Right {
    pub(super) need: Need,
    /// The first version that knows it.
    pub(super) since: u32,
    /// SQL that says whether the role has it.
    pub(super) holds: &'static str,
    /// SQL that gives it to `{role}`.
    pub(super) grant: &'static str,
}

/// Settings may be changed by others than superusers from this version on.
pub(super) const VERSION_MIN: u32 = 150_000;

const fn right(need: Need, holds: &'static str, grant: &'static str) -> Right {
    Right { need, since: VERSION_MIN, holds, grant }
}

const fn old(need: Need, holds: &'static str, grant: &'static str) -> Right {
    Right { need, since: 0, holds, grant }
}

/// All of them.
pub(super) const RIGHTS: [Right; 18] = [
    old(
        Need::Watching,
        "pg_has_role('pg_read_all_stats', 'USAGE')",
        "GRANT pg_read_all_stats TO {role}",
    ),
    old(
        Need::Beating,
        "has_function_privilege('pg_logical_emit_message(boolean, text, text)', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_logical_emit_message(boolean, text, text) \
         TO {role}",
    ),
    old(
        Need::Acting,
        "pg_has_role('pg_read_all_stats', 'USAGE')",
        "GRANT pg_read_all_stats TO {role}",
    ),
    old(
        Need::Acting,
        "pg_has_role('pg_read_all_settings', 'USAGE')",
        "GRANT pg_read_all_settings TO {role}",
    ),
    old(
        Need::Slots,
        "(SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)",
        "ALTER ROLE {role} REPLICATION",
    ),
    old(
        Need::Acting,
        "has_function_privilege('pg_ls_waldir()', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO {role}",
    ),
    right(
        Need::Acting,
        "has_parameter_privilege('primary_conninfo', 'ALTER SYSTEM')",
        "GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO {role}",
    ),
    right(
        Need::Acting,
        "has_parameter_privilege('primary_slot_name', 'ALTER SYSTEM')",
        "GRANT ALTER SYSTEM ON PARAMETER primary_slot_name TO {role}",
    ),
    right(
        Need::Acting,
        "has_parameter_privilege('wal_retrieve_retry_interval', 'ALTER SYSTEM')",
        "GRANT ALTER SYSTEM ON PARAMETER wal_retrieve_retry_interval TO {role}",
    ),
    right(
        Need::Acting,
        "has_parameter_privilege('wal_receiver_timeout', 'ALTER SYSTEM')",
        "GRANT ALTER SYSTEM ON PARAMETER wal_receiver_timeout TO {role}",
    ),
    right(
        Need::Sync,
        "has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')",
        "GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO {role}",
    ),
    right(
        Need::Acting,
        "has_parameter_privilege('default_transaction_read_only', 'ALTER SYSTEM')",
        "GRANT ALTER SYSTEM ON PARAMETER default_transaction_read_only TO {role}",
    ),
    old(
        Need::Acting,
        "has_function_privilege('pg_reload_conf()', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO {role}",
    ),
    old(
        Need::Acting,
        "pg_has_role('pg_signal_backend', 'USAGE')",
        "GRANT pg_signal_backend TO {role}",
    ),
    old(
        Need::Acting,
        "has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO {role}",
    ),
    right(Need::Acting, "pg_has_role('pg_checkpoint', 'USAGE')", "GRANT pg_checkpoint TO {role}"),
    old(
        Need::Acting,
        "has_function_privilege('pg_control_system()', 'EXECUTE') \
         AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system(), \
         pg_catalog.pg_control_checkpoint() TO {role}",
    ),
    old(
        Need::Acting,
        "has_function_privilege('pg_logical_emit_message(boolean, text, text)', 'EXECUTE')",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_logical_emit_message(boolean, text, text) \
         TO {role}",
    ),
];

/// What a role does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Duties<'a> {
    /// It watches, with these settings.
    pub(super) monitor: Option<&'a Monitor>,
    /// It acts.
    pub(super) failover: Option<&'a Failover>,
}

impl Duties<'_> {
    /// Whether it takes a right for this.
    pub(super) fn need(&self, need: Need) -> bool {
        match need {
            // Whoever acts needs it anyway.
            Need::Watching => self.monitor.is_some() && self.failover.is_none(),
            Need::Beating => {
                self.failover.is_none() && self.monitor.is_some_and(|it| !it.heartbeat.is_zero())
            }
            Need::Acting => self.failover.is_some(),
            Need::Slots => self.failover.is_some_and(|it| it.slots),
            Need::Sync => self.failover.is_some_and(|it| it.durability == Durability::Sync),
        }
    }
}

impl Right {
    /// What gives it to this role.
    pub(super) fn grant_to(&self, role: &str) -> String {
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        self.grant.replace("{role}", &quoted)
    }
}
