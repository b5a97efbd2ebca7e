//! The console: what one says to the database `pgring`, and what it answers.
//!
//! The console is a telephone exchange with a window: orders go through it to the lanes, and
//! SHOW looks at a picture the lanes sent. This module reads a command, says who may give it,
//! which columns its answer has and what stands in them; asking the lanes and waiting for them is
//! the control thread's work.
//!
//! Columns have `PgBouncer`'s names, order and types, so that its exporters work unchanged; our
//! own columns stand at the end. No answer ever carries a password or a verifier.

pub mod command;
pub mod encode;
pub mod events;
pub mod health;
mod nodes;
pub mod route;
pub mod settings;
pub mod show;
pub mod stats;
mod topology;
pub mod world;
