//! `neurobridge run`: runs the bridge.

use tracing::info;

use crate::{
    bridge::Bridge,
    config::Loaded,
    exit::{Exit, Failure, OrExit},
    signals::Signals,
    systemd::Notifier,
};

/// Runs the bridge until a signal stops it.
///
/// # Errors
/// Fails when the bridge cannot start or continue, or cannot deliver all events in time.
pub(crate) async fn run(loaded: &Loaded) -> Result<(), Failure> {
    let config = &loaded.config;
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let bridge = tokio::select! {
        biased;
        // The start reads files, which may block.
        signal = signals.next() => {
            info!(signal, "stopped during the start");
            return Ok(());
        }
        started = Bridge::start(config) => started?,
    };
    let history = &bridge.state().history;
    history.configuration_loaded(loaded.file.as_deref(), config);
    let _notifier = Notifier::start(bridge.state());
    bridge.run(&mut signals).await
}
