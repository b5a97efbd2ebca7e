//! What a run shows: how long nobody could write, and whether each client was told the truth.

use super::topology::bound_seconds;
use super::writer::{End, Log, WRITE_EVERY, Write};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The SQLSTATE by which a client is told that nobody knows.
const UNKNOWN: &str = "08007";
/// SQLSTATEs that say for certain that a statement was not executed.
const NOT_EXECUTED: [&str; 10] =
    ["57P03", "53300", "25006", "25P02", "40001", "40P01", "08001", "08004", "53400", "3D000"];
/// Statements that are shown of a kind.
const SHOWN: usize = 10;

/// The findings of a run. Times are in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Findings {
    /// The longest time without an acknowledgement around the fault.
    pub(crate) outage_ms: f64,
    /// Whether the table was written to again before the end.
    pub(crate) came_back: bool,
    /// Writes, and those that were acknowledged.
    pub(crate) writes: usize,
    pub(crate) acked: usize,
    /// Keys that were acknowledged and are not there.
    pub(crate) lost: usize,
    /// The earliest of them was acknowledged so long after the fault; before it if negative.
    pub(crate) lost_from_ms: Option<f64>,
    /// Keys that are there more than once.
    pub(crate) doubled: usize,
    /// Keys that are there although the client was told that they are not.
    pub(crate) lies: usize,
    /// Writes of which the client was told that nobody knows, and how many of them are there.
    pub(crate) unknown: usize,
    pub(crate) unknown_there: usize,
    /// All other ends of writes, by SQLSTATE.
    pub(crate) codes: BTreeMap<String, usize>,
    /// Those of them that leave the client in the dark, under way at the time of the fault or not.
    pub(crate) unclear: BTreeMap<String, usize>,
    pub(crate) unclear_in_flight: usize,
    /// Connects that failed, by SQLSTATE.
    pub(crate) connects: BTreeMap<String, u64>,
    pub(crate) idle_closed: u64,
    pub(crate) idle_failed: u64,
    pub(crate) reads: u64,
    pub(crate) reads_failed: BTreeMap<String, u64>,
    /// Some of the keys that are lost, doubled or lied about, and of the reads that failed.
    pub(crate) shown: Vec<String>,
}

/// Judges what the clients saw by the table: each key of it, and how often it is there.
pub(crate) fn judge(log: &Log, fault: Instant, table: &BTreeMap<u64, u64>) -> Findings {
    let mut findings = Findings {
        writes: log.writes.len(),
        doubled: table.values().filter(|count| **count > 1).count(),
        connects: log.connects.clone(),
        idle_closed: log.idle_closed,
        idle_failed: log.idle_failed,
        reads: log.reads,
        reads_failed: log.reads_failed.clone(),
        ..Findings::default()
    };
    for write in &log.writes {
        weigh(write, fault, table.contains_key(&write.key), &mut findings);
    }
    let doubled = table.iter().filter(|(_, count)| **count > 1);
    let doubled = doubled.map(|(key, count)| format!("{key} is there {count} times"));
    findings.shown.extend(doubled);
    let reads = log.read_errors.iter().map(|(at, text)| (since(*at, fault), text));
    findings.shown.extend(reads.map(|(after, text)| format!("a read at {after:.1} ms: {text}")));
    findings.shown.truncate(SHOWN);
    let acks = log.writes.iter().filter(|write| write.end == End::Acked).map(|write| write.at);
    let end = log.writes.iter().map(|write| write.at).max();
    let acks: Vec<Instant> = acks.collect();
    findings.came_back = acks.last().is_some_and(|last| *last > fault);
    findings.outage_ms = ms(outage(&acks, fault, end.unwrap_or(fault)));
    findings
}

/// Weighs one write, of which the table says whether it is there.
fn weigh(write: &Write, fault: Instant, there: bool, findings: &mut Findings) {
    let after = since(write.at, fault);
    let code = match &write.end {
        End::Acked => {
            findings.acked += 1;
            if !there {
                findings.lost += 1;
                let first = findings.lost_from_ms.map_or(after, |first| first.min(after));
                findings.lost_from_ms = Some(first);
                findings.shown.push(format!("{} is lost, acked at {after:.1} ms", write.key));
            }
            return;
        }
        End::Refused(code) if code == UNKNOWN => {
            findings.unknown += 1;
            findings.unknown_there += usize::from(there);
            return;
        }
        End::Refused(code) => code.as_str(),
        End::Closed => "closed",
        End::Silent => "silent",
    };
    *findings.codes.entry(code.to_owned()).or_default() += 1;
    if NOT_EXECUTED.contains(&code) || is_definite(code) {
        if there {
            findings.lies += 1;
            findings.shown.push(format!("{} is there after {code} at {after:.1} ms", write.key));
        }
    } else {
        *findings.unclear.entry(code.to_owned()).or_default() += 1;
        findings.unclear_in_flight += usize::from(write.sent <= fault);
    }
}

/// Whether an error outside of classes about connections and operators: the statement itself
/// failed, and its transaction with it.
fn is_definite(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    code.len() == 5 && !["08", "57", "58", "XX", "01", "00"].contains(&class)
}

/// The longest time without an acknowledgement that ends after the fault, but for what lies
/// between two writes in any case.
fn outage(acks: &[Instant], fault: Instant, end: Instant) -> Duration {
    let last = acks.iter().copied().filter(|ack| *ack <= fault).max().unwrap_or(fault);
    let after = acks.iter().copied().filter(|ack| *ack > fault);
    let times: Vec<Instant> = std::iter::once(last).chain(after).collect();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    // If nothing came any more, the end of the run is the least it can have been.
    let open = (times.len() == 1).then(|| end.saturating_duration_since(last));
    gaps.chain(open).max().unwrap_or_default().saturating_sub(WRITE_EVERY)
}

/// Whether what is lost keeps to this bound, which pgring has stated in words.
pub(crate) fn keeps(findings: &Findings, bound: &str) -> Result<(), String> {
    let Some(first) = findings.lost_from_ms else { return Ok(()) };
    let Some(seconds) = bound_seconds(bound) else {
        return Err(format!("{} lost, and no time in the bound `{bound}`", findings.lost));
    };
    if first >= -seconds * 1000.0 {
        return Ok(());
    }
    Err(format!("lost what was acked {first:.1} ms from the fault; the bound is `{bound}`"))
}

/// A time in milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Milliseconds from one time to another, which may be the earlier.
fn since(at: Instant, start: Instant) -> f64 {
    ms(at.saturating_duration_since(start)) - ms(start.saturating_duration_since(at))
}

#[cfg(test)]
mod tests {
    use super::{Findings, judge, keeps};
    use crate::outage::writer::{End, Log, Write};
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    /// Writes that are heard at these milliseconds, each a millisecond after it was sent; the
    /// fault is at 1000.
    fn judged(writes: &[(u64, u64, End)], table: &[(u64, u64)]) -> Findings {
        let start = Instant::now();
        let write = |(key, at, end): &(u64, u64, End)| {
            let sent = start + Duration::from_millis(at - 1);
            let at = start + Duration::from_millis(*at);
            Write { key: *key, sent, at, end: end.clone() }
        };
        let writes = writes.iter().map(write).collect();
        let log = Log { writes, ..Log::default() };
        let table: BTreeMap<u64, u64> = table.iter().copied().collect();
        judge(&log, start + Duration::from_secs(1), &table)
    }

    fn refused(code: &str) -> End {
        End::Refused(code.to_owned())
    }

    #[test]
    fn an_outage_is_the_longest_gap_that_ends_after_the_fault() {
        let all = [(1, 100, End::Acked), (2, 990, End::Acked), (3, 1010, End::Acked)];
        let findings = judged(&all, &[(1, 1), (2, 1), (3, 1)]);
        assert!((findings.outage_ms - 15.0).abs() < 0.01, "{}", findings.outage_ms);
        assert!(findings.came_back && findings.lost == 0 && findings.acked == 3);
        let orphans = [(1, 999, End::Acked), (2, 1020, End::Acked), (3, 1500, End::Acked)];
        assert!((judged(&orphans, &[]).outage_ms - 475.0).abs() < 0.01);
        let never = judged(&[(1, 900, End::Acked), (2, 3000, End::Silent)], &[(1, 1)]);
        assert!(!never.came_back && (never.outage_ms - 2095.0).abs() < 0.01);
    }

    #[test]
    fn what_clients_were_told_is_held_against_the_table() {
        let writes = [
            (1, 990, End::Acked),
            (2, 991, End::Acked),
            (3, 1001, refused("08007")),
            (4, 1000, refused("57P03")),
            (5, 1000, End::Closed),
            (6, 1200, refused("57P01")),
            (7, 1200, refused("23505")),
        ];
        let findings = judged(&writes, &[(1, 2), (3, 1), (4, 1), (5, 1), (6, 1)]);
        assert_eq!((findings.lost, findings.doubled, findings.lies), (1, 1, 1));
        assert_eq!((findings.unknown, findings.unknown_there), (1, 1));
        assert_eq!(findings.codes.values().sum::<usize>(), 4);
        let unclear: Vec<_> = findings.unclear.keys().map(String::as_str).collect();
        assert_eq!((unclear, findings.unclear_in_flight), (vec!["57P01", "closed"], 1));
        assert_eq!(findings.shown.len(), 3);
    }

    #[test]
    fn a_loss_keeps_to_its_bound_or_does_not() {
        let findings = judged(&[(1, 700, End::Acked), (2, 1100, End::Acked)], &[(2, 1)]);
        assert_eq!(findings.lost_from_ms.map(f64::round), Some(-300.0));
        assert!(keeps(&findings, "350 ms of commits").is_ok());
        assert!(keeps(&findings, "0.2 s").is_err());
        assert!(keeps(&findings, "nothing").is_err());
        assert!(keeps(&Findings::default(), "").is_ok());
    }
}
