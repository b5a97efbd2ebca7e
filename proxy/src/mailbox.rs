//! Letters between threads: a queue for each lane, and a bell that is rung only for a sleeper.
//!
//! ```text
//!   sender:    push ─▶ fence ─▶ asleep? ─yes─▶ ring the bell
//!   receiver:  asleep := true ─▶ fence ─▶ empty? ─yes─▶ sleep
//! ```
//!
//! One of the two always sees the other, so no letter waits for a sleeper; and a lane that has
//! work to do costs its senders no system call.

pub mod seats;

use crate::clock;
use crate::mailbox::seats::Seat;
use crate::ring::bell::Bell;
use crossbeam::queue::SegQueue;
use pgring_logic::mail::{Entrance, Mail, Peer};
use pgring_logic::parcel::Parcel;
use pgring_logic::time::Instant;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// What a worker may find in its mailbox.
#[derive(Debug)]
pub enum Letter {
    /// For its lane.
    Mail(Mail),
    /// A client that another worker accepted and has not answered yet.
    NewClient {
        /// Its descriptor.
        fd: OwnedFd,
        /// Who it is.
        peer: Peer,
        /// How it came in.
        entrance: Entrance,
        /// Its seat; none if it is to be refused.
        seat: Option<Seat>,
        /// What it has said.
        said: Vec<u8>,
    },
    /// A server that another lane surrendered.
    Server {
        /// Its descriptor.
        fd: OwnedFd,
        /// What there is to know of it.
        parcel: Box<Parcel>,
    },
    /// The end.
    Stop,
}

struct Shared {
    queue: SegQueue<Letter>,
    asleep: AtomicBool,
    /// The last letter is in the queue.
    stopped: AtomicBool,
    bell: Bell,
}

/// The receiving end; one worker has it.
pub struct Mailbox(Arc<Shared>);

/// The sending end; anybody may have one.
#[derive(Clone)]
pub struct MailboxSender(Arc<Shared>);

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("letters", &self.0.queue.len()).finish()
    }
}

impl std::fmt::Debug for MailboxSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailboxSender").field("letters", &self.0.queue.len()).finish()
    }
}

impl MailboxSender {
    /// Sends a letter for the lane.
    pub fn send(&self, mail: Mail) {
        self.post(Letter::Mail(mail));
    }

    /// Sends any letter.
    pub fn post(&self, letter: Letter) {
        if matches!(letter, Letter::Stop) {
            self.0.stopped.store(true, Ordering::Relaxed);
        }
        self.0.queue.push(letter);
        fence(Ordering::SeqCst);
        // The first of several senders rings.
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::SeqCst) {
            self.0.bell.ring();
        }
    }
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        let (asleep, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        let (queue, bell) = (SegQueue::new(), Bell::new()?);
        Ok(Self(Arc::new(Shared { queue, asleep, stopped, bell })))
    }

    /// A way to send to it.
    pub fn sender(&self) -> MailboxSender {
        MailboxSender(Arc::clone(&self.0))
    }

    /// What is rung for a sleeper.
    pub fn bell(&self) -> &Bell {
        &self.0.bell
    }

    /// The next letter.
    pub fn take(&self) -> Option<Letter> {
        self.0.queue.pop()
    }

    /// About to sleep; false if there is a letter, so one must not.
    pub fn doze(&self) -> bool {
        self.0.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let sleep = self.0.queue.is_empty();
        if !sleep {
            self.awake();
        }
        sleep
    }

    /// Waits until then without a ring, or until [`Letter::Stop`] comes: tells whether it has. All
    /// letters stay in the queue.
    pub fn rest(&self, until: Instant) -> bool {
        loop {
            self.0.asleep.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let stopped = self.0.stopped.load(Ordering::Relaxed);
            let left = until.since(clock::now());
            if stopped || left.is_zero() {
                self.awake();
                return stopped;
            }
            self.0.bell.wait(left);
        }
    }

    /// Awake again.
    pub fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Letter, Mailbox};
    use crate::clock;
    use crate::ring::Ring;
    use crate::ring::token::{Kind, Token};
    use pgring_logic::mail::Mail;
    use std::time::Duration;

    #[test]
    fn nobody_sleeps_on_a_letter() {
        let mailbox = Mailbox::new().unwrap();
        assert!(mailbox.doze());
        mailbox.awake();
        mailbox.sender().send(Mail::Ask(1));
        assert!(!mailbox.doze());
        assert!(matches!(mailbox.take(), Some(Letter::Mail(Mail::Ask(1)))));
        assert!(mailbox.doze());
    }

    #[test]
    fn only_the_last_letter_ends_a_rest_and_no_letter_is_lost_by_it() {
        let mailbox = Mailbox::new().unwrap();
        let sender = mailbox.sender();
        sender.send(Mail::Ask(1));
        let until = clock::now() + Duration::from_millis(50);
        assert!(!mailbox.rest(until) && clock::now() >= until);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(Mail::Ask(2));
                sender.post(Letter::Stop);
            });
            let start = clock::now();
            assert!(mailbox.rest(start + Duration::from_secs(60)));
            assert!(clock::now().since(start) < Duration::from_secs(30));
        });
        for number in 1..=2 {
            assert!(matches!(mailbox.take(), Some(Letter::Mail(Mail::Ask(is))) if is == number));
        }
        assert!(matches!(mailbox.take(), Some(Letter::Stop)));
    }

    #[test]
    fn every_letter_arrives_however_the_receiver_sleeps() {
        const LETTERS: u64 = 20_000;
        let mailbox = Mailbox::new().unwrap();
        let sender = mailbox.sender();
        std::thread::scope(|scope| {
            scope.spawn(move || (0..LETTERS).for_each(|number| sender.send(Mail::Ask(number))));
            let mut ring = Ring::new(1).unwrap();
            ring.listen_to(mailbox.bell(), Token::new(Kind::Bell, 0, 0));
            let (mut next, mut completions) = (0, Vec::new());
            while next < LETTERS {
                match mailbox.take() {
                    Some(Letter::Mail(Mail::Ask(number))) => {
                        assert_eq!(number, next);
                        next += 1;
                    }
                    Some(other) => panic!("{other:?}"),
                    None if mailbox.doze() => {
                        ring.turn(None, &mut completions).unwrap();
                        mailbox.awake();
                        completions.clear();
                    }
                    None => {}
                }
            }
        });
    }
}
