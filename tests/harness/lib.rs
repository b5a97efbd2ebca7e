//! The world around pgring in tests: real PostgreSQL nodes, a pgring in front of them, clients
//! that know the protocol byte by byte, and seeded dice.
//!
//! Everything a test starts dies with it: processes carry a parent-death signal, and their
//! owners' `Drop` ends them by pid. Nothing here waits without a limit.

pub mod acting;
pub mod command;
pub mod console;
pub mod corpus;
pub mod corpus_copy;
pub mod corpus_statements;
pub mod crowd;
pub mod delay;
pub mod dialogue;
pub mod dice;
pub mod driver;
pub mod liar;
pub mod message;
pub mod pgring;
pub mod player;
pub mod ports;
pub mod postgres;
pub mod probe;
pub mod recording;
pub mod relay;
pub mod routed;
pub mod sql;
pub mod transcript;
pub mod trio;
pub mod watch;
pub mod wire;
pub mod writers;
