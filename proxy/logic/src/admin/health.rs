//! Is pgring ready to serve?

use crate::admin::world::{Phase, merge_pools};
use crate::mail::Report;

/// Whether clients may be sent here, or why not.
///
/// Ready means: every lane answers, the process is not about to end, and a server has been logged
/// in to at least once, if anybody has asked for one.
pub fn readiness(reports: &[Report], lanes: usize, phase: Phase) -> Result<(), String> {
    if phase == Phase::Stopping {
        return Err("shutting down".to_owned());
    }
    if reports.len() < lanes {
        return Err(format!("{} of {lanes} lanes do not answer", lanes - reports.len()));
    }
    let pools = merge_pools(reports);
    let logged_in = |report: &Report| report.servers.iter().any(|server| server.pid != 0);
    let worked = reports.iter().any(logged_in)
        || pools.values().any(|pool| pool.stats.connect_times.count > 0);
    let asked = pools.values().any(|pool| pool.last_error.is_some());
    if worked || !asked {
        return Ok(());
    }
    let reason = pools.values().find_map(|pool| pool.last_error.as_deref());
    Err(format!("no server login has worked: {}", reason.unwrap_or("no reason known")))
}

#[cfg(test)]
mod tests {
    use super::{Phase, readiness};
    use crate::admin::world::tests::{pool, reports, server};
    use crate::mail::Report;

    #[test]
    fn a_process_nobody_has_used_yet_is_ready() {
        let fresh = [Report::default(), Report::default()];
        assert_eq!(readiness(&fresh, 2, Phase::Active), Ok(()));
        assert_eq!(readiness(&reports(), 2, Phase::Active), Ok(()));
    }

    #[test]
    fn a_silent_lane_a_shutdown_and_failing_logins_are_said() {
        assert!(readiness(&reports(), 3, Phase::Active).is_err_and(|why| why.contains("1 of 3")));
        assert!(readiness(&reports(), 2, Phase::Stopping).is_err());

        let mut broken = pool("shop", 0);
        broken.last_error = Some("connection refused".to_owned());
        let mut report = Report { pools: vec![broken], ..Report::default() };
        let why = readiness(std::slice::from_ref(&report), 1, Phase::Active);
        assert!(why.is_err_and(|why| why.contains("connection refused")));

        report.servers.push(server(1, None));
        assert_eq!(readiness(&[report], 1, Phase::Active), Ok(()), "another server works");
    }
}
