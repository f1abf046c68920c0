//! The state of the running configuration: its hash, the time of the last reload, and the last failed reload.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use neurobridge_core::clock;
use serde::Serialize;

use crate::config::Config;

/// The length to which the reason of a failed reload is cut, in characters.
const MAX_REASON_CHARS: usize = 1000;

/// The running configuration, as shown by `/status` and the metrics.
#[derive(Debug)]
pub(crate) struct Configuration {
    inner: Mutex<ConfigurationView>,
}

/// A snapshot of [`Configuration`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConfigurationView {
    /// A hash of the configuration without its secrets.
    pub(crate) hash: String,
    /// The time at which this configuration was loaded, at the start or by a reload.
    pub(crate) loaded_at: Timestamp,
    /// The number of reloads that changed the configuration.
    pub(crate) reloads: u64,
    /// The number of reloads that failed.
    pub(crate) failed_reloads: u64,
    /// The last reload, if it failed.
    pub(crate) last_failed_reload: Option<FailedReload>,
}

/// A reload that changed nothing, because the configuration is invalid or needs a restart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailedReload {
    pub(crate) at: Timestamp,
    /// The report, without secrets.
    pub(crate) reason: String,
}

impl Configuration {
    /// Records the configuration with which the bridge starts.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            inner: Mutex::new(ConfigurationView {
                hash: config.fingerprint(),
                loaded_at: clock::now(),
                reloads: 0,
                failed_reloads: 0,
                last_failed_reload: None,
            }),
        }
    }

    pub(crate) fn view(&self) -> ConfigurationView {
        self.lock().clone()
    }

    /// Records a reload.
    pub(crate) fn reloaded(&self, config: &Config) {
        let mut inner = self.lock();
        inner.hash = config.fingerprint();
        inner.loaded_at = clock::now();
        inner.reloads += 1;
        inner.last_failed_reload = None;
    }

    /// Records a reload that found no change.
    pub(crate) fn unchanged(&self) {
        self.lock().last_failed_reload = None;
    }

    /// Records a failed reload with its reason.
    pub(crate) fn failed(&self, reason: &str) {
        let mut inner = self.lock();
        inner.failed_reloads += 1;
        inner.last_failed_reload = Some(FailedReload {
            at: clock::now(),
            reason: reason.chars().take(MAX_REASON_CHARS).collect(),
        });
    }

    fn lock(&self) -> MutexGuard<'_, ConfigurationView> {
        // No code under this lock can panic in the middle of an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
