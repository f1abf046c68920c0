//! The progress of a sink: written by its delivery, read by `/status` and the metrics.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    clock,
    connect::{ConnectStep, StepCounts},
    copies::CopyCounts,
    dead_letter::{DeadLetterSummary, RecentDeadLetters},
    event::Sequence,
    histogram::{self, Histogram},
    labels::Label,
    reader::Cursor,
    recreation::{FileChanges, Recreations},
    sink::{ClientGauges, FaultCounts, FaultKind, RejectionCounts, RejectionReason, SinkFault},
};

/// The state of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Before the first connection.
    Connecting,
    /// Delivering.
    Up,
    /// Unable to publish; [`ProgressSnapshot::reason`] has the reason.
    Down,
    /// Delivering the remaining events before the program ends.
    Draining,
}

/// The progress, shared between a delivery and its observers.
#[derive(Debug)]
pub struct Progress {
    inner: Mutex<ProgressSnapshot>,
    latency: Histogram,
}

/// A change of the state of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// The time of the change.
    pub at: Timestamp,
    /// The new state.
    pub state: SinkState,
    /// The kind of the fault for which the sink is down.
    pub kind: Option<FaultKind>,
    /// The reason for which the sink is down.
    pub reason: Option<String>,
}

/// The last changes of the state of a sink, so that an observer misses none between two snapshots.
#[derive(Clone, Debug, Default)]
pub struct HealthChanges {
    /// The number of changes so far.
    total: u64,
    newest: VecDeque<HealthChange>,
}

impl HealthChanges {
    /// The number of changes that are kept: more than can occur between two snapshots, because each reconnection takes time.
    const KEPT: usize = 8;

    /// Returns the number of changes so far.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Returns the changes after the first `seen` ones, the oldest first, as far as they are kept.
    pub fn after(&self, seen: u64) -> impl Iterator<Item = &HealthChange> {
        let new = usize::try_from(self.total.saturating_sub(seen)).unwrap_or(usize::MAX);
        self.newest.iter().skip(self.newest.len().saturating_sub(new))
    }

    fn push(&mut self, change: HealthChange) {
        if self.newest.len() == Self::KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(change);
        self.total += 1;
    }
}

/// A snapshot of the progress.
#[derive(Clone, Debug)]
pub struct ProgressSnapshot {
    /// The state.
    pub state: SinkState,
    /// The reason for which the sink is down.
    pub reason: Option<String>,
    /// The time of the last change of the state. Further failed attempts, or new reasons for the same state, do not change this
    /// time, so that the length of an outage can be calculated from it.
    pub since: Timestamp,
    /// The last changes of the state.
    pub changes: HealthChanges,
    /// Whether the sink has stopped until a restart of the bridge, after a final fault.
    pub is_stopped: bool,
    /// The cursor, with the counts of the events before it.
    pub cursor: Cursor,
    /// The number of events published without an outcome.
    pub in_flight: u64,
    /// The number of events published again after a fault. Not part of the ledger.
    pub resent: u64,
    /// The number of clients replaced because they made no progress while events waited.
    pub client_replacements: u64,
    /// The number of faults, by kind.
    pub faults: FaultCounts,
    /// The number of connection attempts that failed, or were not connected after some seconds, by step.
    pub connect_failures: StepCounts,
    /// The number of dead letters, by reason.
    pub dead_letters: RejectionCounts,
    /// The most recent dead letters.
    pub newest_dead_letters: RecentDeadLetters,
    /// Advice to the operator, while the sink works.
    pub notice: Option<String>,
    /// The changes that other programs made to the files of the sink, as far as the sink has detected them.
    pub file_changes: FileChanges,
    /// The destinations that were removed and recreated, as far as the sink has detected it.
    pub recreations: Recreations,
    /// The last measurements of the client library.
    pub client: ClientGauges,
    /// For a member of a cluster, the counts of possible duplicates and of discarded messages.
    pub copies: CopyCounts,
}

impl Progress {
    /// Creates the progress of a sink that starts at a cursor.
    pub fn new(cursor: Cursor) -> Self {
        let inner = ProgressSnapshot {
            state: SinkState::Connecting,
            reason: None,
            since: clock::now(),
            changes: HealthChanges::default(),
            is_stopped: false,
            cursor,
            in_flight: 0,
            resent: 0,
            client_replacements: 0,
            faults: FaultCounts::default(),
            connect_failures: StepCounts::default(),
            dead_letters: RejectionCounts::default(),
            newest_dead_letters: RecentDeadLetters::default(),
            notice: None,
            file_changes: FileChanges::default(),
            recreations: Recreations::default(),
            client: ClientGauges::default(),
            copies: CopyCounts::default(),
        };
        Self {
            inner: Mutex::new(inner),
            latency: Histogram::default(),
        }
    }

    /// Returns a consistent snapshot, taken under one lock.
    pub fn snapshot(&self) -> ProgressSnapshot {
        self.lock().clone()
    }

    /// Returns the latencies from receipt to acknowledgement.
    pub fn latency(&self) -> histogram::Snapshot {
        self.latency.snapshot()
    }

    /// Sets the state, with the fault for which the sink is down.
    pub(super) fn set_health(&self, state: SinkState, fault: Option<&SinkFault>) {
        let mut inner = self.lock();
        let reason = fault.map(|fault| fault.reason.clone());
        if inner.state != state {
            inner.since = clock::now();
            let change = HealthChange {
                at: inner.since,
                state,
                kind: fault.map(|fault| fault.kind),
                reason: reason.clone(),
            };
            inner.changes.push(change);
        }
        inner.state = state;
        inner.reason = reason;
    }

    /// Records that the sink has stopped until a restart of the bridge.
    pub(super) fn set_stopped(&self) {
        self.lock().is_stopped = true;
    }

    pub(super) fn count_fault(&self, kind: FaultKind) {
        self.lock().faults.add(kind, 1);
    }

    pub(super) fn count_connect_failure(&self, step: ConnectStep) {
        self.lock().connect_failures.add(step, 1);
    }

    /// Records that nothing is in flight.
    pub(super) fn set_disconnected(&self) {
        self.lock().in_flight = 0;
    }

    pub(super) fn set_status(&self, notice: Option<String>, client: ClientGauges) {
        let mut inner = self.lock();
        inner.notice = notice;
        inner.client = client;
    }

    pub(super) fn set_copies(&self, counts: CopyCounts) {
        let mut inner = self.lock();
        inner.copies = inner.copies.max(counts);
    }

    pub(super) fn set_destination(&self, recreations: Recreations, file_changes: FileChanges) {
        let mut inner = self.lock();
        inner.recreations = recreations;
        inner.file_changes = file_changes;
    }

    pub(super) fn client_replaced(&self) {
        self.lock().client_replacements += 1;
    }

    /// Returns the number of dead letters, by reason.
    pub(super) fn dead_letters(&self) -> RejectionCounts {
        self.lock().dead_letters
    }

    pub(super) fn dead_letter(&self, sequence: Sequence, reason: RejectionReason) {
        let mut inner = self.lock();
        inner.dead_letters.add(reason, 1);
        inner.newest_dead_letters.push(DeadLetterSummary {
            at: clock::now(),
            reason: reason.as_str(),
            sequence: Some(sequence),
        });
    }

    pub(super) fn set_in_flight(&self, in_flight: u64, resent: u64) {
        let mut inner = self.lock();
        inner.in_flight = in_flight;
        inner.resent = resent;
    }

    pub(super) fn set_cursor(&self, cursor: &Cursor) {
        self.lock().cursor.clone_from(cursor);
    }

    /// Records the latency of a number of `events` that were received at the same time and acknowledged at `now`.
    pub(super) fn observe(&self, received_at: Timestamp, now: Timestamp, events: u64) {
        let microseconds = now.as_microsecond() - received_at.as_microsecond();
        self.latency.observe_many(microseconds as f64 / 1e6, events);
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        // No code under this lock can panic in the middle of an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
