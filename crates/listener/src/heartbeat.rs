//! Decides when to send a ping, and when a silent connection is dead.

use std::time::Duration;

use neurobridge_protocol::Pings;
use tokio::time::Instant;

use crate::error::Lost;

/// The time to the next ping of a feed without pings: longer than any connection.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The heartbeat of one connection.
///
/// Answers cannot be matched to pings by a payload, but only by counting. One ping at a time is measured, so the
/// state has a constant size for any number of unanswered pings.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pings: Pings,
    due: Instant,
    /// The last time at which frames were read; recorded only if frames are a proof of life.
    heard: Instant,
    sent: u64,
    answered: u64,
    /// The time since which an answer is expected.
    waiting_since: Option<Instant>,
    /// The number of the measured ping, and the time at which it was sent.
    measured: Option<(u64, Instant)>,
    /// The same of the ping whose answer proves what is read, also if reading pauses meanwhile.
    proving: Option<(u64, Instant)>,
}

/// An answer to a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The round-trip time, if it was measured.
    pub(crate) round_trip: Option<Duration>,
    /// The time of an answered ping: everything that the server sent before is read (*assumed*). `None` if that time is not known.
    pub(crate) pinged_at: Option<Instant>,
}

impl Heartbeat {
    /// Creates a heartbeat whose first ping is due at once, so that a missing answer is detected early.
    pub(crate) fn new(pings: Pings, now: Instant) -> Self {
        Self {
            pings,
            due: pings.interval.map_or(now + NEVER, |_| now),
            heard: now,
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

    /// Returns whether every frame is a proof of life, so that [`heard`](Self::heard) has to be called.
    pub(crate) const fn counts_frames(&self) -> bool {
        self.pings.idle_timeout.is_some() || self.pings.any_frame_answers
    }

    /// Records that frames were read.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
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

    /// Returns the time at which the connection is dead, unless an answer arrives. Must not be used during
    /// backpressure: then answers may be unread behind events.
    pub(crate) fn dead_at(&self) -> Option<Instant> {
        let unanswered = self.waiting_since.map(|since| since + self.pings.timeout);
        let idle = self.pings.idle_timeout.map(|timeout| self.heard + timeout);
        unanswered.into_iter().chain(idle).min()
    }

    /// Returns the reason why a dead connection ends.
    pub(crate) fn lost(&self) -> Lost {
        let is_unanswered = self
            .waiting_since
            .is_some_and(|since| self.dead_at() == Some(since + self.pings.timeout));
        match self.pings.idle_timeout {
            Some(timeout) if !is_unanswered => Lost::IdleTimeout { timeout },
            _ => Lost::PongTimeout {
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

    /// Records that a due ping was not sent, because the last one is not flushed yet.
    pub(crate) fn skip(&mut self, now: Instant) {
        self.due = now + self.pings.interval.unwrap_or(NEVER);
    }

    /// Records an answer.
    pub(crate) fn answered(&mut self, now: Instant) -> Answer {
        if self.answered == self.sent {
            // An answer without a ping.
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
            // A WebSocket library may answer ahead of the messages that the server has queued.
            pinged_at: sent_at(&mut self.proving).filter(|_| !self.pings.websocket),
        }
    }

    /// Records the end of a backpressure of this duration. The time does not count against the server, and a
    /// round trip that includes it is not measured.
    pub(crate) fn released(&mut self, held: Duration, now: Instant) {
        self.measured = None;
        self.heard = (self.heard + held).min(now);
        if let Some(since) = &mut self.waiting_since {
            *since = (*since + held).min(now);
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
    async fn any_frame_proves_life_without_a_declared_answer() {
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
        assert!(matches!(heartbeat.lost(), Lost::PongTimeout { .. }));
        let later = start + Duration::from_secs(1);
        heartbeat.heard(later);
        assert_eq!(heartbeat.dead_at(), Some(later + idle));
        assert!(matches!(heartbeat.lost(), Lost::IdleTimeout { .. }));
        heartbeat.released(idle * 2, later + idle * 2);
        assert_eq!(
            heartbeat.dead_at(),
            Some(later + idle * 3),
            "not the server's silence"
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
    async fn answer_to_a_websocket_ping_proves_nothing_about_events() {
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
    async fn pong_is_measured_and_keeps_the_connection() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PINGS, start);
        assert_eq!((heartbeat.due(), heartbeat.dead_at()), (start, None));
        assert_eq!(heartbeat.answered(start).round_trip, None, "an answer to nothing");
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
            "a ping not sent changes nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn backpressure_does_not_count_as_server_silence() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PINGS, start);
        heartbeat.sent(start);
        let held = Duration::from_secs(3600);
        let released = start + Duration::from_secs(1) + held;
        heartbeat.released(held, released);
        assert_eq!(
            heartbeat.dead_at(),
            Some(start + held + TIMEOUT),
            "one second was its own"
        );
        assert_eq!(heartbeat.answered(released).round_trip, None, "not measured");
        heartbeat.sent(released);
        let rtt = Duration::from_millis(1);
        assert_eq!(heartbeat.answered(released + rtt).round_trip, Some(rtt));
        heartbeat.sent(released);
        heartbeat.released(held, released);
        assert_eq!(
            heartbeat.dead_at(),
            Some(released + TIMEOUT),
            "never judged from the future"
        );
    }
}
