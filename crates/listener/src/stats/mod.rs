//! State and counters of a source, for metrics and `/status`.

mod coverage;
mod gaps;
mod labels;
mod standby;
mod stopwatch;

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::{
    clock,
    histogram::{self, Histogram},
};
use tokio::time::Instant;

pub use self::gaps::Gap;
pub(crate) use self::gaps::{HiddenGap, WasAuthenticated};
pub use self::labels::{
    ConnectionCounts, ConnectionOutcome, Counts, DisconnectCounts, DisconnectReason, FrameCounts, FrameKind,
    GapCounts, GapOutcome, Label, SourceState,
};
use self::{coverage::Coverage, stopwatch::Stopwatch};

/// The number of malformed or ignored frames after which a source that has read no event is reported.
const MANY_FRAMES: u64 = 100;
/// The reason of the state `Blocked`, also logged.
pub(crate) const BACKPRESSURE: &str = "backpressure: the socket is not read, because there is no room for more events (usually the spool is full)";

/// The state and counters of a source, shared with the metrics and `/status`.
///
/// Updated once per batch and at each change of state, so that a mutex is cheap.
#[derive(Debug)]
pub struct SourceStats {
    inner: Mutex<Inner>,
    ping_rtt: Histogram,
}

/// The state and counters of a source at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceSnapshot {
    /// The current state of the source.
    pub state: SourceState,
    /// The reason why the source is not authenticated, not reading, or receives no event, as a sentence. `None` otherwise.
    pub reason: Option<String>,
    /// The time of the last change between connected, not connected and blocked, or of the start of standby. Failed attempts do
    /// not change it, so that the duration of an outage can be derived from it.
    pub since: Timestamp,
    /// The number of WebSocket connections opened so far.
    pub connections: u64,
    /// The number of open WebSocket connections.
    pub open_connections: u64,
    /// The time at which the last event was read.
    pub last_event: Option<Timestamp>,
    /// Connection attempts by outcome.
    pub outcomes: ConnectionCounts,
    /// Ended connections by reason.
    pub disconnections: DisconnectCounts,
    /// The number of connections that ended before all data of the server was read.
    pub unread_disconnections: u64,
    /// Frames read, by kind.
    pub frames: FrameCounts,
    /// Events read. A frame of a declared feed may contain several.
    pub events: u64,
    /// Malformed frames, or malformed elements of frames.
    pub malformed: u64,
    /// Frames that are malformed or ignored, while no event was read yet; 0 from the first event on. Many of them mean that no
    /// rule of a declaration matches the events.
    pub frames_without_event: u64,
    /// Bytes of payload of the text and binary frames read.
    pub received_bytes: u64,
    /// Round trips of pings, in seconds.
    pub ping_rtt: histogram::Snapshot,
    /// The last round-trip time.
    pub last_ping_rtt: Option<Duration>,
    /// The total time of backpressure, including a current one.
    pub blocked: Duration,
    /// Gaps that have ended.
    pub gaps: GapCounts,
    /// The total time of gaps, including a current one.
    pub gap_time: Duration,
    /// The duration of the current gap.
    pub open_gap: Option<Duration>,
    /// The start of the current gap, and why the connection ended.
    pub open_gap_began: Option<(Timestamp, DisconnectReason)>,
    /// The time at which a connection was first authenticated.
    pub first_authenticated: Option<Timestamp>,
    /// Whether the connection of `first_authenticated` resumed after an event stored by an earlier run.
    pub first_resumed: bool,
    /// The last time at which the feed was known to work. Everything that the platform sent before this time has been received.
    pub proof_of_life: Option<Timestamp>,
    /// Whether a connection was authenticated after `proof_of_life`: the earlier connection may be dead, and there may be a gap
    /// between the two.
    pub may_hide_gap: bool,
    /// The most recent gaps that have ended, the most recent first.
    pub newest_gaps: Vec<Gap>,
    /// The local time minus the platform's in seconds, from the `Date` header of its answer to the upgrade,
    /// with a resolution of a second. `None` while no answer had one.
    pub clock_skew_seconds: Option<f64>,
    /// The number of `{"error":…}` frames after authentication.
    pub platform_errors: u64,
    /// The last platform error, shortened.
    pub last_platform_error: Option<String>,
}

#[derive(Debug)]
struct Inner {
    state: SourceState,
    reason: Option<Cow<'static, str>>,
    since: Timestamp,
    connections: u64,
    open: u64,
    /// The authenticated connections.
    coverage: Coverage,
    last_event: Option<Timestamp>,
    outcomes: ConnectionCounts,
    disconnections: DisconnectCounts,
    unread_disconnections: u64,
    frames: FrameCounts,
    events: u64,
    malformed: u64,
    frames_without_event: u64,
    received_bytes: u64,
    blocked: Stopwatch,
    blocked_connections: u32,
    /// The number of connections whose backpressure has changed the state to `Blocked`.
    long_blocked_connections: u32,
    /// The state to restore after backpressure.
    before_blocked: SourceState,
    gaps: GapCounts,
    gap: Stopwatch,
    gap_began: Option<(Timestamp, Instant, DisconnectReason)>,
    first_authenticated: Option<Timestamp>,
    first_resumed: bool,
    proof_of_life: Option<Timestamp>,
    may_hide_gap: bool,
    newest_gaps: VecDeque<Gap>,
    last_ping_rtt: Option<Duration>,
    clock_skew_seconds: Option<f64>,
    platform_errors: u64,
    last_platform_error: Option<String>,
}

/// The changes of the counters by one wake-up of the socket.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) frames: FrameCounts,
    /// Events, of which a frame may contain several.
    pub(crate) events: u64,
    /// Malformed frames, or malformed elements of frames.
    pub(crate) malformed: u64,
    pub(crate) bytes: u64,
    /// While data that accumulated during a pause may be unread: the time up to which everything that the server sent has been read.
    pub(crate) behind_since: Option<Instant>,
    /// The period in which the connection has received everything; `None` before the authentication.
    pub(crate) received: Option<ReceivedPeriod>,
    pub(crate) last_event: Option<Timestamp>,
    pub(crate) platform_errors: u64,
    pub(crate) last_platform_error: Option<String>,
}

/// The period in which an authenticated connection has received everything that the server sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceivedPeriod {
    pub(crate) authenticated_at: Instant,
    pub(crate) until: Instant,
}

impl SourceStats {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                state: SourceState::Dialling,
                reason: None,
                since: clock::now(),
                connections: 0,
                open: 0,
                coverage: Coverage::default(),
                last_event: None,
                outcomes: ConnectionCounts::default(),
                disconnections: DisconnectCounts::default(),
                unread_disconnections: 0,
                frames: FrameCounts::default(),
                events: 0,
                malformed: 0,
                frames_without_event: 0,
                received_bytes: 0,
                blocked: Stopwatch::default(),
                blocked_connections: 0,
                long_blocked_connections: 0,
                before_blocked: SourceState::Dialling,
                gaps: GapCounts::default(),
                gap: Stopwatch::default(),
                gap_began: None,
                first_authenticated: None,
                first_resumed: false,
                proof_of_life: None,
                may_hide_gap: false,
                newest_gaps: VecDeque::new(),
                last_ping_rtt: None,
                clock_skew_seconds: None,
                platform_errors: 0,
                last_platform_error: None,
            }),
            ping_rtt: Histogram::default(),
        }
    }

    /// Returns the current state and counters.
    pub fn snapshot(&self) -> SourceSnapshot {
        let now = Instant::now();
        let inner = self.lock();
        SourceSnapshot {
            state: inner.state,
            reason: inner
                .reason
                .as_deref()
                .map(str::to_owned)
                .or_else(|| inner.lacks_events().then(|| no_event(inner.frames_without_event))),
            since: inner.since,
            connections: inner.connections,
            open_connections: inner.open,
            last_event: inner.last_event,
            outcomes: inner.outcomes,
            disconnections: inner.disconnections,
            unread_disconnections: inner.unread_disconnections,
            frames: inner.frames,
            events: inner.events,
            malformed: inner.malformed,
            frames_without_event: inner.frames_without_event,
            received_bytes: inner.received_bytes,
            ping_rtt: self.ping_rtt.snapshot(),
            last_ping_rtt: inner.last_ping_rtt,
            blocked: inner.blocked.elapsed(now),
            gaps: inner.gaps,
            gap_time: inner.gap.elapsed(now),
            open_gap: inner
                .gap_began
                .map(|(_, since, _)| now.saturating_duration_since(since)),
            open_gap_began: inner.gap_began.map(|(began, _, reason)| (began, reason)),
            first_authenticated: inner.first_authenticated,
            first_resumed: inner.first_resumed,
            proof_of_life: inner.proof_of_life,
            may_hide_gap: inner.may_hide_gap,
            newest_gaps: inner.newest_gaps.iter().cloned().collect(),
            clock_skew_seconds: inner.clock_skew_seconds,
            platform_errors: inner.platform_errors,
            last_platform_error: inner.last_platform_error.clone(),
        }
    }

    /// Records a new attempt. The reason of the last failure stays until an attempt succeeds. While another connection is
    /// authenticated, attempts change neither state nor reason.
    pub(crate) fn dialling(&self) {
        let mut inner = self.lock();
        if inner.coverage.authenticated() == 0 {
            inner.enter(SourceState::Dialling);
        }
    }

    /// Records an open connection whose authentication has started.
    pub(crate) fn opening(&self, clock_skew_seconds: Option<f64>) {
        let mut inner = self.lock();
        if inner.coverage.authenticated() == 0 {
            inner.enter(SourceState::Opening);
        }
        inner.connections += 1;
        inner.open += 1;
        if clock_skew_seconds.is_some() {
            inner.clock_skew_seconds = clock_skew_seconds;
        }
    }

    /// Returns whether any connection of the source is authenticated.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.lock().coverage.authenticated() > 0
    }

    /// Records the start of backpressure. Its time is counted, and the state stays: a busy feed has many short waits.
    pub(crate) fn backpressure_began(&self) {
        let mut inner = self.lock();
        inner.blocked_connections += 1;
        inner.blocked.start(Instant::now());
    }

    /// Records that backpressure has lasted for long, which changes the state.
    pub(crate) fn backpressure_lasts(&self) {
        let mut inner = self.lock();
        inner.long_blocked_connections += 1;
        // Another connection of the source may be blocked already.
        if inner.state != SourceState::Blocked {
            inner.before_blocked = inner.state;
        }
        inner.enter(SourceState::Blocked);
        inner.reason = Some(BACKPRESSURE.into());
    }

    /// Records the end of a connection's backpressure. `changed_state` is whether `backpressure_lasts` was called for this
    /// backpressure.
    pub(crate) fn unblocked(&self, changed_state: bool) {
        let mut inner = self.lock();
        inner.blocked_connections = inner.blocked_connections.saturating_sub(1);
        if inner.blocked_connections == 0 {
            inner.blocked.stop(Instant::now());
        }
        if !changed_state {
            return;
        }
        inner.long_blocked_connections = inner.long_blocked_connections.saturating_sub(1);
        if inner.long_blocked_connections == 0 && inner.state == SourceState::Blocked {
            let before = inner.before_blocked;
            inner.enter(before);
            inner.reason = None;
        }
    }

    /// Records the data that one wake-up of the socket has read. Returns a warning when the number of malformed or ignored
    /// frames reaches [`MANY_FRAMES`] and no event was read.
    pub(crate) fn read(&self, reading: Reading, at: Timestamp) -> Option<String> {
        let mut inner = self.lock();
        let lacked_events = inner.lacks_events();
        if let Some(period) = reading.received
            && reading.frames.total() > 0
        {
            inner.coverage.received(period.authenticated_at, period.until);
            inner.prove(Instant::now(), at);
        }
        inner.frames.merge(&reading.frames);
        inner.events += reading.events;
        inner.malformed += reading.malformed;
        inner.received_bytes += reading.bytes;
        inner.last_event = reading.last_event.or(inner.last_event);
        inner.platform_errors += reading.platform_errors;
        if reading.last_platform_error.is_some() {
            inner.last_platform_error = reading.last_platform_error;
        }
        if inner.events > 0 {
            inner.frames_without_event = 0;
        } else {
            let kinds = [FrameKind::Ignored, FrameKind::Unknown, FrameKind::NotJson];
            inner.frames_without_event += kinds.map(|kind| reading.frames.get(kind)).iter().sum::<u64>();
        }
        (inner.lacks_events() && !lacked_events).then(|| no_event(inner.frames_without_event))
    }

    /// Records the measured round trip of a ping.
    pub(crate) fn pong(&self, round_trip: Duration) {
        self.ping_rtt.observe(round_trip.as_secs_f64());
        self.lock().last_ping_rtt = Some(round_trip);
    }

    /// Records that a connection was closed with unread data of the server.
    pub(crate) fn disconnected_unread(&self) {
        self.lock().unread_disconnections += 1;
    }

    /// Records an attempt that failed before it was authenticated.
    pub(crate) fn attempt_failed(&self, outcome: ConnectionOutcome) {
        self.lock().outcomes.add(outcome, 1);
    }

    /// Records the start of the delay between two attempts. A refused token becomes the reason of an open gap, because the gap
    /// lasts until the token is replaced.
    pub(crate) fn waiting(&self, state: SourceState, reason: String) {
        let mut inner = self.lock();
        if inner.coverage.authenticated() > 0 {
            return;
        }
        if let (SourceState::Refused, Some((_, _, cause))) = (state, &mut inner.gap_began) {
            *cause = DisconnectReason::TokenRefused;
        }
        inner.enter(state);
        inner.reason = Some(reason.into());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing within the lock can panic half-way through an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns whether many frames were read and none was an event.
    const fn lacks_events(&self) -> bool {
        self.frames_without_event >= MANY_FRAMES
    }

    /// Changes the state. Keeps `since` at changes between states of an outage, such as failed attempts.
    fn enter(&mut self, state: SourceState) {
        let is_connected = |state| matches!(state, SourceState::Authenticated | SourceState::Blocked);
        let was_blocked = self.state == SourceState::Blocked;
        if is_connected(self.state) != is_connected(state) || was_blocked != (state == SourceState::Blocked) {
            self.since = clock::now();
        }
        self.state = state;
    }
}

fn no_event(frames: u64) -> String {
    format!(
        "none of the received frames is an event (received: {frames}): compare the rules of the declaration with the \
         frames of the feed (neurobridge check --frames)"
    )
}

#[cfg(test)]
mod tests;
