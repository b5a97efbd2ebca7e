//! What must hold for any bytes, from a client ([`frame`]) or a server ([`backend`]), and for any
//! [`text`](texts::text); [`classify`](classes::classify) has rules of its own.
//!
//! 1. Nothing panics.
//! 2. What is read does not depend on where the network cuts the stream.
//! 3. What was read and can be written again is written as it came.
//!
//! The first byte of the input says how the rest is cut. The fuzz targets and the test that
//! replays their corpus both come here.

pub mod classes;
pub mod texts;

use pgring_wire::auth::Stored;
use pgring_wire::auth::scram::client::{ClientKeys, ScramClient};
use pgring_wire::auth::scram::server::ScramServer;
use pgring_wire::auth::scram::{ScramError, Verifier, prepared};
use pgring_wire::backend::{self, ErrorView, write as say};
use pgring_wire::client::{self, Execute, Parse, Target, bind_names, write as ask};
use pgring_wire::frame::{Header, LENGTH_MAX, Reader, header};
use pgring_wire::startup::{self, Packet, packet};

/// One step over held bytes.
enum Step {
    /// What was read, and how many bytes it used.
    Said(String, usize),
    /// More must come.
    More,
    /// The stream is no longer the protocol.
    Broken(String),
}

/// Bytes from a client: startup packets first, then messages.
pub fn frame(data: &[u8]) {
    both_ways(data, || {
        let mut started = false;
        move |held: &[u8]| {
            if started { message(held, client_view) } else { start(held, &mut started) }
        }
    });
}

/// Bytes from a server.
pub fn backend(data: &[u8]) {
    both_ways(data, || |held: &[u8]| message(held, server_view));
}

/// Reads the stream in one piece and in many, and compares.
fn both_ways<F: FnMut(&[u8]) -> Step>(data: &[u8], machine: impl Fn() -> F) {
    let Some((&seed, stream)) = data.split_first() else { return };
    let whole = read(stream, usize::MAX, machine());
    let size = usize::from(seed % 32) + 1;
    assert_eq!(read(stream, size, machine()), whole, "cut into pieces of {size}");
}

/// Everything read from the stream, as a driver would show it; the last entry says how it ended.
fn read(stream: &[u8], size: usize, mut step: impl FnMut(&[u8]) -> Step) -> Vec<String> {
    let mut story = Vec::new();
    let mut held = Vec::new();
    for piece in stream.chunks(size.min(stream.len().max(1))) {
        held.extend_from_slice(piece);
        loop {
            match step(&held) {
                Step::Said(said, used) => {
                    assert!(0 < used && used <= held.len(), "{said} used {used}");
                    story.push(said);
                    held.drain(..used);
                }
                Step::More => break,
                Step::Broken(error) => {
                    story.push(error);
                    return story;
                }
            }
        }
    }
    story.push(format!("{} bytes left", held.len()));
    story
}

fn start(held: &[u8], started: &mut bool) -> Step {
    let (packet, used) = match packet(held) {
        Ok(Some(found)) => found,
        Ok(None) => {
            assert!(held.len() < startup::LENGTH_MAX as usize, "a startup packet is bounded");
            return Step::More;
        }
        Err(error) => return Step::Broken(format!("{error} {error:?}")),
    };
    if let Packet::Startup { major, minor, parameters } = &packet {
        *started = true;
        let mut out = Vec::new();
        ask::startup(&mut out, *major, *minor, parameters.iter().copied());
        assert_eq!(out, held[..used], "a startup packet is written as it came");
    }
    if let Packet::Cancel { pid, secret } = &packet {
        let mut out = Vec::new();
        ask::cancel_request(&mut out, *pid, secret);
        assert_eq!(out, held[..used], "a cancel request is written as it came");
    }
    Step::Said(format!("{packet:?}"), used)
}

fn message(held: &[u8], view: fn(u8, &[u8]) -> String) -> Step {
    let found = match header(held, LENGTH_MAX) {
        Ok(Some(found)) => found,
        Ok(None) => {
            assert!(held.len() < Header::SIZE, "five bytes are a header");
            return Step::More;
        }
        Err(error) => return Step::Broken(format!("{error} {error:?}")),
    };
    let Some(body) = held.get(Header::SIZE..found.total()) else { return Step::More };
    assert_eq!(body.len(), found.body());
    let said = format!("{} {} {}", found.tag.escape_ascii(), body.len(), view(found.tag, body));
    Step::Said(said, found.total())
}

/// Writes a message, and checks that its body is what it was.
fn same(tag: u8, body: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    write(&mut out);
    assert_eq!(out[0], tag, "the tag is written as it came");
    assert_eq!(out[Header::SIZE..], *body, "the body is written as it came");
}

fn client_view(tag: u8, body: &[u8]) -> String {
    match tag {
        b'Q' => format!(
            "{:?}",
            client::query(body).inspect(|text| {
                same(tag, body, |out| ask::query(out, text));
            })
        ),
        b'P' => format!(
            "{:?}",
            Parse::read(body).inspect(|parse| {
                same(tag, body, |out| {
                    ask::parse(out, parse.name, parse.body_after_name).expect("it fitted before");
                });
            })
        ),
        b'B' => bind(body),
        b'D' => format!(
            "{:?}",
            Target::read(body).inspect(|target| {
                same(tag, body, |out| ask::describe(out, target.kind, target.name));
            })
        ),
        b'C' => format!(
            "{:?}",
            Target::read(body).inspect(|target| {
                same(tag, body, |out| ask::close(out, target.kind, target.name));
            })
        ),
        b'E' => format!("{:?}", Execute::read(body)),
        b'p' => format!("{:?} {}", client::password(body), log_in(body)),
        _ => format!("{:?}", fields(body)),
    }
}

/// The names of a Bind are the same from the moment they are all there.
fn bind(body: &[u8]) -> String {
    let names = bind_names(body);
    if let Some(names) = names {
        for end in 0..names.end {
            assert_eq!(bind_names(&body[..end]), None, "half a name is no name");
        }
        assert_eq!(bind_names(&body[..names.end]), Some(names));
        let rest = &body[names.end..];
        same(b'B', body, |out| {
            ask::bind_header(out, names.portal, names.statement, rest.len())
                .expect("it fitted before");
            out.extend_from_slice(rest);
        });
    }
    format!("{names:?}")
}

/// Nobody comes in by accident: the keys here are proved by nobody.
fn log_in(body: &[u8]) -> String {
    let stored = core::str::from_utf8(body).map(Stored::of);
    let nonce = [0; 18];
    let mut server = ScramServer::mock(&[0; 32], b"ann", &nonce);
    let (_, data) = client::sasl_initial(body).unwrap_or_default();
    let first = server.first(data.unwrap_or(body));
    if let Ok(challenge) = &first {
        let proof =
            [b"c=biws,", challenge.split(|&b| b == b',').next().unwrap_or_default(), b",", body];
        server.last(&proof.concat()).expect_err("nobody knows the password of a mock");
    }
    assert_eq!(server.last(body), Err(ScramError::OutOfOrder));
    let password = prepared(body);
    assert_eq!(prepared(&password), password, "a prepared password is prepared");
    format!("{stored:?} {first:?}")
}

fn server_view(tag: u8, body: &[u8]) -> String {
    match tag {
        b'E' | b'N' => {
            let view = ErrorView::new(body);
            let fields: Vec<_> = view.fields().collect();
            format!("{fields:?} {:?} {:?} {}", view.severity(), view.code(), view.is_fatal())
        }
        b'S' => format!(
            "{:?}",
            backend::parameter_status(body).inspect(|(name, value)| {
                same(tag, body, |out| say::parameter_status(out, name, value));
            })
        ),
        b'K' => format!(
            "{:?}",
            backend::key_data(body).inspect(|(pid, secret)| {
                same(tag, body, |out| say::backend_key_data(out, *pid, secret));
            })
        ),
        b'Z' => format!(
            "{:?}",
            backend::ready_status(body).inspect(|status| {
                same(tag, body, |out| say::ready_for_query(out, *status));
            })
        ),
        b'C' => format!(
            "{:?}",
            backend::command_tag(body).inspect(|text| {
                same(tag, body, |out| say::command_complete(out, text));
            })
        ),
        b'D' => format!(
            "{:?}",
            backend::data_row(body).map(|row| {
                let values: Vec<_> = row.collect();
                same(tag, body, |out| say::data_row(out, &values));
                values.len()
            })
        ),
        b'R' => format!("{:?} {}", backend::authentication(body), challenge(body)),
        _ => format!("{:?}", fields(body)),
    }
}

/// A server's part of SCRAM, at every step, with keys no server knows.
fn challenge(body: &[u8]) -> String {
    let data = body.get(4..).unwrap_or_default();
    let mut client = ScramClient::new(&[0; 18]);
    let nonce = client.client_first().split_off(b"n,,n=,".len());
    // As it is, and with the one thing a fuzzer cannot guess.
    let plain = client.server_first(data);
    let mut client = ScramClient::new(&[0; 18]);
    let with_nonce = client.server_first(&[&nonce, data].concat());
    if let Ok(challenge) = &with_nonce {
        assert!((1..=1_000_000).contains(&challenge.iterations), "the work is bounded");
        let keys = ClientKeys::new([1; 32], Verifier::mock(&[2; 32], b"ann").server_key);
        client.client_final(&keys).expect("the challenge came before");
        client.server_final(data).expect_err("no server knows this key");
    }
    format!("{plain:?} {with_nonce:?}")
}

/// A reader never leaves its body, in whatever order it is asked.
fn fields(body: &[u8]) -> usize {
    let mut reader = Reader::new(body);
    let mut count = 0;
    while !reader.rest().is_empty() {
        let before = reader.rest().len();
        let read = match before % 5 {
            0 => reader.cstr().is_ok(),
            1 => reader.value().is_ok(),
            2 => reader.i16().is_ok(),
            3 => reader.take(before / 2).is_ok(),
            _ => reader.u8().is_ok(),
        };
        assert!(reader.rest().len() <= before, "a reader only goes on");
        if !read || reader.rest().len() == before {
            break;
        }
        count += 1;
    }
    count
}
