//! The answer to the first question of all: am I losing events?

use jiff::SignedDuration;
use neurobridge_core::{clock, delivery::SinkState};
use neurobridge_listener::{GapOutcome, SourceState};
use serde::Serialize;

use crate::state::{SinkView, SourceView, View};

/// How long reading may be held back by a spool that is not full until a person should know.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);

/// Whether events are being lost, and the numbers and sentences that it rests on.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Answer {
    answer: Word,
    /// Events that a sink will never get: dropped by a full spool, or unreadable in it. For the sink that lost most.
    lost_events: u64,
    /// Time without a connection, of all sources; what the platform sent then is missed, and nobody can count it.
    missed_seconds: f64,
    /// What is not as it should be, the worst first. A sentence holds no number that changes while nothing happens.
    because: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// None was lost, and all is well.
    No,
    /// None was lost, and something has to be mended before one is.
    NotYet,
    /// Some were lost since the start, and none is at the moment.
    NotNow,
    /// Some are being lost.
    Yes,
}

/// What was found, by how bad it is.
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
                .push("The bridge is stopping: what the platform sends now is missed.".to_owned());
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
                "The spool is full: {name} is not read, and what the platform can't hold back it may throw away."
            )),
            SourceState::Blocked if view.spool.is_retrying => self.waiting.push(format!(
                "The spool waits until the system has open files or memory for it again (the log has the error): {name} is \
                 not read, and what the platform can't hold back it may throw away."
            )),
            // A busy disk holds up everybody for a moment.
            SourceState::Blocked if snapshot.since + PATIENCE > clock::now() => {}
            SourceState::Blocked => self.waiting.push(format!(
                "The disk does not keep up: {name} is not read, and what the platform can't hold back it may throw away."
            )),
            // An attempt that has not failed yet.
            SourceState::Dialling | SourceState::Authorising
                if snapshot.reason.is_none() && snapshot.connections <= 1 =>
            {
                self.waiting.push(format!("{name} is connecting."));
            }
            _ => self.losing.push(format!(
                "{name} is not connected: what the platform sends now is missed."
            )),
        }
        let gaps = snapshot.gaps.get(GapOutcome::Unrecovered);
        if gaps > 0 {
            self.lost.push(format!(
                "{name} was without a connection {}: what the platform sent meanwhile is missed.",
                times(gaps)
            ));
        }
    }

    /// How many events this sink has lost.
    fn sink(&mut self, sink: &SinkView<'_>, view: &View<'_>) -> u64 {
        let name = sink.name;
        let counts = &sink.ledger.counts;
        // Dropped, and still among what is pending: a sink counts them when it comes past the place. Asked of those that
        // stand still only: of the others the spool, which was looked at later, may have let go what they had by then.
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
                "{name} does not deliver, and the spool is full: the oldest events are dropped."
            ));
        } else if !sink.is_up() {
            self.waiting.push(match sink.snapshot.state {
                SinkState::Connecting => format!("{name} is connecting: its events wait in the spool."),
                _ => format!("{name} does not deliver: its events wait in the spool."),
            });
        }
        for (what, events) in [
            ("dropped by a full spool", counts.dropped),
            ("unreadable in the spool", counts.damaged),
        ] {
            if events > 0 {
                self.lost.push(format!("Events for {name} were {what}."));
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
