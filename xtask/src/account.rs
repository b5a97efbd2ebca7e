//! Under which account programs run: `PostgreSQL` refuses to be root.

use crate::process::Outcome;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The account that owns and runs what the tasks start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Account {
    /// Its name, which `PostgreSQL` takes for the name of its superuser.
    pub(crate) name: String,
    /// User and group to become; none if this program runs under the account already.
    become_ids: Option<(u32, u32)>,
}

impl Account {
    /// The account we are, or an unprivileged one if we are root.
    pub(crate) fn find() -> Outcome<Self> {
        let own = fs::metadata("/proc/self").map_err(|error| format!("/proc/self: {error}"))?.uid();
        let accounts =
            fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
        choose(own, &accounts)
    }

    /// Whether this program runs as root and its programs do not.
    pub(crate) fn is_other(&self) -> bool {
        self.become_ids.is_some()
    }

    /// A program of this account.
    pub(crate) fn command(&self, program: impl AsRef<Path>, directory: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(directory);
        if let Some((user, group)) = self.become_ids {
            // With the user set and no groups named, the standard library drops root's groups.
            command.uid(user).gid(group).env("HOME", directory).env("USER", &self.name);
        }
        command
    }

    /// A program of this account that has these capabilities nevertheless.
    pub(crate) fn command_with(
        &self,
        capabilities: &[&str],
        program: &Path,
        directory: &Path,
    ) -> Command {
        let Some((user, group)) = self.become_ids else { return self.command(program, directory) };
        let raised: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let mut command = Command::new("setpriv");
        command.current_dir(directory).env("HOME", directory).env("USER", &self.name);
        command.args(["--clear-groups", &format!("--reuid={user}"), &format!("--regid={group}")]);
        command.arg(format!("--inh-caps=-all{raised}"));
        command.arg(format!("--ambient-caps=-all{raised}"));
        command.arg("--").arg(program);
        command
    }

    /// Gives a file or directory to the account.
    pub(crate) fn own(&self, path: &Path) -> Outcome<()> {
        let Some((user, group)) = self.become_ids else { return Ok(()) };
        chown(path, Some(user), Some(group)).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Whether the account may enter this directory or run this program.
    pub(crate) fn reaches(&self, path: &Path) -> bool {
        self.command("/usr/bin/test", Path::new("/"))
            .arg("-x")
            .arg(path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// Chooses by the lines of `/etc/passwd`.
fn choose(own: u32, accounts: &str) -> Outcome<Account> {
    let entries = accounts.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let user: u32 = fields.nth(1)?.parse().ok()?;
        let group: u32 = fields.next()?.parse().ok()?;
        Some((name, user, group))
    });
    if own != 0 {
        let name = entries.filter(|entry| entry.1 == own).map(|entry| entry.0.to_owned()).next();
        let name = name.unwrap_or_else(|| "postgres".to_owned());
        return Ok(Account { name, become_ids: None });
    }
    let others: Vec<_> = entries.collect();
    ["postgres", "nobody"]
        .iter()
        .find_map(|wanted| others.iter().find(|entry| entry.0 == *wanted))
        .map(|&(name, user, group)| Account {
            name: name.to_owned(),
            become_ids: Some((user, group)),
        })
        .ok_or_else(|| {
            "PostgreSQL does not run as root, and there is neither an account `postgres` nor \
             `nobody`; make one (useradd --system postgres) or run as an ordinary user"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::choose;

    const ACCOUNTS: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n\
        nobody:x:65534:65534::/:/bin/false\npostgres:x:101:104::/var/lib/postgresql:/bin/sh\n";

    #[test]
    fn root_lends_its_work_to_postgres() {
        let account = choose(0, ACCOUNTS).expect("there is one");
        assert_eq!((account.name.as_str(), account.become_ids), ("postgres", Some((101, 104))));
    }

    #[test]
    fn anybody_else_stays_who_they_are() {
        let account = choose(1000, ACCOUNTS).expect("there is one");
        assert_eq!((account.name.as_str(), account.is_other()), ("ann", false));
    }

    #[test]
    fn root_alone_on_a_machine_is_told_what_to_do() {
        let error = choose(0, "root:x:0:0::/:/bin/sh").expect_err("nobody there");
        assert!(error.contains("useradd"), "{error}");
    }
}
