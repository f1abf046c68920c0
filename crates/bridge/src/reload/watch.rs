//! Watches the content of the configuration file for `run --watch`.

use std::{io, path::PathBuf, time::Duration};

use neurobridge_core::{file, identity};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, warn};

use crate::{
    control::{PendingRequest, Request},
    exit::Exit,
};

/// The interval at which the file is read.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// The largest file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Requests a reload after each change of the content of a file, until the bridge ends. The content is compared, because a file
/// may be written, replaced by another one, or be the target of a symbolic link that is replaced, as in Kubernetes. A change
/// counts after two equal reads, because a file that is being written is incomplete.
pub(crate) async fn watch(path: PathBuf, requests: mpsc::Sender<PendingRequest>) {
    let mut known = hash(path.clone()).await.ok();
    let mut changing = None;
    let mut ticks = interval(READ_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let found = match hash(path.clone()).await {
            Ok(found) => Some(found),
            Err(error) => {
                // The file may be missing for a moment while it is replaced.
                debug!(path = %path.display(), %error, "configuration file cannot be read");
                continue;
            }
        };
        if found == known {
            changing = None;
            continue;
        }
        if changing != found {
            changing = found;
            continue;
        }
        changing = None;
        let (answer, answered) = oneshot::channel();
        let request = Request::Reload {
            colours: false,
            width: 100,
        };
        if requests.send(PendingRequest { request, answer }).await.is_err() {
            return;
        }
        // The bridge logs the result and shows it in its status.
        match answered.await {
            // An earlier reload is not complete, so the next read requests this reload again.
            Ok(answer) if answer.exit == Exit::TryLater.code() => {}
            Ok(_) => known = found,
            Err(_) => {
                warn!("configuration not reloaded: the bridge is stopping");
                return;
            }
        }
    }
}

/// Returns a hash of the content of a file. The disk may hang, which delays only the next read.
async fn hash(path: PathBuf) -> io::Result<u128> {
    let read = spawn_blocking(move || {
        let content = file::read(&path, MAX_BYTES)?;
        let text = String::from_utf8_lossy(content.raw()).into_owned();
        Ok(identity::body_hash(&text))
    });
    read.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
