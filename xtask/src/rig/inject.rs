//! How a fault is injected, and how it is undone.

use super::family::{alive, children, send};
use super::fault::Fault;
use super::load;
use super::scene::{MONITOR, Scene, Spot, link_ends};
use super::weather::Weather;
use crate::process::{self, Outcome};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// How long a node may take to start again, its orphans having ended.
const RESTART_MAX: Duration = Duration::from_secs(30);
/// A stalled login counts as "all taken": more does not help.
const LOGIN_MAX: Duration = Duration::from_secs(5);

/// A fault that is there until it is undone, at the latest when this value goes.
pub(super) struct Injected<'scene> {
    /// The time just before.
    pub(super) at: SystemTime,
    undo: Option<Undo<'scene>>,
}

/// What takes a fault away again.
type Undo<'scene> = Box<dyn FnOnce() -> Outcome<()> + 'scene>;

impl<'scene> Injected<'scene> {
    fn new(at: SystemTime, undo: impl FnOnce() -> Outcome<()> + 'scene) -> Self {
        Self { at, undo: Some(Box::new(undo)) }
    }

    /// Takes the fault away.
    pub(super) fn undo(mut self) -> Outcome<()> {
        self.undo.take().map_or(Ok(()), |undo| undo())
    }
}

impl Drop for Injected<'_> {
    fn drop(&mut self) {
        let undone = self.undo.take().map(|undo| undo());
        // After an interrupt the whole scene goes, and nothing is asked or started again.
        if let (Some(Err(error)), false) = (undone, process::interrupted()) {
            eprintln!("a fault was not undone: {error}");
        }
    }
}

/// Injects a fault at this node.
pub(super) fn inject(fault: Fault, scene: &Scene, number: u8) -> Outcome<Injected<'_>> {
    let spot = scene.spot(number)?;
    match fault {
        Fault::Kill => end(spot, Signal::SIGKILL),
        // What pg_ctl does, without the time that pg_ctl takes to start.
        Fault::StopImmediate => end(spot, Signal::SIGQUIT),
        Fault::KillBackend => kill_backend(scene, spot),
        Fault::Sigstop => pause(postmaster(spot)?, true),
        Fault::SigstopPostmaster => pause(postmaster(spot)?, false),
        Fault::Drop => Ok(weather(spot, Weather::Dark { to: true, from: true })),
        Fault::DropTo => Ok(weather(spot, Weather::Dark { to: true, from: false })),
        Fault::DropFrom => Ok(weather(spot, Weather::Dark { to: false, from: true })),
        Fault::LinkDown => link_down(spot),
        Fault::Loss => Ok(weather(spot, rough(200, 25, 25))),
        // Half of it each way.
        Fault::Slow => Ok(weather(spot, rough(50, 50, 250))),
        Fault::Blackout => {
            let (dark, period) = (Duration::from_secs(2), Duration::from_secs(5));
            let since = Instant::now();
            Ok(weather(spot, Weather::Flicker { since, dark, period }))
        }
        Fault::RstStorm => Ok(weather(spot, Weather::Resets)),
        Fault::Refused => refuse(spot),
        Fault::Connections => take_connections(scene, spot),
        Fault::Password => rotate_password(scene, spot),
        Fault::PgringStop => {
            let pid = i32::try_from(scene.pgring()).map_err(|error| error.to_string())?;
            pause(pid, false)
        }
        Fault::Starve => {
            let at = SystemTime::now();
            let hogs = load::Hogs::start()?;
            Ok(Injected::new(at, || {
                drop(hogs);
                Ok(())
            }))
        }
        Fault::ReplicaLoss => Err("replica-loss is a run of its own".to_owned()),
    }
}

fn rough(lost: u64, least_ms: u64, most_ms: u64) -> Weather {
    let (least, most) = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
    Weather::Rough { lost, least, most }
}

fn weather(spot: &Spot, weather: Weather) -> Injected<'_> {
    let at = SystemTime::now();
    spot.link.set(weather);
    Injected::new(at, || {
        spot.link.set(Weather::Fair);
        Ok(())
    })
}

/// Ends the whole node by a signal to its postmaster, and starts it again.
fn end(spot: &Spot, signal: Signal) -> Outcome<Injected<'_>> {
    let pid = postmaster(spot)?;
    let family: Vec<i32> = [vec![pid], children(pid)].concat();
    let at = SystemTime::now();
    send(pid, signal)?;
    Ok(Injected::new(at, move || {
        // A new postmaster refuses to start while children of the old one use its memory.
        process::wait_until(RESTART_MAX, || Ok(!family.iter().any(|pid| alive(*pid))))?;
        spot.space.within(|| spot.node.start())
    }))
}

/// Kills the monitor's backend, or any other.
fn kill_backend<'scene>(scene: &'scene Scene, spot: &'scene Spot) -> Outcome<Injected<'scene>> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND pid <> pg_backend_pid() ORDER BY usename = '{MONITOR}' DESC LIMIT 1"
    );
    let found = spot.ask(&scene.site, &sql)?;
    let pid = found.parse().map_err(|_| format!("no backend to kill: {found:?}"))?;
    let at = SystemTime::now();
    send(pid, Signal::SIGKILL)?;
    Ok(Injected::new(at, || Ok(())))
}

/// Stops a process until the fault is undone, and with `family` its children too.
fn pause<'scene>(first: i32, family: bool) -> Outcome<Injected<'scene>> {
    let find = || if family { children(first) } else { Vec::new() };
    let mut others = find();
    let at = SystemTime::now();
    send(first, Signal::SIGSTOP)?;
    stop_all(&others);
    // It has no more children from now on; those it had just before are late.
    let late: Vec<i32> = find().into_iter().filter(|pid| !others.contains(pid)).collect();
    stop_all(&late);
    others.extend(late);
    Ok(Injected::new(at, move || {
        for pid in others {
            // As below.
            drop(send(pid, Signal::SIGCONT));
        }
        send(first, Signal::SIGCONT)
    }))
}

fn stop_all(processes: &[i32]) {
    for pid in processes {
        // One that has ended by itself is no loss.
        drop(send(*pid, Signal::SIGSTOP));
    }
}

fn link_down(spot: &Spot) -> Outcome<Injected<'_>> {
    let at = SystemTime::now();
    spot.space.ip(&["link", "set", &spot.device, "down"])?;
    // The route to pgring comes back with the address of the interface.
    Ok(Injected::new(at, || spot.space.ip(&["link", "set", &spot.device, "up"])))
}

/// Refuses what comes, and ends what is there as the kernel does for a process that has ended.
fn refuse(spot: &Spot) -> Outcome<Injected<'_>> {
    let (near, _) = link_ends(spot.number);
    let injected = weather(spot, Weather::Refuses);
    spot.space.within(|| {
        process::finish(Command::new("ss").args(["-K", "-t", "dst", &near.to_string()]))
    })?;
    Ok(injected)
}

/// Takes all connections of a node, and then those that the monitor had.
fn take_connections<'scene>(scene: &'scene Scene, spot: &'scene Spot) -> Outcome<Injected<'scene>> {
    let monitors = monitor_sessions(scene, spot)?;
    let mut taken = Vec::new();
    let address = spot.node.address();
    let mut fill = || {
        spot.space.within(|| {
            // The first whom there is no room for may be pgring, before we are.
            let mut last = SystemTime::now();
            loop {
                let begun = SystemTime::now();
                let Some(stream) = log_in(&address)? else { return Ok(last) };
                taken.push(stream);
                last = begun;
            }
        })
    };
    let at: SystemTime = fill()?;
    for pid in monitors {
        // It may have ended by itself.
        drop(send(pid, Signal::SIGTERM));
    }
    // Whoever is faster gets the free place; the monitor may be, and is then not disturbed.
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        fill().map(drop)?;
    }
    Ok(Injected::new(at, || {
        drop(taken);
        Ok(())
    }))
}

/// A session of the superuser, who may take the last places too; none if there is no place.
fn log_in(address: &str) -> Outcome<Option<TcpStream>> {
    let failed = |error| format!("a login at {address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(LOGIN_MAX)).map_err(failed)?;
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes();
    stream.write_all(&[length.as_slice(), body].concat()).map_err(failed)?;
    // AuthenticationOk may come before the refusal: a place is had with ReadyForQuery, which is
    // the last message, of six bytes.
    let (mut answer, mut said) = ([0; 1024], Vec::new());
    loop {
        if said.ends_with(b"Z\0\0\0\x05I") {
            return Ok(Some(stream));
        }
        match stream.read(&mut answer) {
            Ok(0) => return Ok(None),
            Ok(length) => said.extend(&answer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Gives the monitor's user another password, and ends the sessions it has with the old one.
fn rotate_password<'scene>(scene: &'scene Scene, spot: &'scene Spot) -> Outcome<Injected<'scene>> {
    let monitors = monitor_sessions(scene, spot)?;
    let set = |password: &str| format!("ALTER ROLE {MONITOR} PASSWORD '{password}'");
    let primary = scene.spot(1)?;
    primary.ask(&scene.site, &set("another"))?;
    if spot.number != primary.number {
        let sql = "SELECT pg_last_wal_replay_lsn() >= $$LSN$$::pg_lsn";
        let lsn = primary.ask(&scene.site, "SELECT pg_current_wal_lsn()")?;
        let sql = sql.replace("LSN", &lsn);
        process::wait_until(LOGIN_MAX, || Ok(spot.ask(&scene.site, &sql)? == "t"))?;
    }
    let injected = Injected::new(SystemTime::now(), move || {
        primary.ask(&scene.site, &set(MONITOR)).map(|_| ())
    });
    for pid in monitors {
        drop(send(pid, Signal::SIGTERM));
    }
    Ok(injected)
}

fn monitor_sessions(scene: &Scene, spot: &Spot) -> Outcome<Vec<i32>> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{MONITOR}'");
    Ok(spot.ask(&scene.site, &sql)?.lines().filter_map(|line| line.parse().ok()).collect())
}

fn postmaster(spot: &Spot) -> Outcome<i32> {
    let name = &spot.node.name;
    spot.node.process().ok_or_else(|| format!("{name} has no postmaster.pid"))
}
