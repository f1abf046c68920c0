//! A reader of the log.

use neurobridge_core::{
    epoch::Epochs,
    event::Sequence,
    reader::{Cursor, Read, ReadError, Reader, SkipReason},
};
use tokio::{sync::watch, task::consume_budget};

use crate::{
    Start,
    log::{Finder, Found, Log, ReaderKey},
};

/// A sink's reader of the log. Dropping it ends the retention in a log in memory; a log on disk keeps its cursor.
///
/// It has no task of its own: a sink that keeps up finds new events in memory. Of a log on disk, older events are read in a
/// blocking thread, one batch ahead.
#[derive(Debug)]
pub struct SpoolReader {
    log: Log,
    key: ReaderKey,
    cursor: Cursor,
    finder: Finder,
    /// The sequence to read next.
    position: Sequence,
    durable: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
}

impl SpoolReader {
    pub(crate) fn start(log: Log, name: &str, start: Start) -> Self {
        let (key, cursor) = log.register(name, start);
        tracing::debug!(reader = name, next = cursor.next.get(), "reader started");
        Self::begin(log, key, cursor)
    }

    pub(crate) fn observer(log: Log) -> Self {
        let (key, cursor) = log.register_observer();
        Self::begin(log, key, cursor)
    }

    fn begin(log: Log, key: ReaderKey, cursor: Cursor) -> Self {
        Self {
            finder: Finder::of_reader(log.clone(), &key),
            position: cursor.next,
            durable: log.durable(),
            closed: log.closed(),
            log,
            key,
            cursor,
        }
    }
}

impl Reader for SpoolReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        loop {
            // A look-up in memory never waits: without this, a reader of a long log would block the other tasks of the thread.
            consume_budget().await;
            // Read before the look-up, so that a close in between is not missed.
            let is_closed = *self.closed.borrow_and_update();
            self.durable.mark_unchanged();
            let skipped = |next: Sequence, reason| Read::Skipped {
                from: self.position,
                events: next.since(self.position),
                reason,
            };
            let (read, next) = match self.finder.find(self.position).await? {
                Found::Events(batch) => {
                    let next = batch.end();
                    (Read::Events(batch), next)
                }
                Found::Dropped { oldest } => (skipped(oldest, SkipReason::Dropped), oldest),
                Found::Damaged { next } => (skipped(next, SkipReason::Damaged), next),
                Found::Nothing if is_closed => return Ok(Read::End),
                Found::Nothing => {
                    tokio::select! {
                        biased;
                        _ = self.durable.changed() => {}
                        // The log lives as long as this reader, and so do the senders.
                        _ = self.closed.changed() => {}
                    }
                    continue;
                }
            };
            self.position = next;
            return Ok(read);
        }
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.position = sequence;
    }

    fn commit(&mut self, cursor: &Cursor) {
        self.log.commit(&self.key, cursor);
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn end(&self) -> Option<Sequence> {
        Some(Sequence::FIRST.plus(*self.durable.borrow()))
    }

    fn epochs(&self) -> Epochs {
        self.log.epochs()
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        self.log.unregister(&self.key);
    }
}
