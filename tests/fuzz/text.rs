//! Hostile texts: SQL, console commands, startup options, the two files of the configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgring_fuzz::texts::text(data));
