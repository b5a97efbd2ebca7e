//! The control thread of the simulation: the budget of servers, console orders, reloads.

use crate::link::MS;
use crate::plan::Plan;
use crate::world::{Happening, World};
use pgring_logic::broker::Broker;
use pgring_logic::config::{Config, Database};
use pgring_logic::id::{Core, PoolKey};
use pgring_logic::mail::{Event, Mail, Order, Report};
use pgring_wire::auth::scram::salted_password;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The control thread.
pub(crate) struct Control {
    pub(crate) config: Arc<Config>,
    pub(crate) broker: Broker,
    number: u64,
    /// Orders on their way: how many lanes have not said that they are done.
    pub(crate) pending: BTreeMap<u64, usize>,
    pub(crate) paused: bool,
    /// The last database is not in the configuration now.
    pub(crate) absent: bool,
    size: usize,
    /// The answers to the last question.
    pub(crate) reports: Vec<Report>,
    asked: u64,
}

impl Control {
    /// A control thread of so many lanes.
    pub(crate) fn new(config: &Arc<Config>, lanes: usize) -> Self {
        Self {
            config: Arc::clone(config),
            broker: Broker::new(Arc::clone(config), lanes),
            number: 0,
            pending: BTreeMap::new(),
            paused: false,
            absent: false,
            size: config.pool.size,
            reports: Vec::new(),
            asked: 0,
        }
    }
}

impl World {
    fn letter(&mut self, core: usize, mail: Mail) {
        self.post(usize::MAX, core, Happening::Lane(core, Event::Mail(mail)));
    }

    fn letters(&mut self, letters: Vec<(Core, Mail)>) {
        for (core, mail) in letters {
            self.letter(usize::from(core.0), mail);
        }
    }

    /// Permits of a pool that are out.
    pub(crate) fn permits(&self, pool: &PoolKey) -> usize {
        let view = self.control.broker.pools().find(|view| view.pool == pool);
        view.map_or(0, |view| view.held as usize)
    }

    /// A letter reaches the control thread.
    pub(crate) fn control_hears(&mut self, mail: Mail) {
        self.say(|| format!("control hears {mail:?}"));
        match mail {
            Mail::Report(report) => {
                if report.number == self.control.asked {
                    self.control.reports.push(*report);
                }
            }
            Mail::Done { core, number, error } => {
                // A pause that RESUME overtakes says so; nothing else may fail.
                if let Some(error) = error.filter(|error| !error.starts_with("resumed")) {
                    self.violate(format!("lane {core:?} fails an order: {error}"));
                }
                match self.control.pending.get_mut(&number) {
                    Some(left) if *left > 0 => *left -= 1,
                    _ => self.violate(format!("order {number} is done by more lanes than asked")),
                }
                if self.control.pending.get(&number) == Some(&0) {
                    self.control.pending.remove(&number);
                }
            }
            Mail::Derive { core, conn, password, salt, iterations } => {
                let core = usize::from(core.0);
                let salted = salted_password(password.0.as_bytes(), &salt, iterations);
                self.letter(core, Mail::Derived { conn, salted });
            }
            Mail::Console { core, conn, .. } => {
                self.letter(usize::from(core.0), Mail::Answer { conn, bytes: Vec::new() });
            }
            Mail::Want { database, .. } => self.tell_catalog(&database),
            Mail::Behind => {}
            other => {
                let now = self.instant();
                let mut letters = Vec::new();
                self.control.broker.handle(now, &other, &mut letters);
                self.letters(letters);
            }
        }
    }

    /// The control thread's turn.
    pub(crate) fn control_turn(&mut self) {
        let now = self.instant();
        let mut letters = Vec::new();
        self.control.broker.tick(now, &mut letters);
        self.letters(letters);
        self.look_at_waits();
        self.at(self.now + 200 * MS, Happening::ControlTurn);
    }

    /// Gives an order to all lanes.
    pub(crate) fn order(&mut self, order: &Order) {
        self.control.number += 1;
        let number = self.control.number;
        self.say(|| format!("order {number}: {order:?}"));
        self.control.pending.insert(number, self.plan.lanes);
        for core in 0..self.plan.lanes {
            self.letter(core, Mail::Order { number, order: order.clone() });
        }
    }

    /// Asks all lanes for a report.
    pub(crate) fn ask(&mut self) {
        self.control.number += 1;
        self.control.asked = self.control.number;
        self.control.reports.clear();
        for core in 0..self.plan.lanes {
            self.letter(core, Mail::Ask(self.control.asked));
        }
    }

    /// Another pool size for everybody.
    pub(crate) fn reload(&mut self, size: usize) {
        self.control.size = size;
        self.oracle_resized(size);
        self.configure();
    }

    /// The last database leaves the configuration, or comes back.
    pub(crate) fn move_database(&mut self) {
        self.control.absent = !self.control.absent;
        self.configure();
    }

    fn configure(&mut self) {
        let (size, absent) = (self.control.size, self.control.absent);
        self.say(|| format!("reload: pool size {size}, last database absent: {absent}"));
        let mut config = (*self.plan.config()).clone();
        config.pool.size = size;
        if absent {
            config.databases.pop();
        }
        let resized = config.databases.iter().map(|database| {
            let mut database = Database::clone(database);
            database.pool.size = size;
            Arc::new(database)
        });
        config.databases = resized.collect();
        let config = Arc::new(config);
        self.control.config = Arc::clone(&config);
        let mut letters = Vec::new();
        self.control.broker.configure(Arc::clone(&config), &mut letters);
        for core in 0..self.plan.lanes {
            self.letter(core, Mail::Config(Arc::clone(&config)));
        }
        self.letters(letters);
    }

    /// The databases of this story.
    pub(crate) fn some_database(&mut self) -> Option<String> {
        if self.dice.chance(50) {
            return None;
        }
        let number = self.dice.place(self.plan.databases);
        Some(Plan::database(number))
    }
}
