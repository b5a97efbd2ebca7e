//! Nanoseconds of what happens to every message: `cargo bench -p pgring-benches [NAME]`.
//!
//! Figures of one machine compare versions of pgring on that machine and nothing else.

use pgring_benches::Bench;
use pgring_benches::stage::Stage;
use pgring_logic::classify::cache::{Cache, Proof};
use pgring_logic::classify::classify;
use pgring_logic::hints;
use pgring_logic::memo::Memo;
use pgring_logic::metrics::Histogram;
use pgring_logic::prepared::{ClientStatements, ServerName, ServerStatements, Texts};
use pgring_logic::time::Duration;
use pgring_wire::frame;
use std::hint::black_box;

fn main() {
    let bench = Bench::from_arguments();
    frames(&bench);
    statements(&bench);
    texts(&bench);
    classes(&bench);
    counters(&bench);
    transactions(&bench);
    grants(&bench);
}

/// What every answer costs: cutting 64 KiB of `DataRow`s into frames by their headers.
fn frames(bench: &Bench) {
    bench.section("frames (64 KiB of DataRows)");
    for size in [16, 64, 512] {
        let mut stream = Vec::new();
        let mut count = 0;
        while stream.len() + size <= 64 * 1024 {
            frame::message(&mut stream, b'D', |out| {
                out.extend_from_slice(&1u16.to_be_bytes());
                let len = u32::try_from(size - 11).expect("a row is longer than its header");
                out.extend_from_slice(&len.to_be_bytes());
                out.resize(out.len() + size - 11, b'x');
            });
            count += 1;
        }
        bench.measure(&format!("header, in rows of {size} bytes"), count, || {
            let (mut rest, mut rows) = (black_box(&stream[..]), 0);
            while let Ok(Some(header)) = frame::header(rest, frame::LENGTH_MAX) {
                rows += u32::from(header.tag == b'D');
                rest = rest.get(header.total()..).unwrap_or_default();
            }
            rows
        });
    }
}

/// A Parse body of 100 bytes: text, zero byte, one parameter type.
fn body(number: usize) -> Vec<u8> {
    let mut body =
        format!("select id, name, state, amount from orders_{number} where id = $1").into_bytes();
    body.resize(93, b' ');
    body.extend_from_slice(b"\0\0\x01\0\0\0\x17");
    body
}

/// What a Parse, a Bind and a server's checkout look up.
fn statements(bench: &Bench) {
    bench.section("prepared statements (100-byte bodies)");
    for count in [10, 10_000] {
        let bodies: Vec<_> = (0..count).map(body).collect();
        let mut texts = Texts::new(1);
        let mut client = ClientStatements::default();
        let mut server = ServerStatements::default();
        let mut ids = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            let id = texts.intern(body, Default::default);
            texts.retain(id);
            client.insert(format!("S_{number}").as_bytes(), id);
            server.add(id, body.len());
            ids.push(id);
        }
        server.settle();

        // A stride that visits all in an order the cache cannot guess.
        let mut at = 0;
        let mut next = move || {
            at = (at + 7_919) % count;
            at
        };
        bench.measure(&format!("text known: intern and release, of {count}"), 1, || {
            let id = texts.intern(black_box(&bodies[next()]), Default::default);
            texts.release(id);
        });
        let names: Vec<_> = (0..count).map(|number| format!("S_{number}")).collect();
        bench.measure(&format!("client name to text, of {count}"), 1, || {
            client.get(black_box(names[next()].as_bytes()))
        });
        bench.measure(&format!("text to server name, of {count}"), 1, || {
            let number = server.get(black_box(ids[next()]));
            number.map(|number| ServerName::new(number).as_bytes().len())
        });
        let mut novel = bodies.len();
        bench.measure(&format!("text new: intern, add, evict, release, of {count}"), 1, || {
            novel += 1;
            let mut body = bodies[0].clone();
            body[..8].copy_from_slice(&novel.to_le_bytes());
            let id = texts.intern(&body, Default::default);
            server.add(id, body.len());
            server.settle();
            while let Some((id, _)) = server.evict(count, usize::MAX) {
                texts.release(id);
            }
        });
    }
}

/// What is read of every text before it goes to a server.
fn texts(bench: &Bench) {
    bench.section("hints (100-byte texts)");
    let mut plain = body(7);
    plain.truncate(93);
    plain.resize(100, b' ');
    let quoted = b"insert into notes (id, text) values (4711, 'it''s a text of some length, in \
        quotes -- and all of it'); --";
    for (name, text) in [("a select", &plain[..]), ("a quoted insert", &quoted[..])] {
        bench.measure(&format!("scan of {name}"), 1, || hints::scan(black_box(text)));
    }
}

/// What a statement costs to classify: a hit lets the lexer pass over it, a miss parses it.
fn classes(bench: &Bench) {
    bench.section("classes (100-byte texts)");
    let text = |number: usize| {
        let mut text = format!("SELECT abalance, bid FROM accounts_{number} WHERE aid = 12345");
        text.push_str(" AND filler <> 'something else'");
        text.into_bytes()
    };
    for count in [10, 10_000] {
        let texts: Vec<_> = (0..count).map(text).collect();
        let mut cache = Cache::new(1, 1 << 24);
        // Each is parsed once before, or that would be measured.
        for text in &texts {
            black_box(cache.classify(text));
        }
        let mut at = 0;
        bench.measure(&format!("cached, of {count}"), 1, || {
            at = (at + 7_919) % count;
            cache.classify(black_box(&texts[at]))
        });
    }
    let (mut memo, mut cache) = (Memo::new(1), Cache::new(1, 1 << 24));
    let texts: Vec<_> = (0..10).map(text).collect();
    let mut at = 0;
    bench.measure("hints and verdict, of 10", 1, || {
        at = (at + 7) % 10;
        let text = black_box(&texts[at]);
        let known = memo.mark(text);
        let verdict = cache.verdict(text, known, 1, |_| Proof::Proven);
        if cache.last() != known {
            memo.note(text, cache.last());
        }
        (memo.scan(text), verdict)
    });
    let text = text(1);
    bench.measure("parsed", 1, || classify(black_box(&text)));
}

fn counters(bench: &Bench) {
    bench.section("counters");
    let mut histogram = Histogram::default();
    let mut us = 1;
    bench.measure("histogram observes", 1, || {
        us = us * 5 % 1_000_003;
        histogram.observe(Duration::from_micros(us));
    });
    black_box(histogram);
}

/// All of a lane: one message in, its actions out, the answer in, its actions out.
fn transactions(bench: &Bench) {
    bench.section("lane: one transaction, both ways, with an idle server granted and given back");
    for to in ["", " to a standby"] {
        for count in [10, 10_000] {
            let simple = format!("simple query{to}, of {count} sessions");
            let prepared = format!("Bind, Execute, Sync{to}, of {count} sessions");
            if !bench.wants(&simple) && !bench.wants(&prepared) {
                continue;
            }
            let mut stage = if to.is_empty() { Stage::open(count) } else { Stage::routed(count) };
            bench.measure(&simple, 1, || stage.simple_query());
            stage.prepare();
            bench.measure(&prepared, 1, || stage.execute_prepared());
        }
    }
    for statements in [1, 10] {
        let name = format!("Parse, Bind, Describe, Execute {statements} times, Sync");
        if bench.wants(&name) {
            let mut stage = Stage::open(10);
            stage.fill_pipeline(statements);
            bench.measure(&name, 1, || stage.run_pipeline());
        }
    }
}

/// The same without a grant, and with a queue for it: what one event costs, and what a grant.
fn grants(bench: &Bench) {
    bench.section("lane: events and grants");
    for count in [10, 10_000] {
        let event = format!("event inside a transaction, of {count} sessions");
        if bench.wants(&event) {
            let mut stage = Stage::open(count);
            stage.begin();
            bench.measure(&event, 2, || stage.query_inside());
        }
        let grant = format!("answer, grant, query, queue, of {count} sessions");
        if bench.wants(&grant) {
            let mut stage = Stage::open(count);
            stage.crowd();
            bench.measure(&grant, 1, || stage.queued_query());
        }
    }
}
