//! What of a node is awaited, and since when.

use crate::health::link::Link;
use crate::health::node::{Attempt, Node, ODD};
use crate::time::{Duration, Instant};

/// A new connection that is not answered within this counts.
const UNANSWERED: Duration = Duration::from_millis(100);

impl Node {
    /// For how long nothing has come back from the other end of the path, if something should.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        let since = self.stuck()?;
        Some(now.since(self.dark.map_or(since, |dark| dark.min(since))))
    }

    /// Since when something has waited that has not even arrived, for all we know. A session whose
    /// pings arrive has the last word: new connections may be lost for other reasons.
    pub(super) fn stuck(&self) -> Option<Instant> {
        let stuck = |link: &Option<(Instant, Link)>, since: Instant| {
            link.is_some_and(|(at, link)| at >= since && link.stuck)
        };
        if let Some(session) = &self.session
            && !session.ping.is_some_and(|since| stuck(&session.link, since))
        {
            return None;
        }
        let session = self.session.iter().filter_map(|it| it.ping);
        let logins = self.logins.iter().filter_map(|it| match it.connected {
            None => Some(it.begun),
            Some(since) => stuck(&it.link, since).then_some(it.spoken),
        });
        let unreachable = self.past.unreachable.iter().map(|(since, _, _)| *since);
        let since = session.chain(logins).chain(unreachable).min()?;
        Some(since.max(self.heard))
    }

    /// Whether a new connection was asked for in vain and nobody has asked the session since.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        let asked = self.session.as_ref().is_some_and(|it| it.ping.is_some());
        let late = |it: &Attempt| it.connected.is_none() && now.since(it.begun) >= ODD;
        !asked && now.since(self.heard) >= ODD && self.logins.iter().any(late)
    }

    /// For how long a ping was not answered that has arrived.
    pub(super) fn ping_unanswered(&self, now: Instant) -> Option<Duration> {
        let session = self.session.as_ref()?;
        let since = session.ping?;
        let stuck = session.link.is_some_and(|(at, link)| at >= since && link.stuck);
        (!stuck).then(|| now.since(since.max(session.arrived)))
    }

    /// The same of the login that has waited longest for a word, be it only that of the kernel.
    pub(super) fn login_unanswered(&self, now: Instant) -> Option<Duration> {
        let dark = self.session.is_none() || self.stuck().is_some();
        let arrived = |it: &&Attempt| {
            let stuck = it.link.is_some_and(|(at, link)| at >= it.spoken && link.stuck);
            if it.connected.is_some() { !stuck } else { !dark }
        };
        let since = self.session.as_ref().map_or(Instant::START, |it| it.arrived);
        self.logins.iter().filter(arrived).map(|it| now.since(it.spoken.max(since))).max()
    }

    /// The same of a write.
    pub(super) fn write_unanswered(&self, now: Instant) -> Option<Duration> {
        self.write.map(|since| now.since(since))
    }

    /// How many connections were asked for in vain.
    pub(super) fn unanswered(&self, now: Instant) -> usize {
        let late = |it: &&Attempt| it.connected.is_none() && now.since(it.begun) >= UNANSWERED;
        let failed = self.past.unreachable.as_ref().map_or(0, |(_, count, _)| *count);
        self.logins.iter().filter(late).count() + failed
    }
}
