//! Between runs: the old primary becomes a standby again, and all are well before the next fault.

use super::Durability;
use super::ground::PGRING;
use super::scene::Scene;
use crate::process::{Outcome, check_interrupt};
use crate::rig::rest;
use crate::rig::scene::NODES;
use std::time::{Duration, Instant};

/// How long it may take until all is as it was.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// A node that is asked back is asked again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// How long REJOIN may take to be answered.
const REJOIN_MAX: Duration = Duration::from_secs(60);
/// A node that nobody starts is started after this: that is not what is measured.
const HELP: Duration = Duration::from_secs(20);

/// Brings all nodes back and waits until all are well; before `first` pgring does by itself what
/// it does. Gives the milliseconds that each REJOIN took to be answered.
pub(super) fn settle(scene: &Scene<'_>, first: Duration) -> Outcome<Vec<(String, u128)>> {
    mend(scene);
    let (start, mut asked, mut helped) = (Instant::now(), None::<Instant>, false);
    let (mut rejoined, mut refused) = (Vec::new(), String::new());
    loop {
        scene.check_alive()?;
        // What goes wrong at the console is a complaint like others: it may go right later.
        let complaint = match complaint(scene) {
            Ok(None) => return Ok(rejoined),
            Ok(Some(complaint)) => complaint,
            Err(error) => error,
        };
        check_interrupt()?;
        if start.elapsed() > SETTLE_MAX {
            let limit = SETTLE_MAX.as_secs();
            let log = scene.said();
            return Err(format!(
                "not all is well after {limit} s: {complaint}{refused}; pgring's log ends:\n{log}"
            ));
        }
        if start.elapsed() >= first && asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
            asked = Some(Instant::now());
            match rejoin(scene) {
                Ok(done) => rejoined.extend(done),
                Err(error) => refused = format!("; {error}"),
            }
        }
        if !helped && start.elapsed() > HELP {
            helped = true;
            help(scene, &complaint);
        }
        rest(LOOK)?;
    }
}

/// Takes all faults of the network away.
fn mend(scene: &Scene<'_>) {
    for spot in &scene.spots {
        scene.silence(spot, false);
        scene.cut(PGRING, spot.number, false);
    }
}

/// Asks every node back that is shut out.
fn rejoin(scene: &Scene<'_>) -> Outcome<Vec<(String, u128)>> {
    let mut done = Vec::new();
    if !scene.has_failover() {
        return Ok(done);
    }
    let topology = scene.topology()?.unwrap_or_default();
    for (name, _) in topology.quarantine.iter().filter(|_| topology.is_normal()) {
        let start = Instant::now();
        let answer = scene.ask(&format!("REJOIN {name}"), REJOIN_MAX)?;
        if answer.is_none() {
            return Err(format!("REJOIN {name} was not answered"));
        }
        done.push((name.clone(), start.elapsed().as_millis()));
    }
    Ok(done)
}

/// Starts whoever does not run.
fn help(scene: &Scene<'_>, complaint: &str) {
    for spot in &scene.spots {
        if spot.ask(&scene.site, "SELECT 1").is_err() {
            let name = &spot.node.name;
            println!("helping   {name}, which does not answer ({complaint})");
            if let Err(error) = spot.start() {
                println!("helping   {name}: {error}");
            }
        }
    }
}

/// What keeps the scene from being as it should be.
fn complaint(scene: &Scene<'_>) -> Outcome<Option<String>> {
    if scene.has_failover() {
        let Some(topology) = scene.topology()? else {
            return Ok(Some("the console does not answer".to_owned()));
        };
        if !topology.is_normal() || !topology.quarantine.is_empty() {
            return Ok(Some(format!("SHOW TOPOLOGY says\n{}", topology.text)));
        }
        // For a moment after the first start nothing is promised.
        if scene.durability == Durability::Sync && !topology.text.contains("synchronous=ANY") {
            return Ok(Some("no standby is synchronous for certain yet".to_owned()));
        }
    }
    if let Some(complaint) = scene.complaint()? {
        return Ok(Some(complaint));
    }
    let primary = scene.primary()?;
    let name = &primary.node.name;
    let sql = "SELECT count(*), current_setting('synchronous_standby_names') \
               FROM pg_stat_replication \
               WHERE state = 'streaming' AND application_name ~ '^n[0-9]$'";
    let said = primary.ask(&scene.site, sql)?;
    let (count, names) = said.split_once('|').unwrap_or((&said, ""));
    if count != (NODES - 1).to_string() {
        return Ok(Some(format!("{count} standbys stream from {name}")));
    }
    if scene.durability == Durability::Sync && names.is_empty() {
        return Ok(Some(format!(
            "{name} waits for no standby: synchronous_standby_names is empty"
        )));
    }
    Ok(None)
}
