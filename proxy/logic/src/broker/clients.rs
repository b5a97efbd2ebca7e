//! Clients over all lanes, counted where a limit per database or user is set.

use crate::config::Config;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who was let in.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_database: BTreeMap<Arc<str>, usize>,
    by_user: BTreeMap<Arc<str>, usize>,
}

impl Clients {
    /// Lets a client in, or says which limit is reached.
    pub(super) fn enter(
        &mut self,
        config: &Config,
        database: &Arc<str>,
        user: &Arc<str>,
    ) -> Option<String> {
        let Some(settings) = config.database(database).map(|database| &database.pool) else {
            return Some(format!("database \"{database}\" does not exist"));
        };
        for (clients, max, what, name) in [
            (&self.by_database, settings.database_clients_max, "database", database),
            (&self.by_user, settings.user_clients_max, "user", user),
        ] {
            if max > 0 && clients.get(name).is_some_and(|clients| *clients >= max) {
                return Some(format!(
                    "{what} \"{name}\" has {max} clients already (max_{what}_clients)"
                ));
            }
        }
        *self.by_database.entry(Arc::clone(database)).or_default() += 1;
        *self.by_user.entry(Arc::clone(user)).or_default() += 1;
        None
    }

    /// A client that was let in has left.
    pub(super) fn left(&mut self, database: &Arc<str>, user: &Arc<str>) {
        leave(&mut self.by_database, database);
        leave(&mut self.by_user, user);
    }
}

fn leave(clients: &mut BTreeMap<Arc<str>, usize>, name: &Arc<str>) {
    if let Some(count) = clients.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            clients.remove(name);
        }
    }
}
