//! Messages of PostgreSQL's protocol as a test writes and reads them.
//!
//! Written without pgring's own codec on purpose: what two people read from the specification
//! independently is a test of both.

/// Protocol 3.0.
pub const V3_0: u32 = 196_608;
/// Protocol 3.2: long cancel keys.
pub const V3_2: u32 = 196_610;

/// A message from the server: its type byte and what follows the length.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// The type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

/// Any message with a type byte.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(length(body.len() + 4));
    bytes.extend_from_slice(body);
    bytes
}

/// A message that claims another length than it has.
pub fn lying(tag: u8, claimed: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(claimed.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A startup packet of a version with parameters.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(zero(name));
        body.extend(zero(value));
    }
    body.push(0);
    untagged(&body)
}

/// The request to speak TLS.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

/// The request to speak GSSAPI.
pub fn gss_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

/// The request to cancel.
pub fn cancel(pid: u32, key: &[u8]) -> Vec<u8> {
    let mut body = 80_877_102_u32.to_be_bytes().to_vec();
    body.extend(pid.to_be_bytes());
    body.extend_from_slice(key);
    untagged(&body)
}

/// A simple query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &zero(sql))
}

/// Parse.
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = zero(name);
    body.extend(zero(sql));
    body.extend(count(types.len()));
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    message(b'P', &body)
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
    bind_as(portal, statement, (0, &values, 0))
}

/// Bind with formats: (of all parameters, the parameters, of all results).
pub fn bind_as(
    portal: &str,
    statement: &str,
    (format_in, values, format_out): (u16, &[Option<&[u8]>], u16),
) -> Vec<u8> {
    let mut body = zero(portal);
    body.extend(zero(statement));
    body.extend(count(1));
    body.extend(format_in.to_be_bytes());
    body.extend(count(values.len()));
    for value in values {
        match value {
            Some(value) => {
                body.extend(length(value.len()));
                body.extend_from_slice(value);
            }
            None => body.extend(u32::MAX.to_be_bytes()),
        }
    }
    body.extend(count(1));
    body.extend(format_out.to_be_bytes());
    message(b'B', &body)
}

/// Describe of a statement (`S`) or a portal (`P`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![kind], zero(name)].concat())
}

/// Close of a statement (`S`) or a portal (`P`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[vec![kind], zero(name)].concat())
}

/// Execute with a limit of rows, 0 for none.
pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    let mut body = zero(portal);
    body.extend(rows_max.to_be_bytes());
    message(b'E', &body)
}

/// Parse, Bind, Describe, Execute of one text, unnamed.
pub fn extended(sql: &str, values: &[&str]) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", values), describe(b'P', ""), execute("", 0)].concat()
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// A piece of a COPY.
pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

/// The end of a COPY.
pub fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

/// The end of a COPY that is to fail.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &zero(reason))
}

/// A password, or the text answer to any request for one.
pub fn password(text: &str) -> Vec<u8> {
    message(b'p', &zero(text))
}

/// A function call with text arguments and a text result.
pub fn function_call(function: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend(count(0));
    body.extend(count(arguments.len()));
    for argument in arguments {
        body.extend(length(argument.len()));
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend(count(0));
    message(b'F', &body)
}

impl Message {
    /// The transaction status of a ReadyForQuery.
    pub fn is_ready(&self) -> bool {
        self.tag == b'Z'
    }

    /// A field of an error or a notice.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut fields = self.body.split(|&byte| byte == 0);
        let found = fields.find(|field| field.first() == Some(&code))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    /// The SQLSTATE of an error or a notice.
    pub fn code(&self) -> String {
        self.field(b'C').unwrap_or_default()
    }

    /// The columns of a DataRow.
    pub fn columns(&self) -> Vec<Option<String>> {
        let mut rest = Reader(&self.body);
        let columns = rest.u16();
        (0..columns).map(|_| rest.value()).collect()
    }

    /// The column of a DataRow of one column.
    pub fn value(&self) -> String {
        self.columns().swap_remove(0).unwrap_or_else(|| String::from("NULL"))
    }
}

/// Reads a body from its start.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// A text that ends with a zero.
    pub fn text(&mut self) -> String {
        let end = self.0.iter().position(|&byte| byte == 0).expect("a zero at the end");
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        self.take(1);
        text
    }

    /// A value with its length before it.
    pub fn value(&mut self) -> Option<String> {
        let length = self.u32();
        if length == u32::MAX {
            return None;
        }
        let bytes = self.take(usize::try_from(length).expect("a length"));
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

fn untagged(body: &[u8]) -> Vec<u8> {
    [length(body.len() + 4).to_vec(), body.to_vec()].concat()
}

fn zero(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a length").to_be_bytes()
}

fn count(things: usize) -> [u8; 2] {
    u16::try_from(things).expect("a count").to_be_bytes()
}
