//! What the bytes mean: `PostgreSQL`'s protocol 3, without a socket.
//!
//! Functions take slices and give views into them, or append messages to a `Vec`. Nothing here
//! waits, keeps a connection or draws a random number, and all input is taken as hostile, from
//! either side: whatever is wrong in it is an error value, never a panic and never a wrong length.
//!
//! ```text
//!  frame     where one message ends and the next begins; reading and writing of fields
//!  startup   what a client says before messages have tags
//!  client    what clients say afterwards
//!  backend   what servers say; the errors pgring says itself
//!  auth      md5 and SCRAM-SHA-256, both sides, nonces as arguments
//! ```
#![forbid(unsafe_code)]
// Tests do sums and index as they like; the same code without them is what meets the network.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]
#![deny(
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

// Floor 1. Frames.
pub mod frame;

// Floor 2. What comes before messages have tags.
pub mod auth;
pub mod startup;

// Floor 3. Messages.
pub mod backend;
pub mod client;
