//! The messages that were logged recently. librdkafka reports each error twice, and again at every attempt.

use std::time::{Duration, Instant};

use crate::error::without_state;

/// The time for which a message is not logged again.
const SUPPRESSED_FOR: Duration = Duration::from_secs(30);
/// The maximum number of stored messages. If it is exceeded, the oldest one is removed and may be logged again.
const MAX_TEXTS: usize = 32;

/// The messages that were logged within the last [`SUPPRESSED_FOR`].
#[derive(Debug, Default)]
pub(crate) struct RecentTexts(Vec<(String, Instant)>);

impl RecentTexts {
    /// Adds a message. Returns whether the message is new, so that it has to be logged.
    pub(crate) fn insert(&mut self, text: &str) -> bool {
        // The text about the connection's state differs from one report to the next.
        let text = without_state(text);
        let now = Instant::now();
        self.0.retain(|(_, at)| now.duration_since(*at) < SUPPRESSED_FOR);
        if self.0.iter().any(|(logged, _)| logged == text) {
            return false;
        }
        if self.0.len() == MAX_TEXTS {
            self.0.remove(0);
        }
        self.0.push((text.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_messages_are_logged_once_and_the_memory_is_bounded() {
        let mut texts = RecentTexts::default();
        assert!(texts.insert("b1: Connection refused (after 0ms in state CONNECT)"));
        assert!(!texts.insert("b1: Connection refused (after 0ms in state CONNECT)"));
        assert!(
            !texts.insert(
                "b1: Connection refused (after 1ms in state CONNECT, 4 identical error(s) suppressed)"
            )
        );
        for other in 0..MAX_TEXTS {
            assert!(texts.insert(&format!("other {other}")));
        }
        assert_eq!(texts.0.len(), MAX_TEXTS);
    }
}
