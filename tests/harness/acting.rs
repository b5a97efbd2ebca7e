//! Acts of a failover on a real node, by the role of `config/failover.sql`.

use crate::command::run;
use crate::postgres::{Postgres, program};
use pgring::control::acts::carry_out;
use pgring_logic::conninfo::Conninfo;
use pgring_logic::failover::act::{Act, Done, View};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls};

/// The role that acts.
pub const ROLE: &str = "failover";
/// What takes longer has failed.
pub const SOON: Duration = Duration::from_secs(10);

/// Has pgring's own script make the role, twice, as somebody might.
pub fn make_role(primary: &Postgres) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/failover.sql");
    for _ in 0..2 {
        let mut command = Command::new(program("psql"));
        command.env("PGOPTIONS", "-c default_transaction_read_only=off");
        command.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"]);
        command.args(["-p", &primary.port().to_string(), "-v", &format!("role={ROLE}"), "-f"]);
        run(command.arg(&script), SOON).expect_success("failover.sql");
    }
}

/// A node with a session of the role on it.
#[derive(Debug)]
pub struct Node<'a> {
    /// The node.
    pub postgres: &'a Postgres,
    /// As its primary knows it.
    pub name: &'static str,
    runtime: Runtime,
    client: Client,
}

impl<'a> Node<'a> {
    /// Logs in, to the database `postgres`.
    pub fn new(postgres: &'a Postgres, name: &'static str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut config = Config::new();
        config.host("127.0.0.1").port(postgres.port()).user(ROLE).dbname("postgres");
        let client = runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await.expect("a session");
            tokio::spawn(connection);
            client
        });
        Self { postgres, name, runtime, client }
    }

    /// Does it.
    pub fn act(&self, act: &Act) -> Done {
        self.runtime.block_on(carry_out(&self.client, act))
    }

    /// Does it, and says how long that took.
    #[track_caller]
    pub fn well(&self, act: &Act) -> Duration {
        let begun = Instant::now();
        assert_eq!(self.act(act), Done::Well, "{}: {act:?}", self.name);
        begun.elapsed()
    }

    /// How it is.
    #[track_caller]
    pub fn look(&self) -> View {
        let done = self.act(&Act::Look);
        let Done::Seen(view) = done else { panic!("{}: {done:?}", self.name) };
        *view
    }

    /// Freezes it; how it is, and how long that took.
    #[track_caller]
    pub fn freeze(&self) -> (View, Duration) {
        let begun = Instant::now();
        let done = self.act(&Act::Freeze);
        let took = begun.elapsed();
        let Done::Seen(view) = done else { panic!("{}: {done:?}", self.name) };
        assert_eq!((&*view.conninfo, &view.receiver), ("", &None));
        (*view, took)
    }

    /// Why it cannot be done; known for certain.
    #[track_caller]
    pub fn refuses(&self, act: &Act) -> String {
        let done = self.act(act);
        let Done::Failed { unknown: false, reason } = done else { panic!("{act:?}: {done:?}") };
        reason
    }

    /// Looks until something holds.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn(&View) -> bool) -> (View, Duration) {
        let begun = Instant::now();
        loop {
            let view = self.look();
            if holds(&view) {
                return (view, begun.elapsed());
            }
            assert!(begun.elapsed() < SOON, "{}: {what}: {view:?}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The timeline by the replication protocol, which is right always.
    pub fn identified(&self) -> u32 {
        let mut command = Command::new(program("psql"));
        let port = self.postgres.port();
        let to = format!("host=127.0.0.1 port={port} user={ROLE} replication=1");
        command.args(["-X", "-A", "-t", "-d", &to, "-c", "IDENTIFY_SYSTEM"]);
        let row = run(&mut command, SOON).expect_success("IDENTIFY_SYSTEM");
        row.split('|').nth(1).expect("a timeline").parse().expect("a number")
    }

    /// What makes this node follow another.
    pub fn follow(&self, from: &View, primary: &Node<'_>, slot: &str) -> Act {
        let old = if from.conninfo.is_empty() { "user=postgres" } else { &from.conninfo };
        let old = Conninfo::parse(old).expect("as pg_basebackup wrote it");
        let conninfo = old.towards("127.0.0.1", primary.postgres.port(), self.name).to_string();
        Act::Follow { conninfo, slot: slot.to_owned() }
    }
}
