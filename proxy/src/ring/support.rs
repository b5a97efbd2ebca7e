//! What the kernel must be able to do, and how it is said if it is not.

use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io;

/// Places in the submission queue.
const SUBMISSIONS: u32 = 4096;
/// Places in the completion queue: an event of every connection should fit.
const COMPLETIONS: u32 = 32768;

/// Where the kernel says that `io_uring` is switched off.
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// Why there is no ring.
#[derive(Debug)]
pub enum RingError {
    /// The administrator has switched `io_uring` off, by this setting.
    Disabled(String),
    /// Something forbids it to this process.
    Forbidden(io::Error),
    /// The kernel lacks this.
    Missing {
        /// The feature.
        feature: &'static str,
        /// The kernel version it came with.
        since: &'static str,
    },
    /// The kernel had no memory left for it.
    Memory(io::Error),
    /// Something else.
    Other(io::Error),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled(value) => {
                write!(f, "io_uring is disabled (kernel.io_uring_disabled={value})")
            }
            Self::Forbidden(why) => write!(
                f,
                "io_uring is forbidden to this process, perhaps by the seccomp profile of its \
                 container: {why}"
            ),
            Self::Missing { feature, since } => write!(
                f,
                "this kernel ({}) lacks {feature}, which came with Linux {since}; pgring needs \
                 Linux 6.1 or later",
                release()
            ),
            Self::Memory(why) => {
                write!(f, "no memory for a ring (RLIMIT_MEMLOCK, or the machine is full): {why}")
            }
            Self::Other(why) => write!(f, "io_uring cannot be set up: {why}"),
        }
    }
}

impl std::error::Error for RingError {}

/// A ring for the calling thread, with everything we need, or the reason why not.
pub(super) fn build() -> Result<IoUring, RingError> {
    let ring = match builder(STEPS.len()).build(SUBMISSIONS) {
        Ok(ring) => ring,
        Err(why) => return Err(explain(why)),
    };
    check(&ring)?;
    Ok(ring)
}

/// The setup flags in the order in which kernels learnt them.
const STEPS: [(&str, &str); 5] = [
    ("completion queues of a given size (IORING_SETUP_CQSIZE)", "5.5"),
    ("submission of all in spite of errors (IORING_SETUP_SUBMIT_ALL)", "5.18"),
    ("cooperative task running (IORING_SETUP_COOP_TASKRUN)", "5.19"),
    ("rings of one issuer (IORING_SETUP_SINGLE_ISSUER), multishot receive", "6.0"),
    ("deferred task running (IORING_SETUP_DEFER_TASKRUN)", "6.1"),
];

fn builder(steps: usize) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    if steps > 0 {
        builder.setup_cqsize(COMPLETIONS);
    }
    if steps > 1 {
        builder.setup_submit_all();
    }
    if steps > 2 {
        builder.setup_coop_taskrun();
    }
    if steps > 3 {
        builder.setup_single_issuer();
    }
    if steps > 4 {
        builder.setup_defer_taskrun();
    }
    builder
}

/// Says why the ring could not be built.
pub fn explain(why: io::Error) -> RingError {
    match why.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing { feature: "io_uring", since: "5.1" },
        Some(libc::EPERM | libc::EACCES) => match std::fs::read_to_string(SWITCH) {
            Ok(value) if value.trim() != "0" => RingError::Disabled(value.trim().to_owned()),
            Ok(_) | Err(_) => RingError::Forbidden(why),
        },
        Some(libc::ENOMEM) => RingError::Memory(why),
        Some(libc::EINVAL) => {
            STEPS.iter().enumerate().find(|(index, _)| builder(index + 1).build(8).is_err()).map_or(
                RingError::Other(why),
                |(_, &(feature, since))| RingError::Missing { feature, since },
            )
        }
        Some(_) | None => RingError::Other(why),
    }
}

/// Asks for what the setup flags do not imply.
fn check(ring: &IoUring) -> Result<(), RingError> {
    let parameters = ring.params();
    let features = [
        (parameters.is_feature_nodrop(), "completions that are never dropped", "5.5"),
        (parameters.is_feature_submit_stable(), "requests copied at submission", "5.5"),
        (parameters.is_feature_fast_poll(), "polling without threads", "5.7"),
        (parameters.is_feature_ext_arg(), "waiting with a time-out (EXT_ARG)", "5.11"),
    ];
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(RingError::Other)?;
    let operations = [
        (opcode::SendMsg::CODE, "sendmsg", "5.3"),
        (opcode::AcceptMulti::CODE, "accept", "5.5"),
        (opcode::Connect::CODE, "connect", "5.5"),
        (opcode::AsyncCancel::CODE, "cancelling", "5.5"),
        (opcode::Close::CODE, "close", "5.6"),
        (opcode::Send::CODE, "send", "5.6"),
        (opcode::RecvMulti::CODE, "receive", "5.6"),
        (opcode::PollAdd::CODE, "poll", "5.1"),
    ];
    let operations = operations
        .into_iter()
        .map(|(code, feature, since)| (probe.is_supported(code), feature, since));
    match features.into_iter().chain(operations).find(|(there, ..)| !there) {
        Some((_, feature, since)) => Err(RingError::Missing { feature, since }),
        None => Ok(()),
    }
}

/// The kernel's version.
fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "of unknown version".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{RingError, STEPS, build, explain};
    use std::io;

    #[test]
    fn this_machine_can_do_it() {
        build().unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_the_kernel_that_has_it() {
        let (feature, since) = STEPS[4];
        let text = RingError::Missing { feature, since }.to_string();
        assert!(text.contains("DEFER_TASKRUN") && text.contains("Linux 6.1"), "{text}");
        let none = explain(io::Error::from_raw_os_error(libc::ENOSYS));
        assert!(none.to_string().contains("lacks io_uring"), "{none}");
    }
}
