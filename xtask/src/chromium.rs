//! Installs Chromium for the tests and the screenshots from the distribution's package.

use anyhow::Result;
use neurobridge_tests::browser;

use crate::packages;

/// Installs Chromium if it is missing. The libraries of Chromium are separate packages, so unpacking one package is not enough.
pub(crate) fn install() -> Result<()> {
    if browser::chromium().is_ok() {
        return Ok(());
    }
    packages::install("Chromium is missing", &["chromium", "chromium-browser"])?;
    browser::chromium().map(drop)
}
