//! Nobody sees the answers of another: many clients play random pipelines with errors, cancels
//! and cuts, and each compares every row with the nonce it has sent.

use pgring_tests::command::{at_most_minutes, say};
use pgring_tests::dice::{Dice, amount, seed};
use pgring_tests::message::{cancel, query};
use pgring_tests::pgring::{Pgring, Settings};
use pgring_tests::player::{Batch, Player, TABLES, exchange};
use pgring_tests::postgres::Postgres;
use pgring_tests::watch::{Pulse, watch};
use pgring_tests::wire::{Polled, Wire};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Pool size, workers, receive buffers.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1024),
    (1, 2, 8),
    (2, 4, 8),
    (3, 2, 1024),
    (4, 1, 8),
    (5, 4, 1024),
    (7, 2, 8),
    (8, 4, 1024),
];

#[test]
fn no_client_ever_sees_the_answer_of_another() {
    leaks(amount("PGRING_EXCHANGES", 200_000), false);
}

/// The same where reads run on a standby, which cancels some of them.
#[test]
fn nor_does_it_where_reads_go_to_a_replica() {
    leaks(amount("PGRING_EXCHANGES", 200_000) / 2, true);
}

fn leaks(total: usize, routed: bool) {
    at_most_minutes(10 + u64::try_from(total / 100_000).expect("a number"));
    let seed = seed();
    say(&format!("PGRING_SEED={seed}"));
    let clients = amount("PGRING_CLIENTS", 12);
    let node = Postgres::start_with(&["wal_writer_delay = 10ms"]);
    node.psql(TABLES);
    let standby = routed.then(|| node.start_standby(&["max_standby_streaming_delay = 5ms"]));
    // One of them alone: to look closer at what a run has found.
    let only = std::env::var("PGRING_SHAPE").ok().map(|shape| shape.parse().expect("a number"));
    let chosen = |number: &usize| only.is_none_or(|only: usize| only == *number);
    let shapes = SHAPES.into_iter().enumerate().filter(|(number, _)| chosen(number));
    for (number, (size, workers, buffers)) in shapes {
        let settings = Settings::new(&node).set("pool.size", size).set("workers", workers);
        let mut settings = settings.set("limits.buffers", buffers);
        if let Some(standby) = &standby {
            let nodes = [&node, standby].map(|node| node.address().to_string());
            settings = settings.nodes(&nodes).set("routing.reads", "replicas");
            settings = settings.set("monitor.user", "guest").set("monitor.interval", "50ms");
            // Who has just written reads from the primary unless it waits, and all write all the
            // time.
            let (level, wait) =
                if number % 2 == 0 { ("eventual", "off") } else { ("session", "1s") };
            settings = settings.set("routing.consistency", level);
            settings = settings.set("routing.read_wait_max", wait);
            settings = settings.set("monitor.interval_busy", "5ms");
            let leads = if number / 2 % 2 == 0 { "replicas" } else { "primary" };
            settings = settings.set("routing.leading_reads", leads);
        }
        let settings = settings.set("pool.query_wait_timeout", "60s");
        let pgring = settings.set("pool.prepared_statements", 3 + 50 * (number % 2)).start();
        let shape = format!("pool {size}, workers {workers}, buffers {buffers}, seed {seed}");
        let done = AtomicUsize::new(0);
        let goal = if only.is_some() { total } else { total / SHAPES.len() };
        thread::scope(|scope| {
            let pulse = watch(scope, &pgring, &node);
            for client in 0..clients {
                let (pgring, shape, pulse) = (&pgring, &shape, pulse.clone());
                let dice = Dice::new(seed ^ (number * 1_000 + client) as u64);
                let progress = (&done, goal, pulse);
                let work = move || play(pgring, Player::new(client, dice), &progress, shape);
                scope.spawn(work);
            }
        });
        pgring.wait_until_quiet();
        if standby.is_some() {
            let row = pgring.console().find("SHOW POOLS", "node", "pg2");
            assert!(row.is_some(), "no read ever went to the standby");
        }
    }
}

/// Plays until all players together have made enough exchanges.
fn play(
    pgring: &Pgring,
    mut player: Player,
    (done, goal, pulse): &(&AtomicUsize, usize, Pulse),
    shape: &str,
) {
    let mut story = Story { shape, batches: VecDeque::new(), open: true };
    let mut wire = Wire::login(pgring.address(), "app");
    while done.load(Ordering::Relaxed) < *goal {
        pulse.beat();
        let batch = player.batch();
        done.fetch_add(batch.exchanges, Ordering::Relaxed);
        story.tell(&batch);
        match player.dice().below(60) {
            0 => {
                let cut = player.dice().below(batch.bytes.len());
                wire.send(&batch.bytes[..cut]);
                renew(pgring, &mut wire, &mut player);
            }
            1 => {
                wire.send(&batch.bytes);
                renew(pgring, &mut wire, &mut player);
            }
            2 => {
                exchange(&mut wire, &batch);
                cancel_own(pgring, &mut wire, &mut player);
                renew(pgring, &mut wire, &mut player);
            }
            _ => exchange(&mut wire, &batch),
        }
    }
    story.open = false;
}

fn renew(pgring: &Pgring, wire: &mut Wire, player: &mut Player) {
    *wire = Wire::login(pgring.address(), "app");
    player.reconnected();
}

/// Cancels an own query around its end: the row or 57014 come, and nothing else. Whoever else
/// is told 57014 has been cancelled by a stranger.
fn cancel_own(pgring: &Pgring, wire: &mut Wire, player: &mut Player) {
    let nonce = player.nonce();
    let pause = player.dice().below(20);
    wire.send(&query(&format!("SELECT '{nonce}' FROM pg_sleep(0.0{pause:02})")));
    thread::sleep(Duration::from_millis(player.dice().below(20) as u64));
    Wire::connect(pgring.address()).send(&cancel(wire.pid, &wire.key));
    loop {
        let polled = wire.poll();
        let Polled::Message(message) = polled else {
            panic!("no answer to a cancelled query: {polled:?}")
        };
        match message.tag {
            b'D' => assert_eq!(message.value(), nonce),
            // 25P02: the game stood in a failed transaction.
            b'E' => assert!(["57014", "25P02"].contains(&message.code().as_str()), "{message:?}"),
            b'Z' => return,
            _ => {}
        }
    }
}

/// What a player has sent last: told if it panics.
struct Story<'a> {
    shape: &'a str,
    batches: VecDeque<String>,
    open: bool,
}

impl Story<'_> {
    fn tell(&mut self, batch: &Batch) {
        if self.batches.len() == 6 {
            self.batches.pop_front();
        }
        let text = batch.bytes.escape_ascii().to_string();
        self.batches.push_back(text.chars().take(2_000).collect());
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if self.open {
            let batches: Vec<_> = self.batches.iter().map(String::as_str).collect();
            say(&format!("{}; sent at last:\n{}", self.shape, batches.join("\n")));
        }
    }
}
