//! The rights and the memory that it takes to load the programs, and no longer.

use caps::{CapSet, Capability};

const RIGHTS: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];

/// Gives them up for good, in this thread and those that it starts from now on: whoever takes over
/// a process that faces the network shall not have them.
pub fn give_up() {
    for right in RIGHTS {
        // It takes CAP_SETPCAP to change it; who does not have that can raise nothing by it.
        let _unprivileged = caps::drop(None, CapSet::Bounding, right);
        for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
            if let Err(why) = caps::drop(None, set, right) {
                tracing::warn!("{right} is kept: {why}");
            }
        }
    }
}

/// Gives the memory that was needed for it back to the system: the kernel's types take 50 MB to
/// read, which the allocator would keep for whoever wants as much again.
pub fn give_back() {
    // SAFETY: the call takes no pointer and frees what nobody has any more, of this thread's heap
    // and of those whose threads have ended; it may be made at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::{RIGHTS, give_up};
    use caps::CapSet;

    #[test]
    fn what_is_given_up_is_gone() {
        // Of this thread only.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                give_up();
                for right in RIGHTS {
                    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                        assert!(!caps::has_cap(None, set, right).unwrap(), "{right}");
                    }
                    assert!(caps::raise(None, CapSet::Effective, right).is_err());
                }
            });
        });
    }
}
