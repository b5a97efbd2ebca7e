//! Where clients come in: `listen` and its like, and how many threads there are.

use crate::config::error::Errors;
use crate::config::table::{At, Table};
use crate::config::{Config, address};
use std::path::PathBuf;

/// Lays the keys over the defaults.
pub(super) fn listeners(config: &mut Config, top: &mut Table<'_>, errors: &mut Errors) {
    top.number("workers", 0..=1024, &mut config.workers, errors);
    let mut line = 0;
    let mut all: Vec<String> = Vec::new();
    for (key, slot) in
        [("listen", &mut config.listen), ("listen_readonly", &mut config.listen_readonly)]
    {
        let Some(list) = top.texts(key, errors) else { continue };
        slot.clear();
        line = list.line;
        for At { line: at, value } in list.value {
            if let Err(message) = address::listen(&value) {
                top.blame(at, key, message, errors);
            } else if all.contains(&value) && !value.ends_with(":0") {
                top.blame(at, key, format!("{value:?} is listed twice"), errors);
            }
            all.push(value.clone());
            slot.push(value);
        }
    }
    if let Some(At { line, value }) = top.name_of("unix_socket_dir", errors) {
        let directory = PathBuf::from(value);
        // The longest port, because the port may be the kernel's choice.
        if let Err(message) = address::socket(&directory, u16::MAX) {
            top.blame(line, "unix_socket_dir", message, errors);
        }
        config.unix_socket_dir = Some(directory);
    }
    if config.listen.is_empty() && config.unix_socket_dir.is_none() {
        top.blame(line, "listen", "is empty, and there is no unix_socket_dir either", errors);
    }
    if let Some(At { line, value }) = top.name_of("http", errors) {
        if let Err(message) = address::listen(&value) {
            top.blame(line, "http", message, errors);
        } else if all.contains(&value) && !value.ends_with(":0") {
            top.blame(line, "http", format!("{value:?} is already in listen"), errors);
        }
        config.http = Some(value);
    }
}
