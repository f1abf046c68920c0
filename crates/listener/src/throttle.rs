//! Keeps a log readable where the same thing happens again and again.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// Once a minute is enough to see that something still happens.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

/// Lets each kind of line through once an interval, and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    // As many as there are kinds, a few dozen words of the program's own: a search through them is cheap.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    kind: &'static str,
    last: Instant,
    suppressed: u64,
}

impl Throttle {
    /// Whether a line of this kind may be written now: then how many were not since the last one, if any.
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
