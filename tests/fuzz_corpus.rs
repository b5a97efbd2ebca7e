//! Replays the corpus of the fuzz targets, whole, cut in other ways, and cut short.

#[path = "fuzz/checks.rs"]
#[expect(unreachable_pub, reason = "for the fuzz targets the same file is a library")]
mod checks;

use std::fs;
use std::path::Path;

/// Gives every file of a target's corpus to its check.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("the corpus is readable").path();
        let data = fs::read(&path).expect("the corpus is readable");
        check(&data);
        for end in 0..data.len().min(512) {
            check(&data[..end]);
        }
        for seed in 0..32 {
            let mut other = data.clone();
            if let Some(first) = other.first_mut() {
                *first = seed;
            }
            check(&other);
        }
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn no_bytes_of_a_client_that_were_ever_found_interesting_break_the_reader() {
    replay("frame", checks::frame);
}

#[test]
fn no_bytes_of_a_server_that_were_ever_found_interesting_break_the_reader() {
    replay("backend", checks::backend);
}

#[test]
fn no_text_that_was_ever_found_interesting_breaks_a_parser() {
    replay("text", checks::texts::text);
}

#[test]
fn no_statement_that_was_ever_found_interesting_is_of_two_classes() {
    replay("classify", checks::classes::classify);
}
