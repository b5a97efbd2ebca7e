//! Seeded clients: they connect, send rounds of messages, vanish, cancel, and stop reading.

use crate::dice::Dice;
use crate::link::{End, LinkId, MS, Peer, SEC, Time, US};
use crate::message::{Cutter, Message, cancel, startup};
use crate::plan::Plan;
use crate::scram::Login;
use crate::script::Habits;
use crate::session::{Session, Settings};
use crate::world::{Happening, World};
use pgring_logic::config::{Consistency, PoolMode};
use std::collections::VecDeque;

/// One client: some lives, one after the other.
pub(crate) struct Client {
    pub(crate) dice: Dice,
    pub(crate) lives: u64,
    pub(crate) life: Option<Life>,
}

/// One connection of a client.
pub(crate) struct Life {
    /// Where it is: database and user.
    pub(crate) pool: (String, String),
    /// Unique in the story; part of all its nonces.
    pub(crate) number: u32,
    pub(crate) link: LinkId,
    pub(crate) phase: Phase,
    pub(crate) login: Login,
    pub(crate) cutter: Cutter,
    /// What a session of its own would be like now, with all of `queue` still to come.
    pub(crate) session: Session,
    /// The same before `hand` was taken in.
    pub(crate) before: Session,
    /// The message whose answer is being received.
    pub(crate) hand: Option<Message>,
    /// Sent, and not answered.
    pub(crate) queue: VecDeque<Message>,
    /// What is to come for `hand`.
    pub(crate) expected: VecDeque<Message>,
    pub(crate) key: Option<(u32, Vec<u8>)>,
    /// Parameters as the client was told.
    pub(crate) told: Settings,
    pub(crate) rounds: u64,
    pub(crate) nonce: u64,
    /// Since when it has been waiting for an answer.
    pub(crate) asked: Option<Time>,
    pub(crate) cancelled: Option<Time>,
    /// It was told that the connection ends.
    pub(crate) refused: bool,
    /// It does not read since then.
    pub(crate) deaf: Option<Time>,
    pub(crate) was_deaf: bool,
    /// It has said goodbye, and waits for the answers to what it said before.
    pub(crate) parting: bool,
    /// Parameters were reset: what they fall back to is told with the next statement.
    pub(crate) reset: bool,
    /// The round is nothing but one Bind with its Execute and Sync.
    pub(crate) plain: bool,
    /// Something was refused: what it prepared may not exist.
    pub(crate) doubtful: bool,
    /// It has heard something of the answer to the segment in hand.
    pub(crate) heard: bool,
    /// How many of its inserts are known to all as committed.
    counted: usize,
    startup: Vec<u8>,
}

/// How far a life is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Waits for the answer to `SSLRequest`.
    Asking,
    /// Logs in.
    Login,
    /// Queries.
    Talk,
}

impl Client {
    /// A client with its own dice.
    pub(crate) fn new(dice: Dice, plan: &Plan) -> Self {
        Self { dice, lives: plan.lives, life: None }
    }

    /// Whether it has nothing more to do.
    pub(crate) fn done(&self) -> bool {
        self.lives == 0 && self.life.is_none()
    }
}

impl Life {
    /// Whether everything is answered, so that the next round may begin.
    fn may_talk(&self) -> bool {
        let answered = self.queue.is_empty() && self.expected.is_empty();
        self.phase == Phase::Talk && answered && !self.refused && !self.parting
    }

    /// Whether all is answered that it said. No data follow a COPY behind a goodbye.
    fn is_answered(&self) -> bool {
        let answered = self.queue.is_empty() && self.expected.is_empty();
        self.phase == Phase::Talk && (answered || self.session.copying.is_some())
    }
}

fn ssl_request() -> Vec<u8> {
    [&[0, 0, 0, 8], &startup(80_877_103, &[])[4..8]].concat()
}

impl World {
    /// A client goes on.
    pub(crate) fn client_step(&mut self, number: usize, life: u32) {
        match &self.clients[number].life {
            None if life == 0 && self.clients[number].lives > 0 => self.client_starts(number),
            Some(found) if found.number == life && found.may_talk() => {
                self.client_round(number);
            }
            _ => {}
        }
    }

    fn client_starts(&mut self, number: usize) {
        let core = self.dice.place(self.plan.lanes);
        let link = self.connect(Peer::Client(number));
        let life = self.oracle.next_life();
        let (databases, users, scram) = (self.plan.databases, self.plan.users, self.plan.scram);
        let client = &mut self.clients[number];
        client.lives -= 1;
        let dice = &mut client.dice;
        let wrong = scram && dice.chance(8);
        // Half of those who do not know the password have a name that nobody has.
        let users = users + usize::from(wrong);
        let (database, user) =
            (Plan::database(dice.place(databases)), Plan::user(dice.place(users)));
        let name = format!("app{}", dice.below(4));
        let mut parameters = vec![("user", user.as_str()), ("database", database.as_str())];
        if dice.chance(50) {
            parameters.push(("application_name", &name));
        }
        if dice.chance(10) {
            parameters.push(("TimeZone", "Europe/Berlin"));
        }
        if dice.chance(10) {
            parameters.push(("options", "-c work_mem=16MB"));
        }
        let version = if dice.chance(15) { 196_610 } else { 196_608 };
        let bytes = startup(version, &parameters);
        let asks = dice.chance(10);
        let owned: Vec<(String, String)> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let session = Session::new(&owned);
        let pool = (database.clone(), user.clone());
        let now = self.now;
        self.clients[number].life = Some(Life {
            pool,
            number: life,
            link,
            phase: if asks { Phase::Asking } else { Phase::Login },
            login: Login::new(wrong),
            cutter: Cutter::default(),
            before: session.clone(),
            session,
            hand: None,
            queue: VecDeque::new(),
            expected: VecDeque::new(),
            key: None,
            told: Settings::new(),
            rounds: self.plan.rounds,
            nonce: 0,
            asked: Some(now),
            cancelled: None,
            refused: false,
            deaf: None,
            was_deaf: false,
            parting: false,
            reset: false,
            plain: false,
            doubtful: false,
            heard: false,
            counted: 0,
            startup: bytes.clone(),
        });
        self.say(|| format!("client {number} begins as c{life} on link {link}, {database}/{user}"));
        // An SSLRequest is a version and nothing more.
        let first = if asks { ssl_request() } else { bytes };
        self.send(link, End::Far, &[]);
        self.send(link, End::Near, &first);
        let most = self.plan.weather.latency;
        self.soon(most, Happening::Accept(core, link));
        if self.plan.hasty && !(scram || asks) {
            self.client_round(number);
        }
    }

    /// Sends the next round, or says goodbye.
    fn client_round(&mut self, number: usize) {
        let (rude, now) = (self.plan.rude, self.now);
        let known = self.must_be_shown(number);
        let habits = Habits {
            pins: self.plan.pins,
            mistakes: self.plan.mistakes,
            single: self.plan.mode == PoolMode::Statement,
            routed: self.plan.routed,
            known: known.as_deref(),
        };
        let client = &mut self.clients[number];
        let Some(life) = &mut client.life else { return };
        let (link, id) = (life.link, life.number);
        if life.rounds == 0 {
            let polite = client.dice.chance(70);
            let abrupt = !polite && client.dice.chance(40);
            if polite {
                self.send(link, End::Near, b"X\0\0\0\x04");
            }
            return self.client_over(number, abrupt);
        }
        life.rounds -= 1;
        life.reset = false;
        let messages = crate::script::round(life, &mut client.dice, habits);
        let tags: Vec<u8> = messages.iter().map(|message| message.tag).collect();
        life.plain = matches!(tags.as_slice(), b"BES" | b"BDES") && life.session.before.is_none();
        let mut bytes = Vec::new();
        for message in &messages {
            message.write(&mut bytes);
        }
        if rude && client.dice.chance(3) {
            let cut = client.dice.place(bytes.len() + 1);
            let abrupt = client.dice.chance(50);
            self.say(|| format!("c{id} vanishes after {cut} of {} bytes", bytes.len()));
            self.send(link, End::Near, &bytes[..cut]);
            return self.client_over(number, abrupt);
        }
        let ends = self.plan.parting && (life.rounds == 0 || client.dice.chance(5));
        let whole = |message: &Message| matches!(message.tag, b'S' | b'Q' | b'F');
        life.parting = ends && messages.last().is_some_and(whole);
        let parting = life.parting;
        if parting {
            bytes.extend_from_slice(b"X\0\0\0\x04");
        }
        life.queue.extend(messages.iter().cloned());
        life.asked = Some(now);
        life.settle();
        let cancels = rude && client.dice.chance(10);
        let deaf = rude && client.dice.chance(2);
        let delay = client.dice.below(40 * MS);
        let rest = client.dice.range(MS, 9 * SEC);
        if deaf {
            life.deaf = Some(now);
            life.was_deaf = true;
        }
        self.say(|| {
            let list: Vec<String> = messages.iter().map(Message::brief).collect();
            format!("c{id} asks {}{}", list.join(" "), if parting { ", and parts" } else { "" })
        });
        if cancels {
            self.at(now + delay, Happening::Cancel(number, id));
        }
        if deaf {
            self.at(now + rest, Happening::Wake(number, id));
        }
        self.send(link, End::Near, &bytes);
        if parting {
            self.finish(link);
        }
        self.client_answered(number);
    }

    /// An insert that reads of this client must show.
    fn must_be_shown(&mut self, number: usize) -> Option<String> {
        let life = self.clients[number].life.as_ref().filter(|_| self.plan.routed)?;
        let shown = match self.plan.routing.consistency {
            Consistency::Eventual => return None,
            Consistency::Session => &life.session.committed,
            Consistency::Strict => &self.oracle.told,
        };
        // The last ones are those that standbys do not have yet.
        let recent = &shown[shown.len().saturating_sub(3)..];
        if recent.is_empty() { None } else { Some(self.dice.pick(recent).clone()) }
    }

    /// Is the round answered? Then the next one is thought of.
    pub(crate) fn client_answered(&mut self, number: usize) {
        let think = self.plan.think;
        let client = &mut self.clients[number];
        let Some(life) = &mut client.life else { return };
        if life.phase == Phase::Talk && life.expected.is_empty() && life.queue.is_empty() {
            life.asked = None;
            let told = life.session.committed.iter().skip(life.counted).cloned();
            self.oracle.told.extend(told);
            life.counted = life.session.committed.len();
            let id = life.number;
            let delay = client.dice.below(think);
            self.at(self.now + delay, Happening::Client(number, id));
        }
    }

    /// The life is over; the next one begins later.
    pub(crate) fn client_over(&mut self, number: usize, abrupt: bool) {
        let Some(life) = self.clients[number].life.take() else { return };
        self.say(|| format!("c{} is over", life.number));
        self.close(life.link, End::Far, abrupt);
        let most = self.plan.think + MS;
        self.soon(most, Happening::Client(number, 0));
    }

    /// A client sends a cancel request for itself.
    pub(crate) fn client_cancel(&mut self, number: usize, id: u32) {
        let core = self.dice.place(self.plan.lanes);
        let now = self.now;
        let client = &mut self.clients[number];
        let Some(life) = client.life.as_mut().filter(|life| life.number == id) else { return };
        let Some((pid, mut secret)) = life.key.clone() else { return };
        if client.dice.chance(10) {
            // A wrong key; it must do nothing, so nothing is allowed.
            let place = client.dice.place(secret.len());
            secret[place] ^= 0x55;
        } else {
            life.cancelled = Some(now);
        }
        let link = self.connect(Peer::Canceller);
        self.say(|| format!("c{id} cancels by link {link} on lane {core}"));
        self.send(link, End::Near, &cancel(pid, &secret));
        self.soon(50 * US, Happening::Accept(core, link));
    }

    /// A client reads again.
    pub(crate) fn client_wake(&mut self, number: usize, id: u32) {
        let Some(life) = self.clients[number].life.as_mut() else { return };
        if life.number == id && life.deaf.take().is_some() {
            let link = life.link;
            self.client_read(number, link);
        }
    }

    /// A client has something to read.
    pub(crate) fn client_read(&mut self, number: usize, link: LinkId) {
        let Some(life) = self.clients[number].life.as_mut() else { return };
        if life.link != link || life.deaf.is_some() {
            return;
        }
        let Some(found) = self.links.get_mut(&link) else { return };
        let bytes = found.to_far.read(usize::MAX);
        let ended = found.to_far.ended;
        life.cutter.push(&bytes);
        if !bytes.is_empty() {
            self.pump(link, End::Far);
        }
        while self.violation.is_none() {
            let Some(life) = self.clients[number].life.as_mut() else { return };
            if life.phase == Phase::Asking {
                match life.cutter.byte() {
                    None => break,
                    Some(b'N') => {
                        life.phase = Phase::Login;
                        let bytes = life.startup.clone();
                        self.send(link, End::Near, &bytes);
                        continue;
                    }
                    Some(other) => {
                        let number = life.number;
                        return self.violate(format!("c{number}: SSLRequest answered {other}"));
                    }
                }
            }
            let (next, id) = (life.cutter.tagged(), life.number);
            match next {
                Ok(Some(message)) => self.client_judges(number, &message),
                Ok(None) => break,
                Err(error) => return self.violate(format!("c{id} receives {error:?}")),
            }
        }
        if ended {
            self.client_lost(number, link);
        }
    }

    /// The connection of a client has ended.
    pub(crate) fn client_lost(&mut self, number: usize, link: LinkId) {
        let Some(life) = &self.clients[number].life else { return };
        if life.link != link {
            return;
        }
        let parted = life.parting && life.is_answered();
        let excused = parted || life.refused || !self.plan.peaceful() || life.was_deaf;
        if !excused {
            let id = life.number;
            return self.violate(format!("c{id} is cut off without a word"));
        }
        self.client_over(number, false);
    }
}
