//! Where Chromium is on this machine.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::shared::{SKIP_VARIABLE, skipped_by_name};

/// The word for it in [`SKIP_VARIABLE`].
pub const SKIP_WORD: &str = "chromium";

/// The names under which distributions install it.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
];

/// Finds the program.
///
/// # Errors
/// When there is none; the error says which command gets it.
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
        "there is no Chromium here; `cargo xtask test` installs it where it may, `sudo apt-get install chromium` does elsewhere"
    );
}

/// Finds it for a test; nothing when the test is to be skipped.
///
/// # Panics
/// When there is none.
pub fn for_test() -> Option<PathBuf> {
    if skipped_by_name(SKIP_WORD) {
        return None;
    }
    let found = chromium();
    Some(found.unwrap_or_else(|error| panic!("{error:#}; {SKIP_VARIABLE}={SKIP_WORD} skips the test")))
}
