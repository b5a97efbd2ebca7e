//! How connections to nodes are begun: on sockets that the kernel watches, and with shorter timers
//! where it lets us.

use crate::probe::mark::{Marker, number};
use crate::ring::socket::{dial, set_rto_min};
use pgring_logic::action::Address;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What each of these sockets is given.
#[derive(Debug, Default)]
pub struct Dialer {
    rto_min: Option<Duration>,
    marker: Option<Marker>,
}

impl Dialer {
    /// With these timers, and watched by this. What the kernel does not take is said once, here.
    pub fn new(rto_min: Duration, marker: Option<Marker>) -> Self {
        let mut wanted = Some(rto_min).filter(|wanted| !wanted.is_zero());
        if let Some(time) = wanted {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
            if let Err(why) = socket.and_then(|socket| set_rto_min(socket.as_fd(), time)) {
                tracing::info!(
                    "segments to nodes are sent again after 200 ms, not {time:?}: {why} (it takes \
                     Linux 6.16; monitor.rto_min)"
                );
                wanted = None;
            }
        }
        Self { rto_min: wanted, marker }
    }

    /// One more, for another thread.
    #[must_use]
    pub fn again(&self) -> Self {
        let marker = self.marker.as_ref().and_then(|marker| match marker.again() {
            Ok(marker) => Some(marker),
            Err(why) => {
                tracing::warn!("connections of one core are not watched in the kernel: {why}");
                None
            }
        });
        Self { rto_min: self.rto_min, marker }
    }

    /// Whether the kernel's programs watch them.
    pub fn is_watched(&self) -> bool {
        self.marker.is_some()
    }

    /// A socket for a connection to a node, and where it is to be connected to.
    pub fn dial(&self, address: &Address) -> io::Result<(OwnedFd, SockAddr)> {
        let (socket, to) = dial(address)?;
        if matches!(address, Address::Tcp(_)) {
            if let Some(time) = self.rto_min {
                set_rto_min(socket.as_fd(), time)?;
            }
            if let Some(marker) = &self.marker
                && let Err(why) = marker.watch(socket.as_fd(), number(address))
            {
                // Events are hints; the figures of the socket are there without.
                tracing::debug!("a socket is not watched: {why}");
            }
        }
        Ok((socket, to))
    }
}
