//! The `Heartbeat`: decides when to send a ping, and when a silent connection is dead.

use std::time::Duration;

use neurobridge_protocol::Pings;
use tokio::time::Instant;

use crate::error::ConnectionEnd;

/// The time to the next ping of a feed without pings. Longer than any connection stays open.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The heartbeat of one connection.
///
/// An answer has no payload that identifies its ping, so pings and answers are counted. One ping at a time is measured,
/// so the state has a constant size for any number of unanswered pings.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pings: Pings,
    /// The time of the next ping.
    due: Instant,
    /// The last time at which frames were read; recorded only if frames are a proof of life.
    frames_read_at: Instant,
    /// The number of pings that were sent.
    sent: u64,
    /// The number of pings that were answered.
    answered: u64,
    /// The time since which an answer is expected.
    waiting_since: Option<Instant>,
    /// The number of the measured ping, and the time at which it was sent.
    measured: Option<(u64, Instant)>,
    /// The number of a ping, and the time at which it was sent: its answer proves that everything that the server sent before
    /// that time is read. Unlike `measured`, stays when reading pauses.
    proving: Option<(u64, Instant)>,
}

/// An answer to a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The round-trip time, if it was measured.
    pub(crate) round_trip: Option<Duration>,
    /// The time at which an answered ping was sent: everything that the server sent before that time is read (*assumed*). `None`
    /// if that time is not known.
    pub(crate) pinged_at: Option<Instant>,
}

impl Heartbeat {
    /// Creates a heartbeat whose first ping is due at once, so that a missing answer is detected early.
    pub(crate) fn new(pings: Pings, now: Instant) -> Self {
        Self {
            pings,
            due: pings.interval.map_or(now + NEVER, |_| now),
            frames_read_at: now,
            sent: 0,
            answered: 0,
            waiting_since: None,
            measured: None,
            proving: None,
        }
    }

    /// Starts both time limits and makes the first ping due, because the connection is authenticated only now.
    pub(crate) fn start(&mut self, now: Instant) {
        *self = Self::new(self.pings, now);
    }

    /// Returns whether the pings are those of the WebSocket protocol.
    pub(crate) const fn uses_websocket(&self) -> bool {
        self.pings.websocket
    }

    /// Returns whether every frame is a proof of life, so that [`frames_read`](Self::frames_read) has to be called.
    pub(crate) const fn counts_frames(&self) -> bool {
        self.pings.idle_timeout.is_some() || self.pings.any_frame_answers
    }

    /// Records that frames were read.
    pub(crate) fn frames_read(&mut self, now: Instant) {
        self.frames_read_at = now;
        if self.pings.any_frame_answers {
            // Not measured: the frame may not be a reaction to the ping.
            self.answered = self.sent;
            (self.waiting_since, self.measured, self.proving) = (None, None, None);
        }
    }

    /// Returns the time at which the next ping is due.
    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// Returns whether an answer is expected.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// Returns the time at which the connection counts as dead, unless an answer or frame arrives. Must not be used during
    /// backpressure: the answer may be among the unread data, after events.
    pub(crate) fn dead_at(&self) -> Option<Instant> {
        let unanswered = self.waiting_since.map(|since| since + self.pings.timeout);
        let idle = self
            .pings
            .idle_timeout
            .map(|timeout| self.frames_read_at + timeout);
        unanswered.into_iter().chain(idle).min()
    }

    /// Returns the reason for which a dead connection is closed: the time limit that has passed.
    pub(crate) fn lost(&self) -> ConnectionEnd {
        let is_unanswered = self
            .waiting_since
            .is_some_and(|since| self.dead_at() == Some(since + self.pings.timeout));
        match self.pings.idle_timeout {
            Some(timeout) if !is_unanswered => ConnectionEnd::IdleTimeout { timeout },
            _ => ConnectionEnd::PongTimeout {
                timeout: self.pings.timeout,
            },
        }
    }

    /// Records that a ping was sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.skip(now);
        self.sent += 1;
        self.waiting_since.get_or_insert(now);
        self.measured.get_or_insert((self.sent, now));
        self.proving.get_or_insert((self.sent, now));
    }

    /// Records that a due ping was not sent, and schedules the next one.
    pub(crate) fn skip(&mut self, now: Instant) {
        self.due = now + self.pings.interval.unwrap_or(NEVER);
    }

    /// Records an answer.
    pub(crate) fn answered(&mut self, now: Instant) -> Answer {
        if self.answered == self.sent {
            // The server sent an answer without a ping.
            return Answer::default();
        }
        self.answered += 1;
        self.waiting_since = (self.answered < self.sent).then_some(now);
        let answered = self.answered;
        let sent_at = |ping: &mut Option<(u64, Instant)>| {
            ping.take_if(|(number, _)| answered >= *number)
                .map(|(_, sent_at)| sent_at)
        };
        Answer {
            round_trip: sent_at(&mut self.measured).map(|sent_at| now.saturating_duration_since(sent_at)),
            // A WebSocket library may answer a ping before it sends the messages that the server has queued.
            pinged_at: sent_at(&mut self.proving).filter(|_| !self.pings.websocket),
        }
    }

    /// Records the end of a pause in reading, such as backpressure, of this duration. The pause does not count against the
    /// server, and a round trip that includes the pause is not measured.
    pub(crate) fn reading_resumed(&mut self, paused_for: Duration, now: Instant) {
        self.measured = None;
        self.frames_read_at = (self.frames_read_at + paused_for).min(now);
        if let Some(since) = &mut self.waiting_since {
            *since = (*since + paused_for).min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(10);
    const PINGS: Pings = Pings {
        interval: Some(INTERVAL),
        timeout: TIMEOUT,
        idle_timeout: None,
        websocket: false,
        any_frame_answers: false,
    };

    #[tokio::test(start_paused = true)]
    async fn any_frame_proves_life_if_no_answer_is_declared() {
        let start = Instant::now();
        let idle = Duration::from_secs(30);
        let pings = Pings {
            idle_timeout: Some(idle),
            any_frame_answers: true,
            ..PINGS
        };
        let mut heartbeat = Heartbeat::new(pings, start);
        assert!(heartbeat.counts_frames());
        assert_eq!(heartbeat.dead_at(), Some(start + idle));
        heartbeat.sent(start);
        assert_eq!(heartbeat.dead_at(), Some(start + TIMEOUT));
        assert!(matches!(heartbeat.lost(), ConnectionEnd::PongTimeout { .. }));
        let later = start + Duration::from_secs(1);
        heartbeat.frames_read(later);
        assert_eq!(heartbeat.dead_at(), Some(later + idle));
        assert!(matches!(heartbeat.lost(), ConnectionEnd::IdleTimeout { .. }));
        heartbeat.reading_resumed(idle * 2, later + idle * 2);
        assert_eq!(
            heartbeat.dead_at(),
            Some(later + idle * 3),
            "the pause is no silence of the server"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn feed_without_pings_is_never_dead() {
        let start = Instant::now();
        let pings = Pings {
            interval: None,
            ..PINGS
        };
        let heartbeat = Heartbeat::new(pings, start);
        assert!(heartbeat.due() > start + Duration::from_secs(86_400 * 365));
        assert_eq!(heartbeat.dead_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn websocket_pong_does_not_prove_that_events_are_read() {
        let start = Instant::now();
        for websocket in [false, true] {
            let mut heartbeat = Heartbeat::new(Pings { websocket, ..PINGS }, start);
            heartbeat.sent(start);
            let answer = heartbeat.answered(start + TIMEOUT);
            assert_eq!(answer.pinged_at, (!websocket).then_some(start));
            assert_eq!(answer.round_trip, Some(TIMEOUT));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pong_is_measured_and_ends_the_wait_for_it() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PINGS, start);
        assert_eq!((heartbeat.due(), heartbeat.dead_at()), (start, None));
        assert_eq!(
            heartbeat.answered(start).round_trip,
            None,
            "an answer without a ping"
        );
        heartbeat.sent(start);
        assert_eq!(heartbeat.due(), start + INTERVAL);
        assert_eq!(heartbeat.dead_at(), Some(start + TIMEOUT));
        let rtt = Duration::from_millis(30);
        assert_eq!(heartbeat.answered(start + rtt).round_trip, Some(rtt));
        assert_eq!(heartbeat.dead_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_oldest_unanswered_ping() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PINGS, start);
        heartbeat.sent(start);
        heartbeat.sent(start + INTERVAL);
        assert_eq!(heartbeat.dead_at(), Some(start + TIMEOUT));
        let late = start + Duration::from_secs(9);
        assert_eq!(heartbeat.answered(late).round_trip, Some(Duration::from_secs(9)));
        assert_eq!(heartbeat.dead_at(), Some(late + TIMEOUT));
        heartbeat.skip(late);
        assert_eq!(
            heartbeat.dead_at(),
            Some(late + TIMEOUT),
            "a skipped ping changes nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn backpressure_does_not_count_as_server_silence() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PINGS, start);
        heartbeat.sent(start);
        let held = Duration::from_secs(3600);
        let released = start + Duration::from_secs(1) + held;
        heartbeat.reading_resumed(held, released);
        assert_eq!(
            heartbeat.dead_at(),
            Some(start + held + TIMEOUT),
            "the second before the pause counts against the server"
        );
        assert_eq!(heartbeat.answered(released).round_trip, None, "not measured");
        heartbeat.sent(released);
        let rtt = Duration::from_millis(1);
        assert_eq!(heartbeat.answered(released + rtt).round_trip, Some(rtt));
        heartbeat.sent(released);
        heartbeat.reading_resumed(held, released);
        assert_eq!(
            heartbeat.dead_at(),
            Some(released + TIMEOUT),
            "the wait does not begin in the future"
        );
    }
}
