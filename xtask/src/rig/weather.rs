//! The weather on a link: what becomes of a packet. Time and dice are arguments.

use super::dice::Dice;
use super::packet::Segment;
use std::time::{Duration, Instant};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From pgring to the node.
    To,
    /// From the node to pgring.
    From,
}

/// What a link does to its packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Weather {
    /// All arrive at once.
    Fair,
    /// None arrives that goes these ways.
    Dark {
        /// Those to the node.
        to: bool,
        /// Those from it.
        from: bool,
    },
    /// From `since` on, dark for the first part of every `period`.
    Flicker {
        /// When the first dark part began.
        since: Instant,
        /// How long each is.
        dark: Duration,
        /// From one to the next.
        period: Duration,
    },
    /// Some are lost, the others arrive later, those of a connection in order.
    Rough {
        /// How many of a thousand are lost, each way.
        lost: u64,
        /// The least time one is under way.
        least: Duration,
        /// And the most.
        most: Duration,
    },
    /// Whatever belongs to an open connection ends it, on both sides.
    Resets,
    /// As if nobody listened at the node: what comes is answered with a reset.
    Refuses,
}

/// What becomes of a packet.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It goes on at once.
    Pass,
    /// It is gone.
    Drop,
    /// It goes on after this time.
    Delay(Duration),
    /// It is gone, and these go back to its sender and on to its receiver instead.
    Reset {
        /// To who sent it.
        back: Vec<u8>,
        /// To whom it was sent, if anything.
        on: Option<Vec<u8>>,
    },
}

impl Weather {
    /// Decides about a packet.
    pub(crate) fn fate(self, way: Way, packet: &[u8], now: Instant, dice: &mut Dice) -> Fate {
        match self {
            Self::Fair => Fate::Pass,
            Self::Dark { to, from } => dropped(match way {
                Way::To => to,
                Way::From => from,
            }),
            Self::Flicker { since, dark, period } => {
                let passed = now.saturating_duration_since(since).as_nanos();
                dropped(passed % period.as_nanos().max(1) < dark.as_nanos())
            }
            Self::Rough { lost, least, most } => {
                if dice.happens(lost) {
                    return Fate::Drop;
                }
                Fate::Delay(dice.between(least, most))
            }
            Self::Resets => match Segment::parse(packet) {
                // A knock is answered, so that there is something to reset.
                Some(segment) if !segment.opens() && !segment.resets() => {
                    Fate::Reset { back: segment.refusal(), on: Some(segment.replacement()) }
                }
                Some(_) | None => Fate::Pass,
            },
            Self::Refuses => match (way, Segment::parse(packet)) {
                // A node that lets go of its connections says so.
                (_, Some(segment)) if segment.resets() => Fate::Pass,
                (Way::To, Some(segment)) => Fate::Reset { back: segment.refusal(), on: None },
                (Way::From, Some(_)) => Fate::Drop,
                (Way::To | Way::From, None) => Fate::Pass,
            },
        }
    }
}

fn dropped(yes: bool) -> Fate {
    if yes { Fate::Drop } else { Fate::Pass }
}

#[cfg(test)]
mod tests {
    use super::{Fate, Way, Weather};
    use crate::rig::dice::Dice;
    use std::time::{Duration, Instant};

    const PACKET: [u8; 20] = [0; 20];

    fn fate(weather: Weather, way: Way, now: Instant) -> Fate {
        weather.fate(way, &PACKET, now, &mut Dice::seeded(3))
    }

    #[test]
    fn the_dark_may_be_on_one_side_only() {
        let now = Instant::now();
        let weather = Weather::Dark { to: true, from: false };
        assert_eq!(fate(weather, Way::To, now), Fate::Drop);
        assert_eq!(fate(weather, Way::From, now), Fate::Pass);
        assert_eq!(fate(Weather::Fair, Way::To, now), Fate::Pass);
    }

    #[test]
    fn a_flicker_is_dark_at_the_beginning_of_each_period() {
        let since = Instant::now();
        let (dark, period) = (Duration::from_secs(2), Duration::from_secs(5));
        let weather = Weather::Flicker { since, dark, period };
        for (second, fate_then) in [(0, Fate::Drop), (1, Fate::Drop), (2, Fate::Pass)] {
            for period in [0, 5] {
                let now = since + Duration::from_secs(second + period);
                assert_eq!(fate(weather, Way::To, now), fate_then, "second {second}");
            }
        }
    }

    #[test]
    fn rough_weather_loses_its_share_and_delays_the_rest() {
        let (least, most) = (Duration::from_millis(50), Duration::from_millis(250));
        let weather = Weather::Rough { lost: 50, least, most };
        let mut dice = Dice::seeded(3);
        let mut lost = 0;
        for _ in 0..10_000 {
            match weather.fate(Way::To, &PACKET, Instant::now(), &mut dice) {
                Fate::Drop => lost += 1,
                Fate::Delay(time) => assert!((least..=most).contains(&time)),
                fate @ (Fate::Pass | Fate::Reset { .. }) => panic!("{fate:?}"),
            }
        }
        assert!((400..600).contains(&lost), "{lost}");
    }

    #[test]
    fn what_is_no_tcp_is_neither_reset_nor_refused() {
        for weather in [Weather::Resets, Weather::Refuses] {
            assert_eq!(fate(weather, Way::To, Instant::now()), Fate::Pass);
        }
    }
}
