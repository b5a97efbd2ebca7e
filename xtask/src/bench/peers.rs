//! Starting what stands in between: configurations from `benches/peers`, filled in.

use super::case::{Case, Compared, Load, Protocol, Stage};
use super::scene::Scene;
use super::target::{self, Subject, Target};
use crate::place;
use crate::pooler::{self, Launch, Pooler};
use crate::process::Outcome;
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts a subject for a case; gives it and its port, or nothing for a direct connection.
pub(super) fn start(
    scene: &Scene,
    case: &Case,
    subject: &Subject,
) -> Outcome<Option<(Pooler, u16)>> {
    let port = place::free_port()?;
    let config = match config_name(subject.target, case.stage) {
        None => return Ok(None),
        Some(name) => config(scene, case, subject, (name, port))?,
    };
    let command = command(scene, case, subject.target, &config)?;
    let end = match subject.target {
        // Fast shutdown: an immediate one leaves its semaphores behind.
        Target::Pgpool => Signal::SIGINT,
        Target::Direct | Target::Pgring | Target::Other => Signal::SIGQUIT,
        Target::Pgbouncer | Target::Haproxy | Target::Odyssey => Signal::SIGTERM,
    };
    let launch = Launch { name: subject.target.name(), command, mark: &config, port, end };
    Ok(Some((Pooler::launch(&scene.place, launch)?, port)))
}

fn config_name(target: Target, stage: Stage) -> Option<&'static str> {
    match target {
        Target::Pgring | Target::Other if stage == Stage::Split => Some("pgring-split.toml"),
        Target::Pgpool if stage == Stage::Split => Some("pgpool-split.conf"),
        Target::Direct => None,
        Target::Pgring | Target::Other => Some("pgring.toml"),
        Target::Pgbouncer => Some("pgbouncer.ini"),
        Target::Haproxy => Some("haproxy.cfg"),
        Target::Pgpool => Some("pgpool.conf"),
        Target::Odyssey => Some("odyssey.conf"),
    }
}

fn command(scene: &Scene, case: &Case, target: Target, config: &Path) -> Outcome<Command> {
    let missing = || format!("{} is not installed", target.name());
    let program = match target {
        Target::Pgring => pooler::reachable(&scene.place, &scene.pgring)?,
        Target::Other => pooler::reachable(&scene.place, &target.program().ok_or_else(missing)?)?,
        Target::Direct | Target::Pgbouncer | Target::Haproxy | Target::Pgpool | Target::Odyssey => {
            target.program().ok_or_else(missing)?
        }
    };
    let mut command = scene.pooler_command(case, &program);
    match target {
        Target::Pgring | Target::Other => command.arg("--config").arg(config),
        Target::Haproxy => command.arg("-db").arg("-f").arg(config),
        Target::Pgpool => {
            let hba = scene.place.path.join("pool_hba.conf");
            // What another case's pgpool wrote down about its nodes is not for this one: nodes that
            // it did not have would be out of use.
            command.args(["-n", "-D", "-f"]).arg(config).arg("-a").arg(hba)
        }
        Target::Direct | Target::Pgbouncer | Target::Odyssey => command.arg(config),
    };
    Ok(command)
}

/// Writes the configuration of a subject.
fn config(
    scene: &Scene,
    case: &Case,
    subject: &Subject,
    (name, port): (&'static str, u16),
) -> Outcome<PathBuf> {
    let template = place::root().join("benches/peers").join(name);
    let text = fs::read_to_string(&template)
        .map_err(|error| format!("cannot read {}: {error}", template.display()))?;
    if subject.target == Target::Pgpool {
        scene.place.write("pool_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")?;
        scene.place.write("pool_passwd", "scram:TEXTscram\n")?;
    }
    let values = values(scene, case, subject, port)?;
    scene.place.write(name, &fill(&text, &values)?)
}

/// What the templates leave open.
fn values(
    scene: &Scene,
    case: &Case,
    subject: &Subject,
    port: u16,
) -> Outcome<Vec<(&'static str, String)>> {
    let bouncer = Target::Pgbouncer.version().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tracks = target::at_least(&bouncer, (1, 21));
    let prepares = matches!(case.load, Load::Pgbench(Protocol::Prepared, _));
    // A PgBouncer before 1.21 knows no prepared statements of the protocol. It gets what it can
    // do: a server for each client, for as long as the client stays.
    let (mode, bouncer_pool) = if prepares && !tracks {
        ("session", case.pool.max(case.clients))
    } else {
        ("transaction", case.pool)
    };
    let pool = if subject.target == Target::Pgbouncer { bouncer_pool } else { case.pool };
    let (workers, threads) = match case.stage {
        Stage::Pinned => (1, 1),
        Stage::Real | Stage::Split => (cores, cores),
    };
    let mut standbys = scene.standby_ports(case).into_iter();
    let mut standby = || standbys.next().map(|port| port.to_string()).unwrap_or_default();
    Ok(vec![
        ("standby1_port", standby()),
        ("standby2_port", standby()),
        // What routing costs is not to be mixed with what a second standby costs.
        ("weight", if case.compared == Compared::Routing { "0" } else { "1" }.to_owned()),
        ("reads", if subject.routed { "replicas" } else { "primary" }.to_owned()),
        ("monitor", if subject.watching { "user = \"bench\"" } else { "" }.to_owned()),
        ("port", port.to_string()),
        ("spare_port", place::free_port()?.to_string()),
        ("server_port", scene.server_port(case)?.to_string()),
        ("auth", if case.scram { "scram-sha-256" } else { "trust" }.to_owned()),
        ("users", scene.users.display().to_string()),
        ("directory", scene.place.path.display().to_string()),
        ("pool", pool.to_string()),
        ("mode", mode.to_owned()),
        ("buffer", if case.is_bulk() { "16384" } else { "4096" }.to_owned()),
        ("extra", if tracks { "max_prepared_statements = 500" } else { "" }.to_owned()),
        ("threads", threads.to_string()),
        (
            "workers",
            match subject.target {
                Target::Odyssey => workers.to_string(),
                Target::Direct
                | Target::Pgring
                | Target::Other
                | Target::Pgbouncer
                | Target::Haproxy
                | Target::Pgpool => subject.workers.to_string(),
            },
        ),
        // One to spare for whoever looks whether it listens.
        ("children", (case.clients + 2).to_string()),
        ("hba", if case.scram { "on" } else { "off" }.to_owned()),
        ("passwords", if case.scram { "pool_passwd" } else { "" }.to_owned()),
    ])
}

/// Fills in a template; a name without a value is an error.
pub(crate) fn fill(template: &str, values: &[(&str, String)]) -> Outcome<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    match text.split_once("{{") {
        None => Ok(text),
        Some((_, rest)) => {
            let name = rest.split("}}").next().unwrap_or_default();
            Err(format!("a template of benches/peers wants `{name}`, which has no value"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn a_template_is_filled_in_or_refused() {
        let values = [("port", "5432".to_owned()), ("pool", "16".to_owned())];
        let filled = fill("port = {{port}}\npool = {{pool}}", &values);
        assert_eq!(filled, Ok("port = 5432\npool = 16".to_owned()));
        let error = fill("x = {{nothing}}", &values).expect_err("no value");
        assert!(error.contains("`nothing`"), "{error}");
    }
}
