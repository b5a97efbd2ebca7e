//! Senses in the kernel: programs that tell what happens to the sockets that lead to nodes.
//!
//! A dead process, a reset, a refusal and a segment sent again are known within a millisecond, also
//! on connections on which nobody waits for anything. Each of the four programs is loaded by
//! itself: one that the kernel does not take (too old, no right, no BTF) switches its own signal
//! off, and what asks the sockets themselves (`TCP_INFO`) carries the rest.
//!
//! It takes `CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN` to load them, and nothing to read them.
#![expect(unsafe_code, reason = "what the kernel has laid out, and calls that have no other form")]

pub mod info;
mod layout;
pub mod look;
pub mod mark;
pub mod rights;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader, Pod};
use layout::{Layout, VMLINUX};
use mark::Marker;
use pgring_ebpf_common::{Event, Socket};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use tokio::io::unix::AsyncFd;

/// The programs, built by `cargo xtask build-probe`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/probe.bpf.o");

/// A program, the kernel's tracepoint that it belongs to, and what is not known without it.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("state_changed", "inet_sock_set_state", "connections that open and close"),
    ("sent_again", "tcp_retransmit_skb", "segments that are sent again"),
    ("was_reset", "tcp_receive_reset", "resets"),
    ("failed", "inet_sk_error_report", "errors of connections"),
];

/// Fields of the kernel's structs that the programs read.
const FIELDS: [(&str, &str, &str); 5] = [
    ("ROUND_TRIP_AT", "tcp_sock", "srtt_us"),
    ("UNACKNOWLEDGED_AT", "tcp_sock", "snd_una"),
    ("NEXT_AT", "tcp_sock", "snd_nxt"),
    ("TIMEOUTS_AT", "tcp_sock", "inet_conn.icsk_retransmits"),
    ("ERROR_AT", "sock", "sk_err"),
];

/// What the kernel keeps of a socket, as bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Kept(Socket);

// SAFETY: `Socket` is numbers one after the other without anything between them, which a test of
// its crate holds; any bytes are one.
unsafe impl Pod for Kept {}

/// The programs at work; they leave the kernel with it.
pub struct Probe {
    /// What is loaded, kept because it goes with it.
    _programs: Ebpf,
    marker: Marker,
    events: RingBuf<MapData>,
    off: Vec<String>,
}

impl Probe {
    /// Loads the programs. Those that the kernel does not take are off: see [`Probe::off`].
    pub fn load() -> Result<Self, String> {
        let missing =
            |what: &str| format!("{VMLINUX}: {what}; the kernel needs CONFIG_DEBUG_INFO_BTF");
        let bytes = std::fs::read(VMLINUX).map_err(|why| missing(&why.to_string()))?;
        let layout = Layout::parse(bytes).ok_or_else(|| missing("not understood"))?;
        let mut offsets = Vec::new();
        for (global, owner, path) in FIELDS {
            let offset = layout.offset(owner, path);
            let offset = offset.ok_or_else(|| format!("this kernel has no {owner}.{path}"))?;
            offsets.push((global, offset));
        }
        let mut loader = EbpfLoader::new();
        for (global, offset) in &offsets {
            loader.override_global(global, offset, true);
        }
        let mut programs = loader.load(OBJECT).map_err(|why| rights(&why))?;
        let types = Btf::from_sys_fs().map_err(|why| missing(&why.to_string()))?;
        let mut off = Vec::new();
        for (name, point, what) in PROGRAMS {
            if let Err(why) = attach(&mut programs, &types, name, point) {
                off.push(format!("{what} are not seen: {why}"));
            }
        }
        if off.len() == PROGRAMS.len() {
            return Err(off.swap_remove(0));
        }
        let mut map = |name| programs.take_map(name).ok_or(format!("the object has no map {name}"));
        let (sockets, events) = (map("SOCKETS")?, map("EVENTS")?);
        Ok(Self {
            marker: Marker::new(data(sockets)?)?,
            events: RingBuf::try_from(events).map_err(say)?,
            _programs: programs,
            off,
        })
    }

    /// The same, to wait for events with.
    pub fn awaited(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is that of the ring in `events`, which is open for as long as the
        // probe is there, and always the same.
        unsafe { AsyncFd::register(self) }.map_err(io::Error::from)
    }

    /// What is not seen, and why.
    pub fn off(&self) -> &[String] {
        &self.off
    }

    /// What puts sockets under watch, and tells what was seen of them.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// The next thing that has happened, if there is one.
    pub fn event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        let bytes: [u8; size_of::<Event>()] = (*item).try_into().ok()?;
        Some(read(&bytes))
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("off", &self.off).finish_non_exhaustive()
    }
}

/// Readable when there is an event.
impl AsRawFd for Probe {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

fn data(map: Map) -> Result<MapData, String> {
    if let Map::SkStorage(data) = map { Ok(data) } else { Err("SOCKETS is another map".to_owned()) }
}

fn attach(programs: &mut Ebpf, types: &Btf, name: &str, point: &str) -> Result<(), String> {
    let program = programs.program_mut(name).ok_or("the object has no such program")?;
    let program: &mut BtfTracePoint = program.try_into().map_err(say)?;
    program.load(point, types).map_err(|why| rights(&why))?;
    program.attach().map_err(say)?;
    Ok(())
}

/// An event, as the kernel's side has written it.
fn read(bytes: &[u8; size_of::<Event>()]) -> Event {
    let wide = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(number)
    };
    let word = |at: usize| {
        let mut number = [0; 4];
        number.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(number)
    };
    Event {
        at_ns: wide(0),
        cookie: wide(8),
        kind: word(16),
        node: word(20),
        first: word(24),
        second: word(28),
        round_trip_us: word(32),
        in_flight: word(36),
    }
}

/// An error of the kernel with all that led to it; most often it is about rights.
fn rights(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut source = why.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    if text.contains("os error 1)") {
        text +=
            "; it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (AmbientCapabilities= in systemd)";
    }
    text
}

fn say(why: impl Display) -> String {
    why.to_string()
}

#[cfg(test)]
mod tests;
