//! What a segment of a client holds, by its bytes: a Query, or extended messages up to the Sync.

use crate::lexer::{Lexer, Token};
use pgring_wire::client::{Parse, Target, bind_names, query};
use pgring_wire::frame::{Header, LENGTH_MAX, header};

/// The messages of a segment up to its Sync; none if it is not whole.
pub(super) fn messages(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut messages = Vec::new();
    loop {
        let head = header(bytes, LENGTH_MAX).ok()??;
        let message = bytes.get(..head.total())?;
        bytes = &bytes[head.total()..];
        messages.push((head.tag, &message[Header::SIZE..]));
        if matches!(head.tag, b'S' | b'Q') {
            return Some(messages);
        }
    }
}

/// Whether nothing of a segment lasts beyond it: no portal that more rows could be asked of, which
/// another node does not have.
pub(super) fn leaves_nothing(bytes: &[u8]) -> bool {
    messages(bytes).is_some_and(|messages| {
        let count = |tag| messages.iter().filter(|(other, _)| *other == tag).count();
        // What is bound and not run yet is run later.
        count(b'B') == count(b'E')
            && messages.into_iter().all(|(tag, body)| match tag {
                b'B' => bind_names(body).is_some_and(|names| names.portal.is_empty()),
                // The unnamed portal, and all of its rows.
                b'E' => body == [0; 5],
                b'D' | b'C' => {
                    Target::read(body).is_ok_and(|it| it.kind == b'S' || it.name.is_empty())
                }
                _ => true,
            })
    })
}

/// How many statements a segment runs.
pub(super) fn runs(bytes: &[u8]) -> usize {
    let messages = messages(bytes).unwrap_or_default();
    messages.into_iter().filter(|(tag, _)| *tag == b'E').count()
}

/// The text of the Query that is shown whole in front.
pub(super) fn text_in(bytes: &[u8]) -> Option<&[u8]> {
    let head = header(bytes, LENGTH_MAX).ok()??;
    let message = bytes.get(..head.total()).filter(|_| head.tag == b'Q')?;
    query(&message[Header::SIZE..]).ok()
}

pub(super) fn begins_with(text: &[u8], word: &str) -> bool {
    let text = text.trim_ascii_start();
    text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()))
}

pub(super) fn looks_like_begin(text: &[u8]) -> bool {
    begins_with(text, "begin") || begins_with(text, "start")
}

/// Whether a text is nothing but the end of a transaction, in the forms that drivers use. Any other
/// goes another way, which is only longer.
pub(super) fn only_ends(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
    ["commit", "rollback", "end", "abort"]
        .iter()
        .any(|end| text.eq_ignore_ascii_case(end.as_bytes()))
}

/// What the first statement of a text, or of a segment, does where its transaction has failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum First {
    /// It is refused, and all that follows with it.
    Refused,
    /// It ends the transaction, and nothing follows.
    Ends,
    /// It is a bare ROLLBACK, and something follows.
    RollsBack,
    /// It ends the transaction in another way, and something follows.
    GoesOn,
}

/// What a text does first.
pub(super) fn first_of(text: &[u8]) -> First {
    let is = |token: &Token<'_>, words: &[&str]| {
        let word = if let Token::Word(word) = token { *word } else { b"" };
        words.iter().any(|other| word.eq_ignore_ascii_case(other.as_bytes()))
    };
    let mut tokens = Lexer::new(text).skip_while(|token| *token == Token::Semicolon).peekable();
    let Some(verb) = tokens.next() else { return First::Refused };
    let rolls = is(&verb, &["rollback", "abort"]);
    let noun = tokens.next_if(|token| is(token, &["work", "transaction"])).is_some();
    let ends = rolls || is(&verb, &["commit", "end"]) || noun && is(&verb, &["prepare"]);
    // Nothing of the kind is there to be gone back to, and what is prepared is another's.
    if !ends || tokens.peek().is_some_and(|token| is(token, &["to", "prepared"])) {
        return First::Refused;
    }
    let bare = rolls && tokens.peek().is_none_or(|token| *token == Token::Semicolon);
    let follows = tokens.skip_while(|token| *token != Token::Semicolon);
    match (follows.into_iter().any(|token| token != Token::Semicolon), bare) {
        (false, _) => First::Ends,
        (true, true) => First::RollsBack,
        (true, false) => First::GoesOn,
    }
}

/// The same of a segment, as far as it is there; `known` says whether the statement of a name that
/// was parsed before is an end.
pub(super) fn first_in(mut bytes: &[u8], known: impl Fn(&[u8]) -> bool) -> First {
    let mut parsed: Vec<&[u8]> = Vec::new();
    let (mut bound, mut ended) = (false, false);
    while let Ok(Some(head)) = header(bytes, LENGTH_MAX) {
        let message = bytes.get(..head.total()).unwrap_or(bytes);
        bytes = &bytes[message.len()..];
        let body = message.get(Header::SIZE..).unwrap_or_default();
        let goes = match head.tag {
            b'S' => break,
            b'P' | b'B' | b'E' if ended => return First::GoesOn,
            b'P' => Parse::read(body).is_ok_and(|parse| {
                parsed.push(parse.name);
                first_of(parse.text) == First::Ends
            }),
            b'B' => bind_names(body).is_some_and(|names| {
                bound = parsed.contains(&names.statement) || known(names.statement);
                bound
            }),
            b'E' => {
                ended = bound;
                bound
            }
            _ => true,
        };
        if !goes {
            // Behind an error a server reads nothing up to the Sync.
            return First::Refused;
        }
    }
    if ended { First::Ends } else { First::Refused }
}

#[cfg(test)]
mod tests {
    use super::{First, first_of, leaves_nothing, only_ends, runs};
    use pgring_wire::client::write;

    #[test]
    fn ends_are_known_by_their_words_alone() {
        for text in ["COMMIT", " rollback ; ", "end", "Abort;"] {
            assert!(only_ends(text.as_bytes()), "{text}");
        }
        for text in ["COMMIT AND CHAIN", "ROLLBACK TO a", "COMMIT; DELETE FROM t", "ended", ""] {
            assert!(!only_ends(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_comes_first_where_a_transaction_has_failed_is_known_by_its_words() {
        let of = |text: &str| first_of(text.as_bytes());
        for text in ["", ";", "INSERT; ROLLBACK", "ROLLBACK TO a; INSERT", "PREPARE a AS SELECT 1"]
        {
            assert_eq!(of(text), First::Refused, "{text}");
        }
        for text in ["COMMIT PREPARED 'a'", "abort work to savepoint a", "\"commit\"", "ended"] {
            assert_eq!(of(text), First::Refused, "{text}");
        }
        for text in ["COMMIT", ";end;;", "/* ; */ Abort -- ;", "ROLLBACK AND NO CHAIN"] {
            assert_eq!(of(text), First::Ends, "{text}");
        }
        for text in [" ROLLBACK ; INSERT", "abort/**/Transaction;;END", "ROLLBACK;'"] {
            assert_eq!(of(text), First::RollsBack, "{text}");
        }
        for text in ["COMMIT; INSERT", "ROLLBACK AND CHAIN; SELECT 1", "END WORK;x"] {
            assert_eq!(of(text), First::GoesOn, "{text}");
        }
        assert_eq!(of("PREPARE TRANSACTION 'a;'"), First::Ends);
    }

    #[test]
    fn a_portal_that_stays_open_is_left_behind() {
        let segment = |portal: &[u8], rows: u32| {
            let mut out = Vec::new();
            write::bind(&mut out, portal, b"s");
            let at = out.len();
            write::execute(&mut out, portal);
            let end = out.len();
            assert!(end > at);
            out[end - 4..].copy_from_slice(&rows.to_be_bytes());
            write::sync(&mut out);
            out
        };
        assert!(leaves_nothing(&segment(b"", 0)));
        assert!(!leaves_nothing(&segment(b"c", 0)) && !leaves_nothing(&segment(b"", 10)));
        let whole = segment(b"", 0);
        assert!(!leaves_nothing(&whole[..whole.len() - 1]), "who knows what follows");
        assert_eq!(runs(&whole), 1);
    }
}
