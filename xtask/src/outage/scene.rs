//! The scene of the outage rig: pgring in the middle of the ground.

use super::Durability;
use super::config::{self, Hooks};
use super::ground::{Ground, Spot, itself};
use super::topology::{Chapter, Topology, history};
use super::writer::Guests;
use crate::place::{self, Workplace};
use crate::pooler::{self, Launch, Pooler};
use crate::postgres::{Login, Node};
use crate::process::Outcome;
use crate::rig::console::Console;
use crate::rig::event::Table;
use crate::rig::family;
use crate::rig::scene::{CAPABILITIES, CLIENTS, PORT, REPLICAS, USER, client};
use nix::sys::signal::Signal;
use std::cell::RefCell;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the console may take to answer what it only has to look up.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that runs. What is first ends first.
#[derive(Debug)]
pub(super) struct Scene<'place> {
    console: RefCell<Option<Console>>,
    pooler: RefCell<Option<Pooler>>,
    ground: Ground,
    place: &'place Workplace,
    program: PathBuf,
    config: PathBuf,
    /// Where pgring keeps its record.
    pub(super) state: PathBuf,
    /// What pgring promises of acknowledged writes.
    pub(super) durability: Durability,
}

impl Deref for Scene<'_> {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl<'place> Scene<'place> {
    /// Builds the scene. Whether all are well shows when it settles.
    pub(super) fn set(
        place: &'place Workplace,
        program: &Path,
        durability: Durability,
        fence: bool,
    ) -> Outcome<Self> {
        let ground = Ground::lay(place)?;
        let state = place.path.join("state.json");
        place::remove_file(&state)?;
        let own = itself(place)?;
        let ways = Hooks { program: &own, socket: &ground.socket, nodes: &place.path, fence };
        let nodes: Vec<&Node> = ground.spots.iter().map(|spot| &spot.node).collect();
        let text = config::pgring(&nodes, durability, &state, &ways);
        let config = place.write("pgring.toml", &text)?;
        let program = pooler::reachable(place, program)?;
        let (console, pooler) = (RefCell::default(), RefCell::default());
        let scene = Self { console, pooler, ground, place, program, config, state, durability };
        scene.start_pgring()?;
        println!("started   n1, n2, n3 and pgring, {}", durability.words());
        Ok(scene)
    }

    /// Who the clients are, and where they find pgring.
    #[expect(clippy::unused_self, reason = "they are those of this scene, wherever that is")]
    pub(super) fn guests(&self) -> Guests {
        let address = (CLIENTS.0, PORT).into();
        let idle = "SELECT pg_is_in_recovery()";
        Guests { address, writer: (USER, USER), reader: (USER, REPLICAS), idle }
    }

    /// Whether pgring may change the primary.
    pub(super) fn has_failover(&self) -> bool {
        self.durability != Durability::None
    }

    /// Who is the primary: pgring's word, or without failover the nodes' own.
    pub(super) fn primary(&self) -> Outcome<&Spot> {
        if self.has_failover() {
            let topology = self.topology()?.ok_or("the console does not answer")?;
            return self.spot(&topology.primary);
        }
        for spot in &self.spots {
            if spot.ask(&self.site, "SELECT pg_is_in_recovery()").is_ok_and(|it| it == "f") {
                return Ok(spot);
            }
        }
        Err("no node is a primary".to_owned())
    }

    /// Asks the console; none if there is no answer in time.
    pub(super) fn ask(&self, sql: &str, patience: Duration) -> Outcome<Option<Table>> {
        self.with_console(|console| console.ask(sql, patience))
    }

    /// What keeps the nodes from being well, as pgring's monitor has it.
    pub(super) fn complaint(&self) -> Outcome<Option<String>> {
        self.with_console(|console| console.complaint(self.spots.len(), PATIENCE))
    }

    fn with_console<T>(&self, act: impl FnOnce(&mut Console) -> Outcome<T>) -> Outcome<T> {
        let mut slot = self.console.borrow_mut();
        if slot.is_none() {
            let login = Login { host: Ipv4Addr::LOCALHOST, ..client("pgring") };
            let site = &self.site;
            *slot = Some(self.center.within(|| Console::enter(site, &login))?);
        }
        let console = slot.as_mut().ok_or("there is no console")?;
        let answer = act(console);
        if answer.as_ref().is_err_and(|error| error.contains("has ended")) {
            // The next question finds a new one.
            *slot = None;
        }
        answer
    }

    /// What pgring has decided; none if it does not say so in time.
    pub(super) fn topology(&self) -> Outcome<Option<Topology>> {
        Ok(self.ask("SHOW TOPOLOGY", PATIENCE)?.as_ref().map(Topology::parse))
    }

    /// How the primary has changed since this epoch.
    pub(super) fn history(&self, since: u64) -> Outcome<Vec<Chapter>> {
        let table = self.ask("SHOW HISTORY", PATIENCE)?;
        let table = table.ok_or("the console does not answer")?;
        Ok(history(&table, since))
    }

    /// An error if pgring has ended by itself.
    pub(super) fn check_alive(&self) -> Outcome<()> {
        self.pooler.borrow_mut().as_mut().map_or(Ok(()), Pooler::check_alive)
    }

    /// The end of pgring's log.
    pub(super) fn said(&self) -> String {
        self.pooler.borrow().as_ref().map(Pooler::said).unwrap_or_default()
    }

    /// Starts pgring.
    pub(super) fn start_pgring(&self) -> Outcome<()> {
        let Self { place, program, config, .. } = self;
        let mut command = place.account.command_with(&CAPABILITIES, program, &place.path);
        command.arg("--config").arg(config);
        let end = Signal::SIGQUIT;
        let launch = Launch { name: "pgring", command, mark: config, port: PORT, end };
        let pooler = self.center.within(|| Pooler::launch(place, launch))?;
        *self.pooler.borrow_mut() = Some(pooler);
        Ok(())
    }

    /// Kills pgring. Its log is kept beside that of the next.
    pub(super) fn kill_pgring(&self) -> Outcome<()> {
        *self.console.borrow_mut() = None;
        let Some(pooler) = self.pooler.borrow_mut().take() else { return Ok(()) };
        let pid = i32::try_from(pooler.process()).map_err(|error| error.to_string())?;
        family::send(pid, Signal::SIGKILL)?;
        // Waits for the end.
        drop(pooler);
        let log = self.place.path.join("pgring.log");
        fs::rename(&log, log.with_extension("log.killed")).map_err(|error| error.to_string())
    }
}
