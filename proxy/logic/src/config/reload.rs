//! What a reload cannot change.

use crate::config::Config;

/// The keys whose change takes effect only after a restart.
///
/// Threads, rings and listening sockets are made at start and kept; a reload that changes one of
/// these applies the rest and says so.
pub fn changed_needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("workers", old.workers != new.workers),
        ("listen", old.listen != new.listen),
        ("unix_socket_dir", old.unix_socket_dir != new.unix_socket_dir),
        ("http", old.http != new.http),
        ("limits.buffers", old.limits.buffers != new.limits.buffers),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::changed_needs_restart;
    use crate::config::Config;

    #[test]
    fn a_reload_changes_pools_but_not_listeners() {
        let old = Config::default();
        let mut new = Config::default();
        new.pool.size = 3;
        assert!(changed_needs_restart(&old, &new).is_empty());

        new.workers = 7;
        new.http = Some("127.0.0.1:9680".to_owned());
        new.limits.buffers = 8;
        assert_eq!(changed_needs_restart(&old, &new), ["workers", "http", "limits.buffers"]);
    }
}
