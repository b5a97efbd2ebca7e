//! What a part of a rehearsal shows: how long nobody could write, and whether clients were told
//! the truth.

use crate::rehearse::writer::{End, Log};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;
use tokio::time::Instant;

/// The SQLSTATE by which a client is told that nobody knows.
const UNKNOWN: &str = "08007";
/// SQLSTATEs by which it is told for certain that nothing was done, beside whole classes.
const CERTAIN: [&str; 5] = ["08001", "08004", "08006", "57P03", "53300"];
/// Classes of errors that leave it open, whatever follows.
const OPEN: [&str; 6] = ["00", "01", "08", "57", "58", "XX"];

/// The findings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Findings {
    /// The longest time without an acknowledgement that ends after the fault.
    pub(super) outage: Duration,
    /// Whether anything was acknowledged after the fault.
    pub(super) came_back: bool,
    writes: usize,
    acked: usize,
    /// Acknowledged and not there.
    pub(super) lost: usize,
    /// There more than once.
    pub(super) doubled: usize,
    /// There although the client was told that it is not.
    pub(super) untrue: usize,
    /// What clients were told in place of an acknowledgement, by SQLSTATE.
    pub(super) heard: BTreeMap<String, u64>,
    /// Of those that were told that nobody knows: how many are there.
    unknown_there: usize,
    connects: BTreeMap<String, u64>,
    /// Idle sessions that were closed, or failed afterwards.
    pub(super) idle: u64,
}

/// Judges by the table: each key of it, and how often it is there. Writes come so often.
pub(super) fn judge(
    log: &Log,
    fault: Instant,
    table: &BTreeMap<u64, u64>,
    every: Duration,
) -> Findings {
    let mut found = Findings {
        writes: log.writes.len(),
        connects: log.connects.clone(),
        idle: log.idle_closed + log.idle_failed,
        ..Findings::default()
    };
    for write in &log.writes {
        let count = table.get(&write.key).copied().unwrap_or(0);
        found.doubled += usize::from(count > 1);
        let code = match &write.end {
            End::Acked => {
                found.acked += 1;
                found.lost += usize::from(count == 0);
                continue;
            }
            End::Refused(code) => code.as_str(),
            End::Silent => "(silent)",
        };
        *found.heard.entry(code.to_owned()).or_default() += 1;
        found.unknown_there += usize::from(code == UNKNOWN && count > 0);
        found.untrue += usize::from(is_certain(code) && count > 0);
    }
    let acks = log.writes.iter().filter(|write| write.end == End::Acked);
    let acks: Vec<Instant> = acks.map(|write| write.at).collect();
    found.came_back = acks.last().is_some_and(|last| *last > fault);
    let end = log.writes.last().map_or(fault, |last| last.at);
    found.outage = outage(&acks, fault, end).saturating_sub(every);
    found
}

/// Whether an error says that nothing was done.
fn is_certain(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    CERTAIN.contains(&code) || (code.len() == 5 && !OPEN.contains(&class))
}

fn outage(acks: &[Instant], fault: Instant, end: Instant) -> Duration {
    let before = acks.iter().copied().filter(|ack| *ack <= fault).max();
    let mut last = before.unwrap_or(fault);
    let mut longest = Duration::ZERO;
    for ack in acks.iter().copied().filter(|ack| *ack > fault) {
        longest = longest.max(ack.saturating_duration_since(last));
        last = ack;
    }
    if longest.is_zero() { end.saturating_duration_since(last) } else { longest }
}

impl Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outage, writes, acked, lost, doubled, untrue, idle, .. } = self;
        let outage = outage.as_millis();
        writeln!(f, "outage   {outage} ms without an acknowledgement")?;
        writeln!(
            f,
            "writes   {acked} of {writes} acknowledged; lost {lost}, doubled {doubled}, there \
             though refused {untrue}"
        )?;
        write!(f, "heard    by writes: {}; by connects: {}", list(&self.heard), {
            list(&self.connects)
        })?;
        if self.heard.contains_key(UNKNOWN) {
            write!(f, "; of the {UNKNOWN} {} are there", self.unknown_there)?;
        }
        write!(f, "\nidle     {idle} sessions closed or failed")
    }
}

/// Counts by name, in a line.
fn list(counts: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = counts.iter().map(|(code, count)| format!("{code} x{count}")).collect();
    if all.is_empty() { "no errors".to_owned() } else { all.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::rehearse::writer::{End, Log, Write};
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn what_clients_were_told_is_held_against_the_table() {
        let start = Instant::now();
        let told = |code: &str| End::Refused(code.to_owned());
        let ends = [
            (1, 100, End::Acked),
            (2, 990, End::Acked),
            (3, 1000, told("08007")),
            (4, 1001, told("08006")),
            (5, 1002, told("57P01")),
            (6, 1400, End::Acked),
            (7, 1405, End::Acked),
            (8, 1406, told("23505")),
        ];
        let write = |(key, at, end): &(u64, u64, End)| {
            let at = start + Duration::from_millis(*at);
            Write { key: *key, at, end: end.clone() }
        };
        let log = Log { writes: ends.iter().map(write).collect(), ..Log::default() };
        let table = [(1, 1), (2, 2), (3, 1), (4, 1), (5, 1), (7, 1)].into();
        let fault = start + Duration::from_secs(1);
        let found = judge(&log, fault, &table, Duration::from_millis(5));
        assert_eq!(found.outage, Duration::from_millis(405));
        assert_eq!((found.lost, found.doubled, found.untrue), (1, 1, 1));
        assert!(found.came_back && found.heard.len() == 4);
        let text = found.to_string();
        assert!(text.contains("4 of 8") && text.contains("08007 x1"), "{text}");
    }
}
