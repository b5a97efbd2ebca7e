//! pgring-load.
fn main() {}
