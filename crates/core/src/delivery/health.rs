//! The health of a sink: one state machine, with the log line of each transition.
//!
//! ```text
//! connecting ─► up ◄─► down          a fault, a slow connection attempt or an unavailable broker leads to `down`
//!      └──────► down                 `draining` is `up` after the program received a signal to stop
//! ```
//!
//! After a failure, or while events wait, a sink counts as up once an event is acknowledged. A connected sink may still be
//! unable to deliver, and would otherwise be reported as up before each fault. Without waiting events it counts as up once it
//! is connected.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::progress::{Progress, SinkState};
use crate::{
    connect::{ConnectStep, SlowConnect},
    event::Sequence,
    labels::Label,
    sink::{FaultKind, SinkFault},
    units::format_duration,
};

/// The interval at which the log repeats that a sink is down for the same reason. Failed attempts in between are logged at
/// level debug.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// The health of one sink, published in its [`Progress`].
pub(super) struct SinkHealth {
    sink: String,
    progress: Arc<Progress>,
    state: State,
    /// Whether the sink counts as up only once an event is acknowledged.
    needs_proof: bool,
    /// The time at which the sink was connected; `None` while it is not.
    connected_at: Option<Instant>,
    /// Whether the current connection attempt has been counted as a fault.
    is_attempt_counted: bool,
    /// The step for which the current connection attempt was last counted as failed.
    counted_step: Option<ConnectStep>,
    /// The kind of the fault for which the connected sink cannot publish.
    unavailable: Option<FaultKind>,
}

enum State {
    Connecting,
    Up,
    Down(Outage),
}

/// The time from the first failure to the next acknowledged event.
struct Outage {
    since: Instant,
    faults: u64,
    /// The largest observed number of waiting events.
    waited: u64,
    /// The time at which each reason was last logged. A map, because the reasons of a slow attempt and of its failure alternate.
    logged: HashMap<String, Instant>,
}

impl Outage {
    /// Returns whether a line with this reason is due: a new reason at once, the same one once a minute.
    fn is_due(&mut self, reason: &str) -> bool {
        self.logged.retain(|_, at| at.elapsed() < REPEAT_INTERVAL);
        let is_due = !self.logged.contains_key(reason);
        if is_due {
            self.logged.insert(reason.to_owned(), Instant::now());
        }
        is_due
    }
}

impl SinkHealth {
    pub(super) fn new(sink: &str, progress: Arc<Progress>) -> Self {
        Self {
            sink: sink.to_owned(),
            progress,
            state: State::Connecting,
            needs_proof: false,
            connected_at: None,
            is_attempt_counted: false,
            counted_step: None,
            unavailable: None,
        }
    }

    pub(super) const fn needs_proof(&self) -> bool {
        self.needs_proof
    }

    /// Records the start of a connection attempt.
    pub(super) const fn connecting(&mut self) {
        self.is_attempt_counted = false;
        self.counted_step = None;
    }

    /// Records that the attempt has failed at this step, or waits too long for it. Counted once for each step of an attempt.
    pub(super) fn connect_failed(&mut self, step: ConnectStep) {
        if self.counted_step.replace(step) != Some(step) {
            self.progress.count_connect_failure(step);
        }
    }

    /// Records that the attempt takes long. Counted once per attempt, and logged at most once a minute for each step and target.
    pub(super) fn slow_connect(&mut self, slow: &SlowConnect, pending: Option<u64>) {
        let SlowConnect { at, fault } = slow;
        let is_counted = std::mem::replace(&mut self.is_attempt_counted, true);
        let is_first = self.down(fault, !is_counted);
        self.log(is_first, at, fault, pending, None);
    }

    /// Records that the sink is connected at `next`, with the number of waiting events if it is known.
    pub(super) fn connected(&mut self, next: Sequence, waiting: Option<u64>, is_follower: bool) {
        self.connected_at = Some(Instant::now());
        if is_follower {
            // A follower publishes nothing, and its events may wait until this member leads.
            self.needs_proof = false;
        } else if let Some(waiting) = waiting {
            // Without waiting events the connection is enough: published events that had no outcome were settled by the
            // committed cursor of the broker.
            self.needs_proof = waiting > 0;
        }
        if !self.needs_proof {
            self.up(next, waiting);
        }
    }

    /// Records that the cursor has passed an event since the connection.
    pub(super) fn delivered(&mut self, next: Sequence, waiting: Option<u64>) {
        if std::mem::replace(&mut self.needs_proof, false) {
            self.up(next, waiting);
        }
    }

    /// Records the reason for which the connected sink cannot publish, or that it can publish again (`None`).
    pub(super) fn unavailable(&mut self, fault: Option<&SinkFault>, next: Sequence, waiting: Option<u64>) {
        let Some(fault) = fault else {
            // With `needs_proof` the sink counts as up only when an event is acknowledged.
            if self.unavailable.take().is_some() && !self.needs_proof {
                self.note_waiting(waiting);
                self.up(next, waiting);
            }
            return;
        };
        let before = self.unavailable.replace(fault.kind);
        let is_first = self.down(fault, before.is_none());
        // The kind stands for the reason: the text may contain a duration, and would then count as a new reason each time.
        self.log(is_first, fault.kind.as_str(), fault, waiting, None);
    }

    /// Records that the connection has failed and the next attempt follows after `delay`. `is_unsettled`: events that were read
    /// are not settled.
    pub(super) fn failed(
        &mut self,
        fault: &SinkFault,
        delay: Duration,
        pending: Option<u64>,
        is_unsettled: bool,
    ) {
        self.needs_proof |= is_unsettled;
        self.disconnected();
        let is_first = self.down(fault, true);
        if let State::Down(outage) = &mut self.state {
            outage.faults += 1;
        }
        self.log(is_first, &fault.reason, fault, pending, Some(delay));
    }

    /// Logs that the sink is down, at most once a minute for each `reason`. `delay`: the time until the next attempt.
    fn log(
        &mut self,
        is_first: bool,
        reason: &str,
        fault: &SinkFault,
        pending: Option<u64>,
        delay: Option<Duration>,
    ) {
        self.note_waiting(pending);
        let State::Down(outage) = &mut self.state else {
            return;
        };
        let is_due = outage.is_due(reason);
        let (sink, kind, delay) = (&self.sink, fault.kind.as_str(), delay.map(rounded));
        let (lasted, tries) = (rounded(outage.since.elapsed()), outage.faults);
        if is_first {
            warn!(sink, kind, pending, delay, "the sink is down: {fault}");
        } else if is_due {
            warn!(
                sink,
                kind, lasted, tries, pending, delay, "the sink is still down: {fault}"
            );
        } else if delay.is_some() {
            debug!(
                sink,
                kind, lasted, tries, pending, delay, "the sink is still down: {fault}"
            );
        }
    }

    /// Records a final fault.
    pub(super) fn stopped(&mut self, fault: &SinkFault) {
        self.disconnected();
        self.down(fault, true);
        self.progress.set_stopped();
        let (sink, kind) = (&self.sink, fault.kind.as_str());
        warn!(
            sink,
            kind, "the sink is stopped until the bridge is restarted: {fault}"
        );
    }

    /// Records that the program drains.
    pub(super) fn draining(&self) {
        if matches!(self.state, State::Up) {
            self.progress.set_health(SinkState::Draining, None);
        }
    }

    /// Returns the duration of the connection, and resets it.
    pub(super) fn take_connected_for(&mut self) -> Duration {
        self.connected_at.take().map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn disconnected(&mut self) {
        self.connected_at = None;
        self.unavailable = None;
        self.progress.set_disconnected();
    }

    /// Changes the state to `down`, or updates its reason. Returns whether an outage begins.
    fn down(&mut self, fault: &SinkFault, is_counted: bool) -> bool {
        // The reason of a failed connection is shown until an event is acknowledged.
        let has_failed = matches!(&self.state, State::Down(outage) if outage.faults > 0);
        if !(has_failed && self.connected_at.is_some()) {
            self.progress.set_health(SinkState::Down, Some(fault));
        }
        if is_counted {
            self.progress.count_fault(fault.kind);
        }
        let begins = !matches!(self.state, State::Down(_));
        if begins {
            self.state = State::Down(Outage {
                since: Instant::now(),
                faults: 0,
                waited: 0,
                logged: HashMap::new(),
            });
        }
        begins
    }

    fn note_waiting(&mut self, waiting: Option<u64>) {
        if let State::Down(outage) = &mut self.state {
            outage.waited = outage.waited.max(waiting.unwrap_or(0));
        }
    }

    fn up(&mut self, next: Sequence, waiting: Option<u64>) {
        self.progress.set_health(SinkState::Up, None);
        self.unavailable = None;
        let (sink, next) = (&self.sink, next.get());
        match std::mem::replace(&mut self.state, State::Up) {
            State::Connecting => info!(sink, next, waiting, "the sink is up"),
            // The sink has reconnected without a fault, because its role in the cluster has changed.
            State::Up => {}
            State::Down(outage) => {
                let (lasted, waited) = (rounded(outage.since.elapsed()), outage.waited);
                info!(sink, next, waiting, lasted, waited, "the sink has recovered");
            }
        }
    }
}

/// Formats a duration for the log: without a fraction of a second from ten seconds on.
fn rounded(duration: Duration) -> String {
    format_duration(if duration < Duration::from_secs(10) {
        duration
    } else {
        Duration::from_secs(duration.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::reader::Cursor;

    fn health() -> SinkHealth {
        let progress = Progress::new(Cursor::starting_at(Sequence::FIRST));
        SinkHealth::new("test", Arc::new(progress))
    }

    fn fault(kind: FaultKind, reason: &str) -> SinkFault {
        SinkFault::new(kind, reason)
    }

    #[tokio::test(start_paused = true)]
    async fn outage_reason_is_logged_at_once_and_then_every_minute() {
        let mut health = health();
        health.down(&fault(FaultKind::Unreachable, "refused"), true);
        let State::Down(outage) = &mut health.state else {
            panic!("not down")
        };
        assert!(outage.is_due("refused"));
        advance(Duration::from_secs(30)).await;
        assert!(!outage.is_due("refused"));
        assert!(outage.is_due("no leader") && !outage.is_due("no leader"));
        advance(REPEAT_INTERVAL / 2).await;
        assert!(outage.is_due("refused") && !outage.is_due("no leader"));
        advance(REPEAT_INTERVAL).await;
        assert!(outage.is_due("no leader"));
        assert_eq!(outage.logged.len(), 1, "older ones are removed");
    }

    #[tokio::test(start_paused = true)]
    async fn steps_and_faults_are_logged_separately() {
        let mut health = health();
        let slow = |at: &str| SlowConnect {
            at: at.to_owned(),
            fault: fault(FaultKind::Unreachable, at),
        };
        let refused = fault(FaultKind::Unreachable, "refused");
        for pending in 0..3 {
            health.connecting();
            health.slow_connect(&slow("dial"), Some(pending));
            health.slow_connect(&slow("dial"), Some(pending));
            health.failed(&refused, Duration::ZERO, Some(pending), false);
            advance(Duration::from_secs(10)).await;
        }
        let State::Down(outage) = &health.state else {
            panic!("not down")
        };
        assert_eq!((outage.faults, outage.since.elapsed().as_secs()), (3, 30));
        assert_eq!(outage.waited, 2);
        // Both are suppressed after their first line, although they alternate.
        let times = ["dial", "refused"].map(|reason| outage.logged[reason].elapsed().as_secs());
        assert_eq!(times, [30, 30]);
        // Each attempt counts once for its step and once for its fault.
        assert_eq!(health.progress.snapshot().faults.total(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn unavailability_is_counted_when_it_begins() {
        let mut health = health();
        health.connected(Sequence::FIRST, None, false);
        assert_eq!(health.progress.snapshot().state, SinkState::Up);
        let seen = [
            (FaultKind::Unreachable, "one", 3),
            (FaultKind::Unreachable, "another", 7),
            (FaultKind::Timeout, "late", 5),
        ];
        for (kind, reason, waiting) in seen {
            health.unavailable(Some(&fault(kind, reason)), Sequence::FIRST, Some(waiting));
            let snapshot = health.progress.snapshot();
            assert_eq!(
                (snapshot.state, snapshot.reason.as_deref()),
                (SinkState::Down, Some(reason))
            );
            assert_eq!(snapshot.faults.total(), 1);
        }
        assert!(matches!(&health.state, State::Down(outage) if outage.waited == 7));
        health.unavailable(None, Sequence::FIRST, Some(1));
        let snapshot = health.progress.snapshot();
        assert_eq!((snapshot.state, snapshot.reason), (SinkState::Up, None));
    }

    #[tokio::test(start_paused = true)]
    async fn since_changes_only_with_the_state_of_the_sink() {
        let mut health = health();
        health.failed(
            &fault(FaultKind::Unreachable, "refused"),
            Duration::ZERO,
            None,
            false,
        );
        let down_since = health.progress.snapshot().since;
        // The clock of the test is paused. `since` is read from the system clock, which is not.
        while crate::clock::now() <= down_since {}
        health.failed(&fault(FaultKind::Timeout, "late"), Duration::ZERO, None, false);
        assert_eq!(health.progress.snapshot().since, down_since);
        health.connected(Sequence::FIRST, Some(0), false);
        let snapshot = health.progress.snapshot();
        assert_eq!(snapshot.state, SinkState::Up);
        assert!(snapshot.since > down_since, "{snapshot:?}");
        let changes: Vec<_> = snapshot
            .changes
            .after(0)
            .map(|change| (change.state, change.kind))
            .collect();
        assert_eq!(
            changes,
            [
                (SinkState::Down, Some(FaultKind::Unreachable)),
                (SinkState::Up, None)
            ]
        );
        assert_eq!(snapshot.changes.after(1).count(), 1);
        assert_eq!(snapshot.changes.after(snapshot.changes.total()).count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn follower_with_waiting_events_is_up_when_it_is_connected() {
        let mut health = health();
        health.failed(
            &fault(FaultKind::Unreachable, "refused"),
            Duration::ZERO,
            None,
            true,
        );
        health.connected(Sequence::FIRST, Some(2), true);
        assert_eq!(health.progress.snapshot().state, SinkState::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn sink_with_waiting_events_is_up_when_one_is_acknowledged() {
        let mut health = health();
        let refused = fault(FaultKind::Unreachable, "refused");
        health.failed(&refused, Duration::ZERO, None, false);
        health.connected(Sequence::FIRST, Some(2), false);
        health.draining();
        assert_eq!(health.progress.snapshot().state, SinkState::Down);
        health.delivered(Sequence::FIRST.next(), Some(1));
        assert_eq!(health.progress.snapshot().state, SinkState::Up);
        health.draining();
        assert_eq!(health.progress.snapshot().state, SinkState::Draining);
    }
}
