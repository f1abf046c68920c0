//! The state of the running bridge: the common source of `/status`, the metrics and the final ledger, so that they
//! cannot disagree.

use std::{sync::Arc, time::Instant};

use neurobridge_core::{clock, delivery::ProgressSnapshot, histogram};
use neurobridge_spool::{Spool, SpoolStatus};
use tracing::info;

use crate::{
    cluster::{Cluster, ClusterView},
    gaps::{SourceGaps, UNRECOVERED},
    history::{History, HistorySource, HistoryView},
    http_connections::Connections,
    logging,
    parts::Parts,
    reload::{Configuration, ConfigurationView},
    view::{SinkLedger, SinkView, SourceView},
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
    pub(crate) discarded_dead_letters: u64,
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

impl State {
    /// Takes a snapshot, and updates the history with it. Removes the sources that have ended and whose events are stored.
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
                // Read in this order: the ledger then counts the last event, and all events received before the proof of life
                // in the snapshot.
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
        // The sinks are read before the spool, so that each event that is settled in this view is also stored in it.
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
            discarded_dead_letters: self.parts.discarded_dead_letters(),
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

impl HistorySource for State {
    fn observe(&self) {
        drop(self.view());
    }

    fn history(&self) -> &History {
        &self.history
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
