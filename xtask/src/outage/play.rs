//! What is done in each case, and what is seen of it besides the writes.

use super::case::Case;
use super::ground::{PGRING, Spot};
use super::record;
use super::scene::{PATIENCE, Scene};
use super::topology::Topology;
use super::watch::{self, Watch};
use super::writer::Clients;
use crate::place;
use crate::process::{self, Outcome};
use crate::rig::dice::Dice;
use crate::rig::family::{children, runs, send};
use crate::rig::load::Reads;
use crate::rig::rest;
use crate::rig::scene::{USER, client};
use nix::sys::signal::Signal;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// How long it may take until all is written to again.
const RETURN_MAX: Duration = Duration::from_secs(60);
/// Acknowledgements that come at least so often flow; they must do so for this time.
const FLOW: Duration = Duration::from_millis(200);
const FLOW_MIN: Duration = Duration::from_secs(1);
/// How long clients go on when the old primary is back, so that it could do harm.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// How long a fault lasts where nobody takes over.
const ALONE: Duration = Duration::from_secs(2);
/// How long the link to the primary is cut.
const CUT: Duration = Duration::from_secs(10);
/// How long a failover may take to begin.
const BEGIN_MAX: Duration = Duration::from_secs(15);
/// How long a switchover may take to be answered.
const SWITCHOVER_MAX: Duration = Duration::from_secs(30);
/// How long the orphans of a postmaster may live.
const ORPHANS_MAX: Duration = Duration::from_secs(30);
/// pgring is killed after the first write of its record, or after the next, and so on up to this
/// one; a failover takes about so many, and a kill after all of them is one after the end.
const WRITES_MAX: u64 = 8;
/// And in every second round a little later, so that what follows a write has begun, too.
const LATER_MAX: Duration = Duration::from_millis(60);
/// How long the next write is waited for.
const WRITE_MAX: Duration = Duration::from_secs(2);
/// The clients of pgbench, and transactions of a second, of all of them.
const PGBENCH: [&str; 9] = ["-n", "-N", "-c", "64", "-j", "2", "-T", "3", "-R"];
const PGBENCH_RATE: &str = "300";
/// How long pgbench runs before the switchover.
const PGBENCH_LEAD: Duration = Duration::from_millis(1200);

/// What a case is played on.
pub(super) struct Stage<'run> {
    pub(super) scene: &'run Scene<'run>,
    pub(super) clients: &'run Clients,
    /// The primary at the beginning.
    pub(super) primary: &'run Spot,
    /// What pgring said before, if it has anything to say.
    pub(super) before: Option<Topology>,
    /// Whether it is over only when another node is the primary.
    pub(super) changes: bool,
    /// Which run of its case this is; the first is 1.
    pub(super) turn: u32,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Played {
    /// The time just before the fault.
    pub(super) fault: Instant,
    /// How long the node itself took to be back.
    pub(super) restart: Option<Duration>,
    /// What people may want to know.
    pub(super) notes: Vec<String>,
    /// What should not be.
    pub(super) failures: Vec<String>,
}

impl Played {
    fn now() -> Self {
        let (notes, failures) = (Vec::new(), Vec::new());
        Self { fault: Instant::now(), restart: None, notes, failures }
    }

    fn expect(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.failures.push(otherwise.to_owned());
        }
    }
}

/// Kills the postmaster: the time just before, and all processes of it. Its children end by
/// themselves, a little later.
pub(super) fn kill(spot: &Spot) -> Outcome<(Instant, Vec<i32>)> {
    let pid = spot.postmaster()?;
    let family = [vec![pid], children(pid)].concat();
    let fault = Instant::now();
    send(pid, Signal::SIGKILL)?;
    Ok((fault, family))
}

/// Processes that are stopped, at the longest until this value goes.
pub(super) struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops all of a node: the time just before, and what wakes it again.
    pub(super) fn all(spot: &Spot) -> Outcome<(Instant, Self)> {
        let first = spot.postmaster()?;
        let fault = Instant::now();
        let stop = |pid: i32| send(pid, Signal::SIGSTOP);
        stop(first)?;
        let mut stopped = Self(vec![first]);
        // Those that the postmaster had just made are not in the first list.
        for _ in 0..2 {
            for pid in children(first) {
                if !stopped.0.contains(&pid) && stop(pid).is_ok() {
                    // The postmaster wakes last, when all answers have been given.
                    stopped.0.insert(0, pid);
                }
            }
        }
        Ok((fault, stopped))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in self.0.drain(..) {
            // One that has ended needs no waking.
            drop(send(pid, Signal::SIGCONT));
        }
    }
}

impl Stage<'_> {
    /// Plays a case, to the time when writes flow again.
    pub(super) fn play(&self, case: Case, dice: &mut Dice) -> Outcome<Played> {
        match case {
            Case::Kill | Case::Async => self.kill(),
            Case::Silent => self.silent(),
            Case::Sigstop => self.sigstop(),
            Case::Backend => self.backend(),
            Case::Switchover => self.switchover(),
            Case::Cut => self.cut(),
            Case::Return => self.comes_back(),
            Case::Crash => self.crash(dice),
        }
    }

    fn strike(&self) -> Outcome<(Played, Vec<i32>)> {
        let (fault, family) = kill(self.primary)?;
        Ok((Played { fault, ..Played::now() }, family))
    }

    fn kill(&self) -> Outcome<Played> {
        let (mut played, family) = self.strike()?;
        if !self.scene.has_failover() {
            rest(ALONE)?;
            self.start_again(&family)?;
            played.notes.push(format!("started again after {} s", ALONE.as_secs()));
        }
        self.expect_return(&mut played)?;
        Ok(played)
    }

    fn silent(&self) -> Outcome<Played> {
        let mut played = Played::now();
        self.scene.silence(self.primary, true);
        self.hold(&mut played)?;
        self.scene.silence(self.primary, false);
        self.afterwards(&mut played)?;
        Ok(played)
    }

    fn sigstop(&self) -> Outcome<Played> {
        let (fault, stopped) = Stopped::all(self.primary)?;
        let mut played = Played { fault, ..Played::now() };
        self.hold(&mut played)?;
        drop(stopped);
        self.afterwards(&mut played)?;
        Ok(played)
    }

    /// The fault lasts until somebody has taken over, or for a while if nobody does.
    fn hold(&self, played: &mut Played) -> Outcome<()> {
        if self.scene.has_failover() { self.expect_return(played) } else { rest(ALONE) }
    }

    /// The fault is over, and the old primary could do harm now.
    fn afterwards(&self, played: &mut Played) -> Outcome<()> {
        rest(AFTERWARDS)?;
        if self.scene.has_failover() { Ok(()) } else { self.expect_return(played) }
    }

    fn backend(&self) -> Outcome<Played> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE usename = '{USER}' \
             AND backend_type = 'client backend' ORDER BY state_change DESC LIMIT 1"
        );
        let found = self.primary.ask(&self.scene.site, &sql)?;
        let pid = found.parse().map_err(|_| format!("no backend to kill: {found:?}"))?;
        let mut played = Played::now();
        let fault = played.fault;
        played.restart = thread::scope(|scope| {
            let watch = scope.spawn(|| watch::restart(self.primary, fault));
            // Whether the node has been seen shut says whether there was a restart.
            send(pid, Signal::SIGKILL)?;
            watch.join().unwrap_or_else(|_| Err("the watch panicked".to_owned()))
        })?;
        played.expect(played.restart.is_some(), "the node was not seen to restart");
        self.expect_return(&mut played)?;
        self.expect_same(&mut played)?;
        Ok(played)
    }

    fn cut(&self) -> Outcome<Played> {
        let mut played = Played::now();
        self.scene.cut(PGRING, self.primary.number, true);
        let mut last = self.before.as_ref().map(|it| it.text.clone());
        let mut said = Vec::new();
        while played.fault.elapsed() < CUT {
            rest(Duration::from_millis(250))?;
            if !self.scene.has_failover() {
                continue;
            }
            let topology = self.scene.topology()?;
            if let Some(topology) = topology.filter(|it| Some(&it.text) != last.as_ref()) {
                let passed = played.fault.elapsed().as_millis();
                said.push(format!("after {passed} ms:\n{}", topology.text));
                last = Some(topology.text);
            }
        }
        self.scene.cut(PGRING, self.primary.number, false);
        if self.scene.has_failover() {
            played.expect(!said.is_empty(), "SHOW TOPOLOGY did not change in any way");
        }
        // The times in it may change all along.
        said.truncate(3);
        played.notes.extend(said);
        self.expect_return(&mut played)?;
        self.expect_same(&mut played)?;
        Ok(played)
    }

    fn switchover(&self) -> Outcome<Played> {
        let scene = self.scene;
        let own = &self.primary.node.name;
        let target = scene.spots.iter().map(|spot| &spot.node.name).find(|name| *name != own);
        let target = target.ok_or("there is no standby")?;
        let mut pgbench = scene.site.client("pgbench", &client(USER));
        pgbench.args(PGBENCH).arg(PGBENCH_RATE);
        let place = &scene.clients;
        thread::scope(|scope| {
            let load = scope.spawn(|| place.within(|| process::run(&mut pgbench, "", &mut |_| ())));
            rest(PGBENCH_LEAD)?;
            let mut played = Played::now();
            let answer = scene.ask(&format!("SWITCHOVER TO {target}"), SWITCHOVER_MAX)?;
            let took = played.fault.elapsed().as_millis();
            played.notes.push(format!("SWITCHOVER TO {target} answered after {took} ms"));
            played.expect(answer.is_some(), "SWITCHOVER was not answered");
            self.expect_return(&mut played)?;
            let said = load.join().unwrap_or_else(|_| Err("pgbench's thread panicked".into()))?;
            let Reads { done, failed } = Reads::parse(&said);
            played.notes.push(format!("pgbench: {done} transactions, {failed} failed"));
            if failed > 0 {
                let words = process::tail(&said.stderr, 3);
                played.failures.push(format!("pgbench failed {failed} times:\n{words}"));
            }
            let now = scene.primary()?.node.name.clone();
            played.expect(now == *target, &format!("{now} is the primary, not {target}"));
            Ok(played)
        })
    }

    fn comes_back(&self) -> Outcome<Played> {
        let (scene, old) = (self.scene, self.primary);
        let (mut played, family) = self.strike()?;
        let begun = process::wait_until(BEGIN_MAX, || {
            let now = scene.topology().ok().flatten();
            Ok(now.is_some_and(|now| !now.is_normal() || self.is_later(&now)))
        })?;
        played.expect(begun, "no failover began");
        let tried = played.fault.elapsed().as_millis();
        match self.start_again(&family) {
            Ok(()) => {
                let up = played.fault.elapsed().as_millis();
                played.notes.push(format!("{} up again from {tried} to {up} ms", old.node.name));
            }
            // The fence may be faster; that is as good.
            Err(error) => played.notes.push(format!("not started by hand: {error}")),
        }
        self.expect_return(&mut played)?;
        rest(AFTERWARDS)?;
        let log = old.node.data.with_extension("log");
        let log = fs::read_to_string(&log).unwrap_or_default();
        let heard = statements(&log);
        played.notes.push(format!("{heard} statements of clients at the old primary"));
        played.expect(heard == 0, &format!("{heard} statements reached the old primary"));
        let after = scene.topology()?.unwrap_or_default();
        let shut = after.quarantine.iter().find(|(name, _)| *name == old.node.name);
        match shut {
            Some((name, reason)) => played.notes.push(format!("{name} in quarantine: {reason}")),
            None => played.failures.push(format!("no quarantine of {}", old.node.name)),
        }
        Ok(played)
    }

    fn crash(&self, dice: &mut Dice) -> Outcome<Played> {
        let scene = self.scene;
        let watch = Watch::start(scene)?;
        let first = record::read(&scene.state)?;
        let (mut played, _) = self.strike()?;
        let (round, write) = (u64::from(self.turn - 1) / WRITES_MAX, u64::from(self.turn - 1));
        let write = write % WRITES_MAX + 1;
        record::after(&scene.state, &first, write, WRITE_MAX)?;
        if round % 2 == 1 {
            rest(dice.between(Duration::ZERO, LATER_MAX))?;
        }
        let killed = played.fault.elapsed().as_millis();
        scene.kill_pgring()?;
        let kept = record::read(&scene.state)?;
        let written = kept.revision - first.revision;
        played.notes.push(format!("pgring killed after write {written}: {}", kept.words));
        scene.start_pgring()?;
        let back = played.fault.elapsed().as_millis();
        played.notes.push(format!("pgring killed after {killed} ms, back after {back} ms"));
        self.expect_return(&mut played)?;
        rest(AFTERWARDS)?;
        let (both, looks) = watch.found();
        played.expect(looks > 0, "nobody has looked at the nodes");
        let words = format!("{both} of {looks} looks found two nodes that take writes");
        played.expect(both == 0, &words);
        Ok(played)
    }

    /// Starts the old primary, when nothing of it uses its memory any more.
    fn start_again(&self, family: &[i32]) -> Outcome<()> {
        process::wait_until(ORPHANS_MAX, || Ok(!family.iter().any(|pid| runs(*pid))))?;
        // Whoever is to bury the postmaster may take a second, and its file names it until then.
        place::remove_file(&self.primary.node.data.join("postmaster.pid"))?;
        self.primary.start()
    }

    /// Whether the primary has changed, and that is done.
    fn is_later(&self, now: &Topology) -> bool {
        let before = self.before.as_ref();
        now.is_normal()
            && before.is_none_or(|old| now.epoch > old.epoch && now.primary != old.primary)
    }

    /// Waits until writes flow again, at another node if it has to be one.
    fn expect_return(&self, played: &mut Played) -> Outcome<()> {
        let (mut since, mut changed) = (None, !self.changes);
        let flow = process::wait_until(RETURN_MAX, || {
            let flows = self.clients.quiet() < FLOW;
            since = flows.then(|| since.unwrap_or_else(Instant::now));
            let flows = since.is_some_and(|since: Instant| since.elapsed() >= FLOW_MIN);
            if flows && !changed {
                // The console has nothing to say, or is not there yet: it is asked again.
                changed = self.scene.topology().ok().flatten().is_some_and(|it| self.is_later(&it));
                rest(FLOW / 2)?;
            }
            Ok(flows && changed)
        })?;
        let limit = RETURN_MAX.as_secs();
        let quiet = self.clients.quiet().as_millis();
        let words = format!("not over {limit} s after the fault; last ack {quiet} ms ago");
        played.expect(flow, &words);
        Ok(())
    }

    /// Nobody may have taken over.
    fn expect_same(&self, played: &mut Played) -> Outcome<()> {
        let (Some(before), true) = (&self.before, self.scene.has_failover()) else {
            return Ok(());
        };
        let now = self.scene.topology()?.unwrap_or_default();
        let words = format!("{} was replaced by {}", before.primary, now.primary);
        played.expect(now.primary == before.primary, &words);
        if now.epoch != before.epoch {
            played.notes.push(format!("epoch {} became {}", before.epoch, now.epoch));
        }
        let chapters = self.scene.history(before.epoch)?;
        let failovers = chapters.iter().filter(|it| it.from != it.to && !it.from.is_empty());
        played.expect(failovers.count() == 0, "SHOW HISTORY has a change of the primary");
        Ok(())
    }
}

/// How many statements of clients a log has, as its lines name user and database.
fn statements(log: &str) -> usize {
    let client = format!(" {USER}@{USER} LOG:");
    let is_one = |line: &&str| {
        line.split_once(&client).is_some_and(|(_, said)| {
            said.trim_start().starts_with("statement:") || said.trim_start().starts_with("execute ")
        })
    };
    log.lines().filter(is_one).count()
}

/// Waits for pgring's word of what has happened, which may come a little after the writes.
pub(super) fn topology_after(scene: &Scene<'_>) -> Outcome<Option<Topology>> {
    if !scene.has_failover() {
        return Ok(None);
    }
    let mut last = None;
    process::wait_until(PATIENCE, || {
        last = scene.topology()?;
        Ok(last.as_ref().is_some_and(Topology::is_normal))
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn only_statements_of_clients_count() {
        let log = "2026-11-26 20:00:00 UTC [7] rig@rig LOG:  statement: INSERT INTO outage\n\
                   2026-11-26 20:00:00 UTC [7] rig@rig LOG:  execute <unnamed>: SELECT 1\n\
                   2026-11-26 20:00:00 UTC [7] rig@rig FATAL:  terminating connection\n\
                   2026-11-26 20:00:00 UTC [8] rig_monitor@postgres LOG:  statement: SELECT 2\n";
        assert_eq!(statements(log), 2);
    }
}
