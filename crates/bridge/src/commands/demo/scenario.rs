//! The demo's scripted faults, and reports of how the bridge reacts to each one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_core::delivery::SinkState;
use neurobridge_listener::{ConnectionOutcome, DisconnectReason, Label, SourceSnapshot};
use neurobridge_simulator::Handle;
use tokio::sync::watch;

use crate::{
    gaps::{FILLING, Gap, OPEN, PARTLY, RECOVERED},
    state::View,
    terminal::Style,
    view::SinkLedger,
};

/// The time before the first fault: long enough to see the demo without one.
const FIRST_FAULT_AFTER: Duration = Duration::from_secs(6);
const FAULT_INTERVAL: Duration = Duration::from_secs(14);
/// How long the disk stops: long enough to be noticed, shorter than the drain timeout.
const STOP_TIME: Duration = Duration::from_secs(4);
/// The number of reports that are kept for the screen.
const MAX_REPORTS: usize = 40;

/// A fault, or the reaction of the bridge to one.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) at: Timestamp,
    pub(super) actor: Actor,
    pub(super) text: String,
}

/// The part of the demo that a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    Platform,
    Disk,
    Bridge,
}

impl Actor {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Disk => "disk",
            Self::Bridge => "bridge",
        }
    }

    pub(super) const fn style(self) -> Style {
        match self {
            Self::Platform | Self::Disk => Style::Yellow,
            Self::Bridge => Style::Green,
        }
    }
}

/// Injects faults and reports how the bridge reacts.
pub(super) struct Scenario {
    platform: Handle,
    stopped: watch::Sender<bool>,
    next_fault: Instant,
    faults: u64,
    disk_stop: Option<DiskStop>,
    /// The feed's counters at the last call of `watch`; zero before the first one.
    feed: FeedCounters,
    /// The start of the newest gap whose outcome was reported.
    reported_gap: Timestamp,
    reports: VecDeque<Report>,
    /// The number of reports since the start, including those that are no longer kept.
    total: usize,
}

/// Counters of the feed, from which events are derived. The state would not be enough: a connection can be lost and
/// restored between two samples.
#[derive(Default)]
struct FeedCounters {
    outcomes: Vec<(ConnectionOutcome, u64)>,
    disconnections: Vec<(DisconnectReason, u64)>,
    /// The duration of all gaps that have ended; an open gap counts once it ends.
    gap_time: Duration,
    is_connected: bool,
}

/// A period in which the disk is stopped, and the time until the sink has caught up.
struct DiskStop {
    until: Instant,
    /// The largest number of pending events.
    max_pending: u64,
    /// The number of events stored since the start, at the time of `max_pending`.
    stored: u64,
}

impl FeedCounters {
    fn of(now: &SourceSnapshot) -> Self {
        Self {
            outcomes: now.outcomes.iter().collect(),
            disconnections: now.disconnections.iter().collect(),
            gap_time: now.gap_time.saturating_sub(now.open_gap.unwrap_or_default()),
            is_connected: now.outcomes.get(ConnectionOutcome::Authenticated) > 0 && now.open_gap.is_none(),
        }
    }

    /// Describes the changes since an earlier sample in a possible order: a connected source loses its connection
    /// first, a disconnected one connects first.
    fn since(&self, before: &Self) -> Vec<String> {
        let lost = increased(&before.disconnections, &self.disconnections)
            // A refused token is reported by the outcome of the connection attempt.
            .filter(|(reason, _)| {
                !matches!(reason, DisconnectReason::Stopped | DisconnectReason::TokenRefused)
            })
            .map(|(reason, _)| format!("connection lost ({}); reconnecting", words(reason.as_str())));
        let (authenticated, failed): (Vec<_>, Vec<_>) = increased(&before.outcomes, &self.outcomes)
            .partition(|(outcome, _)| *outcome == ConnectionOutcome::Authenticated);
        let failed = failed.into_iter().map(|(outcome, _)| {
            let reason = words(outcome.as_str());
            format!("connecting failed ({reason}); retrying with backoff")
        });
        let authenticated = authenticated.into_iter().map(|(_, count)| {
            if count == 1 {
                return "connected and authenticated: events flow into the file".to_owned();
            }
            let gap = self.gap_time.saturating_sub(before.gap_time).as_secs_f64();
            format!("authenticated again after a gap of {gap:.1} s")
        });
        let attempts = failed.chain(authenticated);
        if before.is_connected {
            lost.chain(attempts).collect()
        } else {
            attempts.chain(lost).collect()
        }
    }
}

impl DiskStop {
    fn watch(&mut self, ledger: &SinkLedger) {
        if ledger.pending >= self.max_pending {
            (self.max_pending, self.stored) = (ledger.pending, ledger.stored);
        }
    }
}

impl Scenario {
    pub(super) fn new(platform: Handle, stopped: watch::Sender<bool>) -> Self {
        Self {
            platform,
            stopped,
            next_fault: Instant::now() + FIRST_FAULT_AFTER,
            faults: 0,
            disk_stop: None,
            feed: FeedCounters::default(),
            reported_gap: Timestamp::MIN,
            reports: VecDeque::new(),
            total: 0,
        }
    }

    /// Returns the last `max` reports, the newest last.
    pub(super) fn last(&self, max: usize) -> impl Iterator<Item = &Report> {
        self.reports.iter().skip(self.reports.len().saturating_sub(max))
    }

    /// Returns the reports after the first `count`, as far as they are kept, and the number of reports since the start.
    pub(super) fn after(&self, count: usize) -> (impl Iterator<Item = &Report>, usize) {
        (self.last(self.total - count), self.total)
    }

    /// Reports changes of the bridge's state, and injects the next fault when it is due.
    pub(super) fn watch(&mut self, view: &View<'_>) {
        if let Some(source) = view.sources.first() {
            self.watch_feed(FeedCounters::of(&source.snapshot));
            if source.handle.handles_gaps {
                self.watch_gaps(&source.gaps.newest);
            }
        }
        let mut is_ending = false;
        if let Some(sink) = view.sinks.first() {
            is_ending = sink.snapshot.state == SinkState::Draining;
            self.watch_disk(&sink.ledger, is_ending);
        }
        if Instant::now() >= self.next_fault && !is_ending {
            self.next_fault = Instant::now() + FAULT_INTERVAL;
            self.inject_fault();
        }
    }

    fn watch_feed(&mut self, now: FeedCounters) {
        for text in now.since(&self.feed) {
            self.report(Actor::Bridge, text);
        }
        self.feed = now;
    }

    /// Reports the outcome of each gap once it is final.
    fn watch_gaps(&mut self, newest: &[Gap]) {
        for gap in newest.iter().rev() {
            let is_final = gap.outcome != OPEN && gap.outcome != FILLING;
            if is_final && gap.began > self.reported_gap {
                self.reported_gap = gap.began;
                self.report(Actor::Bridge, outcome(gap));
            }
        }
    }

    fn watch_disk(&mut self, ledger: &SinkLedger, is_ending: bool) {
        let Some(disk_stop) = &mut self.disk_stop else {
            return;
        };
        let text = if *self.stopped.borrow() {
            disk_stop.watch(ledger);
            if Instant::now() < disk_stop.until && !is_ending {
                return;
            }
            self.stopped.send_replace(false);
            if disk_stop.max_pending == 0 {
                // No event arrived meanwhile: there is nothing to report.
                self.disk_stop = None;
                return;
            }
            let pending = events(disk_stop.max_pending);
            format!("{pending} waited in the spool; the feed continued")
        } else if ledger.counts.settled() >= disk_stop.stored {
            let written = events(disk_stop.max_pending);
            self.disk_stop = None;
            format!("has caught up: {written} written in order, none lost")
        } else {
            return;
        };
        self.report(Actor::Bridge, text);
    }

    fn inject_fault(&mut self) {
        self.faults += 1;
        match self.faults % 3 {
            1 => {
                self.report(Actor::Platform, "cuts the connection".to_owned());
                self.platform.cut_all();
            }
            2 => {
                let seconds = STOP_TIME.as_secs();
                self.report(
                    Actor::Disk,
                    format!("stops for {seconds} s: nothing is written to the file"),
                );
                self.stopped.send_replace(true);
                self.disk_stop = Some(DiskStop {
                    until: Instant::now() + STOP_TIME,
                    max_pending: 0,
                    stored: 0,
                });
            }
            _ => {
                if let Ok(rule) = "refuse-token,times=1".parse() {
                    self.platform.add_fault(rule);
                }
                self.report(
                    Actor::Platform,
                    "cuts the connection and refuses the token once".to_owned(),
                );
                self.platform.cut_all();
            }
        }
    }

    fn report(&mut self, actor: Actor, text: String) {
        if self.reports.len() == MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(Report {
            at: Timestamp::now(),
            actor,
            text,
        });
        self.total += 1;
    }
}

/// Describes what became of the events that the platform sent in a gap.
fn outcome(gap: &Gap) -> String {
    let fetched = events(gap.fetched);
    match &*gap.outcome {
        RECOVERED if gap.fetched == 0 => "no event was missed in the gap".to_owned(),
        RECOVERED => format!("{fetched} missed in the gap: fetched, none lost"),
        PARTLY => format!("{fetched} missed in the gap: fetched; others are lost"),
        _ => "events missed in the gap could not be fetched".to_owned(),
    }
}

fn words(label: &str) -> String {
    label.replace('_', " ")
}

/// Returns the counters that have increased, with their present values.
fn increased<L: Copy + PartialEq>(before: &[(L, u64)], now: &[(L, u64)]) -> impl Iterator<Item = (L, u64)> {
    now.iter()
        .copied()
        .filter(|(label, count)| *count > 0 && !before.contains(&(*label, *count)))
}

fn events(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use neurobridge_core::ledger::SinkCounts;
    use neurobridge_simulator::{Options, Simulator};

    use super::*;

    async fn scenario() -> Scenario {
        let platform = Simulator::bind(Options::default()).await.unwrap();
        Scenario::new(platform.handle(), watch::channel(false).0)
    }

    fn reports(scenario: &Scenario) -> Vec<&str> {
        scenario
            .last(MAX_REPORTS)
            .map(|report| report.text.as_str())
            .collect()
    }

    fn counters(
        authenticated: u64,
        refused: u64,
        lost: u64,
        gap_seconds: u64,
        is_connected: bool,
    ) -> FeedCounters {
        FeedCounters {
            outcomes: vec![
                (ConnectionOutcome::Authenticated, authenticated),
                (ConnectionOutcome::TokenRefused, refused),
            ],
            disconnections: vec![
                (DisconnectReason::Broken, lost),
                (DisconnectReason::TokenRefused, refused),
            ],
            gap_time: Duration::from_secs(gap_seconds),
            is_connected,
        }
    }

    #[tokio::test]
    async fn gap_is_reported_with_its_whole_duration_when_it_ends() {
        let mut scenario = scenario().await;
        scenario.watch_feed(counters(1, 0, 0, 0, true));
        scenario.watch_feed(counters(1, 0, 1, 0, false));
        scenario.watch_feed(counters(1, 1, 1, 0, false));
        scenario.watch_feed(counters(2, 1, 1, 23, true));
        scenario.watch_feed(counters(2, 1, 1, 23, true));
        assert_eq!(
            reports(&scenario),
            [
                "connected and authenticated: events flow into the file",
                "connection lost (broken); reconnecting",
                "connecting failed (token refused); retrying with backoff",
                "authenticated again after a gap of 23.0 s",
            ]
        );
    }

    #[tokio::test]
    async fn outcome_of_a_gap_is_reported_once_when_it_is_final() {
        let gap = |began: i64, outcome: &'static str, fetched: u64| Gap {
            id: 1,
            source: "platform".to_owned(),
            began: Timestamp::from_second(began).unwrap(),
            ended: (outcome != OPEN).then_some(Timestamp::MAX),
            reason: "closed".into(),
            outcome: outcome.into(),
            seconds: 1.0,
            gaps: 1,
            fetched,
            last_event: None,
            next_event: None,
        };
        let mut scenario = scenario().await;
        scenario.watch_gaps(&[gap(20, OPEN, 0), gap(10, FILLING, 0)]);
        assert!(reports(&scenario).is_empty());
        for _ in 0..2 {
            scenario.watch_gaps(&[gap(20, FILLING, 0), gap(10, RECOVERED, 57)]);
        }
        scenario.watch_gaps(&[
            gap(30, "unrecovered", 0),
            gap(20, PARTLY, 1),
            gap(10, RECOVERED, 57),
        ]);
        assert_eq!(
            reports(&scenario),
            [
                "57 events missed in the gap: fetched, none lost",
                "1 event missed in the gap: fetched; others are lost",
                "events missed in the gap could not be fetched",
            ]
        );
    }

    #[test]
    fn changes_within_one_sample_are_reported_in_a_possible_order() {
        let since_connected = counters(2, 1, 1, 1, true).since(&counters(1, 0, 0, 0, true));
        let starts = since_connected.iter().map(|text| &text[..12]).collect::<Vec<_>>();
        assert_eq!(starts, ["connection l", "connecting f", "authenticate"]);
        let since_lost = counters(2, 1, 2, 1, false).since(&counters(1, 0, 1, 0, false));
        let starts = since_lost.iter().map(|text| &text[..12]).collect::<Vec<_>>();
        assert_eq!(starts, ["connecting f", "authenticate", "connection l"]);
    }

    fn ledger(stored: u64, delivered: u64) -> SinkLedger {
        SinkLedger {
            stored,
            counts: SinkCounts {
                delivered,
                ..SinkCounts::default()
            },
            pending: stored - delivered,
        }
    }

    fn stop_disk(scenario: &mut Scenario) {
        scenario.stopped.send_replace(true);
        scenario.disk_stop = Some(DiskStop {
            until: Instant::now(),
            max_pending: 0,
            stored: 0,
        });
    }

    #[tokio::test]
    async fn catch_up_is_reported_after_the_last_pending_event() {
        let mut scenario = scenario().await;
        stop_disk(&mut scenario);
        scenario.watch_disk(&ledger(300, 100), false);
        scenario.watch_disk(&ledger(310, 299), false);
        assert_eq!(reports(&scenario).len(), 1);
        scenario.watch_disk(&ledger(320, 300), false);
        assert_eq!(
            reports(&scenario),
            [
                "200 events waited in the spool; the feed continued",
                "has caught up: 200 events written in order, none lost",
            ]
        );
    }

    #[tokio::test]
    async fn stopped_disk_without_new_events_is_not_reported() {
        let mut scenario = scenario().await;
        stop_disk(&mut scenario);
        scenario.watch_disk(&ledger(100, 100), false);
        assert!(reports(&scenario).is_empty() && scenario.disk_stop.is_none());
        assert!(!*scenario.stopped.borrow());
    }
}
