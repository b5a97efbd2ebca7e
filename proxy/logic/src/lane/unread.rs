//! Parse messages that are not read: too long, or of a pool that does not follow statements.

use crate::id::ConnId;
use crate::lane::aim::Aim;
use crate::lane::statements::PREFIX;
use crate::lane::traffic::{Message, Step};
use crate::lane::{Lane, Out};
use crate::ledger::Expect;
use crate::state::Pins;
use crate::time::Instant;
use pgring_wire::frame::Header;

impl Lane {
    /// Whether prepared statements of a pool's clients are followed.
    pub(super) fn follows(&self, home: usize) -> bool {
        self.pools[home].settings.prepared_statements > 0
    }

    /// What a Parse asks for whose text asks for `aim`: one that is not followed keeps its client
    /// where it is, which must not be a standby.
    pub(super) fn aim_of_parse(&self, home: usize, aim: Aim) -> Aim {
        match aim {
            Aim::Primary { .. } | Aim::Quiet | Aim::Open => aim,
            Aim::Replica | Aim::Guess | Aim::Opens | Aim::Begin if self.follows(home) => aim,
            Aim::Replica | Aim::Guess | Aim::Opens | Aim::Begin => Aim::Quiet,
        }
    }

    /// A Parse whose text is not read: it may do anything, and cannot be parsed again elsewhere.
    /// So it keeps its name, and its client the server.
    pub(super) fn parse_unread(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        actions: &mut Out,
    ) -> Step {
        if !self.watches(id) {
            self.count_parse(id);
            return self.expected(id, message, Expect::Parse, actions);
        }
        let prefix = &message.shown[Header::SIZE..];
        let Some(end) = prefix.iter().position(|&byte| byte == 0) else {
            let whole = message.body().is_some();
            if whole || prefix.len() > self.config.limits.statement_bytes_max {
                return self.malformed(now, id, message.head.tag, actions);
            }
            return Step::More;
        };
        let name = &prefix[..end];
        if name.starts_with(PREFIX) {
            return self.malformed(now, id, message.head.tag, actions);
        }
        // It may fail, and what it means to the name then depends on what is still under way.
        if self.must_wait(id, name, None) {
            return Step::Wait;
        }
        self.count_parse(id);
        let taken = self.clients.get(id).and_then(|client| client.names.get(name));
        if let Some(statement) = taken {
            self.parse_taken(id, name, statement, actions);
            return self.skip(id, message);
        }
        self.note_text(id, None);
        if let Some(client) = self.clients.get_mut(id) {
            client.pins.insert(Pins::UNKNOWN);
        }
        let server = self.clients.get(id).and_then(|client| client.server);
        if name.is_empty() && !server.is_some_and(|server| self.ignored(server)) {
            self.own_unnamed(id);
            return self.pass(id, message, actions);
        }
        self.expected(id, message, Expect::Parse, actions)
    }
}
