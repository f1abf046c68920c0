//! `cargo xtask docs`: the documents that are made from the program, so that they tell what it does.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use neurobridge_tests::reference;

use crate::shell::say;

/// Starts a bridge and writes down what it exports.
pub(crate) fn run() -> Result<ExitCode> {
    let path = reference::path();
    fs::write(&path, reference::make()?).with_context(|| format!("writing {}", path.display()))?;
    say(&format!("{} is written", path.display()));
    Ok(ExitCode::SUCCESS)
}
