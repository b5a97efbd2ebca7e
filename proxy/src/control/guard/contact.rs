//! The sessions by which a failover machine acts on the nodes.
//!
//! Each node has two: one for what is asked again and again or must be quick, and one for what may
//! take long. They are open before they are needed. What is given to one is done in that order; one
//! that fails is closed, and with it goes whatever was still waiting in it.

use crate::control::acts::carry_out;
use crate::control::checks::open_session;
use crate::dialer::Dialer;
use pgring_logic::action::Address;
use pgring_logic::config::{Cluster, Config, Monitor};
use pgring_logic::failover::act::{Act, Done};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

/// How long a connection with its login may take.
const OPEN_MAX: Duration = Duration::from_secs(1);
/// How long an answer may take that takes no time.
const QUICK: Duration = Duration::from_secs(2);
/// Standbys stop to receive within this.
const FREEZE: Duration = Duration::from_secs(6);
/// A commit that waits for standbys.
const CANARY: Duration = Duration::from_secs(5);
/// Much of what is in memory may have to go to a slow disk.
const CHECKPOINT: Duration = Duration::from_secs(300);
/// The server ends the wait for a promotion; this is for who does not answer.
const BEYOND: Duration = Duration::from_secs(2);

/// What came of an act, and its number.
pub(super) type Tell = Rc<dyn Fn(u64, Done)>;

/// The sessions to all nodes of a cluster.
#[derive(Debug)]
pub(super) struct Contacts {
    nodes: Vec<[Line; 2]>,
}

/// One session, and what is to be done on it.
#[derive(Debug)]
struct Line {
    orders: UnboundedSender<(u64, Act)>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a session leads.
struct Place {
    addresses: Vec<Address>,
    settings: Monitor,
    dialer: Rc<Dialer>,
}

impl Contacts {
    /// None is open yet.
    pub(super) fn new(
        config: &Config,
        cluster: &Cluster,
        dialer: &Rc<Dialer>,
        tell: &Tell,
    ) -> Self {
        let mut settings = config.monitor.clone();
        if let Some(failover) = &cluster.failover
            && let Some(user) = &failover.user
        {
            settings.user = Some(user.clone());
            settings.password.clone_from(&failover.password);
        }
        let line = |addresses: &Vec<Address>| {
            let (orders, list) = unbounded_channel();
            let place = Place {
                addresses: addresses.clone(),
                settings: settings.clone(),
                dialer: Rc::clone(dialer),
            };
            let task = tokio::task::spawn_local(serve(place, list, Rc::clone(tell)));
            Line { orders, task }
        };
        let nodes = cluster.nodes.iter();
        Self { nodes: nodes.map(|it| [line(&it.resolved), line(&it.resolved)]).collect() }
    }

    /// Does something to a node.
    pub(super) fn ask(&self, node: usize, number: u64, act: Act) {
        let Some(lines) = self.nodes.get(node) else { return };
        let line = &lines[usize::from(takes_long(&act))];
        // It ends with this value only.
        let _open = line.orders.send((number, act));
    }
}

/// Whether others do not wait for it.
const fn takes_long(act: &Act) -> bool {
    match act {
        Act::Canary | Act::Checkpoint | Act::Promote(_) => true,
        Act::Look
        | Act::Freeze
        | Act::Follow { .. }
        | Act::Prepare(_)
        | Act::Slots(_)
        | Act::Advance(_)
        | Act::Sync(_)
        | Act::Kick
        | Act::Unkick
        | Act::Command(_) => false,
    }
}

/// How long an act may take.
fn limit(act: &Act) -> Duration {
    match act {
        Act::Freeze => FREEZE,
        Act::Canary => CANARY,
        Act::Checkpoint => CHECKPOINT,
        Act::Promote(time) => *time + BEYOND,
        Act::Look
        | Act::Follow { .. }
        | Act::Prepare(_)
        | Act::Slots(_)
        | Act::Advance(_)
        | Act::Sync(_)
        | Act::Kick
        | Act::Unkick
        | Act::Command(_) => QUICK,
    }
}

async fn serve(place: Place, mut list: UnboundedReceiver<(u64, Act)>, tell: Tell) {
    let mut session: Option<Client> = None;
    while let Some((number, act)) = list.recv().await {
        if session.as_ref().is_none_or(Client::is_closed) {
            session = match timeout(OPEN_MAX, place.open()).await {
                Ok(Ok(client)) => Some(client),
                Ok(Err(reason)) => {
                    tell(number, Done::Failed { unknown: false, reason });
                    continue;
                }
                Err(_late) => {
                    let reason = format!("no session within {OPEN_MAX:?}");
                    tell(number, Done::Failed { unknown: false, reason });
                    continue;
                }
            };
        }
        let Some(client) = &session else { continue };
        let limit = limit(&act);
        let done = timeout(limit, carry_out(client, &act)).await.unwrap_or_else(|_late| {
            Done::Failed { unknown: true, reason: format!("no answer within {limit:?}") }
        });
        if let Done::Failed { unknown: true, .. } = done {
            // What is still on its way there is not waited for, and nothing follows it.
            session = None;
        }
        tell(number, done);
    }
}

impl Place {
    async fn open(&self) -> Result<Client, String> {
        let mut why = "its name has no address".to_owned();
        for address in &self.addresses {
            let database = &self.settings.database;
            match open_session(address, &self.dialer, &self.settings, (database, NAME)).await {
                Ok(client) => return Ok(client),
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

/// What PostgreSQL calls these sessions.
const NAME: &str = "pgring failover";
