//! What the facts about a node say, at this moment.

use crate::health::node::{CONFIRM, Node, Past, SILENT, STARTS, STUCK, View};
use crate::time::{Duration, Instant};
use crate::topology::verdict::{Cause, Verdict};

/// So many of them make a silent path a dead one.
const UNANSWERED_MIN: usize = 3;
/// Silence after which what runs on a standby is asked elsewhere.
const CUT: Duration = Duration::from_millis(600);
/// How much longer than a blackout a path must be silent: time for another try.
const BEYOND: Duration = Duration::from_millis(500);
/// And a write: disks take a breath of seconds now and then.
const HUNG_WRITE: Duration = Duration::from_secs(5);
/// So does a login alone.
const HUNG_LOGIN: Duration = Duration::from_millis(1_500);
/// A ping and a login, neither of them answered for so long, make it hung.
const HUNG: [Duration; 2] = [Duration::from_millis(1_500), Duration::from_millis(1_200)];
/// A session has ended just now.
const JUST: Duration = Duration::from_secs(5);

/// Who is heard so long after another fell silent has answered what was asked since.
const HEARD: Duration = Duration::from_millis(300);

impl Verdict {
    /// Whether it rests on what has not been heard.
    pub(super) const fn is_by_silence(self) -> bool {
        match self {
            Self::Hung | Self::DeadPath | Self::Suspect(Cause::Path | Cause::Hang) => true,
            Self::Unknown
            | Self::Healthy
            | Self::Degraded
            | Self::Suspect(Cause::Process)
            | Self::DeadProcess
            | Self::Recovering
            | Self::Refusing => false,
        }
    }
}

impl Node {
    /// For how long the path has been silent while somebody was to be heard.
    fn silence_of_its_own(&self, now: Instant, view: &View) -> Duration {
        self.silence(now).unwrap_or_default().min(now.since(view.lit))
    }

    /// Whether it serves who is there and lets nobody in: its session answers.
    pub(super) fn is_only_shut(&self, now: Instant) -> bool {
        let patience = STUCK + self.figures.allowance();
        self.session.is_some()
            && self.ping_unanswered(now).is_none_or(|it| it < patience)
            && self.write_unanswered(now).is_none_or(|it| it < HUNG_WRITE)
    }

    /// All of it in one verdict.
    pub(super) fn judge(&self, now: Instant, view: &View) -> Verdict {
        let way = self.figures.allowance();
        if let Some((first, last, count)) = self.past.refused
            && self.session.is_none()
        {
            let ended = self.past.ended.as_ref().is_some_and(|(at, _)| now.since(*at) < JUST);
            if ended || count > 1 && last.since(first) >= CONFIRM {
                return Verdict::DeadProcess;
            }
        }
        let silence = self.silence_of_its_own(now, view);
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

    /// Whether what runs there will not be answered, or is better asked of others. What runs on a
    /// primary can be asked of nobody else: it goes on as long as it may.
    pub(super) fn is_lost(&self, now: Instant, raw: Verdict, view: &View) -> bool {
        let way = self.figures.allowance();
        let standby = match raw {
            Verdict::DeadProcess | Verdict::DeadPath => return true,
            Verdict::Hung => {
                let silent = self.ping_unanswered(now).is_some_and(|it| it >= HUNG[0] + way);
                silent || self.session.is_none()
            }
            Verdict::Suspect(Cause::Path) => {
                // Others were heard meanwhile, so it is not ourselves.
                let others = |dark| view.others.is_none_or(|heard| heard > dark + HEARD);
                view.patience == 1
                    && self.dark.is_some_and(others)
                    && self.silence_of_its_own(now, view) >= CUT + way
            }
            Verdict::Unknown
            | Verdict::Healthy
            | Verdict::Degraded
            | Verdict::Suspect(Cause::Process | Cause::Hang)
            | Verdict::Recovering
            | Verdict::Refusing => false,
        };
        standby && !self.watched.primary
    }
}
