//! What was found in texts, kept for the next time they come.
//!
//! Drivers and their users say the same few texts over and over, with values beside them or in
//! them; those need to be read once. A memo is a table of fixed size in which a text has one place,
//! as has every other of its [shape], so a new one costs no more than the one
//! it puts out. It is no cache of meaning: what is kept for a text is what [`scan`] says of it,
//! always, and where its class is kept.

use crate::classify::cache::Mark;
use crate::classify::key;
use crate::hints::{Hints, scan};
use crate::lexer::shape;
use crate::lexer::{Lexer, Token};

/// Texts a memo has places for.
const PLACES: usize = 256;
/// Longer texts are read every time.
const LENGTH_MAX: usize = 2 * 1024;

/// The texts read last.
#[derive(Debug)]
pub struct Memo {
    seed: u64,
    places: Vec<Place>,
    shape: Vec<u8>,
    /// The text that was looked for last, and its place.
    last: Vec<u8>,
    at: usize,
}

#[derive(Clone, Debug, Default)]
struct Place {
    key: Vec<u8>,
    of: Of,
    hints: Hints,
    mark: Option<Mark>,
}

/// What stands in a place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Of {
    /// All texts of a shape.
    Shape,
    /// A shape that tells nothing.
    Nothing,
    /// One text.
    #[default]
    Text,
}

impl Memo {
    /// An empty one. Whoever does not know `seed` cannot tell which texts share a place.
    pub fn new(seed: u64) -> Self {
        let places = vec![Place::default(); PLACES];
        Self { seed: seed | 1, places, shape: Vec::new(), last: Vec::new(), at: 0 }
    }

    /// What [`scan`] says of `text`.
    pub fn scan(&mut self, text: &[u8]) -> Hints {
        match self.place(text) {
            Some(place) => place.hints,
            None => scan(text),
        }
    }

    /// Where the class of `text` was kept when it was last asked for.
    pub fn mark(&mut self, text: &[u8]) -> Option<Mark> {
        self.place(text)?.mark
    }

    /// The class of `text` is kept there.
    pub fn note(&mut self, text: &[u8], mark: Option<Mark>) {
        if let Some(place) = self.place(text) {
            place.mark = mark;
        }
    }

    /// The place of `text`, made anew if another has it.
    fn place(&mut self, text: &[u8]) -> Option<&mut Place> {
        if text.is_empty() || text.len() > LENGTH_MAX {
            return None;
        }
        if self.last != text {
            self.at = self.find(text);
            self.last.clear();
            self.last.extend_from_slice(text);
        }
        self.places.get_mut(self.at)
    }

    fn find(&mut self, text: &[u8]) -> usize {
        self.shape.clear();
        if shape::write(text, &mut self.shape) {
            let number = number(self.seed, &self.shape);
            let place = &mut self.places[number];
            if place.of == Of::Text || place.key != self.shape {
                let of = if shape::holds(text) && is_plain(text) { Of::Shape } else { Of::Nothing };
                place.put(&self.shape, of, scan(text));
            }
            if place.of == Of::Shape {
                return number;
            }
        }
        let number = number(self.seed, text);
        let place = &mut self.places[number];
        if place.of != Of::Text || place.key != text {
            place.put(text, Of::Text, scan(text));
        }
        number
    }
}

impl Place {
    fn put(&mut self, key: &[u8], of: Of, hints: Hints) {
        self.key.clear();
        self.key.extend_from_slice(key);
        (self.of, self.hints, self.mark) = (of, hints, None);
    }
}

/// Whether the values in `text` are but values for its class.
fn is_plain(text: &[u8]) -> bool {
    Lexer::new(text).all(|token| !matches!(token, Token::Word(word) if key::minds(word)))
}

fn number(seed: u64, text: &[u8]) -> usize {
    usize::try_from(mix(seed, text) >> 32).unwrap_or(0) % PLACES
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
    use crate::classify::cache::{Cache, Proof};
    use crate::classify::key;
    use crate::dice::Chance;
    use crate::hints::scan;
    use std::collections::BTreeSet;

    #[test]
    fn a_text_is_what_it_is_however_often_it_comes_and_whoever_shares_its_place() {
        let mut memo = Memo::new(7);
        let texts: Vec<_> = (0..4 * PLACES)
            .map(|number| match number % 4 {
                0 => format!("SELECT a{number}"),
                1 => format!("SET application_name = '{number}'"),
                2 => format!("PREPARE TRANSACTION E'{number}'"),
                _ => format!("DEALLOCATE s{number}; {}", " ".repeat(number * 3)),
            })
            .collect();
        for text in texts.iter().chain(&texts).chain(texts.iter().rev()) {
            assert_eq!(memo.scan(text.as_bytes()), scan(text.as_bytes()), "{text}");
        }
        assert!(memo.places.iter().all(|place| place.key.len() <= LENGTH_MAX));
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

    #[test]
    fn texts_that_differ_in_plain_values_only_share_a_place() {
        let mut memo = Memo::new(3);
        let mut cache = Cache::new(3, 1 << 20);
        cache.verdict(b"SELECT a FROM t WHERE b = 7 AND c = 'x'", None, 1, |_| Proof::Proven);
        let mark = cache.last();
        assert!(mark.is_some());
        memo.note(b"SELECT a FROM t WHERE b = 7 AND c = 'x'", mark);
        assert_eq!(memo.mark(b"SELECT a FROM t WHERE b = 1.25 AND c = 'it''s 7'"), mark);
        for other in [
            "SELECT a FROM t WHERE b = 7 AND c = E'x'",
            "SELECT a FROM t WHERE b = 7 AND c > 'x'",
            "SELECT a FROM t WHERE b = 7 AND 'x' = c",
            "SELECT a FROM t WHERE b = $1 AND c = 'x'",
        ] {
            assert_eq!(memo.mark(other.as_bytes()), None, "{other}");
        }
        // These are kinds of numbers, and ways of escaping.
        for (one, other) in [
            ("SELECT a::float(1)", "SELECT a::float(53)"),
            ("SELECT \"!\" UESCAPE '!', 1", "SELECT \"!\" UESCAPE '#', 1"),
        ] {
            memo.note(one.as_bytes(), mark);
            assert_eq!(memo.mark(one.as_bytes()), mark, "{one}");
            assert_eq!(memo.mark(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_comment_in_a_comment_hides_no_statement() {
        let (one, other) = ("/* /* */ 'a' */ SELECT 1", "/* /* */ '*/ SET a = ' */ SELECT 1");
        let mut memo = Memo::new(3);
        let hints = [one, other].map(|text| memo.scan(text.as_bytes()));
        assert_eq!(hints, [one, other].map(|text| scan(text.as_bytes())));
        assert_ne!(hints[0], hints[1]);
    }

    /// Whatever texts are made of: those that share a place have the same hints and the same key.
    #[test]
    fn a_place_tells_no_lies() {
        const PIECES: &[&str] = &[
            "select ", "set ", "a", "E", "n", "x", "u&", "float", "uescape", "(", ")", ",", " ",
            "\n", "--", "/*", "*/", "'", "''", "'b'", "'1'", "'*/set '", "\"", "$", "$1", "$$",
            "$q$", "\\", "0", "12", "3.5", ".", "..", "1e5", "-", ";", "temp ", "_", "é", "=",
        ];
        let mut chance = Chance::new(11);
        let mut draw = |limit: usize| chance.below(u32::try_from(limit).unwrap_or(1)) as usize;
        let (mut memo, mut shared) = (Memo::new(5), 0);
        for round in 0..60_000 {
            let pieces: Vec<_> = (0..=draw(9)).map(|_| PIECES[draw(PIECES.len())]).collect();
            let one = pieces.concat();
            let values = ["0", "12", "3.5", "'b'", "'1'", "''", "'*/set '"];
            let mut other = pieces;
            for piece in &mut other {
                if values.contains(piece) {
                    *piece = values[draw(values.len())];
                }
            }
            let other = other.concat();
            let mut place = |text: &str| {
                assert_eq!(memo.scan(text.as_bytes()), scan(text.as_bytes()), "{round}: {text:?}");
                memo.places[memo.at].key.clone()
            };
            if one == other || place(&one) != place(&other) {
                continue;
            }
            shared += 1;
            assert_eq!(scan(one.as_bytes()), scan(other.as_bytes()), "{one:?}, {other:?}");
            let keys = [&one, &other].map(|text| {
                let mut key = Vec::new();
                (key::write(text.as_bytes(), &mut key), key)
            });
            assert_eq!(keys[0], keys[1], "{one:?}, {other:?}");
        }
        assert!(shared > 1_000, "only {shared} pairs shared a place");
    }
}
