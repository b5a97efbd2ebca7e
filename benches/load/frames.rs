//! Messages as they pass: their tags, at the moment they are complete, and nothing kept.

use pgring_wire::frame::{Header, LENGTH_MAX, header};

/// How much of an error is kept to be told.
const ERROR_MAX: usize = 500;

/// Follows a stream of tagged messages.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The beginning of a header that was cut.
    head: Vec<u8>,
    tag: u8,
    /// Bytes of the message that are still to come.
    left: usize,
    /// The body of the last error, as far as it is kept.
    error: Vec<u8>,
}

impl Frames {
    /// Takes in bytes and tells the tag of each message that they complete.
    ///
    /// Gives false for what is no `PostgreSQL` message.
    #[must_use]
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut complete: impl FnMut(u8)) -> bool {
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = Header::SIZE - self.head.len();
                let head = if self.head.is_empty() && bytes.len() >= Header::SIZE {
                    header(bytes, LENGTH_MAX)
                } else {
                    self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
                    header(&self.head, LENGTH_MAX)
                };
                match head {
                    Err(_) => return false,
                    Ok(None) => return true,
                    Ok(Some(head)) => {
                        bytes = &bytes[missing..];
                        self.head.clear();
                        (self.tag, self.left) = (head.tag, head.body());
                    }
                }
                if self.tag == b'E' {
                    self.error.clear();
                }
            }
            let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
            if self.tag == b'E' {
                let room = ERROR_MAX.saturating_sub(self.error.len());
                self.error.extend_from_slice(&body[..room.min(body.len())]);
            }
            self.left -= body.len();
            bytes = rest;
            if self.left == 0 {
                complete(self.tag);
            }
        }
        true
    }

    /// The last error that came by.
    pub(crate) fn error(&self) -> String {
        let text = pgring_wire::backend::ErrorView::new(&self.error);
        let detail = text.field(b'D').unwrap_or_default();
        let words = [text.message().unwrap_or(b"unreadable"), detail].join(&b' ');
        String::from_utf8_lossy(&words).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;
    use pgring_wire::backend::write::{self, ErrorText};

    #[test]
    fn tags_are_told_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        write::bind_complete(&mut stream);
        write::data_row(&mut stream, &[Some(b"1")]);
        write::error(&mut stream, &ErrorText::error("42601", "no such thing"));
        write::ready_for_query(&mut stream, b'I');
        for size in 1..=stream.len() {
            let (mut frames, mut tags) = (Frames::default(), Vec::new());
            for part in stream.chunks(size) {
                assert!(frames.take(part, |tag| tags.push(tag)));
            }
            assert_eq!(tags, b"2DEZ", "in parts of {size}");
            assert_eq!(frames.error(), "no such thing");
        }
    }

    #[test]
    fn a_stream_of_something_else_is_refused() {
        assert!(!Frames::default().take(b"HTTP/1.1 200 OK", |_| ()));
        let mut frames = Frames::default();
        assert!(frames.take(b"Z", |_| ()));
        assert!(!frames.take(b"\0\0\0\0", |_| ()));
    }
}
