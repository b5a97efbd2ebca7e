//! Sessions of a rehearsal: through pgring to the database, and with its console.

use pgring_logic::config::{AuthMethod, Config};
use pgring_wire::auth::Stored;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

/// How long a connection with its login may take. While nobody may be written to clients wait.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Where pgring listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Door {
    host: String,
    port: u16,
}

impl Door {
    /// The first address of `listen`, as a client on this machine reaches it.
    pub(super) fn of(config: &Config) -> Result<Self, String> {
        let first = config.listen.first().ok_or("listen is empty: there is no way to pgring")?;
        let (host, port) = match first.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_unspecified() && address.is_ipv6() => {
                ("::1".to_owned(), address.port())
            }
            Ok(address) if address.ip().is_unspecified() => {
                ("127.0.0.1".to_owned(), address.port())
            }
            Ok(address) => (address.ip().to_string(), address.port()),
            Err(_name) => {
                let parts = first.rsplit_once(':');
                let (host, port) = parts.ok_or_else(|| format!("listen: {first} has no port"))?;
                (host.to_owned(), port.parse().unwrap_or(0))
            }
        };
        if port == 0 {
            return Err(format!("listen = {first:?}: the kernel chose a port that nobody knows"));
        }
        Ok(Self { host, port })
    }
}

/// As whom, and to what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Login {
    user: String,
    password: Option<String>,
    database: String,
}

impl Login {
    /// This user with the password that is given, or that stands in the users file in plain.
    pub(super) fn of(config: &Config, user: &str, database: &str, given: Option<&str>) -> Self {
        let known = config.users.get(user).map(|user| user.password.0.as_str());
        let plain = known.filter(|known| matches!(Stored::of(known), Stored::Plain(_)));
        let asked = config.auth.method != AuthMethod::Trust;
        let password = given.or(plain).filter(|_| asked).map(str::to_owned);
        Self { user: user.to_owned(), password, database: database.to_owned() }
    }
}

/// What a client was told in place of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    /// Its SQLSTATE, or what it was instead, in brackets.
    pub(super) code: String,
    /// In words.
    pub(super) words: String,
    /// Whether the session is over.
    pub(super) fatal: bool,
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(own) => Self {
                code: own.code().code().to_owned(),
                words: format!("{} ({})", own.message(), own.code().code()),
                fatal: matches!(own.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
            },
            // The connection ended, or what came is no answer.
            None => Self { code: format!("({error})"), words: error.to_string(), fatal: true },
        }
    }
}

/// A row, by the names of its columns.
pub(super) type Row = BTreeMap<String, String>;

/// A session that ends with this value.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    warnings: Rc<Cell<u64>>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Logs in.
    pub(super) async fn open(door: &Door, login: &Login) -> Result<Self, Refusal> {
        let mut config = tokio_postgres::Config::new();
        config.host(&door.host).port(door.port).user(&login.user).dbname(&login.database);
        config.application_name("pgring rehearse");
        if let Some(password) = &login.password {
            config.password(password);
        }
        let Ok(opened) = timeout(CONNECT_MAX, config.connect(NoTls)).await else {
            let words = format!("no answer within {CONNECT_MAX:?}");
            return Err(Refusal { code: "(silent)".to_owned(), words, fatal: true });
        };
        let (client, mut connection) = opened?;
        let warnings = Rc::new(Cell::new(0));
        let heard = Rc::clone(&warnings);
        let task = tokio::task::spawn_local(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notice(notice) = message
                    && notice.severity() == "WARNING"
                {
                    heard.set(heard.get() + 1);
                }
            }
        });
        Ok(Self { client, warnings, task })
    }

    /// Whether it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Does something. A warning is no success: it comes with a commit that standbys have not
    /// acknowledged.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Refusal> {
        let before = self.warnings.get();
        self.client.batch_execute(sql).await?;
        if self.warnings.get() == before {
            return Ok(());
        }
        let words = "done, with a warning".to_owned();
        Err(Refusal { code: "(warned)".to_owned(), words, fatal: false })
    }

    /// Asks for rows.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Row>, Refusal> {
        let answers = self.client.simple_query(sql).await?;
        let rows = answers.iter().filter_map(|answer| {
            let SimpleQueryMessage::Row(row) = answer else { return None };
            let fields = row.columns().iter().enumerate();
            let field = |(place, column): (usize, &tokio_postgres::SimpleColumn)| {
                (column.name().to_owned(), row.get(place).unwrap_or_default().to_owned())
            };
            Some(fields.map(field).collect())
        });
        Ok(rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, Login};
    use pgring_logic::config::{AuthMethod, Config, Password, User};
    use std::sync::Arc;

    #[test]
    fn the_first_listener_is_the_door_to_this_machine() {
        let door = |listen: &str| {
            let config = Config { listen: vec![listen.to_owned()], ..Config::default() };
            Door::of(&config).map(|door| (door.host, door.port))
        };
        assert_eq!(door("0.0.0.0:6432"), Ok(("127.0.0.1".to_owned(), 6432)));
        assert_eq!(door("[::]:6432"), Ok(("::1".to_owned(), 6432)));
        assert_eq!(door("10.0.0.9:7"), Ok(("10.0.0.9".to_owned(), 7)));
        assert_eq!(door("db.example:6432"), Ok(("db.example".to_owned(), 6432)));
        assert!(door("127.0.0.1:0").is_err());
    }

    #[test]
    fn a_password_is_the_one_given_or_one_in_plain() {
        let mut config = Config::default();
        for (name, text) in [("ann", "secret"), ("bob", "md5c4ca4238a0b923820dcc509a6f75849b")] {
            let (name, password) = (name.to_owned(), Password(text.to_owned()));
            let user = User { name: name.clone(), password, verifier: None };
            config.users.insert(name, Arc::new(user));
        }
        config.auth.method = AuthMethod::ScramSha256;
        let password = |config: &Config, user, given| Login::of(config, user, "d", given).password;
        assert_eq!(password(&config, "ann", None).as_deref(), Some("secret"));
        assert_eq!(password(&config, "ann", Some("other")).as_deref(), Some("other"));
        assert_eq!(password(&config, "bob", None), None);
        assert_eq!(password(&config, "eve", Some("x")).as_deref(), Some("x"));
        config.auth.method = AuthMethod::Trust;
        assert_eq!(password(&config, "ann", None), None);
    }
}
