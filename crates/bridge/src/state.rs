//! What the running bridge can say of itself: the one place from which `/status`, the metrics and the ledger at the end
//! are told, so that they can't disagree.

use std::{sync::Arc, time::Instant};

use neurobridge_core::{
    clock,
    dead_letter::DeadLetters,
    delivery::{Progress, ProgressSnapshot, SinkState},
    event::Sequence,
    histogram,
    ledger::{SinkCounts, SourceCounts},
};
use neurobridge_listener::{SourceSnapshot, SourceState};
use neurobridge_spool::{Spool, SpoolStatus};

use crate::{feed::SourceHandle, http::Connections, logging};

/// Handles on all parts of a running bridge.
pub(crate) struct State {
    pub(crate) started: Instant,
    pub(crate) sources: Vec<SourceHandle>,
    pub(crate) sinks: Vec<SinkHandle>,
    /// All places of dead letters outside of the sinks.
    pub(crate) dead_letters: Vec<Arc<dyn DeadLetters>>,
    pub(crate) spool: Spool,
    pub(crate) http: Arc<Connections>,
}

pub(crate) struct SinkHandle {
    pub(crate) name: String,
    /// Its type, as in the configuration.
    pub(crate) kind: &'static str,
    /// Counts for readiness.
    pub(crate) required: bool,
    pub(crate) progress: Arc<Progress>,
}

/// The bridge at a moment.
pub(crate) struct View<'a> {
    pub(crate) uptime_seconds: f64,
    pub(crate) sources: Vec<SourceView<'a>>,
    pub(crate) sinks: Vec<SinkView<'a>>,
    /// Dead letters that were not kept, because there were too many.
    pub(crate) dead_letters_not_kept: u64,
    pub(crate) spool: SpoolStatus,
    /// How long the spool's syncs took.
    pub(crate) spool_sync: histogram::Snapshot,
    /// Log lines that were not written.
    pub(crate) dropped_log_lines: u64,
    pub(crate) http: &'a Connections,
}

pub(crate) struct SourceView<'a> {
    pub(crate) handle: &'a SourceHandle,
    pub(crate) name: &'a str,
    pub(crate) snapshot: SourceSnapshot,
    pub(crate) ledger: SourceCounts,
}

pub(crate) struct SinkView<'a> {
    pub(crate) handle: &'a SinkHandle,
    pub(crate) name: &'a str,
    pub(crate) snapshot: ProgressSnapshot,
    pub(crate) ledger: SinkLedger,
    /// Age of the oldest event that is not settled; 0 without one.
    pub(crate) lag_seconds: f64,
}

/// A sink's ledger: `stored = delivered + filtered + duplicate + dead_lettered + dropped + damaged + pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SinkLedger {
    /// Stored since the sink's first sequence.
    pub(crate) stored: u64,
    pub(crate) counts: SinkCounts,
    pub(crate) pending: u64,
}

impl State {
    pub(crate) fn view(&self) -> View<'_> {
        let sources = self
            .sources
            .iter()
            .map(|handle| SourceView {
                handle,
                name: &handle.intake.name,
                snapshot: handle.stats.snapshot(),
                ledger: handle.intake.ledger.counts(),
            })
            .collect();
        // The sinks before the spool: what is settled was stored, so no event is settled and not stored here.
        let snapshots: Vec<ProgressSnapshot> =
            self.sinks.iter().map(|sink| sink.progress.snapshot()).collect();
        let spool = self.spool.status();
        let now = clock::now();
        let sinks = self
            .sinks
            .iter()
            .zip(snapshots)
            .map(|(handle, snapshot)| {
                let ledger = SinkLedger::new(&snapshot, spool.durable_sequence);
                let oldest = (ledger.pending > 0)
                    .then(|| self.spool.received_at(snapshot.cursor.next))
                    .flatten();
                let lag_seconds = oldest.map_or(0.0, |oldest| {
                    (now - oldest).total(jiff::Unit::Second).unwrap_or(0.0)
                });
                SinkView {
                    handle,
                    name: &handle.name,
                    snapshot,
                    ledger,
                    lag_seconds: lag_seconds.max(0.0),
                }
            })
            .collect();
        View {
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            sources,
            sinks,
            dead_letters_not_kept: self.dead_letters.iter().map(|place| place.not_kept()).sum(),
            spool,
            spool_sync: self.spool.sync_duration(),
            dropped_log_lines: logging::dropped_lines(),
            http: &self.http,
        }
    }
}

impl SinkLedger {
    fn new(snapshot: &ProgressSnapshot, durable_sequence: u64) -> Self {
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

impl SourceView<'_> {
    /// Whether it is connected and authorised; it is so too while the spool holds back reading.
    pub(crate) const fn is_connected(&self) -> bool {
        matches!(
            self.snapshot.state,
            SourceState::Authorised | SourceState::Blocked
        )
    }

    /// How long it has had no authorised connection: since the start of the bridge where it never had one.
    pub(crate) fn unconnected_seconds(&self, uptime_seconds: f64) -> Option<f64> {
        if self.is_connected() {
            return None;
        }
        let open_gap = self.snapshot.open_gap.map(|gap| gap.as_secs_f64());
        Some(open_gap.unwrap_or(uptime_seconds))
    }
}

impl SinkView<'_> {
    /// Whether it delivers.
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.snapshot.state, SinkState::Up | SinkState::Draining)
    }
}

impl View<'_> {
    /// For each source and each required sink that is not ready: its name and why.
    pub(crate) fn unready(&self) -> Vec<(String, String)> {
        let sources = self
            .sources
            .iter()
            .filter(|source| !source.is_connected())
            .map(|source| {
                let reason = source.snapshot.reason.clone();
                (
                    format!("sources.{}", source.name),
                    reason.unwrap_or_else(|| source.snapshot.state.to_string()),
                )
            });
        let sinks = self
            .sinks
            .iter()
            .filter(|sink| sink.handle.required && !sink.is_up())
            .map(|sink| {
                let reason = sink.snapshot.reason.clone();
                (
                    format!("sinks.{}", sink.name),
                    reason.unwrap_or_else(|| "connecting".to_owned()),
                )
            });
        sources.chain(sinks).collect()
    }
}
