//! What is known of `PostgreSQL`'s own functions beyond what its catalog says.

/// Volatile, but all they do is to answer: they may run on any node. `random` after `setseed` is
/// not among the things that a pooled session can rely on.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "crypt",
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
];

/// Of those in `pg_catalog` that begin with `pg_`, the ones that answer alike on every node.
const ALIKE: &[&str] = &[
    "pg_char_to_encoding",
    "pg_client_encoding",
    "pg_collation_for",
    "pg_column_compression",
    "pg_column_size",
    "pg_describe_object",
    "pg_encoding_max_length",
    "pg_encoding_to_char",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_function_arg_default",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_keywords",
    "pg_get_partition_constraintdef",
    "pg_get_partkeydef",
    "pg_get_ruledef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef",
    "pg_get_triggerdef",
    "pg_get_userbyid",
    "pg_get_viewdef",
    "pg_has_role",
    "pg_identify_object",
    "pg_input_error_info",
    "pg_input_is_valid",
    "pg_size_bytes",
    "pg_size_pretty",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_is_visible",
    "pg_typeof",
];

/// Other functions of `pg_catalog` whose answer is that of a node, a session or a moment of the
/// primary, however stable they are.
const BOUND: &[&str] = &[
    "current_setting",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "mxid_age",
    "version",
];

/// The same of functions that read what a text names, and of transactions.
const BOUND_STARTS: [&str; 4] = ["database_to_xml", "schema_to_xml", "table_to_xml", "txid_"];

/// Whether a volatile function only answers.
pub(super) fn is_harmless(name: &str) -> bool {
    HARMLESS.binary_search(&name).is_ok()
}

/// Whether a function of `pg_catalog` is at home on one node.
pub(super) fn is_bound(name: &str) -> bool {
    if name.starts_with("pg_") {
        return ALIKE.binary_search(&name).is_err();
    }
    BOUND.contains(&name) || BOUND_STARTS.iter().any(|start| name.starts_with(start))
}

/// Whether what is in a schema says something of its node: `PostgreSQL`'s own catalogs and views.
pub(super) fn is_system(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema"
}

#[cfg(test)]
mod tests {
    use super::{ALIKE, HARMLESS};

    #[test]
    fn lists_are_sorted() {
        assert!(HARMLESS.is_sorted() && ALIKE.is_sorted());
    }
}
