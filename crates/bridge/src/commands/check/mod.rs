//! `neurobridge check`: reports all errors of the configuration, or its effect.

mod connect;
mod event;
mod summary;

use super::print;
use crate::{
    cli::CheckFlags,
    config,
    exit::{Exit, Failure, OrExit},
};

/// Reads the configuration and prints its effect; with flags, tests its sources and sinks or renders an event.
///
/// # Errors
/// Returns all configuration errors; fails also when the event cannot be read or rendered.
pub(super) async fn run(flags: &CheckFlags) -> Result<Exit, Failure> {
    let loaded = config::load(flags.config.config.as_deref()).or_exit(Exit::Config)?;
    // The bridge reads key files at its start, so that an invalid one is a configuration error.
    event::redactions(&loaded.config)?;
    if let (Some(file), Some(sink)) = (&flags.event, &flags.sink) {
        print(event::render(&loaded.config, file, sink)?)?;
        return Ok(Exit::Ok);
    }
    print(summary::of(&loaded))?;
    if flags.connect {
        return connect::run(&loaded.config).await;
    }
    Ok(Exit::Ok)
}
