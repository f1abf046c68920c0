//! `neurobridge check`: reports all errors of the configuration, or its effect.

mod connect;
mod document;
mod event;
mod frames;
mod summary;

use self::document::Document;
use super::{print, print_json};
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
    if flags.json {
        return run_json(flags).await;
    }
    // The bridge reads the key files at its start, so an invalid key file is a configuration error.
    let loaded = config::load_with_keys(flags.config.config.as_deref()).or_exit(Exit::Config)?;
    // Reports also a key file that cannot be read in time because its disk hangs, which is no configuration error.
    event::redactions(&loaded.config)?;
    if let (Some(file), Some(sink)) = (&flags.event, &flags.sink) {
        print(event::render(
            &loaded.config,
            flags.source.as_deref(),
            file,
            sink,
        )?)?;
        return Ok(Exit::Ok);
    }
    if let Some(file) = &flags.frames {
        let (table, exit) = frames::classify(&loaded.config, flags.source.as_deref(), file)?;
        print(table)?;
        return Ok(exit);
    }
    print(summary::of(&loaded))?;
    if flags.connect {
        let attempts = connect::attempt_all(&loaded.config).await;
        print(connect::table(&attempts))?;
        return Ok(connect::worst(&attempts));
    }
    Ok(Exit::Ok)
}

/// Prints all findings, including configuration errors, as one JSON document.
async fn run_json(flags: &CheckFlags) -> Result<Exit, Failure> {
    let loaded = match config::load_with_keys(flags.config.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_json(&Document::of_errors(&report))?;
            return Ok(Exit::Config);
        }
    };
    if let Err(failure) = event::redactions(&loaded.config) {
        print_json(&Document::of_failure(&loaded, &failure))?;
        return Ok(failure.exit);
    }
    let attempts = match flags.connect {
        true => Some(connect::attempt_all(&loaded.config).await),
        false => None,
    };
    print_json(&Document::of(&loaded, attempts.as_deref()))?;
    Ok(attempts.as_deref().map_or(Exit::Ok, connect::worst))
}
