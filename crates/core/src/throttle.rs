//! Limits repeated log lines.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// The minimum time between two lines of a kind: short enough to show that the cause still exists.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of stored kinds. If there are more, the oldest kind is removed, and may be logged again at once.
const MAX_KINDS: usize = 64;

/// Allows one log line of each kind in an interval, and counts the suppressed ones.
#[derive(Debug, Default)]
pub struct Throttle {
    // At most `MAX_KINDS` lines, so a linear search is cheap.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    kind: String,
    last: Instant,
    suppressed: u64,
}

impl Throttle {
    /// Returns `Some` if a line of this kind may be written now, with the number of suppressed lines since the last
    /// written one (`None` for zero).
    pub fn allow(&mut self, kind: &str) -> Option<Option<NonZeroU64>> {
        let now = Instant::now();
        if let Some(line) = self.lines.iter_mut().find(|line| line.kind == kind) {
            if now.saturating_duration_since(line.last) < INTERVAL {
                line.suppressed += 1;
                return None;
            }
            line.last = now;
            return Some(NonZeroU64::new(std::mem::take(&mut line.suppressed)));
        }
        if self.lines.len() == MAX_KINDS {
            self.lines.remove(0);
        }
        self.lines.push(Line {
            kind: kind.to_owned(),
            last: now,
            suppressed: 0,
        });
        Some(None)
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

    #[test]
    fn number_of_remembered_kinds_is_bounded() {
        let mut throttle = Throttle::default();
        for kind in 0..=MAX_KINDS {
            assert_eq!(throttle.allow(&kind.to_string()), Some(None));
        }
        assert_eq!(throttle.lines.len(), MAX_KINDS);
    }
}
