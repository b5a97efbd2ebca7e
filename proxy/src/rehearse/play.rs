//! What is done in each case, and what must hold in it.

use crate::control::hooks::{self, Told};
use crate::rehearse::link::{Login, Row, Session};
use crate::rehearse::score::{Findings, judge};
use crate::rehearse::view::View;
use crate::rehearse::writer::{Clients, Shared, TABLE};
use crate::rehearse::{Case, say};
use pgring_logic::config::{Cluster, Durability, Failover};
use pgring_logic::failover::act::{Done, Hook};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long clients write before anything happens.
const LEAD: Duration = Duration::from_millis(1500);
/// How long it may take until writes flow again.
const RETURN_MAX: Duration = Duration::from_secs(60);
/// Acknowledgements that come at least so often flow; they must do so for this time.
const FLOW: Duration = Duration::from_millis(250);
const FLOW_MIN: Duration = Duration::from_secs(1);
/// How long nothing may happen while failover is paused.
const PAUSED: Duration = Duration::from_secs(5);
/// How long the cluster may take to be whole again.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// How long a look may take, and a command that takes no time.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How long a command may take that changes the primary, or a node.
const COMMAND_MAX: Duration = Duration::from_secs(180);

/// What a rehearsal is played on.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) console: Session,
    pub(super) shared: Rc<Shared>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) failover: Arc<Failover>,
    /// Failover has been paused here, and is to be resumed.
    pub(super) paused: Cell<bool>,
    /// Whether anything was not as it must be.
    pub(super) failed: Cell<bool>,
}

/// What happens to the primary.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Deed {
    Switchover(String),
    Crash,
    Paused,
}

impl Stage {
    /// Enters the console.
    pub(super) async fn set(
        shared: Shared,
        door: &crate::rehearse::link::Door,
        console: &Login,
        cluster: Arc<Cluster>,
        failover: Arc<Failover>,
    ) -> Result<Self, String> {
        let console = Session::open(door, console).await;
        let console = console.map_err(|why| format!("the console: {}", why.words))?;
        let (paused, failed) = (Cell::new(false), Cell::new(false));
        let shared = Rc::new(shared);
        Ok(Self { console, shared, cluster, failover, paused, failed })
    }

    /// Plays a case; ends with a cluster that is whole.
    pub(super) async fn play(&self, case: Case) -> Result<(), String> {
        match case {
            Case::Switchover => {
                let home = self.view().await?.primary;
                for to in self.targets(&home) {
                    self.part(Deed::Switchover(to)).await?;
                    self.part(Deed::Switchover(home.clone())).await?;
                }
                Ok(())
            }
            Case::DryRun => self.dry_run().await,
            Case::Kill => self.crash(Deed::Crash).await,
            Case::Pause => self.crash(Deed::Paused).await,
        }
    }

    /// Makes this node the primary again, if it is not.
    pub(super) async fn go_home(&self, home: &str) -> Result<(), String> {
        if self.view().await?.primary == home {
            return Ok(());
        }
        self.part(Deed::Switchover(home.to_owned())).await
    }

    async fn crash(&self, deed: Deed) -> Result<(), String> {
        let old = self.view().await?.primary;
        self.part(deed).await?;
        if self.view().await?.primary == old {
            return Err(format!("{old} was ended, and still is the primary"));
        }
        let begun = Instant::now();
        let mut lines = Vec::new();
        let rejoined = self.ask(&format!("REJOIN {}", self.quoted(&old)), COMMAND_MAX).await;
        let answered = begun.elapsed().as_millis();
        lines.extend(rejoined.as_ref().err().cloned());
        let settled = self.settle().await;
        lines.extend(settled.as_ref().err().cloned());
        let whole = begun.elapsed().as_millis();
        lines.push(format!("answered after {answered} ms, all is well after {whole} ms"));
        self.report(&format!("REJOIN {old}"), rejoined.is_ok() && settled.is_ok(), &lines);
        settled
    }

    /// Something happens to the primary while clients write; then the cluster becomes whole.
    async fn part(&self, deed: Deed) -> Result<(), String> {
        if let Some(why) = self.complaint().await? {
            return Err(format!("{} is not whole, so nothing is done to it: {why}", self.name()));
        }
        let before = self.view().await?;
        let clients = Clients::start(&self.shared).await?;
        sleep(LEAD).await;
        let fault = Instant::now();
        let mut failures = Vec::new();
        let title = self.strike(&deed, &before, &mut failures).await?;
        let after = self.flow(&clients, &deed, &before).await?;
        let log = clients.stop().await;
        let found = judge(&log, fault, &self.table().await?, self.shared.every());
        self.condemn(&deed, &before, &after, &found, &mut failures);
        let mut lines = found.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
        lines.extend(self.history(before.epoch).await?);
        lines.extend(failures.iter().map(|failure| format!("NOT OK   {failure}")));
        let title = format!("{title}: {} > {}", before.primary, after.primary);
        self.report(&title, failures.is_empty(), &lines);
        match deed {
            Deed::Switchover(_) => self.settle().await,
            // It takes a REJOIN first.
            Deed::Crash | Deed::Paused => Ok(()),
        }
    }

    /// Does it, and gives it a name.
    async fn strike(
        &self,
        deed: &Deed,
        before: &View,
        failures: &mut Vec<String>,
    ) -> Result<String, String> {
        match deed {
            Deed::Switchover(to) => {
                let command = format!("SWITCHOVER TO {}", self.quoted(to));
                failures.extend(self.ask(&command, COMMAND_MAX).await.err());
                Ok(format!("SWITCHOVER TO {to}"))
            }
            Deed::Crash => {
                self.fence(before).await?;
                Ok("the primary is ended by fence_command".to_owned())
            }
            Deed::Paused => {
                self.paused.set(true);
                self.ask(&format!("PAUSE FAILOVER IN {}", self.quoted_name()), ASK_MAX).await?;
                if !self.view().await?.is_paused() {
                    failures.push("SHOW TOPOLOGY does not say that failover is paused".to_owned());
                }
                self.fence(before).await?;
                let begun = Instant::now();
                while begun.elapsed() < PAUSED && failures.is_empty() {
                    sleep(LOOK).await;
                    let now = self.view().await?;
                    let others = now.others_as_primary(&before.primary);
                    if now.primary != before.primary || !others.is_empty() {
                        failures.push(format!(
                            "failover was paused, and {} is the primary after {} ms",
                            others.first().unwrap_or(&now.primary.as_str()),
                            begun.elapsed().as_millis()
                        ));
                    }
                }
                self.ask(&format!("RESUME FAILOVER IN {}", self.quoted_name()), ASK_MAX).await?;
                self.paused.set(false);
                let paused = PAUSED.as_secs();
                Ok(format!("PAUSE FAILOVER, the primary is ended, RESUME after {paused} s"))
            }
        }
    }

    /// Runs the operator's own command, as pgring would.
    async fn fence(&self, before: &View) -> Result<(), String> {
        let nodes = self.cluster.nodes.iter();
        let address = nodes.clone().find(|node| node.name == before.primary);
        let address = address.map(|node| node.address.clone()).unwrap_or_default();
        let told = Told {
            cluster: self.name().to_owned(),
            node: before.primary.clone(),
            address: address.clone(),
            epoch: before.epoch,
            primary: before.primary.clone(),
            primary_address: address,
            ..Told::default()
        };
        let Failover { fence_command, command_timeout, .. } = &*self.failover;
        match hooks::run(Hook::Fence, fence_command, &told, *command_timeout).await {
            Done::Well | Done::Seen(_) => Ok(()),
            Done::Failed { reason, .. } => Err(reason),
        }
    }

    /// Waits until writes flow again; gives who is the primary then.
    async fn flow(&self, clients: &Clients, deed: &Deed, before: &View) -> Result<View, String> {
        let (begun, mut since) = (Instant::now(), None);
        loop {
            let flows = clients.quiet() < FLOW;
            since = flows.then(|| since.unwrap_or_else(Instant::now));
            let now = self.view().await?;
            let changed = now.is_normal() && now.primary != before.primary;
            // A switchover that was refused leaves all as it is.
            let over = changed || matches!(deed, Deed::Switchover(_));
            let flows = since.is_some_and(|since: Instant| since.elapsed() >= FLOW_MIN);
            if (flows && over) || begun.elapsed() > RETURN_MAX {
                return Ok(now);
            }
            sleep(LOOK).await;
        }
    }

    fn condemn(
        &self,
        deed: &Deed,
        before: &View,
        after: &View,
        found: &Findings,
        failures: &mut Vec<String>,
    ) {
        let mut fail = |is: bool, words: String| {
            if is {
                failures.push(words);
            }
        };
        let wrong = match deed {
            Deed::Switchover(to) => *to != after.primary,
            Deed::Crash | Deed::Paused => before.primary == after.primary,
        };
        let Findings { lost, doubled, untrue, idle, came_back, .. } = found;
        fail(
            wrong,
            format!("{} is the primary; it is {}: {}", after.primary, after.state, {
                &after.status
            }),
        );
        fail(!came_back, format!("no write was acknowledged any more, for {RETURN_MAX:?}"));
        let planned = matches!(deed, Deed::Switchover(_));
        let safe = planned || self.failover.durability == Durability::Sync;
        fail(safe && *lost > 0, format!("{lost} acknowledged writes are lost"));
        fail(*doubled > 0, format!("{doubled} writes are there twice"));
        fail(*untrue > 0, format!("{untrue} writes are there though they were refused"));
        fail(*idle > 0, format!("{idle} idle sessions were closed, or failed afterwards"));
        let errors: u64 = found.heard.values().sum();
        fail(planned && errors > 0, format!("{errors} errors during a planned change"));
    }

    async fn dry_run(&self) -> Result<(), String> {
        let before = self.view().await?;
        let Some(to) = self.targets(&before.primary).into_iter().next() else {
            return Err("there is no standby".to_owned());
        };
        let command = format!("FAILOVER TO {} DRY RUN", self.quoted(&to));
        let answer = self.ask(&command, ASK_MAX).await;
        let after = self.view().await?;
        let still = (before.epoch, &before.primary) == (after.epoch, &after.primary);
        let said = answer.as_ref().is_ok_and(|rows| !rows.is_empty());
        let mut lines = match answer {
            Ok(rows) => rows.iter().flat_map(Row::values).cloned().collect(),
            Err(why) => vec![why],
        };
        if !still {
            lines.push(format!("NOT OK   {} is the primary afterwards", after.primary));
        }
        self.report(&format!("FAILOVER TO {to} DRY RUN"), still && said, &lines);
        Ok(())
    }

    /// Nodes that may be promoted.
    fn targets(&self, primary: &str) -> Vec<String> {
        let nodes = self.cluster.nodes.iter();
        let fit = nodes.filter(|node| node.name != primary && node.priority > 0);
        fit.map(|node| node.name.clone()).collect()
    }

    fn report(&self, title: &str, well: bool, lines: &[String]) {
        say(&format!("{}  {title}", if well { "OK    " } else { "NOT OK" }));
        for line in lines {
            say(&format!("          {line}"));
        }
        if !well {
            self.failed.set(true);
        }
    }

    fn name(&self) -> &str {
        &self.cluster.name
    }

    fn quoted_name(&self) -> String {
        self.quoted(self.name())
    }

    /// A name as the console reads any.
    #[expect(clippy::unused_self, reason = "it reads as a sentence where it is used")]
    fn quoted(&self, name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    /// Asks the console.
    pub(super) async fn ask(&self, command: &str, limit: Duration) -> Result<Vec<Row>, String> {
        match timeout(limit, self.console.rows(command)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(why)) => Err(format!("{command}: {}", why.words)),
            Err(_late) => Err(format!("{command}: no answer within {limit:?}")),
        }
    }

    pub(super) async fn view(&self) -> Result<View, String> {
        Ok(View::of(&self.ask("SHOW TOPOLOGY", ASK_MAX).await?, self.name()))
    }

    pub(super) async fn complaint(&self) -> Result<Option<String>, String> {
        Ok(self.view().await?.complaint(&self.cluster, &self.failover))
    }

    /// Waits until the cluster is whole.
    pub(super) async fn settle(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let Some(why) = self.complaint().await? else { return Ok(()) };
            if begun.elapsed() > SETTLE_MAX {
                let name = self.name();
                return Err(format!("{name} is not whole after {SETTLE_MAX:?}: {why}"));
            }
            sleep(LOOK).await;
        }
    }

    /// How pgring tells it.
    async fn history(&self, since: u64) -> Result<Vec<String>, String> {
        let rows = self.ask("SHOW HISTORY", ASK_MAX).await?;
        let field = |row: &Row, name: &str| row.get(name).cloned().unwrap_or_default();
        let own = rows.iter().filter(|row| {
            field(row, "cluster") == self.name()
                && field(row, "epoch").parse().is_ok_and(|epoch: u64| epoch > since)
        });
        let line = |row: &Row| {
            let [kind, reason, steps] = ["kind", "reason", "steps"].map(|name| field(row, name));
            let bound = Some(field(row, "bound")).filter(|bound| !bound.is_empty());
            let bound = bound.map(|bound| format!("; at most lost: {bound}"));
            format!("history  {kind} ({reason}{}): {steps}", bound.unwrap_or_default())
        };
        Ok(own.map(line).collect())
    }

    /// The table as the primary has it: each key, and how often it is there.
    async fn table(&self) -> Result<BTreeMap<u64, u64>, String> {
        let session = self.shared.open().await.map_err(|why| why.words)?;
        let sql =
            format!("/* pgring: primary */ SELECT key, count(*) AS n FROM {TABLE} GROUP BY key");
        let rows = timeout(COMMAND_MAX, session.rows(&sql)).await;
        let rows = rows.map_err(|_late| format!("{TABLE} cannot be read"))?;
        let rows = rows.map_err(|why| format!("{TABLE}: {}", why.words))?;
        let number = |row: &Row, name: &str| row.get(name).and_then(|text| text.parse().ok());
        Ok(rows.iter().filter_map(|row| Some((number(row, "key")?, number(row, "n")?))).collect())
    }
}
