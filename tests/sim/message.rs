//! Messages as the simulated world writes and reads them.
//!
//! On purpose not `pgring-wire`: a mistake made there must not be made here too.

/// One message of a stream that is past its startup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Message {
    /// Its first byte.
    pub(crate) tag: u8,
    /// What follows the length.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A message of this body.
    pub(crate) fn new(tag: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { tag, body: body.into() }
    }

    /// Appends it as it goes over the wire.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.tag);
        out.extend_from_slice(&length(self.body.len()));
        out.extend_from_slice(&self.body);
    }

    /// For the trace: its tag and the beginning of its body.
    pub(crate) fn brief(&self) -> String {
        let text: String = self
            .body
            .iter()
            .take(48)
            .map(|&byte| if (32..127).contains(&byte) { char::from(byte) } else { '.' })
            .collect();
        format!("{}[{}]{text}", char::from(self.tag), self.body.len())
    }

    /// A field of an `ErrorResponse` or `NoticeResponse`.
    pub(crate) fn field(&self, field: u8) -> Option<String> {
        let mut reader = Reader::new(&self.body);
        loop {
            let tag = reader.byte()?;
            if tag == 0 {
                return None;
            }
            let text = reader.text()?;
            if tag == field {
                return Some(text);
            }
        }
    }
}

/// The length field of a message whose body has `body` bytes.
pub(crate) fn length(body: usize) -> [u8; 4] {
    u32::try_from(body + 4).expect("simulated messages are small").to_be_bytes()
}

/// An `ErrorResponse` or `NoticeResponse`.
pub(crate) fn report(tag: u8, severity: &str, code: &str, text: &str) -> Message {
    let mut body = Vec::new();
    let routine = if code == "0A000" { "RevalidateCachedQuery" } else { "simulated" };
    let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text), (b'R', routine)];
    for (field, value) in fields {
        body.push(field);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    Message::new(tag, body)
}

/// A startup message, or what else comes without a tag.
pub(crate) fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(name.as_bytes().iter().chain(b"\0").chain(value.as_bytes()).chain(b"\0"));
    }
    body.push(0);
    let mut out = length(body.len()).to_vec();
    out.extend(body);
    out
}

/// A cancel request.
pub(crate) fn cancel(pid: u32, secret: &[u8]) -> Vec<u8> {
    let mut out = length(8 + secret.len()).to_vec();
    out.extend(80_877_102_u32.to_be_bytes());
    out.extend(pid.to_be_bytes());
    out.extend(secret);
    out
}

/// A zero-ended text.
pub(crate) fn text(value: &str) -> Vec<u8> {
    let mut out = value.as_bytes().to_vec();
    out.push(0);
    out
}

/// Reads a body from front to back.
pub(crate) struct Reader<'body> {
    rest: &'body [u8],
}

impl<'body> Reader<'body> {
    /// A reader of this body.
    pub(crate) fn new(rest: &'body [u8]) -> Self {
        Self { rest }
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'body [u8]> {
        if count > self.rest.len() {
            return None;
        }
        let (head, rest) = self.rest.split_at(count);
        self.rest = rest;
        Some(head)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// The next 16 bits.
    pub(crate) fn short(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// The next 32 bits.
    pub(crate) fn long(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The next zero-ended text.
    pub(crate) fn text(&mut self) -> Option<String> {
        let end = self.rest.iter().position(|&byte| byte == 0)?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.byte()?;
        Some(text)
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &'body [u8] {
        self.rest
    }
}

/// What is wrong with a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BadLength(pub(crate) u32);

/// Cuts a stream into messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cutter {
    held: Vec<u8>,
    done: usize,
}

impl Cutter {
    /// Adds received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.done > 0 {
            self.held.drain(..self.done);
            self.done = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    /// The next whole message with a tag.
    pub(crate) fn tagged(&mut self) -> Result<Option<Message>, BadLength> {
        let rest = &self.held[self.done..];
        if rest.len() < 5 {
            return Ok(None);
        }
        let length = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]);
        if !(4..64 << 20).contains(&length) {
            return Err(BadLength(length));
        }
        let end = 1 + length as usize;
        if rest.len() < end {
            return Ok(None);
        }
        let message = Message::new(rest[0], &rest[5..end]);
        self.done += end;
        Ok(Some(message))
    }

    /// The next whole message without a tag.
    pub(crate) fn untagged(&mut self) -> Option<Vec<u8>> {
        let rest = &self.held[self.done..];
        let length = Reader::new(rest).long()? as usize;
        if rest.len() < length || length < 8 {
            return None;
        }
        let body = rest[4..length].to_vec();
        self.done += length;
        Some(body)
    }

    /// The next byte, for the answer to `SSLRequest`.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let byte = self.held.get(self.done).copied()?;
        self.done += 1;
        Some(byte)
    }

    /// Bytes that are not a whole message yet.
    pub(crate) fn left(&self) -> usize {
        self.held.len() - self.done
    }
}
