//! Limits repeated log lines.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// The minimum time between two lines of a kind: enough to show that the event still occurs.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

/// Allows one log line of each kind in an interval, and counts the suppressed ones.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    // One entry for each kind. The kinds are a few dozen constants of the program: a linear search is cheap.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    kind: &'static str,
    last: Instant,
    suppressed: u64,
}

impl Throttle {
    /// Returns `Some` if a line of this kind may be written now, with the number of suppressed lines since
    /// the last one.
    pub(crate) fn allow(&mut self, kind: &'static str) -> Option<Option<NonZeroU64>> {
        let now = Instant::now();
        let Some(line) = self.lines.iter_mut().find(|line| line.kind == kind) else {
            self.lines.push(Line {
                kind,
                last: now,
                suppressed: 0,
            });
            return Some(None);
        };
        if now.saturating_duration_since(line.last) < INTERVAL {
            line.suppressed += 1;
            return None;
        }
        line.last = now;
        Some(NonZeroU64::new(std::mem::take(&mut line.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeated_message_is_logged_once_per_interval() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.allow("a"), Some(None));
        for _ in 0..5 {
            assert_eq!(throttle.allow("a"), None);
        }
        assert_eq!(throttle.allow("b"), Some(None), "another kind");
        tokio::time::advance(INTERVAL).await;
        assert_eq!(throttle.allow("a"), Some(NonZeroU64::new(5)));
        assert_eq!(throttle.allow("a"), None);
    }
}
