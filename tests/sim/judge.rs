//! What a client receives, compared with what it would have received without pgring.

use crate::client::{Life, Phase};
use crate::link::SEC;
use crate::message::{Message, Reader};
use crate::session::{Fault, Tx};
use crate::sql::owner;
use crate::world::World;
use pgring_logic::config::PoolMode;

/// Parameters whose value a client must always know.
const FOLLOWED: [&str; 5] =
    ["application_name", "client_encoding", "DateStyle", "standard_conforming_strings", "TimeZone"];

impl Life {
    /// Takes messages in hand until there is something to wait for.
    pub(crate) fn settle(&mut self) {
        while self.expected.is_empty() {
            let Some(message) = self.queue.pop_front() else { return };
            if !matches!(message.tag, b'd' | b'H') {
                self.before = self.session.clone();
                self.hand = Some(message.clone());
            }
            let mut answers = Vec::new();
            self.session.feed(&message, &mut answers);
            // Parameters may be told earlier or later; `ready` compares what counts.
            self.expected.extend(answers.into_iter().filter(|answer| answer.tag != b'S'));
        }
    }

    /// Pgring or a server refused what is in hand.
    fn refused_by(&mut self) {
        self.session = self.before.clone();
        let fault = Fault("57000", String::new());
        let answers = self.session.refuse(self.hand.as_ref(), &fault);
        self.expected = answers.into_iter().filter(|answer| answer.tag != b'S').collect();
        // The error itself has come.
        self.expected.pop_front();
        self.doubtful = true;
    }
}

/// Rows are equal; a parameter that was never set and one that is empty are the same to us.
fn same(expected: &Message, got: &Message) -> bool {
    if expected == got {
        return true;
    }
    if expected.tag != got.tag {
        return false;
    }
    match expected.tag {
        b'E' => expected.field(b'C') == got.field(b'C'),
        b'D' => {
            let (mut left, mut right) = (Reader::new(&expected.body), Reader::new(&got.body));
            let count = left.short();
            if count != right.short() {
                return false;
            }
            (0..count.unwrap_or(0)).all(|_| cell(&mut left) == cell(&mut right))
        }
        _ => false,
    }
}

/// Whether an answer is more than a preface, which is not said twice.
fn tells(tag: u8) -> bool {
    matches!(tag, b'D' | b'C' | b'd' | b'H' | b'c' | b'I' | b's' | b'E')
}

fn cell(reader: &mut Reader<'_>) -> Vec<u8> {
    let length = reader.long().unwrap_or(u32::MAX);
    if length == u32::MAX {
        return Vec::new();
    }
    reader.take(length as usize).unwrap_or_default().to_vec()
}

impl World {
    /// A client receives a message.
    pub(crate) fn client_judges(&mut self, number: usize, message: &Message) {
        let Some(life) = self.clients[number].life.as_mut() else { return };
        let id = life.number;
        self.oracle.answers += 1;
        let said = String::from_utf8_lossy(&message.body);
        let whose = owner(&said);
        if whose.is_some_and(|whose| whose != id)
            && !matches!(message.tag, b'S' | b'K' | b't' | b'T')
        {
            let brief = message.brief();
            return self.violate(format!("c{id} receives what is another's: {brief}"));
        }
        if life.refused {
            let brief = message.brief();
            return self.violate(format!("c{id} receives {brief} after a FATAL error"));
        }
        match message.tag {
            b'N' => {}
            b'S' => {
                let mut reader = Reader::new(&message.body);
                let (name, value) = (reader.text(), reader.text());
                life.told.insert(name.unwrap_or_default(), value.unwrap_or_default());
            }
            b'A' => {
                let mut reader = Reader::new(&message.body);
                reader.long();
                let channel = reader.text().unwrap_or_default();
                if !channel.starts_with(&format!("ch{id}_")) {
                    self.violate(format!("c{id} is notified on {channel}"));
                }
            }
            b'E' if message.field(b'V').is_some_and(|level| level != "ERROR") => {
                life.refused = true;
                let code = message.field(b'C').unwrap_or_default();
                self.client_refused(number, &code, message);
            }
            _ if life.phase == Phase::Login => self.client_login(number, message),
            _ => self.client_compares(number, message),
        }
    }

    fn client_login(&mut self, number: usize, message: &Message) {
        let Some(life) = self.clients[number].life.as_mut() else { return };
        let id = life.number;
        match message.tag {
            b'R' => self.client_proves(number, &message.body),
            b'v' => {}
            b'K' => {
                let mut reader = Reader::new(&message.body);
                life.key = Some((reader.long().unwrap_or(0), reader.rest().to_vec()));
            }
            b'Z' if message.body == b"I" && life.key.is_some() => {
                life.phase = Phase::Talk;
                // What it has said meanwhile may have changed them.
                if life.queue.is_empty() && life.expected.is_empty() {
                    self.client_knows(number);
                }
                self.client_answered(number);
            }
            _ => {
                let brief = message.brief();
                self.violate(format!("c{id} receives {brief} while logging in"));
            }
        }
    }

    /// At `ReadyForQuery`, outside of transactions: does the client know its parameters?
    fn client_knows(&mut self, number: usize) {
        let Some(life) = &self.clients[number].life else { return };
        if life.reset {
            return;
        }
        for name in FOLLOWED {
            let (told, real) = (life.told.get(name), life.session.setting(name));
            if told != real {
                let text =
                    format!("c{} was told {name} = {told:?}, but it is {real:?}", life.number);
                return self.violate(text);
            }
        }
    }

    fn client_compares(&mut self, number: usize, message: &Message) {
        let now = self.now;
        let Some(life) = self.clients[number].life.as_mut() else { return };
        let Some(expected) = life.expected.front() else {
            let text = format!("c{} receives {}, but asked nothing", life.number, message.brief());
            return self.violate(text);
        };
        // In a failed transaction a Parse in front of a Bind fails before what is wrong with it.
        let aborted = life.before.tx == Tx::Failed
            && expected.tag == b'E'
            && message.field(b'C').as_deref() == Some("25P02");
        if aborted || same(expected, message) {
            life.expected.pop_front();
            life.heard = !matches!(message.tag, b'Z') && (life.heard || tells(message.tag));
            if message.tag == b'Z' {
                // Whoever waits for the next one begins to wait now.
                life.asked = Some(now);
            }
            let ready = message.tag == b'Z' && message.body == b"I" && life.expected.is_empty();
            if ready && life.session.tx == Tx::Idle {
                self.client_knows(number);
            }
            return self.client_goes_on(number);
        }
        if message.tag == b'E' {
            let code = message.field(b'C').unwrap_or_default();
            self.client_refused(number, &code, message);
            return self.client_goes_on(number);
        }
        // A transaction may be lost with its server; then it is over.
        if life.doubtful && expected.tag == b'Z' && message.tag == b'Z' && message.body == b"I" {
            life.session.lose_transaction();
            life.expected.pop_front();
            return self.client_goes_on(number);
        }
        let text = format!(
            "c{} receives {}, expected {} (for {:?})",
            life.number,
            message.brief(),
            expected.brief(),
            life.hand.as_ref().map(Message::brief)
        );
        self.violate(text);
    }

    fn client_goes_on(&mut self, number: usize) {
        if let Some(life) = self.clients[number].life.as_mut() {
            life.settle();
        }
        self.client_answered(number);
    }

    /// A client is refused something that `PostgreSQL` would not have refused: is there a reason?
    fn client_refused(&mut self, number: usize, code: &str, message: &Message) {
        let (now, wait) = (self.now, self.plan.wait_timeout);
        let peaceful = self.plan.peaceful();
        let shreds = self.plan.weather.shreds > 0;
        let single = self.plan.mode == PoolMode::Statement;
        let session = self.plan.mode == PoolMode::Session;
        let Some(life) = self.clients[number].life.as_mut() else { return };
        let id = life.number;
        let moving = self.plan.is_moving(&life.pool.0);
        let waited = life.asked.map_or(0, |asked| now - asked);
        let lasting = waited >= wait / 10 * 9;
        let cancelled = life.cancelled.is_some_and(|sent| now < sent + 10 * SEC);
        // Between two rounds, or before what is in hand.
        let tx = if life.expected.is_empty() { life.session.tx } else { life.before.tx };
        let excused = match code {
            "57014" => cancelled || lasting,
            // Only where it cannot be run again unseen; in session mode nothing is (seed 9371).
            "0A000" => session || shreds || !life.plain || life.before.tx != Tx::Idle,
            // Nothing can be parsed there, also not what is only to be described.
            "25P02" => life.before.tx == Tx::Failed,
            // A Query refused in the queue has, or has not, dropped the unnamed statement.
            "26000" => life.doubtful,
            // A transaction in statement mode.
            "08P01" => single && life.session.tx != Tx::Idle,
            "28P01" => life.login.wrong,
            // The database is gone, before the login or after it.
            "3D000" => moving && life.phase == Phase::Login,
            "57P01" if moving => true,
            _ if lasting => matches!(&code[..2], "53" | "57" | "08"),
            _ if !matches!(&code[..2], "08" | "53" | "57" | "58") => false,
            // A standby that fails is nothing to anybody who is not in the middle of something.
            _ if self.plan.spared => !peaceful && (tx != Tx::Idle || life.heard),
            _ => !peaceful,
        };
        self.oracle.refusals += 1;
        if !excused {
            let text = format!(
                "c{id} is refused without a reason after {} ms: {} (in hand: {:?})",
                waited / 1_000_000,
                message.brief(),
                life.hand.as_ref().map(Message::brief)
            );
            return self.violate(text);
        }
        if !life.refused {
            life.refused_by();
        }
    }
}
