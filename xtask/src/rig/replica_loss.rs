//! The loss of a standby under reads: no client may notice, and none may stay behind on it.

use super::dice::Dice;
use super::fault::Fault;
use super::load::{self, Reads};
use super::scene::{REPLICAS, Scene, USER, client, home};
use super::{PHASE_MAX, inject, rest};
use crate::process::{self, Outcome};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// The standbys, of which one is lost.
const STANDBYS: [u8; 2] = [2, 3];
/// Seconds that clients read: before the fault, with it, and to the end of slow answers.
const SECONDS: u64 = 8;
/// When the fault comes, at the earliest: all clients have a server by then.
const LEAD: Duration = Duration::from_secs(1);
/// How long connections to a lost standby may be held.
const HELD_MAX: Duration = Duration::from_secs(1);
/// How long they are looked for.
const LOOKED_FOR: Duration = Duration::from_secs(4);
/// When they should have ended, counted from there.
const READS_MAX: Duration = Duration::from_secs(SECONDS + 4);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// The number of the state ESTABLISHED in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// A lost standby.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Loss {
    /// How it was lost.
    fault: String,
    done: u64,
    failed: u64,
    /// Whether reads still waited for it in the end.
    stuck: bool,
    /// Milliseconds until no connection was open that reads had gone over; none if one stayed.
    released_ms: Option<u128>,
}

impl Loss {
    /// Whether a client noticed, or was left behind.
    pub(super) fn failed(&self) -> bool {
        let held = self.released_ms.is_none_or(|ms| ms > HELD_MAX.as_millis());
        self.failed > 0 || self.done == 0 || self.stuck || held
    }

    fn line(&self) -> String {
        let Self { fault, done, failed, stuck, released_ms } = self;
        let stuck = if *stuck { ", others stuck" } else { "" };
        let released = released_ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
        let word = if self.failed() { "  FAILED" } else { "" };
        format!("{fault:<9} {done:>6} reads, {failed} failed{stuck}, let go after {released}{word}")
    }
}

/// So many standbys killed, and so many cut off.
pub(super) fn run(scene: &Scene, runs: u32) -> Outcome<Vec<Loss>> {
    let mut dice = Dice::new(u64::from(STANDBYS[0]));
    let mut losses = Vec::new();
    for fault in [Fault::Kill, Fault::Drop] {
        for turn in 1..=runs {
            let loss = one(scene, fault, &mut dice)
                .map_err(|error| format!("replica-loss {turn}: {error}"))?;
            println!("replica-loss {turn:>4}  {}", loss.line());
            losses.push(loss);
        }
    }
    Ok(losses)
}

/// The sums of each way to lose one.
pub(super) fn table(losses: &[Loss]) -> String {
    [Fault::Kill, Fault::Drop]
        .iter()
        .map(|fault| {
            let name = fault.name();
            let own: Vec<_> = losses.iter().filter(|loss| loss.fault == name).collect();
            let (done, failed) = own
                .iter()
                .fold((0, 0), |(done, failed), loss| (done + loss.done, failed + loss.failed));
            let kept = own.iter().filter(|loss| loss.released_ms.is_none()).count();
            let longest = own.iter().filter_map(|loss| loss.released_ms).max();
            let longest = longest.map_or("-".to_owned(), |ms| format!("{ms} ms"));
            format!(
                "replica-loss by {name}: {} runs, {done} reads, {failed} failed; let go after \
                 {longest} at most, never in {kept}\n",
                own.len()
            )
        })
        .collect()
}

fn one(scene: &Scene, fault: Fault, dice: &mut Dice) -> Outcome<Loss> {
    scene.settle(drop)?;
    let mut pgbench = load::pgbench(&scene.site, &client(REPLICAS), SECONDS);
    let clients = &scene.clients;
    thread::scope(|scope| {
        let reader = scope.spawn(|| clients.within(|| process::run(&mut pgbench, "", &mut |_| ())));
        rest(LEAD + dice.between(Duration::ZERO, PHASE_MAX))?;
        let number = busiest(scene)?;
        let ports = ports(scene, number)?;
        let injected = inject::inject(fault, scene, number)?;
        let start = Instant::now();
        let mut released_ms = None;
        while released_ms.is_none() && start.elapsed() < LOOKED_FOR {
            rest(LOOK)?;
            let passed = start.elapsed().as_millis();
            released_ms = (held(scene, number, &ports)? == 0).then_some(passed);
        }
        let ended = process::wait_until(READS_MAX, || Ok(reader.is_finished()))?;
        // Only now: reads that wait for the lost standby would be answered otherwise.
        injected.undo()?;
        let said = reader.join().unwrap_or_else(|_| Err("the reader panicked".to_owned()))?;
        let Reads { done, failed } = Reads::parse(&said);
        Ok(Loss { fault: fault.name(), done, failed, stuck: !ended, released_ms })
    })
}

/// The standby that most reads have gone to just now: one that was lost often gets none for a
/// while, and then its loss would show nothing.
fn busiest(scene: &Scene) -> Outcome<u8> {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}' \
         AND state_change > clock_timestamp() - interval '500 ms'"
    );
    let mut found = Vec::new();
    for number in STANDBYS {
        let sessions = scene.spot(number)?.ask(&scene.site, &sql)?;
        found.push((sessions.parse().unwrap_or(0_u32), number));
    }
    let most = found.into_iter().max().filter(|(sessions, _)| *sessions > 0);
    most.map(|(_, number)| number).ok_or_else(|| "no read goes to a standby".to_owned())
}

/// The ports of pgring's connections to the standby that reads go over. Those of its monitor are
/// others: they may well wait there for the node to come back.
fn ports(scene: &Scene, number: u8) -> Outcome<BTreeSet<u16>> {
    let sql = format!("SELECT client_port FROM pg_stat_activity WHERE usename = '{USER}'");
    let said = scene.spot(number)?.ask(&scene.site, &sql)?;
    Ok(said.lines().filter_map(|line| line.parse().ok()).collect())
}

/// How many of them are still open.
fn held(scene: &Scene, number: u8, ports: &BTreeSet<u16>) -> Outcome<usize> {
    let port = scene.spot(number)?.node.port;
    // The files of a process are those of its namespace.
    let path = format!("/proc/{}/net/tcp", scene.pgring());
    let table = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The kernel prints the four bytes of an address as one number of the machine.
    let end = format!("{:08X}:{port:04X}", u32::from_ne_bytes(home(number).octets()));
    Ok(established(&table, &end).filter(|own| ports.contains(own)).count())
}

/// Of the lines of `/proc/net/tcp` with an open connection to this end, the port of the other.
fn established<'table>(table: &'table str, end: &'table str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (remote == end && state == ESTABLISHED).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::{Loss, established};

    #[test]
    fn only_open_connections_to_the_node_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 01024D0A:A2F4 02004D0A:1538 01 00000000:00000000\n\
            1: 01024D0A:1538 02004D0A:A2F4 01 00000000:00000000\n\
            2: 01024D0A:A2F6 02004D0A:1538 08 00000000:00000000\n";
        let ports = |table| established(table, "02004D0A:1538").collect::<Vec<_>>();
        assert_eq!(ports(table), [0xa2f4]);
        assert_eq!(ports(""), Vec::<u16>::new());
    }

    #[test]
    fn a_loss_fails_with_a_read_or_with_a_connection_that_is_kept() {
        let fault = "drop".to_owned();
        let loss = Loss { fault, done: 9, failed: 0, stuck: false, released_ms: Some(400) };
        assert!(!loss.failed());
        assert!(Loss { failed: 1, ..loss.clone() }.failed());
        assert!(Loss { done: 0, ..loss.clone() }.failed());
        assert!(Loss { stuck: true, ..loss.clone() }.failed());
        assert!(Loss { released_ms: None, ..loss.clone() }.failed());
        assert!(Loss { released_ms: Some(1001), ..loss }.failed());
    }
}
