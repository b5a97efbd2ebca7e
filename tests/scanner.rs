//! pgring's lexer against PostgreSQL's own scanner: the same borders of tokens, on statements cut
//! up and stuck together at random.

#![expect(clippy::print_stdout, reason = "how many were compared is to be read")]

use pgring_logic::lexer::{Lexer, Token};
use pgring_tests::dice::Dice;
use std::ops::Range;

/// Statements with something of everything.
const STATEMENTS: &[&str] = &[
    "SELECT a.b, \"C\"\"d\", $1::int4 FROM t WHERE x >= .5e3 AND y = 'it''s'; -- end",
    "insert into t (a, b) values (E'tab\\t\\'quote', U&'d\\0061t\\+000061'), (N'x', B'0101')",
    "WITH q AS (SELECT * FROM u WHERE r @> '{\"a\": [1, 2]}'::jsonb) SELECT q.*, 1.5e-3 FROM q",
    "DO $body$ BEGIN PERFORM $x$ inner $$ $x$; END $body$ LANGUAGE plpgsql /* a /* b */ c */",
    "SELECT U&\"d!0061t\" UESCAPE '!', x'1FF' , 0x1F, 0b11, 0o17, 1_000_000, 3.14, 42.",
    "UPDATE s.t SET a = a || 'one'\n  'two' -- and\n  'three', b = -1, c = +-2 WHERE d <-> e < 1",
    "SELECT count(*) FILTER (WHERE a !~* '^[a-z]'), arr[1:2], f(a => 1, b := 2) FROM t AS \"T\"",
    "select x$1, $2, $3+1, a%b, a#>>'{x}', a?|b, @ -5, |/ 25, !!3, t.*, (r).f, 'é' || ümlaut",
    "/* only a comment */ -- and another\n",
    "COPY t (a, b) FROM STDIN WITH (FORMAT csv, DELIMITER E'\\t', NULL '')",
];

/// Pieces that make trouble.
const PIECES: &[&str] = &[
    "'",
    "''",
    "\"",
    "\"\"",
    "$$",
    "$a$",
    "$a",
    "$1",
    "--",
    "\n",
    "/*",
    "*/",
    "E'",
    "e'\\''",
    "U&'",
    "u&\"",
    "N'",
    "n''",
    "X'1f'",
    "b'01'",
    "\\",
    ";",
    " ",
    "\t",
    "\u{b}",
    "0x1F",
    "1e5",
    "1e",
    "1.",
    ".5",
    "1..2",
    "1_000",
    "::",
    ":=",
    "..",
    ".",
    "<=",
    "@-",
    "-",
    "+-",
    "+--",
    "*/*",
    "é",
    "ü1",
    "select",
    "insert",
    "_",
    "a$b",
    "uescape '!'",
    "'a'\n'b'",
    "'a' -- x\n 'b'",
    "[",
    "]",
    "(",
    ",",
];

/// What both call tokens: where words, numbers, strings and names lie; and every byte of the
/// operators and other signs, which the one lists alone and the other together.
#[derive(Debug, Default, Eq, PartialEq)]
struct Borders {
    whole: Vec<Range<usize>>,
    signs: Vec<usize>,
}

fn ours(text: &str) -> Borders {
    let mut borders = Borders::default();
    let mut lexer = Lexer::new(text.as_bytes());
    while let Some(token) = lexer.next() {
        let span = lexer.span();
        match token {
            Token::Symbol(_) | Token::Semicolon => borders.signs.extend(span),
            // To PostgreSQL the N is a word of its own.
            Token::String([b'n' | b'N', ..]) => {
                borders.whole.extend([span.start..span.start + 1, span.start + 1..span.end]);
            }
            Token::Word(_)
            | Token::Quoted(_)
            | Token::Escaped(_)
            | Token::String(_)
            | Token::Number(_)
            | Token::Parameter(_) => borders.whole.push(span),
        }
    }
    borders
}

/// None if PostgreSQL finds no tokens in it.
fn theirs(text: &str) -> Option<Borders> {
    use pg_query::protobuf::Token as Kind;
    let mut borders = Borders::default();
    for token in pg_query::scan(text).ok()?.tokens {
        let at = |place: i32| usize::try_from(place).expect("a place in the text");
        let span = at(token.start)..at(token.end);
        let first = text.as_bytes()[span.start];
        if [Kind::SqlComment, Kind::CComment].iter().any(|kind| *kind as i32 == token.token) {
            continue;
        }
        let word = first.is_ascii_alphanumeric() || matches!(first, b'_' | b'"' | b'\'' | 0x80..);
        let number = first == b'.' && span.len() > 1 && text.as_bytes()[span.start + 1] != b'.';
        let dollar = first == b'$' && span.len() > 1;
        if word || number || dollar {
            borders.whole.push(span);
        } else {
            borders.signs.extend(span);
        }
    }
    Some(borders)
}

fn mutated(dice: &mut Dice) -> String {
    let mut text: Vec<char> = dice.pick(STATEMENTS).chars().collect();
    let other: Vec<char> = dice.pick(STATEMENTS).chars().collect();
    for _ in 0..=dice.below(4) {
        let at = dice.below(text.len() + 1);
        let end = at + dice.below(text.len() - at + 1).min(dice.below(12));
        let piece: Vec<char> = match dice.below(4) {
            0 => Vec::new(),
            1 => {
                let from = dice.below(other.len() + 1);
                other[from..].iter().take(dice.below(20)).copied().collect()
            }
            _ => dice.pick(PIECES).chars().collect(),
        };
        text.splice(at..end, piece);
    }
    text.into_iter().filter(|letter| *letter != '\0').collect()
}

#[test]
fn a_text_falls_into_the_same_tokens_here_as_in_postgresql() {
    let mut dice = Dice::new(18);
    let (mut tried, mut same) = (0, 0);
    while same < 100_000 {
        tried += 1;
        assert!(tried < 1_000_000, "too few of the texts can be scanned: {same}");
        let text = mutated(&mut dice);
        let Some(theirs) = theirs(&text) else { continue };
        assert_eq!(ours(&text), theirs, "{text:?}");
        same += 1;
    }
    println!("{same} of {tried} texts could be scanned");
}
