//! Counts the messages in librdkafka's queue, and decides whether another one may be sent.
//!
//! The sink does not rely on librdkafka's own count: librdkafka frees the room of a message only after it has reported the
//! outcome. A message that is published in between could be rejected while nothing is in flight, and no outcome would trigger a
//! retry.

use neurobridge_core::{event::Sequence, sink::Ack};
use tokio::time::Instant;

use crate::properties::QueueBounds;

/// The messages that were sent and have no outcome yet. An empty queue is never full.
#[derive(Debug)]
pub(super) struct InFlight {
    bounds: QueueBounds,
    messages: usize,
    /// The total size of the messages' bodies, in bytes.
    bytes: usize,
    is_full: bool,
    /// The time of the last acknowledgement, or of the first message sent while nothing was in flight.
    progress: Instant,
    /// The highest sequence that was added.
    highest: u64,
    oldest: Oldest,
}

/// Bounds the age of the oldest message in constant time: records the highest sequence in flight at a moment and counts the
/// messages up to it that have no outcome. When all of them have one, a new moment is recorded.
#[derive(Clone, Copy, Debug)]
struct Oldest {
    at: Instant,
    /// The highest sequence at that moment.
    highest: u64,
    left: usize,
}

impl InFlight {
    pub(super) fn new(bounds: QueueBounds) -> Self {
        Self {
            bounds,
            messages: 0,
            bytes: 0,
            is_full: false,
            progress: Instant::now(),
            highest: 0,
            oldest: Oldest {
                at: Instant::now(),
                highest: 0,
                left: 0,
            },
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Returns whether the queue is full. Once full, it stays full until a quarter is free, because accepting one message for
    /// each report would cause a wake-up for each.
    pub(super) fn is_full(&mut self) -> bool {
        let is_beyond = |part: fn(usize) -> usize| {
            self.messages >= part(self.bounds.messages).max(1) || self.bytes >= part(self.bounds.bytes)
        };
        self.is_full = is_beyond(|whole| whole) || self.is_full && is_beyond(|whole| whole - whole / 4);
        self.is_full
    }

    /// Returns whether a body of this many bytes fits; if not, marks the queue as full.
    pub(super) const fn fits(&mut self, body: usize) -> bool {
        if self.messages > 0 && self.bytes + body > self.bounds.bytes {
            self.is_full = true;
            return false;
        }
        true
    }

    /// Adds a message that was sent, with the size of its body in bytes.
    pub(super) fn add(&mut self, sequence: Sequence, body: usize) {
        let is_first = self.is_empty();
        self.highest = self.highest.max(sequence.get());
        self.messages += 1;
        self.bytes += body;
        if is_first {
            self.progress = Instant::now();
            self.restart_oldest();
        }
    }

    /// Removes the messages that have outcomes, with the total size of their bodies in bytes.
    pub(super) fn settle(&mut self, acks: &[Ack], bytes: usize) {
        self.messages = self.messages.saturating_sub(acks.len());
        self.bytes = self.bytes.saturating_sub(bytes);
        self.progress = Instant::now();
        let highest = self.oldest.highest;
        let old = acks.iter().filter(|ack| ack.sequence.get() <= highest);
        self.oldest.left = self.oldest.left.saturating_sub(old.count());
        if self.oldest.left == 0 {
            self.restart_oldest();
        }
    }

    fn restart_oldest(&mut self) {
        self.oldest = Oldest {
            at: self.progress,
            highest: self.highest,
            left: self.messages,
        };
    }

    /// Removes all messages, after they were aborted.
    pub(super) const fn clear(&mut self) {
        (self.messages, self.bytes) = (0, 0);
        self.oldest.left = 0;
    }

    /// Returns the time since which the messages in the queue have been waiting for an acknowledgement.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.progress)
    }

    /// Returns a time at which the oldest message was in the queue already; the message may have been added earlier.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.oldest.at)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use proptest::prelude::*;

    use neurobridge_core::sink::Outcome;
    use tokio::time::advance;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    fn acks(numbers: impl IntoIterator<Item = u64>) -> Vec<Ack> {
        let ack = |number| Ack {
            sequence: sequence(number),
            outcome: Outcome::Delivered,
        };
        numbers.into_iter().map(ack).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn age_of_the_oldest_message_is_not_hidden_by_later_ones() {
        let mut in_flight = InFlight::new(QueueBounds {
            bytes: 100,
            messages: 100,
        });
        let begin = Instant::now();
        in_flight.add(sequence(1), 0);
        for number in 2..10 {
            advance(Duration::from_secs(1)).await;
            in_flight.add(sequence(number), 0);
            in_flight.settle(&acks([number]), 0);
        }
        assert_eq!(in_flight.oldest_since(), Some(begin));
        assert_eq!(in_flight.waiting_since(), Some(Instant::now()));
        in_flight.add(sequence(10), 0);
        in_flight.settle(&acks([1]), 0);
        assert_eq!(in_flight.oldest_since(), Some(Instant::now()));
        in_flight.settle(&acks([10]), 0);
        assert_eq!(in_flight.oldest_since(), None);
    }

    proptest! {
        #[test]
        fn queue_is_bounded_and_accepts_any_message_when_empty(
            steps in proptest::collection::vec((0usize..150, any::<bool>()), 1..200),
        ) {
            let bounds = QueueBounds { bytes: 100, messages: 5 };
            let mut in_flight = InFlight::new(bounds);
            let mut sent = VecDeque::new();
            for (body, is_outcome) in steps {
                if is_outcome {
                    if let Some(body) = sent.pop_front() {
                        in_flight.settle(&acks([1]), body);
                    }
                } else if !in_flight.is_full() && in_flight.fits(body) {
                    in_flight.add(sequence(1), body);
                    sent.push_back(body);
                } else {
                    prop_assert!(!sent.is_empty(), "an outcome will come");
                }
                prop_assert!(sent.len() <= bounds.messages);
                // A single message may be larger than the queue: the limit of its topic rejects it before.
                prop_assert!(sent.len() == 1 || sent.iter().sum::<usize>() <= bounds.bytes);
                prop_assert_eq!(in_flight.waiting_since().is_some(), !sent.is_empty());
            }
        }
    }

    #[test]
    fn full_queue_accepts_when_a_quarter_is_free() {
        let mut in_flight = InFlight::new(QueueBounds {
            bytes: 100,
            messages: 8,
        });
        for _ in 0..8 {
            assert!(!in_flight.is_full() && in_flight.fits(10));
            in_flight.add(sequence(1), 10);
        }
        assert!(in_flight.is_full());
        in_flight.settle(&acks([1, 1]), 20);
        assert!(in_flight.is_full(), "six of eight are three quarters");
        in_flight.settle(&acks([1]), 10);
        assert!(!in_flight.is_full());
        // The queue is also full when its bytes are exceeded.
        assert!(
            !in_flight.fits(51) && !in_flight.is_full(),
            "50 are less than three quarters"
        );
        in_flight.clear();
        assert!(!in_flight.is_full() && in_flight.fits(1_000));
    }
}
