//! Logging in: trust, password, md5 or SCRAM, whatever the other side asks for.

use crate::Outcome;
use pgring_wire::auth::md5::Hash;
use pgring_wire::auth::scram::client::{ClientKeys, ScramClient};
use pgring_wire::auth::scram::{MECHANISM, salted_password};
use pgring_wire::backend::{AuthRequest, ErrorView, authentication};
use pgring_wire::client::write;
use pgring_wire::frame::{LENGTH_MAX, header};
use std::collections::BTreeMap;

/// Who logs in where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Identity {
    /// The port of the loopback interface
    #[arg(long)]
    pub(crate) port: u16,
    /// The user
    #[arg(long)]
    pub(crate) user: String,
    /// The user's password
    #[arg(long)]
    pub(crate) password: String,
    /// The database
    #[arg(long)]
    pub(crate) database: String,
}

impl Identity {
    /// The first packet of a connection.
    pub(crate) fn startup(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let names = [("user", self.user.as_str()), ("database", &self.database)];
        write::startup(&mut out, 3, 0, names);
        out
    }
}

/// Keys by salt and rounds: 4096 rounds are paid once, not for each connection, for what is
/// measured is the other side.
pub(crate) type Keys = BTreeMap<(Vec<u8>, u32), ClientKeys>;

/// A login on its way.
#[derive(Default)]
pub(crate) struct Login {
    input: Vec<u8>,
    scram: Option<ScramClient>,
}

impl Login {
    /// Takes in bytes; gives what is to be answered, and whether the login is done.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        who: &Identity,
        keys: &mut Keys,
    ) -> Outcome<(Vec<u8>, bool)> {
        self.input.extend_from_slice(bytes);
        let input = core::mem::take(&mut self.input);
        let (mut rest, mut out) = (&input[..], Vec::new());
        loop {
            let head = header(rest, LENGTH_MAX).map_err(|error| format!("login: {error}"))?;
            let whole = head.filter(|head| rest.len() >= head.total());
            let Some(head) = whole else {
                self.input = rest.to_vec();
                return Ok((out, false));
            };
            let (message, after) = rest.split_at(head.total());
            rest = after;
            match (head.tag, &message[5..]) {
                (b'R', body) => self.asked(body, who, keys, &mut out)?,
                (b'E', body) => {
                    let text = ErrorView::new(body).message().unwrap_or(b"unreadable");
                    return Err(format!("login: {}", String::from_utf8_lossy(text)));
                }
                (b'Z', _) => return Ok((out, true)),
                _ => {}
            }
        }
    }

    fn asked(
        &mut self,
        body: &[u8],
        who: &Identity,
        keys: &mut Keys,
        out: &mut Vec<u8>,
    ) -> Outcome<()> {
        let failed = |error: &dyn std::fmt::Display| format!("login: {error}");
        let (user, password) = (who.user.as_bytes(), who.password.as_bytes());
        match authentication(body).map_err(|error| failed(&error))? {
            AuthRequest::Ok => {}
            AuthRequest::CleartextPassword => write::password(out, password),
            AuthRequest::Md5 { salt } => {
                write::password(out, Hash::of(password, user).answer(salt).text());
            }
            AuthRequest::Sasl { .. } => {
                // A nonce is for others' sake; nobody listens here.
                let scram = ScramClient::new(&[7; 18]);
                write::sasl_initial(out, MECHANISM, &scram.client_first());
                self.scram = Some(scram);
            }
            AuthRequest::SaslContinue(data) => {
                let scram = self.scram.as_mut().ok_or("login: an answer without a question")?;
                let challenge = scram.server_first(data).map_err(|error| failed(&error))?;
                let keys = keys.entry((challenge.salt, challenge.iterations)).or_insert_with_key(
                    |(salt, rounds)| {
                        ClientKeys::from_salted(&salted_password(password, salt, *rounds))
                    },
                );
                let message = scram.client_final(keys).map_err(|error| failed(&error))?;
                write::sasl_response(out, &message);
            }
            AuthRequest::SaslFinal(data) => {
                let scram = self.scram.as_mut().ok_or("login: an end without a beginning")?;
                scram.server_final(data).map_err(|error| failed(&error))?;
            }
            AuthRequest::Unsupported(code) => {
                return Err(format!("login: method {code} is not supported"));
            }
        }
        Ok(())
    }
}
