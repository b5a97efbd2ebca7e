//! `cargo xtask tidy`: the house rules that the compiler does not know.
//!
//! Each rule is a function from text to complaints, so each is tested on a planted breach. What
//! clippy can check (`proxy/clippy.toml`, the lint table of the workspace) is not repeated here.

mod floors;
mod source;

use crate::place;
use crate::process::Outcome;
use std::fs;
use std::path::{Path, PathBuf};

/// The packages that are built in floors.
const IN_FLOORS: [&str; 3] = ["proxy/wire", "proxy/logic", "proxy"];

/// Checks the whole repository and prints every breach.
pub(crate) fn run() -> Outcome<()> {
    let breaches = check(&place::root());
    for breach in &breaches {
        println!("{breach}");
    }
    match breaches.len() {
        0 => Ok(()),
        1 => Err("1 breach of the house rules".to_owned()),
        many => Err(format!("{many} breaches of the house rules")),
    }
}

/// All breaches below this root.
fn check(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    let mut breaches = Vec::new();
    let readme = read(&root.join("README.md"));
    for path in &files {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let text = read(path);
        breaches.extend(source::unfinished(&name, &text));
        if path.extension().is_some_and(|kind| kind == "rs") {
            breaches.extend(source::check(&name, &text));
            if name.starts_with("proxy/") {
                breaches.extend(source::metrics_without_entry(&name, &text, &readme));
            }
        }
    }
    for package in IN_FLOORS {
        let sources = files
            .iter()
            .filter_map(|path| {
                let inside = path.strip_prefix(root.join(package).join("src")).ok()?;
                Some((inside.display().to_string(), read(path)))
            })
            .collect();
        breaches.extend(floors::check(package, &sources));
    }
    breaches
}

/// The files that people write: not what tools make, nor what hides behind a dot.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || ["target", "node_modules", "artifacts"].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if ["rs", "toml", "md", "py", "js", "sh"]
            .iter()
            .any(|kind| path.extension().is_some_and(|extension| extension == *kind))
        {
            files.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::check;
    use std::fs;

    #[test]
    fn a_planted_breach_is_found_in_a_tree_of_files() {
        let root = std::env::temp_dir().join(format!("pgring-tidy-{}", std::process::id()));
        let src = root.join("proxy/logic/src");
        fs::create_dir_all(&src).expect("can write");
        fs::write(src.join("lib.rs"), "//! Door.\n// Floor 1. Words.\nmod low;\n").expect("can");
        fs::write(src.join("low.rs"), "use crate::high::Thing;\n").expect("can write");

        let breaches = check(&root);
        fs::remove_dir_all(&root).expect("was made");
        assert_eq!(
            breaches,
            [
                "proxy/logic/src/low.rs:1: the file does not begin with a `//!` header",
                "proxy/logic/src/low.rs:1: `low` may not know `high`",
            ]
        );
    }
}
