//! What a verdict rests on, in words and with times, for the log and for `SHOW EVENTS`.

use crate::health::node::Node;
use crate::time::{Duration, Instant};
use std::fmt::Write as _;

/// A wait that is worth a word.
const WORTH: Duration = Duration::from_millis(100);

/// A write that is.
const WRITE: Duration = Duration::from_secs(1);

impl Node {
    /// All that is known and out of the ordinary; else that it answers.
    pub(super) fn evidence(&self, now: Instant) -> String {
        let mut facts = Vec::new();
        let ago = |at: Instant| ms(now.since(at));
        if let Some((at, reason)) = &self.past.ended {
            facts.push(format!("its session ended {} ago ({reason})", ago(*at)));
        }
        if let Some((_, last, count)) = &self.past.refused {
            facts.push(format!("nobody listened {count} times, last {} ago", ago(*last)));
        }
        if let Some((since, _, reason)) = &self.past.unreachable {
            facts.push(format!("unreachable for {} ({reason})", ago(*since)));
        }
        if let Some((at, reason)) = &self.past.closed {
            facts.push(format!("a login was cut off {} ago ({reason})", ago(*at)));
        }
        if let Some((at, code, message)) = &self.past.said {
            facts.push(format!("a login was refused {} ago ({code}: {message})", ago(*at)));
        }
        if let Some(silence) = self.silence(now).filter(|it| *it >= WORTH) {
            let unanswered = self.unanswered(now);
            facts.push(format!(
                "nothing was acknowledged for {}, {unanswered} connections were not answered",
                ms(silence)
            ));
        }
        if let Some(waits) = self.ping_unanswered(now).filter(|it| *it >= WORTH) {
            facts.push(format!("a ping has arrived and was not answered for {}", ms(waits)));
        }
        if let Some(waits) = self.login_unanswered(now).filter(|it| *it >= WORTH) {
            facts.push(format!("a login has arrived and was not answered for {}", ms(waits)));
        }
        if let Some(waits) = self.write_unanswered(now).filter(|it| *it >= WRITE) {
            facts.push(format!("a write has not ended for {}", ms(waits)));
        }
        if self.figures.is_poor(now) {
            let (is, usual) = (self.figures.round_trip(), self.figures.usual());
            let again = self.figures.again(now);
            facts.push(format!(
                "a round trip takes {} where {} is usual, {again} segments were sent again within \
                 a second",
                ms(is),
                ms(usual)
            ));
        }
        let penalty = self.damping.penalty(now);
        if penalty >= 1_500.0 {
            facts.push(format!("it has gone often lately (penalty {penalty:.0})"));
        }
        if facts.is_empty() {
            facts.push(if self.session.is_some() { "it answers" } else { "no session" }.to_owned());
        }
        let mut text = facts.join("; ");
        for (by, (at, heard)) in &self.witnesses {
            let said = match heard {
                Some(heard) => format!("heard it {}", ms(*heard + now.since(*at))),
                None => format!("said {} that it does not hear it", ago(*at)),
            };
            let _infallible = write!(text, "; {by} {said}{}", heard.map_or("", |_| " ago"));
        }
        text
    }
}

/// Milliseconds, with as many digits as they are worth.
fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}
