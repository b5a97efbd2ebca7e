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
    /// A primary and two standbys; everybody runs where the kernel puts them.
    Split,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Load {
    /// By pgbench.
    Pgbench(Protocol, Script),
    /// By our own load generator.
    Own(Own),
    /// One client that asks, alone and then among this many that do not; whether those have set
    /// something and prepared a statement.
    Idle(u32, bool),
}

/// What our own load generator asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Own {
    /// A simple query.
    Simple,
    /// The same by Parse, Bind, Describe, Execute, Sync.
    Extended,
    /// A field of a megabyte.
    Wide,
    /// COPY of 200 MB to the client, again and again.
    CopyOut,
    /// The same from the client.
    CopyIn,
    /// A new connection for each query.
    Storm,
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
    /// Nine times one account by its key, then a transaction that updates one.
    Mixed,
}

/// Who is measured, and who is the measure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compared {
    /// pgring and its peers, to `PgBouncer`.
    Peers,
    /// pgring with these numbers of workers, to the second.
    Workers(u32, u32),
    /// Those that send reads to standbys, to pgpool-II.
    Splitters,
    /// pgring that sends reads to standbys, to pgring that does not.
    Routing,
    /// pgring that watches its nodes, to pgring that does not.
    Senses,
}

impl Case {
    /// The unit of throughput and of what CPU time is divided by.
    pub(super) fn unit(&self) -> &'static str {
        match self.load {
            Load::Own(Own::CopyOut | Own::CopyIn) => "MB",
            Load::Own(Own::Storm) => "connection",
            Load::Pgbench(_, Script::Pipeline) => "pipeline",
            Load::Pgbench(..) | Load::Own(_) | Load::Idle(..) => "transaction",
        }
    }

    /// Whether it is about bytes, not about transactions.
    pub(super) const fn is_bulk(&self) -> bool {
        matches!(self.load, Load::Own(Own::CopyOut | Own::CopyIn | Own::Wide))
    }

    /// Who takes part: the targets asked for that can play this case, or pgring against itself.
    pub(super) fn subjects(&self, targets: &[Target], workers: Option<u32>) -> Vec<Subject> {
        match self.compared {
            Compared::Peers | Compared::Splitters => targets
                .iter()
                .filter(|target| self.excludes(**target).is_none())
                .map(|target| Subject::peer(*target, workers.unwrap_or(1)))
                .collect(),
            Compared::Workers(own, base) => {
                vec![Subject::workers(own), Subject::workers(base)]
            }
            Compared::Routing => vec![Subject::routed(true), Subject::routed(false)],
            Compared::Senses => vec![Subject::watching(true), Subject::watching(false)],
        }
    }

    /// Who is judged.
    pub(super) fn own(&self) -> Subject {
        match self.compared {
            Compared::Peers | Compared::Splitters => Subject::peer(Target::Pgring, 0),
            Compared::Workers(own, _) => Subject::workers(own),
            Compared::Routing => Subject::routed(true),
            Compared::Senses => Subject::watching(true),
        }
    }

    /// Who the others are compared to.
    pub(super) fn base(&self) -> Subject {
        match self.compared {
            Compared::Peers => Subject::peer(Target::Pgbouncer, 1),
            Compared::Workers(_, base) => Subject::workers(base),
            Compared::Splitters => Subject::peer(Target::Pgpool, 1),
            Compared::Routing => Subject::routed(false),
            Compared::Senses => Subject::watching(false),
        }
    }

    /// Why a target cannot play this case.
    pub(super) fn excludes(&self, target: Target) -> Option<&'static str> {
        // Directly, those that only read share out the standbys, and the rest has all on the
        // primary: nothing in between can be faster where all nodes share the cores.
        let splits =
            matches!(target, Target::Direct | Target::Pgring | Target::Other | Target::Pgpool);
        if self.stage == Stage::Split && !splits {
            return Some("it does not tell reads from writes");
        }
        let crowd = matches!(self.load, Load::Idle(..));
        (crowd && target == Target::Pgpool).then_some("it would need a process for every client")
    }
}

/// All cases, in the order in which they are played: quick answers first.
pub(super) fn all() -> Vec<Case> {
    let groups = [pinned(), select_only(), other_pgbench(), bulk(), crowds(), cores(), split()];
    groups.into_iter().flatten().collect()
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

/// The stand-in behind a proxy that has a core of its own: the proxy is the bottleneck.
fn pinned() -> Vec<Case> {
    let mut cases = Vec::new();
    for (word, own) in [("simple", Own::Simple), ("extended", Own::Extended)] {
        for clients in [64, 256, 1] {
            let title = format!("stand-in, {word}, {clients} clients, proxy on a core of its own");
            let name = format!("standin-{word}-{clients}");
            let case = real(&name, &title, Load::Own(own), clients);
            cases.push(Case { stage: Stage::Pinned, quick: clients == 64, ..case });
        }
    }
    cases
}

fn bulk() -> Vec<Case> {
    let own = |name, title, own, clients| real(name, title, Load::Own(own), clients);
    let pinned = |case| Case { stage: Stage::Pinned, ..case };
    let (out, into) = ("COPY of 200 MB out", "COPY of 200 MB in");
    let (out_pinned, into_pinned) =
        ("COPY of 200 MB out, stand-in, pinned", "COPY of 200 MB in, stand-in, pinned");
    vec![
        Case { quick: true, ..pinned(own("copy-out-pinned", out_pinned, Own::CopyOut, 1)) },
        pinned(own("copy-in-pinned", into_pinned, Own::CopyIn, 1)),
        own("copy-out", out, Own::CopyOut, 1),
        own("copy-in", into, Own::CopyIn, 1),
        own("wide-4", "rows with a field of 1 MB, 4 clients", Own::Wide, 4),
    ]
}

fn crowds() -> Vec<Case> {
    let storm = "connection storm, SCRAM, 16 clients, a new connection for each query";
    let idle = |name, title, state| Case {
        stage: Stage::Pinned,
        scram: state,
        ..real(name, title, Load::Idle(5000, state), 1)
    };
    let trust = "one active client among 5,000 idle ones, trust, pinned";
    let state = "the same with SCRAM, a SET and a prepared statement each";
    vec![
        Case { scram: true, quick: true, ..real("storm-16", storm, Load::Own(Own::Storm), 16) },
        Case { quick: true, ..idle("idle-5000-trust", trust, false) },
        idle("idle-5000-state", state, true),
    ]
}

/// pgring beside itself.
fn cores() -> Vec<Case> {
    let load = Load::Pgbench(Protocol::Simple, Script::SelectOnly);
    let shared = "select-only, simple, 64 clients, a pool of 2 shared by 4 workers, beside 1";
    let two = "select-only, simple, 64 clients, 2 workers beside 1";
    let senses = "select-only, simple, 256 clients, 200 servers: watched beside not watched";
    vec![
        Case {
            pool: 2,
            compared: Compared::Workers(4, 1),
            quick: true,
            ..real("pool-2", shared, load, 64)
        },
        Case { compared: Compared::Workers(2, 1), ..real("workers-2", two, load, 64) },
        Case { pool: 200, compared: Compared::Senses, ..real("senses-200", senses, load, 256) },
    ]
}

/// Reads on two standbys.
fn split() -> Vec<Case> {
    let load = |script| Load::Pgbench(Protocol::Simple, script);
    let (select, mixed) = (load(Script::SelectOnly), load(Script::Mixed));
    let select_title = "read/write split over 1 primary, 2 standbys: select-only, 64 clients";
    let mixed_title = "the same: 9 selects for each update, 32 clients";
    let on_off = "select-only, 64 clients, beside 2 standbys: routing on beside routing off";
    let writes = "TPC-B, 16 clients, routing on beside routing off: what knowing the place costs";
    let split = |case, compared| Case { stage: Stage::Split, compared, quick: true, ..case };
    vec![
        split(real("split-64", select_title, select, 64), Compared::Splitters),
        split(real("split-mixed-32", mixed_title, mixed, 32), Compared::Splitters),
        split(real("routing-64", on_off, select, 64), Compared::Routing),
        split(real("routing-tpcb-16", writes, load(Script::TpcB), 16), Compared::Routing),
    ]
}

#[cfg(test)]
mod tests {
    use super::all;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: BTreeSet<_> = all().into_iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
