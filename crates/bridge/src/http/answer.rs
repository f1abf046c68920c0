//! The loss verdict of the status page: whether the bridge is losing events, and why.

use jiff::SignedDuration;
use neurobridge_core::{clock, delivery::SinkState};
use neurobridge_listener::{GapOutcome, SourceState};
use serde::Serialize;

use crate::state::{SinkView, SourceView, View};

/// The duration of backpressure from a spool that is not full after which it is reported.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);

/// Whether events are being lost, with the numbers and the reasons.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Answer {
    answer: Word,
    /// Events that a sink never receives: dropped by a full spool, or damaged. The largest number of all sinks.
    lost_events: u64,
    /// The gaps of all sources in seconds. The events that the platform sent in them are missed and cannot be counted.
    missed_seconds: f64,
    /// The reasons, the most severe first. They contain no number that changes while nothing happens.
    because: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// No event was lost, and everything works.
    No,
    /// No event was lost so far, but a fault has to be fixed before one is.
    NotYet,
    /// Events were lost since the start, but none at the moment.
    NotNow,
    /// Events are being lost.
    Yes,
}

/// The reasons, by severity.
#[derive(Default)]
struct Findings {
    losing: Vec<String>,
    waiting: Vec<String>,
    lost: Vec<String>,
}

impl Answer {
    pub(super) fn of(view: &View<'_>) -> Self {
        let mut found = Findings::default();
        if view.spool.has_failed {
            found
                .losing
                .push("The disk has refused a write: nothing more is stored.".to_owned());
        }
        if view
            .sinks
            .iter()
            .any(|sink| sink.snapshot.state == SinkState::Draining)
        {
            found
                .losing
                .push("The bridge is stopping: events that the platform sends now are missed.".to_owned());
        }
        for source in &view.sources {
            found.source(source, view);
        }
        let lost = view.sinks.iter().map(|sink| found.sink(sink, view)).max();
        let answer = match &found {
            Findings { losing, .. } if !losing.is_empty() => Word::Yes,
            Findings { lost, .. } if !lost.is_empty() => Word::NotNow,
            Findings { waiting, .. } if !waiting.is_empty() => Word::NotYet,
            _ => Word::No,
        };
        let missed = view.sources.iter().map(|source| {
            let never = source.snapshot.open_gap.is_none();
            let unconnected = source.unconnected_seconds(view.uptime_seconds).filter(|_| never);
            source.snapshot.gap_time.as_secs_f64() + unconnected.unwrap_or(0.0)
        });
        Self {
            answer,
            lost_events: lost.unwrap_or(0),
            missed_seconds: missed.sum(),
            because: [found.losing, found.waiting, found.lost].concat(),
        }
    }
}

impl Findings {
    fn source(&mut self, source: &SourceView<'_>, view: &View<'_>) {
        let name = source.name;
        let snapshot = &source.snapshot;
        match snapshot.state {
            SourceState::Authorised => {}
            SourceState::Blocked if view.spool.is_full => self.waiting.push(format!(
                "The spool is full: {name} is not read, and the platform may discard events that it cannot queue."
            )),
            SourceState::Blocked if view.spool.is_retrying => self.waiting.push(format!(
                "The spool waits until the system has open files or memory for it again (the log has the error): {name} is \
                 not read, and the platform may discard events that it cannot queue."
            )),
            // Short backpressure is normal on a busy disk.
            SourceState::Blocked if snapshot.since + PATIENCE > clock::now() => {}
            SourceState::Blocked => self.waiting.push(format!(
                "The disk does not keep up: {name} is not read, and the platform may discard events that it cannot queue."
            )),
            // The first connection attempt, which has not failed yet.
            SourceState::Dialling | SourceState::Authorising
                if snapshot.reason.is_none() && snapshot.connections <= 1 =>
            {
                self.waiting.push(format!("{name} is connecting."));
            }
            _ => self.losing.push(format!(
                "{name} is not connected: events that the platform sends now are missed."
            )),
        }
        let gaps = snapshot.gaps.get(GapOutcome::Unrecovered);
        if gaps > 0 {
            self.lost.push(format!(
                "{name} was without a connection {}: events that the platform sent meanwhile are missed.",
                times(gaps)
            ));
        }
    }

    /// Returns the number of events that this sink has lost.
    fn sink(&mut self, sink: &SinkView<'_>, view: &View<'_>) -> u64 {
        let name = sink.name;
        let counts = &sink.ledger.counts;
        // Events that the spool has dropped and that still count as pending: the sink counts them as dropped when its
        // cursor passes them. Computed for sinks that are down only: the snapshot of the spool is later than that of the
        // sinks, so a working sink may have delivered the events that the spool has dropped since.
        let behind = if sink.is_up() || view.spool.dropped_events == 0 {
            0
        } else {
            let behind = view
                .spool
                .oldest_sequence
                .saturating_sub(sink.snapshot.cursor.next.get());
            behind.min(sink.ledger.pending)
        };
        if behind > 0 {
            self.losing.push(format!(
                "{name} delivers no events, and the spool is full: the oldest events are dropped."
            ));
        } else if !sink.is_up() {
            self.waiting.push(match sink.snapshot.state {
                SinkState::Connecting => format!("{name} is connecting: its events wait in the spool."),
                _ => format!("{name} delivers no events: they wait in the spool."),
            });
        }
        for (reason, events) in [
            ("dropped by a full spool", counts.dropped),
            ("unreadable in the spool", counts.damaged),
        ] {
            if events > 0 {
                self.lost.push(format!("Events for {name} were {reason}."));
            }
        }
        counts.dropped + counts.damaged + behind
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}
