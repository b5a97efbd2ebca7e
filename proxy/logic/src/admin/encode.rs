//! An answer as bytes for the client.

use crate::admin::command::{Command, CommandError};
use crate::admin::show::{Cell, Column, Kind, columns};
use crate::mail::AnswerShape;
use pgring_wire::backend::sqlstate;
use pgring_wire::backend::write::{self, ErrorText};

/// What came of a command.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Its rows, if it has any.
    pub rows: Vec<Vec<Cell>>,
    /// Something worth saying beside the rows.
    pub warnings: Vec<String>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The SQLSTATE.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<&'static str>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The user may not give this command.
    pub fn denied(command: &Command) -> Self {
        let message = format!("permission denied for console command {}", command.tag());
        let hint = Some("Users allowed every command are named in admin_users.");
        Self { code: sqlstate::INSUFFICIENT_PRIVILEGE, message, hint }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let hint = Some("SHOW HELP lists the commands.");
        Self { code: sqlstate::SYNTAX_ERROR, message: error.to_string(), hint }
    }
}

/// The description of an answer, for a statement or a portal.
pub fn describe(command: &Command, shape: AnswerShape) -> Vec<u8> {
    let mut out = Vec::new();
    if shape == AnswerShape::DescribeStatement {
        write::parameter_description(&mut out, &[]);
    }
    let columns = columns(command);
    if columns.is_empty() {
        write::no_data(&mut out);
    } else {
        header(&mut out, &columns);
    }
    out
}

/// The answer to a command that was carried out.
pub fn finish(command: &Command, answer: &Answer, shape: AnswerShape) -> Vec<u8> {
    let mut out = Vec::new();
    let simple = shape == AnswerShape::Simple;
    let columns = columns(command);
    if simple && !columns.is_empty() {
        header(&mut out, &columns);
    }
    for row in &answer.rows {
        assert_eq!(row.len(), columns.len(), "a row fits its columns");
        let cells: Vec<_> = row.iter().map(|cell| cell.as_deref().map(str::as_bytes)).collect();
        write::data_row(&mut out, &cells);
    }
    for warning in &answer.warnings {
        let message = printable(warning);
        let text = ErrorText { severity: "WARNING", ..ErrorText::error("01000", &message) };
        write::notice(&mut out, &text);
    }
    if *command == Command::Empty {
        write::empty_query_response(&mut out);
    } else {
        write::command_complete(&mut out, command.tag());
    }
    if simple {
        write::ready_for_query(&mut out, b'I');
    }
    out
}

/// The answer to a command that was not.
pub fn fail(failure: &Failure, shape: AnswerShape) -> Vec<u8> {
    let mut out = Vec::new();
    let message = printable(&failure.message);
    let text = ErrorText { hint: failure.hint, ..ErrorText::error(failure.code, &message) };
    write::error(&mut out, &text);
    if shape == AnswerShape::Simple {
        write::ready_for_query(&mut out, b'I');
    }
    out
}

/// A text of others, fit for a message: lines stay, zero bytes go.
fn printable(text: &str) -> String {
    text.replace('\0', "")
}

fn header(out: &mut Vec<u8>, columns: &[Column]) {
    let columns: Vec<_> = columns
        .iter()
        .map(|column| {
            let (type_oid, type_len) = match column.kind {
                Kind::Text => (25, -1),
                Kind::Int => (23, 4),
                Kind::Long => (20, 8),
                Kind::Numeric => (1700, -1),
            };
            write::Column { name: column.name, type_oid, type_len }
        })
        .collect();
    write::row_description(out, &columns);
}

#[cfg(test)]
mod tests {
    use super::{Answer, Failure, describe, fail, finish};
    use crate::admin::command::{Command, Show};
    use crate::mail::AnswerShape;
    use pgring_wire::backend::ErrorView;

    /// The tags of the messages in `bytes`.
    fn tags(mut bytes: &[u8]) -> String {
        let mut tags = String::new();
        while let [tag, a, b, c, d, ..] = *bytes {
            tags.push(char::from(tag));
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            bytes = &bytes[1 + len..];
        }
        assert!(bytes.is_empty(), "whole messages only");
        tags
    }

    #[test]
    fn the_same_answer_has_four_shapes() {
        let version = Command::Show(Show::Version);
        let answer =
            Answer { rows: vec![vec![Some("1".to_owned())]], warnings: vec!["slow".to_owned()] };
        assert_eq!(tags(&finish(&version, &answer, AnswerShape::Simple)), "TDNCZ");
        assert_eq!(tags(&finish(&version, &answer, AnswerShape::Execute)), "DNC");
        assert_eq!(tags(&describe(&version, AnswerShape::DescribeStatement)), "tT");
        assert_eq!(tags(&describe(&version, AnswerShape::DescribePortal)), "T");

        let none = Answer::default();
        assert_eq!(tags(&describe(&Command::Reload, AnswerShape::DescribeStatement)), "tn");
        assert_eq!(tags(&finish(&Command::Reload, &none, AnswerShape::Simple)), "CZ");
        assert_eq!(tags(&finish(&Command::Empty, &none, AnswerShape::Simple)), "IZ");
        assert_eq!(tags(&finish(&Command::Empty, &none, AnswerShape::Execute)), "I");
    }

    #[test]
    fn a_refusal_carries_its_sqlstate_and_what_to_do() {
        let unknown = Command::parse("drop table t").map_err(Failure::from).unwrap_err();
        let bytes = fail(&unknown, AnswerShape::Simple);
        assert_eq!(tags(&bytes), "EZ");
        assert_eq!(tags(&fail(&unknown, AnswerShape::Execute)), "E");
        let view = ErrorView::new(&bytes[5..]);
        assert_eq!(view.code(), Some(&b"42601"[..]));
        assert!(view.field(b'H').is_some_and(|hint| hint.starts_with(b"SHOW HELP")));
        assert_eq!(Failure::denied(&Command::Reload).code, "42501");
    }
}
