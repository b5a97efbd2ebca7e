//! Asks the nodes where they stand.
//!
//! Each node has a connection of the monitor's own, so that no question waits for traffic and no
//! traffic for a question. A node is asked at the interval of the configuration, and more often
//! while reads wait for what was written.

use crate::clock;
use pgring_logic::action::Address;
use pgring_logic::config::{Cluster, Config, Monitor};
use pgring_logic::topology::horizon::Horizon;
use pgring_logic::topology::{Lsn, Role};
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// What a node is, how far its log goes, and on a primary how far it goes with what has not been
/// written yet.
const QUESTION: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
    CASE WHEN pg_catalog.pg_is_in_recovery() \
         THEN COALESCE(pg_catalog.pg_last_wal_replay_lsn(), '0/0') \
         ELSE pg_catalog.pg_current_wal_lsn() END, \
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.pg_current_wal_insert_lsn() END";

/// What was seen of a node.
#[derive(Debug)]
pub(super) struct Seen {
    /// The watch that saw it.
    pub(super) watch: u64,
    pub(super) cluster: Arc<str>,
    pub(super) node: Arc<str>,
    /// Which of its addresses was asked.
    pub(super) address: usize,
    /// What it says; or why it does not answer.
    pub(super) answer: Result<Answer, String>,
}

/// What a node says of itself; see [`pgring_logic::topology::Standing`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) role: Role,
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) asked: pgring_logic::time::Instant,
    pub(super) lost: u64,
}

/// The watch over all nodes; it ends when dropped.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Tells it from those before.
    pub(super) number: u64,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Watch {
    /// Watches the nodes of `config`, at this pace; nothing without a user to ask as.
    pub(super) fn start(
        config: &Config,
        number: u64,
        pace: &watch::Receiver<Duration>,
        out: &UnboundedSender<Seen>,
    ) -> Self {
        if config.monitor.user.is_none() {
            return Self::default();
        }
        let settings = Rc::new(config.monitor.clone());
        let nodes = |cluster: &Arc<Cluster>| {
            let name: Arc<str> = cluster.name.as_str().into();
            let own = |node: &pgring_logic::config::Node| Target {
                watch: number,
                cluster: Arc::clone(&name),
                node: node.name.as_str().into(),
                addresses: node.resolved.clone(),
                settings: Rc::clone(&settings),
                horizon: cluster.horizon.clone(),
            };
            cluster.nodes.iter().map(own).collect::<Vec<_>>()
        };
        let targets = config.clusters.iter().flat_map(nodes);
        let watch =
            |target: Target| tokio::task::spawn_local(target.watch(pace.clone(), out.clone()));
        Self { number, tasks: targets.map(watch).collect() }
    }
}

/// One node to be watched.
struct Target {
    watch: u64,
    cluster: Arc<str>,
    node: Arc<str>,
    addresses: Vec<Address>,
    settings: Rc<Monitor>,
    /// Where commits are looked for that were lost.
    horizon: Horizon,
}

impl Target {
    /// Asks again and again, on a new connection when one is lost. It ends when nobody listens.
    async fn watch(self, mut pace: watch::Receiver<Duration>, out: UnboundedSender<Seen>) {
        loop {
            let since = Instant::now();
            let error = match self.connect().await {
                Ok((address, client)) => self.follow((address, &client), &mut pace, &out).await,
                Err(error) => error,
            };
            if out.send(self.seen(0, Err(error))).is_err() {
                return;
            }
            // Neither a node that refuses at once nor one that ends each session is stormed.
            tokio::time::sleep_until(since + self.settings.interval).await;
        }
    }

    fn seen(&self, address: usize, answer: Result<Answer, String>) -> Seen {
        let (cluster, node) = (Arc::clone(&self.cluster), Arc::clone(&self.node));
        Seen { watch: self.watch, cluster, node, address, answer }
    }

    /// Asks on this connection until it fails; why it did.
    async fn follow(
        &self,
        (address, client): (usize, &Client),
        pace: &mut watch::Receiver<Duration>,
        out: &UnboundedSender<Seen>,
    ) -> String {
        loop {
            let asked = Instant::now();
            // What was told before this lies before the end that the primary tells.
            let (lost, begun) = (self.horizon.lost(), clock::now());
            let asks = async { ask(client).await.map(|it| Answer { asked: begun, lost, ..it }) };
            match timeout(self.settings.timeout, asks).await {
                Ok(Ok(answer)) if out.send(self.seen(address, Ok(answer))).is_ok() => {}
                Ok(Ok(_)) => return "nobody listens".to_owned(),
                Ok(Err(error)) => return error,
                Err(_) => return format!("no answer within {:?}", self.settings.timeout),
            }
            // A quicker pace counts at once.
            loop {
                let next = asked + *pace.borrow_and_update();
                match timeout_at(next, pace.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return "the process ends".to_owned(),
                    Err(_) => break,
                }
            }
        }
    }

    async fn connect(&self) -> Result<(usize, Client), String> {
        let mut last = "its name has no address".to_owned();
        let database = &self.settings.database;
        for (number, address) in self.addresses.iter().enumerate() {
            match timeout(self.settings.timeout, open(address, &self.settings, database)).await {
                Ok(Ok(client)) => return Ok((number, client)),
                Ok(Err(error)) => last = error,
                Err(_) => last = format!("no login within {:?}", self.settings.timeout),
            }
        }
        Err(last)
    }
}

/// Logs in to a database at an address.
pub(super) async fn open(
    address: &Address,
    settings: &Monitor,
    database: &str,
) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config.user(settings.user.as_deref().unwrap_or_default());
    config.dbname(database).application_name("pgring monitor");
    if let Some(password) = &settings.password {
        config.password(&password.0);
    }
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(say)?;
            stream.set_nodelay(true).map_err(say)?;
            login(&config, stream).await
        }
        Address::Unix(path) => login(&config, UnixStream::connect(path).await.map_err(say)?).await,
    }
}

async fn login<S>(config: &tokio_postgres::Config, stream: S) -> Result<Client, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(told)?;
    // It ends with the client; what goes wrong there is the answer to a question.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(client)
}

/// Asks a node what it is.
async fn ask(client: &Client) -> Result<Answer, String> {
    let answers = client.simple_query(QUESTION).await.map_err(told)?;
    let row = answers.iter().find_map(|answer| {
        let SimpleQueryMessage::Row(row) = answer else { return None };
        Some((row.get(0)?, row.get(1)?, row.get(2)))
    });
    let (recovery, lsn, end) = row.ok_or("an answer without a row")?;
    let role = if recovery == "t" { Role::Standby } else { Role::Primary };
    let place = |lsn: &str| lsn.parse::<Lsn>().map_err(|_| format!("{lsn:?} is no place in a log"));
    let end = end.map(place).transpose()?.map(Lsn::end_of_record).unwrap_or_default();
    Ok(Answer { role, lsn: place(lsn)?, end, ..Answer::default() })
}

fn say(error: impl Display) -> String {
    error.to_string()
}

/// In the server's words, if they are its own.
#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
pub(super) fn told(error: tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |own| own.message().to_owned())
}
