//! What pgring's console says about nodes: verdicts, and the events in which they change.

use crate::process::Outcome;
use std::time::Duration;

/// What pgring holds of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Unknown,
    /// All is well.
    Healthy,
    /// It answers, but worse than it did.
    Degraded,
    /// Its process may be gone.
    SuspectProcess,
    /// The path to it may be gone.
    SuspectPath,
    /// It may hang.
    SuspectHang,
    /// Its kernel answers and `PostgreSQL` does not.
    Hung,
    /// Nobody listens there.
    DeadProcess,
    /// Nothing comes back from there.
    DeadPath,
    /// It is on its way back.
    Recovering,
    /// It answers that it does not want to.
    Refusing,
}

/// The verdicts and how the console writes them.
const VERDICTS: [(Verdict, &str); 11] = [
    (Verdict::Unknown, "unknown"),
    (Verdict::Healthy, "healthy"),
    (Verdict::Degraded, "degraded"),
    (Verdict::SuspectProcess, "suspect (process)"),
    (Verdict::SuspectPath, "suspect (path)"),
    (Verdict::SuspectHang, "suspect (hang)"),
    (Verdict::Hung, "hung"),
    (Verdict::DeadProcess, "dead process"),
    (Verdict::DeadPath, "dead path"),
    (Verdict::Recovering, "recovering"),
    (Verdict::Refusing, "refusing"),
];

impl Verdict {
    /// The verdict of this name.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let found = VERDICTS.iter().find(|(_, name)| *name == text);
        found
            .map(|(verdict, _)| *verdict)
            .ok_or_else(|| format!("the console has a verdict that the rig does not know: {text}"))
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        VERDICTS.iter().find(|(verdict, _)| *verdict == self).map_or("?", |(_, name)| name)
    }

    /// Whether it says that something is wrong.
    pub(crate) fn is_unwell(self) -> bool {
        self != Self::Healthy && self != Self::Unknown
    }

    /// Whether it says that the node is gone, on which somebody would act.
    pub(crate) fn is_dead(self) -> bool {
        self == Self::DeadProcess || self == Self::DeadPath
    }
}

/// The answer to a question on the console.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The table that psql printed: a line of names, then one for each row.
    pub(crate) fn parse(lines: &[String], separator: char) -> Self {
        let fields = |line: &String| line.split(separator).map(str::to_owned).collect();
        let mut lines = lines.iter();
        let columns = lines.next().map(fields).unwrap_or_default();
        Self { columns, rows: lines.map(fields).collect() }
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|fields| Row { columns: &self.columns, fields })
    }
}

/// A row whose fields are found by name, so that a column more does not matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'table> {
    columns: &'table [String],
    fields: &'table [String],
}

impl<'table> Row<'table> {
    /// What stands in this column, if there is one.
    pub(crate) fn field(&self, name: &str) -> Option<&'table str> {
        let index = self.columns.iter().position(|column| column == name)?;
        self.fields.get(index).map(String::as_str)
    }

    /// All of it, each field after the name of its column.
    pub(crate) fn line(&self) -> String {
        let fields = self.columns.iter().zip(self.fields);
        fields.map(|(name, field)| format!("{name}={field}")).collect::<Vec<_>>().join(" ")
    }

    fn wanted(&self, name: &str) -> Outcome<&'table str> {
        self.field(name).ok_or_else(|| format!("the console shows no column `{name}`"))
    }
}

/// A verdict that has changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// It rises with time.
    pub(crate) id: u64,
    /// When, since 1970.
    pub(crate) time: Duration,
    /// Of which node.
    pub(crate) node: String,
    /// What is held of it now.
    pub(crate) verdict: Verdict,
    /// Why.
    pub(crate) evidence: String,
}

impl Event {
    /// The event of a row of SHOW EVENTS.
    pub(crate) fn parse(row: Row<'_>) -> Outcome<Self> {
        let (id, time) = (row.wanted("id")?, row.wanted("time")?);
        Ok(Self {
            id: id.parse().map_err(|_| format!("{id} is no number of an event"))?,
            time: time
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| format!("{time} is no time of an event"))?,
            node: row.wanted("node")?.to_owned(),
            verdict: Verdict::parse(row.wanted("verdict")?)?,
            evidence: row.wanted("evidence")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Table, VERDICTS, Verdict};
    use std::time::Duration;

    fn table(lines: &[&str]) -> Table {
        Table::parse(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), '|')
    }

    #[test]
    fn an_event_is_read_by_the_names_of_its_columns() {
        let table = table(&[
            "id|time|cluster|node|before|verdict|evidence|more",
            "7|1700000000.250000|main|n1|healthy|suspect (path)|nothing for 60 ms|?",
        ]);
        let events: Vec<_> = table.rows().map(|row| Event::parse(row).expect("fits")).collect();
        let wanted = Event {
            id: 7,
            time: Duration::from_millis(1_700_000_000_250),
            node: "n1".to_owned(),
            verdict: Verdict::SuspectPath,
            evidence: "nothing for 60 ms".to_owned(),
        };
        assert_eq!(events, [wanted]);
    }

    #[test]
    fn what_the_rig_does_not_know_is_said() {
        let table = table(&["id|time|node|verdict|evidence", "7|x|n1|fine|"]);
        let error = table.rows().map(|row| Event::parse(row).expect_err("no time")).next();
        assert_eq!(error.as_deref(), Some("x is no time of an event"));
        assert!(Verdict::parse("fine").expect_err("unknown").contains("fine"));
        assert_eq!(Table::parse(&[], '|').rows().count(), 0);
    }

    #[test]
    fn verdicts_are_named_once_and_found_again() {
        for (verdict, name) in VERDICTS {
            assert_eq!((Verdict::parse(name), verdict.name()), (Ok(verdict), name));
        }
    }
}
