//! The spool of a bridge: opened with exit codes, and read for what must be known of the events before.

use jiff::Timestamp;
use neurobridge_core::{envelope::Field, identity, os_error::ErrorClass};
use neurobridge_spool::{AppendError, OpenError, Spool, SpoolConfig};
use tokio::task::spawn_blocking;

use crate::{
    config::Config,
    exit::{Exit, Failure},
    feed::joined,
};

/// Opens the spool of a configuration.
///
/// # Errors
/// It can't be opened; the exit code tells whether to come back later.
pub(crate) async fn open(config: &Config) -> Result<Spool, Failure> {
    let (spool, data_dir) = (config.spool.clone(), config.data_dir.clone());
    joined(spawn_blocking(move || Spool::open(&spool, &data_dir)).await).map_err(|error| {
        let exit = match &error {
            OpenError::Locked { .. } => Exit::TryLater,
            OpenError::TooSmall { .. } => Exit::Config,
            // Too many open files, no memory, no space: what a running bridge waits for.
            OpenError::Disk { source } if source.class() != ErrorClass::Final => Exit::TryLater,
            _ => Exit::Disk,
        };
        Failure::new(exit, error)
    })
}

/// A spool for a program that keeps nothing.
///
/// # Errors
/// Its configuration is wrong.
pub(crate) fn open_in_memory(config: &Config) -> Result<Spool, OpenError> {
    let spool = match &config.spool {
        memory @ SpoolConfig::Memory(_) => memory.clone(),
        _ => SpoolConfig::default(),
    };
    Spool::open(&spool, &config.data_dir)
}

/// How the program ends after an append that failed.
pub(crate) const fn exit_of(error: &AppendError) -> Exit {
    match error {
        AppendError::Failed { .. } => Exit::Disk,
        _ => Exit::Unavailable,
    }
}

/// An event of an earlier run: hashes of its identity and its body.
pub(crate) struct Known {
    pub(crate) identity: u128,
    pub(crate) body: u128,
}

/// The newest events of the spool, oldest first, and when the last one was received. What can't be read is left out.
pub(crate) async fn newest(spool: &Spool, max_events: usize) -> (Vec<Known>, Option<Timestamp>) {
    // One at least, for its time.
    let newest = spool.newest(max_events.max(1) as u64);
    let read = move || {
        let (mut known, mut last) = (Vec::new(), None);
        for batch in newest.map_while(Result::ok) {
            for event in batch.iter().filter_map(Result::ok) {
                last = Some(event.received_at);
                if let Some(id) = event.text(Field::Id) {
                    known.push(Known {
                        identity: identity::identity_hash(event.source, &id),
                        body: identity::body_hash(event.data()),
                    });
                }
            }
        }
        (known, last)
    };
    joined(spawn_blocking(read).await)
}
