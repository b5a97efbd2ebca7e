//! `--target pgpool`: the same nodes, clients and faults with pgpool-II in the middle.
//!
//! pgpool-II brings nobody back that it has given up, so each run has nodes of its own. What comes
//! out is measured, not judged: there is nothing here that must not be.

use super::case::Case;
use super::config::NODE_PORT;
use super::ground::{Ground, Spot, itself};
use super::play::{self, Stopped};
use super::score::{Run, Score};
use super::writer::{Clients, Guests};
use super::{Durability, LEAD, Options, check, show, table};
use crate::bench::peers::fill;
use crate::install;
use crate::place::{self, Workplace};
use crate::pooler::{Launch, Pooler};
use crate::process::{self, Outcome};
use crate::rig::dice::Dice;
use crate::rig::rest;
use crate::rig::scene::{CLIENTS, PORT, USER, client, home};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where Debian has it.
const PROGRAM: &str = "/usr/sbin/pgpool";
/// The most that comes to the lead: its slowest timer, which looks how far standbys are behind.
const PHASE_MAX: Duration = Duration::from_secs(10);
/// How long all may take to be up before the fault.
const READY_MAX: Duration = Duration::from_secs(30);
/// Acknowledgements that come at least so often flow; they must do so for this time.
const FLOW: Duration = Duration::from_millis(200);
const FLOW_MIN: Duration = Duration::from_secs(1);
/// How long the other standby is waited for, once writes flow again.
const FOLLOW_MAX: Duration = Duration::from_secs(20);
/// How long clients go on when the old primary is back.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// `printf pgpool | md5sum`, as its manual has it for the user `pgpool` with this password.
const PCP: &str = "pgpool:ba777e4c2f15c11ea8ac3be7e0440aa0\n";
/// It tells by the statement where to send it, unless a comment says that the primary is meant.
const GUESTS: Guests = Guests {
    address: std::net::SocketAddr::V4(std::net::SocketAddrV4::new(CLIENTS.0, PORT)),
    writer: (USER, USER),
    reader: (USER, USER),
    idle: "/*NO LOAD BALANCE*/ SELECT pg_is_in_recovery()",
};

/// How pgpool-II looks whether nodes live.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Profile {
    /// As the example in its manual: every 5 s, 30 s time, 3 retries, 10 s to connect
    Manual,
    /// Every second, 2 s time, no retries, 1 s to connect
    Fast,
}

impl Profile {
    /// What the template leaves open.
    fn values(self) -> [(&'static str, &'static str); 4] {
        let [period, timeout, retries, connect] = match self {
            Self::Manual => ["5", "30", "3", "10000"],
            Self::Fast => ["1", "2", "0", "1000"],
        };
        [("period", period), ("timeout", timeout), ("retries", retries), ("connect", connect)]
    }

    /// How long writes may stay away before it counts as for ever.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Manual => 150,
            Self::Fast => 45,
        })
    }
}

/// Everything that runs. What is first ends first.
struct Scene {
    pooler: Pooler,
    ground: Ground,
    /// It is there when a standby has been attached again.
    followed: PathBuf,
}

/// Measures all cases that are asked for.
pub(super) fn run(options: &Options) -> Outcome<()> {
    if options.durability == Durability::None {
        return Err("pgpool takes --durability sync or async".to_owned());
    }
    let all = [Case::Kill, Case::Silent, Case::Sigstop];
    let cases = if options.case.is_empty() { &all[..] } else { &options.case };
    if let Some(case) = cases.iter().find(|case| !all.contains(case)) {
        return Err(format!("`{}` is no case of pgpool: kill, silent, sigstop", case.name()));
    }
    if !Path::new(PROGRAM).exists() {
        install::packages(&["pgpool2"])?;
    }
    let (profile, durability) = (word(&options.pgpool_profile), word(&options.durability));
    // Those of different settings may run beside each other.
    let place = Workplace::open(&format!("outage-{profile}-{durability}"))?;
    let start = Instant::now();
    let mut scores = Vec::new();
    let done = measure(options, cases, &place, &mut scores);
    let shown = show(options, &scores);
    println!("\n{} s; configuration and logs: {}", start.elapsed().as_secs(), place.path.display());
    done.and(shown)
}

/// A value as it is written on the command line.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn measure(
    options: &Options,
    cases: &[Case],
    place: &Workplace,
    scores: &mut Vec<Score>,
) -> Outcome<()> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut number = seconds.as_secs() % 100_000_000;
    let mut dice = Dice::new(seconds.as_secs());
    for case in cases {
        let name = case.name();
        let settings = [word(&options.durability), word(&options.pgpool_profile)].join(", ");
        let durability = format!("{settings}, pgpool");
        scores.push(Score { case: name.clone(), durability, runs: Vec::new() });
        for turn in 1..=options.runs {
            number += 1;
            let run = one(options, place, *case, number, &mut dice);
            let log = place.path.join("pgpool.log");
            // Whoever wants to know why; a run that did not get so far has none.
            drop(fs::copy(&log, place.path.join(format!("pgpool-{name}-{turn}.log"))));
            let run = match run {
                Ok(run) => run,
                Err(error) if options.keep_going && !process::interrupted() => {
                    println!("{name:<11} {turn:>4}  not a run: {error}");
                    continue;
                }
                Err(error) => return Err(format!("{name} {turn}: {error}")),
            };
            println!("{name:<11} {turn:>4}  {}", run.line());
            if let Some(score) = scores.last_mut() {
                score.runs.push(run);
            }
        }
    }
    Ok(())
}

/// One run, with nodes of its own.
fn one(
    options: &Options,
    place: &Workplace,
    case: Case,
    number: u64,
    dice: &mut Dice,
) -> Outcome<Run> {
    let mut scene = Scene::set(place, options)?;
    let ground = &scene.ground;
    let primary = &ground.spots[0];
    let clients = ground.clients.within(|| Clients::start(GUESTS, number))?;
    rest(LEAD + dice.between(Duration::ZERO, PHASE_MAX))?;
    let early = ground.agent.calls();
    let (fault, held) = strike(case, ground, primary)?;
    let mut run = Run { from: primary.node.name.clone(), ..Run::default() };
    if early > 0 {
        run.failures.push("a node was given up before anything had happened".to_owned());
    }
    let limit = options.pgpool_profile.patience();
    let (again, new) = expect_return(ground, &clients, limit)?;
    if !again {
        let quiet = clients.quiet().as_secs_f64();
        let words = format!("no writes again within {} s, quiet for {quiet:.1} s", limit.as_secs());
        run.failures.push(words);
    }
    if again && !process::wait_until(FOLLOW_MAX, || Ok(scene.followed.exists()))? {
        run.notes.push("the other standby was not attached again".to_owned());
    }
    ground.silence(primary, false);
    drop(held);
    rest(AFTERWARDS)?;
    let log = clients.stop()?;
    // If nobody was promoted the old one is all there is.
    let last = new.unwrap_or(primary);
    run.to.clone_from(&last.node.name);
    match table(ground, last) {
        Ok(table) => run.findings = check::judge(&log, fault, &table),
        Err(error) => {
            // Nothing is known of any row then, so none counts as lost.
            run.findings = check::judge(&log, fault, &acked(&log));
            run.failures.push(format!("nobody has the table: {error}"));
        }
    }
    run.hooks = ground.agent.calls();
    scene.pooler.check_alive()?;
    Ok(run)
}

/// A table with just what was acknowledged.
fn acked(log: &super::writer::Log) -> std::collections::BTreeMap<u64, u64> {
    let acked = log.writes.iter().filter(|write| write.end == super::writer::End::Acked);
    acked.map(|write| (write.key, 1)).collect()
}

/// Lets it happen: when that was, and what is to be woken.
fn strike(case: Case, ground: &Ground, spot: &Spot) -> Outcome<(Instant, Option<Stopped>)> {
    match case {
        Case::Kill => Ok((play::kill(spot)?.0, None)),
        Case::Silent => {
            let fault = Instant::now();
            ground.silence(spot, true);
            Ok((fault, None))
        }
        Case::Sigstop => Stopped::all(spot).map(|(fault, stopped)| (fault, Some(stopped))),
        Case::Backend | Case::Switchover | Case::Cut | Case::Return | Case::Crash | Case::Async => {
            Err(format!("`{}` is no case of pgpool", case.name()))
        }
    }
}

/// Waits until writes flow again and somebody else is the primary; says whether they do, and who.
fn expect_return<'ground>(
    ground: &'ground Ground,
    clients: &Clients,
    limit: Duration,
) -> Outcome<(bool, Option<&'ground Spot>)> {
    let (mut since, mut new) = (None, None);
    let again = process::wait_until(limit, || {
        let flows = clients.quiet() < FLOW;
        since = flows.then(|| since.unwrap_or_else(Instant::now));
        let flows = since.is_some_and(|since: Instant| since.elapsed() >= FLOW_MIN);
        if flows && new.is_none() {
            new = promoted(ground);
        }
        Ok(flows && new.is_some())
    })?;
    Ok((again, new.or_else(|| promoted(ground))))
}

/// Who is a primary and was none.
fn promoted(ground: &Ground) -> Option<&Spot> {
    let is = |spot: &&Spot| {
        spot.ask(&ground.site, "SELECT pg_is_in_recovery()").is_ok_and(|said| said == "f")
    };
    ground.spots.iter().skip(1).find(is)
}

impl Scene {
    /// Starts all, and waits until pgpool says that all are up.
    fn set(place: &Workplace, options: &Options) -> Outcome<Self> {
        let ground = Ground::lay(place)?;
        let (site, primary) = (&ground.site, &ground.spots[0]);
        primary.ask(site, "CREATE ROLE pgpool LOGIN IN ROLE pg_monitor")?;
        if options.durability == Durability::Sync {
            for spot in &ground.spots {
                let names = "ANY 1 (n1, n2, n3)";
                let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
                spot.ask(site, &sql)?;
                spot.ask(site, "SELECT pg_reload_conf()")?;
            }
        }
        let followed = place.path.join("pgpool-followed");
        place::remove_file(&followed)?;
        let pooler = start(place, options.pgpool_profile, &ground)?;
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let mut said = String::new();
        let ready = process::wait_until(READY_MAX, || {
            let nodes = ground.clients.within(|| site.ask(&client(USER), "SHOW pool_nodes"));
            said = nodes.unwrap_or_else(|error| error);
            let up = said.lines().filter(|line| line.split('|').nth(3) == Some("up")).count();
            Ok(up == ground.spots.len() && primary.ask(site, sql)? == "2")
        })?;
        if ready {
            return Ok(Self { pooler, ground, followed });
        }
        Err(format!("not all are up: {said}; pgpool's log ends:\n{}", pooler.said()))
    }
}

/// Writes what pgpool reads and runs, and starts it in its namespace.
fn start(place: &Workplace, profile: Profile, ground: &Ground) -> Outcome<Pooler> {
    let config = write(place, profile, ground)?;
    let mut command = place.account.command(PROGRAM, &place.path);
    let pcp = place.write("pcp.conf", PCP)?;
    command.args(["-n", "-D", "-f"]).arg(&config).arg("-F").arg(pcp);
    // Fast shutdown: an immediate one leaves its semaphores behind.
    let end = Signal::SIGINT;
    let launch = Launch { name: "pgpool", command, mark: &config, port: PORT, end };
    ground.center.within(|| Pooler::launch(place, launch))
}

/// Fills in the templates; gives the configuration.
fn write(place: &Workplace, profile: Profile, ground: &Ground) -> Outcome<PathBuf> {
    let mut values = vec![
        ("port", PORT.to_string()),
        ("server_port", NODE_PORT.to_string()),
        ("directory", place.path.display().to_string()),
        ("host1", home(1).to_string()),
        ("host2", home(2).to_string()),
        ("host3", home(3).to_string()),
        ("bin", ground.site.bin.display().to_string()),
        ("agent", itself(place)?.display().to_string()),
        ("socket", ground.socket.display().to_string()),
    ];
    values.extend(profile.values().map(|(name, value)| (name, value.to_owned())));
    place.write("pcppass", "localhost:9898:pgpool:pgpool\n")?;
    let put = |from: &str, to: &str| -> Outcome<PathBuf> {
        let template = place::root().join("benches/peers").join(from);
        let text = fs::read_to_string(&template)
            .map_err(|error| format!("cannot read {}: {error}", template.display()))?;
        let path = place.write(to, &fill(&text, &values)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    };
    put("pgpool-failover.sh", "pgpool-failover.sh")?;
    put("pgpool-follow.sh", "pgpool-follow.sh")?;
    put("pgpool-node.sh", "hooks/pgpool-node")?;
    put("pgpool-failover.conf", "pgpool.conf")
}

#[cfg(test)]
mod tests {
    use super::{Profile, acked};
    use crate::outage::writer::{End, Log, Write};
    use std::time::Instant;

    #[test]
    fn a_profile_gives_what_the_template_leaves_open() {
        let template = crate::place::root().join("benches/peers/pgpool-failover.conf");
        let text = std::fs::read_to_string(template).expect("a template");
        for (name, value) in [Profile::Manual, Profile::Fast].into_iter().flat_map(Profile::values)
        {
            assert!(text.contains(&format!("= {{{{{name}}}}}\n")), "{name} = {value}");
        }
    }

    #[test]
    fn without_a_table_nothing_counts_as_lost() {
        let now = Instant::now();
        let write = |key, end| Write { key, sent: now, at: now, end };
        let log =
            Log { writes: vec![write(1, End::Acked), write(2, End::Closed)], ..Log::default() };
        assert_eq!(acked(&log), [(1, 1)].into());
    }
}
