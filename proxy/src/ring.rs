//! The ring: `io_uring` behind an interface that cannot be used wrongly enough to hurt memory.
//!
//! One ring belongs to one thread, and its turn is the thread's only place to wait: everything
//! asked for since the last turn is submitted by the same system call that waits for what has
//! happened. The kernel is given addresses of two kinds of memory only:
//!
//! - of bytes that stay where they are until the completion comes: provided [`Buffers`], and the
//!   chunks of an [`Outbox`] that are in flight;
//! - of headers it copies at submission (feature `SUBMIT_STABLE`): they lie in the ring's own
//!   arena, which is emptied when everything is submitted.
//!
//! A ring that is dropped first cancels whatever the kernel still has of it (`end`).
#![expect(unsafe_code, reason = "the kernel is given addresses here and nowhere else")]

mod arena;
pub mod bell;
pub mod buffers;
pub mod chunk;
mod end;
pub mod limits;
pub mod listen;
mod memory;
pub mod outbox;
pub mod socket;
pub mod support;
pub mod token;

use arena::{Arena, IOVECS};
use buffers::{BUFFER_SIZE, Buffers, LARGE, LARGE_SIZE, Lease, SMALL};
use chunk::Chunk;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use outbox::{CHUNKS_PER_SEND, Outbox};
use socket2::SockAddr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;
use support::RingError;
use token::{Kind, Token};

/// `IORING_RECVSEND_POLL_FIRST` of `linux/io_uring.h`.
const POLL_FIRST: u16 = 1;
/// Completions taken over at once.
const BATCH: usize = 512;

/// One thing that has happened.
#[derive(Debug)]
pub struct Completion {
    /// What it belongs to.
    pub token: Token,
    /// The number the operation returned, or an error number.
    pub result: Result<u32, i32>,
    /// More of the same will come by itself.
    pub more: bool,
    /// The buffer that received bytes lie in.
    pub lease: Option<Lease>,
    /// The connection that was accepted.
    pub accepted: Option<OwnedFd>,
}

/// The ring of the calling thread.
pub struct Ring {
    uring: IoUring,
    /// The provided buffers.
    pub buffers: Buffers,
    arena: Arena,
    /// Hasty sends of which the kernel says something only if they are not done at once, and the
    /// bytes of each.
    hasty: Vec<(Token, u32)>,
    /// The last turn could not tell yet what became of them.
    unsettled: bool,
}

impl Ring {
    /// A ring for the calling thread with this many buffers.
    pub fn new(buffers: u16) -> Result<Self, RingError> {
        let uring = support::build()?;
        let buffers = Buffers::new(buffers).map_err(RingError::Memory)?;
        for (address, length, group) in buffers.rings() {
            let submitter = uring.submitter();
            // SAFETY: the entries are `length` times 16 bytes of mapped, page-aligned memory, and
            // `drop` unmaps them only after the kernel has let go of every operation.
            let registered =
                unsafe { submitter.register_buf_ring_with_flags(address, length, group, 0) };
            registered.map_err(|why| match why.raw_os_error() {
                Some(libc::ENOMEM) => RingError::Memory(why),
                Some(libc::EINVAL) => RingError::Missing {
                    feature: "rings of provided buffers (IORING_REGISTER_PBUF_RING)",
                    since: "5.19",
                },
                Some(_) | None => RingError::Other(why),
            })?;
        }
        Ok(Self { uring, buffers, arena: Arena::new(), hasty: Vec::new(), unsettled: false })
    }

    /// Receives on `fd` until it ends or is cancelled.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, token: Token) {
        self.push(&opcode::RecvMulti::new(Fd(fd.as_raw_fd()), SMALL).build(), token);
    }

    /// Receives on `fd` once, at most a buffer full: a large one, if there is one now. Tells
    /// whether it is; then [`Buffers::end_large`] must be told of the end of the receive, which
    /// may come without one (`ENOBUFS`).
    ///
    /// With `patient` it does not look whether there is something now, but waits until the socket
    /// says that there is enough ([`socket::set_low_water`]).
    pub fn receive_once(&mut self, fd: BorrowedFd<'_>, token: Token, patient: bool) -> bool {
        let large = self.buffers.begin_large();
        let (group, size) = if large { (LARGE, LARGE_SIZE) } else { (SMALL, BUFFER_SIZE) };
        let len = u32::try_from(size).unwrap_or(0);
        let receive = opcode::Recv::new(Fd(fd.as_raw_fd()), std::ptr::null_mut(), len);
        let how = if patient { POLL_FIRST } else { 0 };
        let entry =
            receive.buf_group(group).ioprio(how).build().flags(squeue::Flags::BUFFER_SELECT);
        self.push(&entry, token);
        large
    }

    /// Accepts on `fd` until it fails or is cancelled.
    pub fn accept(&mut self, fd: BorrowedFd<'_>, token: Token) {
        let accept = opcode::AcceptMulti::new(Fd(fd.as_raw_fd())).flags(libc::SOCK_CLOEXEC);
        self.push(&accept.build(), token);
    }

    /// Completes each time the bell rings.
    pub fn listen_to(&mut self, bell: &bell::Bell, token: Token) {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let poll = opcode::PollAdd::new(Fd(bell.as_fd().as_raw_fd()), events).multi(true);
        self.push(&poll.build(), token);
    }

    /// Sends what is queued in `outbox`, or its first part. The outbox must be told of the
    /// completion by [`Outbox::arrived`].
    ///
    /// A hasty send ([`Kind::HastySend`]) does what can be done at once and completes in the turn
    /// that submits it, with less than everything or `EAGAIN` if the socket has no room. Its
    /// success wakes nobody: that turn waits for something else, so nothing may depend on it.
    pub fn send(&mut self, fd: BorrowedFd<'_>, token: Token, outbox: &mut Outbox) {
        self.make_room();
        let limit = if self.arena.has_room() { CHUNKS_PER_SEND } else { 1 };
        let first = self.arena.iovecs.len();
        let (iovecs, buffers) = (&mut self.arena.iovecs, &self.buffers);
        outbox.depart(limit, |chunk| {
            let start = match chunk {
                Chunk::Lent { lease, start, .. } => {
                    buffers.address(lease).wrapping_add(*start as usize)
                }
                Chunk::Own { data, start } => data[*start..].as_ptr(),
            };
            iovecs.push(libc::iovec { iov_base: start.cast_mut().cast(), iov_len: chunk.len() });
        });
        let chunks = self.arena.iovecs.len() - first;
        assert!(self.arena.iovecs.len() <= IOVECS + 1, "the arena never moves");
        let fd = Fd(fd.as_raw_fd());
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let mut how = squeue::Flags::empty();
        // Where there was room for a part only, the rest must hear of its end.
        let token = if limit == 1 { token.patient() } else { token };
        if token.kind() == Kind::HastySend {
            // With MSG_WAITALL less than everything counts as a failure, which is not skipped.
            flags |= libc::MSG_DONTWAIT;
            how |= squeue::Flags::SKIP_SUCCESS;
            let len = u32::try_from(outbox.flight_len()).unwrap_or(u32::MAX);
            self.hasty.push((token, len));
        }
        if chunks == 1
            && let Some(only) = self.arena.iovecs.pop()
        {
            let len = u32::try_from(only.iov_len).unwrap_or(u32::MAX);
            let send = opcode::Send::new(fd, only.iov_base.cast_const().cast(), len);
            self.push(&send.flags(flags).build().flags(how), token);
        } else if chunks > 1 {
            // SAFETY: a header of zeros is a valid one: no name, no iovecs, no control data.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_iov = self.arena.iovecs[first..].as_mut_ptr();
            header.msg_iovlen = chunks;
            self.arena.headers.push(header);
            let header = self.arena.headers.last().map_or(std::ptr::null(), std::ptr::from_ref);
            let send = opcode::SendMsg::new(fd, header).flags(flags.unsigned_abs());
            self.push(&send.build().flags(how), token);
        }
    }

    /// Connects `fd`.
    pub fn connect(&mut self, fd: BorrowedFd<'_>, token: Token, address: SockAddr) {
        self.make_room();
        let address = Box::new(address);
        let place = address.as_ptr().cast();
        let connect = opcode::Connect::new(Fd(fd.as_raw_fd()), place, address.len());
        self.arena.addresses.push(address);
        self.push(&connect.build(), token);
    }

    /// Cancels `target`, which completes then, if it has not before; `token` completes too.
    pub fn cancel(&mut self, target: Token, token: Token) {
        self.push(&opcode::AsyncCancel::new(target.bits()).build(), token);
    }

    /// Closes `fd`.
    pub fn close(&mut self, fd: OwnedFd, token: Token) {
        self.push(&opcode::Close::new(Fd(fd.into_raw_fd())).build(), token);
    }

    /// Submits everything and takes over what has happened; if that is nothing, waits for it,
    /// at most for `wait` (for ever, if there is no limit).
    pub fn turn(
        &mut self,
        wait: Option<Duration>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.buffers.publish();
        let entered = self.enter(wait);
        if let Err(why) = entered {
            match why.raw_os_error() {
                // Nothing happened, a signal came, or completions must be taken over first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                Some(_) | None => return Err(why),
            }
        }
        self.empty_arena();
        let first = completions.len();
        for entry in self.uring.completion().take(BATCH) {
            let Some(token) = Token::from_bits(entry.user_data()) else { continue };
            let lease = cqueue::buffer_select(entry.flags()).map(|id| self.buffers.filled(id));
            let result = u32::try_from(entry.result()).map_err(|_| -entry.result());
            let accepts = token.kind() == Kind::Accept && result.is_ok();
            // SAFETY: the kernel has just made this descriptor for us, and says so once.
            let accepted = accepts.then(|| unsafe { OwnedFd::from_raw_fd(entry.result()) });
            let more = cqueue::more(entry.flags());
            completions.push(Completion { token, result, more, lease, accepted });
        }
        self.settle(first, completions);
        Ok(())
    }

    /// Submits everything and waits for one completion. With a time of zero it still runs what the
    /// kernel has put off for us.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<usize> {
        let queued = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        let time = wait.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(time) = &time {
            args = args.timespec(time);
        }
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if self.uring.params().is_feature_no_iowait() {
            flags |= EnterFlags::NO_IOWAIT;
        }
        // SAFETY: the arguments are what `EXT_ARG` asks for, and live until the call returns.
        unsafe { self.uring.submitter().enter(queued, 1, flags.bits(), Some(&args)) }
    }

    /// Hasty sends of which the kernel has said nothing have taken everything: they are tried
    /// when they are submitted, and what goes wrong is said before the system call returns.
    fn settle(&mut self, first: usize, completions: &mut Vec<Completion>) {
        self.unsettled = false;
        if self.hasty.is_empty() {
            return;
        }
        for completion in &completions[first..] {
            if completion.token.kind() == Kind::HastySend {
                self.hasty.retain(|(token, _)| *token != completion.token);
            }
        }
        let submission = self.uring.submission();
        self.unsettled = !submission.is_empty() || submission.cq_overflow();
        drop(submission);
        self.unsettled |= !self.uring.completion().is_empty();
        if !self.unsettled {
            let done = |(token, len)| {
                let (result, more, lease, accepted) = (Ok(len), false, None, None);
                Completion { token, result, more, lease, accepted }
            };
            completions.splice(first..first, self.hasty.drain(..).map(done));
        }
    }

    /// Completions wait that the last turn had no room for.
    pub fn has_more(&mut self) -> bool {
        self.unsettled || !self.uring.completion().is_empty()
    }

    fn push(&mut self, entry: &squeue::Entry, token: Token) {
        let entry = entry.clone().user_data(token.bits());
        loop {
            // SAFETY: what the entry points at stays until its completion: buffers by their
            // lease, chunks by the outbox in flight; or until it is submitted: the arena, which
            // is emptied only while the submission queue is empty and nothing is being prepared,
            // in `turn` and `make_room`.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Submits in the middle of a turn, because some place is full.
    fn submit(&mut self) {
        self.buffers.publish();
        // An error leaves the entries where they are; whoever waits for room asks again.
        let _again = self.uring.submit();
    }

    /// Before something is prepared in the arena: while it is being prepared, no place may be so
    /// full that what was prepared is thrown away with the rest.
    fn make_room(&mut self) {
        if self.uring.submission().is_full() || !self.arena.has_room() {
            self.submit();
            self.empty_arena();
        }
    }

    fn empty_arena(&mut self) {
        if self.uring.submission().is_empty() {
            self.arena.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::buffers::BUFFER_SIZE;
    use super::chunk::{PIECE_SIZE, Spare};
    use super::outbox::Outbox;
    use super::token::{Kind, Token};
    use super::{Completion, Ring, bell::Bell};
    use socket2::{Domain, Socket, Type};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::time::Duration;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    fn pair() -> (Socket, Socket) {
        Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap()
    }

    fn turn(ring: &mut Ring) -> Vec<Completion> {
        let mut completions = Vec::new();
        ring.turn(SECOND, &mut completions).unwrap();
        completions
    }

    #[test]
    fn a_receive_goes_on_until_the_buffers_are_used_up() {
        let mut ring = Ring::new(2).unwrap();
        let (ours, mut theirs) = pair();
        let token = Token::new(Kind::Receive, 3, 9);
        ring.receive(ours.as_fd(), token);
        theirs.write_all(&vec![7; 3 * BUFFER_SIZE]).unwrap();
        let mut leases = Vec::new();
        loop {
            let mut ended = false;
            for completion in turn(&mut ring) {
                assert_eq!(completion.token, token);
                ended |= !completion.more;
                match completion.lease {
                    Some(lease) => leases.push(lease),
                    None => assert_eq!(completion.result, Err(libc::ENOBUFS)),
                }
            }
            if ended {
                break;
            }
        }
        assert_eq!((leases.len(), ring.buffers.free()), (2, 0));
        for lease in leases {
            assert!(ring.buffers.bytes(&lease).iter().all(|&byte| byte == 7));
            ring.buffers.release(lease);
        }
        ring.receive(ours.as_fd(), token);
        let third = turn(&mut ring).remove(0);
        assert_eq!(third.result, Ok(u32::try_from(BUFFER_SIZE).unwrap()));
        ring.buffers.release(third.lease.unwrap());
    }

    #[test]
    fn copies_and_lent_bytes_are_sent_in_one_go_and_in_order() {
        let mut ring = Ring::new(4).unwrap();
        let (ours, mut theirs) = pair();
        ring.receive(ours.as_fd(), Token::new(Kind::Receive, 0, 0));
        theirs.write_all(b"..middle..").unwrap();
        let lease = turn(&mut ring).remove(0).lease.unwrap();
        let (mut outbox, mut spare) = (Outbox::default(), Spare::default());
        outbox.append(b"front ", &mut spare);
        outbox.lend(lease, 2, 6);
        outbox.append(b" end", &mut spare);
        let token = Token::new(Kind::Send, 0, 0);
        ring.send(ours.as_fd(), token, &mut outbox);
        let sent = turn(&mut ring).remove(0);
        assert_eq!((sent.token, sent.result), (token, Ok(16)));
        outbox.arrived(16, &mut ring.buffers, &mut spare);
        assert_eq!(ring.buffers.free(), 4);
        let mut read = [0; 16];
        theirs.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"front middle end");
    }

    #[test]
    fn a_hasty_send_completes_in_its_turn_and_says_what_it_could_not_do() {
        let mut ring = Ring::new(4).unwrap();
        let (ours, mut theirs) = pair();
        let (mut outbox, mut spare) = (Outbox::default(), Spare::default());
        let token = Token::new(Kind::HastySend, 5, 7);
        let mut sent = 0;
        let last = loop {
            outbox.append(&[9; 2 * BUFFER_SIZE], &mut spare);
            ring.send(ours.as_fd(), token, &mut outbox);
            let mut completions = Vec::new();
            ring.turn(Some(Duration::ZERO), &mut completions).unwrap();
            let [done] = completions.as_slice() else { panic!("one each: {completions:?}") };
            assert_eq!(done.token, token);
            let len = done.result.map_or(0, |len| usize::try_from(len).unwrap());
            outbox.arrived(len, &mut ring.buffers, &mut spare);
            sent += len;
            if !outbox.is_light() {
                break done.result;
            }
            assert!(outbox.is_empty());
        };
        assert!(last.map_or_else(|errno| errno == libc::EAGAIN, |len| len > 0), "{last:?}");
        let mut read = vec![0; sent];
        theirs.read_exact(&mut read).unwrap();
        assert!(read.iter().all(|&byte| byte == 9) && sent > BUFFER_SIZE);
        assert!(!ring.has_more());
        // The next one waits for room, and says when it is done.
        let token = Token::new(Kind::Send, 5, 7);
        ring.send(ours.as_fd(), token, &mut outbox);
        assert_eq!(turn(&mut ring).remove(0).token, token);
    }

    /// Both sends are prepared when the submission queue has no place left.
    #[test]
    fn a_full_queue_does_not_mix_up_what_is_sent() {
        let mut ring = Ring::new(4).unwrap();
        let pairs = [pair(), pair()];
        let mut spare = Spare::default();
        let mut outboxes = [Outbox::default(), Outbox::default()];
        for number in 0..4096 {
            ring.cancel(Token::new(Kind::Receive, 9, number), Token::new(Kind::Cancel, 9, number));
        }
        for ((ours, _), (outbox, slot)) in pairs.iter().zip(outboxes.iter_mut().zip(0u8..)) {
            outbox.append(&[slot; PIECE_SIZE + 10], &mut spare);
            ring.send(ours.as_fd(), Token::new(Kind::Send, u32::from(slot), 0), outbox);
        }
        let mut sent = 0;
        while sent < 2 {
            for done in turn(&mut ring).iter().filter(|done| done.token.kind() == Kind::Send) {
                assert_eq!(done.result, Ok(u32::try_from(PIECE_SIZE).unwrap() + 10));
                sent += 1;
            }
        }
        for ((_, theirs), slot) in pairs.iter().zip(0u8..) {
            let mut theirs: &Socket = theirs;
            let mut read = [9; PIECE_SIZE + 10];
            theirs.read_exact(&mut read).unwrap();
            assert!(read.iter().all(|&byte| byte == slot), "the bytes of another");
        }
    }

    #[test]
    fn the_bell_wakes_a_sleeping_ring_every_time() {
        let mut ring = Ring::new(1).unwrap();
        let bell = Bell::new().unwrap();
        let token = Token::new(Kind::Bell, 0, 0);
        ring.listen_to(&bell, token);
        let mut completions = Vec::new();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| bell.ring());
                ring.turn(None, &mut completions).unwrap();
            });
            ring.turn(Some(Duration::ZERO), &mut completions).unwrap();
            assert!(completions.drain(..).all(|rung| rung.token == token && rung.more));
        }
        ring.turn(Some(Duration::ZERO), &mut completions).unwrap();
        assert!(completions.is_empty(), "no ring, no completion");
    }

    #[test]
    fn cancelling_ends_a_receive() {
        let mut ring = Ring::new(1).unwrap();
        let (ours, _theirs) = pair();
        let (target, token) = (Token::new(Kind::Receive, 1, 1), Token::new(Kind::Cancel, 1, 1));
        ring.receive(ours.as_fd(), target);
        ring.cancel(target, token);
        let mut seen = turn(&mut ring);
        while seen.len() < 2 {
            seen.append(&mut turn(&mut ring));
        }
        let ended = seen.iter().find(|completion| completion.token == target).unwrap();
        assert_eq!((ended.result, ended.more), (Err(libc::ECANCELED), false));
    }
}
