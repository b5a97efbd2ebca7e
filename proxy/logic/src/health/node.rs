//! One node: what was seen of it, and what follows.

use crate::health::damp::Damping;
use crate::health::link::{Figures, Link};
use crate::health::{Change, Check, Failure, Limits, Sight, Watched};
use crate::time::{Duration, Instant};
use crate::topology::verdict::{Health, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Silence for which a login is tried at once, beside what the way takes.
pub(super) const ODD: Duration = Duration::from_millis(50);
/// The same where the kernel of the node acknowledges what we send.
const ODD_ACKNOWLEDGED: Duration = Duration::from_millis(300);
/// Silence of the path that makes it suspect.
pub(super) const SILENT: Duration = Duration::from_millis(200);
/// An acknowledged ping that is not answered for so long makes a node suspect.
pub(super) const STUCK: Duration = Duration::from_millis(500);
/// How long the confirmation of an ended session may take before it is worth a word.
pub(super) const CONFIRM: Duration = Duration::from_millis(50);
/// Between two logins while something is wrong: sooner only in the first moments of that, and not
/// even so soon where it has been wrong for long.
const HASTE: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(20);
/// For how long a silent path is asked twice as often.
const DARK: Duration = Duration::from_secs(1);
/// A connection that is not answered for so long makes room for another one.
const VAIN: Duration = Duration::from_millis(1_500);
/// Between any two logins.
const GAP: Duration = Duration::from_millis(20);
/// `cannot_connect_now`: the server starts, stops, or recovers.
pub(super) const STARTS: &str = "57P03";
/// Logins at once, and how long one may take.
const LOGINS_MAX: usize = 8;
const LOGIN_MAX: Duration = Duration::from_secs(5);
/// Answers in a row, and for how long, that bring a node back.
const GOOD: u32 = 3;
const GOOD_FOR: Duration = Duration::from_secs(1);

/// A login under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) login: u64,
    pub(super) begun: Instant,
    pub(super) connected: Option<Instant>,
    /// When it was last told something.
    pub(super) spoken: Instant,
    pub(super) link: Option<(Instant, Link)>,
}

/// The session that is pinged.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) login: u64,
    /// Since when an answer is awaited.
    pub(super) ping: Option<Instant>,
    /// When something that had waited has arrived after all: for how long it was not answered is
    /// counted from then.
    pub(super) arrived: Instant,
    pub(super) link: Option<(Instant, Link)>,
}

/// What has happened to it lately; all of it is forgotten with a login that goes well.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The last session has ended.
    pub(super) ended: Option<(Instant, String)>,
    /// Nobody listened: the first time, the last, and how often.
    pub(super) refused: Option<(Instant, Instant, u32)>,
    /// There was no way: since when, how often, and why.
    pub(super) unreachable: Option<(Instant, usize, String)>,
    /// It ended a login without a word; the first time.
    pub(super) closed: Option<(Instant, String)>,
    /// It refused a login: the code, and its words.
    pub(super) said: Option<(Instant, String, String)>,
}

/// What of the whole matters to each.
pub(super) struct View {
    pub(super) limits: Limits,
    /// Silence counts.
    pub(super) trust: bool,
    /// How many times as long a silent path is only suspect.
    pub(super) patience: u32,
    /// Since when there has been somebody to be heard.
    pub(super) lit: Instant,
    /// When another node was last heard, if there is one.
    pub(super) others: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) watched: Watched,
    pub(super) health: Health,
    pub(super) session: Option<Session>,
    pub(super) logins: Vec<Attempt>,
    pub(super) figures: Figures,
    /// The last sign that the path to it works, and the first thing since then that got none.
    pub(super) heard: Instant,
    pub(super) dark: Option<Instant>,
    pub(super) past: Past,
    /// Anything was seen of it.
    known: bool,
    /// Since when a write has not ended.
    pub(super) write: Option<Instant>,
    next_ping: Instant,
    next_login: Instant,
    last_login: Instant,
    /// By how much its logins are later than those of others.
    phase: Duration,
    odd: bool,
    /// Since when something has been wrong with it.
    trouble: Option<Instant>,
    /// Answers in a row since something was wrong, and since when.
    good: u32,
    good_since: Instant,
    pub(super) damping: Damping,
    /// What standbys say of it, and when they said so.
    pub(super) witnesses: BTreeMap<Arc<str>, (Instant, Option<Duration>)>,
}

impl Node {
    pub(super) fn new(watched: Watched, now: Instant, phase: Duration) -> Self {
        Self {
            watched,
            health: Health::default(),
            session: None,
            logins: Vec::new(),
            figures: Figures::default(),
            heard: now,
            dark: None,
            past: Past::default(),
            known: false,
            write: None,
            next_ping: now,
            next_login: now,
            last_login: Instant::START,
            phase,
            odd: false,
            trouble: None,
            good: 0,
            good_since: now,
            damping: Damping::default(),
            witnesses: BTreeMap::new(),
        }
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    pub(super) fn set_primary(&mut self, primary: bool) {
        self.watched.primary = primary;
        if !primary {
            // Nobody writes there any more.
            self.write = None;
        }
    }

    /// When the path to it was last known to work.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Logins and the session, as far as something is awaited of them.
    pub(super) fn pending(&self) -> impl Iterator<Item = u64> + '_ {
        let session = self.session.iter().filter(|it| it.ping.is_some()).map(|it| it.login);
        session.chain(self.logins.iter().map(|it| it.login))
    }

    pub(super) fn see(&mut self, now: Instant, index: usize, sight: Sight, out: &mut Vec<Check>) {
        match sight {
            Sight::Connected { login } => {
                let Some(it) = self.logins.iter_mut().find(|it| it.login == login) else { return };
                it.connected = Some(now);
                it.spoken = now;
                self.hear(now);
                self.past.refused = None;
            }
            Sight::LoggedIn { login } => self.logged_in(now, index, login, out),
            Sight::Failed { login, why } => self.failed(now, login, why),
            Sight::Answered { session } => {
                let Some(it) = self.session.as_mut().filter(|it| it.login == session) else {
                    return;
                };
                it.ping = None;
                self.hear(now);
                if self.good == 0 {
                    self.good_since = now;
                }
                self.good += 1;
                if self.good >= GOOD {
                    self.trouble = None;
                }
            }
            Sight::Ended { session, heard, reason } => {
                if self.session.take_if(|it| it.login == session).is_none() {
                    return;
                }
                self.known = true;
                self.write = None;
                self.past.ended = Some((now, reason));
                self.hasten(now, Duration::ZERO);
                if heard {
                    self.hear(now);
                }
            }
            Sight::Link { login, link } => self.link(now, login, link),
            Sight::Writes => self.write = Some(now),
            Sight::Written => self.write = None,
            Sight::Hint => {
                // Of what is wrong already it says nothing new.
                if self.session.is_some() && self.trouble.is_none() {
                    self.next_ping = now;
                    let after = self.last_login + HASTE;
                    self.next_login = self.next_login.min(after.max(now + ODD));
                }
            }
            Sight::Witness { by, heard } => {
                self.witnesses.insert(by, (now, heard));
            }
        }
    }

    /// The path works.
    fn hear(&mut self, now: Instant) {
        self.known = true;
        self.heard = now;
        self.dark = None;
        self.past.unreachable = None;
    }

    /// Something is wrong: a login is worth trying in so long. Whoever has been in trouble for
    /// longer is asked no more often than others.
    fn hasten(&mut self, now: Instant, within: Duration) {
        let since = *self.trouble.get_or_insert(now);
        if now.since(since) < SOON {
            self.next_login = self.next_login.min(now + within).max(self.last_login + GAP);
        }
    }

    fn logged_in(&mut self, now: Instant, index: usize, login: u64, out: &mut Vec<Check>) {
        let Some(at) = self.logins.iter().position(|it| it.login == login) else { return };
        self.hear(now);
        self.past = Past::default();
        // What began earlier and hangs says nothing any more.
        for old in self.logins.drain(..at) {
            out.push(Check::Leave { node: index, login: old.login, well: false });
        }
        let link = self.logins.remove(0).link;
        self.next_login = self.next_login + std::mem::take(&mut self.phase);
        let stuck = self.session.as_ref().and_then(|it| it.ping);
        if self.session.is_some() && stuck.is_none_or(|since| now.since(since) < STUCK) {
            return out.push(Check::Leave { node: index, login, well: true });
        }
        if let Some(old) = self.session.replace(Session { login, ping: None, arrived: now, link }) {
            out.push(Check::Leave { node: index, login: old.login, well: false });
        }
        self.write = None;
        self.next_ping = now;
        out.push(Check::Keep { node: index, login });
    }

    fn failed(&mut self, now: Instant, login: u64, why: Failure) {
        let Some(at) = self.logins.iter().position(|it| it.login == login) else { return };
        let begun = self.logins.remove(at).begun;
        if let Failure::Ours(_) = why {
            // It is tried again at its time.
            return;
        }
        self.known = true;
        match why {
            Failure::Ours(_) => {}
            Failure::Refused => {
                self.hear(now);
                self.past.said = None;
                let (first, _, count) = self.past.refused.unwrap_or((now, now, 0));
                self.past.refused = Some((first, now, count + 1));
                if count == 0 {
                    self.hasten(now, CONFIRM);
                }
            }
            Failure::Unreachable(reason) => {
                let (since, count) = match self.past.unreachable {
                    Some((since, count, _)) => (since, count),
                    None => (begun, 0),
                };
                self.past.unreachable = Some((since, count + 1, reason));
            }
            Failure::Closed(reason) => {
                self.hear(now);
                self.hasten(now, CONFIRM / 5);
                self.past.closed.get_or_insert((now, reason));
            }
            Failure::Error { code, message } => {
                self.hear(now);
                self.past.refused = None;
                self.past.closed = None;
                if code == STARTS {
                    // It will do something else before long.
                    self.hasten(now, HASTE / 4);
                }
                self.past.said = Some((now, code, message));
            }
        }
    }

    fn link(&mut self, now: Instant, login: u64, link: Link) {
        let session = self.session.as_mut().filter(|it| it.login == login);
        let (slot, spoken) = match session {
            Some(session) => (&mut session.link, None),
            None => match self.logins.iter_mut().find(|it| it.login == login) {
                Some(it) => (&mut it.link, Some(&mut it.spoken)),
                None => return,
            },
        };
        let before = slot.replace((now, link)).map(|(_, before)| before).unwrap_or_default();
        if before.stuck
            && !link.stuck
            && let Some(session) = self.session.as_mut().filter(|it| it.login == login)
        {
            session.arrived = now;
        }
        if link.received > before.received
            && let Some(spoken) = spoken
        {
            *spoken = now;
        }
        if link.progress > before.progress {
            self.hear(now);
        }
        let again = link.retransmits.saturating_sub(before.retransmits);
        self.figures.note(now, &link, again);
    }

    /// Draws the conclusion, and says so if it is a new one.
    pub(super) fn settle(&mut self, now: Instant, index: usize, view: &View, out: &mut Vec<Check>) {
        if !self.known && self.silence(now).is_none_or(|it| it < SILENT) {
            return;
        }
        // What has waited longest may be given up; the silence is no shorter for it.
        let stuck = self.stuck();
        self.dark = self.dark.into_iter().chain(stuck).min().filter(|_| stuck.is_some());
        let before = self.health;
        let raw = self.judge(now, view);
        let mut verdict = raw;
        if raw.is_by_silence() && !view.trust {
            verdict = before.verdict;
        }
        let good = matches!(verdict, Verdict::Healthy | Verdict::Degraded);
        if !good {
            self.good = 0;
            self.trouble.get_or_insert(now);
        } else if !before.verdict.serves()
            && (self.good < GOOD || now.since(self.good_since) < GOOD_FOR)
        {
            verdict = before.verdict;
        }
        // It does what it should, or serves who is there: better than nobody.
        let held = !verdict.serves() && good;
        let shut = held || verdict == Verdict::Hung && self.is_only_shut(now);
        if before.verdict.serves() && !verdict.serves() {
            self.damping.gone(now);
        }
        let health = Health {
            verdict,
            out: !verdict.serves() && !shut,
            damped: self.damping.is_damped(now) || shut,
            // What it does now counts, not what it is still taken for.
            cut: (view.trust || !raw.is_by_silence()) && self.is_lost(now, raw, view),
        };
        if health != before {
            self.health = health;
            let evidence = self.evidence(now);
            out.push(Check::Changed(Change { node: index, before, health, evidence }));
        }
    }

    /// Asks for what is due.
    pub(super) fn check(
        &mut self,
        now: Instant,
        index: usize,
        limits: Limits,
        logins: &mut u64,
        out: &mut Vec<Check>,
    ) {
        let way = self.figures.allowance();
        let silent = self.silence(now).is_some_and(|it| it >= ODD + way);
        let stuck = self.ping_unanswered(now).is_some_and(|it| it >= ODD_ACKNOWLEDGED + way);
        let odd = silent || stuck || self.session.is_none();
        if odd && !std::mem::replace(&mut self.odd, odd) {
            self.hasten(now, Duration::ZERO);
        }
        self.odd = odd;
        if self.is_unanswered(now) {
            // Does the session fare any better?
            self.next_ping = now;
        }
        self.give_up(now, index, (way, limits.session), out);
        if let Some(session) = self.session.as_mut().filter(|it| it.ping.is_none())
            && now >= self.next_ping
        {
            session.ping = Some(now);
            self.next_ping = now + limits.ping;
            out.push(Check::Ping { node: index, session: session.login });
        }
        if now < self.next_login {
            return;
        }
        // Where it takes what we send it is not stormed, nor where it has been in trouble for long.
        let haste = odd && !stuck && self.login_unanswered(now).is_none_or(|it| it < HASTE);
        let long = self.trouble.is_some_and(|since| now.since(since) >= LONG);
        // Into the dark they cost nothing, and the first that comes back says that it is over.
        let dark = self.silence(now).is_some_and(|it| it < DARK);
        let pause = match (haste && !long, dark) {
            (true, true) => HASTE / 2,
            (true, false) => HASTE.min(limits.login),
            (false, _) => limits.login,
        };
        self.next_login = now + pause;
        if self.logins.len() >= LOGINS_MAX {
            return;
        }
        self.last_login = now;
        *logins += 1;
        self.logins.push(Attempt {
            login: *logins,
            begun: now,
            connected: None,
            spoken: now,
            link: None,
        });
        out.push(Check::Login { node: index, login: *logins });
    }

    /// Forgets what has taken too long.
    fn give_up(
        &mut self,
        now: Instant,
        index: usize,
        (way, max): (Duration, Duration),
        out: &mut Vec<Check>,
    ) {
        let over = self.logins.len() >= LOGINS_MAX;
        let mut oldest = over;
        self.logins.retain(|it| {
            let vain = it.connected.is_none() && now.since(it.begun) >= VAIN;
            let asked = vain && std::mem::take(&mut oldest);
            let late = asked || now.since(it.begun) >= LOGIN_MAX + 4 * way;
            if late {
                out.push(Check::Leave { node: index, login: it.login, well: false });
            }
            !late
        });
        let late = |it: &mut Session| it.ping.is_some_and(|since| now.since(since) >= max + way);
        if let Some(session) = self.session.take_if(late) {
            out.push(Check::Leave { node: index, login: session.login, well: false });
            self.write = None;
            self.past.ended.get_or_insert((now, format!("no answer within {max:?}")));
        }
    }
}
