//! `neurobridge run`: the bridge.

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
    Bridge::start(config).await?.run(&mut signals).await
}
