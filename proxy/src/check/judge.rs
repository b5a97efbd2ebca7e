//! What is to be thought of what was read.

use crate::check::read::{Access, Facts, Here, Reading};
use crate::check::rights::{Duties, RIGHTS, VERSION_MIN};
use crate::check::{Finding, Grade};
use pgring_logic::config::{Cluster, Durability, Failover, Monitor};
use pgring_logic::failover::act::{peer, target};

/// What pgring sets `wal_retrieve_retry_interval` to, in milliseconds.
const RETRY_MS: u64 = 100;
/// Senders that others may want beside the standbys: a backup, a standby that comes back.
const SPARE: u32 = 2;

/// Findings so far.
struct Book {
    cluster: String,
    findings: Vec<Finding>,
}

impl Book {
    fn say(&mut self, grade: Grade, node: Option<&str>, text: impl Into<String>) {
        let place = match node {
            Some(node) => format!("{}/{node}", self.cluster),
            None => self.cluster.clone(),
        };
        self.findings.push(Finding { grade, place, text: text.into() });
    }
}

/// A node, as far as it has answered.
struct Known<'a> {
    place: usize,
    name: &'a str,
    facts: &'a Facts,
}

impl Known<'_> {
    fn setting(&self, name: &str) -> Option<&str> {
        self.facts.settings.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.setting(name)?.parse().ok()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.setting(name) == Some(value)
    }
}

/// All that is to be said of a cluster.
pub(super) fn cluster(
    monitor: &Monitor,
    cluster: &Cluster,
    readings: &[Reading],
    here: Option<&Here>,
) -> Vec<Finding> {
    let mut book = Book { cluster: cluster.name.clone(), findings: Vec::new() };
    let failover = cluster.failover.as_deref();
    if let Some(here) = here {
        machine(&mut book, here);
    }
    let mut known = Vec::new();
    for (place, (node, reading)) in cluster.nodes.iter().zip(readings).enumerate() {
        let name = &*node.name;
        logins(&mut book, name, (monitor, failover), reading);
        match &reading.facts {
            Ok(facts) => known.push(Known { place, name, facts }),
            // That nobody gets in has been said.
            Err(_) if reading.monitor.is_err() => {}
            Err(why) => book.say(Grade::Error, Some(name), format!("it does not answer: {why}")),
        }
    }
    let primary = who_leads(&mut book, &known, cluster.nodes.len());
    let Some(failover) = failover else { return book.findings };
    for node in &known {
        own_settings(&mut book, failover, node, cluster.nodes.len());
    }
    if let Some(primary) = primary.and_then(|place| known.iter().find(|it| it.place == place)) {
        leader(&mut book, failover, primary);
        for standby in known.iter().filter(|it| it.facts.recovery) {
            follower(&mut book, cluster, (primary, standby));
        }
        by_name(&mut book, cluster, failover, primary);
    }
    book.findings
}

fn machine(book: &mut Book, here: &Here) {
    match &here.folder {
        None => book.say(Grade::Ok, None, "the folder of state_file is there and writable"),
        Some(why) => book.say(Grade::Error, None, format!("state_file: {why}")),
    }
    for (key, why) in &here.commands {
        match why {
            None => book.say(Grade::Ok, None, format!("{key} is there and executable")),
            Some(why) => book.say(Grade::Error, None, format!("{key}: {why}")),
        }
    }
}

/// Whoever is to log in can, and may do what it takes.
fn logins(
    book: &mut Book,
    node: &str,
    (monitor, failover): (&Monitor, Option<&Failover>),
    reading: &Reading,
) {
    let alone = reading.acting.is_none();
    let user = monitor.user.as_deref().unwrap_or_default();
    let acting = failover.filter(|_| alone);
    let duties = Duties { monitor: Some(monitor), failover: acting };
    login(book, node, ("monitor", user), &reading.monitor, duties);
    if let (Some(access), Some(failover)) = (&reading.acting, failover) {
        let user = failover.user.as_deref().unwrap_or_default();
        let duties = Duties { monitor: None, failover: Some(failover) };
        login(book, node, ("failover", user), access, duties);
    }
}

fn login(
    book: &mut Book,
    node: &str,
    (key, user): (&str, &str),
    access: &Result<Access, String>,
    duties: Duties<'_>,
) {
    let access = match access {
        Ok(access) => access,
        Err(why) => {
            let text = format!(
                "{user:?} cannot log in: {why}. Does the node run at this address, does its \
                 pg_hba.conf let {user:?} in from here, is {key}.password right?"
            );
            return book.say(Grade::Error, Some(node), text);
        }
    };
    let version = access.version;
    if duties.failover.is_some() && version < VERSION_MIN && !access.superuser {
        let text = format!(
            "version {}: only superusers change settings before PostgreSQL 15, and {user:?} is \
             none: make it one, or upgrade",
            version / 10_000
        );
        return book.say(Grade::Error, Some(node), text);
    }
    let lacks: Vec<_> = access.lacks.iter().filter_map(|place| RIGHTS.get(*place)).collect();
    let lacks = lacks.into_iter().filter(|right| duties.need(right.need));
    let grants: Vec<_> = lacks.map(|right| right.grant_to(user)).collect();
    let grade = if duties.failover.is_some() { Grade::Error } else { Grade::Warning };
    for grant in &grants {
        book.say(grade, Some(node), format!("{user:?} lacks a right; on the primary: {grant}"));
    }
    if grants.is_empty() {
        let major = version / 10_000;
        let text = format!("{user:?} logs in and has all rights (PostgreSQL {major})");
        book.say(Grade::Ok, Some(node), text);
    }
}

/// The one node that is a primary, by its place.
fn who_leads(book: &mut Book, known: &[Known<'_>], count: usize) -> Option<usize> {
    let primaries: Vec<_> = known.iter().filter(|it| !it.facts.recovery).collect();
    let names: Vec<_> = primaries.iter().map(|it| it.name).collect();
    match primaries[..] {
        [primary] => book.say(Grade::Ok, Some(primary.name), "it is the primary"),
        [] if known.len() == count => {
            let text = "all nodes are in recovery: promote one of them (pg_ctl promote)";
            book.say(Grade::Error, None, text);
        }
        [] => book.say(Grade::Error, None, "no node that answers is a primary"),
        [..] => {
            let text = format!(
                "more than one node is a primary: {}. Stop all but the one with the right data, \
                 and make standbys of them",
                names.join(", ")
            );
            book.say(Grade::Error, None, text);
        }
    }
    if let Some(first) = known.first() {
        let other = known.iter().find(|it| it.facts.system != first.facts.system);
        if let Some(other) = other {
            let text = format!(
                "{} and {} are not of one cluster (system_identifier {} and {}): make standbys by \
                 pg_basebackup",
                first.name, other.name, first.facts.system, other.facts.system
            );
            book.say(Grade::Error, None, text);
            return None;
        }
    }
    if let [primary] = primaries[..] { Some(primary.place) } else { None }
}

/// What every node must have set, for it may be primary or standby tomorrow.
fn own_settings(book: &mut Book, failover: &Failover, node: &Known<'_>, count: usize) {
    let before = book.findings.len();
    let others = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut say = |grade, text: String| book.say(grade, Some(node.name), text);
    if node.is("wal_level", "minimal") {
        say(Grade::Error, "wal_level is minimal: set it to replica, and restart".to_owned());
    }
    if node.is("hot_standby", "off") {
        let text = "hot_standby is off, so as a standby it lets nobody in: set it on, and restart";
        say(Grade::Error, text.to_owned());
    }
    let room = |name, needed: u32| {
        let has = node.number(name).and_then(|number| u32::try_from(number).ok())?;
        (has < needed).then(|| format!("{name} is {has}, and {needed} are needed: raise it"))
    };
    if let Some(text) = room("max_wal_senders", others) {
        say(Grade::Error, format!("{text}, and restart"));
    } else if let Some(text) = room("max_wal_senders", others + SPARE) {
        say(Grade::Warning, format!("{text} (one for each standby, and a few more), and restart"));
    }
    if failover.slots
        && let Some(text) = room("max_replication_slots", others + node.facts.slots)
    {
        say(Grade::Error, format!("{text}, and restart; or set failover.slots = false"));
    }
    let hints = node.is("wal_log_hints", "on") || node.is("data_checksums", "on");
    if !hints {
        let text = "neither wal_log_hints nor data checksums are on, so pg_rewind cannot bring it \
                    back: ALTER SYSTEM SET wal_log_hints = on, and restart";
        say(Grade::Warning, text.to_owned());
    }
    if !failover.rejoin_command.is_empty() && node.is("wal_keep_size", "0") {
        let text = "wal_keep_size is 0: an old primary that has started again by itself may lack \
                    the WAL that pg_rewind looks for: ALTER SYSTEM SET wal_keep_size = '1GB', or \
                    what the disk has room for, and reload";
        say(Grade::Warning, text.to_owned());
    }
    if node.is("full_page_writes", "off") {
        let text = "full_page_writes is off: pg_rewind wants it on (ALTER SYSTEM SET \
                    full_page_writes = on, and reload)";
        say(Grade::Warning, text.to_owned());
    }
    if node.is("fsync", "off") {
        say(Grade::Warning, "fsync is off: a crash of its machine loses commits".to_owned());
    }
    if node.setting("recovery_target_timeline").is_some_and(|it| it != "latest") {
        let text = "recovery_target_timeline is not latest, so it cannot follow a new primary: \
                    ALTER SYSTEM RESET recovery_target_timeline, and restart";
        say(Grade::Error, text.to_owned());
    }
    let targets = ["recovery_target", "recovery_target_lsn", "recovery_target_name"];
    let targets = targets.into_iter().chain(["recovery_target_time", "recovery_target_xid"]);
    for name in targets.filter(|name| node.setting(name).is_some_and(|it| !it.is_empty())) {
        say(Grade::Error, format!("{name} is set, so it stops to replay there: reset it"));
    }
    retry(&mut say, node);
    durable(&mut say, failover, node);
    if before == book.findings.len() {
        book.say(Grade::Ok, Some(node.name), "its settings are fit for failover");
    }
}

fn retry(say: &mut impl FnMut(Grade, String), node: &Known<'_>) {
    let Some(retry) = node.number("wal_retrieve_retry_interval") else { return };
    if u64::try_from(retry).is_ok_and(|retry| retry > RETRY_MS) {
        let text = format!(
            "wal_retrieve_retry_interval is {retry} ms; pgring sets it to {RETRY_MS} ms, or a \
             failover may take that much longer"
        );
        say(Grade::Ok, text);
    }
}

/// What an acknowledgement means.
fn durable(say: &mut impl FnMut(Grade, String), failover: &Failover, node: &Known<'_>) {
    if failover.durability != Durability::Sync {
        return;
    }
    let waits = |value: &str| matches!(value, "on" | "remote_apply");
    if let Some(value) = node.setting("synchronous_commit").filter(|value| !waits(value)) {
        let text = format!(
            "synchronous_commit is {value}, so an acknowledged commit may be lost in spite of \
             durability = \"sync\": ALTER SYSTEM SET synchronous_commit = on, and reload"
        );
        say(Grade::Error, text);
    }
    for (value, whose) in node.facts.overrides.iter().filter(|(value, _)| !waits(value)) {
        let text = format!("{whose} has synchronous_commit = {value}: its commits may be lost");
        say(Grade::Warning, text);
    }
}

fn leader(book: &mut Book, failover: &Failover, primary: &Known<'_>) {
    if primary.is("default_transaction_read_only", "on") {
        let text = "default_transaction_read_only is on: pgring takes that for its own work and \
                    resets it";
        book.say(Grade::Warning, Some(primary.name), text);
    }
    let fence = failover.durability == Durability::Sync
        || failover.only_path
        || !failover.fence_command.is_empty();
    if !fence {
        let text = "nothing keeps an old primary from being written to, so nothing is promoted by \
                    itself: declare failover.only_path, give a fence_command, or durability = \
                    \"sync\"";
        book.say(Grade::Warning, None, text);
    }
    if failover.rejoin_command.is_empty() {
        let text = "there is no failover.rejoin_command: an old primary is made a standby by hand";
        book.say(Grade::Warning, None, text);
    }
}

/// A standby, beside its primary.
fn follower(book: &mut Book, cluster: &Cluster, (primary, standby): (&Known<'_>, &Known<'_>)) {
    let before = book.findings.len();
    let mut say = |grade, text: String| book.say(grade, Some(standby.name), text);
    let (host, port) = peer(&cluster.nodes[primary.place]);
    // Who may not see it has been told so.
    if let Some(conninfo) = standby.setting("primary_conninfo") {
        let to = target(conninfo);
        if to.is_none() {
            let text = format!(
                "its primary_conninfo leads to no host and port that is known: ALTER SYSTEM SET \
                 primary_conninfo = '... host={host} port={port}', and reload"
            );
            say(Grade::Error, text);
        } else if to.as_ref() != Some(&(host.clone(), port)) {
            let (its, at) = to.unwrap_or_default();
            let text = format!(
                "it follows {its}:{at}, and {} is {host}:{port} here, so it is not known to follow \
                 it: give {} peer_address = \"{its}:{at}\", if that is the same, or change \
                 primary_conninfo",
                primary.name, primary.name
            );
            say(Grade::Error, text);
        }
    }
    if !standby.facts.receives {
        let text = "it does not stream from its primary: its log says why (pg_hba.conf, password, \
                    a missing slot)";
        say(Grade::Error, text.to_owned());
    }
    if standby.number("recovery_min_apply_delay").is_some_and(|delay| delay > 0) {
        let text = "recovery_min_apply_delay is set, so it is never promoted by itself, and cannot \
                    be stopped to fence its primary: ALTER SYSTEM RESET it, and reload";
        say(Grade::Warning, text.to_owned());
    }
    if !matches!(&*standby.facts.replay, "" | "not paused") {
        let text = format!(
            "replay is {}, so it is not promoted by itself: SELECT pg_wal_replay_resume()",
            standby.facts.replay
        );
        say(Grade::Warning, text);
    }
    if standby.number("max_standby_streaming_delay") == Some(-1) {
        let text = "max_standby_streaming_delay is -1: a query may hold replay up without end, and \
                    so long it cannot be stopped or promoted";
        say(Grade::Warning, text.to_owned());
    }
    if standby.setting("restore_command").is_some_and(|command| !command.is_empty()) {
        let text = "it has a restore_command: its log may grow from the archive while it is \
                    stopped; the old primary should not be able to write there";
        say(Grade::Warning, text.to_owned());
    }
    if before == book.findings.len() {
        let text = format!("it streams from {}", primary.name);
        book.say(Grade::Ok, Some(standby.name), text);
    }
}

/// PostgreSQL knows synchronous standbys by name only.
fn by_name(book: &mut Book, cluster: &Cluster, failover: &Failover, primary: &Known<'_>) {
    if failover.durability != Durability::Sync {
        return;
    }
    let others = cluster.nodes.iter().filter(|node| node.name != primary.name);
    let called = |name: &String| primary.facts.followers.contains(name);
    let (there, missing): (Vec<_>, Vec<_>) =
        others.map(|node| &node.name).partition(|name| called(name));
    let enough = there.len() >= failover.quorum as usize;
    for name in missing {
        let grade = if enough { Grade::Warning } else { Grade::Error };
        let then = if enough { "" } else { ", and commits wait without end until it is" };
        let text = format!(
            "no standby streams from {} with application_name {name}, so it acknowledges no \
             commit{then}: pgring names one that follows; to do so before, set cluster_name = \
             '{name}' there and restart, or add application_name={name} to its primary_conninfo",
            primary.name
        );
        book.say(grade, Some(name), text);
    }
}

#[cfg(test)]
mod tests;
