//! Prometheus for the tests, from the distribution's package.

use std::fs;

use anyhow::{Context, Result};
use neurobridge_tests::prometheus::PrometheusInstallation;

use crate::packages;

/// Fetches Prometheus where there is none yet.
pub(crate) fn install() -> Result<()> {
    if PrometheusInstallation::find().is_ok() {
        return Ok(());
    }
    let dir = PrometheusInstallation::fetched_dir();
    let parent = dir.parent().context("the place of Prometheus has no folder")?;
    fs::create_dir_all(parent).with_context(|| format!("making the folder {}", parent.display()))?;
    packages::unpack("there is no Prometheus", "prometheus", &dir)?;
    PrometheusInstallation::find().map(drop)
}
