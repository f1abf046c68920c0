//! The answer to the main question of the status page: whether the bridge is losing events, and why.

use jiff::SignedDuration;
use neurobridge_cluster::JoinState;
use neurobridge_core::{clock, delivery::SinkState};
use neurobridge_listener::SourceState;
use serde::Serialize;

use crate::{
    state::View,
    view::{SinkView, SourceView},
};

/// The duration after which backpressure is reported although the spool is not full.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);

/// Whether events are being lost, with the numbers and the reasons.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Answer {
    answer: Word,
    /// The largest number of lost events of one sink: dropped by a full spool, damaged in the spool, or removed from the sink's
    /// file by another program.
    lost_events: u64,
    /// The gaps of all sources in seconds. The events that the platform sent in them are missed and cannot be counted.
    missed_seconds: f64,
    /// The reasons, the most severe first. They contain no number that changes without a change of state.
    because: Vec<String>,
}

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// No event is being lost, and everything works. Events may have been lost earlier: the numbers and the reasons show it.
    No,
    /// No event is being lost, but events will be lost if a fault is not fixed.
    AtRisk,
    /// Events are being lost.
    Yes,
}

/// Returns the answer on one line, with the most severe reason and without numbers that change without a change of state.
pub(crate) fn summary(view: &View<'_>) -> String {
    let Answer { answer, because, .. } = Answer::of(view);
    let word = match answer {
        Word::No => "no",
        Word::AtRisk => "at risk",
        Word::Yes => "yes",
    };
    let connected = view.sources.iter().filter(|source| source.is_connected()).count();
    let standby = view.sources.iter().filter(|source| source.stands_by()).count();
    let up = view.sinks.iter().filter(|sink| sink.is_up()).count();
    let mut text = format!(
        "losing events: {word}; {connected} of {} sources connected, {}{up} of {} sinks up",
        view.sources.len(),
        if standby > 0 {
            format!("{standby} in standby, ")
        } else {
            String::new()
        },
        view.sinks.len()
    );
    if let Some(reason) = because.first() {
        text.push_str("; ");
        text.push_str(reason);
    }
    text
}

/// The reasons, by severity.
#[derive(Default)]
struct Findings {
    /// Why events are being lost.
    losing: Vec<String>,
    /// Faults and conditions because of which events wait.
    waiting: Vec<String>,
    /// Earlier losses.
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
        found.sources(view);
        let lost = view.sinks.iter().map(|sink| found.sink(sink, view)).max();
        let answer = match &found {
            Findings { losing, .. } if !losing.is_empty() => Word::Yes,
            Findings { waiting, .. } if !waiting.is_empty() => Word::AtRisk,
            _ => Word::No,
        };
        let missed = view.sources.iter().map(|source| {
            source.gaps.lost.seconds + source.unconnected_seconds(view.uptime_seconds).unwrap_or(0.0)
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
    /// Adds the reasons of all sources. Sources with the same fault share a sentence, because a bridge may have a hundred.
    fn sources(&mut self, view: &View<'_>) {
        let in_state = |state: fn(&SourceView, &View<'_>) -> bool| -> Vec<&str> {
            let sources = view.sources.iter().filter(|source| state(source, view));
            sources.map(|source| &*source.name).collect()
        };
        if let Some((names, are)) = subject(&in_state(is_unconnected)) {
            self.losing.push(format!(
                "{names} {are} not connected: events that the platform sends now are missed."
            ));
        }
        if view.sources.iter().any(SourceView::stands_by) {
            let cluster = view.cluster.as_ref();
            if cluster.is_some_and(|cluster| cluster.join_state == JoinState::Joining) {
                self.waiting.push("The bridge is joining its cluster.".to_owned());
            } else if cluster.is_some_and(|cluster| !cluster.has_leader()) {
                self.losing.push(
                    "No member of the cluster leads, so none is connected: events that the platform sends now are missed."
                        .to_owned(),
                );
            }
        }
        if let Some((names, are)) = subject(&in_state(is_starting)) {
            self.waiting.push(format!("{names} {are} connecting."));
        }
        if let Some((names, are)) = subject(&in_state(is_blocked)) {
            let cause = match &view.spool {
                spool if spool.is_disk_full => "The disk is full",
                spool if spool.is_full => "The spool is full",
                spool if spool.is_retrying => {
                    "The spool waits until the system has open files or memory for it again (the log has the error)"
                }
                _ => "The disk does not keep up",
            };
            self.waiting.push(format!(
                "{cause}: {names} {are} not read, and the platform may discard events that it cannot queue."
            ));
        }
        for source in &view.sources {
            // Without the gaps whose events were fetched or are being fetched.
            let gaps = source.gaps.lost.gaps;
            if gaps > 0 {
                self.lost.push(format!(
                    "{} was without a connection {}: events that the platform sent meanwhile are missed.",
                    source.name,
                    times(gaps)
                ));
            }
        }
    }

    /// Adds the reasons of a sink. Returns the number of events that this sink has lost.
    fn sink(&mut self, sink: &SinkView, view: &View<'_>) -> u64 {
        let name = &*sink.name;
        let counts = &sink.ledger.counts;
        // Events that the spool has dropped and that still count as pending: the sink counts them as dropped when its
        // cursor passes them. Computed for sinks that are down only: the snapshot of the spool is later than that of the
        // sinks, so a working sink may have delivered the events that the spool has dropped since.
        let undelivered = if sink.is_up() || view.spool.dropped_events == 0 {
            0
        } else {
            let undelivered = view
                .spool
                .oldest_sequence
                .saturating_sub(sink.snapshot.cursor.next.get());
            undelivered.min(sink.ledger.pending)
        };
        if undelivered > 0 {
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
        if let Some(text) = &sink.snapshot.recreations.last {
            self.lost.push(format!("{name}: {text}."));
        }
        let changes = &sink.snapshot.file_changes;
        if let Some(text) = changes.last.as_ref().filter(|_| changes.lost > 0) {
            self.lost.push(format!("{name}: {text}."));
        }
        counts.dropped + counts.damaged + undelivered + changes.lost
    }
}

/// Returns whether this is the first connection attempt, which has not failed yet.
fn is_starting(source: &SourceView, _: &View<'_>) -> bool {
    let snapshot = &source.snapshot;
    matches!(snapshot.state, SourceState::Dialling | SourceState::Opening)
        && snapshot.reason.is_none()
        && snapshot.connections <= 1
}

fn is_unconnected(source: &SourceView, view: &View<'_>) -> bool {
    !source.is_connected() && !source.stands_by() && !is_starting(source, view)
}

/// Returns whether a source is not read. Short backpressure is normal on a busy disk.
fn is_blocked(source: &SourceView, view: &View<'_>) -> bool {
    let is_stuck = view.spool.is_full || view.spool.is_retrying;
    source.snapshot.state == SourceState::Blocked
        && (is_stuck || source.snapshot.since + PATIENCE <= clock::now())
}

/// Returns the subject of a sentence and its verb: at most three names, otherwise their number. `None` without any.
fn subject(names: &[&str]) -> Option<(String, &'static str)> {
    match names {
        [] => None,
        [name] => Some(((*name).to_owned(), "is")),
        [first, second] => Some((format!("{first} and {second}"), "are")),
        [first, second, third] => Some((format!("{first}, {second} and {third}"), "are")),
        _ => Some((format!("{} sources", names.len()), "are")),
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_three_sources_are_counted_instead_of_named() {
        let all = ["a", "b", "c", "d"];
        let subjects: Vec<_> = (0..=4)
            .map(|count| subject(&all[..count]).map(|(names, are)| format!("{names} {are}")))
            .collect();
        let expected = [
            None,
            Some("a is"),
            Some("a and b are"),
            Some("a, b and c are"),
            Some("4 sources are"),
        ];
        assert_eq!(subjects, expected.map(|text| text.map(str::to_owned)));
    }
}
