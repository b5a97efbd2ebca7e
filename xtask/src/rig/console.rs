//! pgring's console, asked through one psql that stays: a new one for each question would cost
//! more processor than what it asks about.

use super::event::{Event, Row, Table, Verdict};
use crate::postgres::{Login, Site};
use crate::process::{self, Outcome};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Between fields. It stands in no text that pgring says.
const SEPARATOR: char = '\u{1f}';
/// What psql says when it has answered; a number and whether it failed follow.
const END: &str = "\u{1e}end";
/// Between two looks whether psql has answered or somebody asked for the end.
const POLL: Duration = Duration::from_millis(25);
/// How much later than its end the reason of an error may be read.
const LATE: Duration = Duration::from_millis(500);

/// A console that is left with this value.
#[derive(Debug)]
pub(crate) struct Console {
    psql: Child,
    input: ChildStdin,
    heard: Receiver<(bool, String)>,
    /// The number of the last question.
    asked: u64,
    /// The number of the last event read.
    seen: u64,
    /// The last verdict of each node that has had one.
    verdicts: BTreeMap<String, Verdict>,
}

impl Console {
    /// Enters the console. The calling thread is in a namespace from which it is reached.
    pub(crate) fn enter(site: &Site, login: &Login<'_>) -> Outcome<Self> {
        let mut psql = site.client("psql", login);
        psql.args(["-X", "-q", "-A", "-P", "footer=off", "-F", &SEPARATOR.to_string()]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut psql = psql.spawn().map_err(|error| format!("cannot run psql: {error}"))?;
        let (tell, heard) = mpsc::channel();
        let pipes = (psql.stdin.take(), psql.stdout.take(), psql.stderr.take());
        let (Some(input), Some(out), Some(err)) = pipes else {
            return Err("psql has no pipes".to_owned());
        };
        process::listen(out, false, tell.clone());
        process::listen(err, true, tell);
        Ok(Self { psql, input, heard, asked: 0, seen: 0, verdicts: BTreeMap::new() })
    }

    /// The answer, or none within `patience`: pgring may be stopped, or have no time.
    pub(crate) fn ask(&mut self, sql: &str, patience: Duration) -> Outcome<Option<Table>> {
        self.asked += 1;
        let question = format!("{sql};\n\\echo '{END}' {} :ERROR\n", self.asked);
        self.input
            .write_all(question.as_bytes())
            .map_err(|error| format!("psql at the console has ended: {error}"))?;
        let until = Instant::now() + patience;
        let (mut lines, mut complaints) = (Vec::new(), String::new());
        while Instant::now() < until {
            process::check_interrupt()?;
            match self.heard.recv_timeout(POLL) {
                Ok((true, text)) => complaints += &text,
                Ok((false, text)) => match text.strip_prefix(END) {
                    None => lines.push(text),
                    Some(end) if end.trim() == format!("{} false", self.asked) => {
                        return Ok(Some(Table::parse(&lines, SEPARATOR)));
                    }
                    Some(end) if end.trim() == format!("{} true", self.asked) => {
                        // The reason comes by another pipe, and may be the later one.
                        while let (true, Ok((true, text))) =
                            (complaints.is_empty(), self.heard.recv_timeout(LATE))
                        {
                            complaints += &text;
                        }
                        return Err(format!("{sql}: {complaints}"));
                    }
                    // The late answer to a question that was given up.
                    Some(_) => lines.clear(),
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("psql at the console has ended: {complaints}"));
                }
            }
        }
        Ok(None)
    }

    /// The events since the last time.
    pub(crate) fn news(&mut self, patience: Duration) -> Outcome<Vec<Event>> {
        let Some(table) = self.ask("SHOW EVENTS", patience)? else { return Ok(Vec::new()) };
        let mut events = table.rows().map(Event::parse).collect::<Outcome<Vec<_>>>()?;
        events.sort_by_key(|event| event.id);
        // As long as the last one is still shown, all that came after it are.
        if self.seen != 0 && events.first().is_none_or(|oldest| oldest.id > self.seen) {
            return Err(format!("event {} is no longer shown, and others may be lost", self.seen));
        }
        events.retain(|event| event.id > self.seen);
        for event in &events {
            self.seen = event.id;
            self.verdicts.insert(event.node.clone(), event.verdict);
        }
        Ok(events)
    }

    /// What keeps the nodes from being well, as far as the events read until now and the monitor
    /// say; nothing if all are.
    pub(crate) fn complaint(
        &mut self,
        nodes: usize,
        patience: Duration,
    ) -> Outcome<Option<String>> {
        if let Some((node, verdict)) = self.verdicts.iter().find(|(_, it)| **it != Verdict::Healthy)
        {
            return Ok(Some(format!("{node} is {}", verdict.name())));
        }
        let Some(table) = self.ask("SHOW NODES", patience)? else {
            return Ok(Some("the console does not answer".to_owned()));
        };
        if table.rows().count() != nodes {
            return Ok(Some(format!("{} nodes are shown", table.rows().count())));
        }
        Ok(table.rows().find_map(ailment))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        process::stop(&mut self.psql, Signal::SIGTERM, Duration::from_secs(1));
    }
}

/// What a row of SHOW NODES complains about.
fn ailment(row: Row<'_>) -> Option<String> {
    let node = row.field("node").unwrap_or("?");
    let field = |name| row.field(name).unwrap_or_default();
    if !field("error").is_empty() {
        return Some(format!("{node}: {}", field("error")));
    }
    match row.field("verdict") {
        Some(verdict) if verdict != Verdict::Healthy.name() => Some(format!("{node} is {verdict}")),
        Some(_) | None => field("role").is_empty().then(|| format!("{node} has no role yet")),
    }
}
