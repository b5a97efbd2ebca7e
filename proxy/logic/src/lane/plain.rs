//! The short way for messages of the extended protocol that say nothing new: many at once, and one
//! look at the books.
//!
//! Who pipelines says the same few things over and over. A Parse of the unnamed statement that is
//! there already, a Bind of it, a Describe of a portal, an Execute and a Sync leave an entry in the
//! ledger each and change nothing else that pgring keeps of the session. What is done here for
//! those is what the long way would do (`traffic.rs`, `statements.rs`, `unnamed.rs`); whatever is
//! in doubt goes that way.

use crate::config::PoolMode;
use crate::id::ConnId;
use crate::lane::client::{Client, Failing, Fate, Phase};
use crate::lane::pool::Pool;
use crate::lane::server::{Far, Server};
use crate::lane::{Lane, Out};
use crate::ledger::{Entry, Expect, Origin, SAME};
use crate::time::Instant;
use pgring_wire::client::{Parse, Target, bind_names};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

impl Lane {
    /// Sends on the messages at `at` that say nothing new, and tells how many bytes they have.
    pub(super) fn pass_messages(
        &mut self,
        now: Instant,
        id: ConnId,
        (at, bytes): (usize, &[u8]),
        actions: &mut Out,
    ) -> usize {
        #[cfg(test)]
        if self.plain_bytes.is_none() {
            return 0;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        if !matches!(rest.first(), Some(b'P' | b'B' | b'D' | b'E' | b'S')) {
            return 0;
        }
        let Some(client) = self.clients.get_mut(id).filter(|client| is_plain(client)) else {
            return 0;
        };
        let flight = client.flight.as_ref().filter(|flight| !flight.is_off());
        let kept = flight.is_some();
        if flight.is_some_and(|flight| !flight.keeps(rest.len())) {
            return 0;
        }
        let (Some(server), Some(home)) = (client.server, client.home) else { return 0 };
        let Some(far) = self.servers.get_mut(server).and_then(Far::server_mut) else { return 0 };
        if far.pool != home || client.pool != Some(home) || far.beginning {
            return 0;
        }
        let rank = &mut self.pools[home];
        if rank.mode() != PoolMode::Transaction || rank.routes() || !rank.renames() {
            return 0;
        }
        let size_max = self.config.limits.statement_bytes_max;
        let mut pass = Pass { now, id, client, far, rank, kept, synced: false, watched: false };
        let passed = pass.messages(rest, size_max);
        if passed == 0 {
            return 0;
        }
        #[cfg(test)]
        {
            self.plain_bytes = self.plain_bytes.map(|before| before + passed);
        }
        let (synced, watched) = (pass.synced, pass.watched);
        if let Some(flight) = client.flight.as_mut().filter(|_| kept) {
            flight.keep(&rest[..passed], synced);
        }
        client.requested = now;
        client.grants = 0;
        client.fate = Fate::Pass;
        self.verdicts.take_last();
        actions.forward(id, server, at, at + passed);
        if watched {
            self.watch_client(id);
        }
        passed
    }
}

/// Whether nothing is known of a client that would make its next message mean more than it says.
fn is_plain(client: &Client) -> bool {
    matches!(client.phase, Phase::Ready)
        && client.failing == Failing::No
        && client.reading.is_none()
        && !(client.has_said_goodbye() || client.resetting || client.again)
        && client.left == 0
}

/// A client, its server, and their pool.
struct Pass<'a> {
    now: Instant,
    id: ConnId,
    client: &'a mut Client,
    far: &'a mut Server,
    rank: &'a mut Pool,
    /// What it says is kept, up to a Sync.
    kept: bool,
    /// A Sync was among it.
    synced: bool,
    /// Its time-outs begin anew.
    watched: bool,
}

impl Pass<'_> {
    /// Notes the messages that `bytes` begin with and that say nothing new. Tells how many bytes
    /// they have.
    fn messages(&mut self, bytes: &[u8], size_max: usize) -> usize {
        if !self.far.ledger.hears_all() {
            return 0;
        }
        let mut rest = bytes;
        while let Ok(Some(head)) = header(rest, LENGTH_MAX) {
            let Some(message) = rest.get(..head.total()).filter(|_| head.body() <= size_max) else {
                break;
            };
            let body = &message[Header::SIZE..];
            let plain = match head.tag {
                b'P' => !self.kept && self.parse(body),
                b'B' => !self.kept && self.bind(body),
                b'D' => self.describe(body),
                b'E' => self.execute(),
                b'S' => self.sync(),
                _ => false,
            };
            if !plain {
                break;
            }
            rest = &rest[head.total()..];
            if self.kept && self.synced {
                break;
            }
        }
        bytes.len() - rest.len()
    }

    fn expect(&mut self, expect: Expect) {
        self.far.ledger.push(expect, Origin::Client, 0);
    }

    /// The unnamed statement as it is already.
    fn parse(&mut self, body: &[u8]) -> bool {
        let Some(last) = &self.client.unnamed else { return false };
        let Ok(parse) = Parse::read(body) else { return false };
        let named = !parse.name.is_empty();
        if named || !last.hints.is_empty() || last.body != parse.body_after_name {
            return false;
        }
        if !self.client.is_sure_of_unnamed(self.far) {
            return false;
        }
        self.client.parses_unnamed(self.id, self.far);
        let (expect, origin) = (Expect::Parse, Origin::Client);
        self.far.ledger.push_entry(Entry { expect, origin, mark: 0, change: SAME });
        self.rank.stats.client_parses += 1;
        self.rank.stats.server_parses += 1;
        true
    }

    /// Of the unnamed statement, parsed in this segment and on this server.
    fn bind(&mut self, body: &[u8]) -> bool {
        let Some(last) = &self.client.unnamed else { return false };
        let segment = self.client.segment;
        let here = last.segment == segment
            && last.hints.is_empty()
            && self.far.unnamed_segment == segment
            && self.far.unnamed == Some((self.id, last.sequence))
            && self.client.changes.iter().all(|change| change.segment == segment);
        if !here || !bind_names(body).is_some_and(|names| names.statement.is_empty()) {
            return false;
        }
        self.expect(Expect::Bind);
        self.rank.stats.binds += 1;
        true
    }

    /// Of a portal.
    fn describe(&mut self, body: &[u8]) -> bool {
        let portal = Target::read(body).is_ok_and(|target| target.kind == b'P');
        if portal {
            self.expect(Expect::DescribePortal);
        }
        portal
    }

    fn execute(&mut self) -> bool {
        self.client.begin_query(self.now, self.rank);
        self.watched = true;
        self.expect(Expect::Execute);
        true
    }

    fn sync(&mut self) -> bool {
        self.expect(Expect::Sync);
        self.client.segment = self.client.segment.wrapping_add(1);
        (self.synced, self.watched) = (true, true);
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::dice::Chance;
    use crate::lane::trial::{Trial, error, query};
    use crate::ledger::Expect;
    use crate::time::Duration;
    use pgring_wire::client::write;

    /// What a client may say.
    fn message(chance: &mut Chance) -> Vec<u8> {
        let mut out = Vec::new();
        match chance.below(20) {
            0..=5 => {
                let texts = ["SELECT 1", "SELECT 1", "SELECT 1", "SELECT 2", "SET a.b = 1"];
                let text = texts[usize::try_from(chance.below(5)).expect("small")];
                let name: &[u8] = if chance.below(8) == 0 { b"named" } else { b"" };
                write::parse(&mut out, name, format!("{text}\0\0\0").as_bytes()).expect("short");
            }
            6..=9 => {
                let name: &[u8] = if chance.below(8) == 0 { b"named" } else { b"" };
                write::bind(&mut out, b"", name);
            }
            10 | 11 => write::describe(&mut out, b'P', b""),
            12 => write::describe(&mut out, b'S', b""),
            13..=15 => write::execute(&mut out, b""),
            16 => write::close(&mut out, b'S', b""),
            17 => out = query("SELECT 0"),
            _ => write::sync(&mut out),
        }
        out
    }

    /// What its server may answer next.
    fn answer(due: Expect, chance: &mut Chance) -> Vec<u8> {
        let status = if chance.below(4) == 0 { b'T' } else { b'I' };
        let ready = [b'Z', 0, 0, 0, 5, status];
        let fails = chance.below(8) == 0;
        match due {
            Expect::Sync => ready.to_vec(),
            Expect::Query if fails => [error("42601"), ready.to_vec()].concat(),
            Expect::Query | Expect::Call => [&b"C\0\0\0\x0dSELECT 1\0"[..], &ready].concat(),
            _ if fails => error("42601"),
            Expect::Parse => b"1\0\0\0\x04".to_vec(),
            Expect::Bind => b"2\0\0\0\x04".to_vec(),
            Expect::DescribeStatement => b"t\0\0\0\x06\0\0n\0\0\0\x04".to_vec(),
            Expect::DescribePortal => b"n\0\0\0\x04".to_vec(),
            Expect::Execute | Expect::CopyEnd => b"C\0\0\0\x0dSELECT 1\0".to_vec(),
            Expect::Close => b"3\0\0\0\x04".to_vec(),
        }
    }

    /// All that a lane keeps, and has asked for.
    fn books(trial: &Trial) -> String {
        let lane = &trial.lane;
        let kept = format!("{:?}{:?}{:?}", lane.clients, lane.servers, lane.pools);
        format!("{kept}{:?}{:?}", trial.asked(), lane.deadline())
    }

    /// One conversation, in front of a lane that takes the short way and one that does not. Tells
    /// how many bytes went the short way.
    fn compare(seed: u64) -> usize {
        let chance = &mut Chance::new(seed);
        let mut pair = [Trial::start(""), Trial::start("")];
        pair[1].lane.plain_bytes = None;
        let mut said = Vec::new();
        for step in 0..60 {
            for trial in &mut pair {
                trial.wait(Duration::from_millis(1));
            }
            let due = pair[1].lane.server_ref(pair[1].server).and_then(|far| far.ledger.head());
            let act: Vec<usize> = match due {
                Some(due) if chance.below(2) == 0 => {
                    let bytes = answer(due.expect, chance);
                    pair.iter_mut().map(|trial| trial.server_begins(&bytes)).collect()
                }
                _ => {
                    for _ in 0..chance.below(8) {
                        said.extend(message(chance));
                    }
                    let all = u32::try_from(said.len()).expect("little");
                    let cut = if chance.below(3) == 0 { chance.below(all + 1) } else { all };
                    let shown = &said[..usize::try_from(cut).expect("little")];
                    let taken: Vec<_> =
                        pair.iter_mut().map(|trial| trial.client_says(shown)).collect();
                    said.drain(..taken[0].min(shown.len()));
                    taken
                }
            };
            assert_eq!(act[0], act[1], "seed {seed}, step {step}");
            let [ours, theirs] = [&pair[0], &pair[1]].map(books);
            let same = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
            let [ours_from, theirs_from] = [&ours, &theirs].map(|books| books.get(same..same + 99));
            assert!(ours == theirs, "seed {seed}, step {step}: {ours_from:?} {theirs_from:?}");
        }
        pair[0].lane.plain_bytes.unwrap_or(0)
    }

    #[test]
    fn the_short_way_ends_where_the_long_one_does() {
        let short: usize = (0..100).map(compare).sum();
        assert!(short > 10_000, "{short} bytes");
    }
}
