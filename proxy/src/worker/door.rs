//! Clients come in: accepted here, and seated where there is room.

use crate::mailbox::Letter;
use crate::mailbox::seats::Seat;
use crate::ring::Completion;
use crate::ring::chunk::Chunk;
use crate::ring::socket::{peer, words};
use crate::ring::token::{Kind, Token};
use crate::worker::conn::Phase;
use crate::worker::{Worker, World};
use pgring_logic::mail::{Entrance, Peer};
use pgring_logic::time::{Duration, Instant};
use std::os::fd::{AsFd, OwnedFd};

/// How long no client is accepted after the process has run out of descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often that is said.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// Which listeners are accepting.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// By listener; the Unix one comes last.
    open: Vec<bool>,
    /// When to open those that are not.
    retry: Option<Instant>,
    /// When a failure was last said.
    said: Option<Instant>,
}

impl Door {
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }
}

impl<W: World> Worker<'_, W> {
    /// Accepts on every listener that does not already.
    #[cold]
    pub(super) fn open_doors(&mut self) {
        self.door.retry = None;
        let doors = self.base.doors.iter().chain(self.base.unix.as_deref());
        for (index, listener) in doors.enumerate() {
            if self.door.open.len() == index {
                self.door.open.push(false);
            }
            if !std::mem::replace(&mut self.door.open[index], true) {
                let slot = u32::try_from(index).unwrap_or(0);
                self.ring.accept(listener.as_fd(), Token::new(Kind::Accept, slot, 0));
            }
        }
    }

    /// Somebody has come, or nobody can.
    #[cold]
    pub(super) fn accepted(&mut self, completion: Completion) {
        let index = usize::try_from(completion.token.slot()).unwrap_or(usize::MAX);
        if !completion.more
            && let Some(open) = self.door.open.get_mut(index)
        {
            *open = false;
            self.door.retry.get_or_insert(self.now);
        }
        if let Some(fd) = completion.accepted {
            let tcp = self.base.doors.len();
            let readonly = (tcp - self.base.readonly..tcp).contains(&index);
            return self.seat(fd, readonly);
        }
        if let Err(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) =
            completion.result
        {
            self.door.retry = Some(self.now + BACK_OFF);
            if self.door.said.is_none_or(|said| self.now.since(said) >= SAY_AGAIN) {
                self.door.said = Some(self.now);
                let core = self.base.core.0;
                tracing::error!(core, "clients cannot be accepted: {}", words(errno));
            }
        }
    }

    /// Finds a seat for a client, here or on another core.
    fn seat(&mut self, fd: OwnedFd, readonly: bool) {
        // Whoever cannot be asked who it is has already left.
        let Ok(peer) = peer(fd.as_fd()) else { return };
        let max = self.base.config.limits.clients_max;
        let seat = self.base.seats.take(self.base.core, max);
        let entrance = Entrance { refused: seat.is_none(), readonly, before: None };
        match &seat {
            Some(elsewhere) if elsewhere.core() != self.base.core => {
                let (to, said) = (elsewhere.core(), Vec::new());
                self.base.post(to, Letter::NewClient { fd, peer, entrance, seat, said });
            }
            Some(_) | None => self.admit(fd, (peer, entrance), seat, Vec::new()),
        }
    }

    /// Tells the lane of a client, and receives from it, behind what it has said elsewhere.
    #[cold]
    pub(super) fn admit(
        &mut self,
        fd: OwnedFd,
        (peer, entrance): (Peer, Entrance),
        seat: Option<Seat>,
        said: Vec<u8>,
    ) {
        let id = self.world.accept(self.now, peer, entrance);
        self.tally.opened();
        self.table.open(id, Some(fd), (Phase::Open, self.now)).seat = seat;
        self.arm(id);
        if !said.is_empty() {
            self.hold(id, Chunk::Own { data: said, start: 0 });
            self.feed_later(id);
        }
    }
}
