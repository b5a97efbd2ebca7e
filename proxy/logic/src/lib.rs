//! What to do: every decision of pgring, and none of its effects.
//!
//! Nothing here reads a clock, opens a socket, starts a thread or draws a random number. Those
//! come in as arguments, so a whole set of lanes with its clients runs in one thread of a test,
//! and the same seed always tells the same story.
//!
//! A machine takes in an event and asks for actions; time is an argument. A module may name
//! modules of lower floors only; `cargo xtask tidy` checks it.
#![forbid(unsafe_code)]

// Floor 1. Words.
pub mod conninfo;
pub mod dice;
pub mod hash;
pub mod id;
pub mod lexer;
pub mod metrics;
pub mod time;

// Floor 2. What is asked for, what is known, where things stand.
pub mod action;
pub mod classify;
pub mod hints;
pub mod ledger;
pub mod slab;
pub mod state;
pub mod timers;
pub mod topology;

// Floor 3. Facts.
pub mod catalog;
pub mod config;
pub mod memo;
pub mod parcel;
pub mod record;
pub mod route;

// Floor 4. What crosses threads, and what is kept.
pub mod homes;
pub mod mail;
pub mod prepared;

// Floor 5. Machines.
pub mod auth_server;
pub mod broker;
pub mod failover;
pub mod health;

// Floor 6. The other end of a login, tested against the first; what is asked of all lanes at once.
pub mod admin;
pub mod auth_client;

// Floor 7. Worlds.
pub mod lane;
