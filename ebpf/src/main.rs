//! Four programs at the kernel's own tracepoints, which note what happens to sockets that lead to
//! nodes, and send word of it.
//!
//! A socket is watched if somebody has put a `Socket` into `SOCKETS` for its descriptor; all others
//! cost one failed lookup at each event. There is no hook on the way of a packet that arrives in
//! order: what these programs see is rare where nothing is wrong. Events are hints: where the
//! buffer is full they are lost, and the counters in `SOCKETS` are not.
#![no_std]
#![no_main]

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_get, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint, map};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::BtfTracePointContext;
use core::ffi::c_void;
use core::ptr::{null_mut, read_volatile};
use pgring_ebpf_common::{Event, Socket, kind, state};

/// Bytes of events that may wait to be read: some 5,000 of them.
const EVENT_BYTES: u32 = 256 * 1024;

#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// Where fields of the kernel's structs are: whoever loads this reads it from the kernel's BTF and
/// sets it before. The compiler knows nothing of it, hence the volatile reads.
#[unsafe(no_mangle)]
static ROUND_TRIP_AT: u32 = 0;
#[unsafe(no_mangle)]
static UNACKNOWLEDGED_AT: u32 = 0;
#[unsafe(no_mangle)]
static NEXT_AT: u32 = 0;
#[unsafe(no_mangle)]
static TIMEOUTS_AT: u32 = 0;
#[unsafe(no_mangle)]
static ERROR_AT: u32 = 0;

/// The field of type `T` at an offset that is set at load.
///
/// # Safety
/// `base` is a kernel struct that the verifier knows the type of; it checks the offset, which is a
/// constant to it, against that type.
#[inline(always)]
unsafe fn field<T: Copy>(base: *const u8, at: &'static u32) -> T {
    // SAFETY: a static lives for ever; the rest is what the caller promises, and the verifier
    // checks when the program is loaded.
    unsafe { read_volatile(base.add(read_volatile(at) as usize).cast::<T>()) }
}

/// What is kept of a socket; null if it is not watched.
#[inline(always)]
fn watched(socket: *mut c_void) -> *mut Socket {
    if socket.is_null() {
        return null_mut();
    }
    // SAFETY: the map is one of sockets, and the socket is the tracepoint's own argument, which the
    // kernel holds for as long as the program runs.
    unsafe { bpf_sk_storage_get((&raw const SOCKETS).cast_mut().cast(), socket, null_mut(), 0) }
        .cast()
}

/// Sends word of something.
///
/// # Safety
/// `facts` is what `watched` has given for `socket`, and not null.
#[inline(always)]
unsafe fn tell(socket: *mut c_void, facts: *const Socket, kind: u32, first: u32, second: u32) {
    // SAFETY: the helper takes any socket and gives null where that is not TCP.
    let tcp: *const u8 = unsafe { bpf_skc_to_tcp_sock(socket) }.cast();
    if tcp.is_null() {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return };
    // SAFETY: `tcp` is a tcp_sock for as long as the program runs, `facts` is the caller's promise,
    // and the helpers have no conditions.
    let event = unsafe {
        Event {
            at_ns: bpf_ktime_get_ns(),
            cookie: bpf_get_socket_cookie(socket),
            kind,
            node: (*facts).node,
            first,
            second,
            // The kernel keeps eighths.
            round_trip_us: field::<u32>(tcp, &ROUND_TRIP_AT) >> 3,
            in_flight: field::<u32>(tcp, &NEXT_AT)
                .wrapping_sub(field::<u32>(tcp, &UNACKNOWLEDGED_AT)),
        }
    };
    entry.write(event);
    entry.submit(0);
}

/// `inet_sock_set_state(sk, oldstate, newstate)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_changed(context: BtfTracePointContext) -> i32 {
    let socket: *mut c_void = context.arg(0);
    let facts = watched(socket);
    if facts.is_null() {
        return 0;
    }
    let (before, now): (u32, u32) = (context.arg(1), context.arg(2));
    // SAFETY: what is kept of a socket lives as long as that, and is not null here.
    unsafe {
        (*facts).state = now;
        match now {
            state::SYN_SENT => (*facts).asked_ns = bpf_ktime_get_ns(),
            state::ESTABLISHED => (*facts).open_ns = bpf_ktime_get_ns(),
            _ => {}
        }
        tell(socket, facts, kind::STATE, before, now);
    }
    0
}

/// `tcp_retransmit_skb(sk, skb, err)`.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn sent_again(context: BtfTracePointContext) -> i32 {
    let socket: *mut c_void = context.arg(0);
    let facts = watched(socket);
    if facts.is_null() {
        return 0;
    }
    // SAFETY: as above; a tcp_sock has the field.
    unsafe {
        let tcp: *const u8 = bpf_skc_to_tcp_sock(socket).cast();
        if tcp.is_null() {
            return 0;
        }
        let in_a_row = u32::from(field::<u8>(tcp, &TIMEOUTS_AT));
        (*facts).retransmits += 1;
        if in_a_row > 0 {
            (*facts).timeouts += 1;
        }
        tell(socket, facts, kind::RETRANSMIT, in_a_row, (*facts).retransmits);
    }
    0
}

/// `tcp_receive_reset(sk)`.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn was_reset(context: BtfTracePointContext) -> i32 {
    let socket: *mut c_void = context.arg(0);
    let facts = watched(socket);
    if facts.is_null() {
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        (*facts).resets += 1;
        tell(socket, facts, kind::RESET, 0, 0);
    }
    0
}

/// `inet_sk_error_report(sk)`.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn failed(context: BtfTracePointContext) -> i32 {
    let socket: *mut c_void = context.arg(0);
    let facts = watched(socket);
    if facts.is_null() {
        return 0;
    }
    // SAFETY: as above; the tracepoint's argument is a sock, which has the field.
    unsafe {
        (*facts).errors += 1;
        let error = field::<u32>(socket.cast_const().cast(), &ERROR_AT);
        tell(socket, facts, kind::ERROR, error, 0);
    }
    0
}

/// What these programs call is there for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here panics, and the verifier would not have it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
