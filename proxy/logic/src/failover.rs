//! Who is the primary of a cluster, and how that changes.

pub mod act;
pub mod slot;
