//! A new snapshot of the config: where it comes from, and who gets it.

use crate::control::signals::notify;
use crate::control::{Control, catalogs, file, prepare};
use pgring_logic::config::Config;
use pgring_logic::mail::Mail;
use sd_notify::NotifyState;
use std::rc::Rc;
use std::sync::Arc;

impl Control {
    /// The first snapshot, and the word that all is well.
    pub(super) async fn begin(self: Rc<Self>) {
        let turn = self.publishing.lock().await;
        let config = Arc::clone(&self.state.borrow().config);
        self.publish(prepare::prepare(Config::clone(&config), Some(&config)).await);
        self.watch();
        self.guard();
        drop(turn);
        notify(&[NotifyState::Ready]);
    }

    /// Looks up the nodes' names again.
    pub(super) async fn look_up(self: Rc<Self>) {
        let _turn = self.publishing.lock().await;
        let config = Arc::clone(&self.state.borrow().config);
        self.publish(prepare::names(Config::clone(&config), Some(&config)).await);
    }

    /// Reads the config file again. A bad one changes nothing; the errors go to log and caller.
    /// Else the warnings.
    pub(super) async fn reload(self: &Rc<Self>) -> Result<Vec<String>, Vec<String>> {
        let _turn = self.publishing.lock().await;
        if let Ok(state) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, state]);
        }
        let path = self.config_path.clone();
        let read = tokio::task::spawn_blocking(move || file::read(&path)).await;
        let result = match read.unwrap_or_else(|error| Err(vec![error.to_string()])) {
            Ok(new) => {
                let old = Arc::clone(&self.state.borrow().config);
                let (new, warnings) = file::merge(&old, new);
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                self.publish(prepare::prepare(new, Some(&old)).await);
                Ok(warnings)
            }
            Err(errors) => {
                for error in &errors {
                    tracing::error!("not reloaded: {error}");
                }
                Err(errors)
            }
        };
        notify(&[NotifyState::Ready]);
        result
    }

    /// Gives all lanes and the broker a new snapshot, if it is one.
    fn publish(self: &Rc<Self>, config: Config) {
        let mut state = self.state.borrow_mut();
        if *state.config == config {
            return;
        }
        let watched =
            state.config.monitor != config.monitor || state.config.clusters != config.clusters;
        state.config = Arc::new(config);
        state.reread = true;
        let config = Arc::clone(&state.config);
        catalogs::forget_unrouted(&mut state.catalogs, &config);
        let mut letters = Vec::new();
        for core in self.cores() {
            letters.push((core, Mail::Config(Arc::clone(&config))));
        }
        state.broker.configure(config, &mut letters);
        drop(state);
        self.post_all(letters);
        if watched {
            self.watch();
            self.guard();
        }
        tracing::info!("a new config is in force");
    }
}
