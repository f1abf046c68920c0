//! The most recent events of a log, which fill the deduplication window after a restart.

use neurobridge_core::{event::Sequence, reader::ReadError, record::SealedBatch};

use crate::log::{Finder, Found, Log};

/// An iterator over the most recent events of a log at the time of its creation, oldest first. Unreadable events are omitted.
/// Blocks on the disk.
#[derive(Debug)]
pub struct Recent {
    finder: Finder,
    next: Sequence,
    end: Sequence,
}

impl Recent {
    pub(crate) fn new(log: Log, max_events: u64) -> Self {
        let status = log.status();
        let end = Sequence::FIRST.plus(status.durable_sequence);
        let next = end
            .get()
            .saturating_sub(max_events)
            .max(status.oldest_sequence)
            .max(1);
        Self {
            finder: Finder::new(log),
            next: Sequence::new(next).unwrap_or(end),
            end,
        }
    }
}

impl Iterator for Recent {
    type Item = Result<SealedBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next < self.end {
            match self.finder.find_blocking(self.next) {
                Ok(Found::Events(batch)) => {
                    self.next = batch.end();
                    return Some(Ok(batch));
                }
                Ok(Found::Dropped { oldest: next } | Found::Damaged { next }) => self.next = next,
                Ok(Found::Nothing) => return None,
                Err(error) => {
                    self.next = self.end;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
