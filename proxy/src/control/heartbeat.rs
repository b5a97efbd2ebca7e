//! Writes on a primary again and again, on a connection of its own: a disk that hangs is seen by
//! nothing else, for reads, pings and logins need none.

use crate::control::checks::{News, Target, Told, open, told};
use pgring_logic::health::Sight;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// It waits for the disk of the primary and not for standbys, which say nothing of it.
const PREPARE: &str = "SET synchronous_commit = local";
/// A record of a few bytes that no decoder has asked for.
const BEAT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgring', '')";

/// Between a failure and the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes until that fails, which its session knows of, too. It is begun anew as long as the node
/// says that it is a primary.
pub(super) async fn beat(target: &Target, out: &UnboundedSender<News>) {
    let tell = |sight| {
        let told = Told::Sight(sight);
        out.send(News { watch: target.watch, place: target.place, told }).is_ok()
    };
    let settings = &target.settings;
    let Some(address) = target.addresses.get(target.first.get()) else { return };
    let login = async {
        let client = open(address, &target.dialer, settings, &settings.database).await?;
        client.batch_execute(PREPARE).await.map_err(|why| told(&why)).map(|()| client)
    };
    let client = match timeout(settings.timeout, login).await {
        Ok(Ok(client)) => client,
        Ok(Err(why)) => {
            tracing::debug!(node = &*target.node, "no heartbeat: {why}");
            return sleep(PAUSE).await;
        }
        Err(_late) => return,
    };
    loop {
        let begun = Instant::now();
        if !tell(Sight::Writes) {
            return;
        }
        let written = client.simple_query(BEAT).await;
        if !tell(Sight::Written) {
            return;
        }
        if let Err(why) = written {
            tracing::warn!(node = &*target.node, "a heartbeat failed: {}", told(&why));
            return sleep(PAUSE).await;
        }
        sleep_until(begun + settings.heartbeat).await;
    }
}
