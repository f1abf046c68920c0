//! The state of the running bridge: the common source of `/status`, the metrics and the final ledger, so that they
//! cannot disagree.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use neurobridge_core::{
    clock,
    delivery::{ProgressSnapshot, SinkState},
    event::Sequence,
    histogram,
    ledger::{SinkCounts, SourceCounts},
};
use neurobridge_listener::{SourceSnapshot, SourceState};
use neurobridge_spool::{Spool, SpoolStatus};
use tracing::info;

use crate::{
    cluster::{Cluster, ClusterView},
    gaps::{SourceGaps, UNRECOVERED},
    history::{History, HistoryView},
    http::Connections,
    logging,
    parts::{Parts, SinkHandle, SourceHandle},
    reload::{Configuration, ConfigurationView},
    workers,
};

/// Handles on all parts of a running bridge.
pub(crate) struct State {
    pub(crate) started: Instant,
    /// The name of this bridge among others: the host and the port of its HTTP server.
    pub(crate) instance: String,
    pub(crate) parts: Arc<Parts>,
    pub(crate) spool: Spool,
    pub(crate) http: Arc<Connections>,
    pub(crate) history: History,
    pub(crate) configuration: Configuration,
    /// `None` for a bridge outside of a cluster.
    pub(crate) cluster: Option<Cluster>,
}

/// A snapshot of the state.
pub(crate) struct View<'a> {
    pub(crate) instance: &'a str,
    pub(crate) uptime_seconds: f64,
    pub(crate) sources: Vec<SourceView>,
    pub(crate) sinks: Vec<SinkView>,
    /// Dead letters that were not stored because a limit was exceeded.
    pub(crate) dead_letters_not_kept: u64,
    pub(crate) spool: SpoolStatus,
    /// The durations of the spool's syncs.
    pub(crate) spool_sync: histogram::Snapshot,
    /// Log lines that were not written.
    pub(crate) dropped_log_lines: u64,
    /// Worker threads that run tasks.
    pub(crate) active_workers: usize,
    pub(crate) http: &'a Connections,
    pub(crate) history: HistoryView,
    pub(crate) configuration: ConfigurationView,
    pub(crate) cluster: Option<ClusterView>,
}

pub(crate) struct SourceView {
    pub(crate) handle: Arc<SourceHandle>,
    pub(crate) name: Arc<str>,
    pub(crate) snapshot: SourceSnapshot,
    pub(crate) ledger: SourceCounts,
    /// The id of the last event that was received before the snapshot.
    pub(crate) last_event_id: Option<String>,
    pub(crate) gaps: SourceGaps,
}

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

impl State {
    pub(crate) fn view(&self) -> View<'_> {
        for source in self.parts.take_gone() {
            let name = &source.intake.name;
            info!(source = &**name, ledger = ?source.intake.ledger.counts(), "source removed");
            for gap in self.history.filling(name) {
                let text = "the source was removed before the missed events were fetched";
                self.history.filled(&gap, UNRECOVERED, 0, text);
            }
            self.history.remove_source(name);
        }
        let mut sources: Vec<SourceView> = self
            .parts
            .sources()
            .into_iter()
            .map(|handle| {
                // In this order: the event and the proof of life are then among what the ledger counts.
                let last_event_id = handle.intake.stats.last_event_id();
                let snapshot = handle.stats.snapshot();
                SourceView {
                    name: Arc::clone(&handle.intake.name),
                    snapshot,
                    ledger: handle.intake.ledger.counts(),
                    handle,
                    last_event_id,
                    gaps: SourceGaps::default(),
                }
            })
            .collect();
        // The sinks before the spool: then every event settled in this snapshot is also stored in it.
        let handles = self.parts.sinks();
        let snapshots: Vec<ProgressSnapshot> = handles.iter().map(|sink| sink.progress.snapshot()).collect();
        let spool = self.spool.status();
        let now = clock::now();
        let sinks: Vec<SinkView> = handles
            .into_iter()
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
                    name: Arc::clone(&handle.name),
                    handle,
                    snapshot,
                    ledger,
                    lag_seconds: lag_seconds.max(0.0),
                }
            })
            .collect();
        let history = self.history.observe(&mut sources, &sinks, &spool);
        View {
            instance: &self.instance,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            sources,
            sinks,
            dead_letters_not_kept: self.parts.dead_letters_not_kept(),
            spool,
            spool_sync: self.spool.sync_duration(),
            dropped_log_lines: logging::dropped_lines(),
            active_workers: workers::active(),
            http: &self.http,
            history,
            configuration: self.configuration.view(),
            cluster: self.cluster.as_ref().map(Cluster::view),
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

impl View<'_> {
    /// Returns the name and the reason of each source and each required sink that is not ready. A source that stands by is ready.
    pub(crate) fn unready(&self) -> Vec<(String, String)> {
        let sources = self
            .sources
            .iter()
            .filter(|source| !source.is_connected() && !source.stands_by())
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
        let cluster = self.cluster.as_ref().and_then(ClusterView::unready);
        let cluster = cluster.map(|reason| ("cluster".to_owned(), reason));
        sources.chain(sinks).chain(cluster).collect()
    }
}
