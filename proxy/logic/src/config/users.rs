//! The users file: `"name" "password"`, one user a line, as `PgBouncer`'s `userlist.txt`.
//!
//! A quote inside is written twice. What follows the password on a line is ignored, as are empty
//! lines and those that start with `;` or `#`. No error ever quotes a password.

use crate::config::{Password, User, Users};
use std::fmt;
use std::sync::Arc;

/// Names longer than this can be no user of `PostgreSQL` and only cost memory.
const NAME_BYTES_MAX: usize = 1024;

/// A line of a users file that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct UsersError {
    /// The line, from 1.
    pub(super) line: usize,
    /// What is wrong with it.
    pub(super) message: String,
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Reads a users file; an error for every line that cannot be read.
///
/// A SCRAM verifier is ready for use; for other passwords [`User::verifier`] is left to those who
/// may spend the milliseconds.
pub(super) fn parse(text: &str) -> Result<Users, Vec<UsersError>> {
    let mut users = Users::new();
    let mut errors = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let result = entry(line).and_then(|user| {
            let name = user.name.clone();
            match users.insert(name.clone(), Arc::new(user)) {
                None => Ok(()),
                Some(_) => Err(format!("user {name:?} is listed twice")),
            }
        });
        if let Err(message) = result {
            errors.push(UsersError { line: index + 1, message });
        }
    }
    if errors.is_empty() { Ok(users) } else { Err(errors) }
}

fn entry(line: &str) -> Result<User, String> {
    let (name, rest) = quoted(line).ok_or("expected \"name\" \"password\", both in quotes")?;
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err("the name is none that PostgreSQL would accept".to_owned());
    }
    let (password, _ignored) = quoted(rest.trim_start())
        .ok_or_else(|| format!("expected a password in quotes after the name {name:?}"))?;
    let verifier = if password.starts_with("SCRAM-SHA-256$") {
        if !is_verifier(&password) {
            return Err(format!("the SCRAM verifier of {name:?} is damaged"));
        }
        Some(Password(password.clone()))
    } else {
        None
    };
    Ok(User { name, password: Password(password), verifier })
}

/// The text in quotes that `line` starts with, and what follows it.
fn quoted(line: &str) -> Option<(String, &str)> {
    let mut rest = line.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

/// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the keys 32 bytes in base64.
fn is_verifier(text: &str) -> bool {
    let base64 = |text: &str| {
        let digits = text.trim_end_matches('=');
        !digits.is_empty()
            && text.len().is_multiple_of(4)
            && text.len() - digits.len() <= 2
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    };
    let key = |text: &str| text.len() == 44 && base64(text);
    let parts = || {
        let (cost, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        Some((iterations.parse::<u32>().ok()?, salt, stored, server))
    };
    parts().is_some_and(|(iterations, salt, stored, server)| {
        iterations > 0 && base64(salt) && key(stored) && key(server)
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:Wc4fxkVcCKTCQnLhCpnUKg==\
        $u2NzGRJpfXvGkNpuPvVEr9ZF9LGvMNk5SArQPMjpkKk=:\
        xZuBTZBAjR5ZD/oVKe0fMNUW8pFWEZmLN4eYTBNXLoY=";

    #[test]
    fn a_users_file_of_pgbouncer_is_read_as_it_is() {
        let text = format!(
            "; people\n\n\"alice\" \"secret\" \"ignored\"\n  # robots\r\n\
             \"we\"\"ird; #\" \"pass\"\"word\"\r\n\"bob\" \"md5abc\"\n\"empty\" \"\"\n\
             \"carol\"\"\" \"{VERIFIER}\""
        );
        let users = parse(&text).expect("a good file");
        let seen: Vec<_> = users
            .values()
            .map(|user| (user.name.as_str(), user.password.0.as_str(), user.verifier.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                ("alice", "secret", false),
                ("bob", "md5abc", false),
                ("carol\"", VERIFIER, true),
                ("empty", "", false),
                ("we\"ird; #", "pass\"word", false),
            ]
        );
    }

    #[test]
    fn every_bad_line_is_named_and_no_password_is_shown() {
        let text = "\"a\" \"hunter2\nalice \"hunter2\"\n\"b\"\n\"c\" \"ok\"\n\"c\" \"hunter2\"\n\
                    \"\" \"x\"\n\"d\" \"SCRAM-SHA-256$4096:hunter2$x:y\"\n";
        let errors = parse(text).expect_err("a bad file");
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 3, 5, 6, 7]);
        assert!(errors.iter().all(|error| !error.message.contains("hunter2")), "{errors:?}");
        assert_eq!(errors[3].to_string(), "line 5: user \"c\" is listed twice");
    }
}
