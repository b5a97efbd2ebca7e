//! What SHOW can show.

/// What SHOW can show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is the SHOW command of its name; HELP says what it shows")]
pub enum Show {
    Clients,
    Config,
    Databases,
    Events,
    Help,
    History,
    Lists,
    Mem,
    Nodes,
    Pins,
    Pools,
    Routes,
    Servers,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Topology,
    Totals,
    Users,
    Version,
}

/// What one may see, by name, with a line of help.
const SHOWS: [(&str, Show, &str); 21] = [
    ("CLIENTS", Show::Clients, "clients, one row each"),
    ("CONFIG", Show::Config, "settings and their defaults"),
    ("DATABASES", Show::Databases, "databases and their limits"),
    ("EVENTS", Show::Events, "verdicts on nodes, and what they rest on"),
    ("HELP", Show::Help, "this list"),
    ("HISTORY", Show::History, "changes of primaries, with the time of each step"),
    ("LISTS", Show::Lists, "how many there are of what"),
    ("MEM", Show::Mem, "memory by purpose"),
    ("NODES", Show::Nodes, "PostgreSQL nodes and their servers"),
    ("PINS", Show::Pins, "clients that keep their server, and why"),
    ("POOLS", Show::Pools, "pools: clients, servers, waiting"),
    ("ROUTES", Show::Routes, "statements by how often they come, where they went, and why"),
    ("SERVERS", Show::Servers, "server connections, one row each"),
    ("STATE", Show::State, "active or paused"),
    ("STATS", Show::Stats, "totals and averages by database"),
    ("STATS_AVERAGES", Show::StatsAverages, "averages by database"),
    ("STATS_TOTALS", Show::StatsTotals, "totals by database"),
    ("TOPOLOGY", Show::Topology, "who is the primary, and what the others are"),
    ("TOTALS", Show::Totals, "totals and averages of all databases"),
    ("USERS", Show::Users, "users and their limits"),
    ("VERSION", Show::Version, "the version of pgring"),
];

impl Show {
    /// All of them by name, with a line of help.
    pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        SHOWS.iter().map(|(name, _, help)| (*name, *help))
    }

    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let found = SHOWS.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known));
        found.map(|(_, show, _)| *show)
    }
}
