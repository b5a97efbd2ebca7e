//! A link between pgring and a node that can fail: two TUN devices and a thread that carries
//! packets from one to the other, as the weather has it.
//!
//! The kernel of the project's machines has no netem, and a filter cannot delay. In fair weather
//! a packet costs two wakeups of the thread, and a link without packets nothing.

use super::dice::Dice;
use super::net::Namespace;
use super::queue::Queue;
use super::weather::{Fate, Way, Weather};
use crate::process::Outcome;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Bytes of a packet at most, as on an Ethernet.
const PACKET_MAX: u16 = 1500;
/// Packets taken from one device before the other has its turn.
const BATCH: usize = 64;

/// A link that goes with this value.
#[derive(Debug)]
pub(crate) struct Link {
    weather: Arc<Mutex<Weather>>,
    /// The thread ends when the other end of this is closed.
    ending: Option<UnixStream>,
    carrier: Option<JoinHandle<()>>,
}

impl Link {
    /// A link in fair weather: namespace and address of pgring's side and of the node's. The
    /// device has the same name on both sides.
    pub(crate) fn new(
        name: &str,
        (near, near_address): (&Namespace, Ipv4Addr),
        (far, far_address): (&Namespace, Ipv4Addr),
    ) -> Outcome<Self> {
        let devices = [device(near, name, near_address)?, device(far, name, far_address)?];
        let weather = Arc::new(Mutex::new(Weather::Fair));
        let (ending, end) = UnixStream::pair().map_err(|error| format!("a pair: {error}"))?;
        let carrier = Carrier {
            devices,
            end,
            weather: Arc::clone(&weather),
            dice: Dice::new(u64::from(far_address.octets()[2])),
            queues: Default::default(),
        };
        let carrier = thread::Builder::new()
            .name(format!("link {name}"))
            .spawn(|| carrier.run())
            .map_err(|error| format!("a thread for {name}: {error}"))?;
        Ok(Self { weather, ending: Some(ending), carrier: Some(carrier) })
    }

    /// From the next packet on it is this weather.
    pub(crate) fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.ending.take());
        if let Some(carrier) = self.carrier.take() {
            // If it panicked, the report has said so.
            drop(carrier.join());
        }
    }
}

/// A device in this namespace, switched on.
fn device(namespace: &Namespace, name: &str, address: Ipv4Addr) -> Outcome<SyncDevice> {
    namespace.within(|| {
        let failed = |error| format!("no TUN device {name} in {}: {error}", namespace.name);
        let device = DeviceBuilder::new()
            .name(name)
            .mtu(PACKET_MAX)
            .ipv4(address, 30, None)
            .enable(true)
            .build_sync()
            .map_err(failed)?;
        device.set_nonblocking(true).map_err(failed)?;
        Ok(device)
    })
}

/// What the thread of a link has: for each way, the device it comes from and what is under way.
struct Carrier {
    devices: [SyncDevice; 2],
    end: UnixStream,
    weather: Arc<Mutex<Weather>>,
    dice: Dice,
    queues: [Queue; 2],
}

/// The ways, in the order of the devices they begin at.
const WAYS: [Way; 2] = [Way::To, Way::From];

impl Carrier {
    fn run(mut self) {
        while self.wait() {
            for from in 0..WAYS.len() {
                self.carry(from);
            }
            self.deliver(Instant::now());
        }
    }

    /// Waits for a packet or for the time of one under way; says whether to go on.
    fn wait(&self) -> bool {
        let due = self.queues.iter().filter_map(Queue::due).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Rounded up: a thread that wakes too early would only wait again.
            let left = due.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        let [near, far] = &self.devices;
        let mut waits = [near.as_fd(), far.as_fd(), self.end.as_fd()]
            .map(|file| PollFd::new(file, PollFlags::POLLIN));
        match poll(&mut waits, timeout) {
            Ok(_) => waits[2].revents().is_none_or(|events| events.is_empty()),
            Err(error) => error == Errno::EINTR,
        }
    }

    /// Takes what one side has sent and decides about each packet.
    fn carry(&mut self, from: usize) {
        let weather = *self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; PACKET_MAX as usize];
        for _ in 0..BATCH {
            // An error is "nothing there", or a device that is down; poll waits for either.
            let Ok(length) = self.devices[from].recv(&mut buffer) else { return };
            let packet = &buffer[..length];
            let now = Instant::now();
            match weather.fate(WAYS[from], packet, now, &mut self.dice) {
                Fate::Pass => self.queues[from].push(now, packet.to_vec()),
                Fate::Drop => {}
                Fate::Delay(time) => self.queues[from].push(now + time, packet.to_vec()),
                Fate::Reset { back, on } => {
                    self.queues[1 - from].push(now, back);
                    if let Some(on) = on {
                        self.queues[from].push(now, on);
                    }
                }
            }
        }
    }

    /// Hands over what has arrived.
    fn deliver(&mut self, now: Instant) {
        for from in 0..WAYS.len() {
            while let Some(packet) = self.queues[from].pop(now) {
                // A device that is down takes nothing, as a pulled plug would.
                drop(self.devices[1 - from].send(&packet));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, Weather};
    use crate::rig;
    use crate::rig::net::Namespace;
    use std::io::{ErrorKind, Read};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
    const PORT: u16 = 7;
    const CALLS: u16 = 300;
    /// Longer than any packet is under way here.
    const SILENCE: Duration = Duration::from_millis(700);

    /// Calls over a link: how many were heard, and how long each answer took.
    #[derive(Debug)]
    struct Heard {
        calls: usize,
        answers: Vec<Duration>,
    }

    impl Heard {
        fn median_ms(&mut self) -> u128 {
            self.answers.sort();
            self.answers[self.answers.len() / 2].as_millis()
        }
    }

    /// A link between two namespaces, if this machine lets us have any.
    fn link(test: &str) -> Option<(Link, Namespace, Namespace)> {
        if !rig::allowed() {
            eprintln!("skipped: network namespaces take root");
            return None;
        }
        let space = |side| Namespace::new(&format!("{test}-{side}")).expect("a namespace");
        let (near, far) = (space("near"), space("far"));
        let link = Link::new("test", (&near, NEAR), (&far, FAR)).expect("a link");
        Some((link, near, far))
    }

    fn bind(space: &Namespace, address: Ipv4Addr) -> UdpSocket {
        let socket = space
            .within(|| UdpSocket::bind((address, PORT)).map_err(|error| error.to_string()))
            .expect("a socket");
        socket.set_read_timeout(Some(SILENCE)).expect("a limit");
        socket
    }

    /// Sends numbered packets across, which are sent back.
    fn call(near: &UdpSocket, far: &UdpSocket) -> Heard {
        let heard = AtomicUsize::new(0);
        let mut answers = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut packet = [0; 2];
                while let Ok((length, from)) = far.recv_from(&mut packet) {
                    heard.fetch_add(1, Ordering::SeqCst);
                    far.send_to(&packet[..length], from).expect("sent");
                }
            });
            let answered = scope.spawn(|| {
                let (mut packet, mut times) = ([0; 2], Vec::new());
                while near.recv(&mut packet).is_ok() {
                    times.push((u16::from_be_bytes(packet), Instant::now()));
                }
                times
            });
            let mut sent = Vec::new();
            for number in 0..CALLS {
                sent.push(Instant::now());
                near.send_to(&number.to_be_bytes(), (FAR, PORT)).expect("sent");
                thread::sleep(Duration::from_millis(1));
            }
            let times = answered.join().expect("no panic");
            answers =
                times.into_iter().map(|(number, time)| time - sent[usize::from(number)]).collect();
        });
        Heard { calls: heard.load(Ordering::SeqCst), answers }
    }

    #[test]
    fn a_link_carries_loses_and_delays_as_the_weather_has_it() {
        let Some((link, near, far)) = link("weather") else { return };
        let (near, far) = (bind(&near, NEAR), bind(&far, FAR));

        let mut calm = call(&near, &far);
        assert_eq!((calm.calls, calm.answers.len()), (300, 300));
        assert!(calm.median_ms() < 20, "{} ms", calm.median_ms());

        let time = Duration::from_millis(25);
        link.set(Weather::Rough { lost: 200, least: time, most: time });
        let mut rough = call(&near, &far);
        assert!((210..270).contains(&rough.calls), "{} of 300 arrived", rough.calls);
        assert!((160..230).contains(&rough.answers.len()), "{} returned", rough.answers.len());
        assert!((50..120).contains(&rough.median_ms()), "{} ms", rough.median_ms());

        let (least, most) = (Duration::from_millis(50), Duration::from_millis(250));
        link.set(Weather::Rough { lost: 0, least, most });
        let mut jitter = call(&near, &far);
        assert!((280..350).contains(&jitter.median_ms()), "{} ms", jitter.median_ms());
        assert!(jitter.answers.iter().all(|time| (100..600).contains(&time.as_millis())));

        link.set(Weather::Dark { to: false, from: true });
        let deaf = call(&near, &far);
        assert_eq!((deaf.calls, deaf.answers.len()), (300, 0));
        link.set(Weather::Dark { to: true, from: false });
        assert_eq!(call(&near, &far).calls, 0);
    }

    #[test]
    fn a_link_refuses_and_resets_in_the_name_of_the_node() {
        let Some((link, near, far)) = link("resets") else { return };
        let listener = far.within(|| TcpListener::bind((FAR, PORT)).map_err(|e| e.to_string()));
        let listener = listener.expect("a listener");
        let connect = || {
            let address = SocketAddr::from((FAR, PORT));
            near.within(|| Ok(TcpStream::connect_timeout(&address, SILENCE))).expect("entered")
        };
        let mut open = connect().expect("fair weather");
        let (mut accepted, _) = listener.accept().expect("a client");

        link.set(Weather::Refuses);
        assert_eq!(connect().expect_err("refused").kind(), ErrorKind::ConnectionRefused);

        link.set(Weather::Resets);
        std::io::Write::write_all(&mut open, b"query").expect("into the kernel");
        for end in [&mut open, &mut accepted] {
            end.set_read_timeout(Some(SILENCE)).expect("a limit");
            let error = end.read(&mut [0; 8]).expect_err("reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
}
