//! The messages in flight: sent and not acknowledged.

use std::collections::VecDeque;

use neurobridge_core::event::Sequence;
use tokio::time::Instant;

/// A sent message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The sequence of the event.
    pub(crate) sequence: Sequence,
    pub(crate) at: Instant,
    pub(crate) role: Role,
    /// The length of the subject in bytes.
    pub(crate) subject_bytes: usize,
    /// The stream sequence of the last message that was acknowledged before this one was sent.
    pub(crate) after: u64,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// An event in a chain; `place` is the stream sequence with which it will be stored, see [`chain`](crate::chain).
    Chained { place: u64 },
    /// An event outside of a chain.
    Free,
    /// A dead letter, stored in another stream.
    DeadLetter,
}

impl Role {
    /// Returns whether the message is part of the chain of strict order.
    pub(crate) const fn is_chained(self) -> bool {
        matches!(self, Self::Chained { .. })
    }
}

/// The messages in the order in which they were sent. Each message has a number, with which its reply subject ends.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// `None` for an acknowledged message after an unacknowledged one.
    sent: VecDeque<Option<Sent>>,
    /// The number of the first element of `sent`.
    first: u64,
    count: usize,
}

impl InFlight {
    /// Returns the number of unacknowledged messages.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Returns the number of the next message.
    pub(crate) fn next_number(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    /// Adds the next message.
    pub(crate) fn push(&mut self, sent: Sent) {
        self.sent.push_back(Some(sent));
        self.count += 1;
    }

    /// Returns the message with this number, unless it is acknowledged.
    pub(crate) fn get(&self, number: u64) -> Option<&Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get(index)?.as_ref()
    }

    /// Removes the message with this number; `None` if it was acknowledged before.
    pub(crate) fn take(&mut self, number: u64) -> Option<Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sent = self.sent.get_mut(index)?.take()?;
        self.count -= 1;
        self.trim();
        Some(sent)
    }

    /// Removes all messages before this number for which `wanted` returns true, in order.
    pub(crate) fn take_before(
        &mut self,
        number: u64,
        wanted: impl Fn(&Sent) -> bool,
        mut taken: impl FnMut(Sent),
    ) {
        let end = number.saturating_sub(self.first).min(self.sent.len() as u64) as usize;
        for slot in self.sent.range_mut(..end) {
            if let Some(sent) = slot.take_if(|sent| wanted(sent)) {
                self.count -= 1;
                taken(sent);
            }
        }
        self.trim();
    }

    /// Returns the length in bytes of the longest subject of an unacknowledged event.
    pub(crate) fn longest_subject(&self) -> Option<usize> {
        let events = self
            .sent
            .iter()
            .flatten()
            .filter(|sent| sent.role != Role::DeadLetter);
        events.map(|sent| sent.subject_bytes).max()
    }

    /// Returns the oldest unacknowledged message.
    pub(crate) fn oldest(&self) -> Option<&Sent> {
        self.sent.front()?.as_ref()
    }

    fn trim(&mut self) {
        while let Some(None) = self.sent.front() {
            self.sent.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> InFlight {
        let mut in_flight = InFlight::default();
        for number in 0..count {
            assert_eq!(in_flight.next_number(), number);
            in_flight.push(Sent {
                sequence: Sequence::FIRST.plus(number),
                at: Instant::now(),
                role: if number % 2 == 0 {
                    Role::Chained { place: number }
                } else {
                    Role::Free
                },
                subject_bytes: 3 + number as usize,
                after: 0,
            });
        }
        in_flight
    }

    #[test]
    fn acknowledgements_in_any_order_count_once() {
        let mut in_flight = filled(4);
        assert_eq!(in_flight.get(2).unwrap().sequence.get(), 3);
        assert_eq!(in_flight.take(2).unwrap().sequence.get(), 3);
        assert_eq!(in_flight.take(2), None);
        assert_eq!(in_flight.get(2), None);
        assert_eq!(in_flight.take(9), None);
        assert_eq!(in_flight.oldest().unwrap().sequence.get(), 1);
        in_flight.take(0).unwrap();
        in_flight.take(1).unwrap();
        assert_eq!(in_flight.oldest().unwrap().sequence.get(), 4);
        assert_eq!((in_flight.len(), in_flight.next_number()), (1, 4));
        assert_eq!(in_flight.take(0), None);
        assert_eq!(in_flight.longest_subject(), Some(6));
    }

    #[test]
    fn take_before_removes_matching_messages_in_order() {
        let mut in_flight = filled(5);
        let mut taken = Vec::new();
        in_flight.take_before(
            3,
            |sent| sent.role.is_chained(),
            |sent| taken.push(sent.sequence.get()),
        );
        assert_eq!(taken, [1, 3]);
        assert_eq!(in_flight.len(), 3);
        in_flight.take_before(99, |_| true, |sent| taken.push(sent.sequence.get()));
        assert_eq!(taken, [1, 3, 2, 4, 5]);
        assert_eq!((in_flight.len(), in_flight.next_number()), (0, 5));
        assert!(in_flight.oldest().is_none());
    }
}
