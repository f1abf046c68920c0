//! Installs Prometheus for the tests from the distribution's package.

use std::fs;

use anyhow::{Context, Result};
use neurobridge_tests::prometheus::PrometheusInstallation;

use crate::packages;

/// Downloads Prometheus if it is missing.
pub(crate) fn install() -> Result<()> {
    if PrometheusInstallation::find().is_ok() {
        return Ok(());
    }
    let dir = PrometheusInstallation::fetched_dir();
    let parent = dir
        .parent()
        .context("the path of Prometheus has no parent folder")?;
    fs::create_dir_all(parent).with_context(|| format!("creating the folder {}", parent.display()))?;
    packages::unpack("Prometheus is missing", "prometheus", &dir)?;
    PrometheusInstallation::find().map(drop)
}
