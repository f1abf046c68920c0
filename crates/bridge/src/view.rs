//! The views of a source and of a sink: their properties at one moment.

use std::sync::Arc;

use jiff::Timestamp;
use neurobridge_core::{
    delivery::{ProgressSnapshot, SinkState},
    event::Sequence,
    ledger::{SinkCounts, SourceCounts},
};
use neurobridge_listener::{SourceSnapshot, SourceState};

use crate::{
    gaps::SourceGaps,
    parts::{SinkHandle, SourceHandle},
};

/// The view of a source.
pub(crate) struct SourceView {
    pub(crate) handle: Arc<SourceHandle>,
    pub(crate) name: Arc<str>,
    pub(crate) snapshot: SourceSnapshot,
    pub(crate) ledger: SourceCounts,
    /// The id of the last event that was received before the snapshot.
    pub(crate) last_event_id: Option<String>,
    pub(crate) gaps: SourceGaps,
}

/// The view of a sink.
pub(crate) struct SinkView {
    pub(crate) handle: Arc<SinkHandle>,
    pub(crate) name: Arc<str>,
    pub(crate) snapshot: ProgressSnapshot,
    pub(crate) ledger: SinkLedger,
    /// The age of the oldest pending event; 0 without one.
    pub(crate) lag_seconds: f64,
}

/// A sink's ledger: `stored = delivered + filtered + duplicate + dead_lettered + dropped + damaged + pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SinkLedger {
    /// Events stored since the sink's first sequence.
    pub(crate) stored: u64,
    pub(crate) counts: SinkCounts,
    pub(crate) pending: u64,
}

impl SinkLedger {
    /// Returns the ledger of a sink from its progress and the sequence of the last durable event.
    pub(crate) fn new(snapshot: &ProgressSnapshot, durable_sequence: u64) -> Self {
        let end = Sequence::FIRST.plus(durable_sequence);
        let stored = end.since(snapshot.cursor.first);
        let counts = snapshot.cursor.counts;
        Self {
            stored,
            counts,
            pending: stored.saturating_sub(counts.settled()),
        }
    }
}

impl SourceView {
    /// Returns whether the source has an authenticated connection, also while the spool blocks reading.
    pub(crate) const fn is_connected(&self) -> bool {
        matches!(
            self.snapshot.state,
            SourceState::Authenticated | SourceState::Blocked
        )
    }

    /// Returns whether the source does not connect, because another member of the cluster leads.
    pub(crate) const fn stands_by(&self) -> bool {
        matches!(self.snapshot.state, SourceState::Standby)
    }

    /// Returns the time since which the source is connected without a gap; `None` without a connection.
    pub(crate) fn connected_since(&self) -> Option<Timestamp> {
        if !self.is_connected() || self.gaps.open_seconds.is_some() {
            return None;
        }
        let newest = self.gaps.newest.first().and_then(|gap| gap.ended);
        newest.max(self.snapshot.first_authenticated)
    }

    /// Returns the time without an authenticated connection, counted from the start of the bridge if there never was one. `None` for a
    /// source that stands by.
    pub(crate) fn unconnected_seconds(&self, uptime_seconds: f64) -> Option<f64> {
        if self.is_connected() || self.stands_by() {
            return None;
        }
        Some(self.gaps.open_seconds.unwrap_or(uptime_seconds))
    }

    /// Returns the duration of the gaps since the start, with the open one.
    pub(crate) fn gap_seconds(&self) -> f64 {
        self.gaps.ended.seconds + self.gaps.open_seconds.unwrap_or(0.0)
    }
}

impl SinkView {
    /// Returns whether the sink delivers events.
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.snapshot.state, SinkState::Up | SinkState::Draining)
    }
}
