//! Gaps: records their start and end, counts them, and stores the most recent ones.

use std::time::Duration;

use jiff::Timestamp;
use neurobridge_core::clock;
use tokio::time::Instant;

use super::{
    ConnectionOutcome, DisconnectReason, GapOutcome, Inner, SourceState, SourceStats, coverage::Hidden,
};

/// The number of recent gaps that are stored for display.
const GAPS_KEPT: usize = 8;

/// A gap that has ended: a time without an authenticated connection to the feed, or with dead ones only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The time at which the connection was lost.
    pub began: Timestamp,
    /// The time until the next connection was authenticated.
    pub length: Duration,
    /// Why the connection before the gap ended.
    pub reason: DisconnectReason,
    /// Whether the events of the gap were missed.
    pub outcome: GapOutcome,
}

/// The result of recording an authentication.
#[derive(Debug)]
pub(crate) struct Authenticated {
    /// The time of the authentication.
    pub(crate) at: Instant,
    /// The duration of the gap that ended, if there was one.
    pub(crate) gap: Option<Duration>,
    /// Whether this is the only authenticated connection of the source.
    pub(crate) is_only: bool,
}

/// The period of an authenticated connection that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WasAuthenticated {
    /// The time of the authentication.
    pub(crate) since: Instant,
    /// The time of the last byte that was read.
    pub(crate) last_read: Instant,
}

/// Gaps that a dead connection has hidden, because it counted as authenticated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HiddenGap {
    /// The total duration of the gaps.
    pub(crate) length: Duration,
    /// `Unrecovered` if the events of any of the gaps are missed.
    pub(crate) outcome: GapOutcome,
    /// Whether another connection of the source is authenticated.
    pub(crate) is_connected: bool,
}

impl SourceStats {
    /// Records the authentication of a connection, which ends the current gap. `resumes` is whether the connection continues
    /// from the last stored event.
    pub(crate) fn authenticated(&self, resumes: bool) -> Authenticated {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.coverage.begin(now, resumes);
        let is_only = inner.coverage.authenticated() == 1;
        if is_only {
            inner.enter(SourceState::Authenticated);
            inner.reason = None;
        }
        inner.outcomes.add(ConnectionOutcome::Authenticated, 1);
        let time = clock::now();
        if inner.first_authenticated.is_none() {
            inner.first_authenticated = Some(time);
            inner.first_resumed = resumes;
        }
        let outcome = GapOutcome::of(resumes);
        inner.prove(now, time);
        if inner.gap.stop(now) {
            inner.gaps.add(outcome, 1);
        }
        Authenticated {
            at: now,
            gap: inner.close_gap(now, outcome),
            is_only,
        }
    }

    /// Records the end of an open connection. If it was the only authenticated one, and the source is not being stopped, a gap
    /// begins at the time of the last byte that was read: everything that the server has sent since then is missed, however
    /// late the loss is detected. If another connection was authenticated between that time and the detection, the gap was
    /// hidden and has already ended: it is counted and returned.
    pub(crate) fn disconnected(
        &self,
        reason: DisconnectReason,
        was: Option<WasAuthenticated>,
    ) -> Option<HiddenGap> {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.open = inner.open.saturating_sub(1);
        inner.disconnections.add(reason, 1);
        let was = was?;
        let (mut hidden, covered) = inner.coverage.end(was.since, was.last_read);
        if reason == DisconnectReason::Stopped {
            hidden.clear();
        }
        let time_of = |at| {
            let ago = now.saturating_duration_since(at);
            clock::now().checked_sub(ago).unwrap_or(Timestamp::MIN)
        };
        let sum = inner.add_hidden(&hidden, reason, time_of);
        let is_connected = inner.coverage.authenticated() > 0;
        inner.prove(now, clock::now());
        if !is_connected {
            let began = time_of(covered);
            inner.proof_of_life = Some(began);
            if reason != DisconnectReason::Stopped {
                inner.gap.start(covered);
                inner.gap_began.get_or_insert((began, covered, reason));
            }
        }
        sum.map(|(length, outcome)| HiddenGap {
            length,
            outcome,
            is_connected,
        })
    }
}

impl Inner {
    /// Derives the proof of life from the connections. `now` and `time` are the same moment.
    pub(super) fn prove(&mut self, now: Instant, time: Timestamp) {
        if let Some((proven, may_hide_gap)) = self.coverage.proven() {
            let ago = now.saturating_duration_since(proven);
            self.proof_of_life = Some(time.checked_sub(ago).unwrap_or(Timestamp::MIN));
            self.may_hide_gap = may_hide_gap;
        }
    }

    /// Ends the current gap.
    fn close_gap(&mut self, now: Instant, outcome: GapOutcome) -> Option<Duration> {
        let (began, since, reason) = self.gap_began.take()?;
        let length = now.saturating_duration_since(since);
        self.keep_gap(Gap {
            began,
            length,
            reason,
            outcome,
        });
        Some(length)
    }

    /// Stores a gap that has ended. Removes the oldest stored gap if there are too many.
    fn keep_gap(&mut self, gap: Gap) {
        self.newest_gaps.truncate(GAPS_KEPT - 1);
        self.newest_gaps.push_front(gap);
    }

    /// Counts and stores gaps that a dead connection has hidden. Returns their total duration, and `Unrecovered` if the events of
    /// any are missed.
    fn add_hidden(
        &mut self,
        hidden: &[Hidden],
        reason: DisconnectReason,
        time_of: impl Fn(Instant) -> Timestamp,
    ) -> Option<(Duration, GapOutcome)> {
        for gap in hidden {
            let length = gap.length();
            let outcome = GapOutcome::of(gap.resumes);
            self.gaps.add(outcome, 1);
            self.gap.add(length);
            self.keep_gap(Gap {
                began: time_of(gap.began),
                length,
                reason,
                outcome,
            });
        }
        let resumes = hidden.iter().all(|gap| gap.resumes);
        let length = hidden.iter().map(Hidden::length).sum();
        (!hidden.is_empty()).then(|| (length, GapOutcome::of(resumes)))
    }
}

impl GapOutcome {
    /// Returns the outcome of a gap. `resumes` is whether the next connection continues from the last stored event.
    const fn of(resumes: bool) -> Self {
        if resumes {
            Self::Recovered
        } else {
            Self::Unrecovered
        }
    }
}
