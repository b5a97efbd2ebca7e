//! What a program and a server said to each other, as text that is the same whenever they say the
//! same.
//!
//! `->` is the program, `<-` the server. The two directions were recorded apart and are laid into
//! each other by the protocol's own rules: after a message that asks for an answer comes the
//! answer, up to the message that ends it. A program that sends much at once before it reads is
//! thereby written down as if it had waited, and chance has no place in the text.
//!
//! Masked is what differs between any two sessions: pids and keys, what SCRAM makes up, the number
//! of a table, and where in PostgreSQL's source an error was raised. ParameterStatus messages that
//! follow each other are sorted, for their order means nothing.

use crate::message::{Message, Reader};
use crate::relay::Heard;
use std::collections::BTreeSet;

/// What PostgreSQL reports at a login since version 14; later ones report more.
const REPORTED: [&str; 13] = [
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "application_name",
    "client_encoding",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
];

/// Objects of a user have numbers from here on.
const FIRST_NORMAL_OID: u32 = 16_384;

/// What follows the number of a request that is no startup packet.
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// All connections of a program, each with a heading.
pub fn lines(connections: &[Heard]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, heard) in (1..).zip(connections) {
        lines.push(format!("connection {number}"));
        lines.extend(conversation(heard));
    }
    lines
}

/// The lines to store: without what depends on the version of PostgreSQL and of its programs.
pub fn versionless(lines: &[String]) -> Vec<String> {
    let report = "<- ParameterStatus ";
    let kept = lines.iter().filter_map(|line| {
        if let Some(data) = line.strip_prefix("-> CopyData ") {
            // Up to version 17 psql sends the mark at which its input ends.
            return Some(format!("-> CopyData {}", data.replace("\\\\.\\n\"", "\"")));
        }
        let Some((name, _)) = line.strip_prefix(report).and_then(|text| text.split_once(" = "))
        else {
            return Some(line.clone());
        };
        match name {
            "server_version" => Some(format!("{report}{name} = (a version)")),
            name => REPORTED.contains(&name).then(|| line.clone()),
        }
    });
    kept.collect()
}

/// One side's messages, cut and told.
struct Told {
    /// The message, or the raw bytes of one without a tag under the tag 0.
    message: Message,
    line: String,
}

fn conversation(heard: &Heard) -> Vec<String> {
    let (asked, raw_answers) = client(&heard.client);
    let mut answers = server(&heard.server, raw_answers).into_iter();
    let mut lines = Vec::new();
    for (index, told) in asked.iter().enumerate() {
        lines.push(format!("-> {}", told.line));
        let next = asked.get(index + 1).map(|told| told.message.tag);
        if !asks(told.message.tag, next) {
            continue;
        }
        let mut reports = BTreeSet::new();
        for answer in answers.by_ref() {
            let line = format!("<- {}", answer.line);
            if answer.message.tag == b'S' {
                reports.insert(line);
                continue;
            }
            lines.extend(std::mem::take(&mut reports));
            lines.push(line);
            if ends_an_answer(&answer.message) {
                break;
            }
        }
        lines.extend(reports);
    }
    lines.extend(answers.map(|answer| format!("<- {}", answer.line)));
    lines
}

/// Whether a server answers this message before it needs another one.
fn asks(tag: u8, next: Option<u8>) -> bool {
    match tag {
        0 | b'p' | b'Q' | b'S' | b'F' | b'X' => true,
        // In the extended protocol the answer to the end of a COPY comes with that to Sync.
        b'c' | b'f' => next != Some(b'S'),
        _ => false,
    }
}

/// Whether the program is to speak next.
fn ends_an_answer(message: &Message) -> bool {
    match message.tag {
        0 | b'Z' | b'G' | b'W' => true,
        b'R' => ![0, 12].contains(&Reader(&message.body).u32()),
        _ => false,
    }
}

/// Cuts what a program sent; also how many of its requests are answered by a byte without a
/// length.
fn client(bytes: &[u8]) -> (Vec<Told>, usize) {
    let mut rest = Reader(bytes);
    let (mut all, mut raw_answers, mut started) = (Vec::new(), 0, false);
    while rest.0.len() >= 5 {
        let tag = if started { rest.take(1)[0] } else { 0 };
        let body = body(&mut rest);
        let line = if started {
            request(&Message { tag, body: body.clone() })
        } else {
            let (code, line) = untagged(&body);
            started = ![SSL, GSS].contains(&code);
            raw_answers += usize::from(!started);
            line
        };
        all.push(Told { message: Message { tag, body }, line });
    }
    (all, raw_answers)
}

fn server(bytes: &[u8], raw_answers: usize) -> Vec<Told> {
    let mut rest = Reader(bytes);
    let mut all = Vec::new();
    for _ in 0..raw_answers.min(bytes.len()) {
        let body = rest.take(1).to_vec();
        let line = format!("the byte {}", body.escape_ascii());
        all.push(Told { message: Message { tag: 0, body }, line });
    }
    while rest.0.len() >= 5 {
        let tag = rest.take(1)[0];
        let message = Message { tag, body: body(&mut rest) };
        let line = answer(&message);
        all.push(Told { message, line });
    }
    all
}

fn body(rest: &mut Reader<'_>) -> Vec<u8> {
    let length = usize::try_from(rest.u32()).expect("a length") - 4;
    rest.take(length.min(rest.0.len())).to_vec()
}

fn untagged(bytes: &[u8]) -> (u32, String) {
    let mut body = Reader(bytes);
    let code = body.u32();
    let line = match code {
        SSL => String::from("SSLRequest"),
        GSS => String::from("GSSENCRequest"),
        CANCEL => format!("CancelRequest (pid), {} bytes of key", bytes.len() - 8),
        _ => {
            let mut words = vec![format!("Startup {}.{}", code >> 16, code & 0xffff)];
            while body.0.len() > 1 {
                words.push(format!("{}={:?}", body.text(), body.text()));
            }
            words.join(" ")
        }
    };
    (code, line)
}

/// A message of the program as a line.
fn request(message: &Message) -> String {
    let mut body = Reader(&message.body);
    match message.tag {
        b'Q' => format!("Query {:?}", body.text()),
        b'P' => {
            let (name, sql) = (body.text(), body.text());
            let count = body.u16();
            let types: Vec<_> = (0..count).map(|_| body.u32()).collect();
            format!("Parse {name:?} {sql:?} types {types:?}")
        }
        b'B' => bind(&mut body),
        b'D' => format!("Describe {} {:?}", kind(&mut body), body.text()),
        b'C' => format!("Close {} {:?}", kind(&mut body), body.text()),
        b'E' => format!("Execute {:?} rows {}", body.text(), body.u32()),
        b'S' => String::from("Sync"),
        b'H' => String::from("Flush"),
        b'X' => String::from("Terminate"),
        b'd' => format!("CopyData \"{}\"", message.body.escape_ascii()),
        b'c' => String::from("CopyDone"),
        b'f' => format!("CopyFail {:?}", body.text()),
        b'p' if message.body.starts_with(b"SCRAM-") => {
            format!("SASLInitialResponse {} (nonce)", body.text())
        }
        b'p' if message.body.starts_with(b"c=") => String::from("SASLResponse (nonce and proof)"),
        b'p' => String::from("PasswordMessage (secret)"),
        tag => format!("{} {}", char::from(tag), message.body.escape_ascii()),
    }
}

fn kind(body: &mut Reader<'_>) -> &'static str {
    match body.take(1) {
        b"S" => "statement",
        b"P" => "portal",
        _ => "nonsense",
    }
}

fn bind(body: &mut Reader<'_>) -> String {
    let (portal, name) = (body.text(), body.text());
    let formats_in = formats(body);
    let count = body.u16();
    let values: Vec<_> = (0..count).map(|_| value(body)).collect();
    let formats_out = formats(body);
    let values = values.join(", ");
    format!("Bind {portal:?} to {name:?} in {formats_in:?} values [{values}] out {formats_out:?}")
}

fn formats(body: &mut Reader<'_>) -> Vec<u16> {
    let count = body.u16();
    (0..count).map(|_| body.u16()).collect()
}

fn value(body: &mut Reader<'_>) -> String {
    let length = body.u32();
    if length == u32::MAX {
        return String::from("NULL");
    }
    let bytes = body.take(usize::try_from(length).expect("a length"));
    format!("\"{}\"", bytes.escape_ascii())
}

/// A message of the server as a line.
fn answer(message: &Message) -> String {
    let mut body = Reader(&message.body);
    match message.tag {
        b'R' => authentication(&mut body),
        b'S' => format!("ParameterStatus {} = {}", body.text(), body.text()),
        b'K' => format!("BackendKeyData (pid), {} bytes of key", message.body.len() - 4),
        b'Z' => format!("ReadyForQuery {}", message.body.escape_ascii()),
        b'T' => {
            let count = body.u16();
            let columns: Vec<_> = (0..count).map(|_| column(&mut body)).collect();
            format!("RowDescription {}", columns.join("; "))
        }
        b't' => {
            let count = body.u16();
            let types: Vec<_> = (0..count).map(|_| body.u32()).collect();
            format!("ParameterDescription {types:?}")
        }
        b'D' => {
            let count = body.u16();
            let values: Vec<_> = (0..count).map(|_| value(&mut body)).collect();
            format!("DataRow [{}]", values.join(", "))
        }
        b'C' => format!("CommandComplete {}", body.text()),
        b'E' => format!("ErrorResponse {}", fields(&message.body)),
        b'N' => format!("NoticeResponse {}", fields(&message.body)),
        b'A' => {
            body.u32();
            format!("NotificationResponse (pid) {:?} {:?}", body.text(), body.text())
        }
        b'G' => format!("CopyInResponse {}", message.body.escape_ascii()),
        b'H' => format!("CopyOutResponse {}", message.body.escape_ascii()),
        b'd' => format!("CopyData \"{}\"", message.body.escape_ascii()),
        b'c' => String::from("CopyDone"),
        b'I' => String::from("EmptyQueryResponse"),
        b'1' => String::from("ParseComplete"),
        b'2' => String::from("BindComplete"),
        b'3' => String::from("CloseComplete"),
        b'n' => String::from("NoData"),
        b's' => String::from("PortalSuspended"),
        tag => format!("{} {}", char::from(tag), message.body.escape_ascii()),
    }
}

fn authentication(body: &mut Reader<'_>) -> String {
    match body.u32() {
        0 => String::from("AuthenticationOk"),
        3 => String::from("AuthenticationCleartextPassword"),
        5 => String::from("AuthenticationMD5Password (salt)"),
        10 => {
            let mut names = Vec::new();
            while body.0.len() > 1 {
                names.push(body.text());
            }
            format!("AuthenticationSASL {}", names.join(" "))
        }
        11 => {
            let text = String::from_utf8_lossy(body.0).into_owned();
            let rounds = text.rsplit(',').next().unwrap_or_default();
            format!("AuthenticationSASLContinue (nonce and salt) {rounds}")
        }
        12 => String::from("AuthenticationSASLFinal (signature)"),
        other => format!("Authentication {other} {}", body.0.escape_ascii()),
    }
}

fn column(body: &mut Reader<'_>) -> String {
    let name = body.text();
    let (table, number) = (body.u32(), body.u16());
    let (kind, size, modifier) = (body.u32(), body.u16(), body.u32());
    let format = body.u16();
    let table = match table {
        0 => String::new(),
        FIRST_NORMAL_OID.. => format!(" of (a table) {number}"),
        _ => format!(" of {table} {number}"),
    };
    let (size, modifier) = (size.cast_signed(), modifier.cast_signed());
    format!("{name}{table} type {kind} size {size} modifier {modifier} format {format}")
}

/// The fields of an error; where in PostgreSQL's source it was raised says nothing here.
fn fields(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0).filter(|field| !field.is_empty());
    let telling = fields.filter(|field| !b"FLR".contains(&field[0]));
    let texts: Vec<_> = telling.map(|field| format!("\"{}\"", field.escape_ascii())).collect();
    texts.join(" ")
}
