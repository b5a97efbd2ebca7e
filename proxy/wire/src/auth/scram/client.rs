//! The side that proves: pgring towards its servers.

use super::{
    Key, MESSAGE_MAX, ScramError, attribute, auth_message, hmac, ignored_attributes, iterations_of,
    key_of, nonce_of, salt_of, sha256, xor,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use subtle::ConstantTimeEq;

/// The header that says: no channel binding, no other identity.
const HEADER: &str = "n,,";

/// What a server wants the password stretched with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// The salt.
    pub salt: Vec<u8>,
    /// Rounds, at least 1 and at most [`super::ITERATIONS_MAX`].
    pub iterations: u32,
}

/// The keys that both proofs need.
#[derive(Clone)]
pub struct ClientKeys {
    client_key: Key,
    server_key: Key,
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys")
    }
}

impl ClientKeys {
    /// The keys of somebody who knows the password, salted ([`super::salted_password`]).
    pub fn from_salted(salted: &Key) -> Self {
        Self {
            client_key: hmac(salted, &[b"Client Key"]),
            server_key: hmac(salted, &[b"Server Key"]),
        }
    }

    /// The keys of somebody who holds a verifier, and the `ClientKey` a login revealed.
    pub const fn new(client_key: Key, server_key: Key) -> Self {
        Self { client_key, server_key }
    }
}

/// One exchange with one server, in the order of its methods, once each.
#[derive(Clone)]
pub struct ScramClient {
    nonce: String,
    state: State,
}

#[derive(Clone)]
enum State {
    Fresh,
    Challenged { server_first: Vec<u8>, nonce: Vec<u8> },
    Proved { signature: Key },
    Over,
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramClient")
    }
}

impl ScramClient {
    /// An exchange with this nonce.
    pub fn new(nonce: &[u8; 18]) -> Self {
        Self { nonce: STANDARD.encode(nonce), state: State::Fresh }
    }

    /// The first message. The user was said at startup and stays empty here.
    pub fn client_first(&self) -> Vec<u8> {
        format!("{HEADER}{}", self.client_first_bare()).into_bytes()
    }

    fn client_first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the server's challenge.
    pub fn server_first(&mut self, message: &[u8]) -> Result<Challenge, ScramError> {
        if !matches!(core::mem::replace(&mut self.state, State::Over), State::Fresh) {
            return Err(ScramError::OutOfOrder);
        }
        if message.len() > MESSAGE_MAX {
            return Err(ScramError::TooLong);
        }
        let mut rest = message;
        let nonce = nonce_of(attribute(&mut rest, b'r')?)?;
        // The server must add something of its own: otherwise a proof could be used twice.
        if nonce.strip_prefix(self.nonce.as_bytes()).is_none_or(<[u8]>::is_empty) {
            return Err(ScramError::Nonce);
        }
        let salt = salt_of(attribute(&mut rest, b's')?)?;
        let iterations = iterations_of(attribute(&mut rest, b'i')?)?;
        ignored_attributes(rest)?;
        self.state = State::Challenged { server_first: message.to_vec(), nonce: nonce.to_vec() };
        Ok(Challenge { salt, iterations })
    }

    /// The message with the proof.
    pub fn client_final(&mut self, keys: &ClientKeys) -> Result<Vec<u8>, ScramError> {
        let state = core::mem::replace(&mut self.state, State::Over);
        let State::Challenged { server_first, nonce } = state else {
            return Err(ScramError::OutOfOrder);
        };
        let mut message = format!("c={},r=", STANDARD.encode(HEADER)).into_bytes();
        message.extend_from_slice(&nonce);
        let bare = self.client_first_bare();
        let said = auth_message(bare.as_bytes(), &server_first, &message);
        let proof = xor(&keys.client_key, &hmac(&sha256(&keys.client_key), &said));
        let signature = hmac(&keys.server_key, &said);
        message.extend_from_slice(b",p=");
        message.extend_from_slice(STANDARD.encode(proof).as_bytes());
        self.state = State::Proved { signature };
        Ok(message)
    }

    /// Checks that the server knows the verifier: only then is it the one that was meant.
    pub fn server_final(&mut self, message: &[u8]) -> Result<(), ScramError> {
        let state = core::mem::replace(&mut self.state, State::Over);
        let State::Proved { signature } = state else {
            return Err(ScramError::OutOfOrder);
        };
        if message.len() > MESSAGE_MAX {
            return Err(ScramError::TooLong);
        }
        if message.starts_with(b"e=") {
            return Err(ScramError::Refused);
        }
        let mut rest = message;
        let proof = key_of(attribute(&mut rest, b'v')?)?;
        ignored_attributes(rest)?;
        if bool::from(proof.ct_eq(&signature)) { Ok(()) } else { Err(ScramError::Proof) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Challenge, ClientKeys, ScramClient, ScramError, State};
    use crate::auth::scram::server::ScramServer;
    use crate::auth::scram::{Verifier, salted_password};

    const NONCE: [u8; 18] = [5; 18];

    fn challenged(rest: &str) -> Result<Challenge, ScramError> {
        let mut client = ScramClient::new(&NONCE);
        let message = format!("r={}{rest}", client.nonce);
        client.server_first(message.as_bytes())
    }

    #[test]
    fn both_sides_convince_each_other() {
        let verifier = Verifier::derive("gr\u{fc}n".as_bytes(), b"salt", 4096);
        let mut server = ScramServer::new(verifier.clone(), &[1; 18]);
        let mut client = ScramClient::new(&NONCE);
        let message = server.first(&client.client_first()).unwrap();
        let challenge = client.server_first(&message).unwrap();
        let salt = b"salt".to_vec();
        assert_eq!(challenge, Challenge { salt, iterations: 4096 });
        let salted = salted_password("gr\u{fc}n".as_bytes(), b"salt", 4096);
        let message = client.client_final(&ClientKeys::from_salted(&salted)).unwrap();
        let (message, client_key) = server.last(&message).unwrap();
        assert_eq!(client.server_final(&message), Ok(()));

        // What the login revealed is enough to log in to another server with that verifier.
        let mut server = ScramServer::new(verifier.clone(), &[2; 18]);
        let mut client = ScramClient::new(&[6; 18]);
        let message = server.first(&client.client_first()).unwrap();
        client.server_first(&message).unwrap();
        let keys = ClientKeys::new(client_key, verifier.server_key);
        let (message, _) = server.last(&client.client_final(&keys).unwrap()).unwrap();
        assert_eq!(client.server_final(&message), Ok(()));
    }

    #[test]
    fn a_server_without_the_verifier_is_found_out() {
        let verifier = Verifier::derive(b"secret", b"salt", 1);
        let impostor = Verifier { server_key: [0; 32], ..verifier };
        let mut server = ScramServer::new(impostor, &[1; 18]);
        let mut client = ScramClient::new(&NONCE);
        let message = server.first(&client.client_first()).unwrap();
        client.server_first(&message).unwrap();
        let keys = ClientKeys::from_salted(&salted_password(b"secret", b"salt", 1));
        let (message, _) = server.last(&client.client_final(&keys).unwrap()).unwrap();
        assert_eq!(client.server_final(&message), Err(ScramError::Proof));
    }

    #[test]
    fn hostile_challenges_are_refused() {
        let salt = vec![0, 0, 0];
        assert_eq!(challenged("x,s=AAAA,i=1"), Ok(Challenge { salt, iterations: 1 }));
        assert_eq!(challenged(",s=AAAA,i=4096"), Err(ScramError::Nonce));
        assert_eq!(challenged("x,s=AAAA,i=1000001"), Err(ScramError::Iterations));
        assert_eq!(challenged("x,s=AAAA,i=0"), Err(ScramError::Iterations));
        assert_eq!(challenged("x,m=1,s=AAAA,i=1"), Err(ScramError::Unsupported));
        for rest in ["", "x", "x,s=", "x,s=AAA,i=1", "x,s=AAAA", "x,s=A A=,i=1", "x,i=1,s=AAAA"] {
            assert!(challenged(rest).is_err(), "{rest}");
        }
        assert_eq!(challenged(&"x".repeat(2000)), Err(ScramError::TooLong));
        let salt = "A".repeat(400);
        assert_eq!(challenged(&format!("x,s={salt},i=1")), Err(ScramError::Malformed));
        let mut client = ScramClient::new(&NONCE);
        assert_eq!(client.server_first(b"r=other,s=AAAA,i=1"), Err(ScramError::Nonce));
    }

    #[test]
    fn steps_come_in_order_and_once() {
        let keys = ClientKeys::new([0; 32], [0; 32]);
        let mut client = ScramClient::new(&NONCE);
        assert_eq!(client.client_final(&keys), Err(ScramError::OutOfOrder));
        let mut client = ScramClient::new(&NONCE);
        assert_eq!(client.server_final(b"v="), Err(ScramError::OutOfOrder));
        for (message, error) in [
            (&b"e=invalid-proof"[..], ScramError::Refused),
            (b"v=", ScramError::Malformed),
            (b"v=AAAA", ScramError::Malformed),
            (b"", ScramError::Malformed),
        ] {
            let mut client = ScramClient::new(&NONCE);
            client.state = State::Proved { signature: [0; 32] };
            assert_eq!(client.server_final(message), Err(error));
            assert_eq!(client.server_final(message), Err(ScramError::OutOfOrder));
        }
    }
}
