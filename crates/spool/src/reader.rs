//! A reader, which prefetches batches from the log into a bounded channel.

use neurobridge_core::{
    epoch::Epochs,
    event::Sequence,
    reader::{Cursor, Read, ReadError, Reader, Skipped},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    Start,
    log::{Finder, Found, Log, ReaderKey},
};

/// The capacity of the channel in batches. Small, because each batch is a whole wake-up of a socket, and `drop_oldest` cannot
/// free prefetched batches.
const PREFETCH: usize = 4;

/// A sink's reader of the log. Dropping it ends the retention in a log in memory; a log on disk keeps its cursor.
#[derive(Debug)]
pub struct SpoolReader {
    log: Log,
    key: ReaderKey,
    cursor: Cursor,
    prefetched: mpsc::Receiver<(u64, Result<Read, ReadError>)>,
    /// Rewind generation and target sequence.
    position: watch::Sender<(u64, Sequence)>,
    task: JoinHandle<()>,
}

impl SpoolReader {
    pub(crate) fn start(log: Log, name: &str, start: Start) -> Self {
        let (key, cursor) = log.register(name, start);
        tracing::debug!(reader = name, next = cursor.next.get(), "reader begins");
        Self::begin(log, key, cursor)
    }

    pub(crate) fn passing(log: Log) -> Self {
        let (key, cursor) = log.register_passing();
        Self::begin(log, key, cursor)
    }

    fn begin(log: Log, key: ReaderKey, cursor: Cursor) -> Self {
        let (position, positions) = watch::channel((0, cursor.next));
        let (sender, prefetched) = mpsc::channel(PREFETCH);
        let finder = Finder::of_reader(log.clone(), &key);
        let task = tokio::spawn(prefetch(log.clone(), finder, positions, sender));
        Self {
            log,
            key,
            cursor,
            prefetched,
            position,
            task,
        }
    }
}

impl Reader for SpoolReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        let epoch = self.position.borrow().0;
        loop {
            match self.prefetched.recv().await {
                Some((of, read)) if of == epoch => return read,
                // Prefetched before the last rewind: discarded.
                Some(_) => {}
                None => return Err(ReadError::Stopped),
            }
        }
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.position.send_modify(|(epoch, position)| {
            *epoch += 1;
            *position = sequence;
        });
    }

    fn commit(&mut self, cursor: &Cursor) {
        self.log.commit(&self.key, cursor);
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn end(&self) -> Option<Sequence> {
        Some(Sequence::FIRST.plus(*self.log.durable().borrow()))
    }

    fn epochs(&self) -> Epochs {
        self.log.epochs()
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        self.task.abort();
        self.log.unregister(&self.key);
    }
}

/// Ends when the reader is dropped, or after an error.
async fn prefetch(
    log: Log,
    mut finder: Finder,
    mut positions: watch::Receiver<(u64, Sequence)>,
    sender: mpsc::Sender<(u64, Result<Read, ReadError>)>,
) {
    let mut durable = log.durable();
    let mut closed = log.closed();
    loop {
        let (epoch, mut sequence) = *positions.borrow_and_update();
        loop {
            // Read before the look-up, so that a close in between is not missed.
            let is_closed = *closed.borrow_and_update();
            durable.mark_unchanged();
            let (read, next) = match finder.find(sequence).await {
                Ok(found) => read(found, sequence, is_closed),
                Err(error) => (Some(Err(error)), sequence),
            };
            let has_ended = matches!(read, Some(Ok(Read::End)));
            let has_failed = matches!(read, Some(Err(_)));
            let rewound = match read {
                Some(read) => tokio::select! {
                    biased;
                    changed = positions.changed() => changed.map(|()| true),
                    sent = sender.send((epoch, read)) => if sent.is_ok() { Ok(false) } else { return },
                },
                None => tokio::select! {
                    biased;
                    changed = positions.changed() => changed.map(|()| true),
                    _ = closed.changed() => Ok(false),
                    _ = durable.changed() => Ok(false),
                },
            };
            match rewound {
                Ok(false) if has_failed => return,
                Ok(false) if has_ended => {
                    // All events were passed on; only a rewind can request more.
                    if positions.changed().await.is_err() {
                        return;
                    }
                    break;
                }
                Ok(false) => sequence = next,
                Ok(true) => break,
                Err(_) => return,
            }
        }
    }
}

/// Converts the result of a look-up for the reader. Returns the next sequence too.
fn read(found: Found, sequence: Sequence, is_closed: bool) -> (Option<Result<Read, ReadError>>, Sequence) {
    let skipped = |next: Sequence, reason| {
        let read = Read::Skipped {
            from: sequence,
            events: next.since(sequence),
            reason,
        };
        (Some(Ok(read)), next)
    };
    match found {
        Found::Events(batch) => {
            let next = batch.end();
            (Some(Ok(Read::Events(batch))), next)
        }
        Found::Dropped { oldest } => skipped(oldest, Skipped::Dropped),
        Found::Damaged { next } => skipped(next, Skipped::Damaged),
        Found::Nothing if is_closed => (Some(Ok(Read::End)), sequence),
        Found::Nothing => (None, sequence),
    }
}
