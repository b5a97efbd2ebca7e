//! The side that checks: pgring towards its clients.

use super::{
    Key, MESSAGE_MAX, ScramError, Verifier, any_attribute, attribute, auth_message, hmac,
    ignored_attributes, key_of, nonce_of, sha256, xor,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use subtle::{Choice, ConstantTimeEq};

/// One exchange with one client: [`first`](Self::first), then [`last`](Self::last), once each.
#[derive(Clone)]
pub struct ScramServer {
    verifier: Verifier,
    /// A mock never succeeds, whatever the proof.
    real: bool,
    nonce: String,
    state: State,
}

#[derive(Clone)]
enum State {
    Fresh,
    /// What was said so far, for the proofs.
    Challenged {
        client_first_bare: Vec<u8>,
        server_first: Vec<u8>,
        /// `r=` of the challenge: both nonces.
        nonce: Vec<u8>,
        /// What `c=` must hold: the client's header again.
        header: Vec<u8>,
    },
    Over,
}

impl fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramServer")
    }
}

impl ScramServer {
    /// An exchange with a client that must know the password behind `verifier`.
    pub fn new(verifier: Verifier, nonce: &[u8; 18]) -> Self {
        Self { verifier, real: true, nonce: STANDARD.encode(nonce), state: State::Fresh }
    }

    /// An exchange that looks the same and always fails: for users that do not exist.
    ///
    /// `secret` must be the same for the whole process, or the salt of a user that does not exist
    /// would change from login to login.
    pub fn mock(secret: &[u8; 32], user: &[u8], nonce: &[u8; 18]) -> Self {
        Self { real: false, ..Self::new(Verifier::mock(secret, user), nonce) }
    }

    /// Takes the client's first message and gives the challenge.
    ///
    /// The user name in it is not looked at: it was said at startup.
    pub fn first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        if !matches!(core::mem::replace(&mut self.state, State::Over), State::Fresh) {
            return Err(ScramError::OutOfOrder);
        }
        if message.len() > MESSAGE_MAX {
            return Err(ScramError::TooLong);
        }
        // The flag for channel binding, the identity, and what the proof is about.
        let mut parts = message.splitn(3, |&byte| byte == b',');
        match parts.next() {
            // `y`: the client could bind, and believes we cannot. It is right.
            Some(b"n" | b"y") => {}
            Some([b'p', b'=', ..]) => return Err(ScramError::ChannelBinding),
            Some(_) | None => return Err(ScramError::Malformed),
        }
        match parts.next() {
            Some(b"") => {}
            Some([b'a', b'=', ..]) => return Err(ScramError::Unsupported),
            Some(_) | None => return Err(ScramError::Malformed),
        }
        let bare = parts.next().ok_or(ScramError::Malformed)?;
        let mut rest = bare;
        attribute(&mut rest, b'n')?;
        let client_nonce = nonce_of(attribute(&mut rest, b'r')?)?;
        ignored_attributes(rest)?;

        let nonce = [client_nonce, self.nonce.as_bytes()].concat();
        let salt = STANDARD.encode(&self.verifier.salt);
        let count = format!(",s={salt},i={}", self.verifier.iterations);
        let server_first = [b"r=", &nonce[..], count.as_bytes()].concat();
        let header_len = message.len().saturating_sub(bare.len());
        self.state = State::Challenged {
            client_first_bare: bare.to_vec(),
            server_first: server_first.clone(),
            nonce,
            header: message.get(..header_len).unwrap_or_default().to_vec(),
        };
        Ok(server_first)
    }

    /// Takes the client's last message. If its proof is right, gives the last message of this
    /// side, and the `ClientKey` that the proof revealed.
    pub fn last(&mut self, message: &[u8]) -> Result<(Vec<u8>, Key), ScramError> {
        let state = core::mem::replace(&mut self.state, State::Over);
        let State::Challenged { client_first_bare, server_first, nonce, header } = state else {
            return Err(ScramError::OutOfOrder);
        };
        if message.len() > MESSAGE_MAX {
            return Err(ScramError::TooLong);
        }
        let mut rest = message;
        let binding = attribute(&mut rest, b'c')?;
        if STANDARD.decode(binding).map_err(|_| ScramError::Malformed)? != header {
            return Err(ScramError::ChannelBinding);
        }
        if attribute(&mut rest, b'r')? != nonce {
            return Err(ScramError::Nonce);
        }
        // Extensions may follow; the proof is the last attribute.
        let (proof, proof_len) = loop {
            let whole = rest.len();
            match any_attribute(&mut rest)? {
                (b'p', value) if rest.is_empty() => break (key_of(value)?, whole),
                (b'p', _) => return Err(ScramError::Malformed),
                _ => {}
            }
        };
        // Without the proof and the comma before it.
        let end = message.len().saturating_sub(proof_len).saturating_sub(1);
        let without_proof = message.get(..end).unwrap_or_default();

        let said = auth_message(&client_first_bare, &server_first, without_proof);
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &said));
        let right = sha256(&client_key).ct_eq(&self.verifier.stored_key);
        let signature = hmac(&self.verifier.server_key, &said);
        if bool::from(right & Choice::from(u8::from(self.real))) {
            Ok((format!("v={}", STANDARD.encode(signature)).into_bytes(), client_key))
        } else {
            Err(ScramError::Proof)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ScramError, ScramServer, State, Verifier};
    use crate::auth::scram::client::{ClientKeys, ScramClient};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// The server of RFC 7677, section 3.
    fn rfc_7677() -> ScramServer {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ScramServer {
            verifier: Verifier::derive(b"pencil", &salt, 4096),
            real: true,
            nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
            state: State::Fresh,
        }
    }

    fn last_of(binding: &str, nonce: &str, proof: &str) -> Result<Vec<u8>, ScramError> {
        let mut server = rfc_7677();
        server.first(CLIENT_FIRST).unwrap();
        let message = format!("c={binding},r={nonce},p={proof}");
        server.last(message.as_bytes()).map(|(message, _)| message)
    }

    #[test]
    fn the_example_of_rfc_7677_is_understood() {
        let mut server = rfc_7677();
        let challenge = format!("r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        assert_eq!(server.first(CLIENT_FIRST).unwrap(), challenge.into_bytes());
        let expected = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(last_of("biws", NONCE, PROOF), Ok(expected.to_vec()));
    }

    #[test]
    fn a_proof_fits_one_exchange_only() {
        let other = STANDARD.encode([7; 32]);
        assert_eq!(last_of("biws", NONCE, &other), Err(ScramError::Proof));
        assert_eq!(last_of("biws", &NONCE[..49], PROOF), Err(ScramError::Nonce));
        assert_eq!(last_of("biws", "rOprNGfwEbeRWgbNEkqO", PROOF), Err(ScramError::Nonce));
        assert_eq!(last_of("eSws", NONCE, PROOF), Err(ScramError::ChannelBinding));
        assert_eq!(last_of("", NONCE, PROOF), Err(ScramError::ChannelBinding));
        assert_eq!(last_of("biw", NONCE, PROOF), Err(ScramError::Malformed));
        assert_eq!(last_of("biws", NONCE, ""), Err(ScramError::Malformed));
        assert_eq!(last_of("biws", NONCE, &PROOF[..40]), Err(ScramError::Malformed));
        assert_eq!(last_of("biws", NONCE, &format!("{PROOF},x=1")), Err(ScramError::Malformed));
    }

    #[test]
    fn channel_binding_identities_and_extensions_are_refused() {
        let first = |message: &[u8]| rfc_7677().first(message).map(|_| ());
        assert_eq!(first(b"y,,n=,r=abc"), Ok(()));
        assert_eq!(first(b"n,,n=,r=abc,x=later"), Ok(()));
        let binding = first(b"p=tls-server-end-point,,n=,r=abc");
        assert_eq!(binding, Err(ScramError::ChannelBinding));
        assert_eq!(first(b"n,a=root,n=,r=abc"), Err(ScramError::Unsupported));
        assert_eq!(first(b"n,,m=ext,n=,r=abc"), Err(ScramError::Unsupported));
    }

    #[test]
    fn hostile_first_messages_are_refused() {
        for message in [
            &b""[..],
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=",
            b"n,,n=,r=",
            b"n,,r=abc",
            b"n,,n=,r=a\x7fb",
            b"n,,n=,r=\xff",
            b"n,,n=\0,r=abc",
            b"n,,n=,r=abc,,",
            b"n,,n=,r=abc,junk",
            b"q,,n=,r=abc",
            b"p,,n=,r=abc",
        ] {
            let result = rfc_7677().first(message);
            assert_eq!(result, Err(ScramError::Malformed), "{}", message.escape_ascii());
        }
        let long = [b"n,,n=,r=", &[b'a'; 1024][..]].concat();
        assert_eq!(rfc_7677().first(&long), Err(ScramError::TooLong));
    }

    #[test]
    fn an_exchange_is_over_after_its_first_mistake() {
        let mut server = rfc_7677();
        assert!(server.first(b"junk").is_err());
        assert_eq!(server.first(CLIENT_FIRST), Err(ScramError::OutOfOrder));
        let mut server = rfc_7677();
        assert_eq!(server.last(b"c=biws"), Err(ScramError::OutOfOrder));
        let mut server = rfc_7677();
        server.first(CLIENT_FIRST).unwrap();
        assert!(server.last(b"junk").is_err());
        assert_eq!(server.last(b"junk"), Err(ScramError::OutOfOrder));
    }

    #[test]
    fn nobody_logs_in_as_a_user_that_does_not_exist() {
        let secret = [3; 32];
        let mut server = ScramServer::mock(&secret, b"nobody", &[1; 18]);
        let mut client = ScramClient::new(&[2; 18]);
        let challenge = server.first(&client.client_first()).unwrap();
        client.server_first(&challenge).unwrap();
        // Even who knows the secret of the mock has no key to prove.
        let keys = ClientKeys::new(Verifier::mock(&secret, b"nobody").stored_key, [0; 32]);
        let message = client.client_final(&keys).unwrap();
        assert_eq!(server.last(&message), Err(ScramError::Proof));
    }
}
