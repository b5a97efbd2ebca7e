//! One run: the pooler started, warmed up, loaded and ended, and what it used meanwhile.

use super::case::{Case, Load, Own, Protocol, Script, Stage};
use super::load;
use super::peers;
use super::pgbench;
use super::record::Run;
use super::scene::Scene;
use super::stats;
use super::target::{Subject, Target};
use super::usage;
use crate::process::Outcome;

/// The least part of transactions that standbys do where reads are split: half of what equal shares
/// give, where two of three nodes are standbys and nine of ten transactions read.
const SHARE_MIN: f64 = 0.3;

/// Runs one subject once in a case.
pub(super) fn run(scene: &Scene, case: &Case, subject: &Subject, seconds: u32) -> Outcome<Run> {
    let split = splits(case, subject);
    let before = if split { scene.on_standbys(case)? } else { 0 };
    let mut proxy = peers::start(scene, case, subject)?;
    let ports = match &proxy {
        Some((_, port)) => vec![*port],
        None => scene.direct_ports(case)?,
    };
    let port = *ports.first().ok_or("there is nobody to connect to")?;
    let process = proxy.as_ref().map(|(pooler, _)| pooler.process());
    let way = Way { scene, case, port, ports: &ports, process };
    let mut run = match case.load {
        Load::Pgbench(protocol, script) => way.pgbench((protocol, script), seconds)?,
        Load::Own(own) => load::run(&way, own, seconds)?,
        Load::Idle(clients, state) => way.idle(clients, state, seconds)?,
    };
    if let Some((pooler, _)) = &mut proxy {
        pooler.check_alive()?;
        run.peak_kib = Some(usage::memory(pooler.process()).peak);
    }
    if run.count <= 0.0 || run.errors > 0 {
        return Err(format!("{} done, {} errors", run.count, run.errors));
    }
    if split {
        // Whoever leaves tells the server what it counted.
        drop(proxy);
        shared(scene.on_standbys(case)?.saturating_sub(before), run.count)?;
    }
    Ok(run)
}

/// Whether the subject is to share reads out among the standbys of the case.
fn splits(case: &Case, subject: &Subject) -> bool {
    let reads = matches!(case.load, Load::Pgbench(_, Script::SelectOnly | Script::Mixed));
    case.stage == Stage::Split && reads && subject.routed && subject.target != Target::Direct
}

/// An error if a proxy that is compared as one that splits sent its reads to the primary.
fn shared(standbys: u64, count: f64) -> Outcome<()> {
    if stats::number(standbys) >= count * SHARE_MIN {
        return Ok(());
    }
    Err(format!("no split: {standbys} of {count} transactions were done by standbys"))
}

/// Where a load goes, and who is watched meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Way<'scene> {
    /// Everything that stands still.
    pub(super) scene: &'scene Scene,
    /// What is played.
    pub(super) case: &'scene Case,
    /// Where the clients connect.
    pub(super) port: u16,
    /// The same, where clients without a proxy share out standbys among themselves.
    ports: &'scene [u16],
    /// The proxy, if there is one.
    process: Option<u32>,
}

impl Way<'_> {
    /// Processor time that the proxy has used so far.
    pub(super) fn cpu_us(&self) -> Option<u64> {
        self.process.map(usage::cpu_us)
    }

    fn pgbench(&self, kind: (Protocol, Script), seconds: u32) -> Outcome<Run> {
        let Self { scene, case, port, ports, .. } = *self;
        pgbench::warm_up(scene, case, kind, port)?;
        let before = self.cpu_us();
        let run = pgbench::run(scene, case, kind, (ports, seconds))?;
        Ok(Run { cpu_us: per(before, self.cpu_us(), run.count), ..run })
    }

    /// One client alone, then among many that do nothing.
    fn idle(&self, clients: u32, state: bool, seconds: u32) -> Outcome<Run> {
        let alone = load::run(self, Own::Simple, seconds)?;
        let memory = || self.process.map(|process| stats::number(usage::memory(process).now));
        let before = memory();
        let crowd = load::hold(self, clients, state)?;
        let after = memory();
        let run = load::run(self, Own::Simple, seconds)?;
        drop(crowd);
        let each = |after: f64| Some((after - before?) * 1024.0 / f64::from(clients));
        let client_bytes = after.and_then(each);
        Ok(Run { client_bytes, alone_us: Some(alone.latencies_us), ..run })
    }
}

/// Processor time of each of what was done.
pub(super) fn per(before: Option<u64>, after: Option<u64>, count: f64) -> Option<f64> {
    // Less than before is what a process took with it that ended just between.
    let used = after?.checked_sub(before?)?;
    (count > 0.0).then(|| stats::number(used) / count)
}

#[cfg(test)]
mod tests {
    use super::shared;

    #[test]
    fn a_split_that_is_none_is_told() {
        assert_eq!(shared(600, 1000.0), Ok(()));
        let error = shared(6, 1000.0).expect_err("all went to the primary");
        assert!(error.contains("6 of 1000"), "{error}");
    }
}
