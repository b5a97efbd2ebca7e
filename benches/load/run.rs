//! The load: clients that each ask, wait for the answer, and ask again.

mod client;

use crate::Outcome;
use crate::channel::Poll;
use crate::copy::Bulk;
use crate::login::{Identity, Keys};
use crate::say;
use crate::tally::Tally;
use client::Client;
use pgring_wire::client::write;
use std::time::{Duration, Instant};

/// What to ask, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) who: Identity,
    /// What to ask
    #[arg(long, value_enum)]
    mode: Mode,
    /// Clients at the same time
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Seconds that count
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// The text of the query
    #[arg(long, default_value = "SELECT abalance FROM pgbench_accounts WHERE aid = 4711")]
    sql: String,
    /// Thousandths at which to tell the latency
    #[arg(long, value_delimiter = ',', default_value = "500,990")]
    quantiles: Vec<usize>,
}

/// What to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// A simple query.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync, as drivers send them together.
    Extended,
    /// Bind, Execute, Sync of what each client has prepared once.
    Prepared,
    /// COPY TO STDOUT; bytes are what counts.
    CopyOut,
    /// COPY FROM STDIN, each time into an empty table.
    CopyIn,
    /// A new connection for each query.
    Storm,
}

/// Errors of a storm that are counted before it is given up.
const ERRORS_MAX: u64 = 50;
/// How long clients may take to log in, all together.
const LOGIN_MAX: Duration = Duration::from_mins(1);

/// What all clients share.
struct World {
    mode: Mode,
    who: Identity,
    poll: Poll,
    keys: Keys,
    tally: Tally,
    bulk: Bulk,
    /// The question of every transaction, and what comes before the first.
    request: Vec<u8>,
    prepare: Vec<u8>,
    buffer: Vec<u8>,
}

impl World {
    fn new(options: &Options) -> Outcome<Self> {
        let (mut request, mut prepare) = (Vec::new(), Vec::new());
        let body = [options.sql.as_bytes(), b"\0\0\0"].concat();
        let failed = |error| format!("the query: {error}");
        match options.mode {
            Mode::Simple | Mode::Storm => write::query(&mut request, &options.sql),
            Mode::Extended => {
                write::parse(&mut request, b"", &body).map_err(failed)?;
                write::bind(&mut request, b"", b"");
                write::describe(&mut request, b'P', b"");
                write::execute(&mut request, b"");
                write::sync(&mut request);
            }
            Mode::Prepared => {
                write::parse(&mut prepare, b"S_1", &body).map_err(failed)?;
                write::sync(&mut prepare);
                write::bind(&mut request, b"", b"S_1");
                write::execute(&mut request, b"");
                write::sync(&mut request);
            }
            Mode::CopyOut => write::query(&mut request, "COPY bulk TO STDOUT"),
            Mode::CopyIn => write::query(&mut request, "TRUNCATE sink"),
        }
        let size = if options.mode == Mode::CopyOut { 256 << 10 } else { 64 << 10 };
        Ok(Self {
            mode: options.mode,
            who: options.who.clone(),
            poll: Poll::new()?,
            keys: Keys::new(),
            tally: Tally::default(),
            bulk: Bulk::new(),
            request,
            prepare,
            buffer: vec![0; size],
        })
    }
}

/// Runs the load.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let mut world = World::new(options)?;
    let opened = (0..options.clients).map(|token| Client::open(&world, token));
    let mut clients: Vec<Client> = opened.collect::<Outcome<_>>()?;
    let start = Instant::now();
    let mut ready: Option<Instant> = None;
    let (seconds, warm_up) =
        (Duration::from_secs_f64(options.seconds), Duration::from_secs_f64(options.warm_up));
    let mut tokens = Vec::new();
    loop {
        tokens.extend(world.poll.wait(20));
        for token in tokens.drain(..) {
            if let Some(client) = clients.get_mut(token) {
                serve(&mut world, client, token)?;
            }
        }
        let now = Instant::now();
        if let Some(elapsed) = world.tally.elapsed(now) {
            if elapsed >= seconds {
                say(&mut std::io::stdout(), "end");
                let summary = world.tally.summary(now, &options.quantiles);
                let text = serde_json::to_string(&summary).map_err(|error| error.to_string())?;
                say(&mut std::io::stdout(), &text);
                return Ok(());
            }
        } else if let Some(ready) = ready {
            if now.duration_since(ready) >= warm_up {
                say(&mut std::io::stdout(), "begin");
                world.tally.begin(Instant::now());
            }
        } else if clients.iter().all(Client::has_begun) || options.mode == Mode::Storm {
            ready = Some(now);
        } else if now.duration_since(start) > LOGIN_MAX {
            return Err("not all clients could log in".to_owned());
        }
    }
}

/// Lets a client go on; in a storm, replaces it when it is through.
fn serve(world: &mut World, client: &mut Client, token: usize) -> Outcome<()> {
    let goes_on = client.serve(world);
    if world.mode != Mode::Storm {
        return goes_on.map(|_| ());
    }
    match goes_on {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => {
            world.tally.failed();
            if world.tally.errors() > ERRORS_MAX {
                return Err(error);
            }
        }
    }
    let next = Client::open(world, token)?;
    drop(core::mem::replace(client, next));
    Ok(())
}
