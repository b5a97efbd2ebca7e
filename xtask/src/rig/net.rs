//! Network namespaces and the wires between them.
//!
//! A namespace is entered by a thread of its own, so whatever that thread starts lives there, and
//! nothing else of the machine is another's (`ip netns exec` would also hide `/sys`).

use crate::process::{self, Outcome};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;

/// What every name of a namespace of ours begins with; the number of its process follows.
const PREFIX: &str = "rig";

/// Whether this process may make namespaces. Only the thread that tries has left its own.
pub(crate) fn allowed() -> bool {
    let both = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    thread::spawn(move || unshare(both).is_ok()).join().unwrap_or(false)
}

/// Removes the namespaces of rigs that were killed before they could do it.
pub(crate) fn sweep() -> Outcome<()> {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ip(&["netns", "del", &name])?;
        }
    }
    Ok(())
}

/// The number of the process that made the namespace of this name, if a rig did.
fn owner(name: &str) -> Option<&str> {
    let (number, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(number)
}

/// A network namespace that goes with this value.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its name below `/run/netns`.
    pub(crate) name: String,
}

impl Namespace {
    /// A new one whose loopback interface is up. The name has the number of this process in it,
    /// so two rigs do not meet.
    pub(crate) fn new(role: &str) -> Outcome<Self> {
        process::check_interrupt()?;
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let made = Self { name };
        made.ip(&["link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// Does something in the namespace.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        let path = format!("/run/netns/{}", self.name);
        let enter = || {
            let failed = |error: &dyn std::fmt::Display| format!("cannot enter {path}: {error}");
            let file = File::open(&path).map_err(|error| failed(&error))?;
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))
        };
        thread::scope(|scope| {
            let inside = scope.spawn(|| enter().and_then(|()| act()));
            inside.join().unwrap_or_else(|_| Err(format!("a thread in {path} panicked")))
        })
    }

    /// The command `ip`, in the namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Outcome<()> {
        ip(&[["-n", &self.name].as_slice(), arguments].concat())
    }

    /// Gives one of its interfaces an address and switches it on.
    pub(crate) fn address(&self, device: &str, address: &str) -> Outcome<()> {
        self.ip(&["addr", "add", address, "dev", device])?;
        self.ip(&["link", "set", device, "up"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its devices go with it, and with a veth its other end.
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("the namespace {} is left: {error}", self.name);
        }
    }
}

/// A wire that never fails, between two namespaces: interface and address at each end.
pub(crate) fn wire(
    (one, one_device, one_address): (&Namespace, &str, Ipv4Addr),
    (other, other_device, other_address): (&Namespace, &str, Ipv4Addr),
) -> Outcome<()> {
    let peer = ["peer", "name", other_device, "netns", &other.name];
    let add = ["link", "add", one_device, "type", "veth"];
    one.ip(&[add.as_slice(), &peer].concat())?;
    one.address(one_device, &format!("{one_address}/30"))?;
    other.address(other_device, &format!("{other_address}/30"))
}

/// Whatever happens meanwhile: cleaning up uses it too.
fn ip(arguments: &[&str]) -> Outcome<()> {
    process::finish(Command::new("ip").args(arguments))
        .map_err(|error| format!("ip {}: {error}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_what_a_rig_has_made_is_swept_away() {
        assert_eq!(owner("rig123-pgr"), Some("123"));
        for name in ["rig-pgr", "rigging-1", "rig12x-pgr", "blue", "rig123"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
