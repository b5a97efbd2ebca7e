//! pgring.
