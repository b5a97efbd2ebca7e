//! Where a client's next statement goes: to the primary, or to a replica.
//!
//! The decision is made once for each segment, when its first message is seen and the client has
//! no server: for a Query by its text, for an extended segment by all of its messages up to the
//! Sync, which must be there. Everything that is not certain goes to the primary. On a replica a
//! client stays to the end of its transaction; what may not run there waits for that.

use crate::action::Action;
use crate::catalog::Catalog;
use crate::classify::Reason;
use crate::classify::cache::{Proof, Trust, Verdict};
use crate::classify::comment::{Hint, hint};
use crate::config::{Consistency, Reads, Route};
use crate::hints::Hints;
use crate::id::ConnId;
use crate::lane::balance::Place;
use crate::lane::client::{Aimed, Failing};
use crate::lane::{Lane, Out};
use crate::mail::Mail;
use crate::time::Instant;
use pgring_wire::client::{Parse, Target, bind_names, query};
use pgring_wire::frame::{Header, LENGTH_MAX, header};
use std::sync::Arc;

/// What a segment asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Aim {
    /// Any node will do.
    Replica,
    /// The same, though only its client, or a rule, says that it reads.
    Guess,
    /// It begins a transaction that is READ ONLY to its end.
    Opens,
    /// It begins a transaction that may begin anywhere; nothing else in it may write.
    Begin,
    /// The primary, where it may write. `defines`: names may mean something else afterwards.
    Primary { defines: bool },
    /// The primary, though it writes nothing.
    Quiet,
    /// Not enough of it has come to tell: the primary for now, and it is looked at again.
    Open,
}

impl Aim {
    pub(super) const PRIMARY: Self = Self::Primary { defines: false };

    /// What a segment asks for that asks for both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Primary { defines: one }, Self::Primary { defines: two }) => {
                Self::Primary { defines: one || two }
            }
            (primary @ Self::Primary { .. }, _) | (_, primary @ Self::Primary { .. }) => primary,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            // The second one changes how the first goes on.
            (Self::Quiet, _)
            | (_, Self::Quiet)
            | (Self::Begin, Self::Begin | Self::Opens)
            | (Self::Opens, Self::Begin) => Self::Quiet,
            (Self::Begin, Self::Guess) | (Self::Guess, Self::Begin) => Self::PRIMARY,
            (Self::Opens, _) | (_, Self::Opens) => Self::Opens,
            (Self::Begin, Self::Replica) | (Self::Replica, Self::Begin) => Self::Begin,
            (Self::Guess, _) | (_, Self::Guess) => Self::Guess,
            (Self::Replica, Self::Replica) => Self::Replica,
        }
    }
}

/// What the texts are that were looked at last: of a message, or of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// They are none of the primary's part: somebody has asked for a replica, or they read by
    /// somebody's word, which a standby would find out.
    unshared: bool,
    /// They read by somebody's word, and no standby has run one of them yet.
    believed: bool,
    /// How many there are.
    texts: usize,
}

impl Lane {
    /// Whether reads of a pool's clients may go to replicas.
    pub(super) fn is_routed(&self, pool: usize) -> bool {
        self.pools[pool].routes()
    }

    /// Chooses where the segment that begins with these bytes goes. Tells whether it must wait
    /// until its client is done with the replica it is on.
    pub(super) fn aim(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let Some(home) = client.home else { return false };
        if client.failing != Failing::No {
            return false;
        }
        self.verdicts.take_last();
        let aims = matches!(bytes.first(), Some(b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F'));
        let Some(server) = client.server else {
            let open = aims && client.wait.is_none() && client.aimed == Aimed::No;
            if open && client.readonly {
                return self.aim_readonly(now, id, home, bytes, actions);
            }
            return open
                && self.is_routed(home)
                && !self.needs_no_server(id, home, bytes)
                && self.aim_segment(now, id, home, bytes, actions);
        };
        let Some(far) = self.server_ref(server) else { return false };
        if far.pool == home {
            if aims && self.is_routed(home) {
                self.seen = Seen::default();
                let aim = self.aim_of_message(id, home, bytes);
                self.note_primary(id, aim);
                self.expect_commit(id, home, bytes);
                // A Parse is not run before it is bound; what was counted when it had no server yet
                // is not counted again.
                let counted = self.clients.get(id).is_some_and(|client| client.mark.is_some());
                if matches!(bytes.first(), Some(b'Q' | b'B')) && !counted {
                    self.count_route(id, home, false);
                }
            }
            return false;
        }
        if bytes.first() == Some(&b'X') || self.is_session_mode(home) {
            return false;
        }
        if self.is_reading_ahead(id) {
            return self.aim_led(now, id, server, bytes, actions);
        }
        // On a replica. A segment that has begun was seen whole, and a transaction stays; else it
        // is one segment after the other, each of which is aimed when the replica is left behind.
        let begun = far.ledger.is_unsynced() || self.is_begun(id);
        let leaves = far.ledger.is_waiting() || far.cancels > 0;
        // What is said to the replica before a client has said anything there makes it that
        // client's. Who waited for the end of that would be done with it, having asked nothing.
        let comes = client.grants > 0 && !far.ledger.is_clients();
        let busy = far.status == b'I' && !begun && leaves && !comes;
        if let Some(client) = self.clients.get_mut(id) {
            client.stalled |= busy;
        }
        busy
    }

    /// Chooses the pool of a client that has no server. Tells whether that must wait.
    fn aim_segment(
        &mut self,
        now: Instant,
        id: ConnId,
        home: usize,
        bytes: &[u8],
        actions: &mut Out,
    ) -> bool {
        let aim = self.aim_of(id, home, bytes);
        let aim = self.aim_of_led(id, aim, bytes);
        let shared = self.is_shared(id, home, aim);
        let place = match aim {
            Aim::Replica | Aim::Guess | Aim::Opens | Aim::Begin if !self.is_bound(id) => {
                self.place_of_read(now, id, (home, shared), actions)
            }
            Aim::Replica
            | Aim::Guess
            | Aim::Opens
            | Aim::Begin
            | Aim::Primary { .. }
            | Aim::Quiet
            | Aim::Open => Place::Primary,
        };
        if place != Place::Wait
            && let Some(client) = self.clients.get_mut(id)
        {
            client.behind_since = None;
        }
        let aimed = if place == Place::Shared { Aimed::Shared } else { Aimed::Yes };
        let pool = match place {
            Place::Replica(pool) => {
                self.begin_reading(id);
                if aim == Aim::Begin {
                    self.begin_with_it(id);
                }
                pool
            }
            Place::Primary | Place::Shared => home,
            Place::Wait => return true,
            Place::Refused => return false,
        };
        if pool == home {
            self.note_primary(id, aim);
            self.expect_commit(id, home, bytes);
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.pool = Some(pool);
            client.aimed = if aim == Aim::Open { Aimed::No } else { aimed };
        }
        if aim == Aim::Open {
            return false;
        }
        self.count_route(id, home, pool != home);
        false
    }

    /// Whether the primary takes its part of such reads of a client: not of those for which
    /// somebody has asked for a replica, of those that are only believed to read, and of a
    /// transaction's that may write later.
    fn is_shared(&mut self, id: ConnId, home: usize, aim: Aim) -> bool {
        self.pools[home].database.routing.reads == Reads::All
            && matches!(aim, Aim::Replica | Aim::Opens)
            && !self.seen.unshared
            && !self.is_deferred(id)
            && !self.is_bound(id)
    }

    /// What the segment that begins with these bytes asks for.
    pub(super) fn aim_of(&mut self, id: ConnId, home: usize, bytes: &[u8]) -> Aim {
        self.seen = Seen::default();
        if bytes.first() == Some(&b'Q') {
            return self.aim_of_message(id, home, bytes);
        }
        self.aim_of_segment(id, home, bytes)
    }

    /// Whether the segment that begins with these bytes does nothing but read, so that it could be
    /// said again.
    pub(super) fn only_reads(&mut self, id: ConnId, home: usize, bytes: &[u8]) -> bool {
        let aim = self.aim_of(id, home, bytes);
        self.verdicts.take_last();
        if let Some(client) = self.clients.get_mut(id) {
            client.wrote = false;
        }
        aim == Aim::Replica
    }

    /// The text that was looked at last goes to a replica, or to the primary.
    pub(super) fn count_route(&mut self, id: ConnId, home: usize, moved: bool) {
        let mut mark = self.verdicts.take_last();
        if let Some(mark) = mark.as_mut().filter(|_| self.seen.texts > 1) {
            // Which of them was run nobody looks at.
            mark.doubt();
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.mark = mark;
        }
        if let Some(mark) = mark {
            self.verdicts.count(mark, &self.pools[home].key.database, moved);
        }
    }

    /// Whether even a read of this client belongs to the primary: what its session is cannot be
    /// had elsewhere, and no standby can do SERIALIZABLE.
    fn is_bound(&mut self, id: ConnId) -> bool {
        let Some(client) = self.clients.get(id) else { return true };
        !client.pins.is_empty() || self.wishes.of(&client.state).serializable
    }

    /// What was looked at last goes to the primary, where it may write, too, if it only reads by
    /// somebody's word: nobody is refused there.
    pub(super) fn note_primary(&mut self, id: ConnId, aim: Aim) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.wrote |= self.seen.believed;
        if let Aim::Primary { defines } = aim {
            client.wrote = true;
            client.defines |= defines;
        }
    }

    /// What a message asks for that is the first of these bytes.
    fn aim_of_message(&mut self, id: ConnId, home: usize, bytes: &[u8]) -> Aim {
        let Ok(Some(head)) = header(bytes, LENGTH_MAX) else { return Aim::Open };
        let Some(message) = bytes.get(..head.total()) else {
            let small = head.body() <= self.config.limits.statement_bytes_max;
            let text = matches!(head.tag, b'Q' | b'P');
            // A text that comes in pieces is looked at when it is whole; one that is too large for
            // that, or is not followed, may be anything, and so may a Bind of which not even the
            // names are there.
            let looked = small && (head.tag == b'Q' || self.follows(home));
            return match (text, looked) {
                (true, true) => Aim::Open,
                (true, false) => Aim::Primary { defines: !is_data(&bytes[Header::SIZE..]) },
                (false, _) => Aim::PRIMARY,
            };
        };
        self.aim_of_whole(id, home, message, &[])
    }

    /// What a whole message asks for, behind Parse messages of these names.
    fn aim_of_whole(&mut self, id: ConnId, home: usize, message: &[u8], parsed: &[&[u8]]) -> Aim {
        let body = &message[Header::SIZE..];
        match message[0] {
            b'Q' => query(body).map_or(Aim::PRIMARY, |text| self.aim_of_text(id, home, text)),
            b'P' => {
                let aim = Parse::read(body).map(|it| self.aim_of_text(id, home, it.text));
                aim.map_or(Aim::PRIMARY, |aim| self.aim_of_parse(home, aim))
            }
            b'B' => match bind_names(body) {
                Some(names) if parsed.contains(&names.statement) => Aim::Replica,
                Some(names) => self.aim_of_statement(id, home, names.statement),
                None => Aim::PRIMARY,
            },
            b'D' => match Target::read(body) {
                Ok(target) if target.kind != b'S' || parsed.contains(&target.name) => Aim::Replica,
                Ok(target) => self.aim_of_statement(id, home, target.name),
                Err(_) => Aim::PRIMARY,
            },
            // What a portal does was judged when it was bound.
            b'C' | b'E' | b'H' => Aim::Replica,
            _ => Aim::PRIMARY,
        }
    }

    fn aim_of_text(&mut self, id: ConnId, home: usize, text: &[u8]) -> Aim {
        if !text.is_ascii() && !self.speaks_utf8(id, home) {
            // In some encodings a backslash is half a letter.
            return Aim::Primary { defines: Reason::Encoding.may_define(text) };
        }
        let strict = self.pools[home].database.routing.consistency == Consistency::Strict;
        let asked = hint(text).or_else(|| self.asked_by_session(id, home));
        self.seen.texts += 1;
        self.seen.unshared |= asked == Some(Hint::Replica);
        // Without a catalog nothing is a read.
        let catalog = self.pools[home].catalog.as_ref();
        let edition = catalog.map_or(0, |catalog| catalog.version());
        let judge = |names: &_| match catalog {
            Some(catalog) if catalog.judge(names).is_some() => Proof::None,
            Some(catalog) if catalog.believes(names) => Proof::Believed,
            Some(_) => Proof::Proven,
            None => Proof::None,
        };
        let known = self.memo.mark(text);
        let verdict = self.verdicts.verdict(text, known, edition, judge);
        if self.verdicts.last() != known {
            self.memo.note(text, self.verdicts.last());
        }
        if let Verdict::Read(trust) = verdict {
            self.seen.unshared |= trust != Trust::Proven;
            self.seen.believed |= trust == Trust::Believed;
        }
        match verdict {
            Verdict::Read(_) | Verdict::Begin { .. } if asked == Some(Hint::Primary) => Aim::Quiet,
            // Each of its statements is a read of its own.
            Verdict::Begin { .. } if strict => Aim::Quiet,
            Verdict::Unproven if asked == Some(Hint::Replica) => {
                // Should it come to the primary, it may write there.
                if let Some(client) = self.clients.get_mut(id) {
                    client.wrote = true;
                }
                Aim::Guess
            }
            Verdict::Unproven => Aim::PRIMARY,
            // One more within a transaction changes how that goes on.
            Verdict::Begin { .. } if self.is_deferred(id) || self.is_reading_ahead(id) => {
                Aim::Quiet
            }
            Verdict::Begin { plain: true, .. } if self.may_lead(id, home) => Aim::Begin,
            // What is parsed in it could not leave the standby.
            Verdict::Begin { read_only: true, serializable: false, .. } if self.follows(home) => {
                Aim::Opens
            }
            Verdict::Read(_) => Aim::Replica,
            Verdict::Begin { .. } | Verdict::Primary { writes: false, .. } => Aim::Quiet,
            Verdict::Primary { defines, .. } => {
                // What is temporary means nothing to anybody else.
                let defines = defines && !self.memo.scan(text).has(Hints::PIN);
                Aim::Primary { defines }
            }
        }
    }

    /// Where a client has asked for its statements to go, by `SET pgring.route`, or somebody else
    /// for it, by a rule.
    fn asked_by_session(&mut self, id: ConnId, home: usize) -> Option<Hint> {
        let client = self.clients.get(id)?;
        let own = self.wishes.of(&client.state).route;
        let routing = &self.pools[home].database.routing;
        let by_rule = || {
            let name = client.state.get("application_name").map_or("", String::as_str);
            routing.route(&client.user, name)
        };
        let route = match own {
            None if !routing.rules.is_empty() => by_rule(),
            None => Route::Auto,
            Some(own) => own,
        };
        match route {
            Route::Auto => None,
            Route::Primary => Some(Hint::Primary),
            Route::Replica => Some(Hint::Replica),
        }
    }

    /// Whether the texts of a client are certainly UTF-8.
    fn speaks_utf8(&self, id: ConnId, home: usize) -> bool {
        let own = self.clients.get(id).and_then(|client| client.state.get("client_encoding"));
        let base = self.pools[home].base.as_ref();
        let encoding = own.or_else(|| base.and_then(|base| base.get("client_encoding")));
        encoding.is_some_and(|name| {
            ["utf8", "utf-8", "unicode"].iter().any(|utf8| name.eq_ignore_ascii_case(utf8))
        })
    }

    /// An extended segment reads if all in it does, up to its Sync.
    fn aim_of_segment(&mut self, id: ConnId, home: usize, bytes: &[u8]) -> Aim {
        let whole = |head: Header| head.total() <= bytes.len();
        if !header(bytes, LENGTH_MAX).is_ok_and(|head| head.is_some_and(whole)) {
            return self.aim_of_message(id, home, bytes);
        }
        let mut parsed: Vec<&[u8]> = Vec::new();
        let mut at = 0;
        let mut seen = Aim::Replica;
        while let Ok(Some(head)) = header(&bytes[at..], LENGTH_MAX) {
            let Some(message) = bytes.get(at..at + head.total()) else { break };
            at += head.total();
            if head.tag == b'S' {
                return seen;
            }
            seen = seen.and(self.aim_of_whole(id, home, message, &parsed));
            if let (b'P', Ok(parse)) = (head.tag, Parse::read(&message[Header::SIZE..])) {
                parsed.push(parse.name);
            }
            if matches!(seen, Aim::Primary { .. }) {
                // The rest is looked at when its turn comes.
                return seen;
            }
        }
        // Its end is not there yet, and may write.
        seen.and(Aim::Open)
    }

    /// A statement that was parsed before.
    fn aim_of_statement(&mut self, id: ConnId, home: usize, name: &[u8]) -> Aim {
        let Some(client) = self.clients.get(id) else { return Aim::PRIMARY };
        if name.is_empty() {
            let Some(unnamed) = &client.unnamed else { return Aim::PRIMARY };
            let body = unnamed.body.clone();
            return self.aim_of_text(id, home, super::lending::text_of(&body));
        }
        let Some(statement) = client.names.get(name) else { return Aim::PRIMARY };
        let body = self.texts.body(statement).clone();
        self.aim_of_text(id, home, super::lending::text_of(&body))
    }

    /// A client has said a message that needed no server: behind the end of its segment the next
    /// one is aimed anew.
    pub(super) fn rest(&mut self, id: ConnId, tag: u8) {
        if !matches!(tag, b'Q' | b'S') {
            return;
        }
        if let Some(client) = self.clients.get_mut(id)
            && client.server.is_none()
            && client.wait.is_none()
        {
            client.pool = client.home;
            self.nothing_sent(id);
        }
    }

    /// A client of a routed database has come: without a catalog of the database none of its
    /// reads goes to a replica.
    pub(super) fn want_catalog(&mut self, pool: usize, actions: &mut Out) {
        if self.is_routed(pool) && self.pools[pool].catalog.is_none() {
            let database = Arc::clone(&self.pools[pool].key.database);
            let (core, changed) = (self.core, false);
            actions.push(Action::Tell(Box::new(Mail::Want { core, database, changed })));
        }
    }

    /// A statement that has ended may have changed what names mean in its database.
    pub(super) fn catalog_changed(&mut self, home: usize, actions: &mut Out) {
        let database = Arc::clone(&self.pools[home].key.database);
        self.hear_catalog(&database, None);
        let (core, changed) = (self.core, true);
        actions.push(Action::Tell(Box::new(Mail::Want { core, database, changed })));
    }

    /// What names mean in a database, as clients name it; none: nobody knows for now.
    pub(super) fn hear_catalog(&mut self, database: &str, catalog: Option<&Arc<Catalog>>) {
        for rank in self.pools.iter_mut().filter(|rank| *rank.key.database == *database) {
            rank.catalog = catalog.cloned();
        }
    }
}

/// Whether a text of which only the beginning is there begins like one that only moves data.
fn is_data(text: &[u8]) -> bool {
    let word = text.trim_ascii_start();
    ["insert", "copy", "select", "update", "delete", "values", "with"].iter().any(|data| {
        word.get(..data.len()).is_some_and(|word| word.eq_ignore_ascii_case(data.as_bytes()))
    })
}
