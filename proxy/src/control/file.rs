//! The config file: read at start and at each reload, whole or not at all.

use pgring_logic::config::{Config, changed_needs_restart, parse};
use std::fs;
use std::path::Path;

/// Reads and checks a config file and the users file it names; relative paths in it start at its
/// own directory. The errors name file, line and key.
pub fn read(path: &Path) -> Result<Config, Vec<String>> {
    let place = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| vec![place(&error)])?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut users = |file: &Path| {
        let file = directory.join(file);
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let errors = match parse(&text, &mut users) {
        Ok(config) => return Ok(config),
        Err(errors) => errors,
    };
    Err(errors.iter().map(|error| place(error)).collect())
}

/// What comes of a reload: the new config, with the old value of every key that only a restart
/// can change, and a warning for each of those.
pub(super) fn merge(old: &Config, mut new: Config) -> (Config, Vec<String>) {
    if new.workers == 0 {
        // As at start: one for each core of the machine.
        new.workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    }
    let keys = changed_needs_restart(old, &new);
    new.workers = old.workers;
    new.listen.clone_from(&old.listen);
    new.listen_readonly.clone_from(&old.listen_readonly);
    new.unix_socket_dir.clone_from(&old.unix_socket_dir);
    new.http.clone_from(&old.http);
    new.limits.buffers = old.limits.buffers;
    (new.monitor.probe, new.monitor.rto_min) = (old.monitor.probe, old.monitor.rto_min);
    let unwatched = old.monitor.user.is_none() && new.monitor.user.is_some() && new.monitor.probe;
    assert!(changed_needs_restart(old, &new).is_empty(), "keys that need a restart are kept");
    let warning = |key| format!("{key} changes only with a restart; the old value stays");
    let mut warnings: Vec<_> = keys.into_iter().map(warning).collect();
    if unwatched {
        let late = "monitor.user is new: connections are watched in the kernel after a restart";
        warnings.push(late.to_owned());
    }
    (new, warnings)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{merge, read};
    use pgring_logic::config::Config;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A directory of its own, gone with the value.
    pub(crate) struct Directory(PathBuf);

    impl Directory {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pgring-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            // What stays behind in a temporary directory does no harm.
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// A config with one cluster at this address.
    pub(crate) fn text(address: &str, more: &str) -> String {
        format!(
            "{more}\n[auth]\nmethod = \"scram-sha-256\"\nusers_file = \"users.txt\"\n\
             [[clusters]]\nname = \"main\"\n[[clusters.nodes]]\nname = \"pg1\"\n\
             address = \"{address}\"\n[[databases]]\nname = \"*\"\ncluster = \"main\"\n"
        )
    }

    #[test]
    fn relative_paths_start_at_the_config_file() {
        let directory = Directory::new("file");
        directory.write("users.txt", "\"alice\" \"secret\"\n");
        let path = directory.write("good.toml", &text("127.0.0.1:5432", ""));
        assert!(read(&path).unwrap().users.contains_key("alice"));

        let path = directory.write("bad.toml", &text("127.0.0.1:5432", "workrs = 2"));
        let errors = read(&path).unwrap_err().join("\n");
        assert!(errors.contains("bad.toml") && errors.contains("workrs"), "{errors}");
        assert!(read(Path::new("/nowhere/pgring.toml")).is_err());
    }

    #[test]
    fn a_reload_keeps_what_only_a_restart_can_change() {
        let old = Config { workers: 2, ..Config::default() };
        let mut new = Config { workers: 8, ..Config::default() };
        new.pool.size = 7;
        let (merged, warnings) = merge(&old, new);
        assert_eq!((merged.workers, merged.pool.size), (2, 7));
        assert!(warnings.len() == 1 && warnings[0].starts_with("workers"), "{warnings:?}");
    }
}
