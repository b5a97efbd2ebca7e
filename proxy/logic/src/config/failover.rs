//! How a primary is replaced: `[clusters.failover]`.

use crate::config::error::Errors;
use crate::config::table::{At, Table};
use crate::config::{Node, Password};
use crate::time::Duration;
use std::path::PathBuf;

/// How the primary of a cluster is replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failover {
    /// Who begins.
    pub mode: FailoverMode,
    /// Where the record is kept.
    pub state_file: PathBuf,
    /// What an acknowledged commit survives.
    pub durability: Durability,
    /// How many standbys acknowledge a commit.
    pub quorum: u32,
    /// Applications reach the nodes through pgring only.
    pub only_path: bool,
    /// Who acts on the nodes; none: the monitor's user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Password>,
    /// How long a primary may repair itself before it is replaced.
    pub crash_grace: Duration,
    /// For how long a standby has not heard from a primary that it takes for gone.
    pub witness_timeout: Duration,
    /// Between two automatic changes.
    pub cooldown: Duration,
    /// How long what has begun may take to end before a planned change is given up.
    pub drain: Duration,
    /// How long a promotion may take.
    pub promote_timeout: Duration,
    /// How long a command may take.
    pub command_timeout: Duration,
    /// Without synchronous replication: a standby further behind is not promoted by itself.
    pub lag_bytes_max: usize,
    /// Standbys receive through physical slots, made on every node.
    pub slots: bool,
    /// Ends a node for certain: the program and its arguments.
    pub fence_command: Vec<String>,
    /// Stops a node in order.
    pub stop_command: Vec<String>,
    /// Makes a standby of a node that was a primary.
    pub rejoin_command: Vec<String>,
}

/// Who begins a change of the primary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailoverMode {
    /// An operator.
    Manual,
    /// pgring, when the primary is down.
    Auto,
}

/// What an acknowledged commit survives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// Not the loss of the primary, for what its standbys had not received.
    Async,
    /// The loss of the primary: `synchronous_standby_names` is set by pgring.
    Sync,
}

/// Lays out the table; none if failover is off.
pub(super) fn read(mut table: Table<'_>, nodes: &[Node], errors: &mut Errors) -> Option<Failover> {
    let mut failover = Failover::default();
    let mut on = true;
    let modes =
        [("off", None), ("manual", Some(FailoverMode::Manual)), ("auto", Some(FailoverMode::Auto))];
    let mut mode = Some(FailoverMode::Auto);
    table.choice("mode", &modes, &mut mode, errors);
    match mode {
        Some(mode) => failover.mode = mode,
        None => on = false,
    }
    let line = table.line;
    match table.name_of("state_file", errors) {
        Some(At { line, value }) if !value.starts_with('/') => {
            table.blame(line, "state_file", "is no absolute path", errors);
        }
        Some(At { value, .. }) => failover.state_file = value.into(),
        None => {
            let message = "missing; where pgring keeps who is the primary, across restarts";
            table.blame(line, "state_file", message, errors);
        }
    }
    let kinds = [("async", Durability::Async), ("sync", Durability::Sync)];
    table.choice("durability", &kinds, &mut failover.durability, errors);
    table.number("quorum", 1..=100, &mut failover.quorum, errors);
    if failover.durability == Durability::Sync && failover.quorum as usize >= nodes.len() {
        let message = format!("{} of {} standbys", failover.quorum, nodes.len().saturating_sub(1));
        table.blame(line, "quorum", message, errors);
    }
    table.flag("only_path", &mut failover.only_path, errors);
    user(&mut failover, &mut table, errors);
    let min = Duration::from_millis(1);
    table.timeout("crash_grace", &mut failover.crash_grace, errors);
    let least = Duration::from_millis(300);
    table.time("witness_timeout", least, &mut failover.witness_timeout, errors);
    table.timeout("cooldown", &mut failover.cooldown, errors);
    table.time("drain", min, &mut failover.drain, errors);
    table.time("promote_timeout", Duration::from_secs(1), &mut failover.promote_timeout, errors);
    table.time("command_timeout", Duration::from_secs(1), &mut failover.command_timeout, errors);
    table.bytes("lag_bytes_max", 1..=1024 * 1024, &mut failover.lag_bytes_max, errors);
    table.flag("slots", &mut failover.slots, errors);
    command("fence_command", &mut failover.fence_command, &mut table, errors);
    command("stop_command", &mut failover.stop_command, &mut table, errors);
    command("rejoin_command", &mut failover.rejoin_command, &mut table, errors);
    table.finish(errors);
    on.then_some(failover)
}

fn user(failover: &mut Failover, table: &mut Table<'_>, errors: &mut Errors) {
    failover.user = table.name_of("user", errors).map(|at| at.value);
    if let Some(At { line, value }) = table.name_of("password", errors) {
        if failover.user.is_none() {
            table.blame(line, "password", "there is no user to go with it", errors);
        }
        failover.password = Some(Password(value));
    }
}

/// A program and its arguments. No shell reads them.
fn command(key: &'static str, slot: &mut Vec<String>, table: &mut Table<'_>, errors: &mut Errors) {
    let Some(At { line, value }) = table.texts(key, errors) else { return };
    *slot = value.into_iter().map(|at| at.value).collect();
    if slot.first().is_some_and(|program| !program.starts_with('/')) {
        table.blame(line, key, "the program is no absolute path", errors);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Durability, Failover, FailoverMode, parse};
    use crate::time::Duration;
    use std::sync::Arc;

    const HA: &str = include_str!("../../../../config/ha.toml");

    fn config(text: &str) -> Result<Config, Vec<String>> {
        let users = |_: &std::path::Path| Ok("\"pgring\" \"secret\"".to_owned());
        let told = |list: Vec<crate::config::ConfigError>| {
            list.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        parse(text, &mut { users }).map_err(told)
    }

    #[test]
    fn the_shipped_example_has_every_key_and_says_what_holds_without_it() {
        let text = ["user", "password"].iter().fold(HA.to_owned(), |text, key| {
            let off = format!("\n# {key} = ");
            assert!(text.contains(&off), "{key}");
            text.replace(&off, &format!("\n{key} = "))
        });
        let full = config(&text).expect("it is well");
        let keys: Vec<_> = text
            .lines()
            .skip_while(|line| *line != "[clusters.failover]")
            .take_while(|line| *line != "[[clusters.nodes]]")
            .filter_map(|line| line.split_once(" = "))
            .collect();
        assert_eq!(keys.len(), 18, "a key came or went");
        let failover = full.clusters[0].failover.clone().expect("it is on");
        let defaults = Failover {
            state_file: "/var/lib/pgring/main.record".into(),
            durability: Durability::Sync,
            user: failover.user.clone(),
            password: failover.password.clone(),
            fence_command: failover.fence_command.clone(),
            stop_command: failover.stop_command.clone(),
            rejoin_command: failover.rejoin_command.clone(),
            ..Failover::default()
        };
        assert!(failover.password.is_some() && failover.rejoin_command.len() == 2);
        assert_eq!(failover, Arc::new(defaults));
        assert_eq!(full.monitor.heartbeat, Duration::from_millis(200));
        assert_eq!(config(HA).expect("as shipped").clusters[0].nodes.len(), 3);
    }

    #[test]
    fn what_would_not_be_safe_is_refused() {
        for (old, new, message) in [
            ("quorum = 1", "quorum = 3", "quorum: 3 of 2 standbys"),
            ("\nstate_file", "\n#state_file", "state_file: missing"),
            ("\"/var/lib/pgring/", "\"pgring/", "state_file: is no absolute path"),
            ("[\"/usr/share/pgring/hooks/fence\"", "[\"fence\"", "the program is no absolute path"),
            ("[monitor]\nuser = \"pgring\"", "[monitor]", "monitor.user: missing"),
        ] {
            assert!(HA.contains(old), "{old}");
            let errors = config(&HA.replace(old, new)).expect_err(new);
            assert!(errors.iter().any(|error| error.contains(message)), "{errors:?}");
        }
        let off = config(&HA.replace("mode = \"auto\"", "mode = \"off\"")).expect("it is well");
        assert_eq!(off.clusters[0].failover, None);
        let manual = HA.replace("mode = \"auto\"", "mode = \"manual\"");
        let manual = config(&manual).expect("it is well").clusters[0].failover.clone();
        assert_eq!(manual.map(|it| it.mode), Some(FailoverMode::Manual));
    }
}
