//! `cargo xtask docs`: generates documents from the program, so that they match its behaviour.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use neurobridge_tests::{configuration, reference};

use crate::shell::log;

/// Writes the references of the metrics and of the configuration.
pub(crate) fn run() -> Result<ExitCode> {
    for (path, text) in [
        (reference::path(), reference::make()?),
        (configuration::path(), configuration::make()?),
    ] {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        log(&format!("{} is written", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
