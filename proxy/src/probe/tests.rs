//! The probe, on connections of this process to itself.

use super::Probe;
use pgring_ebpf_common::{Event, kind, state};
use socket2::{Domain, Socket, Type};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// The probe, or none where this process may not load it: then there is nothing to be seen.
fn probe() -> Option<Probe> {
    match Probe::load() {
        Ok(probe) => {
            assert_eq!(probe.off(), [""; 0], "a kernel that takes one takes all");
            Some(probe)
        }
        Err(why) => {
            assert!(why.contains("CAP_BPF") || why.contains("CONFIG_DEBUG_INFO_BTF"), "{why}");
            drop(writeln!(std::io::stderr(), "the probe cannot be loaded here: {why}"));
            None
        }
    }
}

/// Events as they come, until one fits; all of them.
fn until(probe: Probe, fits: impl Fn(&Event) -> bool) -> (Probe, Vec<Event>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut ready = probe.awaited().unwrap();
        let mut events = Vec::new();
        let seen = async {
            loop {
                let mut guard = ready.readable_mut().await.unwrap();
                while let Some(event) = guard.get_inner_mut().event() {
                    events.push(event);
                    if fits(&event) {
                        return;
                    }
                }
                guard.clear_ready();
            }
        };
        let late = tokio::time::timeout(Duration::from_secs(10), seen).await.is_err();
        assert!(!late, "nothing of the kind came: {events:?}");
        (ready.into_inner(), events)
    })
}

pub(super) fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

pub(super) fn listener() -> Socket {
    let listener = socket();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(8).unwrap();
    listener
}

#[test]
fn a_connection_that_opens_and_is_closed_by_the_other_side_is_seen() {
    let Some(probe) = probe() else { return };
    let (listener, ours, other) = (listener(), socket(), socket());
    probe.marker().watch(ours.as_fd(), 7).unwrap();
    let address = listener.local_addr().unwrap();
    other.connect(&address).unwrap();
    let theirs_of_other = listener.accept().unwrap().0;
    ours.connect(&address).unwrap();
    let theirs = listener.accept().unwrap().0;
    let facts = probe.marker().facts(ours.as_fd()).expect("it is watched");
    assert_eq!((facts.node, facts.state), (7, state::ESTABLISHED));
    assert!(facts.asked_ns > 0 && facts.open_ns >= facts.asked_ns, "{facts:?}");
    assert!(probe.marker().facts(other.as_fd()).is_none(), "nobody watches that");
    drop((theirs_of_other, theirs));
    let closed = |event: &Event| event.kind == kind::STATE && event.second == state::CLOSE_WAIT;
    let (_, events) = until(probe, closed);
    let steps: Vec<_> = events.iter().map(|event| (event.kind, event.second)).collect();
    let expected = [state::SYN_SENT, state::ESTABLISHED, state::CLOSE_WAIT];
    assert_eq!(steps, expected.map(|now| (kind::STATE, now)), "{events:?}");
    assert!(events.iter().all(|event| event.node == 7 && event.cookie == events[0].cookie));
}

#[test]
fn a_refusal_is_an_error_with_its_number() {
    let Some(probe) = probe() else { return };
    let free = listener().local_addr().unwrap();
    let ours = socket();
    probe.marker().watch(ours.as_fd(), 3).unwrap();
    ours.connect(&free).unwrap_err();
    let (probe, events) = until(probe, |event| event.kind == kind::ERROR);
    let refused = u32::try_from(libc::ECONNREFUSED).unwrap();
    assert!(events.iter().any(|event| event.kind == kind::ERROR && event.first == refused));
    // The kernel reports it where the reset comes, and where the connection is given up.
    let errors = probe.marker().facts(ours.as_fd()).map(|facts| facts.errors);
    assert!(errors.is_some_and(|errors| (1..=2).contains(&errors)), "{errors:?}");
}

#[test]
fn a_reset_is_seen_though_nobody_reads() {
    let Some(probe) = probe() else { return };
    let (listener, ours) = (listener(), socket());
    probe.marker().watch(ours.as_fd(), 1).unwrap();
    ours.connect(&listener.local_addr().unwrap()).unwrap();
    let theirs = listener.accept().unwrap().0;
    // Closed with this there is no FIN.
    theirs.set_linger(Some(Duration::ZERO)).unwrap();
    drop(theirs);
    let (probe, _) = until(probe, |event| event.kind == kind::RESET);
    assert_eq!(probe.marker().facts(ours.as_fd()).map(|facts| facts.resets), Some(1));
}
