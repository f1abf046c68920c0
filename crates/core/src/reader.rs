//! What a sink sees of the spool: a reader with a cursor.

use std::future::Future;

use crate::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    ledger::SinkCounts,
    record::SealedBatch,
};

/// A sink's place in the log. One for each sink, each at its own pace.
pub trait Reader: Send + 'static {
    /// Waits for what comes next and hands it over. Safe to cancel: nothing is skipped.
    ///
    /// # Errors
    /// The log can't be read; what was handed over before stays valid.
    fn next(&mut self) -> impl Future<Output = Result<Read, ReadError>> + Send;

    /// Goes back (or forth) to a sequence: it is what [`next`](Self::next) hands over next.
    fn rewind(&mut self, sequence: Sequence);

    /// Notes that everything before `cursor.next` is settled; the log may forget it. Does not wait for a disk.
    fn commit(&mut self, cursor: &Cursor);

    /// The cursor as it was when the reader was made.
    fn cursor(&self) -> &Cursor;

    /// The first sequence that the log has not given yet, where that is known: what waits for this reader ends there.
    fn end(&self) -> Option<Sequence> {
        None
    }

    /// The log's epochs. One in memory has none.
    fn epochs(&self) -> Epochs {
        Epochs::default()
    }
}

/// What a reader hands over.
#[derive(Clone, Debug)]
pub enum Read {
    /// Events, as many as were there together.
    Events(SealedBatch),
    /// Events that are not there any more.
    Skipped {
        /// The first of them.
        from: Sequence,
        /// How many.
        events: u64,
        /// Why.
        reason: Skipped,
    },
    /// The log is closed and all of it was handed over.
    End,
}

/// Why events are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The spool was full, and was told to drop the oldest.
    Dropped,
    /// They can't be read.
    Damaged,
}

/// Where a sink stands, and what it has settled up to there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The sequence at which this sink began.
    pub first: Sequence,
    /// The first sequence that is not settled.
    pub next: Sequence,
    /// What became of those before.
    pub counts: SinkCounts,
    /// What the sink wants to find again at its next start: the file sink's file and offset.
    pub note: Option<String>,
}

impl Cursor {
    /// A sink that begins here.
    pub fn starting_at(first: Sequence) -> Self {
        Self {
            first,
            next: first,
            counts: SinkCounts::default(),
            note: None,
        }
    }

    /// This cursor, which that epoch has committed, in the log as it is; and how many events the log has lost that were
    /// delivered: their sequences are given anew, to events that were not.
    #[must_use]
    pub fn within(mut self, epoch: Epoch, epochs: &Epochs) -> (Self, u64) {
        let Some(end) = epochs.end_of(epoch) else {
            return (self, 0);
        };
        let lost = self.next.since(end);
        if lost > 0 {
            self.next = end;
            self.first = self.first.min(end);
            self.counts.take_back(lost);
        }
        (self, lost)
    }
}

/// Why the log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A record of the log in memory makes no sense: a bug, not an accident.
    #[error("the spool can't be read at sequence {sequence}")]
    Record {
        /// Where.
        sequence: Sequence,
        /// What is wrong there.
        source: crate::record::RecordError,
    },
    /// The disk can't be read.
    #[error("the spool can't be read at sequence {sequence}")]
    Disk {
        /// Where.
        sequence: Sequence,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log is gone: it failed, or the program is stopping.
    #[error("the spool has stopped")]
    Stopped,
}
