//! The log in memory: the same records as on disk, bounded in bytes.

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

use crate::{AppendError, MemoryConfig, OpenError, SpoolStatus, Start, Stored, WhenFull, log::Found};

/// What a batch costs beside its bytes: its place in the queue, and the allocator's own.
const BATCH_OVERHEAD: usize = 128;
/// The smallest log: two batches of the listener's largest size fit.
const LEAST_SIZE: u64 = 1 << 20;

/// From here on those that empty the log go first, if they have something to do and no processor: what lies in the log for
/// long falls out of the processors' caches, which costs more than all else that is done with it.
const CROWDED: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Memory {
    id: SpoolId,
    limit: usize,
    when_full: WhenFull,
    state: Mutex<State>,
    /// Wakes the appender when a cursor made room.
    room: Notify,
    /// The append whose turn it is: a smaller one must not go before one that waits for room.
    turn: tokio::sync::Mutex<()>,
    durable: watch::Sender<u64>,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Held {
    batch: SealedBatch,
    cost: usize,
}

#[derive(Debug)]
struct State {
    batches: VecDeque<Held>,
    /// What they cost together.
    size: usize,
    /// The sequence that the next event gets.
    next: Sequence,
    readers: BTreeMap<u64, Reader>,
    next_reader: u64,
    dropped_events: u64,
    /// An append waits for room.
    is_full: bool,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug)]
struct Reader {
    /// The first event that it still needs.
    needed: Sequence,
    /// The first one that it was not handed yet, since it was rewound last. Those between are on their way.
    handed_to: Sequence,
}

impl Memory {
    pub(crate) fn new(config: &MemoryConfig) -> Result<Self, OpenError> {
        let limit = config.max_size.bytes();
        if limit < LEAST_SIZE {
            return Err(OpenError::TooSmall {
                found: limit,
                least: LEAST_SIZE,
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

    pub(crate) async fn append(&self, batch: Batch) -> Result<Option<Stored>, AppendError> {
        if batch.is_empty() {
            return Ok(None);
        }
        let cost = footprint(batch.capacity());
        let _turn = self.turn.lock().await;
        if self.lock().size > CROWDED {
            yield_now().await;
        }
        // Sealing twice would number events twice, so the batch is sealed where its place is certain.
        let mut batch = Some(batch);
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Before the look at the state: what is freed in between wakes us then.
            room.as_mut().enable();
            if *self.closed.borrow() {
                return Err(AppendError::Closed);
            }
            if let Some(stored) = self.try_append(&mut batch, cost) {
                self.durable.send_replace(stored.first.get() + stored.events - 1);
                return Ok(Some(stored));
            }
            room.await;
        }
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

    /// A new reader's number and the sequence at which it begins.
    pub(crate) fn register(&self, start: Start) -> (u64, Sequence) {
        let mut state = self.lock();
        let number = state.next_reader;
        state.next_reader += 1;
        let first = match start {
            Start::End => state.next,
            Start::Oldest => state.oldest(),
        };
        let reader = Reader {
            needed: first,
            handed_to: first,
        };
        state.readers.insert(number, reader);
        (number, first)
    }

    pub(crate) fn unregister(&self, reader: u64) {
        let mut state = self.lock();
        state.readers.remove(&reader);
        self.trim(&mut state);
    }

    /// Notes that a reader needs nothing before `next` any more.
    pub(crate) fn commit(&self, reader: u64, next: Sequence) {
        let mut state = self.lock();
        if let Some(reader) = state.readers.get_mut(&reader) {
            reader.needed = next.max(reader.needed);
        }
        self.trim(&mut state);
    }

    /// What a reader is handed at its place.
    pub(crate) fn hand_out(&self, reader: u64, sequence: Sequence) -> Found {
        let mut state = self.lock();
        let found = state.find(sequence);
        if let Some(reader) = state.readers.get_mut(&reader) {
            reader.handed_to = match &found {
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
            // Whoever asks for what a full log dropped waits for all after it as well.
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
            limit_bytes: self.limit as u64,
            dropped_events: state.dropped_events,
            damaged_events: 0,
            damaged_cursors: 0,
            is_full: state.is_full,
            is_retrying: false,
            has_failed: false,
        }
    }

    fn try_append(&self, batch: &mut Option<Batch>, cost: usize) -> Option<Stored> {
        let mut state = self.lock();
        // A batch larger than the whole log goes in alone: refusing it for ever would stop the bridge.
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
        state.size += cost;
        state.batches.push_back(Held { batch: sealed, cost });
        // Nobody reads: nothing to keep.
        self.trim(&mut state);
        Some(stored)
    }

    /// Forgets what every reader has settled.
    fn trim(&self, state: &mut State) {
        let needed = state.readers.values().map(|reader| reader.needed).min();
        let needed = needed.unwrap_or(state.next);
        let before = state.batches.len();
        while state
            .batches
            .front()
            .is_some_and(|held| held.batch.end() <= needed)
        {
            state.forget(0);
        }
        if state.batches.len() != before {
            self.room.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing within the lock can panic half-way through an update.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch takes of memory, by the room of its buffer. Allocators round large pieces up, the usual ones to one of four
/// sizes for each power of two: not counted, the log would be a tenth larger than it says.
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
        self.batches.front().map_or(self.next, |held| held.batch.first())
    }

    fn find(&self, sequence: Sequence) -> Found {
        if sequence >= self.next {
            return Found::Nothing;
        }
        let index = self.batches.partition_point(|held| held.batch.end() <= sequence);
        match self.batches.get(index).map(|held| &held.batch) {
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

    /// Drops the oldest batch that is on its way to nobody: what is will be delivered most likely, and would be counted as
    /// lost. It takes its memory until it is settled in any case.
    fn drop_oldest(&mut self) {
        let is_on_its_way = |held: &Held| {
            self.readers
                .values()
                .any(|reader| reader.needed < held.batch.end() && held.batch.first() < reader.handed_to)
        };
        let oldest = self.batches.iter().position(|held| !is_on_its_way(held));
        if let Some(batch) = self.forget(oldest.unwrap_or(0)) {
            self.dropped_events += batch.events();
        }
    }

    fn forget(&mut self, index: usize) -> Option<SealedBatch> {
        let Held { batch, cost } = self.batches.remove(index)?;
        self.size -= cost;
        Some(batch)
    }
}
