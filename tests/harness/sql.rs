//! tokio-postgres in tests: a runtime with a limit, and clients of it.

use crate::postgres::PASSWORD;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_postgres::{Client, Config, Error, NoTls};

/// Runs a future on a runtime of its own, at most for two minutes.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let limit = Duration::from_mins(2);
    let limited = async { tokio::time::timeout(limit, future).await };
    runtime.block_on(limited).expect("the test took more than two minutes")
}

/// The settings to connect as a user of the database `app`.
pub fn config(address: SocketAddr, user: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(address.port()).user(user).dbname("app").password(PASSWORD);
    config.connect_timeout(Duration::from_secs(20));
    config
}

/// Connects as a user of the database `app`.
pub async fn connect(address: SocketAddr, user: &str) -> Client {
    try_connect(&config(address, user)).await.expect("to connect")
}

/// Connects, or says why not.
pub async fn try_connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The SQLSTATE of an error, empty if it has none.
pub fn code(error: &Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}
