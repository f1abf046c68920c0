//! `/status`: part of the contract. A key, once there, stays and keeps its meaning.

use std::{collections::BTreeMap, fmt::Write};

use jiff::Timestamp;
use neurobridge_core::{delivery::SinkState, ledger::SourceCounts};
use serde::Serialize;

use crate::state::{SinkLedger, SinkView, SourceView, View};

#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    version: &'static str,
    uptime_seconds: f64,
    sources: BTreeMap<&'a str, Source>,
    spool: Spool,
    sinks: BTreeMap<&'a str, Sink>,
}

#[derive(Debug, Serialize)]
struct Source {
    state: &'static str,
    reason: Option<String>,
    since: Timestamp,
    connections: u64,
    last_event: Option<Timestamp>,
    last_platform_error: Option<String>,
    /// Times without an authorised connection after the first one, and how long in all: what was sent then is missed.
    gaps: u64,
    gap_seconds: f64,
    ledger: SourceCounts,
}

#[derive(Debug, Serialize)]
struct Spool {
    #[serde(rename = "type")]
    kind: &'static str,
    oldest_sequence: u64,
    durable_sequence: u64,
    size_bytes: u64,
    limit_bytes: u64,
    is_full: bool,
    has_failed: bool,
    dropped_events: u64,
    damaged_events: u64,
}

#[derive(Debug, Serialize)]
struct Sink {
    state: SinkState,
    reason: Option<String>,
    notice: Option<String>,
    lag_events: u64,
    lag_seconds: f64,
    resent: u64,
    ledger: Ledger,
}

#[derive(Debug, Serialize)]
struct Ledger {
    stored: u64,
    delivered: u64,
    filtered: u64,
    duplicate: u64,
    dead_lettered: u64,
    dropped: u64,
    damaged: u64,
    pending: u64,
}

/// `/readyz`: who is not ready, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness<'a> {
    ready: bool,
    unready: BTreeMap<&'a str, &'a str>,
}

impl<'a> Status<'a> {
    pub(crate) fn of(view: &View<'a>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: view.uptime_seconds,
            sources: view
                .sources
                .iter()
                .map(|source| (source.name, Source::of(source)))
                .collect(),
            spool: Spool {
                kind: view.spool.kind,
                oldest_sequence: view.spool.oldest_sequence,
                durable_sequence: view.spool.durable_sequence,
                size_bytes: view.spool.size_bytes,
                limit_bytes: view.spool.limit_bytes,
                is_full: view.spool.is_full,
                has_failed: view.spool.has_failed,
                dropped_events: view.spool.dropped_events,
                damaged_events: view.spool.damaged_events,
            },
            sinks: view
                .sinks
                .iter()
                .map(|sink| (sink.name, Sink::of(sink)))
                .collect(),
        }
    }

    /// The ledger in words, a line for each source and each sink.
    pub(crate) fn ledger(&self) -> String {
        let mut text = String::new();
        for (name, source) in &self.sources {
            let SourceCounts {
                received,
                stored,
                filtered,
                duplicate,
                dead_lettered,
                in_flight,
            } = source.ledger;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "source {name}: {received} received = {stored} stored + {filtered} filtered + {duplicate} duplicate \
                 + {dead_lettered} dead-lettered + {in_flight} in flight"
            );
        }
        for (name, sink) in &self.sinks {
            let Ledger {
                stored,
                delivered,
                filtered,
                duplicate,
                dead_lettered,
                dropped,
                damaged,
                pending,
            } = sink.ledger;
            let _ = writeln!(
                text,
                "sink {name}: {stored} stored = {delivered} delivered + {filtered} filtered + {duplicate} duplicate \
                 + {dead_lettered} dead-lettered + {dropped} dropped + {damaged} damaged + {pending} pending"
            );
        }
        text
    }
}

impl Source {
    fn of(source: &SourceView<'_>) -> Self {
        let snapshot = &source.snapshot;
        Self {
            state: snapshot.state.into(),
            reason: snapshot.reason.clone(),
            since: snapshot.since,
            connections: snapshot.connections,
            last_event: snapshot.last_event,
            last_platform_error: snapshot.last_platform_error.clone(),
            gaps: snapshot.gaps.total(),
            gap_seconds: snapshot.gap_time.as_secs_f64(),
            ledger: source.ledger,
        }
    }
}

impl Sink {
    fn of(sink: &SinkView<'_>) -> Self {
        let SinkLedger {
            stored,
            counts,
            pending,
        } = sink.ledger;
        Self {
            state: sink.snapshot.state,
            reason: sink.snapshot.reason.clone(),
            notice: sink.snapshot.notice.clone(),
            lag_events: pending,
            lag_seconds: sink.lag_seconds,
            resent: sink.snapshot.resent,
            ledger: Ledger {
                stored,
                delivered: counts.delivered,
                filtered: counts.filtered,
                duplicate: counts.duplicate,
                dead_lettered: counts.dead_lettered,
                dropped: counts.dropped,
                damaged: counts.damaged,
                pending,
            },
        }
    }
}

impl<'a> Readiness<'a> {
    pub(crate) fn of(unready: &'a [(String, String)]) -> Self {
        Self {
            ready: unready.is_empty(),
            unready: unready
                .iter()
                .map(|(name, reason)| (name.as_str(), reason.as_str()))
                .collect(),
        }
    }
}
