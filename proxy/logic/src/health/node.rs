//! One node: what was seen of it, and what follows.

use crate::health::damp::Damping;
use crate::health::link::{Figures, Link};
use crate::health::{Change, Check, Failure, Limits, Sight, Watched};
use crate::time::{Duration, Instant};
use crate::topology::verdict::{Cause, Health, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Silence for which a login is tried at once, beside what the way takes.
const ODD: Duration = Duration::from_millis(50);
/// The same where the kernel of the node acknowledges what we send.
const ODD_ACKNOWLEDGED: Duration = Duration::from_millis(300);
/// Silence of the path that makes it suspect.
pub(super) const SILENT: Duration = Duration::from_millis(200);
/// Silence after which what runs on a standby is asked elsewhere.
const CUT: Duration = Duration::from_millis(600);
/// So many of them make a silent path a dead one.
const UNANSWERED_MIN: usize = 3;
/// How much longer than a blackout a path must be silent: time for another try.
const BEYOND: Duration = Duration::from_millis(500);
/// An acknowledged ping that is not answered for so long makes a node suspect.
const STUCK: Duration = Duration::from_millis(500);
/// A ping and a login, neither of them answered for so long, make it hung.
const HUNG: [Duration; 2] = [Duration::from_millis(1_500), Duration::from_millis(1_200)];
/// So does a login alone.
const HUNG_LOGIN: Duration = Duration::from_millis(1_500);
/// And a write: disks take a breath of seconds now and then.
const HUNG_WRITE: Duration = Duration::from_secs(5);
/// How long the confirmation of an ended session may take before it is worth a word.
const CONFIRM: Duration = Duration::from_millis(50);
/// A session has ended just now.
const JUST: Duration = Duration::from_secs(5);
/// Between two logins while something is wrong.
const HASTE: Duration = Duration::from_millis(250);
/// `cannot_connect_now`: the server starts, stops, or recovers.
const STARTS: &str = "57P03";
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
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) watched: Watched,
    health: Health,
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
    odd: bool,
    /// Answers in a row since something was wrong, and since when.
    good: u32,
    good_since: Instant,
    pub(super) damping: Damping,
    /// What standbys say of it, and when they said so.
    pub(super) witnesses: BTreeMap<Arc<str>, (Instant, Option<Duration>)>,
}

impl Node {
    pub(super) fn new(watched: Watched, now: Instant) -> Self {
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
            odd: false,
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
            }
            Sight::Ended { session, heard, reason } => {
                if self.session.take_if(|it| it.login == session).is_none() {
                    return;
                }
                self.known = true;
                self.write = None;
                self.past.ended = Some((now, reason));
                self.next_login = now;
                if heard {
                    self.hear(now);
                }
            }
            Sight::Link { login, link } => self.link(now, login, link),
            Sight::Writes => self.write = Some(now),
            Sight::Written => self.write = None,
            Sight::Hint => {
                self.next_ping = now;
                self.next_login = self.next_login.min(now + ODD);
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

    /// That it was silent until now was not its fault.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.heard = now;
        self.dark = None;
    }

    fn logged_in(&mut self, now: Instant, index: usize, login: u64, out: &mut Vec<Check>) {
        let Some(at) = self.logins.iter().position(|it| it.login == login) else { return };
        self.hear(now);
        self.past = Past::default();
        // What began earlier and hangs says nothing any more.
        for old in self.logins.drain(..at) {
            out.push(Check::Leave { node: index, login: old.login });
        }
        let link = self.logins.remove(0).link;
        let stuck = self.session.as_ref().and_then(|it| it.ping);
        if self.session.is_some() && stuck.is_none_or(|since| now.since(since) < STUCK) {
            return out.push(Check::Leave { node: index, login });
        }
        if let Some(old) = self.session.replace(Session { login, ping: None, link }) {
            out.push(Check::Leave { node: index, login: old.login });
        }
        self.next_ping = now;
        out.push(Check::Keep { node: index, login });
    }

    fn failed(&mut self, now: Instant, login: u64, why: Failure) {
        let Some(at) = self.logins.iter().position(|it| it.login == login) else { return };
        let begun = self.logins.remove(at).begun;
        self.known = true;
        match why {
            Failure::Refused => {
                self.hear(now);
                self.past.said = None;
                let (first, _, count) = self.past.refused.unwrap_or((now, now, 0));
                self.past.refused = Some((first, now, count + 1));
                if count == 0 {
                    self.next_login = self.next_login.min(now + CONFIRM);
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
                self.next_login = self.next_login.min(now + CONFIRM / 5);
                self.past.closed.get_or_insert((now, reason));
            }
            Failure::Error { code, message } => {
                self.hear(now);
                self.past.refused = None;
                self.past.closed = None;
                if code == STARTS {
                    // It will do something else before long.
                    self.next_login = self.next_login.min(now + HASTE / 4);
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

    /// What all of it says, now.
    fn judge(&self, now: Instant, view: &View) -> Verdict {
        let way = self.figures.allowance();
        if let Some((first, last, count)) = self.past.refused
            && self.session.is_none()
        {
            let ended = self.past.ended.as_ref().is_some_and(|(at, _)| now.since(*at) < JUST);
            if ended || count > 1 && last.since(first) >= CONFIRM {
                return Verdict::DeadProcess;
            }
        }
        let silence = self.silence(now).unwrap_or_default();
        let unanswered = self.unanswered(now);
        let dark = (view.limits.blackout + BEYOND) * view.patience + way;
        if silence >= dark && unanswered >= UNANSWERED_MIN {
            return Verdict::DeadPath;
        }
        let ping = self.ping_unanswered(now).unwrap_or_default();
        let login = self.login_unanswered(now).unwrap_or_default();
        let both = ping >= HUNG[0] + way && login >= HUNG[1] + way;
        let write = self.write_unanswered(now).unwrap_or_default();
        if both || login >= HUNG_LOGIN + way || write >= HUNG_WRITE + way {
            return Verdict::Hung;
        }
        if silence >= SILENT + way && unanswered > 0 {
            return Verdict::Suspect(Cause::Path);
        }
        if ping >= STUCK + way {
            return Verdict::Suspect(Cause::Hang);
        }
        if self.session.is_none()
            && let verdict @ (Verdict::Unknown | Verdict::Suspect(_) | Verdict::Recovering) =
                self.judge_absent(now)
        {
            return verdict;
        }
        if self.past.said.is_some() || self.past.refused.is_some() {
            return Verdict::Refusing;
        }
        if self.figures.is_poor(now) { Verdict::Degraded } else { Verdict::Healthy }
    }

    /// What it says that there is no session; healthy: nothing yet.
    fn judge_absent(&self, now: Instant) -> Verdict {
        match &self.past {
            Past { said: Some((_, code, _)), .. } if code == STARTS => Verdict::Recovering,
            Past { said: Some(_), .. } => Verdict::Refusing,
            Past { ended: None, closed: None, .. } => self.health.verdict,
            Past { ended, closed, .. } => {
                let since = ended.iter().chain(closed).map(|(at, _)| *at).min();
                // At first it is being asked again at this moment.
                let confirmed = since.is_some_and(|since| now.since(since) >= CONFIRM);
                if confirmed { Verdict::Suspect(Cause::Process) } else { self.health.verdict }
            }
        }
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
        let mut verdict = self.judge(now, view);
        let by_silence = match verdict {
            Verdict::Hung | Verdict::DeadPath => true,
            Verdict::Suspect(cause) => cause != Cause::Process,
            Verdict::Unknown
            | Verdict::Healthy
            | Verdict::Degraded
            | Verdict::DeadProcess
            | Verdict::Recovering
            | Verdict::Refusing => false,
        };
        if by_silence && !view.trust {
            verdict = before.verdict;
        }
        let good = matches!(verdict, Verdict::Healthy | Verdict::Degraded);
        if !good {
            self.good = 0;
        } else if !before.verdict.serves()
            && (self.good < GOOD || now.since(self.good_since) < GOOD_FOR)
        {
            verdict = before.verdict;
        }
        if before.verdict.serves() && !verdict.serves() {
            self.damping.gone(now);
        }
        let silent = self.silence(now).is_some_and(|it| it >= CUT + self.figures.allowance());
        let standby = match verdict {
            Verdict::Suspect(Cause::Path) => view.trust && view.patience == 1 && silent,
            Verdict::Hung => true,
            Verdict::Unknown
            | Verdict::Healthy
            | Verdict::Degraded
            | Verdict::Suspect(_)
            | Verdict::DeadProcess
            | Verdict::DeadPath
            | Verdict::Recovering
            | Verdict::Refusing => false,
        };
        // Once is enough: it lasts as long as the verdict.
        let standby = standby || before.cut && verdict == before.verdict;
        let cut = verdict.is_dead() || standby && !self.watched.primary;
        let damped = self.damping.is_damped(now);
        self.health = Health { verdict, damped, cut };
        if self.health != before {
            let (health, evidence) = (self.health, self.evidence(now));
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
            self.next_login = self.next_login.min(now);
        }
        self.odd = odd;
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
        // Where it takes what we send it is not stormed.
        let haste = odd && !stuck && self.login_unanswered(now).is_none_or(|it| it < HASTE);
        self.next_login = now + if haste { HASTE.min(limits.login) } else { limits.login };
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
            let late = std::mem::take(&mut oldest) || now.since(it.begun) >= LOGIN_MAX + 4 * way;
            if late {
                out.push(Check::Leave { node: index, login: it.login });
            }
            !late
        });
        let late = |it: &mut Session| it.ping.is_some_and(|since| now.since(since) >= max + way);
        if let Some(session) = self.session.take_if(late) {
            out.push(Check::Leave { node: index, login: session.login });
            self.past.ended.get_or_insert((now, format!("no answer within {max:?}")));
        }
    }
}
