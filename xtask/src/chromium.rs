//! Chromium for the tests and the pictures, from the distribution's package.

use anyhow::Result;
use neurobridge_tests::browser;

use crate::packages;

/// Installs Chromium where there is none yet. Its libraries are packages of their own, so it can't just be unpacked.
pub(crate) fn install() -> Result<()> {
    if browser::chromium().is_ok() {
        return Ok(());
    }
    packages::install("there is no Chromium", &["chromium", "chromium-browser"])?;
    browser::chromium().map(drop)
}
