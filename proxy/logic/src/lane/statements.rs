//! Prepared statements in transaction mode: names are the client's, statements the server's.
//!
//! A named Parse is sent under a name of our own, or not at all where the server has the same
//! text and types already; then `ParseComplete` is told when its turn comes. A Bind or Describe
//! gets its Parse in front where the server lacks it. The unnamed statement keeps its name: it is
//! parsed again only if something else was unnamed on that server since.

use crate::hints::{Hints, scan};
use crate::id::ConnId;
use crate::lane::client::Fate;
use crate::lane::server::purpose;
use crate::lane::traffic::{Message, Step};
use crate::lane::{Lane, Out};
use crate::ledger::{Expect, Origin};
use crate::prepared::{ServerName, StatementId};
use crate::time::Instant;
use pgring_wire::client::{Parse, Target, bind_names, write};
use pgring_wire::frame::{FrameError, Header};
use std::borrow::Cow;

/// Our own names for statements start so; a client's name that does too is never sent as it is.
pub(super) const PREFIX: &[u8] = b"pgring_";

/// What a server is to be told in place of a client's own name for a statement.
pub(super) enum Name {
    /// The name the statement has there.
    Ours(ServerName),
    /// One that it does not know.
    Other(Cow<'static, [u8]>),
}

impl Name {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ours(name) => name.as_bytes(),
            Self::Other(name) => name,
        }
    }
}

/// Where a statement name leads.
enum Named {
    /// The unnamed statement.
    Unnamed,
    /// A statement the client has parsed.
    Known(StatementId),
    /// Nothing of ours: one prepared by SQL, or a mistake the server will name.
    Unknown,
}

impl Lane {
    /// Whether statement names of this client are ours to give.
    pub(super) fn looks(&self, id: ConnId) -> bool {
        let pool = self.clients.get(id).and_then(|client| client.pool);
        pool.is_some_and(|pool| self.pools[pool].renames())
    }

    /// Parse.
    pub(super) fn parse(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        let looks = self.looks(id);
        let small = message.head.body() <= self.config.limits.statement_bytes_max;
        if looks && small && message.body().is_none() {
            return Step::More;
        }
        if looks && small && self.parse_by_memory(id, message, actions) {
            return Step::Took(message.shown.len());
        }
        if let Some(step) = self.need_server(now, id, actions) {
            return step;
        }
        if !looks || !small {
            return self.parse_unread(now, id, message, actions);
        }
        let Some(Ok(parse)) = message.body().map(Parse::read) else {
            return self.malformed(now, id, message.head.tag, actions);
        };
        if !parse.name.is_empty() && self.must_wait(id, parse.name, Some(parse.body_after_name)) {
            return Step::Wait;
        }
        self.count_parse(id);
        if parse.name.is_empty() {
            let hints = self.memo.scan(parse.text);
            if let Some(step) = self.extended_rewritten(now, id, message, &parse, actions) {
                return step;
            }
            self.parse_unnamed(id, &parse, hints);
            return self.pass(id, message, actions);
        }
        self.parse_named(id, &parse, actions);
        Step::Took(message.shown.len())
    }

    /// A client without a server prepares what a server of its pool has taken before: that needs
    /// no server until it is bound. (Clients that prepare one after the other in one thread, as
    /// pgbench does, would otherwise wait for servers they hold themselves.)
    fn parse_by_memory(&mut self, id: ConnId, message: Message<'_>, actions: &mut Out) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let away = client.server.is_none() && client.wait.is_none();
        let Some(pool) = client.pool.filter(|_| away) else { return false };
        let Some(Ok(parse)) = message.body().map(Parse::read) else { return false };
        if parse.name.is_empty() || client.names.get(parse.name).is_some() {
            return false;
        }
        let text = parse.text;
        let statement = self.texts.intern(parse.body_after_name, || scan(text));
        if !self.texts.is_proven(statement, pool) {
            self.texts.release(statement);
            return false;
        }
        self.pools[pool].stats.client_parses += 1;
        if let Some(client) = self.clients.get_mut(id) {
            client.names.insert(parse.name, statement);
        }
        actions.write(id, pgring_wire::backend::write::parse_complete);
        self.note_told(id);
        true
    }

    /// Whether session state is followed for this client.
    pub(super) fn watches(&self, id: ConnId) -> bool {
        let pool = self.clients.get(id).and_then(|client| client.pool);
        pool.is_some_and(|pool| !self.is_session_mode(pool))
    }

    pub(super) fn count_parse(&mut self, id: ConnId) {
        if let Some(pool) = self.clients.get(id).and_then(|client| client.pool) {
            self.pools[pool].stats.client_parses += 1;
            self.pools[pool].stats.server_parses += 1;
        }
    }

    /// Whether a server ignores everything up to the next Sync.
    pub(super) fn ignored(&self, server: ConnId) -> bool {
        self.server_ref(server).is_some_and(|far| far.ledger.is_skipping())
    }

    fn parse_named(&mut self, id: ConnId, parse: &Parse<'_>, actions: &mut Out) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(server) = client.server else { return };
        if let Some(taken) = client.names.get(parse.name) {
            return self.parse_taken(id, parse.name, taken, actions);
        }
        if self.ignored(server) {
            // The server would not read it.
            self.push(id, Expect::Parse, Origin::Client, 0);
            return;
        }
        if self.may_know_names(id) && !parse.name.starts_with(PREFIX) {
            self.ask_for_name(id, server, parse.name, actions);
        }
        let text = parse.text;
        let statement = self.texts.intern(parse.body_after_name, || scan(text));
        let Some(far) = self.server_mut(server) else { return };
        let known = far.statements.get(statement).is_some();
        let sure = known && far.status != b'E' && !far.ledger.is_exchanging();
        if sure {
            if let Some(pool) = self.clients.get(id).and_then(|client| client.pool) {
                self.pools[pool].stats.server_parses -= 1;
            }
            self.change_name(id, (Expect::Parse, Origin::Told, 0), parse.name, Some(statement));
            self.tell(server, actions);
        } else if known {
            // The transaction has failed, or may have: then the server refuses, so it is asked
            // again, under a name that is dropped at once.
            let Some(far) = self.server_mut(server) else { return };
            let number = far.statements.spare_number();
            self.send_parse(server, statement, number, actions);
            self.change_name(id, (Expect::Parse, Origin::Client, 0), parse.name, Some(statement));
            self.push(id, Expect::Close, Origin::Own, 0);
            let name = ServerName::new(number);
            actions.write(server, |out| write::close(out, b'S', name.as_bytes()));
        } else {
            self.add(server, statement, actions);
            let entry = (Expect::Parse, Origin::Client, statement.mark());
            self.change_name(id, entry, parse.name, Some(statement));
        }
    }

    /// The name is in use: a server says so best, so it is asked to parse twice what it has.
    pub(super) fn parse_taken(
        &mut self,
        id: ConnId,
        name: &[u8],
        taken: StatementId,
        actions: &mut Out,
    ) {
        let Some(server) = self.clients.get(id).and_then(|client| client.server) else { return };
        if !self.ignored(server) {
            let number = self.ensure(id, server, taken, actions);
            if let Some(client) = self.clients.get_mut(id) {
                client.doubled = Some((number, name.into()));
            }
            self.send_parse(server, taken, number, actions);
        }
        self.push(id, Expect::Parse, Origin::Client, 0);
    }

    /// Puts a statement on a server: room first, then its Parse. The answer is due to whoever
    /// the caller says.
    fn add(&mut self, server: ConnId, statement: StatementId, actions: &mut Out) {
        let client = self.server_ref(server).and_then(|far| far.client);
        let segment = client.and_then(|id| self.clients.get(id)).map_or(0, |c| c.segment);
        self.texts.retain(statement);
        let bytes = self.texts.body(statement).len();
        let Some(far) = self.server_mut(server) else { return };
        let number = far.statements.add(statement, bytes);
        far.parsing.push((statement, segment));
        let pool = far.pool;
        let settings = &self.pools[pool].settings;
        let (count_max, bytes_max) = (settings.prepared_statements, settings.prepared_bytes);
        self.evict(server, (count_max, bytes_max), actions);
        self.send_parse(server, statement, number, actions);
    }

    /// Closes the statements of a server that are over its limits and in no use. Tells whether
    /// there were any.
    fn evict(&mut self, server: ConnId, limits: (usize, usize), actions: &mut Out) -> bool {
        let mut any = false;
        while let Some(far) = self.servers.get_mut(server).and_then(|far| far.server_mut()) {
            let number = if let Some(number) = far.unclosed.pop() {
                number
            } else {
                let Some((old, number)) = far.statements.evict(limits.0, limits.1) else { break };
                self.texts.release(old);
                number
            };
            // The mark says what to close again if an error makes the server skip it.
            let mark = u32::try_from(number + 1).unwrap_or(0);
            far.ledger.push(Expect::Close, Origin::Own, mark);
            let name = ServerName::new(number);
            actions.write(server, |out| write::close(out, b'S', name.as_bytes()));
            any = true;
        }
        any
    }

    /// The same when nothing is under way, for what was in use until now. Tells whether an answer
    /// is due.
    pub(super) fn evict_at_rest(&mut self, server: ConnId, actions: &mut Out) -> bool {
        let Some(far) = self.server_ref(server) else { return false };
        let client = far.client.and_then(|id| self.clients.get(id));
        let stays = client.is_some_and(|client| !client.pins.is_empty());
        if far.unfit && far.status == b'I' && !stays && !self.is_session_mode(far.pool) {
            // It is closed, and all that it has with it.
            return false;
        }
        let settings = &self.pools[far.pool].settings;
        let limits = (settings.prepared_statements, settings.prepared_bytes);
        if !self.evict(server, limits, actions) {
            return false;
        }
        if let Some(far) = self.server_mut(server) {
            far.ledger.push(Expect::Sync, Origin::Own, 0);
        }
        actions.write(server, write::sync);
        true
    }

    fn send_parse(&self, server: ConnId, statement: StatementId, number: u64, actions: &mut Out) {
        let (body, name) = (self.texts.body(statement), ServerName::new(number));
        let mut sent = Ok(());
        actions.write(server, |out| sent = write::parse(out, name.as_bytes(), body));
        assert!(sent.is_ok(), "a statement that is kept is far below the largest message");
    }

    /// Makes sure that a server has a statement; tells its number there.
    pub(super) fn ensure(
        &mut self,
        id: ConnId,
        server: ConnId,
        statement: StatementId,
        actions: &mut Out,
    ) -> u64 {
        let known = self.server_mut(server).and_then(|far| far.statements.get(statement));
        if let Some(number) = known {
            return number;
        }
        self.add(server, statement, actions);
        self.push(id, Expect::Parse, Origin::Own, purpose::PARSE | statement.mark());
        if let Some(pool) = self.clients.get(id).and_then(|client| client.pool) {
            self.pools[pool].stats.server_parses += 1;
        }
        self.server_mut(server).and_then(|far| far.statements.get(statement)).unwrap_or(0)
    }

    /// The same, as the name it has there.
    pub(super) fn ensure_name(
        &mut self,
        id: ConnId,
        server: ConnId,
        statement: StatementId,
        actions: &mut Out,
    ) -> ServerName {
        ServerName::new(self.ensure(id, server, statement, actions))
    }

    fn lookup(&self, id: ConnId, name: &[u8]) -> Named {
        if name.is_empty() {
            return Named::Unnamed;
        }
        let known = self.clients.get(id).and_then(|client| client.names.get(name));
        known.map_or(Named::Unknown, Named::Known)
    }

    /// The name to use on the server for a client's statement name, with its Parse in front if
    /// it is needed; none: the client's own name will do.
    fn translate(&mut self, id: ConnId, name: &[u8], actions: &mut Out) -> Option<Name> {
        let server = self.clients.get(id)?.server?;
        if self.ignored(server) {
            return None;
        }
        match self.lookup(id, name) {
            Named::Unnamed => self.ensure_unnamed(id, server, actions),
            Named::Known(statement) => {
                let hints = self.texts.hints(statement);
                if !hints.is_empty() {
                    let body = self.texts.body(statement).clone();
                    self.note_hints(id, hints, Some(super::lending::text_of(&body)));
                }
                let number = self.ensure(id, server, statement, actions);
                Some(Name::Ours(ServerName::new(number)))
            }
            Named::Unknown if name.starts_with(PREFIX) => {
                Some(Name::Other([b"no ", name].concat().into()))
            }
            Named::Unknown => None,
        }
    }

    /// Bind.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        if !self.looks(id) {
            return self.extended(now, id, message, Expect::Bind, actions);
        }
        let prefix = message.shown.get(Header::SIZE..).unwrap_or_default();
        let Some(names) = bind_names(prefix) else {
            let whole = message.body().is_some();
            if whole || prefix.len() > self.config.limits.statement_bytes_max {
                return self.malformed(now, id, message.head.tag, actions);
            }
            return Step::More;
        };
        if let Some(step) = self.need_server(now, id, actions) {
            return step;
        }
        if self.must_wait(id, names.statement, None) {
            return Step::Wait;
        }
        if let Some(pool) = self.clients.get(id).and_then(|client| client.pool) {
            self.pools[pool].stats.binds += 1;
        }
        if let Named::Known(statement) = self.lookup(id, names.statement) {
            self.take_off(id, statement, message);
        }
        let Some(name) = self.translate(id, names.statement, actions) else {
            return self.expected(id, message, Expect::Bind, actions);
        };
        let Some(server) = self.clients.get(id).and_then(|client| client.server) else {
            return Step::Over;
        };
        let start = Header::SIZE + names.end;
        let rest = message.head.total() - start;
        let mut sent = Ok(());
        actions.write(server, |out| {
            sent = write::bind_header(out, names.portal, name.as_bytes(), rest);
        });
        if let Err(error) = sent {
            return self.too_long(now, id, error, actions);
        }
        self.push(id, Expect::Bind, Origin::Client, 0);
        let shown = message.shown.len();
        if self.clients.get(id).is_some_and(|client| client.again) {
            actions.write(server, |out| out.extend_from_slice(&message.shown[start..]));
            return Step::Took(shown);
        }
        actions.forward(id, server, message.at + start, message.at + shown);
        if let Some(client) = self.clients.get_mut(id) {
            client.left = message.head.total() - shown;
            client.fate = Fate::Pass;
        }
        Step::Took(shown)
    }

    pub(super) fn too_long(
        &mut self,
        now: Instant,
        id: ConnId,
        error: FrameError,
        actions: &mut Out,
    ) -> Step {
        let message = error.to_string();
        let text = pgring_wire::backend::write::ErrorText::fatal(error.sqlstate(), &message);
        self.fatal(now, id, &text, actions);
        Step::Over
    }

    /// Describe.
    pub(super) fn describe(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        let target = match self.target(now, id, message, actions) {
            Ok(target) => target,
            Err(step) => return step,
        };
        if target.kind != b'S' {
            return self.expected(id, message, Expect::DescribePortal, actions);
        }
        if self.looks(id) && self.must_wait(id, target.name, None) {
            return Step::Wait;
        }
        let name = if self.looks(id) { self.translate(id, target.name, actions) } else { None };
        let Some(name) = name else {
            return self.expected(id, message, Expect::DescribeStatement, actions);
        };
        let Some(server) = self.clients.get(id).and_then(|client| client.server) else {
            return Step::Over;
        };
        actions.write(server, |out| write::describe(out, b'S', name.as_bytes()));
        self.push(id, Expect::DescribeStatement, Origin::Client, 0);
        Step::Took(message.shown.len())
    }

    /// Close.
    pub(super) fn close(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        let target = match self.target(now, id, message, actions) {
            Ok(target) => target,
            Err(step) => return step,
        };
        let Some(server) = self.clients.get(id).and_then(|client| client.server) else {
            return Step::Over;
        };
        if target.kind != b'S' || !self.looks(id) {
            return self.expected(id, message, Expect::Close, actions);
        }
        if self.must_wait(id, target.name, None) {
            return Step::Wait;
        }
        let known = self.clients.get(id).is_some_and(|c| c.names.get(target.name).is_some());
        if known {
            self.change_name(id, (Expect::Close, Origin::Told, 0), target.name, None);
            self.tell(server, actions);
            return Step::Took(message.shown.len());
        }
        if target.name.is_empty()
            && let Some(before) = self.forget_unnamed(id)
        {
            self.change_unnamed(id, Expect::Close, Some(before));
            return self.pass(id, message, actions);
        }
        if target.name.starts_with(PREFIX) {
            self.push(id, Expect::Close, Origin::Told, 0);
            self.tell(server, actions);
            return Step::Took(message.shown.len());
        }
        if let Some(client) = self.clients.get_mut(id).filter(|client| !client.pins.is_empty()) {
            // One prepared by SQL may be what keeps the server.
            client.hints |= Hints::UNPIN;
        }
        self.expected(id, message, Expect::Close, actions)
    }

    /// What a Describe or Close is about, once there is a server to ask.
    fn target<'a>(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'a>,
        actions: &mut Out,
    ) -> Result<Target<'a>, Step> {
        // It is never large. One that is counts as malformed, as an empty one does.
        let small = message.head.body() <= self.config.limits.statement_bytes_max;
        let body = if small { message.body() } else { Some(&[][..]) };
        let Ok(target) = Target::read(body.ok_or(Step::More)?) else {
            return Err(self.malformed(now, id, message.head.tag, actions));
        };
        self.need_server(now, id, actions).map_or(Ok(target), Err)
    }
}
