//! What costs milliseconds and is never done on a lane: PBKDF2 of RFC 5802.

use crate::control::Control;
use pgring_logic::config::Password;
use pgring_logic::id::{ConnId, Core};
use pgring_logic::mail::Mail;
use pgring_wire::auth::scram;
use std::rc::Rc;

impl Control {
    /// Works out a salted password for a lane.
    pub(super) async fn derive(
        self: Rc<Self>,
        (core, conn): (Core, ConnId),
        password: Password,
        salt: Vec<u8>,
        iterations: u32,
    ) {
        // The semaphore is never closed.
        let _turn = self.derivations.acquire().await;
        let work = move || scram::salted_password(password.0.as_bytes(), &salt, iterations);
        if let Ok(salted) = tokio::task::spawn_blocking(work).await {
            self.post(core, Mail::Derived { conn, salted });
        }
    }
}
