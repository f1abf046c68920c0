//! What a source can say of itself, for metrics and `/status`.

mod labels;

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

pub use self::labels::{
    ConnectionCounts, ConnectionOutcome, Counts, DisconnectCounts, DisconnectReason, FrameCounts, FrameKind,
    GapCounts, GapOutcome, Label, SourceState,
};

/// How many of the newest gaps are remembered, to be shown.
const GAPS_KEPT: usize = 8;
const HELD_BACK: &str = "reading is held back: whoever takes the events has no room (a full spool, mostly)";

/// The state and the counters of a source, shared by it and whoever shows them.
///
/// Written once a batch and at changes of state, so that a lock is cheap; read at any time.
#[derive(Debug)]
pub struct SourceStats {
    inner: Mutex<Inner>,
    ping_rtt: Histogram,
}

/// What a source had to say at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceSnapshot {
    /// What it does.
    pub state: SourceState,
    /// Why it is not authorised, or reads nothing: a sentence. `None` when all is well.
    pub reason: Option<String>,
    /// Since when it is connected, or not connected. Attempts in between change nothing, so that the length of an outage can be
    /// read here.
    pub since: Timestamp,
    /// WebSocket connections opened so far.
    pub connections: u64,
    /// WebSocket connections open now: 0 or 1.
    pub open_connections: u64,
    /// When the last event was read.
    pub last_event: Option<Timestamp>,
    /// Attempts to connect, by how they ended.
    pub outcomes: ConnectionCounts,
    /// Connections that ended, by reason.
    pub disconnections: DisconnectCounts,
    /// How many of them ended before all that the server had sent was read.
    pub unread_disconnections: u64,
    /// Frames read, by kind.
    pub frames: FrameCounts,
    /// Bytes of payload of the text and binary frames read.
    pub received_bytes: u64,
    /// Round trips of pings, in seconds.
    pub ping_rtt: histogram::Snapshot,
    /// The last of them.
    pub last_ping_rtt: Option<Duration>,
    /// How long reading was held back, with the time that it is being held back now.
    pub blocked: Duration,
    /// Gaps that are over.
    pub gaps: GapCounts,
    /// The time within gaps, with the one that is open now.
    pub gap_time: Duration,
    /// How long the gap lasts that is open now.
    pub open_gap: Option<Duration>,
    /// The start of the gap that is open now, and the reason for which the connection ended.
    pub open_gap_began: Option<(Timestamp, DisconnectReason)>,
    /// The time of the first authorised connection.
    pub first_authorised: Option<Timestamp>,
    /// The last time at which the feed was known to work: the last byte that was read of an authorised connection. What the
    /// platform sent before it was received.
    pub proof_of_life: Option<Timestamp>,
    /// The newest gaps that are over, the newest first.
    pub newest_gaps: Vec<Gap>,
    /// Our clock minus the platform's in seconds, by the `Date` header of its answer to the upgrade, and so known to
    /// a second only. `None` while no answer had one.
    pub clock_skew_seconds: Option<f64>,
    /// `{"error":…}` frames after authorisation.
    pub platform_errors: u64,
    /// The last of them, shortened.
    pub last_platform_error: Option<String>,
}

/// A time without an authorised connection, between two that were.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// When the connection was lost.
    pub began: Timestamp,
    /// How long it took until the next one was authorised.
    pub length: Duration,
    /// Why the connection had ended.
    pub reason: DisconnectReason,
}

#[derive(Debug)]
struct Inner {
    state: SourceState,
    reason: Option<Cow<'static, str>>,
    since: Timestamp,
    connections: u64,
    open: bool,
    last_event: Option<Timestamp>,
    outcomes: ConnectionCounts,
    disconnections: DisconnectCounts,
    unread_disconnections: u64,
    frames: FrameCounts,
    received_bytes: u64,
    blocked: Stopwatch,
    /// The state to return to when reading goes on.
    before_blocked: SourceState,
    gaps: GapCounts,
    gap: Stopwatch,
    gap_began: Option<(Timestamp, Instant, DisconnectReason)>,
    first_authorised: Option<Timestamp>,
    proof_of_life: Option<Timestamp>,
    newest_gaps: VecDeque<Gap>,
    last_ping_rtt: Option<Duration>,
    clock_skew_seconds: Option<f64>,
    platform_errors: u64,
    last_platform_error: Option<String>,
}

/// What one wake-up of the socket adds to the counters.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) frames: FrameCounts,
    pub(crate) bytes: u64,
    pub(crate) last_event: Option<Timestamp>,
    pub(crate) platform_errors: u64,
    pub(crate) last_platform_error: Option<String>,
}

impl Reading {
    pub(crate) fn has_event(&self) -> bool {
        self.frames.get(FrameKind::Event) > 0
    }
}

impl SourceStats {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                state: SourceState::Dialling,
                reason: None,
                since: clock::now(),
                connections: 0,
                open: false,
                last_event: None,
                outcomes: ConnectionCounts::default(),
                disconnections: DisconnectCounts::default(),
                unread_disconnections: 0,
                frames: FrameCounts::default(),
                received_bytes: 0,
                blocked: Stopwatch::default(),
                before_blocked: SourceState::Dialling,
                gaps: GapCounts::default(),
                gap: Stopwatch::default(),
                gap_began: None,
                first_authorised: None,
                proof_of_life: None,
                newest_gaps: VecDeque::new(),
                last_ping_rtt: None,
                clock_skew_seconds: None,
                platform_errors: 0,
                last_platform_error: None,
            }),
            ping_rtt: Histogram::default(),
        }
    }

    /// All of it, as it is now.
    pub fn snapshot(&self) -> SourceSnapshot {
        let now = Instant::now();
        let inner = self.lock();
        SourceSnapshot {
            state: inner.state,
            reason: inner.reason.as_deref().map(str::to_owned),
            since: inner.since,
            connections: inner.connections,
            open_connections: inner.open.into(),
            last_event: inner.last_event,
            outcomes: inner.outcomes,
            disconnections: inner.disconnections,
            unread_disconnections: inner.unread_disconnections,
            frames: inner.frames,
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
            first_authorised: inner.first_authorised,
            proof_of_life: inner.proof_of_life,
            newest_gaps: inner.newest_gaps.iter().cloned().collect(),
            clock_skew_seconds: inner.clock_skew_seconds,
            platform_errors: inner.platform_errors,
            last_platform_error: inner.last_platform_error.clone(),
        }
    }

    /// A new attempt: the reason of the last failure stays until it succeeds.
    pub(crate) fn dialling(&self) {
        self.lock().enter(SourceState::Dialling);
    }

    pub(crate) fn authorising(&self, clock_skew_seconds: Option<f64>) {
        let mut inner = self.lock();
        inner.enter(SourceState::Authorising);
        inner.connections += 1;
        inner.open = true;
        if clock_skew_seconds.is_some() {
            inner.clock_skew_seconds = clock_skew_seconds;
        }
    }

    /// Returns the length of the gap that ends, if there was one.
    pub(crate) fn authorised(&self) -> Option<Duration> {
        let mut inner = self.lock();
        inner.enter(SourceState::Authorised);
        inner.reason = None;
        inner.outcomes.add(ConnectionOutcome::Authorised, 1);
        let time = clock::now();
        inner.first_authorised.get_or_insert(time);
        inner.proof_of_life = Some(time);
        let now = Instant::now();
        if inner.gap.stop(now) {
            inner.gaps.add(GapOutcome::Unrecovered, 1);
        }
        inner.close_gap(now)
    }

    /// There is no room. A moment of it is counted and nothing else: a busy feed has many.
    pub(crate) fn held_back(&self) {
        self.lock().blocked.start(Instant::now());
    }

    /// There has been no room for long.
    pub(crate) fn held_back_for_long(&self) {
        let mut inner = self.lock();
        inner.before_blocked = inner.state;
        inner.enter(SourceState::Blocked);
        inner.reason = Some(HELD_BACK.into());
    }

    /// There is room again.
    pub(crate) fn released(&self) {
        let mut inner = self.lock();
        inner.blocked.stop(Instant::now());
        if inner.state == SourceState::Blocked {
            let before = inner.before_blocked;
            inner.enter(before);
            inner.reason = None;
        }
    }

    pub(crate) fn read(&self, reading: Reading, at: Timestamp) {
        let mut inner = self.lock();
        if inner.is_connected() && reading.frames.total() > 0 {
            inner.proof_of_life = Some(at);
        }
        inner.frames.merge(&reading.frames);
        inner.received_bytes += reading.bytes;
        inner.last_event = reading.last_event.or(inner.last_event);
        inner.platform_errors += reading.platform_errors;
        if reading.last_platform_error.is_some() {
            inner.last_platform_error = reading.last_platform_error;
        }
    }

    pub(crate) fn pong(&self, round_trip: Duration) {
        self.ping_rtt.observe(round_trip.as_secs_f64());
        self.lock().last_ping_rtt = Some(round_trip);
    }

    /// An open connection ended. One that was authorised begins a gap, unless the source is being stopped: at `last_read`,
    /// when the last byte was read of it. Whatever the server has sent since then is missed, however late the loss is noticed.
    pub(crate) fn disconnected(&self, reason: DisconnectReason, last_read: Option<Instant>) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.open = false;
        inner.disconnections.add(reason, 1);
        inner.blocked.stop(now);
        let Some(last_read) = last_read else {
            return;
        };
        let unnoticed = now.saturating_duration_since(last_read);
        let began = clock::now().checked_sub(unnoticed).unwrap_or(Timestamp::MIN);
        inner.proof_of_life = Some(began);
        if reason != DisconnectReason::Stopped {
            inner.gap.start(last_read);
            inner.gap_began.get_or_insert((began, last_read, reason));
        }
    }

    /// A connection is given up with data of the server unread.
    pub(crate) fn disconnected_unread(&self) {
        self.lock().unread_disconnections += 1;
    }

    /// An attempt failed before it was authorised.
    pub(crate) fn attempt_failed(&self, outcome: ConnectionOutcome) {
        self.lock().outcomes.add(outcome, 1);
    }

    /// The time between two attempts begins.
    pub(crate) fn waiting(&self, state: SourceState, reason: String) {
        let mut inner = self.lock();
        inner.enter(state);
        inner.reason = Some(reason.into());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing within the lock can panic half-way through an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The oldest of the gaps goes when there are too many.
    fn close_gap(&mut self, now: Instant) -> Option<Duration> {
        let (began, since, reason) = self.gap_began.take()?;
        let length = now.saturating_duration_since(since);
        if self.newest_gaps.len() == GAPS_KEPT {
            self.newest_gaps.pop_back();
        }
        self.newest_gaps.push_front(Gap {
            began,
            length,
            reason,
        });
        Some(length)
    }

    const fn is_connected(&self) -> bool {
        matches!(self.state, SourceState::Authorised | SourceState::Blocked)
    }

    fn enter(&mut self, state: SourceState) {
        let is_connected = |state| matches!(state, SourceState::Authorised | SourceState::Blocked);
        let was_blocked = self.state == SourceState::Blocked;
        if is_connected(self.state) != is_connected(state) || was_blocked != (state == SourceState::Blocked) {
            self.since = clock::now();
        }
        self.state = state;
    }
}

/// Adds up spans of time.
#[derive(Debug, Default)]
struct Stopwatch {
    sum: Duration,
    running_since: Option<Instant>,
}

impl Stopwatch {
    fn start(&mut self, now: Instant) {
        self.running_since.get_or_insert(now);
    }

    /// Whether it was running.
    fn stop(&mut self, now: Instant) -> bool {
        self.sum = self.elapsed(now);
        self.running_since.take().is_some()
    }

    fn elapsed(&self, now: Instant) -> Duration {
        let running = self
            .running_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.sum + running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gap_lasts_until_the_next_authorised_connection() {
        let stats = SourceStats::new();
        stats.authorising(None);
        stats.disconnected(DisconnectReason::AuthTimeout, None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stats.snapshot().gap_time, Duration::ZERO);
        stats.authorising(None);
        stats.authorised();
        assert_eq!(stats.snapshot().gaps.total(), 0);
        stats.disconnected(DisconnectReason::Closed, Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(
            stats.snapshot().gap_time,
            Duration::from_secs(2),
            "the open gap counts"
        );
        assert_eq!(stats.snapshot().open_gap, Some(Duration::from_secs(2)));
        stats.dialling();
        stats.authorising(Some(0.5));
        stats.disconnected(DisconnectReason::TokenRefused, None);
        tokio::time::advance(Duration::from_secs(3)).await;
        stats.authorising(None);
        stats.authorised();
        tokio::time::advance(Duration::from_secs(4)).await;
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.gap_time, Duration::from_secs(5));
        assert_eq!(snapshot.gaps.get(GapOutcome::Unrecovered), 1);
        assert_eq!(snapshot.open_gap, None);
        let [gap] = &snapshot.newest_gaps[..] else {
            panic!("{:?}", snapshot.newest_gaps)
        };
        assert_eq!(
            (gap.length, gap.reason),
            (Duration::from_secs(5), DisconnectReason::Closed),
            "the reason is that of the first loss"
        );
        assert_eq!((snapshot.connections, snapshot.open_connections), (4, 1));
        assert_eq!(snapshot.clock_skew_seconds, Some(0.5));
    }

    #[tokio::test(start_paused = true)]
    async fn proof_of_life_is_the_last_byte_of_a_connection() {
        let stats = SourceStats::new();
        let reading = || {
            let mut reading = Reading::default();
            reading.frames.add(FrameKind::Event, 1);
            reading
        };
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        stats.read(reading(), time("2026-01-01T00:00:00Z"));
        assert_eq!(stats.snapshot().proof_of_life, None, "not authorised yet");
        stats.authorising(None);
        stats.authorised();
        let authorised = stats.snapshot().proof_of_life.unwrap();
        assert_eq!(stats.snapshot().first_authorised, Some(authorised));
        stats.read(Reading::default(), time("2026-01-01T00:00:01Z"));
        assert_eq!(
            stats.snapshot().proof_of_life,
            Some(authorised),
            "nothing was read"
        );
        stats.read(reading(), time("2026-01-01T00:00:02Z"));
        assert_eq!(stats.snapshot().proof_of_life, Some(time("2026-01-01T00:00:02Z")));
        let last_read = Instant::now();
        tokio::time::advance(Duration::from_secs(60)).await;
        stats.disconnected(DisconnectReason::Stopped, Some(last_read));
        let snapshot = stats.snapshot();
        let ago = clock::now().duration_since(snapshot.proof_of_life.unwrap());
        assert!((60..70).contains(&ago.as_secs()), "{ago:?}");
        assert_eq!((snapshot.open_gap, snapshot.open_gap_began), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn gap_begins_at_the_last_byte_that_was_read() {
        let stats = SourceStats::new();
        stats.authorising(None);
        assert_eq!(stats.authorised(), None);
        let last_read = Instant::now();
        tokio::time::advance(Duration::from_secs(12)).await;
        stats.disconnected(DisconnectReason::PongTimeout, Some(last_read));
        assert_eq!(stats.snapshot().open_gap, Some(Duration::from_secs(12)));
        tokio::time::advance(Duration::from_secs(8)).await;
        assert_eq!(stats.authorised(), Some(Duration::from_secs(20)));
        assert_eq!(stats.snapshot().gap_time, Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_in_vain_do_not_change_since_when_a_source_is_down() {
        let stats = SourceStats::new();
        let down_since = stats.snapshot().since;
        for _ in 0..3 {
            while clock::now() <= down_since {
                std::hint::spin_loop();
            }
            stats.dialling();
            stats.authorising(None);
            stats.waiting(SourceState::Refused, "refused".into());
            assert_eq!(stats.snapshot().since, down_since);
        }
        stats.authorised();
        assert!(stats.snapshot().since > down_since);
    }

    #[tokio::test(start_paused = true)]
    async fn newest_gaps_are_kept() {
        let stats = SourceStats::new();
        for second in 0..20 {
            stats.authorised();
            stats.disconnected(DisconnectReason::Broken, Some(Instant::now()));
            tokio::time::advance(Duration::from_secs(second)).await;
        }
        stats.authorised();
        let lengths: Vec<u64> = stats
            .snapshot()
            .newest_gaps
            .iter()
            .map(|gap| gap.length.as_secs())
            .collect();
        assert_eq!(lengths, [19, 18, 17, 16, 15, 14, 13, 12]);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_is_no_gap_and_blocked_time_is_counted() {
        let stats = SourceStats::new();
        stats.authorised();
        stats.held_back();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(stats.snapshot().blocked, Duration::from_secs(2));
        assert_eq!(stats.snapshot().state, SourceState::Authorised);
        stats.held_back_for_long();
        assert_eq!(stats.snapshot().state, SourceState::Blocked);
        stats.released();
        tokio::time::advance(Duration::from_secs(2)).await;
        stats.disconnected(DisconnectReason::Stopped, Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        let snapshot = stats.snapshot();
        assert_eq!(
            (snapshot.blocked, snapshot.gap_time),
            (Duration::from_secs(2), Duration::ZERO)
        );
        assert_eq!(snapshot.state, SourceState::Authorised);
    }
}
