//! Addresses as operators write them: `host:port`, `[v6]:port`, or a Unix socket directory.

use crate::action::Address;
use std::net::SocketAddr;
use std::path::Path;

/// The port of a Unix socket directory that names none, as in `libpq`.
const PORT: u16 = 5432;

/// The longest path of a socket file; longer ones do not fit into the kernel's `sockaddr_un`.
const SOCKET_PATH_MAX: usize = 107;

/// What a node's address is known to mean without asking anybody: empty for a host name.
pub(super) fn node(text: &str) -> Result<Vec<Address>, String> {
    if text.starts_with('/') {
        let (directory, port) = match text.rsplit_once(':') {
            Some((directory, digits)) => (directory, port(digits, 1)?),
            None => (text, PORT),
        };
        let path = socket(Path::new(directory), port)?;
        return Ok(vec![Address::Unix(path)]);
    }
    let resolved = host_port(text, 1).map_err(|error| {
        if text.contains(':') { error } else { format!("{error} or an absolute directory") }
    })?;
    Ok(resolved.map(Address::Tcp).into_iter().collect())
}

/// Checks `host:port` to listen on; port 0 lets the kernel choose.
pub(super) fn listen(text: &str) -> Result<(), String> {
    if let Some(port) = text.strip_prefix("*:") {
        return Err(format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\" for all addresses"));
    }
    host_port(text, 0).map(drop)
}

/// The socket file of a port in a directory, as `PostgreSQL` names it.
pub(super) fn socket(directory: &Path, port: u16) -> Result<std::path::PathBuf, String> {
    if !directory.is_absolute() {
        return Err("a socket directory is an absolute path".to_owned());
    }
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(format!(
            "the path of the socket has {length} bytes, the system allows {SOCKET_PATH_MAX}"
        ));
    }
    Ok(path)
}

/// The address if the host is a number, `None` if it is a name.
fn host_port(text: &str, port_min: u16) -> Result<Option<SocketAddr>, String> {
    let wanted = || format!("expected host:port, found {text:?}");
    if let Ok(address) = text.parse::<SocketAddr>() {
        port_in_range(address.port(), port_min)?;
        return Ok(Some(address));
    }
    let (host, digits) = text.rsplit_once(':').ok_or_else(wanted)?;
    if host.contains(':') || host.starts_with('[') {
        return Err(format!("{}; an IPv6 address stands in brackets, as in [::1]:5432", wanted()));
    }
    port(digits, port_min).map_err(|error| format!("{}; {error}", wanted()))?;
    if !is_host_name(host) {
        return Err(format!("{}; {host:?} is no host name", wanted()));
    }
    Ok(None)
}

fn port(digits: &str, port_min: u16) -> Result<u16, String> {
    match digits.parse::<u16>() {
        Ok(port) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            port_in_range(port, port_min)
        }
        Ok(_) | Err(_) => Err(format!("{digits:?} is no port")),
    }
}

fn port_in_range(port: u16, port_min: u16) -> Result<u16, String> {
    if port < port_min { Err("port 0 cannot be connected to".to_owned()) } else { Ok(port) }
}

/// Letters, digits, `-`, `_` and single dots; not all digits and dots, which would be an address
/// written wrong.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= 253
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && !host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::{listen, node};
    use crate::action::Address;
    use std::path::PathBuf;

    #[test]
    fn numbers_and_socket_directories_need_no_resolver() {
        let tcp = |text: &str| Ok(vec![Address::Tcp(text.parse().unwrap())]);
        let unix = |path: &str| Ok(vec![Address::Unix(PathBuf::from(path))]);
        assert_eq!(node("127.0.0.1:5432"), tcp("127.0.0.1:5432"));
        assert_eq!(node("[::1]:5433"), tcp("[::1]:5433"));
        assert_eq!(node("/run/postgresql"), unix("/run/postgresql/.s.PGSQL.5432"));
        assert_eq!(node("/run/postgresql:5499"), unix("/run/postgresql/.s.PGSQL.5499"));
        assert_eq!(node("db-1.example.org:5432"), Ok(Vec::new()));
        assert_eq!(node("localhost:5432"), Ok(Vec::new()));
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_with_a_reason() {
        let long = format!("/{}", "x".repeat(120));
        for (text, reason) in [
            ("", "host:port"),
            ("pg1", "absolute directory"),
            ("run/postgresql", "absolute directory"),
            (":5432", "no host name"),
            ("pg1:", "no port"),
            ("pg1:+5", "no port"),
            ("pg1:99999", "no port"),
            ("pg1:0", "port 0"),
            ("127.0.0.1:0", "port 0"),
            ("127.0.0.300:5432", "no host name"),
            ("::1:5432", "brackets"),
            ("pg 1:5432", "no host name"),
            ("a..b:5432", "no host name"),
            ("/run/postgresql:x", "no port"),
            (&long, "bytes"),
        ] {
            let error = node(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_listener_may_leave_the_port_to_the_kernel() {
        assert_eq!(listen("127.0.0.1:0"), Ok(()));
        assert_eq!(listen("localhost:6432"), Ok(()));
        assert!(listen("*:6432").unwrap_err().contains("0.0.0.0:6432"));
        assert!(listen("6432").is_err());
    }
}
