//! The spool of a bridge: opens it with exit codes, and reads the recent events for the deduplication window.

use std::sync::Arc;

use jiff::Timestamp;
use neurobridge_core::{identity, os_error::ErrorClass};
use neurobridge_spool::{AppendError, OpenError, Spool, SpoolConfig};
use tokio::task::spawn_blocking;

use crate::{
    config::Config,
    exit::{Exit, Failure},
    feed::joined,
    intake::{self, ANY_BODY},
    resume,
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

/// What the intake has to know of a stored event.
pub(crate) struct StoredEvent {
    pub(crate) source: Arc<str>,
    /// The number of the event in the order of the feed, if its id is one.
    pub(crate) order: Option<u64>,
    pub(crate) identity: u128,
    /// A hash of the body; equal to any other for an event that did not come from the feed.
    pub(crate) body: u128,
}

/// Returns the newest events of the spool, oldest first, and the time at which the last one was received. Unreadable
/// events are left out.
pub(crate) async fn newest(spool: &Spool, max_events: usize) -> (Vec<StoredEvent>, Option<Timestamp>) {
    // At least one, for its time.
    let newest = spool.recent(max_events.max(1) as u64);
    let read = move || {
        let (mut stored, mut last) = (Vec::new(), None);
        let mut sources: Vec<Arc<str>> = Vec::new();
        for batch in newest.map_while(Result::ok) {
            for event in batch.iter().filter_map(Result::ok) {
                last = Some(event.received_at);
                if let Some(id) = event.id() {
                    let known = sources.iter().find(|name| ***name == *event.source).cloned();
                    let source = known.unwrap_or_else(|| {
                        sources.push(event.source.into());
                        event.source.into()
                    });
                    stored.push(StoredEvent {
                        source,
                        order: intake::order_of(&event, &id),
                        identity: identity::identity_hash(event.source, &id),
                        body: if event.origin.is_feed() {
                            identity::body_hash(event.body())
                        } else {
                            ANY_BODY
                        },
                    });
                }
            }
        }
        (stored, last)
    };
    joined(spawn_blocking(read).await)
}
