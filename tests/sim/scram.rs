//! Logins by SCRAM, in stories that have them: clients prove themselves to lanes, lanes to nodes.
//!
//! The machines of `pgring_wire` are on both ends. What is judged is who comes in.

use crate::link::{End, LinkId};
use crate::message::Message;
use crate::plan::Plan;
use crate::world::World;
use pgring_logic::config::{Password, User, Users};
use pgring_wire::auth::scram::client::{ClientKeys, ScramClient};
use pgring_wire::auth::scram::server::ScramServer;
use pgring_wire::auth::scram::{MECHANISM, Verifier, salted_password};
use pgring_wire::backend::{AuthRequest, authentication, write};
use pgring_wire::client::{sasl_initial, write as ask};
use std::sync::Arc;

/// A real server has four thousand; here only the order of things matters.
const ROUNDS: u32 = 2;

/// A client's login.
pub(crate) struct Login {
    /// It does not know the password, or is nobody's user.
    pub(crate) wrong: bool,
    /// The other side has proved that it knows the password.
    pub(crate) proved: bool,
    exchange: Option<ScramClient>,
}

impl Login {
    /// The login of somebody who knows the password, or does not.
    pub(crate) fn new(wrong: bool) -> Self {
        Self { wrong, proved: false, exchange: None }
    }
}

/// A server's login on a node.
pub(crate) struct Visit {
    parameters: Vec<(String, String)>,
    exchange: ScramServer,
    /// The first message has been answered.
    begun: bool,
}

fn password(user: &str) -> String {
    format!("the secret of {user}")
}

fn verifier(user: &str) -> Verifier {
    Verifier::derive(password(user).as_bytes(), user.as_bytes(), ROUNDS)
}

/// The users file: every other user has the password there, the others the verifier of the nodes,
/// with which a lane gets in only after a client.
pub(crate) fn users(count: usize) -> Users {
    let entry = |number: usize| {
        let name = Plan::user(number);
        let kept = Password(verifier(&name).to_string());
        let plain = Password(password(&name));
        let password = if number.is_multiple_of(2) { plain } else { kept.clone() };
        (name.clone(), Arc::new(User { name, password, verifier: Some(kept) }))
    };
    (0..count).map(entry).collect()
}

impl World {
    /// An Authentication message reaches a client.
    pub(crate) fn client_proves(&mut self, number: usize, body: &[u8]) {
        let scram = self.plan.scram;
        let client = &mut self.clients[number];
        let Some(life) = client.life.as_mut() else { return };
        let (id, link, login) = (life.number, life.link, &mut life.login);
        let mut out = Vec::new();
        let wrong = match (authentication(body), &mut login.exchange) {
            (Ok(AuthRequest::Ok), _) if scram && !login.proved => Some("let in without a proof"),
            (Ok(AuthRequest::Ok), _) if login.wrong => Some("let in with a wrong password"),
            (Ok(AuthRequest::Ok), _) => None,
            (Ok(AuthRequest::Sasl { .. }), None) if scram => {
                let seed = client.dice.seed();
                let exchange = ScramClient::new(&std::array::from_fn(|index| seed[index]));
                ask::sasl_initial(&mut out, MECHANISM, &exchange.client_first());
                login.exchange = Some(exchange);
                None
            }
            (Ok(AuthRequest::SaslContinue(data)), Some(exchange)) => {
                let secret =
                    if login.wrong { "a guess".to_owned() } else { password(&life.pool.1) };
                let challenge = exchange.server_first(data);
                let last = challenge.and_then(|asked| {
                    let salted = salted_password(secret.as_bytes(), &asked.salt, asked.iterations);
                    exchange.client_final(&ClientKeys::from_salted(&salted))
                });
                match last {
                    Ok(last) => {
                        ask::sasl_response(&mut out, &last);
                        None
                    }
                    Err(_) => Some("asked by a wrong challenge"),
                }
            }
            (Ok(AuthRequest::SaslFinal(data)), Some(exchange)) => {
                login.proved = exchange.server_final(data).is_ok();
                (!login.proved).then_some("believed by one who does not know the password")
            }
            _ => Some("asked for something else than SCRAM"),
        };
        if let Some(wrong) = wrong {
            return self.violate(format!("c{id} is {wrong}"));
        }
        if !out.is_empty() {
            self.send(link, End::Near, &out);
        }
    }

    /// A lane wants to log in to a node.
    pub(crate) fn node_asks(
        &mut self,
        node: usize,
        link: LinkId,
        parameters: Vec<(String, String)>,
    ) {
        let seed = self.dice.seed();
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let user = parameters.iter().find(|(name, _)| name == "user");
        let verifier = verifier(user.map_or("", |(_, user)| user));
        let exchange = ScramServer::new(verifier, &std::array::from_fn(|index| seed[index]));
        backend.visit = Some(Visit { parameters, exchange, begun: false });
        let mut out = Vec::new();
        write::authentication_sasl(&mut out, &[MECHANISM]);
        self.send(link, End::Near, &out);
    }

    /// A lane proves itself to a node. There is no reason to fail.
    pub(crate) fn node_checks(&mut self, node: usize, link: LinkId, message: &Message) {
        let Some(backend) = self.nodes[node].backends.get_mut(&link) else { return };
        let Some(mut visit) = backend.visit.take() else { return };
        let mut out = Vec::new();
        let proved = if visit.begun {
            visit.exchange.last(&message.body).map(|(last, _)| {
                write::sasl_final(&mut out, &last);
            })
        } else {
            let data = sasl_initial(&message.body).ok().and_then(|(_, data)| data);
            visit.exchange.first(data.unwrap_or_default()).map(|challenge| {
                write::sasl_continue(&mut out, &challenge);
            })
        };
        if let Err(error) = proved {
            return self.violate(format!("a lane's login fails: {error} (link {link})"));
        }
        let done = visit.begun;
        visit.begun = true;
        let parameters = visit.parameters.clone();
        backend.visit = (!done).then_some(visit);
        self.send(link, End::Near, &out);
        if done {
            self.node_login(node, link, &parameters);
        }
    }
}
