//! The one clock and the one dice of the process.
//!
//! All else is told the time and its random numbers; so whatever is not this file can be run in
//! a test with a time that somebody adds to.
#![expect(clippy::disallowed_methods, reason = "this is the one clock")]

use pgring_logic::time::Instant;
use std::sync::OnceLock;

/// Where the process-wide time starts: a little before its first reading, so that no time that
/// means "never" is ever a reading.
static START: OnceLock<std::time::Instant> = OnceLock::new();

/// Now, on the clock that all threads share. It goes forward only (`CLOCK_MONOTONIC`).
pub fn now() -> Instant {
    let start = START.get_or_init(std::time::Instant::now);
    Instant::from_nanos(1 + u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1))
}

/// The time of day, for those who write it down.
pub fn wall() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// 32 bytes nobody can guess, from the operating system.
pub fn dice() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{dice, now};
    use pgring_logic::time::Instant;

    #[test]
    fn time_goes_forward_and_is_the_same_in_every_thread() {
        let before = now();
        let between = std::thread::scope(|scope| scope.spawn(now).join().unwrap());
        assert!(Instant::START < before && before <= between && between <= now());
    }

    #[test]
    fn the_dice_do_not_fall_the_same_way_twice() {
        assert_ne!(dice().unwrap(), dice().unwrap());
    }
}
