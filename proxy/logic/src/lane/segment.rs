//! What a segment of a client holds, by its bytes: a Query, or extended messages up to the Sync.

use pgring_wire::client::{Target, bind_names, query};
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

/// Whether the first of several statements is a bare ROLLBACK.
pub(super) fn rolls_back_first(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
    let first = &text[..end];
    only_ends(first) && (begins_with(first, "rollback") || begins_with(first, "abort"))
}

#[cfg(test)]
mod tests {
    use super::{leaves_nothing, only_ends, rolls_back_first, runs};
    use pgring_wire::client::write;

    #[test]
    fn ends_are_known_by_their_words_alone() {
        for text in ["COMMIT", " rollback ; ", "end", "Abort;"] {
            assert!(only_ends(text.as_bytes()), "{text}");
        }
        assert!(rolls_back_first(b" ROLLBACK ; INSERT"));
        for text in ["INSERT; ROLLBACK", "COMMIT; INSERT", "ROLLBACK TO a; INSERT", ""] {
            assert!(!rolls_back_first(text.as_bytes()), "{text}");
        }
        for text in ["COMMIT AND CHAIN", "ROLLBACK TO a", "COMMIT; DELETE FROM t", "ended", ""] {
            assert!(!only_ends(text.as_bytes()), "{text}");
        }
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
