//! A client that plays random pipelines and knows every answer in advance.
//!
//! Each text carries a nonce of its own, so a row of somebody else, a row too many, one too few
//! or one in the wrong place all differ from what is expected. The model beside it follows the
//! protocol: an error skips to the next Sync, a failed transaction refuses all but its end.

use crate::dice::Dice;
use crate::message::{
    Message, bind, close, copy_data, copy_done, copy_fail, describe, execute, extended, flush,
    parse, query, sync,
};
use crate::wire::Wire;
use std::collections::BTreeMap;

/// What the player needs in the database `app`.
pub const TABLES: &str = "CREATE TABLE sink (nonce text); GRANT ALL ON sink TO PUBLIC;";

/// Where the session stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Idle,
    Transaction,
    Failed,
}

/// A pipeline: its bytes and what is to come back.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What to send.
    pub bytes: Vec<u8>,
    /// Rows, SQLSTATEs of errors, and `Z` with the status, in their order.
    pub expected: Vec<String>,
    /// How many ReadyForQuery will come.
    pub ready: usize,
    /// How many exchanges it is made of.
    pub exchanges: usize,
}

/// One client's game.
#[derive(Debug)]
pub struct Player {
    dice: Dice,
    name: String,
    sequence: u64,
    phase: Phase,
    /// An extended message since the last Sync.
    open: bool,
    /// An error since the last Sync.
    skipping: bool,
    statements: BTreeMap<usize, String>,
    setting: Option<String>,
    batch: Batch,
}

impl Player {
    /// A player with a name that nobody else has.
    pub fn new(number: usize, dice: Dice) -> Self {
        let (statements, setting) = (BTreeMap::new(), None);
        let (phase, batch) = (Phase::Idle, Batch::default());
        let name = format!("client-{number:04}");
        let (open, skipping, sequence) = (false, false, 0);
        Self { dice, name, sequence, phase, open, skipping, statements, setting, batch }
    }

    /// Forgets what belonged to the last connection.
    pub fn reconnected(&mut self) {
        self.statements.clear();
        self.setting = None;
        self.phase = Phase::Idle;
        (self.open, self.skipping) = (false, false);
    }

    /// The player's dice, for what is decided around its pipelines.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// The next nonce.
    pub fn nonce(&mut self) -> String {
        self.sequence += 1;
        format!("{}-{:08}-{:08x}", self.name, self.sequence, self.dice.roll() >> 32)
    }

    /// The next pipeline. It ends with a Sync or a simple query, and often outside of a
    /// transaction.
    pub fn batch(&mut self) -> Batch {
        self.batch = Batch::default();
        let units = 1 + self.dice.below(8);
        for _ in 0..units {
            self.unit();
            if self.dice.once_in(3) {
                self.sync();
            } else if self.open && self.dice.once_in(4) {
                self.batch.bytes.extend(flush());
            }
        }
        self.sync();
        if self.phase != Phase::Idle && !self.dice.once_in(3) {
            self.end();
        }
        std::mem::take(&mut self.batch)
    }

    fn unit(&mut self) {
        self.batch.exchanges += 1;
        if self.phase == Phase::Failed {
            return if self.dice.once_in(2) { self.end() } else { self.refused() };
        }
        match self.dice.below(16) {
            0..=2 => self.simple(),
            3 => self.simple_error(),
            4..=6 => self.extended_row(),
            7 | 8 => self.named(),
            9 => self.extended_error(),
            10 => self.portal(),
            11 => self.copy_out(),
            12 => self.copy_in(),
            13 => self.transaction(),
            14 => self.session(),
            _ => self.long(),
        }
    }

    /// Bytes of the extended protocol; what they answer counts only if nothing is skipped.
    fn send_extended(&mut self, bytes: Vec<u8>, answers: Vec<String>) {
        self.batch.bytes.extend(bytes);
        self.open = true;
        if !self.skipping {
            self.batch.expected.extend(answers);
        }
    }

    /// A simple query, or what else ends with a ReadyForQuery; skipped like all after an error.
    fn send_simple(&mut self, bytes: Vec<u8>, answers: Vec<String>, after: Phase) {
        self.batch.bytes.extend(bytes);
        if self.skipping {
            return;
        }
        self.batch.expected.extend(answers);
        self.phase = after;
        self.ready();
    }

    fn fail_extended(&mut self, bytes: Vec<u8>, answers: Vec<String>) {
        self.send_extended(bytes, answers);
        if !self.skipping && self.phase == Phase::Transaction {
            self.phase = Phase::Failed;
        }
        self.skipping = true;
    }

    fn sync(&mut self) {
        self.batch.bytes.extend(sync());
        self.skipping = false;
        self.ready();
    }

    fn ready(&mut self) {
        self.open = false;
        self.batch.ready += 1;
        let status = match self.phase {
            Phase::Idle => "Z I",
            Phase::Transaction => "Z T",
            Phase::Failed => "Z E",
        };
        self.batch.expected.push(status.to_owned());
    }

    fn simple(&mut self) {
        let nonces: Vec<_> = (0..=self.dice.below(3)).map(|_| self.nonce()).collect();
        let texts: Vec<_> = nonces.iter().map(|nonce| format!("SELECT '{nonce}'")).collect();
        self.send_simple(query(&texts.join(";")), nonces, self.phase);
    }

    fn failed(&self) -> Phase {
        if self.phase == Phase::Idle { Phase::Idle } else { Phase::Failed }
    }

    fn simple_error(&mut self) {
        let nonce = self.nonce();
        let sql = format!("SELECT '{nonce}'; SELECT 1/0; SELECT 'not {nonce}'");
        self.send_simple(query(&sql), vec![nonce, "22012".to_owned()], self.failed());
    }

    fn extended_row(&mut self) {
        let nonce = self.nonce();
        let sql = format!("SELECT '{}' || $1", &nonce[..10]);
        self.send_extended(extended(&sql, &[&nonce[10..]]), vec![nonce]);
    }

    fn named(&mut self) {
        let slot = self.dice.below(5);
        let name = format!("s{slot}");
        if self.statements.contains_key(&slot) && self.dice.once_in(4) {
            self.send_extended(close(b'S', &name), Vec::new());
            if !self.skipping {
                self.statements.remove(&slot);
            }
        }
        if !self.statements.contains_key(&slot) {
            let tag = self.nonce();
            let sql = format!("SELECT '{tag} ' || $1");
            self.send_extended(parse(&name, &sql, &[]), Vec::new());
            if !self.skipping {
                self.statements.insert(slot, tag);
            }
        }
        if self.skipping {
            return;
        }
        let nonce = self.nonce();
        let row = format!("{} {nonce}", self.statements[&slot]);
        let look = if self.dice.once_in(2) { describe(b'S', &name) } else { Vec::new() };
        let run = [look, bind("", &name, &[&nonce]), execute("", 0)].concat();
        self.send_extended(run, vec![row]);
    }

    fn extended_error(&mut self) {
        let nonce = self.nonce();
        let (bytes, code) = match self.dice.below(4) {
            0 => (extended(&format!("SELEC '{nonce}'"), &[]), "42601"),
            1 => (extended("SELECT 1 / $1::int", &["0"]), "22012"),
            2 => (bind("", "missing", &[&nonce]), "26000"),
            _ => (execute("missing", 0), "34000"),
        };
        self.fail_extended(bytes, vec![code.to_owned()]);
    }

    fn portal(&mut self) {
        let nonce = self.nonce();
        let portal = format!("p{}", self.sequence);
        let sql = format!("SELECT '{nonce} ' || generate_series(1, 5)");
        let start = [parse("", &sql, &[]), bind(&portal, "", &[])].concat();
        let rows: Vec<_> = (1..=5).map(|i| format!("{nonce} {i}")).collect();
        self.send_extended([start, execute(&portal, 2)].concat(), rows[..2].to_vec());
        if self.dice.once_in(2) {
            self.batch.bytes.extend(flush());
        }
        self.send_extended(execute(&portal, 1), rows[2..3].to_vec());
        if self.dice.once_in(2) {
            self.send_extended(execute(&portal, 0), rows[3..].to_vec());
        }
    }

    fn copy_out(&mut self) {
        let nonce = self.nonce();
        let sql = format!("COPY (SELECT '{nonce}', generate_series(1, 3)) TO STDOUT");
        let rows = (1..=3).map(|i| format!("{nonce}\t{i}\n")).collect();
        if self.dice.once_in(2) {
            self.send_extended(extended(&sql, &[]), rows);
        } else {
            self.send_simple(query(&sql), rows, self.phase);
        }
    }

    fn copy_in(&mut self) {
        // Data of a COPY that is skipped would be taken for data of nothing, which is allowed.
        let nonce = self.nonce();
        let data = copy_data(format!("{nonce}\n").as_bytes()).repeat(1 + self.dice.below(3));
        let start = query("COPY sink FROM STDIN WHERE nonce IS NULL");
        if self.dice.once_in(3) {
            let bytes = [start, data, copy_fail(&nonce)].concat();
            self.send_simple(bytes, vec!["57014".to_owned()], self.failed());
        } else {
            self.send_simple([start, data, copy_done()].concat(), Vec::new(), self.phase);
        }
    }

    fn transaction(&mut self) {
        if self.phase != Phase::Idle {
            return self.end();
        }
        self.sync();
        let nonce = self.nonce();
        let sql = format!("BEGIN; SELECT '{nonce}'");
        self.send_simple(query(&sql), vec![nonce], Phase::Transaction);
    }

    /// Ends the transaction.
    fn end(&mut self) {
        if self.skipping {
            self.sync();
        }
        let commit = self.dice.once_in(2);
        self.send_simple(query(if commit { "COMMIT" } else { "ROLLBACK" }), vec![], Phase::Idle);
    }

    /// Something that a failed transaction refuses.
    fn refused(&mut self) {
        let nonce = self.nonce();
        let sql = format!("SELECT '{nonce}'");
        let answer = vec!["25P02".to_owned()];
        if self.dice.once_in(2) {
            self.send_simple(query(&sql), answer, Phase::Failed);
        } else {
            self.fail_extended(extended(&sql, &[]), answer);
        }
    }

    /// Session state: a setting of its own, or the end of all statements.
    fn session(&mut self) {
        if self.phase != Phase::Idle || self.open {
            return self.simple();
        }
        match (self.dice.below(4), self.setting.clone()) {
            (0, _) => {
                let value = self.nonce();
                self.setting = Some(value.clone());
                self.send_simple(query(&format!("SET app.nonce = '{value}'")), vec![], Phase::Idle);
            }
            (1, _) => {
                self.statements.clear();
                self.send_simple(query("DEALLOCATE ALL"), Vec::new(), Phase::Idle);
            }
            (_, Some(value)) => {
                let look = query("SELECT current_setting('app.nonce')");
                self.send_simple(look, vec![value], Phase::Idle);
            }
            (_, None) => self.simple(),
        }
    }

    fn long(&mut self) {
        let nonce = self.nonce();
        let limit = if self.dice.once_in(10) { 5_000 } else { 200 };
        let times = 1 + self.dice.below(limit);
        let sql = format!("SELECT repeat($1, {times})");
        self.send_extended(extended(&sql, &[&nonce]), vec![nonce.repeat(times)]);
    }
}

/// What of an answer is compared: rows, COPY data, SQLSTATEs and transaction status.
pub fn telling(message: &Message) -> Option<String> {
    match message.tag {
        b'D' => Some(message.value()),
        b'd' => Some(String::from_utf8_lossy(&message.body).into_owned()),
        b'E' => Some(message.code()),
        b'Z' => Some(format!("Z {}", char::from(message.body[0]))),
        _ => None,
    }
}

/// Sends a pipeline and panics unless exactly what is expected comes back.
pub fn exchange(wire: &mut Wire, batch: &Batch) {
    wire.send(&batch.bytes);
    let mut position = 0;
    let mut ready = 0;
    while ready < batch.ready {
        let Some(message) = wire.read() else {
            panic!("closed; the next was to be {:?}", batch.expected.get(position));
        };
        ready += usize::from(message.is_ready());
        let Some(got) = telling(&message) else { continue };
        let wanted = batch.expected.get(position);
        if Some(&got) != wanted {
            let short = |text: &str| text.chars().take(200).collect::<String>();
            let wanted = wanted.map(|text| short(text));
            let detail = message.field(b'M').unwrap_or_default();
            panic!("answer {position} is {:?} {detail}, not {wanted:?}", short(&got));
        }
        position += 1;
    }
    assert_eq!(position, batch.expected.len(), "answers are missing");
}
