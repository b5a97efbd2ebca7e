//! What clients say: random rounds of messages, each with nonces of its own.

use crate::client::Life;
use crate::dice::Dice;
use crate::message::{Message, text};
use crate::session::Tx;
use crate::sql::Stmt;

/// Texts that many clients prepare: same text, other names. How many parameters they have.
const SHARED: [(&str, usize); 8] = [
    ("SELECT $1 FROM shifting", 1),
    ("SELECT $1", 1),
    ("SELECT $1, 'x', $2", 2),
    ("SELECT rows(7, $1)", 1),
    ("SELECT $1 /* two */", 1),
    ("INSERT INTO t VALUES ($1)", 1),
    ("SHOW search_path", 0),
    ("SELECT wide(3000, $1)", 1),
];

mod reads;

/// What clients of a story do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits<'told> {
    pub(crate) pins: bool,
    pub(crate) mistakes: bool,
    /// Transactions of several statements are refused.
    pub(crate) single: bool,
    /// Reads may go to standbys.
    pub(crate) routed: bool,
    /// An insert that reads of this client must show, if there is one.
    pub(crate) known: Option<&'told str>,
}

/// The next round of a life: it ends with something that makes the server answer.
pub(crate) fn round(life: &mut Life, dice: &mut Dice, habits: Habits<'_>) -> Vec<Message> {
    let mut writer = Writer { life, dice, habits, closed: Vec::new(), out: Vec::new() };
    writer.round();
    writer.out
}

/// A simple query.
fn query(sql: &str) -> Message {
    Message::new(b'Q', text(sql))
}

fn parse(name: &str, sql: &str) -> Message {
    Message::new(b'P', [text(name), text(sql), vec![0, 0]].concat())
}

fn bind(portal: &str, name: &str, values: &[String]) -> Message {
    let mut body = [text(portal), text(name), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).expect("few parameters").to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short values").to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    Message::new(b'B', body)
}

fn named(tag: u8, kind: u8, name: &str) -> Message {
    Message::new(tag, [vec![kind], text(name)].concat())
}

fn execute(portal: &str, most: u32) -> Message {
    Message::new(b'E', [text(portal), most.to_be_bytes().to_vec()].concat())
}

struct Writer<'life> {
    life: &'life mut Life,
    dice: &'life mut Dice,
    habits: Habits<'life>,
    /// Names closed in this round.
    closed: Vec<String>,
    out: Vec<Message>,
}

impl Writer<'_> {
    fn nonce(&mut self) -> String {
        self.life.nonce += 1;
        format!("c{}.{}", self.life.number, self.life.nonce)
    }

    fn say(&mut self, message: Message) {
        self.out.push(message);
    }

    fn sync(&mut self) {
        self.say(Message::new(b'S', []));
    }

    fn round(&mut self) {
        if self.life.session.copying.is_some() {
            return self.data();
        }
        let session = &self.life.session;
        let open = session.tx == Tx::Idle && session.before.is_some();
        if session.skipping || open && self.dice.chance(60) {
            self.sync();
        }
        let tx = self.life.session.tx;
        let lost = tx == Tx::Failed && !self.habits.mistakes;
        if tx != Tx::Idle && (lost || self.dice.chance(35)) {
            return self.end();
        }
        if self.reads() {
            return;
        }
        match self.dice.below(100) {
            0..24 => self.simple(),
            24..52 => self.pipeline(),
            52..60 if tx == Tx::Idle && (!self.habits.single || self.dice.chance(15)) => {
                self.begin();
            }
            52..72 => self.settings(),
            72..78 => self.copy(),
            78..83 => self.fails(),
            83..90 => self.sleep(),
            90..94 => self.big(),
            94..98 => self.insert(),
            _ if self.habits.pins => self.pin(),
            _ => self.say(query("")),
        }
    }

    fn simple(&mut self) {
        let nonce = self.nonce();
        let sql = match self.dice.below(6) {
            0 => format!("SELECT '{nonce}'; SELECT '{}'", self.nonce()),
            1 => format!("SELECT 'a;b', '{nonce}' -- no more\n"),
            2 => format!("/* hello */ SELECT '{nonce}', NULL;"),
            _ => format!("SELECT '{nonce}'"),
        };
        if self.dice.chance(4) {
            return self.call(&nonce);
        }
        self.say(query(&sql));
        if self.dice.chance(15) {
            self.simple();
        }
    }

    /// A function call: the oldest way to ask.
    fn call(&mut self, nonce: &str) {
        let mut body = vec![0, 0, 4, 210, 0, 0, 0, 1];
        body.extend(u32::try_from(nonce.len()).expect("short nonces").to_be_bytes());
        body.extend(nonce.as_bytes());
        self.say(Message::new(b'F', body));
    }

    fn begin(&mut self) {
        let mark = self.nonce();
        if self.habits.single && self.dice.chance(60) {
            // A whole transaction in one text is one statement.
            let nonce = self.nonce();
            return self.say(query(&format!("BEGIN; SELECT '{nonce}'; COMMIT")));
        }
        match self.dice.below(4) {
            0 => {
                let nonce = self.nonce();
                self.say(query(&format!("BEGIN; SELECT '{nonce}'")));
            }
            1 => {
                self.say(parse("", "BEGIN"));
                self.say(bind("", "", &[]));
                self.say(execute("", 0));
                self.sync();
            }
            2 => {
                // The whole transaction in one flight.
                self.say(query(&format!("BEGIN /* {mark} */")));
                self.simple();
                self.end();
            }
            _ => self.say(query(&format!("begin /* {mark} */"))),
        }
    }

    fn end(&mut self) {
        let verb = *self.dice.pick(&["COMMIT", "ROLLBACK", "end"]);
        if self.dice.chance(25) {
            self.say(parse("", verb));
            self.say(bind("", "", &[]));
            self.say(execute("", 0));
            self.sync();
        } else {
            self.say(query(verb));
        }
    }

    fn settings(&mut self) {
        let nonce = self.nonce();
        let (name, value) = *self.dice.pick(&[
            ("app.x", "one"),
            ("app.x", "two"),
            ("app.y", "it''s"),
            ("search_path", "s1, public"),
            ("work_mem", "8MB"),
            ("application_name", "app9"),
            ("TimeZone", "Europe/Paris"),
            ("statement_timeout", "5s"),
        ]);
        let value = if name == "search_path" { value.to_owned() } else { format!("'{value}'") };
        let idle = self.life.session.tx == Tx::Idle && self.life.session.before.is_none();
        match self.dice.below(20) {
            0..7 => self.say(query(&format!("SET {name} TO {value} /* {nonce} */"))),
            7..9 => self.say(query(&format!("SET LOCAL {name} = {value}"))),
            9..11 => {
                let value = if value.starts_with('\'') { value } else { format!("'{value}'") };
                let sql = format!("SELECT set_config('{name}', {value}, false), '{nonce}'");
                self.say(query(&sql));
            }
            // In a transaction a parameter falls back to its startup value only at the end of it.
            11 if idle => return self.reset(&format!("RESET {name}")),
            12 if idle && self.dice.chance(30) => return self.reset("RESET ALL"),
            13 if idle && self.dice.chance(40) => return self.reset("DISCARD ALL"),
            14 => {
                self.say(parse("", &format!("SET {name} TO {value}")));
                self.say(bind("", "", &[]));
                self.say(execute("", 0));
                self.sync();
            }
            _ => {}
        }
        if name.contains('.') {
            let nonce = self.nonce();
            self.say(query(&format!("SELECT current_setting('{name}', true), '{nonce}'")));
        } else {
            self.say(query(&format!("SHOW {name} /* {nonce} */")));
        }
    }

    fn reset(&mut self, sql: &str) {
        self.life.reset = true;
        self.say(query(sql));
    }

    fn copy(&mut self) {
        let nonce = self.nonce();
        let extended = self.dice.chance(40);
        if self.dice.chance(50) {
            let count = self.dice.range(1, 30);
            let sql = format!("COPY (SELECT rows({count}, '{nonce}')) TO STDOUT");
            if extended {
                self.say(parse("", &sql));
                self.say(bind("", "", &[]));
                self.say(execute("", 0));
                self.sync();
            } else {
                self.say(query(&sql));
            }
            return;
        }
        let sql = format!("COPY t FROM STDIN /* {nonce} */");
        if !extended {
            self.say(query(&sql));
            if self.dice.chance(40) {
                self.data();
            }
            return;
        }
        self.say(parse("", &sql));
        self.say(bind("", "", &[]));
        self.say(execute("", 0));
        self.data();
        if self.life.session.copying.is_none() {
            self.sync();
        }
    }

    fn data(&mut self) {
        let count = self.dice.below(20);
        for _ in 0..count {
            let nonce = self.nonce();
            self.say(Message::new(b'd', format!("{nonce}\n").into_bytes()));
        }
        if self.dice.chance(15) {
            self.say(Message::new(b'f', text("no more")));
        } else {
            self.say(Message::new(b'c', []));
        }
        if self.life.session.copying == Some(true) {
            self.sync();
        }
    }

    fn fails(&mut self) {
        let nonce = self.nonce();
        let sql = match self.dice.below(3) {
            0 => format!("SELECT '{nonce}'; SELECT fail('{nonce}'); SELECT 'never'"),
            1 => format!("NONSENSE /* {nonce} */"),
            _ => format!("SELECT fail('{nonce}')"),
        };
        self.say(query(&sql));
    }

    fn sleep(&mut self) {
        let (nonce, time) = (self.nonce(), self.dice.range(1, 60));
        let sql = format!("SELECT sleep({time}, '{nonce}')");
        if self.dice.chance(40) {
            self.say(parse("", &sql));
            self.say(bind("", "", &[]));
            self.say(execute("", 0));
            self.sync();
        } else {
            self.say(query(&sql));
        }
    }

    fn big(&mut self) {
        let nonce = self.nonce();
        let sql = if self.dice.chance(50) {
            format!("SELECT rows({}, '{nonce}')", self.dice.range(10, 400))
        } else {
            format!("SELECT wide({}, '{nonce}')", self.dice.range(1000, 60_000))
        };
        self.say(query(&sql));
    }

    fn insert(&mut self) {
        let nonce = self.nonce();
        self.say(query(&format!("INSERT INTO t VALUES ('{nonce}')")));
    }

    fn pin(&mut self) {
        let (nonce, number) = (self.nonce(), self.life.number);
        let name = format!("q{}", self.dice.below(2));
        let known = self.life.session.prepared.contains_key(&name);
        let sql = match self.dice.below(9) {
            0 => format!("LISTEN ch{number}_a"),
            1 => "UNLISTEN *".to_owned(),
            2 => format!("SELECT pg_advisory_lock(1), '{nonce}'"),
            3 => format!("SELECT pg_advisory_unlock_all(), '{nonce}'"),
            4 => format!("CREATE TEMP TABLE t{number} (x int) /* {nonce} */"),
            5 if known => format!("EXECUTE {name}('{nonce}')"),
            6 if known => format!("DEALLOCATE {name}"),
            5..8 => format!("PREPARE {name} AS SELECT $1, '{nonce}'"),
            _ => return self.reset("DISCARD ALL"),
        };
        self.say(query(&sql));
    }

    fn pipeline(&mut self) {
        let units = self.dice.range(1, 4);
        for _ in 0..units {
            let parts = self.dice.range(1, 3);
            for _ in 0..parts {
                self.part();
            }
            match self.dice.below(20) {
                0 => self.say(Message::new(b'H', [])),
                1 => {
                    let nonce = self.nonce();
                    self.say(query(&format!("SELECT '{nonce}'")));
                }
                _ => self.sync(),
            }
        }
        let flush = self.dice.chance(12);
        let last =
            self.out.last().is_some_and(|last| matches!(last.tag, b'S' | b'Q' | b'H' | b'F'));
        if flush && !last {
            self.say(Message::new(b'H', []));
        } else if !last {
            self.sync();
        }
    }

    fn values(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.nonce()).collect()
    }

    /// Something prepared, bound, described, executed, closed.
    fn part(&mut self) {
        let mistakes = self.habits.mistakes;
        let known: Vec<(String, usize)> = self
            .life
            .session
            .prepared
            .iter()
            .filter(|(name, statement)| {
                let first = statement.list.first();
                // What is asked with `seen` must be there.
                let apart = first.is_some_and(|it| *it == Stmt::CopyIn || it.sees());
                !statement.from_sql && !apart && (mistakes || !self.closed.contains(*name))
            })
            .map(|(name, statement)| (name.clone(), statement.parameters))
            .collect();
        if !known.is_empty() && self.dice.chance(45) {
            let (name, parameters) = self.dice.pick(&known).clone();
            return self.reuse(&name, parameters);
        }
        let (sql, parameters) = *self.dice.pick(&SHARED);
        let name = if self.dice.chance(50) {
            self.life.nonce += 1;
            format!("s{}", self.life.nonce)
        } else {
            String::new()
        };
        let first = if self.habits.mistakes { 0 } else { 2 };
        match self.dice.range(first, 13) {
            0 => {
                // There is no such statement.
                let values = self.values(1);
                self.say(bind("", "missing", &values));
                self.say(execute("", 0));
            }
            1 => self.say(parse(&name, "NONSENSE")),
            2 => self.say(parse(&name, sql)),
            3 => {
                self.say(parse(&name, sql));
                self.say(named(b'D', b'S', &name));
            }
            4 if self.habits.mistakes => {
                let nonce = self.nonce();
                self.say(parse(&name, &format!("SELECT fail('{nonce}')")));
                self.say(bind("", &name, &[]));
                self.say(execute("", 0));
            }
            _ => {
                self.say(parse(&name, sql));
                let values = self.values(parameters);
                self.run(&name, &values);
            }
        }
    }

    /// Whether this round has named a statement; closing it now would be a mistake later.
    fn used(&self, name: &str) -> bool {
        let name = text(name);
        self.out.iter().any(|message| message.body.windows(name.len()).any(|part| part == name))
    }

    fn reuse(&mut self, name: &str, parameters: usize) {
        let mistakes = self.habits.mistakes;
        match self.dice.below(12) {
            0 if mistakes || !self.used(name) => {
                self.closed.push(name.to_owned());
                self.say(named(b'C', b'S', name));
            }
            1 => self.say(named(b'D', b'S', name)),
            2 if mistakes && !name.is_empty() => {
                // It exists already, as long as nobody closes it.
                self.say(parse(name, "SELECT 'again'"));
            }
            3 if mistakes => {
                // Too many parameters.
                let values = self.values(parameters + 1);
                self.say(bind("", name, &values));
                self.say(execute("", 0));
            }
            _ => {
                let values = self.values(parameters);
                self.run(name, &values);
            }
        }
    }

    fn run(&mut self, name: &str, values: &[String]) {
        let portal = if self.dice.chance(20) {
            self.life.nonce += 1;
            format!("p{}", self.life.nonce)
        } else {
            String::new()
        };
        self.say(bind(&portal, name, values));
        if self.dice.chance(50) {
            self.say(named(b'D', b'P', &portal));
        }
        if self.habits.mistakes && self.dice.chance(15) {
            self.say(execute(&portal, 2));
            self.say(execute(&portal, 3));
        } else {
            self.say(execute(&portal, 0));
        }
        if !portal.is_empty() && self.dice.chance(30) {
            self.say(named(b'C', b'P', &portal));
        }
    }
}
