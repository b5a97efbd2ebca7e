//! pgring proves to a server who it is.
//!
//! The server says what it wants: nothing, the password in clear, an md5 answer, or SCRAM. What
//! can be given follows from what is known of the user:
//!
//! ```text
//!  known                                clear   md5   scram-sha-256
//!  the password                         yes     yes   yes, after Step::Derive
//!  its md5 hash                         no      yes   no
//!  a SCRAM verifier and a ClientKey     no      no    yes, if it is the server's verifier
//! ```
//!
//! The `ClientKey` comes from a client that has logged in to pgring by SCRAM with that verifier.
//! A server that was asked to prove itself, which SCRAM does, must do so before it is believed.

use crate::config::Password;
use core::fmt;
use pgring_wire::auth::Stored;
use pgring_wire::auth::scram::MECHANISM;
use pgring_wire::auth::scram::client::{Challenge, ClientKeys, ScramClient};
use pgring_wire::backend::{AuthRequest, authentication};
use pgring_wire::client::write;

/// What is known of the user to log in as.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Credentials {
    /// Plain, `md5...` or `SCRAM-SHA-256$...`, as in the users file.
    pub password: Option<Password>,
    /// From a client that logged in by SCRAM.
    pub client_key: Option<[u8; 32]>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// What follows from a message of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Wait for its next message.
    Wait,
    /// Send it this message.
    Send(Vec<u8>),
    /// Work out `SaltedPassword` elsewhere and give it to [`ServerAuth::derived`].
    Derive {
        /// The password.
        password: Password,
        /// The salt.
        salt: Vec<u8>,
        /// The rounds.
        iterations: u32,
    },
    /// The login is done.
    Done,
    /// It cannot be done, for this reason.
    Failed(String),
}

/// The login to one server.
#[derive(Debug)]
pub struct ServerAuth {
    user: String,
    credentials: Credentials,
    nonce: [u8; 18],
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked.
    Fresh,
    /// A password or hash was sent.
    Answered,
    /// The exchange was begun.
    Begun(Box<ScramClient>),
    /// The challenge is there, the salted password is not.
    Deriving(Box<ScramClient>),
    /// The proof was sent.
    Proved(Box<ScramClient>),
    /// The server has proved itself.
    Believed,
    /// Done or failed.
    Over,
}

impl ServerAuth {
    /// The login as `user`. `nonce`: random bytes, new for each login.
    pub fn new(user: &str, credentials: Credentials, nonce: [u8; 18]) -> Self {
        Self { user: user.to_owned(), credentials, nonce, state: State::Fresh }
    }

    /// Takes the body of an Authentication message (tag `R`).
    pub fn receive(&mut self, body: &[u8]) -> Step {
        let request = match authentication(body) {
            Ok(request) => request,
            Err(error) => return self.failed(&format!("invalid authentication request: {error}")),
        };
        match (core::mem::replace(&mut self.state, State::Over), request) {
            (State::Fresh | State::Answered | State::Believed, AuthRequest::Ok) => Step::Done,
            (State::Begun(_) | State::Deriving(_) | State::Proved(_), AuthRequest::Ok) => {
                self.failed("the server ended the login without proving that it knows the password")
            }
            (State::Fresh, AuthRequest::CleartextPassword) => self.clear(),
            (State::Fresh, AuthRequest::Md5 { salt }) => self.md5(salt),
            (State::Fresh, AuthRequest::Sasl { mechanisms }) => self.begin(&mechanisms),
            (State::Begun(client), AuthRequest::SaslContinue(data)) => {
                self.challenged(client, data)
            }
            (State::Proved(mut client), AuthRequest::SaslFinal(data)) => {
                match client.server_final(data) {
                    Ok(()) => {
                        self.state = State::Believed;
                        Step::Wait
                    }
                    Err(error) => self.failed(&error.to_string()),
                }
            }
            (_, AuthRequest::Unsupported(code)) => self.failed(&format!(
                "the server asks for authentication method {code}, which pgring does not know; \
                 use scram-sha-256, md5, password or trust in its pg_hba.conf"
            )),
            (
                _,
                AuthRequest::CleartextPassword
                | AuthRequest::Md5 { .. }
                | AuthRequest::Sasl { .. }
                | AuthRequest::SaslContinue(_)
                | AuthRequest::SaslFinal(_)
                | AuthRequest::Ok,
            ) => self.failed("the server's authentication request is out of order"),
        }
    }

    /// Takes what [`Step::Derive`] asked for, and gives the message to send. It is empty if
    /// nothing was asked for.
    pub fn derived(&mut self, salted: &[u8; 32]) -> Vec<u8> {
        match core::mem::replace(&mut self.state, State::Over) {
            State::Deriving(client) => self.prove(client, &ClientKeys::from_salted(salted)),
            state @ (State::Fresh
            | State::Answered
            | State::Begun(_)
            | State::Proved(_)
            | State::Believed
            | State::Over) => {
                self.state = state;
                Vec::new()
            }
        }
    }

    fn clear(&mut self) -> Step {
        let mut message = Vec::new();
        match self.credentials.password.as_ref().map(|password| Stored::of(&password.0)) {
            Some(Stored::Plain(text)) => write::password(&mut message, text.as_bytes()),
            Some(Stored::Md5(_) | Stored::Scram(_)) => {
                return self.failed(
                    "the server asks for the password in clear, but the users file holds only a \
                     hash of it; put the password there, or use scram-sha-256 on the server",
                );
            }
            None => return self.no_password(),
        }
        self.state = State::Answered;
        Step::Send(message)
    }

    fn md5(&mut self, salt: [u8; 4]) -> Step {
        let hash = match self.credentials.password.as_ref().map(|it| Stored::of(&it.0)) {
            Some(Stored::Plain(text)) => {
                pgring_wire::auth::md5::Hash::of(text.as_bytes(), self.user.as_bytes())
            }
            Some(Stored::Md5(hash)) => hash,
            Some(Stored::Scram(_)) => {
                return self.failed(
                    "the server asks for an md5 answer, but the users file holds a SCRAM \
                     verifier; copy the user's rolpassword from the server's pg_authid into it",
                );
            }
            None => return self.no_password(),
        };
        let mut message = Vec::new();
        write::password(&mut message, hash.answer(salt).text());
        self.state = State::Answered;
        Step::Send(message)
    }

    fn begin(&mut self, mechanisms: &[&[u8]]) -> Step {
        if !mechanisms.contains(&MECHANISM.as_bytes()) {
            return self.failed("the server offers SASL without SCRAM-SHA-256");
        }
        match self.credentials.password.as_ref().map(|password| Stored::of(&password.0)) {
            Some(Stored::Plain(_)) => {}
            Some(Stored::Scram(_)) if self.credentials.client_key.is_some() => {}
            Some(Stored::Scram(_)) => {
                return self.failed(
                    "the users file holds a SCRAM verifier, which is enough only after a client \
                     has logged in with scram-sha-256; set auth.method to it, or put the \
                     password into the users file",
                );
            }
            Some(Stored::Md5(_)) => {
                return self.failed(
                    "the server asks for SCRAM, but the users file holds an md5 hash; put the \
                     password or the server's SCRAM verifier there",
                );
            }
            None => return self.no_password(),
        }
        let client = Box::new(ScramClient::new(&self.nonce));
        let mut message = Vec::new();
        write::sasl_initial(&mut message, MECHANISM, &client.client_first());
        self.state = State::Begun(client);
        Step::Send(message)
    }

    fn challenged(&mut self, mut client: Box<ScramClient>, data: &[u8]) -> Step {
        let Challenge { salt, iterations } = match client.server_first(data) {
            Ok(challenge) => challenge,
            Err(error) => return self.failed(&error.to_string()),
        };
        let Some(password) = self.credentials.password.clone() else {
            return self.no_password();
        };
        match (Stored::of(&password.0), self.credentials.client_key) {
            (Stored::Plain(_), _) => {
                self.state = State::Deriving(client);
                Step::Derive { password, salt, iterations }
            }
            (Stored::Scram(verifier), Some(client_key))
                if verifier.salt == salt && verifier.iterations == iterations =>
            {
                let keys = ClientKeys::new(client_key, verifier.server_key);
                Step::Send(self.prove(client, &keys))
            }
            (Stored::Scram(_) | Stored::Md5(_), _) => self.failed(
                "the SCRAM verifier in the users file is not the server's (other salt or \
                 iterations); copy the user's rolpassword from the server's pg_authid into it",
            ),
        }
    }

    fn prove(&mut self, mut client: Box<ScramClient>, keys: &ClientKeys) -> Vec<u8> {
        let proof = client.client_final(keys).expect("the challenge came before the proof");
        let mut message = Vec::new();
        write::sasl_response(&mut message, &proof);
        self.state = State::Proved(client);
        message
    }

    fn no_password(&mut self) -> Step {
        self.failed(
            "the server asks for a password and none is known; add the user to the users file",
        )
    }

    fn failed(&mut self, reason: &str) -> Step {
        self.state = State::Over;
        Step::Failed(format!("login as user \"{}\" failed: {reason}", self.user))
    }
}

#[cfg(test)]
mod tests {
    use super::{Credentials, ServerAuth, Step};
    use crate::config::Password;
    use pgring_wire::auth::md5::Hash;
    use pgring_wire::auth::scram::server::ScramServer;
    use pgring_wire::auth::scram::{Verifier, salted_password};
    use pgring_wire::backend::write;
    use pgring_wire::client;

    fn auth(password: Option<&str>, client_key: Option<[u8; 32]>) -> ServerAuth {
        let password = password.map(|text| Password(text.into()));
        ServerAuth::new("ann", Credentials { password, client_key }, [7; 18])
    }

    fn ask(auth: &mut ServerAuth, write: impl FnOnce(&mut Vec<u8>)) -> Step {
        let mut message = Vec::new();
        write(&mut message);
        auth.receive(&message[5..])
    }

    fn sent(step: Step) -> Vec<u8> {
        let Step::Send(message) = step else { panic!("{step:?}") };
        assert_eq!(message[0], b'p');
        message[5..].to_vec()
    }

    fn reason(step: Step) -> String {
        let Step::Failed(reason) = step else { panic!("{step:?}") };
        assert!(reason.contains("\"ann\""));
        reason
    }

    fn scram(password: Option<&str>, client_key: Option<[u8; 32]>) -> (ServerAuth, Step) {
        let mut auth = auth(password, client_key);
        let step = ask(&mut auth, |out| write::authentication_sasl(out, &["X", "SCRAM-SHA-256"]));
        (auth, step)
    }

    #[test]
    fn a_server_that_asks_nothing_is_believed() {
        assert_eq!(ask(&mut auth(None, None), write::authentication_ok), Step::Done);
    }

    #[test]
    fn a_server_gets_the_password_in_the_form_it_asks_for() {
        let mut plain = auth(Some("secret"), None);
        assert_eq!(sent(ask(&mut plain, write::authentication_cleartext)), b"secret\0");
        assert_eq!(ask(&mut plain, write::authentication_ok), Step::Done);

        let hash = Hash::of(b"secret", b"ann");
        let answer = [&hash.answer(*b"salt").text()[..], b"\0"].concat();
        let stored = core::str::from_utf8(hash.text()).unwrap();
        for known in ["secret", stored] {
            let mut auth = auth(Some(known), None);
            let step = ask(&mut auth, |out| write::authentication_md5(out, *b"salt"));
            assert_eq!(sent(step), answer);
            // Asking twice is how a hostile server would come by more.
            reason(ask(&mut auth, write::authentication_cleartext));
        }
    }

    /// Goes through SCRAM up to the server's last message.
    fn proved(
        mut auth: ServerAuth,
        first: Step,
        verifier: Verifier,
    ) -> (ServerAuth, Vec<u8>, [u8; 32]) {
        let mut server = ScramServer::new(verifier, &[8; 18]);
        let first = sent(first);
        let (mechanism, data) = client::sasl_initial(&first).unwrap();
        assert_eq!(mechanism, b"SCRAM-SHA-256");
        let challenge = server.first(data.unwrap()).unwrap();
        let proof = match ask(&mut auth, |out| write::sasl_continue(out, &challenge)) {
            Step::Derive { password, salt, iterations } => {
                let salted = salted_password(password.0.as_bytes(), &salt, iterations);
                let message = auth.derived(&salted);
                assert!(auth.derived(&salted).is_empty());
                sent(Step::Send(message))
            }
            step @ (Step::Send(_) | Step::Wait | Step::Done | Step::Failed(_)) => sent(step),
        };
        let (message, client_key) = server.last(&proof).unwrap();
        (auth, message, client_key)
    }

    #[test]
    fn a_clients_key_opens_the_server_with_the_same_verifier() {
        let verifier = Verifier::derive(b"secret", b"salt", 4096);
        let (auth, first) = scram(Some("secret"), None);
        let (mut auth, last, client_key) = proved(auth, first, verifier.clone());
        assert_eq!(ask(&mut auth, |out| write::sasl_final(out, &last)), Step::Wait);
        assert_eq!(ask(&mut auth, write::authentication_ok), Step::Done);

        let text = verifier.to_string();
        let (auth, first) = scram(Some(&text), Some(client_key));
        let (mut auth, last, _) = proved(auth, first, verifier);
        assert_eq!(ask(&mut auth, |out| write::sasl_final(out, &last)), Step::Wait);
        assert_eq!(ask(&mut auth, write::authentication_ok), Step::Done);
    }

    #[test]
    fn a_server_that_does_not_prove_itself_is_not_believed() {
        let verifier = Verifier::derive(b"secret", b"salt", 4096);
        let (auth, first) = scram(Some("secret"), None);
        let (mut auth, _, _) = proved(auth, first, verifier.clone());
        assert!(reason(ask(&mut auth, write::authentication_ok)).contains("without proving"));

        let (auth, first) = scram(Some("secret"), None);
        let (mut auth, _, _) = proved(auth, first, verifier);
        let wrong = b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert!(reason(ask(&mut auth, |out| write::sasl_final(out, wrong))).contains("proof"));
    }

    #[test]
    fn what_cannot_be_done_is_said_with_its_remedy() {
        let verifier = Verifier::derive(b"secret", b"salt", 4096).to_string();
        let hash = core::str::from_utf8(Hash::of(b"secret", b"ann").text()).unwrap().to_owned();
        assert!(reason(scram(None, None).1).contains("add the user to the users file"));
        assert!(reason(scram(Some(&hash), None).1).contains("SCRAM verifier"));
        assert!(reason(scram(Some(&verifier), None).1).contains("auth.method"));
        let mut known = auth(Some(&verifier), None);
        assert!(reason(ask(&mut known, write::authentication_cleartext)).contains("scram-sha-256"));
        let mut known = auth(Some(&verifier), None);
        let step = ask(&mut known, |out| write::authentication_md5(out, [0; 4]));
        assert!(reason(step).contains("rolpassword"));

        let (mut auth, first) = scram(Some(&verifier), Some([0; 32]));
        let first = sent(first);
        let other = Verifier::derive(b"secret", b"other salt", 4096);
        let mut server = ScramServer::new(other, &[8; 18]);
        let challenge = server.first(client::sasl_initial(&first).unwrap().1.unwrap()).unwrap();
        let step = ask(&mut auth, |out| write::sasl_continue(out, &challenge));
        assert!(reason(step).contains("rolpassword"));
    }

    #[test]
    fn hostile_servers_fail_the_login() {
        for body in
            [&b""[..], b"\0\0\0", b"\0\0\0\x05", b"\0\0\0\x0a", b"\0\0\0\x0a\0", b"\0\0\0\x07"]
        {
            reason(auth(Some("secret"), None).receive(body));
        }
        let mut early = auth(Some("secret"), None);
        reason(ask(&mut early, |out| write::sasl_continue(out, b"r=x,s=AAAA,i=1")));
        let (mut auth, _) = scram(Some("secret"), None);
        let greedy = b"r=BwcHBwcHBwcHBwcHBwcHBwcHBwcHx,s=AAAA,i=2000000000";
        reason(ask(&mut auth, |out| write::sasl_continue(out, greedy)));
    }
}
