//! Decides when to send a ping, and when a silent connection is dead.

use std::time::Duration;

use tokio::time::Instant;

/// The heartbeat of one connection.
///
/// The platform's pings have no payload, so answers can be matched only by counting. One ping at a time is
/// measured, so the state has a constant size for any number of unanswered pings.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    due: Instant,
    sent: u64,
    answered: u64,
    /// The time since which an answer is expected.
    waiting_since: Option<Instant>,
    /// The number of the measured ping, and the time at which it was sent.
    measured: Option<(u64, Instant)>,
}

impl Heartbeat {
    /// Creates a heartbeat whose first ping is due at once, so that a missing answer is detected early.
    pub(crate) const fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self {
            interval,
            timeout,
            due: now,
            sent: 0,
            answered: 0,
            waiting_since: None,
            measured: None,
        }
    }

    /// Makes the first ping due, because the connection is authenticated only now.
    pub(crate) const fn start(&mut self, now: Instant) {
        self.due = now;
    }

    /// Returns the time at which the next ping is due.
    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// Returns the time at which the connection is dead, unless an answer arrives. Must not be used during
    /// backpressure: then answers may be unread behind events.
    pub(crate) fn dead_at(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.timeout)
    }

    /// Records that a ping was sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.skip(now);
        self.sent += 1;
        self.waiting_since.get_or_insert(now);
        self.measured.get_or_insert((self.sent, now));
    }

    /// Records that a due ping was not sent, because the last one is not flushed yet.
    pub(crate) fn skip(&mut self, now: Instant) {
        self.due = now + self.interval;
    }

    /// Records an answer, and returns the round-trip time if its ping was measured.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Duration> {
        if self.answered == self.sent {
            // An answer without a ping.
            return None;
        }
        self.answered += 1;
        self.waiting_since = (self.answered < self.sent).then_some(now);
        let (number, sent_at) = self.measured?;
        if self.answered < number {
            return None;
        }
        self.measured = None;
        Some(now.saturating_duration_since(sent_at))
    }

    /// Records the end of a backpressure of this duration. The time does not count against the server, and a
    /// round trip that includes it is not measured.
    pub(crate) fn released(&mut self, held: Duration, now: Instant) {
        self.measured = None;
        if let Some(since) = &mut self.waiting_since {
            *since = (*since + held).min(now);
        }
    }

    /// Returns the time limit for an answer.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn pong_is_measured_and_keeps_the_connection() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(INTERVAL, TIMEOUT, start);
        assert_eq!((heartbeat.due(), heartbeat.dead_at()), (start, None));
        assert_eq!(heartbeat.answered(start), None, "an answer to nothing");
        heartbeat.sent(start);
        assert_eq!(heartbeat.due(), start + INTERVAL);
        assert_eq!(heartbeat.dead_at(), Some(start + TIMEOUT));
        let rtt = Duration::from_millis(30);
        assert_eq!(heartbeat.answered(start + rtt), Some(rtt));
        assert_eq!(heartbeat.dead_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_oldest_unanswered_ping() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(INTERVAL, TIMEOUT, start);
        heartbeat.sent(start);
        heartbeat.sent(start + INTERVAL);
        assert_eq!(heartbeat.dead_at(), Some(start + TIMEOUT));
        let late = start + Duration::from_secs(9);
        assert_eq!(heartbeat.answered(late), Some(Duration::from_secs(9)));
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
        let mut heartbeat = Heartbeat::new(INTERVAL, TIMEOUT, start);
        heartbeat.sent(start);
        let held = Duration::from_secs(3600);
        let released = start + Duration::from_secs(1) + held;
        heartbeat.released(held, released);
        assert_eq!(
            heartbeat.dead_at(),
            Some(start + held + TIMEOUT),
            "one second was its own"
        );
        assert_eq!(heartbeat.answered(released), None, "not measured");
        heartbeat.sent(released);
        let rtt = Duration::from_millis(1);
        assert_eq!(heartbeat.answered(released + rtt), Some(rtt));
        heartbeat.sent(released);
        heartbeat.released(held, released);
        assert_eq!(
            heartbeat.dead_at(),
            Some(released + TIMEOUT),
            "never judged from the future"
        );
    }
}
