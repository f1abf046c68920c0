//! The parts of a running bridge and their lists, which change when its configuration is reloaded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use neurobridge_core::{dead_letter::DeadLetters, delivery::Progress, sink_type::InCluster};
use neurobridge_listener::{SourceState, SourceStats};
use tokio::sync::{mpsc, oneshot};

use crate::{control::Answer, intake::IntakeSource, tokens::Tokens};

/// A request for the events of a period.
#[derive(Debug)]
pub(crate) struct BackfillRequest {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// The id after which the events are fetched.
    pub(crate) after: Option<String>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The observable state of a running source.
pub(crate) struct SourceHandle {
    /// Whether the events of gaps are fetched, or gaps reported to the sinks.
    pub(crate) handles_gaps: bool,
    /// Sends requests for missed events to the filler; `None` if the source has no interface from which they can be fetched.
    pub(crate) backfill: Option<mpsc::Sender<BackfillRequest>>,
    /// The address of the feed, without credentials, path and query.
    pub(crate) address: String,
    pub(crate) intake: Arc<IntakeSource>,
    pub(crate) stats: Arc<SourceStats>,
    /// The tokens that are created for the source; `None` if it is configured with a token.
    pub(crate) tokens: Option<Arc<Tokens>>,
    /// Whether the source was removed and its task has ended.
    pub(crate) has_ended: AtomicBool,
}

impl SourceHandle {
    /// Returns whether the source has closed its connections and opens none.
    pub(crate) fn is_closed(&self) -> bool {
        let stats = self.stats.snapshot();
        self.has_ended.load(Ordering::Acquire)
            || (stats.state == SourceState::Standby && stats.open_connections == 0)
    }

    /// Returns whether the source is removed, and all of its events are stored.
    pub(crate) fn is_gone(&self) -> bool {
        self.has_ended.load(Ordering::Acquire) && self.intake.ledger.counts().in_flight == 0
    }
}

/// The observable state of a running sink.
pub(crate) struct SinkHandle {
    /// The number of the delivery; a changed sink has a new delivery with another number.
    pub(crate) number: u64,
    pub(crate) name: Arc<str>,
    /// The type of the sink, as in the configuration.
    pub(crate) kind: &'static str,
    /// The destination of the events, without credentials.
    pub(crate) destination: String,
    /// The behaviour of the sink on the members of a cluster.
    pub(crate) in_cluster: InCluster,
    /// Whether the bridge is ready only if this sink is up.
    pub(crate) required: bool,
    pub(crate) progress: Arc<Progress>,
}

/// The handles of all parts, by name. Views read them; the feed and the deliveries change them.
#[derive(Default)]
pub(crate) struct Parts {
    inner: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    sources: BTreeMap<Arc<str>, Arc<SourceHandle>>,
    sinks: BTreeMap<Arc<str>, Arc<SinkHandle>>,
    /// The stores of dead letters by path, except the destinations of sinks.
    dead_letters: BTreeMap<PathBuf, Arc<dyn DeadLetters>>,
}

impl Parts {
    /// Returns the sources, ordered by name.
    pub(crate) fn sources(&self) -> Vec<Arc<SourceHandle>> {
        self.lock().sources.values().cloned().collect()
    }

    /// Returns a source.
    pub(crate) fn source(&self, name: &str) -> Option<Arc<SourceHandle>> {
        self.lock().sources.get(name).cloned()
    }

    /// Removes the sources that have ended and whose events are stored, and returns them.
    pub(crate) fn take_gone(&self) -> Vec<Arc<SourceHandle>> {
        let mut inner = self.lock();
        let mut gone = Vec::new();
        inner.sources.retain(|_, source| {
            let is_gone = source.is_gone();
            if is_gone {
                gone.push(Arc::clone(source));
            }
            !is_gone
        });
        gone
    }

    /// Adds a source, or replaces the handle of the same name.
    pub(crate) fn set_source(&self, source: Arc<SourceHandle>) {
        self.lock()
            .sources
            .insert(Arc::clone(&source.intake.name), source);
    }

    /// Returns the sinks, ordered by name.
    pub(crate) fn sinks(&self) -> Vec<Arc<SinkHandle>> {
        self.lock().sinks.values().cloned().collect()
    }

    /// Adds a sink, or replaces the handle of the same name.
    pub(crate) fn set_sink(&self, sink: Arc<SinkHandle>) {
        self.lock().sinks.insert(Arc::clone(&sink.name), sink);
    }

    /// Removes a sink.
    pub(crate) fn remove_sink(&self, name: &str) {
        self.lock().sinks.remove(name);
    }

    /// Returns the number of dead letters that were not stored because a limit was exceeded.
    pub(crate) fn discarded_dead_letters(&self) -> u64 {
        self.lock()
            .dead_letters
            .values()
            .map(|store| store.discarded())
            .sum()
    }

    /// Returns the store of dead letters with this path.
    pub(crate) fn dead_letters(&self, path: &Path) -> Option<Arc<dyn DeadLetters>> {
        self.lock().dead_letters.get(path).cloned()
    }

    /// Adds a store of dead letters.
    pub(crate) fn set_dead_letters(&self, path: PathBuf, store: Arc<dyn DeadLetters>) {
        self.lock().dead_letters.insert(path, store);
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        // No code under this lock can panic in the middle of an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
