//! One run: the pooler started, warmed up, loaded and ended, and what it used meanwhile.

use super::case::{Case, Load};
use super::peers;
use super::pgbench;
use super::record::Run;
use super::scene::Scene;
use super::target::Subject;
use super::usage;
use crate::process::Outcome;

/// Runs one subject once in a case.
pub(super) fn run(scene: &Scene, case: &Case, subject: &Subject, seconds: u32) -> Outcome<Run> {
    let mut proxy = peers::start(scene, case, subject)?;
    let port = match &proxy {
        Some((_, port)) => *port,
        None => scene.server_port(case)?,
    };
    let process = proxy.as_ref().map(|(pooler, _)| pooler.process());
    let mut run = match case.load {
        Load::Pgbench(protocol, script) => {
            let kind = (protocol, script);
            pgbench::warm_up(scene, case, kind, port)?;
            let before = process.map(usage::cpu_us);
            let run = pgbench::run(scene, case, kind, (port, seconds))?;
            let after = process.map(usage::cpu_us);
            Run { cpu_us: per(before, after, run.count), ..run }
        }
        Load::Own(_) | Load::Idle(_) => return Err("not yet".to_owned()),
    };
    if let Some((pooler, _)) = &mut proxy {
        pooler.check_alive()?;
        run.peak_kib = Some(usage::memory(pooler.process()).peak);
    }
    if run.count > 0.0 && run.errors == 0 {
        return Ok(run);
    }
    Err(format!("{} done, {} errors", run.count, run.errors))
}

/// Processor time of each of what was done.
fn per(before: Option<u64>, after: Option<u64>, count: f64) -> Option<f64> {
    let used = after?.saturating_sub(before?);
    (count > 0.0).then(|| super::stats::number(used) / count)
}
