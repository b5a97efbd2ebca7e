//! Who is the primary of each cluster, and how that came: `SHOW TOPOLOGY` and `SHOW HISTORY`.

use crate::admin::show::{Cell, Column, int, long, number, text, word};
use crate::admin::world::World;
use crate::failover::Failover;
use crate::record::Chapter;
use crate::topology::gate::Writes;
use std::time::Duration;

pub(super) const TOPOLOGY: [Column; 21] = [
    text("cluster"),
    long("epoch"),
    text("state"),
    text("status"),
    text("primary"),
    int("timeline"),
    text("writes"),
    text("synchronous"),
    text("candidate"),
    text("paused"),
    text("node"),
    text("role"),
    text("verdict"),
    text("lsn"),
    long("lag_bytes"),
    int("node_timeline"),
    text("receives_from"),
    int("priority"),
    text("unfit"),
    text("quarantine"),
    int("rebuild"),
];

pub(super) const HISTORY: [Column; 12] = [
    text("cluster"),
    long("epoch"),
    text("time"),
    text("kind"),
    text("reason"),
    text("from"),
    text("to"),
    int("timeline"),
    text("switch_lsn"),
    text("bound"),
    long("took_us"),
    text("steps"),
];

/// What a command says to an operator.
pub(super) const LINES: [Column; 1] = [text("message")];

pub(super) fn topology(world: &World<'_>) -> Vec<Vec<Cell>> {
    world.failovers.iter().flat_map(|it| cluster(world, it)).collect()
}

fn cluster(world: &World<'_>, failover: &Failover) -> Vec<Vec<Cell>> {
    let (record, gate) = (failover.record(), failover.gate());
    let mut clusters = world.config.clusters.iter();
    let Some(config) = clusters.find(|it| *it.name == **failover.cluster()) else {
        return Vec::new();
    };
    let end = config.nodes.iter().position(|node| node.name == record.primary);
    let end = end.and_then(|node| failover.view(node)).map(|view| view.end);
    let standings = world.topology.clusters.get(failover.cluster());
    let writes = match &gate.writes {
        Writes::Open(node) => node.to_string(),
        Writes::Drain => "draining".to_owned(),
        Writes::Shut => "nobody".to_owned(),
    };
    let nodes = config.nodes.iter().enumerate();
    let row = |(place, node): (usize, &crate::config::Node)| {
        let view = failover.view(place);
        let standing = standings.and_then(|nodes| nodes.get(&*node.name));
        let verdict = standing.map(|it| it.health.verdict).unwrap_or_default();
        let quarantine = record.quarantine.get(&node.name);
        let role = match view {
            None => "unknown",
            Some(view) if view.recovery => "standby",
            Some(_) => "primary",
        };
        let from = view.and_then(|view| view.receiver.as_ref()).map(|it| it.from.clone());
        vec![
            word(&*record.cluster),
            number(record.epoch),
            word(record.state.name()),
            word(failover.status()),
            word(&*record.primary),
            number(record.timeline),
            word(&*writes),
            word(record.synchronous.setting()),
            word(&*record.candidate),
            word(&*record.paused),
            word(&*node.name),
            word(role),
            word(verdict.name()),
            view.map(|view| view.end.to_string()),
            view.zip(end).and_then(|(view, end)| number(end.0.saturating_sub(view.end.0))),
            view.and_then(|view| number(view.timeline)),
            from,
            number(node.priority),
            view.and_then(|view| view.unfit.clone()),
            quarantine.map(|it| it.reason.clone()),
            number(u64::from(quarantine.is_some_and(|it| it.rebuild))),
        ]
    };
    nodes.map(row).collect()
}

pub(super) fn history(world: &World<'_>) -> Vec<Vec<Cell>> {
    let all = world.failovers.iter().flat_map(|failover| {
        let record = failover.record();
        record.history.iter().map(move |chapter| (&*record.cluster, chapter))
    });
    all.map(|(cluster, chapter)| chapter_row(cluster, chapter)).collect()
}

fn chapter_row(cluster: &str, chapter: &Chapter) -> Vec<Cell> {
    let unix = Duration::from_micros(chapter.started);
    let step = |(name, at): &(String, u64)| format!("{name} {}.{:03} ms", at / 1_000, at % 1_000);
    let steps: Vec<_> = chapter.steps.iter().map(step).collect();
    vec![
        word(cluster),
        number(chapter.epoch),
        word(format!("{}.{:06}", unix.as_secs(), unix.subsec_micros())),
        word(&*chapter.kind),
        word(&*chapter.reason),
        word(&*chapter.from),
        word(&*chapter.to),
        number(chapter.timeline),
        word(chapter.switch_lsn.to_string()),
        word(&*chapter.bound),
        number(chapter.steps.last().map_or(0, |(_, at)| *at)),
        word(steps.join(", ")),
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::admin::world::tests::sample;
    use crate::config::Failover as Settings;
    use crate::failover::Failover;
    use crate::failover::words::{At, Event};
    use crate::record::{Chapter, Record};
    use crate::time::Instant;
    use std::sync::{Arc, LazyLock};

    /// A machine of the sample's cluster, which had another primary once.
    pub(crate) static ONE: LazyLock<Failover> = LazyLock::new(|| {
        let at = At { now: Instant::START, unix: 7_000_000 };
        let settings = Arc::new(Settings::default());
        let before = Default::default();
        let mut failover = Failover::new(at, &sample().clusters[0], &settings, before);
        let mut record = Record { epoch: 3, primary: "pg1".to_owned(), ..Record::new("main") };
        let steps = vec![("fence".to_owned(), 1_042), ("promote".to_owned(), 90_000)];
        record.remember(Chapter { epoch: 3, started: 5_000_001, steps, ..Chapter::default() });
        failover.handle(at, Event::Loaded(1, Some(Box::new(record))), &mut Vec::new());
        failover
    });

    /// All there are.
    pub(crate) static ALL: LazyLock<[&Failover; 1]> = LazyLock::new(|| [&*ONE]);

    #[test]
    fn a_step_is_told_with_its_time() {
        let rows = super::chapter_row("main", &ONE.record().history[0]);
        assert_eq!(rows[2].as_deref(), Some("5.000001"));
        assert_eq!(rows[10].as_deref(), Some("90000"));
        assert_eq!(rows[11].as_deref(), Some("fence 1.042 ms, promote 90.000 ms"));
    }
}
