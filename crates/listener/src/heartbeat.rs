//! When to ping, and when a silent connection is dead.

use std::time::Duration;

use tokio::time::Instant;

/// The heartbeat of one connection.
///
/// The platform's pings carry nothing, so an answer is told from another by counting only. One ping at a time is
/// measured; the state is of constant size however long a server stays silent.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    due: Instant,
    sent: u64,
    answered: u64,
    /// Since when an answer is owed.
    waiting_since: Option<Instant>,
    /// The number of the ping that is being measured, and when it was sent.
    measured: Option<(u64, Instant)>,
}

impl Heartbeat {
    /// Starts with the first ping due at once: whether answers come is known early.
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

    /// Makes the first ping due: the connection was authorised only now.
    pub(crate) const fn start(&mut self, now: Instant) {
        self.due = now;
    }

    /// When the next ping is to be sent.
    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// When the connection is to be taken for dead, unless an answer comes. Not to be asked while reading is held
    /// back: then answers wait unread behind events.
    pub(crate) fn dead_at(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.timeout)
    }

    /// A ping was sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.skip(now);
        self.sent += 1;
        self.waiting_since.get_or_insert(now);
        self.measured.get_or_insert((self.sent, now));
    }

    /// No ping could be sent: the last one has not left yet.
    pub(crate) fn skip(&mut self, now: Instant) {
        self.due = now + self.interval;
    }

    /// An answer was read; the round trip, where this one was measured.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Duration> {
        if self.answered == self.sent {
            // Nobody asked for it.
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

    /// Reading was held back for so long, until now: that time is not held against the server, and a round trip that
    /// it was part of says nothing.
    pub(crate) fn released(&mut self, held: Duration, now: Instant) {
        self.measured = None;
        if let Some(since) = &mut self.waiting_since {
            *since = (*since + held).min(now);
        }
    }

    /// How long an answer may take.
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
