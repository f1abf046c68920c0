//! Decides for how long a socket rests, that is, is not read after a read, so that several messages share one wake-up.

use std::time::Duration;

use tokio::time::Instant;

/// The number of bytes that may wait in the socket during a rest, at the rate of the last read. Less than the smallest common
/// receive window, 64 KiB, so that the server has to wait only after a sudden burst, and only until the rest ends.
const MAX_WAITING: u64 = 32 << 10;
/// The shortest rest. The timer of the runtime counts milliseconds.
pub(crate) const LEAST_REST: Duration = Duration::from_millis(2);
/// The least number of messages to expect during a rest. With fewer messages, the timer costs more than the rest saves.
const LEAST_SHARED: u32 = 2;

/// The amount of data that was read in one wake-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub(super) messages: usize,
    pub(super) bytes: u64,
    /// Whether no more data was available.
    pub(super) is_dry: bool,
}

/// Measures the rate at which messages and bytes arrive, between two times at which all available data was read.
#[derive(Debug)]
pub(super) struct Pace {
    /// The last time at which all available data was read.
    dry_at: Instant,
    messages: usize,
    bytes: u64,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            dry_at: now,
            messages: 0,
            bytes: 0,
        }
    }

    /// Records the amount that was read. Returns the end of the rest; `None` without a rest, so that the socket is read as soon
    /// as data arrives. `interval` is the longest rest.
    pub(super) fn rest(&mut self, interval: Duration, read: Amount, now: Instant) -> Option<Instant> {
        self.messages += read.messages;
        self.bytes += read.bytes;
        if !read.is_dry {
            return None;
        }
        let elapsed = now.saturating_duration_since(self.dry_at);
        let messages = u32::try_from(self.messages).unwrap_or(u32::MAX);
        let bytes = self.bytes.max(1);
        *self = Self::new(now);
        let rest = interval.min(elapsed.mul_f64(MAX_WAITING as f64 / bytes as f64));
        let is_shared = rest.saturating_mul(messages) >= elapsed.saturating_mul(LEAST_SHARED);
        (rest >= LEAST_REST && is_shared).then(|| now + rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the rest of a socket in milliseconds, at `rate` messages of 600 bytes a second.
    fn rest(interval: u64, rate: u64) -> u128 {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut rest = Duration::ZERO;
        for _ in 0..10 {
            // Without a rest, each message is read alone.
            let elapsed = rest.max(Duration::from_secs(1) / rate as u32);
            now += elapsed;
            let messages = (elapsed.as_micros() as u64 * rate).div_ceil(1_000_000);
            let amount = Amount {
                messages: messages as usize,
                bytes: messages * 600,
                is_dry: true,
            };
            let until = pace.rest(Duration::from_millis(interval), amount, now);
            rest = until.map_or(Duration::ZERO, |until| until - now);
        }
        rest.as_millis()
    }

    #[test]
    fn socket_rests_only_if_messages_share_the_wake_up() {
        assert_eq!(rest(4, 10), 0);
        assert_eq!(rest(4, 400), 0);
        assert_eq!(rest(4, 1000), 4);
        assert_eq!(rest(4, 10_000), 4);
        assert_eq!(rest(0, 1000), 0, "no interval");
        assert_eq!(rest(50, 30), 0);
        assert_eq!(rest(50, 50), 50);
    }

    #[test]
    fn rest_is_bounded_by_the_waiting_bytes() {
        assert_eq!(rest(50, 1000), 50);
        assert_eq!(rest(50, 10_000), 5, "32 KiB");
        assert_eq!(rest(4, 100_000), 0, "shorter than the timer can measure");
    }

    #[test]
    fn unread_data_is_read_without_a_rest() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let mut read = |is_dry, after: u64| {
            let amount = Amount {
                messages: 10,
                bytes: 6000,
                is_dry,
            };
            let now = now + Duration::from_millis(after);
            let until = pace.rest(Duration::from_millis(50), amount, now);
            until.map(|until| (until - now).as_millis())
        };
        assert_eq!(read(false, 20), None);
        assert_eq!(read(false, 20), None);
        // The rate is that of all three reads together, within 20 ms.
        assert_eq!(read(true, 20), Some(36));
    }
}
