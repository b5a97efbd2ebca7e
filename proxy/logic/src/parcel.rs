//! A server connection on its way from one lane to another: all that must be known of it.

use crate::action::Address;
use crate::id::{Core, PoolKey, Secret};
use crate::time::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A prepared statement that a server has, as both lanes can understand it.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The number in its server-side name.
    pub number: u64,
    /// The text, its zero byte, and the parameter types, as in a Parse message.
    pub body: Arc<[u8]>,
}

/// What a lane must know of a server connection it is given.
#[derive(Debug)]
pub struct Parcel {
    /// Its pool.
    pub pool: PoolKey,
    /// The lane it comes from.
    pub from: Core,
    /// A client may have set parameters on it that cannot be looked up.
    pub touched: bool,
    /// The name of the node it is connected to.
    pub node: Arc<str>,
    /// The cluster that is one of.
    pub cluster: Arc<str>,
    /// The epoch of the cluster's gate that it is good for; none: the cluster had none.
    pub gate: Option<u64>,
    /// Its process id.
    pub pid: u32,
    /// Its cancel secret.
    pub secret: Secret,
    /// When it was opened.
    pub opened: Instant,
    /// When its lifetime ends.
    pub expires: Instant,
    /// Where a cancel request must go.
    pub address: Address,
    /// Session parameters set on it beyond its defaults.
    pub state: BTreeMap<String, String>,
    /// What it last reported (`ParameterStatus`).
    pub reported: BTreeMap<String, String>,
    /// What every server of its pool reports before anything is set.
    pub base: BTreeMap<String, String>,
    /// Session mode: the startup parameters it was opened with.
    pub startup: BTreeMap<String, String>,
    /// Its prepared statements.
    pub statements: Vec<Packed>,
    /// The number for its next prepared statement.
    pub statement_next: u64,
    /// The RECONNECT count of its pool it belongs to.
    pub epoch: u64,
}
