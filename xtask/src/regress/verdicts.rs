//! What `pg_regress` said of each test, and how two runs of it differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// How one test went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The output was as expected.
    Passed,
    /// It was not.
    Failed,
}

/// Tests by name.
pub(super) type Verdicts = BTreeMap<String, Verdict>;

/// The test of a line of `pg_regress`, in the words of version 15 or in TAP, as since 16.
pub(super) fn of_line(line: &str) -> Option<(String, Verdict)> {
    let line = line.trim_start();
    for (start, verdict) in [("ok ", Verdict::Passed), ("not ok ", Verdict::Failed)] {
        // `ok 7         + boolean          93 ms`; + is a parallel test, - one alone.
        if let Some(name) = line.strip_prefix(start).and_then(|rest| rest.split_whitespace().nth(2))
        {
            return Some((name.to_owned(), verdict));
        }
    }
    let (name, said) = line.split_once(" ... ")?;
    let name = name.strip_prefix("test ").unwrap_or(name).trim();
    match said.split_whitespace().next()? {
        "ok" => Some((name.to_owned(), Verdict::Passed)),
        "FAILED" => Some((name.to_owned(), Verdict::Failed)),
        _ => None,
    }
}

/// The differences between two runs, one line each; `direct` and `pooled` are also the
/// directories with the output of the tests.
pub(super) fn differences(
    (direct, directory): (&Verdicts, &Path),
    (pooled, pooled_directory): (&Verdicts, &Path),
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, verdict) in direct {
        let line = match (verdict, pooled.get(name)) {
            (_, None) => "did not run through pgring",
            (Verdict::Passed, Some(Verdict::Failed)) => "fails through pgring only",
            (Verdict::Failed, Some(Verdict::Passed)) => "fails direct only",
            (Verdict::Passed, Some(Verdict::Passed)) => continue,
            (Verdict::Failed, Some(Verdict::Failed)) => {
                let output = |directory: &Path| {
                    fs::read_to_string(directory.join(format!("results/{name}.out"))).ok()
                };
                if output(directory) == output(pooled_directory) {
                    continue;
                }
                "fails both ways, differently"
            }
        };
        found.push(format!("{name:<28} {line}"));
    }
    for name in pooled.keys().filter(|name| !direct.contains_key(*name)) {
        found.push(format!("{name:<28} ran through pgring only"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Verdict, Verdicts, differences, of_line};
    use std::path::Path;

    #[test]
    fn a_verdict_is_read_in_old_and_new_words() {
        let passed = |name: &str| Some((name.to_owned(), Verdict::Passed));
        assert_eq!(
            of_line("test tablespace                   ... ok          363 ms"),
            passed("tablespace")
        );
        assert_eq!(
            of_line("     boolean                      ... ok           93 ms"),
            passed("boolean")
        );
        assert_eq!(of_line("ok 2         + boolean             93 ms"), passed("boolean"));
        let failed = Some(("oid".to_owned(), Verdict::Failed));
        assert_eq!(of_line("     oid                          ... FAILED       48 ms"), failed);
        assert_eq!(of_line("not ok 3     + oid                 48 ms"), failed);
        assert_eq!(of_line("parallel group (20 tests):  name char oid"), None);
    }

    #[test]
    fn only_what_differs_is_told() {
        let run = |verdicts: &[(&str, Verdict)]| -> Verdicts {
            verdicts.iter().map(|(name, verdict)| ((*name).to_owned(), *verdict)).collect()
        };
        let (ok, no) = (Verdict::Passed, Verdict::Failed);
        let direct = run(&[("a", ok), ("b", ok), ("c", no), ("d", no), ("e", ok)]);
        let pooled = run(&[("a", ok), ("b", no), ("c", ok), ("d", no), ("f", ok)]);
        let none = Path::new("/nowhere");
        let names: Vec<_> = differences((&direct, none), (&pooled, none))
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            names,
            [
                "b fails through pgring only",
                "c fails direct only",
                "e did not run through pgring",
                "f ran through pgring only",
            ]
        );
    }
}
