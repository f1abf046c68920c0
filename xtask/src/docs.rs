//! `cargo xtask docs`: the documents that are made from the program, so that they tell what it does.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use neurobridge_tests::{configuration, reference};

use crate::shell::say;

/// Writes down what a bridge exports, and what it can be told.
pub(crate) fn run() -> Result<ExitCode> {
    for (path, text) in [
        (reference::path(), reference::make()?),
        (configuration::path(), configuration::make()?),
    ] {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        say(&format!("{} is written", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
