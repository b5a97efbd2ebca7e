//! The pgring program.
fn main() {}
