//! What the probe in the kernel and pgring share: plain structs, laid out alike on both sides.
//!
//! Every field has the size of its type and stands at a multiple of that, so there is no padding
//! between them that one side could see as something else.
#![no_std]
#![forbid(unsafe_code)]

/// What the kernel keeps of one socket that is watched, for as long as that lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Socket {
    /// Whom it leads to, by the count of whoever has it watched.
    pub node: u32,
    /// Its state, by the kernel's numbers: see [`state`].
    pub state: u32,
    /// When a connection was asked for, on the monotonic clock in nanoseconds; zero: not yet.
    pub asked_ns: u64,
    /// When it was there; zero: not yet.
    pub open_ns: u64,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Of those, the ones after a timeout (RTO) and not after a hint (tail loss probe, SACK).
    pub timeouts: u32,
    /// Resets that came.
    pub resets: u32,
    /// Errors that it was told: refused, unreachable, timed out.
    pub errors: u32,
}

/// Something that has just happened to a socket that is watched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// When, on the monotonic clock in nanoseconds.
    pub at_ns: u64,
    /// Which socket: `SO_COOKIE`.
    pub cookie: u64,
    /// What: see [`kind`].
    pub kind: u32,
    /// Whom it leads to.
    pub node: u32,
    /// More of it: see [`kind`].
    pub first: u32,
    /// The same.
    pub second: u32,
    /// The smoothed round trip in microseconds.
    pub round_trip_us: u32,
    /// Bytes that are sent and not acknowledged.
    pub in_flight: u32,
}

/// What may happen.
pub mod kind {
    /// The state has changed: from `first` to `second`.
    pub const STATE: u32 = 1;
    /// A segment was sent again; `first` of them after as many timeouts in a row, zero: after a
    /// hint. `second` counts those of this socket.
    pub const RETRANSMIT: u32 = 2;
    /// A reset came.
    pub const RESET: u32 = 3;
    /// An error came: `first` is its number (errno).
    pub const ERROR: u32 = 4;
}

/// States of a TCP socket (`include/net/tcp_states.h`), as far as they matter here.
pub mod state {
    /// Data may go both ways.
    pub const ESTABLISHED: u32 = 1;
    /// A connection is asked for.
    pub const SYN_SENT: u32 = 2;
    /// It is gone.
    pub const CLOSE: u32 = 7;
    /// The other side has said that it sends nothing more.
    pub const CLOSE_WAIT: u32 = 8;
}

#[cfg(test)]
mod tests {
    use super::{Event, Socket};

    #[test]
    fn nothing_is_between_the_fields() {
        assert_eq!((size_of::<Socket>(), size_of::<Event>()), (40, 40));
    }
}
