//! The floors: a module of a package may name modules of lower floors only.
//!
//! The plan of the house is the list of modules in `lib.rs`: each `// Floor` comment starts the
//! next floor. Neighbours are strangers to each other. What a module names is read line by line
//! from `crate::name`, which is why `crate::{a, b}` is refused elsewhere.

use super::source;
use std::collections::BTreeMap;

/// Modules and their floors.
type Plan<'text> = BTreeMap<&'text str, usize>;

/// Checks a package by its source files, whose names are relative to its `src`.
pub(super) fn check(package: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let Some(door) = files.get("lib.rs") else { return Vec::new() };
    let (plan, mut breaches) = plan(package, door);
    for (file, text) in files {
        let module = module_of(file);
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let Some(&floor) = plan.get(module) else {
            let place = format!("{package}/src/{file}:1");
            breaches.push(format!("{place}: `{module}` stands on no floor of `lib.rs`"));
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            for named in named(&source::code(line)) {
                let lower = plan.get(named).is_some_and(|&other| other < floor);
                if named != module && !lower {
                    let place = format!("{package}/src/{file}:{}", index + 1);
                    breaches.push(format!("{place}: `{module}` may not know `{named}`"));
                }
            }
        }
    }
    breaches
}

/// The floors as `lib.rs` lists them.
fn plan<'text>(package: &str, door: &'text str) -> (Plan<'text>, Vec<String>) {
    let (mut floor, mut plan, mut breaches) = (0, Plan::new(), Vec::new());
    for (index, line) in door.lines().enumerate() {
        if line.starts_with("// Floor") {
            floor += 1;
        }
        let declared = ["pub mod ", "pub(crate) mod ", "mod "]
            .iter()
            .find_map(|start| line.strip_prefix(start)?.strip_suffix(';'));
        if let Some(module) = declared {
            plan.insert(module, floor);
            if floor == 0 {
                let place = format!("{package}/src/lib.rs:{}", index + 1);
                breaches.push(format!("{place}: `{module}` comes before the first `// Floor`"));
            }
        }
    }
    (plan, breaches)
}

/// The module that a file belongs to: `ring` for `ring.rs` and for `ring/token.rs`.
fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// The modules of this package that a line of code names.
fn named(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("crate::").filter_map(|(at, found)| {
        let before = code[..at].chars().next_back();
        let rest = &code[at + found.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        let module = name.starts_with(|c: char| c.is_lowercase());
        // `$crate::` and `my_crate::` are other words.
        let own = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$');
        (own && module).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use std::collections::BTreeMap;

    const DOOR: &str = "//! Door.\n\n// Floor 1. Words.\npub mod id;\npub mod time;\n\n\
        // Floor 2. Machines.\nmod pool;\n\n// Floor 3. Worlds.\npub(crate) mod lane;\n";

    fn breaches(file: &str, text: &str) -> Vec<String> {
        let files = [("lib.rs", DOOR), (file, text)];
        check("p", &files.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
    }

    #[test]
    fn a_module_may_name_itself_and_lower_floors() {
        let text = "use crate::id::ConnId;\nuse crate::pool::rank::Rank;\n// crate::lane\n\
                    use other_crate::lane::Thing;\n";
        assert_eq!(breaches("pool.rs", text), Vec::<String>::new());
        assert_eq!(breaches("pool/rank.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_module_may_not_name_higher_floors_or_neighbours() {
        assert_eq!(
            breaches("pool.rs", "//! Pool.\nfn f(x: &crate::lane::Lane) {}\n"),
            ["p/src/pool.rs:2: `pool` may not know `lane`"]
        );
        assert_eq!(
            breaches("id.rs", "use crate::time::Instant;\n"),
            ["p/src/id.rs:1: `id` may not know `time`"]
        );
    }

    #[test]
    fn every_module_stands_on_a_floor() {
        assert_eq!(
            breaches("attic.rs", "//! Dead.\n"),
            ["p/src/attic.rs:1: `attic` stands on no floor of `lib.rs`"]
        );
        let door = BTreeMap::from([("lib.rs".to_owned(), "mod early;\n".to_owned())]);
        assert_eq!(
            check("p", &door),
            ["p/src/lib.rs:1: `early` comes before the first `// Floor`"]
        );
    }
}
