//! Clients that log in and are idle: what does it cost to have them?

use crate::Outcome;
use crate::channel::{Channel, Got, Poll};
use crate::login::{Identity, Keys, Login};
use crate::say;
use pgring_wire::client::write;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};

/// Who is to be there.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    who: Identity,
    /// How many
    #[arg(long)]
    clients: usize,
    /// Each has set something and prepared a statement
    #[arg(long)]
    state: bool,
}

/// Clients that log in at the same time.
const AT_ONCE: usize = 32;

/// One client on its way to idleness.
struct Idler {
    channel: Channel,
    login: Login,
    /// Questions whose answers are still to come, the login being one.
    owed: usize,
}

/// Logs in, says `ready`, and stays until standard input ends.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let mut poll = Poll::new()?;
    let mut keys = Keys::new();
    let state = if options.state { state()? } else { Vec::new() };
    let mut idlers: Vec<Idler> = Vec::with_capacity(options.clients);
    let (mut busy, mut tokens, mut buffer) = (0, Vec::new(), vec![0; 16 << 10]);
    while busy > 0 || idlers.len() < options.clients {
        while busy < AT_ONCE && idlers.len() < options.clients {
            idlers.push(open(options, &poll, idlers.len())?);
            busy += 1;
        }
        tokens.extend(poll.wait(1000));
        for token in tokens.drain(..) {
            let idler: &mut Idler = &mut idlers[token];
            let count = match idler.channel.read(&mut buffer) {
                Got::Nothing => continue,
                Got::End => return Err(format!("client {token}: the connection was closed")),
                Got::Bytes(count) => count,
            };
            let (answer, done) = idler.login.take(&buffer[..count], &options.who, &mut keys)?;
            if !answer.is_empty() {
                idler.channel.send(&answer);
            }
            if done && idler.owed == 2 && !state.is_empty() {
                idler.channel.send(&state);
                idler.owed = 1;
            } else if done {
                idler.owed = 0;
                busy -= 1;
            }
        }
    }
    say(&mut std::io::stdout(), "ready");
    let mut rest = Vec::new();
    // Whatever ends it, it is the end.
    drop(std::io::stdin().read_to_end(&mut rest));
    Ok(())
}

fn open(options: &Options, poll: &Poll, token: usize) -> Outcome<Idler> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, options.who.port))
        .map_err(|error| format!("client {token}: {error}"))?;
    let mut channel = Channel::new(stream, poll, token)?;
    channel.send(&options.who.startup());
    let owed = if options.state { 2 } else { 1 };
    Ok(Idler { channel, login: Login::default(), owed })
}

/// What a usual driver leaves: a setting, and a statement of its own name. One `ReadyForQuery`.
fn state() -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    let prepared = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1\0\0\0";
    let setting = b"SET statement_timeout = '30s'\0\0\0";
    let failed = |error| format!("the statements: {error}");
    write::parse(&mut out, b"", setting).map_err(failed)?;
    write::bind(&mut out, b"", b"");
    write::execute(&mut out, b"");
    write::parse(&mut out, b"S_1", prepared).map_err(failed)?;
    write::sync(&mut out);
    Ok(out)
}
