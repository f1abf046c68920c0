//! The health of a sink: one state machine, with the log line of each transition.
//!
//! ```text
//! connecting ─► up ◄─► down          a fault, a slow connection attempt or an unavailable broker leads to `down`
//!      └──────► down                 `draining` is `up` after the program received a signal to stop
//! ```
//!
//! After a failure, or where events wait, a sink counts as up once an event is acknowledged: to be connected does not mean that
//! events can be delivered, and a sink that cannot would be called up before each fault. Otherwise it is up once it is connected.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::progress::{Progress, SinkState};
use crate::{
    connect::{ConnectStep, SlowConnect},
    event::Sequence,
    sink::{FaultKind, SinkFault},
    units::format_duration,
};

/// How often the log repeats that a sink is down for the same reason. The attempts between are logged at the level of debug.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// The health of one sink, published in its [`Progress`].
pub(super) struct SinkHealth {
    sink: String,
    progress: Arc<Progress>,
    state: State,
    /// Counts as up only once an event is acknowledged.
    needs_proof: bool,
    /// Since when the sink is connected.
    connected_at: Option<Instant>,
    /// Whether the connection attempt at hand has been counted as a fault.
    is_attempt_counted: bool,
    /// The step at which the connection attempt at hand was counted last.
    counted_step: Option<ConnectStep>,
    /// What the connected sink reports as the reason for which it cannot publish.
    unavailable: Option<FaultKind>,
}

enum State {
    Connecting,
    Up,
    Down(Outage),
}

/// The time from the first failure to the next event that the sink takes.
struct Outage {
    since: Instant,
    faults: u64,
    /// The most events that waited meanwhile, where it was observed.
    waited: u64,
    /// The fault logged last, and when.
    logged_fault: Option<(String, Instant)>,
    /// The same for the step that a connection attempt waited for. Apart, since both alternate when each attempt fails.
    logged_step: Option<(String, Instant)>,
}

/// How loud a failure is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loudness {
    First,
    Again,
    Quiet,
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

    /// A connection attempt begins.
    pub(super) const fn connecting(&mut self) {
        self.is_attempt_counted = false;
        self.counted_step = None;
    }

    /// The attempt has failed at this step, or has waited there for too long. Counted once for each step of an attempt.
    pub(super) fn connect_failed(&mut self, step: ConnectStep) {
        if self.counted_step.replace(step) != Some(step) {
            self.progress.count_connect_failure(step);
        }
    }

    /// The attempt has lasted for some seconds. Counted once for each attempt, and logged once for each step.
    pub(super) fn slow_connect(&mut self, slow: &SlowConnect) {
        let SlowConnect { at, fault } = slow;
        let is_counted = std::mem::replace(&mut self.is_attempt_counted, true);
        let is_first = self.down(fault, !is_counted);
        let State::Down(outage) = &mut self.state else {
            return;
        };
        let (sink, kind) = (&self.sink, fault.kind.label());
        match loudness(&mut outage.logged_step, is_first, at) {
            Loudness::First => warn!(sink, kind, "the sink is down: {fault}"),
            Loudness::Again => warn!(sink, kind, "the sink is still down: {fault}"),
            Loudness::Quiet => {}
        }
    }

    /// The sink is connected at `next`, while so many events wait, if that is known.
    pub(super) fn connected(&mut self, next: Sequence, waiting: Option<u64>) {
        self.connected_at = Some(Instant::now());
        if let Some(waiting) = waiting {
            // Without any, also what had no outcome has it: by the cursor that the broker has.
            self.needs_proof = waiting > 0;
        }
        if !self.needs_proof {
            self.up(next, waiting);
        }
    }

    /// The cursor has moved over an event since the sink was connected.
    pub(super) fn delivered(&mut self, next: Sequence, waiting: Option<u64>) {
        if std::mem::replace(&mut self.needs_proof, false) {
            self.up(next, waiting);
        }
    }

    /// The connected sink cannot publish for this reason, or it can again (`None`).
    pub(super) fn unavailable(&mut self, fault: Option<&SinkFault>, next: Sequence, waiting: Option<u64>) {
        let Some(fault) = fault else {
            // A sink that needs a proof is called up when an event is acknowledged.
            if self.unavailable.take().is_some() && !self.needs_proof {
                self.note_waiting(waiting);
                self.up(next, waiting);
            }
            return;
        };
        let before = self.unavailable.replace(fault.kind);
        let is_first = self.down(fault, before.is_none());
        self.note_waiting(waiting);
        let (sink, kind) = (&self.sink, fault.kind.label());
        // Of another kind than before: the words alone may change at each look, with a time in them.
        if is_first {
            warn!(sink, kind, "the sink is down: {fault}");
        } else if before != Some(fault.kind) {
            warn!(sink, kind, "the sink is still down: {fault}");
        }
    }

    /// The connection has failed, and the next attempt comes after `delay`. `is_unsettled`: events have no outcome.
    pub(super) fn failed(&mut self, fault: &SinkFault, delay: Duration, is_unsettled: bool) {
        self.needs_proof |= is_unsettled;
        self.disconnected();
        let is_first = self.down(fault, true);
        let State::Down(outage) = &mut self.state else {
            return;
        };
        outage.faults += 1;
        let loudness = loudness(&mut outage.logged_fault, is_first, &fault.reason);
        let (sink, kind, delay) = (&self.sink, fault.kind.label(), shown(delay));
        let (lasted, tries) = (shown(outage.since.elapsed()), outage.faults);
        match loudness {
            Loudness::First => warn!(sink, kind, delay, "the sink is down: {fault}"),
            Loudness::Again => warn!(
                sink,
                kind, delay, lasted, tries, "the sink is still down: {fault}"
            ),
            Loudness::Quiet => debug!(
                sink,
                kind, delay, lasted, tries, "the sink is still down: {fault}"
            ),
        }
    }

    /// The sink has failed for good.
    pub(super) fn stopped(&mut self, fault: &SinkFault) {
        self.disconnected();
        self.down(fault, true);
        let (sink, kind) = (&self.sink, fault.kind.label());
        warn!(sink, kind, "the sink stops until restart: {fault}");
    }

    /// The program received a signal to stop.
    pub(super) fn draining(&self) {
        if matches!(self.state, State::Up) {
            self.progress.set_health(SinkState::Draining, None);
        }
    }

    /// Returns for how long the sink has been connected, and forgets it.
    pub(super) fn take_connected_for(&mut self) -> Duration {
        self.connected_at.take().map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn disconnected(&mut self) {
        self.connected_at = None;
        self.unavailable = None;
        self.progress.set_disconnected();
    }

    /// Goes to `down`, or takes another reason. Returns whether the outage begins with it.
    fn down(&mut self, fault: &SinkFault, is_counted: bool) -> bool {
        // The reason for which a connection failed stays until an event is acknowledged.
        let has_failed = matches!(&self.state, State::Down(outage) if outage.faults > 0);
        if !(has_failed && self.connected_at.is_some()) {
            self.progress.set_health(SinkState::Down, Some(&fault.reason));
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
                logged_fault: None,
                logged_step: None,
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
            // Connected again after an idle connection was replaced without a fault.
            State::Up => {}
            State::Down(outage) => {
                let (lasted, waited) = (shown(outage.since.elapsed()), outage.waited);
                info!(sink, next, waiting, lasted, waited, "the sink is up again");
            }
        }
    }
}

fn loudness(logged: &mut Option<(String, Instant)>, is_first: bool, reason: &str) -> Loudness {
    let now = Instant::now();
    if let Some((logged_reason, at)) = logged
        && logged_reason == reason
        && *at + REMIND_EVERY > now
    {
        return Loudness::Quiet;
    }
    *logged = Some((reason.to_owned(), now));
    if is_first {
        Loudness::First
    } else {
        Loudness::Again
    }
}

/// A duration as the log shows it: beside minutes, milliseconds are left out.
fn shown(duration: Duration) -> String {
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
    async fn reason_is_logged_once_and_then_every_minute() {
        let mut logged = None;
        assert_eq!(loudness(&mut logged, true, "refused"), Loudness::First);
        advance(Duration::from_secs(30)).await;
        assert_eq!(loudness(&mut logged, false, "refused"), Loudness::Quiet);
        assert_eq!(loudness(&mut logged, false, "no leader"), Loudness::Again);
        assert_eq!(loudness(&mut logged, false, "no leader"), Loudness::Quiet);
        advance(REMIND_EVERY).await;
        assert_eq!(loudness(&mut logged, false, "no leader"), Loudness::Again);
        assert_eq!(loudness(&mut logged, false, "no leader"), Loudness::Quiet);
    }

    #[tokio::test(start_paused = true)]
    async fn steps_and_faults_are_logged_apart() {
        let mut health = health();
        let slow = |at: &str| SlowConnect {
            at: at.to_owned(),
            fault: fault(FaultKind::Unreachable, at),
        };
        let refused = fault(FaultKind::Unreachable, "refused");
        for _ in 0..3 {
            health.connecting();
            health.slow_connect(&slow("dial"));
            health.slow_connect(&slow("dial"));
            health.failed(&refused, Duration::ZERO, false);
            advance(Duration::from_secs(10)).await;
        }
        let State::Down(outage) = &health.state else {
            panic!("not down")
        };
        assert_eq!((outage.faults, outage.since.elapsed().as_secs()), (3, 30));
        // Each is quiet since its first line, although both alternate.
        let times = [&outage.logged_fault, &outage.logged_step].map(|logged| logged.as_ref().unwrap().1);
        assert_eq!(times.map(|at| at.elapsed().as_secs()), [30, 30]);
        // Each attempt is counted once for its step and once for its fault.
        assert_eq!(health.progress.snapshot().faults.iter().sum::<u64>(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn unavailability_is_counted_when_it_begins() {
        let mut health = health();
        health.connected(Sequence::FIRST, None);
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
            assert_eq!(snapshot.faults.iter().sum::<u64>(), 1);
        }
        assert!(matches!(&health.state, State::Down(outage) if outage.waited == 7));
        health.unavailable(None, Sequence::FIRST, Some(1));
        let snapshot = health.progress.snapshot();
        assert_eq!((snapshot.state, snapshot.reason), (SinkState::Up, None));
    }

    #[tokio::test(start_paused = true)]
    async fn sink_with_waiting_events_is_up_when_one_is_acknowledged() {
        let mut health = health();
        health.failed(&fault(FaultKind::Unreachable, "refused"), Duration::ZERO, false);
        health.connected(Sequence::FIRST, Some(2));
        health.draining();
        assert_eq!(health.progress.snapshot().state, SinkState::Down);
        health.delivered(Sequence::FIRST.next(), Some(1));
        assert_eq!(health.progress.snapshot().state, SinkState::Up);
        health.draining();
        assert_eq!(health.progress.snapshot().state, SinkState::Draining);
    }
}
