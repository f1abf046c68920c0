//! The number of events by result.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use neurobridge_core::reader::{Cursor, Read, Reader};
use neurobridge_spool::Spool;
use tokio::task::JoinHandle;

/// The number of distinct results; further ones count as "other". The platform has seven.
const MAX_RESULTS: usize = 12;

/// Counts events by result with its own reader of the spool, like a sink.
pub(super) struct Totals {
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    task: JoinHandle<()>,
}

impl Totals {
    pub(super) fn start(spool: &Spool) -> Self {
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let mut reader = spool.reader("totals");
        let counting = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            while let Ok(read) = reader.next().await {
                let Read::Events(batch) = read else {
                    if matches!(read, Read::End) {
                        return;
                    } else {
                        continue;
                    }
                };
                for event in batch.iter().filter_map(Result::ok) {
                    let result = event.kind().unwrap_or("unknown".into());
                    count(&mut lock(&counting), &result);
                }
                reader.commit(&Cursor {
                    next: batch.end(),
                    ..reader.cursor().clone()
                });
            }
        });
        Self { counts, task }
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.counts).clone()
    }
}

/// Returns the result's name on the feed, with an explanation if the name is an abbreviation.
pub(super) fn describe(result: &str) -> String {
    let meaning = match result {
        "reinit" => "registered again",
        "ha" => "high accuracy",
        "junk" => "weak match",
        "nm" => "no match",
        "det" => "detected only",
        _ => return result.to_owned(),
    };
    format!("{result} ({meaning})")
}

impl Drop for Totals {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn count(counts: &mut BTreeMap<String, u64>, result: &str) {
    if let Some(count) = counts.get_mut(result) {
        *count += 1;
    } else {
        let result = if counts.len() < MAX_RESULTS {
            result
        } else {
            "other"
        };
        *counts.entry(result.to_owned()).or_default() += 1;
    }
}

fn lock(counts: &Mutex<BTreeMap<String, u64>>) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
    // No code under this lock can panic in the middle of an update.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
