//! Rules for one source file: its header, its size, and words that do not belong in it.

/// Lines a file may have.
const FILE_LINES_MAX: usize = 500;
/// Characters a line may have.
const COLUMNS_MAX: usize = 100;
/// Lines of code a function may have; blank lines and comments are free, as they are for clippy.
const FUNCTION_LINES_MAX: usize = 70;

/// Checks a Rust file.
pub(super) fn check(name: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut say = |line: usize, what: &str| breaches.push(format!("{name}:{line}: {what}"));
    if !text.starts_with("//!") {
        say(1, "the file does not begin with a `//!` header");
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        say(lines, &format!("{lines} lines; a file ends at {FILE_LINES_MAX}"));
    }
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            say(index + 1, &format!("{columns} columns; a line ends at {COLUMNS_MAX}"));
        }
        let code = code(line);
        for what in words(name, &code) {
            say(index + 1, what);
        }
        if reexported(&code).is_some_and(|path| !lifted(name, text, path)) {
            say(index + 1, "a re-export: name things where they live");
        }
    }
    // The product's functions are counted by clippy.
    if !name.starts_with("proxy/") {
        for (line, function, lines) in long_functions(text) {
            let what = format!("`{function}` has {lines} lines; it ends at {FUNCTION_LINES_MAX}");
            say(line, &what);
        }
    }
    breaches
}

/// Words in a line of code that the house does not use.
fn words(name: &str, code: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    if code.contains("crate::{") {
        found.push("one `use crate::module::..` for each module: the floors are read from it");
    }
    if code.contains("super::super") {
        found.push("`super::super`: say `crate::`");
    }
    if code.contains("#[allow") || code.contains("#![allow") {
        found.push("`allow`: say `#[expect(lint, reason = \"..\")]`");
    }
    let homes = ["proxy/src/ring.rs", "proxy/src/ring/", "proxy/src/probe.rs", "proxy/src/probe/"];
    let ring = homes.iter().any(|home| name.starts_with(home));
    let unsafely = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    if name.starts_with("proxy/") && !ring && unsafely.iter().any(|word| code.contains(word)) {
        found.push("unsafe code lives in `proxy/src/ring*` and `proxy/src/probe*`");
    }
    found
}

/// What a line of code re-exports, unless it is of the standard library.
fn reexported(code: &str) -> Option<&str> {
    let words = ["pub use ", "pub(crate) use ", "pub(super) use "];
    let path = words.iter().find_map(|word| code.trim_start().strip_prefix(word))?;
    (!path.starts_with("core::") && !path.starts_with("std::")).then_some(path)
}

/// Whether a module lifts what lives in a private child of its own: nobody else can name that
/// child, so there is one name still. A crate door lifts nothing.
fn lifted(name: &str, text: &str, path: &str) -> bool {
    let child = path.strip_prefix("self::").unwrap_or(path).split("::").next();
    let door = name.ends_with("/lib.rs") || name.ends_with("/main.rs");
    let mut lines = text.lines();
    !door
        && lines.any(|line| {
            let declared = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            declared.is_some() && declared == child
        })
}

/// Notes to oneself, in any file that people write.
pub(super) fn unfinished(name: &str, text: &str) -> Vec<String> {
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO")];
    let mut breaches = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for mark in marks {
            if line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == mark) {
                breaches.push(format!("{name}:{}: {mark}: do it, or make an issue", index + 1));
            }
        }
    }
    breaches
}

/// Metrics that a product file writes and the README does not list.
pub(super) fn metrics_without_entry(name: &str, text: &str, readme: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if name.ends_with("/tests.rs") {
        return breaches;
    }
    let product = text.split("#[cfg(test)]").next().unwrap_or(text);
    for (index, line) in product.lines().enumerate() {
        let line_code = code(line);
        for (at, _) in line.match_indices("pgring_") {
            // Where the code has the same word, it is a package; a metric stands in a string.
            let word = |text: &str| -> String {
                text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
            };
            let metric = word(line);
            let quoted = line_code.get(at..).is_some_and(|rest| !rest.starts_with("pgring_"));
            let entry = readme
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|listed| suffixed(listed, &metric));
            if quoted && metric.len() > "pgring_".len() && !entry {
                let place = format!("{name}:{}", index + 1);
                breaches.push(format!("{place}: the metric `{metric}` is not in the README"));
            }
        }
    }
    breaches
}

/// Whether a name of the README is the metric, with the unit and suffix its type adds.
fn suffixed(listed: &str, metric: &str) -> bool {
    listed.strip_prefix(metric).is_some_and(|rest| ["", "_total", "_seconds"].contains(&rest))
}

/// Functions that are too long: first line, name, lines of code.
///
/// rustfmt has been here: a function ends with the brace that stands where the function began.
fn long_functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = code(line);
        let Some(name) = function_name(&code) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let body = lines[index + 1..].iter().take_while(|line| **line != end);
        if line.trim_end().ends_with(['}', ';']) {
            continue;
        }
        let count = body
            .filter(|line| {
                let line = line.trim_start();
                !line.is_empty() && !line.starts_with("//")
            })
            .count();
        if count > FUNCTION_LINES_MAX {
            found.push((index + 1, name.to_owned(), count));
        }
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let mut words = code.trim_start().split(' ');
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern"];
    let first = words.find(|word| !qualifiers.contains(word))?;
    if first != "fn" {
        return None;
    }
    words.next()?.split(['(', '<']).next()
}

/// A line without its comment, and with blanks for the insides of its string literals.
///
/// Columns stay what they were. A literal of several lines is read as code from its second line
/// on; rules look for words that do not stand in texts.
pub(super) fn code(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.char_indices().peekable();
    let mut quoted = false;
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' if quoted => {
                out.push_str("  ");
                rest.next();
            }
            '"' if !line[..at].ends_with('\'') || quoted => {
                quoted = !quoted;
                out.push('"');
            }
            '/' if !quoted && line[at..].starts_with("//") => break,
            c if quoted => out.extend(std::iter::repeat_n(' ', c.len_utf8())),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{check, code, metrics_without_entry, unfinished};

    fn breaches(text: &str) -> Vec<String> {
        check("tests/x.rs", &format!("//! A file.\n{text}"))
    }

    #[test]
    fn a_file_begins_with_what_it_is() {
        let wanted = ["a.rs:1: the file does not begin with a `//!` header"];
        assert_eq!(check("a.rs", "fn f() {}\n"), wanted);
        assert_eq!(check("a.rs", "//! A file.\n"), Vec::<String>::new());
    }

    #[test]
    fn a_file_and_a_line_have_an_end() {
        assert_eq!(breaches(&"\n".repeat(499)), Vec::<String>::new());
        assert_eq!(breaches(&"\n".repeat(500)), ["tests/x.rs:501: 501 lines; a file ends at 500"]);
        let wide = "ä".repeat(101);
        assert_eq!(breaches(&wide), ["tests/x.rs:2: 101 columns; a line ends at 100"]);
        assert_eq!(breaches(&wide[2..]), Vec::<String>::new());
    }

    #[test]
    fn a_function_has_an_end() {
        let function = |lines| {
            let body = "        work();\n\n        // why\n".repeat(lines);
            format!("impl X {{\n    pub(crate) fn long<T>(&self) {{\n{body}    }}\n}}\n")
        };
        assert_eq!(breaches(&function(70)), Vec::<String>::new());
        assert_eq!(breaches(&function(71)), ["tests/x.rs:3: `long` has 71 lines; it ends at 70"]);
    }

    #[test]
    fn words_the_house_does_not_use_are_found_in_code_and_nowhere_else() {
        for (breach, innocent) in [
            ("use crate::{a, b};", "// use crate::{a, b};"),
            ("use super::super::x;", "let x = \"super::super\";"),
            ("#[allow(dead_code)]", "#[expect(dead_code, reason = \"#[allow(..)]\")]"),
            ("pub use inner::Thing;", "pub use core::time::Duration;"),
            ("pub(crate) use inner::Thing;", "use inner::Thing;"),
        ] {
            assert_eq!(breaches(breach).len(), 1, "{breach}");
            assert_eq!(breaches(innocent), Vec::<String>::new(), "{innocent}");
        }
    }

    #[test]
    fn a_module_lifts_items_of_its_private_children_only() {
        let text = |lines| format!("//! A file.\n{lines}");
        let lift = text("mod texts;\n\npub use texts::{Texts, Text};\n");
        assert_eq!(check("proxy/logic/src/prepared.rs", &lift), Vec::<String>::new());
        for door in ["proxy/logic/src/lib.rs", "xtask/src/main.rs"] {
            assert_eq!(
                check(door, &lift),
                [format!("{door}:4: a re-export: name things where they live")]
            );
        }
        for other in [
            "pub mod texts;\npub use texts::Texts;\n",
            "mod texts;\npub use crate::texts::Texts;\n",
            "mod texts;\npub use super::texts::Texts;\n",
            "mod texts;\npub use textual::Texts;\n",
            "// mod texts;\npub use texts::Texts;\n",
        ] {
            assert_eq!(check("proxy/logic/src/prepared.rs", &text(other)).len(), 1, "{other}");
        }
    }

    #[test]
    fn unsafe_code_has_one_home() {
        let text = "//! A file.\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(check("proxy/src/ring/token.rs", text), Vec::<String>::new());
        assert_eq!(check("tests/x.rs", text), Vec::<String>::new());
        assert_eq!(check("proxy/src/worker.rs", text).len(), 1);
    }

    #[test]
    fn notes_to_oneself_are_found_in_comments_too() {
        let text = concat!("fine\n# TO", "DO: later\nFIX", "ME\nTO", "DOS are not\n");
        assert_eq!(unfinished("a.toml", text).len(), 2);
    }

    #[test]
    fn a_metric_needs_its_line_in_the_readme() {
        let text = "use pgring_wire::frame;\nsay(\"pgring_clients\");\nsay(\"pgring_lost_total\");";
        assert_eq!(
            metrics_without_entry("proxy/src/x.rs", text, "| `pgring_clients_total` | clients |"),
            ["proxy/src/x.rs:3: the metric `pgring_lost_total` is not in the README"]
        );
    }

    #[test]
    fn code_is_a_line_without_comments_and_texts() {
        assert_eq!(code(r#"f("a // \" b") // c"#), r#"f("         ") "#);
        assert_eq!(code(r#"if c == '"' { "x" }"#), r#"if c == '"' { " " }"#);
    }
}
