//! The properties of a source from which the history is derived.

use std::time::Duration;

use jiff::Timestamp;
use neurobridge_listener::{Label, SourceState};

use crate::{
    gaps::{FILLING, UNRECOVERED},
    view::SourceView,
};

/// The properties of a source at one moment.
#[derive(Clone, Debug)]
pub(super) struct SourceFacts {
    pub(super) name: String,
    pub(super) state: SourceState,
    pub(super) reason: Option<String>,
    /// The start of the state.
    pub(super) since: Timestamp,
    /// Whether the events of gaps are fetched, or gaps reported to the sinks.
    pub(super) handles_gaps: bool,
    pub(super) first_authenticated: Option<Timestamp>,
    /// Whether the first connection continued from an event of an earlier run.
    pub(super) first_resumed: bool,
    pub(super) open_gap: Option<(Timestamp, &'static str)>,
    /// The number of gaps that have ended.
    pub(super) gaps: u64,
    /// Start, length, reason and outcome of the newest gaps, the newest first.
    pub(super) newest_gaps: Vec<(Timestamp, Duration, &'static str, &'static str)>,
    pub(super) proof_of_life: Option<Timestamp>,
    /// Whether the events after the proof of life may follow a gap that is not detected yet.
    pub(super) may_hide_gap: bool,
    pub(super) last_event: Option<String>,
    /// The number of received events.
    pub(super) received: u64,
    /// The number of received events that are not stored yet.
    pub(super) in_flight: u64,
    pub(super) dead_letters: u64,
    pub(super) newest_dead_letter: Option<&'static str>,
}

impl SourceFacts {
    /// Extracts the facts from a view. The last event of the view was read before the ledger, so that `received` counts it.
    pub(super) fn of(source: &SourceView) -> Self {
        let snapshot = &source.snapshot;
        let dead_letters = source.handle.intake.stats.newest_dead_letters();
        Self {
            name: source.name.to_string(),
            state: snapshot.state,
            reason: snapshot.reason.clone(),
            since: snapshot.since,
            handles_gaps: source.handle.handles_gaps,
            first_authenticated: snapshot.first_authenticated,
            first_resumed: snapshot.first_resumed,
            open_gap: snapshot
                .open_gap_began
                .map(|(began, reason)| (began, reason.as_str())),
            gaps: snapshot.gaps.total(),
            newest_gaps: snapshot
                .newest_gaps
                .iter()
                .map(|gap| (gap.began, gap.length, gap.reason.as_str(), gap.outcome.as_str()))
                .collect(),
            proof_of_life: snapshot.proof_of_life,
            may_hide_gap: snapshot.may_hide_gap,
            last_event: source.last_event_id.clone(),
            received: source.ledger.received,
            in_flight: source.ledger.in_flight,
            dead_letters: source.ledger.dead_lettered,
            newest_dead_letter: dead_letters.iter().next().map(|dead_letter| dead_letter.reason),
        }
    }

    /// Returns the outcome of a gap in the history from the outcome in the listener, which does not know whether events are
    /// fetched.
    pub(super) fn outcome(&self, outcome: &'static str) -> &'static str {
        if self.handles_gaps && outcome == UNRECOVERED {
            FILLING
        } else {
            outcome
        }
    }

    pub(super) const fn is_connected(&self) -> bool {
        matches!(self.state, SourceState::Authenticated | SourceState::Blocked)
    }
}
