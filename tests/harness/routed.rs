//! A primary and its standbys, with a pgring that sends reads to these.

use crate::command::until;
use crate::message::query;
use crate::pgring::{Pgring, Settings};
use crate::postgres::Postgres;
use crate::wire::Wire;
use std::thread;
use std::time::Duration;

/// How long a standby may take to follow.
pub const SOON: Duration = Duration::from_secs(20);

/// `here()` says on what kind of node it runs, and passes for a function that only reads.
pub const SCENE: &str = "
    CREATE TABLE notes (id int PRIMARY KEY, text text);
    INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 100) n;
    CREATE SEQUENCE counter;
    CREATE FUNCTION here() RETURNS text STABLE LANGUAGE sql AS
        $$ SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END $$;
    CREATE FUNCTION port() RETURNS text STABLE LANGUAGE sql AS
        $$ SELECT current_setting('port') $$;
    CREATE FUNCTION maybe() RETURNS text LANGUAGE sql AS $$ SELECT here() $$;
    CREATE FUNCTION writes() RETURNS text LANGUAGE sql AS
        $$ INSERT INTO notes SELECT max(id) + 1, 'more' FROM notes; SELECT here() $$;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
";

/// Nodes, and a pgring before them.
pub struct Scene {
    /// The node that writes.
    pub primary: Postgres,
    /// Those that follow it.
    pub standbys: Vec<Postgres>,
    /// What routes.
    pub pgring: Pgring,
}

/// With so many standbys.
pub fn scene(standbys: usize, change: impl FnOnce(Settings) -> Settings) -> Scene {
    scene_with(&[], standbys, change)
}

/// The same, with settings for the standbys.
pub fn scene_with(
    standby: &[&str],
    standbys: usize,
    change: impl FnOnce(Settings) -> Settings,
) -> Scene {
    // What was committed is to be on its way at once.
    let primary = Postgres::start_with(&["wal_writer_delay = 10ms"]);
    primary.psql(SCENE);
    let standbys: Vec<_> = (0..standbys).map(|_| primary.start_standby(standby)).collect();
    let addresses = [&primary].into_iter().chain(&standbys).map(|node| node.address().to_string());
    let settings = Settings::new(&primary).nodes(&addresses.collect::<Vec<_>>());
    let settings = settings.set("monitor.user", "guest").set("monitor.interval", "50ms");
    let settings = settings.set("routing.reads", "replicas");
    let pgring = change(settings).start();
    Scene { primary, standbys, pgring }
}

/// Several clients at work at the same time, each with its number, and something beside them again
/// and again until the last has ended; the sum of what they give.
pub fn together(
    clients: usize,
    work: impl Fn(usize) -> usize + Sync,
    mut beside: impl FnMut(),
) -> usize {
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..clients).map(|number| scope.spawn(move || work(number))).collect();
        while all.iter().any(|one| !one.is_finished()) {
            beside();
        }
        all.into_iter().map(|one| one.join().expect("its work is done")).sum()
    })
}

impl Scene {
    /// A standby replays nothing for a while.
    pub fn pause(&self, standby: usize, time: Duration) {
        self.standbys[standby].psql("SELECT pg_wal_replay_pause()");
        thread::sleep(time);
        self.standbys[standby].psql("SELECT pg_wal_replay_resume()");
        thread::sleep(time);
    }

    /// A client whose reads go to a standby.
    pub fn client(&self) -> Wire {
        let mut client = Wire::login(self.pgring.address(), "app");
        until("a read on a standby", SOON, || client.value("SELECT here()") == "standby");
        client
    }
}

/// Says a message, and gives the first value of an answer, or its tag, or its error; and whether a
/// transaction is open behind it.
pub fn told(client: &mut Wire, bytes: &[u8]) -> String {
    client.send(bytes);
    let answers = client.until_ready(1);
    let mut told = String::new();
    for answer in &answers {
        match answer.tag {
            b'D' if told.is_empty() => told = answer.value(),
            b'C' if told.is_empty() => {
                told = String::from_utf8_lossy(&answer.body).replace('\0', "");
            }
            b'E' => told = answer.code(),
            b'Z' => {
                told.push(' ');
                told.push(char::from(answer.body[0]));
            }
            _ => {}
        }
    }
    told
}

/// The same of a Query.
pub fn say(client: &mut Wire, sql: &str) -> String {
    told(client, &query(sql))
}
