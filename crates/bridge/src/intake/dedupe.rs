//! What was seen already.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// Remembers the newest events by identity: as many as its capacity at most, and half as many at least.
///
/// The events lie in a queue. The tables hold a number and a mark for each, a quarter of its size, so that more of them are in a
/// core's own cache. There are two tables. When the young one is full it becomes the old one, and
/// all that the old one held is forgotten at once: to take out the oldest event at each new one would be a second look-up
/// in cold memory.
#[derive(Debug)]
pub(super) struct Seen {
    /// How many a table holds at most.
    generation: usize,
    /// Oldest first.
    events: VecDeque<Remembered>,
    /// The number of the oldest one in `events`; numbers wrap around.
    oldest: u32,
    /// By identity: the newest, and those before.
    young: HashTable<Entry>,
    old: HashTable<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The event's number.
    number: u32,
    /// A part of its identity: without it, one of ten look-ups would go to the queue for an event that is another.
    mark: u32,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    identity: u128,
    body: u128,
}

/// What an event is to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seeing {
    New,
    /// Same identity, same body.
    Duplicate,
    /// Same identity, another body.
    Conflict,
}

impl Seen {
    /// Remembers `capacity` events at most, but two at least; with 0, none is ever a duplicate.
    pub(super) fn new(capacity: usize) -> Self {
        // Half of all numbers are in use at most, so that they can wrap around and still tell all events apart.
        let generation = (capacity / 2).clamp(capacity.min(1), 1 << 30);
        Self {
            generation,
            events: VecDeque::new(),
            oldest: 0,
            young: HashTable::new(),
            old: HashTable::new(),
        }
    }

    /// Judges an event by hashes of its identity and its body, and remembers it.
    pub(super) fn see(&mut self, identity: u128, body: u128) -> Seeing {
        match self.body(identity) {
            None => {
                self.remember(identity, body);
                Seeing::New
            }
            Some(known) if known == body => Seeing::Duplicate,
            Some(_) => {
                // The other body is an event of its own; repeated, it is a duplicate as well.
                let identity = identity ^ body.rotate_left(1);
                if self.body(identity).is_some() {
                    Seeing::Duplicate
                } else {
                    self.remember(identity, body);
                    Seeing::Conflict
                }
            }
        }
    }

    fn body(&self, identity: u128) -> Option<u128> {
        let is_it =
            |entry: &Entry| entry.mark == mark(identity) && self.event(entry.number).identity == identity;
        let entry = self
            .young
            .find(hash(identity), is_it)
            .or_else(|| self.old.find(hash(identity), is_it))?;
        Some(self.event(entry.number).body)
    }

    fn remember(&mut self, identity: u128, body: u128) {
        if self.generation == 0 {
            return;
        }
        if self.young.len() >= self.generation {
            self.events.drain(..self.old.len());
            // Fits: no more than a generation.
            self.oldest = self.oldest.wrapping_add(self.old.len() as u32);
            self.old.clear();
            std::mem::swap(&mut self.young, &mut self.old);
        }
        let number = self.oldest.wrapping_add(self.events.len() as u32);
        self.events.push_back(Remembered { identity, body });
        let (events, oldest) = (&self.events, self.oldest);
        let hash_of = |entry: &Entry| hash(events[entry.number.wrapping_sub(oldest) as usize].identity);
        let mark = mark(identity);
        self.young
            .insert_unique(hash(identity), Entry { number, mark }, hash_of);
    }

    fn event(&self, number: u32) -> Remembered {
        self.events[number.wrapping_sub(self.oldest) as usize]
    }
}

/// Identities are hashes already. This half chooses the place, and lets those that come together lie together
/// ([`identity_hash`](neurobridge_core::identity::identity_hash)).
const fn hash(identity: u128) -> u64 {
    identity as u64
}

/// Of the other half.
const fn mark(identity: u128) -> u32 {
    (identity >> 64) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn another_body_is_a_conflict_once() {
        let mut seen = Seen::new(10);
        assert_eq!(seen.see(1, 100), Seeing::New);
        assert_eq!(seen.see(1, 100), Seeing::Duplicate);
        assert_eq!(seen.see(1, 200), Seeing::Conflict);
        assert_eq!(seen.see(1, 200), Seeing::Duplicate);
        assert_eq!(seen.see(1, 100), Seeing::Duplicate);
    }

    #[test]
    fn numbers_wrap_around() {
        let mut seen = Seen {
            oldest: u32::MAX - 5,
            ..Seen::new(8)
        };
        for identity in 0..40 {
            assert_eq!(seen.see(identity, 1), Seeing::New);
            assert_eq!(seen.see(identity.saturating_sub(3), 1), Seeing::Duplicate);
        }
    }

    proptest! {
        #[test]
        fn the_newest_are_remembered_and_no_more_than_allowed(
            // Some want the same place in the table, and differ in the mark or in the event alone.
            identities in proptest::collection::vec((0u128..40).prop_map(|id| ((id % 5) << (32 * (id % 4))) | ((id / 20) << 62)), 0..300),
            capacity in 0usize..15,
        ) {
            let mut seen = Seen::new(capacity);
            // All that were new, newest first.
            let mut model: VecDeque<u128> = VecDeque::new();
            for identity in identities {
                let seeing = seen.see(identity, 7);
                match model.iter().position(|known| *known == identity) {
                    Some(age) if age < capacity / 2 => prop_assert_eq!(seeing, Seeing::Duplicate),
                    Some(age) if age < capacity => {}
                    Some(_) if capacity == 1 => {}
                    _ => prop_assert_eq!(seeing, Seeing::New),
                }
                if seeing == Seeing::New {
                    model.push_front(identity);
                }
                prop_assert!(seen.events.len() <= capacity.max(2));
                prop_assert_eq!(seen.young.len() + seen.old.len(), seen.events.len());
            }
        }
    }
}
