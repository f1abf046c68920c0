//! How a sink is doing: written by its delivery, read by `/status` and the metrics.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    clock,
    dead_letter::{Newest, Notice},
    event::Sequence,
    histogram::{self, Histogram},
    reader::Cursor,
    sink::{FaultKind, RejectionReason, SinkFault},
};

/// What a sink is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Before its first connection, or on the way to the next.
    Connecting,
    /// Delivering.
    Up,
    /// Kept from delivering; the reason says by what.
    Down,
    /// Delivering what is left before the program ends.
    Draining,
}

/// Shared between a delivery and whoever wants to know.
#[derive(Debug)]
pub struct Progress {
    inner: Mutex<ProgressSnapshot>,
    latency: Histogram,
}

/// How a sink was doing at a moment.
#[derive(Clone, Debug)]
pub struct ProgressSnapshot {
    /// What it was doing.
    pub state: SinkState,
    /// Why it was down: a sentence.
    pub reason: Option<String>,
    /// Where its cursor was, and what it had settled before.
    pub cursor: Cursor,
    /// Events published and without an outcome.
    pub in_flight: u64,
    /// Events published again after a fault. Not part of the ledger.
    pub resent: u64,
    /// Clients that were replaced because they made no progress while events waited.
    pub client_replacements: u64,
    /// Faults by [`FaultKind::ALL`].
    pub faults: [u64; FaultKind::ALL.len()],
    /// Dead letters by [`RejectionReason::ALL`].
    pub dead_letters: [u64; RejectionReason::ALL.len()],
    /// The newest of them.
    pub newest_dead_letters: Newest,
    /// What a person should know although nothing is wrong now: a sentence.
    pub notice: Option<String>,
    /// Events that the destination has lost after they were acknowledged, as far as the sink has noticed.
    pub lost: u64,
    trouble: Option<Trouble>,
}

/// What keeps a connected sink from delivering, and since when.
#[derive(Clone, Debug)]
struct Trouble {
    kind: FaultKind,
    reason: String,
    since: Instant,
    /// The most events that waited meanwhile.
    waited: u64,
}

/// What a change of a sink's trouble is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Began,
    /// It is of another kind than before. The words alone may change at each look, with a time in them.
    OfKind,
    /// After so long, while which so many events waited at the most: when the end is seen, they may be delivered.
    Ended {
        lasted: Duration,
        waited: u64,
    },
}

impl Progress {
    /// A sink that begins at a cursor.
    pub fn new(cursor: Cursor) -> Self {
        let inner = ProgressSnapshot {
            state: SinkState::Connecting,
            reason: None,
            cursor,
            in_flight: 0,
            resent: 0,
            client_replacements: 0,
            faults: [0; FaultKind::ALL.len()],
            dead_letters: [0; RejectionReason::ALL.len()],
            newest_dead_letters: Newest::default(),
            notice: None,
            lost: 0,
            trouble: None,
        };
        Self {
            inner: Mutex::new(inner),
            latency: Histogram::default(),
        }
    }

    /// How it is doing now. All of it belongs together: it is read under one lock.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let mut snapshot = self.lock().clone();
        if let (Some(trouble), SinkState::Up | SinkState::Draining) = (&snapshot.trouble, snapshot.state) {
            snapshot.reason = Some(trouble.reason.clone());
            snapshot.state = SinkState::Down;
        }
        snapshot
    }

    /// Time from receipt to acknowledgement.
    pub fn latency(&self) -> histogram::Snapshot {
        self.latency.snapshot()
    }

    pub(super) fn set_state(&self, state: SinkState) {
        let mut inner = self.lock();
        match state {
            SinkState::Up | SinkState::Draining => inner.reason = None,
            // The reason for which it is not connected stays until it is.
            SinkState::Connecting if inner.reason.is_some() => return,
            SinkState::Connecting | SinkState::Down => {}
        }
        inner.state = state;
    }

    pub(super) fn set_notice(&self, notice: Option<String>) {
        self.lock().notice = notice;
    }

    pub(super) fn set_lost(&self, lost: u64) {
        self.lock().lost = lost;
    }

    /// Takes what keeps the sink from delivering, and counts it when it begins.
    pub(super) fn set_trouble(&self, trouble: Option<&SinkFault>, waiting: u64) -> Option<Change> {
        let mut inner = self.lock();
        let before = inner.trouble.take();
        let Some(fault) = trouble else {
            return before.map(|before| Change::Ended {
                lasted: before.since.elapsed(),
                waited: before.waited.max(waiting),
            });
        };
        inner.trouble = Some(Trouble {
            kind: fault.kind,
            reason: fault.reason.clone(),
            since: before.as_ref().map_or_else(Instant::now, |before| before.since),
            waited: before.as_ref().map_or(0, |before| before.waited).max(waiting),
        });
        if let Some(before) = before {
            return (before.kind != fault.kind).then_some(Change::OfKind);
        }
        inner.faults[position(&FaultKind::ALL, fault.kind)] += 1;
        Some(Change::Began)
    }

    pub(super) fn fault(&self, fault: &SinkFault) {
        let mut inner = self.lock();
        inner.state = SinkState::Down;
        inner.reason = Some(fault.reason.clone());
        inner.trouble = None;
        inner.in_flight = 0;
        inner.faults[position(&FaultKind::ALL, fault.kind)] += 1;
    }

    /// Takes the reason of a sink that is not connected yet. Counted once for each attempt.
    pub(super) fn slow_connect(&self, fault: &SinkFault, is_first: bool) {
        let mut inner = self.lock();
        inner.state = SinkState::Down;
        inner.reason = Some(fault.reason.clone());
        if is_first {
            inner.faults[position(&FaultKind::ALL, fault.kind)] += 1;
        }
    }

    pub(super) fn client_replaced(&self) {
        self.lock().client_replacements += 1;
    }

    pub(super) fn dead_letter(&self, sequence: Sequence, reason: RejectionReason) {
        let mut inner = self.lock();
        inner.dead_letters[position(&RejectionReason::ALL, reason)] += 1;
        inner.newest_dead_letters.push(Notice {
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

    /// Takes the latency of `events` that were received together and acknowledged now.
    pub(super) fn observe(&self, received_at: Timestamp, now: Timestamp, events: u64) {
        let microseconds = now.as_microsecond() - received_at.as_microsecond();
        self.latency.observe_many(microseconds as f64 / 1e6, events);
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        // Nothing within the lock can panic half-way through an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a kind stands among all of its kind. The lists are complete, a test of each says so.
fn position<T: PartialEq>(all: &[T], kind: T) -> usize {
    all.iter()
        .position(|other| *other == kind)
        .unwrap_or(all.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Sequence;

    #[test]
    fn a_trouble_is_counted_when_it_begins_and_ends_once() {
        let progress = Progress::new(Cursor::starting_at(Sequence::FIRST));
        progress.set_state(SinkState::Up);
        let away = |reason: &str| SinkFault::new(FaultKind::Unreachable, reason);
        assert_eq!(progress.set_trouble(None, 1), None);
        assert_eq!(progress.set_trouble(Some(&away("one")), 3), Some(Change::Began));
        assert_eq!(progress.set_trouble(Some(&away("another")), 7), None);
        let late = SinkFault::new(FaultKind::Timeout, "another");
        assert_eq!(progress.set_trouble(Some(&late), 5), Some(Change::OfKind));
        let snapshot = progress.snapshot();
        assert_eq!(snapshot.state, SinkState::Down);
        assert_eq!(snapshot.reason.as_deref(), Some("another"));
        assert_eq!(snapshot.faults.iter().sum::<u64>(), 1);
        let ended = progress.set_trouble(None, 1);
        assert!(matches!(ended, Some(Change::Ended { waited: 7, .. })));
        assert_eq!(progress.set_trouble(None, 1), None);
        assert_eq!(progress.snapshot().state, SinkState::Up);
    }
}
