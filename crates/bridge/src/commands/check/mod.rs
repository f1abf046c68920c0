//! `neurobridge check`: what is wrong with the configuration, or what it means.

mod connect;
mod event;
mod summary;

use super::print;
use crate::{
    cli::CheckFlags,
    config,
    exit::{Exit, Failure, OrExit},
};

/// Reads the configuration and says what it means; tries its sources and sinks, or renders an event, where asked to.
///
/// # Errors
/// All that is wrong with the configuration; or the event can't be read or rendered.
pub(super) async fn run(flags: &CheckFlags) -> Result<Exit, Failure> {
    let loaded = config::load(flags.config.config.as_deref()).or_exit(Exit::Config)?;
    // Key files are read at the start of the bridge; what is wrong with them is wrong with the configuration.
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
