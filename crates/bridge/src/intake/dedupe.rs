//! The deduplication window: recognises events that were received before, by hashes of their identity and body.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// The hashes of the newest events: at most the capacity, and at least half of it once that many were received.
///
/// The hashes are in a queue. The tables contain only a number and a tag for each event, a quarter of the size, so that
/// more entries fit into a core's own cache. There are two tables. When the young table is full it replaces the old one,
/// which is cleared as a whole: removing the oldest event at each new one would need a second look-up in cold memory.
#[derive(Debug)]
pub(super) struct DeduplicationWindow {
    /// The largest number of entries in a table.
    table_capacity: usize,
    /// The hashes of the events in the window, the oldest first.
    events: VecDeque<Hashes>,
    /// The number of the oldest event in `events`; numbers wrap around.
    oldest: u32,
    /// The newest events, by identity.
    young: HashTable<Entry>,
    /// The events before those in `young`, by identity.
    old: HashTable<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The event's number.
    number: u32,
    /// A part of the identity: without it, one of ten look-ups would read an unrelated event from the queue.
    tag: u32,
}

#[derive(Clone, Copy, Debug)]
struct Hashes {
    identity: u128,
    body: u128,
}

/// The body hash of an event that was read from the list of a platform: it counts as equal to every other one, because the
/// platform may have changed the entry since it was recognised. A real hash has this value with a probability of 2^-128.
pub(crate) const ANY_BODY: u128 = 0;

/// The relation of an event to the events in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    New,
    /// The window has an event with the same identity and the same body, or one of both has [`ANY_BODY`].
    Duplicate,
    /// The window has an event with the same identity and another body.
    Conflict,
}

impl DeduplicationWindow {
    /// Creates a window for `capacity` events, rounded up to two; with 0, no event is ever a duplicate.
    pub(super) fn new(capacity: usize) -> Self {
        // At most half of all numbers are in use, so that they stay unique when they wrap around.
        let table_capacity = (capacity / 2).clamp(capacity.min(1), 1 << 30);
        Self {
            table_capacity,
            events: VecDeque::new(),
            oldest: 0,
            young: HashTable::new(),
            old: HashTable::new(),
        }
    }

    /// Adds an event, given by the hashes of its identity and its body, unless the window contains it. Returns its
    /// relation to the earlier events.
    pub(super) fn insert(&mut self, identity: u128, body: u128) -> Novelty {
        match self.body_of(identity) {
            None => {
                self.add(identity, body);
                Novelty::New
            }
            Some(known) if known == body || known == ANY_BODY || body == ANY_BODY => Novelty::Duplicate,
            Some(_) => {
                // An event with another body is stored as an event of its own, and its repetition is a duplicate too.
                let identity = identity ^ body.rotate_left(1);
                if self.body_of(identity).is_some() {
                    Novelty::Duplicate
                } else {
                    self.add(identity, body);
                    Novelty::Conflict
                }
            }
        }
    }

    fn body_of(&self, identity: u128) -> Option<u128> {
        let matches =
            |entry: &Entry| entry.tag == tag(identity) && self.event(entry.number).identity == identity;
        let entry = self
            .young
            .find(hash(identity), matches)
            .or_else(|| self.old.find(hash(identity), matches))?;
        Some(self.event(entry.number).body)
    }

    fn add(&mut self, identity: u128, body: u128) {
        if self.table_capacity == 0 {
            return;
        }
        if self.young.len() >= self.table_capacity {
            self.events.drain(..self.old.len());
            // No truncation: a table has at most `table_capacity` entries.
            self.oldest = self.oldest.wrapping_add(self.old.len() as u32);
            self.old.clear();
            std::mem::swap(&mut self.young, &mut self.old);
        }
        let number = self.oldest.wrapping_add(self.events.len() as u32);
        self.events.push_back(Hashes { identity, body });
        let (events, oldest) = (&self.events, self.oldest);
        let hash_of = |entry: &Entry| hash(events[entry.number.wrapping_sub(oldest) as usize].identity);
        let tag = tag(identity);
        self.young
            .insert_unique(hash(identity), Entry { number, tag }, hash_of);
    }

    fn event(&self, number: u32) -> Hashes {
        self.events[number.wrapping_sub(self.oldest) as usize]
    }
}

/// Returns the half of the identity that selects the slot. Identities are hashes already, and events that arrive together
/// have neighbouring slots ([`identity_hash`](neurobridge_core::identity::identity_hash)).
const fn hash(identity: u128) -> u64 {
    identity as u64
}

/// Returns a part of the half of the identity that does not select the slot.
const fn tag(identity: u128) -> u32 {
    (identity >> 64) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn new_body_of_a_known_identity_is_a_conflict_once() {
        let mut window = DeduplicationWindow::new(10);
        assert_eq!(window.insert(1, 100), Novelty::New);
        assert_eq!(window.insert(1, 100), Novelty::Duplicate);
        assert_eq!(window.insert(1, 200), Novelty::Conflict);
        assert_eq!(window.insert(1, 200), Novelty::Duplicate);
        assert_eq!(window.insert(1, 100), Novelty::Duplicate);
    }

    #[test]
    fn backfilled_copy_is_a_duplicate_of_any_body() {
        let mut window = DeduplicationWindow::new(10);
        assert_eq!(window.insert(1, 100), Novelty::New);
        assert_eq!(window.insert(1, ANY_BODY), Novelty::Duplicate);
        assert_eq!(window.insert(2, ANY_BODY), Novelty::New);
        assert_eq!(window.insert(2, 100), Novelty::Duplicate);
        assert_eq!(window.insert(1, 200), Novelty::Conflict, "two copies of the feed");
    }

    #[test]
    fn duplicates_are_detected_when_numbers_wrap_around() {
        let mut window = DeduplicationWindow {
            oldest: u32::MAX - 5,
            ..DeduplicationWindow::new(8)
        };
        for identity in 0..40 {
            assert_eq!(window.insert(identity, 1), Novelty::New);
            assert_eq!(window.insert(identity.saturating_sub(3), 1), Novelty::Duplicate);
        }
    }

    proptest! {
        #[test]
        fn copies_of_the_feed_and_of_the_list_are_stored_once(
            copies in proptest::collection::vec((0u128..20, any::<bool>()), 0..200),
        ) {
            let mut window = DeduplicationWindow::new(64);
            let mut stored = HashSet::new();
            for (event, is_backfill) in copies {
                let body = if is_backfill { ANY_BODY } else { event + 1000 };
                match window.insert(event, body) {
                    Novelty::New => prop_assert!(stored.insert(event)),
                    Novelty::Duplicate => prop_assert!(stored.contains(&event)),
                    Novelty::Conflict => prop_assert!(false, "{event} is stored as a conflict"),
                }
            }
        }

        #[test]
        fn window_contains_the_newest_events_up_to_its_capacity(
            // Some identities have the same slot, and differ only in the tag or only in the full identity.
            identities in proptest::collection::vec((0u128..40).prop_map(|id| ((id % 5) << (32 * (id % 4))) | ((id / 20) << 62)), 0..300),
            capacity in 0usize..15,
        ) {
            let mut window = DeduplicationWindow::new(capacity);
            // All new events, newest first.
            let mut model: VecDeque<u128> = VecDeque::new();
            for identity in identities {
                let novelty = window.insert(identity, 7);
                match model.iter().position(|known| *known == identity) {
                    Some(age) if age < capacity / 2 => prop_assert_eq!(novelty, Novelty::Duplicate),
                    Some(age) if age < capacity => {}
                    Some(_) if capacity == 1 => {}
                    _ => prop_assert_eq!(novelty, Novelty::New),
                }
                if novelty == Novelty::New {
                    model.push_front(identity);
                }
                prop_assert!(window.events.len() <= capacity.max(2));
                prop_assert_eq!(window.young.len() + window.old.len(), window.events.len());
            }
        }
    }
}
