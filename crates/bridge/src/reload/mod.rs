//! The reload of the configuration while the bridge runs.
//!
//! The settings of each part are compared as they are written in the file and the environment. Parts whose settings are equal are
//! not touched. `bridge/reload.rs` applies the plan.

mod plan;
mod status;
mod watch;

use std::path::PathBuf;

use neurobridge_core::event::FieldPath;

pub(crate) use self::{
    plan::{Plan, plan},
    status::{Configuration, ConfigurationView},
    watch::watch,
};
use crate::config::Loaded;

/// The data with which a running bridge loads its configuration again, and compares it with the running one.
pub(crate) struct Reloader {
    /// The file named on the command line.
    pub(crate) named: Option<PathBuf>,
    /// The configuration that runs.
    pub(crate) loaded: Loaded,
    /// The fields that the running sources locate while they read a frame.
    pub(crate) located: Vec<FieldPath>,
}

impl Reloader {
    pub(crate) fn new(named: Option<PathBuf>, loaded: Loaded) -> Self {
        let located = loaded.config.named_fields();
        Self {
            named,
            loaded,
            located,
        }
    }
}
