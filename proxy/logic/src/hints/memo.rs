//! What was found in texts, kept for the next time they come.
//!
//! Drivers and their users say the same few texts over and over, with values beside them; those
//! need to be read once. A memo is a table of fixed size in which a text has one place, so a new
//! text costs no more than the one it puts out. It is no cache of meaning: what is kept for a text
//! is what [`scan`] says of it, always.

use super::{Hints, scan};

/// Texts a memo has places for.
const PLACES: usize = 256;
/// Longer texts are read every time.
const LENGTH_MAX: usize = 2 * 1024;

/// The texts read last.
#[derive(Debug)]
pub struct Memo {
    seed: u64,
    places: Vec<Place>,
}

#[derive(Clone, Debug, Default)]
struct Place {
    text: Vec<u8>,
    hints: Hints,
}

impl Memo {
    /// An empty one. Whoever does not know `seed` cannot tell which texts share a place.
    pub fn new(seed: u64) -> Self {
        Self { seed: seed | 1, places: vec![Place::default(); PLACES] }
    }

    /// What [`scan`] says of `text`.
    pub fn scan(&mut self, text: &[u8]) -> Hints {
        if text.is_empty() || text.len() > LENGTH_MAX {
            return scan(text);
        }
        let number = usize::try_from(mix(self.seed, text) >> 32).unwrap_or(0) % PLACES;
        let place = &mut self.places[number];
        if place.text != text {
            place.hints = scan(text);
            place.text.clear();
            place.text.extend_from_slice(text);
        }
        place.hints
    }
}

/// A number in which every byte of the text counts.
fn mix(seed: u64, text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain(core::iter::once(&last));
    let start = seed ^ text.len() as u64;
    words.fold(start, |sum, word| {
        let sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^ sum >> 29
    })
}

#[cfg(test)]
mod tests {
    use super::{LENGTH_MAX, Memo, PLACES, mix};
    use crate::hints::scan;
    use std::collections::BTreeSet;

    #[test]
    fn a_text_is_what_it_is_however_often_it_comes_and_whoever_shares_its_place() {
        let mut memo = Memo::new(7);
        let texts: Vec<_> = (0..4 * PLACES)
            .map(|number| match number % 3 {
                0 => format!("SELECT {number}"),
                1 => format!("SET application_name = '{number}'"),
                _ => format!("DEALLOCATE s{number}; {}", " ".repeat(number * 3)),
            })
            .collect();
        for text in texts.iter().chain(&texts).chain(texts.iter().rev()) {
            assert_eq!(memo.scan(text.as_bytes()), scan(text.as_bytes()), "{text}");
        }
        assert!(memo.places.iter().all(|place| place.text.len() <= LENGTH_MAX));
    }

    #[test]
    fn texts_that_differ_a_little_have_places_of_their_own() {
        let places: BTreeSet<_> = (0..100)
            .map(|number| (mix(1, format!("SELECT {number}").as_bytes()) >> 32) % 256)
            .collect();
        assert!(places.len() > 60, "{} places for a hundred texts", places.len());
        let seeds: BTreeSet<_> = (0..100).map(|seed| (mix(seed, b"SELECT") >> 32) % 256).collect();
        assert!(seeds.len() > 60, "the seed does not count");
    }
}
