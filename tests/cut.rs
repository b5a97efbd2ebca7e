//! A client may die at any byte: the next one on the same server finds it clean.

use pgring_tests::command::{at_most_minutes, say};
use pgring_tests::dialogue::{Dialogue, await_answers};
use pgring_tests::dice::{Dice, amount, seed};
use pgring_tests::message::{extended, flush, query, sync, terminate};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::postgres::Postgres;
use pgring_tests::probe::held;
use pgring_tests::wire::Wire;
use pgring_tests::{corpus, corpus_copy, corpus_statements};
use std::time::{Duration, Instant};

/// How much of the dialogue is played before the client dies.
fn play_until(pgring: &Pgring, dialogue: &Dialogue, cut: usize, patient: bool) {
    let mut wire = Wire::login(pgring.address(), "app");
    let mut left = cut;
    for step in &dialogue.steps {
        if left < step.send.len() {
            wire.try_send(&step.send[..left]);
            return;
        }
        wire.try_send(&step.send);
        if patient {
            await_answers(&mut wire, step.wait);
        }
        left -= step.send.len();
    }
}

/// The offsets at which a dialogue is cut: all of a short one, some of a long one.
fn offsets(dialogue: &Dialogue, dice: &mut Dice, limit: usize) -> Vec<usize> {
    let bytes = dialogue.bytes();
    if bytes <= limit {
        return (0..=bytes).collect();
    }
    (0..limit).map(|_| dice.below(bytes + 1)).collect()
}

/// PostgreSQL commits nothing of a pipeline that no Sync has ended.
#[test]
fn who_dies_before_a_sync_has_committed_nothing() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql("CREATE TABLE piped (number int); GRANT ALL ON piped TO PUBLIC");
    for mode in ["transaction", "session"] {
        let pgring = Settings::new(&node).set("pool.size", 1).set("pool.mode", mode).start();
        for (ahead, polite) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut wire = Wire::login(pgring.address(), "app");
            // What a Sync has ended before is to stay.
            let mut said = [extended("INSERT INTO piped VALUES (0)", &[]), sync()].concat();
            said.extend(extended("INSERT INTO piped VALUES (1)", &[]));
            said.extend(flush());
            if ahead {
                wire.send(&[&said[..], &if polite { terminate() } else { Vec::new() }].concat());
            } else {
                wire.send(&said);
                for tag in *b"12nCZ12nC" {
                    assert_eq!(wire.read().map(|message| message.tag), Some(tag));
                }
                wire.send(&if polite { terminate() } else { Vec::new() });
            }
            drop(wire);
            let mut next = Wire::login(pgring.address(), "app");
            assert_eq!(next.value("SELECT 'served'"), "served");
            let lasting = next.value("SELECT count(*) FROM piped WHERE number = 1");
            assert_eq!(lasting, "0", "{mode}: ahead {ahead}, polite {polite}");
        }
        assert_eq!(pgring.violations(), Some(0));
    }
}

/// PostgreSQL reads what it is sent in order: the statements, the goodbye, and the end. Who leaves
/// without a goodbye while it waits for a server has no use for it any more.
#[test]
fn what_is_said_before_a_goodbye_is_carried_out_however_long_it_waits() {
    at_most_minutes(2);
    let node = Postgres::start();
    node.psql("CREATE TABLE parted (number int); GRANT ALL ON parted TO PUBLIC");
    let pgring = Settings::new(&node).set("pool.size", 1).start();
    let mut holder = Wire::login(pgring.address(), "app");
    for (number, polite, listens) in
        [(1, true, true), (2, true, false), (3, false, true), (4, false, false)]
    {
        holder.query("BEGIN");
        let mut hasty = Wire::login(pgring.address(), "app");
        let mut said = query(&format!("INSERT INTO parted VALUES ({number})"));
        said.extend(query("SELECT 'told'"));
        if polite {
            said.extend(terminate());
        }
        hasty.send(&said);
        hasty.shut();
        let mut listener = listens.then_some(hasty);
        if !polite && let Some(hasty) = &mut listener {
            assert!(hasty.until_end().is_empty());
        }
        std::thread::sleep(Duration::from_millis(100));
        holder.query("COMMIT");
        if polite && let Some(hasty) = &mut listener {
            let tags: Vec<_> = hasty.until_end().iter().map(|message| message.tag).collect();
            assert_eq!(tags, b"CZTDCZ");
        }
        // It stands in the queue behind what is still to be carried out.
        let lasting = format!("SELECT count(*) FROM parted WHERE number = {number}");
        assert_eq!(holder.value(&lasting), u8::from(polite).to_string(), "{number}");
    }
    assert_eq!(pgring.violations(), Some(0));
}

fn cut_everywhere(pgring: &Pgring, dialogues: &[Dialogue], patient: bool) {
    let seed = seed();
    say(&format!("PGRING_SEED={seed}"));
    let limit = amount("PGRING_CUTS", 24);
    let mut dice = Dice::new(seed);
    for dialogue in dialogues {
        for cut in offsets(dialogue, &mut dice, limit) {
            let start = Instant::now();
            play_until(pgring, dialogue, cut, patient);
            let mut next = Wire::login(pgring.address(), "app");
            let what = format!("{} cut at {cut}", dialogue.name);
            if std::env::var_os("PGRING_TRACE").is_some() {
                say(&what);
            }
            assert_eq!(next.value(&format!("SELECT '{cut} served'")), format!("{cut} served"));
            let took = start.elapsed();
            assert!(took < Duration::from_secs(3), "{what}: the next waits for {took:?}");
            let left = held(&mut next);
            assert!(left.is_empty(), "{what}: {left:?}");
            let rows = "SELECT count(*) || ' ' || count(DISTINCT name) FROM items WHERE id < 11";
            assert_eq!(next.value(rows), "10 10", "{what}");
        }
    }
}

fn node() -> Postgres {
    let node = Postgres::start();
    node.psql(corpus::TABLES);
    node
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_dialogue_leaves_a_clean_server() {
    at_most_minutes(10);
    let node = node();
    let pgring = Settings::new(&node).set("pool.size", 1).set("workers", 1).start();
    let all = [corpus::dialogues(), corpus_copy::dialogues(), corpus_statements::dialogues()];
    cut_everywhere(&pgring, &all.concat(), true);
    pgring.wait_until_quiet();
    assert_at_most_one_server(&node);
}

#[test]
fn a_client_that_dies_without_reading_leaves_a_clean_server() {
    at_most_minutes(10);
    let node = node();
    let settings = Settings::new(&node).set("pool.size", 1).set("workers", 2);
    let pgring = settings.set("limits.buffers", 8).start();
    let all = [corpus::dialogues(), corpus_copy::dialogues(), corpus_statements::dialogues()];
    cut_everywhere(&pgring, &all.concat(), false);
    pgring.wait_until_quiet();
    assert_at_most_one_server(&node);
}

fn assert_at_most_one_server(node: &Postgres) {
    let servers = node.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'");
    assert!(["0", "1"].contains(&servers.trim()), "{servers} servers of a pool of one");
}
