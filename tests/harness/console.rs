//! The console, as a raw client sees it, and the HTTP port.

use crate::message::{Message, Reader};
use crate::wire::{PATIENCE, Wire};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A row of a SHOW, by column.
pub type Row = BTreeMap<String, String>;

/// A connection to the console.
#[derive(Debug)]
pub struct Console {
    wire: Wire,
}

impl Console {
    /// Logs in as a user.
    pub fn login(address: SocketAddr, user: &str) -> Self {
        let wire = Wire::login_with(address, &[("user", user), ("database", "pgbouncer")]);
        Self { wire }
    }

    /// Gives a command and returns its rows, or the error.
    pub fn ask(&mut self, command: &str) -> Result<Vec<Row>, Message> {
        let answers = self.wire.query(command);
        if let Some(error) = answers.iter().find(|message| message.tag == b'E') {
            return Err(error.clone());
        }
        let head = answers.iter().find(|message| message.tag == b'T');
        let names = head.map(names).unwrap_or_default();
        let rows = answers.iter().filter(|message| message.tag == b'D');
        Ok(rows.map(|row| by_column(&names, row)).collect())
    }

    /// Gives a command that must work.
    pub fn show(&mut self, command: &str) -> Vec<Row> {
        let rows = self.ask(command);
        rows.unwrap_or_else(|error| panic!("{command}: {} {:?}", error.code(), error.field(b'M')))
    }

    /// The one row of a SHOW in which `column` is `value`.
    pub fn find(&mut self, command: &str, column: &str, value: &str) -> Option<Row> {
        self.show(command).into_iter().find(|row| row.get(column).is_some_and(|v| v == value))
    }

    /// The sum of a numeric column of a SHOW.
    pub fn sum(&mut self, command: &str, column: &str) -> u64 {
        let number = |row: Row| row.get(column).and_then(|text| text.parse::<u64>().ok());
        self.show(command).into_iter().map(|row| number(row).unwrap_or(0)).sum()
    }

    /// The raw client below.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

fn by_column(names: &[String], row: &Message) -> Row {
    let values = row.columns().into_iter().map(Option::unwrap_or_default);
    names.iter().cloned().zip(values).collect()
}

/// The column names of a RowDescription.
pub fn names(description: &Message) -> Vec<String> {
    let mut body = Reader(&description.body);
    let columns = body.u16();
    let name = |_| {
        let name = body.text();
        body.take(18);
        name
    };
    (0..columns).map(name).collect()
}

/// Gets a page by HTTP: (status, body).
pub fn http(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the HTTP port");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("to ask");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}
