//! Answers as lines of text, with what differs between any two sessions masked.

use crate::message::{Message, Reader};

/// One message as a line.
pub fn line(message: &Message) -> String {
    let mut body = Reader(&message.body);
    let tag = char::from(message.tag);
    match message.tag {
        b'K' => format!("K pid, {} bytes of key", message.body.len() - 4),
        b'A' => {
            body.u32();
            format!("A pid {} {:?}", body.text(), body.text())
        }
        b'S' => parameter(&mut body),
        b'E' | b'N' => format!("{tag} {}", fields(&message.body)),
        b'D' => format!("D {}", row(message)),
        b'Z' => format!("Z {}", char::from(message.body[0])),
        b'C' => format!("C {}", body.text()),
        _ => format!("{tag} {}", message.body.escape_ascii()),
    }
}

/// All of them as lines.
pub fn lines(messages: &[Message]) -> Vec<String> {
    messages.iter().map(line).collect()
}

/// Where two transcripts part, and what each says there; none if they are equal.
pub fn difference(direct: &[String], through: &[String]) -> Option<String> {
    if direct == through {
        return None;
    }
    let first = direct.iter().zip(through).position(|(one, other)| one != other);
    let first = first.unwrap_or_else(|| direct.len().min(through.len()));
    let at = |lines: &[String]| {
        let line = lines.get(first).cloned().unwrap_or_else(|| String::from("(nothing)"));
        line.chars().take(300).collect::<String>()
    };
    Some(format!("answer {first}:\n  direct  {}\n  through {}", at(direct), at(through)))
}

fn parameter(body: &mut Reader<'_>) -> String {
    format!("S {} = {}", body.text(), body.text())
}

/// The fields of an error; where in PostgreSQL's source it was raised says nothing here.
fn fields(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0).filter(|field| !field.is_empty());
    let telling = fields.filter(|field| !b"FLR".contains(&field[0]));
    let texts: Vec<_> = telling.map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    texts.join(" | ")
}

fn row(message: &Message) -> String {
    let columns = message.columns().into_iter();
    let texts: Vec<_> = columns.map(|value| value.unwrap_or_else(|| "NULL".into())).collect();
    texts.join(" | ")
}
