//! The `Reader` trait: how a sink reads the spool.

use std::future::Future;

use crate::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    ledger::SinkCounts,
    record::SealedBatch,
};

/// A reader of the log with a cursor. Each sink has one and reads at its own pace.
pub trait Reader: Send + 'static {
    /// Waits for the next events and returns them. Cancel-safe: no event is skipped.
    ///
    /// # Errors
    /// The log cannot be read. Events that were returned before stay valid.
    fn next(&mut self) -> impl Future<Output = Result<Read, ReadError>> + Send;

    /// Moves the reader to a sequence, which [`next`](Self::next) returns next. The sequence may be earlier
    /// or later.
    fn rewind(&mut self, sequence: Sequence);

    /// Commits the cursor: everything before `cursor.next` is settled, and the log may remove it. Does not
    /// wait for a disk.
    fn commit(&mut self, cursor: &Cursor);

    /// Returns the cursor with which the reader was opened.
    fn cursor(&self) -> &Cursor;

    /// Returns the first sequence that the log has not assigned yet; `None` if unknown. All events that this reader can
    /// still return are before that sequence.
    fn end(&self) -> Option<Sequence> {
        None
    }

    /// Returns the epochs of the log. A log in memory has none.
    fn epochs(&self) -> Epochs {
        Epochs::default()
    }
}

/// A result of [`Reader::next`].
#[derive(Clone, Debug)]
pub enum Read {
    /// Events that were appended together.
    Events(SealedBatch),
    /// Events that are no longer in the log.
    Skipped {
        /// The sequence of the first missing event.
        from: Sequence,
        /// The number of events.
        events: u64,
        /// The reason.
        reason: SkipReason,
    },
    /// The log is closed and all events were returned.
    End,
}

/// Why events are no longer in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The spool was full and is configured to drop the oldest events.
    Dropped,
    /// The events cannot be read.
    Damaged,
}

/// The position of a sink, and the counts of the events before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The first sequence of this sink.
    pub first: Sequence,
    /// The first sequence that is not settled.
    pub next: Sequence,
    /// The counts of the events before `next`.
    pub counts: SinkCounts,
    /// Text that the sink needs at its next start: the file sink stores its file and offset.
    pub note: Option<String>,
}

impl Cursor {
    /// Returns the cursor of a sink that starts at `first`.
    pub fn starting_at(first: Sequence) -> Self {
        Self {
            first,
            next: first,
            counts: SinkCounts::default(),
            note: None,
        }
    }

    /// Adapts this cursor, which was committed in `epoch`, to the present log: a cursor after the end of that epoch moves
    /// back to that end. Also returns the number of settled events that the log has lost. The log assigns the sequences of
    /// lost events again, to events that were not delivered.
    #[must_use]
    pub fn within(mut self, epoch: Epoch, epochs: &Epochs) -> (Self, u64) {
        let Some(end) = epochs.end_of(epoch) else {
            return (self, 0);
        };
        let lost = self.next.since(end);
        if lost > 0 {
            self.next = end;
            self.first = self.first.min(end);
            self.counts.subtract(lost);
        }
        (self, lost)
    }
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A record of the log in memory is invalid, which only a bug can cause.
    #[error("the spool cannot be read at sequence {sequence}")]
    Record {
        /// The sequence of the record.
        sequence: Sequence,
        /// The reason.
        source: crate::record::RecordError,
    },
    /// The disk cannot be read.
    #[error("the spool cannot be read at sequence {sequence}")]
    Disk {
        /// The sequence at which reading failed.
        sequence: Sequence,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The log has failed, or the program is stopping.
    #[error("the spool has stopped: an earlier operation has failed, or the program is stopping")]
    Stopped,
}
