//! What servers answer: message by message to the client that asked, bodies unseen.
//!
//! The ledger says for every message whether somebody asked for it (invariant I1) and whether
//! that was the client or pgring. A message that fits nothing ends the connection.

use crate::action::{Level, Progress};
use crate::id::ConnId;
use crate::lane::moved::Heard;
use crate::lane::server::{Phase, Server, ServerError, purpose};
use crate::lane::{Lane, Out, all, behind, more};
use crate::ledger::{Entry, Expect, Origin};
use crate::time::Instant;
use pgring_wire::backend::{self, ErrorView, write};
use pgring_wire::frame::{Header, LENGTH_MAX};

/// Bodies up to this size are shown whole where they must be read.
const READ_MAX: usize = 1 << 20;

impl Lane {
    /// Bytes of a server.
    pub(super) fn receive_server(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let Some(far) = self.server_ref(id) else { return all(bytes) };
        match far.phase {
            Phase::Connecting | Phase::Auth(_) | Phase::Greeting | Phase::Asked => {
                self.receive_login(now, id, bytes, actions)
            }
            Phase::Idle => {
                self.violated(now, id, "an idle server said something", bytes, actions);
                all(bytes)
            }
            Phase::Busy => self.answers(now, id, bytes, actions),
            Phase::Raw => {
                if let Some(client) = far.client {
                    actions.forward(id, client, 0, bytes.len());
                }
                all(bytes)
            }
            Phase::Leaving | Phase::Gone => all(bytes),
        }
    }

    fn answers(&mut self, now: Instant, id: ConnId, bytes: &[u8], actions: &mut Out) -> Progress {
        let progress = self.read_answers(now, id, bytes, actions);
        // Who waits for an answer that has come need not wait for the rest of the next one: the
        // server may keep that until it is asked for more.
        self.cancel_now(now, id, actions);
        self.unstall(id, actions);
        // Only now, with nothing left to read: bytes behind the last answer, if any, have been
        // judged while the server was still its client's.
        if progress.consumed == bytes.len() {
            self.settle(now, id, actions);
        }
        progress
    }

    fn read_answers(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        actions: &mut Out,
    ) -> Progress {
        let mut at = 0;
        while at < bytes.len() {
            let Some(far) = self.server_mut(id) else { return all(bytes) };
            if far.is_gone() {
                return all(bytes);
            }
            if far.left > 0 {
                let len = far.left.min(bytes.len() - at);
                far.left -= len;
                let to = far.client.filter(|_| far.forward);
                self.forward_answer(id, to, at, at + len, actions);
                at += len;
                self.tell(id, actions);
                continue;
            }
            let passed = self.pass_answers(id, (at, bytes), actions);
            if passed > 0 {
                at += passed;
                continue;
            }
            let head = match self.head(now, id, (&bytes[at..], LENGTH_MAX), actions) {
                Ok(head) => head,
                Err(end) => return behind(at, end),
            };
            let shown = &bytes[at..bytes.len().min(at + head.total())];
            if shown.len() < head.total() && self.reads(id, head) {
                return more(at);
            }
            if let Some(reason) = malformed(head.tag, &shown[Header::SIZE..]) {
                self.violated(now, id, reason, shown, actions);
                return all(bytes);
            }
            self.answer(now, id, head, (at, shown), actions);
            at += shown.len();
        }
        all(bytes)
    }

    /// Whether the body of a message is looked at.
    fn reads(&self, id: ConnId, head: Header) -> bool {
        let Some(far) = self.server_ref(id) else { return false };
        if matches!(head.tag, b'T' | b't') && head.body() <= READ_MAX && self.is_counted(far) {
            return true;
        }
        let Some(entry) = far.ledger.head() else { return is_read(head, false) };
        let looks = far.inspected.is_some() || entry.mark == purpose::TEMPORARY;
        is_read(head, entry.origin == Origin::Own && looks)
    }

    /// Sends answers to a client, or nowhere.
    pub(super) fn forward_answer(
        &mut self,
        id: ConnId,
        to: Option<ConnId>,
        start: usize,
        end: usize,
        actions: &mut Out,
    ) {
        let Some(client) = to else { return };
        actions.forward(id, client, start, end);
        if let Some(pool) = self.server_ref(id).map(|far| far.pool) {
            self.pools[pool].stats.sent_bytes += (end - start) as u64;
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        id: ConnId,
        head: Header,
        (at, shown): (usize, &[u8]),
        actions: &mut Out,
    ) {
        let mut skipped = core::mem::take(&mut self.skipped);
        skipped.clear();
        let Some(far) = self.server_mut(id) else { return };
        let answer = far.ledger.answer(head.tag, &mut skipped);
        let body = shown.get(Header::SIZE..).unwrap_or_default();
        match answer {
            Ok(answer) => {
                let whose = answer.entry;
                let cured = match head.tag {
                    b'E' => self.is_curable(id, body, whose) || self.is_moving(id, body, whose),
                    b'Z' => {
                        self.is_failed_flight(id)
                            || self.is_failed_reading(id)
                            || self.is_refused(id, body)
                    }
                    b'C' => self.holds_begin(id, body),
                    b'N' => self.is_farewell(id, body),
                    _ => false,
                };
                let mut forward = !cured && self.is_clients(id, head, whose, &skipped);
                if forward && head.tag == b'E' && self.rename_error(id, body, actions) {
                    forward = false;
                }
                if forward {
                    match self.counts(id, head.tag, body) {
                        Heard::New => {}
                        Heard::Before => forward = false,
                        Heard::Otherwise => return self.hears_otherwise(now, id, actions),
                    }
                }
                let Some(far) = self.server_mut(id) else { return };
                far.left = head.total() - shown.len();
                far.forward = forward;
                let to = far.client.filter(|_| forward);
                if let (Some(client), Some(tag)) = (to, far.begun.take_if(|_| forward)) {
                    actions.write(client, |out| write::command_complete(out, tag));
                }
                self.forward_answer(id, to, at, at + shown.len(), actions);
                self.unsay(id, &skipped);
                if let Some(entry) = answer.entry.filter(|_| answer.done && head.tag != b'E') {
                    self.confirm(id, entry);
                }
                self.look(now, id, head.tag, body, whose, actions);
                self.let_go(now, id, actions);
            }
            Err(_) if head.tag == b'E' => self.last_word(now, id, head, (at, shown), actions),
            Err(violation) => {
                let text = format!(
                    "message '{}' answers nothing (due: {:?})",
                    violation.tag.escape_ascii(),
                    violation.due
                );
                self.violated(now, id, &text, shown, actions);
            }
        }
        self.skipped = skipped;
    }

    /// Whether the client gets a message. What comes of itself is the client's, unless it comes
    /// of a query of our own: that tells the client nothing it does not know. An error of a
    /// Parse on its behalf is the client's.
    fn is_clients(
        &self,
        id: ConnId,
        head: Header,
        whose: Option<Entry>,
        skipped: &[Entry],
    ) -> bool {
        match (head.tag, whose) {
            (b'E', Some(entry)) => {
                entry.origin == Origin::Client
                    || entry.mark & purpose::PARSE != 0
                    || skipped.iter().any(|other| other.origin == Origin::Client)
            }
            (_, Some(entry)) => entry.origin == Origin::Client,
            (b'A', None) => true,
            (_, None) => {
                let head = self.server_ref(id).and_then(|far| far.ledger.head());
                head.is_none_or(|entry| {
                    entry.origin != Origin::Own
                        || entry.expect == Expect::Query && entry.mark == purpose::RESTORE
                })
            }
        }
    }

    /// Looks at the messages that mean something to pgring.
    fn look(
        &mut self,
        now: Instant,
        id: ConnId,
        tag: u8,
        body: &[u8],
        whose: Option<Entry>,
        actions: &mut Out,
    ) {
        match tag {
            b'S' => match self.reported(id, body) {
                Some(true) => self.suspect(id, body),
                Some(false) => {}
                None => {
                    let reason = "too many parameters reported";
                    return self.violated(now, id, reason, body, actions);
                }
            },
            b'G' if self.is_left_copying(now, id, actions) => return,
            b'E' => self.erred(id, body, whose, actions),
            b'C' => self.completed(id, body, whose),
            b'D' => self.row(id, body, whose),
            b'Z' => return self.ready(now, id, body, whose, actions),
            _ => {}
        }
        self.tell(id, actions);
    }

    /// An error: kept if it answers a query of ours.
    #[cold]
    fn erred(&mut self, id: ConnId, body: &[u8], whose: Option<Entry>, actions: &mut Out) {
        let view = ErrorView::new(body);
        let Some(far) = self.server_mut(id) else { return };
        far.note_error(body, far.forward && far.client.is_some());
        if far.client.is_none() && far.ledger.is_skipping() {
            // The Sync its client can no longer send.
            far.ledger.push(Expect::Sync, Origin::Own, 0);
            actions.write(id, pgring_wire::client::write::sync);
        }
        let Some(far) = self.server_ref(id) else { return };
        let client = far.client.and_then(|client| self.clients.get_mut(client));
        if let Some(mark) = client.and_then(|client| client.mark.as_mut()) {
            mark.doubt();
        }
        let Some(far) = self.server_mut(id) else { return };
        let Some(entry) = whose.filter(|entry| entry.origin == Origin::Own) else { return };
        if entry.expect != Expect::Query || entry.mark == purpose::QUIET {
            return;
        }
        let text =
            |field: Option<&[u8]>| String::from_utf8_lossy(field.unwrap_or(b"")).into_owned();
        let error = ServerError { code: text(view.code()), message: text(view.message()) };
        far.error = Some(Box::new(error));
    }

    /// `ReadyForQuery`.
    fn ready(
        &mut self,
        now: Instant,
        id: ConnId,
        body: &[u8],
        whose: Option<Entry>,
        actions: &mut Out,
    ) {
        let Ok(status) = backend::ready_status(body) else { return };
        let Some(far) = self.server_mut(id) else { return };
        far.status = status;
        if self.is_failed_flight(id) {
            self.rerun(id, actions);
            return;
        }
        if self.is_failed_reading(id) {
            return self.leave_replica(now, id, actions);
        }
        if let Some(entry) = whose {
            match entry.origin {
                Origin::Own => self.own_done(now, id, entry.mark, actions),
                Origin::Client => self.exchange_done(now, id),
                Origin::Told => {}
            }
        }
        if self.is_refused(id, body) {
            return self.refuse_transaction(now, id, actions);
        }
        self.tell(id, actions);
    }

    /// Gives the answers that are pgring's to give and whose turn has come.
    pub(super) fn tell(&mut self, server: ConnId, actions: &mut Out) {
        // Never into the middle of an answer.
        while let Some(far) = self.server_mut(server).filter(|far| far.left == 0)
            && let Some(entry) = far.ledger.tell()
        {
            let Some(client) = far.client else { continue };
            let tag = if entry.expect == Expect::Close { b'3' } else { b'1' };
            if self.counts(server, tag, b"") != Heard::New {
                self.confirm(server, entry);
                continue;
            }
            if let Some(tag) = self.server_mut(server).and_then(|far| far.begun.take()) {
                actions.write(client, |out| write::command_complete(out, tag));
            }
            match entry.expect {
                Expect::Parse => actions.write(client, write::parse_complete),
                Expect::Close => actions.write(client, write::close_complete),
                Expect::Query
                | Expect::Bind
                | Expect::DescribeStatement
                | Expect::DescribePortal
                | Expect::Execute
                | Expect::Sync
                | Expect::Call
                | Expect::CopyEnd => {}
            }
            self.confirm(server, entry);
        }
    }

    /// An invariant does not hold: the place in this conversation is lost, so it ends.
    #[cold]
    pub(super) fn violated(
        &mut self,
        now: Instant,
        id: ConnId,
        reason: &str,
        bytes: &[u8],
        actions: &mut Out,
    ) {
        // A server that says goodbye while idle is no violation.
        let goodbye = matches!(bytes.first(), Some(b'E' | b'N' | b'S'))
            && self.server_ref(id).is_some_and(|far| matches!(far.phase, Phase::Idle));
        // Where the client itself has made the place doubtful (a Sync amid its COPY data), this
        // is how the doubt ends.
        let doubted = self.server_ref(id).is_some_and(|far| far.ledger.is_doubtful());
        if !goodbye && !doubted {
            self.violations += 1;
            let pid = self.server_ref(id).map_or(0, |far| far.pid);
            actions.note(Level::Error, format!("server {pid} closed: {reason}"));
        }
        self.server_lost(now, id, reason, actions);
    }

    /// Whether a server must not be used any more.
    pub(super) fn is_spent(far: &Server) -> bool {
        far.unfit || far.dying || far.ledger.is_doubtful()
    }
}

/// What is wrong with a message that pgring must understand; no client is to see it then.
fn malformed(tag: u8, body: &[u8]) -> Option<&'static str> {
    match tag {
        b'S' if backend::parameter_status(body).is_err() => Some("malformed ParameterStatus"),
        b'Z' if backend::ready_status(body).is_err() => Some("malformed ReadyForQuery"),
        _ => None,
    }
}

/// Whether a body is collected to be looked at; `inspects`: rows are. A larger one is not: where
/// it had to be, what is shown of it is malformed, and the server is closed (invariant I6).
fn is_read(head: Header, inspects: bool) -> bool {
    let looked_at = match head.tag {
        b'Z' | b'S' | b'E' | b'C' => true,
        b'D' => inspects,
        _ => false,
    };
    looked_at && head.body() <= READ_MAX
}

#[cfg(test)]
mod tests {
    use super::is_read;
    use crate::lane::trial::{ANSWERED, Trial, error, query};
    use crate::time::Duration;
    use pgring_wire::client::write;
    use pgring_wire::frame::{Header, LENGTH_MAX};

    /// `PostgreSQL` sends 8 KiB when it has them, wherever that cuts a message, and what follows
    /// only at a Flush or Sync: it waits for the client, who must not wait for it.
    #[test]
    fn who_waits_for_an_answer_is_not_kept_by_the_beginning_of_the_next() {
        let mut trial = Trial::start("");
        trial.client_says(&query("SELECT 0"));
        trial.server_says(&ANSWERED.repeat(2));
        let mut said = Vec::new();
        write::parse(&mut said, b"s", b"SELECT 1\0\0\0").expect("it is short");
        write::sync(&mut said);
        write::parse(&mut said, b"", b"SELECT wide()\0\0\0").expect("it is short");
        write::bind(&mut said, b"", b"");
        write::execute(&mut said, b"");
        let before = said.len();
        write::bind(&mut said, b"", b"s");
        assert_eq!(trial.client_says(&said), before, "the Parse of s may yet fail");
        let cut = b"1\0\0\0\x04Z\0\0\0\x05I1\0\0\0\x042\0\0";
        assert_eq!(trial.server_begins(cut), cut.len() - 3);
        assert!(trial.is_resumed());
    }

    #[test]
    fn a_hostile_server_cannot_make_a_lane_collect_a_gigabyte() {
        for tag in *b"ZSECD" {
            assert!(is_read(Header { tag, length: 6 }, true), "{tag}");
            assert!(!is_read(Header { tag, length: LENGTH_MAX }, true), "{tag}");
        }
        assert!(!is_read(Header { tag: b'D', length: 6 }, false), "rows of clients pass unseen");
    }

    /// The end of its data is ahead of a COPY that does not start.
    #[test]
    fn a_copy_that_fails_leaves_nothing_running() {
        for code in ["42P01", "57014"] {
            let mut trial = Trial::start("pool.query_timeout = \"1s\"");
            trial.client_says(&query("SELECT 0"));
            trial.server_says(&ANSWERED.repeat(2));
            let data = [&b"d\0\0\0\x061\n"[..], b"c\0\0\0\x04"].concat();
            trial.client_says(&[query("COPY nosuch FROM STDIN"), data].concat());
            trial.server_says(&[&error(code)[..], b"Z\0\0\0\x05I"].concat());
            trial.wait(Duration::from_secs(5));
            assert!(!trial.closes(trial.client), "nothing of it runs");
            // Nor does what was ahead of it cast doubt on the next one.
            trial.client_says(&query("SELECT 0"));
            trial.server_says(ANSWERED);
            let mut copy = Vec::new();
            write::parse(&mut copy, b"", b"COPY t FROM STDIN\0\0\0").expect("short");
            write::bind(&mut copy, b"", b"");
            write::execute(&mut copy, b"");
            write::sync(&mut copy);
            trial.client_says(&copy);
            trial.server_says(b"1\0\0\0\x042\0\0\0\x04G\0\0\0\x07\0\0\0");
            let server = trial.server;
            let far = trial.lane.server_ref(server).expect("it is its client's");
            assert!(far.ledger.is_copying_in() && !far.ledger.is_doubtful());
        }
    }

    /// In statement mode a BEGIN is held back: what pgring says itself comes behind it.
    #[test]
    fn what_pgring_tells_does_not_overtake_a_begin_that_is_held() {
        let mut trial = Trial::start("pool.mode = \"statement\"");
        trial.client_says(&query("SELECT 0"));
        trial.server_says(&ANSWERED.repeat(2));
        let mut said = Vec::new();
        write::parse(&mut said, b"s", b"SELECT 1\0\0\0").expect("short");
        write::sync(&mut said);
        trial.client_says(&said);
        trial.server_says(b"1\0\0\0\x04Z\0\0\0\x05I");
        let mut said = Vec::new();
        write::parse(&mut said, b"", b"BEGIN\0\0\0").expect("short");
        write::bind(&mut said, b"", b"");
        write::execute(&mut said, b"");
        write::close(&mut said, b'S', b"s");
        trial.client_says(&said);
        trial.server_says(b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0aBEGIN\0");
        let told = trial.said_to(trial.client);
        assert_eq!(told, b"C\0\0\0\x0aBEGIN\x003\0\0\0\x04", "{}", told.escape_ascii());
    }
}
