//! A lane begins: with a ring and a world, tried again while one of them cannot be had.
//!
//! Clients go on being seated on a core whose lane has fallen, and wait. For a moment without
//! memory or descriptors that is better than losing the clients of all other cores. But a core
//! that stays without a lane would let its share of all new clients hang for ever, while the
//! process looks well from outside: then it is better that the process ends, loudly, and is
//! started again by whoever watches over it.

use crate::clock;
use crate::ring::Ring;
use crate::worker::{Base, World, reason};
use pgring_logic::time::{Duration, Instant};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How long a lane that cannot begin is tried again.
const TRIED_MAX: Duration = Duration::from_secs(10);
/// The first pause between two tries; each is twice as long as the one before it.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Tries of one beginning.
#[derive(Debug)]
struct Tries {
    start: Instant,
    pause: Duration,
}

impl Tries {
    const fn new(now: Instant) -> Self {
        Self { start: now, pause: PAUSE_MIN }
    }

    /// One has failed: when to try again; never, if it was tried for long enough.
    fn again(&mut self, now: Instant) -> Option<Instant> {
        if now.since(self.start) >= TRIED_MAX {
            return None;
        }
        let next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Some(next)
    }
}

/// A ring and a world. Nothing, if the process ends meanwhile; or why they cannot be had.
pub(super) fn begin<W: World>(
    base: &Base,
    mut ring: Option<Ring>,
    make: impl Fn() -> W,
) -> Result<Option<(Ring, W)>, String> {
    let mut tries = Tries::new(clock::now());
    loop {
        let why = match attempt(base, &mut ring, &make) {
            Ok(both) => return Ok(Some(both)),
            Err(why) => why,
        };
        let core = base.core.0;
        tracing::error!(core, "the lane cannot begin: {why}");
        let Some(next) = tries.again(clock::now()) else {
            return Err(format!("for {} s no lane could begin: {why}", TRIED_MAX.as_secs()));
        };
        if base.mailbox.rest(next) {
            return Ok(None);
        }
    }
}

/// A ring that can be had is kept for the next try.
fn attempt<W: World>(
    base: &Base,
    kept: &mut Option<Ring>,
    make: impl Fn() -> W,
) -> Result<(Ring, W), String> {
    let ring = match kept.take() {
        Some(ring) => ring,
        None => Ring::new(base.config.limits.buffers).map_err(|why| why.to_string())?,
    };
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(world) => Ok((ring, world)),
        Err(panic) => {
            *kept = Some(ring);
            Err(reason(&*panic).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAUSE_MAX, TRIED_MAX, Tries};
    use pgring_logic::time::{Duration, Instant};

    #[test]
    fn a_lane_that_cannot_begin_is_tried_less_and_less_often_and_not_for_ever() {
        let mut now = Instant::START;
        let (mut tries, mut last) = (Tries::new(now), Duration::ZERO);
        while let Some(next) = tries.again(now) {
            let pause = next.since(now);
            assert!(pause >= last && pause <= PAUSE_MAX, "{pause:?} after {last:?}");
            (now, last) = (next, pause);
        }
        let whole = now.since(Instant::START);
        assert!(whole >= TRIED_MAX && whole < TRIED_MAX + PAUSE_MAX, "{whole:?}");
    }
}
