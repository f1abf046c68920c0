//! How many events of each result there were.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use neurobridge_core::{
    envelope::Field,
    reader::{Cursor, Read, Reader},
};
use neurobridge_spool::Spool;
use tokio::task::JoinHandle;

/// Different results that are counted; all others are one. The platform knows seven.
const MOST_RESULTS: usize = 12;

/// Counts events by result with a reader of its own, as any sink has one.
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
                    let result = event.text(Field::Result).unwrap_or("unknown".into());
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

/// A result's word on the feed, and what it means where the word does not say it.
pub(super) fn in_words(result: &str) -> String {
    let meaning = match result {
        "reinit" => "registered anew",
        "ha" => "high accuracy",
        "junk" => "a weak match",
        "nm" => "no match",
        "det" => "detected, no more",
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
        let result = if counts.len() < MOST_RESULTS {
            result
        } else {
            "other"
        };
        *counts.entry(result.to_owned()).or_default() += 1;
    }
}

fn lock(counts: &Mutex<BTreeMap<String, u64>>) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
    // Nothing within the lock can panic half-way through an update.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
