//! What names mean, database by database: read when the first client comes, again when a statement
//! has changed something, and every minute.

use crate::control::Control;
use crate::control::catalog::load;
use crate::control::checks::{open, told};
use pgring_logic::action::Address;
use pgring_logic::admin::encode::Failure;
use pgring_logic::admin::route;
use pgring_logic::admin::show::Cell;
use pgring_logic::catalog::rows::Rows;
use pgring_logic::catalog::{Catalog, Lists};
use pgring_logic::config::{Config, Reads};
use pgring_logic::id::Core;
use pgring_logic::mail::{Mail, Report};
use pgring_logic::topology::Role;
use pgring_wire::backend::sqlstate;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// How often what was read is read again, for changes that did not come through pgring.
pub(super) const PERIOD: Duration = Duration::from_secs(60);
/// A database whose names keep changing is not read more often than this.
const PAUSE: Duration = Duration::from_secs(1);
/// How often in a row reading may fail.
const TRIES_MAX: u32 = 8;
/// How long reading may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What a catalog is made of.
#[derive(Debug, Eq, PartialEq)]
struct Read {
    rows: Rows,
    lists: Lists,
}

/// What was read of one database.
#[derive(Debug, Default)]
pub(super) struct Edition {
    catalog: Option<Arc<Catalog>>,
    /// What the last one was made of.
    rows: Option<Arc<Read>>,
    /// It is being read.
    reading: bool,
    /// Something has changed since that began.
    changed: bool,
    /// Why it cannot be read.
    error: Option<String>,
}

impl Control {
    /// A lane needs to know what names mean in a database, or says that they have changed.
    pub(super) fn want(self: &Rc<Self>, core: Core, database: Arc<str>, changed: bool) {
        let mut state = self.state.borrow_mut();
        let edition = state.catalogs.entry(Arc::clone(&database)).or_default();
        if changed {
            edition.catalog = None;
            edition.changed = true;
        }
        let known = edition.catalog.clone();
        let begin = known.is_none() && !std::mem::replace(&mut edition.reading, true);
        drop(state);
        if changed {
            // To the one that says so as well: an older edition may have come in between.
            for core in self.cores() {
                let database = Arc::clone(&database);
                self.post(core, Mail::Catalog { database, catalog: None });
            }
        } else if known.is_some() {
            let database = Arc::clone(&database);
            self.post(core, Mail::Catalog { database, catalog: known });
        }
        if begin {
            tokio::task::spawn_local(Rc::clone(self).read(database));
        }
    }

    /// Where a statement goes, and why.
    pub(super) fn explain(
        &self,
        database: Option<&str>,
        sql: &str,
    ) -> Result<Vec<Vec<Cell>>, Failure> {
        let state = self.state.borrow();
        let mut known = state.catalogs.keys();
        let only = known.next().filter(|_| known.next().is_none()).map(|name| &**name);
        let Some(name) = database.or(only) else {
            let message = "there is more than one database it could be in, or none";
            let hint = Some("Say EXPLAIN ROUTE IN database statement.");
            return Err(Failure { hint, ..Failure::new(sqlstate::SYNTAX_ERROR, message) });
        };
        let catalog = state.catalogs.get(name).and_then(|edition| edition.catalog.as_deref());
        Ok(route::explain(sql, reads_of(&state.config, name), catalog))
    }

    /// Where the statements went that came most often.
    pub(super) fn routes(&self, reports: &[Report]) -> Vec<Vec<Cell>> {
        let state = self.state.borrow();
        route::top(reports, |name| {
            let edition = state.catalogs.get(name);
            let catalog = edition.and_then(|edition| edition.catalog.as_deref());
            (reads_of(&state.config, name), catalog)
        })
    }

    /// Reads everything again that was read before.
    pub(super) fn read_again(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let idle = state.catalogs.iter_mut().filter(|(_, edition)| !edition.reading);
        let databases: Vec<Arc<str>> = idle
            .map(|(database, edition)| {
                edition.reading = true;
                Arc::clone(database)
            })
            .collect();
        drop(state);
        for database in databases {
            tokio::task::spawn_local(Rc::clone(self).read(database));
        }
    }

    /// Reads a database until what was read holds.
    async fn read(self: Rc<Self>, database: Arc<str>) {
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            let begun = Instant::now();
            if let Some(edition) = self.state.borrow_mut().catalogs.get_mut(&database) {
                edition.changed = false;
            }
            let config = Arc::clone(&self.state.borrow().config);
            if !is_routed(&config, &database) {
                self.state.borrow_mut().catalogs.remove(&database);
                return;
            }
            let result = self.read_once(&config, &database).await;
            // What fails once a second is no help to a server in need.
            pause = if result.is_err() { PERIOD.min(2 * pause) } else { PAUSE };
            tries = if result.is_err() { tries + 1 } else { 0 };
            if tries >= TRIES_MAX && self.give_up(&database) {
                return;
            }
            if self.read_done(&database, result) {
                return;
            }
            sleep_until(begun + pause).await;
        }
    }

    /// A database that was never read: perhaps there is none, and its next client has another look.
    /// Of one that was, the clients that are there wait for its catalog.
    fn give_up(&self, database: &Arc<str>) -> bool {
        let mut state = self.state.borrow_mut();
        let read = state.catalogs.get(database).is_some_and(|edition| edition.rows.is_some());
        if !read {
            state.catalogs.remove(database);
        }
        !read
    }

    /// Takes in what was read. Tells whether that was all.
    fn read_done(
        &self,
        database: &Arc<str>,
        result: Result<(Arc<Read>, Arc<Catalog>), String>,
    ) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(edition) = state.catalogs.get_mut(database) else { return true };
        let (rows, catalog) = match result {
            Ok(read) => read,
            Err(error) => {
                if edition.error.as_ref() != Some(&error) {
                    let database = &**database;
                    tracing::warn!(database, error, "no reads to replicas: the catalog is unknown");
                }
                edition.error = Some(error);
                return false;
            }
        };
        edition.error = None;
        if edition.changed {
            return false;
        }
        edition.reading = false;
        edition.rows = Some(rows);
        let same = edition.catalog.replace(Arc::clone(&catalog));
        drop(state);
        if same.is_some_and(|before| Arc::ptr_eq(&before, &catalog)) {
            return true;
        }
        for core in self.cores() {
            let (database, catalog) = (Arc::clone(database), Some(Arc::clone(&catalog)));
            self.post(core, Mail::Catalog { database, catalog });
        }
        true
    }

    /// Reads a database. What has not changed is the catalog of before.
    async fn read_once(
        &self,
        config: &Config,
        name: &str,
    ) -> Result<(Arc<Read>, Arc<Catalog>), String> {
        let database = config.database(name).ok_or("it is not in the configuration")?;
        let cluster = &database.cluster.name;
        let address = self.primary(cluster).await?;
        let dbname = database.dbname.as_deref().unwrap_or(name);
        // One database after the other, for the sake of the primary. It is never closed.
        let _turn = self.readings.acquire().await;
        let read = async {
            let client = open(&address, &self.dialer, &config.monitor, dbname).await?;
            load(&client).await.map_err(|why| told(&why))
        };
        let late = |_| format!("not read within {LIMIT:?}");
        let rows = timeout(LIMIT, read).await.map_err(late)??;
        let lists = Lists {
            reads: database.routing.functions_read.clone(),
            writes: database.routing.functions_write.clone(),
        };
        let read = Arc::new(Read { rows, lists });
        if let Some(known) = self.known(name, &read) {
            return Ok(known);
        }
        // Views are parsed: in a large database that takes its time.
        let (edition, material) = (self.next_edition(), Arc::clone(&read));
        let work = move || Catalog::new(edition, &material.rows, &material.lists);
        let catalog = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        Ok((read, Arc::new(catalog)))
    }

    /// The catalog that was made of the same, if that was the last.
    fn known(&self, database: &str, read: &Read) -> Option<(Arc<Read>, Arc<Catalog>)> {
        let state = self.state.borrow();
        let edition = state.catalogs.get(database)?;
        let rows = edition.rows.as_ref().filter(|rows| ***rows == *read)?;
        Some((Arc::clone(rows), edition.catalog.clone()?))
    }

    fn next_edition(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.edition += 1;
        state.edition
    }

    /// Where the primary of a cluster is, once the monitor has found it.
    async fn primary(&self, cluster: &str) -> Result<Address, String> {
        loop {
            let sighted = self.sighted.notified();
            if let Some(address) = self.known_primary(cluster) {
                return Ok(address);
            }
            if timeout(LIMIT, sighted).await.is_err() {
                return Err("no primary has been found".to_owned());
            }
        }
    }

    fn known_primary(&self, cluster: &str) -> Option<Address> {
        let state = self.state.borrow();
        let standings = state.topology.clusters.get(cluster)?;
        let mut primaries = standings.iter().filter(|(_, it)| it.role == Role::Primary);
        let (name, _) = primaries.next()?;
        let cluster = state.config.clusters.iter().find(|it| it.name == cluster)?;
        let node = cluster.nodes.iter().find(|node| node.name == **name)?;
        node.resolved.first().cloned()
    }
}

/// While reads of a database stay on the primary nobody tells what changes there: what was read
/// before is read again when that ends.
pub(super) fn forget_unrouted(editions: &mut BTreeMap<Arc<str>, Edition>, config: &Config) {
    for (_, edition) in editions.iter_mut().filter(|(name, _)| !is_routed(config, name)) {
        edition.catalog = None;
        edition.changed = true;
    }
}

/// Where reads of a database go.
fn reads_of(config: &Config, database: &str) -> Reads {
    config.database(database).map_or(Reads::Primary, |found| found.routing.reads)
}

/// Whether reads of a database may leave the primary.
fn is_routed(config: &Config, database: &str) -> bool {
    reads_of(config, database).leave()
}
