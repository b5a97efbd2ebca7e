//! pgring's record of the cluster, watched as it is written: so that pgring can be killed right
//! after each step that it keeps.

use crate::process::{self, Outcome};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks at the file: much less than a step takes.
const LOOK: Duration = Duration::from_micros(200);

/// What the file says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    /// It grows by one with each write.
    pub(super) revision: u64,
    /// The state, what has been asked for already, and the last step done.
    pub(super) words: String,
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Outcome<Kept> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).ok_or_else(|| format!("{}: no record: {text}", path.display()))
}

/// Waits until the file has been written so many times since `first`, or for a while: what it says
/// then.
pub(super) fn after(path: &Path, first: &Kept, writes: u64, patience: Duration) -> Outcome<Kept> {
    let start = Instant::now();
    loop {
        let kept = read(path)?;
        if kept.revision >= first.revision + writes || start.elapsed() >= patience {
            return Ok(kept);
        }
        process::check_interrupt()?;
        std::thread::sleep(LOOK);
    }
}

fn parse(text: &str) -> Option<Kept> {
    let (head, rest) = text.split_once('\n')?;
    let revision = head.strip_prefix("pgring-record 1 ")?.split(' ').next()?.parse().ok()?;
    // What belongs to the change under way stands before the first table.
    let own = rest.split("\n[").next()?;
    let field = |name: &str| {
        own.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).unwrap_or("")
    };
    let mut words = vec![field("state").trim_matches('"').to_owned()];
    for name in ["candidate", "promote_issued", "stop_issued"] {
        let value = field(name);
        if !["", "\"\"", "false"].contains(&value) {
            words.push(format!("{name} {}", value.trim_matches('"')));
        }
    }
    if let Some(last) = last_step(own) {
        words.push(format!("last step {last:?}"));
    }
    Some(Kept { revision, words: words.join(", ") })
}

/// The name in the last pair of the list of steps.
fn last_step(own: &str) -> Option<&str> {
    let (_, steps) = own.split_once("\nsteps = ")?;
    steps.rsplit('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::{Kept, parse};

    const HEAD: &str = "pgring-record 1 17 00ff\nschema = 1\nepoch = 2\n";

    #[test]
    fn a_record_is_told_in_a_line() {
        let parse = |own: &str| parse(&format!("{HEAD}{own}\n\n[frozen]\n\n[[history]]\n"));
        let kept = |words: &str| Some(Kept { revision: 17, words: words.to_owned() });
        let own = "state = \"normal\"\ncandidate = \"\"\npromote_issued = false\nsteps = []";
        assert_eq!(parse(own), kept("normal"));
        let own = "state = \"promoting\"\ncandidate = \"n2\"\npromote_issued = true\nsteps = \
                   [\n    [\n    \"freeze\",\n    12,\n],\n    [\n    \"choose\",\n    30,\n],\n]";
        let words = "promoting, candidate n2, promote_issued true, last step \"choose\"";
        assert_eq!(parse(own), kept(words));
        assert_eq!(super::parse("something else"), None);
    }
}
