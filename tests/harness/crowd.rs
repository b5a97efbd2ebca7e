//! Doing something among others that do something else all the while.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Whether neighbours may still go on.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
}

impl Bell {
    /// Not rung yet.
    pub fn silent(&self) -> bool {
        !self.rung.load(Ordering::Relaxed)
    }
}

/// Runs `body` while `count` neighbours, told their number, run beside it until the bell rings.
/// A panic of any of them is a panic here.
pub fn among<T>(
    count: usize,
    neighbour: impl Fn(usize, &Bell) + Sync,
    body: impl FnOnce() -> T,
) -> T {
    let (bell, neighbour) = (Bell::default(), &neighbour);
    thread::scope(|scope| {
        let bell = &bell;
        let neighbours: Vec<_> =
            (0..count).map(|number| scope.spawn(move || neighbour(number, bell))).collect();
        let result = catch_unwind(AssertUnwindSafe(body));
        bell.rung.store(true, Ordering::Relaxed);
        for neighbour in neighbours {
            if let Err(panic) = neighbour.join() {
                resume_unwind(panic);
            }
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    })
}
