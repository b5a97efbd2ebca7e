//! What the bytes mean.
#![forbid(unsafe_code)]
