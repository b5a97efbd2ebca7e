//! One client proves who it is.
//!
//! ```text
//!  trust           start ---------------------------------------------> accepted
//!  password, md5   start -- request --> answer -----------------------> accepted | refused
//!  scram-sha-256   start -- request --> first -- challenge --> proof -> accepted | refused
//! ```
//!
//! Whoever does not know the password learns nothing else: a wrong password, a user that does not
//! exist and a user whose entry does not fit the method end with the same words after the same
//! steps, and as much work. Under `password` the work is a key derivation at each failure
//! (milliseconds, on the lane), because that is what a user with a SCRAM verifier costs; a
//! password that is right and stored otherwise costs nothing.
//!
//! The last message of the login, `AuthenticationOk`, is not written here: it belongs to the
//! greeting, which may have to wait for a server.

use crate::config::{AuthMethod, Password, User};
use core::fmt;
use pgring_wire::auth::Stored;
use pgring_wire::auth::md5::Hash;
use pgring_wire::auth::scram::server::ScramServer;
use pgring_wire::auth::scram::{MECHANISM, ScramError, Verifier};
use pgring_wire::backend::{sqlstate, write};
use pgring_wire::client;
use pgring_wire::frame::Malformed;

/// The largest length, as in a frame's header, of any message before the end of login.
pub const LENGTH_MAX: u32 = 4096;

/// The random bytes of one login.
#[derive(Clone, Copy)]
pub struct AuthDice {
    /// For md5; new for each login.
    pub salt: [u8; 4],
    /// For SCRAM; new for each login.
    pub nonce: [u8; 18],
    /// The same for the whole life of the process, on all lanes: what users that do not exist
    /// have instead of a salt.
    pub mock_secret: [u8; 32],
}

impl fmt::Debug for AuthDice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthDice")
    }
}

/// Why a client is not let in: what it is told before its connection closes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The SQLSTATE.
    pub code: &'static str,
    /// One line for a person.
    pub message: String,
}

/// What follows from a message of the client.
#[derive(Clone, Eq, PartialEq)]
pub enum Verdict {
    /// Wait for its next message.
    Continue,
    /// It is who it says.
    Accepted {
        /// `ClientKey` of RFC 5802, if it came by SCRAM: good for a login to servers that have
        /// the same verifier.
        client_key: Option<[u8; 32]>,
        /// Its password, if it came in clear.
        password: Option<Password>,
    },
    /// It is not.
    Refused(Refusal),
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Accepted { .. } => f.write_str("Accepted"),
            Self::Refused(refusal) => write!(f, "Refused({}, {})", refusal.code, refusal.message),
        }
    }
}

/// The login of one client.
#[derive(Debug)]
pub struct ClientAuth {
    user: String,
    mock_secret: [u8; 32],
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked.
    Trusted,
    /// A password in clear is awaited; `None` fits none.
    Clear(Option<Password>),
    /// An answer to this salt is awaited; `None` is answered by nobody.
    Md5(Option<Hash>, [u8; 4]),
    /// The first message of an exchange is awaited.
    First(Box<ScramServer>),
    /// Its last message is awaited.
    Last(Box<ScramServer>),
    /// The verdict is spoken.
    Over,
}

impl ClientAuth {
    /// Begins the login of somebody who says to be `user_name`, and writes what it is asked for.
    /// `user`: what the users file says of that name.
    pub fn start(
        method: AuthMethod,
        user: Option<&User>,
        user_name: &str,
        dice: AuthDice,
        out: &mut Vec<u8>,
    ) -> Self {
        // An entry without a password cannot log in; an empty one would fit an empty hash.
        let user = user.filter(|user| !user.password.0.is_empty());
        let scram = |user| Box::new(scram(user, user_name, &dice));
        let state = match (method, user.map(|user| Stored::of(&user.password.0))) {
            (AuthMethod::Trust, _) => State::Trusted,
            (AuthMethod::Password, _) => State::Clear(user.map(|user| user.password.clone())),
            (AuthMethod::Md5, None) => State::Md5(None, dice.salt),
            (AuthMethod::Md5, Some(Stored::Md5(hash))) => State::Md5(Some(hash), dice.salt),
            (AuthMethod::Md5, Some(Stored::Plain(text))) => {
                let hash = Hash::of(text.as_bytes(), user_name.as_bytes());
                State::Md5(Some(hash), dice.salt)
            }
            // No md5 answer can be checked against a verifier, and SCRAM is no weaker.
            (AuthMethod::Md5, Some(Stored::Scram(_))) | (AuthMethod::ScramSha256, _) => {
                State::First(scram(user))
            }
        };
        match &state {
            State::Clear(_) => write::authentication_cleartext(out),
            State::Md5(_, salt) => write::authentication_md5(out, *salt),
            State::First(_) => write::authentication_sasl(out, &[MECHANISM]),
            State::Trusted | State::Last(_) | State::Over => {}
        }
        Self { user: user_name.to_owned(), mock_secret: dice.mock_secret, state }
    }

    /// Whether the client is let in without being asked.
    pub const fn is_trusted(&self) -> bool {
        matches!(self.state, State::Trusted)
    }

    /// Takes the client's next message.
    pub fn receive(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Verdict {
        let state = core::mem::replace(&mut self.state, State::Over);
        if tag != b'p' {
            let message =
                format!("expected password response, got message '{}'", tag.escape_ascii());
            return Verdict::Refused(Refusal { code: sqlstate::PROTOCOL_VIOLATION, message });
        }
        match state {
            State::Clear(stored) => self.clear(stored.as_ref(), body),
            State::Md5(hash, salt) => self.md5(hash, salt, body),
            State::First(server) => self.first(server, body, out),
            State::Last(mut server) => match server.last(body) {
                Ok((message, client_key)) => {
                    write::sasl_final(out, &message);
                    Verdict::Accepted { client_key: Some(client_key), password: None }
                }
                Err(error) => self.failed(error),
            },
            State::Trusted | State::Over => malformed(Malformed::Value),
        }
    }

    fn clear(&self, stored: Option<&Password>, body: &[u8]) -> Verdict {
        let given = match client::password(body) {
            Ok(given) => given,
            Err(error) => return malformed(error),
        };
        let stored = stored.map(|password| Stored::of(&password.0));
        let right = stored.as_ref().is_some_and(|it| it.verify(given, self.user.as_bytes()));
        if right && !given.is_empty() {
            let password = core::str::from_utf8(given).ok();
            let password = password.map(|text| Password(text.to_owned()));
            return Verdict::Accepted { client_key: None, password };
        }
        if !matches!(stored, Some(Stored::Scram(_))) {
            // As much work as the user would have cost with a verifier.
            Verifier::mock(&self.mock_secret, self.user.as_bytes()).verify(given);
        }
        self.wrong()
    }

    fn md5(&self, hash: Option<Hash>, salt: [u8; 4], body: &[u8]) -> Verdict {
        let answer = match client::password(body) {
            Ok(answer) => answer,
            Err(error) => return malformed(error),
        };
        let mock = Hash::of(&self.mock_secret, self.user.as_bytes());
        let right = hash.unwrap_or(mock).verify(salt, answer);
        if right && hash.is_some() {
            Verdict::Accepted { client_key: None, password: None }
        } else {
            self.wrong()
        }
    }

    fn first(&mut self, mut server: Box<ScramServer>, body: &[u8], out: &mut Vec<u8>) -> Verdict {
        let (mechanism, data) = match client::sasl_initial(body) {
            Ok(initial) => initial,
            Err(error) => return malformed(error),
        };
        if mechanism != MECHANISM.as_bytes() {
            let message = format!("client selected an invalid SASL mechanism, use {MECHANISM}");
            return Verdict::Refused(Refusal { code: sqlstate::PROTOCOL_VIOLATION, message });
        }
        match server.first(data.unwrap_or_default()) {
            Ok(challenge) => {
                write::sasl_continue(out, &challenge);
                self.state = State::Last(server);
                Verdict::Continue
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&self, error: ScramError) -> Verdict {
        if error == ScramError::Proof {
            return self.wrong();
        }
        Verdict::Refused(Refusal { code: error.sqlstate(), message: error.to_string() })
    }

    /// The one answer to everybody who does not know the password.
    fn wrong(&self) -> Verdict {
        let message = format!("password authentication failed for user \"{}\"", self.user);
        Verdict::Refused(Refusal { code: sqlstate::INVALID_PASSWORD, message })
    }
}

fn malformed(error: Malformed) -> Verdict {
    let message = format!("invalid password packet: {error}");
    Verdict::Refused(Refusal { code: error.sqlstate(), message })
}

/// The exchange with this user, or one that looks the same and fails.
fn scram(user: Option<&User>, user_name: &str, dice: &AuthDice) -> ScramServer {
    let verifier = user.and_then(|user| match (&user.verifier, Stored::of(&user.password.0)) {
        (Some(verifier), _) => Verifier::parse(&verifier.0),
        (None, Stored::Scram(verifier)) => Some(verifier),
        // The control thread makes verifiers when it reads the file; here it costs milliseconds.
        (None, Stored::Plain(text)) => {
            let mock = Verifier::mock(&dice.mock_secret, user_name.as_bytes());
            Some(Verifier::derive(text.as_bytes(), &mock.salt, mock.iterations))
        }
        (None, Stored::Md5(_)) => None,
    });
    match verifier {
        Some(verifier) => ScramServer::new(verifier, &dice.nonce),
        None => ScramServer::mock(&dice.mock_secret, user_name.as_bytes(), &dice.nonce),
    }
}

#[cfg(test)]
mod tests {
    use super::{AuthDice, ClientAuth, Refusal, Verdict};
    use crate::auth_server::{Credentials, ServerAuth, Step};
    use crate::config::{AuthMethod, Password, User};
    use pgring_wire::auth::md5::Hash;
    use pgring_wire::auth::scram::{Verifier, salted_password};
    use pgring_wire::frame::{LENGTH_MAX, header};

    const DICE: AuthDice = AuthDice { salt: *b"salt", nonce: [1; 18], mock_secret: [2; 32] };

    fn entry(password: &str) -> User {
        User { name: "ann".into(), password: Password(password.into()), verifier: None }
    }

    fn hash() -> User {
        entry(core::str::from_utf8(Hash::of(b"secret", b"ann").text()).unwrap())
    }

    fn verifier() -> User {
        entry(&Verifier::derive(b"secret", b"salt", 4096).to_string())
    }

    fn body(message: &[u8]) -> (u8, &[u8]) {
        let header = header(message, LENGTH_MAX).unwrap().unwrap();
        assert_eq!(header.total(), message.len());
        (header.tag, &message[5..])
    }

    /// Logs in with what pgring itself does towards servers.
    fn login(method: AuthMethod, user: Option<&User>, password: &str) -> Verdict {
        let mut out = Vec::new();
        let mut auth = ClientAuth::start(method, user, "ann", DICE, &mut out);
        let credentials =
            Credentials { password: Some(Password(password.into())), client_key: None };
        let mut client = ServerAuth::new("ann", credentials, [3; 18]);
        loop {
            let (tag, request) = body(&out);
            assert_eq!(tag, b'R');
            let answer = match client.receive(request) {
                Step::Send(answer) => answer,
                Step::Derive { password, salt, iterations } => {
                    client.derived(&salted_password(password.0.as_bytes(), &salt, iterations))
                }
                step @ (Step::Wait | Step::Done | Step::Failed(_)) => panic!("{step:?}"),
            };
            out.clear();
            let (tag, answer) = body(&answer);
            match auth.receive(tag, answer, &mut out) {
                Verdict::Continue => {}
                verdict @ Verdict::Refused(_) => {
                    assert!(out.is_empty(), "nothing is proved to whoever proved nothing");
                    return verdict;
                }
                verdict @ Verdict::Accepted { .. } => {
                    if !out.is_empty() {
                        assert_eq!(client.receive(body(&out).1), Step::Wait);
                    }
                    return verdict;
                }
            }
        }
    }

    const METHODS: [AuthMethod; 3] =
        [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256];

    #[test]
    fn who_knows_the_password_comes_in_whatever_is_stored_of_it() {
        for method in METHODS {
            for user in [entry("secret"), hash(), verifier()] {
                let fits = method != AuthMethod::ScramSha256 || user != hash();
                match login(method, Some(&user), "secret") {
                    Verdict::Accepted { client_key, password } => {
                        assert!(fits);
                        assert_eq!(password.is_some(), method == AuthMethod::Password);
                        let by_scram = method == AuthMethod::ScramSha256
                            || method == AuthMethod::Md5 && user == verifier();
                        assert_eq!(client_key.is_some(), by_scram);
                    }
                    verdict @ (Verdict::Continue | Verdict::Refused(_)) => {
                        assert!(!fits, "{method:?} {verdict:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn whoever_does_not_know_it_learns_nothing_else() {
        let message = "password authentication failed for user \"ann\"".to_owned();
        let refused = Verdict::Refused(Refusal { code: "28P01", message });
        for method in METHODS {
            for user in [Some(entry("secret")), Some(hash()), Some(verifier()), None] {
                assert_eq!(login(method, user.as_ref(), "Secret"), refused, "{method:?}");
            }
            assert_eq!(login(method, Some(&entry("")), ""), refused, "{method:?}");
            assert_eq!(login(method, None, "secret"), refused, "{method:?}");
        }
        // Where the password itself is asked for, its hash is none.
        let (user, mut out) = (hash(), Vec::new());
        let stolen = [user.password.0.as_bytes(), b"\0"].concat();
        let mut auth = ClientAuth::start(AuthMethod::Password, Some(&user), "ann", DICE, &mut out);
        assert_eq!(auth.receive(b'p', &stolen, &mut out), refused);
    }

    #[test]
    fn an_unknown_user_is_asked_what_a_known_one_is_asked() {
        let first = |user: Option<&User>| {
            let mut out = Vec::new();
            let method = AuthMethod::ScramSha256;
            let mut auth = ClientAuth::start(method, user, "ann", DICE, &mut out);
            let mut initial = b"SCRAM-SHA-256\0\0\0\0\x0b".to_vec();
            initial.extend_from_slice(b"n,,n=,r=abc");
            assert_eq!(auth.receive(b'p', &initial, &mut out), Verdict::Continue);
            String::from_utf8_lossy(&out).into_owned()
        };
        let unknown = first(None);
        assert_eq!(unknown, first(None));
        assert_eq!(unknown.len(), first(Some(&entry("secret"))).len());
        assert!(unknown.ends_with(",i=4096"));
    }

    #[test]
    fn a_trusted_client_is_asked_nothing() {
        let mut out = Vec::new();
        assert!(ClientAuth::start(AuthMethod::Trust, None, "ann", DICE, &mut out).is_trusted());
        assert!(out.is_empty());
    }

    #[test]
    fn hostile_messages_end_the_login() {
        for method in METHODS {
            for (tag, message) in [
                (b'Q', &b"select 1\0"[..]),
                (b'p', b""),
                (b'p', b"a\0b"),
                (b'p', b"\0\0\0\0\x09ab"),
            ] {
                let mut out = Vec::new();
                let user = entry("secret");
                let mut auth = ClientAuth::start(method, Some(&user), "ann", DICE, &mut out);
                assert!(!auth.is_trusted());
                for _ in 0..2 {
                    let verdict = auth.receive(tag, message, &mut out);
                    let Verdict::Refused(refusal) = verdict else { panic!("{verdict:?}") };
                    assert_eq!(refusal.code, "08P01");
                }
            }
        }
    }
}
