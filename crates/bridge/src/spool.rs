//! Opens the spool of a bridge, and maps errors of the spool to exit codes.

use neurobridge_core::os_error::ErrorClass;
use neurobridge_spool::{AppendError, OpenError, Spool, SpoolConfig};
use tokio::task::spawn_blocking;

use crate::{
    config::Config,
    exit::{Exit, Failure},
    resume,
    task::joined,
};

/// Opens the configured spool.
///
/// # Errors
/// Returns an error if the spool cannot be opened. The exit code shows whether a later attempt may succeed.
pub(crate) async fn open(config: &Config) -> Result<Spool, Failure> {
    let (spool, data_dir) = (config.spool.clone(), config.data_dir.clone());
    let paths = resume::paths(config);
    joined(spawn_blocking(move || Spool::open_resuming(&spool, &data_dir, &paths)).await).map_err(|error| {
        let exit = match &error {
            OpenError::Locked { .. } => Exit::TryLater,
            OpenError::TooSmall { .. } => Exit::Config,
            // Too many open files, no memory or no space: a running bridge retries these errors too.
            OpenError::Disk { source } if source.class() != ErrorClass::Final => Exit::TryLater,
            _ => Exit::Disk,
        };
        Failure::new(exit, error)
    })
}

/// Opens a spool in memory, for commands that store nothing.
///
/// # Errors
/// Returns an error if the configuration of the spool is invalid.
pub(crate) fn open_in_memory(config: &Config) -> Result<Spool, OpenError> {
    let spool = match &config.spool {
        memory @ SpoolConfig::Memory(_) => memory.clone(),
        _ => SpoolConfig::default(),
    };
    Spool::open(&spool, &config.data_dir)
}

/// Returns the exit code for a failed append.
pub(crate) const fn exit_of(error: &AppendError) -> Exit {
    match error {
        AppendError::Failed { .. } => Exit::Disk,
        _ => Exit::Unavailable,
    }
}
