//! The errors of a configuration file, gathered while it is read.

use crate::config::ConfigError;
use core::ops::Range;

/// The errors of one file so far.
#[derive(Debug)]
pub(super) struct Errors {
    /// Where each line starts.
    starts: Vec<usize>,
    list: Vec<ConfigError>,
}

impl Errors {
    /// None yet, of this text.
    pub(super) fn new(text: &str) -> Self {
        let starts = core::iter::once(0)
            .chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1))
            .collect();
        Self { starts, list: Vec::new() }
    }

    /// The line, from 1, that a place in the text is on.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|&start| start <= span.start)
    }

    /// One more. Line 0 stands for no line.
    pub(super) fn push(&mut self, line: usize, key: &str, message: impl Into<String>) {
        let line = (line > 0).then_some(line);
        self.list.push(ConfigError { line, key: key.to_owned(), message: message.into() });
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// All of them in the order of the file, those without a line last.
    pub(super) fn into_list(mut self) -> Vec<ConfigError> {
        self.list.sort_by_key(|error| error.line.unwrap_or(usize::MAX));
        self.list
    }
}
