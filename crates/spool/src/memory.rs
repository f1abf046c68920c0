//! The log in memory: the same records as on disk, with a size limit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use neurobridge_core::{
    event::Sequence,
    identity::SpoolId,
    record::{Batch, SealedBatch},
};
use tokio::{
    sync::{Notify, watch},
    task::yield_now,
};

use crate::{
    AppendError, MemoryConfig, OpenError, SpoolStatus, Start, Stored, WhenFull,
    log::Found,
    resume::{ResumeValue, Values},
};

/// The overhead of a batch in addition to its bytes: its slot in the queue, and the allocator's header.
const BATCH_OVERHEAD: usize = 128;
/// The smallest valid limit: two batches of the listener's largest size fit.
const MIN_SIZE: u64 = 1 << 20;

/// The size from which the appender yields to the readers: batches that stay in the log for long leave the processors' caches,
/// which costs more than all other work on them.
const YIELD_SIZE: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Memory {
    id: SpoolId,
    limit: usize,
    when_full: WhenFull,
    state: Mutex<State>,
    /// Wakes the appender when a cursor has freed space.
    room: Notify,
    /// Locked by the current append: a smaller append must not overtake one that waits for space.
    turn: tokio::sync::Mutex<()>,
    durable: watch::Sender<u64>,
    closed: watch::Sender<bool>,
}

/// A batch and the memory that it uses.
#[derive(Debug)]
struct StoredBatch {
    batch: SealedBatch,
    cost: usize,
}

#[derive(Debug)]
struct State {
    batches: VecDeque<StoredBatch>,
    /// The total cost of the batches.
    size: usize,
    /// The sequence of the next event.
    next: Sequence,
    readers: BTreeMap<u64, Reader>,
    next_reader: u64,
    dropped_events: u64,
    /// Whether an append waits for space.
    is_full: bool,
    resume: Values,
}

/// The position of a reader.
#[derive(Clone, Copy, Debug)]
struct Reader {
    /// The first event that the reader has not settled.
    unsettled: Sequence,
    /// The first event that was not passed to the reader since its last rewind. The events in between are being delivered.
    passed_end: Sequence,
}

impl Memory {
    pub(crate) fn new(config: &MemoryConfig) -> Result<Self, OpenError> {
        let limit = config.max_size.bytes();
        if limit < MIN_SIZE {
            return Err(OpenError::TooSmall {
                found: limit,
                least: MIN_SIZE,
            });
        }
        let state = State {
            batches: VecDeque::new(),
            size: 0,
            next: Sequence::FIRST,
            readers: BTreeMap::new(),
            next_reader: 0,
            dropped_events: 0,
            is_full: false,
            resume: Values::default(),
        };
        Ok(Self {
            id: SpoolId::generate(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            when_full: config.when_full,
            state: Mutex::new(state),
            room: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            durable: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        })
    }

    pub(crate) const fn id(&self) -> SpoolId {
        self.id
    }

    pub(crate) async fn append(
        &self,
        batch: Batch,
        mut values: Vec<ResumeValue>,
    ) -> Result<Option<Stored>, AppendError> {
        if batch.is_empty() && values.is_empty() {
            return Ok(None);
        }
        let cost = footprint(batch.capacity());
        let _turn = self.turn.lock().await;
        if batch.is_empty() {
            if *self.closed.borrow() {
                return Err(AppendError::Closed);
            }
            self.lock().resume.apply(values);
            return Ok(None);
        }
        if self.lock().size > YIELD_SIZE {
            yield_now().await;
        }
        // Sealing assigns the sequences, so the batch is sealed only when its position is final.
        let mut batch = Some(batch);
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Enabled before the check, so that space freed in between is not missed.
            room.as_mut().enable();
            if *self.closed.borrow() {
                return Err(AppendError::Closed);
            }
            if let Some(stored) = self.try_append(&mut batch, &mut values, cost) {
                self.durable.send_replace(stored.first.get() + stored.events - 1);
                return Ok(Some(stored));
            }
            room.await;
        }
    }

    pub(crate) fn resume_values(&self) -> Values {
        self.lock().resume.clone()
    }

    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
        self.room.notify_waiters();
    }

    /// Registers a reader. Returns its number and its first sequence.
    pub(crate) fn register(&self, start: Start) -> (u64, Sequence) {
        let mut state = self.lock();
        let number = state.next_reader;
        state.next_reader += 1;
        let first = match start {
            Start::End => state.next,
            Start::Oldest => state.oldest(),
        };
        let reader = Reader {
            unsettled: first,
            passed_end: first,
        };
        state.readers.insert(number, reader);
        (number, first)
    }

    pub(crate) fn unregister(&self, reader: u64) {
        let mut state = self.lock();
        state.readers.remove(&reader);
        self.remove_settled(&mut state);
    }

    /// Records that a reader has settled all events before `next`.
    pub(crate) fn commit(&self, reader: u64, next: Sequence) {
        let mut state = self.lock();
        if let Some(reader) = state.readers.get_mut(&reader) {
            reader.unsettled = next.max(reader.unsettled);
        }
        self.remove_settled(&mut state);
    }

    /// Looks up the batch for a reader and records that it was passed to the reader.
    pub(crate) fn find_for_reader(&self, reader: u64, sequence: Sequence) -> Found {
        let mut state = self.lock();
        let found = state.find(sequence);
        if let Some(reader) = state.readers.get_mut(&reader) {
            reader.passed_end = match &found {
                Found::Events(batch) => batch.end(),
                Found::Dropped { .. } | Found::Damaged { .. } | Found::Nothing => sequence,
            };
        }
        found
    }

    pub(crate) fn find(&self, sequence: Sequence) -> Found {
        self.lock().find(sequence)
    }

    pub(crate) fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        let found = match self.find(sequence) {
            // A reader whose events were dropped continues with the oldest event.
            Found::Dropped { oldest } => self.find(oldest),
            found => found,
        };
        let Found::Events(batch) = found else {
            return None;
        };
        batch.iter().next()?.ok().map(|event| event.received_at)
    }

    pub(crate) fn status(&self) -> SpoolStatus {
        let state = self.lock();
        SpoolStatus {
            kind: "memory",
            oldest_sequence: state.oldest().get(),
            durable_sequence: state.next.get() - 1,
            size_bytes: state.size as u64,
            // Settled batches are removed at once.
            pending_bytes: state.size as u64,
            limit_bytes: self.limit as u64,
            dropped_events: state.dropped_events,
            damaged_events: 0,
            damaged_cursors: 0,
            is_full: state.is_full,
            is_disk_full: false,
            is_retrying: false,
            has_failed: false,
        }
    }

    fn try_append(
        &self,
        batch: &mut Option<Batch>,
        values: &mut Vec<ResumeValue>,
        cost: usize,
    ) -> Option<Stored> {
        let mut state = self.lock();
        // A batch larger than the limit is stored alone: rejecting it would block the bridge for ever.
        while state.size + cost > self.limit && !state.batches.is_empty() {
            if self.when_full == WhenFull::Block {
                state.is_full = true;
                return None;
            }
            state.drop_oldest();
        }
        state.is_full = false;
        let sealed = batch.take()?.seal_in_memory(state.next);
        let stored = Stored {
            first: sealed.first(),
            events: sealed.events(),
        };
        state.next = sealed.end();
        state.resume.apply(values.drain(..));
        state.size += cost;
        state.batches.push_back(StoredBatch { batch: sealed, cost });
        // Without readers nothing is retained.
        self.remove_settled(&mut state);
        Some(stored)
    }

    /// Removes the batches that every reader has settled.
    fn remove_settled(&self, state: &mut State) {
        let needed = state.readers.values().map(|reader| reader.unsettled).min();
        let needed = needed.unwrap_or(state.next);
        let before = state.batches.len();
        while state
            .batches
            .front()
            .is_some_and(|stored| stored.batch.end() <= needed)
        {
            state.remove_batch(0);
        }
        if state.batches.len() != before {
            self.room.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can panic in the middle of an update.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the memory used by a batch with a buffer of this capacity. Allocators round large blocks up, usually to one of four
/// sizes for each power of two; without this the log would use a tenth more memory than it reports.
const fn footprint(bytes: usize) -> usize {
    let step = bytes.next_power_of_two() / 8;
    let rounded = if step == 0 {
        bytes
    } else {
        bytes.next_multiple_of(step)
    };
    rounded + BATCH_OVERHEAD
}

impl State {
    fn oldest(&self) -> Sequence {
        self.batches
            .front()
            .map_or(self.next, |stored| stored.batch.first())
    }

    fn find(&self, sequence: Sequence) -> Found {
        if sequence >= self.next {
            return Found::Nothing;
        }
        let index = self
            .batches
            .partition_point(|stored| stored.batch.end() <= sequence);
        match self.batches.get(index).map(|stored| &stored.batch) {
            Some(batch) if batch.first() <= sequence => match batch.from(sequence) {
                Some(part) => Found::Events(part),
                None => Found::Nothing,
            },
            Some(batch) => Found::Dropped {
                oldest: batch.first(),
            },
            None => Found::Dropped { oldest: self.next },
        }
    }

    /// Drops the oldest batch that no reader is delivering. A batch in delivery will most likely be delivered although it would
    /// count as lost, and its memory is in use until it is settled anyway.
    fn drop_oldest(&mut self) {
        let is_in_delivery = |stored: &StoredBatch| {
            self.readers.values().any(|reader| {
                reader.unsettled < stored.batch.end() && stored.batch.first() < reader.passed_end
            })
        };
        let oldest = self.batches.iter().position(|stored| !is_in_delivery(stored));
        if let Some(batch) = self.remove_batch(oldest.unwrap_or(0)) {
            self.dropped_events += batch.events();
        }
    }

    fn remove_batch(&mut self, index: usize) -> Option<SealedBatch> {
        let StoredBatch { batch, cost } = self.batches.remove(index)?;
        self.size -= cost;
        Some(batch)
    }
}
