//! What is measured: the cases, and on which stage each of them is played.

use super::target::{Subject, Target};

/// One thing to be measured, for several subjects.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// How it is chosen and filed.
    pub(super) name: String,
    /// What it is, for people.
    pub(super) title: String,
    /// Who answers behind the pooler, and where everybody runs.
    pub(super) stage: Stage,
    /// What is asked.
    pub(super) load: Load,
    /// By how many clients at once.
    pub(super) clients: u32,
    /// Servers a pooler may open.
    pub(super) pool: u32,
    /// Whether clients prove who they are by SCRAM.
    pub(super) scram: bool,
    /// Whose ratios are formed to whom.
    pub(super) compared: Compared,
    /// Whether `--quick` has it.
    pub(super) quick: bool,
}

/// Who answers behind the pooler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// `PostgreSQL`; everybody runs where the kernel puts them.
    Real,
    /// The stand-in that answers at once, and the load, on one core; the pooler on another.
    Pinned,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Load {
    /// By pgbench.
    Pgbench(Protocol, Script),
    /// By our own load generator, in the mode of this name.
    Own(&'static str),
    /// One client that asks, alone and then among this many that do not.
    Idle(u32),
}

/// How pgbench asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    /// Query.
    Simple,
    /// Parse, Bind, Execute, Sync.
    Extended,
    /// Parse once, then Bind, Execute, Sync.
    Prepared,
}

impl Protocol {
    /// The word for it, as pgbench's `-M` has it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// What pgbench asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Script {
    /// One account by its key.
    SelectOnly,
    /// The usual five statements in a transaction.
    TpcB,
    /// Ten selects in one pipeline.
    Pipeline,
}

/// Who is measured, and who is the measure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compared {
    /// pgring and its peers, to `PgBouncer`.
    Peers,
    /// pgring with these numbers of workers, to the second.
    Workers(u32, u32),
}

impl Case {
    /// The unit of throughput and of what CPU time is divided by.
    pub(super) fn unit(&self) -> &'static str {
        match self.load {
            Load::Own("copy-out" | "copy-in") => "MB",
            Load::Own("storm") => "connection",
            Load::Pgbench(_, Script::Pipeline) => "pipeline",
            Load::Pgbench(..) | Load::Own(_) | Load::Idle(_) => "transaction",
        }
    }

    /// Who takes part: the targets asked for that can play this case, or pgring against itself.
    pub(super) fn subjects(&self, targets: &[Target], workers: Option<u32>) -> Vec<Subject> {
        match self.compared {
            Compared::Peers => targets
                .iter()
                .filter(|target| self.excludes(**target).is_none())
                .map(|target| Subject::peer(*target, workers.unwrap_or(self.workers())))
                .collect(),
            Compared::Workers(own, base) => {
                vec![Subject::workers(own), Subject::workers(base)]
            }
        }
    }

    /// Who the others are compared to.
    pub(super) fn base(&self) -> Subject {
        match self.compared {
            Compared::Peers => Subject::peer(Target::Pgbouncer, 1),
            Compared::Workers(_, base) => Subject::workers(base),
        }
    }

    /// Workers of pgring where the case is about peers: one on a pinned core, beside the one
    /// thread of `PgBouncer`; elsewhere what pgring does by itself, one for each core.
    fn workers(&self) -> u32 {
        match self.stage {
            Stage::Pinned => 1,
            Stage::Real => 0,
        }
    }

    /// Why a target cannot play this case.
    pub(super) fn excludes(&self, target: Target) -> Option<&'static str> {
        match (self.load, target) {
            (Load::Idle(_), Target::Pgpool) => Some("it would need a process for every client"),
            _ => None,
        }
    }
}

/// All cases, in the order in which they are played.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(select_only());
    cases.extend(other_pgbench());
    cases
}

/// A case of `PostgreSQL` and its peers, to start from.
fn real(name: &str, title: &str, load: Load, clients: u32) -> Case {
    Case {
        name: name.to_owned(),
        title: title.to_owned(),
        stage: Stage::Real,
        load,
        clients,
        pool: 16,
        scram: false,
        compared: Compared::Peers,
        quick: false,
    }
}

fn select_only() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
        for clients in [64, 1, 16, 256] {
            let word = protocol.word();
            let load = Load::Pgbench(protocol, Script::SelectOnly);
            let title = format!("select-only, {word}, {clients} clients on a pool of 16");
            let case = real(&format!("{word}-{clients}"), &title, load, clients);
            let quick = clients == 64 || (clients == 1 && protocol == Protocol::Simple);
            cases.push(Case { quick, ..case });
        }
    }
    cases
}

fn other_pgbench() -> Vec<Case> {
    let tpcb = Load::Pgbench(Protocol::Simple, Script::TpcB);
    let pipeline = Load::Pgbench(Protocol::Extended, Script::Pipeline);
    let title = "pipelines of 10 selects, 16 clients on a pool of 16";
    vec![
        real("tpcb-16", "TPC-B, 16 clients on a pool of 16", tpcb, 16),
        Case { quick: true, ..real("pipeline-16", title, pipeline, 16) },
    ]
}
