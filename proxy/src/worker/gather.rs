//! Bulk data is waited for until there is a buffer full of it.
//!
//! A server sends in pieces of 8 KiB. While it does so at full speed, each piece costs the proxy a
//! wake-up, a receive and a send of its own, and the client a wake-up; fifteen pieces at once cost
//! little more than one. So a connection that has brought [`RUSH`] bytes at a good rate, and was
//! sent nothing meanwhile, is woken for only when a large buffer can be filled (`SO_RCVLOWAT`,
//! socket(7)). Nobody is told when a stream comes to its end, or only pauses: then what is there
//! is fetched when patience ends, and the connection has to show anew that it is in a hurry.
//! Patience is a small part of the time that the hurry was watched for, which is what a stream can
//! lose by it: 4 % once for each [`RUSH`] bytes, and never less than [`PATIENCE_MIN`].

use crate::ring::buffers::LARGE_SIZE;
use crate::ring::socket::set_low_water;
use crate::worker::conn::{Conn, STREAM_ROUNDS};
use crate::worker::{Worker, World};
use pgring_logic::id::ConnId;
use pgring_logic::time::{Duration, Instant};
use std::os::fd::AsFd;

/// Bytes in a row that show a hurry.
const RUSH: u32 = 4 * 1024 * 1024;
/// In this time: 128 MiB a second, at which a large buffer is full within a millisecond.
const RUSH_TIME: Duration = Duration::from_millis(32);
/// A buffer full is waited for as long as [`RUSH`] bytes took, divided by this: what comes in that
/// time at the same rate is 1.4 buffers.
const PATIENCE_PART: u32 = 25;
/// However quick the stream is: a server that loses its core for a moment has not paused.
const PATIENCE_MIN: Duration = Duration::from_micros(400);

impl Conn {
    /// Takes note of `len` bytes that have come; true if they make it worth while to gather.
    pub(super) fn rushes(&mut self, now: Instant, len: u32) -> bool {
        if self.gathers {
            return false;
        }
        if len as usize > LARGE_SIZE / 2 {
            // Whoever reads is slower: there is much to fetch each time anyway.
            self.rush = 0;
            return false;
        }
        if self.rush == 0 {
            self.rush_since = now;
        }
        self.rush = self.rush.saturating_add(len);
        if self.rush < RUSH {
            return false;
        }
        self.rush = 0;
        let took = now.since(self.rush_since);
        self.gather_max = took / PATIENCE_PART;
        took <= RUSH_TIME
    }
}

impl<W: World> Worker<'_, W> {
    /// From now on the connection is woken for only when a large buffer can be filled.
    pub(super) fn gather(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        let Some(fd) = &conn.fd else { return };
        if set_low_water(fd.as_fd(), LARGE_SIZE) {
            conn.gathers = true;
            conn.gather_max = conn.gather_max.max(PATIENCE_MIN);
            // Its receive of many buffers is ended first, which takes a turn.
            conn.rush_since = self.now;
            conn.streams = STREAM_ROUNDS;
            self.gathering.push(id);
        }
    }

    /// From now on the connection is woken for whatever comes, and for what is there at once.
    pub(super) fn stop_gathering(&mut self, id: ConnId) {
        let Some(conn) = self.table.get(id) else { return };
        conn.rush = 0;
        if std::mem::take(&mut conn.gathers)
            && let Some(fd) = &conn.fd
        {
            set_low_water(fd.as_fd(), 1);
        }
    }

    /// When patience with one of them ends.
    pub(super) fn gathered(&mut self) -> Option<Instant> {
        let mut first: Option<Instant> = None;
        let table = &mut self.table;
        self.gathering.retain(|&id| {
            let Some(conn) = table.get(id).filter(|conn| conn.gathers) else { return false };
            if conn.receiving {
                let end = conn.rush_since + conn.gather_max;
                first = Some(first.map_or(end, |first| first.min(end)));
            }
            true
        });
        first
    }

    /// Ends it for those that patience has ended with.
    #[cold]
    pub(super) fn fetch_the_gathered(&mut self) {
        let mut place = 0;
        while let Some(&id) = self.gathering.get(place) {
            place += 1;
            let now = self.now;
            let conn = self.table.get(id);
            let late = |conn: &Conn| conn.receiving && conn.rush_since + conn.gather_max <= now;
            if conn.is_some_and(|conn| conn.gathers && late(conn)) {
                self.stop_gathering(id);
            }
        }
    }
}
