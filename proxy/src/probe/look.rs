//! `pgring probe`: what the probe sees of connections of this machine, for people.

use super::Probe;
use super::info::TcpInfo;
use crate::clock;
use pgring_ebpf_common::{Event, kind};
use socket2::{Protocol, SockRef};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Which connections, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Those of this process; else of all.
    pub pid: Option<u32>,
    /// Those to, or from, this port.
    pub port: Option<u16>,
    /// So long; else until it is interrupted.
    pub time: Option<Duration>,
    /// How often figures are shown.
    pub every: Duration,
}

/// How often new connections are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Watches and prints.
pub fn run(wanted: &Wanted) -> Result<(), String> {
    let probe = Probe::load()?;
    for off in probe.off() {
        say(&format!("off: {off}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|why| why.to_string())?.block_on(watch(probe, wanted))
}

async fn watch(probe: Probe, wanted: &Wanted) -> Result<(), String> {
    let mut ready = probe.awaited().map_err(|why| why.to_string())?;
    let mut known: BTreeMap<u64, String> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK);
    let mut show = tokio::time::interval(wanted.every);
    let end = wanted.time.map(|time| tokio::time::Instant::now() + time);
    let start = clock::now();
    loop {
        tokio::select! {
            guard = ready.readable_mut() => {
                let mut guard = guard.map_err(|why| why.to_string())?;
                while let Some(event) = guard.get_inner_mut().event() {
                    let name = known.get(&event.cookie).map_or("?", String::as_str);
                    let time = clock::now().since(start).as_secs_f64();
                    say(&format!("{time:9.3} s  {name}: {}", words(&event)));
                }
                guard.clear_ready();
            }
            _ = look.tick() => scan(ready.get_ref(), wanted, &mut known, false),
            _ = show.tick() => scan(ready.get_ref(), wanted, &mut known, true),
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = sleep_until(end) => return Ok(()),
        }
    }
}

async fn sleep_until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Watches what is new, and shows the figures of all if they are asked for.
fn scan(probe: &Probe, wanted: &Wanted, known: &mut BTreeMap<u64, String>, show: bool) {
    let own = std::process::id();
    for pid in wanted.pid.map_or_else(processes, |pid| vec![pid]) {
        if pid == own {
            continue;
        }
        each_connection(pid, wanted.port, &mut |socket| {
            let at = SockRef::from(socket);
            let Ok(cookie) = at.cookie() else { return };
            let number = u32::try_from(known.len()).unwrap_or(u32::MAX);
            let name = known.entry(cookie).or_insert_with(|| {
                let peer = at.peer_addr().ok().and_then(|address| address.as_socket());
                let peer = peer.map_or_else(|| "?".to_owned(), |address| address.to_string());
                let name = format!("#{number} pid {pid} to {peer}");
                if let Err(why) = probe.marker().watch(socket.as_fd(), number) {
                    say(&format!("{name}: cannot be watched: {why}"));
                }
                name
            });
            if show && let Ok(info) = TcpInfo::of(socket.as_fd()) {
                let facts = probe.marker().facts(socket.as_fd()).unwrap_or_default();
                say(&format!("             {name}: {}", figures(&info, facts.resets)));
            }
        });
    }
}

fn figures(info: &TcpInfo, resets: u32) -> String {
    format!(
        "round trip {} us (least {}, variation {}), {} unacknowledged, {} bytes unsent, window {}, \
         sent again {} ({} after timeouts), resets {resets}, silent for {} ms",
        info.round_trip_us,
        info.round_trip_min_us,
        info.variation_us,
        info.unacknowledged,
        info.unsent_bytes,
        info.window,
        info.retransmits,
        info.timeouts,
        info.silent_ms,
    )
}

/// An event in words.
fn words(event: &Event) -> String {
    let what = match event.kind {
        kind::STATE => format!("{} -> {}", state(event.first), state(event.second)),
        kind::RETRANSMIT if event.first == 0 => format!("sent again, {} so far", event.second),
        kind::RETRANSMIT => {
            format!("sent again after {} timeouts in a row, {} so far", event.first, event.second)
        }
        kind::RESET => "a reset came".to_owned(),
        kind::ERROR => match i32::try_from(event.first) {
            Ok(number) => io::Error::from_raw_os_error(number).to_string(),
            Err(_) => format!("error {}", event.first),
        },
        other => format!("something else ({other})"),
    };
    format!("{what}; round trip {} us, {} bytes in flight", event.round_trip_us, event.in_flight)
}

/// A state by its name.
fn state(number: u32) -> &'static str {
    const NAMES: [&str; 13] = [
        "?",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    usize::try_from(number).ok().and_then(|number| NAMES.get(number)).unwrap_or(&"?")
}

/// All processes.
fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Shows each TCP connection of a process. It is held for no longer than that: whoever closes it
/// meanwhile closes it then.
fn each_connection(pid: u32, port: Option<u16>, show: &mut dyn FnMut(&OwnedFd)) {
    let Ok(process) = open_process(pid) else { return };
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for entry in entries {
        let link = fs::read_link(entry.path());
        let socket = link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (true, Some(number)) = (socket, number) else { continue };
        let Ok(socket) = borrow(&process, number) else { continue };
        let at = SockRef::from(&socket);
        let tcp = at.protocol().is_ok_and(|protocol| protocol == Some(Protocol::TCP));
        let ports = [at.peer_addr(), at.local_addr()].map(|address| {
            address.ok().and_then(|address| address.as_socket()).map(|address| address.port())
        });
        let fits = port.is_none_or(|port| ports.contains(&Some(port)));
        if tcp && ports[0].is_some() && fits {
            show(&socket);
        }
    }
}

/// A handle of a process that does not become another's.
fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and gives a descriptor or an error.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(done)
}

/// A descriptor of another process, as one of this; it takes the right to trace it.
fn borrow(process: &OwnedFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three numbers and gives a descriptor or an error.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    owned(done)
}

fn owned(done: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(done) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}
