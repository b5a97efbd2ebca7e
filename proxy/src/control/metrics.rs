//! What Prometheus is told.
//!
//! Text (`OpenMetrics`) or protobuf, whichever the scraper prefers. Native histograms exist in
//! protobuf only, so the text carries classic buckets at every doubling instead; both are cut from
//! the same counts.

mod clusters;
mod nodes;

use pgring_logic::admin::world::{World, merge_pools};
use pgring_logic::id::PoolKey;
use pgring_logic::mail::{PoolReport, Stats};
use pgring_logic::metrics::{FIRST, Histogram, SCHEMA};
use pgring_logic::topology::Topology;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
    prometheus_protobuf, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt::Error;

/// The classic buckets: each doubling from 2^-16 s (15 microseconds) to 2^6 s (64 s).
const CLASSIC: std::ops::RangeInclusive<i32> = -16..=6;

/// How a scraper wants it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    /// The text every scraper reads.
    Text,
    /// The same text under its newer name.
    OpenMetrics,
    /// Length-delimited `MetricFamily` messages.
    Protobuf,
}

impl Format {
    /// The first one in an Accept header that we can give.
    pub(super) fn accepted(accept: &str) -> Self {
        let formats = accept.split(',').map(str::trim).filter_map(|media| {
            let name = media.split(';').next().unwrap_or_default().trim();
            match name {
                "application/vnd.google.protobuf" if media.contains("MetricFamily") => {
                    Some(Self::Protobuf)
                }
                "application/openmetrics-text" => Some(Self::OpenMetrics),
                "text/plain" | "*/*" => Some(Self::Text),
                _ => None,
            }
        });
        formats.into_iter().next().unwrap_or(Self::Text)
    }

    /// Its Content-Type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }
}

/// What is told at one moment.
#[derive(Debug)]
pub(super) struct Picture {
    pools: BTreeMap<PoolKey, PoolReport>,
    lanes: usize,
    clients: usize,
    violations: u64,
    login_failures: u64,
    statements: u64,
    statement_bytes: u64,
    memory_bytes: u64,
    falls: u64,
    topology: Topology,
    clusters: Vec<clusters::Cluster>,
}

type Labels = Vec<(&'static str, String)>;

impl Picture {
    /// The picture of this world.
    pub(super) fn new(world: &World<'_>) -> Self {
        let reports = world.reports;
        Self {
            pools: merge_pools(reports),
            lanes: reports.len(),
            clients: reports.iter().map(|report| report.clients.len()).sum(),
            violations: reports.iter().map(|report| report.violations).sum(),
            login_failures: reports.iter().map(|report| report.login_failures).sum(),
            statements: reports.iter().map(|report| report.statements).sum(),
            statement_bytes: reports.iter().map(|report| report.statement_bytes).sum(),
            memory_bytes: world.memory_bytes,
            falls: world.falls,
            topology: world.topology.clone(),
            clusters: world.failovers.iter().map(|it| clusters::Cluster::of(it)).collect(),
        }
    }

    /// The picture as bytes.
    pub(super) fn encode(self, format: Format) -> Result<Vec<u8>, Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        match format {
            Format::Protobuf => {
                prometheus_protobuf::encode_to_vec(&registry).map_err(|_full| Error)
            }
            Format::Text | Format::OpenMetrics => {
                let mut out = String::new();
                text::encode(&mut out, &registry)?;
                Ok(out.into_bytes())
            }
        }
    }

    /// One series per pool.
    fn pools<T>(&self, value: impl Fn(&PoolReport) -> T) -> Vec<(Labels, T)> {
        self.pools.values().map(|pool| (labels(pool), value(pool))).collect()
    }

    /// One series per pool and word.
    fn split<T, const N: usize>(
        &self,
        name: &'static str,
        values: impl Fn(&PoolReport) -> [(&'static str, T); N],
    ) -> Vec<(Labels, T)> {
        let mut series = Vec::with_capacity(N * self.pools.len());
        for pool in self.pools.values() {
            for (word, value) in values(pool) {
                let mut labels = labels(pool);
                labels.push((name, word.to_owned()));
                series.push((labels, value));
            }
        }
        series
    }

    fn process(&self, out: &mut Out<'_>) -> Result<(), Error> {
        // Of the type `info` older scrapers make an error; a gauge everybody knows.
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.gauge("pgring_info", "The version that runs", &[(version, 1)])?;
        out.gauge("pgring_clients", "Clients", &[(Vec::new(), count(self.clients))])?;
        out.gauge("pgring_lanes", "Lanes that answer", &[(Vec::new(), count(self.lanes))])?;
        let help = "Prepared statement texts kept";
        out.gauge("pgring_statements", help, &[(Vec::new(), signed(self.statements))])?;
        let help = "Memory of statement texts";
        out.gauge("pgring_statement_bytes", help, &[(Vec::new(), signed(self.statement_bytes))])?;
        let help = "Memory of the process";
        let memory = [(Vec::new(), signed(self.memory_bytes))];
        out.gauge("process_resident_memory_bytes", help, &memory)?;
        let help = "Violated invariants; each closed a server connection";
        out.counter("pgring_invariant_violations", help, &[(Vec::new(), self.violations)])?;
        let help = "Lanes that fell over and were started anew";
        out.counter("pgring_lane_falls", help, &[(Vec::new(), self.falls)])?;
        let help = "Logins that failed";
        out.counter("pgring_login_failures", help, &[(Vec::new(), self.login_failures)])
    }

    fn gauges(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let clients = self.split("state", |pool| {
            [
                ("active", i64::from(pool.clients_active)),
                ("idle", i64::from(pool.clients_idle)),
                ("waiting", i64::from(pool.clients_waiting)),
                ("cancelling", i64::from(pool.clients_cancelling)),
            ]
        });
        out.gauge("pgring_pool_clients", "Clients by pool and state", &clients)?;
        let servers = self.split("state", |pool| {
            [
                ("active", i64::from(pool.servers_active)),
                ("idle", i64::from(pool.servers_idle)),
                ("used", i64::from(pool.servers_used)),
                ("login", i64::from(pool.servers_login)),
                ("cancelling", i64::from(pool.servers_cancelling)),
            ]
        });
        out.gauge("pgring_pool_servers", "Server connections by pool and state", &servers)?;
        let paused = self.pools(|pool| i64::from(pool.paused));
        out.gauge("pgring_pool_paused", "1 while the pool is paused", &paused)?;
        let wait = self.pools(|pool| pool.wait_max.as_secs_f64());
        out.seconds("pgring_pool_wait_max", "How long the oldest client has waited", &wait)
    }

    fn counters(&self, out: &mut Out<'_>) -> Result<(), Error> {
        type Read = fn(&Stats) -> u64;
        let counters: [(&str, &str, Read); 9] = [
            ("pgring_transactions", "Transactions", |it| it.transactions),
            ("pgring_queries", "Queries", |it| it.queries),
            ("pgring_server_assignments", "Servers given to clients", |it| it.assignments),
            ("pgring_received_bytes", "Bytes from clients", |it| it.received_bytes),
            ("pgring_sent_bytes", "Bytes to clients", |it| it.sent_bytes),
            ("pgring_client_parses", "Parse messages of clients", |it| it.client_parses),
            ("pgring_server_parses", "Parse messages to servers", |it| it.server_parses),
            ("pgring_binds", "Bind messages", |it| it.binds),
            ("pgring_state_replays", "Checkouts that had to set session state", |it| it.replays),
        ];
        for (name, help, read) in counters {
            out.counter(name, help, &self.pools(|pool| read(&pool.stats)))?;
        }
        Ok(())
    }

    fn histograms(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let queries = self.pools(|pool| pool.stats.query_times.clone());
        out.histogram("pgring_query_duration", "How long queries took", &queries)?;
        let transactions = self.pools(|pool| pool.stats.transaction_times.clone());
        out.histogram("pgring_transaction_duration", "How long transactions took", &transactions)?;
        let waits = self.split("stage", |pool| {
            let stats = &pool.stats;
            [
                ("client", stats.client_times.clone()),
                ("queue", stats.wait_times.clone()),
                ("connect", stats.connect_times.clone()),
                ("server", stats.query_times.clone()),
            ]
        });
        let help = "Time spent waiting: on clients in transactions, in the queue, for a server \
                    connection to open, for the server's answer";
        out.histogram("pgring_wait", help, &waits)
    }
}

fn labels(pool: &PoolReport) -> Labels {
    let PoolKey { database, user, node } = &pool.pool;
    let mut labels = vec![("database", database.to_string()), ("user", user.to_string())];
    labels.extend(node.iter().map(|node| ("node", node.to_string())));
    labels
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Resident memory of the process.
pub(super) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

impl Collector for Picture {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out { encoder };
        self.process(&mut out)?;
        self.nodes(&mut out)?;
        self.clusters(&mut out)?;
        self.gauges(&mut out)?;
        self.counters(&mut out)?;
        self.histograms(&mut out)
    }
}

/// Writes one metric after the other.
struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, series: &[(Labels, i64)]) -> Result<(), Error> {
        let metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        each(metric, series, |out, &value| out.encode_gauge(&value))
    }

    fn seconds(&mut self, name: &str, help: &str, series: &[(Labels, f64)]) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let metric = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        each(metric, series, |out, &value| out.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, series: &[(Labels, u64)]) -> Result<(), Error> {
        let metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        each(metric, series, |out, value| out.encode_counter::<NoLabelSet, _, u64>(value, None))
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        series: &[(Labels, Histogram)],
    ) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let metric = self.encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        each(metric, series, |out, histogram| {
            let (spans, deltas) = sparse(histogram);
            let none = NativeHistogramBuckets { spans: &[], deltas: &[] };
            let native = NativeHistogram {
                schema: SCHEMA,
                zero_threshold: 0.0,
                zero_count: 0,
                negative: none,
                positive: NativeHistogramBuckets { spans: &spans, deltas: &deltas },
                created: None,
            };
            let sum = std::time::Duration::from_micros(histogram.sum_us).as_secs_f64();
            let classic = classic(histogram);
            let count = histogram.count;
            out.encode_histogram_with_native::<NoLabelSet>(sum, count, &classic, None, native)
        })
    }
}

/// Writes each value with its labels; no braces where there are none.
fn each<T>(
    mut metric: MetricEncoder<'_>,
    series: &[(Labels, T)],
    mut write: impl FnMut(&mut MetricEncoder<'_>, &T) -> Result<(), Error>,
) -> Result<(), Error> {
    for (labels, value) in series {
        if labels.is_empty() {
            write(&mut metric, value)?;
        } else {
            write(&mut metric.encode_family(labels)?, value)?;
        }
    }
    Ok(())
}

/// Counts by classic bucket: (upper bound, times above the bound before).
fn classic(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounds = CLASSIC.map(|exponent| f64::from(exponent).exp2());
    let mut buckets: Vec<(f64, u64)> =
        bounds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
    for (upper, times) in histogram.buckets() {
        let slot = buckets.iter_mut().find(|(bound, _)| upper <= *bound);
        if let Some((_, count)) = slot {
            *count += u64::from(times);
        }
    }
    buckets
}

/// Native buckets as spans (distance from the span before, length) and differences of counts.
///
/// One empty span says "native, but nothing counted yet".
fn sparse(histogram: &Histogram) -> (Vec<(i32, u32)>, Vec<i64>) {
    let (mut spans, mut deltas): (Vec<(i32, u32)>, Vec<i64>) = (Vec::new(), Vec::new());
    let (mut next, mut before) = (0, 0);
    for (index, (_, times)) in (FIRST..).zip(histogram.buckets()) {
        if times == 0 {
            continue;
        }
        match spans.last_mut() {
            Some((_, length)) if next == index => *length += 1,
            Some(_) | None => spans.push((index - next, 1)),
        }
        deltas.push(i64::from(times) - before);
        (next, before) = (index + 1, i64::from(times));
    }
    if spans.is_empty() {
        spans.push((0, 0));
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::{Format, Histogram, Picture, classic, sparse};
    use pgring_logic::admin::events::Events;
    use pgring_logic::admin::stats::Window;
    use pgring_logic::admin::world::{Phase, World};
    use pgring_logic::config::{Config, PoolMode};
    use pgring_logic::id::PoolKey;
    use pgring_logic::mail::{PoolReport, Report, Stats};
    use pgring_logic::time::{Duration, Instant};
    use pgring_logic::topology::Topology;

    fn picture() -> Picture {
        let mut stats = Stats { queries: 5, ..Stats::default() };
        stats.query_times.observe(Duration::from_millis(3));
        let pool = PoolReport {
            pool: PoolKey::new("shop", "al\"ice"),
            cluster: "main".to_owned(),
            mode: PoolMode::Transaction,
            clients_active: 2,
            clients_idle: 0,
            clients_waiting: 0,
            clients_cancelling: 0,
            servers_active: 1,
            servers_cancelling: 0,
            servers_idle: 0,
            servers_used: 0,
            servers_login: 0,
            wait_max: Duration::from_millis(1_500),
            paused: false,
            last_error: None,
            stats,
        };
        let reports = [Report { pools: vec![pool], violations: 3, ..Report::default() }];
        let (config, window) = (Config::default(), Window::default());
        Picture::new(&World {
            config: &config,
            defaults: &config,
            reports: &reports,
            window: &window,
            events: Events::NONE,
            failovers: &[],
            topology: Topology::UNKNOWN,
            now: Instant::START,
            unix: Duration::ZERO,
            version: "0.1.0",
            phase: Phase::Active,
            memory_bytes: 4096,
            falls: 2,
        })
    }

    #[test]
    fn the_text_has_the_names_of_the_convention() {
        let text = String::from_utf8(picture().encode(Format::Text).unwrap()).unwrap();
        for line in [
            "pgring_info{version=\"0.1.0\"} 1",
            "pgring_invariant_violations_total 3",
            "pgring_lane_falls_total 2",
            "pgring_queries_total{database=\"shop\",user=\"al\\\"ice\"} 5",
            "pgring_pool_clients{database=\"shop\",user=\"al\\\"ice\",state=\"active\"} 2",
            "pgring_pool_wait_max_seconds{database=\"shop\",user=\"al\\\"ice\"} 1.5",
            "pgring_query_duration_seconds_count{database=\"shop\",user=\"al\\\"ice\"} 1",
            "pgring_query_duration_seconds_sum{database=\"shop\",user=\"al\\\"ice\"} 0.003",
            "pgring_wait_seconds_count{database=\"shop\",user=\"al\\\"ice\",stage=\"server\"} 1",
            "process_resident_memory_bytes 4096",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let bucket = |le: &str| {
            let start = format!("pgring_query_duration_seconds_bucket{{le=\"{le}\",");
            text.lines().find(|line| line.starts_with(&start)).unwrap().ends_with(" 1")
        };
        assert!(bucket("0.00390625") && !bucket("0.001953125"), "3 ms lies between");
    }

    #[test]
    fn protobuf_carries_native_buckets() {
        let bytes = picture().encode(Format::Protobuf).unwrap();
        let name = b"pgring_query_duration_seconds";
        assert!(bytes.windows(name.len()).any(|window| window == name));
        // Field 5 of Histogram, `schema`, is a zigzag varint: 2 is written as 4.
        assert!(bytes.windows(2).any(|window| window == [5 << 3, 4]));
    }

    #[test]
    fn buckets_are_the_same_counts_in_both_forms() {
        let mut times = Histogram::default();
        assert_eq!(sparse(&times), (vec![(0, 0)], vec![]));
        for ms in [1, 1, 500, 500, 500, 600, 3_600_000] {
            times.observe(Duration::from_millis(ms));
        }
        let (spans, deltas) = sparse(&times);
        // 1 ms ends at 2^(-39/4) s; 500 ms at 2^(-4/4), 600 ms in the bucket after the next.
        assert_eq!(spans, [(-39, 1), (34, 1), (1, 1), (48, 1)]);
        assert_eq!(deltas, [2, 1, -2, 0]);
        let total: u64 = classic(&times).iter().map(|(_, count)| count).sum();
        assert_eq!(total, times.count);
        assert!(classic(&times).contains(&(0.5, 3)));
    }

    #[test]
    fn a_scraper_gets_what_it_prefers() {
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                        encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, text/plain", Format::Text),
            ("application/openmetrics-text;version=1.0.0,text/plain", Format::OpenMetrics),
            (protobuf, Format::Protobuf),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
