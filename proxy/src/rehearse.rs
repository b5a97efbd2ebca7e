//! Rehearses the loss of a primary, on a cluster that nobody needs, against a pgring that runs:
//! clients write through it while primaries are changed, ended and asked back; then what each
//! client was told is held against the table.
//!
//! It is a client like others, and an operator at the console. Only the end of a primary is its
//! own doing: it runs the `fence_command` of the configuration, with the environment that pgring
//! would give it. So it belongs on the host of pgring, and under an account that may do that.

mod link;
mod play;
mod score;
mod view;
mod writer;

use crate::control::file;
use link::{Door, Login};
use pgring_logic::config::{Cluster, Config, Failover, FailoverMode};
use play::Stage;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::timeout;
use writer::{Shared, TABLE, WRITERS};

/// How long it may take to put things back.
const CLEAN_MAX: Duration = Duration::from_secs(30);

/// What is to be rehearsed, and where.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// The config file of the pgring that runs
    #[arg(long, default_value = "/etc/pgring/pgring.toml")]
    config: PathBuf,
    /// The cluster, if there are several
    #[arg(long)]
    cluster: Option<String>,
    /// Who writes
    #[arg(long)]
    user: String,
    /// Into which database; the table `pgring_rehearsal` is made there, and dropped in the end
    #[arg(long)]
    database: String,
    /// Who commands at the console; else the user if it is one of `admin_users`, or the first
    #[arg(long)]
    console_user: Option<String>,
    /// A file with the password of both, if it does not stand in the users file in plain
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// The cases; all unless named
    #[arg(long, value_enum, value_delimiter = ',')]
    case: Vec<Case>,
    /// Writes of a second, over 8 connections
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    rate: u32,
    /// The name of the cluster: its primary will be ended
    #[arg(long, value_name = "CLUSTER")]
    yes_this_is_not_production: Option<String>,
}

/// What may happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Case {
    /// SWITCHOVER to each standby and back
    Switchover,
    /// FAILOVER .. DRY RUN, which changes nothing
    DryRun,
    /// The primary is ended by the `fence_command`, and asked back by REJOIN
    Kill,
    /// The same with PAUSE FAILOVER: nothing may happen until RESUME FAILOVER
    Pause,
}

const ALL: [Case; 4] = [Case::Switchover, Case::DryRun, Case::Kill, Case::Pause];

/// What is to be done, when all that can be known beforehand is known.
struct Plan {
    cluster: Arc<Cluster>,
    failover: Arc<Failover>,
    cases: Vec<Case>,
    door: Door,
    writer: Login,
    console: Login,
}

/// Rehearses; whether all was as it must be. An error is why it could not be brought to its end.
pub fn run(wanted: &Wanted) -> Result<bool, String> {
    let config = file::read(&wanted.config).map_err(|errors| errors.join("\n"))?;
    let plan = plan(wanted, &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    LocalSet::new().block_on(&runtime, rehearse(plan, wanted.rate))
}

fn plan(wanted: &Wanted, config: &Config) -> Result<Plan, String> {
    let cluster = choose(wanted.cluster.as_deref(), config)?;
    let name = &cluster.name;
    let failover = cluster.failover.clone().ok_or_else(|| {
        format!("failover is off in {name}: [clusters.failover] is missing, or its mode is off")
    })?;
    if wanted.yes_this_is_not_production.as_ref() != Some(name) {
        return Err(format!(
            "this ends the primary of {name}, several times: if nobody needs {name}, say \
             --yes-this-is-not-production {name}"
        ));
    }
    let database = config.database(&wanted.database);
    let database = database.ok_or_else(|| format!("there is no database {}", wanted.database))?;
    if database.cluster.name != *name {
        let other = &database.cluster.name;
        return Err(format!("the database {} is on {other}, not on {name}", wanted.database));
    }
    let given = wanted.password_file.as_deref().map(password).transpose()?;
    let console = match &wanted.console_user {
        Some(user) => user,
        None if config.admin_users.contains(&wanted.user) => &wanted.user,
        None => config.admin_users.first().ok_or("admin_users is empty: nobody may command")?,
    };
    let login = |user, database| Login::of(config, user, database, given.as_deref());
    Ok(Plan {
        cases: cases(&wanted.case, &failover)?,
        door: Door::of(config)?,
        writer: login(&wanted.user, &wanted.database),
        console: login(console, "pgring"),
        failover,
        cluster,
    })
}

fn choose(name: Option<&str>, config: &Config) -> Result<Arc<Cluster>, String> {
    let clusters = &config.clusters;
    let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let found = match name {
        Some(name) => clusters.iter().find(|cluster| cluster.name == name),
        None if clusters.len() > 1 => {
            return Err(format!("say which one by --cluster: {}", names.join(", ")));
        }
        None => clusters.first(),
    };
    found.cloned().ok_or_else(|| format!("there is no such cluster; there is {}", names.join(", ")))
}

/// The cases that this configuration can bear; an error for one that is asked for and cannot be.
fn cases(asked: &[Case], failover: &Failover) -> Result<Vec<Case>, String> {
    if failover.rejoin_command.is_empty() {
        return Err("failover.rejoin_command is missing: an old primary would have to be made a \
                    standby by hand, each time"
            .to_owned());
    }
    let ends = |case: &Case| [Case::Kill, Case::Pause].contains(case);
    let mut cases: Vec<Case> = if asked.is_empty() { ALL.into() } else { asked.to_vec() };
    let cooldown = failover.cooldown;
    if cases.iter().filter(|case| ends(case)).count() > 1 && !cooldown.is_zero() {
        let words = format!(
            "kill and pause both take a failover, and cooldown is {cooldown:?}: name one of them, \
             or set cooldown = \"0s\" for the rehearsal"
        );
        if !asked.is_empty() {
            return Err(words);
        }
        say(&format!("pause is left out: {words}"));
        cases.retain(|case| *case != Case::Pause);
    }
    if !cases.iter().any(ends) {
        return Ok(cases);
    }
    let program = failover.fence_command.first();
    let program = program.ok_or(
        "failover.fence_command is missing: kill and pause end the primary by it; without it \
         say --case switchover,dry-run",
    )?;
    std::fs::metadata(program).map_err(|why| format!("fence_command: {program}: {why}"))?;
    match failover.mode {
        FailoverMode::Auto => Ok(cases),
        FailoverMode::Manual => Err("failover.mode is manual, so that nobody replaces a primary \
                                     that ends; say --case switchover,dry-run"
            .to_owned()),
    }
}

/// The first line of a file.
fn password(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

async fn rehearse(plan: Plan, rate: u32) -> Result<bool, String> {
    let Plan { cluster, failover, cases, door, writer, console } = plan;
    let name = cluster.name.clone();
    let shared = Shared::new(door.clone(), writer, rate);
    let stage = Stage::set(shared, &door, &console, cluster, failover).await?;
    if let Some(why) = stage.complaint().await? {
        return Err(format!("{name} is not whole, so nothing is done to it: {why}"));
    }
    let session = stage.shared.open().await.map_err(|why| why.words)?;
    let made = format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (key bigint NOT NULL)");
    session.execute(&made).await.map_err(|why| format!("{TABLE}: {}", why.words))?;
    drop(session);
    say(&format!("{name}: {rate} writes a second over {WRITERS} connections"));
    let done = tokio::select! {
        done = all(&stage, &cases) => done,
        _interrupt = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    let cleaned = timeout(CLEAN_MAX, clean(&stage, &name)).await;
    let cleaned = cleaned.unwrap_or_else(|_late| Err(format!("{TABLE} could not be dropped")));
    if done.is_err()
        && let Ok(Some(why)) = stage.complaint().await
    {
        say(&format!("{name} is not whole, and is left like that (SHOW TOPOLOGY, REJOIN): {why}"));
    }
    done.and(cleaned)?;
    let well = !stage.failed.get();
    say(if well { "OK      all was as it must be" } else { "NOT OK  see above" });
    Ok(well)
}

async fn all(stage: &Stage, cases: &[Case]) -> Result<(), String> {
    let home = stage.view().await?.primary;
    for case in cases {
        stage.play(*case).await?;
    }
    stage.go_home(&home).await
}

/// Leaves nothing behind.
async fn clean(stage: &Stage, name: &str) -> Result<(), String> {
    if stage.paused.get() {
        stage.ask(&format!("RESUME FAILOVER IN \"{name}\""), CLEAN_MAX).await?;
    }
    let session = stage.shared.open().await.map_err(|why| why.words)?;
    let dropped = session.execute(&format!("DROP TABLE IF EXISTS {TABLE}")).await;
    dropped.map_err(|why| format!("DROP TABLE {TABLE}: {}", why.words))
}

fn say(line: &str) {
    // Nobody listens: that is no reason to leave a cluster half way.
    drop(writeln!(std::io::stdout(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::{Case, cases};
    use pgring_logic::config::{Failover, FailoverMode};
    use std::time::Duration;

    #[test]
    fn what_a_configuration_cannot_bear_is_said_beforehand() {
        let full = Failover {
            fence_command: vec!["/bin/true".to_owned()],
            rejoin_command: vec!["/bin/true".to_owned()],
            cooldown: Duration::ZERO,
            ..Failover::default()
        };
        assert_eq!(cases(&[], &full).map(|all| all.len()), Ok(4));
        let cooling = Failover { cooldown: Duration::from_secs(600), ..full.clone() };
        let some = [Case::Switchover, Case::DryRun, Case::Kill];
        assert_eq!(cases(&[], &cooling), Ok(some.to_vec()));
        assert!(cases(&[Case::Kill, Case::Pause], &cooling).is_err());
        let error = |failover: &Failover| cases(&[], failover).expect_err("cannot be");
        let wanting = Failover { fence_command: Vec::new(), ..full.clone() };
        assert!(error(&wanting).contains("fence_command is missing"));
        assert_eq!(cases(&some[..2], &wanting), Ok(some[..2].to_vec()));
        let wanting = Failover { rejoin_command: Vec::new(), ..full.clone() };
        assert!(error(&wanting).contains("rejoin_command is missing"));
        let nothing = vec!["/nonexistent/fence".to_owned()];
        assert!(error(&Failover { fence_command: nothing, ..full.clone() }).contains("No such"));
        let manual = Failover { mode: FailoverMode::Manual, ..full };
        assert!(error(&manual).contains("manual"));
    }
}
