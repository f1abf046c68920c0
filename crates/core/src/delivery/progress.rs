//! The progress of a sink: written by its delivery, read by `/status` and the metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    clock,
    connect::ConnectStep,
    dead_letter::{DeadLetterSummary, RecentDeadLetters},
    event::Sequence,
    histogram::{self, Histogram},
    reader::Cursor,
    sink::{ClientGauges, FaultKind, RejectionReason},
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

/// A snapshot of the progress.
#[derive(Clone, Debug)]
pub struct ProgressSnapshot {
    /// The state.
    pub state: SinkState,
    /// The reason for which the sink is down.
    pub reason: Option<String>,
    /// The time of the last change of the state. Attempts and reasons in between change nothing, so that the length of an
    /// outage can be read here.
    pub since: Timestamp,
    /// Whether the sink has stopped until a restart, after a final fault.
    pub is_stopped: bool,
    /// The cursor, with the counts of the events before it.
    pub cursor: Cursor,
    /// The number of events published without an outcome.
    pub in_flight: u64,
    /// The number of events published again after a fault. Not part of the ledger.
    pub resent: u64,
    /// The number of clients replaced because they made no progress while events waited.
    pub client_replacements: u64,
    /// Faults by [`FaultKind::ALL`].
    pub faults: [u64; FaultKind::ALL.len()],
    /// Connection attempts that failed, or were not connected after some seconds, by [`ConnectStep::ALL`].
    pub connect_failures: [u64; ConnectStep::ALL.len()],
    /// Dead letters by [`RejectionReason::ALL`].
    pub dead_letters: [u64; RejectionReason::ALL.len()],
    /// The most recent dead letters.
    pub newest_dead_letters: RecentDeadLetters,
    /// Advice to the operator of a sink that works.
    pub notice: Option<String>,
    /// The number of events that the destination has lost after their acknowledgement, as far as the sink has detected it.
    pub lost: u64,
    /// The last measurements of the client library.
    pub client: ClientGauges,
}

impl Progress {
    /// Creates the progress of a sink that starts at a cursor.
    pub fn new(cursor: Cursor) -> Self {
        let inner = ProgressSnapshot {
            state: SinkState::Connecting,
            reason: None,
            since: clock::now(),
            is_stopped: false,
            cursor,
            in_flight: 0,
            resent: 0,
            client_replacements: 0,
            faults: [0; FaultKind::ALL.len()],
            connect_failures: [0; ConnectStep::ALL.len()],
            dead_letters: [0; RejectionReason::ALL.len()],
            newest_dead_letters: RecentDeadLetters::default(),
            notice: None,
            lost: 0,
            client: ClientGauges::default(),
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

    /// Sets the state, with the reason for which the sink is down.
    pub(super) fn set_health(&self, state: SinkState, reason: Option<&str>) {
        let mut inner = self.lock();
        if inner.state != state {
            inner.since = clock::now();
        }
        inner.state = state;
        inner.reason = reason.map(str::to_owned);
    }

    /// Notes that the sink has stopped until a restart.
    pub(super) fn set_stopped(&self) {
        self.lock().is_stopped = true;
    }

    pub(super) fn count_fault(&self, kind: FaultKind) {
        self.lock().faults[position(&FaultKind::ALL, kind)] += 1;
    }

    pub(super) fn count_connect_failure(&self, step: ConnectStep) {
        self.lock().connect_failures[position(&ConnectStep::ALL, step)] += 1;
    }

    /// Records that nothing is in flight.
    pub(super) fn set_disconnected(&self) {
        self.lock().in_flight = 0;
    }

    pub(super) fn set_status(&self, notice: Option<String>, lost: u64, client: ClientGauges) {
        let mut inner = self.lock();
        inner.notice = notice;
        inner.lost = lost;
        inner.client = client;
    }

    pub(super) fn client_replaced(&self) {
        self.lock().client_replacements += 1;
    }

    /// Returns the dead letters by [`RejectionReason::ALL`].
    pub(super) fn dead_letters(&self) -> [u64; RejectionReason::ALL.len()] {
        self.lock().dead_letters
    }

    pub(super) fn dead_letter(&self, sequence: Sequence, reason: RejectionReason) {
        let mut inner = self.lock();
        inner.dead_letters[position(&RejectionReason::ALL, reason)] += 1;
        inner.newest_dead_letters.push(DeadLetterSummary {
            at: clock::now(),
            reason: reason.label(),
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

    /// Records the latency of `events` with the same time of receipt that were acknowledged at `now`.
    pub(super) fn observe(&self, received_at: Timestamp, now: Timestamp, events: u64) {
        let microseconds = now.as_microsecond() - received_at.as_microsecond();
        self.latency.observe_many(microseconds as f64 / 1e6, events);
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        // No code under this lock can panic in the middle of an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the index of a value in the list of all values. A test of each list verifies that it is complete.
fn position<T: PartialEq>(all: &[T], kind: T) -> usize {
    all.iter()
        .position(|other| *other == kind)
        .unwrap_or(all.len() - 1)
}
