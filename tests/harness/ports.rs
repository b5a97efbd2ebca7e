//! TCP ports that no other test of this machine uses.
//!
//! They lie below the range from which the kernel takes the ports of outgoing connections, so
//! that a port cannot be taken between its choice and its use, and each is held by a lock file.

use crate::postgres::nodes_dir;
use std::fs::{File, create_dir_all};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;

const FIRST: u16 = 12_000;
const COUNT: u32 = 20_000;

/// A port held until it is dropped.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free one.
    pub fn take() -> Self {
        let folder = nodes_dir().join("ports");
        create_dir_all(&folder).expect("a folder for port locks");
        for attempt in 0..COUNT {
            let offset = (process::id().wrapping_mul(37).wrapping_add(attempt)) % COUNT;
            let number = FIRST + u16::try_from(offset).expect("within the range");
            let lock = File::create(folder.join(number.to_string())).expect("a port lock");
            let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
            if lock.try_lock().is_ok() && free() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} on");
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
