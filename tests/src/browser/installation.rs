//! Finds Chromium on this machine.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::shared::{SKIP_VARIABLE, skipped_by_name};

/// The word for Chromium in [`SKIP_VARIABLE`].
pub const SKIP_WORD: &str = "chromium";

/// The names of the program in different distributions.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
];

/// Finds the Chromium program.
///
/// # Errors
/// Returns an error if there is none; the error contains the command that installs it.
pub fn chromium() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    for name in NAMES {
        for folder in env::split_paths(&path) {
            let program = folder.join(name);
            if program.is_file() {
                return Ok(program);
            }
        }
    }
    bail!(
        "Chromium is missing; `cargo xtask test` installs it if permitted, otherwise run `sudo apt-get install chromium`"
    );
}

/// Finds Chromium for a test; returns `None` if the test is to be skipped.
///
/// # Panics
/// Panics if there is no Chromium.
pub fn for_test() -> Option<PathBuf> {
    if skipped_by_name(SKIP_WORD) {
        return None;
    }
    let found = chromium();
    Some(found.unwrap_or_else(|error| panic!("{error:#}; {SKIP_VARIABLE}={SKIP_WORD} skips the test")))
}
