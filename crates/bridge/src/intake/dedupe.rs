//! What was seen already.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

/// Remembers the newest events by identity, up to a bound.
#[derive(Debug)]
pub(super) struct Seen {
    capacity: usize,
    bodies: HashMap<u128, u128, BuildHasherDefault<AlreadyHashed>>,
    /// Keys of `bodies`, oldest first.
    order: VecDeque<u128>,
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
    /// Remembers `capacity` events; with 0, none is ever a duplicate.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            bodies: HashMap::default(),
            order: VecDeque::new(),
        }
    }

    /// Judges an event by hashes of its identity and its body, and remembers it.
    pub(super) fn see(&mut self, identity: u128, body: u128) -> Seeing {
        match self.bodies.get(&identity) {
            None => {
                self.remember(identity, body);
                Seeing::New
            }
            Some(known) if *known == body => Seeing::Duplicate,
            Some(_) => {
                // The other body is an event of its own; repeated, it is a duplicate as well.
                let identity = identity ^ body.rotate_left(1);
                if self.bodies.contains_key(&identity) {
                    Seeing::Duplicate
                } else {
                    self.remember(identity, body);
                    Seeing::Conflict
                }
            }
        }
    }

    fn remember(&mut self, identity: u128, body: u128) {
        if self.capacity == 0 {
            return;
        }
        if self.order.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.bodies.remove(&oldest);
        }
        self.bodies.insert(identity, body);
        self.order.push_back(identity);
    }
}

/// Keys are hashes already: half of one is as good as a hash of it.
#[derive(Debug, Default)]
pub(super) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
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

    proptest! {
        #[test]
        fn the_newest_are_remembered_and_no_more(identities in proptest::collection::vec(0u128..40, 0..200), capacity in 0usize..20) {
            let mut seen = Seen::new(capacity);
            let mut model: VecDeque<u128> = VecDeque::new();
            for identity in identities {
                let expected = if model.contains(&identity) { Seeing::Duplicate } else { Seeing::New };
                prop_assert_eq!(seen.see(identity, 7), expected);
                if expected == Seeing::New {
                    model.push_back(identity);
                    if model.len() > capacity {
                        model.pop_front();
                    }
                }
                prop_assert!(seen.bodies.len() <= capacity && seen.order.len() == seen.bodies.len());
            }
        }
    }
}
