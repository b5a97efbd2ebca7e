//! The end of a ring: the kernel lets go of everything before the memory goes.

use super::Ring;
use super::token::{Kind, Token};
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Rounds of submitting and hearing what came of it. One takes a whole completion queue; what is
/// left after so many of them is left.
const ROUNDS: usize = 64;

impl Drop for Ring {
    fn drop(&mut self) {
        // Everything first, so that nothing begins after the cancelling: closes among it.
        self.hear_out();
        self.empty_arena();
        let limit = Timespec::new().sec(1);
        let cancelled =
            self.uring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
        let idle = match cancelled {
            Ok(()) => true,
            Err(why) => why.kind() == io::ErrorKind::NotFound,
        };
        self.hear_out();
        if !idle {
            self.buffers.abandon();
        }
    }
}

impl Ring {
    /// Submits what has been asked for and hears what became of everything, until there is nothing
    /// more. Nobody asks any longer, but whoever was accepted must be closed: a client would wait
    /// for ever on a connection that nobody has.
    fn hear_out(&mut self) {
        for _ in 0..ROUNDS {
            self.buffers.publish();
            let time = Timespec::new();
            let args = SubmitArgs::new().timespec(&time);
            // With a time of zero it still runs what the kernel has put off for us. An error says
            // that there is nothing, or too much to hear first.
            let _nothing = self.uring.submitter().submit_with_args(1, &args);
            let mut heard = false;
            for entry in self.uring.completion() {
                heard = true;
                let token = Token::from_bits(entry.user_data());
                if token.is_some_and(|token| token.kind() == Kind::Accept) && entry.result() >= 0 {
                    // SAFETY: the kernel made this descriptor for us and says so once, here.
                    drop(unsafe { OwnedFd::from_raw_fd(entry.result()) });
                }
            }
            if !heard && self.uring.submission().is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ring::limits::raise_files;
    use crate::ring::token::{Kind, Token};
    use crate::ring::{BATCH, Ring};
    use socket2::{Domain, Socket, Type};
    use std::io::{ErrorKind, Read};
    use std::net::SocketAddr;
    use std::os::fd::AsFd;
    use std::time::Duration;

    const CLIENTS: usize = BATCH + 100;

    fn listener() -> Socket {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(1024).unwrap();
        listener
    }

    /// So many clients of a listener.
    fn clients(listener: &Socket) -> Vec<Socket> {
        raise_files().unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.connect(&address).unwrap();
            client
        };
        (0..CLIENTS).map(connect).collect()
    }

    fn assert_all_closed(clients: Vec<Socket>) {
        for (number, mut client) in clients.into_iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let heard = loop {
                match client.read(&mut [0]) {
                    Err(why) if why.kind() == ErrorKind::Interrupted => {}
                    heard => break heard,
                }
            };
            let closed = heard.map_err(|why| why.kind());
            let left = matches!(closed, Ok(0) | Err(ErrorKind::ConnectionReset));
            assert!(left, "client {number} is left waiting: {closed:?}");
        }
    }

    #[test]
    fn who_was_accepted_and_not_looked_at_is_closed_with_the_ring() {
        let listener = listener();
        let mut ring = Ring::new(1).unwrap();
        ring.accept(listener.as_fd(), Token::new(Kind::Accept, 0, 0));
        ring.turn(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        let clients = clients(&listener);
        let mut completions = Vec::new();
        ring.turn(Some(Duration::from_secs(1)), &mut completions).unwrap();
        assert!(completions.len() < CLIENTS, "the rest waits in the queue");
        drop((completions, ring, listener));
        assert_all_closed(clients);
    }

    #[test]
    fn who_is_accepted_while_the_ring_ends_is_closed_with_it() {
        let listener = listener();
        let clients = clients(&listener);
        let mut ring = Ring::new(1).unwrap();
        ring.accept(listener.as_fd(), Token::new(Kind::Accept, 0, 0));
        drop((ring, listener));
        assert_all_closed(clients);
    }

    #[test]
    fn what_was_to_be_closed_is_closed_with_the_ring() {
        let mut ring = Ring::new(1).unwrap();
        let (ours, mut theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        ring.close(ours.into(), Token::new(Kind::Close, 0, 0));
        drop(ring);
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    }
}
