//! Looking at the state of a session: what it has set, and what it holds.

use crate::dialogue::Wait::Ready;
use crate::dialogue::{Dialogue, Step};
use crate::message::query;
use crate::wire::Wire;

/// The settings that the tests of state change, as one row.
pub const SETTINGS: &str = "SELECT concat_ws('; ',
    current_user, session_user,
    current_setting('work_mem'),
    current_setting('search_path'),
    current_setting('TimeZone'),
    current_setting('DateStyle'),
    current_setting('client_encoding'),
    current_setting('application_name'),
    current_setting('statement_timeout'),
    current_setting('default_transaction_isolation'),
    current_setting('default_transaction_read_only'),
    current_setting('extra_float_digits'),
    current_setting('bytea_output'),
    coalesce(current_setting('app.x', true), ''),
    coalesce(current_setting('app.y', true), ''))";

/// Everything else that a session can hold, as rows; none in a fresh session.
const HELD: &str = "
    SELECT 'setting ' || name || ' = ' || setting FROM pg_settings
        WHERE source = 'session' AND name NOT IN
            ('application_name', 'transaction_isolation', 'transaction_read_only',
             'transaction_deferrable') AND setting IS DISTINCT FROM reset_val
    UNION ALL SELECT 'role ' || current_user WHERE current_user <> session_user
    UNION ALL SELECT 'custom ' || current_setting('app.x', true)
        WHERE current_setting('app.x', true) <> ''
    UNION ALL SELECT 'lock ' || classid || ' ' || objid FROM pg_locks
        WHERE locktype = 'advisory' AND pid = pg_backend_pid()
    UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() channel
    UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
    UNION ALL SELECT 'statement ' || name FROM pg_prepared_statements WHERE from_sql
    UNION ALL SELECT 'temporary ' || relname FROM pg_class
        WHERE relnamespace = pg_my_temp_schema() AND relkind IN ('r', 'S', 'v')";

/// What a session holds that a fresh one does not.
pub fn held(wire: &mut Wire) -> Vec<String> {
    wire.rows(HELD)
}

/// A dialogue of SQL texts, each followed by a look at the settings.
pub fn probed(name: &'static str, texts: &[&str]) -> Dialogue {
    let steps = texts.iter().flat_map(|sql| [query(sql), query(SETTINGS)]);
    let steps = steps.map(|send| Step { send, wait: Ready(1) });
    Dialogue { name, steps: steps.collect() }
}
