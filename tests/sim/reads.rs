//! What clients say that may be a standby's: reads of what was written, transactions that only
//! read, and those that begin with reads.

use super::{Writer, bind, execute, named, parse, query};
use crate::replicas::mask;
use crate::session::Tx;

impl Writer<'_> {
    /// A round for standbys; false: it is one of the others.
    pub(super) fn reads(&mut self) -> bool {
        if !self.habits.routed {
            return false;
        }
        let session = &self.life.session;
        let (tx, read_only) = (session.tx, session.read_only);
        let busy = session.before.is_some() && tx == Tx::Idle;
        if tx == Tx::Failed || busy {
            return false;
        }
        if tx == Tx::Idle && !self.habits.single && self.dice.chance(8) {
            self.begins();
            return true;
        }
        if let Some(known) = self.habits.known
            && self.dice.chance(35)
        {
            let known = mask(known);
            self.seen(&known);
            return true;
        }
        if read_only {
            match self.dice.below(10) {
                0 => self.insert(),
                1 => self.fails(),
                2 => self.sleep(),
                3 => self.big(),
                _ => self.simple(),
            }
            return true;
        }
        if self.dice.chance(5) {
            let nonce = self.nonce();
            self.say(query(&format!("SELECT lies('{nonce}')")));
            return true;
        }
        if self.dice.chance(15) {
            self.insert();
            return true;
        }
        false
    }

    fn begins(&mut self) {
        let mark = self.nonce();
        let plain = self.dice.chance(50);
        let words = if plain { "BEGIN" } else { "BEGIN READ ONLY" };
        if self.dice.chance(30) {
            self.say(parse("", &format!("{words} /* {mark} */")));
            self.say(bind("", "", &[]));
            self.say(execute("", 0));
            if self.dice.chance(50) {
                let nonce = self.nonce();
                self.say(parse("", "SELECT $1"));
                self.say(bind("", "", &[nonce]));
                self.say(execute("", 0));
            }
            return self.sync();
        }
        self.say(query(&format!("{words} /* {mark} */")));
        if self.dice.chance(50) {
            self.simple();
        }
    }

    /// Asks for what must be shown.
    fn seen(&mut self, known: &str) {
        let nonce = self.nonce();
        match self.dice.below(4) {
            0 | 1 => self.say(query(&format!("SELECT seen('{known}'), '{nonce}'"))),
            2 => {
                self.say(parse("", "SELECT seen($1), $2"));
                self.say(bind("", "", &[known.to_owned(), nonce]));
                self.say(named(b'D', b'P', ""));
                self.say(execute("", 0));
                self.sync();
            }
            _ => {
                let name = "seeing".to_owned();
                if !self.life.session.prepared.contains_key(&name) {
                    self.say(parse(&name, "SELECT seen($1), $2"));
                }
                self.say(bind("", &name, &[known.to_owned(), nonce]));
                self.say(execute("", 0));
                self.sync();
            }
        }
    }
}
