//! What nodes and this machine say of themselves. Nothing is changed.

use crate::check::rights::RIGHTS;
use crate::control::checks::{open_session, told};
use crate::dialer::Dialer;
use pgring_logic::config::{Cluster, Config, Failover, Monitor, Node};
use rustix::fs::{Access as Wanted, access};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How long a login or an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What PostgreSQL calls these sessions.
const NAME: &str = "pgring check";

/// What is known of a node.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// How the monitor's user gets on; or why not.
    pub(super) monitor: Result<Access, String>,
    /// How whoever acts gets on, if that is somebody else.
    pub(super) acting: Option<Result<Access, String>>,
    /// What the node says, to whoever sees more of it.
    pub(super) facts: Result<Facts, String>,
}

/// What a role may do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Access {
    /// `server_version_num`.
    pub(super) version: u32,
    pub(super) superuser: bool,
    /// Rights of [`RIGHTS`] that it does not have, by place.
    pub(super) lacks: Vec<usize>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Facts {
    pub(super) recovery: bool,
    /// Its system identifier.
    pub(super) system: String,
    /// Settings by name, in their base units; those that the role may not see are not there.
    pub(super) settings: BTreeMap<String, String>,
    /// `synchronous_commit` of roles and databases: the value, and whose.
    pub(super) overrides: Vec<(String, String)>,
    /// A standby: whether it streams.
    pub(super) receives: bool,
    /// A standby: what replay does, as `pg_get_wal_replay_pause_state` says.
    pub(super) replay: String,
    /// A primary: who streams from it, by `application_name`.
    pub(super) followers: Vec<String>,
    /// Slots that are none of pgring's.
    pub(super) slots: u32,
}

/// What is known of this machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Here {
    /// What is wrong with the folder of the record.
    pub(super) folder: Option<String>,
    /// Commands by key, and what is wrong with each.
    pub(super) commands: Vec<(&'static str, Option<String>)>,
}

/// What the settings are that matter.
const SETTINGS: [&str; 23] = [
    "data_checksums",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "hot_standby",
    "max_replication_slots",
    "max_standby_streaming_delay",
    "max_wal_senders",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "synchronous_commit",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_retrieve_retry_interval",
];

/// Rows of two or three columns, the first of which says what it is.
const FACTS: &str = "SELECT 'is', pg_is_in_recovery()::text, system_identifier::text \
    FROM pg_control_system(); \
    SELECT 'receives', count(*)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'; \
    SELECT 'follower', application_name FROM pg_stat_replication WHERE state = 'streaming'; \
    SELECT 'slots', count(*)::text FROM pg_replication_slots WHERE slot_name !~ '^pgring_'; \
    SELECT 'override', split_part(c, '=', 2), concat_ws(' in ', \
        CASE WHEN s.setrole > 0 THEN 'role ' || pg_get_userbyid(s.setrole) END, \
        CASE WHEN s.setdatabase > 0 THEN 'database ' || d.datname END) \
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, \
        unnest(s.setconfig) c WHERE c LIKE 'synchronous_commit=%'; \
    SELECT 'replay', pg_get_wal_replay_pause_state() WHERE pg_is_in_recovery()";

/// Asks a node, as everybody who will log in there.
pub(super) async fn node(
    config: &Config,
    cluster: &Cluster,
    node: &Node,
    dialer: &Dialer,
) -> Reading {
    let failover = cluster.failover.as_deref();
    let other = failover.and_then(|failover| Some((failover.user.clone()?, failover)));
    let mut login = config.monitor.clone();
    let watching = open(node, &login, dialer).await;
    let monitor = access_of(&watching).await;
    let Some((user, failover)) = other.filter(|(user, _)| login.user.as_ref() != Some(user)) else {
        return Reading { monitor, acting: None, facts: facts(&watching).await };
    };
    login.user = Some(user);
    login.password.clone_from(&failover.password);
    let acting = open(node, &login, dialer).await;
    let facts = facts(if acting.is_ok() { &acting } else { &watching }).await;
    Reading { monitor, acting: Some(access_of(&acting).await), facts }
}

async fn open(node: &Node, login: &Monitor, dialer: &Dialer) -> Result<Client, String> {
    let mut why = "its name has no address".to_owned();
    for address in &node.resolved {
        let session = open_session(address, dialer, login, (&login.database, NAME));
        match timeout(LIMIT, session).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => why = error,
            Err(_late) => why = format!("no answer within {LIMIT:?}"),
        }
    }
    Err(why)
}

/// All rows of all statements.
async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let path = "SET search_path = pg_catalog, pg_temp";
    let answers = async {
        client.batch_execute(path).await?;
        client.simple_query(sql).await
    };
    let answers = timeout(LIMIT, answers).await.map_err(|_| format!("no answer in {LIMIT:?}"))?;
    let answers = answers.map_err(|why| told(&why))?;
    let rows = answers.iter().filter_map(|answer| {
        let SimpleQueryMessage::Row(row) = answer else { return None };
        Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
    });
    Ok(rows.collect())
}

async fn access_of(client: &Result<Client, String>) -> Result<Access, String> {
    let client = client.as_ref().map_err(String::clone)?;
    let who = "SELECT current_setting('server_version_num'), rolsuper::text FROM pg_roles \
               WHERE rolname = current_user";
    let row = rows(client, who).await?.pop().unwrap_or_default();
    let text = |column: usize| row.get(column).map(String::as_str).unwrap_or_default();
    let (version, superuser) = (text(0).parse().unwrap_or(0), text(1) == "true");
    let known = || RIGHTS.iter().enumerate().filter(|(_, right)| right.since <= version);
    let asked: Vec<_> = known().map(|(_, right)| format!("({})::text", right.holds)).collect();
    let row = rows(client, &format!("SELECT {}", asked.join(", "))).await?.pop();
    let held = row.unwrap_or_default();
    let lacks = known().zip(&held).filter(|(_, holds)| *holds != "true");
    let lacks = lacks.map(|((place, _), _)| place).collect();
    Ok(Access { version, superuser, lacks })
}

async fn facts(client: &Result<Client, String>) -> Result<Facts, String> {
    let client = client.as_ref().map_err(String::clone)?;
    let names = SETTINGS.map(|name| format!("'{name}'")).join(", ");
    let sql = format!("SELECT name, setting FROM pg_settings WHERE name IN ({names})");
    let mut facts = Facts::default();
    for row in rows(client, &sql).await? {
        if let [name, setting] = &row[..] {
            facts.settings.insert(name.clone(), setting.clone());
        }
    }
    for row in rows(client, FACTS).await? {
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        match row[..] {
            ["is", recovery, system] => {
                facts.recovery = recovery == "true";
                system.clone_into(&mut facts.system);
            }
            ["receives", count] => facts.receives = count != "0",
            ["follower", name] => facts.followers.push(name.to_owned()),
            ["slots", count] => facts.slots = count.parse().unwrap_or(0),
            ["override", value, whose] => {
                facts.overrides.push((value.to_owned(), whose.to_owned()));
            }
            ["replay", state] => state.clone_into(&mut facts.replay),
            [..] => {}
        }
    }
    Ok(facts)
}

/// Looks at this machine, as whoever runs this.
pub(super) fn here(failover: &Failover) -> Here {
    let commands = [
        ("fence_command", &failover.fence_command),
        ("stop_command", &failover.stop_command),
        ("rejoin_command", &failover.rejoin_command),
    ];
    let commands = commands.into_iter().filter_map(|(key, command)| {
        let program = command.first()?;
        Some((key, unfit(Path::new(program)).map(|why| format!("{program} {why}"))))
    });
    Here { folder: no_folder(&failover.state_file), commands: commands.collect() }
}

fn unfit(program: &Path) -> Option<String> {
    if !program.exists() {
        return Some("is not there".to_owned());
    }
    if !program.is_file() {
        return Some("is no file".to_owned());
    }
    access(program, Wanted::EXEC_OK).err().map(|_| "may not be executed: chmod +x it".to_owned())
}

fn no_folder(file: &Path) -> Option<String> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let name = folder.display();
    if !folder.is_dir() {
        return Some(format!("there is no folder {name}: make it, for whoever runs pgring"));
    }
    let wanted = Wanted::WRITE_OK | Wanted::EXEC_OK;
    let why = access(folder, wanted).err()?;
    Some(format!("{name} is not writable for whoever runs this: {why}"))
}

#[cfg(test)]
mod tests {
    use super::{here, no_folder};
    use pgring_logic::config::Failover;
    use std::path::Path;

    #[test]
    fn what_is_not_on_this_machine_is_missed() {
        let failover = Failover {
            state_file: "/nowhere/at/all/main.record".into(),
            fence_command: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            stop_command: vec!["/nowhere".to_owned()],
            rejoin_command: vec!["/etc/passwd".to_owned()],
            ..Failover::default()
        };
        let here = here(&failover);
        assert!(here.folder.is_some_and(|why| why.contains("/nowhere/at/all")));
        let [fence, stop, rejoin] = &here.commands[..] else { panic!("{:?}", here.commands) };
        assert_eq!(fence, &("fence_command", None));
        assert_eq!(stop.1.as_deref(), Some("/nowhere is not there"));
        assert!(rejoin.1.as_ref().is_some_and(|why| why.contains("chmod")), "{rejoin:?}");
        assert_eq!(no_folder(&Path::new(&std::env::temp_dir()).join("x.record")), None);
    }
}
