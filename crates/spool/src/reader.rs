//! A reader: prefetches from the log into a bounded channel.

use std::sync::Arc;

use neurobridge_core::{
    event::Sequence,
    reader::{Cursor, Read, ReadError, Reader, Skipped},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::memory::{Found, Memory};

/// Batches between the log and a sink. When it is full the prefetch waits: the log keeps the rest. Few, because each
/// is a whole wake-up of a socket, and `drop_oldest` can't free what is in here.
const PREFETCH: usize = 4;

/// A sink's reader of the log. Dropping it releases the log from it.
#[derive(Debug)]
pub struct SpoolReader {
    log: Arc<Memory>,
    number: u64,
    cursor: Cursor,
    prefetched: mpsc::Receiver<(u64, Read)>,
    /// Where to read from, and for the how manyth time that was said.
    position: watch::Sender<(u64, Sequence)>,
    task: JoinHandle<()>,
}

impl SpoolReader {
    pub(crate) fn start(log: Arc<Memory>, name: &str) -> Self {
        let (number, first) = log.register();
        tracing::debug!(reader = name, first = first.get(), "reader begins");
        let (position, positions) = watch::channel((0, first));
        let (sender, prefetched) = mpsc::channel(PREFETCH);
        let task = tokio::spawn(prefetch(Arc::clone(&log), positions, sender));
        Self {
            log,
            number,
            cursor: Cursor::starting_at(first),
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
                Some((of, read)) if of == epoch => return Ok(read),
                // Prefetched before a rewind.
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
        self.log.commit(self.number, cursor.next);
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        self.task.abort();
        self.log.unregister(self.number);
    }
}

/// Ends when the reader is dropped.
async fn prefetch(
    log: Arc<Memory>,
    mut positions: watch::Receiver<(u64, Sequence)>,
    sender: mpsc::Sender<(u64, Read)>,
) {
    let mut durable = log.durable();
    let mut closed = log.closed();
    loop {
        let (epoch, mut sequence) = *positions.borrow_and_update();
        loop {
            // Before the look into the log: what comes after it wakes us then.
            let is_closed = *closed.borrow_and_update();
            durable.mark_unchanged();
            let (read, next) = match log.find(sequence) {
                Found::Events(batch) => {
                    let next = batch.end();
                    (Some(Read::Events(batch)), next)
                }
                Found::Dropped { oldest } => {
                    let events = oldest.since(sequence);
                    (
                        Some(Read::Skipped {
                            from: sequence,
                            events,
                            reason: Skipped::Dropped,
                        }),
                        oldest,
                    )
                }
                Found::Nothing if is_closed => (Some(Read::End), sequence),
                Found::Nothing => (None, sequence),
            };
            let ended = matches!(read, Some(Read::End));
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
                Ok(false) if ended => {
                    // All is handed over; only a rewind can want more.
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
