//! A small client of `PostgreSQL`'s protocol: one simple query at a time, and what became of it.
//!
//! psql would tell neither when an answer came nor whether a connection ended before or after it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether somebody has given up the wait.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a message at most; more is no message.
const MESSAGE_MAX: usize = 1 << 24;

/// What became of a query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// It is done; the first field of its first row, if there is one.
    Done(String),
    /// An error with this SQLSTATE, and whether it ended the connection. A warning counts too: it
    /// comes with a commit that the standbys have not acknowledged.
    Refused {
        /// Its SQLSTATE.
        code: String,
        /// In words.
        text: String,
        /// Whether the session is over.
        fatal: bool,
    },
    /// The connection ended without a word.
    Closed,
    /// Nothing came until the wait was given up.
    Silent,
}

/// A session.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    heard: VecDeque<u8>,
}

impl Client {
    /// A session of this user, who need not prove anything.
    pub(super) fn connect(
        address: SocketAddr,
        (user, database): (&str, &str),
        give_up: &dyn Fn() -> bool,
    ) -> Result<Self, Answer> {
        let stream =
            TcpStream::connect_timeout(&address, CONNECT_MAX).map_err(|error| refused(&error))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(LOOK)));
        set.map_err(|error| refused(&error))?;
        let mut client = Self { stream, heard: VecDeque::new() };
        let mut body = vec![0, 3, 0, 0];
        for text in ["user", user, "database", database, "application_name", "outage"] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        match client.send(None, &body).and_then(|()| client.hear(give_up)) {
            Ok(Answer::Done(_)) => Ok(client),
            Ok(other) => Err(other),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Asks, and waits for the answer until `give_up`.
    pub(super) fn ask(&mut self, sql: &str, give_up: &dyn Fn() -> bool) -> Answer {
        // What cannot be sent may have been refused before: that is heard then.
        drop(self.send(Some(b'Q'), &[sql.as_bytes(), b"\0"].concat()));
        self.hear(give_up).unwrap_or(Answer::Closed)
    }

    /// Whether a session on which nothing is asked still stands.
    pub(super) fn stands(&mut self) -> bool {
        if self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let mut byte = [0];
        let stands = match self.stream.peek(&mut byte) {
            Ok(0) => false,
            // An error that nobody asked for ends it; notices and parameters do not.
            Ok(_) => byte != *b"E",
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        stands && self.stream.set_nonblocking(false).is_ok()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
        let head: Vec<u8> = kind.into_iter().chain(length).collect();
        self.stream.write_all(&[head.as_slice(), body].concat())
    }

    /// Hears to the end of the answer.
    fn hear(&mut self, give_up: &dyn Fn() -> bool) -> std::io::Result<Answer> {
        let (mut refusal, mut field, mut complete) = (None, None, false);
        loop {
            while let Some((kind, body)) = self.message()? {
                match kind {
                    b'E' => {
                        let refused = complaint(&body);
                        if matches!(refused, Answer::Refused { fatal: true, .. }) {
                            return Ok(refused);
                        }
                        refusal = Some(refused);
                    }
                    b'N' if is_warning(&body) => refusal = Some(complaint(&body)),
                    b'R' if body.first_chunk() != Some(&[0; 4]) => {
                        let text = "the server asks for a password".to_owned();
                        let code = "28000".to_owned();
                        return Ok(Answer::Refused { code, text, fatal: true });
                    }
                    b'D' if field.is_none() => field = Some(first_field(&body)),
                    b'C' => complete = true,
                    b'Z' => {
                        let done = Answer::Done(field.unwrap_or_default());
                        return Ok(refusal.unwrap_or(done));
                    }
                    _ => {}
                }
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                // Told that it is done, whatever ends the session afterwards.
                Ok(0) if complete => {
                    let done = Answer::Done(field.unwrap_or_default());
                    return Ok(refusal.unwrap_or(done));
                }
                Ok(0) => return Ok(refusal.unwrap_or(Answer::Closed)),
                Ok(length) => self.heard.extend(&bytes[..length]),
                Err(error) if waits(&error) && !give_up() => {}
                Err(error) if waits(&error) => return Ok(Answer::Silent),
                Err(_) if refusal.is_some() => return Ok(refusal.unwrap_or(Answer::Closed)),
                Err(_) if complete => return Ok(Answer::Done(field.unwrap_or_default())),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message that is there as a whole.
    fn message(&mut self) -> std::io::Result<Option<(u8, Vec<u8>)>> {
        if self.heard.len() < 5 {
            return Ok(None);
        }
        let head: Vec<u8> = self.heard.iter().take(5).copied().collect();
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..MESSAGE_MAX).contains(&length) {
            return Err(std::io::Error::from(ErrorKind::InvalidData));
        }
        if self.heard.len() < length + 1 {
            return Ok(None);
        }
        let whole: Vec<u8> = self.heard.drain(..=length).collect();
        Ok(Some((head[0], whole[5..].to_vec())))
    }
}

fn waits(error: &std::io::Error) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&error.kind())
}

/// A connection that the network did not give.
fn refused(error: &std::io::Error) -> Answer {
    Answer::Refused { code: "connect".to_owned(), text: error.to_string(), fatal: true }
}

/// The fields of an error or a notice.
fn fields(body: &[u8]) -> impl Iterator<Item = (u8, String)> {
    body.split(|byte| *byte == 0).filter_map(|field| {
        let (kind, text) = field.split_first()?;
        Some((*kind, String::from_utf8_lossy(text).into_owned()))
    })
}

fn field_of(body: &[u8], wanted: u8) -> Option<String> {
    fields(body).find(|(kind, _)| *kind == wanted).map(|(_, text)| text)
}

/// The severity, untranslated where the server says it.
fn severity(body: &[u8]) -> String {
    field_of(body, b'V').or_else(|| field_of(body, b'S')).unwrap_or_default()
}

fn is_warning(body: &[u8]) -> bool {
    severity(body) == "WARNING"
}

fn complaint(body: &[u8]) -> Answer {
    let fatal = ["FATAL", "PANIC"].contains(&severity(body).as_str());
    let more = field_of(body, b'D').map(|detail| format!(" ({detail})")).unwrap_or_default();
    let text = field_of(body, b'M').unwrap_or_default() + &more;
    Answer::Refused { code: field_of(body, b'C').unwrap_or_default(), text, fatal }
}

/// The first field of a row; nothing for NULL.
fn first_field(body: &[u8]) -> String {
    let length = body.get(2..6).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let bytes = body.get(6..6 + length).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Answer, Client};
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [[kind].as_slice(), &length, body].concat()
    }

    /// What a client makes of this answer to a query, after which the connection ends.
    fn heard(answer: Vec<u8>) -> Answer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut [0; 512]).expect("a startup");
            let hello = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
            stream.write_all(&hello).expect("sent");
            let _ = stream.read(&mut [0; 512]).expect("a query");
            stream.write_all(&answer).expect("sent");
        });
        let mut client = Client::connect(address, ("u", "d"), &|| false).expect("a session");
        let answer = client.ask("SELECT 1", &|| false);
        server.join().expect("no panic");
        answer
    }

    fn refused(code: &str, text: &str, fatal: bool) -> Answer {
        Answer::Refused { code: code.to_owned(), text: text.to_owned(), fatal }
    }

    #[test]
    fn an_answer_is_what_the_client_was_told_before_the_end() {
        let row = message(b'D', b"\0\x01\0\0\0\x0242");
        let complete = message(b'C', b"SELECT 1\0");
        let unknown = message(b'E', b"SFATAL\0VFATAL\0C08007\0Munknown\0\0");
        assert_eq!(heard([row.clone(), complete].concat()), Answer::Done("42".to_owned()));
        assert_eq!(heard(row), Answer::Closed);
        assert_eq!(heard(unknown), refused("08007", "unknown", true));
        assert_eq!(heard(Vec::new()), Answer::Closed);
    }

    #[test]
    fn a_warning_is_no_acknowledgement() {
        let warning = message(b'N', b"SWARNING\0C01000\0Mcanceling wait\0\0");
        let notice = message(b'N', b"SNOTICE\0C00000\0Mhm\0\0");
        let done = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
        let answer = heard([warning, done.clone()].concat());
        assert_eq!(answer, refused("01000", "canceling wait", false));
        assert_eq!(heard([notice, done].concat()), Answer::Done(String::new()));
    }
}
