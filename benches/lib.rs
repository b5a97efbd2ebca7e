//! Benchmarks of pgring: see `hot_path.rs`.
