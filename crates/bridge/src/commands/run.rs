//! `neurobridge run`: runs the bridge.

use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    bridge::Bridge,
    cli::RunFlags,
    config::Loaded,
    exit::{Exit, Failure, OrExit},
    reload::{self, Reloader},
    signals::Signals,
    systemd::Notifier,
};

/// Runs the bridge until a signal stops it.
///
/// # Errors
/// Fails when the bridge cannot start or continue, or cannot deliver all events in time.
pub(crate) async fn run(loaded: Loaded, flags: &RunFlags) -> Result<(), Failure> {
    let config = &loaded.config;
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let mut bridge = tokio::select! {
        biased;
        // A signal stops the start too, which reads files and may block.
        signal = signals.next() => {
            info!(signal, "stopped during the start");
            return Ok(());
        }
        started = Bridge::start(config) => started?,
    };
    let history = &bridge.state().history;
    history.configuration_loaded(loaded.file.as_deref(), config);
    let _notifier = Notifier::start(bridge.state());
    let file = loaded.file.clone();
    bridge.allow_reload(Reloader::new(flags.config.config.clone(), loaded));
    let _watching = match (flags.watch, file) {
        (true, Some(file)) => Some(AbortOnDropHandle::new(tokio::spawn(reload::watch(
            file,
            bridge.requester(),
        )))),
        (true, None) => {
            warn!("--watch has no effect: the configuration comes from the environment alone");
            None
        }
        (false, _) => None,
    };
    bridge.run(&mut signals).await
}
