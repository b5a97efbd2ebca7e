//! Hostile bytes from a client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgring_fuzz::frame(data));
