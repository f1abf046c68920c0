//! `neurobridge run`: the bridge.

use tracing::info;

use crate::{
    bridge::Bridge,
    config::Config,
    exit::{Exit, Failure, OrExit},
    signals::Signals,
};

/// Runs the bridge until a signal stops it.
///
/// # Errors
/// It could not start, could not go on, or could not deliver all in time.
pub(crate) async fn run(config: &Config) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let bridge = tokio::select! {
        biased;
        // The start reads files, and their disk may hang.
        signal = signals.next() => {
            info!(signal, "stopped before the start was complete");
            return Ok(());
        }
        started = Bridge::start(config) => started?,
    };
    bridge.run(&mut signals).await
}
