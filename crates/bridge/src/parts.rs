//! The lists of the parts of a running bridge, which change when its configuration is reloaded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neurobridge_core::dead_letter::DeadLetters;

use crate::{feed::SourceHandle, state::SinkHandle};

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
    pub(crate) fn dead_letters_not_kept(&self) -> u64 {
        self.lock()
            .dead_letters
            .values()
            .map(|store| store.not_kept())
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
